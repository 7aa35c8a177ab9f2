// The COPY splitter: every cut of the stream gives the same bytes to the same targets.
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/buf.h"
#include "services/resharder/pure_split.h"

enum { TARGETS = 2 };

typedef struct sink {
    sp_buf_t got[TARGETS]; // bytes of each target
    int fail_after;        // puts until one fails; -1 never
} sink_t;

static int put(void *arg, size_t target, const void *data, size_t len, sp_error_t *err)
{
    sink_t *self = arg;
    if (self->fail_after >= 0 && self->fail_after-- == 0)
        return sp_error_set(err, SP_E_IO, "planted");
    sp_buf_add(&self->got[target], data, len);
    return 0;
}

static void add_number(sp_buf_t *out, uint64_t value, int bytes)
{
    for (int i = bytes - 1; i >= 0; i--)
        sp_buf_addc(out, (char)(value >> (8 * i)));
}

// A row of three fields: text of `len` bytes, NULL, and an empty one. count: with or without the hash before it.
static void add_binary_row(sp_buf_t *out, bool with_hash, int64_t hash, size_t len)
{
    add_number(out, with_hash ? 4 : 3, 2);
    if (with_hash) {
        add_number(out, 8, 4);
        add_number(out, (uint64_t)hash, 8);
    }
    add_number(out, len, 4);
    for (size_t i = 0; i < len; i++)
        sp_buf_addc(out, (char)(len + i));
    add_number(out, 0xffffffff, 4);
    add_number(out, 0, 4);
}

// Target 0 gets [-100, 0) and [50, end), target 1 gets [0, 50); what is below -100 stays.
static const int64_t bounds0[] = {-100, 0, 50};
static const int64_t bounds1[] = {0, 50};
static const int64_t hashes[] = {INT64_MIN, -101, -100, -1, 0, 49, 50, INT64_MAX, 7};
static const int owners[] = {-1, -1, 0, 0, 1, 1, 0, 0, 1};
enum { ROWS = sizeof hashes / sizeof hashes[0] };

static split_route_t make_route(sp_arena_t *arena)
{
    sp_arcs_t arcs[TARGETS] = {{bounds0, 3}, {bounds1, 2}};
    split_route_t route;
    sp_error_t err = {0};
    assert_int_equal(split_route_make(&route, arcs, TARGETS, arena, &err), 0);
    return route;
}

static void make_streams(bool binary, sp_buf_t *in, sp_buf_t expect[TARGETS])
{
    if (binary)
        sp_buf_add(in, split_binary_header, sizeof split_binary_header);
    for (int i = 0; i < ROWS; i++) {
        size_t len = (size_t)i * 3;
        if (binary) {
            add_binary_row(in, true, hashes[i], len);
            if (owners[i] >= 0)
                add_binary_row(&expect[owners[i]], false, 0, len);
        } else {
            sp_buf_printf(in, "%lld\t%d\ta\\tb\\n%d\n", (long long)hashes[i], i, i);
            if (owners[i] >= 0)
                sp_buf_printf(&expect[owners[i]], "%d\ta\\tb\\n%d\n", i, i);
        }
    }
    if (binary)
        sp_buf_add(in, split_binary_trailer, sizeof split_binary_trailer);
}

static void check_cut(bool binary, const split_route_t *route, const sp_buf_t *in,
                      const sp_buf_t *expect, const size_t *cuts, size_t n)
{
    sink_t sink = {.fail_after = -1};
    int64_t rows[TARGETS] = {0};
    sp_error_t err = {0};
    split_t split;
    split_start(&split, binary, route, rows, put, &sink);
    for (size_t i = 0; i <= n; i++) {
        size_t from = i == 0 ? 0 : cuts[i - 1], to = i == n ? in->len : cuts[i];
        char *piece =
            malloc(to - from + 1); // its own block, so that reading past it is seen by ASan
        memcpy(piece, in->data + from, to - from);
        assert_int_equal(split_feed(&split, piece, to - from, &err), 0);
        free(piece);
    }
    assert_int_equal(split_end(&split, &err), 0);
    assert_int_equal(split.skipped, 2);
    assert_int_equal(rows[0], 4);
    assert_int_equal(rows[1], 3);
    for (int t = 0; t < TARGETS; t++) {
        assert_int_equal(sink.got[t].len, expect[t].len);
        assert_memory_equal(sink.got[t].data, expect[t].data, expect[t].len);
        sp_buf_free(&sink.got[t]);
    }
}

static void every_cut(bool binary)
{
    sp_arena_t *arena = sp_arena_new(0);
    split_route_t route = make_route(arena);
    sp_buf_t in = SP_BUF_INIT, expect[TARGETS] = {SP_BUF_INIT, SP_BUF_INIT};
    make_streams(binary, &in, expect);
    check_cut(binary, &route, &in, expect, (size_t[]){0}, 0);
    for (size_t a = 0; a <= in.len; a++)
        for (size_t b = a; b <= in.len && b <= a + 40; b++)
            check_cut(binary, &route, &in, expect, (size_t[]){a, b}, 2);
    size_t *all = calloc(in.len, sizeof *all);
    for (size_t i = 0; i + 1 < in.len; i++)
        all[i] = i + 1;
    check_cut(binary, &route, &in, expect, all, in.len - 1); // byte by byte
    free(all);
    sp_buf_free(&in);
    for (int t = 0; t < TARGETS; t++)
        sp_buf_free(&expect[t]);
    sp_arena_destroy(&arena);
}

static void test_binary(void **state)
{
    (void)state;
    every_cut(true);
}

static void test_text(void **state)
{
    (void)state;
    every_cut(false);
}

static int feed_all(bool binary, const void *data, size_t len, int fail_after)
{
    sp_arena_t *arena = sp_arena_new(0);
    split_route_t route = make_route(arena);
    sink_t sink = {.fail_after = fail_after};
    int64_t rows[TARGETS] = {0};
    sp_error_t err = {0};
    split_t split;
    split_start(&split, binary, &route, rows, put, &sink);
    int rc = split_feed(&split, data, len, &err);
    if (rc == 0)
        rc = split_end(&split, &err);
    for (int t = 0; t < TARGETS; t++)
        sp_buf_free(&sink.got[t]);
    sp_arena_destroy(&arena);
    return rc;
}

static void test_refusals(void **state)
{
    (void)state;
    sp_buf_t in = SP_BUF_INIT, ignored[TARGETS] = {SP_BUF_INIT, SP_BUF_INIT};
    make_streams(true, &in, ignored);
    for (size_t cut = 0; cut < in.len; cut++) // anything shorter is no whole stream
        assert_int_equal(feed_all(true, in.data, cut, -1), SP_E_MALFORMED);
    assert_int_equal(feed_all(true, in.data, in.len, 3), SP_E_IO);
    sp_buf_addc(&in, 0);
    assert_int_equal(feed_all(true, in.data, in.len, -1), SP_E_MALFORMED);
    in.data[0] = 'X';
    assert_int_equal(feed_all(true, in.data, in.len, -1), SP_E_MALFORMED);
    sp_buf_reset(&in);
    sp_buf_add(&in, split_binary_header, sizeof split_binary_header);
    sp_buf_add(&in, "\0\2\xff\xff\xff\xff\0\0\0\0\0\0\0\0", 14); // NULL hash
    assert_int_equal(feed_all(true, in.data, in.len, -1), SP_E_INVALID_ARGUMENT);
    assert_int_equal(feed_all(false, "\\N\tx\n", 5, -1), SP_E_INVALID_ARGUMENT);
    assert_int_equal(feed_all(false, "12x\ty\n", 6, -1), SP_E_MALFORMED);
    assert_int_equal(feed_all(false, "123456789012345678901234\ty\n", 27, -1), SP_E_MALFORMED);
    assert_int_equal(feed_all(false, "1\ty", 3, -1), SP_E_MALFORMED);
    sp_buf_free(&in);
    for (int t = 0; t < TARGETS; t++)
        sp_buf_free(&ignored[t]);
}

static void test_route(void **state)
{
    (void)state;
    sp_arena_t *arena = sp_arena_new(0);
    split_route_t route = make_route(arena);
    for (int i = 0; i < ROWS; i++)
        assert_int_equal(split_route_find(&route, hashes[i]), owners[i]);
    sp_arcs_t overlapping[] = {{bounds0, 3}, {(const int64_t[]){-1, 3}, 2}};
    sp_error_t err = {0};
    assert_int_equal(split_route_make(&route, overlapping, 2, arena, &err), SP_E_INVALID_ARGUMENT);
    sp_arcs_t all = sp_arcs_all();
    assert_int_equal(split_route_make(&route, &all, 1, arena, &err), 0);
    assert_int_equal(split_route_find(&route, INT64_MIN), 0);
    assert_int_equal(split_route_find(&route, INT64_MAX), 0);
    sp_arena_destroy(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_route),
        cmocka_unit_test(test_binary),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
