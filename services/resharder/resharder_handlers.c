// What the leader says, one function a message, and what tasks say back.
#include <stdio.h>

#include "common/base/log.h"
#include "services/resharder/resharder.h"

static const char *text_of(sp_str_t s)
{
    return sp_log_fmt(SP_STR_FMT, SP_STR_ARG(s));
}

// A task that never started still gets its final answer.
static void refuse(resharder_t *self, const sp_msg_task_assign_t *assign, const sp_error_t *err)
{
    sp_msg_error_t error = {.code = sp_str(sp_error_name(err->code)),
                            .message = sp_str(err->text),
                            .retryable = err->retryable,
                            .has_retryable = true};
    sp_msg_task_update_t update = {.task_id = assign->task_id,
                                   .state = SP_TASK_STATE_FAILED,
                                   .has_state = true,
                                   .error = &error};
    sp_log(SP_LOG_WARN, "TASK-REFUSED", "task", text_of(assign->task_id), "job",
           text_of(assign->job_id), "error", err->text, NULL);
    resharder_link_send(self, &sp_schema_task_update, &update);
}

static void on_assign(resharder_t *self, const void *body)
{
    const sp_msg_task_assign_t *assign = body;
    sp_error_t err = {0};
    if (self->stopping) {
        sp_error_set(&err, SP_E_UNAVAILABLE, "this worker is stopping");
        refuse(self, assign, &err);
        return;
    }
    task_t *task = task_new(assign, self->epoch);
    int rc = task == NULL ? sp_error_set(&err, SP_E_OUT_OF_MEMORY, "no memory for the task")
                          : task_resolve(task, self->catalog, self->seal, &err);
    if (rc == 0) {
        sp_log(SP_LOG_INFO, "TASK-START", "task", text_of(assign->task_id), "job",
               text_of(assign->job_id), "kind", sp_enum_name(&sp_enum_task_kind, assign->kind),
               NULL);
        rc = task_table_start(self->tasks, &task, &err);
    }
    task_destroy(&task);
    if (rc == SP_E_CONFLICT) { // told twice; it runs, and its updates say so
        sp_log(SP_LOG_INFO, "TASK-AGAIN", "task", text_of(assign->task_id), NULL);
        return;
    }
    if (rc != 0)
        refuse(self, assign, &err);
}

static void on_control(resharder_t *self, const void *body)
{
    const sp_msg_task_control_t *control = body;
    sp_error_t err = {0};
    if (task_table_control(self->tasks, control, &err) != 0)
        sp_log(SP_LOG_INFO, "TASK-CONTROL", "task", text_of(control->task_id), "verb",
               sp_enum_name(&sp_enum_task_verb, control->verb), "error", err.text, NULL);
}

static void on_ack(resharder_t *self, const void *body)
{
    task_table_ack(self->tasks, ((const sp_msg_task_ack_t *)body)->task_id);
}

static void on_heartbeat(resharder_t *self, const void *body)
{
    (void)self;
    (void)body;
}

static const struct {
    const sp_schema_t *schema;                           // message
    void (*handle)(resharder_t *self, const void *body); // its handler
} dispatch[] = {
    {&sp_schema_task_assign, on_assign},
    {&sp_schema_task_control, on_control},
    {&sp_schema_task_ack, on_ack},
    {&sp_schema_heartbeat, on_heartbeat},
};

void resharder_on_push(void *arg, const sp_msg_envelope_t *envelope, const sp_schema_t *schema,
                       const void *body)
{
    resharder_t *self = arg;
    if (schema == &sp_schema_error) { // e.g. not_leader, or it does not know us
        const sp_msg_error_t *error = body;
        resharder_link_drop(self, text_of(error->message), true);
        return;
    }
    // Whatever a deposed leader, or one that has not welcomed us, says is void.
    if (self->epoch.epoch == 0 || envelope->generation != self->epoch.generation ||
        envelope->epoch != self->epoch.epoch) {
        sp_log(SP_LOG_WARN, "STALE-EPOCH", "message", schema->name, "epoch",
               sp_log_fmt("%lld/%lld", (long long)envelope->generation, (long long)envelope->epoch),
               NULL);
        return;
    }
    for (size_t i = 0; i < sizeof dispatch / sizeof dispatch[0]; i++)
        if (dispatch[i].schema == schema) {
            dispatch[i].handle(self, body);
            return;
        }
    sp_log(SP_LOG_WARN, "UNKNOWN-MESSAGE", "message", schema->name, NULL);
}

void resharder_on_update(void *arg, int64_t kind, const sp_msg_task_update_t *update)
{
    resharder_t *self = arg;
    resharder_metrics_update(self, kind, update);
    resharder_link_send(self, &sp_schema_task_update, update);
    if (update->state == SP_TASK_STATE_RUNNING)
        return;
    sp_log(update->state == SP_TASK_STATE_DONE ? SP_LOG_INFO : SP_LOG_WARN, "TASK-END", "task",
           text_of(update->task_id), "kind", sp_enum_name(&sp_enum_task_kind, kind), "state",
           sp_enum_name(&sp_enum_task_state, update->state), "rows",
           update->has_rows ? sp_log_fmt("%lld", (long long)update->rows) : NULL, "error",
           update->error != NULL ? text_of(update->error->message) : NULL, NULL);
}
