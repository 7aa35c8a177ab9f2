// Canonical keys, after PostgreSQL 15's input functions int8in and uuid_in.
#include "common/ring/key.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

const char *sp_key_type_name(int key_type)
{
    switch (key_type) {
    case SP_KEY_BIGINT:
        return "bigint";
    case SP_KEY_TEXT:
        return "text";
    case SP_KEY_UUID:
        return "uuid";
    default:
        return "unknown";
    }
}

// isspace() of the C locale.
static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

// A piece of the key for an error's text: keys are not secret, but may be long or binary.
static sp_str_t shown(sp_str_t in)
{
    if (in.len > 64)
        in.len = 64;
    while (in.len > 0 && !sp_str_valid_utf8(in))
        in.len--;
    return in;
}

static int canonical_bigint(sp_str_t in, char *out, size_t out_size, sp_str_t *ret, sp_error_t *err)
{
    sp_str_t s = in;
    while (s.len && is_space(s.ptr[0]))
        s.ptr++, s.len--;
    while (s.len && is_space(s.ptr[s.len - 1]))
        s.len--;
    if (s.len && s.ptr[0] == '+') {
        s.ptr++, s.len--;
        if (s.len && s.ptr[0] == '-')
            s.len = 0;
    }
    int64_t value;
    sp_str_t show = shown(in);
    if (sp_str_to_int64(s, &value) != SP_OK)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "key \"" SP_STR_FMT "\" is not a bigint: digits with an optional sign, "
                            "from -9223372036854775808 to 9223372036854775807",
                            SP_STR_ARG(show));
    int n = snprintf(out, out_size, "%" PRId64, value);
    if (n < 0 || (size_t)n >= out_size)
        return sp_error_set(err, SP_E_TOO_LARGE, "no room for the key");
    *ret = (sp_str_t){out, (size_t)n};
    return SP_OK;
}

// 32 lower-case digits into digits; false when uuid_in would refuse.
static bool scan_uuid(sp_str_t in, char digits[32])
{
    const char *p = in.ptr, *end = in.ptr + in.len;
    bool braces = p < end && *p == '{';
    if (braces)
        p++;
    for (int i = 0; i < 16; i++) {
        if (end - p < 2)
            return false;
        int high = sp_str_hex_digit(p[0]), low = sp_str_hex_digit(p[1]);
        if (high < 0 || low < 0)
            return false;
        digits[2 * i] = "0123456789abcdef"[high];
        digits[2 * i + 1] = "0123456789abcdef"[low];
        p += 2;
        if (p < end && *p == '-' && i % 2 == 1 && i < 15)
            p++;
    }
    if (braces) {
        if (p == end || *p != '}')
            return false;
        p++;
    }
    return p == end;
}

static int canonical_uuid(sp_str_t in, char *out, size_t out_size, sp_str_t *ret, sp_error_t *err)
{
    char d[32];
    sp_str_t show = shown(in);
    if (!in.ptr || !scan_uuid(in, d))
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "key \"" SP_STR_FMT "\" is not a uuid",
                            SP_STR_ARG(show));
    int n = snprintf(out, out_size, "%.8s-%.4s-%.4s-%.4s-%.12s", d, d + 8, d + 12, d + 16, d + 20);
    if (n < 0 || (size_t)n >= out_size)
        return sp_error_set(err, SP_E_TOO_LARGE, "no room for the key");
    *ret = (sp_str_t){out, (size_t)n};
    return SP_OK;
}

int sp_key_canonical(int key_type, sp_str_t in, char *out, size_t out_size, sp_str_t *ret,
                     sp_error_t *err)
{
    if (!in.ptr)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "there is no key");
    switch (key_type) {
    case SP_KEY_BIGINT:
        return canonical_bigint(in, out, out_size, ret, err);
    case SP_KEY_UUID:
        return canonical_uuid(in, out, out_size, ret, err);
    case SP_KEY_TEXT:
        if (!sp_str_valid_utf8(in))
            return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                                "the key is not valid UTF-8 without NUL");
        *ret = in;
        return SP_OK;
    default:
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "key type %d is none of bigint, text, uuid",
                            key_type);
    }
}
