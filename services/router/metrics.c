#include "services/router/metrics.h"

#include "common/base/clock.h"

int router_metrics_open(router_metrics_t *self, const char *service_id, sp_error_t *err)
{
    static const char *const by_code[] = {"message", "code", NULL},
                             *const by_message[] = {"message", NULL},
                             *const by_reason[] = {"reason", NULL},
                             *const by_keyspace[] = {"keyspace", NULL},
                             *const by_state[] = {"shard", "endpoint", "state", NULL},
                             *const by_shard[] = {"shard", "endpoint", NULL};
    sp_metrics_t *m = sp_metrics_new("router", service_id);
    if (m == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for metrics");
    self->registry = m;
    self->requests =
        sp_metrics_counter(m, "shardplane_router_requests_total", "Requests answered.", by_code);
    self->latency = sp_metrics_histogram(m, "shardplane_router_request_seconds",
                                         "From receipt to answer.", by_message, NULL, 0);
    self->refusals = sp_metrics_counter(m, "shardplane_router_refusals_total",
                                        "SHP01 from a shard's guards.", by_reason);
    self->retries = sp_metrics_counter(m, "shardplane_router_retries_total",
                                       "Executions started again.", by_reason);
    self->ring = sp_metrics_gauge(m, "shardplane_router_ring_version",
                                  "Version of the ring that is served.", by_keyspace);
    self->connections =
        sp_metrics_gauge(m, "shardplane_router_connections", "Connections to shards.", by_state);
    self->flights = sp_metrics_gauge(m, "shardplane_router_connection_requests",
                                     "Requests sent and not answered.", by_shard);
    self->parked =
        sp_metric_with(sp_metrics_gauge(m, "shardplane_router_parked",
                                        "Executions that wait for a ring, a shard or time.", NULL),
                       NULL);
    self->in_flight = sp_metric_with(sp_metrics_gauge(m, "shardplane_router_in_flight",
                                                      "Executions that are not answered.", NULL),
                                     NULL);
    self->catalog_age = sp_metric_with(sp_metrics_gauge(m, "shardplane_router_catalog_age_seconds",
                                                        "Since etcd last answered.", NULL),
                                       NULL);
    self->refused = sp_metric_with(sp_metrics_counter(m, "shardplane_router_catalogs_refused_total",
                                                      "Catalogs that were not believed.", NULL),
                                   NULL);
    return 0;
}

void router_metrics_close(router_metrics_t *self)
{
    sp_metrics_destroy(&self->registry);
}

void router_metrics_answered(router_metrics_t *self, const char *message, int code,
                             int64_t received_us)
{
    sp_counter_add(sp_metric_with(self->requests, message, sp_error_name(code), NULL), 1);
    sp_histogram_observe(sp_metric_with(self->latency, message, NULL),
                         (double)(sp_clock_mono_us() - received_us) / 1e6);
}
