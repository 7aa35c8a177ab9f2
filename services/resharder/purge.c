// Task `purge`: deletes the rows of given arcs, in small transactions, so that neither locks nor WAL nor bloat come in one go.
#include <stdio.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/failpoint.h"
#include "services/resharder/task.h"
#include "services/resharder/throttle.h"

enum { BATCH = 5000, PAGES = 512, PAGE_BYTES = 8192, PAUSE_MS = 20 };

typedef struct purge {
    task_t *task;        // owner
    sp_pg_t *pg;         // apply role: guards refuse everybody else
    const char *bounds;  // literal of int8[]
    int64_t rows;        // deleted
    int64_t bytes;       // of pages looked at
    throttle_t throttle; // how fast it may go
} purge_t;

// Rows of one window of pages ($2 to $3): candidates by key first, locked and deleted by ctid in one statement.
static const char *delete_sql(sp_arena_t *arena, const char *name, const char *key)
{
    return sp_arena_printf(arena,
                           "WITH d AS (DELETE FROM ONLY %s WHERE ctid = ANY "
                           "(ARRAY(SELECT ctid FROM ONLY %s WHERE ctid >= $2::tid AND ctid < "
                           "$3::tid AND width_bucket(hashtextextended(%s::text, 0), $1::int8[]) "
                           "%% 2 = 1 LIMIT %d)) RETURNING 1) SELECT count(*) FROM d",
                           name, name, key, BATCH);
}

// *ret_rows: how many were deleted, at most BATCH.
static int delete_batch(purge_t *self, const char *sql, int64_t from, int64_t to, int64_t *ret_rows,
                        sp_error_t *err)
{
    char count[24], first[32], behind[32];
    bool null = true;
    const char *params[] = {self->bounds, first, behind};
    snprintf(first, sizeof first, "(%lld,0)", (long long)from);
    snprintf(behind, sizeof behind, "(%lld,0)", (long long)to);
    int rc = sp_pg_exec(self->pg,
                        "BEGIN; SET LOCAL lock_timeout = '5s'; SET LOCAL row_security = off", err);
    if (rc == 0)
        rc = sp_owner_hold_epoch(self->pg, self->task->epoch, err);
    if (rc == 0)
        rc = sp_pg_value(self->pg, sql, 3, params, count, sizeof count, &null, err);
    if (rc == 0)
        rc = sp_pg_exec(self->pg, "COMMIT", err);
    if (rc != 0)
        return rc;
    return sp_str_to_int64(sp_str(count), ret_rows);
}

// Between two transactions. The pause lets others have the locks and the disk, however fast the task may go.
static int wait_turn(purge_t *self, bool pause, sp_error_t *err)
{
    int rc = throttle_turn(&self->throttle, self->rows, self->bytes, err);
    if (rc != 0)
        return rc;
    if (task_stopped(self->task))
        return sp_error_set(err, SP_E_CANCELLED, "stopped");
    if (pause)
        sp_clock_sleep_ms(PAUSE_MS);
    return 0;
}

static int purge_table(purge_t *self, const sp_msg_job_table_t *table, sp_error_t *err)
{
    char pages_text[24];
    bool null = true;
    int64_t pages = 0;
    const char *name = sp_pg_qualified(self->task->arena, table->schema, table->table),
               *key = sp_pg_ident(self->task->arena, table->key_column);
    const char *sql = name != NULL && key != NULL ? delete_sql(self->task->arena, name, key) : NULL;
    if (sql == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a purge task");
    const char *params[] = {name};
    int rc = sp_pg_value(self->pg,
                         "SELECT pg_relation_size(c.oid) / current_setting('block_size')::bigint "
                         "FROM pg_class c WHERE c.oid = to_regclass($1)",
                         1, params, pages_text, sizeof pages_text, &null, err);
    if (rc != 0 || null) // a table that is gone has no rows left
        return rc;
    sp_str_to_int64(sp_str(pages_text), &pages);
    for (int64_t from = 0; rc == 0 && from < pages; from += PAGES) {
        int64_t rows = BATCH;
        while (rc == 0 && rows == BATCH) {
            rc = delete_batch(self, sql, from, from + PAGES, &rows, err);
            self->rows += rc == 0 ? rows : 0;
            if (rc == 0 && rows > 0)
                rc = sp_failpoint("purge_batch", err);
            if (rc == 0)
                rc = wait_turn(self, rows > 0, err);
        }
        self->bytes += (pages - from < PAGES ? pages - from : PAGES) * PAGE_BYTES;
    }
    return rc;
}

// What lies behind the pages that were there at the start cannot be of these arcs: guards let nobody write them here.
static int purge_shard(purge_t *self, const task_shard_t *shard, sp_error_t *err)
{
    sp_pg_options_t options = {.replica_role = true};
    int rc = task_connect(self->task, &shard->apply, &options, &self->pg, err);
    for (size_t i = 0; rc == 0 && i < self->task->assign->tables.n; i++)
        rc = purge_table(self, &self->task->assign->tables.items[i], err);
    sp_pg_close(&self->pg);
    return rc == 0 ? 0 : sp_error_prefix(err, "shard %s", shard->shard_id);
}

static int purge_all(purge_t *self, sp_error_t *err)
{
    task_t *task = self->task;
    const task_shard_t *shards = task->n_targets > 0 ? task->targets : &task->source;
    size_t n = task->n_targets > 0 ? task->n_targets : 1;
    int rc = throttle_open(&self->throttle, task, shards, n, err);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = purge_shard(self, &shards[i], err);
    if (rc == 0)
        throttle_settle(&self->throttle, self->rows, self->bytes);
    throttle_close(&self->throttle);
    return rc;
}

int task_purge(task_t *task, sp_msg_task_update_t *result, sp_error_t *err)
{
    purge_t self = {.task = task};
    sp_buf_t bounds = SP_BUF_INIT;
    sp_arcs_t arcs = {task->assign->bounds.items, task->assign->bounds.n};
    int rc = sp_arcs_validate(arcs, err);
    if (rc != 0)
        return rc;
    sp_arcs_literal(arcs, &bounds);
    self.bounds = sp_arena_strz(task->arena, sp_buf_cstr(&bounds));
    sp_buf_free(&bounds);
    if (self.bounds == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a purge task");
    if (!sp_arcs_is_none(arcs))
        rc = purge_all(&self, err);
    result->rows = self.rows;
    result->bytes = self.bytes;
    result->has_rows = result->has_bytes = true;
    return rc;
}
