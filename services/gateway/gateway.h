// The gateway: REST and server-sent events on one side, messages on the other. No state of its own.
#ifndef SP_GATEWAY_GATEWAY_H
#define SP_GATEWAY_GATEWAY_H

#include <stdatomic.h>

#include "common/config/config.h"
#include "common/mesh/signals.h"
#include "common/store/service.h"
#include "common/telemetry/listener.h"
#include "common/telemetry/metrics.h"
#include "services/gateway/backends.h"
#include "services/gateway/events.h"
#include "services/gateway/http.h"

typedef struct sp_gateway {
    const sp_config_t *config;   // borrowed
    const char *service_id;      // from config
    zloop_t *loop;               // the one thread
    sp_signals_t *signals;       // SIGTERM, SIGINT
    sp_metrics_t *metrics;       // registry
    sp_listener_t *listener;     // metrics_listen, or NULL
    sp_backends_t *backends;     // managers, routers, health services
    sp_events_t *events;         // server-sent events
    sp_http_t *http;             // REST
    sp_member_t *member;         // registration in etcd
    int max_in_flight;           // requests answered later
    int request_timeout_ms;      // unless the request says
    int64_t stop_by_ms;          // 0, or when the stop no longer waits for answers
    int tick;                    // timer, or -1
    sp_metric_t *requests;       // by route, method, status
    sp_metric_t *seconds;        // by route
    sp_series_t *in_flight;      // gauge
    sp_series_t *connections;    // gauge
    sp_series_t *event_clients;  // gauge
    sp_series_t *events_total;   // counter
    sp_series_t *events_dropped; // counter
} sp_gateway_t;

// Rows of the gateway's configuration.
extern const sp_option_t sp_gateway_options[];
extern const size_t sp_gateway_options_n;

// Runs until a signal asks it to stop. 0, or the code of what kept it from starting.
int sp_gateway_run(const sp_config_t *config, sp_error_t *err);
// Whether it can do its work; says why not.
bool sp_gateway_ready(const sp_gateway_t *self, const char **ret_reason);

#endif
