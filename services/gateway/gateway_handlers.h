// One function a path that is the gateway's own; all other paths are messages of other services.
#ifndef SP_GATEWAY_HANDLERS_H
#define SP_GATEWAY_HANDLERS_H

#include "services/gateway/gateway.h"

// arg is the sp_gateway_t.
void sp_gateway_on_request(void *arg, sp_exchange_t *x);
void sp_gateway_on_refuse(void *arg, sp_exchange_t *x, int code, const char *text);
void sp_gateway_on_done(void *arg, const sp_exchange_t *x);

#endif
