// Peer: one DEALER to one endpoint, with many requests in flight.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "common/mesh/connection.h"
#include "common/mesh/incoming.h"
#include "common/mesh/mesh.h"

enum {
    MAX_CALLS = 65536,         // in flight on one peer; past it `rate_limited`
    MAX_HELD_BYTES = 64 << 20, // of calls that wait for a connection; past it `unavailable`
    MAX_GIVEN_UP = 4096,       // ids that are remembered; past it each call has an id of our own
    DEFAULT_TIMEOUT_MS = 5000, // where the caller said none
    TIMER_STEP_MS = 10,        // expiries closer than this share one look at the calls
    MAX_REQUEST_ID = 64,       // as in the envelope's schema
};

typedef struct call {
    char request_id[MAX_REQUEST_ID + 1]; // key in `calls`
    const sp_schema_t *schema;           // of the request
    int64_t deadline_ms;                 // monotonic
    int64_t sent_ms;                     // monotonic; of the call, while it is held
    int timeout_ms;                      // for the error text
    bool held;                           // nobody was there to send it to, so far
    sp_buf_t envelope, body;             // encoded, while it is held
    sp_reply_fn *on_reply;               // told once
    void *arg;                           // for on_reply
    struct call *next;                   // by age, oldest first
    struct call **link;                  // where it is linked from
} call_t;

struct sp_peer {
    zloop_t *loop;           // borrowed
    sp_connection_t to;      // the endpoint
    char endpoint[256];      // where it connects to
    sp_push_fn *on_push;     // or NULL
    void *arg;               // for on_push
    sp_msg_envelope_t stamp; // epoch and ring version of every envelope sent
    zhashx_t *calls;         // request id -> call_t, borrowed from the list
    zhashx_t *given_up;      // request ids whose late answers this connection may still bring
    call_t *oldest;          // list of calls
    call_t **end;            // where the next one is linked
    size_t held_n;           // calls that are held
    size_t held_bytes;       // of their envelopes and bodies
    char id_prefix[9];       // of this peer's request ids
    uint64_t next_id;        // of this peer's request ids
    int timer;               // of the loop, -1 none
    int64_t timer_ms;        // when it fires
    int64_t heard_ms;        // last frame received, monotonic
    sp_peer_stats_t stats;   // counts
    int depth;               // callbacks under way: the memory stays
    bool closed;             // sp_peer_close was called
    sp_buf_t envelope_buf;   // scratch
    sp_buf_t body_buf;       // scratch
    sp_peer_t *next_open;    // in `open_peers`
};

// zloop ends a timer only after the round of timers under way: one that is due in the same round still fires, when its peer may be
// gone, and another one may have its address. So a timer looks for its peer here first.
static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER; // for the list
static sp_peer_t *open_peers;                                 // of all loops

static int on_readable(zloop_t *loop, zsock_t *sock, void *arg);
static int on_news(zloop_t *loop, zsock_t *sock, void *arg);
static int on_timer(zloop_t *loop, int timer, void *arg);

// ---- calls

// Keeps an encoded call until there is a connection. Had libzmq it in its queue, it would be done when somebody listens again,
// however long after its caller was told that it failed.
static int hold(sp_peer_t *self, call_t *c, sp_error_t *err)
{
    size_t bytes = self->envelope_buf.len + self->body_buf.len;
    if (self->held_n >= SP_FRAMES_HWM || self->held_bytes + bytes > MAX_HELD_BYTES)
        return sp_error_set(err, SP_E_UNAVAILABLE, "%s is not reached, and %zu requests wait",
                            self->endpoint, self->held_n);
    c->held = true;
    c->envelope = self->envelope_buf;
    c->body = self->body_buf;
    self->envelope_buf = self->body_buf = (sp_buf_t)SP_BUF_INIT;
    self->held_n++;
    self->held_bytes += bytes;
    return 0;
}

// It was sent, or ends without.
static void release(sp_peer_t *self, call_t *c)
{
    self->held_n--;
    self->held_bytes -= c->envelope.len + c->body.len;
    sp_buf_free(&c->envelope);
    sp_buf_free(&c->body);
}

// Its envelope again, in the scratch buffer, with what is left of its time: a deadline counts from receipt.
static int shorten(sp_peer_t *self, const call_t *c)
{
    sp_msg_envelope_t envelope;
    sp_arena_t *arena = sp_arena_new(0);
    int rc =
        arena ? sp_frames_decode_envelope(c->envelope.data, c->envelope.len, arena, &envelope, NULL)
              : SP_E_OUT_OF_MEMORY;
    if (rc == 0) {
        int left = sp_clock_until_ms(c->deadline_ms);
        envelope.deadline_ms = left > 0 ? left : 1;
        sp_buf_reset(&self->envelope_buf);
        rc = sp_wire_encode_msgpack(&sp_schema_envelope, &envelope, &self->envelope_buf, NULL);
    }
    sp_arena_destroy(&arena);
    return rc;
}

static void send_held(sp_peer_t *self)
{
    for (call_t *c = self->oldest; c && self->held_n > 0; c = c->next) {
        if (!c->held)
            continue;
        if (shorten(self, c) != 0 ||
            sp_frames_send(self->to.zmq, NULL, &self->envelope_buf, &c->body, NULL) != 0)
            return;
        c->held = false;
        c->sent_ms = sp_clock_mono_ms();
        release(self, c);
    }
}

static void unlink_call(sp_peer_t *self, call_t *c)
{
    zhashx_delete(self->calls, c->request_id);
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    else
        self->end = c->link;
    if (c->held)
        release(self, c);
}

static void list_open(sp_peer_t *self)
{
    pthread_mutex_lock(&open_lock);
    self->next_open = open_peers;
    open_peers = self;
    pthread_mutex_unlock(&open_lock);
}

static void unlist_open(const sp_peer_t *self)
{
    pthread_mutex_lock(&open_lock);
    for (sp_peer_t **link = &open_peers; *link; link = &(*link)->next_open)
        if (*link == self) {
            *link = self->next_open;
            break;
        }
    pthread_mutex_unlock(&open_lock);
}

// The open peer that a timer of this loop was made for; NULL when it was ended.
static sp_peer_t *timers_peer(const zloop_t *loop, int timer, const void *arg)
{
    pthread_mutex_lock(&open_lock);
    sp_peer_t *p = open_peers;
    while (p && p != arg)
        p = p->next_open;
    bool ours = p && p->loop == loop;
    pthread_mutex_unlock(&open_lock);
    return ours && p->timer == timer ? p : NULL;
}

static void free_self(sp_peer_t *self)
{
    zhashx_destroy(&self->calls);
    zhashx_destroy(&self->given_up);
    sp_buf_free(&self->envelope_buf);
    sp_buf_free(&self->body_buf);
    free(self);
}

// Around every callback: the callback may close the peer.
static void enter(sp_peer_t *self)
{
    self->depth++;
}

// True when the peer is gone.
static bool leave(sp_peer_t *self)
{
    if (--self->depth > 0)
        return self->closed;
    if (!self->closed)
        return false;
    free_self(self);
    return true;
}

// Tells one unlinked call how it was lost (NULL: by time), and frees it.
static void lose_call(sp_peer_t *self, call_t *c, const char *how)
{
    sp_error_t err = {0};
    if (c->held) // whatever it does, it was not done
        sp_error_set(&err, SP_E_UNAVAILABLE, "%s: %s was not reached within %d ms", c->schema->name,
                     self->endpoint, c->timeout_ms);
    else if (how)
        sp_incoming_lost(c->schema, &err, "%s %s", self->endpoint, how);
    else
        sp_incoming_lost(c->schema, &err, "%s did not answer within %d ms", self->endpoint,
                         c->timeout_ms);
    c->on_reply(c->arg, &err, NULL, NULL, NULL);
    free(c);
}

// Calls that are lost have left the list before: their callbacks may add and end others. True when the peer is gone.
static bool lose_calls(sp_peer_t *self, call_t *lost, const char *how)
{
    enter(self);
    for (call_t *c = lost, *after; c; c = after) {
        after = c->next;
        lose_call(self, c, how);
    }
    return leave(self);
}

static void reconnect(sp_peer_t *self)
{
    sp_error_t err = {0};
    sp_connection_close(&self->to);
    zhashx_purge(self->given_up);
    self->stats.reconnects++;
    if (sp_connection_open(&self->to, self->loop, self->endpoint, on_readable, on_news, self,
                           &err) != 0)
        sp_log(SP_LOG_ERROR, "MESH-RECONNECT", "endpoint", self->endpoint, "reason", err.text,
               NULL);
}

static void arm_timer(sp_peer_t *self, int64_t deadline_ms)
{
    if (self->timer >= 0 && self->timer_ms <= deadline_ms)
        return;
    if (self->timer >= 0)
        zloop_timer_end(self->loop, self->timer);
    int64_t now = sp_clock_mono_ms();
    int64_t delay = deadline_ms - now;
    if (delay < TIMER_STEP_MS)
        delay = TIMER_STEP_MS;
    self->timer_ms = now + delay;
    self->timer = zloop_timer(self->loop, (size_t)delay, 1, on_timer, self);
}

static int on_timer(zloop_t *loop, int timer, void *arg)
{
    sp_peer_t *self = timers_peer(loop, timer, arg);
    if (!self)
        return 0;
    self->timer = -1;
    int64_t now = sp_clock_mono_ms();
    int64_t next = INT64_MAX;
    bool silent = false;
    call_t *expired = NULL;
    for (call_t *c = self->oldest, *after; c; c = after) {
        after = c->next;
        if (c->deadline_ms > now) {
            next = c->deadline_ms < next ? c->deadline_ms : next;
            continue;
        }
        silent = silent || (!c->held && self->heard_ms <= c->sent_ms);
        if (!c->held && zhashx_size(self->given_up) < MAX_GIVEN_UP)
            zhashx_insert(self->given_up, c->request_id, self);
        unlink_call(self, c);
        c->next = expired;
        expired = c;
        self->stats.timeouts++;
    }
    if (lose_calls(self, expired, NULL))
        return 0;
    // A peer that said nothing since may have stopped reading: what is on its way to it must not be done long after the caller has
    // given up, so it goes with the socket. While others wait, their answers may still come.
    if (silent && !self->oldest)
        reconnect(self);
    if (next != INT64_MAX)
        arm_timer(self, next);
    return 0;
}

// The caller's id where possible, because it stands in the logs; not where the answer to another call could be taken for this one's.
static void choose_id(sp_peer_t *self, sp_str_t wanted, char out[MAX_REQUEST_ID + 1])
{
    unsigned long long n = self->next_id++;
    if (!wanted.ptr || wanted.len == 0 || wanted.len > MAX_REQUEST_ID) {
        snprintf(out, MAX_REQUEST_ID + 1, "%s-%llx", self->id_prefix, n);
        return;
    }
    snprintf(out, MAX_REQUEST_ID + 1, SP_STR_FMT, SP_STR_ARG(wanted));
    if (!zhashx_lookup(self->calls, out) && !zhashx_lookup(self->given_up, out) &&
        zhashx_size(self->given_up) < MAX_GIVEN_UP)
        return;
    snprintf(out, MAX_REQUEST_ID + 1, "%s-%llx", self->id_prefix, n);
}

static void link_call(sp_peer_t *self, call_t *c)
{
    c->next = NULL;
    c->link = self->end;
    *self->end = c;
    self->end = &c->next;
}

int sp_peer_call(sp_peer_t *self, const sp_schema_t *schema, const void *body,
                 const sp_msg_envelope_t *envelope_or_null, int timeout_ms, sp_reply_fn *on_reply,
                 void *arg, sp_error_t *err)
{
    if (self->closed || !self->to.sock)
        return sp_error_set(err, SP_E_UNAVAILABLE, "%s is closed", self->endpoint);
    if (zhashx_size(self->calls) >= MAX_CALLS)
        return sp_error_set(err, SP_E_RATE_LIMITED, "%d requests to %s are in flight", MAX_CALLS,
                            self->endpoint);
    if (timeout_ms <= 0)
        timeout_ms = DEFAULT_TIMEOUT_MS;
    call_t *c = calloc(1, sizeof *c);
    if (!c)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "call");
    sp_msg_envelope_t envelope = self->stamp;
    sp_frames_inherit(&envelope, envelope_or_null);
    choose_id(self, envelope.request_id, c->request_id);
    envelope.request_id = sp_str(c->request_id);
    envelope.deadline_ms = timeout_ms;
    envelope.has_deadline_ms = true;
    int rc = sp_frames_encode(&envelope, schema, body, &self->envelope_buf, &self->body_buf, err);
    if (rc == 0)
        rc = self->to.up
                 ? sp_frames_send(self->to.zmq, NULL, &self->envelope_buf, &self->body_buf, err)
                 : hold(self, c, err);
    if (rc != 0) {
        free(c);
        return rc;
    }
    c->schema = schema;
    c->timeout_ms = timeout_ms;
    c->sent_ms = sp_clock_mono_ms();
    c->deadline_ms = c->sent_ms + timeout_ms;
    c->on_reply = on_reply;
    c->arg = arg;
    link_call(self, c);
    zhashx_insert(self->calls, c->request_id, c);
    arm_timer(self, c->deadline_ms);
    return 0;
}

int sp_peer_send(sp_peer_t *self, const sp_schema_t *schema, const void *body, sp_error_t *err)
{
    if (self->closed || !self->to.up)
        return sp_error_set(err, SP_E_UNAVAILABLE, "%s is not reached", self->endpoint);
    int rc =
        sp_frames_encode(&self->stamp, schema, body, &self->envelope_buf, &self->body_buf, err);
    if (rc == 0)
        rc = sp_frames_send(self->to.zmq, NULL, &self->envelope_buf, &self->body_buf, err);
    return rc;
}

// ---- receiving

static call_t *find_call(sp_peer_t *self, sp_str_t request_id)
{
    char key[MAX_REQUEST_ID + 1];
    if (!request_id.ptr || request_id.len > MAX_REQUEST_ID)
        return NULL;
    snprintf(key, sizeof key, SP_STR_FMT, SP_STR_ARG(request_id));
    call_t *c = zhashx_lookup(self->calls, key);
    if (!c)
        zhashx_delete(self->given_up, key);
    return c;
}

// Hands one message to whom it concerns. The frames are closed by the caller.
static void deliver(sp_peer_t *self, sp_frames_t *frames, sp_arena_t *arena)
{
    sp_incoming_t in;
    sp_error_t err = {0};
    int rc = sp_incoming_decode(frames, arena, &in, &err);
    call_t *c = find_call(self, in.envelope.request_id);
    if (!c && in.envelope.request_id.ptr && in.envelope.request_id.len > 0) {
        self->stats.late++;
        return;
    }
    if (!c) {
        if (rc != 0)
            self->stats.malformed++;
        else if (self->on_push)
            self->on_push(self->arg, &in.envelope, in.schema, in.body);
        return;
    }
    if (rc == 0)
        rc = sp_incoming_check(&in, c->schema, &err);
    else
        self->stats.malformed++;
    if (rc != 0 && in.schema != &sp_schema_error)
        sp_incoming_unreadable(c->schema, &err);
    unlink_call(self, c);
    // An error's body goes along: its details are for programs.
    c->on_reply(c->arg, &err, &in.envelope, in.schema, in.body);
    free(c);
}

// Takes one message: false when there is none, or the peer was closed.
static bool receive(sp_peer_t *self)
{
    sp_frames_t frames;
    if (!self->to.sock || !sp_frames_receive(self->to.zmq, 2, (size_t)SP_FRAMES_FRAME_MAX, &frames))
        return false;
    self->heard_ms = sp_clock_mono_ms();
    sp_arena_t *arena = sp_arena_new(frames.bytes * 32 + 1024 * 1024);
    if (arena)
        deliver(self, &frames, arena);
    sp_arena_destroy(&arena);
    sp_frames_close(&frames);
    return !self->closed;
}

static int on_readable(zloop_t *loop, zsock_t *sock, void *arg)
{
    (void)loop;
    (void)sock;
    sp_peer_t *self = arg;
    enter(self);
    for (int i = 0; i < SP_FRAMES_BATCH && receive(self); i++)
        ;
    leave(self);
    return 0;
}

// The connection is gone, and with it who the server knows us by: what it has not said yet it never will.
static void lost_connection(sp_peer_t *self)
{
    enter(self);
    while (receive(self))
        ;
    if (leave(self))
        return;
    call_t *lost = NULL, **end = &lost;
    for (call_t *c = self->oldest, *after; c; c = after) {
        after = c->next;
        if (c->held)
            continue;
        unlink_call(self, c);
        c->next = NULL;
        *end = c;
        end = &c->next;
    }
    if (!lose_calls(self, lost, "was lost before it answered"))
        reconnect(self); // also what libzmq has not sent yet goes
}

static int on_news(zloop_t *loop, zsock_t *sock, void *arg)
{
    (void)loop;
    (void)sock;
    sp_peer_t *self = arg;
    sp_connection_news_t news = sp_connection_news(&self->to);
    if (news == SP_CONNECTION_UP)
        send_held(self);
    else if (news == SP_CONNECTION_LOST)
        lost_connection(self);
    return 0;
}

// ---- life

int sp_peer_open(sp_peer_t **ret_self, zloop_t *loop, const char *endpoint, sp_push_fn *on_push,
                 void *arg, sp_error_t *err)
{
    sp_peer_t *self = calloc(1, sizeof *self);
    if (!self)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "peer");
    self->loop = loop;
    self->on_push = on_push;
    self->arg = arg;
    self->timer = -1;
    self->end = &self->oldest;
    self->heard_ms = sp_clock_mono_ms();
    snprintf(self->endpoint, sizeof self->endpoint, "%s", endpoint);
    sp_random_id(self->id_prefix, sizeof self->id_prefix - 1);
    self->calls = zhashx_new();
    self->given_up = zhashx_new();
    if (!self->calls || !self->given_up) {
        free_self(self);
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "peer");
    }
    int rc = sp_connection_open(&self->to, loop, endpoint, on_readable, on_news, self, err);
    if (rc != 0) {
        free_self(self);
        return rc;
    }
    list_open(self);
    *ret_self = self;
    return 0;
}

void sp_peer_close(sp_peer_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    sp_peer_t *self = *self_p;
    *self_p = NULL;
    if (self->closed)
        return;
    self->closed = true;
    unlist_open(self);
    if (self->timer >= 0)
        zloop_timer_end(self->loop, self->timer);
    self->timer = -1;
    sp_connection_close(&self->to);
    enter(self);
    while (self->oldest) {
        call_t *c = self->oldest;
        unlink_call(self, c);
        lose_call(self, c, "was closed before it answered");
    }
    leave(self);
}

void sp_peer_stamp(sp_peer_t *self, int64_t generation, int64_t epoch, int64_t ring_version)
{
    self->stamp = sp_frames_stamp(generation, epoch, ring_version);
}

int64_t sp_peer_heard_ms(const sp_peer_t *self)
{
    return self->heard_ms;
}

void sp_peer_stats(const sp_peer_t *self, sp_peer_stats_t *ret_stats)
{
    *ret_stats = self->stats;
}
