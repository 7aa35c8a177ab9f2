// What a task's implementation gets: the decoded assignment, the shards it concerns with their DSNs unsealed, the leader's epoch, and
// ways to tell how it stands, to be told what to do, and to see that it must end. A task runs in its own actor (one thread, blocking).
#ifndef SP_RESHARDER_TASK_H
#define SP_RESHARDER_TASK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/error.h"
#include "common/owner/owner.h"
#include "common/pg/pg.h"
#include "schemas/envelope.h"
#include "schemas/task.h"

typedef struct task_shard {
    const char *shard_id;   // shard
    sp_owner_shard_t owner; // names that guards need
    sp_dsn_t app;           // primary, application role
    sp_dsn_t admin;         // primary, DDL role (owner's rights)
    sp_dsn_t apply;         // primary, apply role (DML, REPLICATION; exempt from guards)
    sp_dsn_t *replicas;     // streaming replicas; may be NULL
    size_t n_replicas;      // count
    int64_t ordinal;        // residue for sequences
} task_shard_t;

typedef struct task_port task_port_t; // the way to the worker's loop

typedef struct task {
    const sp_msg_task_assign_t *assign; // what to do; lives as long as the task
    sp_epoch_t epoch;                   // of the leader that assigned it
    task_shard_t source;                // assign->source_shard_id
    task_shard_t *targets;              // assign->targets, same order
    size_t n_targets;                   // count
    char application_name[64];          // shardplane/<job>/<task>: what a new leader terminates
    sp_arena_t *arena; // of all the above; the task may put more there (its own thread only)
    task_port_t *port; // way to the loop
} task_t;

// A task's body. 0: done, with what it found out in *result (task_id and state are filled by the caller; strings must outlive the
// return: task->arena). Negative: failed, with err; err->retryable tells the manager whether to try again. `cancelled` after a stop.
typedef int(task_fn)(task_t *task, sp_msg_task_update_t *result, sp_error_t *err);

int task_schema(task_t *task, sp_msg_task_update_t *result, sp_error_t *err);
int task_snapshot(task_t *task, sp_msg_task_update_t *result, sp_error_t *err);
int task_copy(task_t *task, sp_msg_task_update_t *result, sp_error_t *err);
int task_index(task_t *task, sp_msg_task_update_t *result, sp_error_t *err);
int task_follow(task_t *task, sp_msg_task_update_t *result, sp_error_t *err);
int task_verify(task_t *task, sp_msg_task_update_t *result, sp_error_t *err);
int task_purge(task_t *task, sp_msg_task_update_t *result, sp_error_t *err);

// Whether the task must end now: the manager said stop, the leader or its epoch is gone, or the worker ends. Any thread of the task may
// ask, at least every 100 ms; the type fits sp_pg_options_t.stopped with the task as argument.
bool task_stopped(void *task);

// Tells the manager; task_id is filled in, and state `running` where it is absent. Sends at once, so at most some 4 a second of the same
// kind. Encodes before it returns: nothing is borrowed. Only from the task's own thread. An encoding error, or `unavailable`.
int task_update(task_t *task, sp_msg_task_update_t *update, sp_error_t *err);
// The same for rows and bytes so far, left out when the last one is less than 250 ms old.
void task_progress(task_t *task, int64_t rows, int64_t bytes);
// The same with more to say.
void task_progress_with(task_t *task, sp_msg_task_update_t *update);

// Waits up to timeout_ms for a control message other than stop: true, decoded into the caller's arena. False: none came, or
// task_stopped(). Only from the task's own thread.
bool task_receive(task_t *task, int timeout_ms, sp_arena_t *arena,
                  const sp_msg_task_control_t **ret_control);
// Readable when task_receive may have something: for poll() beside sockets (then drain with timeout 0).
int task_fd(task_t *task);

// Opens a connection with the task's application name and stop. dsn: one of a task_shard_t. options NULL: defaults; application_name and
// stopped are overwritten. Any thread of the task.
int task_connect(task_t *task, const sp_dsn_t *dsn, const sp_pg_options_t *options,
                 sp_pg_t **ret_pg, sp_error_t *err);

// As sp_error_set, but the manager may try again (or may not), whatever the code says.
int task_retryable(sp_error_t *err, bool retryable);

#endif
