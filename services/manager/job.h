// A job's actor: drives one job by the table of common/job until nothing is left to do at its state.
#ifndef SP_MANAGER_JOB_H
#define SP_MANAGER_JOB_H

#include "common/mesh/actor.h"

// The actor's body; arg is an env_seed_t whose name is the job's id.
void job_actor(sp_actor_end_t *end, void *arg);

#endif
