// Decisions of the follower: borders of positions, routes of changes, residues of sequences.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "services/resharder/pure_follow.h"

static void borders_of_positions(void **state)
{
    (void)state;
    // The origin holds the end of the last applied commit record; the next record may begin right there.
    assert_true(follow_has_applied(99, 100));
    assert_false(follow_has_applied(100, 100));
    assert_false(follow_has_applied(101, 100));
    assert_false(follow_has_applied(1, 0)); // a new origin has nothing
    // The consistent point: commits that begin below it are in the snapshot.
    assert_true(follow_in_copy(99, 100));
    assert_false(follow_in_copy(100, 100));
    assert_false(follow_in_copy(5, 0));
}

static void routes(void **state)
{
    (void)state;
    static const int64_t low[] = {INT64_MIN, -10}, mid[] = {0, 50, 60, 70};
    const sp_arcs_t bounds[] = {{low, 2}, {mid, 4}};
    assert_int_equal(follow_owner(bounds, 2, INT64_MIN), 0);
    assert_int_equal(follow_owner(bounds, 2, -11), 0);
    assert_int_equal(follow_owner(bounds, 2, -10), FOLLOW_NOBODY);
    assert_int_equal(follow_owner(bounds, 2, 0), 1);
    assert_int_equal(follow_owner(bounds, 2, 49), 1);
    assert_int_equal(follow_owner(bounds, 2, 50), FOLLOW_NOBODY);
    assert_int_equal(follow_owner(bounds, 2, 69), 1);
    assert_int_equal(follow_owner(bounds, 2, INT64_MAX), FOLLOW_NOBODY);
    assert_int_equal(follow_owner(bounds, 0, 0), FOLLOW_NOBODY);

    assert_int_equal(follow_update_action(1, 1), FOLLOW_UPDATE);
    assert_int_equal(follow_update_action(0, 1), FOLLOW_MOVE);
    assert_int_equal(follow_update_action(FOLLOW_NOBODY, 0), FOLLOW_INSERT);
    assert_int_equal(follow_update_action(0, FOLLOW_NOBODY), FOLLOW_DELETE);
    assert_int_equal(follow_update_action(FOLLOW_NOBODY, FOLLOW_NOBODY), FOLLOW_DROP);
}

static void check_next(follow_sequence_t s, int64_t stride, int64_t ordinal, int64_t headroom,
                       int64_t increment, int64_t next)
{
    int64_t got_increment = 0, got_next = 0;
    sp_error_t err = {0};
    assert_int_equal(follow_sequence_next(&s, stride, ordinal, headroom, &got_increment, &got_next,
                                          &err),
                     0);
    assert_int_equal(got_increment, increment);
    assert_int_equal(got_next, next);
}

static void sequences(void **state)
{
    (void)state;
    const follow_sequence_t plain =
        {.last = 100, .called = true, .start = 1, .increment = 1, .min = 1, .max = INT64_MAX};
    check_next(plain, 64, 2, 0, 64, 131);         // 1 + 130, 130 = 2 * 64 + 2
    check_next(plain, 64, 2, 1000, 64, 1 + 1154); // behind 1100
    check_next(plain, 1, 7, 0, 1, 101);           // no residues: simply the next one
    check_next(plain, 64, 66, 0, 64, 131);        // ordinals beyond the stride wrap
    follow_sequence_t fresh = plain;
    fresh.called = false;
    check_next(fresh, 64, 0, 1000, 64, 1);
    check_next(fresh, 64, 3, 1000, 64, 4);
    follow_sequence_t by_ten =
        {.last = 41, .called = true, .start = 1, .increment = 10, .min = 1, .max = 100000};
    check_next(by_ten, 8, 1, 0, 80, 91); // 1 + 10 k: k >= 5, k mod 8 = 1
    follow_sequence_t given =
        {.last = 131, .called = true, .start = 1, .increment = 64, .min = 1, .max = INT64_MAX};
    check_next(given, 64, 5, 0, 64, 134); // it has a residue already: steps of one count
    follow_sequence_t down =
        {.last = -5, .called = true, .start = -1, .increment = -1, .min = INT64_MIN, .max = -1};
    check_next(down, 4, 2, 0, -4, -7);
    follow_sequence_t low =
        {.last = 3, .called = true, .start = 10, .increment = 1, .min = 1, .max = 1000};
    check_next(low, 4, 0, 0, 4, 10); // restarted below its start
    follow_sequence_t edges = {.last = INT64_MIN,
                               .called = true,
                               .start = INT64_MIN,
                               .increment = 1,
                               .min = INT64_MIN,
                               .max = INT64_MAX};
    check_next(edges, 2, 1, 0, 2, INT64_MIN + 1);
}

static void short_sequences(void **state)
{
    (void)state;
    // The headroom shrinks before a smallint runs out.
    check_next((follow_sequence_t){.last = 32000,
                                   .called = true,
                                   .start = 1,
                                   .increment = 1,
                                   .min = 1,
                                   .max = 32767},
               64, 1, 1000, 64, 32066);
    int64_t a = 0, b = 0;
    sp_error_t err = {0};
    follow_sequence_t full =
        {.last = 32767, .called = true, .start = 1, .increment = 1, .min = 1, .max = 32767};
    assert_int_equal(follow_sequence_next(&full, 64, 1, 1000, &a, &b, &err), SP_E_INVALID_ARGUMENT);
    follow_sequence_t broken = {.increment = 0};
    assert_int_equal(follow_sequence_next(&broken, 64, 1, 1000, &a, &b, &err),
                     SP_E_INVALID_ARGUMENT);
    follow_sequence_t top = {.last = INT64_MAX - 3,
                             .called = true,
                             .start = 1,
                             .increment = 1,
                             .min = 1,
                             .max = INT64_MAX};
    assert_int_equal(follow_sequence_next(&top, 64, 1, 1000, &a, &b, &err), SP_E_INVALID_ARGUMENT);
}

// No two shards ever give out the same value, and none gives out what the source has given.
static void residues_are_apart(void **state)
{
    (void)state;
    for (int64_t stride = 1; stride <= 7; stride++)
        for (int64_t increment = -3; increment <= 3; increment++)
            for (int64_t last = -40; last <= 40 && increment; last += 3) {
                follow_sequence_t s = {.last = last,
                                       .called = true,
                                       .start = 2,
                                       .increment = increment,
                                       .min = -100000,
                                       .max = 100000};
                for (int64_t i = 0; i < stride; i++) {
                    int64_t step = 0, next = 0;
                    assert_int_equal(follow_sequence_next(&s, stride, i, 5, &step, &next, NULL), 0);
                    int64_t base = increment % stride ? increment : increment / stride;
                    assert_int_equal((next - 2) % base, 0);
                    assert_int_equal((next - 2) / base % stride, i);
                    assert_int_equal(step, base * stride);
                    if ((increment > 0) == (last > 2)) {
                        assert_true(increment > 0 ? next > last : next < last);
                    }
                }
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(borders_of_positions),
        cmocka_unit_test(routes),
        cmocka_unit_test(sequences),
        cmocka_unit_test(short_sequences),
        cmocka_unit_test(residues_are_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
