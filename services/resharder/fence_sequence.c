// Sequences: each target goes on with its own residue, beyond what the source has given out. All that the schema task has made on the
// targets: an application may call nextval() on one that no table knows of.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/log.h"
#include "services/resharder/fence.h"

enum { HEADROOM = 1000 }; // values that clients may have fetched from the source and not used yet

typedef struct fence_sequence {
    const char *name;         // quoted
    follow_sequence_t values; // as the source has it
} fence_sequence_t;

static int no_memory(sp_error_t *err)
{
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for sequences");
}

// Not those of tables that stay behind, nor those that cycle: nobody can keep them apart.
static const char list_sql[] =
    "SELECT n.nspname, s.relname, q.seqstart, q.seqincrement, q.seqmin, q.seqmax FROM pg_class s "
    "JOIN pg_namespace n ON n.oid = s.relnamespace JOIN pg_sequence q ON q.seqrelid = s.oid "
    "WHERE n.nspname <> 'shardplane' AND n.nspname !~ '^pg_' AND NOT q.seqcycle AND NOT EXISTS "
    "(SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = s.oid AND "
    "(d.deptype = 'e' OR (d.deptype IN ('a', 'i') AND d.refclassid = 'pg_class'::regclass AND "
    "d.refobjid <> ALL(%s)))) ORDER BY 1, 2";

static int read_list(fence_t *fence, sp_error_t *err)
{
    PGresult *result = NULL;
    const char *sql = sp_arena_printf(fence->arena, list_sql, fence->regclasses_sql);
    int rc = sql ? sp_pg_query(fence->b, sql, 0, NULL, &result, err) : no_memory(err);
    if (rc)
        return rc;
    size_t n = (size_t)PQntuples(result);
    fence->sequences = sp_arena_alloc(fence->arena, n + 1, sizeof *fence->sequences);
    for (size_t i = 0; fence->sequences && i < n && !rc; i++) {
        fence_sequence_t *s = &fence->sequences[i];
        int row = (int)i;
        s->name = sp_pg_qualified(fence->arena, sp_str(PQgetvalue(result, row, 0)),
                                  sp_str(PQgetvalue(result, row, 1)));
        s->values.start = strtoll(PQgetvalue(result, row, 2), NULL, 10);
        s->values.increment = strtoll(PQgetvalue(result, row, 3), NULL, 10);
        s->values.min = strtoll(PQgetvalue(result, row, 4), NULL, 10);
        s->values.max = strtoll(PQgetvalue(result, row, 5), NULL, 10);
        rc = s->name ? 0 : no_memory(err);
    }
    PQclear(result);
    fence->n_sequences = n;
    return rc || fence->sequences ? rc : no_memory(err);
}

// One statement that reads all of them.
static int make_reads(fence_t *fence, sp_error_t *err)
{
    sp_buf_t reads = SP_BUF_INIT;
    for (size_t i = 0; i < fence->n_sequences; i++)
        sp_buf_printf(&reads, "%sSELECT %zu, last_value, is_called FROM %s", i ? " UNION ALL " : "",
                      i, fence->sequences[i].name);
    fence->sequences_sql = reads.failed ? NULL : sp_arena_strz(fence->arena, sp_buf_cstr(&reads));
    sp_buf_free(&reads);
    return fence->sequences_sql ? 0 : no_memory(err);
}

static int read_values(fence_t *fence, sp_error_t *err)
{
    PGresult *result = NULL;
    int rc = sp_pg_query(fence->b, fence->sequences_sql, 0, NULL, &result, err);
    if (rc)
        return rc;
    for (int i = 0; i < PQntuples(result); i++) {
        size_t at = strtoull(PQgetvalue(result, i, 0), NULL, 10);
        if (at >= fence->n_sequences)
            continue;
        follow_sequence_t *v = &fence->sequences[at].values;
        v->last = strtoll(PQgetvalue(result, i, 1), NULL, 10);
        v->called = PQgetvalue(result, i, 2)[0] == 't';
        if (!v->called &&
            v->last != v->start) { // after setval(..., false): that value is the next one
            v->last -= v->increment;
            v->called = true;
        }
    }
    PQclear(result);
    return 0;
}

static int next_of(const fence_t *fence, size_t target, size_t i, int64_t *ret_increment,
                   int64_t *ret_next, sp_error_t *err)
{
    const sp_msg_task_assign_t *assign = fence->f->task->assign;
    int64_t stride = assign->sequence_stride > 0 ? assign->sequence_stride : 1;
    int rc = follow_sequence_next(&fence->sequences[i].values, stride,
                                  assign->targets.items[target].ordinal, HEADROOM, ret_increment,
                                  ret_next, err);
    return rc ? sp_error_prefix(err, "sequence %s", fence->sequences[i].name) : 0;
}

// What a target has; 0: not that sequence.
static int read_increments(fence_t *fence, size_t target, int64_t *increments, sp_error_t *err)
{
    sp_buf_t sql = SP_BUF_INIT;
    PGresult *result = NULL;
    sp_buf_addz(&sql, "SELECT v.i, q.seqincrement FROM (VALUES ");
    for (size_t i = 0; i < fence->n_sequences; i++) {
        const char *literal = sp_pg_literal(fence->arena, sp_str(fence->sequences[i].name));
        sp_buf_printf(&sql, "%s(%zu, to_regclass(%s))", i ? ", " : "", i,
                      literal ? literal : "NULL");
    }
    sp_buf_addz(&sql, ") v(i, r) JOIN pg_sequence q ON q.seqrelid = v.r");
    int rc = sql.failed
                 ? no_memory(err)
                 : sp_pg_query(fence->admins[target], sp_buf_cstr(&sql), 0, NULL, &result, err);
    for (int i = 0; !rc && i < PQntuples(result); i++) {
        size_t at = strtoull(PQgetvalue(result, i, 0), NULL, 10);
        if (at < fence->n_sequences)
            increments[at] = strtoll(PQgetvalue(result, i, 1), NULL, 10);
    }
    PQclear(result);
    sp_buf_free(&sql);
    return rc;
}

// A sequence that was made while the job ran is on no target: it stays the source's.
static int keep_common(fence_t *fence, size_t target, sp_error_t *err)
{
    int64_t *increments = sp_arena_alloc(fence->arena, fence->n_sequences + 1, sizeof *increments);
    if (!increments)
        return no_memory(err);
    int rc = fence->n_sequences ? read_increments(fence, target, increments, err) : 0;
    size_t kept = 0;
    for (size_t i = 0; i < fence->n_sequences && !rc; i++) {
        fence_sequence_t s = fence->sequences[i];
        if (increments[i] != 0)
            fence->sequences[kept++] = s;
        else
            sp_log(SP_LOG_WARN, "FENCE-SEQUENCE", "job", fence->f->job_id, "sequence", s.name,
                   "missing_on", fence->f->task->targets[target].shard_id, NULL);
    }
    fence->n_sequences = rc ? fence->n_sequences : kept;
    return rc;
}

// The targets give nothing out yet, so their increments can be set long before the lock.
static int set_increments(fence_t *fence, size_t target, sp_error_t *err)
{
    sp_buf_t sql = SP_BUF_INIT;
    int64_t *increments = sp_arena_alloc(fence->arena, fence->n_sequences + 1, sizeof *increments);
    if (!increments)
        return no_memory(err);
    int rc = read_increments(fence, target, increments, err);
    sp_buf_addz(&sql, "BEGIN");
    for (size_t i = 0; i < fence->n_sequences && !rc; i++) {
        int64_t increment = 0, next = 0;
        rc = next_of(fence, target, i, &increment, &next, err);
        if (!rc && increment != increments[i])
            sp_buf_printf(&sql, "; ALTER SEQUENCE %s INCREMENT BY %" PRId64,
                          fence->sequences[i].name, increment);
    }
    sp_buf_addz(&sql, "; COMMIT");
    if (!rc)
        rc =
            sql.failed ? no_memory(err) : sp_pg_exec(fence->admins[target], sp_buf_cstr(&sql), err);
    sp_buf_free(&sql);
    return rc;
}

// A source that keeps arcs goes on giving out values: from now on those of its own residue. Whatever becomes of the fence, this stays.
// ALTER keeps nextval() out until COMMIT, and waits for the transactions that have called it.
static int stride_source(fence_t *fence, size_t i, sp_error_t *err)
{
    task_t *task = fence->f->task;
    fence_sequence_t *s = &fence->sequences[i];
    int64_t stride = task->assign->sequence_stride, increment = 0, next = 0;
    char text[64];
    const char *literal = sp_pg_literal(fence->arena, sp_str(s->name));
    const char *sql = sp_arena_printf(fence->arena, "SELECT last_value FROM %s", s->name);
    if (!literal || !sql)
        return no_memory(err);
    s->values.called = true;
    s->values.last = s->values.start;
    int rc =
        follow_sequence_next(&s->values, stride, task->source.ordinal, 0, &increment, &next, err);
    if (!rc)
        rc = sp_pg_execf(fence->a, err, "BEGIN; ALTER SEQUENCE %s INCREMENT BY %" PRId64, s->name,
                         increment);
    if (!rc)
        rc = sp_pg_value(fence->a, sql, 0, NULL, text, sizeof text, NULL, err);
    s->values.last = rc ? 0 : strtoll(text, NULL, 10);
    if (!rc)
        rc = follow_sequence_next(&s->values, stride, task->source.ordinal, 0, &increment, &next,
                                  err);
    if (!rc)
        rc = sp_pg_execf(fence->a, err, "SELECT setval(%s, %" PRId64 ", false); COMMIT", literal,
                         next);
    s->values.increment = rc ? s->values.increment : increment;
    return rc;
}

static int stride_all_of_source(fence_t *fence, sp_error_t *err)
{
    const sp_msg_task_assign_t *assign = fence->f->task->assign;
    for (size_t i = 0;
         i < fence->n_sequences && assign->source_bounds_after.n > 0 && assign->sequence_stride > 1;
         i++) {
        if (fence->sequences[i].values.increment % assign->sequence_stride == 0)
            continue;
        int rc = stride_source(fence, i, err);
        if (rc)
            return sp_error_prefix(err, "sequence %s of the source", fence->sequences[i].name);
    }
    return 0;
}

static int connect_targets(fence_t *fence, sp_error_t *err)
{
    task_t *task = fence->f->task;
    int rc = 0;
    // NOLINTNEXTLINE(bugprone-sizeof-expression): an array of pointers is meant
    if (!(fence->admins = sp_arena_alloc(fence->arena, task->n_targets, sizeof *fence->admins)))
        return no_memory(err);
    for (size_t i = 0; i < task->n_targets && !rc; i++) {
        rc = task_connect(task, &task->targets[i].admin, NULL, &fence->admins[i], err);
        if (!rc)
            rc = keep_common(fence, i, err);
        if (rc)
            sp_error_prefix(err, "sequences of shard %s", task->targets[i].shard_id);
    }
    return rc;
}

int fence_sequence_prepare(fence_t *fence, sp_error_t *err)
{
    task_t *task = fence->f->task;
    int rc = read_list(fence, err);
    if (rc || fence->n_sequences == 0)
        return rc;
    rc = connect_targets(fence, err);
    if (rc || fence->n_sequences == 0)
        return rc;
    rc = stride_all_of_source(fence, err);
    if (!rc)
        rc = make_reads(fence, err);
    if (!rc)
        rc = read_values(fence, err);
    for (size_t i = 0; i < task->n_targets && !rc; i++)
        if ((rc = set_increments(fence, i, err)) != 0)
            sp_error_prefix(err, "sequences of shard %s", task->targets[i].shard_id);
    return rc;
}

// One statement for all sequences of a target. Never backward: a target that is ahead already stays there.
static int send_next(fence_t *fence, size_t target, sp_error_t *err)
{
    sp_buf_t sql = SP_BUF_INIT;
    int rc = 0;
    for (size_t i = 0; i < fence->n_sequences && !rc; i++) {
        int64_t increment = 0, next = 0;
        rc = next_of(fence, target, i, &increment, &next, err);
        const char *name = fence->sequences[i].name,
                   *literal = sp_pg_literal(fence->arena, sp_str(name));
        bool down = increment < 0;
        sp_buf_printf(&sql,
                      "%sSELECT setval(%s::regclass, %" PRId64
                      ", false) FROM %s WHERE last_value %s %" PRId64
                      " OR (NOT is_called AND last_value = %" PRId64 ")",
                      i ? " UNION ALL " : "", literal ? literal : "NULL", next, name,
                      down ? ">" : "<", next, next);
    }
    if (!rc && sql.failed)
        rc = no_memory(err);
    PGconn *conn = sp_pg_conn(fence->admins[target]);
    if (!rc && (!PQsendQuery(conn, sp_buf_cstr(&sql)) || PQflush(conn) < 0))
        rc = sp_error_set(err, SP_E_PG_CONNECTION, "shard %s was lost while its sequences were set",
                          fence->f->task->targets[target].shard_id);
    sp_buf_free(&sql);
    return rc;
}

int fence_sequence_start(fence_t *fence, sp_error_t *err)
{
    if (fence->n_sequences == 0)
        return 0;
    int rc = read_values(fence, err);
    for (size_t i = 0; i < fence->f->task->n_targets && !rc; i++)
        rc = send_next(fence, i, err);
    return rc;
}

int fence_sequence_finish(fence_t *fence, sp_error_t *err)
{
    int rc = 0;
    for (size_t i = 0; fence->n_sequences > 0 && i < fence->f->task->n_targets; i++) {
        PGconn *conn = sp_pg_conn(fence->admins[i]);
        rc = fence_await(fence, conn, err);
        if (rc)
            return rc;
        for (PGresult *result = NULL; (result = PQgetResult(conn)) != NULL; PQclear(result))
            if (!rc && PQresultStatus(result) != PGRES_TUPLES_OK)
                rc = sp_pg_result_error(result, err);
    }
    return rc;
}
