// A generated struct as JSON text, under the same bounds as msgpack.
#include <inttypes.h>

#include "common/wire/field.h"
#include "common/wire/json_limit.h"
#include "common/wire/json_write.h"
#include "common/wire/pack.h"

typedef struct encoder {
    bool with_secrets; // for the catalog
    sp_buf_t *out;     // text so far
    sp_error_t *err;   // may be NULL
} encoder_t;

static int encode_message(const encoder_t *e, const sp_schema_t *schema, const sp_path_t *up,
                          int depth, const void *body);

static void write_int(const encoder_t *e, const sp_field_t *f, int64_t v)
{
    sp_buf_printf(e->out, f->json_string ? "\"%" PRId64 "\"" : "%" PRId64, v);
}

static int encode_element(const encoder_t *e, const sp_field_t *f, const sp_path_t *path, int depth,
                          const void *at)
{
    int rc = 0;
    switch (f->type) {
    case SP_T_BOOL:
        sp_buf_addz(e->out, *(const bool *)at ? "true" : "false");
        return 0;
    case SP_T_INT:
        rc = sp_field_check_int(f, path, *(const int64_t *)at, e->err);
        write_int(e, f, *(const int64_t *)at);
        return rc;
    case SP_T_ENUM:
        rc = sp_field_check_enum(f, path, *(const int64_t *)at, e->err);
        sp_buf_printf(e->out, "\"%s\"", sp_enum_name(f->enumeration, *(const int64_t *)at));
        return rc;
    case SP_T_FLOAT:
        rc = sp_field_check_float(f, path, *(const double *)at, e->err);
        sp_json_write_float(e->out, *(const double *)at);
        return rc;
    case SP_T_STRING:
        rc = sp_field_check_bytes(f, path, *(const sp_str_t *)at, e->err);
        sp_json_write_string(e->out, *(const sp_str_t *)at);
        return rc;
    case SP_T_BYTES:
        rc = sp_field_check_bytes(f, path, *(const sp_str_t *)at, e->err);
        sp_json_write_base64(e->out, *(const sp_str_t *)at);
        return rc;
    case SP_T_VALUE:
        rc = sp_json_write_value(at, depth, e->out, e->err);
        return rc != 0 ? sp_path_fail(path, rc, e->err, "%s", e->err != NULL ? e->err->text : "")
                       : 0;
    case SP_T_PART:
        return encode_message(e, f->part, path, depth, at);
    }
    return rc;
}

static int encode_field(const encoder_t *e, const sp_field_t *f, const sp_path_t *path, int depth,
                        const void *body)
{
    if (!f->list) {
        return encode_element(e, f, path, depth,
                              f->type == SP_T_PART ? sp_field_part(f, body)
                                                   : (const char *)body + f->offset);
    }
    size_t n, size = sp_field_element_size(f);
    const char *items = sp_field_list(f, body, &n);
    int rc = sp_field_check_items(f, path, n, e->err);
    sp_buf_addc(e->out, '[');
    for (size_t i = 0; i < n && rc == 0; i++) {
        sp_path_t item = {.up = path->up, .name = path->name, .index = i, .in_list = true};
        sp_buf_addz(e->out, i > 0 ? "," : "");
        rc = encode_element(e, f, &item, depth + 1, items + i * size);
    }
    sp_buf_addc(e->out, ']');
    return rc;
}

static int encode_message(const encoder_t *e, const sp_schema_t *schema, const sp_path_t *up,
                          int depth, const void *body)
{
    int rc = sp_field_check_depth(up, depth, e->err);
    bool first = true;
    sp_buf_addc(e->out, '{');
    for (size_t i = 0; i < schema->n && rc == 0; i++) {
        const sp_field_t *f = &schema->fields[i];
        sp_path_t path = {.up = up, .name = f->name};
        if (f->secret && !e->with_secrets) {
            continue;
        }
        // Answers show empty lists, so that a program can walk them; records in etcd leave them out.
        bool shown = f->list && !e->with_secrets;
        if (!shown && !sp_field_present(f, body)) {
            rc = f->required ? sp_path_fail(&path, SP_E_MISSING_FIELD, e->err, "required by %s",
                                            schema->name)
                             : 0;
            continue;
        }
        sp_buf_printf(e->out, "%s\"%s\":", first ? "" : ",", f->name);
        first = false;
        rc = encode_field(e, f, &path, depth + 1, body);
    }
    sp_buf_addc(e->out, '}');
    return rc;
}

int sp_wire_encode_json(const sp_schema_t *schema, const void *body, bool with_secrets,
                        sp_buf_t *out, sp_error_t *err)
{
    size_t before = out->len;
    encoder_t e = {.with_secrets = with_secrets, .out = out, .err = err};
    int rc = encode_message(&e, schema, NULL, 1, body);
    if (rc == 0 && out->len - before > sp_json_limit(schema)) {
        rc = sp_error_set(err, SP_E_TOO_LARGE, "%s: %zu bytes, at most %zu are allowed",
                          schema->name, out->len - before, sp_json_limit(schema));
    }
    return sp_pack_end(out, before, rc, err);
}
