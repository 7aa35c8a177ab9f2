// Plan of a split: preflight on all its shards, and who gets which arcs. Reads only, so a dry run is the same call. Blocks.
#ifndef SP_MANAGER_JOB_PLAN_H
#define SP_MANAGER_JOB_PLAN_H

#include "common/ring/plan.h"
#include "services/manager/env.h"
#include "services/manager/preflight.h"

typedef struct job_plan {
    preflight_report_t report; // findings and tables
    sp_plan_t plan;            // arcs; moves_n 0 when it could not be made
} job_plan_t;

// targets: records, also of shards that are not registered yet. An error only when it is not known what stands against the job;
// unreachable shards are findings.
int job_plan_make(env_t *env, const char *job_id, const sp_msg_catalog_shard_t *source,
                  const sp_msg_catalog_shard_t *targets, size_t n_targets, sp_arena_t *arena,
                  job_plan_t *ret_plan, sp_error_t *err);

#endif
