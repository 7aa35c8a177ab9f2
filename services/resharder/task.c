// A task's own thread: its life, and the ways out of it.
#include "services/resharder/task.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "services/resharder/task_port.h"
#include "services/resharder/task_table.h"

enum { PROGRESS_MS = 250, TASK_ARENA_LIMIT = 512 * 1024 * 1024 };

static task_fn *const bodies[] = {
    [SP_TASK_KIND_SCHEMA] = task_schema, [SP_TASK_KIND_SNAPSHOT] = task_snapshot,
    [SP_TASK_KIND_COPY] = task_copy,     [SP_TASK_KIND_INDEX] = task_index,
    [SP_TASK_KIND_FOLLOW] = task_follow, [SP_TASK_KIND_VERIFY] = task_verify,
    [SP_TASK_KIND_PURGE] = task_purge,
};

task_t *task_new(const sp_msg_task_assign_t *assign, sp_epoch_t epoch)
{
    sp_arena_t *arena = sp_arena_new(TASK_ARENA_LIMIT);
    sp_buf_t bytes = SP_BUF_INIT;
    task_t *task = arena != NULL ? sp_arena_alloc(arena, 1, sizeof *task) : NULL;
    sp_msg_task_assign_t *copy = arena != NULL ? sp_arena_alloc(arena, 1, sizeof *copy) : NULL;
    task_port_t *port = arena != NULL ? sp_arena_alloc(arena, 1, sizeof *port) : NULL;
    bool good = task != NULL && copy != NULL && port != NULL &&
                sp_wire_encode_msgpack(&sp_schema_task_assign, assign, &bytes, NULL) == 0;
    if (good) {
        sp_str_t kept = sp_arena_str(arena, (sp_str_t){bytes.data, bytes.len});
        good = kept.ptr != NULL && sp_wire_decode_msgpack(&sp_schema_task_assign, kept.ptr,
                                                          kept.len, arena, copy, NULL) == 0;
    }
    if (good && copy->targets.n > 0)
        good =
            (task->targets = sp_arena_alloc(arena, copy->targets.n, sizeof *task->targets)) != NULL;
    sp_buf_free(&bytes);
    if (!good) {
        sp_arena_destroy(&arena);
        return NULL;
    }
    task->assign = copy;
    task->epoch = epoch;
    task->n_targets = copy->targets.n;
    task->arena = arena;
    task->port = port;
    // PostgreSQL cuts it at 63 bytes; the job's part, which a new leader looks for, always fits.
    snprintf(task->application_name, sizeof task->application_name, "shardplane/%.32s/%.19s",
             sp_arena_cstr(arena, copy->job_id), sp_arena_cstr(arena, copy->task_id));
    return task;
}

void task_destroy(task_t **task_p)
{
    if (*task_p == NULL)
        return;
    sp_arena_t *arena = (*task_p)->arena; // holds the task itself
    *task_p = NULL;
    sp_arena_destroy(&arena);
}

// The error as it travels. details: what a program can use.
static sp_msg_error_t *error_part(task_t *task, const sp_error_t *err)
{
    sp_msg_error_t *part = sp_arena_alloc(task->arena, 1, sizeof *part);
    if (part == NULL)
        return NULL;
    part->code = sp_arena_str(task->arena, sp_str(sp_error_name(err->code)));
    part->message =
        sp_arena_str(task->arena,
                     sp_str(err->text[0] != '\0' ? err->text : sp_error_name(err->code)));
    part->retryable = err->retryable;
    part->has_retryable = true;
    size_t n = (err->sqlstate[0] != '\0') + (err->detail[0] != '\0');
    sp_value_pair_t *pairs = n > 0 ? sp_arena_alloc(task->arena, n, sizeof *pairs) : NULL;
    if (pairs == NULL)
        return part;
    size_t i = 0;
    if (err->sqlstate[0] != '\0')
        pairs[i++] = (sp_value_pair_t){SP_STR("sqlstate"),
                                       sp_value_str(sp_arena_strz(task->arena, err->sqlstate))};
    if (err->detail[0] != '\0')
        pairs[i++] = (sp_value_pair_t){SP_STR("detail"),
                                       sp_value_str(sp_arena_strz(task->arena, err->detail))};
    part->details.kind = SP_VALUE_MAP;
    part->details.u.map.pairs = pairs;
    part->details.u.map.n = n;
    return part;
}

static void finish(task_t *task, int rc, sp_msg_task_update_t *result, const sp_error_t *fault)
{
    sp_error_t err = {0};
    result->has_state = true;
    result->state = rc == 0 ? SP_TASK_STATE_DONE : SP_TASK_STATE_FAILED;
    if (rc != 0)
        result->error = error_part(task, fault);
    if (task_update(task, result, &err) == 0)
        return;
    // A result that does not encode must not look like silence.
    sp_error_t lost = {0};
    sp_error_set(&lost, SP_E_INTERNAL, "the task's result could not be sent: %.300s", err.text);
    sp_msg_task_update_t bare = {.state = SP_TASK_STATE_FAILED,
                                 .has_state = true,
                                 .error = error_part(task, &lost)};
    task_update(task, &bare, NULL);
}

void task_run(sp_actor_end_t *end, void *arg)
{
    task_t *task = arg;
    task->port->end = end;
    sp_error_t err = {0};
    sp_msg_task_update_t result = {0};
    int64_t kind = task->assign->kind;
    int rc = kind >= SP_TASK_KIND_SCHEMA && kind <= SP_TASK_KIND_PURGE
                 ? bodies[kind](task, &result, &err)
                 : sp_error_set(&err, SP_E_UNSUPPORTED_VERSION,
                                "no task of kind %lld is known here", (long long)kind);
    if (rc != 0 && err.code == 0)
        sp_error_set(&err, rc, "%s", sp_error_name(rc));
    if (rc != 0 && task_stopped(task) && err.code != SP_E_CANCELLED)
        sp_log(SP_LOG_INFO, "TASK-STOPPED-WITH", "task",
               sp_arena_cstr(task->arena, task->assign->task_id), "error", err.text, NULL);
    finish(task, rc, &result, &err);
    task_destroy(&task);
}

bool task_stopped(void *task)
{
    return sp_actor_end_stopped(((task_t *)task)->port->end);
}

int task_update(task_t *task, sp_msg_task_update_t *update, sp_error_t *err)
{
    update->task_id = task->assign->task_id;
    if (!update->has_state) {
        update->state = SP_TASK_STATE_RUNNING;
        update->has_state = true;
    }
    task->port->told_ms = sp_clock_mono_ms();
    return sp_actor_end_send(task->port->end, &sp_schema_task_update, update, err);
}

void task_progress_with(task_t *task, sp_msg_task_update_t *update)
{
    if (sp_clock_mono_ms() - task->port->told_ms >= PROGRESS_MS)
        task_update(task, update, NULL);
}

void task_progress(task_t *task, int64_t rows, int64_t bytes)
{
    sp_msg_task_update_t update = {.rows = rows,
                                   .has_rows = true,
                                   .bytes = bytes,
                                   .has_bytes = true};
    task_progress_with(task, &update);
}

bool task_receive(task_t *task, int timeout_ms, sp_arena_t *arena,
                  const sp_msg_task_control_t **ret_control)
{
    const sp_schema_t *schema = NULL;
    void *body = NULL;
    if (!sp_actor_end_receive(task->port->end, timeout_ms, arena, &schema, &body) ||
        schema != &sp_schema_task_control)
        return false;
    *ret_control = body;
    return true;
}

int task_fd(task_t *task)
{
    return sp_actor_end_fd(task->port->end);
}

int task_connect(task_t *task, const sp_dsn_t *dsn, const sp_pg_options_t *options,
                 sp_pg_t **ret_pg, sp_error_t *err)
{
    sp_pg_options_t o = options != NULL ? *options : (sp_pg_options_t){0};
    o.application_name = task->application_name;
    o.stopped = task_stopped;
    o.stopped_arg = task;
    return sp_pg_open(ret_pg, dsn, &o, err);
}

int task_retryable(sp_error_t *err, bool retryable)
{
    if (err == NULL)
        return SP_E_INTERNAL;
    err->retryable = retryable;
    return err->code;
}
