// Backends: the services that the gateway speaks to, as etcd lists them, and calls to them.
#ifndef SP_GATEWAY_BACKENDS_H
#define SP_GATEWAY_BACKENDS_H

#include "common/base/error.h"
#include "common/mesh/mesh.h"
#include "common/store/store.h"
#include "schemas/shard.h"

typedef struct sp_backends sp_backends_t;

// The list of live services has changed; valid during the call.
typedef void(sp_backends_change_fn)(void *arg, const sp_msg_service_t *services, size_t n);

// Starts watching. The store's thread fills the list; until then there are no backends.
int sp_backends_open(sp_backends_t **ret_self, zloop_t *loop, const sp_store_options_t *store,
                     sp_backends_change_fn *on_change, void *arg, sp_error_t *err);
// Open calls end as if not answered.
void sp_backends_close(sp_backends_t **self_p);

// Calls the service that schema names: the leading manager, any router, any health service. Messages that only read are tried on
// another instance when one does not answer. body must stay until on_reply, which is called exactly once when this returns 0.
// SP_E_UNAVAILABLE when there is no such service, else as sp_peer_call.
int sp_backends_call(sp_backends_t *self, const sp_schema_t *schema, const void *body,
                     const sp_msg_envelope_t *envelope, int timeout_ms, sp_reply_fn *on_reply,
                     void *arg, sp_error_t *err);

size_t sp_backends_count(const sp_backends_t *self, const char *kind); // live ones
const char *sp_backends_leader(const sp_backends_t *self);             // service id, or ""
bool sp_backends_loaded(const sp_backends_t *self);    // the list has been read once
int64_t sp_backends_age_ms(const sp_backends_t *self); // since etcd last answered

#endif
