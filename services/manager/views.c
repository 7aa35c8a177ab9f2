// Views: catalog records as replies.
#include "services/manager/views.h"

#include "common/job/job_fsm.h"

void view_table(const sp_msg_table_t *table, sp_str_t keyspace, sp_msg_table_t *ret)
{
    *ret = *table;
    ret->keyspace = keyspace;
}

bool view_keyspace(const sp_catalog_t *catalog, const sp_catalog_keyspace_view_t *view,
                   sp_arena_t *arena, sp_msg_keyspace_t *ret)
{
    const sp_msg_catalog_keyspace_t *k = view->keyspace;
    *ret = (sp_msg_keyspace_t){.name = k->name,
                               .key_type = k->key_type,
                               .has_key_type = k->key_type != 0,
                               .ring_version = view->ring_record ? view->ring_record->version : 0,
                               .has_ring_version = true,
                               .sequence_stride = k->sequence_stride,
                               .has_sequence_stride = k->has_sequence_stride};
    ret->tables.items = sp_arena_alloc(arena, k->tables.n + 1, sizeof *ret->tables.items);
    ret->shards.items = sp_arena_alloc(arena, catalog->n_shards + 1, sizeof *ret->shards.items);
    if (!ret->tables.items || !ret->shards.items)
        return false;
    for (size_t i = 0; i < k->tables.n; i++)
        view_table(&k->tables.items[i], k->name, &ret->tables.items[ret->tables.n++]);
    for (size_t i = 0; i < catalog->n_shards; i++)
        if (sp_str_eq(catalog->shards[i].shard->keyspace, k->name))
            ret->shards.items[ret->shards.n++] = catalog->shards[i].shard->id;
    return true;
}

bool view_shard(const sp_catalog_t *catalog, const sp_msg_catalog_shard_t *s, sp_arena_t *arena,
                sp_msg_shard_t *ret)
{
    *ret = (sp_msg_shard_t){.id = s->id,
                            .name = s->id,
                            .keyspace = s->keyspace,
                            .status = s->status,
                            .has_status = true,
                            .version = s->version,
                            .has_version = true,
                            .vnode_count = s->vnode_count,
                            .has_vnode_count = true,
                            .primary = s->primary_info,
                            .replicas = {s->replica_infos.items, s->replica_infos.n},
                            .ordinal = s->ordinal,
                            .has_ordinal = true,
                            .has_ring_version = true,
                            .has_share = true,
                            .has_arcs = true};
    if (s->primary_info) {
        const sp_msg_endpoint_t *e = s->primary_info;
        const char *text =
            sp_arena_printf(arena, "postgresql://" SP_STR_FMT "@" SP_STR_FMT ":%lld/" SP_STR_FMT,
                            SP_STR_ARG(e->user), SP_STR_ARG(e->host), (long long)e->port,
                            SP_STR_ARG(e->database));
        if (!text)
            return false;
        ret->primary_endpoint = sp_str(text);
    }
    const sp_catalog_keyspace_view_t *k = sp_catalog_keyspace(catalog, s->keyspace);
    if (!k || !k->ring)
        return true;
    ret->ring_version = k->ring_record ? k->ring_record->version : 0;
    sp_arcs_t arcs = SP_ARCS_NONE;
    int at = sp_ring_find(k->ring, s->id);
    if (at >= 0 && sp_ring_bounds(k->ring, at, arena, &arcs, NULL) != 0)
        return false;
    ret->share = sp_arcs_share(arcs);
    ret->arcs = (int64_t)sp_arcs_ranges(arcs);
    return true;
}

bool view_job(const sp_msg_catalog_job_t *j, sp_arena_t *arena, sp_msg_job_t *ret)
{
    *ret = (sp_msg_job_t){.id = j->id,
                          .kind = j->kind,
                          .has_kind = true,
                          .state = j->state,
                          .has_state = true,
                          .keyspace = j->keyspace,
                          .source_shard_id = j->source_shard_id,
                          .step = j->step,
                          .attempt = j->attempt,
                          .has_attempt = true,
                          .created_ms = j->created_ms,
                          .has_created_ms = true,
                          .updated_ms = j->updated_ms,
                          .has_updated_ms = true,
                          .phases = {j->phases.items, j->phases.n},
                          .progress = j->progress,
                          .ring_version_before = j->ring_version_before,
                          .has_ring_version_before = j->has_ring_version_before,
                          .ring_version_after = j->ring_version_after,
                          .has_ring_version_after = j->has_ring_version_after,
                          .cutover = j->cutover,
                          .error = j->error,
                          .findings = {j->findings.items, j->findings.n},
                          .cancel_requested = j->cancel_requested,
                          .has_cancel_requested = true,
                          .validation = j->validation,
                          .max_bytes_per_s = j->max_bytes_per_s,
                          .has_max_bytes_per_s = j->has_max_bytes_per_s,
                          .max_replica_lag_bytes = j->max_replica_lag_bytes,
                          .has_max_replica_lag_bytes = j->has_max_replica_lag_bytes};
    sp_str_t *targets = sp_arena_alloc(arena, j->targets.n + 1, sizeof *targets);
    sp_str_t *can = sp_arena_alloc(arena, 4, sizeof *can);
    if (!targets || !can)
        return false;
    for (size_t i = 0; i < j->targets.n; i++)
        targets[i] = j->targets.items[i].shard_id;
    ret->target_shard_ids.items = targets;
    ret->target_shard_ids.n = j->targets.n;
    int state = (int)j->state;
    int mode = (int)sp_job_mode(j->flipped, (int)j->undo_to);
    size_t n = 0;
    if (sp_job_may_cancel(state, mode) && (!j->cancel_requested || state == SP_JOB_FAILED))
        can[n++] = SP_STR("cancel");
    if (sp_job_may_retry(state, mode))
        can[n++] = SP_STR("retry");
    if (sp_job_may_finalize(state, mode) && !j->finalize_requested)
        can[n++] = SP_STR("finalize");
    ret->can.items = can;
    ret->can.n = n;
    return true;
}

const sp_msg_table_t *keyspace_table(const sp_msg_catalog_keyspace_t *keyspace, sp_str_t schema,
                                     sp_str_t table)
{
    for (size_t i = 0; i < keyspace->tables.n; i++)
        if (sp_str_eq(keyspace->tables.items[i].schema, schema) &&
            sp_str_eq(keyspace->tables.items[i].table, table))
            return &keyspace->tables.items[i];
    return NULL;
}

bool keyspace_has_sharded(const sp_msg_catalog_keyspace_t *keyspace)
{
    for (size_t i = 0; i < keyspace->tables.n; i++)
        if (keyspace->tables.items[i].mode != SP_TABLE_MODE_IGNORED)
            return true;
    return false;
}

// A completed job still changes guards until they are folded, and none afterwards.
static bool changes_guards(const sp_msg_catalog_job_t *j)
{
    return j->state == SP_JOB_STATE_COMPLETED ? !sp_catalog_step_done(j, "folded")
                                              : sp_job_is_live((int)j->state);
}

const sp_msg_catalog_job_t *keyspace_busy_with(const sp_catalog_t *catalog, sp_str_t keyspace)
{
    for (size_t i = 0; i < catalog->n_jobs; i++) {
        const sp_msg_catalog_job_t *j = catalog->jobs[i].job;
        if (sp_str_eq(j->keyspace, keyspace) && changes_guards(j))
            return j;
    }
    return NULL;
}

const sp_msg_catalog_job_t *shard_kept_by(const sp_catalog_t *catalog, sp_str_t shard_id)
{
    for (size_t i = 0; i < catalog->n_jobs; i++) {
        const sp_msg_catalog_job_t *j = catalog->jobs[i].job;
        if (j->state == SP_JOB_STATE_COMPLETED && sp_str_eq(j->source_shard_id, shard_id))
            return j;
    }
    return NULL;
}

bool job_needs_actor(const sp_msg_catalog_job_t *j)
{
    if (j->state == SP_JOB_STATE_COMPLETED)
        return changes_guards(j) || j->finalize_requested;
    if (j->state == SP_JOB_STATE_FAILED) // a cancel that came while the failure was undone
        return j->cancel_requested;
    return sp_job_is_live((int)j->state);
}
