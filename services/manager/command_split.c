// The command to split: checks the request, and makes the job's record, claims its shards and registers new ones in one transaction.
// Everything else is the job actor's.
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/digest.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "schemas/job.h"
#include "services/manager/claim.h"
#include "services/manager/command.h"
#include "services/manager/identity.h"
#include "services/manager/job_plan.h"
#include "services/manager/views.h"

// A split as asked for, checked.
typedef struct split {
    const sp_msg_reshard_split_t *request;      // request
    const sp_catalog_shard_view_t *source;      // shard to split
    const sp_catalog_keyspace_view_t *keyspace; // its keyspace
    sp_msg_catalog_shard_t *targets;            // records, in the caller's order
    bool *fresh;                                // to be registered by the job
    size_t n;                                   // count
    char hash[33];                              // of the request, secrets left out
} split_t;

// ---- the request

// Nothing where the request does not say it.
static int hash_dsn(sp_buf_t *text, const char *what, sp_str_t endpoint, sp_arena_t *arena,
                    sp_error_t *err)
{
    sp_dsn_t dsn;
    if (!endpoint.len)
        return 0;
    int rc = sp_dsn_parse(endpoint, arena, &dsn, err);
    if (rc != 0)
        return sp_error_prefix(err, "%s", what);
    sp_buf_printf(text, " %s %s", what, sp_dsn_redact(&dsn, arena));
    return 0;
}

static int hash_fresh(sp_buf_t *text, const sp_value_t *value, sp_arena_t *arena, sp_error_t *err)
{
    sp_msg_shard_create_t create;
    sp_dsn_t dsn;
    int rc = sp_wire_decode_value(&sp_schema_shard_create, value, arena, &create, err);
    if (rc == 0)
        rc = sp_dsn_parse(create.primary_endpoint, arena, &dsn, err);
    if (rc != 0)
        return rc;
    sp_buf_printf(text, SP_STR_FMT " %lld %s", SP_STR_ARG(create.name),
                  (long long)create.vnode_count, sp_dsn_redact(&dsn, arena));
    if (sp_value_get(value, "keyspace"))
        sp_buf_printf(text, " keyspace " SP_STR_FMT, SP_STR_ARG(create.keyspace));
    rc = hash_dsn(text, "admin_endpoint", create.admin_endpoint, arena, err);
    if (rc == 0)
        rc = hash_dsn(text, "apply_endpoint", create.apply_endpoint, arena, err);
    for (size_t i = 0; rc == 0 && i < create.replicas.n; i++)
        rc = hash_dsn(text, "replicas", create.replicas.items[i], arena, err);
    return rc;
}

static int hash_request(const sp_msg_reshard_split_t *m, sp_arena_t *arena, char out[33],
                        sp_error_t *err)
{
    sp_buf_t text = SP_BUF_INIT;
    sp_buf_printf(&text, SP_STR_FMT, SP_STR_ARG(m->source_shard_id));
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < m->target_shards.n; i++) {
        const sp_value_t *v = &m->target_shards.items[i];
        sp_buf_addz(&text, "\n");
        if (v->kind == SP_VALUE_STRING)
            sp_buf_adds(&text, v->u.s);
        else
            rc = hash_fresh(&text, v, arena, err);
    }
    if (m->has_max_bytes_per_s)
        sp_buf_printf(&text, "\nmax_bytes_per_s %lld", (long long)m->max_bytes_per_s);
    if (m->has_max_replica_lag_bytes)
        sp_buf_printf(&text, "\nmax_replica_lag_bytes %lld", (long long)m->max_replica_lag_bytes);
    sp_digest_hex(sp_buf_cstr(&text), text.len, out, 16);
    sp_buf_free(&text);
    return rc;
}

static int check_limits(const sp_msg_reshard_split_t *m, sp_error_t *err)
{
    sp_msg_job_throttle_t limits = {.max_bytes_per_s = m->max_bytes_per_s,
                                    .has_max_bytes_per_s = m->has_max_bytes_per_s,
                                    .max_replica_lag_bytes = m->max_replica_lag_bytes,
                                    .has_max_replica_lag_bytes = m->has_max_replica_lag_bytes};
    return command_check_limits(&limits, err);
}

static int check_source(command_t *c, split_t *s, sp_error_t *err)
{
    sp_str_t id = s->request->source_shard_id;
    s->source = sp_catalog_shard(c->env->catalog, id);
    if (!s->source)
        return sp_error_set(err, SP_E_NOT_FOUND, "shard " SP_STR_FMT " is not registered",
                            SP_STR_ARG(id));
    const sp_msg_catalog_shard_t *r = s->source->shard;
    if (r->job_id.len)
        return sp_error_set(err, SP_E_CONFLICT,
                            "shard " SP_STR_FMT " takes part in job " SP_STR_FMT, SP_STR_ARG(id),
                            SP_STR_ARG(r->job_id));
    if (r->status != SP_SHARD_STATUS_ACTIVE || !r->tokens.len)
        return sp_error_set(err, SP_E_CONFLICT,
                            "shard " SP_STR_FMT " owns nothing that could be split (%s)",
                            SP_STR_ARG(id), sp_enum_name(&sp_enum_shard_status, r->status));
    s->keyspace = sp_catalog_keyspace(c->env->catalog, r->keyspace);
    return s->keyspace ? 0 : sp_error_set(err, SP_E_CONFLICT, "the shard's keyspace is gone");
}

static int check_registered(command_t *c, split_t *s, size_t i, sp_str_t id, sp_error_t *err)
{
    const sp_catalog_shard_view_t *view = sp_catalog_shard(c->env->catalog, id);
    if (!view)
        return sp_error_set(err, SP_E_NOT_FOUND,
                            "target_shards[%zu]: shard " SP_STR_FMT " is not registered", i,
                            SP_STR_ARG(id));
    if (!sp_str_eq(view->shard->keyspace, s->source->shard->keyspace))
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "target_shards[%zu]: shard " SP_STR_FMT " is of another keyspace", i,
                            SP_STR_ARG(id));
    if (view->shard->job_id.len)
        return sp_error_set(err, SP_E_CONFLICT,
                            "target_shards[%zu]: shard " SP_STR_FMT
                            " takes part in job " SP_STR_FMT,
                            i, SP_STR_ARG(id), SP_STR_ARG(view->shard->job_id));
    if (view->shard->status != SP_SHARD_STATUS_EMPTY)
        return sp_error_set(err, SP_E_CONFLICT,
                            "target_shards[%zu]: shard " SP_STR_FMT " is not empty (%s)", i,
                            SP_STR_ARG(id),
                            sp_enum_name(&sp_enum_shard_status, view->shard->status));
    const sp_msg_catalog_job_t *keeper = shard_kept_by(c->env->catalog, id);
    if (keeper)
        return sp_error_set(err, SP_E_CONFLICT,
                            "target_shards[%zu]: shard " SP_STR_FMT
                            " is the source of job " SP_STR_FMT
                            ", which may delete rows from it until it is finalized",
                            i, SP_STR_ARG(id), SP_STR_ARG(keeper->id));
    s->targets[i] = *view->shard;
    return 0;
}

static int check_fresh(command_t *c, split_t *s, size_t i, const sp_value_t *value, sp_error_t *err)
{
    sp_msg_shard_create_t create;
    int rc = sp_wire_decode_value(&sp_schema_shard_create, value, c->arena, &create, err);
    if (rc != 0)
        return sp_error_prefix(err, "target_shards[%zu]", i);
    if (!sp_value_get(value, "keyspace"))
        create.keyspace = s->source->shard->keyspace;
    if (!sp_str_eq(create.keyspace, s->source->shard->keyspace))
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "target_shards[%zu].keyspace: not the source's", i);
    if (sp_catalog_shard(c->env->catalog, create.name))
        return sp_error_set(err, SP_E_ALREADY_EXISTS,
                            "target_shards[%zu]: shard " SP_STR_FMT
                            " is registered already; give its name as a string",
                            i, SP_STR_ARG(create.name));
    rc = identity_check(c->env, &create, c->arena, &s->targets[i], err);
    if (rc != 0)
        return sp_error_prefix(err, "target_shards[%zu]", i);
    s->fresh[i] = true;
    return 0;
}

static int check_targets(command_t *c, split_t *s, sp_error_t *err)
{
    const sp_msg_reshard_split_t *m = s->request;
    s->n = m->target_shards.n;
    s->targets = sp_arena_alloc(c->arena, s->n + 1, sizeof *s->targets);
    s->fresh = sp_arena_alloc(c->arena, s->n + 1, sizeof *s->fresh);
    if (!s->targets || !s->fresh)
        return command_no_memory(err);
    if (s->n == 0)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "target_shards: at least one");
    int64_t ordinal = s->keyspace->keyspace->next_ordinal;
    for (size_t i = 0; i < s->n; i++) {
        const sp_value_t *v = &m->target_shards.items[i];
        int rc = v->kind == SP_VALUE_STRING ? check_registered(c, s, i, v->u.s, err)
                 : v->kind == SP_VALUE_MAP
                     ? check_fresh(c, s, i, v, err)
                     : sp_error_set(err, SP_E_INVALID_ARGUMENT,
                                    "target_shards[%zu]: a shard's name, or a new shard", i);
        if (rc != 0)
            return rc;
        if (s->fresh[i]) {
            s->targets[i].ordinal = ordinal++;
            s->targets[i].has_ordinal = true;
        }
        for (size_t k = 0; k < i; k++) {
            if (sp_str_eq(s->targets[k].id, s->targets[i].id) ||
                identity_same_database(&s->targets[k], &s->targets[i]))
                return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                                    "target_shards[%zu] is the same shard as target_shards[%zu]", i,
                                    k);
        }
        if (sp_str_eq(s->targets[i].id, m->source_shard_id))
            return sp_error_set(err, SP_E_INVALID_ARGUMENT, "target_shards[%zu] is the source", i);
    }
    return 0;
}

// ---- dry run

static int reply_plan(command_t *c, const split_t *s, sp_error_t *err)
{
    job_plan_t plan;
    int rc = job_plan_make(c->env, "", s->source->shard, s->targets, s->n, c->arena, &plan, err);
    sp_msg_plan_t *reply = rc == 0 ? sp_arena_alloc(c->arena, 1, sizeof *reply) : NULL;
    if (!reply)
        return rc != 0 ? rc : command_no_memory(err);
    const preflight_report_t *r = &plan.report;
    *reply = (sp_msg_plan_t){.ok = r->ok,
                             .has_ok = true,
                             .findings = {r->findings, r->n_findings},
                             .rows = r->rows,
                             .has_rows = true,
                             .bytes = r->bytes,
                             .has_bytes = true,
                             .tables = (int64_t)r->n_tables,
                             .has_tables = true,
                             .has_copy_tasks = true,
                             .seconds = (double)r->bytes / (40.0 * 1024 * 1024),
                             .has_seconds = true};
    for (size_t i = 0; i < r->n_tables; i++)
        reply->copy_tasks += r->tables[i].ranges > 0 ? r->tables[i].ranges : 1;
    reply->moves.items =
        sp_arena_alloc(c->arena, plan.plan.moves_n + 1, sizeof *reply->moves.items);
    if (!reply->moves.items)
        return command_no_memory(err);
    for (size_t i = 0; i < plan.plan.moves_n; i++) {
        const sp_plan_move_t *move = &plan.plan.moves[i];
        reply->moves.items[reply->moves.n++] =
            (sp_msg_plan_move_t){.from = s->source->shard->id,
                                 .to = move->id,
                                 .share = move->share,
                                 .has_share = true,
                                 .arcs = (int64_t)sp_arcs_ranges(move->moves),
                                 .has_arcs = true,
                                 .bounds = {(int64_t *)move->moves.bounds, move->moves.n}};
    }
    c->reply = reply;
    c->reply_schema = &sp_schema_plan;
    return 0;
}

// ---- the record

static sp_msg_job_target_t new_target(command_t *c, const split_t *s, size_t i, sp_str_t job_id)
{
    sp_msg_catalog_shard_t *r = &s->targets[i];
    sp_msg_job_target_t t = {.shard_id = r->id,
                             .ordinal = r->ordinal,
                             .has_ordinal = true,
                             .registered_by_job = s->fresh[i],
                             .has_registered_by_job = true};
    char *origin = sp_arena_printf(c->arena, "shp_" SP_STR_FMT "_" SP_STR_FMT, SP_STR_ARG(job_id),
                                   SP_STR_ARG(r->id));
    if (origin && strlen(origin) > 63)
        origin = sp_arena_printf(c->arena, "shp_" SP_STR_FMT "_%zu", SP_STR_ARG(job_id), i);
    t.origin = sp_str(origin);
    t.registration = s->fresh[i] ? r : NULL;
    return t;
}

// What was not said is written down too: a job does not change its pace because another manager leads.
static void set_limits(const command_t *c, const sp_msg_reshard_split_t *m,
                       sp_msg_catalog_job_t *job)
{
    job->max_bytes_per_s =
        m->has_max_bytes_per_s ? m->max_bytes_per_s : c->env->settings->job_max_bytes_per_s;
    job->max_replica_lag_bytes = m->has_max_replica_lag_bytes
                                     ? m->max_replica_lag_bytes
                                     : c->env->settings->job_max_replica_lag_bytes;
    job->has_max_bytes_per_s = job->has_max_replica_lag_bytes = true;
}

static int put_job(command_t *c, split_t *s, sp_str_t *ret_id, sp_error_t *err)
{
    char id[13];
    sp_random_id(id, 12);
    int64_t now = sp_clock_wall_ms();
    sp_str_t job_id = sp_str(sp_arena_strz(c->arena, id));
    sp_msg_job_phase_t phase = {.name = SP_STR("pending"),
                                .started_ms = now,
                                .has_started_ms = true};
    sp_msg_catalog_job_t job = {.id = job_id,
                                .kind = SP_JOB_KIND_SPLIT,
                                .has_kind = true,
                                .state = SP_JOB_STATE_PENDING,
                                .has_state = true,
                                .keyspace = s->keyspace->keyspace->name,
                                .source_shard_id = s->source->shard->id,
                                .attempt = 1,
                                .has_attempt = true,
                                .generation = c->env->epoch.generation,
                                .has_generation = true,
                                .epoch = c->env->epoch.epoch,
                                .has_epoch = true,
                                .step = SP_STR("preflight"),
                                .phases = {&phase, 1},
                                .created_ms = now,
                                .has_created_ms = true,
                                .updated_ms = now,
                                .has_updated_ms = true,
                                .idempotency_key = s->request->idempotency_key,
                                .body_hash = sp_str(s->hash)};
    set_limits(c, s->request, &job);
    sp_catalog_txn_t *txn = env_txn(c->env);
    job.targets.items = sp_arena_alloc(c->arena, s->n + 1, sizeof *job.targets.items);
    if (!txn || !job.targets.items || !job_id.ptr) {
        sp_catalog_txn_destroy(&txn);
        return command_no_memory(err);
    }
    sp_msg_catalog_keyspace_t keyspace = *s->keyspace->keyspace;
    for (size_t i = 0; i < s->n; i++) {
        if (s->fresh[i]) {
            claim_new(txn, c->arena, &s->targets[i], job_id);
            keyspace.next_ordinal++;
        } else {
            claim_take(txn, c->arena, sp_catalog_shard(c->env->catalog, s->targets[i].id), job_id,
                       SP_SHARD_STATUS_IMPORTING);
        }
        job.targets.items[job.targets.n++] = new_target(c, s, i, job_id);
    }
    claim_take(txn, c->arena, s->source, job_id, 0);
    const char *key = key_job(c->arena, job_id),
               *keyspace_key = key_keyspace(c->arena, keyspace.name);
    keyspace.has_next_ordinal = true;
    sp_catalog_txn_expect(txn, keyspace_key, s->keyspace->rev.mod_revision);
    sp_catalog_txn_put(txn, keyspace_key, &sp_schema_catalog_keyspace, &keyspace, 0);
    sp_catalog_txn_expect(txn, key, 0);
    sp_catalog_txn_put(txn, key, &sp_schema_catalog_job, &job, 0);
    *ret_id = job_id;
    return command_commit(c, &txn, err);
}

// A job that the same idempotency key made before.
static const sp_msg_catalog_job_t *earlier(const command_t *c, sp_str_t key)
{
    for (size_t i = 0; key.len && i < c->env->catalog->n_jobs; i++)
        if (sp_str_eq(c->env->catalog->jobs[i].job->idempotency_key, key))
            return c->env->catalog->jobs[i].job;
    return NULL;
}

int command_split(command_t *c, const void *body, sp_error_t *err)
{
    split_t s = {.request = body};
    int rc = check_limits(s.request, err);
    if (rc == 0)
        rc = hash_request(s.request, c->arena, s.hash, err);
    if (rc != 0)
        return rc;
    const sp_msg_catalog_job_t *old =
        s.request->dry_run ? NULL : earlier(c, s.request->idempotency_key);
    if (old && !sp_str_eqz(old->body_hash, s.hash))
        return sp_error_set(err, SP_E_IDEMPOTENCY_MISMATCH,
                            "this idempotency key made job " SP_STR_FMT " from another request",
                            SP_STR_ARG(old->id));
    if (old)
        return command_reply_job(c, old->id, err);
    rc = check_source(c, &s, err);
    if (rc == 0)
        rc = check_targets(c, &s, err);
    if (rc == 0 && s.request->dry_run)
        return reply_plan(c, &s, err);
    sp_str_t id = {0};
    if (rc == 0)
        rc = put_job(c, &s, &id, err);
    if (rc != 0)
        return rc;
    sp_log(SP_LOG_INFO, "JOB-CREATED", "job", sp_log_fmt(SP_STR_FMT, SP_STR_ARG(id)), "req",
           sp_log_fmt(SP_STR_FMT, SP_STR_ARG(c->request_id)), NULL);
    rc = sp_failpoint("job_created", err);
    return rc == 0 ? command_reply_job(c, id, err) : rc;
}
