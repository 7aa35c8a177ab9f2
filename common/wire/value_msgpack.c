#include "common/wire/value_msgpack.h"

#include "common/wire/pack.h"
#include "common/wire/scan.h"
#include "common/wire/unique.h"
#include "common/wire/wire.h"

static int too_large(sp_error_t *err)
{
    return sp_error_set(err, SP_E_TOO_LARGE, "a value takes more memory than a message may");
}

static int read_text(sp_mp_token_t *t, sp_str_t *ret_text, sp_error_t *err)
{
    if (t->kind != SP_MP_STR) {
        return sp_error_set(err, SP_E_MALFORMED, "a key of a map is %s, not a string",
                            sp_mp_kind_name(t->kind));
    }
    if (t->s.len > 0 && !sp_str_valid_utf8(t->s)) {
        return sp_error_set(err, SP_E_MALFORMED, "a string is not valid UTF-8, or holds a NUL");
    }
    *ret_text = t->s;
    return 0;
}

static int read_list(sp_mp_reader_t *reader, sp_arena_t *arena, int depth, size_t n, sp_value_t *v,
                     sp_error_t *err)
{
    v->kind = SP_VALUE_LIST;
    v->u.list.items = n > 0 ? sp_arena_alloc(arena, n, sizeof(sp_value_t)) : NULL;
    if (n > 0 && v->u.list.items == NULL) {
        return too_large(err);
    }
    v->u.list.n = n;
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = sp_value_msgpack_read(reader, arena, depth + 1, &v->u.list.items[i], err);
    }
    return rc;
}

static int read_map(sp_mp_reader_t *reader, sp_arena_t *arena, int depth, size_t n, sp_value_t *v,
                    sp_error_t *err)
{
    v->kind = SP_VALUE_MAP;
    v->u.map.pairs = n > 0 ? sp_arena_alloc(arena, n, sizeof(sp_value_pair_t)) : NULL;
    if (n > 0 && v->u.map.pairs == NULL) {
        return too_large(err);
    }
    v->u.map.n = n;
    for (size_t i = 0; i < n; i++) {
        sp_mp_token_t key;
        int rc = sp_mp_next(reader, &key, err);
        if (rc != 0 || (rc = read_text(&key, &v->u.map.pairs[i].key, err)) != 0 ||
            (rc = sp_value_msgpack_read(reader, arena, depth + 1, &v->u.map.pairs[i].value, err)) !=
                0) {
            return rc;
        }
    }
    return sp_unique_keys(v->u.map.pairs, n, arena, err);
}

int sp_value_msgpack_read(sp_mp_reader_t *reader, sp_arena_t *arena, int depth,
                          sp_value_t *ret_value, sp_error_t *err)
{
    sp_mp_token_t t;
    int rc = sp_mp_next(reader, &t, err);
    if (rc != 0) {
        return rc;
    }
    if ((t.kind == SP_MP_ARRAY || t.kind == SP_MP_MAP) && depth > SP_WIRE_MAX_DEPTH) {
        return sp_error_set(err, SP_E_MALFORMED, "nested deeper than %d", SP_WIRE_MAX_DEPTH);
    }
    sp_value_t v = {0};
    switch (t.kind) {
    case SP_MP_NIL:
        v.kind = SP_VALUE_NULL;
        break;
    case SP_MP_BOOL:
        v = (sp_value_t){.kind = SP_VALUE_BOOL, .u.b = t.b};
        break;
    case SP_MP_INT:
        v = sp_value_int(t.i);
        break;
    case SP_MP_FLOAT:
        v = (sp_value_t){.kind = SP_VALUE_FLOAT, .u.f = t.f};
        break;
    case SP_MP_BIN:
        v = (sp_value_t){.kind = SP_VALUE_BYTES, .u.s = t.s};
        break;
    case SP_MP_STR:
        v.kind = SP_VALUE_STRING;
        rc = read_text(&t, &v.u.s, err);
        break;
    case SP_MP_ARRAY:
        rc = read_list(reader, arena, depth, t.n, &v, err);
        break;
    case SP_MP_MAP:
        rc = read_map(reader, arena, depth, t.n, &v, err);
        break;
    case SP_MP_BIG:
        rc = sp_error_set(err, SP_E_MALFORMED, "an integer over 2^63-1");
        break;
    }
    *ret_value = v;
    return rc;
}

static int write_text(sp_str_t s, sp_buf_t *out, sp_error_t *err)
{
    if (s.len > 0 && !sp_str_valid_utf8(s)) {
        return sp_error_set(err, SP_E_MALFORMED, "a string is not valid UTF-8, or holds a NUL");
    }
    sp_pack_str(out, s);
    return 0;
}

int sp_value_msgpack_write(const sp_value_t *value, int depth, sp_buf_t *out, sp_error_t *err)
{
    int rc = 0;
    if ((value->kind == SP_VALUE_LIST || value->kind == SP_VALUE_MAP) &&
        depth > SP_WIRE_MAX_DEPTH) {
        return sp_error_set(err, SP_E_MALFORMED, "nested deeper than %d", SP_WIRE_MAX_DEPTH);
    }
    switch (value->kind) {
    case SP_VALUE_ABSENT:
    case SP_VALUE_NULL:
        sp_pack_nil(out);
        break;
    case SP_VALUE_BOOL:
        sp_pack_bool(out, value->u.b);
        break;
    case SP_VALUE_INT:
        sp_pack_int(out, value->u.i);
        break;
    case SP_VALUE_FLOAT:
        sp_pack_float(out, value->u.f);
        break;
    case SP_VALUE_STRING:
        rc = write_text(value->u.s, out, err);
        break;
    case SP_VALUE_BYTES:
        sp_pack_bin(out, value->u.s);
        break;
    case SP_VALUE_LIST:
        sp_pack_array(out, value->u.list.n);
        for (size_t i = 0; i < value->u.list.n && rc == 0; i++) {
            rc = sp_value_msgpack_write(&value->u.list.items[i], depth + 1, out, err);
        }
        break;
    case SP_VALUE_MAP:
        sp_pack_map(out, value->u.map.n);
        for (size_t i = 0; i < value->u.map.n && rc == 0; i++) {
            rc = write_text(value->u.map.pairs[i].key, out, err);
            if (rc == 0) {
                rc = sp_value_msgpack_write(&value->u.map.pairs[i].value, depth + 1, out, err);
            }
        }
        break;
    }
    return rc;
}

int sp_wire_value_from_msgpack(const void *data, size_t len, sp_arena_t *arena,
                               sp_value_t *ret_value, sp_error_t *err)
{
    int rc = sp_wire_scan(data, len, SP_WIRE_MAX_DEPTH, err);
    if (rc != 0) {
        return rc;
    }
    sp_mp_reader_t reader;
    sp_mp_open(&reader, data, len);
    sp_value_t value;
    rc = sp_value_msgpack_read(&reader, arena, 1, &value, err);
    if (rc == 0) {
        *ret_value = value;
    }
    return rc;
}

int sp_wire_value_to_msgpack(const sp_value_t *value, sp_buf_t *out, sp_error_t *err)
{
    size_t before = out->len;
    int rc = sp_value_msgpack_write(value, 1, out, err);
    return sp_pack_end(out, before, rc, err);
}
