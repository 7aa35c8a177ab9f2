// State validating: source and targets are compared at one position, in parallel, while everybody goes on writing.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "services/manager/job_work.h"

// Each part reads its table once, so parts are for parallel work on large tables only.
enum { POINT_WAIT_MS = 60000, ROWS_A_PART = 4000000, PARTS_MAX = 8, KEYS_MAX = 100 };

// The point at which all are compared, and what the tasks found.
typedef struct compare {
    sp_str_t lsn, snapshot;     // of the source
    sp_str_t *target_snapshots; // one a target
    struct part {
        size_t table;        // in the record
        int64_t from, to;    // hashes, inclusive
    } * parts;               // tasks
    size_t n;                // count
    int64_t rows;            // compared
    sp_str_t keys[KEYS_MAX]; // that differ
    size_t n_keys;           // count
} compare_t;

// Whether the follower's last word is of a point that stands. One that it was told to release, it may still speak of for a moment.
static bool point_stands(const job_t *job)
{
    const sp_msg_task_update_t *u = &job->follow->last;
    return u->snapshot.len && u->target_snapshots.n == job->rec->targets.n &&
           !sp_str_eqz(u->lsn, job->compared_lsn);
}

static int make_point(job_t *job, compare_t *c, sp_error_t *err)
{
    sp_msg_task_control_t control = {.verb = SP_TASK_VERB_VALIDATE_POINT, .has_verb = true};
    int64_t deadline = sp_clock_mono_ms() + POINT_WAIT_MS;
    int rc = job_task_control(job, job->follow, &control, err);
    while (rc == 0) {
        if (job_follow_lost(job))
            return sp_error_set(err, SP_E_UNAVAILABLE,
                                "the follower was lost while it made the point of comparison");
        if (point_stands(job))
            break;
        if (sp_clock_until_ms(deadline) == 0)
            return sp_error_set(err, SP_E_DEADLINE_EXCEEDED,
                                "the follower made no point of comparison within %d s; long "
                                "transactions on the source hold it up",
                                POINT_WAIT_MS / 1000);
        rc = job_pump(job, 200, err);
    }
    if (rc != 0)
        return rc;
    // The next update replaces this one's memory.
    const sp_msg_task_update_t *u = &job->follow->last;
    c->lsn = sp_arena_str(job->arena, u->lsn);
    c->snapshot = sp_arena_str(job->arena, u->snapshot);
    c->target_snapshots =
        sp_arena_alloc(job->arena, u->target_snapshots.n + 1, sizeof *c->target_snapshots);
    for (size_t i = 0; c->target_snapshots && i < u->target_snapshots.n; i++)
        c->target_snapshots[i] = sp_arena_str(job->arena, u->target_snapshots.items[i]);
    return c->target_snapshots ? 0 : sp_error_set(err, SP_E_OUT_OF_MEMORY, "validation");
}

static int cut_parts(job_t *job, compare_t *c, sp_error_t *err)
{
    c->parts = sp_arena_alloc(job->arena, job->rec->tables.n * PARTS_MAX + 1, sizeof *c->parts);
    if (!c->parts)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "validation");
    for (size_t i = 0; i < job->rec->tables.n; i++) {
        int64_t parts = job->rec->tables.items[i].rows_estimate / ROWS_A_PART + 1;
        parts = parts > PARTS_MAX ? PARTS_MAX : parts;
        uint64_t width = UINT64_MAX / (uint64_t)parts, at = 0;
        for (int64_t k = 0; k < parts; k++) {
            uint64_t last = k + 1 == parts ? UINT64_MAX : at + width - 1;
            // Shifted by 2^63: hashes are signed.
            c->parts[c->n++] =
                (struct part){i, (int64_t)(at ^ (1ULL << 63)), (int64_t)(last ^ (1ULL << 63))};
            at = last + 1;
        }
    }
    return 0;
}

static int assign_verify(job_t *job, void *arg, size_t i, sp_arena_t *arena,
                         sp_msg_task_assign_t *a)
{
    (void)arena;
    const compare_t *c = arg;
    a->tables.items = &job->rec->tables.items[c->parts[i].table];
    a->tables.n = 1;
    a->hash_from = c->parts[i].from;
    a->hash_to = c->parts[i].to;
    a->has_hash_from = a->has_hash_to = true;
    a->snapshot = c->snapshot;
    a->target_snapshots.items = c->target_snapshots;
    a->target_snapshots.n = job->rec->targets.n;
    return 0;
}

static int done_verify(job_t *job, void *arg, size_t i, const sp_msg_task_update_t *u,
                       sp_error_t *err)
{
    compare_t *c = arg;
    (void)err;
    (void)i;
    c->rows += u->rows;
    job->progress.rows_validated = c->rows;
    for (size_t k = 0; k < u->mismatches.n && c->n_keys < KEYS_MAX; k++)
        c->keys[c->n_keys++] = sp_arena_str(job->arena, u->mismatches.items[k]);
    return 0;
}

static void release(job_t *job, const compare_t *c)
{
    snprintf(job->compared_lsn, sizeof job->compared_lsn, SP_STR_FMT, SP_STR_ARG(c->lsn));
    sp_msg_task_control_t control = {.verb = SP_TASK_VERB_VALIDATE_RELEASE, .has_verb = true};
    if (!job_follow_lost(job))
        job_task_control(job, job->follow, &control, NULL);
}

static int conclude(job_t *job, compare_t *c, sp_error_t *err)
{
    sp_msg_job_validation_t *v = sp_arena_alloc(job->arena, 1, sizeof *v);
    if (!v)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "validation");
    *v = (sp_msg_job_validation_t){.passed = c->n_keys == 0,
                                   .has_passed = true,
                                   .lsn = c->lsn,
                                   .rows = c->rows,
                                   .has_rows = true};
    v->mismatches.items = sp_arena_alloc(job->arena, c->n_keys + 1, sizeof *v->mismatches.items);
    for (size_t i = 0; v->mismatches.items && i < c->n_keys; i++)
        v->mismatches.items[v->mismatches.n++] = c->keys[i];
    job->rec->validation = v;
    if (c->n_keys == 0)
        return job_transition(job, SP_JOB_EV_VALIDATED, NULL, err);
    sp_error_t why = {0};
    sp_error_set(&why, SP_E_VALIDATION_FAILED, "source and targets differ, first at " SP_STR_FMT,
                 SP_STR_ARG(c->keys[0]));
    sp_log(SP_LOG_ERROR, "JOB-VALIDATION", "job", job->id, "reason", why.text, NULL);
    job_set_error(job, &why);
    return job_transition(job, SP_JOB_EV_MISMATCHED, NULL, err);
}

int job_validating(job_t *job, sp_error_t *err)
{
    // A snapshot dies with its follower, so the comparison starts again after another has caught up.
    if (job_follow_lost(job))
        return job_transition(job, SP_JOB_EV_BEHIND, NULL, err);
    compare_t *c = sp_arena_alloc(job->arena, 1, sizeof *c);
    int rc = c ? job_failpoint("validate", "before", err)
               : sp_error_set(err, SP_E_OUT_OF_MEMORY, "validation");
    job->progress.rows_validated = 0;
    if (rc == 0)
        rc = make_point(job, c, err);
    bool made = rc == 0;
    if (rc == 0)
        rc = cut_parts(job, c, err);
    if (rc == 0) {
        job_batch_t batch = {.n = c->n,
                             .what = "verify",
                             .kind = SP_TASK_KIND_VERIFY,
                             .assign = assign_verify,
                             .done = done_verify,
                             .lost = job_follow_lost,
                             .keeps_wal = true,
                             .arg = c};
        rc = job_batch_run(job, &batch, err);
    }
    if (rc == SP_E_STALE_EPOCH)
        return rc;
    // A point that was waited for in vain may be there by now: the next try takes that one, so it is not to be released behind its back.
    if (made)
        release(job, c);
    if (rc == SP_E_UNAVAILABLE && job_follow_lost(job)) {
        sp_error_clear(err);
        return job_transition(job, SP_JOB_EV_BEHIND, NULL, err);
    }
    if (rc == 0)
        rc = job_failpoint("validate", "after", err);
    return rc == 0 ? conclude(job, c, err) : rc;
}
