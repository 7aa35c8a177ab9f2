// One server's probe: an asynchronous libpq connection that is kept, and one query a round. Never blocks, but for the resolution of
// host names in libpq.
#ifndef SP_HEALTH_PROBE_H
#define SP_HEALTH_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/seal.h"
#include "schemas/health.h"

typedef struct probe probe_t;

// What one round found; borrowed from the probe until its next round.
typedef struct probe_outcome {
    bool ok;                       // it answered
    const char *error;             // why not, without secrets
    double latency_ms;             // of the query
    bool in_recovery;              // pg_is_in_recovery
    int64_t lsn;                   // primary: written; replica: replayed
    bool receiving;                // a WAL receiver runs
    const char *system_identifier; // digits
    int64_t timeline;              // of the last checkpoint
} probe_outcome_t;

// server is copied. NULL when memory runs out. A DSN that cannot be unsealed makes a probe that fails each round with that reason.
probe_t *probe_new(const sp_msg_probe_server_t *server, const sp_seal_t *seal);
void probe_destroy(probe_t **self_p);
bool probe_is_for(const probe_t *self,
                  const sp_msg_probe_server_t *server); // same shard, place and sealed DSN
const char *probe_shard(const probe_t *self);
int64_t probe_index(const probe_t *self);

// Begins a round that must end by the deadline (monotonic ms). Nothing when one is under way.
void probe_start(probe_t *self, int64_t deadline_ms);
bool probe_running(const probe_t *self);
// Descriptor and poll events to wait for; -1 when none.
int probe_fd(const probe_t *self, short *ret_events);
// Goes on after an event or a timeout. True when the round has ended: *ret_outcome is filled.
bool probe_step(probe_t *self, short revents, probe_outcome_t *ret_outcome);

#endif
