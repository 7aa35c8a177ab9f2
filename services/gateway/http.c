// libmicrohttpd inside the service's loop: its daemon, and the connections with their time limits.
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "services/gateway/http_impl.h"
#include "services/gateway/http_listen.h"

// Memory of one connection in libmicrohttpd: headers, and the window of bodies. Room over max_header so that we, and not the
// library, answer most requests whose headers are too large.
#define CONNECTION_MEMORY (64 * 1024)
#define TICK_MS           250

static int on_soon(zloop_t *loop, int timer_id, void *arg);

// Lets libmicrohttpd do all that it can. Handlers that answer from inside only mark that another round is needed.
void http_run(sp_http_t *self)
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
    http_run(self);
    return 0;
}

static int on_readable(zloop_t *loop, zmq_pollitem_t *item, void *arg)
{
    (void)loop;
    (void)item;
    http_run(arg);
    return 0;
}

void http_enter(sp_http_conn_t *conn, phase_t phase)
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
    http_run(self);
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
        http_enter(conn, PHASE_HEADERS);
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

// The library's messages are about clients' faults: nothing that an operator could mend.
__attribute__((format(printf, 2, 0))) static void on_library_log(void *cls, const char *fmt,
                                                                 va_list ap)
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
                         NULL, exchange_on_access, self, MHD_OPTION_EXTERNAL_LOGGER, on_library_log,
                         NULL, MHD_OPTION_LISTEN_SOCKET, self->listen_fd,
                         MHD_OPTION_CONNECTION_LIMIT, (unsigned)options->max_connections,
                         MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
                         MHD_OPTION_CONNECTION_TIMEOUT,
                         (unsigned)(options->idle_timeout_ms / 1000 + 1),
                         MHD_OPTION_URI_LOG_CALLBACK, exchange_on_uri, self,
                         MHD_OPTION_NOTIFY_COMPLETED, exchange_on_completed, self,
                         MHD_OPTION_NOTIFY_CONNECTION, on_connection, self,
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
