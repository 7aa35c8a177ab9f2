// Requests and replies between services: [envelope, body] frames over ROUTER/DEALER (CURVE comes with the auth work).
// Everything here belongs to one zloop and its thread, but for sp_mesh_call (its own socket, blocking, for actors).
// Nothing here blocks otherwise. Call sp_mesh_setup (signals.h) or sp_signals_open before the first socket.
#ifndef SP_MESH_MESH_H
#define SP_MESH_MESH_H

#include <czmq.h>

#include "common/base/arena.h"
#include "common/base/error.h"
#include "common/wire/wire.h"
#include "schemas/envelope.h"

// ---- server side
typedef struct sp_server sp_server_t;

// One request. Lives until it is answered; handlers answer at once, or keep it (sp_request_keep) and answer later from the same
// thread.
typedef struct sp_request {
    sp_server_t *server;        // owner; NULL once the server is closed: answering then only frees
    sp_msg_envelope_t envelope; // decoded; borrows from the request
    const sp_schema_t *schema;  // of the body
    void *body;                 // decoded struct sp_msg_<name>_t
    sp_arena_t *arena;          // all of it; freed with the request
    int64_t deadline_mono_ms;   // when the requester gives up; INT64_MAX when it said none
    int64_t received_mono_us;   // for latency metrics
    zframe_t *identity;         // the peer
    bool kept;                  // handler took it over
} sp_request_t;

// A handler owns nothing; it must answer, keep, or end (sp_request_done) the request. self is the service. It must not close the
// server.
typedef void(sp_handler_fn)(void *self, sp_request_t *request);
typedef struct sp_dispatch {
    const sp_schema_t *schema; // message
    sp_handler_fn *handle;     // its handler
} sp_dispatch_t;

// Binds `listen` (MANDATORY, HWM, MAXMSGSIZE) and adds itself to the loop. Unknown message ids, oversized and malformed messages
// get an error reply with the code and are counted; `ping` is answered here, and so is a request whose deadline is 0. One frame
// over 16 MiB closes the connection. table must outlive the server and ends with {NULL, NULL}; strings are copied.
// SP_E_IO when it cannot listen, SP_E_OUT_OF_MEMORY.
int sp_server_open(sp_server_t **ret_self, zloop_t *loop, const char *listen, const char *kind,
                   const char *service_id, const sp_dispatch_t *table, void *service,
                   sp_error_t *err);
void sp_server_close(sp_server_t **self_p);
const char *
sp_server_endpoint(const sp_server_t *self); // with the real port when listen ended in :*
void sp_server_set_ready(sp_server_t *self, bool ready); // what pong says
typedef struct sp_server_stats {
    int64_t requests;      // messages received
    int64_t errors;        // error replies
    int64_t malformed;     // not two frames, or frames that do not decode
    int64_t oversized;     // over their limit
    int64_t unknown;       // message ids without a handler
    int64_t undeliverable; // replies to peers that were gone or did not read
    int64_t in_flight;     // requests not answered yet
} sp_server_stats_t;
void sp_server_stats(const sp_server_t *self, sp_server_stats_t *ret_stats);
// Sets epoch and ring version that go into every envelope sent.
void sp_server_stamp(sp_server_t *self, int64_t generation, int64_t epoch, int64_t ring_version);

void sp_request_keep(sp_request_t *request);
// Each of these ends the request: frees it and nulls the pointer. Encoding faults become an `internal` error reply; an unreachable
// peer is counted and logged. The reply carries the request's request_id and traceparent.
void sp_request_reply(sp_request_t **request_p, const sp_schema_t *schema, const void *body);
void sp_request_error(sp_request_t **request_p, const sp_error_t *err);
void sp_request_fail(sp_request_t **request_p, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// details NULL: sqlstate and detail of err, where it has them.
void sp_request_error_details(sp_request_t **request_p, const sp_error_t *err,
                              const sp_value_t *details);
// Without an answer: for messages that want none (heartbeat, task_update).
void sp_request_done(sp_request_t **request_p);
// A message to a peer that did not ask (manager to worker); identity stays the caller's (keep one with zframe_dup). 0,
// SP_E_UNAVAILABLE when the peer is gone or does not read, or an encoding error.
int sp_server_send(sp_server_t *self, zframe_t *identity, const sp_schema_t *schema,
                   const void *body, sp_error_t *err);

// ---- client side: one DEALER to one endpoint, many requests in flight
typedef struct sp_peer sp_peer_t;
// err->code 0: body is the decoded reply of `schema`; else err tells, and schema and body are the error message where there was
// one, else NULL; so is envelope. Called exactly once a call that was sent, also on timeout and close. May close the peer.
// No answer to what was sent is `unavailable` for messages that only read, and `outcome_unknown` for those that change something.
typedef void(sp_reply_fn)(void *arg, const sp_error_t *err, const sp_msg_envelope_t *envelope,
                          const sp_schema_t *schema, const void *body);
// A message that answers no call (task_assign, heartbeat, ...). May close the peer.
typedef void(sp_push_fn)(void *arg, const sp_msg_envelope_t *envelope, const sp_schema_t *schema,
                         const void *body);
// Connects in the background, and again whenever the connection is lost. on_push may be NULL. SP_E_INVALID_ARGUMENT for a bad
// endpoint, SP_E_OUT_OF_MEMORY.
int sp_peer_open(sp_peer_t **ret_self, zloop_t *loop, const char *endpoint, sp_push_fn *on_push,
                 void *arg, sp_error_t *err);
void sp_peer_close(sp_peer_t **self_p); // open calls end as if not answered
// Sends a request, as soon as there is a connection; what was not sent by its timeout never will be, and is `unavailable` whatever it
// does. Of the envelope, request_id, traceparent, client_id and sequence are used; a request id is made where there is none or
// another call in flight has it. timeout_ms <= 0: 5000. When it fails, on_reply is not called: SP_E_UNAVAILABLE (too many wait for
// a connection), SP_E_RATE_LIMITED, or an encoding error.
int sp_peer_call(sp_peer_t *self, const sp_schema_t *schema, const void *body,
                 const sp_msg_envelope_t *envelope_or_null, int timeout_ms, sp_reply_fn *on_reply,
                 void *arg, sp_error_t *err);
// One way (task_update, heartbeat). SP_E_UNAVAILABLE: there is no connection, or the peer does not read; or an encoding error.
int sp_peer_send(sp_peer_t *self, const sp_schema_t *schema, const void *body, sp_error_t *err);
void sp_peer_stamp(sp_peer_t *self, int64_t generation, int64_t epoch, int64_t ring_version);
int64_t sp_peer_heard_ms(const sp_peer_t *self); // monotonic time of the last message received
typedef struct sp_peer_stats {
    int64_t timeouts;   // calls not answered in time
    int64_t late;       // replies to calls that had ended; dropped
    int64_t malformed;  // messages that did not decode
    int64_t reconnects; // sockets given up because the peer was silent or the connection was lost
} sp_peer_stats_t;
void sp_peer_stats(const sp_peer_t *self, sp_peer_stats_t *ret_stats);

// Blocking call with its own socket, for actors and tools, at most timeout_ms. ret_body is decoded into the arena.
int sp_mesh_call(const char *endpoint, const sp_schema_t *schema, const void *body, int timeout_ms,
                 sp_arena_t *arena, const sp_schema_t **ret_schema, void **ret_body,
                 sp_error_t *err);

// ---- events: PUB with a sequence; frames [topic, body]; topic = event kind (or "ring.<keyspace>"). Numbers rise by one, from
// where no earlier publisher has been.
// Topic and kind of the event that only tells the last number used, so that a loss shows when nothing follows it.
#define SP_PUBLISHER_HEARTBEAT "heartbeat"
typedef struct sp_publisher sp_publisher_t;
int sp_publisher_open(sp_publisher_t **ret_self, const char *listen, const char *service_id,
                      sp_error_t *err);
void sp_publisher_close(sp_publisher_t **self_p);
const char *sp_publisher_endpoint(const sp_publisher_t *self); // with the real port
// Fills sequence, time_ms and publisher; returns the sequence.
int64_t sp_publisher_event(sp_publisher_t *self, sp_msg_event_t *event);
int sp_publisher_send(sp_publisher_t *self, const char *topic, const sp_schema_t *schema,
                      const void *body, sp_error_t *err);
// To be called about once a second.
void sp_publisher_heartbeat(sp_publisher_t *self);
int64_t sp_publisher_sequence(const sp_publisher_t *self); // last used
int64_t
sp_publisher_next(sp_publisher_t *self); // takes the next number for a message that carries its own

typedef struct sp_subscriber sp_subscriber_t;
// gap: messages may have been missed before this one (always true for the first): fetch a snapshot. A gap that a heartbeat showed
// comes with schema and body NULL. A subscription to part of a publisher's topics sees gaps where others were published. May
// close the subscriber.
typedef void(sp_event_fn)(void *arg, const char *topic, const sp_schema_t *schema, const void *body,
                          bool gap);
// Subscribes to topics that start with `topic`; `schema` is what the bodies are (its field `sequence` numbers them).
int sp_subscriber_open(sp_subscriber_t **ret_self, zloop_t *loop, const char *endpoint,
                       const char *topic, const sp_schema_t *schema, sp_event_fn *on_event,
                       void *arg, sp_error_t *err);
void sp_subscriber_close(sp_subscriber_t **self_p);

#endif
