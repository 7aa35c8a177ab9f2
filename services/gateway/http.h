// HTTP on libmicrohttpd, driven by the service's own loop: one thread, bounded connections, headers, bodies and time.
#ifndef SP_GATEWAY_HTTP_H
#define SP_GATEWAY_HTTP_H

#include "common/mesh/mesh.h"

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/error.h"

typedef struct sp_http sp_http_t;
typedef struct sp_http_conn sp_http_conn_t;

typedef struct sp_http_options {
    const char *listen;  // host:port; port 0: any
    int max_connections; // more wait to be accepted
    size_t max_header;   // bytes of request line and headers
    size_t max_body;     // bytes
    int header_timeout_ms; // from the connection, or the first byte of a next request, to the end of the headers
    int body_timeout_ms; // from there to the end of the body
    int idle_timeout_ms; // between requests of one connection, and for a client that does not read
} sp_http_options_t;

// One request and its answer. Made here, freed here once the connection is done with it.
typedef struct sp_exchange {
    sp_http_t *http;            // owner
    struct MHD_Connection *con; // libmicrohttpd's
    sp_http_conn_t *conn;       // our record of the connection
    sp_arena_t *arena;          // as long as the exchange
    char *uri;                  // as sent, encoded, with the query; in the arena
    const char *method;         // in the arena
    sp_buf_t body;              // whole request body
    int64_t started_us;         // monotonic
    char request_id[65];        // from X-Request-Id, or made here
    const char *label;          // route for metrics and logs; set by the handler
    int status;                 // of the answer, 0 before
    // private
    int refuse_code;               // 0, or why the request is not handed on
    const char *refuse_text;       // what to tell
    bool refuse_close;             // end the connection, too
    size_t swallowed;              // bytes of a body that nobody wants
    bool begun;                    // headers were looked at
    bool dispatched;               // handed to the handler
    bool suspended;                // waiting for sp_http_reply
    bool counted;                  // is in http's in-flight count
    struct MHD_Response *response; // to queue
    struct sp_http_stream *stream; // source of a stream, until the exchange ends
} sp_exchange_t;

// A whole request. It must be answered now or later, exactly once.
typedef void(sp_http_fn)(void *self, sp_exchange_t *x);
// The answer has been sent, or the client is gone.
typedef void(sp_http_done_fn)(void *self, const sp_exchange_t *x);
// A request that is refused before anybody sees it (too large, ...): must be answered at once.
typedef void(sp_http_refuse_fn)(void *self, sp_exchange_t *x, int code, const char *text);

typedef struct sp_http_handlers {
    sp_http_fn *on_request;       // not NULL
    sp_http_refuse_fn *on_refuse; // not NULL
    sp_http_done_fn *on_done;     // or NULL
    void *self;                   // for all of them
} sp_http_handlers_t;

// Listens and adds itself to the loop. SP_E_CONFIG when the address is taken or malformed, SP_E_IO.
int sp_http_open(sp_http_t **ret_self, zloop_t *loop, const sp_http_options_t *options,
                 const sp_http_handlers_t *handlers, sp_error_t *err);
// Every exchange must have been answered.
void sp_http_close(sp_http_t **self_p);
// No new connections from here; open ones go on.
void sp_http_quiesce(sp_http_t *self);
const char *sp_http_endpoint(const sp_http_t *self); // "http://host:port"
int sp_http_in_flight(const sp_http_t *self);        // handed on, not answered
int sp_http_connections(const sp_http_t *self);

// Header of the request, or NULL. Borrowed until the exchange is done.
const char *sp_http_header(const sp_exchange_t *x, const char *name);
// Answers. Takes the bytes out of `body`, which is empty after it. headers: name, value, ..., NULL; or NULL. The exchange may be
// gone when this returns.
void sp_http_reply(sp_exchange_t *x, int status, const char *content_type, sp_buf_t *body,
                   const char *const *headers);

// Streams: what the reader gives is sent as it comes. Returns bytes written to buf, 0 for "nothing now" (sp_http_wake asks again),
// -1 for the end. free_fn is called once, when the stream is over, however it ends; the exchange is still there then.
typedef ssize_t(sp_http_read_fn)(void *arg, char *buf, size_t max);
void sp_http_reply_stream(sp_exchange_t *x, const char *content_type, sp_http_read_fn *read,
                          void (*free_fn)(void *arg), void *arg);
void sp_http_wake(sp_exchange_t *x);
// Cuts the connection of an exchange off, e.g. of a client that does not read.
void sp_http_cut(sp_exchange_t *x);

#endif
