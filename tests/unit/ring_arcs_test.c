// Bounds: known cases, and set operations against the definition on random arcs.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/ring/arcs.h"
#include "tests/unit/arena_fixture.h"

#define ARCS(...)                                                                                  \
    ((sp_arcs_t){(int64_t[]){__VA_ARGS__}, sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)})

static void contains(void **state)
{
    (void)state;
    assert_true(sp_arcs_contains(sp_arcs_all(), INT64_MIN));
    assert_true(sp_arcs_contains(sp_arcs_all(), INT64_MAX));
    assert_false(sp_arcs_contains(SP_ARCS_NONE, 0));
    sp_arcs_t a = ARCS(-5, 7, 100);
    assert_false(sp_arcs_contains(a, -6));
    assert_true(sp_arcs_contains(a, -5));
    assert_true(sp_arcs_contains(a, 6));
    assert_false(sp_arcs_contains(a, 7));
    assert_false(sp_arcs_contains(a, 99));
    assert_true(sp_arcs_contains(a, 100));
    assert_true(sp_arcs_contains(a, INT64_MAX));
}

static void validate(void **state)
{
    (void)state;
    assert_int_equal(sp_arcs_validate(ARCS(1, 2, 3), &err), SP_OK);
    assert_int_equal(sp_arcs_validate(SP_ARCS_NONE, &err), SP_OK);
    assert_int_equal(sp_arcs_validate(ARCS(1, 1), &err), SP_E_INVALID_ARGUMENT);
    assert_int_equal(sp_arcs_validate(ARCS(2, 1), &err), SP_E_INVALID_ARGUMENT);
}

static void shares(void **state)
{
    (void)state;
    assert_true(sp_arcs_share(sp_arcs_all()) == 1.0);
    assert_true(sp_arcs_share(SP_ARCS_NONE) == 0.0);
    assert_true(sp_arcs_share(ARCS(0)) == 0.5);
    assert_true(sp_arcs_share(ARCS(INT64_MIN, 0)) == 0.5);
    assert_true(sp_arcs_share(ARCS(INT64_MIN, -4611686018427387904, 4611686018427387904)) == 0.5);
    assert_int_equal(sp_arcs_ranges(ARCS(INT64_MIN, -4611686018427387904, 4611686018427387904)), 2);
}

static sp_arcs_t random_arcs(void)
{
    int64_t *bounds = sp_arena_alloc(arena, 12, sizeof *bounds);
    size_t n = 0;
    int64_t at = rand() % 4 ? -20 + rand() % 5 : INT64_MIN;
    for (size_t want = (size_t)rand() % 12; n < want; n++) {
        bounds[n] = at;
        at = at == INT64_MIN ? -20 + rand() % 5 : at + 1 + rand() % 5;
    }
    return (sp_arcs_t){bounds, n};
}

static void operations_follow_the_definition(void **state)
{
    (void)state;
    srand(7);
    for (int round = 0; round < 3000; round++) {
        sp_arena_reset(arena);
        sp_arcs_t a = random_arcs(), b = random_arcs(), u, s, i;
        assert_int_equal(sp_arcs_union(a, b, arena, &u, NULL), SP_OK);
        assert_int_equal(sp_arcs_subtract(a, b, arena, &s, NULL), SP_OK);
        assert_int_equal(sp_arcs_intersect(a, b, arena, &i, NULL), SP_OK);
        assert_int_equal(sp_arcs_validate(u, NULL) | sp_arcs_validate(s, NULL) |
                             sp_arcs_validate(i, NULL),
                         SP_OK);
        bool overlap = false, within = true;
        for (int64_t h = -25; h < 60; h++) {
            int64_t at = h == -25 ? INT64_MIN : h == 59 ? INT64_MAX : h;
            bool in_a = sp_arcs_contains(a, at), in_b = sp_arcs_contains(b, at);
            assert_int_equal(sp_arcs_contains(u, at), in_a || in_b);
            assert_int_equal(sp_arcs_contains(s, at), in_a && !in_b);
            assert_int_equal(sp_arcs_contains(i, at), in_a && in_b);
            overlap |= in_a && in_b;
            within &= !in_a || in_b;
        }
        assert_int_equal(sp_arcs_overlap(a, b), overlap);
        assert_int_equal(sp_arcs_within(a, b), within);
        sp_arcs_t back;
        assert_int_equal(sp_arcs_union(s, i, arena, &back, NULL), SP_OK);
        assert_true(sp_arcs_equal(back, a));
    }
}

static void ranges(void **state)
{
    (void)state;
    sp_arcs_t got;
    sp_range_t three[] = {{5, 9}, {1, 5}, {20, 30}};
    assert_int_equal(sp_arcs_from_ranges(three, 3, arena, &got, NULL), SP_OK);
    assert_true(sp_arcs_equal(got, ARCS(1, 9, 20, 30)));
    sp_range_t wrapped[] = {{100, -100}};
    assert_int_equal(sp_arcs_from_ranges(wrapped, 1, arena, &got, NULL), SP_OK);
    assert_true(sp_arcs_equal(got, ARCS(INT64_MIN, -100, 100)));
    sp_range_t to_end[] = {{100, INT64_MIN}};
    assert_int_equal(sp_arcs_from_ranges(to_end, 1, arena, &got, NULL), SP_OK);
    assert_true(sp_arcs_equal(got, ARCS(100)));
    sp_range_t all[] = {{INT64_MIN, INT64_MIN}};
    assert_int_equal(sp_arcs_from_ranges(all, 1, arena, &got, NULL), SP_OK);
    assert_true(sp_arcs_is_all(got));
    sp_range_t both[] = {{100, -100}, {-100, 100}};
    assert_int_equal(sp_arcs_from_ranges(both, 2, arena, &got, NULL), SP_OK);
    assert_true(sp_arcs_is_all(got));
    assert_int_equal(sp_arcs_from_ranges(NULL, 0, arena, &got, NULL), SP_OK);
    assert_true(sp_arcs_is_none(got));
}

static void literals(void **state)
{
    (void)state;
    sp_buf_t buf = SP_BUF_INIT;
    sp_arcs_literal(ARCS(INT64_MIN, -1, 17), &buf);
    assert_string_equal(sp_buf_cstr(&buf), "{-9223372036854775808,-1,17}");
    sp_arcs_t got;
    assert_int_equal(sp_arcs_parse(sp_str(sp_buf_cstr(&buf)), arena, &got, NULL), SP_OK);
    assert_true(sp_arcs_equal(got, ARCS(INT64_MIN, -1, 17)));
    assert_int_equal(sp_arcs_parse(SP_STR("{}"), arena, &got, NULL), SP_OK);
    assert_true(sp_arcs_is_none(got));
    static const char *const bad[] = {"",
                                      "{",
                                      "}",
                                      "1,2",
                                      "{1,}",
                                      "{,1}",
                                      "{1,,2}",
                                      "{1,x}",
                                      "{2,1}",
                                      "{1,1}",
                                      "{9223372036854775808}",
                                      "{1 ,2}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_not_equal(sp_arcs_parse(sp_str(bad[i]), arena, &got, NULL), SP_OK);
    sp_buf_free(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contains), cmocka_unit_test(validate),
        cmocka_unit_test(shares),   cmocka_unit_test(operations_follow_the_definition),
        cmocka_unit_test(ranges),   cmocka_unit_test(literals),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
