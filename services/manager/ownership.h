// Ownership: guards and ownership rows of one shard, set in one transaction under the leader's epoch. Blocks.
#ifndef SP_MANAGER_OWNERSHIP_H
#define SP_MANAGER_OWNERSHIP_H

#include "services/manager/env.h"

typedef struct owner_tables {
    sp_owner_table_t *items; // from the arena
    size_t n;                // count
} owner_tables_t;

// The sharded tables of a keyspace and shardplane.requests. False when memory runs out.
bool ownership_tables(const sp_msg_catalog_keyspace_t *keyspace, sp_arena_t *arena,
                      owner_tables_t *ret_tables);
// What the ring says that a shard owns; nothing for one that is not in it.
int ownership_arcs(const sp_catalog_keyspace_view_t *keyspace, sp_str_t shard_id, sp_arena_t *arena,
                   sp_arcs_t *ret_arcs, sp_error_t *err);

// One transaction: guards of all tables, and the ownership row unless NULL. Waits for locks only shortly and tries again some
// seconds: a lock that others hold for long is an error that may be retried.
int ownership_set(env_t *env, const sp_msg_catalog_shard_t *shard, const owner_tables_t *tables,
                  const sp_guard_t *guard, const sp_ownership_t *ownership, sp_error_t *err);
// As a registered shard outside any job should be: `owns` or closed, ownership open.
int ownership_settle(env_t *env, const sp_msg_catalog_shard_t *shard, const owner_tables_t *tables,
                     sp_arcs_t arcs, int64_t ring_version, sp_error_t *err);

#endif
