// Readmit: asked of PostgreSQL after the catalog was loaded, so that what the primary has by then includes the flip.
#include "services/manager/readmit.h"

#include <string.h>

#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "services/manager/command.h"
#include "services/manager/sql/manager.h"

// Where the primary stands, and what it says of the keyspace. Fails on a standby.
static int ask_primary(env_t *env, const sp_msg_catalog_shard_t *shard, sp_arena_t *arena,
                       const char *ret_state[2], sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    PGresult *r = NULL;
    const char *params[] = {sp_arena_cstr(arena, shard->keyspace)};
    int rc = env_pg_record(env, shard, ENV_ADMIN, &pg, err);
    if (rc == 0)
        rc = sp_pg_query(pg, SP_SQL_PRIMARY_NOW, 1, params, &r, err);
    if (rc == 0 && PQntuples(r) != 1)
        rc = sp_error_set(err, SP_E_CONFLICT, "its primary has no ownership row");
    for (int i = 0; rc == 0 && i < 2; i++)
        if (!(ret_state[i] = sp_arena_strz(arena, PQgetvalue(r, 0, i))))
            rc = command_no_memory(err);
    PQclear(r);
    return rc;
}

static bool caught_up(env_t *env, const sp_msg_catalog_shard_t *shard, size_t replica,
                      const char *const primary[2], sp_arena_t *arena, sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    char out[8] = "";
    bool null = false;
    const char *params[] = {sp_arena_cstr(arena, shard->keyspace), primary[0], primary[1]};
    int rc = env_pg_replica(env, shard, replica, &pg, err);
    if (rc == 0)
        rc = sp_pg_value(pg, SP_SQL_REPLICA_HAS, 3, params, out, sizeof out, &null, err);
    sp_pg_close(&pg);
    return rc == 0 && strcmp(out, "true") == 0;
}

static int look_at(env_t *env, const sp_catalog_shard_view_t *view, sp_arena_t *arena,
                   sp_error_t *err)
{
    sp_msg_catalog_shard_t record = *view->shard;
    const char *primary[2];
    size_t n = 0;
    int64_t *left = sp_arena_alloc(arena, record.ineligible_replicas.n + 1, sizeof *left);
    if (!left)
        return command_no_memory(err);
    int rc = ask_primary(env, view->shard, arena, primary, err);
    for (size_t i = 0; rc == 0 && i < record.ineligible_replicas.n; i++) {
        int64_t k = record.ineligible_replicas.items[i];
        sp_error_t why = {0};
        bool known = k >= 0 && (size_t)k < record.replicas.n;
        if (!known || caught_up(env, view->shard, (size_t)k, primary, arena, &why))
            continue;
        sp_log(SP_LOG_INFO, "REPLICA-BEHIND", "shard",
               sp_log_fmt(SP_STR_FMT, SP_STR_ARG(record.id)), "replica",
               sp_log_fmt("%lld", (long long)k), "reason", why.text[0] ? why.text : NULL, NULL);
        left[n++] = k;
    }
    if (rc != 0 || n == record.ineligible_replicas.n)
        return rc;
    size_t back = record.ineligible_replicas.n - n;
    record.ineligible_replicas.items = left;
    record.ineligible_replicas.n = n;
    sp_catalog_txn_t *txn = env_txn(env);
    if (!txn)
        return command_no_memory(err);
    put_shard(txn, arena, &record, view->rev.mod_revision);
    rc = sp_catalog_txn_commit(txn, env->store, NULL, err);
    sp_catalog_txn_destroy(&txn);
    if (rc == 0)
        sp_log(SP_LOG_INFO, "REPLICAS-READMITTED", "shard",
               sp_log_fmt(SP_STR_FMT, SP_STR_ARG(record.id)), "replicas", sp_log_fmt("%zu", back),
               NULL);
    return rc;
}

void readmit_replicas(env_t *env)
{
    sp_error_t err = {0};
    sp_arena_t *arena = sp_arena_new(0);
    int rc = arena ? sp_failpoint("readmit", &err) : SP_E_OUT_OF_MEMORY;
    if (rc == 0)
        rc = env_load(env, &err);
    for (size_t i = 0; rc == 0 && i < env->catalog->n_shards && !env_stopped(env); i++) {
        const sp_catalog_shard_view_t *view = &env->catalog->shards[i];
        if (view->shard->ineligible_replicas.n == 0 || view->shard->job_id.len)
            continue;
        sp_error_clear(&err);
        if (look_at(env, view, arena, &err) != 0)
            sp_log(SP_LOG_WARN, "REPLICAS-NOT-LOOKED-AT", "shard",
                   sp_log_fmt(SP_STR_FMT, SP_STR_ARG(view->shard->id)), "reason", err.text, NULL);
    }
    sp_arena_destroy(&arena);
}
