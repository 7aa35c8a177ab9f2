// The store's contract: each test runs against the fake and against a private etcd; some only make sense for etcd.
#include "tests/contract/private_etcd.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#include "common/store/etcd_http.h"
#include "common/store/store_impl.h"

static private_etcd_t etcd;
static int opened; // gives each test its own prefix

typedef struct env {
    bool is_etcd;               // else the fake
    char prefix[64];            // of keys; also the fake's name
    const char *urls[1];        // of etcd
    sp_store_options_t options; // for etcd
    sp_store_t *store;          // open
    sp_arena_t *arena;          // scratch
} env_t;

static sp_store_t *open_store(const env_t *e)
{
    sp_store_t *store = NULL;
    sp_error_t err = {0};
    int rc = e->is_etcd ? sp_store_open_etcd(&store, &e->options, &err)
                        : sp_store_open_memory(&store, e->prefix, &err);
    if (rc != 0)
        fail_msg("%s", err.text);
    return store;
}

static int setup(void **state, bool is_etcd)
{
    env_t *e = calloc(1, sizeof *e);
    e->is_etcd = is_etcd;
    snprintf(e->prefix, sizeof e->prefix, "/test/%d", ++opened);
    e->urls[0] = etcd.client;
    e->options =
        (sp_store_options_t){.endpoints = e->urls, .n = 1, .prefix = e->prefix, .timeout_ms = 2000};
    e->store = open_store(e);
    e->arena = sp_arena_new(0);
    *state = e;
    return 0;
}

static int setup_memory(void **state)
{
    return setup(state, false);
}

static int setup_etcd(void **state)
{
    return setup(state, true);
}

static int teardown(void **state)
{
    env_t *e = *state;
    sp_store_close(&e->store);
    sp_arena_destroy(&e->arena);
    free(e);
    return 0;
}

// ---- shorthands

static bool txn(sp_store_t *s, const sp_cmp_t *cmps, size_t n_cmps, const sp_op_t *ops,
                size_t n_ops)
{
    sp_error_t err = {0};
    bool committed = false;
    int64_t revision = 0;
    if (sp_store_txn(s, cmps, n_cmps, ops, n_ops, &committed, &revision, &err) != 0)
        fail_msg("%s", err.text);
    assert_true(revision > 0);
    return committed;
}

static void put(sp_store_t *s, const char *key, const char *value, int64_t lease)
{
    sp_op_t op = {.key = sp_str(key), .value = sp_str(value), .lease = lease};
    assert_true(txn(s, NULL, 0, &op, 1));
}

static bool get(env_t *e, const char *key, sp_kv_t *ret)
{
    sp_error_t err = {0};
    bool found = false;
    if (sp_store_get(e->store, sp_str(key), e->arena, ret, &found, &err) != 0)
        fail_msg("%s", err.text);
    return found;
}

static sp_kv_list_t list(env_t *e, const char *prefix)
{
    sp_error_t err = {0};
    sp_kv_list_t l = {0};
    if (sp_store_list(e->store, sp_str(prefix), e->arena, &l, &err) != 0)
        fail_msg("%s", err.text);
    return l;
}

// ---- keys and values

static void test_put_get_delete(void **state)
{
    env_t *e = *state;
    sp_kv_t kv;
    assert_false(get(e, "a", &kv));
    put(e->store, "a", "one", 0);
    assert_true(get(e, "a", &kv));
    assert_true(sp_str_eqz(kv.key, "a") && sp_str_eqz(kv.value, "one"));
    assert_true(kv.create_revision > 0 && kv.create_revision == kv.mod_revision);
    assert_int_equal(kv.lease, 0);
    int64_t created = kv.create_revision;
    put(e->store, "a", "two", 0);
    assert_true(get(e, "a", &kv));
    assert_int_equal(kv.create_revision, created);
    assert_true(kv.mod_revision > created);
    sp_op_t del = {.key = SP_STR("a"), .remove = true};
    assert_true(txn(e->store, NULL, 0, &del, 1));
    assert_false(get(e, "a", &kv));
    assert_true(txn(e->store, NULL, 0, &del, 1)); // again: no error
    put(e->store, "a", "three", 0);
    assert_true(get(e, "a", &kv));
    assert_true(kv.create_revision > created);
}

static void test_any_bytes(void **state)
{
    env_t *e = *state;
    char bytes[256];
    for (int i = 0; i < 256; i++)
        bytes[i] = (char)i;
    sp_op_t ops[] = {{.key = SP_STR("bin"), .value = {bytes, sizeof bytes}},
                     {.key = SP_STR("empty"), .value = SP_STR("")},
                     {.key = SP_STR("q\"\\\xC3\xA4 /x"), .value = SP_STR("v")},
                     {.key = SP_STR("\xFF\xFF"), .value = SP_STR("high")}};
    assert_true(txn(e->store, NULL, 0, ops, 4));
    sp_kv_t kv;
    assert_true(get(e, "bin", &kv));
    assert_true(sp_str_eq(kv.value, ops[0].value));
    assert_true(get(e, "empty", &kv));
    assert_int_equal(kv.value.len, 0);
    assert_true(get(e, "q\"\\\xC3\xA4 /x", &kv));
    assert_int_equal(list(e, "").n, 4);
    assert_int_equal(list(e, "\xFF").n, 1);
}

static void test_list_is_sorted_and_exact(void **state)
{
    env_t *e = *state;
    assert_int_equal(list(e, "").n, 0);
    const char *keys[] = {"shards/b", "shards/a", "shards", "shardsx", "jobs/1", "shards/c/d"};
    for (size_t i = 0; i < 6; i++)
        put(e->store, keys[i], keys[i], 0);
    sp_kv_list_t all = list(e, "");
    assert_int_equal(all.n, 6);
    assert_true(all.revision > 0);
    for (size_t i = 1; i < all.n; i++)
        assert_true(sp_str_cmp(all.items[i - 1].key, all.items[i].key) < 0);
    sp_kv_list_t some = list(e, "shards/");
    assert_int_equal(some.n, 3);
    assert_true(sp_str_eqz(some.items[0].key, "shards/a"));
    assert_true(sp_str_eqz(some.items[2].key, "shards/c/d"));
    for (size_t i = 0; i < all.n; i++)
        assert_true(all.items[i].mod_revision <= all.revision);
}

static void test_other_prefixes_are_not_seen(void **state)
{
    env_t *e = *state;
    char other[60];
    snprintf(other, sizeof other, "%.40s-other", e->prefix);
    env_t o = *e;
    snprintf(o.prefix, sizeof o.prefix, "%s", other);
    o.options.prefix = other;
    o.store = open_store(&o);
    put(o.store, "x", "theirs", 0);
    assert_int_equal(list(e, "").n, 0);
    sp_store_close(&o.store);
}

static void test_large_values(void **state)
{
    env_t *e = *state;
    size_t n = 1000 * 1000;
    char *big = malloc(n);
    memset(big, 'x', n);
    sp_op_t op = {.key = SP_STR("big"), .value = {big, n}};
    assert_true(txn(e->store, NULL, 0, &op, 1));
    sp_kv_t kv;
    assert_true(get(e, "big", &kv));
    assert_int_equal(kv.value.len, n);
    free(big);
}

// Refused for good, and not as something that may have been done: asking again would help nobody.
static void test_too_large_transactions(void **state)
{
    env_t *e = *state;
    size_t n = 1300 * 1000;
    char *big = malloc(2 * n);
    memset(big, 'x', 2 * n);
    sp_op_t one[] = {{.key = SP_STR("a"), .value = {big, 1600 * 1000}}};
    sp_op_t very[] = {{.key = SP_STR("a"), .value = {big, 2 * n}}};
    sp_op_t together[] = {{.key = SP_STR("a"), .value = {big, n}},
                          {.key = SP_STR("b"), .value = {big, n}}};
    bool committed;
    assert_int_equal(sp_store_txn(e->store, NULL, 0, one, 1, &committed, NULL, NULL),
                     SP_E_TOO_LARGE);
    assert_int_equal(sp_store_txn(e->store, NULL, 0, very, 1, &committed, NULL, NULL),
                     SP_E_TOO_LARGE);
    assert_int_equal(sp_store_txn(e->store, NULL, 0, together, 2, &committed, NULL, NULL),
                     SP_E_TOO_LARGE);
    assert_int_equal(list(e, "").n, 0);
    free(big);
}

static void test_bad_keys(void **state)
{
    env_t *e = *state;
    sp_kv_t kv;
    bool found;
    assert_int_equal(sp_store_get(e->store, SP_STR(""), e->arena, &kv, &found, NULL),
                     SP_E_INVALID_ARGUMENT);
    assert_int_equal(sp_store_get(e->store, SP_STR("/a"), e->arena, &kv, &found, NULL),
                     SP_E_INVALID_ARGUMENT);
    sp_op_t twice[] = {{.key = SP_STR("k"), .value = SP_STR("1")},
                       {.key = SP_STR("k"), .value = SP_STR("2")}};
    bool committed;
    assert_int_equal(sp_store_txn(e->store, NULL, 0, twice, 2, &committed, NULL, NULL),
                     SP_E_INVALID_ARGUMENT);
}

// ---- transactions

static void test_compares(void **state)
{
    env_t *e = *state;
    put(e->store, "k", "v", 0);
    sp_kv_t kv;
    assert_true(get(e, "k", &kv));
    const struct {
        sp_cmp_t cmp; // one compare
        bool holds;   // whether the transaction commits
    } rows[] = {
        {{.kind = SP_CMP_MOD_REVISION, .key = SP_STR("k"), .revision = kv.mod_revision}, true},
        {{.kind = SP_CMP_MOD_REVISION, .key = SP_STR("k"), .revision = kv.mod_revision - 1}, false},
        {{.kind = SP_CMP_MOD_REVISION, .key = SP_STR("k"), .revision = 0}, false},
        {{.kind = SP_CMP_MOD_REVISION, .key = SP_STR("none"), .revision = 0}, true},
        {{.kind = SP_CMP_MOD_REVISION, .key = SP_STR("none"), .revision = 5}, false},
        {{.kind = SP_CMP_CREATE_REVISION, .key = SP_STR("k"), .revision = kv.create_revision},
         true},
        {{.kind = SP_CMP_CREATE_REVISION, .key = SP_STR("k"), .revision = kv.create_revision + 1},
         false},
        {{.kind = SP_CMP_CREATE_REVISION, .key = SP_STR("none"), .revision = 7}, false},
        {{.kind = SP_CMP_VALUE, .key = SP_STR("k"), .value = SP_STR("v")}, true},
        {{.kind = SP_CMP_VALUE, .key = SP_STR("k"), .value = SP_STR("w")}, false},
        {{.kind = SP_CMP_VALUE, .key = SP_STR("k"), .value = SP_STR("")}, false},
        {{.kind = SP_CMP_VALUE, .key = SP_STR("none"), .value = SP_STR("v")}, false},
        {{.kind = SP_CMP_VALUE, .key = SP_STR("none"), .value = SP_STR("")}, false},
        {{.kind = SP_CMP_ABSENT, .key = SP_STR("none")}, true},
        {{.kind = SP_CMP_ABSENT, .key = SP_STR("k")}, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char mark[16];
        snprintf(mark, sizeof mark, "m%zu", i);
        sp_op_t op = {.key = sp_str(mark), .value = SP_STR("x")};
        if (txn(e->store, &rows[i].cmp, 1, &op, 1) != rows[i].holds)
            fail_msg("row %zu", i);
        if (get(e, mark, &kv) != rows[i].holds)
            fail_msg("row %zu: written although it did not hold, or the reverse", i);
    }
}

static void test_all_or_nothing(void **state)
{
    env_t *e = *state;
    put(e->store, "a", "1", 0);
    sp_cmp_t cmps[] = {{.kind = SP_CMP_VALUE, .key = SP_STR("a"), .value = SP_STR("1")},
                       {.kind = SP_CMP_ABSENT, .key = SP_STR("b")}};
    sp_op_t ops[] = {{.key = SP_STR("a"), .remove = true},
                     {.key = SP_STR("b"), .value = SP_STR("2")},
                     {.key = SP_STR("c"), .value = SP_STR("3")}};
    assert_true(txn(e->store, cmps, 2, ops, 3));
    sp_kv_t b = {0}, c = {0};
    assert_true(get(e, "b", &b) && get(e, "c", &c) && !get(e, "a", &b));
    assert_true(get(e, "b", &b));
    assert_int_equal(b.mod_revision, c.mod_revision);
    assert_false(txn(e->store, cmps, 2, ops, 3));
}

typedef struct counter {
    const env_t *env; // where
    int added;        // by this thread
} counter_t;

static void *count_up(void *arg)
{
    counter_t *c = arg;
    sp_store_t *store = open_store(c->env);
    sp_arena_t *arena = sp_arena_new(0);
    while (c->added < 50) {
        sp_kv_t kv = {0};
        bool found = false, committed = false;
        sp_arena_reset(arena);
        if (sp_store_get(store, SP_STR("n"), arena, &kv, &found, NULL) != 0)
            continue;
        int64_t n = 0;
        if (found)
            sp_str_to_int64(kv.value, &n);
        char text[32];
        snprintf(text, sizeof text, "%lld", (long long)n + 1);
        sp_cmp_t cmp = {.kind = SP_CMP_MOD_REVISION,
                        .key = SP_STR("n"),
                        .revision = kv.mod_revision};
        sp_op_t op = {.key = SP_STR("n"), .value = sp_str(text)};
        if (sp_store_txn(store, &cmp, 1, &op, 1, &committed, NULL, NULL) == 0)
            c->added += committed;
    }
    sp_arena_destroy(&arena);
    sp_store_close(&store);
    return NULL;
}

static void test_compare_and_swap_by_many(void **state)
{
    env_t *e = *state;
    pthread_t threads[3];
    counter_t counters[3] = {{e, 0}, {e, 0}, {e, 0}};
    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, count_up, &counters[i]);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    sp_kv_t kv;
    assert_true(get(e, "n", &kv));
    assert_true(sp_str_eqz(kv.value, "150"));
}

// ---- leases

static void test_revoke_takes_keys_along(void **state)
{
    env_t *e = *state;
    int64_t lease = 0;
    bool alive = false;
    assert_int_equal(sp_store_lease_grant(e->store, 30, &lease, NULL), 0);
    assert_true(lease != 0);
    put(e->store, "leased", "x", lease);
    put(e->store, "free", "x", 0);
    sp_kv_t kv;
    assert_true(get(e, "leased", &kv));
    assert_int_equal(kv.lease, lease);
    assert_int_equal(sp_store_lease_keepalive(e->store, lease, &alive, NULL), 0);
    assert_true(alive);
    assert_int_equal(sp_store_lease_revoke(e->store, lease, NULL), 0);
    assert_int_equal(sp_store_lease_revoke(e->store, lease, NULL), 0); // gone already
    assert_false(get(e, "leased", &kv));
    assert_true(get(e, "free", &kv));
    assert_int_equal(sp_store_lease_keepalive(e->store, lease, &alive, NULL), 0);
    assert_false(alive);
    sp_op_t op = {.key = SP_STR("late"), .value = SP_STR("x"), .lease = lease};
    bool committed = true;
    assert_int_equal(sp_store_txn(e->store, NULL, 0, &op, 1, &committed, NULL, NULL),
                     SP_E_NOT_FOUND);
    assert_false(get(e, "late", &kv));
}

static void test_lease_expires(void **state)
{
    env_t *e = *state;
    int64_t lease = 0;
    bool alive = true;
    assert_int_equal(sp_store_lease_grant(e->store, 1, &lease, NULL), 0);
    put(e->store, "leased", "x", lease);
    sp_kv_t kv;
    int64_t end = sp_clock_mono_ms() + 15000;
    while (get(e, "leased", &kv) && sp_clock_mono_ms() < end)
        sp_clock_sleep_ms(50);
    assert_false(get(e, "leased", &kv));
    assert_int_equal(sp_store_lease_keepalive(e->store, lease, &alive, NULL), 0);
    assert_false(alive);
}

// Create-if-absent under a lease: one wins; when its lease ends, the other, with a higher create_revision.
static void test_election(void **state)
{
    env_t *e = *state;
    sp_store_t *second = open_store(e);
    int64_t lease[2];
    assert_int_equal(sp_store_lease_grant(e->store, 1, &lease[0], NULL), 0);
    assert_int_equal(sp_store_lease_grant(second, 30, &lease[1], NULL), 0);
    sp_cmp_t absent = {.kind = SP_CMP_ABSENT, .key = SP_STR("leader")};
    sp_op_t first_op = {.key = SP_STR("leader"), .value = SP_STR("m1"), .lease = lease[0]};
    sp_op_t second_op = {.key = SP_STR("leader"), .value = SP_STR("m2"), .lease = lease[1]};
    assert_true(txn(e->store, &absent, 1, &first_op, 1));
    assert_false(txn(second, &absent, 1, &second_op, 1));
    sp_kv_t kv;
    assert_true(get(e, "leader", &kv));
    int64_t epoch = kv.create_revision;
    bool won = false;
    for (int64_t end = sp_clock_mono_ms() + 15000; !won && sp_clock_mono_ms() < end;) {
        won = txn(second, &absent, 1, &second_op, 1);
        if (!won)
            sp_clock_sleep_ms(50);
    }
    assert_true(won);
    assert_true(get(e, "leader", &kv));
    assert_true(sp_str_eqz(kv.value, "m2"));
    assert_true(kv.create_revision > epoch);
    // The deposed one's writes are refused.
    sp_cmp_t still = {.kind = SP_CMP_CREATE_REVISION, .key = SP_STR("leader"), .revision = epoch};
    sp_op_t op = {.key = SP_STR("x"), .value = SP_STR("late")};
    assert_false(txn(e->store, &still, 1, &op, 1));
    sp_store_close(&second);
}

// ---- watch

static sp_watch_t *start_watch(env_t *e, const char *prefix, int relist_ms)
{
    sp_watch_t *w = NULL;
    sp_error_t err = {0};
    if (sp_watch_start(&w, e->is_etcd ? &e->options : NULL, e->prefix, prefix, relist_ms, &err) !=
        0)
        fail_msg("%s", err.text);
    return w;
}

static bool take(env_t *e, sp_watch_t *w, int wait_ms, sp_kv_list_t *ret)
{
    struct pollfd fd = {.fd = sp_watch_fd(w), .events = POLLIN};
    int64_t end = sp_clock_mono_ms() + wait_ms;
    do {
        if (poll(&fd, 1, sp_clock_until_ms(end)) > 0 && sp_watch_take(w, e->arena, ret))
            return true;
    } while (sp_clock_mono_ms() < end);
    return false;
}

// Takes snapshots until one has n keys.
static bool take_until(env_t *e, sp_watch_t *w, size_t n, int wait_ms, sp_kv_list_t *ret)
{
    int64_t end = sp_clock_mono_ms() + wait_ms, revision = ret->revision;
    while (take(e, w, sp_clock_until_ms(end), ret)) {
        assert_true(ret->revision >= revision); // never falls
        revision = ret->revision;
        if (ret->n == n)
            return true;
    }
    return false;
}

static void test_watch_tells_changes(void **state)
{
    env_t *e = *state;
    sp_watch_t *w = start_watch(e, "w/", 60000);
    sp_kv_list_t l = {0};
    assert_true(take(e, w, 5000, &l)); // empty is news: before it nothing is known
    assert_int_equal(l.n, 0);
    put(e->store, "w/a", "1", 0);
    assert_true(take_until(e, w, 1, 500, &l)); // by the stream, well before the next probe
    assert_true(sp_str_eqz(l.items[0].key, "w/a") && sp_str_eqz(l.items[0].value, "1"));
    put(e->store, "w/a", "2", 0);
    assert_true(take(e, w, 500, &l));
    assert_true(sp_str_eqz(l.items[0].value, "2"));
    sp_op_t del = {.key = SP_STR("w/a"), .remove = true};
    assert_true(txn(e->store, NULL, 0, &del, 1));
    assert_true(take_until(e, w, 0, 500, &l));
    // What happens elsewhere is no news.
    put(e->store, "other", "x", 0);
    assert_false(take(e, w, 1500, &l));
    assert_true(sp_watch_age_ms(w) < 2000);
    sp_watch_stop(&w);
}

static void test_watch_sees_all_of_many(void **state)
{
    env_t *e = *state;
    sp_watch_t *w = start_watch(e, "", 60000);
    sp_kv_list_t l = {0};
    char key[16];
    for (int i = 0; i < 100; i++) {
        snprintf(key, sizeof key, "k%03d", i);
        put(e->store, key, key, 0);
    }
    assert_true(take_until(e, w, 100, 5000, &l));
    for (size_t i = 0; i < 100; i++)
        assert_true(sp_str_eq(l.items[i].key, l.items[i].value));
    sp_watch_stop(&w);
}

static void test_changes_since_a_revision(void **state)
{
    env_t *e = *state;
    put(e->store, "a", "1", 0);
    put(e->store, "b", "1", 0);
    int64_t since = list(e, "").revision;
    sp_kv_list_t l;
    size_t count;
    assert_int_equal(e->store->ops->changes(e->store, SP_STR(""), since, e->arena, &l, &count,
                                            NULL),
                     0);
    assert_int_equal(l.n, 0);
    assert_int_equal(count, 2);
    put(e->store, "b", "2", 0);
    put(e->store, "c", "1", 0);
    assert_int_equal(e->store->ops->changes(e->store, SP_STR(""), since, e->arena, &l, &count,
                                            NULL),
                     0);
    assert_int_equal(l.n, 2);
    assert_true(sp_str_eqz(l.items[0].key, "b") && sp_str_eqz(l.items[0].value, "2"));
    assert_int_equal(count, 3);
}

// Changes are merged into the last snapshot: a key that goes while another comes must not be kept.
static void test_watch_sees_deletes_among_changes(void **state)
{
    env_t *e = *state;
    const char *keys[] = {"a", "c", "e"};
    for (size_t i = 0; i < 3; i++)
        put(e->store, keys[i], "1", 0);
    sp_watch_t *w = start_watch(e, "", 60000);
    sp_kv_list_t l = {0};
    assert_true(take_until(e, w, 3, 5000, &l));
    const struct {
        sp_op_t ops[3];   // one transaction
        size_t n;         // count
        const char *keys; // afterwards
    } rows[] = {
        {{{.key = SP_STR("b"), .value = SP_STR("2")}, {.key = SP_STR("c"), .remove = true}},
         2,
         "abe"},
        {{{.key = SP_STR("a"), .remove = true}, {.key = SP_STR("f"), .value = SP_STR("3")}},
         2,
         "bef"},
        {{{.key = SP_STR("e"), .value = SP_STR("4")}, {.key = SP_STR("0"), .value = SP_STR("4")}},
         2,
         "0bef"},
        {{{.key = SP_STR("f"), .remove = true}}, 1, "0be"},
        {{{.key = SP_STR("z"), .value = SP_STR("5")}}, 1, "0bez"},
        {{{.key = SP_STR("0"), .remove = true},
          {.key = SP_STR("b"), .remove = true},
          {.key = SP_STR("e"), .value = SP_STR("6")}},
         3,
         "ez"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_true(txn(e->store, NULL, 0, rows[i].ops, rows[i].n));
        assert_true(take(e, w, 900, &l)); // by the stream
        char seen[16] = "";
        for (size_t k = 0; k < l.n && k < 15; k++)
            seen[k] = l.items[k].key.ptr[0];
        assert_string_equal(seen, rows[i].keys);
        sp_kv_list_t all = list(e, "");
        for (size_t k = 0; k < l.n; k++) {
            assert_true(sp_str_eq(l.items[k].value, all.items[k].value));
            assert_int_equal(l.items[k].mod_revision, all.items[k].mod_revision);
        }
    }
    sp_watch_stop(&w);
}

static void test_watch_sees_lease_end(void **state)
{
    env_t *e = *state;
    int64_t lease;
    assert_int_equal(sp_store_lease_grant(e->store, 1, &lease, NULL), 0);
    put(e->store, "services/x", "1", lease);
    sp_watch_t *w = start_watch(e, "", 60000);
    sp_kv_list_t l = {0};
    assert_true(take_until(e, w, 1, 5000, &l));
    assert_true(take_until(e, w, 0, 15000, &l));
    sp_watch_stop(&w);
}

static void test_watch_stops_at_once(void **state)
{
    env_t *e = *state;
    for (int i = 0; i < 5; i++) {
        sp_watch_t *w = start_watch(e, "", 60000);
        int64_t began = sp_clock_mono_ms();
        sp_watch_stop(&w);
        assert_true(sp_clock_mono_ms() - began < 1000);
    }
}

// ---- etcd only

static void compact(env_t *e)
{
    sp_etcd_http_t http;
    sp_value_t reply;
    sp_buf_t body = SP_BUF_INIT;
    sp_buf_printf(&body, "{\"revision\":\"%lld\",\"physical\":true}",
                  (long long)list(e, "").revision);
    assert_int_equal(sp_etcd_http_open(&http, &e->options, NULL), 0);
    assert_int_equal(sp_etcd_post(&http, "kv/compaction", &body, SP_ETCD_WRITE, false, e->arena,
                                  &reply, NULL),
                     0);
    sp_etcd_http_close(&http);
    sp_buf_free(&body);
}

static void test_watch_of_compacted_revision(void **state)
{
    env_t *e = *state;
    put(e->store, "a", "1", 0);
    int64_t old = list(e, "").revision;
    for (int i = 0; i < 5; i++)
        put(e->store, "a", "2", 0);
    compact(e);
    const sp_store_ops_t *ops = e->store->ops;
    assert_int_equal(ops->watch_begin(e->store, SP_STR(""), old - 1, NULL), 0);
    assert_int_equal(ops->watch_wait(e->store, 5000), SP_NEWS_LOST);
    ops->watch_end(e->store);
}

static void test_watch_across_compaction(void **state)
{
    env_t *e = *state;
    sp_watch_t *w = start_watch(e, "", 60000);
    sp_kv_list_t l = {0};
    assert_true(take(e, w, 5000, &l));
    // Its start revision is compacted away while it runs.
    for (int i = 0; i < 20; i++)
        put(e->store, "a", i % 2 ? "x" : "y", 0);
    compact(e);
    put(e->store, "b", "1", 0);
    assert_true(take_until(e, w, 2, 5000, &l));
    sp_watch_stop(&w);
}

static void test_restart(void **state)
{
    env_t *e = *state;
    put(e->store, "a", "1", 0);
    sp_watch_t *w = start_watch(e, "", 60000);
    sp_kv_list_t l = {0};
    assert_true(take_until(e, w, 1, 5000, &l));
    private_etcd_kill(&etcd);
    bool found, committed;
    sp_kv_t kv;
    int64_t began = sp_clock_mono_ms();
    assert_int_equal(sp_store_get(e->store, SP_STR("a"), e->arena, &kv, &found, NULL),
                     SP_E_CATALOG_UNAVAILABLE);
    sp_op_t op = {.key = SP_STR("b"), .value = SP_STR("x")};
    assert_int_equal(sp_store_txn(e->store, NULL, 0, &op, 1, &committed, NULL, NULL),
                     SP_E_CATALOG_UNAVAILABLE);
    assert_true(sp_clock_mono_ms() - began < 4000);
    sp_clock_sleep_ms(300);
    assert_true(sp_watch_age_ms(w) >= 300);
    private_etcd_run(&etcd);
    put(e->store, "b", "2", 0);
    assert_true(take_until(e, w, 2, 10000, &l));
    assert_true(sp_watch_age_ms(w) < 2000);
    sp_watch_stop(&w);
}

static void test_hanging_server(void **state)
{
    env_t *e = *state;
    put(e->store, "a", "1", 0);
    sp_watch_t *w = start_watch(e, "", 60000);
    sp_kv_list_t l = {0};
    assert_true(take_until(e, w, 1, 5000, &l));
    private_etcd_freeze(&etcd);
    bool found;
    sp_kv_t kv;
    int64_t began = sp_clock_mono_ms();
    int rc = sp_store_get(e->store, SP_STR("a"), e->arena, &kv, &found, NULL);
    int64_t took = sp_clock_mono_ms() - began;
    // Stopping does not wait for it.
    began = sp_clock_mono_ms();
    sp_watch_t *other = start_watch(e, "", 60000);
    sp_watch_stop(&other);
    int64_t stop_took = sp_clock_mono_ms() - began;
    kill(etcd.pid, SIGCONT);
    assert_int_equal(rc, SP_E_CATALOG_UNAVAILABLE);
    assert_true(took >= 1900 && took < 4000);
    assert_true(stop_took < 1000);
    put(e->store, "b", "2", 0);
    assert_true(take_until(e, w, 2, 10000, &l));
    sp_watch_stop(&w);
}

static void test_dead_endpoint_first(void **state)
{
    env_t *e = *state;
    char dead[64];
    snprintf(dead, sizeof dead, "http://127.0.0.1:%d", free_port());
    const char *urls[] = {dead, etcd.client, dead};
    sp_store_options_t options = {.endpoints = urls,
                                  .n = 3,
                                  .prefix = e->prefix,
                                  .timeout_ms = 2000};
    for (int i = 0; i < 6; i++) {
        sp_store_t *s = NULL;
        assert_int_equal(sp_store_open_etcd(&s, &options, NULL), 0);
        put(s, "a", "1", 0); // a transaction that surely was not sent goes to the next
        sp_kv_list_t l;
        assert_int_equal(sp_store_list(s, SP_STR(""), e->arena, &l, NULL), 0);
        assert_int_equal(l.n, 1);
        sp_store_close(&s);
    }
}

// ---- a server that is not etcd, or lies

typedef struct liar {
    int fd;                     // listens
    char url[64];               // where
    const char *_Atomic answer; // body of every reply; NULL: closes without one
    atomic_int status;          // HTTP status
    atomic_int requests;        // seen
    atomic_bool stop;           // asked
    pthread_t thread;           // serves
} liar_t;

static void *lie(void *arg)
{
    liar_t *self = arg;
    while (!atomic_load(&self->stop)) {
        struct pollfd p = {.fd = self->fd, .events = POLLIN};
        if (poll(&p, 1, 20) <= 0)
            continue;
        int c = accept(self->fd, NULL, NULL);
        char in[65536];
        size_t n = 0;
        // Whole enough: the bodies are small, so the request comes in one or two pieces.
        for (;;) {
            struct pollfd q = {.fd = c, .events = POLLIN};
            if (poll(&q, 1, 100) <= 0)
                break;
            ssize_t got = read(c, in + n, sizeof in - n - 1);
            if (got <= 0)
                break;
            n += (size_t)got;
            in[n] = '\0';
            char *body = strstr(in, "\r\n\r\n");
            if (body && body[4] == '{' && in[n - 1] == '}')
                break;
        }
        atomic_fetch_add(&self->requests, 1);
        const char *answer = atomic_load(&self->answer);
        if (answer) {
            char head[200];
            int len = snprintf(head, sizeof head,
                               "HTTP/1.1 %d X\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
                               atomic_load(&self->status), strlen(answer));
            ssize_t sent = write(c, head, (size_t)len);
            if (sent > 0)
                sent = write(c, answer, strlen(answer));
            (void)sent; // a client that is gone hears nothing
        }
        close(c);
    }
    return NULL;
}

static void liar_open(liar_t *self)
{
    memset(self, 0, sizeof *self);
    atomic_store(&self->status, 200);
    self->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    assert_int_equal(bind(self->fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(self->fd, 16), 0);
    assert_int_equal(getsockname(self->fd, (struct sockaddr *)&a, &len), 0);
    snprintf(self->url, sizeof self->url, "http://127.0.0.1:%d", ntohs(a.sin_port));
}

static void liar_start(liar_t *self)
{
    liar_open(self);
    pthread_create(&self->thread, NULL, lie, self);
}

static void liar_stop(liar_t *self)
{
    atomic_store(&self->stop, true);
    pthread_join(self->thread, NULL);
    close(self->fd);
}

#define HEADER "\"header\":{\"cluster_id\":\"1\",\"revision\":\"10\",\"raft_term\":\"2\"}"
#define KV(key, create, mod)                                                                       \
    "{\"key\":\"" key "\",\"create_revision\":\"" create "\",\"mod_revision\":\"" mod              \
    "\",\"value\":\"eA==\"}"
#define A "L3AvYQ==" // /p/a
#define B "L3AvYg==" // /p/b

static void test_lies(void **state)
{
    env_t *e = *state;
    liar_t liar;
    liar_start(&liar);
    const char *urls[] = {liar.url};
    sp_store_options_t options = {.endpoints = urls, .n = 1, .prefix = "/p", .timeout_ms = 1000};
    static const char *const bad[] = {
        NULL,
        "",
        "nonsense",
        "[]",
        "null",
        "{}",
        "{\"kvs\":[]}",
        "{\"header\":5}",
        "{\"header\":{\"revision\":\"x\",\"raft_term\":\"2\"}}",
        "{\"header\":{\"revision\":\"0\",\"raft_term\":\"2\"}}",
        "{\"header\":{\"revision\":\"99999999999999999999\",\"raft_term\":\"2\"}}",
        "{" HEADER ",\"kvs\":5,\"count\":\"1\"}",
        "{" HEADER ",\"kvs\":[5],\"count\":\"1\"}",
        "{" HEADER ",\"kvs\":[{}],\"count\":\"1\"}",
        "{" HEADER ",\"count\":\"1\"}",
        "{" HEADER ",\"more\":true,\"count\":\"0\"}",
        "{" HEADER ",\"more\":\"no\"}",
        "{" HEADER ",\"kvs\":[" KV("*", "5", "6") "],\"count\":\"1\"}",
        "{" HEADER
        ",\"kvs\":[" KV("L3EvYQ==", "5", "6") "],\"count\":\"1\"}", // /q/a: not asked for
        "{" HEADER ",\"kvs\":[" KV(A, "0", "6") "],\"count\":\"1\"}",
        "{" HEADER ",\"kvs\":[" KV(A, "7", "6") "],\"count\":\"1\"}",
        "{" HEADER ",\"kvs\":[" KV(A, "5", "11") "],\"count\":\"1\"}",
        "{" HEADER ",\"kvs\":[" KV(B, "5", "6") "," KV(A, "5", "6") "],\"count\":\"2\"}",
        "{" HEADER ",\"kvs\":[" KV(A, "5", "6") "," KV(A, "5", "6") "],\"count\":\"2\"}",
        "{" HEADER ",\"kvs\":[" KV(A, "5", "6") "],\"count\":\"2\"}",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
        "[[[[[[[",
    };
    sp_store_t *s = NULL;
    sp_kv_list_t l;
    assert_int_equal(sp_store_open_etcd(&s, &options, NULL), 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        atomic_store(&liar.answer, bad[i]);
        sp_error_t err = {0};
        int rc = sp_store_list(s, SP_STR(""), e->arena, &l, &err);
        if (rc != SP_E_CATALOG_UNAVAILABLE || !err.text[0])
            fail_msg("answer %zu: %s instead of an error: %s", i, sp_error_name(rc), bad[i]);
    }
    // The same shape, told right.
    atomic_store(&liar.answer,
                 "{" HEADER ",\"kvs\":[" KV(A, "5", "6") "," KV(B, "5", "10") "],\"count\":\"2\"}");
    assert_int_equal(sp_store_list(s, SP_STR(""), e->arena, &l, NULL), 0);
    assert_int_equal(l.n, 2);
    // Behind what was seen: by revision, by term; and of another cluster.
    static const char *const behind[] = {
        "{\"header\":{\"cluster_id\":\"1\",\"revision\":\"9\",\"raft_term\":\"2\"}}",
        "{\"header\":{\"cluster_id\":\"1\",\"revision\":\"10\",\"raft_term\":\"1\"}}",
        "{\"header\":{\"cluster_id\":\"2\",\"revision\":\"10\",\"raft_term\":\"2\"}}",
    };
    for (size_t i = 0; i < 3; i++) {
        atomic_store(&liar.answer, behind[i]);
        assert_int_equal(sp_store_list(s, SP_STR(""), e->arena, &l, NULL),
                         SP_E_CATALOG_UNAVAILABLE);
    }
    // Refusals of other kinds.
    atomic_store(&liar.status, 503);
    atomic_store(&liar.answer, "{\"error\":\"etcdserver: no leader\",\"code\":14}");
    assert_int_equal(sp_store_list(s, SP_STR(""), e->arena, &l, NULL), SP_E_CATALOG_UNAVAILABLE);
    atomic_store(&liar.answer, "<html>");
    assert_int_equal(sp_store_list(s, SP_STR(""), e->arena, &l, NULL), SP_E_CATALOG_UNAVAILABLE);
    atomic_store(&liar.status, 200);
    // A stream's error, and those of etcd 3.6, say why in `message`.
    bool alive = true;
    sp_error_t why = {0};
    atomic_store(&liar.answer,
                 "{\"error\":{\"grpc_code\":14,\"http_code\":503,\"message\":\"etcdserver: "
                 "no leader\",\"http_status\":\"Service Unavailable\"}}");
    assert_int_equal(sp_store_lease_keepalive(s, 5, &alive, &why), SP_E_CATALOG_UNAVAILABLE);
    assert_non_null(strstr(why.text, "etcdserver: no leader"));
    atomic_store(&liar.answer,
                 "{\"error\":{\"grpc_code\":5,\"http_code\":404,\"message\":\"etcdserver: "
                 "requested lease not found\"}}");
    assert_int_equal(sp_store_lease_keepalive(s, 5, &alive, &why), 0);
    assert_false(alive);
    atomic_store(&liar.status, 404);
    atomic_store(&liar.answer, "{\"code\":5,\"message\":\"etcdserver: requested lease not found\","
                               "\"details\":[]}");
    sp_op_t leased = {.key = SP_STR("a"), .value = SP_STR("x"), .lease = 5};
    bool committed;
    assert_int_equal(sp_store_txn(s, NULL, 0, &leased, 1, &committed, NULL, &why), SP_E_NOT_FOUND);
    assert_int_equal(sp_store_lease_revoke(s, 5, NULL), 0);
    atomic_store(&liar.status, 400);
    atomic_store(&liar.answer,
                 "{\"code\":3,\"message\":\"etcdserver: request is too large\",\"details\":[]}");
    assert_int_equal(sp_store_txn(s, NULL, 0, &leased, 1, &committed, NULL, &why), SP_E_TOO_LARGE);
    // Somebody else's 404 is no lease that is gone.
    atomic_store(&liar.status, 404);
    atomic_store(&liar.answer, "<html>");
    assert_int_equal(sp_store_txn(s, NULL, 0, &leased, 1, &committed, NULL, &why),
                     SP_E_CATALOG_UNAVAILABLE);
    atomic_store(&liar.status, 200);
    alive = true;
    atomic_store(&liar.answer,
                 "{\"result\":{" HEADER ",\"ID\":\"6\",\"TTL\":\"5\"}}"); // of another lease
    assert_int_equal(sp_store_lease_keepalive(s, 5, &alive, NULL), 0);
    assert_false(alive);
    int64_t lease;
    atomic_store(&liar.answer, "{" HEADER "}");
    assert_int_equal(sp_store_lease_grant(s, 5, &lease, NULL), SP_E_CATALOG_UNAVAILABLE);
    sp_store_close(&s);
    liar_stop(&liar);
}

// A server that passes everything on to etcd but watches, whose streams stay silent.
static void *muffle(void *arg)
{
    liar_t *self = arg;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    to.sin_port = htons((uint16_t)strtol(strrchr(etcd.client, ':') + 1, NULL, 10));
    int pairs[32][2], n = 0;
    while (!atomic_load(&self->stop)) {
        struct pollfd fds[65] = {{.fd = self->fd, .events = POLLIN}};
        for (int i = 0; i < 2 * n; i++)
            fds[i + 1] = (struct pollfd){.fd = pairs[i / 2][i % 2], .events = POLLIN};
        if (poll(fds, (nfds_t)n * 2 + 1, 20) <= 0)
            continue;
        for (int i = 0; i < 2 * n; i++) {
            char bytes[65536];
            int *pair = pairs[i / 2];
            if (!fds[i + 1].revents || pair[i % 2] < 0)
                continue;
            ssize_t got = read(pair[i % 2], bytes, sizeof bytes - 1);
            bool watch = false;
            if (got > 0) {
                bytes[got] = '\0';
                watch = i % 2 == 0 && strstr(bytes, "/v3/watch");
                atomic_fetch_add(&self->requests, watch);
            }
            if (got <= 0) {
                close(pair[0]);
                close(pair[1]);
                pair[0] = pair[1] = -1;
            } else if (!watch && write(pair[1 - i % 2], bytes, (size_t)got) < 0) {
                break;
            }
        }
        if (fds[0].revents && n < 32) {
            pairs[n][0] = accept(self->fd, NULL, NULL);
            pairs[n][1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
            if (connect(pairs[n][1], (struct sockaddr *)&to, sizeof to) == 0)
                n++;
        }
    }
    for (int i = 0; i < 2 * n; i++)
        if (pairs[i / 2][i % 2] >= 0)
            close(pairs[i / 2][i % 2]);
    return NULL;
}

static void test_lost_events_are_noticed(void **state)
{
    env_t *e = *state;
    liar_t muffler;
    liar_open(&muffler);
    pthread_create(&muffler.thread, NULL, muffle, &muffler);
    e->urls[0] = muffler.url;
    sp_watch_t *w = start_watch(e, "", 60000);
    sp_kv_list_t l = {0};
    assert_true(take(e, w, 5000, &l));
    put(e->store, "a", "1", 0);
    assert_true(take_until(e, w, 1, 3000, &l));
    assert_true(atomic_load(&muffler.requests) > 0);
    sp_clock_sleep_ms(2500);
    assert_true(sp_watch_age_ms(w) < 2000);
    sp_watch_stop(&w);
    liar_stop(&muffler);
}

// A transaction whose answer was lost must not be sent a second time, neither to the same nor to another endpoint.
static void test_lost_answer_is_not_repeated(void **state)
{
    env_t *e = *state;
    (void)e;
    liar_t liar;
    liar_start(&liar);
    const char *urls[] = {liar.url, liar.url};
    sp_store_options_t options = {.endpoints = urls, .n = 2, .prefix = "/p", .timeout_ms = 1000};
    sp_store_t *s = NULL;
    assert_int_equal(sp_store_open_etcd(&s, &options, NULL), 0);
    sp_op_t op = {.key = SP_STR("a"), .value = SP_STR("x")};
    bool committed;
    assert_int_equal(sp_store_txn(s, NULL, 0, &op, 1, &committed, NULL, NULL),
                     SP_E_CATALOG_UNAVAILABLE);
    assert_int_equal(atomic_load(&liar.requests), 1);
    sp_store_close(&s);
    liar_stop(&liar);
}

static void test_bad_options(void **state)
{
    (void)state;
    static const char *const urls[] = {"127.0.0.1:2379", "ftp://x", "http://a b", "",
                                       "http://h:1?x=1"};
    for (size_t i = 0; i < 5; i++) {
        sp_store_t *s = NULL;
        sp_store_options_t options = {.endpoints = &urls[i], .n = 1, .prefix = "/p"};
        assert_int_equal(sp_store_open_etcd(&s, &options, NULL), SP_E_CONFIG);
    }
    const char *secret[] = {"http://user:s3cret@127.0.0.1:1"};
    sp_store_options_t options = {.endpoints = secret, .n = 1, .prefix = "/p", .timeout_ms = 300};
    sp_store_t *s = NULL;
    sp_error_t err = {0};
    assert_int_equal(sp_store_open_etcd(&s, &options, &err), 0);
    sp_arena_t *arena = sp_arena_new(0);
    sp_kv_list_t l;
    assert_int_equal(sp_store_list(s, SP_STR(""), arena, &l, &err), SP_E_CATALOG_UNAVAILABLE);
    assert_null(strstr(err.text, "s3cret"));
    sp_arena_destroy(&arena);
    sp_store_close(&s);
    options.prefix = "/";
    assert_int_equal(sp_store_open_etcd(&s, &options, &err), SP_E_CONFIG);
    options.prefix = "/p";
    options.n = 0;
    assert_int_equal(sp_store_open_etcd(&s, &options, &err), SP_E_CONFIG);
}

#define BOTH(f)                                                                                    \
    {#f "[memory]", f, setup_memory, teardown, NULL},                                              \
    {                                                                                              \
#f "[etcd]", f, setup_etcd, teardown, NULL                                                 \
    }
#define ETCD(f)                                                                                    \
    {                                                                                              \
#f "[etcd]", f, setup_etcd, teardown, NULL                                                 \
    }

static int start(void **state)
{
    (void)state;
    private_etcd_start(&etcd);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    private_etcd_stop(&etcd);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_put_get_delete),
        BOTH(test_any_bytes),
        BOTH(test_list_is_sorted_and_exact),
        BOTH(test_other_prefixes_are_not_seen),
        BOTH(test_large_values),
        BOTH(test_too_large_transactions),
        BOTH(test_bad_keys),
        BOTH(test_compares),
        BOTH(test_all_or_nothing),
        BOTH(test_compare_and_swap_by_many),
        BOTH(test_revoke_takes_keys_along),
        BOTH(test_lease_expires),
        BOTH(test_election),
        BOTH(test_watch_tells_changes),
        BOTH(test_watch_sees_all_of_many),
        BOTH(test_changes_since_a_revision),
        BOTH(test_watch_sees_deletes_among_changes),
        BOTH(test_watch_sees_lease_end),
        BOTH(test_watch_stops_at_once),
        ETCD(test_watch_of_compacted_revision),
        ETCD(test_watch_across_compaction),
        ETCD(test_restart),
        ETCD(test_hanging_server),
        ETCD(test_dead_endpoint_first),
        ETCD(test_lies),
        ETCD(test_lost_events_are_noticed),
        ETCD(test_lost_answer_is_not_repeated),
        ETCD(test_bad_options),
    };
    return cmocka_run_group_tests_name("store", tests, start, stop);
}
