// Views: what the catalog holds, as the messages that clients see. Strings borrow from the catalog; lists come from the arena.
// No view shows a DSN.
#ifndef SP_MANAGER_VIEWS_H
#define SP_MANAGER_VIEWS_H

#include "common/store/catalog.h"
#include "schemas/job.h"
#include "schemas/shard.h"

// False when memory runs out.
bool view_keyspace(const sp_catalog_t *catalog, const sp_catalog_keyspace_view_t *view,
                   sp_arena_t *arena, sp_msg_keyspace_t *ret);
void view_table(const sp_msg_table_t *table, sp_str_t keyspace, sp_msg_table_t *ret);
bool view_shard(const sp_catalog_t *catalog, const sp_msg_catalog_shard_t *shard, sp_arena_t *arena,
                sp_msg_shard_t *ret);
bool view_job(const sp_msg_catalog_job_t *job, sp_arena_t *arena, sp_msg_job_t *ret);

// The registered table of that name, or NULL.
const sp_msg_table_t *keyspace_table(const sp_msg_catalog_keyspace_t *keyspace, sp_str_t schema,
                                     sp_str_t table);
bool keyspace_has_sharded(const sp_msg_catalog_keyspace_t *keyspace);
// A job that still changes guards of the keyspace: live, being undone, or completed and not folded yet; or NULL.
const sp_msg_catalog_job_t *keyspace_busy_with(const sp_catalog_t *catalog, sp_str_t keyspace);
// A completed job whose finalize is to come, and which may then delete rows from this shard, its source; or NULL.
const sp_msg_catalog_job_t *shard_kept_by(const sp_catalog_t *catalog, sp_str_t shard_id);
bool job_needs_actor(const sp_msg_catalog_job_t *job);

#endif
