// Identity: probing, refusing, sealing; the apply role where none was told.
#include "services/manager/identity.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "services/manager/sql/manager.h"

static void copy_value(char *out, size_t size, const PGresult *r, int column)
{
    snprintf(out, size, "%s", PQgetvalue(r, 0, column));
}

static int read_identity(sp_pg_t *pg, identity_t *id, sp_error_t *err)
{
    PGresult *r = NULL;
    int rc = sp_pg_query(pg, SP_SQL_IDENTITY, 0, NULL, &r, err);
    if (rc != 0)
        return rc;
    if (PQntuples(r) != 1 || PQnfields(r) != 6) {
        PQclear(r);
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "the server does not answer like PostgreSQL");
    }
    copy_value(id->system_identifier, sizeof id->system_identifier, r, 0);
    copy_value(id->database, sizeof id->database, r, 1);
    copy_value(id->user, sizeof id->user, r, 2);
    id->in_recovery = PQgetvalue(r, 0, 3)[0] == 't';
    id->replication = PQgetvalue(r, 0, 4)[0] == 't';
    id->version = (int)strtoll(PQgetvalue(r, 0, 5), NULL, 10);
    PQclear(r);
    return 0;
}

int identity_probe(env_t *env, const char *what, sp_str_t dsn_text, sp_arena_t *arena,
                   sp_dsn_t *ret_dsn, identity_t *ret_identity, sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    sp_pg_options_t options = {.application_name = env->application_name,
                               .connect_timeout_ms = 5000,
                               .query_timeout_ms = 5000,
                               .stopped = env_stopped,
                               .stopped_arg = env};
    int rc = sp_dsn_parse(dsn_text, arena, ret_dsn, err);
    if (rc == 0)
        rc = sp_pg_open(&pg, ret_dsn, &options, err);
    if (rc == 0)
        rc = read_identity(pg, ret_identity, err);
    sp_pg_close(&pg);
    if (rc == 0 && ret_identity->version < 150000)
        rc = sp_error_set(err, SP_E_INVALID_ARGUMENT,
                          "PostgreSQL 15 or newer is needed, this is %d.%d",
                          ret_identity->version / 10000, ret_identity->version % 10000);
    if (rc != 0)
        sp_error_prefix(err, "%s", what);
    return rc;
}

static int seal_dsn(env_t *env, const sp_dsn_t *dsn, sp_arena_t *arena, sp_str_t *ret,
                    sp_error_t *err)
{
    return sp_seal_encrypt(env->settings->seal, sp_str(sp_dsn_uri(dsn, arena)), arena, ret, err);
}

static sp_msg_endpoint_t endpoint_info(const sp_dsn_t *dsn)
{
    return (sp_msg_endpoint_t){.host = sp_str(dsn->host),
                               .port = dsn->port,
                               .has_port = true,
                               .database = sp_str(dsn->database),
                               .user = sp_str(dsn->user)};
}

static int same_database(const char *what, const identity_t *admin, const identity_t *other,
                         sp_error_t *err)
{
    if (strcmp(admin->system_identifier, other->system_identifier) != 0)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "%s is another PostgreSQL cluster than the primary (system identifier "
                            "%s, not %s)",
                            what, other->system_identifier, admin->system_identifier);
    if (strcmp(admin->database, other->database) != 0)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "%s is database %s, the primary's is %s",
                            what, other->database, admin->database);
    return 0;
}

static int check_replicas(env_t *env, const sp_msg_shard_create_t *request, const identity_t *admin,
                          sp_arena_t *arena, sp_msg_catalog_shard_t *record, sp_error_t *err)
{
    size_t n = request->replicas.n;
    record->replicas.items = sp_arena_alloc(arena, n + 1, sizeof *record->replicas.items);
    record->replica_infos.items = sp_arena_alloc(arena, n + 1, sizeof *record->replica_infos.items);
    if (!record->replicas.items || !record->replica_infos.items)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "replicas");
    for (size_t i = 0; i < n; i++) {
        char what[32];
        snprintf(what, sizeof what, "replicas[%zu]", i);
        sp_dsn_t dsn;
        identity_t id = {0};
        int rc = identity_probe(env, what, request->replicas.items[i], arena, &dsn, &id, err);
        if (rc == 0)
            rc = same_database(what, admin, &id, err);
        if (rc == 0 && !id.in_recovery)
            rc = sp_error_set(err, SP_E_INVALID_ARGUMENT,
                              "%s is not a replica: it is not in recovery", what);
        if (rc == 0)
            rc = seal_dsn(env, &dsn, arena, &record->replicas.items[i], err);
        if (rc != 0)
            return rc;
        record->replica_infos.items[i] = endpoint_info(&dsn);
    }
    record->replicas.n = record->replica_infos.n = n;
    return 0;
}

bool identity_same_database(const sp_msg_catalog_shard_t *a, const sp_msg_catalog_shard_t *b)
{
    return sp_str_eq(a->system_identifier, b->system_identifier) &&
           sp_str_eq(a->database, b->database);
}

static int check_unique(env_t *env, const sp_msg_catalog_shard_t *record, sp_error_t *err)
{
    for (size_t i = 0; i < env->catalog->n_shards; i++) {
        const sp_msg_catalog_shard_t *other = env->catalog->shards[i].shard;
        if (!sp_str_eq(other->id, record->id) && identity_same_database(other, record))
            return sp_error_set(err, SP_E_ALREADY_EXISTS,
                                "this database is registered already as shard " SP_STR_FMT,
                                SP_STR_ARG(other->id));
    }
    return 0;
}

// The guards let this role pass, so it must be nobody else's.
static int check_apply(env_t *env, sp_str_t endpoint, const identity_t *id, const identity_t *app,
                       sp_arena_t *arena, sp_msg_catalog_shard_t *record, sp_error_t *err)
{
    sp_dsn_t dsn;
    identity_t own = {0};
    int rc = identity_probe(env, "apply_endpoint", endpoint, arena, &dsn, &own, err);
    if (rc == 0)
        rc = same_database("apply_endpoint", id, &own, err);
    if (rc == 0 && !own.replication)
        rc = sp_error_set(err, SP_E_INVALID_ARGUMENT, "apply_endpoint: role %s lacks REPLICATION",
                          own.user);
    if (rc == 0 && (strcmp(own.user, app->user) == 0 || strcmp(own.user, id->user) == 0))
        rc = sp_error_set(err, SP_E_INVALID_ARGUMENT,
                          "apply_endpoint: role %s is also used by another endpoint; guards exempt "
                          "the apply role, so it must be its own",
                          own.user);
    if (rc == 0)
        rc = seal_dsn(env, &dsn, arena, &record->apply, err);
    record->apply_role = sp_str(sp_arena_strz(arena, own.user));
    return rc;
}

int identity_check(env_t *env, const sp_msg_shard_create_t *request, sp_arena_t *arena,
                   sp_msg_catalog_shard_t *ret_record, sp_error_t *err)
{
    sp_msg_catalog_shard_t r = {.id = sp_arena_str(arena, request->name),
                                .keyspace = sp_arena_str(arena, request->keyspace)};
    if (!sp_str_valid_name(request->name))
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "name: lower-case letters, digits, - and _, first a letter or digit");
    sp_str_t admin_text =
        request->admin_endpoint.len ? request->admin_endpoint : request->primary_endpoint;
    sp_dsn_t primary, admin;
    identity_t id = {0}, app = {0};
    int rc =
        identity_probe(env, request->admin_endpoint.len ? "admin_endpoint" : "primary_endpoint",
                       admin_text, arena, &admin, &id, err);
    if (rc == 0 && id.in_recovery)
        rc = sp_error_set(err, SP_E_INVALID_ARGUMENT,
                          "primary_endpoint is a replica: it is in recovery; give the primary");
    if (rc == 0)
        rc = identity_probe(env, "primary_endpoint", request->primary_endpoint, arena, &primary,
                            &app, err);
    if (rc == 0)
        rc = same_database(request->admin_endpoint.len ? "primary_endpoint" : "admin_endpoint", &id,
                           &app, err);
    if (rc == 0) {
        r.system_identifier = sp_str(sp_arena_strz(arena, id.system_identifier));
        r.database = sp_str(sp_arena_strz(arena, id.database));
        rc = check_unique(env, &r, err);
    }
    if (rc == 0 && request->apply_endpoint.len)
        rc = check_apply(env, request->apply_endpoint, &id, &app, arena, &r, err);
    if (rc == 0)
        rc = check_replicas(env, request, &id, arena, &r, err);
    if (rc == 0)
        rc = seal_dsn(env, &primary, arena, &r.primary, err);
    if (rc == 0)
        rc = seal_dsn(env, &admin, arena, &r.admin, err);
    if (rc != 0)
        return rc;
    r.primary_info = sp_arena_alloc(arena, 1, sizeof *r.primary_info);
    if (!r.primary_info)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "shard");
    *r.primary_info = endpoint_info(&primary);
    r.primary_info->user = sp_str(sp_arena_strz(arena, app.user)); // a pooler may log in as another
    r.vnode_count = request->vnode_count;
    r.has_vnode_count = true;
    r.created_ms = sp_clock_wall_ms();
    r.has_created_ms = true;
    *ret_record = r;
    return 0;
}

// ---- the apply role

static bool lends(const sp_msg_catalog_shard_t *other, const sp_msg_catalog_shard_t *record)
{
    return !sp_str_eq(other->id, record->id) &&
           sp_str_eq(other->system_identifier, record->system_identifier) && other->apply.len;
}

// A shard of the same cluster that has an apply role: roles belong to clusters, so its password serves here too, and a new one would
// lock that shard's tasks out.
static const sp_msg_catalog_shard_t *neighbour(const env_t *env,
                                               const sp_msg_catalog_shard_t *record,
                                               const sp_msg_job_target_t *targets, size_t n_targets)
{
    for (size_t i = 0; i < env->catalog->n_shards; i++)
        if (lends(env->catalog->shards[i].shard, record))
            return env->catalog->shards[i].shard;
    for (size_t i = 0; i < n_targets; i++)
        if (targets[i].registration && lends(targets[i].registration, record))
            return targets[i].registration;
    return NULL;
}

static int open_sealed(env_t *env, sp_str_t sealed, sp_arena_t *arena, sp_dsn_t *ret_dsn,
                       sp_error_t *err)
{
    sp_str_t clear;
    int rc = sp_seal_decrypt(env->settings->seal, sealed, arena, &clear, err);
    return rc == 0 ? sp_dsn_parse(clear, arena, ret_dsn, err) : rc;
}

// The server logs statements that fail or are slow, with their parameters, and an admin role that is no superuser cannot stop it from
// that: the password itself is never sent.
static int make_apply_role(env_t *env, sp_pg_t *pg, const char *password, sp_arena_t *arena,
                           sp_error_t *err)
{
    char *verifier =
        PQencryptPasswordConn(sp_pg_conn(pg), password, "shardplane_apply", "scram-sha-256");
    // Roles belong to servers, which installations may share.
    const char *mark = sp_arena_printf(arena, "made by Shardplane " SP_STR_FMT,
                                       SP_STR_ARG(env->catalog->generation.cluster_id));
    const char *params[] = {verifier, mark};
    PGresult *r = NULL;
    sp_pg_exec(pg, SP_SQL_QUIET, NULL);
    int rc = verifier && mark ? sp_pg_query(pg, SP_SQL_APPLY_ROLE_SECRET, 2, params, &r, err)
                              : sp_error_set(err, SP_E_OUT_OF_MEMORY, "apply role");
    PQclear(r);
    PQfreemem(verifier);
    return rc == 0 ? sp_pg_exec(pg, SP_SQL_APPLY_ROLE_MAKE, err) : rc;
}

int identity_provision(env_t *env, sp_msg_catalog_shard_t *record,
                       const sp_msg_job_target_t *targets, size_t n_targets, sp_arena_t *arena,
                       sp_error_t *err)
{
    if (record->apply.len)
        return 0;
    sp_dsn_t dsn;
    int rc = open_sealed(env, record->admin, arena, &dsn, err);
    if (rc != 0)
        return rc;
    sp_pg_t *pg = NULL;
    rc = env_pg_record(env, record, ENV_ADMIN, &pg, err);
    if (rc != 0)
        return rc;
    const sp_msg_catalog_shard_t *other = neighbour(env, record, targets, n_targets);
    char password[SP_SEAL_DERIVED];
    // Two registrations in one cluster at the same moment, or one that was cut off and comes again, must not lock each other out.
    const char *context = sp_arena_printf(arena, "role shardplane_apply of cluster " SP_STR_FMT,
                                          SP_STR_ARG(record->system_identifier));
    if (!context)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "shard");
    sp_seal_derive(env->settings->seal, sp_str(context), password);
    if (other) {
        sp_dsn_t theirs;
        rc = open_sealed(env, other->apply, arena, &theirs, err);
        if (rc != 0)
            return rc;
        dsn.user = theirs.user;
        dsn.password = theirs.password;
    } else {
        rc = make_apply_role(env, pg, password, arena, err);
        if (rc != 0)
            return sp_error_prefix(err,
                                   "shard " SP_STR_FMT ": the admin role cannot make role "
                                   "shardplane_apply; give apply_endpoint",
                                   SP_STR_ARG(record->id));
        dsn.user = "shardplane_apply";
        dsn.password = sp_arena_strz(arena, password);
    }
    const char *params[] = {dsn.user};
    PGresult *r = NULL;
    rc = sp_pg_query(pg, SP_SQL_APPLY_ROLE_GRANT_PREPARE, 1, params, &r, err);
    PQclear(r);
    if (rc == 0)
        rc = sp_pg_exec(pg, SP_SQL_APPLY_ROLE_GRANT, err);
    if (rc == 0)
        rc = seal_dsn(env, &dsn, arena, &record->apply, err);
    if (rc != 0)
        return sp_error_prefix(err, "shard " SP_STR_FMT ": role %s", SP_STR_ARG(record->id),
                               dsn.user);
    record->apply_role = sp_str(sp_arena_strz(arena, dsn.user));
    sp_log(SP_LOG_INFO, "SHARD-APPLY-ROLE", "shard", sp_log_fmt(SP_STR_FMT, SP_STR_ARG(record->id)),
           "role", dsn.user, NULL);
    return 0;
}
