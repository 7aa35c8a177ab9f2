// Plan of a split.
#include "services/manager/job_plan.h"

#include <string.h>

#include "services/manager/registration.h"

static void add_finding(preflight_report_t *report, sp_arena_t *arena, sp_str_t shard_id,
                        const char *check, const char *message)
{
    sp_msg_preflight_finding_t *items =
        sp_arena_alloc(arena, report->n_findings + 1, sizeof *items);
    if (!items)
        return;
    if (report->n_findings)
        memcpy(items, report->findings, report->n_findings * sizeof *items);
    items[report->n_findings++] =
        (sp_msg_preflight_finding_t){.check = sp_str(check),
                                     .severity = SP_STR("error"),
                                     .shard_id = shard_id,
                                     .message = sp_str(sp_arena_strz(arena, message))};
    report->findings = items;
    report->ok = false;
}

// Connections of one shard; what cannot be reached becomes a finding of `extra`.
static preflight_shard_t connect_shard(env_t *env, const sp_msg_catalog_shard_t *shard,
                                       sp_arena_t *arena, preflight_report_t *extra)
{
    preflight_shard_t p = {.shard_id = sp_arena_cstr(arena, shard->id)};
    sp_error_t err = {0};
    if (env_pg_record(env, shard, ENV_ADMIN, &p.admin, &err) != 0) {
        p.admin = NULL;
        add_finding(extra, arena, shard->id, "unreachable", err.text);
        return p;
    }
    bool ours = false, other = false;
    int rc = registration_is_ours(env, p.admin, shard->id, &ours, &other, &err);
    if (rc != 0 || other)
        add_finding(extra, arena, shard->id, rc ? "unreachable" : "other_installation",
                    rc ? err.text
                       : "the database holds schema shardplane of another shard, or of another "
                         "installation of Shardplane");
    // Without an apply endpoint the role is made once preflight has passed.
    if (shard->apply.len && env_pg_record(env, shard, ENV_APPLY, &p.apply, &err) != 0) {
        p.apply = NULL;
        add_finding(extra, arena, shard->id, "apply_role", err.text);
    }
    return p;
}

int job_plan_make(env_t *env, const char *job_id, const sp_msg_catalog_shard_t *source,
                  const sp_msg_catalog_shard_t *targets, size_t n_targets, sp_arena_t *arena,
                  job_plan_t *ret_plan, sp_error_t *err)
{
    memset(ret_plan, 0, sizeof *ret_plan);
    const sp_catalog_keyspace_view_t *view = sp_catalog_keyspace(env->catalog, source->keyspace);
    if (!view || !view->ring)
        return sp_error_set(err, SP_E_CONFLICT, "keyspace " SP_STR_FMT " has no ring",
                            SP_STR_ARG(source->keyspace));
    preflight_shard_t *shards = sp_arena_alloc(arena, n_targets + 1, sizeof *shards);
    sp_plan_target_t *plan_targets = sp_arena_alloc(arena, n_targets + 1, sizeof *plan_targets);
    int64_t *ordinals = sp_arena_alloc(arena, n_targets + 1, sizeof *ordinals);
    if (!shards || !plan_targets || !ordinals)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "plan");
    preflight_report_t extra = {.ok = true};
    preflight_input_t input = {.job_id = job_id,
                               .keyspace = view->keyspace,
                               .targets = shards,
                               .n_targets = n_targets,
                               .target_ordinals = ordinals};
    input.sequence_stride = view->keyspace->sequence_stride ? view->keyspace->sequence_stride : 64;
    input.pages_per_range = env->settings->pages_per_range;
    input.source = connect_shard(env, source, arena, &extra);
    for (size_t i = 0; i < n_targets; i++) {
        shards[i] = connect_shard(env, &targets[i], arena, &extra);
        ordinals[i] = targets[i].ordinal;
        plan_targets[i] =
            (sp_plan_target_t){targets[i].id,
                               (size_t)(targets[i].vnode_count > 0 ? targets[i].vnode_count : 256)};
    }
    if (!sp_catalog_service(env->catalog, "resharder", 0))
        add_finding(&extra, arena, (sp_str_t){0}, "workers",
                    "no resharder is registered: nobody would copy");
    sp_error_t plan_err = {0};
    if (sp_plan_split(view->ring, source->id, plan_targets, n_targets, arena, &ret_plan->plan,
                      &plan_err) != 0) {
        memset(&ret_plan->plan, 0, sizeof ret_plan->plan);
        add_finding(&extra, arena, source->id, "plan", plan_err.text);
    }
    if (!input.source.admin)
        ret_plan->report.ok = true; // what `extra` says is enough
    else {
        int rc = preflight_run(&input, arena, &ret_plan->report, err);
        if (rc != 0)
            return rc;
    }
    for (size_t i = 0; i < extra.n_findings; i++) {
        const sp_msg_preflight_finding_t *f = &extra.findings[i];
        add_finding(&ret_plan->report, arena, f->shard_id, sp_arena_cstr(arena, f->check),
                    sp_arena_cstr(arena, f->message));
    }
    return 0;
}
