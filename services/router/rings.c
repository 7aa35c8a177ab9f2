#include "services/router/rings.h"

#include <string.h>

#include "common/base/log.h"
#include "common/ring/key.h"

enum { ARENA_LIMIT = 256 * 1024 * 1024 };

static int fill_shard(const router_t *self, const sp_ring_t *ring, int index, sp_arena_t *arena,
                      sp_msg_ring_shard_t *out, sp_error_t *err)
{
    sp_arcs_t arcs = SP_ARCS_NONE;
    int rc = sp_ring_bounds(ring, index, arena, &arcs, err);
    if (rc != 0)
        return rc;
    out->shard_id = sp_ring_shard_id(ring, index);
    out->share = sp_arcs_share(arcs);
    out->has_share = true;
    out->bounds.items = sp_arena_alloc(arena, arcs.n > 0 ? arcs.n : 1, sizeof *out->bounds.items);
    if (out->bounds.items == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a ring");
    if (arcs.n > 0)
        memcpy(out->bounds.items, arcs.bounds, arcs.n * sizeof *out->bounds.items);
    out->bounds.n = arcs.n;
    const sp_catalog_shard_view_t *s = sp_catalog_shard(self->catalog, out->shard_id);
    const sp_msg_endpoint_t *place = s != NULL ? s->shard->primary_info : NULL;
    if (place != NULL) {
        out->host = place->host;
        out->port = place->port;
        out->has_port = place->has_port;
        out->database = place->database;
    }
    return 0;
}

int rings_snapshot(const router_t *self, const sp_catalog_keyspace_view_t *keyspace,
                   sp_arena_t *arena, sp_msg_ring_snapshot_t *ret, sp_error_t *err)
{
    sp_msg_ring_snapshot_t out = {.keyspace = keyspace->keyspace->name,
                                  .ring_version = router_ring_version(keyspace),
                                  .has_ring_version = true};
    if (keyspace->keyspace->has_key_type)
        out.key_type = sp_str(sp_key_type_name((int)keyspace->keyspace->key_type));
    if (self->publisher != NULL) {
        out.sequence = sp_publisher_sequence(self->publisher);
        out.has_sequence = true;
    }
    size_t n = keyspace->ring != NULL ? sp_ring_shards_n(keyspace->ring) : 0;
    out.shards.items = sp_arena_alloc(arena, n > 0 ? n : 1, sizeof *out.shards.items);
    if (out.shards.items == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a ring");
    for (size_t i = 0; i < n; i++) {
        if (sp_ring_shard_tokens(keyspace->ring, (int)i).n == 0)
            continue; // registered, and owns nothing
        int rc =
            fill_shard(self, keyspace->ring, (int)i, arena, &out.shards.items[out.shards.n], err);
        if (rc != 0)
            return rc;
        out.shards.n++;
    }
    *ret = out;
    return 0;
}

static void publish(router_t *self, const sp_catalog_keyspace_view_t *keyspace)
{
    sp_error_t err = {0};
    sp_msg_ring_snapshot_t snapshot = {0};
    sp_arena_t *arena = sp_arena_new(ARENA_LIMIT);
    if (arena != NULL && rings_snapshot(self, keyspace, arena, &snapshot, &err) == 0) {
        char *topic =
            sp_arena_printf(arena, "ring." SP_STR_FMT, SP_STR_ARG(keyspace->keyspace->name));
        sp_msg_ring_change_t change = {.sequence = sp_publisher_next(self->publisher),
                                       .has_sequence = true,
                                       .ring = &snapshot};
        snapshot.sequence = change.sequence;
        if (topic != NULL)
            sp_publisher_send(self->publisher, topic, &sp_schema_ring_change, &change, &err);
    }
    if (err.code != 0)
        sp_log(SP_LOG_WARN, "RING-NOT-PUBLISHED", "error", err.text, NULL);
    sp_arena_destroy(&arena);
}

static const sp_msg_endpoint_t *primary_of(const sp_catalog_t *catalog, sp_str_t shard_id)
{
    static const sp_msg_endpoint_t none = {0};
    const sp_catalog_shard_view_t *s = sp_catalog_shard(catalog, shard_id);
    return s != NULL && s->shard->primary_info != NULL ? s->shard->primary_info : &none;
}

// A promotion gives a shard another primary, and leaves the ring as it is.
static bool primaries_differ(const sp_catalog_t *a, const sp_catalog_t *b, const sp_ring_t *ring)
{
    for (size_t i = 0; ring != NULL && i < sp_ring_shards_n(ring); i++) {
        sp_str_t id = sp_ring_shard_id(ring, (int)i);
        const sp_msg_endpoint_t *x = primary_of(a, id), *y = primary_of(b, id);
        if (!sp_str_eq(x->host, y->host) || x->port != y->port ||
            !sp_str_eq(x->database, y->database))
            return true;
    }
    return false;
}

void rings_publish(router_t *self, const sp_catalog_t *before)
{
    for (size_t i = 0; self->publisher != NULL && i < self->catalog->n_keyspaces; i++) {
        const sp_catalog_keyspace_view_t *now = &self->catalog->keyspaces[i];
        const sp_catalog_keyspace_view_t *then =
            before != NULL ? sp_catalog_keyspace(before, now->keyspace->name) : NULL;
        if (then == NULL || then->ring_rev.mod_revision != now->ring_rev.mod_revision ||
            primaries_differ(before, self->catalog, now->ring))
            publish(self, now);
    }
}
