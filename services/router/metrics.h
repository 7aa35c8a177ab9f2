// What the router counts.
#ifndef SP_ROUTER_METRICS_H
#define SP_ROUTER_METRICS_H

#include "common/base/error.h"
#include "common/telemetry/metrics.h"

typedef struct router_metrics {
    sp_metrics_t *registry;   // owned
    sp_metric_t *requests;    // by message and code
    sp_metric_t *latency;     // by message, seconds
    sp_metric_t *refusals;    // SHP01, by reason
    sp_metric_t *retries;     // by cause
    sp_metric_t *ring;        // ring version by keyspace
    sp_metric_t *connections; // by shard, endpoint and state
    sp_metric_t *flights;     // requests on connections, by shard
    sp_series_t *parked;      // executions that wait
    sp_series_t *in_flight;   // executions in all
    sp_series_t *catalog_age; // seconds since etcd last answered
    sp_series_t *refused;     // catalogs that were not believed
} router_metrics_t;

int router_metrics_open(router_metrics_t *self, const char *service_id, sp_error_t *err);
void router_metrics_close(router_metrics_t *self);
// A request was answered. code 0 or negative; received_us as in sp_request_t.
void router_metrics_answered(router_metrics_t *self, const char *message, int code,
                             int64_t received_us);

#endif
