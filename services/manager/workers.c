// Workers: Paranoid Pirate's queue. Short tasks go to the worker with most free slots, snapshot and follow tasks to the one with the
// fewest of those.
#include "services/manager/workers.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"

enum { LIVENESS = 3 };

typedef struct worker {
    char id[65];         // worker_id
    zframe_t *identity;  // of its connection
    int64_t slots;       // short tasks at once
    int64_t shorts;      // running short ones
    int64_t longs;       // running snapshot and follow ones
    int64_t heard_ms;    // monotonic, last traffic
    int64_t sent_ms;     // monotonic, last heartbeat sent
    struct worker *next; // list
} worker_t;

typedef struct task {
    char id[65];       // task_id
    sp_actor_t *owner; // job's actor; NULL once it has ended
    bool is_long;      // snapshot or follow: takes no slot
    sp_buf_t assign;   // task_assign, msgpack
    worker_t *worker;  // who has it; NULL while queued
    struct task *next; // list, oldest first
} task_t;

struct workers {
    sp_server_t *server;   // borrowed
    int64_t heartbeat_ms;  // ours and theirs
    worker_t *workers;     // live ones
    task_t *tasks;         // queued and running
    workers_stats_t stats; // counts
};

workers_t *workers_new(sp_server_t *server, int64_t heartbeat_ms)
{
    workers_t *self = calloc(1, sizeof *self);
    if (self) {
        self->server = server;
        self->heartbeat_ms = heartbeat_ms;
    }
    return self;
}

static void worker_free(worker_t *w)
{
    zframe_destroy(&w->identity);
    free(w);
}

static void task_free(task_t *t)
{
    sp_buf_free(&t->assign);
    free(t);
}

void workers_clear(workers_t *self)
{
    while (self->tasks) {
        task_t *t = self->tasks;
        self->tasks = t->next;
        task_free(t);
    }
    while (self->workers) {
        worker_t *w = self->workers;
        self->workers = w->next;
        worker_free(w);
    }
}

void workers_destroy(workers_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    workers_clear(*self_p);
    free(*self_p);
    *self_p = NULL;
}

// ---- tasks

static task_t *find_task(const workers_t *self, sp_str_t id)
{
    for (task_t *t = self->tasks; t; t = t->next)
        if (sp_str_eqz(id, t->id))
            return t;
    return NULL;
}

static void tell_owner(task_t *t, const sp_msg_task_update_t *update)
{
    sp_error_t err = {0};
    if (t->owner && sp_actor_send(t->owner, &sp_schema_task_update, update, &err) != 0)
        sp_log(SP_LOG_WARN, "MANAGER-TASK-UPDATE", "task", t->id, "reason", err.text, NULL);
}

static void fail_task(task_t *t, int code, const char *why)
{
    sp_msg_error_t error = {.code = sp_str(sp_error_name(code)),
                            .message = sp_str(why),
                            .retryable = sp_error_retryable(code),
                            .has_retryable = true};
    sp_msg_task_update_t update = {.task_id = sp_str(t->id),
                                   .state = SP_TASK_STATE_FAILED,
                                   .has_state = true,
                                   .error = &error};
    tell_owner(t, &update);
}

// Out of the list, and off its worker's count.
static void end_task(workers_t *self, task_t *t)
{
    for (task_t **link = &self->tasks; *link; link = &(*link)->next) {
        if (*link != t)
            continue;
        *link = t->next;
        break;
    }
    if (t->worker) {
        t->worker->shorts -= !t->is_long;
        t->worker->longs -= t->is_long;
    }
    task_free(t);
}

static void worker_dead(workers_t *self, worker_t *w, const char *why)
{
    sp_log(SP_LOG_WARN, "MANAGER-WORKER-DEAD", "worker", w->id, "reason", why, NULL);
    self->stats.deaths++;
    for (worker_t **link = &self->workers; *link; link = &(*link)->next) {
        if (*link != w)
            continue;
        *link = w->next;
        break;
    }
    for (task_t *t = self->tasks, *next; t; t = next) {
        next = t->next;
        if (t->worker != w)
            continue;
        self->stats.failed++;
        fail_task(t, SP_E_UNAVAILABLE, "the worker stopped answering");
        end_task(self, t);
    }
    worker_free(w);
}

static worker_t *choose(const workers_t *self, bool is_long)
{
    worker_t *best = NULL;
    for (worker_t *w = self->workers; w; w = w->next) {
        if (!is_long && w->shorts >= w->slots)
            continue;
        bool better = !best || (is_long ? w->longs < best->longs ||
                                              (w->longs == best->longs && w->shorts < best->shorts)
                                        : w->slots - w->shorts > best->slots - best->shorts ||
                                              (w->slots - w->shorts == best->slots - best->shorts &&
                                               w->longs < best->longs));
        if (better)
            best = w;
    }
    return best;
}

static bool send_assign(workers_t *self, task_t *t, worker_t *w)
{
    sp_arena_t *arena = sp_arena_new(256 << 20);
    sp_msg_task_assign_t assign;
    sp_error_t err = {0};
    int rc = arena ? sp_wire_decode_msgpack(&sp_schema_task_assign, t->assign.data, t->assign.len,
                                            arena, &assign, &err)
                   : SP_E_OUT_OF_MEMORY;
    if (rc == 0)
        rc = sp_server_send(self->server, w->identity, &sp_schema_task_assign, &assign, &err);
    sp_arena_destroy(&arena);
    if (rc != 0)
        sp_log(SP_LOG_WARN, "MANAGER-ASSIGN", "task", t->id, "worker", w->id, "reason", err.text,
               NULL);
    return rc == 0;
}

static void dispatch(workers_t *self)
{
    for (task_t *t = self->tasks; t; t = t->next) {
        if (t->worker)
            continue;
        worker_t *w = choose(self, t->is_long);
        if (!w)
            continue;
        if (!send_assign(self, t, w)) {
            worker_dead(self, w, "its connection is gone");
            dispatch(self);
            return;
        }
        t->worker = w;
        w->shorts += !t->is_long;
        w->longs += t->is_long;
        sp_log(SP_LOG_DEBUG, "MANAGER-ASSIGNED", "task", t->id, "worker", w->id, NULL);
    }
}

void workers_assign(workers_t *self, sp_actor_t *owner, const sp_msg_task_assign_t *assign)
{
    task_t *t = calloc(1, sizeof *t);
    sp_error_t err = {0};
    if (!t)
        return;
    snprintf(t->id, sizeof t->id, SP_STR_FMT, SP_STR_ARG(assign->task_id));
    t->owner = owner;
    t->is_long = assign->kind == SP_TASK_KIND_SNAPSHOT || assign->kind == SP_TASK_KIND_FOLLOW;
    if (sp_wire_encode_msgpack(&sp_schema_task_assign, assign, &t->assign, &err) != 0) {
        fail_task(t, SP_E_INTERNAL, err.text);
        task_free(t);
        return;
    }
    task_t **end = &self->tasks;
    while (*end)
        end = &(*end)->next;
    *end = t;
    dispatch(self);
}

void workers_control(workers_t *self, sp_actor_t *owner, const sp_msg_task_control_t *control)
{
    task_t *t = find_task(self, control->task_id);
    if (!t || t->owner != owner)
        return;
    if (!t->worker) {
        if (control->verb == SP_TASK_VERB_STOP) {
            fail_task(t, SP_E_CANCELLED, "stopped before it began");
            end_task(self, t);
        }
        return;
    }
    sp_error_t err = {0};
    if (sp_server_send(self->server, t->worker->identity, &sp_schema_task_control, control, &err) !=
        0)
        worker_dead(self, t->worker, err.text);
}

void workers_forget(workers_t *self, sp_actor_t *owner)
{
    for (task_t *t = self->tasks, *next; t; t = next) {
        next = t->next;
        if (t->owner != owner)
            continue;
        t->owner = NULL;
        if (!t->worker) {
            end_task(self, t);
            continue;
        }
        sp_msg_task_control_t stop = {.task_id = sp_str(t->id),
                                      .verb = SP_TASK_VERB_STOP,
                                      .has_verb = true};
        sp_error_t err = {0};
        sp_server_send(self->server, t->worker->identity, &sp_schema_task_control, &stop, &err);
    }
}

// ---- messages

static worker_t *find_worker(const workers_t *self, zframe_t *identity)
{
    for (worker_t *w = self->workers; w; w = w->next)
        if (zframe_eq(w->identity, identity))
            return w;
    return NULL;
}

void workers_hello(workers_t *self, sp_request_t *request)
{
    const sp_msg_worker_hello_t *hello = request->body;
    worker_t *w = find_worker(self, request->identity);
    if (!w) {
        w = calloc(1, sizeof *w);
        if (!w || !(w->identity = zframe_dup(request->identity))) {
            free(w);
            sp_request_fail(&request, SP_E_OUT_OF_MEMORY, "worker");
            return;
        }
        w->next = self->workers;
        self->workers = w;
    }
    snprintf(w->id, sizeof w->id, SP_STR_FMT, SP_STR_ARG(hello->worker_id));
    w->slots = hello->slots;
    w->heard_ms = w->sent_ms = sp_clock_mono_ms();
    sp_msg_worker_welcome_t welcome = {.heartbeat_ms = self->heartbeat_ms,
                                       .has_heartbeat_ms = true};
    sp_log(SP_LOG_INFO, "MANAGER-WORKER", "worker", w->id, "slots",
           sp_log_fmt("%lld", (long long)w->slots), NULL);
    sp_request_reply(&request, &sp_schema_worker_welcome, &welcome);
    dispatch(self);
}

// The worker whose message this is; NULL after telling it to say hello again.
static worker_t *heard(workers_t *self, sp_request_t **request_p)
{
    worker_t *w = find_worker(self, (*request_p)->identity);
    if (!w)
        sp_request_fail(request_p, SP_E_UNAVAILABLE,
                        "this manager does not know the worker: say hello");
    else
        w->heard_ms = sp_clock_mono_ms();
    return w;
}

void workers_heartbeat(workers_t *self, sp_request_t *request)
{
    if (heard(self, &request))
        sp_request_done(&request);
}

void workers_update(workers_t *self, sp_request_t *request)
{
    if (!heard(self, &request))
        return;
    const sp_msg_task_update_t *update = request->body;
    task_t *t = find_task(self, update->task_id);
    if (t)
        tell_owner(t, update);
    if (update->state == SP_TASK_STATE_RUNNING) {
        sp_request_done(&request);
        return;
    }
    // Also a task that is not known any more: the worker may forget it.
    sp_msg_task_ack_t ack = {.task_id = update->task_id};
    if (t) {
        self->stats.done += update->state == SP_TASK_STATE_DONE;
        self->stats.failed += update->state == SP_TASK_STATE_FAILED;
        end_task(self, t);
    }
    sp_request_reply(&request, &sp_schema_task_ack, &ack);
    dispatch(self);
}

void workers_tick(workers_t *self)
{
    int64_t now = sp_clock_mono_ms();
    for (worker_t *w = self->workers, *next; w; w = next) {
        next = w->next;
        if (now - w->heard_ms > LIVENESS * self->heartbeat_ms) {
            worker_dead(self, w, "three heartbeats are missing");
            continue;
        }
        if (now - w->sent_ms < self->heartbeat_ms / 2)
            continue;
        sp_msg_heartbeat_t beat = {0};
        sp_error_t err = {0};
        w->sent_ms = now;
        if (sp_server_send(self->server, w->identity, &sp_schema_heartbeat, &beat, &err) != 0)
            worker_dead(self, w, err.text);
    }
    dispatch(self);
}

void workers_stats(const workers_t *self, workers_stats_t *ret_stats)
{
    *ret_stats = self->stats;
    ret_stats->workers = ret_stats->queued = ret_stats->running = 0;
    for (const worker_t *w = self->workers; w; w = w->next)
        ret_stats->workers++;
    for (const task_t *t = self->tasks; t; t = t->next) {
        ret_stats->queued += !t->worker;
        ret_stats->running += t->worker != NULL;
    }
}
