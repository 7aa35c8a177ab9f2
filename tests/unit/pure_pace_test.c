// Bytes a second as a debt in time.
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <cmocka.h>

#include "services/resharder/pure_pace.h"

// Moves chunks and waits as told until so many bytes are through; how long that took, ms.
static int64_t run(pace_t *pace, int64_t now, int64_t bytes, int64_t chunk)
{
    int64_t began = now;
    for (int64_t left = bytes; left > 0; left -= chunk) {
        pace_spend(pace, left < chunk ? left : chunk, now);
        now += pace_wait_ms(pace, now);
    }
    return now - began;
}

static void test_average(void **state)
{
    (void)state;
    static const int64_t chunks[] = {100, 65536, 1000000};
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        pace_t pace;
        pace_start(&pace, 1000000, 5000);
        int64_t took = run(&pace, 5000, 3000000, chunks[i]);
        assert_in_range(took, 3000, 3001); // never faster, whatever the chunks, and not slower
    }
}

static void test_no_limit(void **state)
{
    (void)state;
    pace_t pace;
    pace_start(&pace, 0, 77);
    assert_int_equal(run(&pace, 77, INT64_C(1) << 50, INT64_C(1) << 40), 0);
    pace_start(&pace, -1, 77);
    pace_spend(&pace, 1000, 77);
    assert_int_equal(pace_wait_ms(&pace, 77), 0);
}

// A peer that was slow for an hour does not get an hour's worth at once.
static void test_credit_is_small(void **state)
{
    (void)state;
    pace_t pace;
    pace_start(&pace, 1000, 0);
    pace_spend(&pace, 1000, 3600000);
    assert_in_range(pace_wait_ms(&pace, 3600000), 1000 - PACE_CREDIT_MS, 1001 - PACE_CREDIT_MS);
    pace_start(&pace, 1000, 0); // and at the start there is none
    pace_spend(&pace, 1000, 0);
    assert_in_range(pace_wait_ms(&pace, 0), 1000, 1001);
}

static void test_change(void **state)
{
    (void)state;
    pace_t pace;
    pace_start(&pace, 1000, 0);
    pace_spend(&pace, 10000, 0); // ten seconds at this rate
    pace_change(&pace, 10000, 2000);
    assert_in_range(pace_wait_ms(&pace, 2000), 800,
                    801); // the eight that are left, ten times as fast
    pace_change(&pace, 1000, 2000);
    assert_in_range(pace_wait_ms(&pace, 2000), 8000, 8001);
    pace_change(&pace, 0, 3000);
    assert_int_equal(pace_wait_ms(&pace, 3000), 0);
    pace_change(&pace, 1000, 4000); // what went through meanwhile is nobody's debt
    assert_int_equal(pace_wait_ms(&pace, 4000), 0);
    pace_spend(&pace, 500, 4000);
    assert_in_range(pace_wait_ms(&pace, 4000), 500, 501);
}

static void test_extremes(void **state)
{
    (void)state;
    pace_t pace;
    pace_start(&pace, 1, INT64_C(1) << 40);
    pace_spend(&pace, INT64_MAX, INT64_C(1) << 40);
    assert_true(pace_wait_ms(&pace, INT64_C(1) << 40) > 0);
    pace_spend(&pace, -5, INT64_C(1) << 40);
    pace_change(&pace, INT64_C(1) << 50, INT64_C(1) << 40);
    assert_in_range(pace_wait_ms(&pace, INT64_C(1) << 40), 1, 10000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_average),         cmocka_unit_test(test_no_limit),
        cmocka_unit_test(test_credit_is_small), cmocka_unit_test(test_change),
        cmocka_unit_test(test_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
