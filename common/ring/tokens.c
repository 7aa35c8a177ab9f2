// Token codec and initial tokens.
#include "common/ring/tokens.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/ring/hash.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
enum { MOST_TOKENS = 65536 };

int sp_tokens_encode(sp_tokens_t tokens, sp_arena_t *arena, sp_str_t *ret, sp_error_t *err)
{
    size_t raw_len = tokens.n * 8;
    unsigned char *raw = sp_arena_alloc(arena, raw_len + 3, 1); // zeros behind the end
    char *text = sp_arena_alloc(arena, (raw_len + 2) / 3 * 4 + 1, 1);
    if (!raw || !text)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for %zu tokens", tokens.n);
    for (size_t i = 0; i < tokens.n; i++) {
        uint64_t big = __builtin_bswap64((uint64_t)tokens.items[i]);
        memcpy(raw + 8 * i, &big, 8);
    }
    size_t out = 0;
    for (size_t i = 0; i < raw_len; i += 3) {
        uint32_t v = (uint32_t)raw[i] << 16 | (uint32_t)raw[i + 1] << 8 | raw[i + 2];
        for (int shift = 18; shift >= 0; shift -= 6)
            text[out++] = alphabet[v >> shift & 63];
        if (raw_len - i < 3)
            memset(text + out - (3 - (raw_len - i)), '=', 3 - (raw_len - i));
    }
    *ret = (sp_str_t){text, out};
    return SP_OK;
}

static int digit(char c)
{
    const char *p = c ? strchr(alphabet, c) : NULL;
    return p ? (int)(p - alphabet) : -1;
}

// Number of bytes in out, or -1.
static long decode_base64(sp_str_t text, unsigned char *out)
{
    if (text.len % 4)
        return -1;
    size_t pad = 0;
    while (pad < 2 && pad < text.len && text.ptr[text.len - 1 - pad] == '=')
        pad++;
    size_t n = 0;
    for (size_t i = 0; i < text.len; i += 4) {
        uint32_t v = 0;
        size_t pads = i + 4 == text.len ? pad : 0;
        for (size_t j = 0; j < 4; j++) {
            int d = j >= 4 - pads ? 0 : digit(text.ptr[i + j]);
            if (d < 0)
                return -1;
            v = v << 6 | (uint32_t)d;
        }
        if (v & ((1u << (8 * pads)) - 1))
            return -1; // bits that no encoder writes
        for (size_t j = 0; j < 3 - pads; j++)
            out[n++] = (unsigned char)(v >> (16 - 8 * j));
    }
    return (long)n;
}

int sp_tokens_decode(sp_str_t text, sp_arena_t *arena, sp_tokens_t *ret, sp_error_t *err)
{
    if (!text.ptr || text.len == 0) {
        *ret = SP_TOKENS_NONE;
        return SP_OK;
    }
    unsigned char *raw = sp_arena_alloc(arena, text.len / 4 * 3 + 3, 1);
    if (!raw)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for tokens");
    long raw_len = decode_base64(text, raw);
    if (raw_len < 0 || raw_len % 8)
        return sp_error_set(err, SP_E_MALFORMED, "tokens are not base64 of 8-byte numbers");
    size_t n = (size_t)raw_len / 8;
    int64_t *items = sp_arena_alloc(arena, n, sizeof *items);
    if (!items)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for %zu tokens", n);
    for (size_t i = 0; i < n; i++) {
        uint64_t big;
        memcpy(&big, raw + 8 * i, 8);
        items[i] = (int64_t)__builtin_bswap64(big);
        if (i > 0 && items[i - 1] >= items[i])
            return sp_error_set(err, SP_E_MALFORMED, "tokens do not ascend at place %zu", i);
    }
    *ret = (sp_tokens_t){items, n};
    return SP_OK;
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

int sp_tokens_initial(sp_str_t shard_id, size_t count, sp_tokens_t taken, sp_arena_t *arena,
                      sp_tokens_t *ret, sp_error_t *err)
{
    if (count == 0 || count > MOST_TOKENS)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "a shard holds 1 to %d tokens, not %zu",
                            MOST_TOKENS, count);
    int64_t *busy = sp_arena_alloc(arena, taken.n, sizeof *busy);
    int64_t *items = sp_arena_alloc(arena, count, sizeof *items);
    if (!busy || !items)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for %zu tokens", count);
    if (taken.n)
        memcpy(busy, taken.items, taken.n * sizeof *busy);
    qsort(busy, taken.n, sizeof *busy, by_value);
    size_t made = 0;
    uint64_t number = 0;
    while (made < count) {
        for (; made < count; number++) {
            char text[160];
            int len = snprintf(text, sizeof text, SP_STR_FMT "#%llu", SP_STR_ARG(shard_id),
                               (unsigned long long)number);
            if (len < 0 || (size_t)len >= sizeof text)
                return sp_error_set(err, SP_E_INVALID_ARGUMENT, "the shard's name is too long");
            int64_t token = sp_key_hash(text, (size_t)len);
            if (taken.n && bsearch(&token, busy, taken.n, sizeof *busy, by_value))
                continue;
            items[made++] = token;
        }
        // Two equal tokens of one shard are as good as impossible, and cost only another round.
        qsort(items, made, sizeof *items, by_value);
        size_t kept = 1;
        for (size_t i = 1; i < made; i++)
            if (items[i] != items[kept - 1])
                items[kept++] = items[i];
        made = kept;
    }
    *ret = (sp_tokens_t){items, count};
    return SP_OK;
}
