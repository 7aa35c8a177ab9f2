// Commands about shards: registering a database and letting it go. Intent first: the record says `registering` before anything is
// made, so a crash leaves something that the same request, or a delete, completes.
#include <string.h>

#include "common/base/clock.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/job/job_fsm.h"
#include "schemas/shard.h"
#include "services/manager/command.h"
#include "services/manager/identity.h"
#include "services/manager/registration.h"
#include "services/manager/views.h"

static int reply_shard(command_t *c, sp_str_t id, sp_error_t *err)
{
    sp_msg_shard_t *reply = sp_arena_alloc(c->arena, 1, sizeof *reply);
    const sp_catalog_shard_view_t *view = sp_catalog_shard(c->env->catalog, id);
    if (!reply || !view || !view_shard(c->env->catalog, view->shard, c->arena, reply))
        return command_no_memory(err);
    c->reply = reply;
    c->reply_schema = &sp_schema_shard;
    return 0;
}

// The record before anything is made in the database.
static int put_intent(command_t *c, sp_msg_catalog_shard_t *record, sp_error_t *err)
{
    const sp_catalog_keyspace_view_t *view = sp_catalog_keyspace(c->env->catalog, record->keyspace);
    const sp_catalog_shard_view_t *old = sp_catalog_shard(c->env->catalog, record->id);
    sp_catalog_txn_t *txn = env_txn(c->env);
    if (!txn || !view) {
        sp_catalog_txn_destroy(&txn);
        return command_no_memory(err);
    }
    sp_msg_catalog_keyspace_t keyspace = *view->keyspace;
    record->status = SP_SHARD_STATUS_REGISTERING;
    record->has_status = true;
    record->version = old ? old->shard->version : 0;
    record->ordinal = old ? old->shard->ordinal : keyspace.next_ordinal;
    record->has_ordinal = true;
    put_shard(txn, c->arena, record, old ? old->rev.mod_revision : 0);
    if (!old) {
        keyspace.next_ordinal++;
        keyspace.has_next_ordinal = true;
        sp_catalog_txn_expect(txn, key_keyspace(c->arena, record->keyspace),
                              view->rev.mod_revision);
        sp_catalog_txn_put(txn, key_keyspace(c->arena, record->keyspace),
                           &sp_schema_catalog_keyspace, &keyspace, 0);
    }
    return command_commit(c, &txn, err);
}

// The ring as it will be once the shard has its tokens.
static int ring_with(command_t *c, const sp_msg_catalog_shard_t *record, sp_str_t *ret_tokens,
                     sp_ring_t **ret_ring, sp_error_t *err)
{
    const sp_catalog_t *catalog = c->env->catalog;
    sp_ring_shard_t *shards = sp_arena_alloc(c->arena, catalog->n_shards + 1, sizeof *shards);
    int64_t *taken = NULL;
    size_t n = 0, n_taken = 0;
    if (!shards)
        return command_no_memory(err);
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < catalog->n_shards; i++) {
            const sp_msg_catalog_shard_t *s = catalog->shards[i].shard;
            if (!sp_str_eq(s->keyspace, record->keyspace) || sp_str_eq(s->id, record->id) ||
                !s->tokens.len)
                continue;
            if (pass == 0) {
                int rc = sp_tokens_decode(s->tokens, c->arena, &shards[n].tokens, err);
                if (rc != 0)
                    return rc;
                shards[n].id = s->id;
                n_taken += shards[n++].tokens.n;
            }
        }
        if (pass == 0 && !(taken = sp_arena_alloc(c->arena, n_taken + 1, sizeof *taken)))
            return command_no_memory(err);
    }
    size_t at = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < shards[i].tokens.n; k++)
            taken[at++] = shards[i].tokens.items[k];
    int rc = sp_tokens_initial(record->id, (size_t)record->vnode_count,
                               (sp_tokens_t){taken, n_taken}, c->arena, &shards[n].tokens, err);
    if (rc == 0)
        rc = sp_tokens_encode(shards[n].tokens, c->arena, ret_tokens, err);
    shards[n++].id = record->id;
    return rc == 0 ? sp_ring_build(ret_ring, shards, n, err) : rc;
}

// Guards and ownership of every owner of the keyspace as `ring` says. Others first: they shrink before the new one opens.
static int settle_owners(command_t *c, const sp_msg_catalog_shard_t *record, const sp_ring_t *ring,
                         int64_t version, bool with_self, sp_error_t *err)
{
    const sp_catalog_keyspace_view_t *view = sp_catalog_keyspace(c->env->catalog, record->keyspace);
    owner_tables_t tables;
    if (!view || !ownership_tables(view->keyspace, c->arena, &tables))
        return command_no_memory(err);
    for (int pass = 0; pass < (with_self ? 2 : 1); pass++) {
        for (size_t i = 0; i < c->env->catalog->n_shards; i++) {
            const sp_msg_catalog_shard_t *s = c->env->catalog->shards[i].shard;
            bool self = sp_str_eq(s->id, record->id);
            int at = ring ? sp_ring_find(ring, s->id) : -1;
            if (!sp_str_eq(s->keyspace, record->keyspace) || self != (pass == 1) || at < 0)
                continue;
            sp_arcs_t arcs;
            int rc = sp_ring_bounds(ring, at, c->arena, &arcs, err);
            if (rc == 0)
                rc = ownership_settle(c->env, s, &tables, arcs, version, err);
            if (rc != 0)
                return rc;
        }
    }
    return 0;
}

// An owner has every registered table, and all that is in it.
static int require_tables(command_t *c, const sp_msg_catalog_shard_t *record,
                          const sp_msg_catalog_keyspace_t *keyspace, sp_error_t *err)
{
    owner_tables_t tables, present;
    sp_pg_t *pg = NULL;
    int rc = ownership_tables(keyspace, c->arena, &tables)
                 ? env_pg_record(c->env, record, ENV_ADMIN, &pg, err)
                 : command_no_memory(err);
    if (rc == 0)
        rc = registration_present(pg, &tables, c->arena, &present, err);
    // shardplane.requests is made by the installation that follows.
    if (rc == 0 && present.n + 1 < tables.n)
        rc = sp_error_set(err, SP_E_PREFLIGHT_FAILED,
                          "the shard would own keys, but not all registered tables of "
                          "keyspace " SP_STR_FMT " exist in it",
                          SP_STR_ARG(keyspace->name));
    return rc;
}

static int finish(command_t *c, sp_str_t id, sp_error_t *err)
{
    const sp_catalog_shard_view_t *self = sp_catalog_shard(c->env->catalog, id);
    const sp_catalog_keyspace_view_t *view =
        self ? sp_catalog_keyspace(c->env->catalog, self->shard->keyspace) : NULL;
    if (!view)
        return sp_error_set(err, SP_E_CONFLICT, "the shard's record is gone");
    bool owners = view->ring && sp_ring_tokens_n(view->ring) > 0;
    bool joins = !owners || !keyspace_has_sharded(view->keyspace);
    sp_ring_t *ring = NULL;
    sp_msg_catalog_shard_t record = *self->shard;
    int64_t version = view->ring_record ? view->ring_record->version : 0;
    int rc = 0;
    const sp_msg_catalog_job_t *job = keyspace_busy_with(c->env->catalog, view->keyspace->name);
    if (joins && owners && job) {
        rc = sp_error_set(err, SP_E_CONFLICT,
                          "job " SP_STR_FMT " is changing keyspace " SP_STR_FMT
                          "; register the shard when that has ended",
                          SP_STR_ARG(job->id), SP_STR_ARG(view->keyspace->name));
        err->retryable = job->state == SP_JOB_STATE_COMPLETED; // a matter of seconds
    }
    if (rc == 0 && joins)
        rc = require_tables(c, &record, view->keyspace, err);
    if (rc == 0 && !joins)
        rc = registration_close(c->env, &record, view->keyspace, c->arena, err);
    if (rc == 0 && joins) {
        sp_pg_t *pg = NULL;
        sp_owner_shard_t owner = env_owner(c->env, &record, c->arena);
        rc = env_pg_record(c->env, &record, ENV_ADMIN, &pg, err);
        if (rc == 0)
            rc = sp_owner_install(pg, &owner, c->env->epoch, err);
        if (rc == 0)
            rc = ring_with(c, &record, &record.tokens, &ring, err);
        if (rc == 0)
            rc = settle_owners(c, &record, ring, version + 1, true, err);
    }
    sp_ring_destroy(&ring);
    if (rc == 0)
        rc = sp_failpoint("shard_installed", err);
    if (rc != 0)
        return rc;
    sp_catalog_txn_t *txn = env_txn(c->env);
    if (!txn)
        return command_no_memory(err);
    record.status = joins ? SP_SHARD_STATUS_ACTIVE : SP_SHARD_STATUS_EMPTY;
    put_shard(txn, c->arena, &record, self->rev.mod_revision);
    const char *keyspace_key = key_keyspace(c->arena, record.keyspace);
    sp_catalog_txn_expect(txn, keyspace_key, view->rev.mod_revision);
    if (joins)
        command_raise_ring(c->env, c->arena, txn, view);
    return command_commit(c, &txn, err);
}

// Takes back what a registration has made; the record goes last.
static int take_back(command_t *c, sp_str_t id, sp_error_t *err)
{
    const sp_catalog_shard_view_t *self = sp_catalog_shard(c->env->catalog, id);
    if (!self)
        return 0;
    const sp_catalog_keyspace_view_t *view =
        sp_catalog_keyspace(c->env->catalog, self->shard->keyspace);
    int rc = registration_remove(c->env, self->shard, err);
    // A registration that was to join may have shrunk the others' guards.
    if (rc == 0 && view && view->ring && self->shard->status == SP_SHARD_STATUS_REGISTERING &&
        !keyspace_has_sharded(view->keyspace))
        rc = settle_owners(c, self->shard, view->ring,
                           view->ring_record ? view->ring_record->version : 0, false, err);
    sp_catalog_txn_t *txn = rc == 0 ? env_txn(c->env) : NULL;
    if (!txn)
        return rc != 0 ? rc : command_no_memory(err);
    const char *key = key_shard(c->arena, id);
    sp_catalog_txn_expect(txn, key, self->rev.mod_revision);
    sp_catalog_txn_delete(txn, key);
    return command_commit(c, &txn, err);
}

// Before anything is made: neither a role nor the epoch of somebody else's shard is ours to set.
static int refuse_others(command_t *c, const sp_msg_catalog_shard_t *record, sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    bool ours = false, other = false;
    int rc = env_pg_record(c->env, record, ENV_ADMIN, &pg, err);
    if (rc == 0)
        rc = registration_is_ours(c->env, pg, record->id, &ours, &other, err);
    if (rc == 0 && other)
        rc = sp_error_set(err, SP_E_ALREADY_EXISTS,
                          "the database holds schema shardplane of another shard, or of another "
                          "installation of Shardplane");
    return rc;
}

int command_shard_create(command_t *c, const void *body, sp_error_t *err)
{
    const sp_msg_shard_create_t *m = body;
    sp_msg_catalog_shard_t record;
    int rc = identity_check(c->env, m, c->arena, &record, err);
    if (rc == 0)
        rc = command_need_keyspace(c, m->keyspace, err);
    if (rc != 0)
        return rc;
    const sp_catalog_shard_view_t *old = sp_catalog_shard(c->env->catalog, record.id);
    if (old && !(old->shard->status == SP_SHARD_STATUS_REGISTERING &&
                 sp_str_eq(old->shard->keyspace, record.keyspace) &&
                 identity_same_database(old->shard, &record)))
        return sp_error_set(err, SP_E_ALREADY_EXISTS, "shard " SP_STR_FMT " is registered already",
                            SP_STR_ARG(record.id));
    rc = refuse_others(c, &record, err);
    if (rc == 0)
        rc = identity_provision(c->env, &record, NULL, 0, c->arena, err);
    if (rc == 0)
        rc = put_intent(c, &record, err);
    if (rc == 0)
        rc = sp_failpoint("shard_intent", err);
    if (rc == 0)
        rc = finish(c, record.id, err);
    if (rc == SP_E_CATALOG_UNAVAILABLE || rc == SP_E_STALE_EPOCH)
        return rc; // whoever leads next finds `registering` or the finished record
    if (rc != 0) {
        sp_error_t undo = {0};
        if (env_load(c->env, &undo) != 0 || take_back(c, record.id, &undo) != 0)
            sp_log(SP_LOG_WARN, "SHARD-REGISTERING", "shard",
                   sp_log_fmt(SP_STR_FMT, SP_STR_ARG(record.id)), "reason", undo.text, NULL);
        return rc;
    }
    return reply_shard(c, record.id, err);
}

static int refuse_delete(const command_t *c, const sp_msg_catalog_shard_t *s, sp_error_t *err)
{
    if (s->tokens.len)
        return sp_error_set(err, SP_E_CONFLICT,
                            "shard " SP_STR_FMT " still owns keys; move them away first",
                            SP_STR_ARG(s->id));
    if (s->job_id.len)
        return sp_error_set(err, SP_E_CONFLICT,
                            "shard " SP_STR_FMT " takes part in job " SP_STR_FMT, SP_STR_ARG(s->id),
                            SP_STR_ARG(s->job_id));
    for (size_t i = 0; i < c->env->catalog->n_jobs; i++) {
        const sp_msg_catalog_job_t *j = c->env->catalog->jobs[i].job;
        bool part = sp_str_eq(j->source_shard_id, s->id);
        for (size_t k = 0; k < j->targets.n; k++)
            part = part || sp_str_eq(j->targets.items[k].shard_id, s->id);
        if (j->state == SP_JOB_STATE_COMPLETED && part)
            return sp_error_set(err, SP_E_CONFLICT,
                                "shard " SP_STR_FMT " has a part in job " SP_STR_FMT
                                ", which is not finalized",
                                SP_STR_ARG(s->id), SP_STR_ARG(j->id));
    }
    return 0;
}

int command_shard_delete(command_t *c, const void *body, sp_error_t *err)
{
    const sp_msg_shard_delete_t *m = body;
    const sp_catalog_shard_view_t *view = sp_catalog_shard(c->env->catalog, m->shard_id);
    if (!view)
        return sp_error_set(err, SP_E_NOT_FOUND, "shard " SP_STR_FMT " is not registered",
                            SP_STR_ARG(m->shard_id));
    int rc = refuse_delete(c, view->shard, err);
    if (rc != 0)
        return rc;
    if (view->shard->status != SP_SHARD_STATUS_DELETING &&
        view->shard->status != SP_SHARD_STATUS_REGISTERING) {
        sp_msg_catalog_shard_t record = *view->shard;
        record.status = SP_SHARD_STATUS_DELETING;
        sp_catalog_txn_t *txn = env_txn(c->env);
        if (!txn)
            return command_no_memory(err);
        put_shard(txn, c->arena, &record, view->rev.mod_revision);
        rc = command_commit(c, &txn, err);
    }
    if (rc == 0)
        rc = sp_failpoint("shard_deleting", err);
    if (rc == 0)
        rc = take_back(c, m->shard_id, err);
    return rc == 0 ? command_reply_ack(c) : rc;
}
