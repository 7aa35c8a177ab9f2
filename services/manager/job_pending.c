// State pending: preflight, the plan of arcs, and the apply roles of new shards. Nothing is made before preflight has passed.
#include <stdio.h>
#include <string.h>

#include "common/base/log.h"
#include "services/manager/command.h"
#include "services/manager/identity.h"
#include "services/manager/job_plan.h"
#include "services/manager/job_work.h"

static int refuse(job_t *job, const job_plan_t *plan, sp_error_t *err)
{
    const sp_msg_preflight_finding_t *first = NULL;
    size_t n = 0;
    for (size_t i = 0; i < plan->report.n_findings; i++) {
        if (!sp_str_eqz(plan->report.findings[i].severity, "error"))
            continue;
        first = first ? first : &plan->report.findings[i];
        n++;
    }
    sp_error_t why = {0};
    sp_error_set(&why, SP_E_PREFLIGHT_FAILED, "preflight found %zu error%s; the first: " SP_STR_FMT,
                 n, n == 1 ? "" : "s", SP_STR_ARG(first ? first->message : SP_STR("unknown")));
    job_set_error(job, &why);
    return job_transition(job, SP_JOB_EV_REFUSED, NULL, err);
}

static void take_plan(job_t *job, const job_plan_t *plan)
{
    sp_msg_catalog_job_t *r = job->rec;
    r->tables.items = plan->report.tables;
    r->tables.n = plan->report.n_tables;
    r->partitioned.items = plan->report.partitioned;
    r->partitioned.n = plan->report.n_partitioned;
    r->timeline = plan->report.timeline;
    r->has_timeline = true;
    r->binary_stream = plan->report.binary_stream;
    r->has_binary_stream = true;
    r->source_bounds_after.items = (int64_t *)plan->plan.source_after.bounds;
    r->source_bounds_after.n = plan->plan.source_after.n;
    for (size_t i = 0; i < r->targets.n; i++) {
        const sp_plan_move_t *move = &plan->plan.moves[i];
        r->targets.items[i].bounds.items = (int64_t *)move->moves.bounds;
        r->targets.items[i].bounds.n = move->moves.n;
        r->targets.items[i].bounds_after.items = (int64_t *)move->bounds_after.bounds;
        r->targets.items[i].bounds_after.n = move->bounds_after.n;
    }
    job->progress =
        (sp_msg_job_progress_t){.rows_total = plan->report.rows, .bytes_total = plan->report.bytes};
}

static int encode_tokens(job_t *job, const job_plan_t *plan, sp_error_t *err)
{
    sp_msg_catalog_job_t *r = job->rec;
    int rc =
        sp_tokens_encode(plan->plan.source_tokens_after, job->arena, &r->source_tokens_after, err);
    for (size_t i = 0; rc == 0 && i < r->targets.n; i++)
        rc = sp_tokens_encode(plan->plan.moves[i].tokens_after, job->arena,
                              &r->targets.items[i].tokens, err);
    return rc;
}

// The records with the apply roles that were just made go into the same transaction as the plan.
static int put_registrations(job_t *job, sp_catalog_txn_t *txn, sp_error_t *err)
{
    for (size_t i = 0; i < job->rec->targets.n; i++) {
        const sp_msg_job_target_t *t = &job->rec->targets.items[i];
        if (!t->registration)
            continue;
        const sp_catalog_shard_view_t *view = job_shard(job, t->shard_id, err);
        if (!view)
            return SP_E_CONFLICT;
        sp_msg_catalog_shard_t record = *view->shard;
        record.apply = t->registration->apply;
        record.apply_role = t->registration->apply_role;
        put_shard(txn, job->arena, &record, view->rev.mod_revision);
    }
    return 0;
}

int job_pending(job_t *job, sp_error_t *err)
{
    sp_msg_catalog_job_t *r = job->rec;
    const sp_catalog_shard_view_t *source = job_shard(job, r->source_shard_id, err);
    if (!source)
        return SP_E_CONFLICT;
    sp_msg_catalog_shard_t *targets = sp_arena_alloc(job->arena, r->targets.n + 1, sizeof *targets);
    for (size_t i = 0; targets && i < r->targets.n; i++) {
        const sp_catalog_shard_view_t *view = job_shard(job, r->targets.items[i].shard_id, err);
        if (!view)
            return SP_E_CONFLICT;
        targets[i] = *view->shard;
    }
    job_plan_t plan;
    int rc = targets ? job_failpoint("preflight", "before", err)
                     : sp_error_set(err, SP_E_OUT_OF_MEMORY, "job");
    if (rc == 0)
        rc = job_plan_make(&job->env, job->id, source->shard, targets, r->targets.n, job->arena,
                           &plan, err);
    if (rc != 0)
        return rc;
    r->findings.items = plan.report.findings;
    r->findings.n = plan.report.n_findings;
    if (!plan.report.ok)
        return refuse(job, &plan, err);
    for (size_t i = 0; rc == 0 && i < r->targets.n; i++)
        if (r->targets.items[i].registration)
            rc = identity_provision(&job->env, r->targets.items[i].registration, r->targets.items,
                                    r->targets.n, job->arena, err);
    if (rc == 0)
        rc = encode_tokens(job, &plan, err);
    if (rc != 0)
        return rc;
    take_plan(job, &plan);
    const sp_catalog_keyspace_view_t *keyspace = sp_catalog_keyspace(job->env.catalog, r->keyspace);
    r->ring_version_before = keyspace && keyspace->ring_record ? keyspace->ring_record->version : 0;
    r->has_ring_version_before = true;
    r->publication = sp_str(sp_arena_printf(job->arena, "shp_%s", job->id));
    r->error = NULL;
    return job_transition(job, SP_JOB_EV_PLANNED, put_registrations, err);
}
