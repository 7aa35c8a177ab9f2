// A task's way to the worker's loop. Internal to task.c and task_table.c.
#ifndef SP_RESHARDER_TASK_PORT_H
#define SP_RESHARDER_TASK_PORT_H

#include "common/mesh/actor.h"
#include "services/resharder/task.h"

struct task_port {
    sp_actor_end_t *end; // the thread's end
    int64_t told_ms;     // monotonic time of the last update
};

// The actor's body; arg is a task_t, consumed.
void task_run(sp_actor_end_t *end, void *arg);

#endif
