// What health knows: for each shard of the catalog its servers, their last observations and the verdict. Belongs to the loop's thread.
#ifndef SP_HEALTH_SHARDS_H
#define SP_HEALTH_SHARDS_H

#include "common/store/catalog.h"
#include "schemas/health.h"
#include "services/health/pure_lag.h"
#include "services/health/pure_verdict.h"

typedef struct server {
    char role[8];               // primary or replica
    char host[256];             // where, without secrets
    int64_t port;               // where
    char database[64];          // where
    char user[64];              // role it is probed with
    char *dsn;                  // sealed; tells whether it is still the same server
    observation_t seen;         // facts; its strings are those below
    char error[1024];           // of the last failed probe
    char system_identifier[32]; // as it says
    lag_history_t history;      // primary: positions seen
    int64_t timeline;           // of the last answer
    int64_t checked_ms;         // Unix time of the last probe
    verdict_t verdict;          // now
    char reason[1100];          // why, when not healthy
} server_t;

typedef struct shard {
    char id[64];              // shard
    char keyspace[64];        // its keyspace
    char expected_system[32]; // catalog's system_identifier
    server_t *servers;        // the primary first
    size_t n;                 // count
    verdict_t verdict;        // now
    verdict_t told;           // in the last event; 0 none
    bool guards_known;        // checked since the primary's DSN last changed
    bool guards_ok;           // as the catalog wants them
    char *guard_reasons[20];  // what differs; owned
    size_t guard_reasons_n;   // count
} shard_t;

typedef struct shards {
    shard_t *items;          // by id, as in the catalog
    size_t n;                // count
    verdict_limits_t limits; // from the configuration
} shards_t;

void shards_clear(shards_t *self);
// Takes the catalog's shards over; what is known of servers that stay is kept. False when memory runs out (nothing changes then).
bool shards_take_catalog(shards_t *self, const sp_catalog_t *catalog);
// Servers for the prober; borrows from the table, the list is from the arena. False when memory runs out.
bool shards_probe_set(const shards_t *self, sp_arena_t *arena, sp_msg_probe_set_t *ret_set);
shard_t *shards_find(const shards_t *self, sp_str_t id); // NULL when unknown
// A probe's or a check's result, and new verdicts. The shard, NULL when it is not known any more.
shard_t *shards_take_probe(shards_t *self, const sp_msg_probe_result_t *result);
shard_t *shards_take_guards(shards_t *self, const sp_msg_guard_result_t *result);
// The answer for one shard; borrows from the table and the arena. False when memory runs out.
bool shards_view(const shard_t *shard, sp_str_t observer, sp_arena_t *arena,
                 sp_msg_shard_health_t *ret_view);

#endif
