// Verdicts: each rule, and the border of each limit.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "schemas/health.h"
#include "services/health/pure_lag.h"
#include "services/health/pure_verdict.h"

static const verdict_limits_t limits = {.failures = 3,
                                        .slow_ms = 500,
                                        .max_lag_bytes = 1000,
                                        .max_lag_ms = 2000};

static observation_t good(bool primary)
{
    return (observation_t){.primary = primary,
                           .probed = true,
                           .answered = true,
                           .latency_ms = 1,
                           .in_recovery = !primary,
                           .receiving = true,
                           .has_lag = !primary,
                           .system_identifier = SP_STR("77"),
                           .expected_system = SP_STR("77")};
}

static void expect(const observation_t *seen, verdict_t want, const char *words)
{
    char reason[256] = "x";
    assert_int_equal(verdict_of_server(seen, &limits, reason, sizeof reason), want);
    if (want == VERDICT_HEALTHY)
        assert_string_equal(reason, "");
    else if (!strstr(reason, words))
        fail_msg("\"%s\" lacks \"%s\"", reason, words);
}

static void numbers_agree(void **state)
{
    (void)state;
    assert_int_equal(VERDICT_HEALTHY, SP_VERDICT_HEALTHY);
    assert_int_equal(VERDICT_DEGRADED, SP_VERDICT_DEGRADED);
    assert_int_equal(VERDICT_UNHEALTHY, SP_VERDICT_UNHEALTHY);
    assert_int_equal(VERDICT_UNKNOWN, SP_VERDICT_UNKNOWN);
}

static void servers(void **state)
{
    (void)state;
    for (int primary = 0; primary < 2; primary++) {
        observation_t o = good(primary);
        expect(&o, VERDICT_HEALTHY, "");
        o = (observation_t){.primary = primary};
        expect(&o, VERDICT_UNKNOWN, "not probed");
        o = (observation_t){.primary = primary, .probed = true, .failures = 1, .error = "refused"};
        expect(&o, VERDICT_UNHEALTHY, "does not answer: refused");
        o = good(primary), o.failures = 2, o.error = "timeout";
        expect(&o, VERDICT_DEGRADED, "timeout");
        o.failures = 3;
        expect(&o, VERDICT_UNHEALTHY, "does not answer: timeout");
        o = good(primary), o.latency_ms = 500;
        expect(&o, VERDICT_HEALTHY, "");
        o.latency_ms = 501;
        expect(&o, VERDICT_DEGRADED, "501 ms");
        o = good(primary), o.system_identifier = SP_STR("78");
        expect(&o, VERDICT_UNHEALTHY, "another database cluster");
        o.expected_system = (sp_str_t){NULL, 0};
        expect(&o, VERDICT_HEALTHY, "");
        o = good(primary), o.in_recovery = primary;
        expect(&o, VERDICT_UNHEALTHY, "recovery");
    }
}

static void replicas(void **state)
{
    (void)state;
    observation_t o = good(false);
    o.lag_bytes = 1000, o.lag_ms = 2000;
    expect(&o, VERDICT_HEALTHY, "");
    o.lag_bytes = 1001;
    expect(&o, VERDICT_DEGRADED, "1001 bytes");
    o.lag_bytes = 1, o.lag_ms = 2001;
    expect(&o, VERDICT_DEGRADED, "2001 ms");
    o.lag_bytes = 0; // an idle primary: the last commit is old, and nothing is missing
    expect(&o, VERDICT_HEALTHY, "");
    o.receiving = false;
    expect(&o, VERDICT_DEGRADED, "receive");
    o = good(true), o.receiving = false, o.lag_bytes = 5000;
    expect(&o, VERDICT_HEALTHY, "");
}

static void shards(void **state)
{
    (void)state;
    const verdict_t H = VERDICT_HEALTHY, D = VERDICT_DEGRADED, U = VERDICT_UNHEALTHY,
                    N = VERDICT_UNKNOWN;
    assert_int_equal(verdict_of_shard(NULL, 0, false), N);
    assert_int_equal(verdict_of_shard((verdict_t[]){H}, 1, false), H);
    assert_int_equal(verdict_of_shard((verdict_t[]){H}, 1, true), D);
    assert_int_equal(verdict_of_shard((verdict_t[]){D}, 1, false), D);
    assert_int_equal(verdict_of_shard((verdict_t[]){U, H}, 2, false), U);
    assert_int_equal(verdict_of_shard((verdict_t[]){U}, 1, true), U);
    assert_int_equal(verdict_of_shard((verdict_t[]){N, U}, 2, true), N);
    assert_int_equal(verdict_of_shard((verdict_t[]){H, H, U}, 3, false), D);
    assert_int_equal(verdict_of_shard((verdict_t[]){H, D}, 2, false), D);
    assert_int_equal(verdict_of_shard((verdict_t[]){H, N}, 2, false), H);
}

static void lags(void **state)
{
    (void)state;
    lag_history_t h = {.n = 0};
    assert_int_equal(lag_bytes(&h, 5), 0);
    assert_int_equal(lag_ms(&h, 5, 100), 0);
    lag_history_add(&h, 100, 1000);
    lag_history_add(&h, 100, 2000); // idle: still first seen at 1000
    lag_history_add(&h, 160, 3000);
    lag_history_add(&h, 200, 4000);
    assert_int_equal(lag_bytes(&h, 200), 0);
    assert_int_equal(lag_bytes(&h, 250), 0); // replayed since
    assert_int_equal(lag_ms(&h, 200, 9000), 0);
    assert_int_equal(lag_bytes(&h, 150), 50);
    assert_int_equal(lag_ms(&h, 150, 4100), 1100);
    assert_int_equal(lag_ms(&h, 199, 4100), 100);
    assert_int_equal(lag_ms(&h, 199, 3900), 0);
    assert_int_equal(lag_ms(&h, 10, 4100), 3100);
    lag_history_add(&h, 50, 5000); // another primary
    assert_int_equal(h.n, 1);
    assert_int_equal(lag_bytes(&h, 200), 0);
}

static void lag_history_is_bounded(void **state)
{
    (void)state;
    lag_history_t h = {.n = 0};
    for (int64_t i = 0; i < 10000; i++) {
        lag_history_add(&h, i * 10, i * 1000);
        assert_true(h.n <= LAG_SAMPLES);
        assert_int_equal(h.items[h.n - 1].lsn, i * 10);
        for (size_t j = 1; j < h.n; j++)
            assert_true(h.items[j].lsn > h.items[j - 1].lsn);
        if (i < 100)
            continue;
        // Never more than the truth; recent lag is told to the sample.
        assert_true(lag_ms(&h, 5, i * 1000) <= i * 1000);
        assert_true(lag_ms(&h, (i - 5) * 10, i * 1000) >= 2000 &&
                    lag_ms(&h, (i - 5) * 10, i * 1000) <= 4000);
    }
    assert_true(lag_ms(&h, 5, 9999000) > 5000000);
    assert_true(lag_ms(&h, 9000 * 10, 9999000) > 700000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_agree), cmocka_unit_test(servers),
        cmocka_unit_test(replicas),      cmocka_unit_test(shards),
        cmocka_unit_test(lags),          cmocka_unit_test(lag_history_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
