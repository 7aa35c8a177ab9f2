// bin/health: options and exit code.
#include <stdio.h>

#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/pg/conninfo.h"
#include "services/health/health.h"

static const sp_option_t rows[] = {
    {.name = "listen",
     .type = SP_OPT_ENDPOINT,
     .def = "tcp://127.0.0.1:7681",
     .help = "where requests are taken: tcp://host:port"},
    {.name = "events_listen",
     .type = SP_OPT_ENDPOINT,
     .def = "tcp://127.0.0.1:7701",
     .help = "where events are published: tcp://host:port"},
    {.name = "metrics_listen",
     .type = SP_OPT_ADDRESS,
     .def = "127.0.0.1:9093",
     .help = "host:port of /metrics, /livez and /readyz; empty: none"},
    {.name = "secret_key_file",
     .type = SP_OPT_SECRET,
     .required = true,
     .help = "64 hex digits that unseal the catalog's passwords; mode 0600"},
    {.name = "probe_interval_ms",
     .type = SP_OPT_INT,
     .def = "1000",
     .min = 50,
     .max = 600000,
     .help = "between two probes of one server"},
    {.name = "probe_timeout_ms",
     .type = SP_OPT_INT,
     .def = "2000",
     .min = 50,
     .max = 60000,
     .help = "for a probe's connection and query together"},
    {.name = "failures",
     .type = SP_OPT_INT,
     .def = "3",
     .min = 1,
     .max = 1000,
     .help = "failed probes in a row until a server counts as down"},
    {.name = "slow_ms",
     .type = SP_OPT_INT,
     .def = "1000",
     .min = 1,
     .max = 60000,
     .help = "a probe that takes longer degrades"},
    {.name = "max_lag_bytes",
     .type = SP_OPT_INT,
     .def = "67108864",
     .min = 0,
     .max = INT64_MAX,
     .help = "a replica further behind degrades"},
    {.name = "max_lag_ms",
     .type = SP_OPT_INT,
     .def = "10000",
     .min = 0,
     .max = INT64_MAX,
     .help = "a replica later than this degrades"},
    {.name = "guard_interval_ms",
     .type = SP_OPT_INT,
     .def = "15000",
     .min = 100,
     .max = 86400000,
     .help = "between two comparisons of all guards with the catalog"},
};

int main(int argc, char **argv)
{
    sp_error_t err = {0};
    sp_config_t *config = NULL;
    bool done = false;
    if (sp_config_load(&config, "health", rows, sizeof rows / sizeof *rows, argc, argv, &done,
                       &err)) {
        fprintf(stderr, "health: %s\n", err.text);
        return 2;
    }
    if (done)
        return 0;
    sp_log_setup("health", sp_config_str(config, "service_id"), sp_config_str(config, "log_level"),
                 sp_config_str(config, "log_format"));
    sp_conninfo_ignore_environment();
    int rc = sp_failpoint_setup(&err);
    if (rc == SP_OK)
        rc = health_run(config, &err);
    if (rc)
        sp_log(SP_LOG_ERROR, "HEALTH-FAILED", "error", err.text, NULL);
    sp_config_destroy(&config);
    return rc == SP_OK ? 0 : rc == SP_E_CONFIG ? 2 : 1;
}
