// The health service: probes, lag, verdicts.
#ifndef SP_HEALTH_HEALTH_H
#define SP_HEALTH_HEALTH_H

#include <stdatomic.h>

#include "common/base/seal.h"
#include "common/config/config.h"
#include "common/mesh/actor.h"
#include "common/mesh/mesh.h"
#include "common/mesh/signals.h"
#include "common/store/catalog.h"
#include "common/store/service.h"
#include "common/telemetry/listener.h"
#include "services/health/shards.h"

typedef struct health_metrics {
    sp_metrics_t *registry;     // owned
    sp_metric_t *probes;        // by result
    sp_series_t *probe_seconds; // histogram
    sp_metric_t *verdict;       // by shard: 1 healthy .. 4 unknown
    sp_metric_t *lag_bytes;     // by shard, replica
    sp_metric_t *lag_ms;        // by shard, replica
    sp_metric_t *guards_ok;     // by shard
    sp_series_t *requests;      // served
    sp_series_t *errors;        // of them refused
    sp_series_t *bad_frames;    // malformed and oversized
    sp_series_t *catalog_age;   // seconds since etcd last answered
} health_metrics_t;

typedef struct health {
    const sp_config_t *config; // borrowed
    const char *service_id;    // borrowed from config
    zloop_t *loop;             // owned
    sp_signals_t *signals;     // SIGTERM, SIGINT
    sp_seal_t *seal;           // opens DSNs
    sp_server_t *server;       // requests
    sp_publisher_t *publisher; // events
    sp_listener_t *listener;   // probes of this process
    sp_watch_t *watch;         // catalog
    sp_member_t *member;       // registration
    sp_actor_t *prober;        // probes servers
    sp_actor_t *guards;        // compares guards
    shards_t shards;           // what is known
    health_metrics_t metrics;  // numbers
    atomic_bool has_catalog;   // read once
    atomic_bool actor_lost;    // an actor ended by itself
} health_t;

// Runs until SIGTERM or SIGINT. 0, or why it could not start.
int health_run(const sp_config_t *config, sp_error_t *err);

// health_handlers.c
extern const sp_dispatch_t health_dispatch[];

// health_metrics.c
int health_metrics_open(health_metrics_t *self, const char *service_id, sp_error_t *err);
void health_metrics_probe(health_t *self, const shard_t *shard,
                          const sp_msg_probe_result_t *result);
void health_metrics_shard(health_t *self, const shard_t *shard);
void health_metrics_forget(health_t *self,
                           const shards_t *former); // hides series of shards that are gone
void health_metrics_tick(health_t *self);

#endif
