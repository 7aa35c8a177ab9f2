// Mutated and random bytes through every decoder: nothing may crash (ASan, UBSan), and whatever is accepted must encode again and
// decode to the same bytes. Bounded and seeded: a failure repeats. WIRE_FUZZ_ROUNDS asks for more.
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/wire/scan.h"
#include "common/wire/wire.h"

static uint64_t seed = 20240601;

static uint32_t
below(uint32_t limit) // splitmix64: the test must not depend on the libc's generator
{
    uint64_t z = seed += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((z ^ z >> 31) % limit);
}

static size_t mutate(char *bytes, size_t len, size_t room)
{
    static const unsigned char nasty[] = {0xdd, 0xdf, 0xdb, 0xc6, 0xc1, 0xff, 0x00, 0x80,
                                          0x90, 0xc0, 0xcf, 0xd3, '"',  '\\', '{',  '['};
    for (uint32_t n = below(4); n > 0 && len > 0; n--) {
        size_t at = below((uint32_t)len);
        switch (below(5)) {
        case 0:
            bytes[at] = (char)below(256);
            break;
        case 1:
            bytes[at] = (char)nasty[below(sizeof(nasty))];
            break;
        case 2:
            len = at;
            break;
        case 3:
            memmove(bytes + at, bytes + at + 1, len - at - 1);
            len--;
            break;
        default:
            if (len < room) {
                memmove(bytes + at + 1, bytes + at, len - at);
                bytes[at] = (char)nasty[below(sizeof(nasty))];
                len++;
            }
        }
    }
    return len;
}

static void try_msgpack(const sp_schema_t *schema, const char *data, size_t len, sp_arena_t *arena,
                        void *body)
{
    char *exact = malloc(len + (len == 0)); // so that ASan sees one byte too many
    memcpy(exact, data, len);
    sp_buf_t first = SP_BUF_INIT, second = SP_BUF_INIT, json = SP_BUF_INIT;
    sp_error_t err = {0};
    sp_value_t value;
    sp_wire_value_from_msgpack(exact, len, arena, &value, &err);
    if (sp_wire_decode_msgpack(schema, exact, len, arena, body, &err) == 0) {
        assert_int_equal(sp_wire_scan(exact, len, SP_WIRE_MAX_DEPTH, NULL), 0);
        assert_int_equal(sp_wire_encode_msgpack(schema, body, &first, &err), 0);
        assert_int_equal(sp_wire_decode_msgpack(schema, first.data, first.len, arena, body, &err),
                         0);
        assert_int_equal(sp_wire_encode_msgpack(schema, body, &second, &err), 0);
        assert_int_equal(first.len, second.len);
        assert_memory_equal(first.data, second.data, first.len);
        assert_int_equal(sp_wire_encode_json(schema, body, true, &json, &err), 0);
        json_t *parsed = json_loadb(json.data, json.len, JSON_REJECT_DUPLICATES, NULL);
        assert_non_null(parsed);
        json_decref(parsed);
    } else {
        assert_true(err.code < 0 && err.text[0] != '\0');
        assert_true(sp_str_valid_utf8(sp_str(err.text)));
    }
    sp_buf_free(&first);
    sp_buf_free(&second);
    sp_buf_free(&json);
    free(exact);
}

static void try_json(const sp_schema_t *schema, const char *data, size_t len, sp_arena_t *arena,
                     void *body)
{
    char *exact = malloc(len + (len == 0));
    memcpy(exact, data, len);
    sp_buf_t out = SP_BUF_INIT;
    sp_error_t err = {0};
    if (sp_wire_decode_json(schema, exact, len, arena, body, &err) == 0) {
        assert_int_equal(sp_wire_encode_json(schema, body, true, &out, &err), 0);
        assert_int_equal(sp_wire_decode_json(schema, out.data, out.len, arena, body, &err), 0);
    } else {
        assert_true(err.code < 0 && sp_str_valid_utf8(sp_str(err.text)));
    }
    sp_buf_free(&out);
    free(exact);
}

static void test_mutations(void **state)
{
    (void)state;
    const char *wish = getenv("WIRE_FUZZ_ROUNDS");
    int rounds = wish != NULL ? (int)strtol(wish, NULL, 10) : 200;
    json_t *rows = json_load_file("tests/contract/golden.json", 0, NULL), *row;
    assert_non_null(rows);
    size_t i;
    sp_arena_t *arena = sp_arena_new(0);
    char *bytes = malloc(65536);
    json_array_foreach(rows, i, row)
    {
        const sp_schema_t *schema =
            sp_schema_by_name(json_string_value(json_object_get(row, "message")));
        if (schema == NULL) {
            continue; // a part
        }
        void *body = malloc(schema->size);
        const char *hex = json_string_value(json_object_get(row, "msgpack"));
        char *text = json_dumps(json_object_get(row, "json"), JSON_COMPACT);
        size_t n = strlen(hex) / 2;
        for (int round = 0; round < rounds; round++) {
            for (size_t k = 0; k < n && k < 32768; k++) {
                char pair[3] = {hex[2 * k], hex[2 * k + 1], 0};
                bytes[k] = (char)strtol(pair, NULL, 16);
            }
            try_msgpack(schema, bytes, mutate(bytes, n, 65536), arena, body);
            size_t len = strlen(text);
            memcpy(bytes, text, len); // NOLINT(bugprone-not-null-terminated-result): bytes
            try_json(schema, bytes, mutate(bytes, len, 65536), arena, body);
            sp_arena_reset(arena);
        }
        free(text);
        free(body);
    }
    free(bytes);
    sp_arena_destroy(&arena);
    json_decref(rows);
}

static void test_noise(void **state)
{
    (void)state;
    sp_arena_t *arena = sp_arena_new(0);
    for (int round = 0; round < 20000; round++) {
        char bytes[64] = "";
        size_t len = below(sizeof(bytes));
        for (size_t k = 0; k < len; k++) {
            bytes[k] = (char)below(256);
        }
        const sp_schema_t *schema = sp_schemas[below((uint32_t)sp_schemas_n)];
        void *body = malloc(schema->size);
        try_msgpack(schema, bytes, len, arena, body);
        try_json(schema, bytes, len, arena, body);
        free(body);
        sp_arena_reset(arena);
    }
    sp_arena_destroy(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mutations),
                                       cmocka_unit_test(test_noise)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
