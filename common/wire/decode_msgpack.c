// msgpack into a generated struct: a walk over scanned bytes that allocates only what the struct needs.
#include <string.h>

#include "common/wire/field.h"
#include "common/wire/reader.h"
#include "common/wire/scan.h"
#include "common/wire/value_msgpack.h"

typedef struct decoder {
    sp_mp_reader_t reader; // where we are
    sp_arena_t *arena;     // for lists and parts
    sp_error_t *err;       // may be NULL
} decoder_t;

static int decode_message(decoder_t *d, const sp_schema_t *schema, const sp_path_t *up, int depth,
                          void *body);

static int wrong_type(decoder_t *d, const sp_path_t *path, const char *wanted, sp_mp_kind_t got)
{
    return sp_path_fail(path, SP_E_INVALID_ARGUMENT, d->err, "%s is needed, not %s", wanted,
                        sp_mp_kind_name(got));
}

// One element into `at`, alone or in a list.
static int decode_element(decoder_t *d, const sp_field_t *f, const sp_path_t *path, int depth,
                          void *at)
{
    if (f->type == SP_T_PART) {
        return decode_message(d, f->part, path, depth, at);
    }
    if (f->type == SP_T_VALUE) {
        int rc = sp_value_msgpack_read(&d->reader, d->arena, depth, at, d->err);
        return rc != 0 ? sp_path_fail(path, rc, d->err, "%s", d->err != NULL ? d->err->text : "")
                       : 0;
    }
    sp_mp_token_t t;
    int rc = sp_mp_next(&d->reader, &t, d->err);
    if (rc != 0) {
        return rc;
    }
    switch (f->type) {
    case SP_T_BOOL:
        if (t.kind != SP_MP_BOOL) {
            return wrong_type(d, path, "a boolean", t.kind);
        }
        *(bool *)at = t.b;
        return 0;
    case SP_T_INT:
    case SP_T_ENUM:
        if (t.kind != SP_MP_INT) {
            return wrong_type(d, path, "an integer", t.kind);
        }
        *(int64_t *)at = t.i;
        return f->type == SP_T_INT ? sp_field_check_int(f, path, t.i, d->err)
                                   : sp_field_check_enum(f, path, t.i, d->err);
    case SP_T_FLOAT:
        if (t.kind != SP_MP_FLOAT && t.kind != SP_MP_INT) {
            return wrong_type(d, path, "a number", t.kind);
        }
        *(double *)at = t.kind == SP_MP_FLOAT ? t.f : (double)t.i;
        return sp_field_check_float(f, path, *(double *)at, d->err);
    default: // SP_T_STRING, SP_T_BYTES
        if (t.kind != (f->type == SP_T_STRING ? SP_MP_STR : SP_MP_BIN)) {
            return wrong_type(d, path, f->type == SP_T_STRING ? "a string" : "bytes", t.kind);
        }
        *(sp_str_t *)at = t.s;
        return sp_field_check_bytes(f, path, t.s, d->err);
    }
}

static int decode_list(decoder_t *d, const sp_field_t *f, const sp_path_t *path, int depth,
                       void *body)
{
    sp_mp_token_t t;
    int rc = sp_mp_next(&d->reader, &t, d->err);
    if (rc != 0) {
        return rc;
    }
    if (t.kind != SP_MP_ARRAY) {
        return wrong_type(d, path, "a list", t.kind);
    }
    rc = sp_field_check_items(f, path, t.n, d->err);
    if (rc != 0 || t.n == 0) {
        return rc;
    }
    char *items = sp_field_make_list(f, path, body, t.n, d->arena, d->err);
    if (items == NULL) {
        return SP_E_TOO_LARGE;
    }
    size_t size = sp_field_element_size(f);
    for (size_t i = 0; i < t.n && rc == 0; i++) {
        sp_path_t item = {.up = path->up, .name = path->name, .index = i, .in_list = true};
        rc = decode_element(d, f, &item, depth + 1, items + i * size);
    }
    return rc;
}

static int decode_field(decoder_t *d, const sp_field_t *f, const sp_path_t *path, int depth,
                        void *body)
{
    if (f->list) {
        return decode_list(d, f, path, depth, body);
    }
    if (f->type == SP_T_PART) {
        void *part = sp_field_make_part(f, path, body, d->arena, d->err);
        return part != NULL ? decode_message(d, f->part, path, depth, part) : SP_E_TOO_LARGE;
    }
    sp_field_set_has(f, body);
    return decode_element(d, f, path, depth, (char *)body + f->offset);
}

// Place in schema->fields of an id, or -1. Senders write ascending ids, so the search goes on behind the last hit.
static int find_field(const sp_schema_t *schema, int64_t id, size_t from)
{
    for (size_t k = 0; k < schema->n; k++) {
        size_t i = (from + k) % schema->n;
        if (schema->fields[i].id == id) {
            return (int)i;
        }
    }
    return -1;
}

static int decode_message(decoder_t *d, const sp_schema_t *schema, const sp_path_t *up, int depth,
                          void *body)
{
    int rc = sp_field_check_depth(up, depth, d->err);
    sp_mp_token_t map, key;
    if (rc != 0 || (rc = sp_mp_next(&d->reader, &map, d->err)) != 0) {
        return rc;
    }
    if (map.kind != SP_MP_MAP) {
        return sp_path_fail(up, SP_E_INVALID_ARGUMENT, d->err, "%s is a map of fields, not %s",
                            schema->name, sp_mp_kind_name(map.kind));
    }
    memset(body, 0, schema->size);
    uint64_t given = 0,
             seen = 0; // bit i: fields[i] was named; and was not nil where that is absent
    size_t next = 0;
    for (size_t n = 0; n < map.n; n++) {
        rc = sp_mp_next(&d->reader, &key, d->err);
        if (rc != 0) {
            return rc;
        }
        if (key.kind != SP_MP_INT) {
            return sp_path_fail(up, SP_E_MALFORMED, d->err,
                                "a field of %s is named by %s, not by its number", schema->name,
                                sp_mp_kind_name(key.kind));
        }
        int found = find_field(schema, key.i, next);
        if (found < 0) { // from a newer peer
            rc = sp_mp_skip(&d->reader, d->err);
        } else {
            const sp_field_t *f = &schema->fields[found];
            sp_path_t path = {.up = up, .name = f->name};
            uint64_t bit = UINT64_C(1) << found;
            bool nil = d->reader.at < d->reader.end && *d->reader.at == 0xc0;
            if ((given & bit) != 0) {
                return sp_path_fail(&path, SP_E_MALFORMED, d->err, "given twice");
            }
            given |= bit;
            next = (size_t)found + 1;
            if (nil && sp_field_null_is_absent(f)) {
                rc = sp_mp_skip(&d->reader, d->err);
            } else {
                seen |= bit;
                rc = decode_field(d, f, &path, depth + 1, body);
            }
        }
        if (rc != 0) {
            return rc;
        }
    }
    return sp_field_complete(schema, up, seen, body, d->err);
}

int sp_wire_decode_msgpack(const sp_schema_t *schema, const void *data, size_t len,
                           sp_arena_t *arena, void *ret_body, sp_error_t *err)
{
    if (len > schema->max_bytes) {
        return sp_error_set(err, SP_E_TOO_LARGE, "%s: %zu bytes, at most %zu are allowed",
                            schema->name, len, schema->max_bytes);
    }
    int rc = sp_wire_scan(data, len, SP_WIRE_MAX_DEPTH, err);
    if (rc != 0) {
        return rc;
    }
    decoder_t d = {.arena = arena, .err = err};
    sp_mp_open(&d.reader, data, len);
    return decode_message(&d, schema, NULL, 1, ret_body);
}
