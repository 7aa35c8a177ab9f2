// Server: one ROUTER socket in a zloop, its dispatch table, and the requests that are not answered yet.
#include "common/mesh/mesh.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/mesh/frames.h"

// What kept requests may hold all in all, decoded; past it new ones are told `rate_limited`.
enum { MAX_REQUESTS = 65536, MAX_REQUEST_BYTES = 256 * 1024 * 1024 };
// A request's arena holds the decoded form: at most this many times its bytes, and this much more.
enum { CLOSE_LINGER_MS = 500 }; // for the last replies, of which a peer that reads needs nothing
enum { ARENA_FACTOR = 32, ARENA_ROOM = 1024 * 1024 };

// The request as the server sees it.
typedef struct pending {
    sp_request_t public;  // what handlers see; first, so that the pointers are the same
    sp_frames_t frames;   // decoded strings borrow from them
    size_t held;          // bytes that it counts for in pending_bytes
    struct pending *next; // in the server's list
    struct pending *prev; // in the server's list
} pending_t;

struct sp_server {
    zloop_t *loop;              // borrowed
    zsock_t *sock;              // ROUTER
    void *zmq;                  // its libzmq socket
    char endpoint[256];         // with the real port
    char kind[64];              // for pong
    char service_id[128];       // for pong
    bool ready;                 // for pong
    const sp_dispatch_t *table; // borrowed
    void *self;                 // the service
    size_t max_bytes;           // most bytes of any message of the table
    sp_msg_envelope_t stamp;    // epoch and ring version of every envelope sent
    sp_server_stats_t stats;    // counts
    pending_t *pending;         // live requests
    size_t pending_n;           // count
    size_t pending_bytes;       // memory that they hold
    sp_request_t *current;      // the one whose handler runs, until it is answered
    int64_t logged_ms;          // when an undeliverable reply was last logged
    int64_t unlogged;           // undeliverable replies since
    sp_buf_t envelope_buf;      // scratch
    sp_buf_t body_buf;          // scratch
};

// ---- requests

static void unlink_pending(sp_server_t *self, pending_t *p)
{
    if (p->prev)
        p->prev->next = p->next;
    else
        self->pending = p->next;
    if (p->next)
        p->next->prev = p->prev;
    self->pending_n--;
    self->pending_bytes -= p->held;
}

static void request_free(sp_request_t *request)
{
    pending_t *p = (pending_t *)request;
    if (request->server) {
        unlink_pending(request->server, p);
        if (request->server->current == request)
            request->server->current = NULL;
    }
    zframe_destroy(&request->identity);
    sp_frames_close(&p->frames);
    sp_arena_destroy(&request->arena);
    free(p);
}

void sp_request_keep(sp_request_t *request)
{
    request->kept = true;
}

void sp_request_done(sp_request_t **request_p)
{
    if (!request_p || !*request_p)
        return;
    request_free(*request_p);
    *request_p = NULL;
}

// ---- sending

static void count_undeliverable(sp_server_t *self, const char *message, const sp_error_t *why)
{
    self->stats.undeliverable++;
    self->unlogged++;
    int64_t now = sp_clock_mono_ms();
    if (self->logged_ms && now - self->logged_ms < 1000)
        return;
    sp_log(SP_LOG_INFO, "MESH-UNDELIVERABLE", "message", message, "count",
           sp_log_fmt("%lld", (long long)self->unlogged), "reason", why->text, NULL);
    self->logged_ms = now;
    self->unlogged = 0;
}

static int send_message(sp_server_t *self, zframe_t *identity, sp_str_t request_id,
                        sp_str_t traceparent, const sp_schema_t *schema, const void *body,
                        sp_error_t *err)
{
    sp_msg_envelope_t envelope = self->stamp;
    envelope.request_id = request_id;
    envelope.traceparent = traceparent;
    int rc = sp_frames_encode(&envelope, schema, body, &self->envelope_buf, &self->body_buf, err);
    if (rc != 0)
        return rc;
    return sp_frames_send(self->zmq, identity, &self->envelope_buf, &self->body_buf, err);
}

static int reply_to(const sp_request_t *r, const sp_schema_t *schema, const void *body,
                    sp_error_t *err)
{
    return send_message(r->server, r->identity, r->envelope.request_id, r->envelope.traceparent,
                        schema, body, err);
}

static void send_error(const sp_request_t *r, const sp_error_t *err, const sp_value_t *details)
{
    sp_server_t *self = r->server;
    self->stats.errors++;
    sp_msg_error_t body = {.code = sp_str(sp_error_name(err->code)),
                           .message = sp_str(err->text[0] ? err->text : sp_error_name(err->code)),
                           .retryable = err->retryable,
                           .has_retryable = true};
    sp_value_pair_t pairs[2];
    size_t n = 0;
    if (err->sqlstate[0])
        pairs[n++] = (sp_value_pair_t){SP_STR("sqlstate"), sp_value_str(err->sqlstate)};
    if (err->detail[0])
        pairs[n++] = (sp_value_pair_t){SP_STR("detail"), sp_value_str(err->detail)};
    if (details)
        body.details = *details;
    else if (n > 0)
        body.details = (sp_value_t){.kind = SP_VALUE_MAP, .u.map = {pairs, n}};
    sp_error_t why = {0};
    int rc = reply_to(r, &sp_schema_error, &body, &why);
    if (rc != 0 && rc != SP_E_UNAVAILABLE) {
        // What the error says cannot be encoded: say at least that.
        sp_log(SP_LOG_ERROR, "MESH-ERROR-UNENCODABLE", "code", sp_error_name(err->code), "reason",
               why.text, NULL);
        body.details = (sp_value_t){0};
        body.message = body.code;
        rc = reply_to(r, &sp_schema_error, &body, &why);
    }
    if (rc != 0)
        count_undeliverable(self, "error", &why);
}

void sp_request_reply(sp_request_t **request_p, const sp_schema_t *schema, const void *body)
{
    sp_request_t *r = *request_p;
    sp_server_t *self = r->server;
    *request_p = NULL;
    sp_error_t err = {0};
    int rc = self ? reply_to(r, schema, body, &err) : 0;
    if (rc == SP_E_UNAVAILABLE) {
        count_undeliverable(self, schema->name, &err);
    } else if (rc != 0) {
        sp_log(SP_LOG_ERROR, "MESH-REPLY-UNENCODABLE", "message", schema ? schema->name : "NULL",
               "code", sp_error_name(rc), "reason", err.text, NULL);
        sp_error_t internal = {0};
        sp_error_set(&internal, rc == SP_E_TOO_LARGE ? SP_E_TOO_LARGE : SP_E_INTERNAL,
                     "the reply cannot be sent: %s", err.text);
        send_error(r, &internal, NULL);
    }
    request_free(r);
}

void sp_request_error_details(sp_request_t **request_p, const sp_error_t *err,
                              const sp_value_t *details)
{
    sp_request_t *r = *request_p;
    *request_p = NULL;
    if (r->server)
        send_error(r, err, details);
    request_free(r);
}

void sp_request_error(sp_request_t **request_p, const sp_error_t *err)
{
    sp_request_error_details(request_p, err, NULL);
}

void sp_request_fail(sp_request_t **request_p, int code, const char *fmt, ...)
{
    char text[sizeof((sp_error_t *)0)->text];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    sp_error_t err = {0};
    sp_error_set(&err, code, "%s", text);
    sp_request_error_details(request_p, &err, NULL);
}

int sp_server_send(sp_server_t *self, zframe_t *identity, const sp_schema_t *schema,
                   const void *body, sp_error_t *err)
{
    sp_str_t none = {0};
    int rc = send_message(self, identity, none, none, schema, body, err);
    if (rc == SP_E_UNAVAILABLE)
        self->stats.undeliverable++;
    return rc;
}

// ---- receiving

static const sp_dispatch_t *find_handler(const sp_server_t *self, int64_t message)
{
    for (const sp_dispatch_t *row = self->table; row->schema; row++)
        if (row->schema->id == message)
            return row;
    return NULL;
}

static void answer_ping(sp_server_t *self, sp_request_t **request_p)
{
    sp_msg_pong_t pong = {.kind = sp_str(self->kind),
                          .service_id = sp_str(self->service_id),
                          .ready = self->ready,
                          .has_ready = true};
    sp_request_reply(request_p, &sp_schema_pong, &pong);
}

// Decodes the two frames into the request and finds its handler (NULL for ping). The envelope stays decoded also on failure,
// so that the error reply carries its request id.
static int decode_request(sp_server_t *self, pending_t *p, const sp_dispatch_t **ret_row,
                          sp_error_t *err)
{
    sp_request_t *r = &p->public;
    const size_t total = p->frames.bytes;
    int rc = 0;
    if (p->frames.n > 1)
        rc = sp_frames_decode_envelope(sp_frames_data(&p->frames, 1), sp_frames_size(&p->frames, 1),
                                       r->arena, &r->envelope, err);
    if (rc != 0)
        memset(&r->envelope, 0, sizeof r->envelope);
    if (total > self->max_bytes)
        return sp_error_set(err, SP_E_TOO_LARGE, "a message of %zu bytes; at most %zu", total,
                            self->max_bytes);
    if (p->frames.n != 3)
        return sp_error_set(err, SP_E_MALFORMED,
                            "a message has two frames, envelope and body; %d came",
                            p->frames.n - 1);
    if (rc != 0)
        return rc;
    const sp_dispatch_t *row = find_handler(self, r->envelope.message);
    r->schema = row ? row->schema : r->envelope.message == SP_MSG_PING ? &sp_schema_ping : NULL;
    if (!r->schema)
        return sp_error_set(err, SP_E_UNKNOWN_MESSAGE, "%s does not handle message %lld",
                            self->kind, (long long)r->envelope.message);
    if (total > r->schema->max_bytes + SP_FRAMES_ENVELOPE_MAX)
        return sp_error_set(err, SP_E_TOO_LARGE, "%s of %zu bytes; at most %zu", r->schema->name,
                            total, r->schema->max_bytes);
    r->body = sp_arena_alloc(r->arena, 1, r->schema->size);
    if (!r->body)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "request");
    *ret_row = row;
    return sp_wire_decode_msgpack(r->schema, sp_frames_data(&p->frames, 2),
                                  sp_frames_size(&p->frames, 2), r->arena, r->body, err);
}

static void count_refusal(sp_server_t *self, int code)
{
    if (code == SP_E_TOO_LARGE)
        self->stats.oversized++;
    else if (code == SP_E_UNKNOWN_MESSAGE)
        self->stats.unknown++;
    else
        self->stats.malformed++;
}

static void dispatch(sp_server_t *self, sp_request_t *r, const sp_dispatch_t *row)
{
    if (r->envelope.has_deadline_ms)
        r->deadline_mono_ms = sp_clock_mono_ms() + r->envelope.deadline_ms;
    if (r->envelope.has_deadline_ms && r->envelope.deadline_ms == 0) {
        sp_request_fail(&r, SP_E_DEADLINE_EXCEEDED, "the deadline had passed on arrival");
        return;
    }
    if (!row) {
        answer_ping(self, &r);
        return;
    }
    if (self->pending_n > MAX_REQUESTS || self->pending_bytes > MAX_REQUEST_BYTES) {
        sp_request_fail(&r, SP_E_RATE_LIMITED, "%zu requests are in flight; try again",
                        self->pending_n);
        return;
    }
    self->current = r;
    row->handle(self->self, r);
    if (self->current == r && !r->kept) {
        sp_log(SP_LOG_ERROR, "MESH-UNANSWERED", "message", row->schema->name, NULL);
        sp_request_fail(&r, SP_E_INTERNAL, "%s was not answered", row->schema->name);
    }
    self->current = NULL;
}

// Makes a request of the frames; NULL (frames closed) when memory runs out.
static pending_t *pending_new(sp_server_t *self, sp_frames_t *frames)
{
    pending_t *p = calloc(1, sizeof *p);
    sp_arena_t *arena = sp_arena_new(frames->bytes * ARENA_FACTOR + ARENA_ROOM);
    zframe_t *identity = zframe_new(sp_frames_data(frames, 0), sp_frames_size(frames, 0));
    if (!p || !arena || !identity) {
        free(p);
        sp_arena_destroy(&arena);
        zframe_destroy(&identity);
        sp_frames_close(frames);
        return NULL;
    }
    p->frames = *frames;
    p->public = (sp_request_t){.server = self,
                               .arena = arena,
                               .deadline_mono_ms = INT64_MAX,
                               .received_mono_us = sp_clock_mono_us(),
                               .identity = identity};
    p->held = frames->bytes;
    p->next = self->pending;
    if (p->next)
        p->next->prev = p; // NOLINT(clang-analyzer-unix.Malloc): a freed one has left the list
    self->pending = p;
    self->pending_n++;
    self->pending_bytes += p->held;
    return p;
}

static bool receive_request(sp_server_t *self)
{
    sp_frames_t frames;
    if (!sp_frames_receive(self->zmq, 3, self->max_bytes, &frames))
        return false;
    self->stats.requests++;
    pending_t *p = pending_new(self, &frames);
    if (!p) {
        self->stats.errors++; // no memory, not even to say so
        return true;
    }
    sp_request_t *r = &p->public;
    const sp_dispatch_t *row = NULL;
    sp_error_t err = {0};
    int rc = decode_request(self, p, &row, &err);
    p->held += sp_arena_held(r->arena);
    self->pending_bytes += sp_arena_held(r->arena);
    if (rc == 0) {
        dispatch(self, r, row);
        return true;
    }
    count_refusal(self, rc);
    // Never an error about an error: two servers could go on for ever.
    if (r->envelope.message == SP_MSG_ERROR)
        sp_request_done(&r);
    else
        sp_request_error(&r, &err);
    return true;
}

static int on_readable(zloop_t *loop, zsock_t *sock, void *arg)
{
    (void)loop;
    (void)sock;
    sp_server_t *self = arg;
    for (int i = 0; i < SP_FRAMES_BATCH && receive_request(self); i++)
        ;
    return 0;
}

// ---- life

int sp_server_open(sp_server_t **ret_self, zloop_t *loop, const char *listen, const char *kind,
                   const char *service_id, const sp_dispatch_t *table, void *service,
                   sp_error_t *err)
{
    sp_server_t *self = calloc(1, sizeof *self);
    if (!self)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "server");
    self->loop = loop;
    self->table = table;
    self->self = service;
    snprintf(self->kind, sizeof self->kind, "%s", kind ? kind : "");
    snprintf(self->service_id, sizeof self->service_id, "%s", service_id ? service_id : "");
    self->max_bytes = SP_WIRE_MAX_BYTES;
    for (const sp_dispatch_t *row = table; row->schema; row++)
        if (row->schema->max_bytes > self->max_bytes)
            self->max_bytes = row->schema->max_bytes;
    // Room for what is refused by a message's own, smaller limit, so that it gets an answer.
    self->max_bytes += SP_FRAMES_ENVELOPE_MAX + 256;
    self->sock = zsock_new(ZMQ_ROUTER);
    if (!self->sock) {
        sp_server_close(&self);
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "ROUTER socket");
    }
    self->zmq = zsock_resolve(self->sock);
    sp_frames_socket(self->sock);
    // An unreachable peer is an error, not silence; nobody takes another's identity.
    zsock_set_router_mandatory(self->sock, 1);
    zsock_set_router_handover(self->sock, 0);
    if (zsock_bind(self->sock, "%s", listen) < 0) {
        int rc = sp_error_set(err, SP_E_IO, "cannot listen on %s: %s", listen, zmq_strerror(errno));
        sp_server_close(&self);
        return rc;
    }
    snprintf(self->endpoint, sizeof self->endpoint, "%s", zsock_endpoint(self->sock));
    if (zloop_reader(loop, self->sock, on_readable, self) != 0) {
        sp_server_close(&self);
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "server");
    }
    zloop_reader_set_tolerant(loop, self->sock);
    *ret_self = self;
    return 0;
}

void sp_server_close(sp_server_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    sp_server_t *self = *self_p;
    if (self->sock)
        zloop_reader_end(self->loop, self->sock);
    // Kept requests outlive the server as empty shells that their keepers free by answering.
    for (pending_t *p = self->pending; p; p = p->next)
        p->public.server = NULL;
    if (self->sock)
        zsock_set_linger(self->sock, CLOSE_LINGER_MS);
    zsock_destroy(&self->sock);
    sp_buf_free(&self->envelope_buf);
    sp_buf_free(&self->body_buf);
    free(self);
    *self_p = NULL;
}

const char *sp_server_endpoint(const sp_server_t *self)
{
    return self->endpoint;
}

void sp_server_set_ready(sp_server_t *self, bool ready)
{
    self->ready = ready;
}

void sp_server_stats(const sp_server_t *self, sp_server_stats_t *ret_stats)
{
    *ret_stats = self->stats;
    ret_stats->in_flight = (int64_t)self->pending_n;
}

void sp_server_stamp(sp_server_t *self, int64_t generation, int64_t epoch, int64_t ring_version)
{
    self->stamp = sp_frames_stamp(generation, epoch, ring_version);
}
