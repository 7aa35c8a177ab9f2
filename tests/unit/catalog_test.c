// Catalog: what is accepted, what is refused, lookups, and transactions of a leader.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/ring/hash.h"
#include "common/store/catalog.h"

static int opened;

static int setup(void **state)
{
    char name[32];
    snprintf(name, sizeof name, "catalog-%d", ++opened);
    sp_store_t *store = NULL;
    assert_int_equal(sp_store_open_memory(&store, name, NULL), 0);
    *state = store;
    return 0;
}

static int teardown(void **state)
{
    sp_store_t *store = *state;
    sp_store_close(&store);
    return 0;
}

static void put(sp_store_t *s, const char *key, const char *value)
{
    sp_op_t op = {.key = sp_str(key), .value = sp_str(value)};
    bool committed;
    assert_int_equal(sp_store_txn(s, NULL, 0, &op, 1, &committed, NULL, NULL), 0);
}

// Two shards that own everything, made through the transaction builder.
static void fill(sp_store_t *s)
{
    sp_catalog_txn_t *t = sp_catalog_txn_new(0);
    sp_msg_catalog_generation_t generation = {.generation = 1,
                                              .has_generation = true,
                                              .cluster_id = sp_str("c1")};
    sp_catalog_txn_put(t, "generation", &sp_schema_catalog_generation, &generation, 0);
    sp_msg_catalog_keyspace_t ks = {.name = sp_str("default")};
    sp_catalog_txn_put(t, "keyspaces/default", &sp_schema_catalog_keyspace, &ks, 0);
    sp_msg_catalog_ring_t ring = {.keyspace = sp_str("default"), .version = 3, .has_version = true};
    sp_catalog_txn_put(t, "ring/default", &sp_schema_catalog_ring, &ring, 0);
    static const int64_t tokens[2][2] = {{INT64_MIN, 100}, {0, 200}};
    sp_arena_t *arena = sp_arena_new(0);
    for (int i = 0; i < 3; i++) {
        static const char *const ids[] = {"s1", "s2", "spare"};
        static const char *const keys[] = {"shards/s1", "shards/s2", "shards/spare"};
        sp_msg_catalog_shard_t shard = {.id = sp_str(ids[i]),
                                        .keyspace = sp_str("default"),
                                        .status =
                                            i < 2 ? SP_SHARD_STATUS_ACTIVE : SP_SHARD_STATUS_EMPTY,
                                        .has_status = true,
                                        .primary = sp_str("v1:sealed")};
        if (i < 2)
            assert_int_equal(sp_tokens_encode((sp_tokens_t){tokens[i], 2}, arena, &shard.tokens,
                                              NULL),
                             0);
        sp_catalog_txn_put(t, keys[i], &sp_schema_catalog_shard, &shard, 0);
    }
    sp_msg_catalog_leader_t leader = {.service_id = sp_str("m1"),
                                      .endpoint = sp_str("tcp://127.0.0.1:1")};
    sp_catalog_txn_put(t, "leader", &sp_schema_catalog_leader, &leader, 0);
    sp_error_t err = {0};
    if (sp_catalog_txn_commit(t, s, NULL, &err) != 0)
        fail_msg("%s", err.text);
    sp_catalog_txn_destroy(&t);
    sp_arena_destroy(&arena);
}

static sp_catalog_t *load(sp_store_t *s)
{
    sp_catalog_t *c = NULL;
    sp_error_t err = {0};
    if (sp_catalog_load(s, &c, &err) != 0)
        fail_msg("%s", err.text);
    return c;
}

static void test_empty(void **state)
{
    sp_catalog_t *c = load(*state);
    assert_int_equal(c->n_keyspaces + c->n_shards + c->n_jobs + c->n_services, 0);
    assert_int_equal(c->generation.generation, 0);
    assert_null(c->leader.service_id.ptr);
    sp_catalog_unref(&c);
    assert_null(c);
}

static void test_load_and_lookups(void **state)
{
    sp_store_t *s = *state;
    fill(s);
    put(s, "services/router/r1", "{\"kind\":\"router\",\"id\":\"r1\",\"endpoint\":\"tcp://a:1\"}");
    put(s, "services/router/r2", "{\"kind\":\"router\",\"id\":\"r2\"}");
    put(s, "services/router/bad", "nonsense"); // left out
    put(s, "jobs/abc",
        "{\"id\":\"abc\",\"kind\":\"split\",\"state\":\"precopy\",\"keyspace\":\"default\","
        "\"source_shard_id\":\"s1\"}");
    put(s, "generation", "{\"generation\":1,\"cluster_id\":\"c\",\"of_a_later_release\":1}");
    put(s, "users/x", "whatever a later release keeps there");
    sp_catalog_t *c = load(s);
    assert_int_equal(c->n_shards, 3);
    assert_int_equal(c->generation.generation, 1);
    assert_true(sp_str_eqz(c->leader.service_id, "m1"));
    assert_true(c->leader_rev.create_revision > 0);
    const sp_catalog_keyspace_view_t *ks = sp_catalog_keyspace(c, SP_STR("default"));
    assert_non_null(ks);
    assert_int_equal(ks->ring_record->version, 3);
    assert_non_null(ks->ring);
    // [min,0) s1, [0,100) s2, [100,200) s1, [200,...) s2
    const struct {
        int64_t hash;      // looked up
        const char *owner; // expected
    } rows[] = {{INT64_MIN, "s1"}, {-1, "s1"},  {0, "s2"},   {99, "s2"},
                {100, "s1"},       {199, "s1"}, {200, "s2"}, {INT64_MAX, "s2"}};
    for (size_t i = 0; i < 8; i++)
        assert_true(sp_str_eqz(sp_ring_shard_id(ks->ring, sp_ring_lookup(ks->ring, rows[i].hash)),
                               rows[i].owner));
    assert_true(sp_str_eqz(sp_catalog_shard(c, SP_STR("s2"))->shard->primary, "v1:sealed"));
    assert_int_equal(sp_catalog_shard(c, SP_STR("spare"))->shard->status, SP_SHARD_STATUS_EMPTY);
    assert_null(sp_catalog_shard(c, SP_STR("s3")));
    assert_null(sp_catalog_shard(c, SP_STR("")));
    assert_null(sp_catalog_keyspace(c, SP_STR("other")));
    assert_int_equal(sp_catalog_job(c, SP_STR("abc"))->job->state, SP_JOB_STATE_PRECOPY);
    assert_int_equal(c->n_services, 2);
    assert_true(sp_str_eqz(sp_catalog_service(c, "router", 1)->id, "r2"));
    assert_null(sp_catalog_service(c, "router", 2));
    assert_null(sp_catalog_service(c, "manager", 0));
    sp_catalog_t *second = sp_catalog_ref(c);
    sp_catalog_unref(&c);
    assert_non_null(sp_catalog_keyspace(second, SP_STR("default"))->ring);
    sp_catalog_unref(&second);
}

static void test_doubt_is_refused(void **state)
{
    sp_store_t *s = *state;
    const struct {
        const char *key;   // is put
        const char *value; // in place of a good one
        const char *names; // what the error names
    } rows[] = {
        {"generation", "{}", "generation"},
        {"leader", "[]", "leader"},
        {"keyspaces/default", "", "keyspaces/default"},
        {"keyspaces/default", "{\"name\":\"other\"}", "keyspaces/default"},
        {"ring/default", "{\"keyspace\":\"default\",\"version\":-1}", "ring/default"},
        {"ring/none", "{\"keyspace\":\"none\",\"version\":1}", "ring/none"},
        {"shards/s1", "{\"id\":\"s1\"}", "shards/s1"},
        {"shards/s9", "{\"id\":\"s9\",\"keyspace\":\"nowhere\",\"status\":\"active\"}",
         "shards/s9"},
        {"shards/s9", "{\"id\":\"s8\",\"keyspace\":\"default\",\"status\":\"active\"}",
         "shards/s9"},
        {"shards/s9",
         "{\"id\":\"s9\",\"keyspace\":\"default\",\"status\":\"active\",\"tokens\":\"!\"}",
         "shards/s9"},
        // Token 0 is s2's already.
        {"shards/s9",
         "{\"id\":\"s9\",\"keyspace\":\"default\",\"status\":\"active\",\"tokens\":\"AAAAAAAAAAA="
         "\"}",
         "ring"},
        {"jobs/x", "{\"id\":\"x\"}", "jobs/x"},
        {"jobs/x",
         "{\"id\":\"x\",\"kind\":\"split\",\"state\":\"nonsense\",\"keyspace\":\"default\","
         "\"source_shard_id\":\"s1\"}",
         "jobs/x"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        sp_op_t clear[] = {{.key = SP_STR("ring/none"), .remove = true},
                           {.key = SP_STR("shards/s9"), .remove = true},
                           {.key = SP_STR("jobs/x"), .remove = true}};
        bool committed;
        sp_store_txn(s, NULL, 0, clear, 3, &committed, NULL, NULL);
        fill(s);
        sp_catalog_t *c = load(s);
        sp_catalog_unref(&c);
        put(s, rows[i].key, rows[i].value);
        sp_error_t err = {0};
        int rc = sp_catalog_load(s, &c, &err);
        if (rc != SP_E_CATALOG_UNAVAILABLE || !strstr(err.text, rows[i].names))
            fail_msg("row %zu: %s: %s", i, sp_error_name(rc), err.text);
        assert_null(c);
    }
    // Owners without a ring version.
    fill(s);
    sp_op_t drop = {.key = SP_STR("ring/default"), .remove = true};
    bool committed;
    sp_store_txn(s, NULL, 0, &drop, 1, &committed, NULL, NULL);
    sp_op_t bad = {.key = SP_STR("jobs/x"), .remove = true};
    sp_store_txn(s, NULL, 0, &bad, 1, &committed, NULL, NULL);
    sp_catalog_t *c = NULL;
    assert_int_equal(sp_catalog_load(s, &c, NULL), SP_E_CATALOG_UNAVAILABLE);
}

static int change(sp_store_t *s, int64_t leader, int64_t expected, int64_t version, sp_error_t *err)
{
    sp_catalog_txn_t *t = sp_catalog_txn_new(leader);
    sp_msg_catalog_ring_t ring = {.keyspace = sp_str("default"),
                                  .version = version,
                                  .has_version = true};
    sp_catalog_txn_expect(t, "ring/default", expected);
    sp_catalog_txn_put(t, "ring/default", &sp_schema_catalog_ring, &ring, 0);
    int rc = sp_catalog_txn_commit(t, s, NULL, err);
    sp_catalog_txn_destroy(&t);
    return rc;
}

static void test_transactions_of_a_leader(void **state)
{
    sp_store_t *s = *state;
    fill(s);
    sp_catalog_t *c = load(s);
    int64_t epoch = c->leader_rev.create_revision;
    int64_t read = c->keyspaces[0].ring_rev.mod_revision;
    sp_catalog_unref(&c);
    sp_error_t err = {0};
    assert_int_equal(change(s, epoch, read, 4, &err), 0);
    assert_int_equal(change(s, epoch, read, 5, &err), SP_E_CONFLICT); // read before the last change
    assert_true(err.retryable);
    assert_int_equal(change(s, epoch, 0, 5, &err), SP_E_CONFLICT); // absent was expected
    assert_int_equal(change(s, epoch - 1, read, 5, &err), SP_E_STALE_EPOCH);
    assert_false(err.retryable);
    c = load(s);
    assert_int_equal(c->keyspaces[0].ring_record->version, 4);
    sp_catalog_unref(&c);
    // Nobody leads: nobody writes.
    sp_op_t drop = {.key = SP_STR("leader"), .remove = true};
    bool committed;
    sp_store_txn(s, NULL, 0, &drop, 1, &committed, NULL, NULL);
    assert_int_equal(change(s, epoch, read, 5, &err), SP_E_STALE_EPOCH);
}

static void test_bad_records_are_not_sent(void **state)
{
    sp_store_t *s = *state;
    sp_error_t err = {0};
    assert_int_equal(change(s, 0, 0, -5, &err), SP_E_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "ring/default"));
    sp_catalog_txn_t *t = sp_catalog_txn_new(0);
    char key[32];
    for (int i = 0; i < 200; i++) {
        snprintf(key, sizeof key, "jobs/%d", i);
        sp_catalog_txn_delete(t, key);
    }
    assert_int_equal(sp_catalog_txn_commit(t, s, NULL, &err), SP_E_TOO_LARGE);
    sp_catalog_txn_destroy(&t);
    sp_catalog_t *c = load(s);
    assert_int_equal(c->n_keyspaces, 0);
    sp_catalog_unref(&c);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_empty),
        TEST(test_load_and_lookups),
        TEST(test_doubt_is_refused),
        TEST(test_transactions_of_a_leader),
        TEST(test_bad_records_are_not_sent),
    };
    return cmocka_run_group_tests_name("catalog", tests, NULL, NULL);
}
