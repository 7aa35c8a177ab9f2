#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/wire/wire.h"
#include "schemas/envelope.h"
#include "schemas/route.h"
#include "schemas/shard.h"
#include "schemas/task.h"
#include "tests/unit/arena_fixture.h"

static char *inputs[64]; // decoded strings borrow from them until the test ends
static size_t inputs_n;

static int free_inputs(void **state)
{
    while (inputs_n > 0) {
        free(inputs[--inputs_n]);
    }
    return teardown(state);
}

static int decode(const sp_schema_t *schema, const char *bytes, size_t len, void *body)
{
    // A copy of exactly len bytes, so that ASan sees a read behind the end.
    char *copy = inputs[inputs_n++] = malloc(len + (len == 0));
    memcpy(copy, bytes, len);
    return sp_wire_decode_msgpack(schema, copy, len, arena, body, &err);
}
#define DECODE(schema, literal, body) decode(schema, literal, sizeof(literal) - 1, body)

static void test_roundtrip(void **state)
{
    (void)state;
    sp_value_t cells[3] = {sp_value_int(-5), sp_value_str("x"), {.kind = SP_VALUE_NULL}};
    sp_msg_statement_t statements[1] = {{.sql = SP_STR("select $1"), .params = {cells, 3}}};
    sp_msg_execute_t in = {.shard_key = SP_STR("42"),
                           .statements = {statements, 1},
                           .consistency = SP_CONSISTENCY_EVENTUAL,
                           .has_consistency = true};
    sp_buf_t out = SP_BUF_INIT;
    assert_int_equal(sp_wire_encode_msgpack(&sp_schema_execute, &in, &out, &err), 0);
    sp_msg_execute_t back;
    memset(&back, 0xaa, sizeof(back)); // the decoder zeroes it
    assert_int_equal(sp_wire_decode_msgpack(&sp_schema_execute, out.data, out.len, arena, &back,
                                            &err),
                     0);
    assert_true(sp_str_eqz(back.shard_key, "42"));
    assert_true(sp_str_eqz(back.keyspace, "default"));
    assert_int_equal(back.consistency, SP_CONSISTENCY_EVENTUAL);
    assert_int_equal(back.statements.n, 1);
    assert_int_equal(back.statements.items[0].params.n, 3);
    assert_int_equal(back.statements.items[0].params.items[0].u.i, -5);
    assert_int_equal(back.statements.items[0].params.items[2].kind, SP_VALUE_NULL);
    assert_null(back.sql.ptr);
    assert_false(back.has_deadline_ms);
    sp_buf_free(&out);
}

static void test_defaults_and_presence(void **state)
{
    (void)state;
    sp_msg_shard_create_t create;
    assert_int_equal(DECODE(&sp_schema_shard_create,
                            "\x82\x01\xa1"
                            "a\x02\xa1"
                            "d",
                            &create),
                     0);
    assert_int_equal(create.vnode_count, 256);
    assert_true(create.has_vnode_count);
    assert_true(sp_str_eqz(create.keyspace, "default"));
    assert_null(create.admin_endpoint.ptr);
    sp_msg_table_create_t table;
    assert_int_equal(DECODE(&sp_schema_table_create, "\x82\x01\xa1k\x03\xa1t", &table), 0);
    assert_int_equal(table.mode, SP_TABLE_MODE_SHARDED);

    // A value that is not zero counts as there, and a required number always is.
    sp_msg_event_t event = {.kind = SP_STR("k"), .time_ms = 7};
    sp_buf_t out = SP_BUF_INIT;
    assert_int_equal(sp_wire_encode_msgpack(&sp_schema_event, &event, &out, &err), 0);
    assert_int_equal(out.len, 8);
    assert_memory_equal(out.data, "\x83\x01\x00\x02\x07\x03\xa1k", 8);
    sp_buf_free(&out);
}

static void test_unknown_fields_are_skipped(void **state)
{
    (void)state;
    sp_msg_task_ack_t ack;
    assert_int_equal(DECODE(&sp_schema_task_ack,
                            "\x83\x63\x81\xa1z\x92\x01\x02\x01\xa1t\xcd\xff\xff\xc0", &ack),
                     0);
    assert_true(sp_str_eqz(ack.task_id, "t"));
    // nil is the same as absent
    assert_int_equal(DECODE(&sp_schema_task_ack, "\x81\x01\xc0", &ack), SP_E_MISSING_FIELD);
    // also for a list of free values, but not inside it
    sp_msg_execute_t execute;
    assert_int_equal(DECODE(&sp_schema_execute, "\x82\x02\xa1k\x05\xc0", &execute), 0);
    assert_int_equal(execute.params.n, 0);
    assert_int_equal(DECODE(&sp_schema_execute, "\x82\x02\xa1k\x05\x91\xc0", &execute), 0);
    assert_int_equal(execute.params.items[0].kind, SP_VALUE_NULL);
    sp_msg_event_t event;
    assert_int_equal(DECODE(&sp_schema_event, "\x83\x01\x01\x03\xa1k\x0a\xc0", &event), 0);
    assert_int_equal(event.details.kind, SP_VALUE_NULL);
}

static void test_refusals_name_the_field(void **state)
{
    (void)state;
    sp_msg_execute_t body;
    assert_int_equal(DECODE(&sp_schema_execute, "\x80", &body), SP_E_MISSING_FIELD);
    assert_string_equal(err.text, "shard_key: required by execute");
    assert_int_equal(DECODE(&sp_schema_execute, "\x82\x02\xa1k\x02\xa1k", &body), SP_E_MALFORMED);
    assert_string_equal(err.text, "shard_key: given twice");
    // nil says that it is absent: who reads the other one sees another message
    assert_int_equal(DECODE(&sp_schema_execute, "\x82\x02\xa1k\x02\xc0", &body), SP_E_MALFORMED);
    assert_int_equal(DECODE(&sp_schema_execute, "\x82\x02\xc0\x02\xa1k", &body), SP_E_MALFORMED);
    assert_string_equal(err.text, "shard_key: given twice");
    assert_int_equal(DECODE(&sp_schema_execute, "\x82\x02\xa1k\x08\x00", &body),
                     SP_E_INVALID_ARGUMENT);
    assert_string_equal(err.text, "deadline_ms: 0 is below 1");
    assert_int_equal(DECODE(&sp_schema_execute, "\x82\x02\xa1k\x03\x92\x81\x01\xa1s\x80", &body),
                     SP_E_MISSING_FIELD);
    assert_string_equal(err.text, "statements[1].sql: required by statement");
    assert_int_equal(DECODE(&sp_schema_execute, "\x82\x02\xa1k\x06\x09", &body),
                     SP_E_INVALID_ARGUMENT);
    assert_string_equal(err.text, "consistency: 9 is no consistency");
    assert_int_equal(DECODE(&sp_schema_execute, "\x81\x02\x01", &body), SP_E_INVALID_ARGUMENT);
    assert_string_equal(err.text, "shard_key: a string is needed, not an integer");
    assert_int_equal(DECODE(&sp_schema_execute,
                            "\x82\x02\xa1k\x08\xcf\xff\xff\xff\xff\xff\xff\xff\xff", &body),
                     SP_E_INVALID_ARGUMENT);
    assert_int_equal(DECODE(&sp_schema_execute, "\x81\xa2ke\x01", &body),
                     SP_E_MALFORMED); // named by a string
    assert_int_equal(DECODE(&sp_schema_execute, "\x91\x01", &body), SP_E_INVALID_ARGUMENT);
    assert_int_equal(DECODE(&sp_schema_execute, "\x81\x02\xa1k\x00", &body),
                     SP_E_MALFORMED); // trailing
    // A free value with a duplicate key, or a key that is no string
    assert_int_equal(DECODE(&sp_schema_execute, "\x82\x02\xa1k\x05\x91\x82\xa1x\x01\xa1x\x02",
                            &body),
                     SP_E_MALFORMED);
    assert_string_equal(err.text, "params[0]: the key 'x' is given twice");
    assert_int_equal(DECODE(&sp_schema_execute, "\x82\x02\xa1k\x05\x91\x81\x01\x01", &body),
                     SP_E_MALFORMED);
}

static void test_bounds(void **state)
{
    (void)state;
    char bytes[600] = "\x81\x01\xda\x00\x41"; // str 16, 65 bytes
    memset(bytes + 5, 'x', 65);
    sp_msg_task_ack_t ack;
    assert_int_equal(decode(&sp_schema_task_ack, bytes, 70, &ack), SP_E_TOO_LARGE);
    assert_string_equal(err.text, "task_id: 65 bytes, at most 64 are allowed");
    bytes[4] = 64;
    assert_int_equal(decode(&sp_schema_task_ack, bytes, 69, &ack), 0);

    char long_id[65];
    memset(long_id, 'x', sizeof(long_id));
    ack.task_id = (sp_str_t){long_id, 65};
    sp_buf_t out = SP_BUF_INIT;
    sp_buf_addz(&out, "kept");
    assert_int_equal(sp_wire_encode_msgpack(&sp_schema_task_ack, &ack, &out, &err), SP_E_TOO_LARGE);
    ack.task_id = (sp_str_t){"\xff", 1};
    assert_int_equal(sp_wire_encode_msgpack(&sp_schema_task_ack, &ack, &out, &err), SP_E_MALFORMED);
    ack.task_id = (sp_str_t){NULL, 0};
    assert_int_equal(sp_wire_encode_msgpack(&sp_schema_task_ack, &ack, &out, &err),
                     SP_E_MISSING_FIELD);
    assert_int_equal(out.len, 4);
    assert_string_equal(out.data, "kept");
    sp_buf_free(&out);

    // Over max_bytes, before anything is looked at.
    char *large = malloc(SP_WIRE_MAX_BYTES + 1);
    memset(large, 0, SP_WIRE_MAX_BYTES + 1);
    assert_int_equal(sp_wire_decode_msgpack(&sp_schema_task_ack, large, SP_WIRE_MAX_BYTES + 1,
                                            arena, &ack, &err),
                     SP_E_TOO_LARGE);
    free(large);
}

// A megabyte of one-byte elements is a true count: the field's own limit and the arena's hold it.
static void test_memory_is_bounded(void **state)
{
    (void)state;
    size_t n = 1000 * 1000;
    char *bytes = malloc(n + 20);
    memset(bytes, '\x80', n + 20);
    // NOLINTNEXTLINE(bugprone-not-null-terminated-result): no string, but bytes
    memcpy(bytes, "\x82\x02\xa1k\x05\xdd\x00\x0f\x42\x40", 10);
    sp_msg_execute_t body;
    assert_int_equal(sp_wire_decode_msgpack(&sp_schema_execute, bytes, n + 10, arena, &body, &err),
                     SP_E_TOO_LARGE);
    assert_string_equal(err.text, "params: 1000000 items, at most 1000 are allowed");
    // Inside a free value only the arena's limit holds it.
    // NOLINTNEXTLINE(bugprone-not-null-terminated-result): no string, but bytes
    memcpy(bytes, "\x82\x02\xa1k\x05\x91\xdd\x00\x0f\x42\x40", 11);
    sp_arena_t *small = sp_arena_new(1024 * 1024);
    assert_int_equal(sp_wire_decode_msgpack(&sp_schema_execute, bytes, n + 11, small, &body, &err),
                     SP_E_TOO_LARGE);
    sp_arena_destroy(&small);
    free(bytes);
}

static void free_values(void **state)
{
    (void)state;
    sp_value_t v, back;
    const char bytes[] = "\x82\xa1"
                         "a\x93\xc0\xc3\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\xa1"
                         "b\xc4\x02\x00\xff";
    assert_int_equal(sp_wire_value_from_msgpack(bytes, sizeof(bytes) - 1, arena, &v, &err), 0);
    assert_int_equal(sp_value_get(&v, "a")->u.list.n, 3);
    assert_int_equal(sp_value_get(&v, "b")->kind, SP_VALUE_BYTES);
    assert_null(sp_value_get(&v, "c"));
    sp_buf_t out = SP_BUF_INIT;
    assert_int_equal(sp_wire_value_to_msgpack(&v, &out, &err), 0);
    assert_int_equal(out.len, sizeof(bytes) - 1);
    assert_memory_equal(out.data, bytes, out.len);
    sp_buf_reset(&out);
    // Deeper than a peer would read: never sent. Twenty lists, one in the other.
    sp_value_t nest[20] = {{.kind = SP_VALUE_NULL}};
    for (size_t i = 1; i < 20; i++) {
        nest[i] = (sp_value_t){.kind = SP_VALUE_LIST, .u.list = {&nest[i - 1], 1}};
    }
    assert_int_equal(sp_wire_value_to_msgpack(&nest[19], &out, &err), SP_E_MALFORMED);
    assert_int_equal(sp_wire_value_to_json(&nest[19], &out, &err), SP_E_MALFORMED);
    assert_int_equal(sp_wire_value_to_msgpack(&nest[16], &out, &err), 0);
    assert_int_equal(sp_wire_value_from_msgpack(out.data, out.len, arena, &back, &err), 0);
    sp_buf_free(&out);
}

// A reply that lists the whole catalog must not fail from the 1001st on.
static void test_lists_of_all_have_room(void **state)
{
    (void)state;
    static const struct {
        const sp_schema_t *schema; // reply
        const char *field;         // list
    } rows[] = {{&sp_schema_keyspace_list_reply, "keyspaces"},
                {&sp_schema_table_list_reply, "tables"},
                {&sp_schema_shard_list_reply, "shards"},
                {&sp_schema_service_list_reply, "services"},
                {&sp_schema_shards_for_keys_reply, "shards"},
                {&sp_schema_ring_snapshot, "shards"}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        size_t room = 0;
        for (size_t f = 0; f < rows[i].schema->n; f++) {
            if (strcmp(rows[i].schema->fields[f].name, rows[i].field) == 0) {
                room = rows[i].schema->fields[f].max_items;
            }
        }
        if (room < 10000) {
            fail_msg("%s.%s holds %zu", rows[i].schema->name, rows[i].field, room);
        }
    }
}

static void test_registry(void **state)
{
    (void)state;
    for (size_t i = 0; i < sp_schemas_n; i++) {
        assert_ptr_equal(sp_schema_by_id(sp_schemas[i]->id), sp_schemas[i]);
        assert_ptr_equal(sp_schema_by_name(sp_schemas[i]->name), sp_schemas[i]);
    }
    assert_null(sp_schema_by_id(0));
    assert_null(sp_schema_by_id(65535));
    assert_null(sp_schema_by_name("nothing"));
    assert_string_equal(sp_enum_name(&sp_enum_key_type, SP_KEY_TYPE_UUID), "uuid");
    assert_string_equal(sp_enum_name(&sp_enum_key_type, 77), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_roundtrip, setup, free_inputs),
        cmocka_unit_test_setup_teardown(test_defaults_and_presence, setup, free_inputs),
        cmocka_unit_test_setup_teardown(test_unknown_fields_are_skipped, setup, free_inputs),
        cmocka_unit_test_setup_teardown(test_refusals_name_the_field, setup, free_inputs),
        cmocka_unit_test_setup_teardown(test_bounds, setup, free_inputs),
        cmocka_unit_test_setup_teardown(test_memory_is_bounded, setup, free_inputs),
        cmocka_unit_test_setup_teardown(free_values, setup, free_inputs),
        cmocka_unit_test_setup_teardown(test_lists_of_all_have_room, setup, free_inputs),
        cmocka_unit_test_setup_teardown(test_registry, setup, free_inputs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
