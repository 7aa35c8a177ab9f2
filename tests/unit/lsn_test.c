#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/pg/lsn.h"

static void round_trip(void **state)
{
    (void)state;
    static const char *const good[] = {"0/0", "0/16B3748", "1/0", "FFFFFFFF/FFFFFFFF",
                                       "A0/DEADBEEF"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        sp_lsn_t lsn = 1;
        char out[SP_LSN_TEXT];
        assert_int_equal(sp_lsn_parse(sp_str(good[i]), &lsn, NULL), 0);
        assert_string_equal(sp_lsn_print(lsn, out), good[i]);
    }
    sp_lsn_t lsn = 0;
    assert_int_equal(sp_lsn_parse(SP_STR("a/bC"), &lsn, NULL), 0);
    assert_true(lsn == ((uint64_t)10 << 32 | 0xbc));
}

static void refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {"",      "/",           "1",           "1/",  "/1",
                                        "1/2/3", "123456789/0", "0/123456789", "0/g", " 0/0",
                                        "0/0 ",  "0/-1",        "0x1/0"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        sp_lsn_t lsn = 42;
        assert_int_equal(sp_lsn_parse(sp_str(wrong[i]), &lsn, NULL), SP_E_INVALID_ARGUMENT);
        assert_true(lsn == 42);
    }
    assert_int_equal(sp_lsn_parse((sp_str_t){NULL, 0}, &(sp_lsn_t){0}, NULL),
                     SP_E_INVALID_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(round_trip), cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
