// Session A's transaction: the guards' new bodies, the ownership row, and the checks that let it commit.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/owner/sql/fingerprint.h"
#include "services/resharder/fence.h"
#include "services/resharder/task_tables.h"

enum { GUARD_TRIGGERS = 3 }; // a table

static int no_memory(sp_error_t *err)
{
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a fence");
}

// One statement a table, prepared: planning it anew took longer than everything else under the lock.
static int make_check(fence_t *fence, sp_error_t *err)
{
    const sp_msg_task_assign_t *assign = fence->f->task->assign;
    sp_buf_t sql = SP_BUF_INIT;
    for (size_t i = 0; i < task_tables_count(assign); i++) {
        const sp_msg_job_table_t *t = task_tables_at(assign, i);
        const char *schema = sp_pg_literal(fence->arena, t->schema);
        const char *table = sp_pg_literal(fence->arena, t->table);
        sp_buf_printf(&sql, "EXECUTE shp_fingerprint(%s, %s);", schema ? schema : "",
                      table ? table : "");
        sql.failed = sql.failed || !schema || !table;
    }
    sp_buf_printf(&sql,
                  "SELECT count(*) FROM pg_trigger WHERE tgrelid = ANY(%s) AND starts_with(tgname, "
                  "'~shardplane_') AND tgenabled = 'A'",
                  fence->regclasses_sql);
    fence->check_sql = sql.failed ? NULL : sp_arena_strz(fence->arena, sp_buf_cstr(&sql));
    sp_buf_free(&sql);
    if (!fence->check_sql)
        return no_memory(err);
    return sp_pg_execf(fence->a, err,
                       "PREPARE shp_fingerprint(text, text) AS %s; SET plan_cache_mode = "
                       "force_generic_plan; "
                       "SET check_function_bodies = off",
                       SP_SQL_FINGERPRINT);
}

static int check_table(const sp_msg_job_table_t *table, const PGresult *result, sp_error_t *err)
{
    bool there = PQntuples(result) == 1 && !PQgetisnull(result, 0, 0);
    if (there &&
        (table->fingerprint.len == 0 || sp_str_eqz(table->fingerprint, PQgetvalue(result, 0, 0))))
        return 0;
    return sp_error_set(err, SP_E_SCHEMA_CHANGED,
                        "table " SP_STR_FMT "." SP_STR_FMT " was %s while the job ran",
                        SP_STR_ARG(table->schema), SP_STR_ARG(table->table),
                        there ? "altered" : "dropped");
}

static int read_check(fence_t *fence, bool triggers, sp_error_t *err)
{
    const sp_msg_task_assign_t *assign = fence->f->task->assign;
    PGconn *conn = sp_pg_conn(fence->a);
    size_t n = 0, tables = task_tables_count(assign);
    int rc = 0;
    for (PGresult *result = NULL; (result = PQgetResult(conn)) != NULL; PQclear(result), n++) {
        if (rc)
            continue;
        if (PQresultStatus(result) != PGRES_TUPLES_OK)
            rc = sp_pg_result_error(result, err);
        else if (n < tables)
            rc = check_table(task_tables_at(assign, n), result, err);
        else if (triggers &&
                 strtoull(PQgetvalue(result, 0, 0), NULL, 10) != GUARD_TRIGGERS * tables)
            rc = sp_error_set(err, SP_E_SCHEMA_CHANGED, "a table of the job has lost a guard");
    }
    if (!rc && n != tables + 1)
        rc = sp_error_set(err, SP_E_INTERNAL, "the source answered %zu of %zu checks", n,
                          tables + 1);
    return rc;
}

int fence_seal_check_start(fence_t *fence, sp_error_t *err)
{
    PGconn *conn = sp_pg_conn(fence->a);
    if (!PQsendQuery(conn, fence->check_sql) || PQflush(conn) < 0)
        return sp_error_set(err, SP_E_PG_CONNECTION, "the fence's connection was lost");
    return 0;
}

int fence_seal_check_finish(fence_t *fence, sp_error_t *err)
{
    int rc = fence_await(fence, sp_pg_conn(fence->a), err);
    return rc ? rc : read_check(fence, true, err);
}

int fence_seal_prepare(fence_t *fence, sp_error_t *err)
{
    int rc = make_check(fence, err);
    if (!rc)
        rc = fence_seal_check_start(fence, err);
    if (!rc)
        rc = fence_await(fence, sp_pg_conn(fence->a), err);
    return rc ? rc : read_check(fence, false, err);
}

static int write_guards(fence_t *fence, const sp_arcs_t *keeps, sp_error_t *err)
{
    task_t *task = fence->f->task;
    const sp_msg_task_assign_t *assign = task->assign;
    sp_guard_t guard = {.form = keeps->n ? SP_GUARD_OWNS : SP_GUARD_CLOSED,
                        .arcs = keeps,
                        .ring_version = fence->control->ring_version,
                        .reason = "in_transition",
                        .job_running = true,
                        .row_trigger = true};
    for (size_t i = 0; i < task_tables_count(assign); i++) {
        const sp_msg_job_table_t *t = task_tables_at(assign, i);
        sp_owner_table_t table = {t->schema, t->table, t->key_column};
        if (!task_tables_is_top(t))
            continue;
        int rc = sp_guard_set(fence->a, &task->source.owner, &table, &guard, err);
        if (rc)
            return rc;
    }
    return 0;
}

int fence_seal_write(fence_t *fence, sp_error_t *err)
{
    task_t *task = fence->f->task;
    const sp_msg_task_assign_t *assign = task->assign;
    sp_arcs_t keeps = {assign->source_bounds_after.items, assign->source_bounds_after.n};
    sp_ownership_t sealed = {.ring_version = fence->control->ring_version,
                             .arcs = keeps,
                             .state = SP_OWNERSHIP_SEALED,
                             .job_id = fence->f->job_id,
                             .attempt = fence->control->attempt,
                             .nonce = fence->nonce};
    const char *keyspace = sp_arena_cstr(fence->arena, assign->keyspace);
    int rc = keyspace ? sp_pg_exec(fence->a, "BEGIN", err) : no_memory(err);
    if (!rc)
        rc = sp_owner_hold_epoch(fence->a, task->epoch, err);
    if (!rc)
        rc = write_guards(fence, &keeps, err);
    if (!rc)
        rc = sp_ownership_write(fence->a, keyspace, &sealed, err);
    return rc ? rc
              : sp_pg_exec(fence->a, "SAVEPOINT shp_lock",
                           err); // fence_lock_take() goes back to it
}

int fence_seal(fence_t *fence, bool *ret_unknown, sp_error_t *err)
{
    PGresult *result = NULL;
    sp_error_t fault = {0};
    *ret_unknown = false;
    int rc = fence_in_time(fence, err);
    if (rc)
        return rc;
    rc = sp_pg_query(fence->a, "COMMIT", 0, NULL, &result, &fault);
    if (rc) {
        // An ERROR of a living backend means no. All else, a backend that was ended included, may have happened on either side of it.
        *ret_unknown = rc != SP_E_SQL_ERROR || strncmp(fault.sqlstate, "57", 2) == 0;
        if (err)
            *err = fault;
        return rc;
    }
    bool done = strcmp(PQcmdStatus(result), "COMMIT") == 0;
    PQclear(result);
    return done ? 0 : sp_error_set(err, SP_E_INTERNAL, "the seal was rolled back");
}
