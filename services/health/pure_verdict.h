// Verdicts: what observations of servers mean. Pure.
#ifndef SP_HEALTH_PURE_VERDICT_H
#define SP_HEALTH_PURE_VERDICT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/str.h"

// The numbers of enum verdict in schemas/health.json (a unit test compares them).
typedef enum {
    VERDICT_HEALTHY = 1,   // does what it is there for
    VERDICT_DEGRADED = 2,  // serves, but something needs a look
    VERDICT_UNHEALTHY = 3, // does not serve
    VERDICT_UNKNOWN = 4,   // not observed yet
} verdict_t;

typedef struct verdict_limits {
    int64_t failures;      // failed probes in a row until a server counts as down
    int64_t slow_ms;       // a longer probe degrades
    int64_t max_lag_bytes; // a replica further behind degrades
    int64_t max_lag_ms;    // a replica later than this degrades
} verdict_limits_t;

// What is known of one server.
typedef struct observation {
    bool primary;               // its place in the catalog
    bool probed;                // at least one probe has ended
    int64_t failures;           // failed probes in a row
    const char *error;          // of the last failed one
    bool answered;              // at least one probe has succeeded; the rest is of the last such
    double latency_ms;          // round trip
    bool in_recovery;           // pg_is_in_recovery
    bool receiving;             // a WAL receiver runs
    bool has_lag;               // lag_bytes and lag_ms are known
    int64_t lag_bytes;          // behind the primary
    int64_t lag_ms;             // for how long, else 0
    sp_str_t system_identifier; // as it says
    sp_str_t expected_system;   // as the catalog says; absent: not compared
} observation_t;

// reason: filled when not healthy, else "".
verdict_t verdict_of_server(const observation_t *seen, const verdict_limits_t *limits, char *reason,
                            size_t reason_size);

// A shard's from its servers', the primary first. A primary that is down makes it unhealthy; a replica that is not healthy, or
// guards that differ from the catalog, degrade it. n 0: unknown.
verdict_t verdict_of_shard(const verdict_t *servers, size_t n, bool guards_differ);

#endif
