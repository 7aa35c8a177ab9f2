// Settings: option rows of the manager.
#include "services/manager/settings.h"

#include <stdio.h>

#define JOB_LIMIT_MAX 1125899906842624 // as in schemas/job.json

// clang-format off
const sp_option_t manager_options[] = {
    {.name = "listen", .type = SP_OPT_ENDPOINT, .def = "tcp://127.0.0.1:7641", .help = "ROUTER socket for commands and workers"},
    {.name = "events_listen", .type = SP_OPT_ENDPOINT, .def = "tcp://127.0.0.1:7661", .help = "PUB socket for events"},
    {.name = "metrics_listen", .type = SP_OPT_ADDRESS, .def = "127.0.0.1:9091", .help = "/metrics, /livez and /readyz"},
    {.name = "secret_key_file", .type = SP_OPT_SECRET, .required = true, .help = "key that seals DSNs in the catalog"},
    {.name = "lease_ttl_s", .type = SP_OPT_INT, .def = "9", .min = 3, .max = 60, .help = "lease of the leader; a standby takes over after it"},
    {.name = "heartbeat_ms", .type = SP_OPT_INT, .def = "500", .min = 50, .max = 60000, .help = "between heartbeats of workers; three missed mean dead"},
    {.name = "copy_pages_per_range", .type = SP_OPT_INT, .def = "2048", .min = 1, .max = 1048576, .help = "heap pages of one copy task"},
    {.name = "job_max_bytes_per_s", .type = SP_OPT_INT, .def = "0", .min = 0, .max = JOB_LIMIT_MAX, .help = "what a job may copy or purge unless told otherwise, all its tasks together; 0 no limit"},
    {.name = "job_max_replica_lag_bytes", .type = SP_OPT_INT, .def = "268435456", .min = 0, .max = JOB_LIMIT_MAX, .help = "lag of a standby above which a job pauses unless told otherwise; 0 no limit"},
    {.name = "caught_up_bytes", .type = SP_OPT_INT, .def = "1048576", .min = 1024, .max = INT64_MAX, .help = "lag under which targets count as caught up"},
    {.name = "wal_budget_bytes", .type = SP_OPT_INT, .def = "8589934592", .min = 1048576, .max = INT64_MAX, .help = "WAL that a job may keep on its source before it gives up"},
    {.name = "fence_budget_ms", .type = SP_OPT_INT, .def = "800", .min = 50, .max = 60000, .help = "lock, drain and seal of a cutover together"},
    {.name = "fence_lock_wait_ms", .type = SP_OPT_INT, .def = "250", .min = 10, .max = 30000, .help = "one lock wait of a cutover; under half of deadlock_timeout"},
    {.name = "fence_attempts", .type = SP_OPT_INT, .def = "20", .min = 1, .max = 1000, .help = "cutovers tried before the job fails"},
    {.name = "retry_for_s", .type = SP_OPT_INT, .def = "900", .min = 10, .max = 86400, .help = "how long a failing step is tried again without any progress"},
    {.name = "sweep_s", .type = SP_OPT_INT, .def = "60", .min = 1, .max = 86400, .help = "between two sweeps for objects that no job owns"},
};
// clang-format on
const size_t manager_options_n = sizeof manager_options / sizeof manager_options[0];

void settings_read(const sp_config_t *config, settings_t *ret_settings)
{
    settings_t *s = ret_settings;
    *s = (settings_t){.config = config};
    snprintf(s->service_id, sizeof s->service_id, "%s", sp_config_str(config, "service_id"));
    s->store = sp_service_store(config);
    s->lease_ttl_s = sp_config_int(config, "lease_ttl_s");
    s->heartbeat_ms = sp_config_int(config, "heartbeat_ms");
    s->pages_per_range = sp_config_int(config, "copy_pages_per_range");
    s->job_max_bytes_per_s = sp_config_int(config, "job_max_bytes_per_s");
    s->job_max_replica_lag_bytes = sp_config_int(config, "job_max_replica_lag_bytes");
    s->caught_up_bytes = sp_config_int(config, "caught_up_bytes");
    s->wal_budget_bytes = sp_config_int(config, "wal_budget_bytes");
    s->fence_budget_ms = sp_config_int(config, "fence_budget_ms");
    s->fence_lock_wait_ms = sp_config_int(config, "fence_lock_wait_ms");
    s->fence_attempts = sp_config_int(config, "fence_attempts");
    s->retry_for_s = sp_config_int(config, "retry_for_s");
    s->sweep_s = sp_config_int(config, "sweep_s");
}
