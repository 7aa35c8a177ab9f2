#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "common/pg/pgoutput.h"

// One of each message, as PostgreSQL 15 sends it.
#define MSG(text)                                                                                  \
    {                                                                                              \
        text, sizeof(text) - 1                                                                     \
    }
static const struct {
    const char *bytes; // message
    size_t len;        // bytes
} messages[] = {
    MSG("B\0\0\0\1\0\0\0\2\0\0\0\0\0\0\0\5\0\0\0\7"),
    MSG("C\0\0\0\0\1\0\0\0\2\0\0\0\1\0\0\0\3\0\0\0\0\0\0\0\5"),
    MSG("O\0\0\0\0\0\0\0\11origin\0"),
    MSG("R\0\0\100\1public\0orders\0d\0\2\1id\0\0\0\0\24\377\377\377\377\0note\0\0\0\0\31\377\377"
        "\377\377"),
    MSG("Y\0\0\100\2\0mood\0"),
    MSG("I\0\0\100\1N\0\3t\0\0\0\0021\062nb\0\0\0\1x"),
    MSG("U\0\0\100\1N\0\2t\0\0\0\1\061u"),
    MSG("U\0\0\100\1K\0\1t\0\0\0\1\061N\0\1t\0\0\0\1\062"),
    MSG("U\0\0\100\1O\0\1t\0\0\0\1\061N\0\1n"),
    MSG("D\0\0\100\1K\0\1t\0\0\0\1\061"),
    MSG("D\0\0\100\1O\0\2nn"),
    MSG("T\0\0\0\2\3\0\0\100\1\0\0\100\2"),
    MSG("M\1\0\0\0\0\0\0\0\11shardplane\0\0\0\0\3abc"),
};
enum { N_MESSAGES = sizeof messages / sizeof messages[0] };

// The message in a heap block of exactly its size, so that a sanitizer sees a read behind it.
static int parse_exact(const char *bytes, size_t len, sp_arena_t *arena, sp_pgo_message_t *m,
                       sp_error_t *err)
{
    char *copy = malloc(len > 0 ? len : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, len);
    int rc = sp_pgo_parse(copy, len, arena, m, err);
    free(copy);
    return rc;
}

static void whole(void **state)
{
    (void)state;
    sp_arena_t *arena = sp_arena_new(0);
    sp_pgo_message_t m[N_MESSAGES];
    sp_error_t err = {0};
    for (size_t i = 0; i < N_MESSAGES; i++)
        if (sp_pgo_parse(messages[i].bytes, messages[i].len, arena, &m[i], &err) != 0)
            fail_msg("%zu: %s", i, err.text);
    assert_int_equal(m[0].kind, SP_PGO_BEGIN);
    assert_true(m[0].final_lsn == 0x100000002 && m[0].xid == 7 &&
                m[0].commit_us == INT64_C(946684800000005));
    assert_true(m[1].final_lsn == 0x100000002 && m[1].end_lsn == 0x100000003 &&
                m[1].commit_us == INT64_C(946684800000005));
    assert_string_equal(m[2].name, "origin");
    assert_string_equal(m[3].schema, "public");
    assert_string_equal(m[3].name, "orders");
    assert_int_equal(m[3].n_columns, 2);
    assert_true(m[3].columns[0].key && !m[3].columns[1].key && m[3].columns[1].type_oid == 25 &&
                m[3].columns[1].type_mod == -1);
    assert_string_equal(m[4].schema, "");
    assert_int_equal(m[5].new_row.n, 3);
    assert_memory_equal(m[5].new_row.columns[0].data, "12", 2);
    assert_int_equal(m[5].new_row.columns[1].kind, 'n');
    assert_int_equal(m[5].new_row.columns[2].kind, 'b');
    assert_int_equal(m[6].old_kind, 0);
    assert_int_equal(m[6].new_row.columns[1].kind, 'u');
    assert_int_equal(m[7].old_kind, 'K');
    assert_memory_equal(m[7].old_row.columns[0].data, "1", 1);
    assert_memory_equal(m[7].new_row.columns[0].data, "2", 1);
    assert_int_equal(m[8].old_kind, 'O');
    assert_int_equal(m[9].kind, SP_PGO_DELETE);
    assert_int_equal(m[10].old_row.n, 2);
    assert_int_equal(m[11].n_truncated, 2);
    assert_int_equal(m[11].truncated[1], 0x4002);
    assert_true(m[12].transactional && m[12].content_len == 3 && m[12].message_lsn == 9);
    assert_string_equal(m[12].prefix, "shardplane");
    sp_arena_destroy(&arena);
}

static void cut_anywhere(void **state)
{
    (void)state;
    sp_arena_t *arena = sp_arena_new(0);
    for (size_t i = 0; i < N_MESSAGES; i++) {
        for (size_t len = 0; len < messages[i].len; len++) {
            sp_pgo_message_t m;
            assert_int_equal(parse_exact(messages[i].bytes, len, arena, &m, NULL), SP_E_MALFORMED);
        }
        char longer[128];
        memcpy(longer, messages[i].bytes, messages[i].len);
        longer[messages[i].len] = 0;
        assert_int_equal(parse_exact(longer, messages[i].len + 1, arena, &(sp_pgo_message_t){0},
                                     NULL),
                         SP_E_MALFORMED);
        sp_arena_reset(arena);
    }
    sp_arena_destroy(&arena);
}

static void refused(void **state)
{
    (void)state;
    sp_arena_t *arena = sp_arena_new(1 << 20);
    static const struct {
        const char *bytes; // message
        size_t len;        // bytes
        int code;          // expected
    } wrong[] = {
        {"S\0\0\0\1\1", 6, SP_E_UNSUPPORTED_VERSION}, // stream start: protocol 2
        {"\0", 1, SP_E_UNSUPPORTED_VERSION},
        {"I\0\0\0\1N\377\377", 8, SP_E_MALFORMED},           // 65535 columns in no bytes
        {"T\377\377\377\377\0\0\0\0\1", 10, SP_E_MALFORMED}, // 4 billion relations
        {"R\0\0\0\1a\0b\0d\177\377", 11, SP_E_MALFORMED},
        {"I\0\0\0\1N\0\1t\377\377\377\377", 13, SP_E_MALFORMED}, // length -1
        {"I\0\0\0\1N\0\1x\0\0\0\0", 13, SP_E_MALFORMED},         // unknown kind of datum
        {"D\0\0\0\1N\0\1n", 9, SP_E_MALFORMED},
        {"I\0\0\0\1K\0\1n", 9, SP_E_MALFORMED},
        {"M\1\0\0\0\0\0\0\0\11p\0\377\377\377\377", 16, SP_E_MALFORMED},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        sp_pgo_message_t m;
        assert_int_equal(parse_exact(wrong[i].bytes, wrong[i].len, arena, &m, NULL), wrong[i].code);
    }
    sp_arena_destroy(&arena);
}

static void flipped_bytes(void **state)
{
    (void)state;
    sp_arena_t *arena = sp_arena_new(1 << 20);
    for (size_t i = 0; i < N_MESSAGES; i++) {
        for (size_t at = 0; at < messages[i].len; at++) {
            for (int value = 0; value < 256; value += 15) {
                char copy[128];
                sp_pgo_message_t m;
                memcpy(copy, messages[i].bytes, messages[i].len);
                copy[at] = (char)value;
                int rc = parse_exact(copy, messages[i].len, arena, &m, NULL);
                assert_true(rc == 0 || rc == SP_E_MALFORMED || rc == SP_E_UNSUPPORTED_VERSION ||
                            rc == SP_E_OUT_OF_MEMORY);
                sp_arena_reset(arena);
            }
        }
    }
    sp_arena_destroy(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(whole), cmocka_unit_test(cut_anywhere),
                                       cmocka_unit_test(refused), cmocka_unit_test(flipped_bytes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
