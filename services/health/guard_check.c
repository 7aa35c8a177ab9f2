// Guards of one shard: what they should be follows from the catalog's arcs and from the ring version in the ownership row.
#include "services/health/guard_check.h"

#include <string.h>

#include "common/job/job_fsm.h"

// A completed job changes guards until they are folded, and none afterwards.
static bool changes_guards(const sp_msg_catalog_job_t *job)
{
    return job->state == SP_JOB_STATE_COMPLETED ? !sp_catalog_step_done(job, "folded")
                                                : sp_job_is_live((int)job->state);
}

bool guard_check_applies(const sp_catalog_t *catalog, const sp_msg_catalog_shard_t *shard)
{
    if (shard->status != SP_SHARD_STATUS_ACTIVE && shard->status != SP_SHARD_STATUS_EMPTY)
        return false;
    for (size_t i = 0; i < catalog->n_jobs; i++) {
        const sp_msg_catalog_job_t *job = catalog->jobs[i].job;
        bool mine = sp_str_eq(job->source_shard_id, shard->id);
        for (size_t j = 0; j < job->targets.n && !mine; j++)
            mine = sp_str_eq(job->targets.items[j].shard_id, shard->id);
        if (mine && changes_guards(job))
            return false;
    }
    return true;
}

static void add_reason(guard_check_t *check, const char *reason)
{
    if (reason && check->n < GUARD_MOST_REASONS)
        check->reasons[check->n++] = reason;
}

static int open_admin(const sp_msg_catalog_shard_t *shard, const sp_seal_t *seal,
                      bool (*stopped)(void *arg), void *stopped_arg, sp_arena_t *arena,
                      sp_pg_t **ret_pg, sp_error_t *err)
{
    sp_str_t clear;
    sp_dsn_t dsn;
    int rc =
        sp_seal_decrypt(seal, shard->admin.len ? shard->admin : shard->primary, arena, &clear, err);
    if (rc == SP_OK)
        rc = sp_dsn_parse(clear, arena, &dsn, err);
    sp_pg_options_t options = {.application_name = "shardplane/health/guards",
                               .connect_timeout_ms = 3000,
                               .query_timeout_ms = 5000,
                               .stopped = stopped,
                               .stopped_arg = stopped_arg};
    return rc ? rc : sp_pg_open(ret_pg, &dsn, &options, err);
}

static int check_ownership(sp_pg_t *pg, const char *keyspace, sp_arcs_t arcs, sp_arena_t *arena,
                           guard_check_t *check, int64_t *ret_version, bool *ret_found,
                           sp_error_t *err)
{
    sp_ownership_t row;
    int rc = sp_ownership_read(pg, keyspace, arena, &row, ret_found, err);
    if (rc == SP_E_SQL_ERROR &&
        (strcmp(err->sqlstate, "42P01") == 0 ||
         strcmp(err->sqlstate, "3F000") == 0)) { // no such table, no such schema
        add_reason(check, "schema shardplane is missing");
        *ret_found = false;
        return SP_OK;
    }
    if (rc)
        return rc;
    if (!*ret_found) {
        add_reason(check,
                   sp_arena_printf(arena, "there is no ownership row for keyspace %s", keyspace));
        return SP_OK;
    }
    *ret_version = row.ring_version;
    if (row.state != SP_OWNERSHIP_OPEN)
        add_reason(check, "its ownership is sealed or armed, though no job runs");
    if (!sp_arcs_equal(row.arcs, arcs))
        add_reason(check,
                   sp_arena_printf(arena,
                                   "its ownership row has other arcs than the catalog (%.3f %% of "
                                   "the hash space instead of %.3f %%)",
                                   100 * sp_arcs_share(row.arcs), 100 * sp_arcs_share(arcs)));
    return SP_OK;
}

// A shard that owns nothing may lack the application's tables: a job makes them there.
static int check_table(sp_pg_t *pg, const sp_owner_shard_t *owner, const sp_owner_table_t *table,
                       const sp_guard_t *guard, sp_arena_t *arena, guard_check_t *check,
                       sp_error_t *err)
{
    bool may_lack = guard->form == SP_GUARD_CLOSED && table != &sp_owner_requests_table;
    const char *want = NULL, *have = NULL;
    int rc = sp_guard_expected(owner, table, guard, arena, &want, err);
    if (rc == SP_OK)
        rc = sp_guard_actual(pg, table, arena, &have, err);
    if (rc == SP_E_NOT_FOUND) {
        if (!may_lack)
            add_reason(check,
                       sp_arena_printf(arena, "table " SP_STR_FMT "." SP_STR_FMT " is missing",
                                       SP_STR_ARG(table->schema), SP_STR_ARG(table->table)));
        return SP_OK;
    }
    if (rc)
        return rc;
    if (strcmp(want, have) != 0)
        add_reason(check,
                   sp_arena_printf(arena, "the guards of table " SP_STR_FMT "." SP_STR_FMT " %s",
                                   SP_STR_ARG(table->schema), SP_STR_ARG(table->table),
                                   *have ? "differ from the catalog"
                                         : "are missing or not ENABLE ALWAYS, on it or on a "
                                           "table below it"));
    return SP_OK;
}

int guard_check_shard(const sp_catalog_t *catalog, const sp_msg_catalog_shard_t *shard,
                      const sp_seal_t *seal, bool (*stopped)(void *arg), void *stopped_arg,
                      sp_arena_t *arena, guard_check_t *ret_check, sp_error_t *err)
{
    *ret_check = (guard_check_t){.n = 0};
    const sp_catalog_keyspace_view_t *view = sp_catalog_keyspace(catalog, shard->keyspace);
    if (!view)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE,
                            "the catalog has no keyspace " SP_STR_FMT, SP_STR_ARG(shard->keyspace));
    sp_arcs_t arcs = SP_ARCS_NONE;
    int index = view->ring ? sp_ring_find(view->ring, shard->id) : -1;
    int rc = index < 0 ? SP_OK : sp_ring_bounds(view->ring, index, arena, &arcs, err);
    sp_pg_t *pg = NULL;
    if (rc == SP_OK)
        rc = open_admin(shard, seal, stopped, stopped_arg, arena, &pg, err);
    if (rc)
        return rc;
    sp_owner_shard_t owner = {.shard_id = sp_arena_cstr(arena, shard->id),
                              .keyspace = sp_arena_cstr(arena, shard->keyspace),
                              .cluster_id = sp_arena_cstr(arena, catalog->generation.cluster_id),
                              .apply_role = sp_arena_cstr(arena, shard->apply_role)};
    int64_t version = 0;
    bool found = false;
    rc = check_ownership(pg, owner.keyspace, arcs, arena, ret_check, &version, &found, err);
    sp_guard_t guard = sp_guard_settled(&arcs, version);
    const sp_msg_catalog_keyspace_t *keyspace = view->keyspace;
    if (rc == SP_OK && found)
        rc = check_table(pg, &owner, &sp_owner_requests_table, &guard, arena, ret_check, err);
    for (size_t i = 0; rc == SP_OK && found && i < keyspace->tables.n; i++) {
        const sp_msg_table_t *t = &keyspace->tables.items[i];
        sp_owner_table_t table = {t->schema, t->table, t->key_column};
        if (t->mode != SP_TABLE_MODE_IGNORED)
            rc = check_table(pg, &owner, &table, &guard, arena, ret_check, err);
    }
    sp_pg_close(&pg);
    return rc;
}
