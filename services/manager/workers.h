// Workers: who offered itself, what it does, and the queue of tasks. Belongs to the manager's loop.
#ifndef SP_MANAGER_WORKERS_H
#define SP_MANAGER_WORKERS_H

#include "common/mesh/actor.h"
#include "common/mesh/mesh.h"
#include "schemas/task.h"

typedef struct workers workers_t;

typedef struct workers_stats {
    size_t workers; // live
    size_t queued;  // tasks that wait for a slot
    size_t running; // tasks with a worker
    int64_t deaths; // workers that missed three heartbeats
    int64_t done;   // tasks that ended well
    int64_t failed; // tasks that failed
} workers_stats_t;

// server is borrowed. NULL when memory runs out.
workers_t *workers_new(sp_server_t *server, int64_t heartbeat_ms);
void workers_destroy(workers_t **self_p);

// Handlers: each answers the request.
void workers_hello(workers_t *self, sp_request_t *request);
void workers_heartbeat(workers_t *self, sp_request_t *request);
void workers_update(workers_t *self, sp_request_t *request);

// From job actors. A task's updates go to the actor that asked for it; failed ones that no worker reports are made here:
// `unavailable` (retryable) when the worker died, `cancelled` when the task was stopped in the queue.
void workers_assign(workers_t *self, sp_actor_t *owner, const sp_msg_task_assign_t *assign);
void workers_control(workers_t *self, sp_actor_t *owner, const sp_msg_task_control_t *control);
// The actor has ended: its tasks are stopped and nobody hears of them.
void workers_forget(workers_t *self, sp_actor_t *owner);

// Heartbeats, deaths, and tasks to free slots; call it every heartbeat_ms / 2.
void workers_tick(workers_t *self);
// Leadership is lost: forgets everybody.
void workers_clear(workers_t *self);
void workers_stats(const workers_t *self, workers_stats_t *ret_stats);

#endif
