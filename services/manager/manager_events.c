// Events: what changed between two catalogs, as hints for whoever listens.
#include <stdio.h>

#include "schemas/job.h"
#include "schemas/shard.h"
#include "services/manager/manager.h"

void manager_publish(manager_t *m, const char *kind, sp_str_t keyspace, sp_str_t shard,
                     sp_str_t job, const char *state, const char *message,
                     const sp_value_t *details)
{
    sp_msg_event_t event = {.kind = sp_str(kind),
                            .keyspace = keyspace,
                            .shard_id = shard,
                            .job_id = job,
                            .state = sp_str(state),
                            .message = sp_str(message)};
    if (details)
        event.details = *details;
    sp_publisher_event(m->publisher, &event);
}

static void publish_rings(manager_t *m, const sp_catalog_t *before, const sp_catalog_t *now)
{
    sp_str_t none = {0};
    for (size_t i = 0; i < now->n_keyspaces; i++) {
        const sp_catalog_keyspace_view_t *k = &now->keyspaces[i];
        const sp_catalog_keyspace_view_t *old = sp_catalog_keyspace(before, k->keyspace->name);
        int64_t version = k->ring_record ? k->ring_record->version : 0;
        if (old && old->ring_record && old->ring_record->version == version)
            continue;
        sp_value_pair_t pairs[] = {{SP_STR("ring_version"), sp_value_int(version)}};
        sp_value_t details = {.kind = SP_VALUE_MAP, .u.map = {pairs, 1}};
        manager_publish(m, "ring.changed", k->keyspace->name, none, none, NULL, NULL, &details);
    }
}

static void publish_shards(manager_t *m, const sp_catalog_t *before, const sp_catalog_t *now)
{
    sp_str_t none = {0};
    for (size_t i = 0; i < now->n_shards; i++) {
        const sp_msg_catalog_shard_t *s = now->shards[i].shard;
        const sp_catalog_shard_view_t *old = sp_catalog_shard(before, s->id);
        const char *status = sp_enum_name(&sp_enum_shard_status, s->status);
        if (!old)
            manager_publish(m, "shard.registered", s->keyspace, s->id, none, status, NULL, NULL);
        else if (old->shard->status != s->status)
            manager_publish(m, "shard.status", s->keyspace, s->id, none, status, NULL, NULL);
    }
    for (size_t i = 0; i < before->n_shards; i++) {
        const sp_msg_catalog_shard_t *s = before->shards[i].shard;
        if (!sp_catalog_shard(now, s->id))
            manager_publish(m, "shard.removed", s->keyspace, s->id, none, NULL, NULL, NULL);
    }
}

static void publish_jobs(manager_t *m, const sp_catalog_t *before, const sp_catalog_t *now)
{
    for (size_t i = 0; i < now->n_jobs; i++) {
        const sp_msg_catalog_job_t *j = now->jobs[i].job;
        const sp_catalog_job_view_t *old = sp_catalog_job(before, j->id);
        if (old && old->job->state == j->state && old->job->flipped == j->flipped)
            continue;
        char message[1200] = "";
        if (j->error)
            snprintf(message, sizeof message, SP_STR_FMT, SP_STR_ARG(j->error->message));
        manager_publish(m, "job.state", j->keyspace, j->source_shard_id, j->id,
                        sp_enum_name(&sp_enum_job_state, j->state), message[0] ? message : NULL,
                        NULL);
    }
}

void manager_publish_changes(manager_t *m, const sp_catalog_t *before, const sp_catalog_t *now)
{
    if (!before)
        return;
    publish_rings(m, before, now);
    publish_shards(m, before, now);
    publish_jobs(m, before, now);
}
