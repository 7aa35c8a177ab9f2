// Mesh: requests and replies over real sockets, hostile frames, timeouts, events, actors, signals.
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/clock.h"
#include "common/mesh/actor.h"
#include "common/mesh/frames.h"
#include "common/mesh/mesh.h"
#include "common/mesh/signals.h"
#include "schemas/route.h"
#include "schemas/task.h"

enum { DEADLINE_MS = 5000 };
#define TRACE "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// ---- a loop that runs until a condition holds

typedef struct waiter {
    const int *value;    // what is looked at
    int wanted;          // ends when *value >= wanted
    int64_t deadline_ms; // the test fails then
} waiter_t;

static int look(zloop_t *loop, int timer, void *arg)
{
    (void)loop;
    (void)timer;
    waiter_t *w = arg;
    return *w->value >= w->wanted || sp_clock_mono_ms() > w->deadline_ms ? -1 : 0;
}

static bool run_until(zloop_t *loop, const int *value, int wanted)
{
    waiter_t w = {value, wanted, sp_clock_mono_ms() + DEADLINE_MS};
    int timer = zloop_timer(loop, 2, 0, look, &w);
    zloop_start(loop);
    zloop_timer_end(loop, timer);
    return *value >= wanted;
}

static void run_for(zloop_t *loop, int ms)
{
    int never = 0;
    waiter_t w = {&never, 1, sp_clock_mono_ms() + ms};
    int timer = zloop_timer(loop, 2, 0, look, &w);
    zloop_start(loop);
    zloop_timer_end(loop, timer);
}

// ---- a service

typedef struct service {
    zloop_t *loop;         // its loop
    sp_server_t *server;   // its server
    sp_request_t *kept[4]; // by on_execute
    int kept_n;            // how often
    zframe_t *worker;      // identity of who said hello
    int heartbeats;        // received
} service_t;

static void on_key(void *self, sp_request_t *r)
{
    (void)self;
    sp_msg_shard_for_key_t *m = r->body;
    sp_msg_shard_for_key_reply_t reply = {.shard_id = sp_str("s1"),
                                          .keyspace = m->keyspace,
                                          .key = m->key};
    reply.has_hash = reply.has_ring_version = true;
    reply.ring_version = 7;
    if (sp_str_eqz(m->key, "fail"))
        sp_request_fail(&r, SP_E_NO_OWNER, "nobody owns %s", "fail");
    else if (sp_str_eqz(m->key, "forget"))
        return;
    else if (sp_str_eqz(m->key, "unencodable")) {
        reply.shard_id = (sp_str_t){0}; // required
        sp_request_reply(&r, &sp_schema_shard_for_key_reply, &reply);
    } else
        sp_request_reply(&r, &sp_schema_shard_for_key_reply, &reply);
}

static void on_execute(void *arg, sp_request_t *r)
{
    service_t *self = arg;
    sp_request_keep(r);
    assert_true(self->kept_n < 4);
    self->kept[self->kept_n++] = r;
}

static void on_hello(void *arg, sp_request_t *r)
{
    service_t *self = arg;
    zframe_destroy(&self->worker);
    self->worker = zframe_dup(r->identity);
    sp_msg_worker_welcome_t welcome = {.heartbeat_ms = 1000, .has_heartbeat_ms = true};
    sp_request_reply(&r, &sp_schema_worker_welcome, &welcome);
}

static void on_heartbeat(void *arg, sp_request_t *r)
{
    ((service_t *)arg)->heartbeats++;
    sp_request_done(&r);
}

static const sp_dispatch_t table[] = {
    {&sp_schema_shard_for_key, on_key},
    {&sp_schema_execute, on_execute},
    {&sp_schema_worker_hello, on_hello},
    {&sp_schema_heartbeat, on_heartbeat},
    {NULL, NULL},
};

static int setup(void **state)
{
    service_t *self = calloc(1, sizeof *self);
    self->loop = sp_mesh_loop();
    sp_error_t err = {0};
    assert_int_equal(sp_server_open(&self->server, self->loop, "tcp://127.0.0.1:*", "router", "r1",
                                    table, self, &err),
                     0);
    sp_server_stamp(self->server, 1, 42, 7);
    sp_server_set_ready(self->server, true);
    *state = self;
    return 0;
}

static int teardown(void **state)
{
    service_t *self = *state;
    for (int i = 0; i < 4; i++)
        sp_request_done(&self->kept[i]);
    sp_server_close(&self->server);
    zframe_destroy(&self->worker);
    zloop_destroy(&self->loop);
    free(self);
    return 0;
}

// ---- a caller

typedef struct answer {
    int n;                     // how often it was called
    sp_error_t err;            // copy
    const sp_schema_t *schema; // of the body
    char text[256];            // key or message of the body
    int64_t epoch;             // of the envelope
    char request_id[65];       // of the envelope
    char traceparent[65];      // of the envelope
    sp_peer_t **close;         // closed in the callback
} answer_t;

static void on_reply(void *arg, const sp_error_t *err, const sp_msg_envelope_t *envelope,
                     const sp_schema_t *schema, const void *body)
{
    answer_t *a = arg;
    a->n++;
    a->err = *err;
    a->schema = schema;
    a->epoch = envelope ? envelope->epoch : -1;
    snprintf(a->request_id, sizeof a->request_id, SP_STR_FMT,
             SP_STR_ARG(envelope ? envelope->request_id : (sp_str_t){0}));
    snprintf(a->traceparent, sizeof a->traceparent, SP_STR_FMT,
             SP_STR_ARG(envelope ? envelope->traceparent : (sp_str_t){0}));
    if (schema == &sp_schema_shard_for_key_reply)
        snprintf(a->text, sizeof a->text, SP_STR_FMT,
                 SP_STR_ARG(((const sp_msg_shard_for_key_reply_t *)body)->key));
    if (a->close)
        sp_peer_close(a->close);
}

static sp_peer_t *open_peer_to(service_t *s, const char *endpoint)
{
    sp_peer_t *peer = NULL;
    assert_int_equal(sp_peer_open(&peer, s->loop, endpoint, NULL, NULL, NULL), 0);
    return peer;
}

static sp_peer_t *open_peer(service_t *s)
{
    return open_peer_to(s, sp_server_endpoint(s->server));
}

static void ask(sp_peer_t *peer, const char *key, const char *request_id, int timeout_ms,
                answer_t *a)
{
    sp_msg_shard_for_key_t m = {.keyspace = sp_str("default"), .key = sp_str(key)};
    sp_msg_envelope_t e = {.request_id = sp_str(request_id), .traceparent = sp_str(TRACE)};
    assert_int_equal(sp_peer_call(peer, &sp_schema_shard_for_key, &m, &e, timeout_ms, on_reply, a,
                                  NULL),
                     0);
}

static void execute_as(sp_peer_t *peer, const char *request_id, int timeout_ms, answer_t *a)
{
    sp_msg_execute_t m = {.keyspace = sp_str("default"),
                          .shard_key = sp_str("1"),
                          .sql = sp_str("SELECT 1")};
    sp_msg_envelope_t e = {.request_id = sp_str(request_id)};
    assert_int_equal(sp_peer_call(peer, &sp_schema_execute, &m, &e, timeout_ms, on_reply, a, NULL),
                     0);
}

static void execute(sp_peer_t *peer, int timeout_ms, answer_t *a)
{
    execute_as(peer, NULL, timeout_ms, a);
}

// ---- requests and replies

static void test_reply_carries_id_and_stamp(void **state)
{
    service_t *s = *state;
    sp_peer_t *peer = open_peer(s);
    answer_t a = {0};
    ask(peer, "abc", "my-id", 1000, &a);
    assert_true(run_until(s->loop, &a.n, 1));
    assert_int_equal(a.err.code, 0);
    assert_ptr_equal(a.schema, &sp_schema_shard_for_key_reply);
    assert_string_equal(a.text, "abc");
    assert_string_equal(a.request_id, "my-id");
    assert_string_equal(a.traceparent, TRACE);
    assert_int_equal(a.epoch, 42);
    sp_peer_close(&peer);
}

static void test_same_request_id_twice(void **state)
{
    service_t *s = *state;
    sp_peer_t *peer = open_peer(s);
    answer_t a[2] = {0};
    ask(peer, "one", "same", 1000, &a[0]);
    ask(peer, "two", "same", 1000, &a[1]);
    assert_true(run_until(s->loop, &a[0].n, 1) && run_until(s->loop, &a[1].n, 1));
    assert_string_equal(a[0].text, "one");
    assert_string_equal(a[1].text, "two");
    sp_peer_close(&peer);
}

// A server that closes has answered: what it said last is not lost with it.
static void test_last_reply_outlives_the_server(void **state)
{
    service_t *s = *state;
    sp_peer_t *peer = open_peer(s);
    answer_t a = {0};
    execute(peer, 5000, &a);
    assert_true(run_until(s->loop, &s->kept_n, 1));
    enum { SIZE = 8 * 1024 * 1024 };
    char *text = malloc(SIZE);
    memset(text, 'x', SIZE);
    sp_value_t value = {.kind = SP_VALUE_STRING, .u.s = {text, SIZE}};
    sp_value_t row = {.kind = SP_VALUE_LIST, .u.list = {&value, 1}};
    sp_msg_statement_result_t result = {.rows = {&row, 1}};
    sp_msg_execute_reply_t reply = {.shard_id = sp_str("s1"),
                                    .has_ring_version = true,
                                    .results = {&result, 1}};
    sp_request_reply(&s->kept[0], &sp_schema_execute_reply, &reply);
    sp_server_close(&s->server);
    free(text);
    assert_true(run_until(s->loop, &a.n, 1));
    assert_int_equal(a.err.code, 0);
    sp_peer_close(&peer);
}

static void test_ping(void **state)
{
    service_t *s = *state;
    sp_peer_t *peer = open_peer(s);
    answer_t a = {0};
    sp_msg_ping_t ping = {0};
    assert_int_equal(sp_peer_call(peer, &sp_schema_ping, &ping, NULL, 1000, on_reply, &a, NULL), 0);
    assert_true(run_until(s->loop, &a.n, 1));
    assert_ptr_equal(a.schema, &sp_schema_pong);
    sp_peer_close(&peer);
}

static void test_errors_of_handlers(void **state)
{
    service_t *s = *state;
    sp_peer_t *peer = open_peer(s);
    answer_t a[3] = {0};
    ask(peer, "fail", NULL, 1000, &a[0]);
    ask(peer, "forget", NULL, 1000, &a[1]);
    ask(peer, "unencodable", NULL, 1000, &a[2]);
    for (int i = 0; i < 3; i++)
        assert_true(run_until(s->loop, &a[i].n, 1));
    assert_int_equal(a[0].err.code, SP_E_NO_OWNER);
    assert_true(a[0].err.retryable);
    assert_string_equal(a[0].err.text, "nobody owns fail");
    for (int i = 0; i < 3; i++)
        assert_string_equal(a[i].traceparent, TRACE);
    assert_int_equal(a[1].err.code, SP_E_INTERNAL);
    assert_int_equal(a[2].err.code, SP_E_INTERNAL);
    sp_peer_close(&peer);
}

static void test_many_in_flight(void **state)
{
    enum { N = 2000 };
    service_t *s = *state;
    sp_peer_t *peer = open_peer(s);
    answer_t *a = calloc(N, sizeof *a);
    char key[16];
    for (int i = 0; i < N; i++) {
        snprintf(key, sizeof key, "%d", i);
        ask(peer, key, NULL, 5000, &a[i]);
    }
    for (int i = 0; i < N; i++) {
        assert_true(run_until(s->loop, &a[i].n, 1));
        snprintf(key, sizeof key, "%d", i);
        assert_string_equal(a[i].text, key);
    }
    free(a);
    sp_peer_close(&peer);
}

static void test_kept_request(void **state)
{
    service_t *s = *state;
    sp_peer_t *peer = open_peer(s);
    answer_t a = {0};
    execute(peer, 2000, &a);
    assert_true(run_until(s->loop, &s->kept_n, 1));
    assert_int_equal(a.n, 0);
    assert_true(s->kept[0]->deadline_mono_ms <= sp_clock_mono_ms() + 2000);
    sp_msg_execute_reply_t reply = {.shard_id = sp_str("s1"),
                                    .ring_version = 7,
                                    .has_ring_version = true};
    sp_request_reply(&s->kept[0], &sp_schema_execute_reply, &reply);
    assert_null(s->kept[0]);
    assert_true(run_until(s->loop, &a.n, 1));
    assert_int_equal(a.err.code, 0);
    sp_peer_close(&peer);
}

static void test_server_closes_before_answer(void **state)
{
    service_t *s = *state;
    sp_peer_t *peer = open_peer(s);
    answer_t a = {0};
    execute(peer, 100, &a);
    assert_true(run_until(s->loop, &s->kept_n, 1));
    sp_server_close(&s->server);
    sp_request_fail(&s->kept[0], SP_E_UNAVAILABLE, "too late"); // frees the shell
    assert_true(run_until(s->loop, &a.n, 1));
    assert_int_equal(a.err.code, SP_E_OUTCOME_UNKNOWN);
    sp_peer_close(&peer);
}

// ---- timeouts

static void test_late_reply_is_dropped(void **state)
{
    service_t *s = *state;
    sp_peer_t *peer = open_peer(s);
    answer_t a = {0}, b = {0};
    execute(peer, 50, &a);
    assert_true(run_until(s->loop, &s->kept_n, 1));
    sp_request_t **late = &s->kept[0];
    execute(peer, 3000, &b);
    assert_true(run_until(s->loop, &s->kept_n, 2));
    assert_true(run_until(s->loop, &a.n, 1));
    assert_int_equal(a.err.code, SP_E_OUTCOME_UNKNOWN); // a change that may have been done
    assert_false(a.err.retryable);
    sp_request_fail(late, SP_E_UNAVAILABLE, "late");
    sp_request_fail(&s->kept[1], SP_E_UNAVAILABLE, "in time");
    assert_true(run_until(s->loop, &b.n, 1));
    sp_peer_stats_t stats;
    sp_peer_stats(peer, &stats);
    assert_int_equal(stats.late, 1);
    assert_int_equal(stats.timeouts, 1);
    assert_int_equal(a.n, 1);
    sp_peer_close(&peer);
}

// A client that asks again under the id of what timed out must not be told what became of the first request.
static void test_late_reply_is_not_anothers(void **state)
{
    service_t *s = *state;
    sp_peer_t *peer = open_peer(s);
    answer_t others = {0}, first = {0}, second = {0};
    execute(peer, 3000, &others); // keeps the connection
    assert_true(run_until(s->loop, &s->kept_n, 1));
    execute_as(peer, "same", 50, &first);
    assert_true(run_until(s->loop, &first.n, 1));
    execute_as(peer, "same", 3000, &second);
    assert_true(run_until(s->loop, &s->kept_n, 3));
    sp_request_fail(&s->kept[1], SP_E_UNAVAILABLE, "the first");
    sp_request_fail(&s->kept[2], SP_E_UNAVAILABLE, "the second");
    assert_true(run_until(s->loop, &second.n, 1));
    assert_string_equal(second.err.text, "the second");
    sp_peer_stats_t stats;
    sp_peer_stats(peer, &stats);
    assert_int_equal(stats.late, 1);
    // The id is free again.
    execute_as(peer, "same", 3000, &first);
    assert_true(run_until(s->loop, &s->kept_n, 4));
    sp_request_fail(&s->kept[3], SP_E_UNAVAILABLE, "the third");
    assert_true(run_until(s->loop, &first.n, 2));
    assert_string_equal(first.request_id, "same");
    sp_peer_close(&peer);
}

// A peer of an endpoint where nobody listens, and nobody has: libzmq gives a port back in its own time, and somebody else may take it first.
static sp_peer_t *open_quiet_peer(service_t *s, char endpoint[64])
{
    static int n;
    snprintf(endpoint, 64, "ipc://@shardplane-mesh-test-%d-%d", (int)getpid(), n++);
    return open_peer_to(s, endpoint);
}

// Somebody listens there now.
static sp_server_t *listen_at(service_t *s, const char *endpoint)
{
    sp_server_t *later = NULL;
    assert_int_equal(sp_server_open(&later, s->loop, endpoint, "router", "r2", table, s, NULL), 0);
    return later;
}

static void test_silent_endpoint(void **state)
{
    service_t *s = *state;
    char endpoint[64];
    sp_peer_t *peer = open_quiet_peer(s, endpoint);
    answer_t a = {0};
    ask(peer, "x", NULL, 50, &a);
    assert_true(run_until(s->loop, &a.n, 1));
    assert_int_equal(a.err.code, SP_E_UNAVAILABLE); // only reads
    assert_true(a.err.retryable);
    // It is not done when somebody listens there later.
    sp_server_t *later = listen_at(s, endpoint);
    answer_t b = {0};
    ask(peer, "y", NULL, 3000, &b);
    assert_true(run_until(s->loop, &b.n, 1));
    assert_string_equal(b.text, "y");
    sp_server_stats_t seen;
    sp_server_stats(later, &seen);
    assert_int_equal(seen.requests, 1);
    sp_peer_close(&peer);
    sp_server_close(&later);
}

// The same while other calls always wait: what timed out before anybody listened is not done when somebody does.
static void test_silent_endpoint_under_traffic(void **state)
{
    enum { N = 60, TIMEOUT_MS = 100 };
    service_t *s = *state;
    char endpoint[64];
    sp_peer_t *peer = open_quiet_peer(s, endpoint);
    answer_t *a = calloc(N, sizeof *a);
    for (int i = 0; i < N; i++) {
        ask(peer, "x", NULL, TIMEOUT_MS, &a[i]);
        run_for(s->loop, 10);
    }
    int waiting = 0;
    for (int i = 0; i < N; i++)
        waiting += a[i].n == 0;
    assert_true(waiting > 0 && waiting < N / 2);
    sp_server_t *later = listen_at(s, endpoint);
    answer_t b = {0};
    ask(peer, "y", NULL, 3000, &b);
    assert_true(run_until(s->loop, &b.n, 1));
    assert_string_equal(b.text, "y");
    sp_server_stats_t seen;
    sp_server_stats(later, &seen);
    if (seen.requests > waiting + 1)
        fail_msg("%d requests came, of which at most %d were still wanted", (int)seen.requests,
                 waiting + 1);
    sp_peer_close(&peer);
    sp_server_close(&later);
    free(a);
}

// What waited for somebody to listen is done within the time that its caller still has.
static void test_held_call_keeps_its_deadline(void **state)
{
    service_t *s = *state;
    char endpoint[64];
    sp_peer_t *peer = open_quiet_peer(s, endpoint);
    answer_t a = {0};
    int64_t deadline = sp_clock_mono_ms() + 5000;
    execute(peer, 5000, &a);
    run_for(s->loop, 500);
    sp_server_t *later = listen_at(s, endpoint);
    assert_true(run_until(s->loop, &s->kept_n, 1));
    assert_true(s->kept[0]->deadline_mono_ms <= deadline + 100);
    sp_peer_close(&peer);
    sp_server_close(&later);
}

static void test_close_ends_calls(void **state)
{
    service_t *s = *state;
    sp_peer_t *peer = open_peer(s);
    answer_t a[4] = {0};
    // Nothing is sent before the loop has seen a connection, so nothing was done.
    execute(peer, 5000, &a[0]);
    sp_peer_close(&peer);
    assert_int_equal(a[0].n, 1);
    assert_int_equal(a[0].err.code, SP_E_UNAVAILABLE);
    peer = open_peer(s);
    ask(peer, "x", NULL, 5000, &a[1]);
    assert_true(run_until(s->loop, &a[1].n, 1));
    ask(peer, "x", NULL, 5000, &a[2]);
    execute(peer, 5000, &a[3]);
    sp_peer_close(&peer);
    assert_int_equal(a[2].n, 1);
    assert_int_equal(a[2].err.code, SP_E_UNAVAILABLE);
    assert_int_equal(a[3].n, 1);
    assert_int_equal(a[3].err.code, SP_E_OUTCOME_UNKNOWN);
}

// A change for an endpoint that nobody listens on was surely not done.
static void test_change_that_was_not_sent(void **state)
{
    service_t *s = *state;
    sp_peer_t *peer = NULL;
    answer_t a = {0};
    assert_int_equal(sp_peer_open(&peer, s->loop, "tcp://127.0.0.1:1", NULL, NULL, NULL), 0);
    sp_msg_heartbeat_t beat = {0};
    assert_int_equal(sp_peer_send(peer, &sp_schema_heartbeat, &beat, NULL), SP_E_UNAVAILABLE);
    execute(peer, 50, &a);
    assert_true(run_until(s->loop, &a.n, 1));
    assert_int_equal(a.err.code, SP_E_UNAVAILABLE);
    assert_true(a.err.retryable);
    // And there is an end to what may wait.
    int rc = 0, waiting = 0;
    sp_msg_shard_for_key_t m = {.keyspace = sp_str("default"), .key = sp_str("k")};
    for (; rc == 0 && waiting < 100000; waiting += rc == 0)
        rc = sp_peer_call(peer, &sp_schema_shard_for_key, &m, NULL, 60000, on_reply, &a, NULL);
    assert_int_equal(rc, SP_E_UNAVAILABLE);
    a.n = 0;
    sp_peer_close(&peer);
    assert_int_equal(a.n, waiting);
}

// An answer that came before the connection was lost counts.
static void test_answer_of_a_server_that_leaves(void **state)
{
    service_t *s = *state;
    sp_peer_t *peer = open_peer(s);
    answer_t a = {0};
    execute(peer, 2000, &a);
    assert_true(run_until(s->loop, &s->kept_n, 1));
    sp_msg_execute_reply_t reply = {.shard_id = sp_str("s1"), .has_ring_version = true};
    sp_request_reply(&s->kept[0], &sp_schema_execute_reply, &reply);
    answer_t b = {0};
    execute(peer, 60000, &b); // for which nothing comes any more
    sp_clock_sleep_ms(100);   // it is with the client, who does not look
    sp_server_close(&s->server);
    sp_clock_sleep_ms(100);
    assert_true(run_until(s->loop, &b.n, 1)); // without waiting for its time to pass
    assert_int_equal(a.n, 1);
    assert_int_equal(a.err.code, 0);
    assert_int_equal(b.err.code, SP_E_OUTCOME_UNKNOWN);
    sp_peer_close(&peer);
}

static int close_it(zloop_t *loop, int timer, void *arg)
{
    (void)loop;
    (void)timer;
    sp_peer_close(arg);
    return 0;
}

// A process that slept finds all its timers due in one round: the first closes the peer that the second is for.
static void test_close_while_its_timer_is_due(void **state)
{
    service_t *s = *state;
    sp_peer_t *peer = open_peer(s);
    answer_t a = {0};
    zloop_timer(s->loop, 5, 1, close_it, &peer);
    ask(peer, "forget", NULL, 10, &a);
    sp_clock_sleep_ms(50);
    run_for(s->loop, 50);
    assert_null(peer);
    assert_int_equal(a.n, 1);
}

static void test_close_in_callback(void **state)
{
    service_t *s = *state;
    sp_peer_t *peer = open_peer(s);
    answer_t a = {.close = &peer}, b = {0};
    ask(peer, "x", NULL, 5000, &a);
    ask(peer, "forget", NULL, 5000, &b);
    assert_true(run_until(s->loop, &a.n, 1));
    assert_null(peer);
    assert_int_equal(b.n, 1);
    run_for(s->loop, 20);
    // And on a timeout.
    peer = open_peer(s);
    answer_t c = {.close = &peer}, d = {0};
    execute(peer, 30, &c);
    execute(peer, 30, &d);
    assert_true(run_until(s->loop, &c.n, 1) && run_until(s->loop, &d.n, 1));
    assert_null(peer);
    assert_int_equal(c.n + d.n, 2);
}

// ---- peers that did not ask, and peers that left

static int pushes;

static void on_push(void *arg, const sp_msg_envelope_t *envelope, const sp_schema_t *schema,
                    const void *body)
{
    (void)arg;
    (void)body;
    assert_int_equal(envelope->epoch, 42);
    assert_ptr_equal(schema, &sp_schema_heartbeat);
    pushes++;
}

static void test_push_to_worker(void **state)
{
    service_t *s = *state;
    sp_peer_t *peer = NULL;
    pushes = 0;
    assert_int_equal(sp_peer_open(&peer, s->loop, sp_server_endpoint(s->server), on_push, NULL,
                                  NULL),
                     0);
    answer_t a = {0};
    sp_msg_worker_hello_t hello = {.worker_id = sp_str("w1"), .slots = 2, .has_slots = true};
    assert_int_equal(sp_peer_call(peer, &sp_schema_worker_hello, &hello, NULL, 1000, on_reply, &a,
                                  NULL),
                     0);
    assert_true(run_until(s->loop, &a.n, 1));
    sp_msg_heartbeat_t beat = {0};
    assert_int_equal(sp_server_send(s->server, s->worker, &sp_schema_heartbeat, &beat, NULL), 0);
    assert_true(run_until(s->loop, &pushes, 1));
    assert_int_equal(sp_peer_send(peer, &sp_schema_heartbeat, &beat, NULL), 0);
    assert_true(run_until(s->loop, &s->heartbeats, 1));
    sp_peer_close(&peer);
    // The peer is gone: an error, not silence.
    int rc = 0;
    for (int64_t end = sp_clock_mono_ms() + DEADLINE_MS; rc == 0 && sp_clock_mono_ms() < end;) {
        run_for(s->loop, 10);
        rc = sp_server_send(s->server, s->worker, &sp_schema_heartbeat, &beat, NULL);
    }
    assert_int_equal(rc, SP_E_UNAVAILABLE);
}

static void test_reply_to_peer_that_left(void **state)
{
    service_t *s = *state;
    sp_peer_t *peer = open_peer(s);
    answer_t a = {0};
    execute(peer, 5000, &a);
    assert_true(run_until(s->loop, &s->kept_n, 1));
    sp_peer_close(&peer);
    run_for(s->loop, 100);
    sp_request_fail(&s->kept[0], SP_E_UNAVAILABLE, "x");
    sp_server_stats_t stats;
    sp_server_stats(s->server, &stats);
    assert_int_equal(stats.undeliverable, 1);
    assert_int_equal(stats.in_flight, 0);
}

// ---- hostile frames

typedef struct frame {
    const void *data; // bytes
    size_t len;       // count
} frame_t;

static char raw_request_id[65]; // of the last reply that send_raw has seen

// Sends raw frames and gives the error code of the reply, or 0 when none comes in wait_ms.
static int send_raw(service_t *s, const frame_t *frames, int n, int wait_ms)
{
    zsock_t *sock = zsock_new_dealer(sp_server_endpoint(s->server));
    void *zmq = zsock_resolve(sock);
    for (int i = 0; i < n; i++)
        assert_true(zmq_send(zmq, frames[i].data, frames[i].len, i + 1 < n ? ZMQ_SNDMORE : 0) >= 0);
    int code = 0;
    for (int64_t end = sp_clock_mono_ms() + wait_ms; code == 0 && sp_clock_mono_ms() < end;) {
        run_for(s->loop, 5);
        sp_frames_t got;
        if (!sp_frames_receive(zmq, 2, 1 << 20, &got))
            continue;
        sp_arena_t *arena = sp_arena_new(0);
        sp_msg_error_t e;
        sp_msg_envelope_t head;
        assert_int_equal(got.n, 2);
        assert_int_equal(sp_wire_decode_msgpack(&sp_schema_envelope, sp_frames_data(&got, 0),
                                                sp_frames_size(&got, 0), arena, &head, NULL),
                         0);
        snprintf(raw_request_id, sizeof raw_request_id, SP_STR_FMT, SP_STR_ARG(head.request_id));
        assert_int_equal(sp_wire_decode_msgpack(&sp_schema_error, sp_frames_data(&got, 1),
                                                sp_frames_size(&got, 1), arena, &e, NULL),
                         0);
        char name[65];
        snprintf(name, sizeof name, SP_STR_FMT, SP_STR_ARG(e.code));
        code = sp_error_code(name);
        sp_arena_destroy(&arena);
        sp_frames_close(&got);
    }
    zsock_destroy(&sock);
    return code;
}

#define F(literal) ((frame_t){literal, sizeof(literal) - 1})

static void test_hostile_frames(void **state)
{
    service_t *s = *state;
    const frame_t good_envelope = F("\x82\x01\x01\x02\x65"); // version 1, message 101
    const struct {
        frame_t frames[4]; // what is sent
        int n;             // count
        int code;          // of the reply
    } rows[] = {
        {{F("x")}, 1, SP_E_MALFORMED},
        {{F("")}, 1, SP_E_MALFORMED},
        {{F(""), F("")}, 2, SP_E_MALFORMED},
        {{good_envelope}, 1, SP_E_MALFORMED},
        {{good_envelope, F("\x81\x02\xA1x"), F("x")}, 3, SP_E_MALFORMED},
        {{good_envelope, F("\x81\x02\xA1x"), F("x"), F("y")}, 4, SP_E_MALFORMED},
        {{good_envelope, F("\xDD\x0F\xFF\xFF\xFF")}, 2, SP_E_MALFORMED},
        {{F("\xDD\x0F\xFF\xFF\xFF"), F("\x80")}, 2, SP_E_MALFORMED},
        {{good_envelope, F("\xC1")}, 2, SP_E_MALFORMED},
        {{good_envelope, F("\x80")}, 2, SP_E_MISSING_FIELD},
        {{F("\x82\x01\x02\x02\x65"), F("\x81\x02\xA1x")}, 2, SP_E_UNSUPPORTED_VERSION},
        {{F("\x82\x01\x01\x02\xCD\x30\x39"), F("\x80")}, 2, SP_E_UNKNOWN_MESSAGE},
        {{F("\x83\x01\x01\x02\x65\x04\x00"), F("\x81\x02\xA1x")}, 2, SP_E_DEADLINE_EXCEEDED},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int code = send_raw(s, rows[i].frames, rows[i].n, 2000);
        if (code != rows[i].code)
            fail_msg("row %zu: %s instead of %s", i, sp_error_name(code),
                     sp_error_name(rows[i].code));
    }
    // Over the message's own limit, over every limit, and five frames that only together are too much.
    size_t size = 6 * 1024 * 1024;
    char *big = calloc(1, size);
    const frame_t named_envelope = F("\x83\x01\x01\x02\x65\x03\xa2rq");
    const frame_t over_own[] = {named_envelope, {big, SP_WIRE_MAX_BYTES + 8192}};
    assert_int_equal(send_raw(s, over_own, 2, 2000), SP_E_TOO_LARGE);
    assert_string_equal(raw_request_id, "rq");
    const frame_t over_all[] = {named_envelope, {big, size}};
    assert_int_equal(send_raw(s, over_all, 2, 2000), SP_E_TOO_LARGE);
    assert_string_equal(raw_request_id, "rq");
    const frame_t together[] = {{big, 1 << 20},
                                {big, 1 << 20},
                                {big, 1 << 20},
                                {big, 1 << 20},
                                {big, 1 << 20}};
    assert_int_equal(send_raw(s, together, 5, 2000), SP_E_TOO_LARGE);
    free(big);
    // An error about an error would go on for ever.
    const frame_t error[] = {F("\x82\x01\x01\x02\x01"), F("\x80")};
    assert_int_equal(send_raw(s, error, 2, 100), 0);

    sp_server_stats_t stats;
    sp_server_stats(s->server, &stats);
    assert_int_equal(stats.oversized, 3);
    assert_int_equal(stats.in_flight, 0);
    // Still there.
    sp_peer_t *peer = open_peer(s);
    answer_t a = {0};
    ask(peer, "alive", NULL, 2000, &a);
    assert_true(run_until(s->loop, &a.n, 1));
    assert_int_equal(a.err.code, 0);
    sp_peer_close(&peer);
}

// A list of nothing takes one byte an element on the wire and some twenty in memory. What is kept counts as it stands there.
static void test_kept_memory_is_bounded(void **state)
{
    service_t *s = *state;
    size_t n = 4 * 1024 * 1024 - 64, len = n + 11;
    char *body = malloc(len);
    memset(body, '\xc0', len);
    const char head[] = {'\x82',         2,      '\xa1', 'k', 5, '\x91', '\xdd', 0, (char)(n >> 16),
                         (char)(n >> 8), (char)n};
    memcpy(body, head, sizeof head);
    const frame_t frames[] = {F("\x82\x01\x01\x02\x69"), {body, len}}; // message 105
    zsock_t *sock = zsock_new_dealer(sp_server_endpoint(s->server));
    for (int i = 0; i < 2; i++) {
        for (int f = 0; f < 2; f++)
            assert_true(zmq_send(zsock_resolve(sock), frames[f].data, frames[f].len,
                                 f == 0 ? ZMQ_SNDMORE : 0) >= 0);
        assert_true(run_until(s->loop, &s->kept_n, i + 1));
    }
    assert_int_equal(send_raw(s, frames, 2, 5000), SP_E_RATE_LIMITED);
    assert_int_equal(s->kept_n, 2);
    sp_request_done(&s->kept[0]); // there is room again
    assert_int_equal(send_raw(s, frames, 2, 200), 0);
    assert_int_equal(s->kept_n, 3);
    zsock_destroy(&sock);
    free(body);
}

// A server that answers whatever it is told to.
static void test_hostile_replies(void **state)
{
    service_t *s = *state;
    zsock_t *fake = zsock_new(ZMQ_ROUTER);
    assert_true(zsock_bind(fake, "tcp://127.0.0.1:*") > 0);
    void *zmq = zsock_resolve(fake);
    const struct {
        frame_t body; // of the reply
        int message;  // its id
        int code;     // what the caller is told
        bool change;  // the request is an execute, which may have been done
    } rows[] = {
        {F("\xDD\x0F\xFF\xFF\xFF"), SP_MSG_SHARD_FOR_KEY_REPLY, SP_E_MALFORMED, false},
        {F("\x80"), SP_MSG_SHARD_FOR_KEY_REPLY, SP_E_MISSING_FIELD, false},
        {F("\x80"), SP_MSG_PONG, SP_E_MALFORMED, false},
        {F("\x80"), SP_MSG_ACK, SP_E_MALFORMED, false},
        {F("\x80"), 54321, SP_E_UNKNOWN_MESSAGE, false},
        {F("\x82\x01\xA5"
           "bogus"
           "\x02\xA1x"),
         SP_MSG_ERROR, SP_E_INTERNAL, false},
        {F("\x82\x01\xA9"
           "not_found"
           "\x02\xA1x"),
         SP_MSG_ERROR, SP_E_NOT_FOUND, false},
        {F("\xDD\x0F\xFF\xFF\xFF"), SP_MSG_EXECUTE_REPLY, SP_E_OUTCOME_UNKNOWN, true},
        {F("\x80"), SP_MSG_PONG, SP_E_OUTCOME_UNKNOWN, true},
        {F("\x80"), 54321, SP_E_OUTCOME_UNKNOWN, true},
        {F("\x82\x01\xA9"
           "not_found"
           "\x02\xA1x"),
         SP_MSG_ERROR, SP_E_NOT_FOUND, true},
    };
    sp_msg_execute_t change = {.keyspace = sp_str("default"),
                               .shard_key = sp_str("1"),
                               .sql = sp_str("SELECT 1")};
    sp_msg_envelope_t envelope = {.request_id = sp_str("rq")};
    sp_peer_t *peer = NULL;
    assert_int_equal(sp_peer_open(&peer, s->loop, zsock_endpoint(fake), NULL, NULL, NULL), 0);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        answer_t a = {0};
        if (rows[i].change)
            sp_peer_call(peer, &sp_schema_execute, &change, &envelope, 3000, on_reply, &a, NULL);
        else
            ask(peer, "x", "rq", 3000, &a);
        for (int64_t end = sp_clock_mono_ms() + DEADLINE_MS;
             !(zsock_events(fake) & ZMQ_POLLIN) && sp_clock_mono_ms() < end;)
            run_for(s->loop, 5); // the first waits for the connection
        assert_true(zsock_events(fake) & ZMQ_POLLIN);
        zmsg_t *request = zmsg_recv(fake);
        zframe_t *identity = zmsg_pop(request);
        zmsg_destroy(&request);
        sp_buf_t head = SP_BUF_INIT, unused = SP_BUF_INIT;
        sp_msg_envelope_t e = {.version = 1,
                               .has_version = true,
                               .message = rows[i].message,
                               .has_message = true,
                               .request_id = sp_str("rq")};
        assert_int_equal(sp_wire_encode_msgpack(&sp_schema_envelope, &e, &head, NULL), 0);
        zframe_send(&identity, fake, ZFRAME_MORE);
        // A reply nobody waits for comes first.
        zmq_send(zmq, head.data, head.len, ZMQ_SNDMORE);
        zmq_send(zmq, rows[i].body.data, rows[i].body.len, 0);
        assert_true(run_until(s->loop, &a.n, 1));
        if (a.err.code != rows[i].code)
            fail_msg("row %zu: %s instead of %s", i, sp_error_name(a.err.code),
                     sp_error_name(rows[i].code));
        sp_buf_free(&head);
        sp_buf_free(&unused);
    }
    sp_peer_close(&peer);
    zsock_destroy(&fake);
}

// ---- the blocking call

static void server_thread(sp_actor_end_t *end, void *arg)
{
    (void)arg;
    service_t *s = NULL;
    setup((void **)&s);
    sp_msg_pong_t where = {.service_id = sp_str(sp_server_endpoint(s->server))};
    sp_actor_end_send(end, &sp_schema_pong, &where, NULL);
    while (!sp_actor_end_stopped(end))
        run_for(s->loop, 20);
    teardown((void **)&s);
}

static char thread_endpoint[256];
static int thread_messages;

static void on_thread(void *owner, sp_actor_t *actor, const sp_schema_t *schema, const void *body)
{
    (void)owner;
    (void)actor;
    if (schema == &sp_schema_pong)
        snprintf(thread_endpoint, sizeof thread_endpoint, SP_STR_FMT,
                 SP_STR_ARG(((const sp_msg_pong_t *)body)->service_id));
    thread_messages++;
}

static void test_blocking_call(void **state)
{
    service_t *s = *state;
    sp_actor_t *actor = NULL;
    thread_messages = 0;
    assert_int_equal(sp_actor_start(&actor, s->loop, server_thread, NULL, on_thread, NULL, NULL),
                     0);
    assert_true(run_until(s->loop, &thread_messages, 1));
    sp_arena_t *arena = sp_arena_new(0);
    const sp_schema_t *schema = NULL;
    void *body = NULL;
    sp_error_t err = {0};
    sp_msg_shard_for_key_t m = {.keyspace = sp_str("default"), .key = sp_str("k")};
    assert_int_equal(sp_mesh_call(thread_endpoint, &sp_schema_shard_for_key, &m, 3000, arena,
                                  &schema, &body, &err),
                     0);
    assert_ptr_equal(schema, &sp_schema_shard_for_key_reply);
    assert_true(sp_str_eqz(((sp_msg_shard_for_key_reply_t *)body)->key, "k"));
    m.key = sp_str("fail");
    assert_int_equal(sp_mesh_call(thread_endpoint, &sp_schema_shard_for_key, &m, 3000, arena,
                                  &schema, &body, &err),
                     SP_E_NO_OWNER);
    sp_msg_execute_t x = {.keyspace = sp_str("default"),
                          .shard_key = sp_str("1"),
                          .sql = sp_str("SELECT 1")};
    assert_int_equal(sp_mesh_call(thread_endpoint, &sp_schema_execute, &x, 100, arena, &schema,
                                  &body, &err),
                     SP_E_OUTCOME_UNKNOWN);
    assert_int_equal(sp_mesh_call("nonsense", &sp_schema_execute, &x, 100, arena, &schema, &body,
                                  &err),
                     SP_E_INVALID_ARGUMENT);
    sp_arena_destroy(&arena);
    sp_actor_stop(&actor);
}

// ---- events

typedef struct seen {
    int n;                   // messages and gaps
    int gaps;                // gaps
    int64_t sequence;        // last one
    sp_subscriber_t **close; // closed in the callback
} seen_t;

static void on_event(void *arg, const char *topic, const sp_schema_t *schema, const void *body,
                     bool gap)
{
    seen_t *seen = arg;
    assert_non_null(topic);
    seen->gaps += gap;
    if (schema)
        seen->sequence = ((const sp_msg_event_t *)body)->sequence;
    seen->n++;
    if (seen->close)
        sp_subscriber_close(seen->close);
}

// Until the subscription has arrived, heartbeats are lost.
static void beat_until_seen(service_t *s, sp_publisher_t *pub, const seen_t *seen, int n)
{
    for (int64_t end = sp_clock_mono_ms() + DEADLINE_MS; seen->n < n && sp_clock_mono_ms() < end;) {
        sp_publisher_heartbeat(pub);
        run_for(s->loop, 10);
    }
    assert_int_equal(seen->n, n);
}

static void test_events_and_gaps(void **state)
{
    service_t *s = *state;
    sp_publisher_t *pub = NULL;
    sp_subscriber_t *sub = NULL;
    seen_t seen = {0};
    assert_int_equal(sp_publisher_open(&pub, "tcp://127.0.0.1:*", "m1", NULL), 0);
    assert_int_equal(sp_subscriber_open(&sub, s->loop, sp_publisher_endpoint(pub), "job.",
                                        &sp_schema_event, on_event, &seen, NULL),
                     0);
    int64_t first = sp_publisher_sequence(pub);
    beat_until_seen(s, pub, &seen, 1);
    run_for(s->loop, 20);
    assert_int_equal(seen.n, 1); // the first is a gap, the others say nothing new
    assert_int_equal(seen.gaps, 1);
    sp_msg_event_t event = {.kind = sp_str("job.state"), .job_id = sp_str("j")};
    assert_int_equal(sp_publisher_event(pub, &event), first + 1);
    assert_int_equal(sp_publisher_event(pub, &event), first + 2);
    assert_true(run_until(s->loop, &seen.n, 3));
    assert_int_equal(seen.gaps, 1);
    sp_publisher_next(pub); // as if the third had been lost
    sp_publisher_event(pub, &event);
    assert_true(run_until(s->loop, &seen.n, 4));
    assert_int_equal(seen.gaps, 2);
    assert_int_equal(seen.sequence, first + 4);
    sp_publisher_next(pub); // lost, and nothing follows but the heartbeat
    sp_publisher_heartbeat(pub);
    assert_true(run_until(s->loop, &seen.n, 5));
    assert_int_equal(seen.gaps, 3);
    // Other topics do not come.
    event.kind = sp_str("ring.changed");
    sp_publisher_event(pub, &event);
    run_for(s->loop, 50);
    assert_int_equal(seen.n, 5);
    seen.close = &sub;
    event.kind = sp_str("job.state");
    sp_publisher_event(pub, &event);
    sp_publisher_event(pub, &event);
    assert_true(run_until(s->loop, &seen.n, 6));
    assert_null(sub);
    sp_publisher_close(&pub);
}

// A publisher that starts again has published as much as its forerunner before anybody hears it.
static void test_restart_of_a_publisher_is_a_gap(void **state)
{
    service_t *s = *state;
    sp_publisher_t *pub = NULL;
    sp_subscriber_t *sub = NULL;
    seen_t seen = {0};
    sp_msg_event_t event = {.kind = sp_str("ring.changed")};
    char endpoint[256];
    assert_int_equal(sp_publisher_open(&pub, "tcp://127.0.0.1:*", "r1", NULL), 0);
    snprintf(endpoint, sizeof endpoint, "%s", sp_publisher_endpoint(pub));
    assert_int_equal(sp_subscriber_open(&sub, s->loop, endpoint, "", &sp_schema_event, on_event,
                                        &seen, NULL),
                     0);
    beat_until_seen(s, pub, &seen, 1);
    sp_publisher_event(pub, &event);
    assert_true(run_until(s->loop, &seen.n, 2));
    assert_int_equal(seen.gaps, 1);
    sp_publisher_close(&pub);
    int rc = SP_E_IO; // libzmq gives the port back in its own time
    for (int64_t end = sp_clock_mono_ms() + DEADLINE_MS; rc != 0 && sp_clock_mono_ms() < end;)
        rc = sp_publisher_open(&pub, endpoint, "r1", NULL);
    assert_int_equal(rc, 0);
    sp_publisher_event(pub, &event); // lost
    beat_until_seen(s, pub, &seen, 3);
    assert_int_equal(seen.gaps, 2);
    sp_subscriber_close(&sub);
    sp_publisher_close(&pub);
}

// ---- actors

static void echo_thread(sp_actor_end_t *end, void *arg)
{
    int *limit = arg;
    sp_arena_t *arena = sp_arena_new(0);
    for (int i = 0; i < *limit;) {
        const sp_schema_t *schema;
        void *body;
        if (!sp_actor_end_receive(end, 100, arena, &schema, &body))
            continue;
        if (!schema || sp_actor_end_send(end, schema, body, NULL) != 0)
            break;
        sp_arena_reset(arena);
        i++;
    }
    sp_arena_destroy(&arena);
    free(limit);
}

typedef struct heard {
    int n;             // messages
    int ended;         // the thread has ended
    sp_actor_t **stop; // stopped in the callback
} heard_t;

static void on_heard(void *owner, sp_actor_t *actor, const sp_schema_t *schema, const void *body)
{
    (void)actor;
    (void)body;
    heard_t *h = owner;
    if (schema)
        h->n++;
    else
        h->ended++;
    if (h->stop)
        sp_actor_stop(h->stop);
}

static int *boxed(int value)
{
    int *p = malloc(sizeof *p);
    *p = value;
    return p;
}

static void test_actor_echo_and_end(void **state)
{
    service_t *s = *state;
    heard_t h = {0};
    sp_actor_t *actor = NULL;
    assert_int_equal(sp_actor_start(&actor, s->loop, echo_thread, boxed(1000), on_heard, &h, NULL),
                     0);
    sp_msg_ack_t ack = {.ok = true, .has_ok = true};
    for (int i = 0; i < 1000; i++)
        assert_int_equal(sp_actor_send(actor, &sp_schema_ack, &ack, NULL), 0);
    assert_true(run_until(s->loop, &h.ended, 1));
    assert_int_equal(h.n, 1000);
    run_for(s->loop, 20);
    assert_int_equal(h.ended, 1);
    sp_actor_stop(&actor);
}

static void test_actor_ask_stop(void **state)
{
    service_t *s = *state;
    heard_t h = {0};
    sp_actor_t *actor = NULL;
    assert_int_equal(sp_actor_start(&actor, s->loop, echo_thread, boxed(1 << 30), on_heard, &h,
                                    NULL),
                     0);
    sp_msg_ack_t ack = {.ok = true, .has_ok = true};
    sp_actor_send(actor, &sp_schema_ack, &ack, NULL);
    sp_actor_ask_stop(actor);
    assert_int_equal(sp_actor_send(actor, &sp_schema_ack, &ack, NULL), SP_E_CANCELLED);
    assert_true(run_until(s->loop, &h.ended, 1));
    assert_int_equal(h.n, 1);
    h.stop = &actor;
    sp_actor_stop(&actor);
    // In the callback.
    assert_int_equal(sp_actor_start(&actor, s->loop, echo_thread, boxed(1 << 30), on_heard, &h,
                                    NULL),
                     0);
    for (int i = 0; i < 3; i++)
        sp_actor_send(actor, &sp_schema_ack, &ack, NULL);
    assert_true(run_until(s->loop, &h.n, 2));
    run_for(s->loop, 20);
    assert_null(actor);
    assert_int_equal(h.n, 2);
}

static void flood_thread(sp_actor_end_t *end, void *arg)
{
    (void)arg;
    sp_msg_ack_t ack = {.ok = true, .has_ok = true};
    while (sp_actor_end_send(end, &sp_schema_ack, &ack, NULL) == 0)
        ;
}

static void test_actor_full_queues(void **state)
{
    service_t *s = *state;
    heard_t h = {0};
    sp_actor_t *actor = NULL;
    assert_int_equal(sp_actor_start(&actor, s->loop, flood_thread, NULL, on_heard, &h, NULL), 0);
    sp_clock_sleep_ms(50); // nobody reads; the thread waits
    sp_msg_ack_t ack = {.ok = true, .has_ok = true};
    int rc = 0, sent = 0;
    while (rc == 0 && sent++ < 10000)
        rc = sp_actor_send(actor, &sp_schema_ack, &ack, NULL); // nor does it
    assert_int_equal(rc, SP_E_RATE_LIMITED);
    sp_actor_stop(&actor);
}

// ---- signals

static int seen_signal;

static int on_signal(void *arg, int signo)
{
    (void)arg;
    seen_signal = signo;
    return signo == SIGHUP ? 0 : -1;
}

static void test_signals(void **state)
{
    service_t *s = *state;
    sp_signals_t *signals = NULL, *second = NULL;
    assert_int_equal(sp_signals_open(&signals, s->loop, on_signal, NULL, NULL), 0);
    assert_int_equal(sp_signals_open(&second, s->loop, on_signal, NULL, NULL), SP_E_CONFLICT);
    raise(SIGPIPE);
    raise(SIGHUP);
    run_for(s->loop, 20);
    assert_int_equal(seen_signal, SIGHUP);
    raise(SIGTERM);
    zloop_start(s->loop); // ends
    assert_int_equal(seen_signal, SIGTERM);
    sp_signals_close(&signals);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_reply_carries_id_and_stamp),
        TEST(test_same_request_id_twice),
        TEST(test_last_reply_outlives_the_server),
        TEST(test_ping),
        TEST(test_errors_of_handlers),
        TEST(test_many_in_flight),
        TEST(test_kept_request),
        TEST(test_server_closes_before_answer),
        TEST(test_late_reply_is_dropped),
        TEST(test_late_reply_is_not_anothers),
        TEST(test_silent_endpoint),
        TEST(test_silent_endpoint_under_traffic),
        TEST(test_held_call_keeps_its_deadline),
        TEST(test_close_ends_calls),
        TEST(test_change_that_was_not_sent),
        TEST(test_answer_of_a_server_that_leaves),
        TEST(test_close_while_its_timer_is_due),
        TEST(test_close_in_callback),
        TEST(test_push_to_worker),
        TEST(test_reply_to_peer_that_left),
        TEST(test_hostile_frames),
        TEST(test_kept_memory_is_bounded),
        TEST(test_hostile_replies),
        TEST(test_blocking_call),
        TEST(test_events_and_gaps),
        TEST(test_restart_of_a_publisher_is_a_gap),
        TEST(test_actor_echo_and_end),
        TEST(test_actor_ask_stop),
        TEST(test_actor_full_queues),
        TEST(test_signals),
    };
    return cmocka_run_group_tests_name("mesh", tests, NULL, NULL);
}
