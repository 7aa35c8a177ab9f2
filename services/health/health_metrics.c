// Numbers of the health service.
#include "services/health/health.h"

int health_metrics_open(health_metrics_t *self, const char *service_id, sp_error_t *err)
{
    static const char *const by_result[] = {"result", NULL};
    static const char *const by_shard[] = {"shard", NULL};
    static const char *const by_replica[] = {"shard", "replica", NULL};
    self->registry = sp_metrics_new("health", service_id);
    if (!self->registry)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for metrics");
    sp_metrics_t *r = self->registry;
    self->probes = sp_metrics_counter(r, "shardplane_health_probes_total",
                                      "Probes of PostgreSQL servers, by result.", by_result);
    self->probe_seconds =
        sp_metric_with(sp_metrics_histogram(r, "shardplane_health_probe_seconds",
                                            "Round trip of a successful probe.", NULL, NULL, 0),
                       NULL);
    self->verdict = sp_metrics_gauge(r, "shardplane_health_shard_verdict",
                                     "1 healthy, 2 degraded, 3 unhealthy, 4 unknown.", by_shard);
    self->lag_bytes = sp_metrics_gauge(r, "shardplane_health_replica_lag_bytes",
                                       "WAL that a replica is behind its primary.", by_replica);
    self->lag_ms = sp_metrics_gauge(r, "shardplane_health_replica_lag_milliseconds",
                                    "For how long a replica has been behind.", by_replica);
    self->guards_ok =
        sp_metrics_gauge(r, "shardplane_health_guards_ok",
                         "Whether a shard's guards are as the catalog wants them.", by_shard);
    self->requests = sp_metric_with(sp_metrics_counter(r, "shardplane_health_requests_total",
                                                       "Requests served.", NULL),
                                    NULL);
    self->errors = sp_metric_with(sp_metrics_counter(r, "shardplane_health_request_errors_total",
                                                     "Requests refused.", NULL),
                                  NULL);
    self->bad_frames =
        sp_metric_with(sp_metrics_counter(r, "shardplane_health_bad_frames_total",
                                          "Messages that were malformed or too large.", NULL),
                       NULL);
    self->catalog_age =
        sp_metric_with(sp_metrics_gauge(r, "shardplane_health_catalog_age_seconds",
                                        "Since etcd last answered the watch.", NULL),
                       NULL);
    return SP_OK;
}

void health_metrics_probe(health_t *self, const shard_t *shard, const sp_msg_probe_result_t *result)
{
    bool failed = result->error.ptr != NULL;
    sp_counter_add(sp_metric_with(self->metrics.probes, failed ? "failed" : "ok", NULL), 1);
    if (!failed)
        sp_histogram_observe(self->metrics.probe_seconds, result->latency_ms / 1000.0);
    if (!shard || result->index <= 0 || (size_t)result->index >= shard->n)
        return;
    const observation_t *seen = &shard->servers[result->index].seen;
    if (!seen->has_lag || failed)
        return;
    char replica[24];
    snprintf(replica, sizeof replica, "%lld", (long long)result->index - 1);
    sp_gauge_set(sp_metric_with(self->metrics.lag_bytes, shard->id, replica, NULL),
                 (double)seen->lag_bytes);
    sp_gauge_set(sp_metric_with(self->metrics.lag_ms, shard->id, replica, NULL),
                 (double)seen->lag_ms);
}

void health_metrics_shard(health_t *self, const shard_t *shard)
{
    sp_gauge_set(sp_metric_with(self->metrics.verdict, shard->id, NULL), shard->verdict);
    if (shard->guards_known)
        sp_gauge_set(sp_metric_with(self->metrics.guards_ok, shard->id, NULL), shard->guards_ok);
}

void health_metrics_forget(health_t *self, const shards_t *former)
{
    for (size_t i = 0; i < former->n; i++) {
        const shard_t *shard = &former->items[i];
        sp_series_hide(sp_metric_with(self->metrics.verdict, shard->id, NULL));
        if (shard->guards_known)
            sp_series_hide(sp_metric_with(self->metrics.guards_ok, shard->id, NULL));
        for (size_t j = 1; j < shard->n; j++) {
            char replica[24];
            snprintf(replica, sizeof replica, "%zu", j - 1);
            sp_series_hide(sp_metric_with(self->metrics.lag_bytes, shard->id, replica, NULL));
            sp_series_hide(sp_metric_with(self->metrics.lag_ms, shard->id, replica, NULL));
        }
    }
}

void health_metrics_tick(health_t *self)
{
    sp_server_stats_t stats;
    sp_server_stats(self->server, &stats);
    sp_counter_set(self->metrics.requests, stats.requests);
    sp_counter_set(self->metrics.errors, stats.errors);
    sp_counter_set(self->metrics.bad_frames, stats.malformed + stats.oversized);
    int64_t age = sp_watch_age_ms(self->watch);
    sp_gauge_set(self->metrics.catalog_age, age == INT64_MAX ? -1 : (double)age / 1000.0);
}
