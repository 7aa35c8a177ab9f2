// Borrowed strings.
#include "common/base/str.h"

#include <string.h>

#include "schemas/errors.h"

sp_str_t sp_str(const char *z)
{
    return z ? (sp_str_t){z, strlen(z)} : (sp_str_t){NULL, 0};
}

bool sp_str_eq(sp_str_t a, sp_str_t b)
{
    if (!a.ptr || !b.ptr)
        return !a.ptr && !b.ptr;
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

bool sp_str_eqz(sp_str_t a, const char *z)
{
    return sp_str_eq(a, sp_str(z));
}

int sp_str_cmp(sp_str_t a, sp_str_t b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int c = n ? memcmp(a.ptr, b.ptr, n) : 0;
    if (c)
        return c;
    return a.len < b.len ? -1 : a.len > b.len ? 1 : 0;
}

bool sp_str_starts(sp_str_t s, const char *prefix)
{
    size_t n = strlen(prefix);
    return s.ptr && s.len >= n && memcmp(s.ptr, prefix, n) == 0;
}

// Length of the valid sequence at p, 0 when there is none. Table 3-7 of the Unicode standard.
static size_t utf8_step(const unsigned char *p, size_t left)
{
    unsigned char c = p[0];
    if (c < 0x80)
        return c == 0 ? 0 : 1;
    if (c < 0xC2 || c > 0xF4)
        return 0;
    size_t need = c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
    if (left < need)
        return 0;
    unsigned char low = 0x80, high = 0xBF;
    if (c == 0xE0)
        low = 0xA0;
    if (c == 0xED)
        high = 0x9F;
    if (c == 0xF0)
        low = 0x90;
    if (c == 0xF4)
        high = 0x8F;
    if (p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < need; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    return need;
}

bool sp_str_valid_utf8(sp_str_t s)
{
    const unsigned char *p = (const unsigned char *)s.ptr;
    for (size_t i = 0; i < s.len;) {
        size_t n = utf8_step(p + i, s.len - i);
        if (n == 0)
            return false;
        i += n;
    }
    return true;
}

void sp_str_make_utf8(char *text)
{
    for (size_t left = strlen(text); left > 0;) {
        size_t n = utf8_step((const unsigned char *)text, left);
        if (n == 0) {
            *text = '?';
            n = 1;
        }
        text += n;
        left -= n;
    }
}

int sp_str_to_int64(sp_str_t s, int64_t *ret_value)
{
    size_t i = 0;
    bool negative = s.len > 0 && s.ptr[0] == '-';
    if (negative)
        i++;
    if (i == s.len)
        return SP_E_INVALID_ARGUMENT;
    int64_t value = 0; // counted downwards: INT64_MIN has no positive twin
    for (; i < s.len; i++) {
        if (s.ptr[i] < '0' || s.ptr[i] > '9')
            return SP_E_INVALID_ARGUMENT;
        if (__builtin_mul_overflow(value, 10, &value))
            return SP_E_INVALID_ARGUMENT;
        if (__builtin_sub_overflow(value, s.ptr[i] - '0', &value))
            return SP_E_INVALID_ARGUMENT;
    }
    if (!negative && __builtin_sub_overflow((int64_t)0, value, &value))
        return SP_E_INVALID_ARGUMENT;
    *ret_value = value;
    return SP_OK;
}

bool sp_str_valid_name(sp_str_t s)
{
    if (s.len < 1 || s.len > 63)
        return false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (!alnum && (i == 0 || (c != '_' && c != '-')))
            return false;
    }
    return true;
}

int sp_str_hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}
