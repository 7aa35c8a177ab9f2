#include "common/store/service.h"

#include "common/base/clock.h"

enum { ENDPOINT_SIZE = 300 };

sp_store_options_t sp_service_store(const sp_config_t *config)
{
    sp_store_options_t store = {.prefix = sp_config_str(config, "metadata_prefix")};
    store.endpoints = sp_config_list(config, "metadata_endpoints", &store.n);
    return store;
}

// Absent when nothing was bound.
static sp_str_t advertised(const sp_config_t *config, const char *bound, char out[ENDPOINT_SIZE])
{
    if (!bound || !*bound)
        return (sp_str_t){0};
    sp_config_advertised(config, bound, out, ENDPOINT_SIZE);
    return sp_str(out);
}

int sp_service_join(sp_member_t **ret_member, const sp_config_t *config,
                    const sp_service_t *service, sp_error_t *err)
{
    char endpoint[ENDPOINT_SIZE], events[ENDPOINT_SIZE], metrics[ENDPOINT_SIZE];
    sp_store_options_t store = sp_service_store(config);
    sp_msg_service_t record = {.kind = sp_str(service->kind),
                               .id = sp_str(sp_config_str(config, "service_id")),
                               .endpoint = advertised(config, service->endpoint, endpoint),
                               .events_endpoint = advertised(config, service->events, events),
                               .metrics_endpoint = advertised(config, service->metrics, metrics),
                               .version = sp_str(sp_config_version()),
                               .started_ms = sp_clock_wall_ms(),
                               .has_started_ms = true};
    return sp_member_start(ret_member, &store, &record, service->lease_ttl_s, service->campaign,
                           err);
}
