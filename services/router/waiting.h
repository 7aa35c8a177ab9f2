// Requests for a keyspace that the router does not know yet, or that nobody owns yet: whoever has just made it over REST may be a few
// milliseconds ahead of the catalog's watch. They wait shortly before they are told so.
#ifndef SP_ROUTER_WAITING_H
#define SP_ROUTER_WAITING_H

#include "services/router/router.h"

// True when the request was kept, to be handled again when the catalog changes or its time is up. False: handle it now.
bool waiting_keep(router_t *self, sp_str_t keyspace, sp_request_t *request, sp_handler_fn *handle);
void waiting_tick(router_t *self); // those whose time is up
void waiting_wake(router_t *self); // all, after a new catalog
void waiting_stop(router_t *self); // all are told `unavailable`

#endif
