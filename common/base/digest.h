// Digests: BLAKE2b through libsodium, to compare contents, not to keep secrets.
#ifndef SP_BASE_DIGEST_H
#define SP_BASE_DIGEST_H

#include <stddef.h>

enum { SP_DIGEST_MIN = 16, SP_DIGEST_MAX = 64 };

// size bytes (SP_DIGEST_MIN..SP_DIGEST_MAX) into out. len may be 0.
void sp_digest(const void *data, size_t len, unsigned char *out, size_t size);
// The same as 2 * size hex digits and a NUL.
void sp_digest_hex(const void *data, size_t len, char *out, size_t size);

#endif
