#include "services/gateway/gateway.h"

#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "services/gateway/gateway_handlers.h"

#define LEASE_TTL_S  10
#define STOP_WAIT_MS 5000
#define TICK_MS      200

const sp_option_t sp_gateway_options[] = {
    {.name = "listen", .type = SP_OPT_NONE},
    {.name = "events_listen", .type = SP_OPT_NONE},
    {.name = "secret_key_file", .type = SP_OPT_NONE},
    {.name = "http_listen",
     .type = SP_OPT_ADDRESS,
     .def = "127.0.0.1:8081",
     .help = "host:port of the REST API"},
    {.name = "max_connections",
     .type = SP_OPT_INT,
     .def = "1000",
     .min = 1,
     .max = 10000,
     .help = "open HTTP connections; more wait to be accepted"},
    {.name = "max_in_flight",
     .type = SP_OPT_INT,
     .def = "512",
     .min = 1,
     .max = 10000,
     .help = "requests that wait for a service; more are answered 429"},
    {.name = "max_body_bytes",
     .type = SP_OPT_INT,
     .def = "1048576",
     .min = 1024,
     .max = 4194304,
     .help = "largest request body"},
    {.name = "request_timeout_ms",
     .type = SP_OPT_INT,
     .def = "30000",
     .min = 100,
     .max = 600000,
     .help = "wait for a service's reply, unless the request says"},
    {.name = "header_timeout_ms",
     .type = SP_OPT_INT,
     .def = "10000",
     .min = 100,
     .max = 600000,
     .help = "time for a client to send its headers"},
    {.name = "body_timeout_ms",
     .type = SP_OPT_INT,
     .def = "30000",
     .min = 100,
     .max = 600000,
     .help = "time for a client to send its body"},
    {.name = "idle_timeout_ms",
     .type = SP_OPT_INT,
     .def = "60000",
     .min = 1000,
     .max = 600000,
     .help = "keep an idle connection so long"},
    {.name = "max_event_clients",
     .type = SP_OPT_INT,
     .def = "100",
     .min = 1,
     .max = 1000,
     .help = "clients of /api/v1/events"},
};
const size_t sp_gateway_options_n = sizeof(sp_gateway_options) / sizeof(sp_gateway_options[0]);

bool sp_gateway_ready(const sp_gateway_t *self, const char **ret_reason)
{
    if (self->stop_by_ms != 0) {
        *ret_reason = "stopping";
        return false;
    }
    if (!sp_backends_loaded(self->backends)) {
        *ret_reason = "the list of services has not been read from etcd yet";
        return false;
    }
    return true;
}

static int on_tick(zloop_t *loop, int timer_id, void *arg)
{
    (void)loop;
    (void)timer_id;
    sp_gateway_t *self = arg;
    sp_events_stats_t events;
    sp_events_stats(self->events, &events);
    sp_gauge_set(self->in_flight, sp_http_in_flight(self->http));
    sp_gauge_set(self->connections, sp_http_connections(self->http));
    sp_gauge_set(self->event_clients, (double)events.clients);
    sp_counter_set(self->events_total, events.published);
    sp_counter_set(self->events_dropped, events.dropped);
    bool answered = sp_http_in_flight(self->http) == 0;
    return self->stop_by_ms != 0 && (answered || sp_clock_mono_ms() > self->stop_by_ms) ? -1 : 0;
}

static int on_signal(void *arg, int signo)
{
    sp_gateway_t *self = arg;
    if (signo == SIGHUP) {
        return 0;
    }
    if (self->stop_by_ms != 0) {
        return -1; // asked twice
    }
    sp_log(SP_LOG_INFO, "GATEWAY-STOPPING", "in_flight",
           sp_log_fmt("%d", sp_http_in_flight(self->http)), NULL);
    self->stop_by_ms = sp_clock_mono_ms() + STOP_WAIT_MS;
    sp_http_quiesce(self->http);
    return sp_http_in_flight(self->http) == 0 ? -1 : 0;
}

static void on_services(void *arg, const sp_msg_service_t *services, size_t n)
{
    sp_gateway_t *self = arg;
    sp_events_sync(self->events, services, n);
}

static void make_metrics(sp_gateway_t *self)
{
    static const char *const by_request[] = {"route", "method", "status", NULL};
    static const char *const by_route[] = {"route", NULL};
    sp_metrics_t *m = self->metrics;
    self->requests = sp_metrics_counter(m, "shardplane_gateway_http_requests_total",
                                        "HTTP requests answered", by_request);
    self->seconds = sp_metrics_histogram(m, "shardplane_gateway_http_request_seconds",
                                         "Time to the end of the answer", by_route, NULL, 0);
    self->in_flight = sp_metric_with(sp_metrics_gauge(m, "shardplane_gateway_in_flight",
                                                      "Requests not answered yet", NULL),
                                     NULL);
    self->connections = sp_metric_with(sp_metrics_gauge(m, "shardplane_gateway_connections",
                                                        "Open HTTP connections", NULL),
                                       NULL);
    self->event_clients = sp_metric_with(sp_metrics_gauge(m, "shardplane_gateway_event_clients",
                                                          "Clients of the event stream", NULL),
                                         NULL);
    self->events_total = sp_metric_with(sp_metrics_counter(m, "shardplane_gateway_events_total",
                                                           "Events handed on", NULL),
                                        NULL);
    self->events_dropped =
        sp_metric_with(sp_metrics_counter(m, "shardplane_gateway_event_clients_dropped_total",
                                          "Clients that did not read", NULL),
                       NULL);
}

static int open_http(sp_gateway_t *self, sp_error_t *err)
{
    const sp_config_t *c = self->config;
    sp_http_options_t options = {.listen = sp_config_str(c, "http_listen"),
                                 .max_connections = (int)sp_config_int(c, "max_connections"),
                                 .max_header = (size_t)16 * 1024,
                                 .max_body = (size_t)sp_config_int(c, "max_body_bytes"),
                                 .header_timeout_ms = (int)sp_config_int(c, "header_timeout_ms"),
                                 .body_timeout_ms = (int)sp_config_int(c, "body_timeout_ms"),
                                 .idle_timeout_ms = (int)sp_config_int(c, "idle_timeout_ms")};
    sp_http_handlers_t handlers = {.on_request = sp_gateway_on_request,
                                   .on_refuse = sp_gateway_on_refuse,
                                   .on_done = sp_gateway_on_done,
                                   .self = self};
    if (options.listen == NULL || options.listen[0] == '\0') {
        return sp_error_set(err, SP_E_CONFIG,
                            "http_listen is empty: the gateway has nothing to do");
    }
    return sp_http_open(&self->http, self->loop, &options, &handlers, err);
}

static int register_service(sp_gateway_t *self, sp_error_t *err)
{
    sp_service_t service = {.kind = "gateway",
                            .metrics = sp_http_endpoint(self->http),
                            .lease_ttl_s = LEASE_TTL_S};
    return sp_service_join(&self->member, self->config, &service, err);
}

static int start(sp_gateway_t *self, sp_error_t *err)
{
    const sp_config_t *c = self->config;
    sp_store_options_t store = sp_service_store(c);
    self->loop = sp_mesh_loop();
    self->metrics = sp_metrics_new("gateway", self->service_id);
    if (self->loop == NULL || self->metrics == NULL) {
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "memory ran out");
    }
    make_metrics(self);
    int rc = sp_signals_open(&self->signals, self->loop, on_signal, self, err);
    if (rc != 0 ||
        (rc = sp_listener_open(&self->listener, sp_config_str(c, "metrics_listen"), self->metrics,
                               NULL, NULL, err)) != 0 ||
        (rc = sp_events_open(&self->events, self->loop, (int)sp_config_int(c, "max_event_clients"),
                             err)) != 0 ||
        (rc = sp_backends_open(&self->backends, self->loop, &store, on_services, self, err)) != 0 ||
        (rc = open_http(self, err)) != 0 || (rc = register_service(self, err)) != 0) {
        return rc;
    }
    self->tick = zloop_timer(self->loop, TICK_MS, 0, on_tick, self);
    return 0;
}

// In the order in which things use each other: calls end first and answer their exchanges, then the streams, then HTTP.
static void stop(sp_gateway_t *self)
{
    sp_member_stop(&self->member);
    sp_backends_close(&self->backends);
    sp_events_close(&self->events);
    sp_http_close(&self->http);
    sp_listener_close(&self->listener);
    if (self->tick >= 0) {
        zloop_timer_end(self->loop, self->tick);
    }
    sp_signals_close(&self->signals);
    sp_metrics_destroy(&self->metrics);
    zloop_destroy(&self->loop);
}

int sp_gateway_run(const sp_config_t *config, sp_error_t *err)
{
    sp_gateway_t self = {.config = config,
                         .service_id = sp_config_str(config, "service_id"),
                         .max_in_flight = (int)sp_config_int(config, "max_in_flight"),
                         .request_timeout_ms = (int)sp_config_int(config, "request_timeout_ms"),
                         .tick = -1};
    int rc = start(&self, err);
    if (rc == 0) {
        sp_log(SP_LOG_INFO, "GATEWAY-STARTED", "http", sp_http_endpoint(self.http), "version",
               sp_config_version(), NULL);
        sp_mesh_run(self.loop);
        sp_log(SP_LOG_INFO, "GATEWAY-STOPPED", NULL);
    }
    stop(&self);
    return rc;
}
