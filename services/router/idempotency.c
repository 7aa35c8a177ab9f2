#include "services/router/idempotency.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/ring/hash.h"
#include "schemas/route.h"

enum { STORED_MAX = 1024 * 1024 }; // bytes of a reply that is kept

int idempotency_hash(const sp_msg_execute_t *message, char out[EXECUTE_HASH], sp_error_t *err)
{
    sp_msg_execute_t bare = *message;
    sp_buf_t buf = SP_BUF_INIT;
    bare.idempotency_key = (sp_str_t){NULL, 0};
    bare.has_deadline_ms = false;
    bare.deadline_ms = 0;
    int rc = sp_wire_encode_msgpack(&sp_schema_execute, &bare, &buf, err);
    // Two hashes of different starts: against a client's slip, not against a forger, whose own key it is.
    if (rc == 0)
        snprintf(out, EXECUTE_HASH, "%016" PRIx64 "%016" PRIx64,
                 (uint64_t)sp_key_hash(buf.data, buf.len),
                 (uint64_t)sp_key_hash(buf.data + 1, buf.len - 1));
    sp_buf_free(&buf);
    return rc;
}

// ---- giving the connection back

static void on_rolled_back(void *arg, const sp_error_t *err, size_t statement)
{
    (void)err; // when it failed, the connection is gone, and the transaction with it
    (void)statement;
    slot_release(arg);
}

// Ends the transaction that is open on the slot; others get the slot when that is done.
static void roll_back(execution_t *e)
{
    static const sp_pipe_statement_t rollback = {"ROLLBACK", 0, NULL};
    slot_t *slot = e->slot;
    sp_pipe_request_t request = {&rollback,      1,   e->deadline_ms + 60000, true, NULL,
                                 on_rolled_back, slot};
    e->slot = NULL;
    if (slot_submit(slot, &request, NULL) != 0)
        slot_release(slot);
}

static void no_memory(sp_error_t *err)
{
    sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a request with an idempotency key");
}

// ---- a repeated request

static void on_lookup_result(void *arg, size_t index, const PGresult *result)
{
    execution_t *e = arg;
    if (index == 0)
        results_add(&e->results, 0, result);
}

// results holds one row (body_hash, reply): the first reply, word for word.
static void answer_stored(execution_t *e)
{
    sp_error_t err = {0};
    const sp_msg_statement_result_t *item = &e->results.items[0];
    const sp_value_t *row = item->rows.n == 1 ? &item->rows.items[0] : NULL;
    sp_msg_execute_reply_t *reply = NULL;
    if (row == NULL || row->u.list.n != 2) {
        sp_error_set(&err, SP_E_UNAVAILABLE,
                     "the first request with this idempotency key has vanished");
        execute_judge(e, &err, 0); // moved away meanwhile: again from the start
        return;
    }
    e->unknown = false;
    if (!sp_str_eqz(row->u.list.items[0].u.s, e->body_hash))
        sp_error_set(&err, SP_E_IDEMPOTENCY_MISMATCH,
                     "the idempotency key was used before with another request");
    // The results' arena: the request's own is sized by what was asked, not by what is answered.
    else if (row->u.list.items[1].kind != SP_VALUE_BYTES ||
             (reply = sp_arena_alloc(e->results.arena, 1, sizeof *reply)) == NULL ||
             sp_wire_decode_msgpack(&sp_schema_execute_reply, row->u.list.items[1].u.s.ptr,
                                    row->u.list.items[1].u.s.len, e->results.arena, reply,
                                    &err) != 0)
        sp_error_set(&err, SP_E_INTERNAL,
                     "the request was committed, but its stored reply cannot be read");
    if (err.code != 0) {
        execute_fail(e, &err);
        return;
    }
    router_metrics_answered(&e->router->metrics, "execute", 0, e->request->received_mono_us);
    sp_request_reply(&e->request, &sp_schema_execute_reply, reply);
    execute_finish(e);
}

static void on_looked_up(void *arg, const sp_error_t *err, size_t statement)
{
    execution_t *e = arg;
    if (err->code != 0)
        execute_judge(e, err, statement == 0 ? SIZE_MAX : statement);
    else
        answer_stored(e);
}

static void look_up(execution_t *e)
{
    static const char sql[] =
        "SELECT body_hash, reply FROM shardplane.requests WHERE key = $1 AND request_id = $2";
    sp_error_t err = {0};
    const char **values = e->ours; // key, request id, hash, keyspace, key, timeout
    sp_pipe_statement_t *s = e->sent;
    s[0] = (sp_pipe_statement_t){sql, 2, values};
    s[1] = (sp_pipe_statement_t){"SELECT shardplane.assert_owner($1, $2)", 2, values + 3};
    e->step = STEP_LOOKUP;
    if (results_reset(&e->results, 1, 1, 8 * STORED_MAX, &err) != 0)
        execute_fail(e, &err);
    else if (execute_submit(e, s, 2, true, on_lookup_result, on_looked_up, &err) != 0)
        execute_judge(e, &err, SIZE_MAX);
}

// ---- the commit

static void on_committed(void *arg, const sp_error_t *err, size_t statement)
{
    execution_t *e = arg;
    if (err->code == 0) {
        execute_succeed(e);
        return;
    }
    // The session ended inside COMMIT: a server that panics there may find it in its log when it starts again.
    if (err->code == SP_E_UNAVAILABLE && statement > 0)
        e->unknown = true;
    if (slot_up(e->slot)) // COMMIT that failed has ended it already; ROLLBACK is then but a warning
        roll_back(e);
    execute_judge(e, err, SIZE_MAX);
}

// Stores the reply beside the rows, and commits both.
static void commit(execution_t *e)
{
    static const char sql[] =
        "UPDATE shardplane.requests SET reply = $3 WHERE key = $1 AND request_id = $2";
    sp_error_t err = {0};
    sp_buf_t buf = SP_BUF_INIT;
    sp_msg_execute_reply_t reply = {.shard_id = e->shard_id,
                                    .ring_version = e->ring_version,
                                    .has_ring_version = true,
                                    .results = {e->results.items, e->results.n},
                                    .endpoint = SP_STR("primary"),
                                    .parked_ms = e->parked_ms,
                                    .has_parked_ms = true,
                                    .attempts = e->attempts,
                                    .has_attempts = true};
    const char **values = e->ours; // key, request id; the hash makes room for the reply
    sp_pipe_statement_t *s = e->sent;
    if (results_check(&e->results, &err) == 0 &&
        sp_wire_encode_msgpack(&sp_schema_execute_reply, &reply, &buf, &err) == 0 &&
        buf.len > STORED_MAX)
        sp_error_set(&err, SP_E_TOO_LARGE,
                     "the reply to a request with an idempotency key is over %d bytes", STORED_MAX);
    sp_value_t bytes = {.kind = SP_VALUE_BYTES, .u.s = {buf.data, buf.len}};
    if (err.code == 0)
        value_to_text(&bytes, e->results.arena, &values[2], &err);
    sp_buf_free(&buf);
    if (err.code == 0) {
        s[0] = (sp_pipe_statement_t){sql, 3, values};
        s[1] = (sp_pipe_statement_t){"COMMIT", 0, NULL};
        e->step = STEP_COMMIT;
        if (execute_submit(e, s, 2, false, NULL, on_committed, &err) == 0)
            return;
        execute_judge(e, &err, SIZE_MAX);
        return;
    }
    roll_back(e);
    sp_error_t told = {0};
    sp_error_set(&told, err.code, "%s; nothing was changed", err.text);
    execute_fail(e, &told);
}

// ---- the transaction

static void on_run_result(void *arg, size_t index, const PGresult *result)
{
    execution_t *e = arg;
    if (index >= e->first)
        results_add(&e->results, index - e->first, result);
}

static void on_run(void *arg, const sp_error_t *err, size_t statement)
{
    execution_t *e = arg;
    // Behind the row's INSERT: there was none, so a commit that was lost before did not happen.
    if (err->code == 0 || (err->sqlstate[0] != 0 && statement >= e->first))
        e->unknown = false;
    if (err->code == 0) {
        commit(e);
        return;
    }
    bool repeated = statement + 1 == e->first && strcmp(err->sqlstate, "23505") == 0;
    slot_t *slot = e->slot;
    if (!slot_up(slot) && repeated) { // that the first one stands is no failure of this one
        sp_error_t lost = {0};
        sp_error_set(&lost, SP_E_UNAVAILABLE,
                     "lost the connection before the first request's reply was looked up");
        execute_judge(e, &lost, SIZE_MAX);
    } else if (!slot_up(slot)) {
        execute_judge(e, err, statement);
    } else if (repeated) {
        // The slot stays ours: the look-up follows the ROLLBACK on the same connection.
        static const sp_pipe_statement_t rollback = {"ROLLBACK", 0, NULL};
        sp_pipe_request_t request = {&rollback, 1, e->deadline_ms, true, NULL, NULL, NULL};
        if (slot_submit(slot, &request, NULL) == 0)
            look_up(e);
        else
            execute_judge(e, err, SIZE_MAX);
    } else {
        roll_back(e);
        execute_judge(e, err, statement);
    }
}

int idempotency_start(execution_t *e, sp_error_t *err)
{
    static const char insert_sql[] =
        "INSERT INTO shardplane.requests (key, request_id, body_hash) VALUES ($1, $2, $3)";
    const char **values = e->ours;
    sp_pipe_statement_t *s = e->sent;
    size_t n = 0;
    if (values[1] == NULL &&
        (values[1] = sp_arena_cstr(e->request->arena, e->message->idempotency_key)) == NULL) {
        no_memory(err);
        return SP_E_OUT_OF_MEMORY;
    }
    values[0] = e->key.ptr;
    values[2] = e->body_hash;
    values[3] = e->keyspace.ptr;
    values[4] = e->key.ptr;
    s[n++] = (sp_pipe_statement_t){"BEGIN", 0, NULL};
    n += execute_timeout(e, &s[n], &values[5]);
    s[n++] = (sp_pipe_statement_t){insert_sql, 3, values};
    e->first = n;
    memcpy(s + n, e->statements, e->n * sizeof *s);
    n += e->n;
    s[n++] = (sp_pipe_statement_t){"SELECT shardplane.assert_owner($1, $2)", 2, values + 3};
    // Without its COMMIT nothing can have been changed: losing it is no doubt.
    return execute_submit(e, s, n, true, on_run_result, on_run, err);
}
