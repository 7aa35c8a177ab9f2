// Env: store, catalog and connections of one actor.
#include "services/manager/env.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"

int env_open(env_t *self, env_seed_t *seed, sp_actor_end_t *end, sp_error_t *err)
{
    *self = (env_t){0};
    self->settings = seed->settings;
    self->end = end;
    self->epoch.epoch = seed->epoch;
    snprintf(self->application_name, sizeof self->application_name, "shardplane/%s/manager",
             seed->name);
    free(seed);
    return sp_store_open_etcd(&self->store, &self->settings->store, err);
}

static void connection_free(env_connection_t *c)
{
    sp_pg_close(&c->pg);
    free((void *)c->sealed.ptr);
    free(c);
}

void env_close(env_t *self)
{
    while (self->connections) {
        env_connection_t *c = self->connections;
        self->connections = c->next;
        connection_free(c);
    }
    sp_catalog_unref(&self->catalog);
    sp_store_close(&self->store);
}

bool env_stopped(void *arg)
{
    const env_t *self = arg;
    return sp_actor_end_stopped(self->end) ||
           sp_member_epoch(self->settings->member) != self->epoch.epoch;
}

void env_sleep(env_t *self, int64_t ms)
{
    int64_t deadline = sp_clock_mono_ms() + ms;
    while (!env_stopped(self)) {
        int left = sp_clock_until_ms(deadline);
        if (left == 0)
            return;
        sp_clock_sleep_ms(left < 50 ? left : 50);
    }
}

int env_load(env_t *self, sp_error_t *err)
{
    sp_catalog_t *catalog = NULL;
    int rc = sp_catalog_load(self->store, &catalog, err);
    if (rc != 0)
        return rc;
    if (catalog->leader_rev.create_revision != self->epoch.epoch) {
        sp_catalog_unref(&catalog);
        return sp_error_set(err, SP_E_STALE_EPOCH, "this manager does not lead any more");
    }
    self->epoch.generation = catalog->generation.generation;
    sp_catalog_unref(&self->catalog);
    self->catalog = catalog;
    return 0;
}

sp_catalog_txn_t *env_txn(const env_t *self)
{
    return sp_catalog_txn_new(self->epoch.epoch);
}

static bool is_cut_short(void *arg)
{
    const env_t *self = arg;
    return env_stopped(arg) || (self->interrupted && self->interrupted(self->interrupted_arg));
}

static int connect_sealed(env_t *self, sp_str_t shard_id, sp_str_t sealed, sp_pg_t **ret_pg,
                          sp_error_t *err)
{
    sp_arena_t *arena = sp_arena_new(0);
    if (!arena)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "connection to shard " SP_STR_FMT,
                            SP_STR_ARG(shard_id));
    sp_str_t clear;
    sp_dsn_t dsn;
    int rc = sp_seal_decrypt(self->settings->seal, sealed, arena, &clear, err);
    if (rc == 0)
        rc = sp_dsn_parse(clear, arena, &dsn, err);
    sp_pg_options_t options = {.application_name = self->application_name,
                               .connect_timeout_ms = 5000,
                               .query_timeout_ms = self->query_timeout_ms,
                               .stopped = is_cut_short,
                               .stopped_arg = self};
    if (rc == 0)
        rc = sp_pg_open(ret_pg, &dsn, &options, err);
    // A manager that is stopped, or whose host is cut off, must not keep its locks on the application's tables.
    if (rc == 0 &&
        (rc = sp_pg_exec(*ret_pg, "SET idle_in_transaction_session_timeout = '30s'", err)) != 0)
        sp_pg_close(ret_pg);
    sp_arena_destroy(&arena);
    if (rc != 0)
        sp_error_prefix(err, "shard " SP_STR_FMT, SP_STR_ARG(shard_id));
    return rc;
}

static bool usable(sp_pg_t *pg)
{
    PGconn *conn = sp_pg_conn(pg);
    return conn && PQstatus(conn) == CONNECTION_OK && PQtransactionStatus(conn) == PQTRANS_IDLE;
}

int env_pg_record(env_t *self, const sp_msg_catalog_shard_t *shard, env_role_t role,
                  sp_pg_t **ret_pg, sp_error_t *err)
{
    sp_str_t sealed = role == ENV_APPLY  ? shard->apply
                      : shard->admin.len ? shard->admin
                                         : shard->primary;
    if (!sealed.len)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "shard " SP_STR_FMT " has no apply role yet", SP_STR_ARG(shard->id));
    for (env_connection_t **link = &self->connections; *link; link = &(*link)->next) {
        env_connection_t *c = *link;
        if (c->role != role || !sp_str_eqz(shard->id, c->shard_id))
            continue;
        if (sp_str_eq(c->sealed, sealed) && usable(c->pg)) {
            *ret_pg = c->pg;
            return 0;
        }
        *link = c->next;
        connection_free(c);
        break;
    }
    env_connection_t *c = calloc(1, sizeof *c);
    char *copy = strndup(sealed.ptr, sealed.len);
    if (!c || !copy) {
        free(c);
        free(copy);
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "connection");
    }
    int rc = connect_sealed(self, shard->id, sealed, &c->pg, err);
    if (rc != 0) {
        free(copy);
        free(c);
        return rc;
    }
    snprintf(c->shard_id, sizeof c->shard_id, SP_STR_FMT, SP_STR_ARG(shard->id));
    c->role = role;
    c->sealed = (sp_str_t){copy, sealed.len};
    c->next = self->connections;
    self->connections = c;
    *ret_pg = c->pg;
    return 0;
}

int env_pg(env_t *self, sp_str_t shard_id, env_role_t role, sp_pg_t **ret_pg, sp_error_t *err)
{
    const sp_catalog_shard_view_t *view =
        self->catalog ? sp_catalog_shard(self->catalog, shard_id) : NULL;
    if (!view)
        return sp_error_set(err, SP_E_NOT_FOUND, "shard " SP_STR_FMT " is not registered",
                            SP_STR_ARG(shard_id));
    return env_pg_record(self, view->shard, role, ret_pg, err);
}

int env_pg_replica(env_t *self, const sp_msg_catalog_shard_t *shard, size_t replica,
                   sp_pg_t **ret_pg, sp_error_t *err)
{
    return connect_sealed(self, shard->id, shard->replicas.items[replica], ret_pg, err);
}

// shard_id absent: whatever the catalog does not have.
static void forget(env_t *self, sp_str_t shard_id)
{
    for (env_connection_t **link = &self->connections; *link;) {
        env_connection_t *c = *link;
        bool goes = shard_id.ptr
                        ? sp_str_eqz(shard_id, c->shard_id)
                        : !self->catalog || !sp_catalog_shard(self->catalog, sp_str(c->shard_id));
        if (!goes) {
            link = &c->next;
            continue;
        }
        *link = c->next;
        connection_free(c);
    }
}

void env_forget(env_t *self, sp_str_t shard_id)
{
    forget(self, shard_id);
}

void env_forget_strangers(env_t *self)
{
    forget(self, (sp_str_t){0});
}

sp_owner_shard_t env_owner(const env_t *self, const sp_msg_catalog_shard_t *shard,
                           sp_arena_t *arena)
{
    return (sp_owner_shard_t){.shard_id = sp_arena_cstr(arena, shard->id),
                              .keyspace = sp_arena_cstr(arena, shard->keyspace),
                              .cluster_id =
                                  sp_arena_cstr(arena, self->catalog->generation.cluster_id),
                              .apply_role = sp_arena_cstr(arena, shard->apply_role),
                              .app_role = shard->primary_info
                                              ? sp_arena_cstr(arena, shard->primary_info->user)
                                              : NULL};
}

static int begin_holding(env_t *self, sp_pg_t *pg, sp_error_t *err)
{
    int rc = sp_pg_exec(pg, "BEGIN", err);
    if (rc == 0) {
        rc = sp_owner_hold_epoch(pg, self->epoch, err);
        if (rc != 0)
            env_rollback(pg);
    }
    return rc;
}

int env_begin(env_t *self, sp_pg_t *pg, sp_error_t *err)
{
    // Raising writes the row that copy tasks hold in share mode, so it is done only where it is needed.
    int rc = begin_holding(self, pg, err);
    if (rc != SP_E_STALE_EPOCH)
        return rc;
    sp_error_clear(err);
    rc = sp_owner_raise_epoch(pg, self->epoch, err);
    return rc == 0 ? begin_holding(self, pg, err) : rc;
}

int env_commit(sp_pg_t *pg, sp_error_t *err)
{
    return sp_pg_exec(pg, "COMMIT", err);
}

void env_rollback(sp_pg_t *pg)
{
    sp_error_t ignored = {0};
    if (PQstatus(sp_pg_conn(pg)) == CONNECTION_OK &&
        PQtransactionStatus(sp_pg_conn(pg)) != PQTRANS_IDLE)
        sp_pg_exec(pg, "ROLLBACK", &ignored);
}

int env_step(env_t *self, sp_pg_t *pg, const char *sql, int n_params, const char *const *params,
             sp_error_t *err)
{
    PGresult *result = NULL;
    int rc = env_begin(self, pg, err);
    if (rc == 0)
        rc = sp_pg_exec(pg, "SET LOCAL lock_timeout = '2s'", err);
    if (rc == 0)
        rc = sp_pg_query(pg, sql, n_params, params, &result, err);
    PQclear(result);
    if (rc == 0)
        rc = env_commit(pg, err);
    if (rc != 0)
        env_rollback(pg);
    return rc;
}

sp_msg_error_t *error_message(const sp_error_t *err, sp_arena_t *arena)
{
    sp_msg_error_t *m = sp_arena_alloc(arena, 1, sizeof *m);
    if (!m)
        return NULL;
    m->code = sp_str(sp_error_name(err->code));
    m->message = sp_str(sp_arena_strz(arena, err->text[0] ? err->text : sp_error_name(err->code)));
    m->retryable = err->retryable;
    m->has_retryable = true;
    if (err->sqlstate[0]) {
        sp_value_pair_t *pairs = sp_arena_alloc(arena, 1, sizeof *pairs);
        if (pairs) {
            pairs[0] = (sp_value_pair_t){SP_STR("sqlstate"),
                                         sp_value_str(sp_arena_strz(arena, err->sqlstate))};
            m->details = (sp_value_t){.kind = SP_VALUE_MAP, .u.map = {pairs, 1}};
        }
    }
    return m;
}

int error_from_message(const sp_msg_error_t *message, sp_error_t *err)
{
    if (!message)
        return sp_error_set(err, SP_E_INTERNAL, "no reason was given");
    char name[65];
    snprintf(name, sizeof name, SP_STR_FMT, SP_STR_ARG(message->code));
    int code = sp_error_code(name);
    sp_error_set(err, code, SP_STR_FMT, SP_STR_ARG(message->message));
    if (err && message->has_retryable)
        err->retryable = message->retryable;
    const sp_value_t *state =
        message->details.kind == SP_VALUE_MAP ? sp_value_get(&message->details, "sqlstate") : NULL;
    if (err && state && state->kind == SP_VALUE_STRING && state->u.s.len == 5)
        memcpy(err->sqlstate, state->u.s.ptr, 5);
    return code;
}
