#include "services/manager/claim.h"

#include "services/manager/command.h"

static void put(sp_catalog_txn_t *txn, sp_arena_t *arena, sp_msg_catalog_shard_t *record,
                sp_str_t job_id, int64_t status, int64_t revision)
{
    record->job_id = job_id;
    if (status != 0) {
        record->status = status;
        record->has_status = true;
    }
    put_shard(txn, arena, record, revision);
}

void claim_take(sp_catalog_txn_t *txn, sp_arena_t *arena, const sp_catalog_shard_view_t *view,
                sp_str_t job_id, int64_t status)
{
    sp_msg_catalog_shard_t record = *view->shard;
    put(txn, arena, &record, job_id, status, view->rev.mod_revision);
}

void claim_new(sp_catalog_txn_t *txn, sp_arena_t *arena, sp_msg_catalog_shard_t *record,
               sp_str_t job_id)
{
    put(txn, arena, record, job_id, SP_SHARD_STATUS_IMPORTING, 0);
}

void claim_release(sp_catalog_txn_t *txn, sp_arena_t *arena, const sp_catalog_shard_view_t *view,
                   int64_t status)
{
    sp_msg_catalog_shard_t record = *view->shard;
    put(txn, arena, &record, (sp_str_t){0}, status, view->rev.mod_revision);
}

const sp_catalog_shard_view_t *claim_held(const sp_catalog_t *catalog, sp_str_t shard_id,
                                          const char *job_id)
{
    const sp_catalog_shard_view_t *view = sp_catalog_shard(catalog, shard_id);
    return view && sp_str_eqz(view->shard->job_id, job_id) ? view : NULL;
}
