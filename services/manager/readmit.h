// Readmit: a replica that lacked something at a flip has it all some day, and is eligible again from then on.
#ifndef SP_MANAGER_READMIT_H
#define SP_MANAGER_READMIT_H

#include "services/manager/env.h"

// Looks once at each ineligible replica of each shard that no job uses, and takes those off the record that have replayed all that their
// primary has now. What cannot be reached stays as it is.
void readmit_replicas(env_t *env);

#endif
