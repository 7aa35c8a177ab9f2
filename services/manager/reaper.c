// Reaper: PostgreSQL is listed first and etcd second, so that what a job has just made is never older than what etcd says of it.
#include "services/manager/reaper.h"

#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/job/job_fsm.h"
#include "services/manager/readmit.h"
#include "services/manager/sql/manager.h"

enum { JOB_ID = 12 };

int reaper_list(sp_pg_t *pg, sp_arena_t *arena, leftover_t **ret_items, size_t *ret_n,
                sp_error_t *err)
{
    PGresult *r = NULL;
    int rc = sp_pg_query(pg, SP_SQL_LEFTOVERS, 0, NULL, &r, err);
    if (rc != 0)
        return rc;
    size_t n = 0;
    leftover_t *items = sp_arena_alloc(arena, (size_t)PQntuples(r) + 1, sizeof *items);
    for (int i = 0; items && i < PQntuples(r); i++) {
        const char *name = PQgetvalue(r, i, 1);
        if (strlen(name) < 4 + JOB_ID || strlen(name) >= sizeof items->name)
            continue;
        snprintf(items[n].kind, sizeof items[n].kind, "%s", PQgetvalue(r, i, 0));
        snprintf(items[n].name, sizeof items[n].name, "%s", name);
        snprintf(items[n].job_id, sizeof items[n].job_id, "%.*s", JOB_ID, name + 4);
        n++;
    }
    PQclear(r);
    *ret_items = items;
    *ret_n = items ? n : 0;
    return items ? 0 : sp_error_set(err, SP_E_OUT_OF_MEMORY, "reaper");
}

// Slots and publications are this database's, and so of this cluster. Origins are the whole server's, where another installation may
// have databases too: only a job that we know has made ours.
bool reaper_keeps(const sp_catalog_t *catalog, const leftover_t *item)
{
    const sp_catalog_job_view_t *view = sp_catalog_job(catalog, sp_str(item->job_id));
    if (!view)
        return strcmp(item->kind, "origin") == 0;
    return sp_job_is_live((int)view->job->state) || view->job->state == SP_JOB_STATE_COMPLETED;
}

static void reap(env_t *env, const sp_msg_catalog_shard_t *shard, const leftover_t *item)
{
    sp_pg_t *pg = NULL;
    sp_error_t err = {0};
    const char *params[] = {item->name};
    int rc = env_pg_record(env, shard, ENV_ADMIN, &pg, &err);
    if (rc == 0 && strcmp(item->kind, "slot") == 0)
        rc = env_step(env, pg, SP_SQL_DROP_SLOT, 1, params, &err);
    else if (rc == 0 && strcmp(item->kind, "origin") == 0)
        rc = env_step(env, pg, "SELECT pg_replication_origin_drop($1)", 1, params, &err);
    else if (rc == 0) {
        char sql[160]; // such a name needs no quoting, but for what others may have called so
        char *name = PQescapeIdentifier(sp_pg_conn(pg), item->name, strlen(item->name));
        snprintf(sql, sizeof sql, "DROP PUBLICATION IF EXISTS %s", name ? name : "\"\"");
        PQfreemem(name);
        rc = env_step(env, pg, sql, 0, NULL, &err);
    }
    sp_log(rc == 0 ? SP_LOG_WARN : SP_LOG_ERROR, rc == 0 ? "REAPER-REMOVED" : "REAPER-LEFT",
           "shard", sp_log_fmt(SP_STR_FMT, SP_STR_ARG(shard->id)), "kind", item->kind, "name",
           item->name, "reason", rc == 0 ? NULL : err.text, NULL);
}

// A database may hold another cluster's objects too: only what our own jobs have named is ours. A job that etcd does not know, on a
// shard whose control row is this cluster's, was made by this cluster.
static bool ours(sp_pg_t *pg, const env_t *env)
{
    char out[64] = "", cluster[64];
    bool null = false;
    sp_error_t err = {0};
    snprintf(cluster, sizeof cluster, SP_STR_FMT, SP_STR_ARG(env->catalog->generation.cluster_id));
    if (sp_pg_value(pg, "SELECT cluster_id FROM shardplane.control WHERE generation <= $1::bigint",
                    1, (const char *[]){sp_log_fmt("%lld", (long long)env->epoch.generation)}, out,
                    sizeof out, &null, &err) != 0)
        return false;
    return !null && strcmp(out, cluster) == 0;
}

typedef struct found {
    sp_str_t shard;    // id, from the arena
    leftover_t *items; // on it
    size_t n;          // count
} found_t;

static void sweep(env_t *env)
{
    sp_error_t err = {0};
    sp_arena_t *arena = sp_arena_new(0);
    if (!arena || env_load(env, &err) != 0) {
        sp_arena_destroy(&arena);
        return;
    }
    size_t n = 0;
    found_t *found = sp_arena_alloc(arena, env->catalog->n_shards + 1, sizeof *found);
    for (size_t i = 0; found && i < env->catalog->n_shards && !env_stopped(env); i++) {
        const sp_msg_catalog_shard_t *s = env->catalog->shards[i].shard;
        sp_pg_t *pg = NULL;
        found_t f = {.shard = sp_arena_str(arena, s->id)};
        sp_error_clear(&err);
        if (env_pg_record(env, s, ENV_ADMIN, &pg, &err) == 0 &&
            reaper_list(pg, arena, &f.items, &f.n, &err) == 0 && f.n > 0 && ours(pg, env))
            found[n++] = f;
    }
    // Loaded for each: a job that failed may be tried again, under the names that it had.
    for (size_t i = 0; found && i < n; i++)
        for (size_t k = 0; k < found[i].n && !env_stopped(env); k++) {
            const sp_catalog_shard_view_t *view =
                env_load(env, &err) == 0 ? sp_catalog_shard(env->catalog, found[i].shard) : NULL;
            if (view && !reaper_keeps(env->catalog, &found[i].items[k]))
                reap(env, view->shard, &found[i].items[k]);
        }
    sp_arena_destroy(&arena);
}

void reaper_actor(sp_actor_end_t *end, void *arg)
{
    env_t env;
    sp_error_t err = {0};
    if (env_open(&env, arg, end, &err) != 0) {
        sp_log(SP_LOG_ERROR, "REAPER", "reason", err.text, NULL);
        return;
    }
    env.query_timeout_ms = 10000;
    while (!env_stopped(&env)) {
        sweep(&env);
        readmit_replicas(&env);
        env_forget_strangers(&env);
        env_sleep(&env, env.settings->sweep_s * 1000);
    }
    env_close(&env);
}
