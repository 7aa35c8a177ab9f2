// A service in the catalog, by its configuration: where the catalog is, and what the service tells of itself there.
#ifndef SP_STORE_SERVICE_H
#define SP_STORE_SERVICE_H

#include "common/config/config.h"
#include "common/store/member.h"

// metadata_endpoints and metadata_prefix; borrows from the configuration.
sp_store_options_t sp_service_store(const sp_config_t *config);

// Endpoints as they were bound; NULL or "": none. What is registered is how others reach them (sp_config_advertised).
typedef struct sp_service {
    const char *kind;     // "router"
    const char *endpoint; // requests
    const char *events;   // events
    const char *metrics;  // metrics, or the HTTP API
    int lease_ttl_s;      // see sp_member_start
    bool campaign;        // managers: wants to lead
} sp_service_t;

// Registers the service under service_id and keeps it registered. Errors: those of sp_member_start.
int sp_service_join(sp_member_t **ret_member, const sp_config_t *config,
                    const sp_service_t *service, sp_error_t *err);

#endif
