// Lag: how far, and for how long, a replica is behind. Pure.
//
// pg_last_xact_replay_timestamp() alone cannot tell: on an idle primary the last commit is old although nothing is missing. So the
// primary's positions are remembered with the time of their observation, and a replica's lag is the age of the first position that
// it has not replayed.
#ifndef SP_HEALTH_PURE_LAG_H
#define SP_HEALTH_PURE_LAG_H

#include <stddef.h>
#include <stdint.h>

enum { LAG_SAMPLES = 64 };

typedef struct lag_sample {
    int64_t lsn;   // position of the primary
    int64_t at_ms; // when it was first seen there, monotonic
} lag_sample_t;

typedef struct lag_history {
    lag_sample_t items[LAG_SAMPLES]; // ascending in both
    size_t n;                        // count
} lag_history_t;

// The primary was seen at lsn. Old samples are thinned out; a position that went back (another primary) starts anew.
void lag_history_add(lag_history_t *self, int64_t lsn, int64_t at_ms);
// Bytes behind, never below 0: the two positions are read one after the other.
int64_t lag_bytes(const lag_history_t *self, int64_t replica_lsn);
// Milliseconds behind at now_ms; 0 when nothing is missing. A lower bound when the replica is behind all that is remembered.
int64_t lag_ms(const lag_history_t *self, int64_t replica_lsn, int64_t now_ms);

#endif
