// The key hash and canonical keys against answers recorded from PostgreSQL.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/ring/hash.h"
#include "common/ring/key.h"
#include "schemas/shard.h"
#include "tests/unit/ring_golden.h"

static void hash_is_postgres(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof golden_hashes / sizeof *golden_hashes; i++) {
        int64_t got = sp_key_hash(golden_hashes[i].text, golden_hashes[i].len);
        if (got != golden_hashes[i].hash)
            fail_msg("row %zu, %zu bytes: %ld", i, golden_hashes[i].len, (long)got);
    }
}

static void keys_are_postgres(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof golden_keys / sizeof *golden_keys; i++) {
        char out[SP_KEY_CANONICAL_MAX];
        sp_str_t got = {NULL, 0};
        sp_error_t err = {0};
        int rc = sp_key_canonical(golden_keys[i].key_type, sp_str(golden_keys[i].in), out,
                                  sizeof out, &got, &err);
        if (!golden_keys[i].out) {
            if (rc != SP_E_INVALID_ARGUMENT)
                fail_msg("\"%s\" was accepted", golden_keys[i].in);
            assert_string_not_equal(err.text, "");
        } else if (rc || !sp_str_eqz(got, golden_keys[i].out)) {
            fail_msg("\"%s\": rc %d, got \"%.*s\", not \"%s\"", golden_keys[i].in, rc, (int)got.len,
                     got.ptr ? got.ptr : "", golden_keys[i].out);
        }
    }
}

static void text_keys(void **state)
{
    (void)state;
    char out[SP_KEY_CANONICAL_MAX];
    sp_str_t got;
    assert_int_equal(sp_key_canonical(SP_KEY_TEXT, SP_STR("a "), out, sizeof out, &got, NULL),
                     SP_OK);
    assert_true(sp_str_eqz(got, "a "));
    assert_int_equal(sp_key_canonical(SP_KEY_TEXT, SP_STR(""), out, sizeof out, &got, NULL), SP_OK);
    assert_int_equal(sp_key_canonical(SP_KEY_TEXT, SP_STR("a\0b"), out, sizeof out, &got, NULL),
                     SP_E_INVALID_ARGUMENT);
    assert_int_equal(sp_key_canonical(SP_KEY_TEXT, SP_STR("\xff"), out, sizeof out, &got, NULL),
                     SP_E_INVALID_ARGUMENT);
    assert_int_equal(sp_key_canonical(SP_KEY_TEXT, SP_STR("\xed\xa0\x80"), out, sizeof out, &got,
                                      NULL),
                     SP_E_INVALID_ARGUMENT);
}

static void bad_calls(void **state)
{
    (void)state;
    char out[SP_KEY_CANONICAL_MAX];
    sp_str_t got;
    assert_int_equal(sp_key_canonical(9, SP_STR("1"), out, sizeof out, &got, NULL),
                     SP_E_INVALID_ARGUMENT);
    assert_int_equal(sp_key_canonical(SP_KEY_BIGINT, (sp_str_t){NULL, 0}, out, sizeof out, &got,
                                      NULL),
                     SP_E_INVALID_ARGUMENT);
    assert_int_equal(sp_key_canonical(SP_KEY_BIGINT, SP_STR("1\0"), out, sizeof out, &got, NULL),
                     SP_E_INVALID_ARGUMENT);
    assert_int_equal(sp_key_canonical(SP_KEY_BIGINT, SP_STR("123"), out, 3, &got, NULL),
                     SP_E_TOO_LARGE);
    assert_int_equal(sp_key_canonical(SP_KEY_BIGINT, SP_STR("123"), out, 4, &got, NULL), SP_OK);
}

static void numbers_agree(void **state)
{
    (void)state;
    assert_int_equal(SP_KEY_BIGINT, SP_KEY_TYPE_BIGINT);
    assert_int_equal(SP_KEY_TEXT, SP_KEY_TYPE_TEXT);
    assert_int_equal(SP_KEY_UUID, SP_KEY_TYPE_UUID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hash_is_postgres), cmocka_unit_test(keys_are_postgres),
        cmocka_unit_test(text_keys),        cmocka_unit_test(bad_calls),
        cmocka_unit_test(numbers_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
