// State precopy, second half: rows under the exported snapshot, then indexes, foreign keys and their validation.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "services/manager/job_work.h"
#include "services/manager/sql/manager.h"

// Which ranges are on how many targets.
typedef struct range {
    size_t table; // in the record
    int64_t no;   // of the range
} range_t;

typedef struct place {
    size_t targets;      // that have the range
    int64_t rows, bytes; // of it there
} place_t;

typedef struct copy {
    range_t *todo;       // ranges that are not on all targets
    size_t n;            // count
    place_t *places;     // of all ranges, table-major
    size_t *first;       // a table's first place
    size_t n_places;     // count
    int64_t rows, bytes; // of finished ranges
} copy_t;

static int no_memory(sp_error_t *err)
{
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "copy");
}

static int find_table(const job_t *job, const char *schema, const char *table)
{
    for (size_t i = 0; i < job->rec->tables.n; i++)
        if (sp_str_eqz(job->rec->tables.items[i].schema, schema) &&
            sp_str_eqz(job->rec->tables.items[i].table, table))
            return (int)i;
    return -1;
}

static int read_target(job_t *job, copy_t *c, sp_str_t target, sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    PGresult *r = NULL;
    char attempt[24];
    snprintf(attempt, sizeof attempt, "%lld", (long long)job->rec->attempt);
    const char *params[] = {job->id, attempt};
    int rc = env_pg(&job->env, target, ENV_ADMIN, &pg, err);
    if (rc == 0)
        rc = sp_pg_query(pg, SP_SQL_PROGRESS, 2, params, &r, err);
    for (int i = 0; rc == 0 && i < PQntuples(r); i++) {
        int t = find_table(job, PQgetvalue(r, i, 0), PQgetvalue(r, i, 1));
        int64_t no = strtoll(PQgetvalue(r, i, 2), NULL, 10);
        if (t < 0 || no < 0 || no >= job->rec->tables.items[t].ranges)
            continue;
        place_t *place = &c->places[c->first[t] + (size_t)no];
        place->targets++;
        place->rows += strtoll(PQgetvalue(r, i, 3), NULL, 10);
        place->bytes += strtoll(PQgetvalue(r, i, 4), NULL, 10);
    }
    PQclear(r);
    return rc;
}

static void copy_free(copy_t *c)
{
    free(c->todo);
    free(c->places);
    free(c->first);
    memset(c, 0, sizeof *c);
}

// The totals were estimates: where more was there, that is the total.
static void show_copied(job_t *job, int64_t rows, int64_t bytes)
{
    sp_msg_job_progress_t *p = &job->progress;
    p->rows_copied = rows;
    p->bytes_copied = bytes;
    p->rows_total = rows > p->rows_total ? rows : p->rows_total;
    p->bytes_total = bytes > p->bytes_total ? bytes : p->bytes_total;
}

// What is on all targets already. Tables that are complete are marked so in the record (not saved here).
static int read_progress(job_t *job, copy_t *c, sp_error_t *err)
{
    sp_msg_catalog_job_t *r = job->rec;
    copy_free(c);
    c->first = calloc(r->tables.n + 1, sizeof *c->first);
    for (size_t i = 0; c->first && i < r->tables.n; i++) {
        c->first[i] = c->n_places;
        c->n_places += (size_t)r->tables.items[i].ranges;
    }
    c->places = calloc(c->n_places + 1, sizeof *c->places);
    c->todo = calloc(c->n_places + 1, sizeof *c->todo);
    int rc = c->first && c->places && c->todo ? 0 : no_memory(err);
    for (size_t i = 0; rc == 0 && i < r->targets.n; i++)
        rc = read_target(job, c, r->targets.items[i].shard_id, err);
    for (size_t i = 0; rc == 0 && i < r->tables.n; i++) {
        size_t before = c->n;
        for (int64_t k = 0; k < r->tables.items[i].ranges; k++) {
            const place_t *place = &c->places[c->first[i] + (size_t)k];
            if (place->targets < r->targets.n) { // its task will count what is there, too
                c->todo[c->n++] = (range_t){i, k};
                continue;
            }
            c->rows += place->rows;
            c->bytes += place->bytes;
        }
        r->tables.items[i].copied = c->n == before;
        r->tables.items[i].has_copied = true;
    }
    show_copied(job, c->rows, c->bytes);
    return rc;
}

static int assign_copy(job_t *job, void *arg, size_t i, sp_arena_t *arena, sp_msg_task_assign_t *a)
{
    (void)arena;
    const copy_t *c = arg;
    const range_t *range = &c->todo[i];
    sp_msg_job_table_t *t = &job->rec->tables.items[range->table];
    a->tables.items = t;
    a->tables.n = 1;
    a->range_no = range->no;
    a->page_from = range->no * t->pages_per_range;
    a->page_to = range->no + 1 == t->ranges ? 0 : (range->no + 1) * t->pages_per_range;
    a->has_range_no = a->has_page_from = a->has_page_to = true;
    a->snapshot = sp_str(job->snapshot);
    job_throttle_assign(job, a);
    return 0;
}

static int done_copy(job_t *job, void *arg, size_t i, const sp_msg_task_update_t *u,
                     sp_error_t *err)
{
    (void)job;
    (void)i;
    copy_t *c = arg;
    c->rows += u->rows;
    c->bytes += u->bytes;
    return job_failpoint("copy_range", "after", err);
}

static void progress_copy(job_t *job, void *arg, int64_t rows, int64_t bytes)
{
    const copy_t *c = arg;
    show_copied(job, c->rows + rows, c->bytes + bytes);
}

// The snapshot's holder is gone: unfinished tables start again under a temporary slot's snapshot, and their changes from before that
// slot's position are dropped by the follower.
static int new_snapshot(job_t *job, sp_error_t *err)
{
    sp_msg_catalog_job_t *r = job->rec;
    int rc = 0;
    for (size_t k = 0; rc == 0 && k < r->tables.n; k++)
        for (size_t i = 0; rc == 0 && !r->tables.items[k].copied && i < r->targets.n; i++)
            rc = job_empty_tables(job, r->targets.items[i].shard_id, &r->tables.items[k], 1, err);
    if (rc == 0)
        rc = job_failpoint("resnapshot", "before", err);
    if (rc != 0)
        return rc;
    sp_arena_t *arena = sp_arena_new(0);
    if (!arena)
        return no_memory(err);
    sp_msg_task_assign_t a = job_task_assignment(job, arena, SP_TASK_KIND_SNAPSHOT);
    a.temporary = a.has_temporary = true;
    char suffix[7];
    sp_random_id(suffix, 6);
    a.slot =
        sp_str(sp_arena_printf(arena, "shp_%s_%lld_%s", job->id, (long long)r->attempt, suffix));
    job->holder = job_task_start(job, "snapshot", &a, err);
    sp_arena_destroy(&arena);
    if (!job->holder)
        return err->code;
    int64_t checked = sp_clock_mono_ms();
    while (rc == 0 && !job_task_final(job->holder) && !job->holder->last.snapshot.len) {
        rc = job_watch_slot(job, &checked, err); // there may be no worker for long
        if (rc == 0)
            rc = job_pump(job, 200, err);
    }
    if (rc == 0 && job_task_final(job->holder)) {
        rc = sp_error_set(err, SP_E_UNAVAILABLE, "no snapshot: %s", job->holder->err.text);
        job_task_end(job, &job->holder);
    }
    if (rc != 0)
        return rc;
    snprintf(job->snapshot, sizeof job->snapshot, SP_STR_FMT,
             SP_STR_ARG(job->holder->last.snapshot));
    sp_str_t lsn = sp_arena_str(job->arena, job->holder->last.lsn);
    for (size_t i = 0; i < r->tables.n; i++)
        if (!r->tables.items[i].copied)
            r->tables.items[i].start_lsn = lsn;
    sp_log(SP_LOG_INFO, "JOB-RESNAPSHOT", "job", job->id, "lsn",
           sp_log_fmt(SP_STR_FMT, SP_STR_ARG(lsn)), NULL);
    // The table that is copied again is copied by the relfilenode and the pages that it had; the task checks the first.
    return job_save(job, err);
}

static int step_copy(job_t *job, sp_error_t *err)
{
    copy_t c = {0};
    int rc = 0;
    for (;;) {
        rc = read_progress(job, &c, err);
        if (rc == 0)
            rc = job_save(job, err);
        if (rc != 0 || c.n == 0)
            break;
        if (job_holder_lost(job)) {
            job_task_end(job, &job->holder);
            rc = job_check_slot(job, err);
            if (rc == 0)
                rc = new_snapshot(job, err);
            if (rc == 0)
                rc = read_progress(job, &c, err);
            if (rc != 0)
                break;
        }
        job_batch_t batch = {.n = c.n,
                             .what = "copy",
                             .kind = SP_TASK_KIND_COPY,
                             .assign = assign_copy,
                             .done = done_copy,
                             .progress = progress_copy,
                             .lost = job_holder_lost,
                             .keeps_wal = true,
                             .arg = &c};
        rc = job_batch_run(job, &batch, err);
        if (rc == SP_E_UNAVAILABLE && job_holder_lost(job)) {
            sp_log(SP_LOG_WARN, "JOB-SNAPSHOT-LOST", "job", job->id, NULL);
            sp_error_clear(err);
            job_task_end(job, &job->holder);
            continue;
        }
        if (rc != 0)
            break;
    }
    if (rc != SP_E_STALE_EPOCH) {
        sp_error_t why = *err;
        job_task_end(job, &job->holder);
        *err = why;
    }
    copy_free(&c);
    return rc;
}

// ---- post-data

static int assign_index(job_t *job, void *arg, size_t i, sp_arena_t *arena, sp_msg_task_assign_t *a)
{
    (void)arena;
    sp_msg_job_target_t one = a->targets.items[i];
    a->targets.items[0] = one;
    a->targets.n = 1;
    a->phase = *(const int64_t *)arg;
    a->has_phase = true;
    job_assign_tables(job, a);
    return 0;
}

// follows: a follower reads the slot meanwhile, and without it this ends; else the slot keeps its WAL, and is looked after.
static int index_phase(job_t *job, int64_t phase, bool follows, sp_error_t *err)
{
    job_batch_t batch = {.n = job->rec->targets.n,
                         .what = "index",
                         .kind = SP_TASK_KIND_INDEX,
                         .assign = assign_index,
                         .lost = follows ? job_follow_lost : NULL,
                         .keeps_wal = !follows,
                         .arg = &phase};
    return job_batch_run(job, &batch, err);
}

static int step_indexes(job_t *job, sp_error_t *err)
{
    return index_phase(job, SP_INDEX_PHASE_INDEXES, false, err);
}

static int step_foreign_keys(job_t *job, sp_error_t *err)
{
    return index_phase(job, SP_INDEX_PHASE_FOREIGN_KEYS, false, err);
}

// Tables that were copied under two snapshots fit together only once the follower has brought both to the same position. It goes on
// meanwhile, and when it is lost, so is this.
int job_validate_keys(job_t *job, sp_error_t *err)
{
    return index_phase(job, SP_INDEX_PHASE_VALIDATE, true, err);
}

int job_copy(job_t *job, sp_error_t *err)
{
    int rc = job_step(job, "copy", step_copy, err);
    if (rc == 0)
        rc = job_step(job, "indexes", step_indexes, err);
    if (rc == 0)
        rc = job_step(job, "foreign_keys", step_foreign_keys, err);
    return rc == 0 ? job_transition(job, SP_JOB_EV_COPIED, NULL, err) : rc;
}

int job_precopy(job_t *job, sp_error_t *err)
{
    int rc = job_prepare(job, err);
    return rc == 0 ? job_copy(job, err) : rc;
}
