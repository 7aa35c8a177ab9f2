// Rings as messages: the snapshot, and the feed of changes (topic `ring.<keyspace>`).
#ifndef SP_ROUTER_RINGS_H
#define SP_ROUTER_RINGS_H

#include "schemas/route.h"
#include "services/router/router.h"

// Fills a snapshot of one keyspace from the catalog; everything it points to is the catalog's or the arena's. out_of_memory.
int rings_snapshot(const router_t *self, const sp_catalog_keyspace_view_t *keyspace,
                   sp_arena_t *arena, sp_msg_ring_snapshot_t *ret, sp_error_t *err);
// Publishes the rings that differ between two catalogs, or whose shards have other primaries; before NULL: all.
void rings_publish(router_t *self, const sp_catalog_t *before);

#endif
