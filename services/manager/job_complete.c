// State completed: the forward slot goes, guards are folded, the shards are free. Once finalize is asked for, everything else goes too.
#include <stdio.h>
#include <string.h>

#include "common/base/log.h"
#include "services/manager/command.h"
#include "services/manager/claim.h"
#include "services/manager/job_work.h"
#include "services/manager/sql/manager.h"

static int settle(job_t *job, sp_str_t id, sp_arcs_t arcs, sp_error_t *err)
{
    const sp_catalog_shard_view_t *view = job_shard(job, id, err);
    if (!view)
        return SP_E_CONFLICT;
    owner_tables_t tables;
    int rc = job_present_tables(job, view->shard, &tables, err);
    return rc == 0 ? ownership_settle(&job->env, view->shard, &tables, arcs,
                                      job->rec->ring_version_after, err)
                   : rc;
}

static int step_stop_follow(job_t *job, sp_error_t *err)
{
    job_task_end(job, &job->follow);
    return env_stopped(&job->env)
               ? sp_error_set(err, SP_E_STALE_EPOCH, "this manager does not lead any more")
               : 0;
}

static int step_fold(job_t *job, sp_error_t *err)
{
    const sp_msg_catalog_job_t *r = job->rec;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < r->targets.n; i++) {
        const sp_msg_job_target_t *t = &r->targets.items[i];
        rc = settle(job, t->shard_id, (sp_arcs_t){t->bounds_after.items, t->bounds_after.n}, err);
    }
    return rc == 0
               ? settle(job, r->source_shard_id,
                        (sp_arcs_t){r->source_bounds_after.items, r->source_bounds_after.n}, err)
               : rc;
}

static int step_drop_slot(job_t *job, sp_error_t *err)
{
    return job->rec->slot.len ? job_drop_slot(job, job->rec->source_shard_id, job->rec->slot, err)
                              : 0;
}

static void free_shard(job_t *job, sp_catalog_txn_t *txn, sp_str_t id)
{
    const sp_catalog_shard_view_t *view = claim_held(job->env.catalog, id, job->id);
    if (view)
        claim_release(txn, job->arena, view, 0);
}

static int put_free(job_t *job, sp_catalog_txn_t *txn, sp_error_t *err)
{
    (void)err;
    free_shard(job, txn, job->rec->source_shard_id);
    for (size_t i = 0; i < job->rec->targets.n; i++)
        free_shard(job, txn, job->rec->targets.items[i].shard_id);
    return 0;
}

static int step_release(job_t *job, sp_error_t *err)
{
    int rc = job_reload(job, err);
    return rc == 0 ? job_commit_strict(job, put_free, err) : rc;
}

static int step_folded(job_t *job, sp_error_t *err)
{
    (void)job;
    (void)err;
    return 0;
}

// ---- finalize

static int step_drop_publication(job_t *job, sp_error_t *err)
{
    int rc = job_on_shard(job, job->rec->source_shard_id, SP_SQL_DROP_SLOTS, err);
    return rc == 0 ? job_drop_publication(job, err) : rc;
}

static int step_drop_origins(job_t *job, sp_error_t *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < job->rec->targets.n; i++)
        rc = job_on_shard(job, job->rec->targets.items[i].shard_id, SP_SQL_DROP_ORIGINS, err);
    return rc;
}

static int step_forget(job_t *job, sp_error_t *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < job->rec->targets.n; i++) {
        rc = job_on_shard(job, job->rec->targets.items[i].shard_id, SP_SQL_FORGET_JOB, err);
        if (rc == 0) // it stays, as the shard's own
            rc = job_on_shard(job, job->rec->targets.items[i].shard_id, SP_SQL_TAKE_MADE, err);
    }
    return rc == 0 ? job_on_shard(job, job->rec->source_shard_id, SP_SQL_FORGET_JOB, err) : rc;
}

// All that moved away, whoever got it.
static int moved_arcs(job_t *job, sp_arena_t *arena, sp_arcs_t *ret, sp_error_t *err)
{
    *ret = SP_ARCS_NONE;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < job->rec->targets.n; i++) {
        const sp_msg_job_target_t *t = &job->rec->targets.items[i];
        rc = sp_arcs_union(*ret, (sp_arcs_t){t->bounds.items, t->bounds.n}, arena, ret, err);
    }
    return rc;
}

static int assign_purge(job_t *job, void *arg, size_t i, sp_arena_t *arena, sp_msg_task_assign_t *a)
{
    (void)i;
    (void)arena;
    const sp_arcs_t *arcs = arg;
    a->targets.n = 0;
    job_assign_tables(job, a);
    a->bounds.items = (int64_t *)arcs->bounds;
    a->bounds.n = arcs->n;
    job_throttle_assign(job, a);
    return 0;
}

// Only here, only when asked for, and only arcs whose copy was validated: the record says so, or nothing is deleted.
static int step_purge(job_t *job, sp_error_t *err)
{
    sp_arcs_t arcs;
    if (!job->rec->drop_source_rows)
        return 0;
    if (!job->rec->validation || !job->rec->validation->passed)
        return sp_error_set(err, SP_E_CONFLICT,
                            "the job's copy was never validated: its source rows stay");
    int rc = moved_arcs(job, job->arena, &arcs, err);
    sp_arcs_t mine = rc == 0 ? job_source_arcs(job, job->arena, err, &rc) : SP_ARCS_NONE;
    if (rc == 0)
        rc = sp_arcs_subtract(arcs, mine, job->arena, &arcs, err);
    job_batch_t batch = {.n = 1,
                         .what = "purge",
                         .kind = SP_TASK_KIND_PURGE,
                         .assign = assign_purge,
                         .arg = &arcs};
    return rc == 0 ? job_batch_run(job, &batch, err) : rc;
}

static int finalize(job_t *job, sp_error_t *err)
{
    int rc = job_step(job, "drop_publication", step_drop_publication, err);
    if (rc == 0)
        rc = job_step(job, "drop_origins", step_drop_origins, err);
    if (rc == 0)
        rc = job_step(job, "restore_identities", job_restore_identities, err);
    if (rc == 0)
        rc = job_step(job, "forget", step_forget, err);
    if (rc == 0)
        rc = job_step(job, "purge", step_purge, err);
    return rc == 0 ? job_transition(job, SP_JOB_EV_FINALIZED, NULL, err) : rc;
}

int job_completed(job_t *job, sp_error_t *err)
{
    int rc = job_step(job, "stop_follow", step_stop_follow, err);
    if (rc == 0)
        rc = job_step(job, "drop_slot", step_drop_slot, err); // keeps WAL: waits for no target
    if (rc == 0)
        rc = job_step(job, "fold", step_fold, err);
    if (rc == 0)
        rc = job_step(job, "release", step_release, err);
    if (rc == 0)
        rc = job_step(job, "folded", step_folded, err);
    return rc == 0 && job->rec->finalize_requested ? finalize(job, err) : rc;
}
