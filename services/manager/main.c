// Options and exit code of the manager.
#include <stdio.h>

#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "services/manager/manager.h"

int main(int argc, char **argv)
{
    sp_config_t *config = NULL;
    sp_error_t err = {0};
    bool done = false;
    int rc = sp_failpoint_setup(&err);
    if (rc == 0)
        rc = sp_config_load(&config, "manager", manager_options, manager_options_n, argc, argv,
                            &done, &err);
    if (rc != 0) {
        fprintf(stderr, "manager: %s\n", err.text);
        return 2;
    }
    if (!done) {
        sp_log_setup("manager", sp_config_str(config, "service_id"),
                     sp_config_str(config, "log_level"), sp_config_str(config, "log_format"));
        rc = manager_run(config);
    }
    sp_config_destroy(&config);
    return rc;
}
