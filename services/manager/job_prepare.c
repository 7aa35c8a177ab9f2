// State precopy, first half: everything that must stand before the first row is copied. Each object is recorded, then made; but for what the
// schema task makes, which is recorded with it.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "services/manager/job_work.h"
#include "services/manager/sql/manager.h"

enum { LOCK_TRIES = 40 };

static int no_memory(sp_error_t *err)
{
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "job");
}

// Runs one transaction that needs a heavy lock for a moment: short waits, many tries, never in the application's way.
static int with_short_locks(job_t *job, sp_str_t shard, const char *sql, sp_error_t *err)
{
    int rc = 0;
    for (int i = 0; i < LOCK_TRIES; i++) {
        sp_pg_t *pg = NULL;
        sp_error_clear(err);
        rc = env_pg(&job->env, shard, ENV_ADMIN, &pg, err);
        if (rc == 0)
            rc = env_begin(&job->env, pg, err);
        if (rc == 0)
            rc = sp_pg_exec(pg, "SET LOCAL lock_timeout = '400ms'", err);
        if (rc == 0)
            rc = sp_pg_exec(pg, sql, err);
        if (rc == 0)
            rc = env_commit(pg, err);
        if (rc != 0 && pg)
            env_rollback(pg);
        if (rc == 0 || !sp_pg_lock_refused(err))
            return rc;
        int64_t until = sp_clock_mono_ms() + sp_random_backoff_ms(i, 100, 2000);
        sp_error_t pumped = {0};
        while (sp_clock_until_ms(until) > 0)
            if (job_pump(job, 50, &pumped) != 0) {
                *err = pumped;
                return pumped.code;
            }
    }
    return rc;
}

// ---- shards

static int install(job_t *job, sp_str_t id, sp_error_t *err)
{
    const sp_catalog_shard_view_t *view = job_shard(job, id, err);
    if (!view)
        return SP_E_CONFLICT;
    sp_pg_t *pg = NULL;
    sp_owner_shard_t owner = env_owner(&job->env, view->shard, job->arena);
    int rc = env_pg_record(&job->env, view->shard, ENV_ADMIN, &pg, err);
    return rc == 0 ? sp_owner_install(pg, &owner, job->env.epoch, err) : rc;
}

static int step_install(job_t *job, sp_error_t *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < job->rec->targets.n; i++) {
        sp_str_t id = job->rec->targets.items[i].shard_id;
        rc = job_object(job, "installed", id, SP_STR("shardplane"), err);
        if (rc == 0)
            rc = install(job, id, err);
    }
    return rc;
}

// ---- schema

static int ignored_tables(job_t *job, sp_arena_t *arena, sp_msg_task_assign_t *a, sp_error_t *err)
{
    const sp_catalog_keyspace_view_t *view =
        sp_catalog_keyspace(job->env.catalog, job->rec->keyspace);
    if (!view)
        return sp_error_set(err, SP_E_CONFLICT, "the keyspace is gone");
    a->ignored_tables.items =
        sp_arena_alloc(arena, view->keyspace->tables.n + 1, sizeof *a->ignored_tables.items);
    if (!a->ignored_tables.items)
        return no_memory(err);
    for (size_t i = 0; i < view->keyspace->tables.n; i++) {
        const sp_msg_table_t *t = &view->keyspace->tables.items[i];
        if (t->mode == SP_TABLE_MODE_IGNORED)
            a->ignored_tables.items[a->ignored_tables.n++] =
                sp_str(sp_pg_qualified(arena, t->schema, t->table));
    }
    return 0;
}

static int assign_schema(job_t *job, void *arg, size_t i, sp_arena_t *arena,
                         sp_msg_task_assign_t *a)
{
    (void)arg;
    (void)i;
    job_assign_tables(job, a);
    const sp_catalog_keyspace_view_t *view =
        sp_catalog_keyspace(job->env.catalog, job->rec->keyspace);
    a->sequence_stride =
        view && view->keyspace->sequence_stride ? view->keyspace->sequence_stride : 64;
    a->has_sequence_stride = true;
    return ignored_tables(job, arena, a, NULL);
}

// What it makes is not known before. It keeps the list in the target's database, committed with the objects.
static int step_schema(job_t *job, sp_error_t *err)
{
    job_batch_t batch = {.n = 1,
                         .what = "schema",
                         .kind = SP_TASK_KIND_SCHEMA,
                         .assign = assign_schema};
    return job_batch_run(job, &batch, err);
}

static int step_close_targets(job_t *job, sp_error_t *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < job->rec->targets.n; i++)
        rc = job_close_target(job, &job->rec->targets.items[i], false, err);
    return rc;
}

// ---- replica identities

typedef struct identity_state {
    bool there;  // the temporary index is
    bool valid;  // it is
    bool set;    // it is the table's identity
    bool former; // the index that was the identity before can be it again
} identity_state_t;

static int read_identity(sp_pg_t *pg, job_t *job, sp_msg_job_table_t *t, identity_state_t *ret,
                         sp_error_t *err)
{
    const char *params[] = {sp_arena_cstr(job->arena, t->schema),
                            sp_arena_cstr(job->arena, t->table),
                            sp_arena_cstr(job->arena, t->identity_index),
                            sp_arena_cstr(job->arena, t->identity_before)};
    PGresult *r = NULL;
    int rc = sp_pg_query(pg, SP_SQL_IDENTITY_STATE, 4, params, &r, err);
    if (rc != 0)
        return rc;
    if (PQntuples(r) != 1) {
        PQclear(r);
        return sp_error_set(err, SP_E_SCHEMA_CHANGED, "table %s.%s is gone", params[0], params[1]);
    }
    if (!t->identity_before.len)
        t->identity_before = sp_str(sp_arena_strz(job->arena, PQgetvalue(r, 0, 0)));
    *ret = (identity_state_t){.there = PQgetvalue(r, 0, 1)[0] == 't',
                              .valid = PQgetvalue(r, 0, 2)[0] == 't',
                              .set = PQgetvalue(r, 0, 3)[0] == 't',
                              .former = PQgetvalue(r, 0, 4)[0] == 't'};
    PQclear(r);
    return 0;
}

static const char *index_columns(job_t *job, const sp_msg_job_table_t *t)
{
    sp_buf_t buf = SP_BUF_INIT;
    sp_buf_addz(&buf, sp_pg_ident(job->arena, t->key_column));
    for (size_t i = 0; i < t->primary_key.n; i++)
        if (!sp_str_eq(t->primary_key.items[i], t->key_column))
            sp_buf_printf(&buf, ", %s", sp_pg_ident(job->arena, t->primary_key.items[i]));
    const char *text = sp_arena_strz(job->arena, sp_buf_cstr(&buf));
    sp_buf_free(&buf);
    return text;
}

static int make_identity(job_t *job, sp_msg_job_table_t *t, sp_error_t *err)
{
    sp_str_t source = job->rec->source_shard_id;
    sp_pg_t *pg = NULL;
    identity_state_t is = {0};
    int rc = env_pg(&job->env, source, ENV_ADMIN, &pg, err);
    if (rc == 0)
        rc = read_identity(pg, job, t, &is, err);
    if (rc == 0)
        rc = job_object(job, "identity", source, t->identity_index,
                        err); // saves identity_before too
    if (rc == 0)
        rc = job_save(job, err);
    if (rc != 0 || is.set)
        return rc;
    const char *index = sp_pg_qualified(job->arena, t->schema, t->identity_index),
               *table = sp_pg_qualified(job->arena, t->schema, t->table);
    // Building it waits for every older snapshot in the database, as long as that lives.
    sp_pg_set_timeout(pg, -1);
    job_heed_cancel(job, true);
    if (is.there && !is.valid)
        rc = sp_pg_execf(pg, err, "DROP INDEX CONCURRENTLY IF EXISTS %s", index);
    if (rc == 0 && !is.valid)
        rc = sp_pg_execf(pg, err, "CREATE UNIQUE INDEX CONCURRENTLY %s ON %s (%s)",
                         sp_pg_ident(job->arena, t->identity_index), table, index_columns(job, t));
    job_heed_cancel(job, false);
    sp_pg_set_timeout(pg, 30000);
    const char *sql = sp_arena_printf(job->arena, "ALTER TABLE %s REPLICA IDENTITY USING INDEX %s",
                                      table, sp_pg_ident(job->arena, t->identity_index));
    return rc == 0 ? with_short_locks(job, source, sql, err) : rc;
}

static int step_identities(job_t *job, sp_error_t *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < job->rec->tables.n; i++)
        if (job->rec->tables.items[i].identity_index.len)
            rc = make_identity(job, &job->rec->tables.items[i], err);
    return rc;
}

// As ALTER TABLE wants it. An index that went away meanwhile would have left nothing as well. (One that goes between look and ALTER fails
// this try; the next one sees it.)
static const char *former_identity(job_t *job, const sp_msg_job_table_t *t,
                                   const identity_state_t *is, const char *table)
{
    const char *before = sp_arena_cstr(job->arena, t->identity_before);
    if (strncmp(before, "i:", 2) == 0 && is->former)
        return sp_arena_printf(job->arena, "USING INDEX %s",
                               sp_pg_ident(job->arena, sp_str(before + 2)));
    if (strncmp(before, "i:", 2) == 0) {
        sp_log(SP_LOG_WARN, "JOB-IDENTITY-GONE", "job", job->id, "table", table, "index",
               before + 2, NULL);
        return "NOTHING";
    }
    return strcmp(before, "n") == 0 ? "NOTHING" : strcmp(before, "f") == 0 ? "FULL" : "DEFAULT";
}

int job_restore_identities(job_t *job, sp_error_t *err)
{
    sp_str_t source = job->rec->source_shard_id;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < job->rec->tables.n; i++) {
        sp_msg_job_table_t *t = &job->rec->tables.items[i];
        if (!t->identity_index.len || !job_has_object(job, "identity", source, t->identity_index))
            continue;
        sp_pg_t *pg = NULL;
        identity_state_t is = {0};
        rc = env_pg(&job->env, source, ENV_ADMIN, &pg, err);
        if (rc == 0)
            rc = read_identity(pg, job, t, &is, err);
        if (rc == SP_E_SCHEMA_CHANGED) { // a table that was dropped needs no identity
            rc = 0;
            sp_error_clear(err);
            continue;
        }
        if (rc != 0)
            return rc;
        const char *table = sp_pg_qualified(job->arena, t->schema, t->table);
        if (is.set)
            rc = with_short_locks(job, source,
                                  sp_arena_printf(job->arena, "ALTER TABLE %s REPLICA IDENTITY %s",
                                                  table, former_identity(job, t, &is, table)),
                                  err);
        if (rc == 0 && is.there)
            rc = with_short_locks(job, source,
                                  sp_arena_printf(job->arena, "DROP INDEX IF EXISTS %s",
                                                  sp_pg_qualified(job->arena, t->schema,
                                                                  t->identity_index)),
                                  err);
    }
    return rc;
}

// ---- publication and guards of the source

static int step_publication(job_t *job, sp_error_t *err)
{
    sp_msg_catalog_job_t *r = job->rec;
    int rc = job_object(job, "publication", r->source_shard_id, r->publication, err);
    if (rc != 0)
        return rc;
    sp_buf_t sql = SP_BUF_INIT;
    const char *name = sp_pg_ident(job->arena, r->publication);
    sp_buf_printf(&sql, "DROP PUBLICATION IF EXISTS %s; CREATE PUBLICATION %s FOR TABLE ", name,
                  name);
    // Changes come as those of the leaves. The partitioned tables are named too, so that rows of a partition that is added while the job
    // runs come as well: the follower knows no such table, and stops.
    for (size_t i = 0; i < job_tables_count(job); i++) {
        const sp_msg_job_table_t *t = job_tables_at(job, i);
        sp_buf_printf(&sql, "%s%s", i ? ", " : "",
                      sp_pg_qualified(job->arena, t->schema, t->table));
    }
    sp_buf_addz(&sql, " WITH (publish = 'insert, update, delete, truncate')");
    rc = sql.failed ? no_memory(err)
                    : with_short_locks(job, r->source_shard_id, sp_buf_cstr(&sql), err);
    sp_buf_free(&sql);
    return rc;
}

static int step_guard_source(job_t *job, sp_error_t *err)
{
    sp_msg_catalog_job_t *r = job->rec;
    const sp_catalog_shard_view_t *view = job_shard(job, r->source_shard_id, err);
    int rc = view ? 0 : SP_E_CONFLICT;
    owner_tables_t tables = job_owner_tables(job, job->arena);
    sp_arcs_t arcs = rc == 0 ? job_source_arcs(job, job->arena, err, &rc) : SP_ARCS_NONE;
    if (rc == 0)
        rc = job_object(job, "guards", r->source_shard_id, SP_STR("job_running"), err);
    if (rc != 0)
        return rc;
    sp_guard_t guard = {.form = SP_GUARD_OWNS,
                        .arcs = &arcs,
                        .ring_version = r->ring_version_before,
                        .job_running = true,
                        .row_trigger = true};
    return ownership_set(&job->env, view->shard, &tables, &guard, NULL, err);
}

// ---- slot and snapshot

// After the snapshot, so that every row of it lies inside the pages that are counted.
static int measure_tables(job_t *job, sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    int rc = env_pg(&job->env, job->rec->source_shard_id, ENV_ADMIN, &pg, err);
    for (size_t i = 0; rc == 0 && i < job->rec->tables.n; i++) {
        sp_msg_job_table_t *t = &job->rec->tables.items[i];
        const char *params[] = {sp_arena_cstr(job->arena, t->schema),
                                sp_arena_cstr(job->arena, t->table)};
        PGresult *r = NULL;
        rc = sp_pg_query(pg, SP_SQL_TABLE_SIZE, 2, params, &r, err);
        if (rc != 0)
            break;
        if (PQntuples(r) != 1) {
            PQclear(r);
            return sp_error_set(err, SP_E_SCHEMA_CHANGED, "table %s.%s is gone", params[0],
                                params[1]);
        }
        t->relfilenode = strtoll(PQgetvalue(r, 0, 0), NULL, 10);
        t->pages = strtoll(PQgetvalue(r, 0, 1), NULL, 10);
        t->has_relfilenode = t->has_pages = true;
        int64_t per = t->pages_per_range > 0 ? t->pages_per_range : 2048;
        t->pages_per_range = per;
        t->ranges = t->pages > per ? (t->pages + per - 1) / per : 1;
        t->has_ranges = t->has_pages_per_range = true;
        PQclear(r);
    }
    return rc;
}

static int step_snapshot(job_t *job, sp_error_t *err)
{
    sp_msg_catalog_job_t *r = job->rec;
    if (!r->slot.len)
        r->slot =
            sp_str(sp_arena_printf(job->arena, "shp_%s_%lld", job->id, (long long)r->attempt));
    int rc = job_object(job, "slot", r->source_shard_id, r->slot, err);
    if (rc == 0)
        rc = job_save(job, err);
    // One that an earlier try has made is of no use without its snapshot.
    if (rc == 0)
        rc = job_drop_slot(job, r->source_shard_id, r->slot, err);
    if (rc != 0)
        return rc;
    sp_arena_t *arena = sp_arena_new(0);
    sp_msg_task_assign_t a = job_task_assignment(job, arena, SP_TASK_KIND_SNAPSHOT);
    a.slot = r->slot;
    job->holder = job_task_start(job, "snapshot", &a, err);
    sp_arena_destroy(&arena);
    if (!job->holder)
        return err->code;
    while (rc == 0 && !job_task_final(job->holder) && !job->holder->last.snapshot.len)
        rc = job_pump(job, 200, err);
    if (rc == 0 && job_task_final(job->holder))
        rc = job->holder->state == SP_TASK_STATE_FAILED
                 ? (*err = job->holder->err, job->holder->err.code)
                 : sp_error_set(err, SP_E_UNAVAILABLE, "the snapshot ended early");
    if (rc == 0) {
        snprintf(job->snapshot, sizeof job->snapshot, SP_STR_FMT,
                 SP_STR_ARG(job->holder->last.snapshot));
        r->slot_lsn = sp_arena_str(job->arena, job->holder->last.lsn);
        for (size_t i = 0; i < r->tables.n; i++)
            r->tables.items[i].start_lsn = r->slot_lsn;
        rc = measure_tables(job, err);
    }
    if (rc == 0)
        rc = job_save(job, err);
    if (rc != 0 && rc != SP_E_STALE_EPOCH) { // the next try makes another slot and snapshot
        sp_error_t why = *err;
        job_task_end(job, &job->holder);
        *err = why;
    }
    return rc;
}

int job_prepare(job_t *job, sp_error_t *err)
{
    int rc = job_step(job, "install", step_install, err);
    if (rc == 0)
        rc = job_step(job, "schema", step_schema, err);
    if (rc == 0)
        rc = job_step(job, "close_targets", step_close_targets, err);
    if (rc == 0)
        rc = job_step(job, "identities", step_identities, err);
    if (rc == 0)
        rc = job_step(job, "publication", step_publication, err);
    if (rc == 0)
        rc = job_step(job, "guard_source", step_guard_source, err);
    if (rc == 0 && !job_step_done(job, "snapshot")) {
        rc = job_step(job, "snapshot", step_snapshot, err);
        if (rc == 0)
            rc = job_transition(job, SP_JOB_EV_PREPARED, NULL, err);
    }
    return rc;
}
