// The manager's state: one loop, and the actors that may block. Internal to services/manager.
#ifndef SP_MANAGER_MANAGER_H
#define SP_MANAGER_MANAGER_H

#include <stdatomic.h>

#include "common/mesh/actor.h"
#include "common/mesh/mesh.h"
#include "common/mesh/signals.h"
#include "common/store/catalog.h"
#include "common/telemetry/listener.h"
#include "services/manager/settings.h"
#include "services/manager/workers.h"

// A job that has, or had, an actor.
typedef struct job_slot {
    char id[33];           // job
    sp_actor_t *actor;     // NULL when none runs
    int64_t told_revision; // mod revision of the record that the actor was last told of
    sp_buf_t live;         // last job_live, msgpack
    struct job_slot *next; // list
} job_slot_t;

// A request that waits for the command actor, a check, or a newer catalog.
typedef struct waiting {
    sp_request_t *request; // kept
    sp_handler_fn *read;   // reads: run again with it
    sp_actor_t *actor;     // checks: who works on it
    int64_t until_ms;      // reads: monotonic, answer from what is there then
    struct waiting *next;  // list, oldest first
} waiting_t;

typedef struct manager_metrics {
    sp_metrics_t *registry;              // all
    sp_metric_t *jobs;                   // by state
    sp_metric_t *phase_seconds;          // by phase
    sp_metric_t *fences;                 // by result
    sp_series_t *pause;                  // histogram, seconds
    sp_series_t *fence_to_open;          // histogram, seconds
    sp_series_t *retries;                // steps tried again
    sp_series_t *workers;                // live workers
    sp_series_t *queued, *running;       // tasks
    sp_series_t *deaths, *done, *failed; // of workers, of tasks
    sp_series_t *leading;                // 1 or 0
    sp_series_t *catalog_age;            // seconds
    sp_series_t *requests, *errors;      // of the server
    sp_series_t *commands;               // waiting
} manager_metrics_t;

typedef struct manager {
    settings_t settings;       // options
    sp_seal_t *seal;           // key
    zloop_t *loop;             // all below belongs to it
    sp_signals_t *signals;     // SIGTERM, SIGINT
    sp_server_t *server;       // commands, workers
    sp_publisher_t *publisher; // events
    sp_watch_t *watch;         // of the catalog
    sp_catalog_t *catalog;     // last good one; NULL before the first
    sp_listener_t *listener;   // metrics
    workers_t *workers;        // resharders
    int64_t epoch;             // that this process leads at; 0: standby
    int64_t generation;        // known once commands may come
    bool leading;              // commands may come
    sp_actor_t *commands;      // command actor
    sp_actor_t *sweeper;       // reaper
    waiting_t *pending;        // commands under way, in order
    waiting_t *checks;         // check_keyspace under way
    waiting_t *reads;          // wait for min_revision
    int64_t min_revision;      // reads see at least this
    job_slot_t *jobs;          // actors of jobs
    manager_metrics_t metrics; // what /metrics shows
    atomic_bool ready;         // for /readyz
    int64_t watch_error_ms;    // when a bad catalog was last logged
} manager_t;

// Runs until SIGTERM or SIGINT. 0, or why it could not start.
int manager_run(const sp_config_t *config, sp_error_t *err);

extern const sp_dispatch_t manager_dispatch[];

// manager_leader.c
void manager_leadership(manager_t *m); // after the member said that something changed
void manager_step_down(manager_t *m);  // ends all actors, fails what waits
void manager_sync_jobs(manager_t *m);  // an actor for each job that needs one
job_slot_t *manager_job_slot(manager_t *m, sp_str_t id);
void manager_serve_reads(manager_t *m); // those that waited
int manager_command(manager_t *m, sp_request_t *request,
                    sp_error_t *err); // hands it to the command actor
int manager_check(manager_t *m, sp_request_t *request, sp_error_t *err); // starts a check
waiting_t *waiting_add(waiting_t **list, sp_request_t *request);
waiting_t *waiting_take(waiting_t **list); // oldest, or NULL; the caller frees it

// manager_events.c
void manager_publish_changes(manager_t *m, const sp_catalog_t *before, const sp_catalog_t *now);
void manager_publish(manager_t *m, const char *kind, sp_str_t keyspace, sp_str_t shard,
                     sp_str_t job, const char *state, const char *message,
                     const sp_value_t *details);

// manager_metrics.c
void manager_metrics_open(manager_t *m);
void manager_metrics_refresh(manager_t *m);
void manager_metrics_fact(manager_t *m, const char *fact, const char *label, double value);

#endif
