// The job's record: read, compare-and-swap, transitions.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "services/manager/job_work.h"

enum { RECORD_ARENA = 256 << 20, MAX_PHASES = 190 };

static int no_memory(sp_error_t *err)
{
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "job");
}

int job_mode(const job_t *job)
{
    return (int)sp_job_mode(job->rec->flipped, (int)job->rec->undo_to);
}

static job_place_t place_of(const sp_msg_catalog_job_t *r)
{
    return (job_place_t){r->state, r->undo_to, r->attempt, r->flipped};
}

bool job_stands_still(const job_t *job, const sp_msg_catalog_job_t *theirs)
{
    job_place_t a = job->place, b = place_of(theirs);
    return a.state == b.state && a.undo_to == b.undo_to && a.attempt == b.attempt &&
           a.flipped == b.flipped;
}

// Decodes JSON into a record of its own arena, which replaces the old one.
static int adopt(job_t *job, const char *json, size_t len, int64_t mod_revision, sp_error_t *err)
{
    sp_arena_t *arena = sp_arena_new(RECORD_ARENA);
    sp_msg_catalog_job_t *rec = arena ? sp_arena_alloc(arena, 1, sizeof *rec) : NULL;
    sp_str_t copy = rec ? sp_arena_str(arena, (sp_str_t){json, len}) : (sp_str_t){0};
    int rc = copy.ptr
                 ? sp_wire_decode_json(&sp_schema_catalog_job, copy.ptr, copy.len, arena, rec, err)
                 : no_memory(err);
    if (rc != 0) {
        sp_arena_destroy(&arena);
        return rc;
    }
    sp_arena_destroy(&job->arena);
    job->arena = arena;
    job->rec = rec;
    job->mod_revision = mod_revision;
    job->place = place_of(rec);
    if (rec->progress)
        job->progress = *rec->progress;
    return 0;
}

int job_reload(job_t *job, sp_error_t *err)
{
    int rc = env_load(&job->env, err);
    if (rc != 0)
        return rc;
    const sp_catalog_job_view_t *view = sp_catalog_job(job->env.catalog, sp_str(job->id));
    if (!view)
        return sp_error_set(err, SP_E_NOT_FOUND, "job %s is gone", job->id);
    sp_buf_t json = SP_BUF_INIT;
    rc = sp_wire_encode_json(&sp_schema_catalog_job, view->job, true, &json, err);
    if (rc == 0)
        rc = adopt(job, json.data, json.len, view->rev.mod_revision, err);
    sp_buf_free(&json);
    return rc;
}

const sp_catalog_shard_view_t *job_shard(job_t *job, sp_str_t id, sp_error_t *err)
{
    const sp_catalog_shard_view_t *view = sp_catalog_shard(job->env.catalog, id);
    if (!view)
        sp_error_set(err, SP_E_CONFLICT, "shard " SP_STR_FMT " is not registered any more",
                     SP_STR_ARG(id));
    return view;
}

static void stamp(job_t *job)
{
    sp_msg_catalog_job_t *r = job->rec;
    r->updated_ms = sp_clock_wall_ms();
    r->has_updated_ms = true;
    r->generation = job->env.epoch.generation;
    r->epoch = job->env.epoch.epoch;
    r->has_generation = r->has_epoch = true;
    r->progress = sp_arena_alloc(job->arena, 1, sizeof *r->progress);
    if (r->progress) {
        *r->progress = job->progress;
        r->progress->throttled = (sp_str_t){0}; // of the moment; the record would go on saying it
    }
}

static int commit(job_t *job, job_extra_fn *extra, sp_error_t *err)
{
    char key[64];
    snprintf(key, sizeof key, "jobs/%s", job->id);
    sp_catalog_txn_t *txn = env_txn(&job->env);
    if (!txn)
        return no_memory(err);
    int64_t revision = 0;
    sp_catalog_txn_expect(txn, key, job->mod_revision);
    sp_catalog_txn_put(txn, key, &sp_schema_catalog_job, job->rec, 0);
    int rc = extra ? extra(job, txn, err) : 0;
    if (rc == 0)
        rc = sp_catalog_txn_commit(txn, job->env.store, &revision, err);
    sp_catalog_txn_destroy(&txn);
    if (rc == 0) {
        job->mod_revision = revision;
        job->place = place_of(job->rec);
    }
    return rc;
}

int job_commit_strict(job_t *job, job_extra_fn *extra, sp_error_t *err)
{
    stamp(job);
    return commit(job, extra, err);
}

void job_take_flags(job_t *job, const sp_msg_catalog_job_t *theirs)
{
    sp_msg_catalog_job_t *r = job->rec;
    r->cancel_requested = r->cancel_requested || theirs->cancel_requested;
    r->has_cancel_requested = r->cancel_requested;
    r->finalize_requested = r->finalize_requested || theirs->finalize_requested;
    r->has_finalize_requested = r->finalize_requested;
    r->drop_source_rows = r->drop_source_rows || theirs->drop_source_rows;
    r->has_drop_source_rows = r->drop_source_rows;
    // Whatever a later version says: nobody but commands writes the limits, so theirs are never older than ours.
    r->max_bytes_per_s = theirs->max_bytes_per_s;
    r->has_max_bytes_per_s = theirs->has_max_bytes_per_s;
    r->max_replica_lag_bytes = theirs->max_replica_lag_bytes;
    r->has_max_replica_lag_bytes = theirs->has_max_replica_lag_bytes;
}

// After a commit that failed or whose answer was lost: what does etcd hold? *ret_mine: what we wanted to write.
// Flags that only commands set are taken over into our record.
static int look(job_t *job, bool *ret_mine, sp_error_t *err)
{
    char key[64];
    snprintf(key, sizeof key, "jobs/%s", job->id);
    sp_arena_t *arena = sp_arena_new(RECORD_ARENA);
    sp_kv_t kv;
    bool found = false;
    sp_msg_catalog_job_t theirs;
    sp_buf_t mine = SP_BUF_INIT;
    int rc =
        arena ? sp_store_get(job->env.store, sp_str(key), arena, &kv, &found, err) : no_memory(err);
    if (rc == 0 && !found)
        rc = sp_error_set(err, SP_E_NOT_FOUND, "job %s is gone", job->id);
    if (rc == 0)
        rc = sp_wire_decode_json(&sp_schema_catalog_job, kv.value.ptr, kv.value.len, arena, &theirs,
                                 err);
    if (rc == 0)
        rc = sp_wire_encode_json(&sp_schema_catalog_job, job->rec, true, &mine, err);
    *ret_mine = rc == 0 && kv.mod_revision != job->mod_revision &&
                sp_str_eq(kv.value, (sp_str_t){mine.data, mine.len});
    if (*ret_mine)
        job->place = place_of(job->rec);
    else if (rc == 0 && theirs.epoch > job->env.epoch.epoch)
        rc = sp_error_set(err, SP_E_STALE_EPOCH, "another leader wrote job %s", job->id);
    else if (rc == 0 && !job_stands_still(job, &theirs))
        // A write of ours that was given up can still arrive: a flip, for one.
        rc = sp_error_set(err, SP_E_CONFLICT, "job %s is %s now%s", job->id,
                          sp_job_state_name((int)theirs.state), theirs.flipped ? ", flipped" : "");
    if (rc == 0) {
        job_take_flags(job, &theirs);
        job->mod_revision = kv.mod_revision;
    }
    sp_buf_free(&mine);
    sp_arena_destroy(&arena);
    return rc;
}

static int save_with(job_t *job, job_extra_fn *extra, sp_error_t *err)
{
    stamp(job); // once: what is sent again must be known again
    for (int i = 0;; i++) {
        if (env_stopped(&job->env))
            return sp_error_set(err, SP_E_STALE_EPOCH, "this manager does not lead any more");
        sp_error_clear(err);
        int rc = commit(job, extra, err);
        if (rc != SP_E_CONFLICT && rc != SP_E_CATALOG_UNAVAILABLE)
            return rc;
        int64_t before = job->mod_revision;
        bool mine = false;
        int seen = look(job, &mine, err);
        if (seen == 0 && mine)
            return 0;
        if (seen != 0 && seen != SP_E_CATALOG_UNAVAILABLE)
            return seen;
        // The job's record is as we know it, so the conflict is about something else: the caller reads all again.
        if (seen == 0 && rc == SP_E_CONFLICT && job->mod_revision == before)
            return sp_error_set(err, SP_E_CONFLICT,
                                "the catalog changed while job %s wanted to write", job->id);
        env_sleep(&job->env, sp_random_backoff_ms(i, 20, 1000));
    }
}

int job_save(job_t *job, sp_error_t *err)
{
    return save_with(job, NULL, err);
}

// ---- transitions

static bool is_over(int state)
{
    return sp_job_is_terminal(state) || state == SP_JOB_FAILED;
}

static void phase_change(job_t *job, int to)
{
    sp_msg_catalog_job_t *r = job->rec;
    int64_t now = sp_clock_wall_ms();
    if (r->phases.n > 0) {
        sp_msg_job_phase_t *last = &r->phases.items[r->phases.n - 1];
        last->ended_ms = now;
        last->has_ended_ms = true;
        last->seconds = (double)(now - last->started_ms) / 1000;
        last->has_seconds = true;
        job_fact(job, "phase_seconds", sp_log_fmt(SP_STR_FMT, SP_STR_ARG(last->name)),
                 last->seconds);
    }
    size_t skip = r->phases.n > MAX_PHASES ? r->phases.n - MAX_PHASES : 0, n = r->phases.n - skip;
    sp_msg_job_phase_t *items = sp_arena_alloc(job->arena, n + 1, sizeof *items);
    if (!items)
        return;
    if (n)
        memcpy(items, r->phases.items + skip, n * sizeof *items);
    items[n] = (sp_msg_job_phase_t){.name = sp_str(sp_job_state_name(to)),
                                    .started_ms = now,
                                    .has_started_ms = true};
    if (is_over(to)) {
        items[n].ended_ms = now;
        items[n].has_ended_ms = items[n].has_seconds = true;
    }
    r->phases.items = items;
    r->phases.n = n + 1;
}

// A job that is over is kept to be looked at. What only its work needed would make the catalog, which everybody reads whole, grow with
// each job by its tables, their columns and all that was made. Arcs stay whose rows the source keeps: a check knows them by that.
static void strip(sp_msg_catalog_job_t *r, bool may_be_retried)
{
    bool keeps_rows = r->state == SP_JOB_STATE_FINALIZED && !r->drop_source_rows;
    r->tables.n = r->partitioned.n = r->objects.n = r->source_bounds_after.n = 0;
    r->source_tokens_after = (sp_str_t){0};
    for (size_t i = 0; i < r->targets.n; i++) {
        sp_msg_job_target_t *t = &r->targets.items[i];
        t->bounds_after.n = 0;
        if (!keeps_rows)
            t->bounds.n = 0;
        t->tokens = (sp_str_t){0};
        if (!may_be_retried)
            t->registration = NULL;
    }
}

int job_transition(job_t *job, int event, job_extra_fn *extra, sp_error_t *err)
{
    sp_msg_catalog_job_t *r = job->rec;
    const sp_job_row_t *row = NULL;
    int rc = sp_job_next((int)r->state, job_mode(job), event, &row, err);
    if (rc != 0) {
        sp_log(SP_LOG_ERROR, "JOB-TRANSITION-REFUSED", "job", job->id, "reason", err->text, NULL);
        return rc;
    }
    rc = job_failpoint(sp_job_event_name(event), "before", err);
    if (rc != 0)
        return rc;
    bool moves = row->to != row->from;
    if (moves) {
        phase_change(job, row->to);
        r->steps_done.n = 0;
    }
    r->state = row->to;
    r->step = sp_str(row->step);
    r->flipped = row->to_mode == SP_JOB_FLIPPED;
    r->has_flipped = true;
    r->undo_to = row->to_mode == SP_JOB_UNDO_FAIL     ? SP_JOB_STATE_FAILED
                 : row->to_mode == SP_JOB_UNDO_CANCEL ? SP_JOB_STATE_CANCELLED
                                                      : 0;
    r->has_undo_to = r->undo_to != 0;
    if (moves && is_over(row->to))
        strip(r, row->to == SP_JOB_FAILED);
    rc = save_with(job, extra, err);
    if (rc != 0)
        return rc;
    sp_log(SP_LOG_INFO, "JOB-STATE", "job", job->id, "event", sp_job_event_name(event), "state",
           sp_job_state_name(row->to), "mode", sp_job_mode_name(row->to_mode), "comment",
           row->comment, NULL);
    job_live(job, true);
    return job_failpoint(sp_job_event_name(event), "after", err);
}

// ---- objects and errors

static const char *object_name(job_t *job, const char *kind, sp_str_t shard, sp_str_t name)
{
    return sp_arena_printf(job->arena, "%s:" SP_STR_FMT ":" SP_STR_FMT, kind, SP_STR_ARG(shard),
                           SP_STR_ARG(name));
}

bool job_has_object(const job_t *job, const char *kind, sp_str_t shard, sp_str_t name)
{
    char text[600];
    snprintf(text, sizeof text, "%s:" SP_STR_FMT ":" SP_STR_FMT, kind, SP_STR_ARG(shard),
             SP_STR_ARG(name));
    for (size_t i = 0; i < job->rec->objects.n; i++)
        if (sp_str_eqz(job->rec->objects.items[i], text))
            return true;
    return false;
}

int job_object(job_t *job, const char *kind, sp_str_t shard, sp_str_t name, sp_error_t *err)
{
    sp_msg_catalog_job_t *r = job->rec;
    if (job_has_object(job, kind, shard, name))
        return 0;
    sp_str_t *items = sp_arena_alloc(job->arena, r->objects.n + 1, sizeof *items);
    const char *text = object_name(job, kind, shard, name);
    if (!items || !text)
        return no_memory(err);
    if (r->objects.n)
        memcpy(items, r->objects.items, r->objects.n * sizeof *items);
    items[r->objects.n] = sp_str(text);
    r->objects.items = items;
    r->objects.n++;
    return job_save(job, err);
}

void job_set_error(job_t *job, const sp_error_t *err)
{
    job->rec->error = err ? error_message(err, job->arena) : NULL;
}
