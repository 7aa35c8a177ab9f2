// Session A's lock on the tables, and who stands in its way.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "services/resharder/fence.h"
#include "services/resharder/task_tables.h"

enum {
    FIRST_WAIT_MS = 40, // of the first try
    PAUSE_MS = 10,      // between two tries
    DEADLOCK_MS = 15,   // our own deadlock_timeout
};

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int name_tables(fence_t *fence, sp_error_t *err)
{
    const sp_msg_task_assign_t *assign = fence->f->task->assign;
    size_t all = task_tables_count(assign);
    const char **names = sp_arena_alloc(fence->arena, all + 1, sizeof *names);
    sp_buf_t regclasses = SP_BUF_INIT;
    fence->n_tables = 0;
    sp_buf_addz(&regclasses, "ARRAY[");
    for (size_t i = 0; names && i < all; i++) {
        const sp_msg_job_table_t *t = task_tables_at(assign, i);
        const char *name = sp_pg_qualified(fence->arena, t->schema, t->table);
        const char *literal = name ? sp_pg_literal(fence->arena, sp_str(name)) : NULL;
        sp_buf_printf(&regclasses, "%s%s::regclass", i ? ", " : "", literal ? literal : "NULL");
        regclasses.failed = regclasses.failed || !literal;
        // LOCK takes partitions along, after the table above them, in the order that statements on that table take.
        if (task_tables_is_top(t))
            names[fence->n_tables++] = name;
    }
    sp_buf_addz(&regclasses, "]::oid[]");
    if (names && !regclasses.failed)
        qsort(names, fence->n_tables, sizeof *names, compare_names);
    fence->tables = names;
    fence->regclasses_sql =
        regclasses.failed ? NULL : sp_arena_strz(fence->arena, sp_buf_cstr(&regclasses));
    sp_buf_free(&regclasses);
    return names && fence->regclasses_sql
               ? 0
               : sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a fence");
}

// The lock of all tables, beginning with another one each time.
static const char *lock_sql(fence_t *fence, size_t try, int64_t wait_ms)
{
    size_t n = fence->n_tables;
    sp_buf_t sql = SP_BUF_INIT;
    sp_buf_printf(&sql, "SET lock_timeout = %lld; LOCK TABLE ", (long long)wait_ms);
    for (size_t i = 0; i < n; i++)
        sp_buf_printf(&sql, "%s%s", i ? ", " : "", fence->tables[(try + i) % n]);
    sp_buf_addz(&sql, " IN SHARE ROW EXCLUSIVE MODE");
    const char *copy = sql.failed ? NULL : sp_arena_strz(fence->arena, sp_buf_cstr(&sql));
    sp_buf_free(&sql);
    return copy;
}

int fence_lock_prepare(fence_t *fence, sp_error_t *err)
{
    long long budget = fence->control->budget_ms, lock_wait = fence->control->lock_wait_ms;
    int rc = name_tables(fence, err);
    // If this process stops, the server ends the transaction and with it the fence.
    if (!rc)
        rc = sp_pg_execf(fence->a, err,
                         "SET synchronous_commit = on; SET statement_timeout = %lld; SET "
                         "lock_timeout = %lld; "
                         "SET idle_in_transaction_session_timeout = %lld",
                         budget, lock_wait, budget);
    if (rc)
        return rc;
    // Autovacuum yields to whoever has waited for deadlock_timeout; and in a true deadlock it is this session that should die.
    sp_error_t refused = {0};
    const char *sql = sp_arena_printf(fence->arena, "SET deadlock_timeout = %d", DEADLOCK_MS);
    if (sp_pg_exec(fence->a, sql ? sql : "", &refused))
        sp_log(SP_LOG_WARN, "FENCE-DEADLOCK-TIMEOUT", "job", fence->f->job_id, "error",
               refused.text, "hint",
               "GRANT SET ON PARAMETER deadlock_timeout to the admin role (tools/sql/roles.sql)",
               NULL);
    return refused.code == SP_E_PG_CONNECTION ? sp_error_set(err, refused.code, "%s", refused.text)
                                              : 0;
}

// Sessions and prepared transactions that hold what our lock conflicts with.
static void name_blockers(fence_t *fence, sp_error_t *err)
{
    PGresult *result = NULL;
    const char *sql =
        sp_arena_printf(fence->arena,
                        "SELECT DISTINCT CASE WHEN l.pid IS NULL THEN format('prepared transaction "
                        "%%s', coalesce(x.gid, '?')) ELSE "
                        "format('pid %%s (%%s, %%s, %%s, transaction open for %%s s)', l.pid, "
                        "a.usename, coalesce(nullif(a.application_name, ''), "
                        "a.backend_type), a.state, round(extract(epoch FROM clock_timestamp() - "
                        "a.xact_start))) END "
                        "FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid "
                        "LEFT JOIN pg_prepared_xacts x ON l.pid IS NULL AND l.virtualtransaction = "
                        "'-1/' || x.transaction::text "
                        "WHERE l.locktype = 'relation' AND l.database = (SELECT oid FROM "
                        "pg_database WHERE datname = current_database()) AND l.granted "
                        "AND l.relation = ANY(%s) AND l.mode NOT IN ('AccessShareLock', "
                        "'RowShareLock') AND l.pid IS DISTINCT FROM %d LIMIT 8",
                        fence->regclasses_sql, sp_pg_backend_pid(fence->a));
    if (!sql || sp_pg_query(fence->b, sql, 0, NULL, &result, NULL))
        return;
    char list[700] = "";
    size_t used = 0;
    for (int i = 0; i < PQntuples(result) && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? "; " : "",
                                 PQgetvalue(result, i, 0));
    if (PQntuples(result) > 0)
        sp_error_set(err, SP_E_IN_TRANSITION, "the lock was not granted; in the way: %s", list);
    PQclear(result);
}

static int try_lock(fence_t *fence, size_t try, int64_t wait_ms, sp_error_t *err)
{
    PGconn *conn = sp_pg_conn(fence->a);
    const char *sql = lock_sql(fence, try, wait_ms);
    if (!sql)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a fence");
    fence->started_us = sp_clock_wall_us();
    if (!PQsendQuery(conn, sql))
        return sp_error_set(err, SP_E_PG_CONNECTION, "the fence's connection was lost");
    int rc = fence_await(fence, conn, err);
    if (rc)
        return rc;
    for (PGresult *result = NULL; (result = PQgetResult(conn)) != NULL; PQclear(result))
        if (!rc && PQresultStatus(result) != PGRES_COMMAND_OK)
            rc = sp_pg_result_error(result, err);
    return rc;
}

// A transaction of the application that has written one of our tables and wants another one, which we hold already, is in a deadlock with
// us. We must be the one that yields, and soon: each try waits a little longer than the one before, and lets everybody through between.
int fence_lock_take(fence_t *fence, sp_error_t *err)
{
    sp_error_t fault = {0};
    int64_t wait_ms = FIRST_WAIT_MS, most = fence->control->lock_wait_ms;
    fence->deadline_ms = sp_clock_mono_ms() + fence->control->budget_ms;
    for (size_t try = 0;; try++) {
        int rc = try_lock(fence, try, wait_ms < most ? wait_ms : most, &fault);
        if (rc == 0 || !sp_pg_lock_refused(&fault)) {
            if (rc && err)
                *err = fault;
            return rc;
        }
        // Half of the budget is for what comes after the lock.
        bool last = sp_clock_until_ms(fence->deadline_ms) < fence->control->budget_ms / 2;
        if (last)
            name_blockers(fence, &fault); // while they still hold it
        rc = sp_pg_exec(fence->a, "ROLLBACK TO SAVEPOINT shp_lock", err);
        if (!rc)
            rc = fence_catch_up(fence, err);
        if (!rc)
            rc = follow_turn(fence->f, PAUSE_MS, -1, err);
        if (rc)
            return rc;
        if (last) {
            if (err)
                *err = fault;
            return fault.code;
        }
        wait_ms *= 2;
    }
}
