// A job's actor: takes the job over, then works on whatever state its record is in, until there is nothing more to do. A step that fails
// in a way that may heal is tried again; one that does not is undone.
#include "services/manager/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "services/manager/job_work.h"
#include "services/manager/registration.h"
#include "services/manager/views.h"

// ---- takeover

int job_take_shard(job_t *job, sp_str_t id, sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    bool ours = false;
    const sp_catalog_shard_view_t *view = sp_catalog_shard(job->env.catalog, id);
    if (!view)
        return 0;              // undone already
    env_forget(&job->env, id); // own connections of the other role would be ended too
    int rc = env_pg(&job->env, id, ENV_ADMIN, &pg, err);
    if (rc == 0)
        rc = sp_owner_terminate(pg, job->id, err);
    if (rc == 0)
        rc = registration_is_ours(&job->env, pg, id, &ours, NULL, err);
    if (rc == 0 && ours)
        rc = sp_owner_raise_epoch(pg, job->env.epoch, err);
    return rc;
}

int job_take_targets(job_t *job, sp_error_t *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < job->rec->targets.n; i++)
        rc = job_take_shard(job, job->rec->targets.items[i].shard_id, err);
    return rc;
}

static int take_over(job_t *job, sp_error_t *err)
{
    int rc = job_take_shard(job, job->rec->source_shard_id, err);
    if (rc == 0)
        rc = job_take_targets(job, err);
    job->taken_over = rc == 0;
    return rc;
}

// ---- driving

static int work(job_t *job, sp_error_t *err)
{
    if (job->rec->undo_to != 0)
        return job_undo(job, err);
    switch (job->rec->state) {
    case SP_JOB_STATE_PENDING:
        return job_pending(job, err);
    case SP_JOB_STATE_PRECOPY:
        return job_precopy(job, err);
    case SP_JOB_STATE_DELTASYNC:
        return job_deltasync(job, err);
    case SP_JOB_STATE_VALIDATING:
        return job_validating(job, err);
    case SP_JOB_STATE_READY:
        return job_ready(job, err);
    case SP_JOB_STATE_CUTOVER:
        return job_cutover(job, err);
    case SP_JOB_STATE_LIFTING:
        return job_lifting(job, err);
    case SP_JOB_STATE_COMPLETED:
        return job_completed(job, err);
    default:
        return 0;
    }
}

// Whether a new leader must end what an earlier one has left running before it reads anything. In `pending` nothing runs yet; an undo
// takes its shards over in an order of its own; and targets of a flip are opened by whoever sees it, before anything else.
static bool needs_take_over(const job_t *job)
{
    const sp_msg_catalog_job_t *r = job->rec;
    bool opening = r->state == SP_JOB_STATE_CUTOVER && r->flipped;
    return !job->taken_over && r->undo_to == 0 && r->state != SP_JOB_STATE_PENDING && !opening;
}

typedef struct patience {
    int failures;     // in a row
    int64_t since_ms; // monotonic, of the first
    int64_t state;    // in which
    size_t done;      // steps done then: progress starts the count again
} patience_t;

// The record as etcd has it, with this error: what the step had changed in memory must not be saved along with it.
static int reload_with_error(job_t *job, const sp_error_t *why, sp_error_t *err)
{
    int rc = job_reload(job, err);
    if (rc == 0)
        job_set_error(job, why);
    return rc;
}

// The step failed for good: from here everything is undone.
static int fail(job_t *job, const sp_error_t *why)
{
    sp_error_t err = {0};
    sp_log(SP_LOG_ERROR, "JOB-FAILS", "job", job->id, "code", sp_error_name(why->code), "reason",
           why->text, NULL);
    int rc = reload_with_error(job, why, &err);
    if (rc == 0)
        rc = job_transition(job, SP_JOB_EV_FAIL, NULL, &err);
    if (rc != 0)
        sp_log(SP_LOG_WARN, "JOB-FAIL", "job", job->id, "reason", err.text, NULL);
    return rc;
}

static void after_failure(job_t *job, patience_t *p, const sp_error_t *why)
{
    int64_t now = sp_clock_mono_ms();
    if (p->failures == 0 || p->state != job->rec->state || p->done != job->rec->steps_done.n)
        *p =
            (patience_t){.since_ms = now, .state = job->rec->state, .done = job->rec->steps_done.n};
    p->failures++;
    bool undoable = !job->rec->flipped && job->rec->undo_to == 0;
    bool healing = why->retryable || why->code == SP_E_OUTCOME_UNKNOWN;
    bool out_of_time = now - p->since_ms > job->env.settings->retry_for_s * 1000;
    if (undoable && (!healing || out_of_time) && fail(job, why) == 0)
        return;
    sp_log(SP_LOG_WARN, "JOB-RETRY", "job", job->id, "state",
           sp_job_state_name((int)job->rec->state), "code", sp_error_name(why->code), "failures",
           sp_log_fmt("%d", p->failures), "reason", why->text, NULL);
    job_fact(job, "retry", NULL, 1);
    if (p->failures == 3) { // for people who watch; not worth a write each time
        sp_error_t ignored = {0};
        if (reload_with_error(job, why, &ignored) == 0)
            job_save(job, &ignored);
    }
    // Undoing and going forward may not give up, and this wait may not be cut short by the cancel that is being obeyed.
    bool was = job->undoing;
    job->undoing = job->undoing || !undoable;
    int64_t until = sp_clock_mono_ms() + sp_random_backoff_ms(p->failures - 1, 200, 5000);
    sp_error_t pumped = {0};
    while (sp_clock_until_ms(until) > 0 && !env_stopped(&job->env))
        if (job_pump(job, 100, &pumped) != 0)
            break;
    job->undoing = was;
}

// What the record asks for now.
static int one_round(job_t *job, sp_error_t *err)
{
    // Before any shard is asked: one that is away must not keep a cancel from being heard.
    if (job->rec->cancel_requested && sp_job_may_cancel((int)job->rec->state, job_mode(job)))
        return job_transition(job, SP_JOB_EV_CANCEL, NULL, err);
    bool fresh = job->rec->state == SP_JOB_STATE_PENDING;
    job->given_back = job->given_back && job->rec->undo_to != 0; // a retry seals anew
    job->unfollowed_ms = fresh ? 0 : job->unfollowed_ms;
    int rc = needs_take_over(job) ? take_over(job, err) : 0;
    if (rc == 0)
        rc = work(job, err);
    // What there is after `pending`, this actor has made.
    job->taken_over = job->taken_over || (rc == 0 && fresh);
    return rc;
}

static void drive(job_t *job)
{
    patience_t patience = {0};
    while (!env_stopped(&job->env)) {
        sp_error_t err = {0};
        job->undoing = false;
        int rc = job_reload(job, &err);
        if (rc == SP_E_NOT_FOUND || rc == SP_E_STALE_EPOCH)
            return;
        if (rc == 0 && !job_needs_actor(job->rec))
            return;
        if (rc == 0)
            rc = one_round(job, &err);
        if (rc == SP_E_STALE_EPOCH || env_stopped(&job->env)) {
            sp_log(SP_LOG_INFO, "JOB-LET-GO", "job", job->id, "reason", err.text, NULL);
            env_sleep(&job->env, 1000); // a shard may know a later leader before etcd tells us
            return;
        }
        // After a cancel the next round takes its row.
        bool cancelled = rc == SP_E_CANCELLED && job->rec && job->rec->cancel_requested;
        if (rc == 0 || cancelled) {
            patience = (patience_t){0};
        } else if (job->rec) {
            err.code = rc;
            after_failure(job, &patience, &err);
        } else {
            env_sleep(&job->env, 500);
        }
    }
}

void job_actor(sp_actor_end_t *end, void *arg)
{
    job_t job = {0};
    sp_error_t err = {0};
    snprintf(job.id, sizeof job.id, "%s", ((env_seed_t *)arg)->name);
    int rc = env_open(&job.env, arg, end, &err);
    if (rc != 0) {
        sp_log(SP_LOG_ERROR, "JOB-ACTOR", "job", job.id, "reason", err.text, NULL);
        return;
    }
    drive(&job);
    // Tasks belong to the actor: the loop stops what is left.
    while (job.tasks) {
        job_task_t *t = job.tasks;
        job.tasks = t->next;
        sp_arena_destroy(&t->arena);
        free(t);
    }
    sp_arena_destroy(&job.arena);
    env_close(&job.env);
}
