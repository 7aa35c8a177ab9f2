// Each message against bytes that another implementation made (golden.json): what peers sent yesterday is read today, and what we
// send is what they wrote.
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/wire/wire.h"
#include "schemas/catalog.h"
#include "schemas/envelope.h"

static const sp_schema_t *find_schema(const char *name)
{
    static const sp_schema_t *const parts[] = {
        &sp_schema_envelope,         &sp_schema_catalog_generation, &sp_schema_catalog_leader,
        &sp_schema_catalog_keyspace, &sp_schema_catalog_ring,       &sp_schema_catalog_shard,
        &sp_schema_catalog_job,
    };
    const sp_schema_t *found = sp_schema_by_name(name);
    for (size_t i = 0; found == NULL && i < sizeof(parts) / sizeof(parts[0]); i++) {
        found = strcmp(parts[i]->name, name) == 0 ? parts[i] : NULL;
    }
    return found;
}

static size_t unhex(const char *hex, unsigned char *out)
{
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) {
        int high = sp_str_hex_digit(hex[2 * i]), low = sp_str_hex_digit(hex[2 * i + 1]);
        assert_true(high >= 0 && low >= 0);
        out[i] = (unsigned char)(high << 4 | low);
    }
    return n;
}

static void check_row(json_t *row)
{
    const char *name = json_string_value(json_object_get(row, "message"));
    const char *hex = json_string_value(json_object_get(row, "msgpack"));
    bool full = strcmp(json_string_value(json_object_get(row, "variant")), "full") == 0;
    const sp_schema_t *schema = find_schema(name);
    if (schema == NULL) {
        fail_msg("no message %s", name);
        return;
    }
    unsigned char *bytes = malloc(strlen(hex) / 2 + 1);
    size_t len = unhex(hex, bytes);
    sp_arena_t *arena = sp_arena_new(0);
    void *body = malloc(schema->size);
    sp_error_t err = {0};

    if (sp_wire_decode_msgpack(schema, bytes, len, arena, body, &err) != 0) {
        fail_msg("%s: decode msgpack: %s", name, err.text);
    }
    sp_buf_t out = SP_BUF_INIT;
    if (sp_wire_encode_json(schema, body, true, &out, &err) != 0) {
        fail_msg("%s: encode JSON: %s", name, err.text);
    }
    json_t *got = json_loadb(out.data, out.len, JSON_REJECT_DUPLICATES, NULL);
    if (!json_equal(got, json_object_get(row, "json"))) {
        fail_msg("%s: %s\nwanted %s", name, out.data, json_dumps(json_object_get(row, "json"), 0));
    }
    json_decref(got);
    sp_buf_reset(&out);
    if (full) { // a minimal one comes back with its defaults
        assert_int_equal(sp_wire_encode_msgpack(schema, body, &out, &err), 0);
        assert_int_equal(out.len, len);
        assert_memory_equal(out.data, bytes, len);
    }
    sp_buf_free(&out);
    free(body);
    free(bytes);
    sp_arena_destroy(&arena);
}

static json_t *load(void)
{
    json_error_t je;
    json_t *rows = json_load_file("tests/contract/golden.json", JSON_REJECT_DUPLICATES, &je);
    if (rows == NULL) {
        fail_msg("golden.json: %s", je.text);
    }
    return rows;
}

static void test_golden(void **state)
{
    (void)state;
    json_t *rows = load(), *row;
    size_t i;
    json_array_foreach(rows, i, row)
    {
        check_row(row);
    }
    json_decref(rows);
}

// A message without golden bytes is a contract that nobody checks.
static void test_every_message_has_golden_bytes(void **state)
{
    (void)state;
    json_t *rows = load(), *row;
    for (size_t k = 0; k < sp_schemas_n; k++) {
        bool found = false;
        size_t i;
        json_array_foreach(rows, i, row)
        {
            found = found || strcmp(json_string_value(json_object_get(row, "message")),
                                    sp_schemas[k]->name) == 0;
        }
        if (!found) {
            fail_msg("no golden bytes for %s: run tests/contract/make_golden.py",
                     sp_schemas[k]->name);
        }
    }
    json_decref(rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden),
                                       cmocka_unit_test(test_every_message_has_golden_bytes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
