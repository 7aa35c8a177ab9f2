// One shard's guards and ownership row against the catalog. Blocks.
#ifndef SP_HEALTH_GUARD_CHECK_H
#define SP_HEALTH_GUARD_CHECK_H

#include "common/base/seal.h"
#include "common/owner/owner.h"
#include "common/store/catalog.h"

enum { GUARD_MOST_REASONS = 20 };

typedef struct guard_check {
    const char *reasons[GUARD_MOST_REASONS]; // what differs, from the arena
    size_t n;                                // count; 0: as the catalog wants it
} guard_check_t;

// Whether the catalog says what the shard's guards are now: not while a job may be changing them.
bool guard_check_applies(const sp_catalog_t *catalog, const sp_msg_catalog_shard_t *shard);
// Reads the database. Differences are results; errors (pg_connection, catalog in doubt) mean that nothing can be said.
int guard_check_shard(const sp_catalog_t *catalog, const sp_msg_catalog_shard_t *shard,
                      const sp_seal_t *seal, bool (*stopped)(void *arg), void *stopped_arg,
                      sp_arena_t *arena, guard_check_t *ret_check, sp_error_t *err);

#endif
