// Digests.
#include "common/base/digest.h"

#include <sodium.h>

_Static_assert(SP_DIGEST_MIN >= crypto_generichash_BYTES_MIN &&
                   SP_DIGEST_MAX <= crypto_generichash_BYTES_MAX,
               "within what BLAKE2b gives");

void sp_digest(const void *data, size_t len, unsigned char *out, size_t size)
{
    crypto_generichash(out, size, data, len, NULL, 0);
}

void sp_digest_hex(const void *data, size_t len, char *out, size_t size)
{
    unsigned char raw[SP_DIGEST_MAX];
    sp_digest(data, len, raw, size);
    sodium_bin2hex(out, 2 * size + 1, raw, size);
}
