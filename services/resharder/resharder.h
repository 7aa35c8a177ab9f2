// The worker: finds the leading manager in the catalog, offers itself, runs the tasks it is given.
#ifndef SP_RESHARDER_RESHARDER_H
#define SP_RESHARDER_RESHARDER_H

#include <stdatomic.h>
#include <stdbool.h>

#include "common/base/seal.h"
#include "common/config/config.h"
#include "common/mesh/mesh.h"
#include "common/mesh/signals.h"
#include "common/store/catalog.h"
#include "common/store/service.h"
#include "common/telemetry/listener.h"
#include "services/resharder/task_table.h"

typedef struct resharder_metrics {
    sp_metrics_t *registry; // owned
    sp_metric_t *rows;      // counter by kind
    sp_metric_t *bytes;     // counter by kind
    sp_metric_t *ended;     // counter of tasks by kind and result
    sp_metric_t *running;   // gauge of tasks by kind
    sp_metric_t *lag_bytes; // gauge by task
    sp_metric_t *lag_ms;    // gauge by task
    sp_series_t *welcomed;  // 1 while a leader has welcomed this worker
    sp_series_t *lost;      // leaders lost to missed heartbeats
} resharder_metrics_t;

typedef struct resharder {
    const sp_config_t *config;   // borrowed
    const char *service_id;      // borrowed from config
    int64_t slots;               // short tasks at once
    zloop_t *loop;               // owned
    sp_signals_t *signals;       // SIGTERM, SIGINT
    sp_seal_t *seal;             // opens DSNs; NULL without a key file
    sp_watch_t *watch;           // of the catalog
    sp_member_t *member;         // registration
    sp_listener_t *listener;     // metrics
    sp_catalog_t *catalog;       // last good one; NULL before the first
    task_table_t *tasks;         // running and unacknowledged
    resharder_metrics_t metrics; // metrics

    sp_peer_t *leader;         // the leader, or NULL
    char leader_endpoint[256]; // of leader
    char worker_id[64];        // fresh for each connection
    sp_epoch_t catalog_epoch;  // of the leader that the catalog names, when leader was opened
    sp_epoch_t epoch;          // from worker_welcome; epoch 0 while not welcomed
    sp_epoch_t last_epoch;     // of the last welcome: what unacknowledged results belong to
    int64_t heartbeat_ms;      // from worker_welcome
    int64_t hello_ms;          // monotonic time of the last hello
    int64_t beat_ms;           // monotonic time of the last thing sent
    int64_t reconnect_ms;      // monotonic time before which no connection is tried
    int attempt;               // connections in a row that failed
    bool stopping;             // SIGTERM came
    int64_t stop_ms;           // monotonic time when the loop ends whatever still runs
    struct seen *seen;         // last rows and bytes of each running task, for the counters
    atomic_bool ready;         // for /readyz: a leader has welcomed us
    atomic_bool has_catalog;   // for /readyz
} resharder_t;

// Runs until SIGTERM or SIGINT. 0, or an error at start.
int resharder_run(const sp_config_t *config, sp_error_t *err);

// ---- resharder_handlers.c
// A message that the leader sent by itself.
void resharder_on_push(void *arg, const sp_msg_envelope_t *envelope, const sp_schema_t *schema,
                       const void *body);
// What a task has to tell.
void resharder_on_update(void *arg, int64_t kind, const sp_msg_task_update_t *update);

// ---- resharder_link.c
// Once a tick and after each catalog change: connect, say hello, send heartbeats, notice that the leader is dead or another.
void resharder_link_tick(resharder_t *self);
// Gives up the leader: aborts its tasks, closes, connects again after a backoff.
void resharder_link_drop(resharder_t *self, const char *why, bool backoff);
// One way to the leader; counts as a heartbeat. Not welcomed: dropped.
void resharder_link_send(resharder_t *self, const sp_schema_t *schema, const void *body);

// ---- resharder_metrics.c
int resharder_metrics_open(resharder_metrics_t *self, const char *service_id, sp_error_t *err);
void resharder_metrics_update(resharder_t *self, int64_t kind, const sp_msg_task_update_t *update);
void resharder_metrics_tick(resharder_t *self);
void resharder_metrics_close(resharder_t *self);

// ---- task_resolve.c
// Fills the task's shards from the catalog, DSNs unsealed. unavailable while a shard is not in the catalog (yet).
int task_resolve(task_t *task, const sp_catalog_t *catalog, const sp_seal_t *seal, sp_error_t *err);

#endif
