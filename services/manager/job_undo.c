// Undo: everything that the record or the targets say was made, or may have been made, is removed, before the flip only. Runs for cancel and for
// failure, and may be run again at any point.
#include <stdio.h>
#include <string.h>

#include "common/base/log.h"
#include "services/manager/command.h"
#include "services/manager/claim.h"
#include "services/manager/job_work.h"
#include "services/manager/registration.h"
#include "services/manager/sql/manager.h"

static bool has_kind(const job_t *job, const char *kind)
{
    size_t len = strlen(kind);
    for (size_t i = 0; i < job->rec->objects.n; i++)
        if (job->rec->objects.items[i].len > len &&
            memcmp(job->rec->objects.items[i].ptr, kind, len) == 0 &&
            job->rec->objects.items[i].ptr[len] == ':')
            return true;
    return false;
}

// ---- source

// First of all, so that a sealed source refuses no longer than it must, whatever keeps the rest from being undone.
static int give_back(job_t *job, sp_error_t *err)
{
    job_tasks_ask_stop(job);
    int rc = job->given_back ? 0 : job_take_shard(job, job->rec->source_shard_id, err);
    if (rc == 0 && !job->given_back && has_kind(job, "guards"))
        rc = job_unseal_source(job, err);
    job->given_back = rc == 0;
    job_tasks_end_all(job); // ends what is left of them on the targets too, which may take its time
    return rc;
}

static int step_source(job_t *job, sp_error_t *err)
{
    int rc = 0;
    if (has_kind(job, "slot"))
        rc = job_on_shard(job, job->rec->source_shard_id, SP_SQL_DROP_SLOTS, err);
    if (rc == 0 && has_kind(job, "publication"))
        rc = job_drop_publication(job, err);
    if (rc == 0 && has_kind(job, "identity"))
        rc = job_restore_identities(job, err);
    if (rc == 0 && has_kind(job, "guards"))
        rc = job_on_shard(job, job->rec->source_shard_id, SP_SQL_FORGET_JOB, err);
    return rc;
}

// ---- targets

// What the schema task has made here, by the list that it committed with it and that goes with it.
static int drop_objects(job_t *job, const sp_msg_job_target_t *t, sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    PGresult *made = NULL;
    const char *params[] = {job->id};
    int rc = env_pg(&job->env, t->shard_id, ENV_ADMIN, &pg, err);
    if (rc == 0)
        rc = env_begin(&job->env, pg, err);
    if (rc == 0)
        rc = sp_pg_query(pg, SP_SQL_TAKE_MADE, 1, params, &made, err);
    for (int i = 0; rc == 0 && i < PQntuples(made); i++) {
        const char *kind = PQgetvalue(made, i, 0), *identity = PQgetvalue(made, i, 1);
        // What holds something of others stays.
        bool container = strcmp(kind, "SCHEMA") == 0 || strcmp(kind, "EXTENSION") == 0;
        rc = sp_pg_execf(pg, err, "SAVEPOINT one; DROP %s IF EXISTS %s%s; RELEASE one", kind,
                         identity, container ? "" : " CASCADE");
        if (rc == SP_E_SQL_ERROR && container && strcmp(err->sqlstate, "2BP01") == 0) {
            sp_log(SP_LOG_WARN, "JOB-UNDO-LEFT", "job", job->id, "object", identity, "reason",
                   err->text, NULL);
            sp_error_clear(err);
            rc = sp_pg_exec(pg, "ROLLBACK TO one; RELEASE one", err);
        }
    }
    PQclear(made);
    if (rc == 0)
        rc = env_commit(pg, err);
    if (rc != 0 && pg)
        env_rollback(pg);
    return rc;
}

static bool has_table(const owner_tables_t *tables, const sp_owner_table_t *t)
{
    for (size_t i = 0; i < tables->n; i++)
        if (sp_str_eq(tables->items[i].schema, t->schema) &&
            sp_str_eq(tables->items[i].table, t->table))
            return true;
    return false;
}

// A guard's functions do not go with its table.
static int drop_functions(job_t *job, const sp_msg_job_target_t *t, const owner_tables_t *present,
                          sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    owner_tables_t all = job_owner_tables(job, job->arena);
    int rc = env_pg(&job->env, t->shard_id, ENV_ADMIN, &pg, err);
    if (rc == 0)
        rc = env_begin(&job->env, pg, err);
    for (size_t i = 0; rc == 0 && i < all.n; i++)
        if (!has_table(present, &all.items[i]))
            rc = sp_guard_drop(pg, &all.items[i], err);
    if (rc == 0)
        rc = env_commit(pg, err);
    if (rc != 0 && pg)
        env_rollback(pg);
    return rc;
}

// Tables that the user had made on an empty shard stay, without the rows that were copied into them.
static int empty_left(job_t *job, const sp_msg_job_target_t *t, sp_error_t *err)
{
    owner_tables_t present;
    const sp_catalog_shard_view_t *view = job_shard(job, t->shard_id, err);
    if (!view)
        return SP_E_CONFLICT;
    int rc = job_present_tables(job, view->shard, &present, err);
    if (rc == 0)
        rc = drop_functions(job, t, &present, err);
    if (rc != 0)
        return rc;
    sp_msg_job_table_t *left = sp_arena_alloc(job->arena, present.n + 1, sizeof *left);
    for (size_t i = 0; left && i < present.n; i++)
        left[i] = (sp_msg_job_table_t){.schema = present.items[i].schema,
                                       .table = present.items[i].table,
                                       .key_column = present.items[i].key_column};
    if (!left)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "undo");
    rc = job_empty_tables(job, t->shard_id, left, present.n, err);
    if (rc != 0)
        return rc;
    const sp_catalog_keyspace_view_t *k = sp_catalog_keyspace(job->env.catalog, job->rec->keyspace);
    return ownership_settle(&job->env, view->shard, &present, SP_ARCS_NONE,
                            k && k->ring_record ? k->ring_record->version : 0, err);
}

static int undo_target(job_t *job, const sp_msg_job_target_t *t, sp_error_t *err)
{
    if (!job_has_object(job, "installed", t->shard_id, SP_STR("shardplane")))
        return 0;
    const sp_catalog_shard_view_t *view = sp_catalog_shard(job->env.catalog, t->shard_id);
    if (!view)
        return 0;
    sp_pg_t *pg = NULL;
    bool ours = false;
    int rc = env_pg(&job->env, t->shard_id, ENV_ADMIN, &pg, err);
    if (rc == 0)
        rc = registration_is_ours(&job->env, pg, t->shard_id, &ours, NULL, err);
    // An earlier try came so far that even the installation is gone; or it was refused, because somebody else's is there.
    if (rc != 0 || !ours)
        return rc;
    rc = job_on_shard(job, t->shard_id, SP_SQL_DROP_ORIGINS, err);
    if (rc == 0)
        rc = drop_objects(job, t, err);
    if (rc == 0 && !t->registered_by_job)
        rc = empty_left(job, t, err);
    if (rc == 0 && !t->registered_by_job)
        rc = job_on_shard(job, t->shard_id, SP_SQL_FORGET_JOB, err);
    if (rc == 0 && t->registered_by_job)
        rc = registration_remove(&job->env, view->shard, err);
    return rc;
}

static int step_targets(job_t *job, sp_error_t *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < job->rec->targets.n; i++)
        rc = undo_target(job, &job->rec->targets.items[i], err);
    return rc;
}

// ---- the last transaction: state, and the shards are free or forgotten

static int put_undone(job_t *job, sp_catalog_txn_t *txn, sp_error_t *err)
{
    (void)err;
    const sp_msg_catalog_job_t *r = job->rec;
    for (size_t i = 0; i <= r->targets.n; i++) {
        sp_str_t id = i < r->targets.n ? r->targets.items[i].shard_id : r->source_shard_id;
        const sp_catalog_shard_view_t *view = claim_held(job->env.catalog, id, job->id);
        bool target = i < r->targets.n;
        if (!view)
            continue;
        if (!target || !r->targets.items[i].registered_by_job) {
            claim_release(txn, job->arena, view, target ? SP_SHARD_STATUS_EMPTY : 0);
            continue;
        }
        const char *key = key_shard(job->arena, id);
        sp_catalog_txn_expect(txn, key, view->rev.mod_revision);
        sp_catalog_txn_delete(txn, key);
    }
    return 0;
}

// Not by steps_done: each of these looks at what is there, and a failure in the middle starts from the front.
static int undo_shards(job_t *job, sp_error_t *err)
{
    int rc = give_back(job, err);
    if (rc == 0)
        rc = job_failpoint("undo_source", "before", err);
    // Before any target is asked for: the slot must not keep WAL for as long as one of them is away.
    if (rc == 0)
        rc = step_source(job, err);
    if (rc == 0)
        rc = job_take_targets(job, err);
    if (rc == 0)
        rc = job_failpoint("undo_targets", "before", err);
    return rc == 0 ? step_targets(job, err) : rc;
}

int job_undo(job_t *job, sp_error_t *err)
{
    job->undoing = true;
    int rc = job_failpoint("undo", "before", err);
    // In `pending` nothing was made yet, on shards that perhaps cannot even be reached.
    if (rc == 0 && job->rec->state != SP_JOB_STATE_PENDING)
        rc = undo_shards(job, err);
    if (rc == 0)
        rc = job_failpoint("undo", "after", err);
    if (rc == 0)
        rc = job_pump(job, 0, err);
    if (rc != 0)
        return rc;
    // A cancel that came while a failure was undone: the next round finds all undone already.
    bool cancelled = job->rec->cancel_requested && job->rec->undo_to == SP_JOB_STATE_FAILED;
    return job_transition(job, cancelled ? SP_JOB_EV_CANCEL : SP_JOB_EV_UNDONE,
                          cancelled ? NULL : put_undone, err);
}
