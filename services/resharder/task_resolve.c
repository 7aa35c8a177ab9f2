// From the catalog to what a task connects to.
#include <string.h>

#include "services/resharder/resharder.h"

// Opens one sealed DSN. The clear text lives in the task's arena, never anywhere else.
static int unseal(const sp_seal_t *seal, sp_str_t sealed, sp_arena_t *arena, const char *shard_id,
                  sp_dsn_t *ret_dsn, sp_error_t *err)
{
    sp_str_t clear;
    int rc = sp_seal_decrypt(seal, sealed, arena, &clear, err);
    if (rc == 0)
        rc = sp_dsn_parse(clear, arena, ret_dsn, err);
    return rc == 0 ? 0 : sp_error_prefix(err, "shard %s", shard_id);
}

static int resolve_shard(task_t *task, sp_str_t id, const sp_catalog_t *catalog,
                         const sp_seal_t *seal, task_shard_t *ret_shard, sp_error_t *err)
{
    sp_arena_t *arena = task->arena;
    const sp_catalog_shard_view_t *view = catalog != NULL ? sp_catalog_shard(catalog, id) : NULL;
    if (view == NULL)
        return sp_error_set(err, SP_E_UNAVAILABLE,
                            "shard " SP_STR_FMT " is not in this worker's catalog", SP_STR_ARG(id));
    const sp_msg_catalog_shard_t *shard = view->shard;
    task_shard_t s = {.shard_id = sp_arena_cstr(arena, id), .ordinal = shard->ordinal};
    s.owner = (sp_owner_shard_t){
        .shard_id = s.shard_id,
        .keyspace = sp_arena_cstr(arena, shard->keyspace),
        .cluster_id = sp_arena_cstr(arena, catalog->generation.cluster_id),
        .apply_role = shard->apply_role.ptr != NULL ? sp_arena_cstr(arena, shard->apply_role)
                                                    : "shardplane_apply",
    };
    int rc = unseal(seal, shard->primary, arena, s.shard_id, &s.app, err);
    if (rc == 0)
        rc = unseal(seal, shard->admin.ptr != NULL ? shard->admin : shard->primary, arena,
                    s.shard_id, &s.admin, err);
    if (rc == 0)
        rc = unseal(seal, shard->apply.ptr != NULL ? shard->apply : shard->primary, arena,
                    s.shard_id, &s.apply, err);
    if (rc == 0 && shard->replicas.n > 0) {
        s.replicas = sp_arena_alloc(arena, shard->replicas.n, sizeof *s.replicas);
        if (s.replicas == NULL)
            return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for shard %s", s.shard_id);
        s.n_replicas = shard->replicas.n;
    }
    for (size_t i = 0; rc == 0 && i < s.n_replicas; i++)
        rc = unseal(seal, shard->replicas.items[i], arena, s.shard_id, &s.replicas[i], err);
    if (rc == 0)
        *ret_shard = s;
    return rc;
}

int task_resolve(task_t *task, const sp_catalog_t *catalog, const sp_seal_t *seal, sp_error_t *err)
{
    int rc = resolve_shard(task, task->assign->source_shard_id, catalog, seal, &task->source, err);
    for (size_t i = 0; rc == 0 && i < task->n_targets; i++)
        rc = resolve_shard(task, task->assign->targets.items[i].shard_id, catalog, seal,
                           &task->targets[i], err);
    return rc;
}
