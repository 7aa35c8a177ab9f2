// The client behind shardplane.h. Internal to common/client.
#ifndef SP_CLIENT_CLIENT_H
#define SP_CLIENT_CLIENT_H

#include <pthread.h>
#include <stdbool.h>

#include "common/base/arena.h"
#include "common/base/error.h"
#include "common/client/shardplane.h"
#include "common/mesh/line.h"

typedef struct idle_line {
    sp_line_t *line;        // not in use
    int64_t used_ms;        // monotonic: when it last gave an answer
    struct idle_line *next; // of the same router
} idle_line_t;

typedef struct router {
    char *endpoint;     // ROUTER socket
    idle_line_t *idle;  // connections that wait for a caller
    size_t idle_n;      // count
    int64_t suspect_ms; // monotonic: until then others are asked first
} router_t;

typedef struct sp_rings sp_rings_t;

struct shardplane {
    pthread_mutex_t lock; // for routers, turn and rings' start
    router_t *routers;    // as configured
    size_t routers_n;     // count
    size_t turn;          // whom to ask next
    char **feeds;         // PUB sockets
    size_t feeds_n;       // count
    int timeout_ms;       // default
    sp_rings_t *rings;    // local copies; NULL until the first shardplane_route
};

// What a lost answer means: nothing, that asking again decides, or that nobody may ask again.
typedef enum { SP_ASK_READ, SP_ASK_KEYED, SP_ASK_ONCE } sp_ask_t;

// Asks one router after the other until one answers or the deadline (monotonic) passes. Errors that a router marks as retryable mean
// that nothing was changed: those are asked again too, after a jittered wait. But once an answer to SP_ASK_KEYED was lost, no later error
// tells what became of it, for it may wait at its router still: then only a reply decides, and everything else is outcome_unknown. The
// reply, of schema->reply, is decoded into arena.
int sp_client_ask(shardplane_t *self, const sp_schema_t *schema, const void *body, sp_ask_t kind,
                  int64_t deadline_ms, sp_arena_t *arena, void **ret_body, sp_error_t *err);

// Copies to the public form and returns the code; out may be NULL.
int sp_client_error(const sp_error_t *err, shardplane_error_t *out);
// Monotonic deadline of a call; timeout_ms <= 0: the client's.
int64_t sp_client_deadline(const shardplane_t *self, int timeout_ms);

// ---- local rings
int sp_rings_open(sp_rings_t **ret_self, shardplane_t *client, sp_error_t *err);
void sp_rings_close(sp_rings_t **self_p);
// Owner of the key by the local copy, which is fetched when there is none yet.
int sp_rings_route(sp_rings_t *self, const char *keyspace, const char *key, int64_t deadline_ms,
                   shardplane_owner_t *ret_owner, sp_error_t *err);
// Waits for a version above; true when it is there.
bool sp_rings_wait(sp_rings_t *self, const char *keyspace, int64_t version, int64_t deadline_ms);

#endif
