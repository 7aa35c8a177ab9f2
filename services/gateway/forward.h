// Forward: a REST request becomes a message to the service that handles it, and its reply becomes the answer.
#ifndef SP_GATEWAY_FORWARD_H
#define SP_GATEWAY_FORWARD_H

#include "services/gateway/gateway.h"
#include "services/gateway/pure_routes.h"

// Answers x, now or when the service has replied. path and query are still encoded and belong to x.
void sp_forward(sp_gateway_t *self, sp_exchange_t *x, sp_str_t path, sp_str_t query);

#endif
