// The key hash: PostgreSQL's hashtextextended(text, 0), so that C, SQL and triggers agree without an extension.
#ifndef SP_RING_HASH_H
#define SP_RING_HASH_H

#include <stddef.h>
#include <stdint.h>

// Of `len` bytes of canonical key text (see key.h). Identical to PostgreSQL 15's hash_bytes_extended with seed 0, which is Bob
// Jenkins' lookup3 (May 2006, public domain) with PostgreSQL's initial value; proved by tests/unit/ring_hash_golden.h.
int64_t sp_key_hash(const char *text, size_t len);

#endif
