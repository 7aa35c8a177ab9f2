#include "services/gateway/pure_routes.h"

#include <stdio.h>
#include <string.h>

#define MAX_SEGMENTS 16

void sp_route_split(sp_str_t uri, sp_str_t *ret_path, sp_str_t *ret_query)
{
    // Absolute form, as to a proxy: http://host/path
    if (sp_str_starts(uri, "http://")) {
        const char *slash = memchr(uri.ptr + 7, '/', uri.len - 7);
        size_t skip = slash != NULL ? (size_t)(slash - uri.ptr) : uri.len;
        uri = (sp_str_t){uri.ptr + skip, uri.len - skip};
    }
    const char *mark = uri.len > 0 ? memchr(uri.ptr, '?', uri.len) : NULL;
    size_t path = mark != NULL ? (size_t)(mark - uri.ptr) : uri.len;
    *ret_path = (sp_str_t){uri.ptr, path};
    *ret_query = mark != NULL ? (sp_str_t){mark + 1, uri.len - path - 1} : (sp_str_t){"", 0};
}

int sp_route_unescape(sp_str_t text, bool plus, sp_arena_t *arena, sp_str_t *ret_text,
                      sp_error_t *err)
{
    char *out = sp_arena_alloc(arena, text.len + 1, 1);
    if (out == NULL) {
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "memory ran out");
    }
    size_t n = 0;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (c == '%') {
            int high = text.len - i >= 3 ? sp_str_hex_digit(text.ptr[i + 1]) : -1;
            int low = text.len - i >= 3 ? sp_str_hex_digit(text.ptr[i + 2]) : -1;
            if (high < 0 || low < 0) {
                return sp_error_set(err, SP_E_MALFORMED,
                                    "a %% in the address is not followed by two hexadecimal "
                                    "digits");
            }
            c = (char)(high << 4 | low);
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        out[n++] = c;
    }
    sp_str_t decoded = {out, n};
    if (n > 0 && !sp_str_valid_utf8(decoded)) {
        return sp_error_set(err, SP_E_MALFORMED, "the address is not valid UTF-8, or holds a NUL");
    }
    *ret_text = decoded;
    return 0;
}

// "/a/b" -> {"a", "b"}; still encoded. -1 when it does not start with a slash or has too many segments.
static int split_segments(sp_str_t path, sp_str_t *segments)
{
    int n = 0;
    if (path.len == 0 || path.ptr[0] != '/') {
        return -1;
    }
    size_t start = 1;
    for (size_t i = 1; i <= path.len; i++) {
        if (i == path.len || path.ptr[i] == '/') {
            if (n == MAX_SEGMENTS) {
                return -1;
            }
            segments[n++] = (sp_str_t){path.ptr + start, i - start};
            start = i + 1;
        }
    }
    return n;
}

static bool is_field(sp_str_t segment)
{
    return segment.len > 2 && segment.ptr[0] == '{' && segment.ptr[segment.len - 1] == '}';
}

// Segments are compared decoded, so that /v1/%65xecute is /v1/execute, and an encoded slash stays inside its segment.
static bool matches(const sp_schema_t *schema, const sp_str_t *segments, int n)
{
    sp_str_t wanted[MAX_SEGMENTS] = {{0}};
    if (schema->path == NULL || split_segments(sp_str(schema->path), wanted) != n) {
        return false;
    }
    for (int i = 0; i < n; i++) {
        if (!is_field(wanted[i]) && !sp_str_eq(wanted[i], segments[i])) {
            return false;
        }
    }
    return true;
}

static void take_fields(const sp_schema_t *schema, const sp_str_t *segments, int n,
                        sp_route_fields_t *fields)
{
    sp_str_t wanted[MAX_SEGMENTS] = {{0}};
    split_segments(sp_str(schema->path), wanted);
    for (int i = 0; i < n; i++) {
        if (is_field(wanted[i]) && fields->n < SP_ROUTE_MAX_FIELDS) {
            fields->pairs[fields->n++] =
                (sp_value_pair_t){.key = {wanted[i].ptr + 1, wanted[i].len - 2},
                                  .value = {.kind = SP_VALUE_STRING, .u.s = segments[i]}};
        }
    }
}

int sp_route_find(const char *method, sp_str_t path, sp_arena_t *arena,
                  const sp_schema_t **ret_schema, sp_route_fields_t *fields, char *allow,
                  size_t allow_size, sp_error_t *err)
{
    sp_str_t segments[MAX_SEGMENTS];
    int n = split_segments(path, segments);
    for (int i = 0; i < n; i++) {
        int rc = sp_route_unescape(segments[i], false, arena, &segments[i], err);
        if (rc != 0) {
            return rc;
        }
    }
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
    size_t used = 0;
    allow[0] = '\0';
    for (size_t i = 0; n > 0 && i < sp_schemas_n; i++) {
        if (!matches(sp_schemas[i], segments, n)) {
            continue;
        }
        if (strcmp(sp_schemas[i]->method, wanted) == 0) {
            take_fields(sp_schemas[i], segments, n, fields);
            *ret_schema = sp_schemas[i];
            return 0;
        }
        int more = snprintf(allow + used, allow_size - used, "%s%s", used > 0 ? ", " : "",
                            sp_schemas[i]->method);
        used += more > 0 && (size_t)more < allow_size - used ? (size_t)more : 0;
    }
    if (allow[0] != '\0') {
        return sp_error_set(err, SP_E_METHOD_NOT_ALLOWED, "this path takes %s", allow);
    }
    return sp_error_set(err, SP_E_NOT_FOUND, "there is no such path; docs/openapi.json lists them");
}

static const sp_field_t *query_field(const sp_schema_t *schema, sp_str_t name)
{
    for (size_t i = 0; i < schema->n; i++) {
        if (schema->fields[i].in == 'q' && sp_str_eqz(name, schema->fields[i].name)) {
            return &schema->fields[i];
        }
    }
    return NULL;
}

static int add_query(const sp_schema_t *schema, sp_str_t item, sp_arena_t *arena,
                     sp_route_fields_t *fields, sp_error_t *err)
{
    const char *equals = memchr(item.ptr, '=', item.len);
    size_t split = equals != NULL ? (size_t)(equals - item.ptr) : item.len;
    sp_str_t name = {item.ptr, split}, text = {"", 0};
    int rc = sp_route_unescape(name, true, arena, &name, err);
    if (rc == 0 && equals != NULL) {
        rc = sp_route_unescape((sp_str_t){equals + 1, item.len - split - 1}, true, arena, &text,
                               err);
    }
    if (rc != 0) {
        return rc;
    }
    const sp_field_t *f = query_field(schema, name);
    if (f == NULL || fields->n == SP_ROUTE_MAX_FIELDS) {
        return sp_error_set(err, SP_E_UNKNOWN_FIELD, "%s takes no such field from the query",
                            schema->name);
    }
    for (size_t i = 0; i < fields->n; i++) {
        if (sp_str_eq(fields->pairs[i].key, name)) {
            return sp_error_set(err, SP_E_MALFORMED, "%s: given twice", f->name);
        }
    }
    // A flag without a value is on: ?dry_run
    if (f->type == SP_T_BOOL && text.len == 0) {
        text = SP_STR("true");
    }
    fields->pairs[fields->n++] =
        (sp_value_pair_t){.key = name, .value = {.kind = SP_VALUE_STRING, .u.s = text}};
    return 0;
}

int sp_route_query(const sp_schema_t *schema, sp_str_t query, sp_arena_t *arena,
                   sp_route_fields_t *fields, sp_error_t *err)
{
    size_t start = 0;
    for (size_t i = 0; i <= query.len; i++) {
        if (i < query.len && query.ptr[i] != '&') {
            continue;
        }
        if (i > start) {
            int rc =
                add_query(schema, (sp_str_t){query.ptr + start, i - start}, arena, fields, err);
            if (rc != 0) {
                return rc;
            }
        }
        start = i + 1;
    }
    return 0;
}

// Text of an address as the type that the field has.
static int typed(const sp_schema_t *schema, const sp_value_pair_t *pair, sp_value_t *v,
                 sp_error_t *err)
{
    const sp_field_t *f = NULL;
    for (size_t i = 0; i < schema->n && f == NULL; i++) {
        f = sp_str_eqz(pair->key, schema->fields[i].name) ? &schema->fields[i] : NULL;
    }
    sp_str_t text = pair->value.u.s;
    *v = pair->value;
    if (f != NULL && f->type == SP_T_INT) {
        v->kind = SP_VALUE_INT;
        if (sp_str_to_int64(text, &v->u.i) != 0) {
            return sp_error_set(err, SP_E_INVALID_ARGUMENT, "%s: an integer is needed", f->name);
        }
    } else if (f != NULL && f->type == SP_T_BOOL) {
        bool yes = sp_str_eqz(text, "true") || sp_str_eqz(text, "1");
        if (!yes && !sp_str_eqz(text, "false") && !sp_str_eqz(text, "0")) {
            return sp_error_set(err, SP_E_INVALID_ARGUMENT, "%s: true or false is needed", f->name);
        }
        *v = (sp_value_t){.kind = SP_VALUE_BOOL, .u.b = yes};
    }
    return 0;
}

int sp_route_message(const sp_schema_t *schema, const sp_route_fields_t *fields,
                     const sp_value_t *body, sp_arena_t *arena, void *ret_body, sp_error_t *err)
{
    if (body != NULL && body->kind != SP_VALUE_MAP) {
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "the body is a JSON object");
    }
    size_t n = fields->n + (body != NULL ? body->u.map.n : 0);
    sp_value_t all = {.kind = SP_VALUE_MAP};
    if (n > 0 && (all.u.map.pairs = sp_arena_alloc(arena, n, sizeof(sp_value_pair_t))) == NULL) {
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "memory ran out");
    }
    for (size_t i = 0; i < fields->n; i++) {
        all.u.map.pairs[i].key = fields->pairs[i].key;
        int rc = typed(schema, &fields->pairs[i], &all.u.map.pairs[i].value, err);
        if (rc != 0) {
            return rc;
        }
    }
    for (size_t i = fields->n; i < n; i++) {
        all.u.map.pairs[i] = body->u.map.pairs[i - fields->n];
    }
    all.u.map.n = n;
    return sp_wire_decode_value(schema, &all, arena, ret_body, err);
}
