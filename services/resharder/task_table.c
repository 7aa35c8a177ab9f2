#include "services/resharder/task_table.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "services/resharder/task_port.h"

enum { FORGET_MS = 120000 };

typedef struct entry {
    struct entry *next;  // in the table
    task_table_t *table; // owner
    char *task_id;       // owned
    int64_t kind;        // SP_TASK_KIND_*
    sp_actor_t *actor;   // NULL once the thread has ended
    bool aborted;        // nobody wants to know
    sp_buf_t final;      // encoded final update; empty while it runs
    int64_t told_ms;     // monotonic time of the last telling of final
    int64_t ended_ms;    // monotonic time when final came
} entry_t;

struct task_table {
    zloop_t *loop;                   // borrowed
    task_table_update_fn *on_update; // told of updates
    void *arg;                       // for on_update
    entry_t *first;                  // all entries
};

task_table_t *task_table_new(zloop_t *loop, task_table_update_fn *on_update, void *arg)
{
    task_table_t *self = calloc(1, sizeof *self);
    if (self != NULL)
        *self = (task_table_t){.loop = loop, .on_update = on_update, .arg = arg};
    return self;
}

static entry_t *find(const task_table_t *self, sp_str_t task_id)
{
    for (entry_t *e = self->first; e != NULL; e = e->next)
        if (!e->aborted && sp_str_eqz(task_id, e->task_id))
            return e;
    return NULL;
}

static void drop(entry_t *entry)
{
    for (entry_t **link = &entry->table->first; *link != NULL; link = &(*link)->next)
        if (*link == entry) {
            *link = entry->next;
            break;
        }
    sp_actor_stop(&entry->actor);
    sp_buf_free(&entry->final);
    free(entry->task_id);
    free(entry);
}

void task_table_destroy(task_table_t **self_p)
{
    if (*self_p == NULL)
        return;
    task_table_abort(*self_p,
                     true); // all at once, so that joining one does not wait for the others
    while ((*self_p)->first != NULL)
        drop((*self_p)->first);
    free(*self_p);
    *self_p = NULL;
}

static void tell_final(entry_t *entry)
{
    sp_arena_t *arena = sp_arena_new(256 * 1024 * 1024);
    sp_msg_task_update_t update;
    if (arena != NULL && sp_wire_decode_msgpack(&sp_schema_task_update, entry->final.data,
                                                entry->final.len, arena, &update, NULL) == 0)
        entry->table->on_update(entry->table->arg, entry->kind, &update);
    entry->told_ms = sp_clock_mono_ms();
    sp_arena_destroy(&arena);
}

// The thread has ended: what is left is the final update, if somebody waits for it.
static void on_end(entry_t *entry)
{
    sp_actor_stop(&entry->actor);
    if (entry->aborted) {
        drop(entry);
        return;
    }
    if (entry->final.len > 0)
        return;
    sp_msg_error_t error = {.code = SP_STR("internal"),
                            .message = SP_STR("the task ended without a result"),
                            .retryable = true,
                            .has_retryable = true};
    sp_msg_task_update_t update = {.task_id = sp_str(entry->task_id),
                                   .state = SP_TASK_STATE_FAILED,
                                   .has_state = true,
                                   .error = &error};
    entry->ended_ms = sp_clock_mono_ms();
    if (sp_wire_encode_msgpack(&sp_schema_task_update, &update, &entry->final, NULL) == 0)
        tell_final(entry);
    else
        drop(entry);
}

static void on_message(void *owner, sp_actor_t *actor, const sp_schema_t *schema, const void *body)
{
    (void)actor;
    entry_t *entry = owner;
    if (schema == NULL) {
        on_end(entry);
        return;
    }
    if (schema != &sp_schema_task_update || entry->aborted)
        return;
    const sp_msg_task_update_t *update = body;
    if (update->state == SP_TASK_STATE_RUNNING) {
        entry->table->on_update(entry->table->arg, entry->kind, update);
        return;
    }
    sp_buf_reset(&entry->final);
    entry->ended_ms = sp_clock_mono_ms();
    if (sp_wire_encode_msgpack(&sp_schema_task_update, update, &entry->final, NULL) == 0)
        tell_final(entry);
}

int task_table_start(task_table_t *self, task_t **task_p, sp_error_t *err)
{
    task_t *task = *task_p;
    *task_p = NULL;
    entry_t *entry = find(self, task->assign->task_id);
    if (entry != NULL) {
        bool final = entry->final.len > 0;
        task_destroy(&task);
        if (!final)
            return sp_error_set(err, SP_E_CONFLICT, "task %s runs here already", entry->task_id);
        tell_final(entry);
        return 0;
    }
    entry = calloc(1, sizeof *entry);
    char *task_id = strndup(task->assign->task_id.ptr, task->assign->task_id.len);
    if (entry == NULL || task_id == NULL) {
        free(entry);
        free(task_id);
        task_destroy(&task);
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a task");
    }
    *entry = (entry_t){.next = self->first,
                       .table = self,
                       .task_id = task_id,
                       .kind = task->assign->kind};
    self->first = entry;
    int rc = sp_actor_start(&entry->actor, self->loop, task_run, task, on_message, entry, err);
    if (rc != 0) {
        task_destroy(&task);
        drop(entry);
    }
    return rc;
}

int task_table_control(task_table_t *self, const sp_msg_task_control_t *control, sp_error_t *err)
{
    entry_t *entry = find(self, control->task_id);
    if (entry == NULL || entry->actor == NULL)
        return sp_error_set(err, SP_E_NOT_FOUND, "no task " SP_STR_FMT " runs here",
                            SP_STR_ARG(control->task_id));
    if (control->verb == SP_TASK_VERB_STOP) {
        sp_actor_ask_stop(entry->actor);
        return 0;
    }
    return sp_actor_send(entry->actor, &sp_schema_task_control, control, err);
}

void task_table_ack(task_table_t *self, sp_str_t task_id)
{
    entry_t *entry = find(self, task_id);
    if (entry == NULL || entry->final.len == 0)
        return;
    // The thread has told its result and is about to end; it is joined when the loop hears of that.
    if (entry->actor != NULL)
        entry->aborted = true;
    else
        drop(entry);
}

void task_table_repeat(task_table_t *self, int64_t older_than_ms)
{
    int64_t now = sp_clock_mono_ms();
    for (entry_t *e = self->first, *next; e != NULL; e = next) {
        next = e->next;
        if (e->aborted || e->final.len == 0 || now - e->told_ms < older_than_ms)
            continue;
        if (now - e->ended_ms < FORGET_MS || e->actor != NULL)
            tell_final(e);
        else
            drop(e); // the manager has no such task any more
    }
}

void task_table_abort(task_table_t *self, bool forget)
{
    for (entry_t *e = self->first, *next; e != NULL; e = next) {
        next = e->next;
        if (!forget && e->final.len > 0)
            continue;
        e->aborted = true;
        if (e->actor != NULL)
            sp_actor_ask_stop(e->actor);
        else
            drop(e);
    }
}

void task_table_stop(task_table_t *self)
{
    for (entry_t *e = self->first; e != NULL; e = e->next)
        if (e->actor != NULL)
            sp_actor_ask_stop(e->actor);
}

bool task_table_has(const task_table_t *self, sp_str_t task_id)
{
    return find(self, task_id) != NULL;
}

size_t task_table_running(const task_table_t *self)
{
    size_t n = 0;
    for (entry_t *e = self->first; e != NULL; e = e->next)
        n += e->actor != NULL;
    return n;
}

size_t task_table_running_kind(const task_table_t *self, int64_t kind)
{
    size_t n = 0;
    for (entry_t *e = self->first; e != NULL; e = e->next)
        n += e->actor != NULL && !e->aborted && e->final.len == 0 && e->kind == kind;
    return n;
}

size_t task_table_unacknowledged(const task_table_t *self)
{
    size_t n = 0;
    for (entry_t *e = self->first; e != NULL; e = e->next)
        n += !e->aborted && e->final.len > 0;
    return n;
}
