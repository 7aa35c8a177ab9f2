// Jenkins lookup3 over little-endian words.
#include "common/ring/hash.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "PostgreSQL's hash depends on the byte order; only little-endian is supported");

static inline uint32_t rot(uint32_t x, int k)
{
    return (x << k) | (x >> (32 - k));
}

static inline uint32_t word(const unsigned char *p)
{
    uint32_t w;
    memcpy(&w, p, sizeof w);
    return w;
}

typedef struct state {
    uint32_t a, b, c; // lookup3's three words
} state_t;

static inline void mix(state_t *s)
{
    uint32_t a = s->a, b = s->b, c = s->c;
    a -= c, a ^= rot(c, 4), c += b;
    b -= a, b ^= rot(a, 6), a += c;
    c -= b, c ^= rot(b, 8), b += a;
    a -= c, a ^= rot(c, 16), c += b;
    b -= a, b ^= rot(a, 19), a += c;
    c -= b, c ^= rot(b, 4), b += a;
    *s = (state_t){a, b, c};
}

static inline void final(state_t *s)
{
    uint32_t a = s->a, b = s->b, c = s->c;
    c ^= b, c -= rot(b, 14);
    a ^= c, a -= rot(c, 11);
    b ^= a, b -= rot(a, 25);
    c ^= b, c -= rot(b, 16);
    a ^= c, a -= rot(c, 4);
    b ^= a, b -= rot(a, 14);
    c ^= b, c -= rot(b, 24);
    *s = (state_t){a, b, c};
}

int64_t sp_key_hash(const char *text, size_t len)
{
    const unsigned char *k = (const unsigned char *)text;
    uint32_t start = 0x9e3779b9u + (uint32_t)len + 3923095u;
    state_t s = {start, start, start};
    for (; len >= 12; k += 12, len -= 12) {
        s.a += word(k);
        s.b += word(k + 4);
        s.c += word(k + 8);
        mix(&s);
    }
    // The last 0..11 bytes; the lowest byte of c is kept for the length, so the third word is shifted up by one byte.
    unsigned char tail[12] = {0};
    if (len)
        memcpy(tail, k, len < 8 ? len : 8);
    if (len > 8)
        memcpy(tail + 9, k + 8, len - 8);
    s.a += word(tail);
    s.b += word(tail + 4);
    s.c += word(tail + 8);
    final(&s);
    return (int64_t)(((uint64_t)s.b << 32) | s.c);
}
