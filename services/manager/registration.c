// Registration: installing and removing what lives inside a shard.
#include "services/manager/registration.h"

#include <stdlib.h>
#include <string.h>

#include "services/manager/sql/manager.h"

static int exists(sp_pg_t *pg, const sp_owner_table_t *table, sp_arena_t *arena, bool *ret,
                  sp_error_t *err)
{
    const char *params[] = {sp_arena_cstr(arena, table->schema),
                            sp_arena_cstr(arena, table->table)};
    char out[8];
    bool null = false;
    int rc = sp_pg_value(pg, SP_SQL_TABLE_EXISTS, 2, params, out, sizeof out, &null, err);
    *ret = rc == 0 && out[0] == 't';
    return rc;
}

int registration_present(sp_pg_t *pg, const owner_tables_t *tables, sp_arena_t *arena,
                         owner_tables_t *ret_present, sp_error_t *err)
{
    sp_owner_table_t *items = sp_arena_alloc(arena, tables->n + 1, sizeof *items);
    if (!items)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "tables");
    size_t n = 0;
    for (size_t i = 0; i < tables->n; i++) {
        bool there = false;
        int rc = exists(pg, &tables->items[i], arena, &there, err);
        if (rc != 0)
            return rc;
        if (there)
            items[n++] = tables->items[i];
    }
    *ret_present = (owner_tables_t){items, n};
    return 0;
}

static int refuse_rows(sp_pg_t *pg, const owner_tables_t *tables, sp_arena_t *arena,
                       sp_error_t *err)
{
    for (size_t i = 0; i < tables->n; i++) {
        const sp_owner_table_t *t = &tables->items[i];
        char out[8];
        bool null = false;
        const char *name = sp_pg_qualified(arena, t->schema, t->table);
        const char *sql =
            name ? sp_arena_printf(arena, "SELECT EXISTS (SELECT FROM %s)::text", name) : NULL;
        int rc = sql ? sp_pg_value(pg, sql, 0, NULL, out, sizeof out, &null, err)
                     : sp_error_set(err, SP_E_OUT_OF_MEMORY, "tables");
        if (rc == 0 && out[0] == 't')
            rc = sp_error_set(err, SP_E_PREFLIGHT_FAILED,
                              "table %s holds rows, but the shard would own nothing: empty it, or "
                              "register another database",
                              name);
        if (rc != 0)
            return rc;
    }
    return 0;
}

int registration_close(env_t *env, const sp_msg_catalog_shard_t *shard,
                       const sp_msg_catalog_keyspace_t *keyspace, sp_arena_t *arena,
                       sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    owner_tables_t tables, present;
    sp_owner_shard_t owner = env_owner(env, shard, arena);
    int rc = ownership_tables(keyspace, arena, &tables)
                 ? 0
                 : sp_error_set(err, SP_E_OUT_OF_MEMORY, "tables");
    if (rc == 0)
        rc = env_pg_record(env, shard, ENV_ADMIN, &pg, err);
    if (rc == 0)
        rc = sp_owner_install(pg, &owner, env->epoch, err);
    if (rc == 0)
        rc = registration_present(pg, &tables, arena, &present, err);
    if (rc == 0)
        rc = ownership_settle(env, shard, &present, SP_ARCS_NONE, 0, err);
    // Behind the guards, so that no row can come after the look.
    if (rc == 0)
        rc = env_pg_record(env, shard, ENV_ADMIN, &pg, err);
    if (rc == 0)
        rc = refuse_rows(pg, &present, arena, err);
    return rc;
}

int registration_is_ours(const env_t *env, sp_pg_t *pg, sp_str_t shard_id, bool *ret_ours,
                         bool *ret_other, sp_error_t *err)
{
    char out[8] = "";
    bool null = false;
    PGresult *control = NULL;
    *ret_ours = false;
    if (ret_other)
        *ret_other = false;
    int rc = sp_pg_value(pg, "SELECT (to_regclass('shardplane.control') IS NOT NULL)::text", 0,
                         NULL, out, sizeof out, &null, err);
    if (rc != 0 || out[0] != 't')
        return rc;
    rc = sp_pg_query(pg, "SELECT cluster_id, shard_id FROM shardplane.control", 0, NULL, &control,
                     err);
    if (rc != 0)
        return rc;
    *ret_ours = PQntuples(control) == 1 &&
                sp_str_eqz(env->catalog->generation.cluster_id, PQgetvalue(control, 0, 0)) &&
                sp_str_eqz(shard_id, PQgetvalue(control, 0, 1));
    if (ret_other)
        *ret_other = !*ret_ours;
    PQclear(control);
    return 0;
}

int registration_remove(env_t *env, const sp_msg_catalog_shard_t *shard, sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    bool ours = false;
    int rc = env_pg_record(env, shard, ENV_ADMIN, &pg, err);
    if (rc == 0)
        rc = registration_is_ours(env, pg, shard->id, &ours, NULL, err);
    if (rc == 0 && ours) {
        rc = env_begin(env, pg, err);
        if (rc == 0)
            rc = sp_pg_exec(pg, "SET LOCAL lock_timeout = '2s'", err);
        if (rc == 0)
            rc = sp_owner_uninstall(pg, err);
        if (rc == 0)
            rc = env_commit(pg, err);
        if (rc != 0)
            env_rollback(pg);
    }
    env_forget(env, shard->id);
    return rc;
}

int registration_misplaced(sp_pg_t *pg, const sp_owner_table_t *table, sp_arcs_t arcs,
                           int64_t *ret_misplaced, int64_t *ret_rows, sp_error_t *err)
{
    sp_arena_t *arena = sp_arena_new(0);
    sp_buf_t bounds = SP_BUF_INIT;
    if (!arena)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "scan");
    sp_arcs_literal(arcs, &bounds);
    const char *column = sp_pg_ident(arena, table->key_column),
               *name = sp_pg_qualified(arena, table->schema, table->table);
    const char *inside = sp_arcs_is_none(arcs)
                             ? "false"
                             : sp_arena_printf(arena,
                                               "COALESCE(width_bucket(hashtextextended(%s::text, "
                                               "0), '%s'::int8[]) %% 2, 0) = 1",
                                               column, sp_buf_cstr(&bounds));
    const char *sql =
        sp_arena_printf(arena,
                        "SELECT count(*) FILTER (WHERE NOT %s)::text, count(*)::text FROM %s",
                        inside, name);
    PGresult *r = NULL;
    int rc = column && name && inside && sql ? sp_pg_query(pg, sql, 0, NULL, &r, err)
                                             : sp_error_set(err, SP_E_OUT_OF_MEMORY, "scan");
    if (rc == 0) {
        *ret_misplaced = strtoll(PQgetvalue(r, 0, 0), NULL, 10);
        *ret_rows = strtoll(PQgetvalue(r, 0, 1), NULL, 10);
        PQclear(r);
    }
    sp_buf_free(&bounds);
    sp_arena_destroy(&arena);
    return rc;
}
