// Commands about a job that is there: cancel, finalize, throttle, retry. The first three only set what the actor looks at: the flip and
// the cancel are rival compare-and-swaps on the job's record.
#include <string.h>

#include "common/base/clock.h"
#include "common/job/job_fsm.h"
#include "schemas/job.h"
#include "services/manager/claim.h"
#include "services/manager/command.h"
#include "services/manager/identity.h"
#include "services/manager/views.h"

enum {
    CAS_TRIES = 10,
    RATE_MIN = 1024, // bytes a second; less is a job that never ends, which a cancel says better
    LAG_MIN =
        64 * 1024, // bytes; a standby is never quite there, and a limit under that would mean never
};

static const sp_catalog_job_view_t *need_job(const command_t *c, sp_str_t id, sp_error_t *err)
{
    const sp_catalog_job_view_t *view = sp_catalog_job(c->env->catalog, id);
    if (!view)
        sp_error_set(err, SP_E_NOT_FOUND, "job " SP_STR_FMT " does not exist", SP_STR_ARG(id));
    return view;
}

int command_reply_job(command_t *c, sp_str_t id, sp_error_t *err)
{
    sp_msg_job_t *reply = sp_arena_alloc(c->arena, 1, sizeof *reply);
    const sp_catalog_job_view_t *view = need_job(c, id, err);
    if (!view)
        return SP_E_NOT_FOUND;
    if (!reply || !view_job(view->job, c->arena, reply))
        return command_no_memory(err);
    c->reply = reply;
    c->reply_schema = &sp_schema_job;
    return 0;
}

static int put_record(command_t *c, const sp_catalog_job_view_t *view, sp_msg_catalog_job_t *record,
                      sp_catalog_txn_t **txn_p, sp_error_t *err)
{
    if (!*txn_p && !(*txn_p = env_txn(c->env)))
        return command_no_memory(err);
    const char *key = key_job(c->arena, record->id);
    record->updated_ms = sp_clock_wall_ms();
    record->has_updated_ms = true;
    sp_catalog_txn_expect(*txn_p, key, view->rev.mod_revision);
    sp_catalog_txn_put(*txn_p, key, &sp_schema_catalog_job, record, 0);
    return command_commit(c, txn_p, err);
}

static int job_mode(const sp_msg_catalog_job_t *j)
{
    return (int)sp_job_mode(j->flipped, (int)j->undo_to);
}

static int cancel_once(command_t *c, sp_str_t id, sp_error_t *err)
{
    const sp_catalog_job_view_t *view = need_job(c, id, err);
    if (!view)
        return SP_E_NOT_FOUND;
    const sp_msg_catalog_job_t *j = view->job;
    // A flag that a failed job still carries came too late for its undo.
    if (j->state == SP_JOB_STATE_CANCELLED || j->undo_to == SP_JOB_STATE_CANCELLED ||
        (j->cancel_requested && j->state != SP_JOB_STATE_FAILED))
        return 0;
    if (!sp_job_may_cancel((int)j->state, job_mode(j)))
        return sp_error_set(err, SP_E_CONFLICT,
                            "job " SP_STR_FMT " is %s%s: it cannot be cancelled any more",
                            SP_STR_ARG(id), sp_job_state_name((int)j->state),
                            j->flipped ? " (the targets own the keys)" : "");
    sp_msg_catalog_job_t record = *j;
    sp_catalog_txn_t *txn = NULL;
    record.cancel_requested = record.has_cancel_requested = true;
    if (record.state == SP_JOB_STATE_FAILED) { // nothing is left to undo
        record.state = SP_JOB_STATE_CANCELLED;
        record.step = SP_STR("");
    }
    return put_record(c, view, &record, &txn, err);
}

static int finalize_once(command_t *c, const sp_msg_job_finalize_t *m, sp_error_t *err)
{
    const sp_catalog_job_view_t *view = need_job(c, m->job_id, err);
    if (!view)
        return SP_E_NOT_FOUND;
    const sp_msg_catalog_job_t *j = view->job;
    if (j->state == SP_JOB_STATE_FINALIZED || j->finalize_requested) {
        if (m->drop_source_rows && !j->drop_source_rows)
            return sp_error_set(err, SP_E_CONFLICT,
                                "job " SP_STR_FMT " was finalized without drop_source_rows",
                                SP_STR_ARG(m->job_id));
        return 0;
    }
    if (!sp_job_may_finalize((int)j->state, job_mode(j)))
        return sp_error_set(err, SP_E_CONFLICT,
                            "job " SP_STR_FMT " is %s: only a completed job can be finalized",
                            SP_STR_ARG(m->job_id), sp_job_state_name((int)j->state));
    sp_msg_catalog_job_t record = *j;
    sp_catalog_txn_t *txn = NULL;
    record.finalize_requested = record.has_finalize_requested = true;
    record.drop_source_rows = m->drop_source_rows;
    record.has_drop_source_rows = true;
    return put_record(c, view, &record, &txn, err);
}

int command_check_limits(const sp_msg_job_throttle_t *m, sp_error_t *err)
{
    if (m->has_max_bytes_per_s && m->max_bytes_per_s != 0 && m->max_bytes_per_s < RATE_MIN)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "max_bytes_per_s: 0 (no limit) or at least %d", RATE_MIN);
    if (m->has_max_replica_lag_bytes && m->max_replica_lag_bytes != 0 &&
        m->max_replica_lag_bytes < LAG_MIN)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "max_replica_lag_bytes: 0 (no limit) or at least %d", LAG_MIN);
    return 0;
}

// Past copying it holds for the purge and for a retry. Setting what is set is no error, whatever has become of the job.
static int throttle_once(command_t *c, const sp_msg_job_throttle_t *m, sp_error_t *err)
{
    const sp_catalog_job_view_t *view = need_job(c, m->job_id, err);
    if (!view)
        return SP_E_NOT_FOUND;
    const sp_msg_catalog_job_t *j = view->job;
    sp_msg_catalog_job_t record = *j;
    sp_catalog_txn_t *txn = NULL;
    if (m->has_max_bytes_per_s) {
        record.max_bytes_per_s = m->max_bytes_per_s;
        record.has_max_bytes_per_s = true;
    }
    if (m->has_max_replica_lag_bytes) {
        record.max_replica_lag_bytes = m->max_replica_lag_bytes;
        record.has_max_replica_lag_bytes = true;
    }
    if (record.max_bytes_per_s == j->max_bytes_per_s &&
        record.has_max_bytes_per_s == j->has_max_bytes_per_s &&
        record.max_replica_lag_bytes == j->max_replica_lag_bytes &&
        record.has_max_replica_lag_bytes == j->has_max_replica_lag_bytes)
        return 0;
    if (sp_job_is_terminal((int)j->state))
        return sp_error_set(err, SP_E_CONFLICT,
                            "job " SP_STR_FMT " is %s: there is nothing left to throttle",
                            SP_STR_ARG(m->job_id), sp_job_state_name((int)j->state));
    return put_record(c, view, &record, &txn, err);
}

static int reclaim(command_t *c, const sp_msg_catalog_job_t *j, sp_catalog_txn_t *txn,
                   sp_error_t *err)
{
    const sp_catalog_shard_view_t *source = sp_catalog_shard(c->env->catalog, j->source_shard_id);
    if (!source || source->shard->job_id.len || !source->shard->tokens.len)
        return sp_error_set(err, SP_E_CONFLICT, "shard " SP_STR_FMT " is not free any more",
                            SP_STR_ARG(j->source_shard_id));
    claim_take(txn, c->arena, source, j->id, 0);
    for (size_t i = 0; i < j->targets.n; i++) {
        const sp_msg_job_target_t *t = &j->targets.items[i];
        const sp_catalog_shard_view_t *view = sp_catalog_shard(c->env->catalog, t->shard_id);
        bool ok = t->registration ? view == NULL
                                  : view && view->shard->status == SP_SHARD_STATUS_EMPTY &&
                                        !view->shard->job_id.len &&
                                        !shard_kept_by(c->env->catalog, t->shard_id);
        if (!ok)
            return sp_error_set(err, SP_E_CONFLICT,
                                "shard " SP_STR_FMT " is not free any more: ask for a new split",
                                SP_STR_ARG(t->shard_id));
        for (size_t k = 0; t->registration && k < c->env->catalog->n_shards; k++) {
            const sp_msg_catalog_shard_t *o = c->env->catalog->shards[k].shard;
            if (identity_same_database(o, t->registration))
                return sp_error_set(err, SP_E_CONFLICT,
                                    "the database of shard " SP_STR_FMT
                                    " is registered as shard " SP_STR_FMT " now",
                                    SP_STR_ARG(t->shard_id), SP_STR_ARG(o->id));
        }
        if (t->registration) {
            sp_msg_catalog_shard_t record = *t->registration;
            claim_new(txn, c->arena, &record, j->id);
        } else {
            claim_take(txn, c->arena, view, j->id, SP_SHARD_STATUS_IMPORTING);
        }
    }
    return 0;
}

// The record of the next attempt. Only who and what stays; everything made and measured belongs to the attempt that was undone.
static bool next_attempt(const command_t *c, const sp_msg_catalog_job_t *j, const sp_job_row_t *row,
                         sp_msg_catalog_job_t *ret)
{
    sp_msg_catalog_job_t record = {.id = j->id,
                                   .kind = j->kind,
                                   .has_kind = true,
                                   .keyspace = j->keyspace,
                                   .source_shard_id = j->source_shard_id,
                                   .has_state = true,
                                   .has_attempt = true,
                                   .has_generation = true,
                                   .has_epoch = true,
                                   .created_ms = j->created_ms,
                                   .has_created_ms = true,
                                   .idempotency_key = j->idempotency_key,
                                   .max_bytes_per_s = j->max_bytes_per_s,
                                   .has_max_bytes_per_s = j->has_max_bytes_per_s,
                                   .max_replica_lag_bytes = j->max_replica_lag_bytes,
                                   .has_max_replica_lag_bytes = j->has_max_replica_lag_bytes,
                                   .body_hash = j->body_hash};
    record.state = row->to;
    record.step = sp_str(row->step);
    record.attempt = j->attempt + 1;
    record.generation = c->env->epoch.generation;
    record.epoch = c->env->epoch.epoch;
    record.targets.items = sp_arena_alloc(c->arena, j->targets.n + 1, sizeof *record.targets.items);
    record.phases.items = sp_arena_alloc(c->arena, j->phases.n + 1, sizeof *record.phases.items);
    if (!record.targets.items || !record.phases.items)
        return false;
    for (size_t i = 0; i < j->targets.n; i++) {
        const sp_msg_job_target_t *t = &j->targets.items[i];
        record.targets.items[record.targets.n++] =
            (sp_msg_job_target_t){.shard_id = t->shard_id,
                                  .origin = t->origin,
                                  .ordinal = t->ordinal,
                                  .has_ordinal = true,
                                  .registered_by_job = t->registered_by_job,
                                  .has_registered_by_job = true,
                                  .registration = t->registration};
    }
    size_t keep = j->phases.n < 150 ? j->phases.n : 150, from = j->phases.n - keep;
    memcpy(record.phases.items, j->phases.items + from, keep * sizeof *record.phases.items);
    record.phases.n = keep;
    record.phases.items[record.phases.n++] = (sp_msg_job_phase_t){.name = SP_STR("pending"),
                                                                  .started_ms = sp_clock_wall_ms(),
                                                                  .has_started_ms = true};
    *ret = record;
    return true;
}

static int retry_once(command_t *c, sp_str_t id, sp_error_t *err)
{
    const sp_catalog_job_view_t *view = need_job(c, id, err);
    if (!view)
        return SP_E_NOT_FOUND;
    const sp_msg_catalog_job_t *j = view->job;
    const sp_job_row_t *row = NULL;
    int rc = sp_job_next((int)j->state, job_mode(j), SP_JOB_EV_RETRY, &row, err);
    if (rc != 0)
        return sp_error_prefix(err, "job " SP_STR_FMT, SP_STR_ARG(id));
    sp_catalog_txn_t *txn = env_txn(c->env);
    if (!txn)
        return command_no_memory(err);
    rc = reclaim(c, j, txn, err);
    if (rc != 0) {
        sp_catalog_txn_destroy(&txn);
        return rc;
    }
    sp_msg_catalog_job_t record;
    if (!next_attempt(c, j, row, &record)) {
        sp_catalog_txn_destroy(&txn);
        return command_no_memory(err);
    }
    return put_record(c, view, &record, &txn, err);
}

// The job's actor writes its record too: a conflict means to read again.
#define AGAINST_RIVALS(c, call, err)                                                               \
    int rc = SP_E_CONFLICT;                                                                        \
    for (int i = 0; i < CAS_TRIES; i++) {                                                          \
        int64_t before = (c)->env->catalog->revision;                                              \
        sp_error_clear(err);                                                                       \
        rc = (call);                                                                               \
        if (rc != SP_E_CONFLICT || env_load((c)->env, NULL) != 0 ||                                \
            (c)->env->catalog->revision == before)                                                 \
            break;                                                                                 \
    }

int command_job_cancel(command_t *c, const void *body, sp_error_t *err)
{
    const sp_msg_job_cancel_t *m = body;
    AGAINST_RIVALS(c, cancel_once(c, m->job_id, err), err)
    return rc == 0 ? command_reply_job(c, m->job_id, err) : rc;
}

int command_job_finalize(command_t *c, const void *body, sp_error_t *err)
{
    const sp_msg_job_finalize_t *m = body;
    AGAINST_RIVALS(c, finalize_once(c, m, err), err)
    return rc == 0 ? command_reply_job(c, m->job_id, err) : rc;
}

int command_job_throttle(command_t *c, const void *body, sp_error_t *err)
{
    const sp_msg_job_throttle_t *m = body;
    if (!m->has_max_bytes_per_s && !m->has_max_replica_lag_bytes)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "max_bytes_per_s or max_replica_lag_bytes is needed");
    int bad = command_check_limits(m, err);
    if (bad != 0)
        return bad;
    AGAINST_RIVALS(c, throttle_once(c, m, err), err)
    return rc == 0 ? command_reply_job(c, m->job_id, err) : rc;
}

int command_job_retry(command_t *c, const void *body, sp_error_t *err)
{
    const sp_msg_job_retry_t *m = body;
    AGAINST_RIVALS(c, retry_once(c, m->job_id, err), err)
    return rc == 0 ? command_reply_job(c, m->job_id, err) : rc;
}
