// Sealing of secrets (libsodium crypto_secretbox) under a key file, for DSNs in the catalog.
#ifndef SP_BASE_SEAL_H
#define SP_BASE_SEAL_H

#include "common/base/arena.h"
#include "common/base/error.h"

typedef struct sp_seal sp_seal_t; // holds the key, in locked memory

// Reads 32 bytes as 64 hex digits from path. SP_E_CONFIG when the file is missing, malformed or readable by group or others.
int sp_seal_open(sp_seal_t **ret_self, const char *path, sp_error_t *err);
void sp_seal_close(sp_seal_t **self_p);
// "v1:" + base64(nonce + box), from the arena.
int sp_seal_encrypt(const sp_seal_t *self, sp_str_t clear, sp_arena_t *arena, sp_str_t *ret_sealed,
                    sp_error_t *err);
// SP_E_MALFORMED when it was not sealed with this key. The error never shows the text.
int sp_seal_decrypt(const sp_seal_t *self, sp_str_t sealed, sp_arena_t *arena, sp_str_t *ret_clear,
                    sp_error_t *err);

enum { SP_SEAL_DERIVED = 41 }; // 40 hex digits and a NUL
// A secret that belongs to `context` and this key: the same each time, and of no use to tell the key or other contexts' secrets.
void sp_seal_derive(const sp_seal_t *self, sp_str_t context, char out[SP_SEAL_DERIVED]);

#endif
