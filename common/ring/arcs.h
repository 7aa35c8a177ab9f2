// Arcs as bounds: strictly ascending int64s such that a hash h is inside exactly when the number of bounds <= h is odd, which is
// PostgreSQL's `width_bucket(h, bounds) % 2 = 1`. Everything is {INT64_MIN}, nothing is {}. Such an array is always merged: there is
// exactly one for each set of hashes. All functions are pure; results come from the caller's arena.
#ifndef SP_RING_ARCS_H
#define SP_RING_ARCS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/error.h"

typedef struct sp_arcs {
    const int64_t *bounds; // borrowed; may be NULL when n is 0
    size_t n;              // bounds, not ranges
} sp_arcs_t;

#define SP_ARCS_NONE ((sp_arcs_t){NULL, 0})
sp_arcs_t sp_arcs_all(void); // static storage

// 0, or SP_E_INVALID_ARGUMENT when the bounds do not ascend strictly. The others expect valid arcs.
int sp_arcs_validate(sp_arcs_t arcs, sp_error_t *err);
bool sp_arcs_contains(sp_arcs_t arcs, int64_t hash);
bool sp_arcs_equal(sp_arcs_t a, sp_arcs_t b);
bool sp_arcs_is_all(sp_arcs_t arcs);
bool sp_arcs_is_none(sp_arcs_t arcs);
bool sp_arcs_overlap(sp_arcs_t a, sp_arcs_t b);        // any hash in both
bool sp_arcs_within(sp_arcs_t inner, sp_arcs_t outer); // every hash of inner is in outer
// Ranges [from, to) in ascending order; a wrapped arc counts as two.
size_t sp_arcs_ranges(sp_arcs_t arcs);
// Part of the whole hash space, 0 to 1.
double sp_arcs_share(sp_arcs_t arcs);

// SP_E_OUT_OF_MEMORY only.
int sp_arcs_union(sp_arcs_t a, sp_arcs_t b, sp_arena_t *arena, sp_arcs_t *ret, sp_error_t *err);
int sp_arcs_subtract(sp_arcs_t a, sp_arcs_t b, sp_arena_t *arena, sp_arcs_t *ret,
                     sp_error_t *err); // a without b
int sp_arcs_intersect(sp_arcs_t a, sp_arcs_t b, sp_arena_t *arena, sp_arcs_t *ret, sp_error_t *err);

// From ranges [from[i], to[i]) in any order, overlaps allowed; `to` INT64_MIN means "to the end of the space"; a range with
// from > to wraps around; from == to is empty, except that (INT64_MIN, INT64_MIN) is everything.
typedef struct sp_range {
    int64_t from; // first hash inside
    int64_t to;   // first hash outside
} sp_range_t;
int sp_arcs_from_ranges(const sp_range_t *ranges, size_t n, sp_arena_t *arena, sp_arcs_t *ret,
                        sp_error_t *err);

// `{-9223372036854775808,17}`: a literal for int8[] without quotes.
void sp_arcs_literal(sp_arcs_t arcs, sp_buf_t *out);
// Back again: SP_E_MALFORMED, SP_E_INVALID_ARGUMENT or SP_E_OUT_OF_MEMORY.
int sp_arcs_parse(sp_str_t literal, sp_arena_t *arena, sp_arcs_t *ret, sp_error_t *err);

#endif
