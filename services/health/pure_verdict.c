// Verdicts.
#include "services/health/pure_verdict.h"

#include <inttypes.h>
#include <stdio.h>

// Whether it is what the catalog takes it for; "" when it is.
static void check_identity(const observation_t *seen, char *reason, size_t size)
{
    if (seen->expected_system.len && !sp_str_eq(seen->system_identifier, seen->expected_system)) {
        snprintf(reason, size,
                 "is another database cluster (system identifier " SP_STR_FMT
                 ", the catalog says " SP_STR_FMT ")",
                 SP_STR_ARG(seen->system_identifier), SP_STR_ARG(seen->expected_system));
    } else if (seen->primary && seen->in_recovery) {
        snprintf(reason, size, "is in recovery: a replica, not a primary");
    } else if (!seen->primary && !seen->in_recovery) {
        snprintf(reason, size,
                 "is not in recovery: it takes writes of its own, so it is no replica");
    }
}

static void check_service(const observation_t *seen, const verdict_limits_t *limits, char *reason,
                          size_t size)
{
    if (seen->failures > 0) {
        snprintf(reason, size, "the last probe failed: %s",
                 seen->error ? seen->error : "no answer");
    } else if (seen->latency_ms > (double)limits->slow_ms) {
        snprintf(reason, size, "answers slowly: a probe took %.0f ms", seen->latency_ms);
    } else if (!seen->primary && seen->has_lag && seen->lag_bytes > limits->max_lag_bytes) {
        snprintf(reason, size, "is %" PRId64 " bytes of WAL behind", seen->lag_bytes);
    } else if (!seen->primary && seen->has_lag && seen->lag_bytes > 0 &&
               seen->lag_ms > limits->max_lag_ms) {
        snprintf(reason, size, "is %" PRId64 " ms behind", seen->lag_ms);
    } else if (!seen->primary && !seen->receiving) {
        snprintf(reason, size, "does not receive WAL");
    }
}

verdict_t verdict_of_server(const observation_t *seen, const verdict_limits_t *limits, char *reason,
                            size_t reason_size)
{
    reason[0] = '\0';
    if (!seen->probed) {
        snprintf(reason, reason_size, "not probed yet");
        return VERDICT_UNKNOWN;
    }
    // A server that has never answered is given no benefit of the doubt.
    if (seen->failures >= limits->failures || !seen->answered) {
        snprintf(reason, reason_size, "does not answer: %s",
                 seen->error ? seen->error : "no answer");
        return VERDICT_UNHEALTHY;
    }
    check_identity(seen, reason, reason_size);
    if (reason[0])
        return VERDICT_UNHEALTHY;
    check_service(seen, limits, reason, reason_size);
    return reason[0] ? VERDICT_DEGRADED : VERDICT_HEALTHY;
}

verdict_t verdict_of_shard(const verdict_t *servers, size_t n, bool guards_differ)
{
    if (n == 0)
        return VERDICT_UNKNOWN;
    if (servers[0] == VERDICT_UNHEALTHY || servers[0] == VERDICT_UNKNOWN)
        return servers[0];
    verdict_t verdict = guards_differ ? VERDICT_DEGRADED : servers[0];
    for (size_t i = 1; i < n; i++)
        if (servers[i] == VERDICT_DEGRADED || servers[i] == VERDICT_UNHEALTHY)
            verdict = VERDICT_DEGRADED;
    return verdict;
}
