// Duplicate keys in a map are refused: two readers of one message must not see two messages.
#ifndef SP_WIRE_UNIQUE_H
#define SP_WIRE_UNIQUE_H

#include "common/base/arena.h"
#include "common/base/error.h"
#include "common/wire/value.h"

// 0, SP_E_MALFORMED (two equal keys) or SP_E_TOO_LARGE (no memory to sort in). n log n.
int sp_unique_keys(const sp_value_pair_t *pairs, size_t n, sp_arena_t *arena, sp_error_t *err);

#endif
