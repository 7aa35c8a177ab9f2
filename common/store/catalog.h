// The catalog as typed objects: decoded from a store listing, immutable, counted references. Keys: schemas/catalog.json.
#ifndef SP_STORE_CATALOG_H
#define SP_STORE_CATALOG_H

#include "common/ring/ring.h"
#include "common/store/store.h"
#include "schemas/catalog.h"
#include "schemas/shard.h"

typedef struct sp_catalog_entry_rev {
    int64_t mod_revision;    // for compares
    int64_t create_revision; // for compares
} sp_catalog_rev_t;

typedef struct sp_catalog_keyspace_view {
    const sp_msg_catalog_keyspace_t *keyspace; // record
    sp_catalog_rev_t rev;                      // of keyspaces/<name>
    const sp_msg_catalog_ring_t *ring_record;  // record, NULL when the keyspace has no ring yet
    sp_catalog_rev_t ring_rev;                 // of ring/<name>
    const sp_ring_t *ring; // built from the shards' tokens; NULL when nobody owns anything
} sp_catalog_keyspace_view_t;

typedef struct sp_catalog_shard_view {
    const sp_msg_catalog_shard_t *shard; // record; DSNs still sealed
    sp_catalog_rev_t rev;                // of shards/<id>
} sp_catalog_shard_view_t;

typedef struct sp_catalog_job_view {
    const sp_msg_catalog_job_t *job; // record
    sp_catalog_rev_t rev;            // of jobs/<id>
} sp_catalog_job_view_t;

typedef struct sp_catalog {
    int64_t revision;                       // store revision
    sp_msg_catalog_generation_t generation; // .generation 0 when the key is missing
    sp_msg_catalog_leader_t leader;         // .service_id absent when there is none
    sp_catalog_rev_t leader_rev;            // create_revision is the epoch
    sp_catalog_keyspace_view_t *keyspaces;  // by name
    size_t n_keyspaces;                     // count
    sp_catalog_shard_view_t *shards;        // by id
    size_t n_shards;                        // count
    sp_catalog_job_view_t *jobs;            // by id
    size_t n_jobs;                          // count
    sp_msg_service_t *services;             // live services
    size_t n_services;                      // count
    sp_arena_t *arena;                      // owns all of it
    int references;                         // atomic count
} sp_catalog_t;

// Decodes a listing of the whole prefix. A record that does not decode, a ring that overlaps or a shard without its keyspace is an
// error (catalog_unavailable, naming the key): doubt about the catalog means refusal; the caller keeps its last good one.
int sp_catalog_parse(const sp_kv_list_t *list, sp_catalog_t **ret_catalog, sp_error_t *err);
// Linearizable load.
int sp_catalog_load(sp_store_t *store, sp_catalog_t **ret_catalog, sp_error_t *err);
sp_catalog_t *sp_catalog_ref(sp_catalog_t *self);
void sp_catalog_unref(sp_catalog_t **self_p);

const sp_catalog_keyspace_view_t *sp_catalog_keyspace(const sp_catalog_t *self,
                                                      sp_str_t name); // NULL when unknown
const sp_catalog_shard_view_t *sp_catalog_shard(const sp_catalog_t *self, sp_str_t id);
const sp_catalog_job_view_t *sp_catalog_job(const sp_catalog_t *self, sp_str_t id);
// Whether the job's record has the step as done.
bool sp_catalog_step_done(const sp_msg_catalog_job_t *job, const char *step);
// First live service of a kind, or the n-th.
const sp_msg_service_t *sp_catalog_service(const sp_catalog_t *self, const char *kind, size_t n);

// Transaction builder: every catalog change of a leader compares its leader key's create_revision.
typedef struct sp_catalog_txn sp_catalog_txn_t;
sp_catalog_txn_t *sp_catalog_txn_new(
    int64_t leader_create_revision); // 0: no leader compare (only for election and tests)
void sp_catalog_txn_destroy(sp_catalog_txn_t **self_p);
// Compare: the record is still the one read (mod_revision), or absent when 0.
void sp_catalog_txn_expect(sp_catalog_txn_t *self, const char *key, int64_t mod_revision);
// Put: encodes the record by its schema. lease 0 for none.
void sp_catalog_txn_put(sp_catalog_txn_t *self, const char *key, const sp_schema_t *schema,
                        const void *record, int64_t lease);
void sp_catalog_txn_delete(sp_catalog_txn_t *self, const char *key);
// 0 when committed; conflict when a compare failed; stale_epoch when the leader compare failed (found by a re-read);
// catalog_unavailable when the outcome is not known.
int sp_catalog_txn_commit(sp_catalog_txn_t *self, sp_store_t *store, int64_t *ret_revision,
                          sp_error_t *err);

#endif
