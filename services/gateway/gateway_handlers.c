#include "services/gateway/gateway_handlers.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/wire/json_write.h"
#include "services/gateway/answers.h"
#include "services/gateway/forward.h"

#define STALE_MS 10000 // about the lease of a service: behind it none of them needs to live still

static void write_count(sp_buf_t *out, const sp_gateway_t *self, const char *kind, bool last)
{
    sp_buf_printf(out, "\"%s\":%zu%s", kind, sp_backends_count(self->backends, kind),
                  last ? "" : ",");
}

// For people and load balancers: 200 while requests can be answered.
static void handle_health(sp_gateway_t *self, sp_exchange_t *x)
{
    const char *reason = NULL;
    bool ready = sp_gateway_ready(self, &reason);
    const char *leader = sp_backends_leader(self->backends);
    int64_t age = sp_backends_age_ms(self->backends);
    // What is known of leader and services is as old as etcd's last answer.
    bool stale = age > STALE_MS;
    bool whole =
        ready && !stale && leader[0] != '\0' && sp_backends_count(self->backends, "router") > 0;
    if (ready && stale) {
        reason = "etcd does not answer: keys are routed by the last catalog, changes are refused";
    }
    sp_buf_t out = SP_BUF_INIT;
    sp_buf_printf(&out, "{\"status\":\"%s\",\"service\":\"gateway\",\"service_id\":",
                  whole   ? "ok"
                  : ready ? "degraded"
                          : "unavailable");
    sp_json_write_string(&out, sp_str(self->service_id));
    sp_buf_addz(&out, ",\"version\":");
    sp_json_write_string(&out, sp_str(sp_config_version()));
    sp_buf_addz(&out, ",\"leader\":");
    if (leader[0] != '\0') {
        sp_json_write_string(&out, sp_str(leader));
    } else {
        sp_buf_addz(&out, "null");
    }
    if (reason != NULL) {
        sp_buf_addz(&out, ",\"reason\":");
        sp_json_write_string(&out, sp_str(reason));
    }
    if (age != INT64_MAX) {
        sp_buf_printf(&out, ",\"catalog_age_ms\":%" PRId64, age);
    }
    sp_buf_addz(&out, ",\"services\":{");
    write_count(&out, self, "manager", false);
    write_count(&out, self, "router", false);
    write_count(&out, self, "health", true);
    sp_buf_addz(&out, "}}\n");
    sp_http_reply(x, ready ? 200 : 503, "application/json", &out, NULL);
}

static void handle_livez(sp_gateway_t *self, sp_exchange_t *x)
{
    (void)self;
    sp_buf_t out = SP_BUF_INIT;
    sp_buf_addz(&out, "ok\n");
    sp_http_reply(x, 200, "text/plain; charset=utf-8", &out, NULL);
}

static void handle_readyz(sp_gateway_t *self, sp_exchange_t *x)
{
    const char *reason = NULL;
    bool ready = sp_gateway_ready(self, &reason);
    sp_buf_t out = SP_BUF_INIT;
    sp_buf_printf(&out, "%s\n", ready ? "ok" : reason);
    sp_http_reply(x, ready ? 200 : 503, "text/plain; charset=utf-8", &out, NULL);
}

static void handle_metrics(sp_gateway_t *self, sp_exchange_t *x)
{
    sp_buf_t out = SP_BUF_INIT;
    sp_metrics_render(self->metrics, &out);
    sp_http_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", &out, NULL);
}

static void handle_events(sp_gateway_t *self, sp_exchange_t *x)
{
    sp_error_t err = {0};
    if (self->stop_by_ms != 0) {
        sp_answer_code(x, SP_E_UNAVAILABLE, "the gateway is stopping");
    } else if (sp_events_attach(self->events, x, &err) != 0) {
        sp_answer_error(x, &err, NULL, NULL);
    }
}

static const struct {
    const char *path;                                // exact
    void (*handle)(sp_gateway_t *, sp_exchange_t *); // GET
} own_paths[] = {
    {"/health", handle_health},   {"/api/v1/health", handle_health},
    {"/livez", handle_livez},     {"/readyz", handle_readyz},
    {"/metrics", handle_metrics}, {"/api/v1/events", handle_events},
};

// True when the path is one of ours: then it is answered.
static bool handle_own(sp_gateway_t *self, sp_exchange_t *x, sp_str_t path)
{
    for (size_t i = 0; i < sizeof(own_paths) / sizeof(own_paths[0]); i++) {
        if (!sp_str_eqz(path, own_paths[i].path)) {
            continue;
        }
        x->label = own_paths[i].path;
        bool get = strcmp(x->method, "GET") == 0;
        bool head = strcmp(x->method, "HEAD") == 0 && own_paths[i].handle != handle_events;
        if (get || head) {
            own_paths[i].handle(self, x);
        } else {
            sp_error_t err = {0};
            sp_error_set(&err, SP_E_METHOD_NOT_ALLOWED, "this path takes GET");
            sp_answer_error(x, &err, NULL, "GET");
        }
        return true;
    }
    return false;
}

void sp_gateway_on_request(void *arg, sp_exchange_t *x)
{
    sp_gateway_t *self = arg;
    sp_str_t path, query;
    if (self->backends == NULL) { // HTTP ends last: a request may still come on an open connection
        x->label = "refused";
        sp_answer_code(x, SP_E_UNAVAILABLE, "the gateway is stopping");
        return;
    }
    sp_route_split(sp_str(x->uri), &path, &query);
    if (!handle_own(self, x, path)) {
        sp_forward(self, x, path, query);
    }
}

void sp_gateway_on_refuse(void *arg, sp_exchange_t *x, int code, const char *text)
{
    (void)arg;
    x->label = "refused";
    sp_answer_code(x, code, text);
}

void sp_gateway_on_done(void *arg, const sp_exchange_t *x)
{
    sp_gateway_t *self = arg;
    char status[12];
    snprintf(status, sizeof(status), "%d", x->status);
    double seconds = (double)(sp_clock_mono_us() - x->started_us) / 1e6;
    // Methods come from outside; known ones only become label values.
    static const char *const methods[] = {"GET",    "HEAD",  "POST",   "PUT",
                                          "DELETE", "PATCH", "OPTIONS"};
    const char *method = "other";
    for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
        method = strcmp(methods[i], x->method) == 0 ? methods[i] : method;
    }
    sp_counter_add(sp_metric_with(self->requests, x->label, method, status, NULL), 1);
    if (strcmp(x->label, "/api/v1/events") != 0) {
        sp_histogram_observe(sp_metric_with(self->seconds, x->label, NULL), seconds);
    }
    bool change = strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0 &&
                  strcmp(x->label, "execute") != 0;
    // Not the address: a query may hold an application's keys.
    sp_log(change || x->status >= 500 ? SP_LOG_INFO : SP_LOG_DEBUG, "HTTP-ANSWER", "req",
           x->request_id, "route", x->label, "method", method, "status", status, "ms",
           sp_log_fmt("%.1f", seconds * 1e3), NULL);
}
