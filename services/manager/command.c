// Commands: the actor, repeated requests, and what all commands share.
#include "services/manager/command.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/digest.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "schemas/job.h"
#include "schemas/manager.h"
#include "schemas/shard.h"

const command_row_t command_rows[] = {
    {&sp_schema_keyspace_create, command_keyspace_create},
    {&sp_schema_keyspace_delete, command_keyspace_delete},
    {&sp_schema_table_create, command_table_create},
    {&sp_schema_table_delete, command_table_delete},
    {&sp_schema_shard_create, command_shard_create},
    {&sp_schema_shard_delete, command_shard_delete},
    {&sp_schema_reshard_split, command_split},
    {&sp_schema_job_cancel, command_job_cancel},
    {&sp_schema_job_retry, command_job_retry},
    {&sp_schema_job_finalize, command_job_finalize},
    {&sp_schema_job_throttle, command_job_throttle},
    {NULL, NULL},
};

// The last answers, by (client id, sequence): a repeated mutation returns the first reply.
enum { REPLIES = 512 };
typedef struct stored_reply {
    char client_id[65];        // "" for an empty place
    int64_t sequence;          // of the request
    unsigned char hash[32];    // of the request
    const sp_schema_t *schema; // of the answer
    sp_buf_t bytes;            // the answer
} stored_reply_t;

typedef struct replies {
    stored_reply_t items[REPLIES]; // ring buffer
    size_t next;                   // place to overwrite
} replies_t;

const char *key_keyspace(sp_arena_t *arena, sp_str_t name)
{
    return sp_arena_printf(arena, "keyspaces/" SP_STR_FMT, SP_STR_ARG(name));
}

const char *key_ring(sp_arena_t *arena, sp_str_t name)
{
    return sp_arena_printf(arena, "ring/" SP_STR_FMT, SP_STR_ARG(name));
}

const char *key_shard(sp_arena_t *arena, sp_str_t id)
{
    return sp_arena_printf(arena, "shards/" SP_STR_FMT, SP_STR_ARG(id));
}

void put_shard(sp_catalog_txn_t *txn, sp_arena_t *arena, sp_msg_catalog_shard_t *record,
               int64_t mod_revision)
{
    const char *key = key_shard(arena, record->id);
    record->version++;
    record->has_version = true;
    sp_catalog_txn_expect(txn, key, mod_revision);
    sp_catalog_txn_put(txn, key, &sp_schema_catalog_shard, record, 0);
}

const char *key_job(sp_arena_t *arena, sp_str_t id)
{
    return sp_arena_printf(arena, "jobs/" SP_STR_FMT, SP_STR_ARG(id));
}

int command_no_memory(sp_error_t *err)
{
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "command");
}

int command_commit(command_t *c, sp_catalog_txn_t **txn_p, sp_error_t *err)
{
    int64_t revision = 0;
    int rc = *txn_p ? sp_catalog_txn_commit(*txn_p, c->env->store, &revision, err)
                    : command_no_memory(err);
    sp_catalog_txn_destroy(txn_p);
    if (rc != 0)
        return rc;
    c->revision = revision;
    rc = env_load(c->env, err);
    // What is committed must not be taken back as if it were not: that it cannot be shown now is all there is to say.
    if (rc == 0)
        return rc;
    err->retryable = true;
    return err->code = SP_E_CATALOG_UNAVAILABLE;
}

int command_reply_ack(command_t *c)
{
    static const sp_msg_ack_t ack = {.ok = true, .has_ok = true};
    c->reply = &ack;
    c->reply_schema = &sp_schema_ack;
    return 0;
}

void command_raise_ring(const env_t *env, sp_arena_t *arena, sp_catalog_txn_t *txn,
                        const sp_catalog_keyspace_view_t *view)
{
    const char *key = key_ring(arena, view->keyspace->name);
    sp_msg_catalog_ring_t ring = {.keyspace = view->keyspace->name,
                                  .version =
                                      (view->ring_record ? view->ring_record->version : 0) + 1,
                                  .has_version = true,
                                  .generation = env->epoch.generation,
                                  .has_generation = true,
                                  .epoch = env->epoch.epoch,
                                  .has_epoch = true};
    sp_catalog_txn_expect(txn, key, view->ring_record ? view->ring_rev.mod_revision : 0);
    sp_catalog_txn_put(txn, key, &sp_schema_catalog_ring, &ring, 0);
}

// ---- repeated requests

// Of the whole request: a cancel and a retry of a job have the same body.
static void hash_request(const sp_schema_t *schema, const void *body, unsigned char out[32])
{
    sp_buf_t bytes = SP_BUF_INIT;
    memset(out, 0, 32);
    bool ok = sp_wire_encode_msgpack(schema, body, &bytes, NULL) == 0;
    sp_buf_addz(&bytes, schema->name);
    if (ok && !bytes.failed)
        sp_digest(bytes.data, bytes.len, out, 32);
    sp_buf_free(&bytes);
}

static stored_reply_t *find_reply(replies_t *replies, sp_str_t client_id, int64_t sequence)
{
    for (size_t i = 0; i < REPLIES; i++)
        if (replies->items[i].client_id[0] && replies->items[i].sequence == sequence &&
            sp_str_eqz(client_id, replies->items[i].client_id))
            return &replies->items[i];
    return NULL;
}

static void store_reply(replies_t *replies, sp_str_t client_id, int64_t sequence,
                        const unsigned char hash[32], const sp_schema_t *schema, const void *body)
{
    stored_reply_t *r = &replies->items[replies->next];
    sp_buf_reset(&r->bytes);
    r->client_id[0] = '\0';
    if (sp_wire_encode_msgpack(schema, body, &r->bytes, NULL) != 0)
        return;
    replies->next = (replies->next + 1) % REPLIES;
    snprintf(r->client_id, sizeof r->client_id, SP_STR_FMT, SP_STR_ARG(client_id));
    r->sequence = sequence;
    memcpy(r->hash, hash, 32);
    r->schema = schema;
}

// ---- the actor

// Each command gets an answer, for the loop gives them out in order: one that is missing would shift all that follow.
static void answer_bare(env_t *env, int code)
{
    sp_msg_error_t bare = {.code = sp_str(sp_error_name(code)),
                           .message = sp_str(sp_error_name(code)),
                           .retryable = sp_error_retryable(code),
                           .has_retryable = true};
    sp_actor_end_send(env->end, &sp_schema_error, &bare, NULL);
}

static void answer(command_t *c, const sp_schema_t *schema, const void *body)
{
    sp_msg_command_done_t done = {.revision = c->revision, .has_revision = true};
    sp_error_t err = {0};
    if (sp_actor_end_send(c->env->end, &sp_schema_command_done, &done, &err) != 0 ||
        sp_actor_end_send(c->env->end, schema, body, &err) == 0)
        return;
    // What cannot be encoded must still end the request.
    sp_log(SP_LOG_ERROR, "MANAGER-REPLY", "reason", err.text, NULL);
    sp_msg_error_t *m = error_message(&err, c->arena);
    if (!m || sp_actor_end_send(c->env->end, &sp_schema_error, m, NULL) != 0)
        answer_bare(c->env, SP_E_INTERNAL);
}

static int run_row(command_t *c, const sp_schema_t *schema, const void *body, sp_error_t *err)
{
    int rc = env_load(c->env, err);
    for (const command_row_t *row = command_rows; rc == 0; row++) {
        if (!row->schema)
            return sp_error_set(err, SP_E_UNKNOWN_MESSAGE, "%s", schema->name);
        if (row->schema != schema)
            continue;
        rc = sp_failpoint("command_before", err);
        if (rc == 0)
            rc = row->run(c, body, err);
        if (rc == 0)
            rc = sp_failpoint("command_after", err);
        break;
    }
    return rc;
}

static void run_command(env_t *env, replies_t *replies, const sp_msg_command_t *head,
                        const sp_schema_t *schema, const void *body)
{
    command_t c = {.env = env,
                   .arena = sp_arena_new(256 << 20),
                   .request_id = head->request_id,
                   .client_id = head->client_id};
    sp_error_t err = {0};
    if (!c.arena) {
        answer_bare(env, SP_E_OUT_OF_MEMORY);
        return;
    }
    unsigned char hash[32];
    bool numbered = head->client_id.len > 0 && head->has_sequence;
    hash_request(schema, body, hash);
    stored_reply_t *old = numbered ? find_reply(replies, head->client_id, head->sequence) : NULL;
    if (old) {
        void *reply = sp_arena_alloc(c.arena, 1, old->schema->size);
        int rc = memcmp(old->hash, hash, 32) == 0
                     ? 0
                     : sp_error_set(&err, SP_E_IDEMPOTENCY_MISMATCH,
                                    "this client used sequence %lld for another request",
                                    (long long)head->sequence);
        if (rc == 0 && reply)
            rc = sp_wire_decode_msgpack(old->schema, old->bytes.data, old->bytes.len, c.arena,
                                        reply, &err);
        if (rc == 0 && reply)
            answer(&c, old->schema, reply);
        else
            answer(&c, &sp_schema_error, error_message(&err, c.arena));
        sp_arena_destroy(&c.arena);
        return;
    }
    int64_t started = sp_clock_mono_ms();
    int rc = run_row(&c, schema, body, &err);
    env_forget_strangers(env);
    sp_log(rc == 0 ? SP_LOG_INFO : SP_LOG_WARN, "MANAGER-COMMAND", "req",
           sp_log_fmt(SP_STR_FMT, SP_STR_ARG(head->request_id)), "command", schema->name, "result",
           rc == 0 ? "ok" : sp_error_name(rc), "reason", rc == 0 ? NULL : err.text, "ms",
           sp_log_fmt("%lld", (long long)(sp_clock_mono_ms() - started)), NULL);
    if (rc != 0) {
        sp_msg_error_t *m = error_message(&err, c.arena);
        if (m && c.details.kind != SP_VALUE_ABSENT)
            m->details = c.details;
        c.reply = m;
        c.reply_schema = &sp_schema_error;
    }
    if (c.reply) {
        // A refusal that may heal must not be what a repetition gets.
        if (numbered && (rc == 0 || !err.retryable))
            store_reply(replies, head->client_id, head->sequence, hash, c.reply_schema, c.reply);
        answer(&c, c.reply_schema, c.reply);
    } else {
        answer_bare(env, SP_E_OUT_OF_MEMORY);
    }
    sp_arena_destroy(&c.arena);
}

// The first leader makes the generation record; all later ones read it.
static int make_generation(env_t *env, sp_error_t *err)
{
    int rc = env_load(env, err);
    if (rc != 0 || env->catalog->generation.generation > 0)
        return rc;
    char cluster[17];
    sp_random_id(cluster, 16);
    sp_msg_catalog_generation_t record = {.generation = 1,
                                          .has_generation = true,
                                          .cluster_id = sp_str(cluster)};
    sp_catalog_txn_t *txn = env_txn(env);
    if (!txn)
        return command_no_memory(err);
    sp_catalog_txn_expect(txn, "generation", 0);
    sp_catalog_txn_put(txn, "generation", &sp_schema_catalog_generation, &record, 0);
    rc = sp_catalog_txn_commit(txn, env->store, NULL, err);
    sp_catalog_txn_destroy(&txn);
    return rc == 0 || rc == SP_E_CONFLICT ? env_load(env, err) : rc;
}

static bool begin(env_t *env)
{
    for (int i = 0; !env_stopped(env); i++) {
        sp_error_t err = {0};
        if (make_generation(env, &err) == 0) {
            sp_msg_leader_ready_t ready = {.generation = env->epoch.generation,
                                           .has_generation = true,
                                           .cluster_id = env->catalog->generation.cluster_id,
                                           .revision = env->catalog->revision,
                                           .has_revision = true};
            return sp_actor_end_send(env->end, &sp_schema_leader_ready, &ready, NULL) == 0;
        }
        sp_log(SP_LOG_WARN, "MANAGER-NOT-READY", "reason", err.text, NULL);
        env_sleep(env, sp_random_backoff_ms(i, 100, 2000));
    }
    return false;
}

void command_actor(sp_actor_end_t *end, void *arg)
{
    env_t env;
    sp_error_t err = {0};
    replies_t *replies = calloc(1, sizeof *replies);
    if (env_open(&env, arg, end, &err) != 0 || !replies) {
        sp_log(SP_LOG_ERROR, "MANAGER-COMMANDS", "reason", err.text, NULL);
        free(replies);
        return;
    }
    bool live = begin(&env);
    sp_arena_t *head_arena = NULL;
    sp_msg_command_t *head = NULL;
    while (live && !env_stopped(&env)) {
        sp_arena_t *arena = sp_arena_new(256 << 20);
        const sp_schema_t *schema = NULL;
        void *body = NULL;
        bool got = arena && sp_actor_end_receive(end, 100, arena, &schema, &body);
        if (got && !schema)
            live = false;
        if (got && schema == &sp_schema_command) {
            sp_arena_destroy(&head_arena);
            head_arena = arena;
            head = body;
            continue;
        }
        if (got && schema && head)
            run_command(&env, replies, head, schema, body);
        sp_arena_destroy(&arena);
    }
    sp_arena_destroy(&head_arena);
    for (size_t i = 0; i < REPLIES; i++)
        sp_buf_free(&replies->items[i].bytes);
    free(replies);
    env_close(&env);
}
