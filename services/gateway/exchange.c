// One request and its answer: what libmicrohttpd hands over in pieces becomes one sp_exchange_t for the service, refused early where
// its headers say enough.
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "services/gateway/framing.h"
#include "services/gateway/http_impl.h"

struct sp_http_stream {
    sp_exchange_t *x;        // exchange; NULL once it has ended
    sp_http_read_fn *read;   // source
    void (*free_fn)(void *); // end of the source
    void *arg;               // for both
};

// First sight of a request: what it returns becomes the request's context. The address is kept as sent, because an encoded slash
// must not split a segment.
void *exchange_on_uri(void *cls, const char *uri, struct MHD_Connection *con)
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
        http_enter(x->conn, PHASE_HEADERS);
    }
    x->http = self;
    x->con = con;
    x->uri = sp_arena_strz(x->arena, uri);
    x->body.limit = self->options.max_body;
    x->started_us = sp_clock_mono_us();
    x->label = "none";
    return x;
}

void exchange_on_completed(void *cls, struct MHD_Connection *con, void **con_cls,
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
    http_enter(x->conn, PHASE_IDLE);
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
    http_enter(x->conn, PHASE_BODY);
    sp_framing_t f = {.max_body = self->options.max_body};
    sp_framing_read(x->con, &f);
    if (x->uri == NULL || x->method == NULL || x->conn == NULL) {
        refuse(x, SP_E_OUT_OF_MEMORY, "memory ran out", true);
        return true;
    }
    if (sp_framing_ambiguous(&f)) {
        // Two readers of such a request see two different requests: nothing behind it can be trusted either.
        refuse(x, SP_E_MALFORMED,
               "the headers can be read in more than one way: Content-Length or Transfer-Encoding "
               "contradict each other, or a header is not of the form `name: value`",
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
    http_enter(x->conn, PHASE_ANSWER);
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

enum MHD_Result exchange_on_access(void *cls, struct MHD_Connection *con, const char *url,
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
        http_run(x->http);
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
        http_run(x->http);
    }
}

void sp_http_cut(sp_exchange_t *x)
{
    if (x->conn != NULL) {
        shutdown(x->conn->fd, SHUT_RDWR);
    }
}
