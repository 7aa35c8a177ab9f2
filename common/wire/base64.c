#include "common/wire/base64.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void sp_base64_encode(const void *data, size_t len, sp_buf_t *out)
{
    const uint8_t *in = data;
    if (len > SIZE_MAX / 2 || !sp_buf_reserve(out, (len + 2) / 3 * 4)) {
        out->failed = true;
        return;
    }
    for (size_t i = 0; i < len; i += 3) {
        size_t n = len - i < 3 ? len - i : 3;
        uint32_t group = (uint32_t)in[i] << 16 | (n > 1 ? (uint32_t)in[i + 1] << 8 : 0) |
                         (n > 2 ? in[i + 2] : 0);
        char four[4] = {alphabet[group >> 18], alphabet[group >> 12 & 63],
                        n > 1 ? alphabet[group >> 6 & 63] : '=',
                        n > 2 ? alphabet[group & 63] : '='};
        sp_buf_add(out, four, sizeof(four));
    }
}

static int digit(char c)
{
    if (c >= 'A' && c <= 'Z') {
        return c - 'A';
    }
    if (c >= 'a' && c <= 'z') {
        return c - 'a' + 26;
    }
    if (c >= '0' && c <= '9') {
        return c - '0' + 52;
    }
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int sp_base64_decode(sp_str_t text, sp_arena_t *arena, sp_str_t *ret_bytes, sp_error_t *err)
{
    size_t pad = 0;
    while (pad < 2 && pad < text.len && text.ptr[text.len - 1 - pad] == '=') {
        pad++;
    }
    if (text.len % 4 != 0) {
        return sp_error_set(err, SP_E_MALFORMED,
                            "base64 has %zu characters, not whole groups of four", text.len);
    }
    uint8_t *out = sp_arena_alloc(arena, text.len / 4 * 3 + 1, 1);
    if (out == NULL) {
        return sp_error_set(err, SP_E_TOO_LARGE, "base64 takes more memory than is allowed");
    }
    size_t n = 0;
    for (size_t i = 0; i < text.len; i += 4) {
        size_t letters = i + 4 == text.len ? 4 - pad : 4;
        uint32_t group = 0;
        for (size_t k = 0; k < 4; k++) {
            int d = k < letters ? digit(text.ptr[i + k]) : 0;
            if (d < 0) {
                return sp_error_set(err, SP_E_MALFORMED, "character %zu is no base64", i + k);
            }
            group = group << 6 | (uint32_t)d;
        }
        // Bits behind the last byte must be zero, so that bytes have one text only.
        if ((letters == 3 && (group & 0xff) != 0) || (letters == 2 && (group & 0xffff) != 0)) {
            return sp_error_set(err, SP_E_MALFORMED, "base64 ends in bits that stand for no byte");
        }
        for (size_t k = 0; k + 1 < letters; k++) {
            out[n++] = (uint8_t)(group >> (16 - 8 * k));
        }
    }
    *ret_bytes = (sp_str_t){(const char *)out, n};
    return 0;
}
