// States ready, cutover and lifting. The order is the product's promise: arm the targets, fence, drain and seal the source, flip in etcd,
// open. Until the flip everything can be lifted; after it only forward. What cannot be read is neither lifted nor opened.
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "services/manager/command.h"
#include "services/manager/job_work.h"

enum { FENCE_GRACE_MS = 5000, FLIP_TRIES = 3 };

typedef enum { FENCE_SEALED, FENCE_LIFTED } fence_end_t;

static int no_memory(sp_error_t *err)
{
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "cutover");
}

static int64_t next_version(const job_t *job)
{
    const sp_catalog_keyspace_view_t *k = sp_catalog_keyspace(job->env.catalog, job->rec->keyspace);
    return (k && k->ring_record ? k->ring_record->version : 0) + 1;
}

static sp_msg_job_cutover_t *numbers(job_t *job)
{
    if (!job->rec->cutover)
        job->rec->cutover = sp_arena_alloc(job->arena, 1, sizeof *job->rec->cutover);
    return job->rec->cutover;
}

// ---- ready

static int arm_target(job_t *job, const sp_msg_job_target_t *t, sp_error_t *err)
{
    const sp_catalog_shard_view_t *view = job_shard(job, t->shard_id, err);
    if (!view)
        return SP_E_CONFLICT;
    owner_tables_t tables = job_owner_tables(job, job->arena);
    sp_arcs_t arcs = {t->bounds_after.items, t->bounds_after.n};
    const char *nonce = sp_arena_cstr(job->arena, t->nonce);
    sp_guard_t guard = {.form = SP_GUARD_ARMED,
                        .arcs = &arcs,
                        .nonce = nonce,
                        .ring_version = next_version(job),
                        .job_running = true,
                        .row_trigger = true};
    sp_ownership_t ownership = {.ring_version = next_version(job),
                                .arcs = arcs,
                                .state = SP_OWNERSHIP_ARMED,
                                .job_id = job->id,
                                .attempt = job->rec->attempt,
                                .nonce = nonce};
    return ownership_set(&job->env, view->shard, &tables, &guard, &ownership, err);
}

static int step_arm(job_t *job, sp_error_t *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < job->rec->targets.n; i++)
        rc = arm_target(job, &job->rec->targets.items[i], err);
    return rc;
}

// A number and nonces for this attempt alone, recorded before any database hears of them.
static int new_attempt(job_t *job, sp_error_t *err)
{
    sp_msg_catalog_job_t *r = job->rec;
    sp_msg_job_cutover_t *c = numbers(job);
    char nonce[33];
    if (!c)
        return no_memory(err);
    r->attempt++;
    sp_random_id(nonce, 32);
    r->fence_nonce = sp_str(sp_arena_strz(job->arena, nonce));
    // The first attempt uses the nonces that the follower was told of.
    for (size_t i = 0; i < r->targets.n && (c->attempts > 0 || !r->targets.items[i].nonce.len);
         i++) {
        sp_random_id(nonce, 32);
        r->targets.items[i].nonce = sp_str(sp_arena_strz(job->arena, nonce));
    }
    job_step_forget(job, "arm");
    return job_save(job, err);
}

int job_ready(job_t *job, sp_error_t *err)
{
    if (job_follow_lost(job))
        return job_transition(job, SP_JOB_EV_BEHIND, NULL, err);
    int rc = job_reload(job, err); // ring version and revisions that the flip compares
    if (rc == 0)
        rc = new_attempt(job, err);
    if (rc == 0)
        rc = job_step(job, "arm", step_arm, err);
    if (rc == 0)
        rc = job_pump(job, 0, err); // a cancel that waits
    if (rc == 0 && job_follow_lost(job))
        return job_transition(job, SP_JOB_EV_BEHIND, NULL, err);
    if (rc != 0)
        return rc;
    job->fence_attempt =
        job->rec->attempt; // this actor, and nobody before it, may fence under this number
    return job_transition(job, SP_JOB_EV_ARMED, NULL, err);
}

// ---- the fence

// What the source itself says, once no backend of the follower can seal any more.
static int read_seal(job_t *job, fence_end_t *ret_end, sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    bool found = false;
    sp_ownership_t o = {0};
    int rc = env_pg(&job->env, job->rec->source_shard_id, ENV_ADMIN, &pg, err);
    if (rc == 0)
        rc = sp_owner_terminate(pg, job->id, err);
    if (rc == 0)
        rc = sp_ownership_read(pg, sp_arena_cstr(job->arena, job->rec->keyspace), job->arena, &o,
                               &found, err);
    if (rc != 0)
        return rc;
    bool sealed = found && o.state == SP_OWNERSHIP_SEALED && strcmp(o.job_id, job->id) == 0 &&
                  sp_str_eqz(job->rec->fence_nonce, o.nonce) && o.attempt == job->rec->attempt;
    *ret_end = sealed ? FENCE_SEALED : FENCE_LIFTED;
    sp_log(SP_LOG_INFO, "JOB-SEAL-READ", "job", job->id, "sealed", sealed ? "true" : "false", NULL);
    return 0;
}

// Reads it until it can be read: neither lifted nor flipped before.
static int resolve_seal(job_t *job, fence_end_t *ret_end, sp_error_t *err)
{
    for (int i = 0;; i++) {
        sp_error_clear(err);
        int rc = read_seal(job, ret_end, err);
        if (rc == 0 || env_stopped(&job->env) || rc == SP_E_STALE_EPOCH)
            return rc == 0
                       ? 0
                       : sp_error_set(err, SP_E_STALE_EPOCH, "this manager does not lead any more");
        sp_log(SP_LOG_WARN, "JOB-SEAL-UNREAD", "job", job->id, "reason", err->text, NULL);
        env_sleep(&job->env, sp_random_backoff_ms(i, 50, 1000));
    }
}

static void count_lifted(job_t *job, const sp_msg_task_update_t *u)
{
    sp_msg_job_cutover_t *c = numbers(job);
    int64_t spent = u && u->fence_started_us ? sp_clock_wall_us() - u->fence_started_us : 0;
    if (c && spent > 0) {
        c->write_pause_ms += (double)spent / 1000;
        c->has_write_pause_ms = true;
    }
    job_fact(job, "fence", "lifted", 1);
}

static int send_fence(job_t *job, sp_error_t *err)
{
    const settings_t *s = job->env.settings;
    sp_msg_task_control_t control = {.verb = SP_TASK_VERB_FENCE,
                                     .has_verb = true,
                                     .attempt = job->rec->attempt,
                                     .has_attempt = true,
                                     .nonce = job->rec->fence_nonce,
                                     .budget_ms = s->fence_budget_ms,
                                     .has_budget_ms = true,
                                     .lock_wait_ms = s->fence_lock_wait_ms,
                                     .has_lock_wait_ms = true,
                                     .ring_version = next_version(job),
                                     .has_ring_version = true};
    int rc = job_failpoint("fence", "before", err);
    if (rc == 0)
        rc = job_task_control(job, job->follow, &control, err);
    return rc == 0 ? job_failpoint("fence", "after", err) : rc;
}

// Fences once. *ret_end says how it ended; for a lifted one the record's error says why.
static int fence(job_t *job, fence_end_t *ret_end, sp_error_t *err)
{
    int rc = send_fence(job, err);
    int64_t deadline = sp_clock_mono_ms() + job->env.settings->fence_budget_ms + FENCE_GRACE_MS;
    job->undoing = true; // a cancel waits for the fence's end
    while (rc == 0 && !job_follow_lost(job) && sp_clock_until_ms(deadline) > 0) {
        const sp_msg_task_update_t *u = &job->follow->last;
        if (u->fence_attempt == job->rec->attempt && u->fence != SP_FENCE_STATE_NONE)
            break;
        rc = job_pump(job, 100, err);
    }
    job->undoing = false;
    if (rc != 0)
        return rc;
    const sp_msg_task_update_t *u = job->follow ? &job->follow->last : NULL;
    bool told = u && u->fence_attempt == job->rec->attempt;
    if (told && (u->fence == SP_FENCE_STATE_SEALED || u->fence == SP_FENCE_STATE_LIFTED)) {
        *ret_end = u->fence == SP_FENCE_STATE_SEALED ? FENCE_SEALED : FENCE_LIFTED;
    } else {
        sp_log(SP_LOG_WARN, "JOB-FENCE-UNKNOWN", "job", job->id, NULL);
        rc = resolve_seal(job, ret_end, err);
    }
    if (rc == 0 && *ret_end == FENCE_LIFTED) {
        sp_error_t why = {0};
        sp_error_set(&why, SP_E_IN_TRANSITION, "the fence was lifted: " SP_STR_FMT,
                     SP_STR_ARG(told && u->detail.len ? u->detail : SP_STR("its worker was lost")));
        sp_log(SP_LOG_WARN, "JOB-FENCE-LIFTED", "job", job->id, "attempt",
               sp_log_fmt("%lld", (long long)job->rec->attempt), "reason", why.text, NULL);
        job_set_error(job, &why);
        count_lifted(job, told ? u : NULL);
    }
    return rc;
}

// ---- the flip

static bool replica_flushed(const job_t *job, sp_str_t shard_id, size_t replica)
{
    const sp_msg_task_update_t *u = job->follow ? &job->follow->last : NULL;
    char name[96];
    snprintf(name, sizeof name, SP_STR_FMT "/%zu", SP_STR_ARG(shard_id), replica);
    bool told = u && u->fence_attempt == job->rec->attempt && u->fence == SP_FENCE_STATE_SEALED;
    for (size_t i = 0; told && i < u->flushed_replicas.n; i++)
        if (sp_str_eqz(u->flushed_replicas.items[i], name))
            return true;
    return false;
}

static void put_owner(job_t *job, sp_catalog_txn_t *txn, const sp_catalog_shard_view_t *view,
                      sp_str_t tokens)
{
    sp_msg_catalog_shard_t record = *view->shard;
    record.tokens = tokens;
    record.status = tokens.len ? SP_SHARD_STATUS_ACTIVE : SP_SHARD_STATUS_EMPTY;
    // A replica of the source without the seal would accept the moved keys again, one of a target would lack rows of them. Of whom the fence
    // did not say that it has all, because it has not or because the worker died, must not be promoted.
    record.ineligible_replicas.items =
        sp_arena_alloc(job->arena, record.replicas.n + 1, sizeof *record.ineligible_replicas.items);
    record.ineligible_replicas.n = 0;
    for (size_t k = 0; record.ineligible_replicas.items && k < record.replicas.n; k++)
        if (!replica_flushed(job, record.id, k))
            record.ineligible_replicas.items[record.ineligible_replicas.n++] = (int64_t)k;
    put_shard(txn, job->arena, &record, view->rev.mod_revision);
}

static int put_owners(job_t *job, sp_catalog_txn_t *txn, sp_error_t *err)
{
    const sp_catalog_keyspace_view_t *k = sp_catalog_keyspace(job->env.catalog, job->rec->keyspace);
    const sp_catalog_shard_view_t *source = job_shard(job, job->rec->source_shard_id, err);
    if (!k || !source)
        return sp_error_set(err, SP_E_CONFLICT, "the catalog lost a part of the job");
    command_raise_ring(&job->env, job->arena, txn, k);
    put_owner(job, txn, source, job->rec->source_tokens_after);
    for (size_t i = 0; i < job->rec->targets.n; i++) {
        const sp_catalog_shard_view_t *view =
            job_shard(job, job->rec->targets.items[i].shard_id, err);
        if (!view)
            return SP_E_CONFLICT;
        put_owner(job, txn, view, job->rec->targets.items[i].tokens);
    }
    return 0;
}

// One try. 0: flipped. conflict: it was refused. catalog_unavailable: nobody knows.
static int flip_once(job_t *job, sp_error_t *err)
{
    sp_msg_catalog_job_t *r = job->rec;
    const sp_job_row_t *row = NULL;
    int rc = sp_job_next((int)r->state, job_mode(job), SP_JOB_EV_FLIPPED, &row, err);
    if (rc != 0)
        return rc;
    sp_msg_job_cutover_t *c = numbers(job);
    if (!c)
        return no_memory(err);
    r->flipped = r->has_flipped = true;
    r->step = sp_str(row->step);
    r->ring_version_after = next_version(job);
    r->has_ring_version_after = true;
    c->flipped_ms = sp_clock_wall_ms();
    c->has_flipped_ms = true;
    r->error = NULL;
    rc = job_commit_strict(job, put_owners, err);
    if (rc != 0) { // what the record says is found out by reading
        r->flipped = false;
        r->step = SP_STR("flip");
    }
    return rc;
}

// *ret_flipped by a linearizable read of the job; waits until it can be read.
static int read_flip(job_t *job, bool *ret_flipped, sp_error_t *err)
{
    for (int i = 0;; i++) {
        sp_error_clear(err);
        int rc = job_reload(job, err);
        *ret_flipped = rc == 0 && job->rec->flipped;
        if (rc != SP_E_CATALOG_UNAVAILABLE)
            return rc;
        if (env_stopped(&job->env))
            return sp_error_set(err, SP_E_STALE_EPOCH, "this manager does not lead any more");
        env_sleep(&job->env, sp_random_backoff_ms(i, 20, 500));
    }
}

// 0 when the record is flipped; *ret_refused when it is not and the fence must be lifted.
static int flip(job_t *job, bool *ret_refused, sp_error_t *err)
{
    *ret_refused = false;
    int rc = job_failpoint("flip", "before", err);
    for (int i = 0; rc == 0 && i < FLIP_TRIES; i++) {
        if (job->rec->cancel_requested)
            break;
        rc = flip_once(job, err);
        if (rc == 0) {
            sp_log(SP_LOG_INFO, "JOB-FLIPPED", "job", job->id, "ring_version",
                   sp_log_fmt("%lld", (long long)job->rec->ring_version_after), NULL);
            return job_failpoint("flip", "after", err);
        }
        if (rc != SP_E_CONFLICT && rc != SP_E_CATALOG_UNAVAILABLE)
            return rc;
        bool unknown = rc == SP_E_CATALOG_UNAVAILABLE, flipped = false;
        sp_log(SP_LOG_WARN, "JOB-FLIP", "job", job->id, "reason", err->text, NULL);
        rc = read_flip(job, &flipped, err);
        if (rc == 0 && flipped)
            return 0;
        if (rc == 0 && !unknown)
            break;
    }
    // Reading says "not flipped", but a request may still be under way: only the commit of `lifting` rules it out.
    *ret_refused = rc == 0;
    return rc;
}

// ---- opening

// One try.
static bool open_target(job_t *job, const sp_msg_job_target_t *t)
{
    sp_pg_t *pg = NULL;
    sp_error_t err = {0};
    const char *nonce = sp_arena_cstr(job->arena, t->nonce);
    int rc = env_pg(&job->env, t->shard_id, ENV_ADMIN, &pg, &err);
    if (rc == 0)
        rc = sp_owner_open(pg, nonce, job->id, job->rec->ring_version_after, &err);
    if (rc != 0)
        sp_log(SP_LOG_WARN, "JOB-OPEN", "job", job->id, "shard",
               sp_log_fmt(SP_STR_FMT, SP_STR_ARG(t->shard_id)), "reason", err.text, NULL);
    return rc == 0;
}

// Until all are open; one that is away does not keep the others shut.
static int open_targets(job_t *job, sp_error_t *err)
{
    for (int i = 0;; i++) {
        bool all = true;
        for (size_t k = 0; k < job->rec->targets.n; k++) {
            sp_msg_job_target_t *t = &job->rec->targets.items[k];
            t->opened = t->has_opened = t->opened || open_target(job, t);
            all = all && t->opened;
        }
        if (all)
            return 0;
        if (env_stopped(&job->env))
            return sp_error_set(err, SP_E_STALE_EPOCH, "this manager does not lead any more");
        env_sleep(&job->env, sp_random_backoff_ms(i, 20, 1000));
    }
}

// After the flip whoever sees it may open: the follower is told, and this actor does not wait for it.
static int open_all(job_t *job, sp_error_t *err)
{
    int rc = job_failpoint("open", "before", err);
    if (rc != 0)
        return rc;
    const sp_msg_task_update_t *u = job->follow ? &job->follow->last : NULL;
    int64_t started = u && u->fence_attempt == job->rec->attempt ? u->fence_started_us : 0;
    // Whoever saw the lock is dead: the state's begin is a little before it, so the pause is not told too small.
    if (started == 0 && job->rec->phases.n > 0)
        started = job->rec->phases.items[job->rec->phases.n - 1].started_ms * 1000;
    sp_str_t marker = u && u->fence_attempt == job->rec->attempt
                          ? sp_arena_str(job->arena, u->marker_lsn)
                          : (sp_str_t){0};
    if (!job_follow_lost(job)) {
        sp_msg_task_control_t control = {.verb = SP_TASK_VERB_OPEN,
                                         .has_verb = true,
                                         .attempt = job->rec->attempt,
                                         .has_attempt = true,
                                         .ring_version = job->rec->ring_version_after,
                                         .has_ring_version = true};
        if (numbers(job) && numbers(job)->attempts == 0)
            job_task_control(job, job->follow, &control, NULL);
    }
    rc = open_targets(job, err);
    if (rc == 0)
        rc = job_failpoint("open", "after", err);
    sp_msg_job_cutover_t *c = numbers(job);
    if (rc != 0 || !c)
        return rc != 0 ? rc : no_memory(err);
    c->opened_ms = sp_clock_wall_ms();
    c->has_opened_ms = true;
    c->attempts++;
    c->has_attempts = true;
    if (marker.len)
        c->sealed_lsn = marker;
    if (started > 0) {
        c->fence_to_open_ms = (double)(sp_clock_wall_us() - started) / 1000;
        c->write_pause_ms += c->fence_to_open_ms;
        c->has_fence_to_open_ms = c->has_write_pause_ms = true;
        job_fact(job, "fence_to_open_ms", NULL, c->fence_to_open_ms);
        job_fact(job, "pause_ms", NULL, c->write_pause_ms);
    }
    job_fact(job, "fence", "sealed", 1);
    sp_log(SP_LOG_INFO, "JOB-OPENED", "job", job->id, "fence_to_open_ms",
           sp_log_fmt("%.1f", c->fence_to_open_ms), NULL);
    return job_transition(job, SP_JOB_EV_OPENED, NULL, err);
}

// ---- cutover

static int give_up(job_t *job, sp_error_t *err)
{
    sp_msg_job_cutover_t *c = numbers(job);
    if (c) {
        c->attempts++;
        c->has_attempts = true;
    }
    return job_transition(job, job->rec->cancel_requested ? SP_JOB_EV_CANCEL : SP_JOB_EV_LIFT, NULL,
                          err);
}

int job_cutover(job_t *job, sp_error_t *err)
{
    if (job->rec->flipped)
        return open_all(job, err);
    fence_end_t end = FENCE_LIFTED;
    bool refused = false;
    // A fence that another actor, or an earlier life of this one, began: the source says how it ended.
    bool own = job->fence_attempt == job->rec->attempt && !job_follow_lost(job);
    job->fence_attempt = 0;
    int rc = own ? fence(job, &end, err) : resolve_seal(job, &end, err);
    if (rc != 0)
        return rc;
    if (end == FENCE_SEALED) {
        sp_log(SP_LOG_INFO, "JOB-SEALED", "job", job->id, "attempt",
               sp_log_fmt("%lld", (long long)job->rec->attempt), NULL);
        rc = flip(job, &refused, err);
        if (rc != 0)
            return rc;
        if (!refused)
            return open_all(job, err);
    }
    return give_up(job, err);
}

int job_lifting(job_t *job, sp_error_t *err)
{
    // The attempt's number is dead once `lifting` is committed: whatever seals under it now is opened again here.
    job->undoing = true;
    fence_end_t ignored;
    int rc = 0;
    // A follower that has sealed is at its end; another goes on from the origins' progress.
    if (job->follow && job->follow->last.fence == SP_FENCE_STATE_SEALED)
        job_task_end(job, &job->follow);
    if (job_follow_lost(job))
        rc = resolve_seal(job, &ignored, err);
    if (rc == 0)
        rc = job_step(job, "unseal", job_unseal_source, err);
    for (size_t i = 0; rc == 0 && i < job->rec->targets.n; i++)
        rc = job_close_target(job, &job->rec->targets.items[i], true, err);
    job->undoing = false;
    if (rc != 0)
        return rc;
    int64_t attempts = job->rec->cutover ? job->rec->cutover->attempts : 0;
    if (attempts >= job->env.settings->fence_attempts) {
        error_from_message(job->rec->error, err);
        sp_error_prefix(err, "the cutover was tried %lld times", (long long)attempts);
        err->retryable = false;
        return err->code ? err->code : SP_E_IN_TRANSITION;
    }
    int64_t until =
        sp_clock_mono_ms() + sp_random_backoff_ms((int)(attempts < 6 ? attempts : 6), 1000, 15000);
    while (rc == 0 && sp_clock_until_ms(until) > 0)
        rc = job_pump(job, 200, err);
    return rc == 0 ? job_transition(job, SP_JOB_EV_LIFTED, NULL, err) : rc;
}
