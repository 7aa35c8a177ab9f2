// A map by field name (out of JSON, or an element of list:value) into a generated struct.
#include <string.h>

#include "common/wire/base64.h"
#include "common/wire/field.h"

typedef struct decoder {
    sp_arena_t *arena; // for lists, parts and decoded base64
    sp_error_t *err;   // may be NULL
    bool skip_unknown; // fields of a newer release are passed over
} decoder_t;

static int decode_message(const decoder_t *d, const sp_schema_t *schema, const sp_path_t *up,
                          int depth, const sp_value_t *map, void *body);

static int wrong_type(const decoder_t *d, const sp_path_t *path, const char *wanted,
                      sp_value_kind_t got)
{
    static const char *const names[] = {"nothing",  "null",  "a boolean", "an integer", "a float",
                                        "a string", "bytes", "a list",    "a map"};
    return sp_path_fail(path, SP_E_INVALID_ARGUMENT, d->err, "%s is needed, not %s", wanted,
                        names[got]);
}

static int decode_int(const decoder_t *d, const sp_field_t *f, const sp_path_t *path,
                      const sp_value_t *v, int64_t *at)
{
    if (v->kind == SP_VALUE_INT) {
        *at = v->u.i;
    } else if (!f->json_string || v->kind != SP_VALUE_STRING) {
        return wrong_type(d, path, f->json_string ? "an integer, also as a string," : "an integer",
                          v->kind);
    } else if (sp_str_to_int64(v->u.s, at) != 0) {
        return sp_path_fail(path, SP_E_INVALID_ARGUMENT, d->err,
                            "the string is no integer of 64 bits");
    }
    return sp_field_check_int(f, path, *at, d->err);
}

static int decode_enum(const decoder_t *d, const sp_field_t *f, const sp_path_t *path,
                       const sp_value_t *v, int64_t *at)
{
    if (v->kind != SP_VALUE_STRING) {
        return wrong_type(d, path, "a string", v->kind);
    }
    if (sp_enum_value(f->enumeration, v->u.s, at) == 0) {
        return 0;
    }
    sp_buf_t names = SP_BUF_INIT;
    for (size_t i = 0; i < f->enumeration->n; i++) {
        sp_buf_printf(&names, "%s%s", i > 0 ? ", " : "", f->enumeration->rows[i].name);
    }
    sp_path_fail(path, SP_E_INVALID_ARGUMENT, d->err, "it is one of %s", sp_buf_cstr(&names));
    sp_buf_free(&names);
    return SP_E_INVALID_ARGUMENT;
}

static int decode_bytes(const decoder_t *d, const sp_field_t *f, const sp_path_t *path,
                        const sp_value_t *v, sp_str_t *at)
{
    if (v->kind != SP_VALUE_STRING && (f->type == SP_T_STRING || v->kind != SP_VALUE_BYTES)) {
        return wrong_type(d, path, "a string", v->kind);
    }
    *at = v->u.s;
    if (f->type == SP_T_BYTES && v->kind == SP_VALUE_STRING) {
        int rc = sp_base64_decode(v->u.s, d->arena, at, d->err);
        if (rc != 0) {
            return sp_path_fail(path, rc, d->err, "%s", d->err != NULL ? d->err->text : "");
        }
    }
    return sp_field_check_bytes(f, path, *at, d->err);
}

// One element into `at`, alone or in a list.
static int decode_element(const decoder_t *d, const sp_field_t *f, const sp_path_t *path, int depth,
                          const sp_value_t *v, void *at)
{
    switch (f->type) {
    case SP_T_BOOL:
        if (v->kind != SP_VALUE_BOOL) {
            return wrong_type(d, path, "a boolean", v->kind);
        }
        *(bool *)at = v->u.b;
        return 0;
    case SP_T_INT:
        return decode_int(d, f, path, v, at);
    case SP_T_ENUM:
        return decode_enum(d, f, path, v, at);
    case SP_T_FLOAT:
        if (v->kind != SP_VALUE_FLOAT && v->kind != SP_VALUE_INT) {
            return wrong_type(d, path, "a number", v->kind);
        }
        *(double *)at = v->kind == SP_VALUE_FLOAT ? v->u.f : (double)v->u.i;
        return sp_field_check_float(f, path, *(double *)at, d->err);
    case SP_T_STRING:
    case SP_T_BYTES:
        return decode_bytes(d, f, path, v, at);
    case SP_T_VALUE:
        *(sp_value_t *)at = *v;
        return 0;
    case SP_T_PART:
        return decode_message(d, f->part, path, depth, v, at);
    }
    return SP_E_INTERNAL;
}

static int decode_field(const decoder_t *d, const sp_field_t *f, const sp_path_t *path, int depth,
                        const sp_value_t *v, void *body)
{
    if (f->list) {
        if (v->kind != SP_VALUE_LIST) {
            return wrong_type(d, path, "a list", v->kind);
        }
        int rc = sp_field_check_items(f, path, v->u.list.n, d->err);
        if (rc != 0 || v->u.list.n == 0) {
            return rc;
        }
        char *items = sp_field_make_list(f, path, body, v->u.list.n, d->arena, d->err);
        if (items == NULL) {
            return SP_E_TOO_LARGE;
        }
        size_t size = sp_field_element_size(f);
        for (size_t i = 0; i < v->u.list.n && rc == 0; i++) {
            sp_path_t item = {.up = path->up, .name = path->name, .index = i, .in_list = true};
            rc = decode_element(d, f, &item, depth + 1, &v->u.list.items[i], items + i * size);
        }
        return rc;
    }
    if (f->type == SP_T_PART) {
        void *part = sp_field_make_part(f, path, body, d->arena, d->err);
        return part != NULL ? decode_message(d, f->part, path, depth, v, part) : SP_E_TOO_LARGE;
    }
    sp_field_set_has(f, body);
    return decode_element(d, f, path, depth, v, (char *)body + f->offset);
}

static int find_field(const sp_schema_t *schema, sp_str_t name)
{
    for (size_t i = 0; i < schema->n; i++) {
        if (sp_str_eqz(name, schema->fields[i].name)) {
            return (int)i;
        }
    }
    return -1;
}

static int unknown_field(const decoder_t *d, const sp_schema_t *schema, const sp_path_t *up,
                         sp_str_t name)
{
    char shown[65] = "";
    if (name.len < sizeof(shown)) {
        memcpy(shown, name.ptr, name.len);
    }
    sp_path_t path = {.up = up, .name = name.len > 0 && name.len < sizeof(shown) ? shown : "?"};
    return sp_path_fail(&path, SP_E_UNKNOWN_FIELD, d->err, "%s has no such field", schema->name);
}

static int decode_message(const decoder_t *d, const sp_schema_t *schema, const sp_path_t *up,
                          int depth, const sp_value_t *map, void *body)
{
    if (map->kind != SP_VALUE_MAP) {
        sp_path_t top = {.name = schema->name};
        return wrong_type(d, up != NULL ? up : &top, "a map of fields", map->kind);
    }
    int rc = sp_field_check_depth(up, depth, d->err);
    if (rc != 0) {
        return rc;
    }
    memset(body, 0, schema->size);
    uint64_t seen = 0;
    for (size_t n = 0; n < map->u.map.n; n++) {
        const sp_value_pair_t *pair = &map->u.map.pairs[n];
        int found = find_field(schema, pair->key);
        if (found < 0 && d->skip_unknown) {
            continue;
        }
        if (found < 0) {
            return unknown_field(d, schema, up, pair->key);
        }
        const sp_field_t *f = &schema->fields[found];
        sp_path_t path = {.up = up, .name = f->name};
        if ((seen >> found & 1) != 0) {
            return sp_path_fail(&path, SP_E_MALFORMED, d->err, "given twice");
        }
        if (pair->value.kind == SP_VALUE_ABSENT ||
            (pair->value.kind == SP_VALUE_NULL && sp_field_null_is_absent(f))) {
            continue;
        }
        seen |= UINT64_C(1) << found;
        rc = decode_field(d, f, &path, depth + 1, &pair->value, body);
        if (rc != 0) {
            return rc;
        }
    }
    return sp_field_complete(schema, up, seen, body, d->err);
}

int sp_wire_decode_value(const sp_schema_t *schema, const sp_value_t *map, sp_arena_t *arena,
                         void *ret_body, sp_error_t *err)
{
    // A part on its own is a record in etcd, which a newer release may have written; people's typing errors are in messages.
    decoder_t d = {.arena = arena, .err = err, .skip_unknown = schema->id == 0};
    return decode_message(&d, schema, NULL, 1, map, ret_body);
}
