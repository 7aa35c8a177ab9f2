// Keys: canonical text by the keyspace's key type, so that `042` and `42` never land on two shards.
#ifndef SP_RING_KEY_H
#define SP_RING_KEY_H

#include <stddef.h>

#include "common/base/error.h"
#include "common/base/str.h"

// The numbers of enum key_type in schemas/shard.json (a unit test compares them).
typedef enum {
    SP_KEY_BIGINT = 1, // smallint, integer, bigint
    SP_KEY_TEXT = 2,   // text, varchar with a deterministic collation
    SP_KEY_UUID = 3,   // uuid
} sp_key_type_t;

enum { SP_KEY_CANONICAL_MAX = 40 }; // enough for a canonical bigint or uuid and a NUL

// The text that PostgreSQL prints for this key (key::text), where its input function accepts the key.
//   bigint: as int8in of PostgreSQL 15: surrounding white space, a sign, leading zeros; out of range is refused
//   uuid:   every form that uuid_in accepts (upper case, braces, hyphens after any group of four digits), to lower case
//   text:   as it is; valid UTF-8 without NUL
// ret borrows from out, for text from in. SP_E_INVALID_ARGUMENT, or SP_E_TOO_LARGE when out_size is too small.
int sp_key_canonical(int key_type, sp_str_t in, char *out, size_t out_size, sp_str_t *ret,
                     sp_error_t *err);

// "bigint", "text", "uuid"; "unknown" for none.
const char *sp_key_type_name(int key_type);

#endif
