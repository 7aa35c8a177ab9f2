// Schema shardplane: installing it, the epoch, the ownership row.
#include "common/owner/owner.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/owner/sql/install.h"

enum { TERMINATE_MS = 10000 };

static int no_memory(sp_error_t *err)
{
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a statement");
}

static int64_t number(const PGresult *result, int row, int column)
{
    return strtoll(PQgetvalue(result, row, column), NULL, 10);
}

// ---- installing

// Refuses a schema of that name that somebody else made.
static int check_schema(sp_pg_t *pg, sp_error_t *err)
{
    bool none = false;
    char mine[8];
    int rc = sp_pg_value(pg,
                         "SELECT pg_catalog.pg_has_role(nspowner, 'USAGE') FROM "
                         "pg_catalog.pg_namespace WHERE nspname = 'shardplane'",
                         0, NULL, mine, sizeof mine, &none, err);
    if (rc == 0 && !none && strcmp(mine, "t") != 0)
        return sp_error_set(err, SP_E_ALREADY_EXISTS,
                            "the database has a schema shardplane of another owner");
    return rc;
}

// The control row: made, or compared and raised.
static int set_control(sp_pg_t *pg, const sp_owner_shard_t *shard, sp_epoch_t epoch,
                       sp_error_t *err)
{
    PGresult *row = NULL;
    char generation[24], number_text[24];
    snprintf(generation, sizeof generation, "%" PRId64, epoch.generation);
    snprintf(number_text, sizeof number_text, "%" PRId64, epoch.epoch);
    const char *params[] = {generation,      number_text,     shard->cluster_id,
                            shard->shard_id, shard->keyspace, shard->apply_role};
    int rc =
        sp_pg_query(pg,
                    "WITH made AS (INSERT INTO shardplane.control (generation, epoch, cluster_id, "
                    "shard_id, keyspace, apply_role)"
                    " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (one) DO NOTHING RETURNING 1)"
                    " SELECT cluster_id, shard_id, keyspace FROM shardplane.control",
                    6, params, &row, err);
    if (rc != 0)
        return rc;
    if (PQntuples(row) == 1) { // it was there
        if (strcmp(PQgetvalue(row, 0, 0), shard->cluster_id) != 0)
            rc = sp_error_set(err, SP_E_ALREADY_EXISTS,
                              "the database belongs to another Shardplane cluster, as its shard %s",
                              PQgetvalue(row, 0, 1));
        else if (strcmp(PQgetvalue(row, 0, 1), shard->shard_id) != 0 ||
                 strcmp(PQgetvalue(row, 0, 2), shard->keyspace) != 0)
            rc = sp_error_set(err, SP_E_ALREADY_EXISTS,
                              "the database is already shard %s of keyspace %s",
                              PQgetvalue(row, 0, 1), PQgetvalue(row, 0, 2));
    }
    PQclear(row);
    if (rc == 0)
        rc = sp_owner_raise_epoch(pg, epoch, err);
    if (rc != 0)
        return rc;
    const char *role[] = {shard->apply_role};
    rc = sp_pg_query(pg, "UPDATE shardplane.control SET apply_role = $1 WHERE apply_role <> $1", 1,
                     role, &row, err);
    if (rc == 0)
        PQclear(row);
    return rc;
}

static int grant_to(sp_pg_t *pg, const char *role, const char *what, const char *sql,
                    sp_error_t *err)
{
    bool none = false;
    char found[8];
    const char *params[] = {role};
    int rc = sp_pg_value(pg, "SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = $1", 1, params,
                         found, sizeof found, &none, err);
    if (rc != 0)
        return rc;
    if (none)
        return sp_error_set(err, SP_E_NOT_FOUND, "there is no role %s %s", role, what);
    sp_arena_t *arena = sp_arena_new(0);
    const char *quoted = arena != NULL ? sp_pg_ident(arena, sp_str(role)) : NULL;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" // an embedded file, made at build time
    rc = quoted == NULL ? no_memory(err) : sp_pg_execf(pg, err, sql, quoted);
#pragma GCC diagnostic pop
    sp_arena_destroy(&arena);
    return rc;
}

// A table that its commit makes writable to everybody is born guarded: a guard set later would leave a time between, in which a shard
// that owns nothing takes rows.
static int close_requests(sp_pg_t *pg, const sp_owner_shard_t *shard, sp_error_t *err)
{
    const sp_guard_t closed = {.form = SP_GUARD_CLOSED};
    return sp_guard_set(pg, shard, &sp_owner_requests_table, &closed, err);
}

static int install(sp_pg_t *pg, const sp_owner_shard_t *shard, sp_epoch_t epoch, sp_error_t *err)
{
    char there[8] = "";
    int rc = sp_pg_exec(pg, "BEGIN; SELECT pg_catalog.pg_advisory_xact_lock(7162534910234)",
                        err); // two installers at once
    if (rc == 0)
        rc = check_schema(pg, err);
    if (rc == 0)
        rc = sp_pg_value(pg, "SELECT pg_catalog.to_regclass('shardplane.requests') IS NOT NULL", 0,
                         NULL, there, sizeof there, NULL, err);
    if (rc == 0)
        rc = sp_pg_exec(pg, SP_SQL_OWNER_SCHEMA, err);
    if (rc == 0 && strcmp(there, "t") != 0)
        rc = close_requests(pg, shard, err);
    if (rc == 0)
        rc = sp_pg_exec(pg, SP_SQL_OWNER_ASSERT, err);
    if (rc == 0)
        rc = set_control(pg, shard, epoch, err);
    if (rc == 0)
        rc =
            grant_to(pg, shard->apply_role, "to apply changes with", SP_SQL_OWNER_GRANT_APPLY, err);
    if (rc == 0 && shard->app_role != NULL)
        rc = grant_to(pg, shard->app_role, "that routers connect as", SP_SQL_OWNER_GRANT_APP, err);
    return rc == 0 ? sp_pg_exec(pg, "COMMIT", err) : rc;
}

int sp_owner_install(sp_pg_t *pg, const sp_owner_shard_t *shard, sp_epoch_t epoch, sp_error_t *err)
{
    int rc = install(pg, shard, epoch, err);
    if (rc != 0)
        sp_pg_exec(pg, "ROLLBACK", NULL);
    return rc;
}

int sp_owner_uninstall(sp_pg_t *pg, sp_error_t *err)
{
    // The triggers depend on their functions, which CASCADE takes with the schema.
    return sp_pg_exec(pg, "DROP SCHEMA IF EXISTS shardplane CASCADE", err);
}

// ---- epoch

int sp_owner_raise_epoch(sp_pg_t *pg, sp_epoch_t epoch, sp_error_t *err)
{
    PGresult *result = NULL;
    char generation[24], number_text[24];
    snprintf(generation, sizeof generation, "%" PRId64, epoch.generation);
    snprintf(number_text, sizeof number_text, "%" PRId64, epoch.epoch);
    const char *params[] = {generation, number_text};
    int rc = sp_pg_query(pg,
                         "UPDATE shardplane.control SET generation = $1, epoch = $2"
                         " WHERE (generation, epoch) <= ($1::bigint, $2::bigint) RETURNING 1",
                         2, params, &result, err);
    if (rc != 0)
        return rc;
    if (PQntuples(result) != 1)
        rc = sp_error_set(err, SP_E_STALE_EPOCH,
                          "the shard has seen a later leader than epoch (%s, %s)", generation,
                          number_text);
    PQclear(result);
    return rc;
}

int sp_owner_hold_epoch(sp_pg_t *pg, sp_epoch_t epoch, sp_error_t *err)
{
    PGresult *result = NULL;
    int rc = sp_pg_query(pg, "SELECT generation, epoch FROM shardplane.control FOR SHARE", 0, NULL,
                         &result, err);
    if (rc != 0)
        return rc;
    if (PQntuples(result) != 1)
        rc = sp_error_set(err, SP_E_STALE_EPOCH, "the shard has no control row");
    else if (number(result, 0, 0) != epoch.generation || number(result, 0, 1) != epoch.epoch)
        rc = sp_error_set(err, SP_E_STALE_EPOCH,
                          "the shard is at epoch (%s, %s), the command at (%" PRId64 ", %" PRId64
                          ")",
                          PQgetvalue(result, 0, 0), PQgetvalue(result, 0, 1), epoch.generation,
                          epoch.epoch);
    PQclear(result);
    return rc;
}

int sp_owner_terminate(sp_pg_t *pg, const char *job_id, sp_error_t *err)
{
    // Walsenders are in pg_stat_activity too. The slash ends the id: job `a` does not end job `ab`.
    static const char sql[] =
        "SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity"
        " WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid()"
        " AND pg_catalog.starts_with(application_name, 'shardplane/' || $1 || '/')";
    const char *params[] = {job_id};
    int64_t deadline = sp_clock_mono_ms() + TERMINATE_MS;
    for (;;) {
        char left[24];
        int rc = sp_pg_value(pg, sql, 1, params, left, sizeof left, NULL, err);
        if (rc != 0 || strcmp(left, "0") == 0)
            return rc;
        if (sp_clock_until_ms(deadline) == 0)
            return sp_error_set(err, SP_E_DEADLINE_EXCEEDED, "%s backends of job %s do not end",
                                left, job_id);
        sp_clock_sleep_ms(20);
    }
}

// ---- ownership

static const char *const states[] = {"open", "sealed", "armed"}; // by sp_ownership_state_t

int sp_ownership_write(sp_pg_t *pg, const char *keyspace, const sp_ownership_t *ownership,
                       sp_error_t *err)
{
    char version[24], attempt[24];
    sp_buf_t bounds = SP_BUF_INIT;
    PGresult *result = NULL;
    int rc = sp_arcs_validate(ownership->arcs, err);
    if (rc != 0)
        return rc;
    sp_arcs_literal(ownership->arcs, &bounds);
    snprintf(version, sizeof version, "%" PRId64, ownership->ring_version);
    snprintf(attempt, sizeof attempt, "%" PRId64, ownership->attempt);
    const char *params[] = {keyspace,
                            version,
                            bounds.failed ? NULL : sp_buf_cstr(&bounds),
                            states[ownership->state],
                            ownership->job_id != NULL ? ownership->job_id : "",
                            attempt,
                            ownership->nonce != NULL ? ownership->nonce : ""};
    rc = params[2] == NULL
             ? no_memory(err)
             // Behind those who share the row in assert_owner, and before those who come to.
             : sp_pg_exec(pg, "LOCK TABLE shardplane.ownership IN EXCLUSIVE MODE", err);
    if (rc == 0)
        rc = sp_pg_query(
            pg,
            "INSERT INTO shardplane.ownership AS o (keyspace, ring_version, bounds, state, "
            "job_id, attempt, nonce)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (keyspace) DO UPDATE SET"
            " ring_version = excluded.ring_version, bounds = excluded.bounds, state = "
            "excluded.state,"
            " job_id = excluded.job_id, attempt = excluded.attempt, nonce = excluded.nonce",
            7, params, &result, err);
    if (rc == 0)
        PQclear(result);
    sp_buf_free(&bounds);
    return rc;
}

int sp_ownership_read(sp_pg_t *pg, const char *keyspace, sp_arena_t *arena,
                      sp_ownership_t *ret_ownership, bool *ret_found, sp_error_t *err)
{
    const char *params[] = {keyspace};
    PGresult *row = NULL;
    int rc = sp_pg_query(pg,
                         "SELECT ring_version, bounds, state, job_id, attempt, nonce FROM "
                         "shardplane.ownership WHERE keyspace = $1",
                         1, params, &row, err);
    if (rc != 0)
        return rc;
    sp_ownership_t o = {0};
    if (PQntuples(row) == 0) {
        PQclear(row);
        *ret_found = false;
        return 0;
    }
    o.ring_version = number(row, 0, 0);
    rc = sp_arcs_parse(sp_str(PQgetvalue(row, 0, 1)), arena, &o.arcs, err);
    while (o.state < SP_OWNERSHIP_ARMED && strcmp(PQgetvalue(row, 0, 2), states[o.state]) != 0)
        o.state++;
    o.job_id = sp_arena_strz(arena, PQgetvalue(row, 0, 3));
    o.attempt = number(row, 0, 4);
    o.nonce = sp_arena_strz(arena, PQgetvalue(row, 0, 5));
    if (rc == 0 && (o.job_id == NULL || o.nonce == NULL))
        rc = no_memory(err);
    PQclear(row);
    if (rc != 0)
        return rc;
    *ret_ownership = o;
    *ret_found = true;
    return 0;
}

int sp_owner_open(sp_pg_t *pg, const char *nonce, const char *job_id, int64_t ring_version,
                  sp_error_t *err)
{
    char version[24];
    PGresult *result = NULL;
    snprintf(version, sizeof version, "%" PRId64, ring_version);
    const char *params[] = {nonce, job_id, version};
    int rc = sp_pg_query(pg,
                         "INSERT INTO shardplane.opened (nonce, job_id, ring_version) VALUES ($1, "
                         "$2, $3) ON CONFLICT (nonce) DO NOTHING",
                         3, params, &result, err);
    if (rc == 0)
        PQclear(result);
    return rc;
}

int sp_owner_is_open(sp_pg_t *pg, const char *nonce, bool *ret_open, sp_error_t *err)
{
    char found[8];
    bool none = true;
    const char *params[] = {nonce};
    int rc = sp_pg_value(pg, "SELECT 1 FROM shardplane.opened WHERE nonce = $1", 1, params, found,
                         sizeof found, &none, err);
    if (rc == 0)
        *ret_open = !none;
    return rc;
}
