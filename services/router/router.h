// The router: answers who owns a key, runs statements there, feeds rings to clients. One loop, one thread; stateless but for caches.
#ifndef SP_ROUTER_ROUTER_H
#define SP_ROUTER_ROUTER_H

#include <stdatomic.h>

#include "common/base/seal.h"
#include "common/config/config.h"
#include "common/mesh/mesh.h"
#include "common/mesh/signals.h"
#include "common/store/catalog.h"
#include "common/store/service.h"
#include "common/telemetry/listener.h"
#include "services/router/metrics.h"
#include "services/router/pure_versions.h"

typedef struct shard_pools shard_pools_t; // pools.h
typedef struct execution execution_t;     // execute.h
typedef struct waiting waiting_t;         // waiting.h

typedef struct router {
    const sp_config_t *config; // borrowed
    zloop_t *loop;             // the loop
    sp_signals_t *signals;     // SIGTERM and SIGINT end it
    sp_seal_t *seal;           // opens DSNs
    sp_server_t *server;       // requests
    sp_publisher_t *publisher; // ring feed; NULL without events_listen
    sp_watch_t *watch;         // catalog
    sp_member_t *member;       // registration
    sp_listener_t *listener;   // probes
    router_metrics_t metrics;  // what is counted
    sp_catalog_t *catalog;     // last good one; NULL before the first load
    ring_versions_t versions;  // highest seen of each ring
    shard_pools_t *pools;      // connections
    execution_t *executions;   // all that are not answered
    size_t n_parked;           // of them waiting for a ring, a connection or time
    waiting_t *waiting;        // requests for keyspaces that are not known yet
    size_t n_waiting;          // count
    int64_t heartbeat_ms;      // when the feed's next heartbeat is due
    int64_t stop_by_ms;        // 0, or when the stop no longer waits for requests
    atomic_bool has_catalog;   // for readiness
    atomic_bool stopping;      // likewise
} router_t;

// Runs until a signal. SP_E_CONFIG and what opening may fail with.
int router_run(const sp_config_t *config, sp_error_t *err);

// The dispatch table (router_handlers.c).
extern const sp_dispatch_t router_dispatch[];

// The keyspace in the catalog: catalog_unavailable before the first load, not_found. Borrowed until the loop's next turn.
int router_keyspace(const router_t *self, sp_str_t name,
                    const sp_catalog_keyspace_view_t **ret_keyspace, sp_error_t *err);
// Canonical key (from the arena) and its hash.
int router_key(const sp_catalog_keyspace_view_t *keyspace, sp_str_t key, sp_arena_t *arena,
               sp_str_t *ret_key, int64_t *ret_hash, sp_error_t *err);
// The owner's index in the keyspace's ring: no_owner.
int router_owner(const sp_catalog_keyspace_view_t *keyspace, int64_t hash, int *ret_index,
                 sp_error_t *err);
int64_t router_ring_version(const sp_catalog_keyspace_view_t *keyspace);

#endif
