#include "common/wire/json_write.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/wire/base64.h"
#include "common/wire/pack.h"
#include "common/wire/wire.h"

void sp_json_write_string(sp_buf_t *out, sp_str_t s)
{
    static const char short_escape[32] =
        {['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'};
    size_t plain = 0; // first byte not written yet
    sp_buf_addc(out, '"');
    for (size_t i = 0; i < s.len; i++) {
        uint8_t c = (uint8_t)s.ptr[i];
        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7f) {
            continue;
        }
        sp_buf_add(out, s.ptr + plain, i - plain);
        plain = i + 1;
        if (c == '"' || c == '\\') {
            sp_buf_addc(out, '\\');
            sp_buf_addc(out, (char)c);
        } else if (c < 0x20 && short_escape[c] != 0) {
            sp_buf_addc(out, '\\');
            sp_buf_addc(out, short_escape[c]);
        } else {
            sp_buf_printf(out, "\\u%04x", c);
        }
    }
    sp_buf_add(out, s.len > 0 ? s.ptr + plain : "", s.len - plain);
    sp_buf_addc(out, '"');
}

void sp_json_write_float(sp_buf_t *out, double v)
{
    // JSON has no such numbers; PostgreSQL's to_json writes them as these strings, too.
    if (!isfinite(v)) {
        sp_buf_addz(out, isnan(v) ? "\"NaN\"" : v > 0 ? "\"Infinity\"" : "\"-Infinity\"");
        return;
    }
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, v);
        if (strtod(text, NULL) == v) {
            break;
        }
    }
    sp_buf_addz(out, text);
    if (strpbrk(text, ".e") == NULL) {
        sp_buf_addz(out, ".0"); // it stays a float for whoever reads it
    }
}

void sp_json_write_base64(sp_buf_t *out, sp_str_t s)
{
    sp_buf_addc(out, '"');
    sp_base64_encode(s.ptr, s.len, out);
    sp_buf_addc(out, '"');
}

static int write_text(sp_str_t s, sp_buf_t *out, sp_error_t *err)
{
    if (s.len > 0 && !sp_str_valid_utf8(s)) {
        return sp_error_set(err, SP_E_MALFORMED, "a string is not valid UTF-8, or holds a NUL");
    }
    sp_json_write_string(out, s);
    return 0;
}

static int write_list(const sp_value_t *value, int depth, sp_buf_t *out, sp_error_t *err)
{
    int rc = 0;
    sp_buf_addc(out, '[');
    for (size_t i = 0; i < value->u.list.n && rc == 0; i++) {
        sp_buf_addz(out, i > 0 ? "," : "");
        rc = sp_json_write_value(&value->u.list.items[i], depth + 1, out, err);
    }
    sp_buf_addc(out, ']');
    return rc;
}

static int write_map(const sp_value_t *value, int depth, sp_buf_t *out, sp_error_t *err)
{
    int rc = 0;
    sp_buf_addc(out, '{');
    for (size_t i = 0; i < value->u.map.n && rc == 0; i++) {
        sp_buf_addz(out, i > 0 ? "," : "");
        rc = write_text(value->u.map.pairs[i].key, out, err);
        sp_buf_addc(out, ':');
        if (rc == 0) {
            rc = sp_json_write_value(&value->u.map.pairs[i].value, depth + 1, out, err);
        }
    }
    sp_buf_addc(out, '}');
    return rc;
}

int sp_json_write_value(const sp_value_t *value, int depth, sp_buf_t *out, sp_error_t *err)
{
    if ((value->kind == SP_VALUE_LIST || value->kind == SP_VALUE_MAP) &&
        depth > SP_WIRE_MAX_DEPTH) {
        return sp_error_set(err, SP_E_MALFORMED, "nested deeper than %d", SP_WIRE_MAX_DEPTH);
    }
    switch (value->kind) {
    case SP_VALUE_ABSENT:
    case SP_VALUE_NULL:
        sp_buf_addz(out, "null");
        return 0;
    case SP_VALUE_BOOL:
        sp_buf_addz(out, value->u.b ? "true" : "false");
        return 0;
    case SP_VALUE_INT:
        sp_buf_printf(out, "%" PRId64, value->u.i);
        return 0;
    case SP_VALUE_FLOAT:
        sp_json_write_float(out, value->u.f);
        return 0;
    case SP_VALUE_STRING:
        return write_text(value->u.s, out, err);
    case SP_VALUE_BYTES:
        sp_json_write_base64(out, value->u.s);
        return 0;
    case SP_VALUE_LIST:
        return write_list(value, depth, out, err);
    case SP_VALUE_MAP:
        return write_map(value, depth, out, err);
    }
    return SP_E_INTERNAL;
}

int sp_wire_value_to_json(const sp_value_t *value, sp_buf_t *out, sp_error_t *err)
{
    size_t before = out->len;
    int rc = sp_json_write_value(value, 1, out, err);
    return sp_pack_end(out, before, rc, err);
}
