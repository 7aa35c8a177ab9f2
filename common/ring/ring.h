// Ring: which shard owns a hash. Immutable once built, so it may be shared by threads without a lock.
#ifndef SP_RING_RING_H
#define SP_RING_RING_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/error.h"
#include "common/base/str.h"
#include "common/ring/arcs.h"
#include "common/ring/tokens.h"

typedef struct sp_ring sp_ring_t;

typedef struct sp_ring_shard {
    sp_str_t id;        // borrowed; the ring keeps a copy
    sp_tokens_t tokens; // strictly ascending; none for a shard that owns nothing
} sp_ring_shard_t;

// SP_E_INVALID_ARGUMENT: tokens that do not ascend, a token held twice, a shard named twice or without a name; SP_E_OUT_OF_MEMORY.
// A ring without any token is allowed: it owns nothing.
int sp_ring_build(sp_ring_t **ret_self, const sp_ring_shard_t *shards, size_t n, sp_error_t *err);
void sp_ring_destroy(sp_ring_t **self_p);

// Index of the owner (as in the array that the ring was built from), -1 when the ring has no token. Some 15 ns at 64 x 256 tokens.
int sp_ring_lookup(const sp_ring_t *self, int64_t hash);
size_t sp_ring_shards_n(const sp_ring_t *self);
size_t sp_ring_tokens_n(const sp_ring_t *self);
// Borrowed from the ring, also NUL-terminated; absent for an index outside.
sp_str_t sp_ring_shard_id(const sp_ring_t *self, int index);
int sp_ring_find(const sp_ring_t *self, sp_str_t shard_id); // index or -1
// Borrowed from the ring.
sp_tokens_t sp_ring_shard_tokens(const sp_ring_t *self, int index);
// Token after this one on the ring (it wraps); the same one when the ring has but one token. SP_E_NOT_FOUND when it is no token.
int sp_ring_next_token(const sp_ring_t *self, int64_t token, int64_t *ret_next, sp_error_t *err);
// A number that stands for who owns which tokens, in whatever order the shards came; 0 for NULL and for a ring without any.
uint64_t sp_ring_digest(const sp_ring_t *self);
// Merged arcs of one shard. SP_E_NOT_FOUND for an index outside; SP_E_OUT_OF_MEMORY.
int sp_ring_bounds(const sp_ring_t *self, int index, sp_arena_t *arena, sp_arcs_t *ret,
                   sp_error_t *err);

#endif
