// JSON text into values: jansson parses, after a look at the nesting, because its parser recurses.
#include <jansson.h>
#include <string.h>

#include "common/wire/json_limit.h"

static int check_nesting(const char *text, size_t len, sp_error_t *err)
{
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (quoted) {
            i += c == '\\' ? 1 : 0;
            quoted = c != '"';
        } else if (c == '"') {
            quoted = true;
        } else if (c == '{' || c == '[') {
            if (++depth > SP_WIRE_MAX_DEPTH) {
                return sp_error_set(err, SP_E_MALFORMED, "JSON byte %zu: nested deeper than %d", i,
                                    SP_WIRE_MAX_DEPTH);
            }
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    return 0;
}

static int too_large(sp_error_t *err)
{
    return sp_error_set(err, SP_E_TOO_LARGE, "JSON takes more memory than a message may");
}

static int copy_text(sp_arena_t *arena, const char *text, size_t len, sp_str_t *ret_copy,
                     sp_error_t *err)
{
    *ret_copy = sp_arena_str(arena, (sp_str_t){text, len});
    return ret_copy->ptr != NULL ? 0 : too_large(err);
}

static int convert(const json_t *json, sp_arena_t *arena, sp_value_t *v, sp_error_t *err);

static int convert_list(const json_t *json, sp_arena_t *arena, sp_value_t *v, sp_error_t *err)
{
    size_t n = json_array_size(json);
    *v = (sp_value_t){.kind = SP_VALUE_LIST};
    if (n > 0 && (v->u.list.items = sp_arena_alloc(arena, n, sizeof(sp_value_t))) == NULL) {
        return too_large(err);
    }
    v->u.list.n = n;
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = convert(json_array_get(json, i), arena, &v->u.list.items[i], err);
    }
    return rc;
}

static int convert_map(const json_t *json, sp_arena_t *arena, sp_value_t *v, sp_error_t *err)
{
    size_t n = json_object_size(json);
    *v = (sp_value_t){.kind = SP_VALUE_MAP};
    if (n > 0 && (v->u.map.pairs = sp_arena_alloc(arena, n, sizeof(sp_value_pair_t))) == NULL) {
        return too_large(err);
    }
    v->u.map.n = n;
    json_t *object =
        (json_t *)json; // jansson's iterators are not const-correct; nothing is changed
    sp_value_pair_t *pair = v->u.map.pairs;
    for (void *i = json_object_iter(object); i != NULL;
         i = json_object_iter_next(object, i), pair++) {
        const char *key = json_object_iter_key(i);
        int rc = copy_text(arena, key, strlen(key), &pair->key, err);
        if (rc == 0) {
            rc = convert(json_object_iter_value(i), arena, &pair->value, err);
        }
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}

static int convert(const json_t *json, sp_arena_t *arena, sp_value_t *v, sp_error_t *err)
{
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        return convert_map(json, arena, v, err);
    case JSON_ARRAY:
        return convert_list(json, arena, v, err);
    case JSON_STRING:
        v->kind = SP_VALUE_STRING;
        return copy_text(arena, json_string_value(json), json_string_length(json), &v->u.s, err);
    case JSON_INTEGER:
        *v = sp_value_int(json_integer_value(json));
        return 0;
    case JSON_REAL:
        *v = (sp_value_t){.kind = SP_VALUE_FLOAT, .u.f = json_real_value(json)};
        return 0;
    case JSON_TRUE:
        *v = (sp_value_t){.kind = SP_VALUE_BOOL, .u.b = true};
        return 0;
    case JSON_FALSE:
        *v = (sp_value_t){.kind = SP_VALUE_BOOL, .u.b = false};
        return 0;
    case JSON_NULL:
        *v = (sp_value_t){.kind = SP_VALUE_NULL};
        return 0;
    }
    return SP_E_INTERNAL;
}

// jansson quotes the offending text ("near '...'"), which may be a password: only the place is passed on.
static int refuse(const json_error_t *je, sp_error_t *err)
{
    static const struct {
        enum json_error_code code; // jansson's
        const char *text;          // ours
    } reasons[] = {
        {json_error_duplicate_key, "a key is given twice"},
        {json_error_invalid_utf8, "not valid UTF-8"},
        {json_error_null_character, "a string holds a NUL"},
        {json_error_null_byte_in_key, "a key holds a NUL"},
        {json_error_numeric_overflow, "a number is outside what 64 bits hold"},
        {json_error_premature_end_of_input, "the text ends too early"},
        {json_error_end_of_input_expected, "something stands behind the end"},
        {json_error_stack_overflow, "nested too deep"},
    };
    const char *text = "a syntax error";
    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
        if (json_error_code(je) == reasons[i].code) {
            text = reasons[i].text;
        }
    }
    if (json_error_code(je) == json_error_out_of_memory) {
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "JSON: memory ran out");
    }
    return sp_error_set(err, SP_E_MALFORMED, "JSON line %d, column %d: %s", je->line, je->column,
                        text);
}

int sp_wire_value_from_json(const char *text, size_t len, sp_arena_t *arena, sp_value_t *ret_value,
                            sp_error_t *err)
{
    int rc = check_nesting(text, len, err);
    if (rc != 0) {
        return rc;
    }
    json_error_t je;
    json_t *json =
        json_loadb(len > 0 ? text : "", len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &je);
    if (json == NULL) {
        return refuse(&je, err);
    }
    sp_value_t value = {0};
    rc = convert(json, arena, &value, err);
    json_decref(json);
    if (rc == 0) {
        *ret_value = value;
    }
    return rc;
}

int sp_wire_decode_json(const sp_schema_t *schema, const char *text, size_t len, sp_arena_t *arena,
                        void *ret_body, sp_error_t *err)
{
    if (len > sp_json_limit(schema)) {
        return sp_error_set(err, SP_E_TOO_LARGE, "%s: %zu bytes, at most %zu are allowed",
                            schema->name, len, sp_json_limit(schema));
    }
    sp_value_t map;
    int rc = sp_wire_value_from_json(text, len, arena, &map, err);
    return rc == 0 ? sp_wire_decode_value(schema, &map, arena, ret_body, err) : rc;
}
