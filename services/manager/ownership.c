// Ownership: guards and ownership rows under short lock waits.
#include "services/manager/ownership.h"

#include "common/base/clock.h"
#include "common/base/random.h"

// Under half of deadlock_timeout's default: longer waits would let the application die with 40P01 instead of us.
#define LOCK_WAIT "SET LOCAL lock_timeout = '400ms'"
enum { TRIES = 12 };

bool ownership_tables(const sp_msg_catalog_keyspace_t *keyspace, sp_arena_t *arena,
                      owner_tables_t *ret_tables)
{
    sp_owner_table_t *items = sp_arena_alloc(arena, keyspace->tables.n + 1, sizeof *items);
    if (!items)
        return false;
    size_t n = 0;
    items[n++] = sp_owner_requests_table;
    for (size_t i = 0; i < keyspace->tables.n; i++) {
        const sp_msg_table_t *t = &keyspace->tables.items[i];
        if (t->mode != SP_TABLE_MODE_IGNORED)
            items[n++] = (sp_owner_table_t){t->schema, t->table, t->key_column};
    }
    *ret_tables = (owner_tables_t){items, n};
    return true;
}

int ownership_arcs(const sp_catalog_keyspace_view_t *keyspace, sp_str_t shard_id, sp_arena_t *arena,
                   sp_arcs_t *ret_arcs, sp_error_t *err)
{
    *ret_arcs = SP_ARCS_NONE;
    int at = keyspace->ring ? sp_ring_find(keyspace->ring, shard_id) : -1;
    return at < 0 ? 0 : sp_ring_bounds(keyspace->ring, at, arena, ret_arcs, err);
}

static int set_once(env_t *env, sp_pg_t *pg, const sp_owner_shard_t *owner,
                    const owner_tables_t *tables, const sp_guard_t *guard,
                    const sp_ownership_t *ownership, sp_error_t *err)
{
    int rc = env_begin(env, pg, err);
    if (rc != 0)
        return rc;
    rc = sp_pg_exec(pg, LOCK_WAIT, err);
    for (size_t i = 0; rc == 0 && i < tables->n; i++)
        rc = sp_guard_set(pg, owner, &tables->items[i], guard, err);
    if (rc == 0 && ownership)
        rc = sp_ownership_write(pg, owner->keyspace, ownership, err);
    if (rc == 0)
        rc = env_commit(pg, err);
    if (rc != 0)
        env_rollback(pg);
    return rc;
}

int ownership_set(env_t *env, const sp_msg_catalog_shard_t *shard, const owner_tables_t *tables,
                  const sp_guard_t *guard, const sp_ownership_t *ownership, sp_error_t *err)
{
    sp_arena_t *arena = sp_arena_new(0);
    if (!arena)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "guards");
    sp_owner_shard_t owner = env_owner(env, shard, arena);
    int rc = 0;
    for (int i = 0; i < TRIES; i++) {
        sp_pg_t *pg = NULL;
        sp_error_clear(err);
        rc = env_pg_record(env, shard, ENV_ADMIN, &pg, err);
        if (rc == 0)
            rc = set_once(env, pg, &owner, tables, guard, ownership, err);
        if (rc == 0 || !sp_pg_lock_refused(err) || env_stopped(env))
            break;
        env_sleep(env, sp_random_backoff_ms(i, 100, 1000));
    }
    if (rc != 0)
        sp_error_prefix(err, "guards of shard %s", owner.shard_id);
    sp_arena_destroy(&arena);
    return rc;
}

int ownership_settle(env_t *env, const sp_msg_catalog_shard_t *shard, const owner_tables_t *tables,
                     sp_arcs_t arcs, int64_t ring_version, sp_error_t *err)
{
    sp_guard_t guard = sp_guard_settled(&arcs, ring_version);
    sp_ownership_t ownership = {.ring_version = ring_version,
                                .arcs = arcs,
                                .state = SP_OWNERSHIP_OPEN,
                                .job_id = "",
                                .nonce = ""};
    return ownership_set(env, shard, tables, &guard, &ownership, err);
}
