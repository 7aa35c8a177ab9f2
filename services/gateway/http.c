#include "services/gateway/http.h"

#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "services/gateway/framing.h"
#include "services/gateway/http_listen.h"

// Memory of one connection in libmicrohttpd: headers, and the window of bodies. Room over max_header so that we, and not the
// library, answer most requests whose headers are too large.
#define CONNECTION_MEMORY (64 * 1024)
#define TICK_MS           250

typedef enum { PHASE_HEADERS, PHASE_BODY, PHASE_ANSWER, PHASE_IDLE } phase_t;

struct sp_http_conn {
    sp_http_conn_t *next;  // list
    sp_http_conn_t **link; // what points here
    int fd;                // socket
    phase_t phase;         // whose time limit counts
    int64_t since_ms;      // monotonic start of the phase
};

struct sp_http {
    zloop_t *loop;               // borrowed
    struct MHD_Daemon *daemon;   // libmicrohttpd's
    int epoll_fd;                // to poll
    sp_http_options_t options;   // limits
    sp_http_handlers_t handlers; // service
    sp_http_conn_t *conns;       // open connections
    int n_conns;                 // count
    int in_flight;               // handed on, not answered
    int tick;                    // timer id
    int soon;                    // timer id of a run that cannot wait for the tick, or -1
    bool running;                // inside MHD_run
    bool again;                  // another run is needed
    int listen_fd;               // closed by libmicrohttpd, or by us after quiesce
    bool quiesced;               // listen_fd is ours
    char endpoint[300];          // URL
};

struct sp_http_stream {
    sp_exchange_t *x;        // exchange; NULL once it has ended
    sp_http_read_fn *read;   // source
    void (*free_fn)(void *); // end of the source
    void *arg;               // for both
};

static int on_soon(zloop_t *loop, int timer_id, void *arg);

// Lets libmicrohttpd do all that it can. Handlers that answer from inside only mark that another round is needed.
static void run(sp_http_t *self)
{
    if (self->running) {
        self->again = true;
        return;
    }
    self->running = true;
    for (int round = 0; round < 64; round++) {
        MHD_UNSIGNED_LONG_LONG wait_ms = 0;
        self->again = false;
        MHD_run(self->daemon);
        if (!self->again && !(MHD_get_timeout(self->daemon, &wait_ms) == MHD_YES && wait_ms == 0)) {
            self->running = false;
            return;
        }
    }
    self->running = false;
    // Much to do, and others wait for the loop, too.
    if (self->soon < 0) {
        self->soon = zloop_timer(self->loop, 1, 1, on_soon, self);
    }
}

static int on_soon(zloop_t *loop, int timer_id, void *arg)
{
    (void)loop;
    (void)timer_id;
    sp_http_t *self = arg;
    self->soon = -1;
    run(self);
    return 0;
}

static int on_readable(zloop_t *loop, zmq_pollitem_t *item, void *arg)
{
    (void)loop;
    (void)item;
    run(arg);
    return 0;
}

static void enter(sp_http_conn_t *conn, phase_t phase)
{
    if (conn != NULL) {
        conn->phase = phase;
        conn->since_ms = sp_clock_mono_ms();
    }
}

// libmicrohttpd's own timeout is one of inactivity: a client that sends a byte a second would hold its place for ever.
static int on_tick(zloop_t *loop, int timer_id, void *arg)
{
    (void)loop;
    (void)timer_id;
    sp_http_t *self = arg;
    int64_t now = sp_clock_mono_ms();
    const int limits[] = {[PHASE_HEADERS] = self->options.header_timeout_ms,
                          [PHASE_BODY] = self->options.body_timeout_ms,
                          [PHASE_ANSWER] = 0,
                          [PHASE_IDLE] = self->options.idle_timeout_ms};
    for (sp_http_conn_t *conn = self->conns; conn != NULL; conn = conn->next) {
        int limit = limits[conn->phase];
        if (limit > 0 && now - conn->since_ms > limit) {
            shutdown(conn->fd, SHUT_RDWR);
        }
    }
    run(self);
    return 0;
}

static void on_connection(void *cls, struct MHD_Connection *con, void **socket_context,
                          enum MHD_ConnectionNotificationCode code)
{
    sp_http_t *self = cls;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(con, MHD_CONNECTION_INFO_CONNECTION_FD);
        sp_http_conn_t *conn = calloc(1, sizeof(*conn));
        if (conn == NULL || info == NULL) {
            free(conn);
            return; // the access handler refuses a connection without a record
        }
        conn->fd = info->connect_fd;
        conn->next = self->conns;
        conn->link = &self->conns;
        if (conn->next != NULL) {
            conn->next->link = &conn->next;
        }
        self->conns = conn;
        self->n_conns++;
        enter(conn, PHASE_HEADERS);
        *socket_context = conn;
    } else if (*socket_context != NULL) {
        sp_http_conn_t *conn = *socket_context;
        *conn->link = conn->next;
        if (conn->next != NULL) {
            conn->next->link = conn->link;
        }
        self->n_conns--;
        free(conn);
        *socket_context = NULL;
    }
}

// First sight of a request: what it returns becomes the request's context. The address is kept as sent, because an encoded slash
// must not split a segment.
static void *on_uri(void *cls, const char *uri, struct MHD_Connection *con)
{
    sp_http_t *self = cls;
    sp_exchange_t *x = calloc(1, sizeof(*x));
    if (x == NULL || (x->arena = sp_arena_new(0)) == NULL) {
        free(x);
        return NULL;
    }
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(con, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    x->conn = info != NULL ? info->socket_context : NULL;
    if (x->conn != NULL && x->conn->phase == PHASE_IDLE) {
        enter(x->conn, PHASE_HEADERS);
    }
    x->http = self;
    x->con = con;
    x->uri = sp_arena_strz(x->arena, uri);
    x->body.limit = self->options.max_body;
    x->started_us = sp_clock_mono_us();
    x->label = "none";
    return x;
}

static void on_completed(void *cls, struct MHD_Connection *con, void **con_cls,
                         enum MHD_RequestTerminationCode code)
{
    (void)con;
    (void)code;
    sp_http_t *self = cls;
    sp_exchange_t *x = *con_cls;
    if (x == NULL) {
        return;
    }
    if (self->handlers.on_done != NULL && x->dispatched) {
        self->handlers.on_done(self->handlers.self, x);
    }
    if (x->stream != NULL) {
        x->stream->free_fn(x->stream->arg);
        x->stream->x = NULL;
    }
    enter(x->conn, PHASE_IDLE);
    if (x->counted) {
        self->in_flight--;
    }
    if (x->response != NULL) {
        MHD_destroy_response(x->response);
    }
    sp_buf_free(&x->body);
    sp_arena_destroy(&x->arena);
    free(x);
    *con_cls = NULL;
}

static void refuse(sp_exchange_t *x, int code, const char *text, bool close_connection)
{
    x->refuse_code = code;
    x->refuse_text = text;
    x->refuse_close = close_connection;
}

static void choose_request_id(sp_exchange_t *x)
{
    const char *given = sp_http_header(x, "X-Request-Id");
    bool usable = given != NULL && given[0] != '\0' && strlen(given) < sizeof(x->request_id);
    for (const char *c = given; usable && *c != '\0'; c++) {
        usable = (*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                 strchr("-_.:/", *c) != NULL;
    }
    if (usable) {
        memcpy(x->request_id, given, strlen(given) + 1);
    } else {
        sp_random_id(x->request_id, 16);
    }
}

// Headers are complete. Returns true when the answer cannot wait for the body.
static bool begin(sp_http_t *self, sp_exchange_t *x, const char *method)
{
    x->begun = true;
    x->method = sp_arena_strz(x->arena, method);
    choose_request_id(x);
    enter(x->conn, PHASE_BODY);
    sp_framing_t f = {.max_body = self->options.max_body};
    sp_framing_read(x->con, &f);
    if (x->uri == NULL || x->method == NULL || x->conn == NULL) {
        refuse(x, SP_E_OUT_OF_MEMORY, "memory ran out", true);
        return true;
    }
    if (sp_framing_ambiguous(&f)) {
        // Two readers of such a request see two different requests: nothing behind it can be trusted either.
        refuse(x, SP_E_MALFORMED, "Content-Length or Transfer-Encoding contradict each other",
               true);
        return true;
    }
    if (f.bytes + strlen(x->uri) + strlen(method) > self->options.max_header) {
        refuse(x, SP_E_HEADER_TOO_LARGE, "request line and headers are over 16 KiB", true);
        return true;
    }
    if (f.large) {
        refuse(x, SP_E_TOO_LARGE, "the body is over its limit", true);
        return f.expects || f.endless; // it has not been sent yet, or would never end
    }
    return false;
}

static void dispatch(sp_http_t *self, sp_exchange_t *x)
{
    x->dispatched = true;
    enter(x->conn, PHASE_ANSWER);
    x->counted = true;
    self->in_flight++;
    if (x->refuse_code != 0) {
        self->handlers.on_refuse(self->handlers.self, x, x->refuse_code, x->refuse_text);
    } else {
        self->handlers.on_request(self->handlers.self, x);
    }
}

static enum MHD_Result queue(sp_exchange_t *x)
{
    enum MHD_Result rc = MHD_queue_response(x->con, (unsigned)x->status, x->response);
    MHD_destroy_response(x->response); // libmicrohttpd holds its own reference
    x->response = NULL;
    return rc;
}

static enum MHD_Result on_access(void *cls, struct MHD_Connection *con, const char *url,
                                 const char *method, const char *version, const char *data,
                                 size_t *size, void **con_cls)
{
    (void)con;
    (void)url;
    (void)version;
    sp_http_t *self = cls;
    sp_exchange_t *x = *con_cls;
    if (x == NULL) {
        return MHD_NO;
    }
    if (!x->begun) {
        if (!begin(self, x, method)) {
            return MHD_YES;
        }
    } else if (*size > 0) {
        if (x->refuse_code == 0) {
            sp_buf_add(&x->body, data, *size);
            if (x->body.failed) {
                refuse(x, SP_E_TOO_LARGE, "the body is over its limit", true);
                sp_buf_free(&x->body);
            }
        }
        x->swallowed += *size;
        *size = 0;
        return x->swallowed > SP_FRAMING_SWALLOW_MAX ? MHD_NO : MHD_YES;
    }
    if (!x->dispatched) {
        dispatch(self, x);
    }
    if (x->response == NULL) {
        x->suspended = true;
        MHD_suspend_connection(x->con);
        return MHD_YES;
    }
    return queue(x);
}

const char *sp_http_header(const sp_exchange_t *x, const char *name)
{
    return MHD_lookup_connection_value(x->con, MHD_HEADER_KIND, name);
}

static void answer(sp_exchange_t *x, int status, const char *content_type,
                   struct MHD_Response *response, const char *const *headers)
{
    MHD_add_response_header(response, "Content-Type", content_type);
    MHD_add_response_header(response, "Cache-Control", "no-store");
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(response, "X-Request-Id", x->request_id);
    if (x->refuse_close) {
        MHD_add_response_header(response, "Connection", "close");
    }
    for (size_t i = 0; headers != NULL && headers[i] != NULL && headers[i + 1] != NULL; i += 2) {
        MHD_add_response_header(response, headers[i], headers[i + 1]);
    }
    x->response = response;
    x->status = status;
    if (x->counted) {
        x->counted = false;
        x->http->in_flight--;
    }
    if (x->suspended) {
        x->suspended = false;
        MHD_resume_connection(x->con);
        run(x->http);
    }
}

void sp_http_reply(sp_exchange_t *x, int status, const char *content_type, sp_buf_t *body,
                   const char *const *headers)
{
    struct MHD_Response *response = NULL;
    if (x->response != NULL || x->status != 0) {
        sp_log(SP_LOG_ERROR, "HTTP-TWICE", "req", x->request_id,
               NULL); // a bug of ours; the first answer stands
        sp_buf_free(body);
        return;
    }
    if (body->failed || body->data == NULL) {
        status = body->failed ? 503 : status;
        response = MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
    } else {
        response = MHD_create_response_from_buffer(body->len, body->data, MHD_RESPMEM_MUST_FREE);
        body->data = NULL;
    }
    sp_buf_free(body);
    if (response == NULL) { // no memory: the connection is of no use any more
        sp_http_cut(x);
        static char nothing[1];
        response = MHD_create_response_from_buffer(0, nothing, MHD_RESPMEM_PERSISTENT);
    }
    answer(x, status, content_type, response, headers);
}

static ssize_t on_read(void *cls, uint64_t pos, char *buf, size_t max)
{
    (void)pos;
    struct sp_http_stream *s = cls;
    if (s->x == NULL) {
        return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    ssize_t n = s->read(s->arg, buf, max);
    if (n < 0) {
        return MHD_CONTENT_READER_END_OF_STREAM;
    }
    if (n == 0) {
        s->x->suspended = true;
        MHD_suspend_connection(s->x->con);
    }
    return n;
}

static void on_free(void *cls)
{
    free(cls);
}

void sp_http_reply_stream(sp_exchange_t *x, const char *content_type, sp_http_read_fn *read_fn,
                          void (*free_fn)(void *arg), void *arg)
{
    struct sp_http_stream *s = calloc(1, sizeof(*s));
    struct MHD_Response *response = NULL;
    if (s != NULL) {
        *s = (struct sp_http_stream){.x = x, .read = read_fn, .free_fn = free_fn, .arg = arg};
        response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, on_read, s, on_free);
    }
    if (response == NULL) {
        free(s);
        free_fn(arg);
        sp_buf_t empty = SP_BUF_INIT;
        sp_http_reply(x, 503, content_type, &empty, NULL);
        return;
    }
    x->stream = s;
    answer(x, 200, content_type, response, NULL);
}

void sp_http_wake(sp_exchange_t *x)
{
    if (x->suspended) {
        x->suspended = false;
        MHD_resume_connection(x->con);
        run(x->http);
    }
}

void sp_http_cut(sp_exchange_t *x)
{
    if (x->conn != NULL) {
        shutdown(x->conn->fd, SHUT_RDWR);
    }
}

// The library's messages are about clients' faults: nothing that an operator could mend.
static void on_library_log(void *cls, const char *fmt, va_list ap)
{
    (void)cls;
    char text[256];
    vsnprintf(text, sizeof(text), fmt, ap);
    text[strcspn(text, "\n")] = '\0';
    sp_log(SP_LOG_DEBUG, "HTTP-LIBRARY", "text", text, NULL);
}

int sp_http_open(sp_http_t **ret_self, zloop_t *loop, const sp_http_options_t *options,
                 const sp_http_handlers_t *handlers, sp_error_t *err)
{
    sp_http_t *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "http");
    }
    *self = (sp_http_t){.loop = loop,
                        .options = *options,
                        .handlers = *handlers,
                        .tick = -1,
                        .soon = -1,
                        .epoll_fd = -1};
    int rc = sp_http_listen(options->listen, &self->listen_fd, err);
    if (rc != 0) {
        free(self);
        return rc;
    }
    sp_http_name(self->listen_fd, self->endpoint, sizeof(self->endpoint));
    self->daemon =
        MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL,
                         NULL, on_access, self, MHD_OPTION_EXTERNAL_LOGGER, on_library_log, NULL,
                         MHD_OPTION_LISTEN_SOCKET, self->listen_fd, MHD_OPTION_CONNECTION_LIMIT,
                         (unsigned)options->max_connections, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                         (size_t)CONNECTION_MEMORY, MHD_OPTION_CONNECTION_TIMEOUT,
                         (unsigned)(options->idle_timeout_ms / 1000 + 1),
                         MHD_OPTION_URI_LOG_CALLBACK, on_uri, self, MHD_OPTION_NOTIFY_COMPLETED,
                         on_completed, self, MHD_OPTION_NOTIFY_CONNECTION, on_connection, self,
                         MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
    const union MHD_DaemonInfo *info =
        self->daemon != NULL ? MHD_get_daemon_info(self->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (info == NULL) {
        close(self->listen_fd);
        free(self);
        return sp_error_set(err, SP_E_IO, "libmicrohttpd does not start");
    }
    self->epoll_fd = info->epoll_fd;
    zmq_pollitem_t item = {.fd = self->epoll_fd, .events = ZMQ_POLLIN};
    zloop_poller(loop, &item, on_readable, self);
    zloop_poller_set_tolerant(loop, &item);
    self->tick = zloop_timer(loop, TICK_MS, 0, on_tick, self);
    *ret_self = self;
    return 0;
}

void sp_http_quiesce(sp_http_t *self)
{
    if (!self->quiesced && MHD_quiesce_daemon(self->daemon) != MHD_INVALID_SOCKET) {
        self->quiesced = true;
        close(self->listen_fd);
    }
}

void sp_http_close(sp_http_t **self_p)
{
    sp_http_t *self = *self_p;
    if (self == NULL) {
        return;
    }
    *self_p = NULL;
    zmq_pollitem_t item = {.fd = self->epoll_fd, .events = ZMQ_POLLIN};
    zloop_poller_end(self->loop, &item);
    zloop_timer_end(self->loop, self->tick);
    if (self->soon >= 0) {
        zloop_timer_end(self->loop, self->soon);
    }
    self->running = true; // no callback starts another run
    MHD_run(self->daemon);
    MHD_stop_daemon(self->daemon);
    free(self);
}

const char *sp_http_endpoint(const sp_http_t *self)
{
    return self->endpoint;
}

int sp_http_in_flight(const sp_http_t *self)
{
    return self->in_flight;
}

int sp_http_connections(const sp_http_t *self)
{
    return self->n_conns;
}
