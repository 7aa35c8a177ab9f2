// Membership: registers a service under a lease and keeps it alive in a thread; for managers also the election.
#ifndef SP_STORE_MEMBER_H
#define SP_STORE_MEMBER_H

#include "common/store/store.h"
#include "schemas/catalog.h"
#include "schemas/shard.h"

typedef struct sp_member sp_member_t;
// Starts the thread: grants a lease (ttl_s), puts services/<kind>/<id>, keeps alive; after a loss starts again with a new lease.
// Does not wait for the store. ttl 5 s lets a standby lead some 5 s after a kill -9. SP_E_INVALID_ARGUMENT, SP_E_CONFIG,
// SP_E_OUT_OF_MEMORY.
int sp_member_start(sp_member_t **ret_self, const sp_store_options_t *options,
                    const sp_msg_service_t *service, int ttl_s, bool campaign, sp_error_t *err);
void sp_member_stop(sp_member_t **self_p); // revokes the lease, joins
// Managers (campaign true): the epoch while leading, else 0. An epoch that has ended never comes back: who leads again does so under
// a higher one. Leadership ends here before the lease can end in etcd: when the last successful keepalive was sent more than 2/3 ttl
// ago (monotonic clock). Callable from any thread; never blocks.
int64_t sp_member_epoch(const sp_member_t *self);
int64_t sp_member_lease(const sp_member_t *self); // 0: none just now
int sp_member_fd(const sp_member_t *self);        // eventfd: readable when leadership changed
void sp_member_drain(sp_member_t *self);          // clears the fd

#endif
