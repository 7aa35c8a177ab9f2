// Requests: one function a message.
#include "services/health/health.h"

static bool refuse_without_catalog(health_t *self, sp_request_t **request_p)
{
    if (atomic_load(&self->has_catalog))
        return false;
    sp_request_fail(request_p, SP_E_UNAVAILABLE, "the catalog has not been read yet");
    return true;
}

static void on_get(void *arg, sp_request_t *request)
{
    health_t *self = arg;
    if (refuse_without_catalog(self, &request))
        return;
    const sp_msg_shard_health_get_t *body = request->body;
    const shard_t *shard = shards_find(&self->shards, body->shard_id);
    sp_msg_shard_health_t view;
    if (!shard)
        sp_request_fail(&request, SP_E_NOT_FOUND, "there is no shard " SP_STR_FMT,
                        SP_STR_ARG(body->shard_id));
    else if (!shards_view(shard, sp_str(self->service_id), request->arena, &view))
        sp_request_fail(&request, SP_E_OUT_OF_MEMORY, "no memory for an answer");
    else
        sp_request_reply(&request, &sp_schema_shard_health, &view);
}

static void on_list(void *arg, sp_request_t *request)
{
    health_t *self = arg;
    if (refuse_without_catalog(self, &request))
        return;
    sp_msg_health_list_reply_t reply = {0};
    sp_msg_shard_health_t *views = sp_arena_alloc(request->arena, self->shards.n, sizeof *views);
    bool ok = views != NULL;
    for (size_t i = 0; ok && i < self->shards.n; i++)
        ok = shards_view(&self->shards.items[i], sp_str(self->service_id), request->arena,
                         &views[i]);
    reply.shards.items = views;
    reply.shards.n = self->shards.n;
    if (ok)
        sp_request_reply(&request, &sp_schema_health_list_reply, &reply);
    else
        sp_request_fail(&request, SP_E_OUT_OF_MEMORY, "no memory for an answer");
}

const sp_dispatch_t health_dispatch[] = {
    {&sp_schema_shard_health_get, on_get},
    {&sp_schema_health_list, on_list},
    {NULL, NULL},
};
