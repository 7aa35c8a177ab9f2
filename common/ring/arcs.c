// Set operations on bounds: one sweep over both arrays.
#include "common/ring/arcs.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const int64_t whole[] = {INT64_MIN};

sp_arcs_t sp_arcs_all(void)
{
    return (sp_arcs_t){whole, 1};
}

int sp_arcs_validate(sp_arcs_t arcs, sp_error_t *err)
{
    for (size_t i = 1; i < arcs.n; i++)
        if (arcs.bounds[i - 1] >= arcs.bounds[i])
            return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                                "bounds do not ascend at place %zu: %" PRId64 " then %" PRId64, i,
                                arcs.bounds[i - 1], arcs.bounds[i]);
    return SP_OK;
}

bool sp_arcs_contains(sp_arcs_t arcs, int64_t hash)
{
    size_t low = 0, high = arcs.n; // number of bounds <= hash lies in [low, high]
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (arcs.bounds[mid] <= hash)
            low = mid + 1;
        else
            high = mid;
    }
    return low % 2 == 1;
}

bool sp_arcs_equal(sp_arcs_t a, sp_arcs_t b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.bounds, b.bounds, a.n * sizeof *a.bounds) == 0);
}

bool sp_arcs_is_all(sp_arcs_t arcs)
{
    return arcs.n == 1 && arcs.bounds[0] == INT64_MIN;
}

bool sp_arcs_is_none(sp_arcs_t arcs)
{
    return arcs.n == 0;
}

size_t sp_arcs_ranges(sp_arcs_t arcs)
{
    return (arcs.n + 1) / 2;
}

double sp_arcs_share(sp_arcs_t arcs)
{
    if (sp_arcs_is_all(arcs))
        return 1.0;
    uint64_t width = 0; // modulo 2^64, which only the whole space reaches
    for (size_t i = 0; i < arcs.n; i += 2) {
        uint64_t to = i + 1 < arcs.n ? (uint64_t)arcs.bounds[i + 1] : (uint64_t)INT64_MIN;
        width += to - (uint64_t)arcs.bounds[i];
    }
    return (double)width / 18446744073709551616.0;
}

typedef bool operation_t(bool in_a, bool in_b);
static bool op_union(bool a, bool b)
{
    return a || b;
}
static bool op_subtract(bool a, bool b)
{
    return a && !b;
}
static bool op_intersect(bool a, bool b)
{
    return a && b;
}

// Bounds of op(a, b) into out (room for a.n + b.n), or only their number when out is NULL.
static size_t sweep(sp_arcs_t a, sp_arcs_t b, operation_t *op, int64_t *out)
{
    size_t i = 0, j = 0, n = 0;
    bool inside = false;
    while (i < a.n || j < b.n) {
        int64_t at = j >= b.n || (i < a.n && a.bounds[i] < b.bounds[j]) ? a.bounds[i] : b.bounds[j];
        if (i < a.n && a.bounds[i] == at)
            i++;
        if (j < b.n && b.bounds[j] == at)
            j++;
        bool now = op(i % 2 == 1, j % 2 == 1);
        if (now == inside)
            continue;
        if (out)
            out[n] = at;
        n++;
        inside = now;
    }
    return n;
}

static int combine(sp_arcs_t a, sp_arcs_t b, operation_t *op, sp_arena_t *arena, sp_arcs_t *ret,
                   sp_error_t *err)
{
    size_t n = sweep(a, b, op, NULL);
    if (n == 0) {
        *ret = SP_ARCS_NONE;
        return SP_OK;
    }
    int64_t *out = sp_arena_alloc(arena, n, sizeof *out);
    if (!out)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for %zu bounds", n);
    sweep(a, b, op, out);
    *ret = (sp_arcs_t){out, n};
    return SP_OK;
}

int sp_arcs_union(sp_arcs_t a, sp_arcs_t b, sp_arena_t *arena, sp_arcs_t *ret, sp_error_t *err)
{
    return combine(a, b, op_union, arena, ret, err);
}

int sp_arcs_subtract(sp_arcs_t a, sp_arcs_t b, sp_arena_t *arena, sp_arcs_t *ret, sp_error_t *err)
{
    return combine(a, b, op_subtract, arena, ret, err);
}

int sp_arcs_intersect(sp_arcs_t a, sp_arcs_t b, sp_arena_t *arena, sp_arcs_t *ret, sp_error_t *err)
{
    return combine(a, b, op_intersect, arena, ret, err);
}

bool sp_arcs_overlap(sp_arcs_t a, sp_arcs_t b)
{
    return sweep(a, b, op_intersect, NULL) > 0;
}

bool sp_arcs_within(sp_arcs_t inner, sp_arcs_t outer)
{
    return sweep(inner, outer, op_subtract, NULL) == 0;
}

// One end of a range: +1 at its begin, -1 at its end.
typedef struct edge {
    int64_t at; // hash
    int step;   // +1 or -1
} edge_t;

static int by_place(const void *a, const void *b)
{
    int64_t x = ((const edge_t *)a)->at, y = ((const edge_t *)b)->at;
    return x < y ? -1 : x > y;
}

int sp_arcs_from_ranges(const sp_range_t *ranges, size_t n, sp_arena_t *arena, sp_arcs_t *ret,
                        sp_error_t *err)
{
    edge_t *edges = sp_arena_alloc(arena, n, 3 * sizeof *edges);
    int64_t *out = sp_arena_alloc(arena, n, 3 * sizeof *out);
    if (!edges || !out)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for %zu ranges", n);
    size_t edges_n = 0;
    for (size_t i = 0; i < n; i++) {
        int64_t from = ranges[i].from, to = ranges[i].to;
        if (from == to && from != INT64_MIN)
            continue;
        if (from > to && to != INT64_MIN)
            edges[edges_n++] = (edge_t){INT64_MIN, 1}; // wraps: the part from the beginning
        edges[edges_n++] = (edge_t){from, 1};
        if (to != INT64_MIN)
            edges[edges_n++] = (edge_t){to, -1};
    }
    qsort(edges, edges_n, sizeof *edges, by_place);
    size_t bounds_n = 0;
    int depth = 0;
    for (size_t i = 0; i < edges_n;) {
        int before = depth;
        int64_t at = edges[i].at;
        for (; i < edges_n && edges[i].at == at; i++)
            depth += edges[i].step;
        if ((before > 0) != (depth > 0))
            out[bounds_n++] = at;
    }
    *ret = (sp_arcs_t){bounds_n ? out : NULL, bounds_n};
    return SP_OK;
}

void sp_arcs_literal(sp_arcs_t arcs, sp_buf_t *out)
{
    sp_buf_addc(out, '{');
    for (size_t i = 0; i < arcs.n; i++)
        sp_buf_printf(out, "%s%" PRId64, i ? "," : "", arcs.bounds[i]);
    sp_buf_addc(out, '}');
}

int sp_arcs_parse(sp_str_t literal, sp_arena_t *arena, sp_arcs_t *ret, sp_error_t *err)
{
    if (literal.len < 2 || literal.ptr[0] != '{' || literal.ptr[literal.len - 1] != '}')
        return sp_error_set(err, SP_E_MALFORMED, "bounds are not of the form {n,n,...}");
    const char *p = literal.ptr + 1, *end = literal.ptr + literal.len - 1;
    if (p == end) {
        *ret = SP_ARCS_NONE;
        return SP_OK;
    }
    size_t most = 1;
    for (const char *q = p; q < end; q++)
        most += *q == ',';
    int64_t *out = sp_arena_alloc(arena, most, sizeof *out);
    if (!out)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for %zu bounds", most);
    for (size_t i = 0; i < most; i++) {
        const char *comma = memchr(p, ',', (size_t)(end - p));
        const char *stop = comma ? comma : end;
        if (sp_str_to_int64((sp_str_t){p, (size_t)(stop - p)}, &out[i]) != SP_OK)
            return sp_error_set(err, SP_E_MALFORMED, "bound %zu is not an int64", i + 1);
        p = stop + 1;
    }
    sp_arcs_t arcs = {out, most};
    int rc = sp_arcs_validate(arcs, err);
    if (rc == SP_OK)
        *ret = arcs;
    return rc;
}
