#include "services/router/execute.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/owner/owner.h"
#include "services/router/idempotency.h"
#include "services/router/pure_sql.h"

enum {
    DEADLINE_MS = 30000,        // unless told
    SESSION_TIMEOUT_MS = 30000, // statement_timeout of the connections
    PARK_BASE_MS = 5,
    PARK_CAP_MS = 100,
    NO_POLL_MS = 1000000, // longer than any deadline
    CONFLICTS = 8,        // serialization failures that are tried again
};

// ---- the end

void execute_finish(execution_t *e)
{
    if (e->parked)
        e->router->n_parked--;
    pool_waiter_leave(&e->waiter);
    *e->link = e->next;
    if (e->next != NULL)
        e->next->link = e->link;
    if (e->slot != NULL && e->idempotent)
        slot_release(e->slot);
    results_free(&e->results);
    free(e);
}

static void count_answer(const execution_t *e, int code)
{
    router_metrics_answered(&e->router->metrics, "execute", code, e->request->received_mono_us);
}

// The error with what a program can use: SQLSTATE, DETAIL, which statement.
static void answer_error(sp_request_t **request, const sp_error_t *err, int64_t statement)
{
    sp_value_pair_t pairs[3];
    size_t n = 0;
    if (err->sqlstate[0] != 0)
        pairs[n++] = (sp_value_pair_t){SP_STR("sqlstate"), sp_value_str(err->sqlstate)};
    if (err->detail[0] != 0)
        pairs[n++] = (sp_value_pair_t){SP_STR("detail"), sp_value_str(err->detail)};
    if (statement >= 0)
        pairs[n++] = (sp_value_pair_t){SP_STR("statement"), sp_value_int(statement)};
    sp_value_t details = {.kind = SP_VALUE_MAP, .u.map = {pairs, n}};
    if (n > 0)
        sp_request_error_details(request, err, &details);
    else
        sp_request_error(request, err);
}

static void fail_at(execution_t *e, const sp_error_t *err, int64_t statement)
{
    sp_error_t told = *err;
    // Whatever ended the later attempts says nothing about the first one.
    if (e->unknown && err->code != SP_E_OUTCOME_UNKNOWN) {
        sp_error_set(&told, SP_E_OUTCOME_UNKNOWN,
                     "a commit was lost, and the idempotency key could not be looked up: %s",
                     err->text);
        statement = -1;
    }
    count_answer(e, told.code);
    answer_error(&e->request, &told, statement);
    execute_finish(e);
}

void execute_fail(execution_t *e, const sp_error_t *err)
{
    fail_at(e, err, -1);
}

void execute_succeed(execution_t *e)
{
    sp_error_t err = {0}, told = {0};
    if (results_check(&e->results, &err) != 0) {
        // Not out_of_memory: who is told so tries again, and would do it twice.
        sp_error_set(&told, SP_E_TOO_LARGE, "%s; whatever was written is committed", err.text);
        execute_fail(e, &told);
        return;
    }
    sp_msg_execute_reply_t reply = {.shard_id = e->shard_id,
                                    .ring_version = e->ring_version,
                                    .has_ring_version = true,
                                    .results = {e->results.items, e->results.n},
                                    .endpoint =
                                        e->on_replica ? SP_STR("replica") : SP_STR("primary"),
                                    .parked_ms = e->parked_ms,
                                    .has_parked_ms = true,
                                    .attempts = e->attempts,
                                    .has_attempts = true};
    count_answer(e, 0);
    sp_request_reply(&e->request, &sp_schema_execute_reply, &reply);
    execute_finish(e);
}

// ---- parking

static void tell_stopping(execution_t *e)
{
    sp_error_t err = {0};
    sp_error_set(&err, SP_E_UNAVAILABLE, "the router is stopping");
    execute_fail(e, &err);
}

void execute_park(execution_t *e, const sp_error_t *why, bool waits_for_ring, int64_t wait_ms)
{
    router_t *r = e->router;
    int64_t now = sp_clock_mono_ms();
    e->last = *why;
    if (e->slot != NULL && e->idempotent) {
        slot_release(e->slot);
        e->slot = NULL;
    }
    if (now >= e->deadline_ms || r->n_parked >= (size_t)sp_config_int(r->config, "max_parked")) {
        execute_fail(e, why);
        return;
    }
    if (r->stop_by_ms != 0 && !e->unknown) {
        tell_stopping(e);
        return;
    }
    // While the service stops, it waits for execute_stop() to end it: its connections are going.
    e->parked = true;
    e->waits_for_ring = waits_for_ring;
    e->parked_since_ms = now;
    e->wake_ms = now + wait_ms;
    r->n_parked++;
}

static int64_t backoff(execution_t *e)
{
    return sp_random_backoff_ms(e->backoff < 8 ? e->backoff++ : 8, PARK_BASE_MS, PARK_CAP_MS);
}

static void start(execution_t *e);

static void unpark(execution_t *e)
{
    e->parked = false;
    e->router->n_parked--;
    pool_waiter_leave(&e->waiter);
    e->parked_ms += sp_clock_mono_ms() - e->parked_since_ms;
    start(e);
}

// Why no connection of the pool can be had; NULL: there is none.
static void tell_no_connection(const execution_t *e, const pool_t *pool, sp_error_t *err)
{
    const char *fault =
        pool != NULL ? pool_fault(pool) : "the router has no connection string for it";
    if (fault[0] != 0)
        sp_error_set(err, SP_E_UNAVAILABLE, "shard " SP_STR_FMT " is not reachable: %.300s",
                     SP_STR_ARG(e->shard_id), fault);
    else
        sp_error_set(err, SP_E_UNAVAILABLE, "all connections to shard " SP_STR_FMT " are busy",
                     SP_STR_ARG(e->shard_id));
}

void execute_tick(router_t *self)
{
    if (self->n_parked == 0)
        return;
    int64_t now = sp_clock_mono_ms();
    for (execution_t *e = self->executions, *next; e != NULL; e = next) {
        next = e->next; // starting one ends no other
        if (!e->parked)
            continue;
        if (now >= e->deadline_ms) {
            sp_error_t err = e->last;
            if (e->waiter.link != NULL) // the reason may have changed while it waited
                tell_no_connection(e, pools_primary(self->pools, e->shard_id), &err);
            execute_fail(e, &err);
        } else if (now >= e->wake_ms) {
            unpark(e);
        }
    }
}

void execute_wake(router_t *self)
{
    for (execution_t *e = self->executions, *next; e != NULL && self->n_parked > 0; e = next) {
        next = e->next;
        if (e->parked && e->waits_for_ring)
            unpark(e);
    }
}

void execute_served(pool_waiter_t *waiter)
{
    unpark((execution_t *)((char *)waiter - offsetof(execution_t, waiter)));
}

void execute_drain(router_t *self)
{
    for (execution_t *e = self->executions, *next; e != NULL; e = next) {
        next = e->next;
        if (e->parked && !e->unknown)
            tell_stopping(e);
    }
}

void execute_stop(router_t *self)
{
    pools_destroy(&self->pools); // those on a connection learn how they ended
    while (self->executions != NULL)
        // NOLINTNEXTLINE(clang-analyzer-unix.Malloc): each end takes itself off the list
        tell_stopping(self->executions);
}

// ---- judging

static void retry(execution_t *e, const sp_error_t *why, bool waits_for_ring, int64_t wait_ms,
                  const char *cause)
{
    sp_counter_add(sp_metric_with(e->router->metrics.retries, cause, NULL), 1);
    execute_park(e, why, waits_for_ring, wait_ms);
}

// By the ring of now the key has another owner than the one that was tried.
static bool ring_moved_on(const execution_t *e)
{
    const sp_catalog_keyspace_view_t *k = NULL;
    int index = -1;
    if (router_keyspace(e->router, e->keyspace, &k, NULL) != 0 ||
        router_owner(k, e->hash, &index, NULL) != 0)
        return false;
    return !sp_str_eq(sp_ring_shard_id(k->ring, index), e->shard_id);
}

// SHP01. A foreign row is the client's fault only where shard and router agree that the request's own key lives here.
static void judge_refusal(execution_t *e, const sp_error_t *err, int64_t statement)
{
    sp_refusal_t r = {0};
    sp_error_t told = {0};
    bool parsed = sp_refusal_parse(err->detail, &r);
    bool foreign = parsed && (r.null_key || (r.has_hash && r.hash != e->hash));
    bool moved = ring_moved_on(e);
    sp_counter_add(sp_metric_with(e->router->metrics.refusals,
                                  parsed && r.in_transition ? "in_transition" : "not_owner", NULL),
                   1);
    if (foreign &&
        (r.null_key || (!r.in_transition && !moved && r.ring_version <= e->ring_version))) {
        sp_error_set(&told, SP_E_KEY_MISMATCH,
                     "a row is touched whose key does not live on the shard of key " SP_STR_FMT
                     ": %.300s",
                     SP_STR_ARG(e->key), err->text);
        memcpy(told.sqlstate, err->sqlstate, sizeof told.sqlstate);
        memcpy(told.detail, err->detail, sizeof told.detail);
        fail_at(e, &told, statement);
        return;
    }
    if (parsed && r.in_transition)
        sp_error_set(&told, SP_E_IN_TRANSITION,
                     "the key is being moved; it did not open on its new shard before the "
                     "deadline");
    else
        sp_error_set(&told, SP_E_NOT_OWNER,
                     "shard " SP_STR_FMT
                     " does not own the key any more, and no newer ring came before the deadline",
                     SP_STR_ARG(e->shard_id));
    retry(e, &told, true, moved ? 0 : backoff(e),
          parsed && r.in_transition ? "in_transition" : "not_owner");
}

void execute_judge(execution_t *e, const sp_error_t *err, size_t statement)
{
    int64_t place =
        statement >= e->first && statement < e->first + e->n ? (int64_t)(statement - e->first) : -1;
    if (e->on_replica && err->code == SP_E_SQL_ERROR) {
        // The primary's word counts: a replica may lack a row, a table or a whole move.
        e->primary_only = true;
        retry(e, err, false, 0, "replica");
    } else if (strcmp(err->sqlstate, "25006") == 0 && e->surely_reads && !e->eventual) {
        // It writes, through a view or a function called like one of PostgreSQL's: again as what it is.
        e->surely_reads = false;
        retry(e, err, false, 0, "writes");
    } else if (strcmp(err->sqlstate, "SHP01") == 0) {
        judge_refusal(e, err, place);
    } else if (err->code == SP_E_UNAVAILABLE) {
        retry(e, err, false, backoff(e), "unavailable");
    } else if (err->code == SP_E_OUTCOME_UNKNOWN && e->idempotent) {
        e->unknown = true;
        retry(e, err, false, backoff(e), "outcome_unknown");
    } else if ((strcmp(err->sqlstate, "40001") == 0 || strcmp(err->sqlstate, "40P01") == 0) &&
               e->conflicts < CONFLICTS) {
        e->conflicts++; // rolled back as a whole: the same again is safe
        retry(e, err, false, backoff(e), "conflict");
    } else {
        fail_at(e, err, place);
    }
}

// ---- one attempt

static void on_result(void *arg, size_t index, const PGresult *result)
{
    execution_t *e = arg;
    if (index >= e->first)
        results_add(&e->results, index - e->first, result);
}

static void on_done(void *arg, const sp_error_t *err, size_t statement)
{
    execution_t *e = arg;
    e->slot = NULL;
    if (err->code == 0)
        execute_succeed(e);
    else
        execute_judge(e, err, statement);
}

int execute_submit(execution_t *e, const sp_pipe_statement_t *statements, size_t n, bool read_only,
                   sp_pipe_result_fn *on_result_or_null, sp_pipe_done_fn *done, sp_error_t *err)
{
    sp_pipe_request_t request = {statements, n, e->deadline_ms, read_only, on_result_or_null,
                                 done,       e};
    return slot_submit(e->slot, &request, err);
}

size_t execute_timeout(execution_t *e, sp_pipe_statement_t *statement, const char **value)
{
    static const char sql[] = "SELECT pg_catalog.set_config('statement_timeout', $1, true)";
    int left = sp_clock_until_ms(e->deadline_ms);
    if (left > SESSION_TIMEOUT_MS - 2000 && left <= SESSION_TIMEOUT_MS)
        return 0;
    snprintf(e->timeout, sizeof e->timeout, "%d", left > 40 ? left - 20 : left > 1 ? left : 1);
    *value = e->timeout;
    *statement = (sp_pipe_statement_t){sql, 1, value};
    return 1;
}

// The client's statements with ours around them, in e->sent: [timeout] [read only] statements assert. A replica is asked, too, whether its
// shard owns the key: it may be behind a cutover, or another shard's.
static size_t put_together(execution_t *e)
{
    static const char assert_sql[] = "SELECT shardplane.assert_owner($1, $2)";
    static const char read_only_sql[] =
        "SELECT pg_catalog.set_config('transaction_read_only', 'on', true)";
    const char **values = e->ours;
    sp_pipe_statement_t *s = e->sent;
    size_t n = execute_timeout(e, s, values);
    // Only PostgreSQL can tell that nothing is written, and only what writes nothing may be run twice. A replica's sessions are so anyway.
    if (e->surely_reads && !e->on_replica)
        s[n++] = (sp_pipe_statement_t){read_only_sql, 0, NULL};
    values[1] = e->keyspace.ptr;
    values[2] = e->key.ptr;
    e->first = n;
    memcpy(s + n, e->statements, e->n * sizeof *s);
    n += e->n;
    s[n++] = (sp_pipe_statement_t){assert_sql, 2, values + 1};
    return n;
}

// Chooses shard and connection by the ring of now.
static int choose(execution_t *e, pool_t **ret_pool, sp_error_t *err)
{
    const sp_catalog_keyspace_view_t *k = NULL;
    int index = -1, rc = router_keyspace(e->router, e->keyspace, &k, err);
    if (rc == 0)
        rc = router_owner(k, e->hash, &index, err);
    if (rc != 0)
        return rc;
    sp_str_t id = sp_ring_shard_id(k->ring, index);
    if (!sp_str_eq(id, e->shard_id)) {
        e->shard_id = sp_arena_str(e->request->arena, id);
        e->backoff = 0;
    }
    e->ring_version = router_ring_version(k);
    pool_t *pool = e->eventual && !e->primary_only ? pools_replica(e->router->pools, id) : NULL;
    e->on_replica = pool != NULL;
    *ret_pool = pool != NULL ? pool : pools_primary(e->router->pools, id);
    return 0;
}

static void start(execution_t *e)
{
    sp_error_t err = {0};
    pool_t *pool = NULL;
    if (choose(e, &pool, &err) != 0 ||
        results_reset(&e->results, e->n,
                      (size_t)sp_config_int(e->router->config, "max_result_rows"),
                      (size_t)sp_config_int(e->router->config, "max_result_bytes"), &err) != 0) {
        execute_fail(e, &err);
        return;
    }
    e->slot = pool != NULL ? pool_pick(pool, e->idempotent, &e->waiter) : NULL;
    if (e->slot == NULL) { // it stands in the pool's queue, where there is a pool
        tell_no_connection(e, pool, &err);
        execute_park(e, &err, false, pool != NULL ? NO_POLL_MS : backoff(e));
        return;
    }
    e->attempts++;
    e->step = STEP_RUN;
    int rc;
    if (e->idempotent) {
        rc = idempotency_start(e, &err);
    } else {
        rc = execute_submit(e, e->sent, put_together(e), e->surely_reads, on_result, on_done, &err);
    }
    if (rc == SP_E_UNAVAILABLE)
        execute_park(e, &err, false, backoff(e));
    else if (rc != 0)
        execute_fail(e, &err);
}

// ---- receipt

static int convert(execution_t *e, size_t i, sp_str_t sql, const sp_value_t *params, size_t n,
                   sp_error_t *err)
{
    sp_arena_t *arena = e->request->arena;
    sql_class_t class = {0};
    const char **values = sp_arena_alloc(arena, n > 0 ? n : 1, sizeof *values);
    int rc = sql_classify(sql, &class, err);
    for (size_t p = 0; values != NULL && rc == 0 && p < n; p++)
        if ((rc = value_to_text(&params[p], arena, &values[p], err)) != 0)
            sp_error_prefix(err, "parameter $%zu", p + 1);
    if (rc != 0)
        return e->n > 1 ? sp_error_prefix(err, "statement %zu", i) : rc;
    e->statements[i] = (sp_pipe_statement_t){sp_arena_cstr(arena, sql), (int)n, values};
    if (values == NULL || e->statements[i].sql == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a request");
    if (e->eventual && (!class.read_keyword || e->n > 1))
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "an eventual request is one read-only statement");
    e->surely_reads = e->eventual || (e->surely_reads && class.surely_reads);
    return 0;
}

static int check(execution_t *e, sp_error_t *err)
{
    const sp_msg_execute_t *m = e->message;
    const sp_catalog_keyspace_view_t *k = NULL;
    bool one = m->sql.ptr != NULL;
    if (one == (m->statements.n > 0))
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "give either sql or statements");
    if (!one && m->params.n > 0)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "params belong to sql; each of statements has its own");
    int rc = router_keyspace(e->router, e->keyspace, &k, err);
    if (rc == 0)
        rc = router_key(k, m->shard_key, e->request->arena, &e->key, &e->hash, err);
    if (rc != 0)
        return rc;
    e->n = one ? 1 : m->statements.n;
    e->eventual = m->consistency == SP_CONSISTENCY_EVENTUAL;
    e->idempotent = m->idempotency_key.ptr != NULL;
    e->surely_reads = true;
    if (e->eventual && e->idempotent)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "an eventual request changes nothing and takes no idempotency_key");
    if (e->idempotent && m->idempotency_key.len == 0)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "idempotency_key is empty");
    e->statements = sp_arena_alloc(e->request->arena, e->n, sizeof *e->statements);
    e->sent = sp_arena_alloc(e->request->arena, e->n + 4, sizeof *e->sent);
    e->ours = sp_arena_alloc(e->request->arena, 6, sizeof *e->ours);
    e->keyspace = sp_arena_str(e->request->arena, e->keyspace); // as a C string too
    if (e->statements == NULL || e->sent == NULL || e->ours == NULL || e->keyspace.ptr == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a request");
    for (size_t i = 0; rc == 0 && i < e->n; i++)
        rc = one ? convert(e, 0, m->sql, m->params.items, m->params.n, err)
                 : convert(e, i, m->statements.items[i].sql, m->statements.items[i].params.items,
                           m->statements.items[i].params.n, err);
    if (rc == 0 && e->idempotent)
        rc = idempotency_hash(m, e->body_hash, err);
    return rc;
}

void execute_handle(router_t *self, sp_request_t *request)
{
    sp_error_t err = {0};
    if (self->stop_by_ms != 0) {
        sp_request_fail(&request, SP_E_UNAVAILABLE, "the router is stopping");
        return;
    }
    execution_t *e = calloc(1, sizeof *e);
    if (e == NULL) {
        sp_request_fail(&request, SP_E_OUT_OF_MEMORY, "no memory for a request");
        return;
    }
    sp_request_keep(request);
    e->router = self;
    e->request = request;
    e->message = request->body;
    e->keyspace = e->message->keyspace;
    e->deadline_ms =
        sp_clock_mono_ms() + (e->message->has_deadline_ms ? e->message->deadline_ms : DEADLINE_MS);
    if (request->deadline_mono_ms < e->deadline_ms)
        e->deadline_ms = request->deadline_mono_ms;
    sp_error_set(&e->last, SP_E_DEADLINE_EXCEEDED,
                 "the deadline passed before the request was tried");
    e->next = self->executions;
    e->link = &self->executions;
    if (e->next != NULL)
        e->next->link = &e->next;
    self->executions = e;
    if (check(e, &err) != 0)
        execute_fail(e, &err);
    else
        start(e);
}
