// The guard checker: one thread that compares, shard after shard, what guards each database has with what the catalog wants.
#ifndef SP_HEALTH_GUARDS_H
#define SP_HEALTH_GUARDS_H

#include "common/base/seal.h"
#include "common/mesh/actor.h"
#include "common/store/store.h"

typedef struct guards_options {
    const sp_seal_t *seal;    // borrowed; read only, so threads may share it
    sp_store_options_t store; // borrowed strings live as long as the service
    int64_t interval_ms;      // between two rounds over all shards
} guards_options_t;

// Actor body. arg: a guards_options_t from malloc, freed here. Sends guard_result for every shard that is in no job.
void guards_run(sp_actor_end_t *end, void *arg);

#endif
