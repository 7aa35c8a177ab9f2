// Connections to shards: a few pipelined ones for each primary and replica, in the loop.
#ifndef SP_ROUTER_POOLS_H
#define SP_ROUTER_POOLS_H

#include "common/base/seal.h"
#include "common/mesh/mesh.h"
#include "common/pg/pipe.h"
#include "common/store/catalog.h"
#include "services/router/metrics.h"

typedef struct shard_pools shard_pools_t; // of all shards
typedef struct pool pool_t;               // of one server
typedef struct slot slot_t;               // one connection

// A request's place in the queue of a pool that has no room. Zeroed: in none.
typedef struct pool_waiter {
    struct pool_waiter *next;   // behind it
    struct pool_waiter **link;  // what points here; NULL: in no queue
    struct pool_waiter ***tail; // the queue's end
} pool_waiter_t;

typedef struct pools_options {
    zloop_t *loop;                // borrowed
    const sp_seal_t *seal;        // borrowed
    const char *application_name; // borrowed
    size_t pool_size;             // most connections a server
    size_t depth;                 // most requests a connection
    // It was the first in its queue and there is room now, or its pool can serve nobody any more: it has left the queue, and may pick again.
    // Called from the loop and from pools_update().
    void (*served)(pool_waiter_t *waiter);
} pools_options_t;

shard_pools_t *pools_new(const pools_options_t *options);
void pools_destroy(shard_pools_t **self_p); // ends all requests

// Takes over a new catalog: pools of new shards and endpoints are opened, of changed and gone ones retired (they end with their requests).
void pools_update(shard_pools_t *self, const sp_catalog_t *catalog);
void pools_tick(shard_pools_t *self); // each 10 ms or so
void pools_measure(shard_pools_t *self, router_metrics_t *metrics);

// The primary's pool, or that of an eligible replica with a live connection, else NULL.
pool_t *pools_primary(shard_pools_t *self, sp_str_t shard_id);
pool_t *pools_replica(shard_pools_t *self, sp_str_t shard_id);

// The connection with the fewest requests. NULL when none is up with room (a further one is then being opened where allowed), or others
// wait for it: then the waiter stands behind them. alone: a connection without any, that pool_pick() passes by until slot_release().
slot_t *pool_pick(pool_t *self, bool alone, pool_waiter_t *waiter);
void pool_waiter_leave(pool_waiter_t *waiter); // out of its queue, if it is in one
const char *pool_fault(const pool_t *self);    // why no connection is up; "" when one is
int slot_submit(slot_t *self, const sp_pipe_request_t *request, sp_error_t *err);
void slot_release(slot_t *self); // ends `alone`
bool slot_up(const slot_t *self);

#endif
