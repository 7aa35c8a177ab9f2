#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/wire/base64.h"
#include "common/wire/json_write.h"
#include "common/wire/wire.h"
#include "schemas/envelope.h"
#include "schemas/job.h"
#include "schemas/route.h"
#include "schemas/shard.h"
#include "tests/unit/arena_fixture.h"

static int decode(const sp_schema_t *schema, const char *text, void *body)
{
    return sp_wire_decode_json(schema, text, strlen(text), arena, body, &err);
}

static void test_decode(void **state)
{
    (void)state;
    sp_msg_shard_create_t create;
    assert_int_equal(decode(&sp_schema_shard_create,
                            "{\"name\":\"s1\",\"primary_endpoint\":\"postgresql://a:b@h/"
                            "d\",\"replicas\":[\"r1\",\"r2\"],"
                            "\"admin_endpoint\":null}",
                            &create),
                     0);
    assert_true(sp_str_eqz(create.name, "s1"));
    assert_int_equal(create.replicas.n, 2);
    assert_int_equal(create.vnode_count, 256);
    assert_null(create.admin_endpoint.ptr);
    sp_msg_shard_for_key_reply_t reply;
    const char *both[] = {"\"-9223372036854775808\"", "-9223372036854775808"};
    for (size_t i = 0; i < 2; i++) {
        const char *text = sp_arena_printf(arena,
                                           "{\"shard_id\":\"a\",\"keyspace\":\"k\",\"key\":\"\","
                                           "\"hash\":%s,\"ring_version\":1}",
                                           both[i]);
        assert_int_equal(decode(&sp_schema_shard_for_key_reply, text, &reply), 0);
        assert_true(reply.hash == INT64_MIN);
        assert_non_null(reply.key.ptr); // empty is not absent
    }
}

static void test_refuses(void **state)
{
    (void)state;
    static const struct {
        const char *text; // of a shards_for_keys
        int code;         // expected
        const char *says; // in the error
    } rows[] = {
        {"{\"keys\":[\"a\"]}", 0, ""},
        {"", SP_E_MALFORMED, "ends too early"},
        {"{\"keys\":[\"a\"]", SP_E_MALFORMED, "ends too early"},
        {"{\"keys\":[\"a\"]}}", SP_E_MALFORMED, "behind the end"},
        {"{\"keys\":[\"a\"],\"keys\":[]}", SP_E_MALFORMED, "given twice"},
        {"{\"keys\":[NaN]}", SP_E_MALFORMED, "syntax"},
        {"{\"keys\":[\"a\\u0000\"]}", SP_E_MALFORMED, "NUL"},
        {"{\"keys\":[\"\xff\"]}", SP_E_MALFORMED, "UTF-8"},
        {"{\"keys\":[\"\xed\xa0\x80\"]}", SP_E_MALFORMED, "UTF-8"},
        {"{\"keys\":[\"\\ud800\"]}", SP_E_MALFORMED, ""},
        {"{\"keys\":[9223372036854775808]}", SP_E_MALFORMED, "64 bits"},
        {"{\"keys\":[1e999]}", SP_E_MALFORMED, "64 bits"},
        {"{\"keys\":[\"a\", 5]}", SP_E_INVALID_ARGUMENT,
         "keys[1]: a string is needed, not an integer"},
        {"{\"keys\":\"a\"}", SP_E_INVALID_ARGUMENT, "keys: a list is needed, not a string"},
        {"{\"keys\":[],\"keyspace\":\"\"}", SP_E_INVALID_ARGUMENT,
         "keyspace: 0 bytes, at least 1 are needed"},
        {"{\"keys\":[],\"nosuch\":1}", SP_E_UNKNOWN_FIELD,
         "nosuch: shards_for_keys has no such field"},
        {"{}", SP_E_MISSING_FIELD, "keys: required by shards_for_keys"},
        {"{\"keys\":null}", SP_E_MISSING_FIELD, "keys: required"},
        {"[]", SP_E_INVALID_ARGUMENT, "a map of fields is needed"},
        {"null", SP_E_INVALID_ARGUMENT, "a map of fields is needed"},
        {"{'keys':[]}", SP_E_MALFORMED, "syntax"},
        {"{\"keys\":[],}", SP_E_MALFORMED, "syntax"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        sp_msg_shards_for_keys_t body;
        memset(&err, 0, sizeof(err));
        int rc = decode(&sp_schema_shards_for_keys, rows[i].text, &body);
        if (rc != rows[i].code || strstr(err.text, rows[i].says) == NULL) {
            fail_msg("%s: %d %s", rows[i].text, rc, err.text);
        }
    }
    sp_msg_shards_for_keys_t body;
    assert_int_equal(sp_wire_decode_json(&sp_schema_shards_for_keys, "{\"keys\":[]}\0", 12, arena,
                                         &body, &err),
                     SP_E_MALFORMED);
    sp_msg_keyspace_create_t create;
    assert_int_equal(decode(&sp_schema_keyspace_create, "{\"name\":\"a\",\"key_type\":\"numeric\"}",
                            &create),
                     SP_E_INVALID_ARGUMENT);
    assert_string_equal(err.text, "key_type: it is one of bigint, text, uuid");
    assert_int_equal(decode(&sp_schema_keyspace_create, "{\"name\":\"a\",\"sequence_stride\":1.5}",
                            &create),
                     SP_E_INVALID_ARGUMENT);
}

// null is the same as absent, but for a free value, where it is one.
static void test_null(void **state)
{
    (void)state;
    sp_msg_execute_t execute;
    assert_int_equal(decode(&sp_schema_execute,
                            "{\"shard_key\":\"1\",\"params\":null,\"statements\":null}", &execute),
                     0);
    assert_int_equal(execute.params.n, 0);
    assert_int_equal(decode(&sp_schema_execute, "{\"shard_key\":\"1\",\"params\":[null]}",
                            &execute),
                     0);
    assert_int_equal(execute.params.items[0].kind, SP_VALUE_NULL);
    sp_msg_reshard_split_t split;
    assert_int_equal(decode(&sp_schema_reshard_split,
                            "{\"source_shard_id\":\"a\",\"target_shards\":null}", &split),
                     SP_E_MISSING_FIELD);
    sp_msg_event_t event;
    assert_int_equal(decode(&sp_schema_event, "{\"sequence\":1,\"kind\":\"k\",\"details\":null}",
                            &event),
                     0);
    assert_int_equal(event.details.kind, SP_VALUE_NULL);
}

// jansson's own errors quote the text around the fault.
static void test_errors_show_no_secret(void **state)
{
    (void)state;
    sp_msg_shard_create_t body;
    assert_int_equal(decode(&sp_schema_shard_create,
                            "{\"primary_endpoint\":\"postgresql://a:canary@h/d", &body),
                     SP_E_MALFORMED);
    assert_null(strstr(err.text, "canary"));
    assert_int_equal(decode(&sp_schema_shard_create,
                            "{\"name\":\"a\",\"primary_endpoint\":{\"canary\":1}}", &body),
                     SP_E_INVALID_ARGUMENT);
    assert_null(strstr(err.text, "canary"));
}

static void test_deep(void **state)
{
    (void)state;
    enum { DEEP = 1000 * 1000 };
    char *text = malloc(DEEP);
    memset(text, '[', DEEP);
    sp_value_t v;
    assert_int_equal(sp_wire_value_from_json(text, DEEP, arena, &v, &err), SP_E_MALFORMED);
    free(text);
    assert_int_equal(sp_wire_value_from_json("[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]", 33, arena, &v,
                                             &err),
                     0);
    assert_int_equal(sp_wire_value_from_json("[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]", 35, arena, &v,
                                             &err),
                     SP_E_MALFORMED);
    const char *quoted = "\"[[[[[[[[[[[[[[[[[[[[[[\\\"[[[[\"";
    assert_int_equal(sp_wire_value_from_json(quoted, strlen(quoted), arena, &v, &err), 0);
}

static void test_encode(void **state)
{
    (void)state;
    sp_str_t ids[] = {SP_STR("b")};
    sp_msg_job_progress_t progress = {.percent = 12.5, .has_percent = true};
    sp_msg_job_t job = {.id = SP_STR("a\"\n\x01"),
                        .state = SP_JOB_STATE_READY,
                        .has_state = true,
                        .target_shard_ids = {ids, 1},
                        .progress = &progress};
    sp_buf_t out = SP_BUF_INIT;
    assert_int_equal(sp_wire_encode_json(&sp_schema_job, &job, false, &out, &err), 0);
    assert_string_equal(out.data, "{\"id\":\"a\\\"\\n\\u0001\",\"state\":\"ready\","
                                  "\"target_shard_ids\":[\"b\"],\"phases\":[],"
                                  "\"progress\":{\"percent\":12.5},\"findings\":[],\"can\":[]}");
    sp_buf_reset(&out);
    job.state = 99;
    assert_int_equal(sp_wire_encode_json(&sp_schema_job, &job, false, &out, &err),
                     SP_E_INVALID_ARGUMENT);
    assert_int_equal(out.len, 0);

    sp_msg_shard_create_t create = {.name = SP_STR("s"),
                                    .primary_endpoint = SP_STR("canary"),
                                    .vnode_count = 1,
                                    .has_vnode_count = true};
    assert_int_equal(sp_wire_encode_json(&sp_schema_shard_create, &create, false, &out, &err), 0);
    assert_string_equal(out.data, "{\"name\":\"s\",\"vnode_count\":1}");
    sp_buf_reset(&out);
    assert_int_equal(sp_wire_encode_json(&sp_schema_shard_create, &create, true, &out, &err), 0);
    assert_non_null(strstr(out.data, "canary"));
    sp_buf_free(&out);
}

static void test_numbers(void **state)
{
    (void)state;
    static const struct {
        double v;
        const char *text;
    } rows[] = {{0.1, "0.1"},
                {3.0, "3.0"},
                {1e300, "1e+300"},
                {1.0 / 3, "0.3333333333333333"},
                {-0.0, "-0.0"},
                {5e-324, "4.94065645841247e-324"},
                {1.0 / 0.0, "\"Infinity\""}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        sp_buf_t out = SP_BUF_INIT;
        sp_json_write_float(&out, rows[i].v);
        assert_string_equal(out.data, rows[i].text);
        sp_buf_free(&out);
    }
    sp_value_t v;
    sp_buf_t out = SP_BUF_INIT;
    const char *text =
        "{\"a\":[1,9223372036854775807,-9223372036854775808,2.0,null,true,\"\xc3\xa9\"],\"b\":{}}";
    assert_int_equal(sp_wire_value_from_json(text, strlen(text), arena, &v, &err), 0);
    assert_int_equal(sp_wire_value_to_json(&v, &out, &err), 0);
    assert_string_equal(out.data, text);
    sp_buf_free(&out);
}

static void test_value_as_message(void **state)
{
    (void)state;
    sp_msg_reshard_split_t split;
    assert_int_equal(decode(&sp_schema_reshard_split,
                            "{\"source_shard_id\":\"a\",\"target_shards\":[\"b\",{\"name\":\"c\","
                            "\"primary_endpoint\":\"d\",\"x\":1}]}",
                            &split),
                     0);
    sp_msg_shard_create_t create;
    assert_int_equal(split.target_shards.items[0].kind, SP_VALUE_STRING);
    assert_int_equal(sp_wire_decode_value(&sp_schema_shard_create, &split.target_shards.items[1],
                                          arena, &create, &err),
                     SP_E_UNKNOWN_FIELD);
    split.target_shards.items[1].u.map.n = 2;
    assert_int_equal(sp_wire_decode_value(&sp_schema_shard_create, &split.target_shards.items[1],
                                          arena, &create, &err),
                     0);
    assert_true(sp_str_eqz(create.name, "c"));
}

// Records in etcd may be a newer release's.
static void test_records_skip_unknown_fields(void **state)
{
    (void)state;
    sp_msg_service_t service;
    assert_int_equal(decode(&sp_schema_service,
                            "{\"kind\":\"router\",\"id\":\"r\",\"later\":{\"deep\":[1]}}",
                            &service),
                     0);
    assert_true(sp_str_eqz(service.id, "r"));
    assert_int_equal(decode(&sp_schema_service, "{\"kind\":\"router\",\"id\":\"r\",\"id\":\"s\"}",
                            &service),
                     SP_E_MALFORMED);
}

static void test_base64(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {{"", ""},
                                           {"f", "Zg=="},
                                           {"fo", "Zm8="},
                                           {"foo", "Zm9v"},
                                           {"foob", "Zm9vYg=="},
                                           {"\xff\xfe\xfd", "//79"}};
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        sp_buf_t out = SP_BUF_INIT;
        sp_base64_encode(pairs[i][0], strlen(pairs[i][0]), &out);
        assert_string_equal(sp_buf_cstr(&out), pairs[i][1]);
        sp_buf_free(&out);
        sp_str_t back;
        assert_int_equal(sp_base64_decode(sp_str(pairs[i][1]), arena, &back, &err), 0);
        assert_true(sp_str_eqz(back, pairs[i][0]));
    }
    static const char *const bad[] = {"Z",    "Zg=",  "Zg",   "Zg==Zg==", "Z===",
                                      "Zh==", "Zm9=", "Zm 9", "====",     "Zm9v\n"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        sp_str_t back;
        if (sp_base64_decode(sp_str(bad[i]), arena, &back, &err) != SP_E_MALFORMED) {
            fail_msg("'%s' was taken", bad[i]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_decode, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refuses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_null, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors_show_no_secret, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deep, setup, teardown),
        cmocka_unit_test_setup_teardown(test_encode, setup, teardown),
        cmocka_unit_test_setup_teardown(test_numbers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_value_as_message, setup, teardown),
        cmocka_unit_test_setup_teardown(test_records_skip_unknown_fields, setup, teardown),
        cmocka_unit_test_setup_teardown(test_base64, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
