#include "services/resharder/lane_session.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"

// Nothing may end or filter an apply transaction from outside, and nothing is confirmed that a crash could take back.
static const char settings_sql[] =
    "SET synchronous_commit = on; SET row_security = off; SET statement_timeout = 0; SET "
    "lock_timeout = 0; "
    "SET idle_in_transaction_session_timeout = 0; SET idle_session_timeout = 0";

const char *lane_session_origin(task_t *task, size_t target)
{
    return sp_arena_cstr(task->arena, task->assign->targets.items[target].origin);
}

long lane_session_pid_in(const char *text)
{
    const char *end = text + strlen(text);
    while (end > text && !isdigit((unsigned char)end[-1]))
        end--;
    while (end > text && isdigit((unsigned char)end[-1]))
        end--;
    return strtol(end, NULL, 10);
}

void lane_session_end_backend(task_t *task, sp_pg_t *pg, long pid)
{
    char number[24], pattern[80], ended[8];
    snprintf(number, sizeof number, "%ld", pid);
    snprintf(pattern, sizeof pattern, "shardplane/%.*s/", (int)task->assign->job_id.len,
             task->assign->job_id.ptr);
    const char *params[] = {number, pattern};
    bool none = false;
    // starts_with: a LIKE pattern would take the underscores of names for wildcards.
    if (sp_pg_value(pg,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND "
                    "starts_with(application_name, $2) "
                    "AND pid <> pg_backend_pid()",
                    2, params, ended, sizeof ended, &none, NULL) == 0 &&
        !none)
        sp_log(SP_LOG_WARN, "FOLLOW-TOOK-OVER", "job",
               sp_log_fmt(SP_STR_FMT, SP_STR_ARG(task->assign->job_id)), "pid", number, NULL);
}

// The origin and the lane's row, made once.
static int make_origin(task_t *task, sp_pg_t *pg, const char *origin, sp_error_t *err)
{
    sp_error_t fault = {0};
    const char *one[] = {origin};
    const char *lane[] = {sp_arena_cstr(task->arena, task->assign->job_id), origin};
    PGresult *result = NULL;
    int rc = sp_pg_query(pg,
                         "SELECT pg_replication_origin_create($1) WHERE "
                         "pg_replication_origin_oid($1) IS NULL",
                         1, one, &result, &fault);
    if (rc && strcmp(fault.sqlstate, "42710") != 0) {
        if (err)
            *err = fault;
        return rc;
    }
    PQclear(result);
    result = NULL;
    rc = sp_pg_query(pg,
                     "INSERT INTO shardplane.lane (job_id, origin, applied_lsn) VALUES ($1, $2, "
                     "'0/0') ON CONFLICT DO NOTHING",
                     2, lane, &result, err);
    PQclear(result);
    return rc;
}

enum { TAKE_OVER_TRIES = 20, TAKE_OVER_MS = 100 };

// A follower that died may have left a backend that still holds the origin, e.g. waiting for a lock.
static int take_origin(task_t *task, sp_pg_t *pg, const char *origin, sp_error_t *err)
{
    const char *params[] = {origin};
    for (int i = 0;; i++) {
        PGresult *result = NULL;
        sp_error_t fault = {0};
        int rc = sp_pg_query(pg, "SELECT pg_replication_origin_session_setup($1)", 1, params,
                             &result, &fault);
        PQclear(result);
        if (!rc)
            return 0;
        if (strcmp(fault.sqlstate, "55006") != 0 || i == TAKE_OVER_TRIES || task_stopped(task)) {
            if (err)
                *err = fault;
            return rc;
        }
        lane_session_end_backend(task, pg, lane_session_pid_in(fault.text));
        sp_clock_sleep_ms(TAKE_OVER_MS);
    }
}

int lane_session_open(task_t *task, size_t target, sp_pg_t **ret_pg, sp_lsn_t *ret_progress,
                      sp_error_t *err)
{
    const task_shard_t *shard = &task->targets[target];
    sp_pg_options_t options = {.replica_role = true};
    const char *origin = lane_session_origin(task, target);
    sp_pg_t *pg = NULL;
    char text[SP_LSN_TEXT + 4];
    bool none = false;
    if (!origin || !*origin)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "the job names no replication origin for shard %s", shard->shard_id);
    int rc = task_connect(task, &shard->apply, &options, &pg, err);
    if (!rc)
        rc = sp_pg_exec(pg, settings_sql, err);
    if (!rc)
        rc = sp_owner_hold_epoch(pg, task->epoch, err);
    if (!rc)
        rc = make_origin(task, pg, origin, err);
    if (!rc)
        rc = take_origin(task, pg, origin, err);
    // true: flushed first, so that what is read here cannot be lost again.
    if (!rc)
        rc = sp_pg_value(pg, "SELECT pg_replication_origin_session_progress(true)", 0, NULL, text,
                         sizeof text, &none, err);
    if (!rc) {
        *ret_progress = 0;
        if (!none)
            rc = sp_lsn_parse(sp_str(text), ret_progress, err);
    }
    if (rc) {
        sp_pg_close(&pg);
        return sp_error_prefix(err, "lane to shard %s", shard->shard_id);
    }
    *ret_pg = pg;
    return 0;
}
