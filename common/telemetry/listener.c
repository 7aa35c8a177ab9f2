// Probes over libmicrohttpd, in its own polling thread.
#include "common/telemetry/listener.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/config/check.h"

enum {
    MAX_CONNECTIONS = 32,  // at this number libmicrohttpd accepts nobody any more
    KEPT_CONNECTIONS = 24, // so one more than this ends the oldest
    IDLE_SECONDS = 10
};

typedef struct visit {
    struct visit *older, *newer; // in the listener's list
    int fd;                      // its socket
    bool ended;                  // by us; not in the list any more
} visit_t;

struct sp_listener {
    struct MHD_Daemon *daemon; // HTTP server
    sp_metrics_t *metrics;     // borrowed
    sp_ready_fn *ready;        // readiness, may be NULL
    void *arg;                 // its argument
    char endpoint[300];        // http://host:port
    visit_t *oldest, *newest;  // connections, of the daemon's thread
    int visits;                // in the list
};

static void unlink_visit(sp_listener_t *self, visit_t *v)
{
    *(v->older ? &v->older->newer : &self->oldest) = v->newer;
    *(v->newer ? &v->newer->older : &self->newest) = v->older;
    self->visits--;
}

// Whoever sends or reads a byte now and then is never idle: a probe must find room all the same.
static void on_connection(void *cls, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    sp_listener_t *self = cls;
    visit_t *v = *context;
    if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
        if (v && !v->ended)
            unlink_visit(self, v);
        free(v);
        return;
    }
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    v = info ? calloc(1, sizeof *v) : NULL;
    *context = v;
    if (!v)
        return;
    *v = (visit_t){.older = self->newest, .fd = info->connect_fd};
    *(v->older ? &v->older->newer : &self->oldest) = v;
    self->newest = v;
    if (++self->visits <= KEPT_CONNECTIONS)
        return;
    visit_t *oldest = self->oldest;
    unlink_visit(self, oldest);
    oldest->ended = true;
    shutdown(oldest->fd, SHUT_RDWR);
}

static enum MHD_Result answer(struct MHD_Connection *connection, unsigned status, const char *type,
                              const char *text, size_t len)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(len, (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, "Content-Type", type);
    MHD_add_response_header(response, "Cache-Control", "no-store");
    enum MHD_Result rc = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return rc;
}

static enum MHD_Result answer_text(struct MHD_Connection *connection, unsigned status,
                                   const char *text)
{
    return answer(connection, status, "text/plain; charset=utf-8", text, strlen(text));
}

static enum MHD_Result handle(void *cls, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_size, void **state)
{
    (void)version, (void)upload;
    sp_listener_t *self = cls;
    if (!*state) { // headers only: the request may still have a body
        *state = self;
        return MHD_YES;
    }
    if (*upload_size) { // bodies are read away
        *upload_size = 0;
        return MHD_YES;
    }
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
        return answer_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET\n");
    if (strcmp(url, "/livez") == 0)
        return answer_text(connection, MHD_HTTP_OK, "ok\n");
    if (strcmp(url, "/readyz") == 0) {
        char reason[512] = "not ready";
        bool ready = !self->ready || self->ready(self->arg, reason, sizeof reason - 1);
        if (ready)
            return answer_text(connection, MHD_HTTP_OK, "ok\n");
        char line[600];
        snprintf(line, sizeof line, "%s\n", reason);
        return answer_text(connection, MHD_HTTP_SERVICE_UNAVAILABLE, line);
    }
    if (strcmp(url, "/metrics") == 0) {
        sp_buf_t text = {.limit = 64 * 1024 * 1024};
        sp_metrics_render(self->metrics, &text);
        enum MHD_Result rc =
            text.failed
                ? answer_text(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory\n")
                : answer(connection, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8",
                         sp_buf_cstr(&text), text.len);
        sp_buf_free(&text);
        return rc;
    }
    return answer_text(connection, MHD_HTTP_NOT_FOUND,
                       "only /metrics, /livez and /readyz are here\n");
}

// A listening socket of our own, so that the host counts and a taken port is told by name.
static int open_socket(const char *host, int port, int *ret_port, sp_error_t *err)
{
    char name[256], service[16];
    snprintf(name, sizeof name, "%s", host[0] == '[' ? host + 1 : host);
    name[strcspn(name, "]")] = '\0';
    snprintf(service, sizeof service, "%d", port < 0 ? 0 : port);
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE},
                    *list = NULL;
    int rc = getaddrinfo(strcmp(name, "*") == 0 ? NULL : name, service, &hints, &list);
    if (rc)
        return sp_error_set(err, SP_E_CONFIG, "metrics_listen %s:%d: %s", host, port,
                            gai_strerror(rc));
    int fd = -1, on = 1, fault = 0;
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
        if (fd < 0) {
            fault = errno;
            continue;
        }
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 64) == 0)
            break;
        fault = errno;
        close(fd);
        fd = -1;
    }
    freeaddrinfo(list);
    if (fd < 0)
        return sp_error_set(err, SP_E_IO, "metrics_listen: cannot listen on %s:%d: %s", host, port,
                            strerror(fault));
    struct sockaddr_storage bound;
    socklen_t len = sizeof bound;
    if (getsockname(fd, (struct sockaddr *)&bound, &len) == 0 &&
        getnameinfo((struct sockaddr *)&bound, len, NULL, 0, service, sizeof service,
                    NI_NUMERICSERV) == 0)
        *ret_port = (int)strtol(service, NULL, 10);
    return fd;
}

int sp_listener_open(sp_listener_t **ret_self, const char *address, sp_metrics_t *metrics,
                     sp_ready_fn *ready, void *arg, sp_error_t *err)
{
    *ret_self = NULL;
    if (!address || !*address)
        return SP_OK;
    char host[256];
    int port;
    if (!sp_config_split_address(address, host, sizeof host, &port))
        return sp_error_set(err, SP_E_CONFIG, "metrics_listen %s: write host:port", address);
    sp_listener_t *self = calloc(1, sizeof *self);
    if (!self)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a listener");
    self->metrics = metrics;
    self->ready = ready;
    self->arg = arg;
    int fd = open_socket(host, port, &port, err);
    if (fd < 0) {
        free(self);
        return fd;
    }
    snprintf(self->endpoint, sizeof self->endpoint, "http://%s:%d", host, port);
    self->daemon =
        MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL, 0, NULL, NULL, handle,
                         self, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
                         (unsigned)MAX_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT,
                         (unsigned)IDLE_SECONDS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                         (size_t)32 * 1024, MHD_OPTION_NOTIFY_CONNECTION, on_connection, self,
                         MHD_OPTION_END);
    if (!self->daemon) {
        close(fd);
        free(self);
        return sp_error_set(err, SP_E_IO, "the HTTP listener on %s did not start", address);
    }
    *ret_self = self;
    return SP_OK;
}

void sp_listener_close(sp_listener_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    MHD_stop_daemon((*self_p)->daemon); // also closes the socket
    free(*self_p);
    *self_p = NULL;
}

const char *sp_listener_endpoint(const sp_listener_t *self)
{
    return self ? self->endpoint : NULL;
}
