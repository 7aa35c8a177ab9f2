// Plans: who gets which arcs. Pure; results come from the caller's arena.
#ifndef SP_RING_PLAN_H
#define SP_RING_PLAN_H

#include "common/ring/ring.h"

typedef struct sp_plan_target {
    sp_str_t id;        // shard that receives; may be unknown to the ring (it holds nothing yet)
    size_t vnode_count; // tokens it asks for: its weight, and how many it holds afterwards at least
} sp_plan_target_t;

typedef struct sp_plan_move {
    sp_str_t id;              // receiver
    sp_arcs_t moves;          // arcs that go to it: one run in ring order
    sp_tokens_t tokens_new;   // tokens it takes over or gets anew
    sp_tokens_t tokens_after; // all its tokens after the change
    sp_arcs_t bounds_after;   // all it owns after the change
    double share;             // of the whole hash space, that moves
} sp_plan_move_t;

typedef struct sp_plan {
    sp_arcs_t source_before;         // what the source owns now
    sp_tokens_t source_tokens_after; // what it holds afterwards
    sp_arcs_t source_after;          // what it owns afterwards
    sp_plan_move_t *moves;           // one a target, in the caller's order
    size_t moves_n;                  // count
} sp_plan_t;

// Splits all that `source` owns over the targets, in shares weighted by vnode_count, each one run of neighbouring arcs, cut exactly
// where the share ends. A target with fewer tokens than it asks for divides its largest arcs; the source is left empty.
// SP_E_NOT_FOUND: no such source; SP_E_INVALID_ARGUMENT: it owns nothing, or too little to divide, no target, a target twice, a
// target that is the source, a vnode_count outside 1..65536; SP_E_OUT_OF_MEMORY.
int sp_plan_split(const sp_ring_t *ring, sp_str_t source, const sp_plan_target_t *targets, size_t n,
                  sp_arena_t *arena, sp_plan_t *ret_plan, sp_error_t *err);

#endif
