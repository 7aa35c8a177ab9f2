// Task `copy`: one range of one table, read once from the source under the job's snapshot, and split over all targets.
#include <stdio.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/failpoint.h"
#include "services/resharder/pool.h"
#include "services/resharder/pure_split.h"
#include "services/resharder/sql_names.h"
#include "services/resharder/task.h"
#include "services/resharder/throttle.h"

enum { BUFFER = 64 * 1024, TURN = 64 * 1024, CONTROL_MS = 60000 };

typedef struct sink {
    pooled_t *lent; // its connection
    sp_pg_t *pg;  // the same: apply role, in a transaction; NULL: this target has the range already
    char *buffer; // BUFFER bytes, from the arena
    size_t used;  // bytes in it
    int64_t bytes; // bytes sent
} sink_t;

typedef struct copy {
    task_t *task;                    // owner
    const sp_msg_task_assign_t *a;   // what to do
    const sp_msg_job_table_t *table; // the table
    sp_arena_t *arena;               // the task's
    bool binary;                     // COPY's format
    const char *name;                // "s"."t"
    const char *columns;             // quoted, with commas
    pooled_t *lent;                  // the source's connection
    sp_pg_t *source;                 // the same: apply role, under the snapshot
    sink_t *sinks;                   // one a target
    int64_t *rows;                   // one a target
    split_route_t route;             // who gets what
    split_t split;                   // the stream
    throttle_t throttle;             // how fast it may go
} copy_t;

static int no_memory(sp_error_t *err)
{
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a copy task");
}

// ---- targets

static int send_buffer(sink_t *sink, sp_error_t *err)
{
    if (sink->used == 0)
        return 0;
    int rc = sp_pg_copy_put(sink->pg, sink->buffer, sink->used, err);
    sink->bytes += (int64_t)sink->used;
    sink->used = 0;
    return rc;
}

static int put(void *arg, size_t target, const void *data, size_t len, sp_error_t *err)
{
    sink_t *sink = &((copy_t *)arg)->sinks[target];
    if (sink->pg == NULL)
        return 0;
    if (len > BUFFER - sink->used) {
        int rc = send_buffer(sink, err);
        if (rc != 0)
            return rc;
        if (len >= BUFFER) { // a large value goes straight on
            sink->bytes += (int64_t)len;
            return sp_pg_copy_put(sink->pg, data, len, err);
        }
    }
    memcpy(sink->buffer + sink->used, data, len);
    sink->used += len;
    return 0;
}

// Claims the range on one target: the progress row is written first, so that a second worker on the same range waits here, and then finds
// it done, instead of loading the rows twice. *ret_done: it is there already, and the transaction is over.
static int claim_range(copy_t *self, sp_pg_t *pg, bool *ret_done, int64_t *ret_rows,
                       sp_error_t *err)
{
    char attempt[24], range[24], out[64];
    bool null = true;
    snprintf(attempt, sizeof attempt, "%lld", (long long)self->a->attempt);
    snprintf(range, sizeof range, "%lld", (long long)self->a->range_no);
    const char *params[] = {sp_arena_cstr(self->arena, self->a->job_id), attempt,
                            sp_arena_cstr(self->arena, self->table->schema),
                            sp_arena_cstr(self->arena, self->table->table), range};
    int rc = sp_pg_value(pg,
                         "INSERT INTO shardplane.copy_progress (job_id, attempt, table_schema, "
                         "table_name, range_no, rows, bytes) "
                         "VALUES ($1, $2::bigint, $3, $4, $5::bigint, 0, 0) ON CONFLICT DO NOTHING "
                         "RETURNING 1",
                         5, params, out, sizeof out, &null, err);
    if (rc != 0)
        return rc;
    *ret_done = null;
    if (!null)
        return 0;
    rc = sp_pg_value(pg,
                     "SELECT rows FROM shardplane.copy_progress WHERE job_id = $1 AND attempt = "
                     "$2::bigint AND table_schema = $3 "
                     "AND table_name = $4 AND range_no = $5::bigint",
                     5, params, out, sizeof out, &null, err);
    if (rc == 0)
        sp_str_to_int64(sp_str(out), ret_rows);
    return rc;
}

static int open_target(copy_t *self, size_t i, sp_error_t *err)
{
    sink_t *sink = &self->sinks[i];
    bool done = false;
    int rc = pool_take(self->task, &self->task->targets[i].apply, true, &sink->lent, err);
    if (rc != 0)
        return rc;
    sink->pg = pool_pg(sink->lent);
    sp_pg_set_timeout(sink->pg, CONTROL_MS);
    rc = sp_pg_exec(sink->pg, "BEGIN; SET LOCAL lock_timeout = '20s'; SET LOCAL row_security = off",
                    err);
    if (rc == 0)
        rc = sp_owner_hold_epoch(sink->pg, self->task->epoch, err);
    if (rc == 0)
        rc = claim_range(self, sink->pg, &done, &self->rows[i], err);
    if (rc != 0)
        return rc;
    if (done) {
        rc = sp_pg_exec(sink->pg, "ROLLBACK", err);
        sink->pg = NULL;
        if (rc == 0)
            pool_give(&sink->lent);
        return rc;
    }
    sink->buffer = sp_arena_alloc(self->arena, BUFFER, 1);
    if (sink->buffer == NULL)
        return no_memory(err);
    sp_pg_set_timeout(sink->pg,
                      -1); // a target may be slow for long; stop and keepalives end what is dead
    return 0;
}

static int start_target(copy_t *self, sink_t *sink, sp_error_t *err)
{
    if (sink->pg == NULL)
        return 0;
    const char *sql = sp_arena_printf(self->arena, "COPY %s (%s) FROM STDIN%s", self->name,
                                      self->columns, self->binary ? " (FORMAT binary)" : "");
    int rc = sql == NULL ? no_memory(err) : sp_pg_copy_start(sink->pg, sql, err);
    if (rc != 0)
        return rc;
    if (self->binary) {
        memcpy(sink->buffer, split_binary_header, sizeof split_binary_header);
        sink->used = sizeof split_binary_header;
    }
    return 0;
}

// Ends the COPY, and checks that PostgreSQL counted what we did.
static int finish_target(copy_t *self, size_t i, sp_error_t *err)
{
    sink_t *sink = &self->sinks[i];
    int64_t counted = 0;
    int rc =
        self->binary ? put(self, i, split_binary_trailer, sizeof split_binary_trailer, err) : 0;
    if (rc == 0)
        rc = send_buffer(sink, err);
    if (rc == 0)
        rc = sp_pg_copy_end(sink->pg, NULL, &counted, err);
    if (rc != 0)
        return rc;
    if (counted != self->rows[i])
        return sp_error_set(err, SP_E_INTERNAL, "target %s took %lld rows of %lld",
                            self->task->targets[i].shard_id, (long long)counted,
                            (long long)self->rows[i]);
    const char *job = sp_pg_literal(self->arena, self->a->job_id),
               *schema = sp_pg_literal(self->arena, self->table->schema),
               *table = sp_pg_literal(self->arena, self->table->table);
    if (job == NULL || schema == NULL || table == NULL)
        return no_memory(err);
    return sp_pg_execf(sink->pg, err,
                       "UPDATE shardplane.copy_progress SET rows = %lld, bytes = %lld WHERE job_id "
                       "= %s AND attempt = %lld AND table_schema = %s "
                       "AND table_name = %s AND range_no = %lld",
                       (long long)counted, (long long)sink->bytes, job, (long long)self->a->attempt,
                       schema, table, (long long)self->a->range_no);
}

// ---- the source

// Under the job's snapshot, with the table locked against DDL; the file is still the one that the ranges were cut from (VACUUM FULL between
// two tasks moves rows to other pages). The catalogs are read with today's eyes by these functions, not with the snapshot's.
static int open_source(copy_t *self, sp_error_t *err)
{
    char filenode[32];
    bool null = true;
    int rc = pool_take(self->task, &self->task->source.apply, false, &self->lent, err);
    if (rc != 0)
        return rc;
    self->source = pool_pg(self->lent);
    sp_pg_set_timeout(self->source, CONTROL_MS);
    const char *snapshot = sp_pg_literal(self->arena, self->a->snapshot);
    if (rc == 0 && snapshot == NULL)
        rc = no_memory(err);
    if (rc == 0)
        rc = sp_pg_execf(self->source, err,
                         "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION "
                         "SNAPSHOT %s; SET LOCAL lock_timeout = '20s'; "
                         "SET LOCAL row_security = off; SET LOCAL max_parallel_workers_per_gather "
                         "= 0; LOCK TABLE ONLY %s IN ACCESS SHARE MODE",
                         snapshot, self->name);
    if (rc != 0)
        return rc;
    const char *params[] = {self->name};
    rc = sp_pg_value(self->source, "SELECT pg_relation_filenode($1::regclass)", 1, params, filenode,
                     sizeof filenode, &null, err);
    int64_t now = 0;
    if (rc == 0 && self->table->has_relfilenode &&
        (null || sp_str_to_int64(sp_str(filenode), &now) != 0 || now != self->table->relfilenode))
        return sp_error_set(err, SP_E_SCHEMA_CHANGED,
                            "table %s was rewritten (file %s, planned %lld): its rows are on other "
                            "pages now",
                            self->name, filenode, (long long)self->table->relfilenode);
    sp_pg_set_timeout(self->source, -1);
    return rc;
}

static int start_source(copy_t *self, sp_error_t *err)
{
    char until[64] = "";
    const char *key = sp_pg_ident(self->arena, self->table->key_column);
    if (self->a->page_to > 0)
        snprintf(until, sizeof until, " AND ctid < '(%lld,0)'::tid", (long long)self->a->page_to);
    const char *sql =
        key == NULL ? NULL
                    : sp_arena_printf(self->arena,
                                      "COPY (SELECT hashtextextended(%s::text, 0), %s FROM ONLY %s "
                                      "WHERE ctid >= '(%lld,0)'::tid%s) "
                                      "TO STDOUT%s",
                                      key, self->columns, self->name, (long long)self->a->page_from,
                                      until, self->binary ? " (FORMAT binary)" : "");
    return sql == NULL ? no_memory(err) : sp_pg_copy_start(self->source, sql, err);
}

// ---- the whole

static void tally(const copy_t *self, int64_t *ret_rows, int64_t *ret_bytes)
{
    *ret_rows = *ret_bytes = 0;
    for (size_t i = 0; i < self->task->n_targets; i++) {
        *ret_rows += self->rows[i];
        *ret_bytes += self->sinks[i].bytes;
    }
}

static int pump(copy_t *self, sp_error_t *err)
{
    int64_t since = 0, rows, bytes;
    for (;;) {
        const char *data = NULL;
        int len = 0;
        int rc = sp_pg_copy_get(self->source, &data, &len, err);
        if (rc != 0)
            return sp_error_prefix(err, "source %s", self->task->source.shard_id);
        if (len < 0)
            return split_end(&self->split, err);
        if ((rc = split_feed(&self->split, data, (size_t)len, err)) != 0)
            return rc;
        since += len;
        if (since < TURN)
            continue;
        since = 0;
        tally(self, &rows, &bytes);
        if ((rc = throttle_turn(&self->throttle, rows, bytes, err)) != 0)
            return rc;
    }
}

static int commit_targets(copy_t *self, sp_error_t *err)
{
    int rc = sp_failpoint("copy_range_before_commit", err);
    bool first = true;
    for (size_t i = 0; rc == 0 && i < self->task->n_targets; i++) {
        if (self->sinks[i].pg == NULL)
            continue;
        // A death between two commits is healed by the next try: each target knows what it has.
        if (!first && (rc = sp_failpoint("copy_range_between_targets", err)) != 0)
            break;
        first = false;
        sp_pg_set_timeout(self->sinks[i].pg, CONTROL_MS);
        if ((rc = sp_pg_exec(self->sinks[i].pg, "COMMIT", err)) != 0)
            sp_error_prefix(err, "target %s", self->task->targets[i].shard_id);
    }
    return rc == 0 ? sp_failpoint("copy_range_after_commit", err) : rc;
}

static int prepare(copy_t *self, sp_error_t *err)
{
    size_t n = self->task->n_targets;
    if (self->a->tables.n != 1 || n == 0 || self->a->tables.items[0].columns.n == 0 ||
        self->a->snapshot.len == 0)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "a copy task needs one table with columns, targets and a snapshot");
    self->table = &self->a->tables.items[0];
    self->binary = self->table->binary;
    self->name = sp_pg_qualified(self->arena, self->table->schema, self->table->table);
    self->columns = sql_columns(self->arena, self->table->columns.items, self->table->columns.n);
    self->sinks = sp_arena_alloc(self->arena, n, sizeof *self->sinks);
    self->rows = sp_arena_alloc(self->arena, n, sizeof *self->rows);
    sp_arcs_t *arcs = sp_arena_alloc(self->arena, n, sizeof *arcs);
    if (self->name == NULL || self->columns == NULL || self->sinks == NULL || self->rows == NULL ||
        arcs == NULL)
        return no_memory(err);
    for (size_t i = 0; i < n; i++)
        arcs[i] =
            (sp_arcs_t){self->a->targets.items[i].bounds.items, self->a->targets.items[i].bounds.n};
    return split_route_make(&self->route, arcs, n, self->arena, err);
}

static int run(copy_t *self, sp_error_t *err)
{
    size_t open = 0;
    int rc = prepare(self, err);
    if (rc == 0 && self->sinks == NULL)
        return no_memory(err);
    if (rc == 0)
        rc = throttle_open(&self->throttle, self->task, self->task->targets, self->task->n_targets,
                           err);
    for (size_t i = 0; rc == 0 && i < self->task->n_targets; i++) {
        if ((rc = open_target(self, i, err)) != 0)
            sp_error_prefix(err, "target %s", self->task->targets[i].shard_id);
        open += rc == 0 && self->sinks[i].pg != NULL;
    }
    if (rc != 0 || open == 0) // nothing to do: an earlier try committed everywhere
        return rc;
    rc = open_source(self, err);
    if (rc == 0)
        rc = start_source(self, err);
    if (rc != 0)
        return sp_error_prefix(err, "source %s", self->task->source.shard_id);
    // Rows of a target that has them already are dropped; what it counted then stands.
    int64_t *counted = sp_arena_alloc(self->arena, self->task->n_targets, sizeof *counted);
    if (counted == NULL)
        return no_memory(err);
    for (size_t i = 0; rc == 0 && i < self->task->n_targets; i++)
        rc = start_target(self, &self->sinks[i], err);
    if (rc != 0)
        return rc;
    split_start(&self->split, self->binary, &self->route, counted, put, self);
    int64_t *before = self->rows;
    self->rows = counted;
    rc = pump(self, err);
    for (size_t i = 0; rc == 0 && i < self->task->n_targets; i++) {
        if (self->sinks[i].pg != NULL)
            rc = finish_target(self, i, err);
        else
            counted[i] = before[i];
    }
    return rc == 0 ? commit_targets(self, err) : rc;
}

int task_copy(task_t *task, sp_msg_task_update_t *result, sp_error_t *err)
{
    copy_t self = {.task = task, .a = task->assign, .arena = task->arena};
    int rc = run(&self, err);
    bool good = rc == 0 && (self.source == NULL || sp_pg_exec(self.source, "COMMIT", NULL) == 0);
    for (size_t i = 0; self.sinks != NULL && i < task->n_targets; i++)
        good ? pool_give(&self.sinks[i].lent)
             : pool_drop(&self.sinks[i].lent); // what is not committed is rolled back
    good ? pool_give(&self.lent) : pool_drop(&self.lent);
    if (rc == 0) {
        tally(&self, &result->rows, &result->bytes);
        result->has_rows = result->has_bytes = true;
        // What was sent is paid for with nothing open; a stop does not take back what is committed.
        throttle_settle(&self.throttle, result->rows, result->bytes);
    }
    throttle_close(&self.throttle);
    return rc;
}
