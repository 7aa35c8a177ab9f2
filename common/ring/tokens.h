// Tokens: the points on the ring that one shard holds, ascending.
#ifndef SP_RING_TOKENS_H
#define SP_RING_TOKENS_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/error.h"
#include "common/base/str.h"

typedef struct sp_tokens {
    const int64_t *items; // borrowed, strictly ascending; may be NULL when n is 0
    size_t n;             // count
} sp_tokens_t;

#define SP_TOKENS_NONE ((sp_tokens_t){NULL, 0})

// Compact form for the catalog: base64 (RFC 4648, padded) of big-endian int64s, ascending; "" for none. SP_E_OUT_OF_MEMORY.
int sp_tokens_encode(sp_tokens_t tokens, sp_arena_t *arena, sp_str_t *ret, sp_error_t *err);
// SP_E_MALFORMED when it is not such a text, or does not ascend strictly; SP_E_OUT_OF_MEMORY. An absent text is none.
int sp_tokens_decode(sp_str_t text, sp_arena_t *arena, sp_tokens_t *ret, sp_error_t *err);
// The `count` tokens with which a shard joins a ring: a function of its name alone, but for those in `taken` (any order), which are
// passed over. SP_E_INVALID_ARGUMENT for count 0 or over 65536; SP_E_OUT_OF_MEMORY.
int sp_tokens_initial(sp_str_t shard_id, size_t count, sp_tokens_t taken, sp_arena_t *arena,
                      sp_tokens_t *ret, sp_error_t *err);

#endif
