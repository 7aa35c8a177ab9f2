// Actors: a thread and two channels.
#include "common/mesh/actor.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/mesh/channel.h"
#include "common/mesh/frames.h"

enum { OWNER_WAIT_MS = 0, THREAD_WAIT_MS = 100, ARENA_LIMIT = 256 * 1024 * 1024 };

struct sp_actor_end {
    sp_channel_t *in;  // from the owner; closed: stop
    sp_channel_t *out; // to the owner; closed: the thread has ended
    sp_actor_fn *fn;   // the thread's body
    void *arg;         // its argument
};

struct sp_actor {
    sp_actor_end_t end;              // what the thread sees
    pthread_t thread;                // joined by stop
    zloop_t *loop;                   // borrowed
    sp_actor_message_fn *on_message; // told in the loop
    void *owner;                     // for on_message
    bool told_end;                   // on_message has heard that the thread ended
    bool in_callback;                // the memory stays
    bool stopped;                    // sp_actor_stop was called in the callback
};

static void *run(void *arg)
{
    sp_actor_end_t *end = arg;
    end->fn(end, end->arg);
    sp_channel_close(end->out);
    return NULL;
}

static void actor_free(sp_actor_t *self)
{
    zmq_pollitem_t item = {.fd = sp_channel_fd(self->end.out), .events = ZMQ_POLLIN};
    zloop_poller_end(self->loop, &item);
    sp_channel_destroy(&self->end.in);
    sp_channel_destroy(&self->end.out);
    free(self);
}

static int on_readable(zloop_t *loop, zmq_pollitem_t *item, void *arg)
{
    (void)loop;
    (void)item;
    sp_actor_t *self = arg;
    self->in_callback = true;
    bool more = true;
    for (int i = 0; more && !self->stopped && i < SP_FRAMES_BATCH; i++) {
        const sp_schema_t *schema = NULL;
        void *body = NULL;
        sp_arena_t *arena = sp_arena_new(ARENA_LIMIT);
        // Asked before taking: once it is closed and then found empty, nothing can follow.
        bool ended = sp_channel_closed(self->end.out);
        more = arena && sp_channel_take(self->end.out, arena, &schema, &body);
        if (more) {
            self->on_message(self->owner, self, schema, body);
        } else if (ended && !self->told_end) {
            self->told_end = true;
            // A closed channel stays readable, so the loop must not look at it any more.
            zmq_pollitem_t closed = {.fd = sp_channel_fd(self->end.out), .events = ZMQ_POLLIN};
            zloop_poller_end(self->loop, &closed);
            self->on_message(self->owner, self, NULL, NULL);
        }
        sp_arena_destroy(&arena);
    }
    self->in_callback = false;
    if (self->stopped)
        actor_free(self);
    return 0;
}

int sp_actor_start(sp_actor_t **ret_self, zloop_t *loop, sp_actor_fn *fn, void *arg,
                   sp_actor_message_fn *on_message, void *owner, sp_error_t *err)
{
    sp_actor_t *self = calloc(1, sizeof *self);
    if (!self)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "actor");
    self->loop = loop;
    self->on_message = on_message;
    self->owner = owner;
    self->end.fn = fn;
    self->end.arg = arg;
    self->end.in = sp_channel_new();
    self->end.out = sp_channel_new();
    if (!self->end.in || !self->end.out)
        goto failed;
    zmq_pollitem_t item = {.fd = sp_channel_fd(self->end.out), .events = ZMQ_POLLIN};
    if (zloop_poller(loop, &item, on_readable, self) != 0)
        goto failed;
    zloop_poller_set_tolerant(loop, &item);
    if (pthread_create(&self->thread, NULL, run, &self->end) != 0) {
        zloop_poller_end(loop, &item);
        goto failed;
    }
    *ret_self = self;
    return 0;
failed:
    sp_channel_destroy(&self->end.in);
    sp_channel_destroy(&self->end.out);
    free(self);
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "an actor cannot start: %s", strerror(errno));
}

void sp_actor_ask_stop(sp_actor_t *self)
{
    sp_channel_close(self->end.in);
}

void sp_actor_stop(sp_actor_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    sp_actor_t *self = *self_p;
    *self_p = NULL;
    if (self->stopped)
        return;
    sp_channel_close(self->end.in);
    // Nobody reads any more: a thread that waits for room must not wait for ever.
    sp_channel_close(self->end.out);
    pthread_join(self->thread, NULL);
    self->stopped = true;
    if (!self->in_callback)
        actor_free(self);
}

int sp_actor_send(sp_actor_t *self, const sp_schema_t *schema, const void *body, sp_error_t *err)
{
    return sp_channel_send(self->end.in, schema, body, OWNER_WAIT_MS, err);
}

bool sp_actor_end_stopped(sp_actor_end_t *self)
{
    return sp_channel_closed(self->in);
}

int sp_actor_end_send(sp_actor_end_t *self, const sp_schema_t *schema, const void *body,
                      sp_error_t *err)
{
    for (;;) {
        int rc = sp_channel_send(self->out, schema, body, THREAD_WAIT_MS, err);
        if (rc != SP_E_RATE_LIMITED)
            return rc;
        if (sp_actor_end_stopped(self))
            return sp_error_set(err, SP_E_CANCELLED, "stop was asked");
        sp_error_clear(err);
    }
}

bool sp_actor_end_receive(sp_actor_end_t *self, int timeout_ms, sp_arena_t *arena,
                          const sp_schema_t **ret_schema, void **ret_body)
{
    int64_t deadline_ms = sp_clock_mono_ms() + timeout_ms;
    for (;;) {
        *ret_schema = NULL;
        *ret_body = NULL;
        bool stopped = sp_actor_end_stopped(self);
        if (sp_channel_take(self->in, arena, ret_schema, ret_body) || stopped)
            return true;
        int wait_ms = timeout_ms < 0 ? -1 : sp_clock_until_ms(deadline_ms);
        if (wait_ms == 0)
            return false;
        struct pollfd fd = {.fd = sp_channel_fd(self->in), .events = POLLIN};
        poll(&fd, 1, wait_ms);
    }
}

int sp_actor_end_fd(sp_actor_end_t *self)
{
    return sp_channel_fd(self->in);
}
