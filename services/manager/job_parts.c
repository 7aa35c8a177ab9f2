// Pieces that several states of a job need: guards of its shards, its slot, emptied tables.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "services/manager/job_work.h"
#include "services/manager/registration.h"
#include "services/manager/sql/manager.h"

enum { SLOT_CHECK_MS = 5000 };

size_t job_tables_count(const job_t *job)
{
    return job->rec->tables.n + job->rec->partitioned.n;
}

const sp_msg_job_table_t *job_tables_at(const job_t *job, size_t i)
{
    const sp_msg_catalog_job_t *r = job->rec;
    return i < r->tables.n ? &r->tables.items[i] : &r->partitioned.items[i - r->tables.n];
}

owner_tables_t job_owner_tables(const job_t *job, sp_arena_t *arena)
{
    size_t all = job_tables_count(job), n = 0;
    sp_owner_table_t *items = sp_arena_alloc(arena, all + 1, sizeof *items);
    for (size_t i = 0; items && i < all; i++) {
        const sp_msg_job_table_t *t = job_tables_at(job, i);
        if (!t->partition) // else the table at the top of the tree stands for it
            items[n++] = (sp_owner_table_t){t->schema, t->table, t->key_column};
    }
    return (owner_tables_t){items, n};
}

int job_present_tables(job_t *job, const sp_msg_catalog_shard_t *shard, owner_tables_t *ret_tables,
                       sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    owner_tables_t all = job_owner_tables(job, job->arena);
    int rc = all.items ? env_pg_record(&job->env, shard, ENV_ADMIN, &pg, err)
                       : sp_error_set(err, SP_E_OUT_OF_MEMORY, "tables");
    return rc == 0 ? registration_present(pg, &all, job->arena, ret_tables, err) : rc;
}

void job_assign_tables(const job_t *job, sp_msg_task_assign_t *assign)
{
    const sp_msg_catalog_job_t *r = job->rec;
    assign->tables.items = r->tables.items;
    assign->tables.n = r->tables.n;
    assign->partitioned.items = r->partitioned.items;
    assign->partitioned.n = r->partitioned.n;
}

sp_arcs_t job_source_arcs(job_t *job, sp_arena_t *arena, sp_error_t *err, int *ret_rc)
{
    sp_arcs_t arcs = SP_ARCS_NONE;
    const sp_catalog_keyspace_view_t *view =
        sp_catalog_keyspace(job->env.catalog, job->rec->keyspace);
    *ret_rc = view ? ownership_arcs(view, job->rec->source_shard_id, arena, &arcs, err)
                   : sp_error_set(err, SP_E_CONFLICT, "the keyspace is gone");
    return arcs;
}

static int64_t ring_version(const job_t *job)
{
    const sp_catalog_keyspace_view_t *view =
        sp_catalog_keyspace(job->env.catalog, job->rec->keyspace);
    return view && view->ring_record ? view->ring_record->version : 0;
}

int job_unseal_source(job_t *job, sp_error_t *err)
{
    const sp_catalog_shard_view_t *view = job_shard(job, job->rec->source_shard_id, err);
    int rc = view ? 0 : SP_E_CONFLICT;
    sp_arcs_t arcs = rc == 0 ? job_source_arcs(job, job->arena, err, &rc) : SP_ARCS_NONE;
    owner_tables_t tables;
    if (rc == 0)
        rc = job_present_tables(job, view->shard, &tables, err);
    if (rc != 0)
        return rc;
    // A TRUNCATE is refused as long as the job runs.
    sp_guard_t guard = {.form = SP_GUARD_OWNS,
                        .arcs = &arcs,
                        .ring_version = ring_version(job),
                        .job_running = job->rec->undo_to == 0,
                        .row_trigger = true};
    sp_ownership_t ownership = {.ring_version = ring_version(job),
                                .arcs = arcs,
                                .state = SP_OWNERSHIP_OPEN,
                                .job_id = "",
                                .nonce = ""};
    return ownership_set(&job->env, view->shard, &tables, &guard, &ownership, err);
}

int job_close_target(job_t *job, const sp_msg_job_target_t *target, bool row_trigger,
                     sp_error_t *err)
{
    const sp_catalog_shard_view_t *view = job_shard(job, target->shard_id, err);
    if (!view)
        return SP_E_CONFLICT;
    owner_tables_t tables = job_owner_tables(job, job->arena);
    sp_arcs_t none = SP_ARCS_NONE;
    sp_guard_t guard = {.form = SP_GUARD_CLOSED,
                        .arcs = &none,
                        .ring_version = ring_version(job),
                        .reason = "not_owner",
                        .row_trigger = row_trigger};
    sp_ownership_t ownership = {.ring_version = ring_version(job),
                                .arcs = none,
                                .state = SP_OWNERSHIP_OPEN,
                                .job_id = "",
                                .nonce = ""};
    return ownership_set(&job->env, view->shard, &tables, &guard, &ownership, err);
}

int job_on_shard(job_t *job, sp_str_t shard, const char *sql, sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    const char *params[] = {job->id};
    int rc = env_pg(&job->env, shard, ENV_ADMIN, &pg, err);
    return rc == 0 ? env_step(&job->env, pg, sql, 1, params, err) : rc;
}

int job_drop_publication(job_t *job, sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    const char *sql = sp_arena_printf(job->arena, "DROP PUBLICATION IF EXISTS %s",
                                      sp_pg_ident(job->arena, job->rec->publication));
    int rc = env_pg(&job->env, job->rec->source_shard_id, ENV_ADMIN, &pg, err);
    return rc == 0 ? env_step(&job->env, pg, sql, 0, NULL, err) : rc;
}

int job_drop_slot(job_t *job, sp_str_t shard, sp_str_t name, sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    int rc = env_pg(&job->env, shard, ENV_ADMIN, &pg, err);
    const char *params[] = {sp_arena_cstr(job->arena, name)};
    for (int i = 0; rc == 0; i++) {
        // Whoever still streams from it is a worker that was given up.
        rc = env_step(&job->env, pg, SP_SQL_DROP_SLOT, 1, params, err);
        if (rc != SP_E_SQL_ERROR || strcmp(err->sqlstate, "55006") != 0 || i >= 20)
            break;
        sp_error_clear(err);
        rc = 0;
        env_sleep(&job->env, 200);
        if (env_stopped(&job->env))
            return sp_error_set(err, SP_E_STALE_EPOCH, "this manager does not lead any more");
    }
    return rc;
}

int job_empty_tables(job_t *job, sp_str_t target, const sp_msg_job_table_t *tables, size_t n,
                     sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    int rc = env_pg(&job->env, target, ENV_APPLY, &pg, err);
    if (rc == 0) {
        sp_pg_set_timeout(pg, 600000);
        job_heed_cancel(job, true);
        rc = env_begin(&job->env, pg, err);
    }
    if (rc == 0)
        rc = sp_pg_exec(pg, "SET LOCAL session_replication_role = replica", err);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        const char *name = sp_pg_qualified(job->arena, tables[i].schema, tables[i].table);
        char attempt[24];
        snprintf(attempt, sizeof attempt, "%lld", (long long)job->rec->attempt);
        const char *params[] = {job->id, attempt, sp_arena_cstr(job->arena, tables[i].schema),
                                sp_arena_cstr(job->arena, tables[i].table)};
        PGresult *result = NULL;
        rc = sp_pg_execf(pg, err, "DELETE FROM %s", name);
        if (rc == 0)
            rc = sp_pg_query(pg, SP_SQL_FORGET_PROGRESS, 4, params, &result, err);
        PQclear(result);
    }
    if (rc == 0)
        rc = env_commit(pg, err);
    job_heed_cancel(job, false);
    if (pg) {
        if (rc != 0)
            env_rollback(pg);
        sp_pg_set_timeout(pg, 30000);
    }
    return rc;
}

int job_check_slot(job_t *job, sp_error_t *err)
{
    const sp_msg_catalog_job_t *r = job->rec;
    sp_pg_t *pg = NULL;
    PGresult *result = NULL;
    const char *params[] = {sp_arena_cstr(job->arena, r->slot)};
    int rc = env_pg(&job->env, r->source_shard_id, ENV_ADMIN, &pg, err);
    if (rc == 0)
        rc = sp_pg_query(pg, SP_SQL_SLOT_STATE, 1, params, &result, err);
    if (rc != 0)
        return rc;
    bool there = PQgetvalue(result, 0, 0)[0] == 't',
         lost = strcmp(PQgetvalue(result, 0, 1), "lost") == 0;
    int64_t retained = strtoll(PQgetvalue(result, 0, 2), NULL, 10),
            timeline = strtoll(PQgetvalue(result, 0, 3), NULL, 10);
    PQclear(result);
    if (r->has_timeline && r->timeline > 0 && timeline != r->timeline)
        rc = sp_error_set(err, SP_E_CONFLICT,
                          "the source was promoted (timeline %lld, it was %lld): its slot may have "
                          "missed changes",
                          (long long)timeline, (long long)r->timeline);
    else if (!there || lost)
        rc = sp_error_set(err, SP_E_CONFLICT,
                          "the replication slot %s is %s: changes are missing, so the copy cannot "
                          "be trusted",
                          params[0], there ? "lost" : "gone");
    else if (retained > job->env.settings->wal_budget_bytes)
        rc = sp_error_set(err, SP_E_CONFLICT,
                          "the job keeps %lld bytes of WAL on its source, over its budget of %lld",
                          (long long)retained, (long long)job->env.settings->wal_budget_bytes);
    if (rc != 0)
        err->retryable = false;
    return rc;
}

int job_watch_slot(job_t *job, int64_t *checked_ms, sp_error_t *err)
{
    if (sp_clock_mono_ms() - *checked_ms <= SLOT_CHECK_MS)
        return 0;
    *checked_ms = sp_clock_mono_ms();
    int rc = job_check_slot(job, err);
    if (rc == 0 || !err->retryable)
        return rc;
    sp_error_clear(err);
    return 0;
}
