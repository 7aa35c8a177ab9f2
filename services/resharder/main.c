// bin/resharder: options and exit code.
#include <stdio.h>
#include <string.h>

#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/pg/conninfo.h"
#include "services/resharder/resharder.h"

static const sp_option_t rows[] = {
    {.name = "listen", .type = SP_OPT_NONE},
    {.name = "events_listen", .type = SP_OPT_NONE},
    {.name = "metrics_listen",
     .type = SP_OPT_ADDRESS,
     .def = "127.0.0.1:9092",
     .help = "host:port of /metrics, /livez and /readyz; empty: none"},
    {.name = "secret_key_file",
     .type = SP_OPT_SECRET,
     .required = true,
     .help = "64 hex digits that unseal the catalog's passwords; mode 0600"},
    {.name = "task_slots",
     .type = SP_OPT_INT,
     .def = "2",
     .min = 1,
     .max = 64,
     .help = "short tasks run at once (a task that follows or holds a snapshot does not count)"},
    {.name = "pg_bin",
     .type = SP_OPT_STRING,
     .def = "",
     .max = 1024,
     .help =
         "folder of pg_dump and pg_restore; empty: the newest of /usr/lib/postgresql, else PATH"},
};

int main(int argc, char **argv)
{
    sp_error_t err = {0};
    sp_config_t *config = NULL;
    bool done = false;
    if (sp_config_load(&config, "resharder", rows, sizeof rows / sizeof rows[0], argc, argv, &done,
                       &err) != 0) {
        fprintf(stderr, "resharder: %s\n", err.text);
        return 2;
    }
    if (done) {
        sp_config_destroy(&config);
        return 0;
    }
    sp_log_setup("resharder", sp_config_str(config, "service_id"),
                 sp_config_str(config, "log_level"), sp_config_str(config, "log_format"));
    sp_conninfo_ignore_environment();
    int rc = sp_failpoint_setup(&err);
    if (rc == 0)
        rc = resharder_run(config, &err);
    if (rc != 0)
        sp_log(SP_LOG_ERROR, "RESHARDER-FAILED", "error", err.text, NULL);
    sp_config_destroy(&config);
    return rc == 0 ? 0 : rc == SP_E_CONFIG ? 2 : 1;
}
