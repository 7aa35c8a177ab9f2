// Claims: a job holds a shard while the shard's record carries the job's id. They are taken in the transaction that writes the job's
// record and given back in the one that ends the job, so that no job is without its shards and no shard without its job.
#ifndef SP_MANAGER_CLAIM_H
#define SP_MANAGER_CLAIM_H

#include "common/store/catalog.h"

// Adds to the transaction, whose commit fails with a conflict when the record has changed. status 0: as it is.
void claim_take(sp_catalog_txn_t *txn, sp_arena_t *arena, const sp_catalog_shard_view_t *view,
                sp_str_t job_id, int64_t status);
// The same for a shard that is not registered yet: the record is completed and registered as importing.
void claim_new(sp_catalog_txn_t *txn, sp_arena_t *arena, sp_msg_catalog_shard_t *record,
               sp_str_t job_id);
void claim_release(sp_catalog_txn_t *txn, sp_arena_t *arena, const sp_catalog_shard_view_t *view,
                   int64_t status);
// The shard if this job holds it, else NULL.
const sp_catalog_shard_view_t *claim_held(const sp_catalog_t *catalog, sp_str_t shard_id,
                                          const char *job_id);

#endif
