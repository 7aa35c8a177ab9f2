#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "schemas/job.h"
#include "schemas/route.h"
#include "schemas/shard.h"
#include "services/gateway/pure_routes.h"
#include "tests/unit/arena_fixture.h"

static char allow[64];

// Code of the whole way from "METHOD uri" and a body to a message; the message in *ret_body.
static int request(const char *method, const char *uri, const char *json,
                   const sp_schema_t **ret_schema, void **ret_body)
{
    static max_align_t nothing[256]; // what a request that failed leaves
    sp_str_t path, query;
    sp_route_fields_t fields = {.n = 0};
    *ret_body = nothing;
    memset(&err, 0, sizeof(err));
    sp_route_split(sp_str(uri), &path, &query);
    int rc = sp_route_find(method, path, arena, ret_schema, &fields, allow, sizeof(allow), &err);
    if (rc != 0 || (rc = sp_route_query(*ret_schema, query, arena, &fields, &err)) != 0) {
        return rc;
    }
    sp_value_t body;
    if (json != NULL) {
        assert_int_equal(sp_wire_value_from_json(json, strlen(json), arena, &body, &err), 0);
    }
    *ret_body = sp_arena_alloc(arena, 1, (*ret_schema)->size);
    return sp_route_message(*ret_schema, &fields, json != NULL ? &body : NULL, arena, *ret_body,
                            &err);
}

static void test_routes(void **state)
{
    (void)state;
    const sp_schema_t *schema;
    void *body;
    assert_int_equal(request("GET", "/v1/shard-for-key?key=a%20b+c%2Bd", NULL, &schema, &body), 0);
    assert_ptr_equal(schema, &sp_schema_shard_for_key);
    assert_true(sp_str_eqz(((sp_msg_shard_for_key_t *)body)->key, "a b c+d"));
    assert_true(sp_str_eqz(((sp_msg_shard_for_key_t *)body)->keyspace, "default"));

    assert_int_equal(request("GET", "/api/v1/keyspaces/default/tables/My%20Schema/or%22der%2Fs",
                             NULL, &schema, &body),
                     0);
    assert_ptr_equal(schema, &sp_schema_table_get);
    assert_true(sp_str_eqz(((sp_msg_table_get_t *)body)->schema, "My Schema"));
    assert_true(sp_str_eqz(((sp_msg_table_get_t *)body)->table, "or\"der/s"));

    assert_int_equal(request("POST", "/api/v1/reshard/split?dry_run=true",
                             "{\"source_shard_id\":\"a\",\"target_shards\":[\"b\"]}", &schema,
                             &body),
                     0);
    assert_true(((sp_msg_reshard_split_t *)body)->dry_run);
    assert_int_equal(request("POST", "/api/v1/reshard/split?dry_run",
                             "{\"source_shard_id\":\"a\",\"target_shards\":[\"b\"]}", &schema,
                             &body),
                     0);
    assert_true(((sp_msg_reshard_split_t *)body)->dry_run);

    assert_int_equal(request("GET", "/api/v1/reshard/jobs?state=ready&limit=5", NULL, &schema,
                             &body),
                     0);
    assert_int_equal(((sp_msg_job_list_t *)body)->limit, 5);
    assert_int_equal(((sp_msg_job_list_t *)body)->state, SP_JOB_STATE_READY);
    assert_int_equal(request("GET", "http://host:1/api/v1/shards/a?", NULL, &schema, &body), 0);
    assert_ptr_equal(schema, &sp_schema_shard_get);
    // In a path a plus is a plus.
    assert_int_equal(request("HEAD", "/api/v1/shards/a+b", NULL, &schema, &body), 0);
    assert_true(sp_str_eqz(((sp_msg_shard_get_t *)body)->shard_id, "a+b"));
    assert_int_equal(request("GET", "/api/v1/%73hards", NULL, &schema, &body), 0);
    assert_ptr_equal(schema, &sp_schema_shard_list);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *method, *uri, *json;
        int code;
        const char *says;
    } rows[] = {
        {"GET", "/", NULL, SP_E_NOT_FOUND, ""},
        {"GET", "", NULL, SP_E_NOT_FOUND, ""},
        {"GET", "http://host", NULL, SP_E_NOT_FOUND, ""},
        {"GET", "/api/v1/shards/", NULL, SP_E_INVALID_ARGUMENT, "shard_id: 0 bytes"},
        {"GET", "/api/v1/shards/a/b/c/d", NULL, SP_E_NOT_FOUND, ""},
        {"GET", "/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a", NULL, SP_E_NOT_FOUND, ""},
        {"GET", "//api/v1/shards", NULL, SP_E_NOT_FOUND, ""},
        {"GET", "/api/v1/shards/%zz", NULL, SP_E_MALFORMED, "hexadecimal"},
        {"GET", "/api/v1/shards/%4", NULL, SP_E_MALFORMED, "hexadecimal"},
        {"GET", "/api/v1/shards/%", NULL, SP_E_MALFORMED, "hexadecimal"},
        {"GET", "/api/v1/shards/%00", NULL, SP_E_MALFORMED, "NUL"},
        {"GET", "/api/v1/shards/%ff", NULL, SP_E_MALFORMED, "UTF-8"},
        {"GET", "/v1/shard-for-key", NULL, SP_E_MISSING_FIELD, "key"},
        {"GET", "/v1/shard-for-key?key=a&key=b", NULL, SP_E_MALFORMED, "key: given twice"},
        {"GET", "/v1/shard-for-key?key=a&nosuch=b", NULL, SP_E_UNKNOWN_FIELD, ""},
        {"GET", "/api/v1/reshard/jobs?limit=5x", NULL, SP_E_INVALID_ARGUMENT, "limit: an integer"},
        {"GET", "/api/v1/reshard/jobs?limit=0", NULL, SP_E_INVALID_ARGUMENT, "limit: 0 is below 1"},
        {"GET", "/api/v1/reshard/jobs?state=done", NULL, SP_E_INVALID_ARGUMENT,
         "state: it is one of pending"},
        {"POST", "/api/v1/reshard/split?dry_run=maybe", "{}", SP_E_INVALID_ARGUMENT, "dry_run"},
        {"POST", "/api/v1/keyspaces/a/tables", "{\"keyspace\":\"b\",\"table\":\"t\"}",
         SP_E_MALFORMED, "keyspace: given twice"},
        {"POST", "/api/v1/keyspaces", "[]", SP_E_INVALID_ARGUMENT, "object"},
        {"POST", "/api/v1/keyspaces", NULL, SP_E_MISSING_FIELD, "name"},
        {"PUT", "/api/v1/shards", NULL, SP_E_METHOD_NOT_ALLOWED, ""},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const sp_schema_t *schema;
        void *body;
        int rc = request(rows[i].method, rows[i].uri, rows[i].json, &schema, &body);
        if (rc != rows[i].code || strstr(err.text, rows[i].says) == NULL) {
            fail_msg("%s %s: %d %s", rows[i].method, rows[i].uri, rc, err.text);
        }
    }
    assert_string_equal(allow, "POST, GET");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_routes, setup,
                                                                       teardown),
                                       cmocka_unit_test_setup_teardown(test_refusals, setup,
                                                                       teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
