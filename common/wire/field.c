#include "common/wire/field.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Longest path in an error; what is longer is cut.
#define PATH_MAX_BYTES 200

static void write_path(const sp_path_t *path, sp_buf_t *out)
{
    if (path->up != NULL) {
        write_path(path->up, out);
        if (out->len > 0) {
            sp_buf_addc(out, '.');
        }
    }
    // A key of a free map is the sender's text: what is not printable ASCII is not echoed.
    for (const char *c = path->name; *c != '\0'; c++) {
        sp_buf_addc(out, *c >= 0x20 && *c < 0x7f ? *c : '?');
    }
    if (path->in_list) {
        sp_buf_printf(out, "[%zu]", path->index);
    }
}

int sp_path_fail(const sp_path_t *path, int code, sp_error_t *err, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (path == NULL) {
        return sp_error_set(err, code, "%s", text);
    }
    sp_buf_t where = SP_BUF_INIT;
    write_path(path, &where);
    sp_error_set(err, code, "%.*s%s: %s", PATH_MAX_BYTES, sp_buf_cstr(&where),
                 where.len > PATH_MAX_BYTES ? "..." : "", text);
    sp_buf_free(&where);
    return code;
}

int sp_field_check_int(const sp_field_t *f, const sp_path_t *path, int64_t v, sp_error_t *err)
{
    if (v < f->min) {
        return sp_path_fail(path, SP_E_INVALID_ARGUMENT, err, "%" PRId64 " is below %" PRId64, v,
                            f->min);
    }
    if (v > f->max) {
        return sp_path_fail(path, SP_E_INVALID_ARGUMENT, err, "%" PRId64 " is above %" PRId64, v,
                            f->max);
    }
    return 0;
}

int sp_field_check_float(const sp_field_t *f, const sp_path_t *path, double v, sp_error_t *err)
{
    if (!isfinite(v)) {
        return sp_path_fail(path, SP_E_INVALID_ARGUMENT, err, "not a finite number");
    }
    if ((f->min != INT64_MIN && v < (double)f->min) ||
        (f->max != INT64_MAX && v > (double)f->max)) {
        return sp_path_fail(path, SP_E_INVALID_ARGUMENT, err, "%g is outside %" PRId64 "..%" PRId64,
                            v, f->min, f->max);
    }
    return 0;
}

int sp_field_check_bytes(const sp_field_t *f, const sp_path_t *path, sp_str_t v, sp_error_t *err)
{
    if (v.len > (size_t)f->max) {
        return sp_path_fail(path, SP_E_TOO_LARGE, err, "%zu bytes, at most %" PRId64 " are allowed",
                            v.len, f->max);
    }
    if (v.len < (size_t)f->min) {
        return sp_path_fail(path, SP_E_INVALID_ARGUMENT, err,
                            "%zu bytes, at least %" PRId64 " are needed", v.len, f->min);
    }
    if (f->type == SP_T_STRING && v.len > 0 && !sp_str_valid_utf8(v)) {
        return sp_path_fail(path, SP_E_MALFORMED, err, "not valid UTF-8, or holds a NUL");
    }
    return 0;
}

int sp_field_check_enum(const sp_field_t *f, const sp_path_t *path, int64_t v, sp_error_t *err)
{
    for (size_t i = 0; i < f->enumeration->n; i++) {
        if (f->enumeration->rows[i].value == v) {
            return 0;
        }
    }
    return sp_path_fail(path, SP_E_INVALID_ARGUMENT, err, "%" PRId64 " is no %s", v,
                        f->enumeration->name);
}

int sp_field_check_items(const sp_field_t *f, const sp_path_t *path, size_t n, sp_error_t *err)
{
    if (n > f->max_items) {
        return sp_path_fail(path, SP_E_TOO_LARGE, err, "%zu items, at most %zu are allowed", n,
                            f->max_items);
    }
    return 0;
}

int sp_field_check_depth(const sp_path_t *path, int depth, sp_error_t *err)
{
    if (depth > SP_WIRE_MAX_DEPTH) {
        return sp_path_fail(path, SP_E_MALFORMED, err, "nested deeper than %d", SP_WIRE_MAX_DEPTH);
    }
    return 0;
}

bool sp_field_null_is_absent(const sp_field_t *f)
{
    return f->type != SP_T_VALUE || f->list;
}

size_t sp_field_element_size(const sp_field_t *f)
{
    switch (f->type) {
    case SP_T_BOOL:
        return sizeof(bool);
    case SP_T_INT:
    case SP_T_ENUM:
        return sizeof(int64_t);
    case SP_T_FLOAT:
        return sizeof(double);
    case SP_T_STRING:
    case SP_T_BYTES:
        return sizeof(sp_str_t);
    case SP_T_VALUE:
        return sizeof(sp_value_t);
    case SP_T_PART:
        return f->part->size;
    }
    return 0;
}

// Lists and parts are members of generated types; pointers to object types have one representation here, so memcpy moves them
// without breaking the aliasing rules.
typedef struct any_list {
    void *items; // elements
    size_t n;    // count
} any_list_t;

void *sp_field_make_list(const sp_field_t *f, const sp_path_t *path, void *body, size_t n,
                         sp_arena_t *arena, sp_error_t *err)
{
    any_list_t list = {.items = sp_arena_alloc(arena, n, sp_field_element_size(f)), .n = n};
    if (list.items == NULL) {
        sp_path_fail(path, SP_E_TOO_LARGE, err, "%zu items take more memory than a message may", n);
        return NULL;
    }
    memcpy((char *)body + f->offset, &list, sizeof(list));
    return list.items;
}

const void *sp_field_list(const sp_field_t *f, const void *body, size_t *ret_n)
{
    any_list_t list;
    memcpy(&list, (const char *)body + f->offset, sizeof(list));
    *ret_n = list.n;
    return list.items;
}

void *sp_field_make_part(const sp_field_t *f, const sp_path_t *path, void *body, sp_arena_t *arena,
                         sp_error_t *err)
{
    void *part = sp_arena_alloc(arena, 1, f->part->size);
    if (part == NULL) {
        sp_path_fail(path, SP_E_TOO_LARGE, err, "it takes more memory than a message may");
        return NULL;
    }
    memcpy((char *)body + f->offset, &part, sizeof(part));
    return part;
}

const void *sp_field_part(const sp_field_t *f, const void *body)
{
    void *part;
    memcpy(&part, (const char *)body + f->offset, sizeof(part));
    return part;
}

void sp_field_set_has(const sp_field_t *f, void *body)
{
    if (f->has_offset != 0) {
        *(bool *)((char *)body + f->has_offset) = true;
    }
}

bool sp_field_present(const sp_field_t *f, const void *body)
{
    const void *at = (const char *)body + f->offset;
    if (f->list) {
        size_t n;
        sp_field_list(f, body, &n);
        return n > 0 || f->required;
    }
    if (f->has_offset != 0 &&
        (f->required || *(const bool *)((const char *)body + f->has_offset))) {
        return true;
    }
    switch (f->type) {
    case SP_T_BOOL:
        return *(const bool *)at;
    case SP_T_INT:
    case SP_T_ENUM:
        return *(const int64_t *)at != 0;
    case SP_T_FLOAT:
        return *(const double *)at != 0;
    case SP_T_STRING:
    case SP_T_BYTES:
        return ((const sp_str_t *)at)->ptr != NULL;
    case SP_T_VALUE:
        return ((const sp_value_t *)at)->kind != SP_VALUE_ABSENT;
    case SP_T_PART:
        return sp_field_part(f, body) != NULL;
    }
    return false;
}

// Defaults come from our own schemas, checked by tools/schemagen.py: text that needs no unescaping, numbers that fit.
static void set_default(const sp_field_t *f, void *body)
{
    void *at = (char *)body + f->offset;
    sp_str_t text = {f->def, strlen(f->def)};
    if (text.len >= 2 && text.ptr[0] == '"') {
        text = (sp_str_t){text.ptr + 1, text.len - 2};
    }
    switch (f->type) {
    case SP_T_BOOL:
        *(bool *)at = strcmp(f->def, "true") == 0;
        break;
    case SP_T_INT:
        *(int64_t *)at = strtoll(f->def, NULL, 10);
        break;
    case SP_T_ENUM:
        sp_enum_value(f->enumeration, text, (int64_t *)at);
        break;
    case SP_T_FLOAT:
        *(double *)at = strtod(f->def, NULL);
        break;
    case SP_T_STRING:
        *(sp_str_t *)at = text;
        break;
    case SP_T_BYTES:
    case SP_T_VALUE:
    case SP_T_PART:
        break; // have no defaults
    }
    sp_field_set_has(f, body);
}

int sp_field_complete(const sp_schema_t *schema, const sp_path_t *up, uint64_t seen, void *body,
                      sp_error_t *err)
{
    for (size_t i = 0; i < schema->n; i++) {
        const sp_field_t *f = &schema->fields[i];
        if ((seen >> i & 1) != 0) {
            continue;
        }
        if (f->required) {
            sp_path_t path = {.up = up, .name = f->name};
            return sp_path_fail(&path, SP_E_MISSING_FIELD, err, "required by %s", schema->name);
        }
        if (f->def != NULL) {
            set_default(f, body);
        }
    }
    return 0;
}
