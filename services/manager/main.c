// Options and exit code of the manager.
#include <stdio.h>

#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/pg/conninfo.h"
#include "services/manager/manager.h"

int main(int argc, char **argv)
{
    sp_config_t *config = NULL;
    sp_error_t err = {0};
    bool done = false;
    if (sp_config_load(&config, "manager", manager_options, manager_options_n, argc, argv, &done,
                       &err)) {
        fprintf(stderr, "manager: %s\n", err.text);
        return 2;
    }
    if (done)
        return 0;
    sp_log_setup("manager", sp_config_str(config, "service_id"), sp_config_str(config, "log_level"),
                 sp_config_str(config, "log_format"));
    sp_conninfo_ignore_environment();
    int rc = sp_failpoint_setup(&err);
    if (rc == 0)
        rc = manager_run(config, &err);
    if (rc)
        sp_log(SP_LOG_ERROR, "MANAGER-FAILED", "error", err.text, NULL);
    sp_config_destroy(&config);
    return rc == 0 ? 0 : rc == SP_E_CONFIG ? 2 : 1;
}
