// Registration: what is done inside a database so that it becomes a shard, and stops being one. Blocks.
#ifndef SP_MANAGER_REGISTRATION_H
#define SP_MANAGER_REGISTRATION_H

#include "services/manager/ownership.h"

// Which of the tables exist in the database.
int registration_present(sp_pg_t *pg, const owner_tables_t *tables, sp_arena_t *arena,
                         owner_tables_t *ret_present, sp_error_t *err);
// Schema shardplane, and closed guards on the registered tables that are there. Refuses (preflight_failed) tables that hold rows.
int registration_close(env_t *env, const sp_msg_catalog_shard_t *shard,
                       const sp_msg_catalog_keyspace_t *keyspace, sp_arena_t *arena,
                       sp_error_t *err);
// Whether schema shardplane is there and this shard's, of this cluster. *ret_other (unless NULL): it is somebody else's, or its control
// row is gone; then nothing in it may be touched, not even the epoch.
int registration_is_ours(const env_t *env, sp_pg_t *pg, sp_str_t shard_id, bool *ret_ours,
                         bool *ret_other, sp_error_t *err);
// Guards and schema shardplane away, unless they are not ours.
int registration_remove(env_t *env, const sp_msg_catalog_shard_t *shard, sp_error_t *err);
// Number of rows of the table that the shard may not hold, and of all its rows.
int registration_misplaced(sp_pg_t *pg, const sp_owner_table_t *table, sp_arcs_t arcs,
                           int64_t *ret_misplaced, int64_t *ret_rows, sp_error_t *err);

#endif
