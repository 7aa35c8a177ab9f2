// bin/router: options and exit code.
#include <stdio.h>

#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/pg/conninfo.h"
#include "services/router/router.h"

static const sp_option_t rows[] = {
    {.name = "listen",
     .type = SP_OPT_ENDPOINT,
     .def = "tcp://127.0.0.1:7601",
     .help = "where clients send requests: tcp://host:port"},
    {.name = "events_listen",
     .type = SP_OPT_ENDPOINT,
     .def = "tcp://127.0.0.1:7621",
     .help = "where the ring feed is published: tcp://host:port"},
    {.name = "metrics_listen",
     .type = SP_OPT_ADDRESS,
     .def = "127.0.0.1:9090",
     .help = "host:port of /metrics, /livez and /readyz; empty: none"},
    {.name = "secret_key_file",
     .type = SP_OPT_SECRET,
     .required = true,
     .help = "64 hex digits that unseal the catalog's passwords; mode 0600"},
    {.name = "pool_size",
     .type = SP_OPT_INT,
     .def = "8",
     .min = 1,
     .max = 256,
     .help = "most connections to each shard's primary and each replica"},
    {.name = "pipeline_depth",
     .type = SP_OPT_INT,
     .def = "16",
     .min = 1,
     .max = 1024,
     .help = "most requests in flight on one connection"},
    {.name = "max_parked",
     .type = SP_OPT_INT,
     .def = "10000",
     .min = 0,
     .max = 65536,
     .help = "most requests that wait for a key that is being moved, or for a shard; more are told "
             "to come again"},
    {.name = "max_result_rows",
     .type = SP_OPT_INT,
     .def = "100000",
     .min = 1,
     .max = 100000,
     .help = "most rows of all results of a request"},
    {.name = "max_result_bytes",
     .type = SP_OPT_INT,
     .def = "8388608",
     .min = 1024,
     .max = 15728640,
     .help = "most bytes of them"},
};

int main(int argc, char **argv)
{
    sp_error_t err = {0};
    sp_config_t *config = NULL;
    bool done = false;
    if (sp_config_load(&config, "router", rows, sizeof rows / sizeof rows[0], argc, argv, &done,
                       &err) != 0) {
        fprintf(stderr, "router: %s\n", err.text);
        return 2;
    }
    if (done) {
        sp_config_destroy(&config);
        return 0;
    }
    sp_log_setup("router", sp_config_str(config, "service_id"), sp_config_str(config, "log_level"),
                 sp_config_str(config, "log_format"));
    sp_conninfo_ignore_environment();
    int rc = sp_failpoint_setup(&err);
    if (rc == 0)
        rc = router_run(config, &err);
    if (rc != 0)
        sp_log(SP_LOG_ERROR, "ROUTER-FAILED", "error", err.text, NULL);
    sp_config_destroy(&config);
    return rc == 0 ? 0 : rc == SP_E_CONFIG ? 2 : 1;
}
