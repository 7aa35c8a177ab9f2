// gateway: options and exit code. 0: stopped as asked; 1: could not start; 2: wrong options or configuration.
#include <stdio.h>

#include "common/base/log.h"
#include "services/gateway/gateway.h"

int main(int argc, char **argv)
{
    sp_config_t *config = NULL;
    sp_error_t err = {0};
    bool done = false;
    if (sp_config_load(&config, "gateway", sp_gateway_options, sp_gateway_options_n, argc, argv,
                       &done, &err) != 0) {
        fprintf(stderr, "gateway: %s\n", err.text);
        return 2;
    }
    if (done) {
        return 0;
    }
    sp_log_setup("gateway", sp_config_str(config, "service_id"), sp_config_str(config, "log_level"),
                 sp_config_str(config, "log_format"));
    int rc = sp_gateway_run(config, &err);
    if (rc != 0) {
        sp_log(SP_LOG_ERROR, "GATEWAY-FAILED", "code", sp_error_name(rc), "error", err.text, NULL);
    }
    sp_config_destroy(&config);
    return rc == 0 ? 0 : rc == SP_E_CONFIG ? 2 : 1;
}
