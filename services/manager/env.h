// Env: what every actor of the manager works with: a store handle, the leader's epoch, the catalog as last loaded, connections to shards.
// Belongs to one thread; everything blocks.
#ifndef SP_MANAGER_ENV_H
#define SP_MANAGER_ENV_H

#include "common/mesh/actor.h"
#include "common/owner/owner.h"
#include "common/store/catalog.h"
#include "services/manager/settings.h"

typedef enum { ENV_ADMIN, ENV_APPLY } env_role_t;

typedef struct env_connection {
    char shard_id[64];           // shard
    env_role_t role;             // whose
    sp_str_t sealed;             // DSN it was made with, owned (malloc)
    sp_pg_t *pg;                 // connection
    struct env_connection *next; // list
} env_connection_t;

typedef struct env {
    const settings_t *settings;    // borrowed
    sp_actor_end_t *end;           // of the actor
    sp_store_t *store;             // own handle
    sp_epoch_t epoch;              // generation 0 until env_load has read it
    sp_catalog_t *catalog;         // last linearizable load
    char application_name[64];     // of connections
    env_connection_t *connections; // cached
    int query_timeout_ms;          // 0: sp_pg's default
    bool (*interrupted)(
        void *);           // besides env_stopped(): true ends a statement with `cancelled`; or NULL
    void *interrupted_arg; // its argument
} env_t;

// What a new actor is handed (malloc, freed by env_open).
typedef struct env_seed {
    const settings_t *settings; // borrowed
    int64_t epoch;              // create_revision of the leader's key
    char name[33];              // job id, or what the actor is for
} env_seed_t;

int env_open(env_t *self, env_seed_t *seed, sp_actor_end_t *end, sp_error_t *err);
void env_close(env_t *self);
// True when the actor must end: stop was asked, or this process no longer leads at this epoch. Fits sp_pg_options_t.stopped.
bool env_stopped(void *self);
// Sleeps, but not longer than until env_stopped().
void env_sleep(env_t *self, int64_t ms);
// Linearizable load; refuses (stale_epoch) when the leader is another one.
int env_load(env_t *self, sp_error_t *err);
sp_catalog_txn_t *env_txn(const env_t *self);

// A working connection to a registered shard, cached until env_close or until it breaks. Errors name the shard.
int env_pg(env_t *self, sp_str_t shard_id, env_role_t role, sp_pg_t **ret_pg, sp_error_t *err);
// The same from a record that may not be in the catalog (yet).
int env_pg_record(env_t *self, const sp_msg_catalog_shard_t *shard, env_role_t role,
                  sp_pg_t **ret_pg, sp_error_t *err);
// A connection of its own to one of the shard's replicas, which the caller closes.
int env_pg_replica(env_t *self, const sp_msg_catalog_shard_t *shard, size_t replica,
                   sp_pg_t **ret_pg, sp_error_t *err);
// Closes the cached connections of a shard; of all that are not in the catalog (any more), whose databases are others' business.
void env_forget(env_t *self, sp_str_t shard_id);
void env_forget_strangers(env_t *self);
// Names that guards need, from a record; strings from the arena.
sp_owner_shard_t env_owner(const env_t *self, const sp_msg_catalog_shard_t *shard,
                           sp_arena_t *arena);

// A control step on a shard: raises the epoch there, begins a transaction and holds the epoch in it until commit.
int env_begin(env_t *self, sp_pg_t *pg, sp_error_t *err);
int env_commit(sp_pg_t *pg, sp_error_t *err);
void env_rollback(sp_pg_t *pg);
// One statement as a control step of its own; its result is dropped. Waits for locks only shortly.
int env_step(env_t *self, sp_pg_t *pg, const char *sql, int n_params, const char *const *params,
             sp_error_t *err);

// Error to message and back; strings from the arena.
sp_msg_error_t *error_message(const sp_error_t *err, sp_arena_t *arena);
int error_from_message(const sp_msg_error_t *message, sp_error_t *err);

#endif
