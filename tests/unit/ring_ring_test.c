// Tokens, lookup and split plans: every hash has exactly one owner, before and after.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/clock.h"
#include "common/ring/hash.h"
#include "common/ring/plan.h"
#include "tests/unit/arena_fixture.h"

static int64_t random_hash(void)
{
    static uint64_t n;
    char text[32];
    int len = snprintf(text, sizeof text, "r%llu", (unsigned long long)n++);
    return sp_key_hash(text, (size_t)len);
}

// n shards s0.. with their initial tokens.
static sp_ring_shard_t *make_shards(size_t n, size_t vnodes)
{
    sp_ring_shard_t *shards = sp_arena_alloc(arena, n + 64, sizeof *shards);
    for (size_t i = 0; i < n; i++) {
        shards[i].id = sp_str(sp_arena_printf(arena, "s%zu", i));
        assert_int_equal(sp_tokens_initial(shards[i].id, vnodes, SP_TOKENS_NONE, arena,
                                           &shards[i].tokens, NULL),
                         SP_OK);
    }
    return shards;
}

static void codec(void **state)
{
    (void)state;
    for (size_t n = 0; n < 70; n++) {
        sp_tokens_t tokens = SP_TOKENS_NONE, back;
        if (n)
            assert_int_equal(sp_tokens_initial(SP_STR("x"), n, SP_TOKENS_NONE, arena, &tokens,
                                               NULL),
                             SP_OK);
        sp_str_t text;
        assert_int_equal(sp_tokens_encode(tokens, arena, &text, NULL), SP_OK);
        assert_int_equal(text.len, (n * 8 + 2) / 3 * 4);
        assert_int_equal(sp_tokens_decode(text, arena, &back, NULL), SP_OK);
        assert_int_equal(back.n, n);
        if (n)
            assert_memory_equal(back.items, tokens.items, n * 8);
    }
    sp_tokens_t one = {(int64_t[]){1}, 1}, back;
    sp_str_t text;
    assert_int_equal(sp_tokens_encode(one, arena, &text, NULL), SP_OK);
    assert_true(sp_str_eqz(text, "AAAAAAAAAAE="));
    static const char *const bad[] = {"A",
                                      "AAAA",
                                      "AAAAAAAAAAE",
                                      "AAAAAAAAAAF=",
                                      "AAAAAAAAA=E=",
                                      "!AAAAAAAAAE=",
                                      "AAAAAAAAAAE=AAAA",
                                      "AAAAAAAAAAIAAAAAAAAAAQ==",
                                      "===="};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (sp_tokens_decode(sp_str(bad[i]), arena, &back, NULL) != SP_E_MALFORMED)
            fail_msg("%s was accepted", bad[i]);
}

static void initial_tokens(void **state)
{
    (void)state;
    sp_tokens_t a, b, c;
    assert_int_equal(sp_tokens_initial(SP_STR("shard"), 256, SP_TOKENS_NONE, arena, &a, NULL),
                     SP_OK);
    assert_int_equal(sp_tokens_initial(SP_STR("shard"), 256, SP_TOKENS_NONE, arena, &b, NULL),
                     SP_OK);
    assert_memory_equal(a.items, b.items, 256 * 8);
    assert_int_equal(sp_tokens_initial(SP_STR("shard"), 256, a, arena, &c, NULL), SP_OK);
    // c is what follows a's numbers, so the two are disjoint: one ring takes both.
    sp_ring_shard_t both[] = {{SP_STR("a"), a}, {SP_STR("c"), c}};
    sp_ring_t *ring;
    assert_int_equal(sp_ring_build(&ring, both, 2, NULL), SP_OK);
    assert_int_equal(sp_ring_tokens_n(ring), 512);
    sp_ring_destroy(&ring);
    assert_int_equal(sp_tokens_initial(SP_STR("shard"), 0, SP_TOKENS_NONE, arena, &a, NULL),
                     SP_E_INVALID_ARGUMENT);
}

static void refusals(void **state)
{
    (void)state;
    sp_ring_t *ring = NULL;
    sp_ring_shard_t twice[] = {{SP_STR("a"), {(int64_t[]){1, 5}, 2}},
                               {SP_STR("b"), {(int64_t[]){5}, 1}}};
    assert_int_equal(sp_ring_build(&ring, twice, 2, &err), SP_E_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "both a and b"));
    sp_ring_shard_t unsorted[] = {{SP_STR("a"), {(int64_t[]){5, 1}, 2}}};
    assert_int_equal(sp_ring_build(&ring, unsorted, 1, &err), SP_E_INVALID_ARGUMENT);
    sp_ring_shard_t same[] = {{SP_STR("a"), {(int64_t[]){5}, 1}},
                              {SP_STR("a"), {(int64_t[]){6}, 1}}};
    assert_int_equal(sp_ring_build(&ring, same, 2, &err), SP_E_INVALID_ARGUMENT);
    assert_null(ring);
    sp_ring_shard_t empty[] = {{SP_STR("a"), SP_TOKENS_NONE}};
    assert_int_equal(sp_ring_build(&ring, empty, 1, &err), SP_OK);
    assert_int_equal(sp_ring_lookup(ring, 0), -1);
    sp_ring_destroy(&ring);
    assert_int_equal(sp_ring_build(&ring, NULL, 0, &err), SP_OK);
    assert_int_equal(sp_ring_lookup(ring, 0), -1);
    sp_ring_destroy(&ring);
}

// By definition: the holder of the greatest token at or below the hash, else of the greatest of all.
static int owner_by_definition(const sp_ring_shard_t *shards, size_t n, int64_t hash)
{
    int best = -1, last = -1;
    int64_t best_at = INT64_MIN, last_at = INT64_MIN;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < shards[i].tokens.n; j++) {
            int64_t t = shards[i].tokens.items[j];
            if (t >= last_at)
                last = (int)i, last_at = t;
            if (t <= hash && t >= best_at)
                best = (int)i, best_at = t;
        }
    }
    return best >= 0 ? best : last;
}

static void check_ring(const sp_ring_shard_t *shards, size_t n, int rounds)
{
    sp_ring_t *ring;
    assert_int_equal(sp_ring_build(&ring, shards, n, NULL), SP_OK);
    sp_arcs_t *bounds = sp_arena_alloc(arena, n, sizeof *bounds);
    sp_arcs_t all = SP_ARCS_NONE;
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(sp_ring_bounds(ring, (int)i, arena, &bounds[i], NULL), SP_OK);
        assert_int_equal(sp_arcs_validate(bounds[i], NULL), SP_OK);
        assert_false(sp_arcs_overlap(all, bounds[i]));
        assert_int_equal(sp_arcs_union(all, bounds[i], arena, &all, NULL), SP_OK);
    }
    assert_true(sp_arcs_is_all(all));
    for (int k = 0; k < rounds; k++) {
        const sp_tokens_t *some = &shards[(size_t)rand() % n].tokens;
        int64_t h = k % 4 == 0 && some->n
                        ? (int64_t)((uint64_t)some->items[(size_t)rand() % some->n] +
                                    (uint64_t)(rand() % 3) - 1)
                    : k == 1 ? INT64_MIN
                    : k == 2 ? INT64_MAX
                             : random_hash();
        int owner = sp_ring_lookup(ring, h);
        assert_int_equal(owner, owner_by_definition(shards, n, h));
        assert_true(sp_arcs_contains(bounds[owner], h));
    }
    sp_ring_destroy(&ring);
}

static void lookup_follows_the_definition(void **state)
{
    (void)state;
    static const size_t sizes[][2] = {{1, 1}, {1, 256}, {2, 1}, {3, 7}, {4, 256}, {16, 64}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_ring(make_shards(sizes[i][0], sizes[i][1]), sizes[i][0], 300);
    // Crowded tokens, and tokens at both ends of the space.
    int64_t *near = sp_arena_alloc(arena, 300, sizeof *near),
            *far = sp_arena_alloc(arena, 300, sizeof *far);
    for (int64_t i = 0; i < 300; i++)
        near[i] = 1000 + 2 * i, far[i] = i == 0 ? INT64_MIN : i == 299 ? INT64_MAX : 1001 + 2 * i;
    sp_ring_shard_t crowd[] = {{SP_STR("a"), {near, 300}}, {SP_STR("b"), {far, 300}}};
    check_ring(crowd, 2, 2000);
    // The space begins with a token of one shard and would wrap into it from another's.
    sp_ring_shard_t edge[] = {{SP_STR("a"), {(int64_t[]){INT64_MIN}, 1}},
                              {SP_STR("b"), {(int64_t[]){0}, 1}}};
    check_ring(edge, 2, 200);
}

static void check_split(const sp_ring_shard_t *shards, size_t n, size_t source,
                        const sp_plan_target_t *targets, size_t targets_n)
{
    sp_ring_t *before, *after;
    sp_plan_t plan;
    assert_int_equal(sp_ring_build(&before, shards, n, NULL), SP_OK);
    if (sp_plan_split(before, shards[source].id, targets, targets_n, arena, &plan, &err))
        fail_msg("%s", err.text);
    assert_true(sp_arcs_is_none(plan.source_after));
    assert_int_equal(plan.source_tokens_after.n, 0);
    sp_ring_shard_t *now = sp_arena_alloc(arena, n + targets_n, sizeof *now);
    memcpy(now, shards, n * sizeof *now);
    now[source].tokens = plan.source_tokens_after;
    double whole = sp_arcs_share(plan.source_before), weights = 0;
    sp_arcs_t moved = SP_ARCS_NONE;
    for (size_t i = 0; i < targets_n; i++)
        weights += (double)targets[i].vnode_count;
    for (size_t i = 0; i < targets_n; i++) {
        const sp_plan_move_t *m = &plan.moves[i];
        now[n + i] = (sp_ring_shard_t){m->id, m->tokens_after};
        assert_false(sp_arcs_overlap(moved, m->moves));
        assert_int_equal(sp_arcs_union(moved, m->moves, arena, &moved, NULL), SP_OK);
        double want = whole * (double)targets[i].vnode_count / weights;
        assert_true(m->share > 0.99 * want && m->share < 1.01 * want);
        assert_true(m->tokens_after.n >= targets[i].vnode_count);
        if (shards[source].tokens.n < targets[i].vnode_count)
            assert_int_equal(m->tokens_after.n, targets[i].vnode_count);
    }
    assert_true(sp_arcs_equal(moved, plan.source_before));
    assert_int_equal(sp_ring_build(&after, now, n + targets_n, &err), SP_OK);
    for (size_t i = 0; i < targets_n; i++) {
        sp_arcs_t bounds;
        assert_int_equal(sp_ring_bounds(after, (int)(n + i), arena, &bounds, NULL), SP_OK);
        assert_true(sp_arcs_equal(bounds, plan.moves[i].bounds_after));
    }
    for (int k = 0; k < 3000; k++) {
        int64_t h = random_hash();
        int was = sp_ring_lookup(before, h), is = sp_ring_lookup(after, h);
        if ((size_t)was == source)
            assert_true((size_t)is >= n && sp_arcs_contains(plan.moves[(size_t)is - n].moves, h));
        else
            assert_int_equal(was, is);
    }
    check_ring(now, n + targets_n, 100);
    sp_ring_destroy(&before);
    sp_ring_destroy(&after);
}

static void splits(void **state)
{
    (void)state;
    sp_plan_target_t two[] = {{SP_STR("t0"), 256}, {SP_STR("t1"), 256}};
    sp_plan_target_t three[] = {{SP_STR("t0"), 64}, {SP_STR("t1"), 256}, {SP_STR("t2"), 512}};
    sp_plan_target_t few[] = {{SP_STR("t0"), 1},
                              {SP_STR("t1"), 1},
                              {SP_STR("t2"), 1},
                              {SP_STR("t3"), 1},
                              {SP_STR("t4"), 1}};
    static const size_t sizes[][2] = {{1, 1}, {1, 256}, {2, 3}, {5, 256}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (size_t s = 0; s < sizes[i][0]; s++) {
            sp_arena_reset(arena);
            sp_ring_shard_t *shards = make_shards(sizes[i][0], sizes[i][1]);
            check_split(shards, sizes[i][0], s, two, 2);
            check_split(shards, sizes[i][0], s, three, 3);
            check_split(shards, sizes[i][0], s, few, 5);
            check_split(shards, sizes[i][0], s, few, 1);
        }
    }
}

// The whole ring in one hand splits into one merged range each, so that guards stay small.
static void bounds_stay_few(void **state)
{
    (void)state;
    sp_ring_shard_t *shards = make_shards(1, 256);
    sp_plan_target_t two[] = {{SP_STR("t0"), 256}, {SP_STR("t1"), 256}};
    sp_ring_t *ring;
    sp_plan_t plan;
    assert_int_equal(sp_ring_build(&ring, shards, 1, NULL), SP_OK);
    assert_int_equal(sp_plan_split(ring, SP_STR("s0"), two, 2, arena, &plan, NULL), SP_OK);
    assert_true(plan.moves[0].moves.n + plan.moves[1].moves.n <= 5);
    assert_int_equal(plan.moves[0].tokens_after.n, 256);
    assert_int_equal(plan.moves[1].tokens_after.n, 256);
    sp_ring_destroy(&ring);
}

static void split_refusals(void **state)
{
    (void)state;
    sp_ring_shard_t shards[] = {{SP_STR("a"), {(int64_t[]){0, 2}, 2}},
                                {SP_STR("b"), {(int64_t[]){1}, 1}},
                                {SP_STR("c"), SP_TOKENS_NONE},
                                {SP_STR("d"), {(int64_t[]){3}, 1}}};
    sp_ring_t *ring;
    sp_plan_t plan;
    assert_int_equal(sp_ring_build(&ring, shards, 4, NULL), SP_OK);
    sp_plan_target_t t[] = {{SP_STR("t0"), 4}, {SP_STR("t1"), 4}, {SP_STR("t2"), 4}};
    sp_plan_target_t itself[] = {{SP_STR("a"), 4}}, twice[] = {{SP_STR("t"), 4}, {SP_STR("t"), 4}},
                     zero[] = {{SP_STR("t"), 0}};
    assert_int_equal(sp_plan_split(ring, SP_STR("x"), t, 1, arena, &plan, NULL), SP_E_NOT_FOUND);
    assert_int_equal(sp_plan_split(ring, SP_STR("c"), t, 1, arena, &plan, NULL),
                     SP_E_INVALID_ARGUMENT);
    assert_int_equal(sp_plan_split(ring, SP_STR("a"), t, 0, arena, &plan, NULL),
                     SP_E_INVALID_ARGUMENT);
    assert_int_equal(sp_plan_split(ring, SP_STR("a"), itself, 1, arena, &plan, NULL),
                     SP_E_INVALID_ARGUMENT);
    assert_int_equal(sp_plan_split(ring, SP_STR("a"), twice, 2, arena, &plan, NULL),
                     SP_E_INVALID_ARGUMENT);
    assert_int_equal(sp_plan_split(ring, SP_STR("a"), zero, 1, arena, &plan, NULL),
                     SP_E_INVALID_ARGUMENT);
    // a owns two hashes: enough for two targets, not for three.
    assert_int_equal(sp_plan_split(ring, SP_STR("a"), t, 3, arena, &plan, NULL),
                     SP_E_INVALID_ARGUMENT);
    assert_int_equal(sp_plan_split(ring, SP_STR("a"), t, 2, arena, &plan, NULL), SP_OK);
    assert_int_equal(plan.moves[0].tokens_after.n, 1);
    sp_ring_destroy(&ring);
}

// Not a benchmark, only a guard against a lookup that became linear.
static void lookup_is_quick(void **state)
{
    (void)state;
    sp_arena_reset(arena);
    sp_ring_shard_t *shards = make_shards(64, 256);
    sp_ring_t *ring;
    assert_int_equal(sp_ring_build(&ring, shards, 64, NULL), SP_OK);
    enum { ROUNDS = 2000000 };
    uint64_t h = 1;
    long sum = 0;
    int64_t begin = sp_clock_mono_us();
    for (int i = 0; i < ROUNDS; i++) {
        h = h * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        sum += sp_ring_lookup(ring, (int64_t)h);
    }
    double ns = (double)(sp_clock_mono_us() - begin) * 1000.0 / ROUNDS;
    print_message("lookup at 64 x 256: %.1f ns (%ld)\n", ns, sum);
    assert_true(ns < 1000);
    sp_ring_destroy(&ring);
}

static uint64_t digest_of(sp_ring_shard_t *shards, size_t n)
{
    sp_ring_t *ring = NULL;
    assert_int_equal(sp_ring_build(&ring, shards, n, NULL), 0);
    uint64_t digest = sp_ring_digest(ring);
    sp_ring_destroy(&ring);
    return digest;
}

static void digests(void **state)
{
    (void)state;
    int64_t low[] = {-5, 7}, high[] = {9}, other[] = {10};
    sp_ring_shard_t x = {.id = sp_str("a"), .tokens = {low, 2}},
                    y = {.id = sp_str("b"), .tokens = {high, 1}};
    uint64_t both = digest_of((sp_ring_shard_t[]){x, y}, 2);
    assert_true(both == digest_of((sp_ring_shard_t[]){y, x}, 2));
    assert_true(both ==
                digest_of((sp_ring_shard_t[]){y, {.id = sp_str("c")}, x}, 3)); // owns nothing
    assert_true(both != digest_of(&x, 1));
    y.tokens.items = other;
    assert_true(both != digest_of((sp_ring_shard_t[]){x, y}, 2));
    y = (sp_ring_shard_t){.id = sp_str("d"), .tokens = {high, 1}};
    assert_true(both != digest_of((sp_ring_shard_t[]){x, y}, 2));
    assert_true(sp_ring_digest(NULL) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codec),          cmocka_unit_test(initial_tokens),
        cmocka_unit_test(refusals),       cmocka_unit_test(lookup_follows_the_definition),
        cmocka_unit_test(splits),         cmocka_unit_test(bounds_stay_few),
        cmocka_unit_test(split_refusals), cmocka_unit_test(lookup_is_quick),
        cmocka_unit_test(digests),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
