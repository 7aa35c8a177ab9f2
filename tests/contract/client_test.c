// libshardplane against routers made for the test: what is asked again and what is not, local rings, results.
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/clock.h"
#include "common/client/shardplane.h"
#include "common/config/config.h"
#include "common/mesh/mesh.h"
#include "common/mesh/signals.h"
#include "common/ring/hash.h"
#include "schemas/route.h"

// ---- a router that does what it is told

typedef enum {
    DO_ANSWER,
    DO_REFUSE,
    DO_REFUSE_ONCE,
    DO_SILENCE,
    DO_SILENCE_ONCE,
    DO_SILENCE_THEN_REFUSE,
    DO_SILENCE_THEN_FAIL,
    DO_FAIL
} behaviour_t;

typedef struct router {
    pthread_t thread;         // runs it
    char endpoint[128];       // ROUTER socket
    char feed[128];           // PUB socket
    atomic_int ready;         // endpoints are there
    atomic_int stop;          // asked
    atomic_int behaviour;     // of execute
    atomic_int executes;      // seen
    atomic_int gets;          // ring_get seen
    atomic_int version;       // of the ring
    atomic_int promoted;      // s1 has another primary
    atomic_int emptied;       // the ring has lost its shards
    atomic_int publish;       // a change is to be published
    pthread_mutex_t lock;     // for the next one
    char idempotency_key[64]; // of the last execute
    sp_server_t *server;      // its server
    sp_publisher_t *pub;      // its feed
    sp_request_t *silent[64]; // never answered
    int silent_n;             // count
} router_t;

// Version 1: s1 owns all. From 2 on: s1 the negative hashes, s2 the others. 99: with a hole. Emptied: nobody owns anything.
static void fill_ring(router_t *self, sp_msg_ring_snapshot_t *ring)
{
    static int64_t all[] = {INT64_MIN}, low[] = {INT64_MIN, 0}, high[] = {0}, hole[] = {5};
    static sp_msg_ring_shard_t shards[2];
    int version = atomic_load(&self->version);
    shards[0] =
        (sp_msg_ring_shard_t){.shard_id = SP_STR("s1"),
                              .host = atomic_load(&self->promoted) ? SP_STR("h9") : SP_STR("h1"),
                              .port = 5431,
                              .has_port = true,
                              .database = SP_STR("d")};
    shards[1] = (sp_msg_ring_shard_t){.shard_id = SP_STR("s2"),
                                      .host = SP_STR("h2"),
                                      .port = 5432,
                                      .has_port = true,
                                      .database = SP_STR("d")};
    shards[0].bounds.items = version == 1 ? all : low;
    shards[0].bounds.n = version == 1 ? 1 : 2;
    shards[1].bounds.items = version == 99 ? hole : high;
    shards[1].bounds.n = version == 1 ? 0 : 1;
    *ring = (sp_msg_ring_snapshot_t){.keyspace = SP_STR("default"),
                                     .key_type = SP_STR("bigint"),
                                     .ring_version = version,
                                     .has_ring_version = true};
    ring->shards.items = shards;
    ring->shards.n = atomic_load(&self->emptied) ? 0 : 2;
}

static void on_get(void *arg, sp_request_t *r)
{
    router_t *self = arg;
    sp_msg_ring_get_t *m = r->body;
    atomic_fetch_add(&self->gets, 1);
    if (!sp_str_eqz(m->keyspace, "default")) {
        sp_request_fail(&r, SP_E_NOT_FOUND, "there is no such keyspace");
        return;
    }
    sp_msg_ring_snapshot_t ring;
    fill_ring(self, &ring);
    sp_request_reply(&r, &sp_schema_ring_snapshot, &ring);
}

static void on_key(void *arg, sp_request_t *r)
{
    (void)arg;
    sp_msg_shard_for_key_t *m = r->body;
    sp_msg_shard_for_key_reply_t reply = {.shard_id = SP_STR("s1"),
                                          .keyspace = m->keyspace,
                                          .key = m->key,
                                          .hash = 12,
                                          .has_hash = true,
                                          .ring_version = 3,
                                          .has_ring_version = true,
                                          .host = SP_STR("h"),
                                          .port = 5,
                                          .has_port = true};
    sp_request_reply(&r, &sp_schema_shard_for_key_reply, &reply);
}

static void answer(router_t *self, sp_request_t *r)
{
    (void)self;
    sp_msg_execute_t *m = r->body;
    // One row: the parameters as they came, and bytes.
    size_t n = m->statements.n > 0 ? m->statements.items[0].params.n : 0;
    sp_value_t row = {.kind = SP_VALUE_LIST,
                      .u.list = {n ? m->statements.items[0].params.items : NULL, n}};
    sp_msg_column_t column = {.name = SP_STR("c1")};
    sp_msg_statement_result_t result = {.command = SP_STR("SELECT 1"),
                                        .rows_affected = 1,
                                        .has_rows_affected = true};
    result.columns.items = &column;
    result.columns.n = 1;
    result.rows.items = &row;
    result.rows.n = 1;
    sp_msg_execute_reply_t reply = {.shard_id = SP_STR("s1"),
                                    .ring_version = 3,
                                    .has_ring_version = true,
                                    .attempts = 2,
                                    .has_attempts = true};
    reply.results.items = &result;
    reply.results.n = 1;
    sp_request_reply(&r, &sp_schema_execute_reply, &reply);
}

static void on_execute(void *arg, sp_request_t *r)
{
    router_t *self = arg;
    sp_msg_execute_t *m = r->body;
    int n = atomic_fetch_add(&self->executes, 1);
    pthread_mutex_lock(&self->lock);
    snprintf(self->idempotency_key, sizeof self->idempotency_key, SP_STR_FMT,
             SP_STR_ARG(m->idempotency_key));
    pthread_mutex_unlock(&self->lock);
    int b = atomic_load(&self->behaviour);
    if (b == DO_SILENCE_THEN_REFUSE)
        b = n == 0 ? DO_SILENCE : DO_REFUSE;
    if (b == DO_SILENCE_THEN_FAIL)
        b = n == 0 ? DO_SILENCE : DO_FAIL;
    if (b == DO_REFUSE || (b == DO_REFUSE_ONCE && n == 0)) {
        sp_request_fail(&r, SP_E_IN_TRANSITION, "wait");
    } else if (b == DO_SILENCE || (b == DO_SILENCE_ONCE && n == 0)) {
        sp_request_keep(r);
        self->silent[self->silent_n++] = r;
    } else if (b == DO_FAIL) {
        sp_error_t err = {0};
        sp_error_set(&err, SP_E_SQL_ERROR, "no such table");
        snprintf(err.sqlstate, sizeof err.sqlstate, "42P01");
        sp_request_error(&r, &err);
    } else {
        answer(self, r);
    }
}

static const sp_dispatch_t table[] = {{&sp_schema_ring_get, on_get},
                                      {&sp_schema_shard_for_key, on_key},
                                      {&sp_schema_execute, on_execute},
                                      {NULL, NULL}};

static int tick(zloop_t *loop, int timer, void *arg)
{
    (void)loop;
    (void)timer;
    router_t *self = arg;
    if (atomic_exchange(&self->publish, 0)) {
        sp_msg_ring_snapshot_t ring;
        fill_ring(self, &ring);
        sp_msg_ring_change_t change = {.sequence = sp_publisher_next(self->pub),
                                       .has_sequence = true,
                                       .ring = &ring};
        sp_publisher_send(self->pub, "ring.default", &sp_schema_ring_change, &change, NULL);
    }
    return atomic_load(&self->stop) ? -1 : 0;
}

static void *run(void *arg)
{
    router_t *self = arg;
    zloop_t *loop = sp_mesh_loop();
    if (sp_server_open(&self->server, loop, "tcp://127.0.0.1:*", "router", "r", table, self,
                       NULL) != 0 ||
        sp_publisher_open(&self->pub, "tcp://127.0.0.1:*", "r", NULL) != 0)
        abort();
    snprintf(self->endpoint, sizeof self->endpoint, "%s", sp_server_endpoint(self->server));
    snprintf(self->feed, sizeof self->feed, "%s", sp_publisher_endpoint(self->pub));
    atomic_store(&self->ready, 1);
    zloop_timer(loop, 5, 0, tick, self);
    sp_mesh_run(loop);
    for (int i = 0; i < self->silent_n; i++)
        sp_request_done(&self->silent[i]);
    sp_server_close(&self->server);
    sp_publisher_close(&self->pub);
    zloop_destroy(&loop);
    return NULL;
}

static router_t *router_start(void)
{
    router_t *self = calloc(1, sizeof *self);
    atomic_store(&self->version, 1);
    pthread_mutex_init(&self->lock, NULL);
    pthread_create(&self->thread, NULL, run, self);
    while (!atomic_load(&self->ready))
        sp_clock_sleep_ms(1);
    return self;
}

static void router_stop(router_t **self_p)
{
    if (!*self_p)
        return;
    atomic_store(&(*self_p)->stop, 1);
    pthread_join((*self_p)->thread, NULL);
    free(*self_p);
    *self_p = NULL;
}

// ---- shorthands

static shardplane_t *open_client(router_t *a, router_t *b, bool feeds)
{
    const char *routers[] = {a->endpoint, b ? b->endpoint : NULL}, *pubs[] = {a->feed};
    shardplane_options_t o = SHARDPLANE_OPTIONS_INIT;
    o.routers = routers;
    o.routers_n = b ? 2 : 1;
    o.feeds = pubs;
    o.feeds_n = feeds;
    shardplane_t *sp = NULL;
    shardplane_error_t err;
    if (shardplane_open(&sp, &o, &err) != 0)
        fail_msg("%s", err.message);
    return sp;
}

static int execute(shardplane_t *sp, const char *idempotency_key, bool eventual, int deadline_ms,
                   shardplane_result_t **ret, shardplane_error_t *err)
{
    shardplane_request_t *r = shardplane_request_new(NULL, "42");
    shardplane_request_statement(r, "SELECT $1, $2");
    shardplane_request_int(r, -7);
    shardplane_request_text(r, "h\xC3\xA4");
    shardplane_request_null(r);
    shardplane_request_bytes(r, "a\0b", 3);
    shardplane_request_bool(r, 1);
    shardplane_request_float(r, 0.5);
    if (idempotency_key)
        shardplane_request_idempotency_key(r, *idempotency_key ? idempotency_key : NULL);
    if (eventual)
        shardplane_request_eventual(r);
    shardplane_request_deadline(r, deadline_ms);
    int rc = shardplane_execute(sp, r, ret, err);
    shardplane_request_free(r);
    return rc;
}

static int setup(void **state)
{
    *state = router_start();
    return 0;
}

static int teardown(void **state)
{
    router_t *r = *state;
    router_stop(&r);
    return 0;
}

// ---- execute

static void test_result(void **state)
{
    shardplane_t *sp = open_client(*state, NULL, false);
    shardplane_result_t *r = NULL;
    shardplane_error_t err;
    assert_int_equal(execute(sp, NULL, false, 2000, &r, &err), 0);
    assert_int_equal(err.code, 0);
    assert_string_equal(shardplane_result_shard_id(r), "s1");
    assert_int_equal(shardplane_result_ring_version(r), 3);
    assert_int_equal(shardplane_result_attempts(r), 2);
    assert_int_equal(shardplane_result_statements(r), 1);
    assert_string_equal(shardplane_result_command(r, 0), "SELECT 1");
    assert_int_equal(shardplane_result_rows_affected(r, 0), 1);
    assert_string_equal(shardplane_result_column_name(r, 0, 0), "c1");
    assert_null(shardplane_result_column_name(r, 0, 1));
    assert_int_equal(shardplane_result_rows(r, 0), 1);
    assert_int_equal(shardplane_result_int(r, 0, 0, 0), -7);
    size_t len = 0;
    assert_string_equal(shardplane_result_text(r, 0, 0, 1, &len), "h\xC3\xA4");
    assert_int_equal(len, 3);
    assert_int_equal(shardplane_result_type(r, 0, 0, 2), SHARDPLANE_NULL);
    assert_null(shardplane_result_text(r, 0, 0, 2, &len));
    assert_memory_equal(shardplane_result_text(r, 0, 0, 3, &len), "a\0b", 4);
    assert_int_equal(len, 3);
    assert_int_equal(shardplane_result_type(r, 0, 0, 3), SHARDPLANE_BYTES);
    assert_int_equal(shardplane_result_type(r, 0, 0, 4), SHARDPLANE_BOOL);
    assert_true(shardplane_result_float(r, 0, 0, 5) == 0.5);
    assert_int_equal(shardplane_result_type(r, 9, 9, 9), SHARDPLANE_NULL);
    assert_int_equal(shardplane_result_rows(r, 9), 0);
    shardplane_result_free(r);
    shardplane_result_free(NULL);
    shardplane_close(&sp);
    shardplane_close(&sp);
}

static void test_refused_is_asked_again(void **state)
{
    router_t *router = *state;
    shardplane_t *sp = open_client(router, NULL, false);
    shardplane_error_t err;
    atomic_store(&router->behaviour, DO_REFUSE_ONCE);
    assert_int_equal(execute(sp, NULL, false, 3000, NULL, &err), 0);
    assert_int_equal(atomic_load(&router->executes), 2);
    // Until the deadline, then with the last reason.
    atomic_store(&router->behaviour, DO_REFUSE);
    int64_t began = sp_clock_mono_ms();
    assert_int_equal(execute(sp, NULL, false, 300, NULL, &err), SHARDPLANE_E_IN_TRANSITION);
    assert_true(sp_clock_mono_ms() - began >= 280 && sp_clock_mono_ms() - began < 2000);
    assert_true(err.retryable);
    shardplane_close(&sp);
}

static void test_lost_answer_is_unknown(void **state)
{
    router_t *router = *state, *second = router_start();
    shardplane_t *sp = open_client(router, second, false);
    shardplane_error_t err;
    atomic_store(&router->behaviour, DO_SILENCE);
    atomic_store(&second->behaviour, DO_SILENCE);
    assert_int_equal(execute(sp, NULL, false, 300, NULL, &err), SHARDPLANE_E_OUTCOME_UNKNOWN);
    assert_false(err.retryable);
    assert_string_equal(err.name, "outcome_unknown");
    // Never sent twice.
    assert_int_equal(atomic_load(&router->executes) + atomic_load(&second->executes), 1);
    shardplane_close(&sp);
    router_stop(&second);
}

static void last_key(router_t *router, char out[64])
{
    pthread_mutex_lock(&router->lock);
    memcpy(out, router->idempotency_key, 64);
    pthread_mutex_unlock(&router->lock);
}

static void test_lost_answer_with_idempotency_key(void **state)
{
    router_t *router = *state;
    shardplane_t *sp = open_client(router, NULL, false);
    shardplane_error_t err;
    atomic_store(&router->behaviour, DO_SILENCE_ONCE);
    assert_int_equal(execute(sp, "my-key", false, 6000, NULL, &err), 0);
    assert_int_equal(atomic_load(&router->executes), 2);
    char key[64];
    last_key(router, key);
    assert_string_equal(key, "my-key");
    atomic_store(&router->executes, 0);
    assert_int_equal(execute(sp, "", false, 6000, NULL, &err), 0); // a made one
    last_key(router, key);
    assert_int_equal(strlen(key), 26);
    atomic_store(&router->executes, 0);
    assert_int_equal(execute(sp, NULL, true, 6000, NULL, &err), 0); // eventual: only reads
    assert_int_equal(atomic_load(&router->executes), 2);
    shardplane_close(&sp);
}

// The first request may wait at its router still, and be done later: what the second one got is no word about it.
static void test_lost_answer_stays_unknown(void **state)
{
    router_t *router = *state;
    shardplane_t *sp = open_client(router, NULL, false);
    shardplane_error_t err;
    atomic_store(&router->behaviour, DO_SILENCE_THEN_REFUSE);
    assert_int_equal(execute(sp, "k", false, 3000, NULL, &err), SHARDPLANE_E_OUTCOME_UNKNOWN);
    assert_true(atomic_load(&router->executes) > 1);
    assert_false(err.retryable);
    assert_non_null(strstr(err.message, "wait"));
    atomic_store(&router->executes, 0);
    atomic_store(&router->behaviour, DO_SILENCE_THEN_FAIL);
    assert_int_equal(execute(sp, "k", false, 5000, NULL, &err), SHARDPLANE_E_OUTCOME_UNKNOWN);
    assert_int_equal(atomic_load(&router->executes), 2);
    assert_string_equal(err.sqlstate, "42P01");
    // A read changes nothing, whatever becomes of it.
    atomic_store(&router->executes, 0);
    assert_int_equal(execute(sp, NULL, true, 5000, NULL, &err), SHARDPLANE_E_SQL_ERROR);
    shardplane_close(&sp);
}

static void test_other_router_takes_over(void **state)
{
    router_t *good = *state, *bad = router_start();
    atomic_store(&bad->behaviour, DO_SILENCE);
    shardplane_t *sp = open_client(good, bad, false);
    shardplane_error_t err;
    for (int i = 0; i < 10; i++)
        assert_int_equal(execute(sp, "k", false, 10000, NULL, &err), 0);
    // The silent one is left alone for a while after the first time.
    assert_true(atomic_load(&bad->executes) <= 2);
    shardplane_close(&sp);
    router_stop(&bad);
}

// Nothing was sent, so every request may be sent to another router, and none is in doubt.
static void test_dead_routers_are_passed_by(void **state)
{
    router_t *good = *state;
    char dead
        [64]; // a port that is given back may listen for a moment more, and what it takes then is in doubt
    snprintf(dead, sizeof dead, "ipc://@shardplane-client-test-%d", (int)getpid());
    const char *routers[] = {dead, good->endpoint};
    shardplane_options_t o = SHARDPLANE_OPTIONS_INIT;
    o.routers = routers;
    for (o.routers_n = 2; o.routers_n > 0; o.routers_n--) {
        shardplane_t *sp = NULL;
        shardplane_error_t err;
        assert_int_equal(shardplane_open(&sp, &o, &err), 0);
        int64_t began = sp_clock_mono_ms();
        for (int i = 0; i < 6 && o.routers_n == 2; i++)
            assert_int_equal(execute(sp, NULL, false, 6000, NULL, &err), 0);
        if (o.routers_n == 1)
            assert_int_equal(execute(sp, NULL, false, 300, NULL, &err), SHARDPLANE_E_UNAVAILABLE);
        assert_true(sp_clock_mono_ms() - began < 5000);
        shardplane_close(&sp);
    }
    assert_int_equal(atomic_load(&good->executes), 6);
}

static void test_sql_errors_are_final(void **state)
{
    router_t *router = *state;
    shardplane_t *sp = open_client(router, NULL, false);
    shardplane_error_t err;
    atomic_store(&router->behaviour, DO_FAIL);
    assert_int_equal(execute(sp, "k", false, 2000, NULL, &err), SHARDPLANE_E_SQL_ERROR);
    assert_string_equal(err.sqlstate, "42P01");
    assert_string_equal(err.message, "no such table");
    assert_int_equal(atomic_load(&router->executes), 1);
    shardplane_close(&sp);
}

static void test_faults_of_requests(void **state)
{
    shardplane_t *sp = open_client(*state, NULL, false);
    shardplane_error_t err;
    shardplane_request_t *r = shardplane_request_new(NULL, "1");
    shardplane_request_int(r, 1); // before any statement
    shardplane_request_statement(r, "SELECT 1");
    assert_int_equal(shardplane_execute(sp, r, NULL, &err), SHARDPLANE_E_INVALID_ARGUMENT);
    shardplane_request_free(r);
    r = shardplane_request_new(NULL, "1");
    for (int i = 0; i < 101; i++)
        shardplane_request_statement(r, "SELECT 1");
    assert_int_equal(shardplane_execute(sp, r, NULL, &err), SHARDPLANE_E_TOO_LARGE);
    shardplane_request_free(r);
    r = shardplane_request_new(NULL, "1");
    shardplane_request_statement(r, "SELECT $1");
    shardplane_request_text(r, "\xFF"); // no UTF-8
    assert_true(shardplane_execute(sp, r, NULL, &err) < 0);
    shardplane_request_free(r);
    r = shardplane_request_new(NULL, NULL);
    assert_int_equal(shardplane_execute(sp, r, NULL, &err), SHARDPLANE_E_INVALID_ARGUMENT);
    shardplane_request_free(r);
    shardplane_request_free(NULL);
    shardplane_request_int(NULL, 1);
    assert_int_equal(shardplane_execute(sp, NULL, NULL, &err), SHARDPLANE_E_INVALID_ARGUMENT);
    assert_int_equal(atomic_load(&((router_t *)*state)->executes), 0);
    shardplane_close(&sp);
}

// ---- local rings

static void test_route_in_process(void **state)
{
    router_t *router = *state;
    shardplane_t *sp = open_client(router, NULL, true);
    shardplane_owner_t o, asked;
    shardplane_error_t err;
    assert_int_equal(shardplane_shard_for_key(sp, NULL, "x", &asked, &err), 0);
    assert_string_equal(asked.shard_id, "s1");
    assert_int_equal(asked.port, 5);
    assert_int_equal(shardplane_route(sp, NULL, " 042", &o, &err), 0);
    assert_string_equal(o.shard_id, "s1");
    assert_string_equal(o.host, "h1");
    assert_int_equal(o.ring_version, 1);
    assert_true(o.hash == sp_key_hash("42", 2)); // canonical
    int before = atomic_load(&router->gets);
    for (int i = 0; i < 10000; i++)
        assert_int_equal(shardplane_route(sp, NULL, "42", &o, NULL), 0);
    assert_true(atomic_load(&router->gets) - before <= 2);
    assert_int_equal(shardplane_route(sp, NULL, "nonsense", &o, &err),
                     SHARDPLANE_E_INVALID_ARGUMENT);
    int64_t began = sp_clock_mono_ms();
    assert_int_equal(shardplane_route(sp, "other", "1", &o, &err), SHARDPLANE_E_NOT_FOUND);
    assert_true(sp_clock_mono_ms() - began < 2000);
    // A change arrives over the feed.
    sp_clock_sleep_ms(200);
    atomic_store(&router->version, 2);
    atomic_store(&router->publish, 1);
    assert_int_equal(shardplane_wait_newer(sp, NULL, 1, 3000, &err), 0);
    int seen[3] = {0};
    char low[16] = "";
    for (int i = 0; i < 100; i++) {
        char key[16];
        snprintf(key, sizeof key, "%d", i);
        assert_int_equal(shardplane_route(sp, NULL, key, &o, NULL), 0);
        assert_int_equal(o.ring_version, 2);
        assert_string_equal(o.shard_id, o.hash < 0 ? "s1" : "s2");
        seen[o.hash < 0]++;
        if (o.hash < 0)
            memcpy(low, key, sizeof low);
    }
    assert_true(seen[0] > 20 && seen[1] > 20);
    // Another primary under the same version.
    atomic_store(&router->promoted, 1);
    atomic_store(&router->publish, 1);
    for (int64_t end = sp_clock_mono_ms() + 3000; sp_clock_mono_ms() < end;) {
        assert_int_equal(shardplane_route(sp, NULL, low, &o, NULL), 0);
        if (strcmp(o.host, "h9") == 0)
            break;
        sp_clock_sleep_ms(5);
    }
    assert_string_equal(o.host, "h9");
    assert_int_equal(o.ring_version, 2);
    // But no other owners.
    atomic_store(&router->emptied, 1);
    atomic_store(&router->publish, 1);
    sp_clock_sleep_ms(200);
    assert_int_equal(shardplane_route(sp, NULL, low, &o, &err), 0);
    atomic_store(&router->emptied, 0);
    // Never back, never one with a hole.
    atomic_store(&router->version, 1);
    atomic_store(&router->publish, 1);
    assert_int_equal(shardplane_wait_newer(sp, NULL, 2, 200, &err), SHARDPLANE_E_DEADLINE_EXCEEDED);
    atomic_store(&router->version, 99);
    assert_int_equal(shardplane_wait_newer(sp, NULL, 2, 300, &err), SHARDPLANE_E_DEADLINE_EXCEEDED);
    assert_int_equal(shardplane_route(sp, NULL, "42", &o, NULL), 0);
    assert_int_equal(o.ring_version, 2);
    shardplane_close(&sp);
}

static void test_route_without_feed(void **state)
{
    router_t *router = *state;
    shardplane_t *sp = open_client(router, NULL, false);
    shardplane_owner_t o;
    shardplane_error_t err;
    assert_int_equal(shardplane_route(sp, NULL, "1", &o, &err), 0);
    atomic_store(&router->version, 2);
    for (int64_t end = sp_clock_mono_ms() + 5000; o.ring_version < 2 && sp_clock_mono_ms() < end;)
        assert_int_equal(shardplane_route(sp, NULL, "1", &o, &err), 0);
    assert_int_equal(o.ring_version, 2);
    shardplane_close(&sp);
}

typedef struct work {
    router_t *router; // whose ring changes
    int calls;        // so far
    char last[64];    // shard of the last call
} work_t;

static int transact(void *arg, const shardplane_owner_t *owner, shardplane_error_t *err)
{
    (void)err;
    work_t *w = arg;
    w->calls++;
    snprintf(w->last, sizeof w->last, "%s", owner->shard_id);
    if (owner->ring_version >= 2)
        return SHARDPLANE_OK;
    if (w->calls == 3)
        atomic_store(&w->router->version, 2);
    return shardplane_refusal("SHP01", w->calls % 2 ? "{\"reason\":\"in_transition\"}"
                                                    : "{\"reason\":\"not_owner\"}");
}

static int broken(void *arg, const shardplane_owner_t *owner, shardplane_error_t *err)
{
    (void)owner;
    (void)err;
    ++*(int *)arg;
    return SHARDPLANE_E_SQL_ERROR;
}

static int refused(void *arg, const shardplane_owner_t *owner, shardplane_error_t *err)
{
    (void)owner;
    (void)err;
    ++*(int *)arg;
    return SHARDPLANE_E_NOT_OWNER;
}

static void test_transaction_follows_the_key(void **state)
{
    router_t *router = *state;
    shardplane_t *sp = open_client(router, NULL, false);
    shardplane_error_t err;
    work_t w = {.router = router};
    int n = 0;
    const char *key = sp_key_hash("1", 1) >= 0 ? "1" : "2";
    while (sp_key_hash(key, strlen(key)) < 0)
        key = "3";
    assert_int_equal(shardplane_transaction(sp, NULL, key, 5000, transact, &w, &err), 0);
    assert_true(w.calls >= 4);
    assert_string_equal(w.last, "s2");
    assert_int_equal(shardplane_transaction(sp, NULL, key, 5000, broken, &n, &err),
                     SHARDPLANE_E_SQL_ERROR);
    assert_int_equal(n, 1);
    n = 0;
    assert_int_equal(shardplane_transaction(sp, NULL, key, 300, refused, &n, &err),
                     SHARDPLANE_E_NOT_OWNER);
    assert_int_equal(err.code, SHARDPLANE_E_NOT_OWNER);
    assert_true(n > 1 && n < 200);
    shardplane_close(&sp);
}

static void test_refusals(void **state)
{
    (void)state;
    assert_int_equal(shardplane_refusal(NULL, NULL), 0);
    assert_int_equal(shardplane_refusal("23505", "{\"reason\":\"not_owner\"}"), 0);
    assert_int_equal(shardplane_refusal("SHP01", "{\"reason\":\"not_owner\"}"),
                     SHARDPLANE_E_NOT_OWNER);
    assert_int_equal(shardplane_refusal("SHP01", "{\"reason\":\"in_transition\"}"),
                     SHARDPLANE_E_IN_TRANSITION);
    assert_int_equal(shardplane_refusal("SHP01", "garbage"), SHARDPLANE_E_IN_TRANSITION);
    assert_int_equal(shardplane_refusal("SHP01", NULL), SHARDPLANE_E_IN_TRANSITION);
}

static void test_bad_options(void **state)
{
    (void)state;
    shardplane_t *sp = NULL;
    shardplane_options_t o = SHARDPLANE_OPTIONS_INIT;
    assert_int_equal(shardplane_open(&sp, &o, NULL), SHARDPLANE_E_INVALID_ARGUMENT);
    const char *bad[] = {"127.0.0.1:7601"};
    o.routers = bad;
    o.routers_n = 1;
    assert_int_equal(shardplane_open(&sp, &o, NULL), SHARDPLANE_E_INVALID_ARGUMENT);
    o.size = 0;
    assert_int_equal(shardplane_open(&sp, &o, NULL), SHARDPLANE_E_INVALID_ARGUMENT);
    assert_null(sp);
}

// The public codes are those of schemas/errors.json.
static void test_codes(void **state)
{
    (void)state;
    assert_string_equal(shardplane_version(), sp_config_version()); // one release, two places
    assert_string_equal(shardplane_code_name(SHARDPLANE_E_INVALID_ARGUMENT), "invalid_argument");
    assert_string_equal(shardplane_code_name(SHARDPLANE_E_OUTCOME_UNKNOWN), "outcome_unknown");
    assert_int_equal(SHARDPLANE_E_IDEMPOTENCY_MISMATCH, SP_E_IDEMPOTENCY_MISMATCH);
    assert_int_equal(SHARDPLANE_E_KEY_MISMATCH, SP_E_KEY_MISMATCH);
    assert_int_equal(SHARDPLANE_E_SQL_ERROR, SP_E_SQL_ERROR);
    assert_int_equal(SHARDPLANE_E_UNAVAILABLE, SP_E_UNAVAILABLE);
    assert_int_equal(SHARDPLANE_E_CATALOG_UNAVAILABLE, SP_E_CATALOG_UNAVAILABLE);
    assert_int_equal(SHARDPLANE_E_IN_TRANSITION, SP_E_IN_TRANSITION);
    assert_int_equal(SHARDPLANE_E_NOT_OWNER, SP_E_NOT_OWNER);
    assert_int_equal(SHARDPLANE_E_NO_OWNER, SP_E_NO_OWNER);
    assert_int_equal(SHARDPLANE_E_DEADLINE_EXCEEDED, SP_E_DEADLINE_EXCEEDED);
    assert_int_equal(SHARDPLANE_E_OUTCOME_UNKNOWN, SP_E_OUTCOME_UNKNOWN);
    assert_int_equal(SHARDPLANE_E_PG_CONNECTION, SP_E_PG_CONNECTION);
    assert_int_equal(SHARDPLANE_E_NOT_FOUND, SP_E_NOT_FOUND);
    assert_int_equal(SHARDPLANE_E_CONFLICT, SP_E_CONFLICT);
    assert_int_equal(SHARDPLANE_E_RATE_LIMITED, SP_E_RATE_LIMITED);
    assert_int_equal(SHARDPLANE_E_OUT_OF_MEMORY, SP_E_OUT_OF_MEMORY);
    assert_int_equal(SHARDPLANE_E_FORBIDDEN, SP_E_FORBIDDEN);
    assert_int_equal(SHARDPLANE_E_MISSING_FIELD, SP_E_MISSING_FIELD);
    assert_int_equal(SHARDPLANE_E_TOO_LARGE, SP_E_TOO_LARGE);
    assert_int_equal(SHARDPLANE_E_UNSUPPORTED_VERSION, SP_E_UNSUPPORTED_VERSION);
    assert_int_equal(SHARDPLANE_E_UNKNOWN_MESSAGE, SP_E_UNKNOWN_MESSAGE);
    assert_int_equal(SHARDPLANE_E_UNAUTHENTICATED, SP_E_UNAUTHENTICATED);
    assert_int_equal(SHARDPLANE_E_MALFORMED, SP_E_MALFORMED);
    assert_int_equal(SHARDPLANE_E_INTERNAL, SP_E_INTERNAL);
}

// ---- many threads

static void *hammer(void *arg)
{
    shardplane_t *sp = arg;
    intptr_t wrong = 0;
    for (int i = 0; i < 200; i++) {
        shardplane_owner_t o;
        wrong += execute(sp, NULL, false, 5000, NULL, NULL) != 0;
        wrong += shardplane_route(sp, NULL, "5", &o, NULL) != 0;
    }
    return (void *)wrong;
}

static void test_many_threads(void **state)
{
    router_t *router = *state;
    shardplane_t *sp = open_client(router, NULL, true);
    pthread_t threads[8];
    for (int i = 0; i < 8; i++)
        pthread_create(&threads[i], NULL, hammer, sp);
    atomic_store(&router->version, 2);
    atomic_store(&router->publish, 1);
    for (int i = 0; i < 8; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        assert_null(wrong);
    }
    assert_int_equal(atomic_load(&router->executes), 1600);
    shardplane_close(&sp);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_result),
        TEST(test_refused_is_asked_again),
        TEST(test_lost_answer_is_unknown),
        TEST(test_lost_answer_with_idempotency_key),
        TEST(test_lost_answer_stays_unknown),
        TEST(test_other_router_takes_over),
        TEST(test_dead_routers_are_passed_by),
        TEST(test_sql_errors_are_final),
        TEST(test_faults_of_requests),
        TEST(test_route_in_process),
        TEST(test_route_without_feed),
        TEST(test_transaction_follows_the_key),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_codes),
        TEST(test_many_threads),
    };
    sp_mesh_setup();
    return cmocka_run_group_tests_name("client", tests, NULL, NULL);
}
