// A generated struct as msgpack, under the bounds that its decoder will check.
#include "common/wire/field.h"
#include "common/wire/pack.h"
#include "common/wire/value_msgpack.h"

static int encode_message(const sp_schema_t *schema, const sp_path_t *up, int depth,
                          const void *body, sp_buf_t *out, sp_error_t *err);

static int encode_element(const sp_field_t *f, const sp_path_t *path, int depth, const void *at,
                          sp_buf_t *out, sp_error_t *err)
{
    int rc = 0;
    switch (f->type) {
    case SP_T_BOOL:
        sp_pack_bool(out, *(const bool *)at);
        return 0;
    case SP_T_INT:
        rc = sp_field_check_int(f, path, *(const int64_t *)at, err);
        sp_pack_int(out, *(const int64_t *)at);
        return rc;
    case SP_T_ENUM:
        rc = sp_field_check_enum(f, path, *(const int64_t *)at, err);
        sp_pack_int(out, *(const int64_t *)at);
        return rc;
    case SP_T_FLOAT:
        rc = sp_field_check_float(f, path, *(const double *)at, err);
        sp_pack_float(out, *(const double *)at);
        return rc;
    case SP_T_STRING:
        rc = sp_field_check_bytes(f, path, *(const sp_str_t *)at, err);
        sp_pack_str(out, *(const sp_str_t *)at);
        return rc;
    case SP_T_BYTES:
        rc = sp_field_check_bytes(f, path, *(const sp_str_t *)at, err);
        sp_pack_bin(out, *(const sp_str_t *)at);
        return rc;
    case SP_T_VALUE:
        rc = sp_value_msgpack_write(at, depth, out, err);
        return rc != 0 ? sp_path_fail(path, rc, err, "%s", err != NULL ? err->text : "") : 0;
    case SP_T_PART:
        return encode_message(f->part, path, depth, at, out, err);
    }
    return rc;
}

static int encode_field(const sp_field_t *f, const sp_path_t *path, int depth, const void *body,
                        sp_buf_t *out, sp_error_t *err)
{
    if (!f->list) {
        return encode_element(f, path, depth,
                              f->type == SP_T_PART ? sp_field_part(f, body)
                                                   : (const char *)body + f->offset,
                              out, err);
    }
    size_t n, size = sp_field_element_size(f);
    const char *items = sp_field_list(f, body, &n);
    int rc = sp_field_check_items(f, path, n, err);
    sp_pack_array(out, n);
    for (size_t i = 0; i < n && rc == 0; i++) {
        sp_path_t item = {.up = path->up, .name = path->name, .index = i, .in_list = true};
        rc = encode_element(f, &item, depth + 1, items + i * size, out, err);
    }
    return rc;
}

static int encode_message(const sp_schema_t *schema, const sp_path_t *up, int depth,
                          const void *body, sp_buf_t *out, sp_error_t *err)
{
    size_t present = 0;
    for (size_t i = 0; i < schema->n; i++) {
        const sp_field_t *f = &schema->fields[i];
        bool there = sp_field_present(f, body);
        present += there ? 1 : 0;
        if (!there && f->required) {
            sp_path_t path = {.up = up, .name = f->name};
            return sp_path_fail(&path, SP_E_MISSING_FIELD, err, "required by %s", schema->name);
        }
    }
    int rc = sp_field_check_depth(up, depth, err);
    sp_pack_map(out, present);
    for (size_t i = 0; i < schema->n && rc == 0; i++) {
        const sp_field_t *f = &schema->fields[i];
        if (sp_field_present(f, body)) {
            sp_path_t path = {.up = up, .name = f->name};
            sp_pack_int(out, f->id);
            rc = encode_field(f, &path, depth + 1, body, out, err);
        }
    }
    return rc;
}

int sp_wire_encode_msgpack(const sp_schema_t *schema, const void *body, sp_buf_t *out,
                           sp_error_t *err)
{
    size_t before = out->len;
    int rc = encode_message(schema, NULL, 1, body, out, err);
    if (rc == 0 && out->len - before > schema->max_bytes) {
        rc = sp_error_set(err, SP_E_TOO_LARGE, "%s: %zu bytes, at most %zu are allowed",
                          schema->name, out->len - before, schema->max_bytes);
    }
    return sp_pack_end(out, before, rc, err);
}
