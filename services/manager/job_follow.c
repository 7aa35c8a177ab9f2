// State deltasync: a follower applies the source's changes to the targets until they are nearly level. It goes on through the states
// that come after.
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "services/manager/job_work.h"

enum { SLOT_CHECK_MS = 5000, LEVEL_TWICE = 2 };

// Nonces that the follower knows. A cutover that comes after a lift gets fresh ones, and then the manager opens by itself.
static int make_nonces(job_t *job, sp_error_t *err)
{
    bool made = false;
    for (size_t i = 0; i < job->rec->targets.n; i++) {
        sp_msg_job_target_t *t = &job->rec->targets.items[i];
        if (t->nonce.len)
            continue;
        char nonce[33];
        sp_random_id(nonce, 32);
        t->nonce = sp_str(sp_arena_strz(job->arena, nonce));
        made = true;
    }
    return made ? job_save(job, err) : 0;
}

static int record_origins(job_t *job, sp_error_t *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < job->rec->targets.n; i++)
        rc = job_object(job, "origin", job->rec->targets.items[i].shard_id,
                        job->rec->targets.items[i].origin, err);
    return rc;
}

int job_follow_ensure(job_t *job, sp_error_t *err)
{
    if (job->follow && !job_task_final(job->follow))
        return 0;
    if (job->follow) {
        sp_error_t why = job->follow->err;
        bool failed = job->follow->state == SP_TASK_STATE_FAILED;
        job_task_end(job, &job->follow);
        int64_t now = sp_clock_mono_ms();
        job->unfollowed_ms = job->unfollowed_ms ? job->unfollowed_ms : now;
        bool too_long = now - job->unfollowed_ms > job->env.settings->retry_for_s * 1000;
        if (failed && (!why.retryable || too_long)) {
            *err = why;
            err->retryable = false;
            return why.code;
        }
        job_fact(job, "retry", "follow", 1);
        env_sleep(&job->env, sp_random_backoff_ms(1, 200, 1000));
    }
    int rc = job_check_slot(job, err);
    if (rc == 0)
        rc = make_nonces(job, err);
    if (rc == 0)
        rc = record_origins(job, err);
    if (rc == 0)
        rc = job_failpoint("follow", "before", err);
    if (rc != 0)
        return rc;
    sp_arena_t *arena = sp_arena_new(256 << 20);
    if (!arena)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "follow");
    const sp_msg_catalog_job_t *r = job->rec;
    const sp_catalog_keyspace_view_t *k = sp_catalog_keyspace(job->env.catalog, r->keyspace);
    sp_msg_task_assign_t a = job_task_assignment(job, arena, SP_TASK_KIND_FOLLOW);
    a.slot = r->slot;
    job_assign_tables(job, &a);
    a.ring_version = (k && k->ring_record ? k->ring_record->version : 0) + 1;
    a.has_ring_version = true;
    a.source_bounds_after.items = r->source_bounds_after.items;
    a.source_bounds_after.n = r->source_bounds_after.n;
    a.sequence_stride = k && k->keyspace->sequence_stride ? k->keyspace->sequence_stride : 64;
    a.has_sequence_stride = true;
    job->follow = job_task_start(job, "follow", &a, err);
    sp_arena_destroy(&arena);
    return job->follow ? job_failpoint("follow", "after", err) : err->code;
}

static void take_lag(job_t *job)
{
    const sp_msg_task_update_t *u = &job->follow->last;
    job->progress.lag_bytes = u->lag_bytes;
    job->progress.lag_ms = u->lag_ms;
    job->progress.rows_applied = u->rows_applied;
    job->unfollowed_ms = 0;
}

int job_deltasync(job_t *job, sp_error_t *err)
{
    int level = 0, seen = 0;
    int64_t checked = sp_clock_mono_ms();
    const job_task_t *counted = NULL;
    for (;;) {
        int rc = job_follow_ensure(job, err);
        if (rc == 0)
            rc = job_pump(job, 250, err);
        if (rc != 0)
            return rc;
        if (sp_clock_mono_ms() - checked > SLOT_CHECK_MS) {
            checked = sp_clock_mono_ms();
            rc = job_check_slot(job, err);
            if (rc != 0)
                return rc;
        }
        if (counted != job->follow) {
            counted = job->follow;
            seen = level = 0;
        }
        if (job_follow_lost(job) || job->follow->updates == seen ||
            !job->follow->last.has_lag_bytes)
            continue;
        seen = job->follow->updates;
        take_lag(job);
        level = job->follow->last.lag_bytes < job->env.settings->caught_up_bytes ? level + 1 : 0;
        if (level < LEVEL_TWICE)
            continue;
        rc = job_step(job, "validate_keys", job_validate_keys, err);
        if (rc == 0)
            break;
        if (rc != SP_E_UNAVAILABLE || !job_follow_lost(job))
            return rc;
        sp_error_clear(err);
        level = 0;
    }
    bool valid = job->rec->validation && job->rec->validation->passed;
    job->rec->error = NULL;
    return job_transition(job, valid ? SP_JOB_EV_STILL_VALID : SP_JOB_EV_CAUGHT_UP, NULL, err);
}
