// Task table: the tasks of this worker, each in its actor, and the final updates that the manager has not acknowledged. Belongs to the
// loop's thread.
#ifndef SP_RESHARDER_TASK_TABLE_H
#define SP_RESHARDER_TASK_TABLE_H

#include "common/mesh/actor.h"
#include "services/resharder/task.h"

typedef struct task_table task_table_t;
// What a task has to tell, in the loop. The update borrows for the call.
typedef void(task_table_update_fn)(void *arg, int64_t kind, const sp_msg_task_update_t *update);

task_table_t *task_table_new(zloop_t *loop, task_table_update_fn *on_update,
                             void *arg); // NULL without memory
// Asks all to stop, joins them.
void task_table_destroy(task_table_t **self_p);

// Starts a task; *task_p is consumed, also on failure. conflict when one of that id runs; for one whose final update waits, that is told
// again, and 0.
int task_table_start(task_table_t *self, task_t **task_p, sp_error_t *err);
// Hands a control message to a task: not_found when there is none that runs.
int task_table_control(task_table_t *self, const sp_msg_task_control_t *control, sp_error_t *err);
// The manager has the final update.
void task_table_ack(task_table_t *self, sp_str_t task_id);
// Tells all final updates again that are not acknowledged and were last told at least older_than_ms ago.
void task_table_repeat(task_table_t *self, int64_t older_than_ms);
// Asks all that run to stop and forgets their updates: the leader they were for is gone, or has handed them to others. forget: also the
// final updates that wait for an acknowledgement (they are of no use to another leader).
void task_table_abort(task_table_t *self, bool forget);
// Asks all that run to stop; their final updates are told.
void task_table_stop(task_table_t *self);

bool task_table_has(const task_table_t *self,
                    sp_str_t task_id); // it runs, or its final update waits; not an aborted one
size_t task_table_running(const task_table_t *self); // actors alive, also of aborted tasks
size_t task_table_running_kind(const task_table_t *self, int64_t kind); // not counting aborted ones
size_t task_table_unacknowledged(const task_table_t *self);

// A task with its own arena, DSNs empty. assign is copied. NULL without memory, or when it does not encode.
task_t *task_new(const sp_msg_task_assign_t *assign, sp_epoch_t epoch);
void task_destroy(task_t **task_p);

#endif
