// Sealing of secrets: "v1:" and base64 of a random nonce and the box.
#include "common/base/seal.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char prefix[] = "v1:";

struct sp_seal {
    unsigned char key[crypto_secretbox_KEYBYTES]; // 32 bytes
};

// The file's text, without the line end, into hex[65]; 0 or an error.
static int read_key_text(const char *path, char hex[66], sp_error_t *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return sp_error_set(err, SP_E_CONFIG, "key file %s: %s", path, strerror(errno));
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return sp_error_set(err, SP_E_CONFIG, "key file %s: not a regular file", path);
    }
    if (st.st_mode & 077) {
        close(fd);
        return sp_error_set(err, SP_E_CONFIG,
                            "key file %s: group or others may read it (mode %03o); run chmod 600 "
                            "on it",
                            path, (unsigned)(st.st_mode & 0777));
    }
    ssize_t n = read(fd, hex, 66);
    close(fd);
    if (n == 65 && hex[64] == '\n')
        n = 64;
    if (n != 64) {
        return sp_error_set(err, SP_E_CONFIG,
                            "key file %s: wants 64 hex digits (make one with: openssl rand -hex "
                            "32)",
                            path);
    }
    hex[64] = '\0';
    return SP_OK;
}

int sp_seal_open(sp_seal_t **ret_self, const char *path, sp_error_t *err)
{
    if (sodium_init() < 0)
        return sp_error_set(err, SP_E_INTERNAL, "libsodium did not start");
    char hex[66] = "";
    int rc = read_key_text(path, hex, err);
    if (rc) {
        sodium_memzero(hex, sizeof hex);
        return rc;
    }
    sp_seal_t *self = sodium_malloc(sizeof *self);
    if (!self) {
        sodium_memzero(hex, sizeof hex);
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the key");
    }
    size_t got = 0;
    bool good = sodium_hex2bin(self->key, sizeof self->key, hex, 64, NULL, &got, NULL) == 0 &&
                got == sizeof self->key;
    sodium_memzero(hex, sizeof hex);
    if (!good) {
        sp_seal_close(&self);
        return sp_error_set(err, SP_E_CONFIG,
                            "key file %s: wants 64 hex digits (make one with: openssl rand -hex "
                            "32)",
                            path);
    }
    sodium_mprotect_readonly(self);
    *ret_self = self;
    return SP_OK;
}

void sp_seal_close(sp_seal_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    sodium_free(*self_p); // zeroes
    *self_p = NULL;
}

int sp_seal_encrypt(const sp_seal_t *self, sp_str_t clear, sp_arena_t *arena, sp_str_t *ret_sealed,
                    sp_error_t *err)
{
    if (clear.len > 1024 * 1024)
        return sp_error_set(err, SP_E_TOO_LARGE, "a secret over 1 MiB");
    size_t raw_len = crypto_secretbox_NONCEBYTES + crypto_secretbox_MACBYTES + clear.len;
    size_t text_len =
        sodium_base64_ENCODED_LEN(raw_len, sodium_base64_VARIANT_ORIGINAL); // with the NUL
    unsigned char *raw = sp_arena_alloc(arena, raw_len, 1);
    char *text = sp_arena_alloc(arena, sizeof prefix - 1 + text_len, 1);
    if (!raw || !text)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory to seal a secret");
    randombytes_buf(raw, crypto_secretbox_NONCEBYTES);
    crypto_secretbox_easy(raw + crypto_secretbox_NONCEBYTES,
                          (const unsigned char *)(clear.len ? clear.ptr : ""), clear.len, raw,
                          self->key);
    memcpy(text, prefix, sizeof prefix - 1);
    sodium_bin2base64(text + sizeof prefix - 1, text_len, raw, raw_len,
                      sodium_base64_VARIANT_ORIGINAL);
    *ret_sealed = sp_str(text);
    return SP_OK;
}

int sp_seal_decrypt(const sp_seal_t *self, sp_str_t sealed, sp_arena_t *arena, sp_str_t *ret_clear,
                    sp_error_t *err)
{
    const char *const why = "a sealed value was not sealed with this key file";
    if (!sp_str_starts(sealed, prefix))
        return sp_error_set(err, SP_E_MALFORMED, "a sealed value does not start with %s", prefix);
    const char *text = sealed.ptr + sizeof prefix - 1;
    size_t text_len = sealed.len - (sizeof prefix - 1);
    unsigned char *raw = sp_arena_alloc(arena, text_len + 1, 1);
    if (!raw)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory to open a sealed value");
    size_t raw_len = 0;
    const size_t overhead = crypto_secretbox_NONCEBYTES + crypto_secretbox_MACBYTES;
    if (sodium_base642bin(raw, text_len, text, text_len, NULL, &raw_len, NULL,
                          sodium_base64_VARIANT_ORIGINAL) != 0 ||
        raw_len < overhead)
        return sp_error_set(err, SP_E_MALFORMED, "%s", why);
    size_t clear_len = raw_len - overhead;
    unsigned char *clear = sp_arena_alloc(arena, clear_len + 1, 1);
    if (!clear)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory to open a sealed value");
    if (crypto_secretbox_open_easy(clear, raw + crypto_secretbox_NONCEBYTES,
                                   raw_len - crypto_secretbox_NONCEBYTES, raw, self->key) != 0)
        return sp_error_set(err, SP_E_MALFORMED, "%s", why);
    *ret_clear = (sp_str_t){(const char *)clear, clear_len};
    return SP_OK;
}

void sp_seal_derive(const sp_seal_t *self, sp_str_t context, char out[SP_SEAL_DERIVED])
{
    unsigned char digest[(SP_SEAL_DERIVED - 1) / 2];
    crypto_generichash(digest, sizeof digest,
                       (const unsigned char *)(context.len ? context.ptr : ""), context.len,
                       self->key, sizeof self->key); // keyed BLAKE2b
    sodium_bin2hex(out, SP_SEAL_DERIVED, digest, sizeof digest);
    sodium_memzero(digest, sizeof digest);
}
