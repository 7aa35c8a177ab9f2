// Requests and replies between services: [envelope, body] frames over ROUTER/DEALER (CURVE comes with the auth work).
// Everything here belongs to one zloop and its thread, but for sp_mesh_call (its own socket, blocking, for actors).
#ifndef SP_MESH_MESH_H
#define SP_MESH_MESH_H

#include <czmq.h>

#include "common/base/arena.h"
#include "common/base/error.h"
#include "common/wire/wire.h"
#include "schemas/envelope.h"

// ---- server side
typedef struct sp_server sp_server_t;

// One request. Lives until it is answered; handlers answer at once, or keep it (sp_request_keep) and answer later from the same thread.
typedef struct sp_request {
    sp_server_t *server;         // owner
    sp_msg_envelope_t envelope;  // decoded; borrows from the arena
    const sp_schema_t *schema;   // of the body
    void *body;                  // decoded struct sp_msg_<name>_t
    sp_arena_t *arena;           // all of it; freed with the request
    int64_t deadline_mono_ms;    // when the requester gives up; INT64_MAX when it said none
    int64_t received_mono_us;    // for latency metrics
    zframe_t *identity;          // the peer
    bool kept;                   // handler took it over
} sp_request_t;

// A handler owns nothing; it must answer or keep. self is the service.
typedef void (sp_handler_fn)(void *self, sp_request_t *request);
typedef struct sp_dispatch {
    const sp_schema_t *schema; // message
    sp_handler_fn *handle;     // its handler
} sp_dispatch_t;

// Binds `listen` (MANDATORY, HWM, MAXMSGSIZE), adds itself to the loop. Unknown message ids, oversized and malformed frames get an
// error reply with the code and are counted; `ping` is answered here. table must outlive the server; ends with {NULL, NULL}.
int sp_server_open(sp_server_t **ret_self, zloop_t *loop, const char *listen, const char *kind, const char *service_id, const sp_dispatch_t *table, void *self, sp_error_t *err);
void sp_server_close(sp_server_t **self_p);
const char *sp_server_endpoint(const sp_server_t *self); // with the real port when listen ended in :*
void sp_server_set_ready(sp_server_t *self, bool ready); // what pong says
typedef struct sp_server_stats {
    int64_t requests, errors, malformed, oversized, unknown, undeliverable; // counts since start
} sp_server_stats_t;
void sp_server_stats(const sp_server_t *self, sp_server_stats_t *ret_stats);
// Sets epoch and ring version that go into every envelope sent.
void sp_server_stamp(sp_server_t *self, int64_t generation, int64_t epoch, int64_t ring_version);

void sp_request_keep(sp_request_t *request);
// Answer and free the request. Encoding faults become an `internal` error reply; an unreachable peer is counted and logged.
void sp_request_reply(sp_request_t **request_p, const sp_schema_t *schema, const void *body);
void sp_request_error(sp_request_t **request_p, const sp_error_t *err);
void sp_request_fail(sp_request_t **request_p, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void sp_request_error_details(sp_request_t **request_p, const sp_error_t *err, const sp_value_t *details);
// A message to a peer that did not ask (manager to worker). 0, SP_E_UNAVAILABLE when the peer is gone, or an encoding error.
int sp_server_send(sp_server_t *self, zframe_t *identity, const sp_schema_t *schema, const void *body, sp_error_t *err);

// ---- client side: one DEALER to one endpoint, many requests in flight
typedef struct sp_peer sp_peer_t;
// code 0: body is the decoded reply of `schema`; else err tells. Called exactly once a call, also on timeout and close.
typedef void (sp_reply_fn)(void *arg, const sp_error_t *err, const sp_msg_envelope_t *envelope, const sp_schema_t *schema, const void *body);
// A message that answers no call (task_assign, heartbeat, ...). May be NULL.
typedef void (sp_push_fn)(void *arg, const sp_msg_envelope_t *envelope, const sp_schema_t *schema, const void *body);
int sp_peer_open(sp_peer_t **ret_self, zloop_t *loop, const char *endpoint, sp_push_fn *on_push, void *arg, sp_error_t *err);
void sp_peer_close(sp_peer_t **self_p); // open calls end with `unavailable`
int sp_peer_call(sp_peer_t *self, const sp_schema_t *schema, const void *body, const sp_msg_envelope_t *envelope_or_null, int timeout_ms, sp_reply_fn *on_reply, void *arg, sp_error_t *err);
// One way (task_update, heartbeat).
int sp_peer_send(sp_peer_t *self, const sp_schema_t *schema, const void *body, sp_error_t *err);
void sp_peer_stamp(sp_peer_t *self, int64_t generation, int64_t epoch, int64_t ring_version);
int64_t sp_peer_heard_ms(const sp_peer_t *self); // monotonic time of the last frame received
// Low level, for proxies (gateway): send an already encoded body, receive raw.
// Blocking call with its own socket, for actors and tools. ret_body is decoded into the arena.
int sp_mesh_call(const char *endpoint, const sp_schema_t *schema, const void *body, int timeout_ms, sp_arena_t *arena, const sp_schema_t **ret_schema, void **ret_body, sp_error_t *err);

// ---- events: PUB with a sequence; frames [topic, body]; topic = event kind (or "ring.<keyspace>")
typedef struct sp_publisher sp_publisher_t;
int sp_publisher_open(sp_publisher_t **ret_self, const char *listen, const char *service_id, sp_error_t *err);
void sp_publisher_close(sp_publisher_t **self_p);
const char *sp_publisher_endpoint(const sp_publisher_t *self);
// Fills sequence, time_ms and publisher; returns the sequence.
int64_t sp_publisher_event(sp_publisher_t *self, sp_msg_event_t *event);
int sp_publisher_send(sp_publisher_t *self, const char *topic, const sp_schema_t *schema, const void *body, sp_error_t *err);
int64_t sp_publisher_sequence(const sp_publisher_t *self); // last used
int64_t sp_publisher_next(sp_publisher_t *self);           // takes the next number for a message that carries its own

typedef struct sp_subscriber sp_subscriber_t;
typedef void (sp_event_fn)(void *arg, const char *topic, const sp_schema_t *schema, const void *body, bool gap);
// Subscribes to topics that start with `topic`; `schema` is what the bodies are.
int sp_subscriber_open(sp_subscriber_t **ret_self, zloop_t *loop, const char *endpoint, const char *topic, const sp_schema_t *schema, sp_event_fn *on_event, void *arg, sp_error_t *err);
void sp_subscriber_close(sp_subscriber_t **self_p);

#endif
