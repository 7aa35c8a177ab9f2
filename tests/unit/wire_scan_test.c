#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/wire/reader.h"
#include "common/wire/scan.h"
#include "common/wire/wire.h"

static int scan(const char *bytes, size_t len)
{
    sp_error_t err = {0};
    int rc = sp_wire_scan(bytes, len, SP_WIRE_MAX_DEPTH, &err);
    assert_int_equal(rc, err.code);
    if (rc != 0) {
        assert_true(err.text[0] != '\0');
    }
    return rc;
}
#define SCAN(literal) scan(literal, sizeof(literal) - 1)

static void test_accepts_each_form(void **state)
{
    (void)state;
    assert_int_equal(SCAN("\x00"), 0);
    assert_int_equal(SCAN("\xc0"), 0);
    assert_int_equal(SCAN("\xe0"), 0);
    assert_int_equal(SCAN("\x80"), 0);
    assert_int_equal(SCAN("\x90"), 0);
    assert_int_equal(SCAN("\xa0"), 0);
    assert_int_equal(SCAN("\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00"), 0);
    assert_int_equal(SCAN("\xca\x00\x00\x00\x00"), 0);
    assert_int_equal(SCAN("\xcf\xff\xff\xff\xff\xff\xff\xff\xff"), 0);
    assert_int_equal(SCAN("\xd3\x80\x00\x00\x00\x00\x00\x00\x00"), 0);
    assert_int_equal(SCAN("\xc4\x02\xff\x00"), 0);
    assert_int_equal(SCAN("\xd9\x02\xc3\xa9"), 0);
    assert_int_equal(SCAN("\x82\x01\x93\x01\x02\x03\xa1k\x81\x01\xc3"), 0);
    assert_int_equal(SCAN("\xdd\x00\x00\x00\x02\x01\x02"), 0);
    assert_int_equal(SCAN("\xdf\x00\x00\x00\x01\x01\x02"), 0);
}

static void test_refuses_bombs(void **state)
{
    (void)state;
    assert_int_equal(SCAN("\xdd\x0f\xff\xff\xff"), SP_E_MALFORMED);
    assert_int_equal(SCAN("\xdd\xff\xff\xff\xff"), SP_E_MALFORMED);
    assert_int_equal(SCAN("\xdf\xff\xff\xff\xff"), SP_E_MALFORMED);
    assert_int_equal(SCAN("\xdc\x00\x03\x01\x01"), SP_E_MALFORMED);
    assert_int_equal(SCAN("\xdf\x00\x00\x00\x02\x01\x01\x01"),
                     SP_E_MALFORMED); // two pairs need four bytes
    assert_int_equal(SCAN("\xc6\xff\xff\xff\xff"), SP_E_MALFORMED);
    assert_int_equal(SCAN("\xdb\xff\xff\xff\xff"), SP_E_MALFORMED);
    // Each count fits the bytes that remain, but not all together.
    assert_int_equal(SCAN("\x92\x92\x92\x92\x01"), SP_E_MALFORMED);
}

// The count itself is refused, before anybody could reserve memory for it.
static void test_counts_are_checked_first(void **state)
{
    (void)state;
    static const char *const bombs[] = {"\xdd\x0f\xff\xff\xff", "\xdf\x0f\xff\xff\xff",
                                        "\xdc\x01\x01\x01\x01"};
    for (size_t i = 0; i < sizeof(bombs) / sizeof(bombs[0]); i++) {
        sp_mp_reader_t reader;
        sp_mp_token_t token;
        sp_mp_open(&reader, bombs[i], 5);
        assert_int_equal(sp_mp_next(&reader, &token, NULL), SP_E_MALFORMED);
    }
}

static void test_refuses_cut_and_trailing_bytes(void **state)
{
    (void)state;
    assert_int_equal(scan(NULL, 0), SP_E_MALFORMED);
    assert_int_equal(SCAN("\x01\x01"), SP_E_MALFORMED);
    assert_int_equal(SCAN("\x90\x00"), SP_E_MALFORMED);
    static const char whole[] = "\x84\x01\xcb\x40\x09\x21\xfb\x54\x44\x2d\x18\x02\xda\x00\x02hi\x03"
                                "\x93\xcd\x01\x00\xc0\xc2\x04\xc4\x01z";
    assert_int_equal(SCAN(whole), 0);
    for (size_t len = 0; len < sizeof(whole) - 1; len++) {
        assert_int_equal(scan(whole, len), SP_E_MALFORMED);
    }
}

static void test_refuses_what_is_not_used(void **state)
{
    (void)state;
    assert_int_equal(SCAN("\xc1"), SP_E_MALFORMED);
    assert_int_equal(SCAN("\xd4\x01\x00"), SP_E_MALFORMED);             // fixext 1
    assert_int_equal(SCAN("\xc7\x01\x01\x00"), SP_E_MALFORMED);         // ext 8
    assert_int_equal(SCAN("\xd6\xff\x00\x00\x00\x00"), SP_E_MALFORMED); // timestamp
    assert_int_equal(SCAN("\xa1\xff"), SP_E_MALFORMED);                 // no UTF-8
    assert_int_equal(SCAN("\xa2\xc0\x80"), SP_E_MALFORMED);             // overlong
    assert_int_equal(SCAN("\xa3\xed\xa0\x80"), SP_E_MALFORMED);         // surrogate
    assert_int_equal(SCAN("\xa1\x00"), SP_E_MALFORMED);                 // NUL
    assert_int_equal(SCAN("\xc4\x01\xff"), 0);                          // bytes may be anything
}

static void test_depth(void **state)
{
    (void)state;
    char bytes[64];
    memset(bytes, '\x91', sizeof(bytes));
    for (int depth = 1; depth < 40; depth++) {
        bytes[depth] = '\x01';
        assert_int_equal(scan(bytes, (size_t)depth + 1),
                         depth <= SP_WIRE_MAX_DEPTH ? 0 : SP_E_MALFORMED);
        bytes[depth] = '\x91';
    }
    // Siblings are no depth.
    assert_int_equal(SCAN("\x9f\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90"), 0);
    // Nobody can ask for more than the scanner's own stack.
    memset(bytes, '\x91', sizeof(bytes));
    char deep[200];
    memset(deep, '\x91', sizeof(deep));
    deep[199] = '\x01';
    assert_int_equal(sp_wire_scan(deep, sizeof(deep), 1000, NULL), SP_E_MALFORMED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepts_each_form),
        cmocka_unit_test(test_refuses_bombs),
        cmocka_unit_test(test_counts_are_checked_first),
        cmocka_unit_test(test_refuses_cut_and_trailing_bytes),
        cmocka_unit_test(test_refuses_what_is_not_used),
        cmocka_unit_test(test_depth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
