// The prober: one thread that probes all servers, each once an interval, all at the same time.
#ifndef SP_HEALTH_PROBER_H
#define SP_HEALTH_PROBER_H

#include "common/base/seal.h"
#include "common/mesh/actor.h"

typedef struct prober_options {
    const sp_seal_t *seal; // borrowed; read only, so threads may share it
    int64_t interval_ms;   // between the begins of two probes of one server
    int64_t timeout_ms;    // of one probe
} prober_options_t;

// Actor body. arg: a prober_options_t from malloc, freed here. Takes probe_set, sends probe_result.
void prober_run(sp_actor_end_t *end, void *arg);

#endif
