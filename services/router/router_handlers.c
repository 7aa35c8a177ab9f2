// One function a message, one dispatch table.
#include <stdlib.h>
#include <string.h>

#include "schemas/route.h"
#include "services/router/execute.h"
#include "services/router/rings.h"
#include "services/router/router.h"
#include "services/router/waiting.h"

static void answer(router_t *self, sp_request_t *request, const char *message,
                   const sp_schema_t *schema, const void *reply, const sp_error_t *err)
{
    router_metrics_answered(&self->metrics, message, err->code, request->received_mono_us);
    if (err->code == 0)
        sp_request_reply(&request, schema, reply);
    else
        sp_request_error(&request, err);
}

static void shard_for_key(void *arg, sp_request_t *request)
{
    router_t *self = arg;
    const sp_msg_shard_for_key_t *m = request->body;
    if (waiting_keep(self, m->keyspace, request, shard_for_key))
        return;
    const sp_catalog_keyspace_view_t *k = NULL;
    sp_msg_shard_for_key_reply_t reply = {.has_hash = true, .has_ring_version = true};
    sp_error_t err = {0};
    int index = -1;
    if (router_keyspace(self, m->keyspace, &k, &err) == 0 &&
        router_key(k, m->key, request->arena, &reply.key, &reply.hash, &err) == 0 &&
        router_owner(k, reply.hash, &index, &err) == 0) {
        reply.shard_id = reply.shard_name = sp_ring_shard_id(k->ring, index);
        reply.keyspace = k->keyspace->name;
        reply.ring_version = router_ring_version(k);
        const sp_catalog_shard_view_t *s = sp_catalog_shard(self->catalog, reply.shard_id);
        if (s != NULL && s->shard->primary_info != NULL) {
            reply.host = s->shard->primary_info->host;
            reply.port = s->shard->primary_info->port;
            reply.has_port = s->shard->primary_info->has_port;
            reply.database = s->shard->primary_info->database;
        }
    }
    answer(self, request, "shard_for_key", &sp_schema_shard_for_key_reply, &reply, &err);
}

// owner[i] for each key, shards in the order of their first key.
static int find_owners(const sp_catalog_keyspace_view_t *k, const sp_msg_shards_for_keys_t *m,
                       sp_arena_t *arena, sp_msg_shards_for_keys_reply_t *reply, sp_error_t *err)
{
    size_t n = k->ring != NULL ? sp_ring_shards_n(k->ring) : 0;
    int64_t *place =
        sp_arena_alloc(arena, n > 0 ? n : 1, sizeof *place); // of each shard in the reply, plus one
    reply->shards.items = sp_arena_alloc(arena, n > 0 ? n : 1, sizeof *reply->shards.items);
    reply->owner.items =
        sp_arena_alloc(arena, m->keys.n > 0 ? m->keys.n : 1, sizeof *reply->owner.items);
    if (place == NULL || reply->shards.items == NULL || reply->owner.items == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the owners");
    for (size_t i = 0; i < m->keys.n; i++) {
        sp_str_t key;
        int64_t hash = 0;
        int index = -1, rc = router_key(k, m->keys.items[i], arena, &key, &hash, err);
        if (rc == 0)
            rc = router_owner(k, hash, &index, err);
        if (rc != 0)
            return sp_error_prefix(err, "keys[%zu]", i);
        if (place[index] == 0) {
            reply->shards.items[reply->shards.n++] = sp_ring_shard_id(k->ring, index);
            place[index] = (int64_t)reply->shards.n;
        }
        reply->owner.items[reply->owner.n++] = place[index] - 1;
    }
    return 0;
}

static void shards_for_keys(void *arg, sp_request_t *request)
{
    router_t *self = arg;
    const sp_msg_shards_for_keys_t *m = request->body;
    if (waiting_keep(self, m->keyspace, request, shards_for_keys))
        return;
    const sp_catalog_keyspace_view_t *k = NULL;
    sp_msg_shards_for_keys_reply_t reply = {.has_ring_version = true};
    sp_error_t err = {0};
    if (router_keyspace(self, m->keyspace, &k, &err) == 0) {
        reply.ring_version = router_ring_version(k);
        find_owners(k, m, request->arena, &reply, &err);
    }
    answer(self, request, "shards_for_keys", &sp_schema_shards_for_keys_reply, &reply, &err);
}

static void ring_get(void *arg, sp_request_t *request)
{
    router_t *self = arg;
    const sp_msg_ring_get_t *m = request->body;
    if (waiting_keep(self, m->keyspace, request, ring_get))
        return;
    const sp_catalog_keyspace_view_t *k = NULL;
    sp_msg_ring_snapshot_t reply = {0};
    sp_error_t err = {0};
    // A ring is larger than the request that asks for it: it has an arena of its own.
    sp_arena_t *arena = sp_arena_new(0);
    if (arena == NULL)
        sp_error_set(&err, SP_E_OUT_OF_MEMORY, "no memory for a ring");
    else if (router_keyspace(self, m->keyspace, &k, &err) == 0)
        rings_snapshot(self, k, arena, &reply, &err);
    answer(self, request, "ring_get", &sp_schema_ring_snapshot, &reply, &err);
    sp_arena_destroy(&arena);
}

static void execute(void *arg, sp_request_t *request)
{
    const sp_msg_execute_t *m = request->body;
    if (!waiting_keep(arg, m->keyspace, request, execute))
        execute_handle(arg, request);
}

const sp_dispatch_t router_dispatch[] = {
    {&sp_schema_shard_for_key, shard_for_key},
    {&sp_schema_shards_for_keys, shards_for_keys},
    {&sp_schema_ring_get, ring_get},
    {&sp_schema_execute, execute},
    {NULL, NULL},
};
