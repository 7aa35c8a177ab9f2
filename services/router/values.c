#include "services/router/values.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/pg/oids.h"

enum { ARENA_LIMIT = 256 * 1024 * 1024 };

static int no_memory(sp_error_t *err)
{
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a request's values");
}

static char *hex_of(sp_str_t bytes, sp_arena_t *arena)
{
    static const char digits[] = "0123456789abcdef";
    char *out = sp_arena_alloc(arena, bytes.len * 2 + 3, 1), *at = out;
    if (out == NULL)
        return NULL;
    *at++ = '\\';
    *at++ = 'x';
    for (size_t i = 0; i < bytes.len; i++) {
        *at++ = digits[(unsigned char)bytes.ptr[i] >> 4];
        *at++ = digits[(unsigned char)bytes.ptr[i] & 15];
    }
    *at = 0;
    return out;
}

static char *json_of(const sp_value_t *value, sp_arena_t *arena, sp_error_t *err)
{
    sp_buf_t out = SP_BUF_INIT;
    char *text = NULL;
    if (sp_wire_value_to_json(value, &out, err) == 0) {
        text = out.failed ? NULL : sp_arena_strz(arena, sp_buf_cstr(&out));
        if (text == NULL)
            no_memory(err);
    }
    sp_buf_free(&out);
    return text;
}

int value_to_text(const sp_value_t *value, sp_arena_t *arena, const char **ret_text,
                  sp_error_t *err)
{
    const char *text = NULL;
    switch (value->kind) {
    case SP_VALUE_ABSENT:
    case SP_VALUE_NULL:
        *ret_text = NULL;
        return 0;
    case SP_VALUE_BOOL:
        text = value->u.b ? "true" : "false";
        break;
    case SP_VALUE_INT:
        text = sp_arena_printf(arena, "%" PRId64, value->u.i);
        break;
    case SP_VALUE_FLOAT:
        if (isnan(value->u.f))
            text = "NaN";
        else if (isinf(value->u.f))
            text = value->u.f < 0 ? "-Infinity" : "Infinity";
        else
            text = sp_arena_printf(arena, "%.17g", value->u.f);
        break;
    case SP_VALUE_STRING:
        if (value->u.s.len > 0 && memchr(value->u.s.ptr, 0, value->u.s.len) != NULL)
            return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                                "a text parameter holds a NUL character, which PostgreSQL cannot "
                                "store; send bytes");
        text = sp_arena_cstr(arena, value->u.s.ptr != NULL ? value->u.s : SP_STR(""));
        break;
    case SP_VALUE_BYTES:
        text = hex_of(value->u.s, arena);
        break;
    case SP_VALUE_LIST:
    case SP_VALUE_MAP:
        text = json_of(value, arena, err);
        if (text == NULL)
            return err != NULL && err->code != 0 ? err->code : SP_E_INVALID_ARGUMENT;
        break;
    }
    if (text == NULL)
        return no_memory(err);
    *ret_text = text;
    return 0;
}

// ---- results

int results_reset(results_t *self, size_t n, size_t max_rows, size_t max_bytes, sp_error_t *err)
{
    sp_arena_t *arena = self->arena;
    if (arena == NULL)
        arena = sp_arena_new(ARENA_LIMIT);
    else
        sp_arena_reset(arena);
    *self = (results_t){.arena = arena, .n = n, .max_rows = max_rows, .max_bytes = max_bytes};
    if (arena == NULL)
        return no_memory(err);
    self->items = sp_arena_alloc(arena, n, sizeof *self->items);
    self->caps = sp_arena_alloc(arena, n, sizeof *self->caps);
    return self->items != NULL && self->caps != NULL ? 0 : no_memory(err);
}

void results_free(results_t *self)
{
    sp_arena_destroy(&self->arena);
    *self = (results_t){0};
}

static int nibble(char c)
{
    return c >= 'a' ? c - 'a' + 10 : c - '0'; // bytea_output = hex writes lower case
}

static sp_value_t bytes_value(const char *text, size_t len, sp_arena_t *arena)
{
    sp_value_t v = {.kind = SP_VALUE_BYTES};
    if (len < 2 || text[0] != '\\' || text[1] != 'x')
        return v;
    size_t n = (len - 2) / 2;
    char *out = sp_arena_alloc(arena, n > 0 ? n : 1, 1);
    if (out == NULL)
        return (sp_value_t){.kind = SP_VALUE_ABSENT};
    for (size_t i = 0; i < n; i++)
        out[i] = (char)(nibble(text[2 + 2 * i]) << 4 | nibble(text[3 + 2 * i]));
    v.u.s = (sp_str_t){out, n};
    return v;
}

// ABSENT only without memory.
static sp_value_t value_of(const PGresult *result, int row, int column, sp_arena_t *arena)
{
    if (PQgetisnull(result, row, column))
        return (sp_value_t){.kind = SP_VALUE_NULL};
    const char *text = PQgetvalue(result, row, column);
    size_t len = (size_t)PQgetlength(result, row, column);
    sp_value_t v = {.kind = SP_VALUE_ABSENT};
    switch (PQftype(result, column)) {
    case SP_OID_BOOL:
        v.kind = SP_VALUE_BOOL;
        v.u.b = text[0] == 't';
        return v;
    case SP_OID_INT2:
    case SP_OID_INT4:
    case SP_OID_INT8:
    case SP_OID_OID:
        v.kind = SP_VALUE_INT;
        v.u.i = strtoll(text, NULL, 10);
        return v;
    case SP_OID_FLOAT4:
    case SP_OID_FLOAT8:
        v.u.f = strtod(text, NULL);
        if (isfinite(v.u.f)) { // JSON has no NaN: those stay PostgreSQL's words
            v.kind = SP_VALUE_FLOAT;
            return v;
        }
        break;
    case SP_OID_BYTEA:
        return bytes_value(text, len, arena);
    default:
        break;
    }
    sp_str_t copy = sp_arena_str(arena, (sp_str_t){text, len});
    if (copy.ptr != NULL)
        v = (sp_value_t){.kind = sp_str_valid_utf8(copy) ? SP_VALUE_STRING : SP_VALUE_BYTES,
                         .u.s = copy};
    return v;
}

static void add_columns(results_t *self, sp_msg_statement_result_t *item, const PGresult *result)
{
    size_t n = (size_t)PQnfields(result);
    if (item->columns.items != NULL || n == 0)
        return;
    sp_msg_column_t *columns = sp_arena_alloc(self->arena, n, sizeof *columns);
    for (size_t i = 0; columns != NULL && i < n; i++) {
        columns[i].name = sp_str(sp_arena_strz(self->arena, PQfname(result, (int)i)));
        columns[i].type_oid = (int64_t)PQftype(result, (int)i);
        columns[i].has_type_oid = true;
        self->no_memory = self->no_memory || columns[i].name.ptr == NULL;
    }
    self->no_memory = self->no_memory || columns == NULL;
    item->columns.items = columns;
    item->columns.n = columns != NULL ? n : 0;
}

static bool grow_rows(results_t *self, size_t index)
{
    sp_msg_statement_result_t *item = &self->items[index];
    if (item->rows.n < self->caps[index])
        return true;
    size_t cap = self->caps[index] > 0 ? self->caps[index] * 2 : 4;
    sp_value_t *more = sp_arena_alloc(self->arena, cap, sizeof *more);
    if (more == NULL)
        return false;
    if (item->rows.n > 0)
        memcpy(more, item->rows.items, item->rows.n * sizeof *more);
    item->rows.items = more;
    self->caps[index] = cap;
    return true;
}

static void add_row(results_t *self, size_t index, const PGresult *result, int row)
{
    int n = PQnfields(result);
    for (int i = 0; i < n; i++)
        self->bytes += 10 + (size_t)PQgetlength(result, row, i);
    self->overflow =
        self->overflow || ++self->rows > self->max_rows || self->bytes > self->max_bytes;
    if (self->overflow || self->no_memory)
        return;
    sp_value_t *values = sp_arena_alloc(self->arena, n > 0 ? (size_t)n : 1, sizeof *values);
    if (values == NULL || !grow_rows(self, index)) {
        self->no_memory = true;
        return;
    }
    for (int i = 0; i < n; i++) {
        values[i] = value_of(result, row, i, self->arena);
        self->no_memory = self->no_memory || values[i].kind == SP_VALUE_ABSENT;
    }
    sp_msg_statement_result_t *item = &self->items[index];
    item->rows.items[item->rows.n++] =
        (sp_value_t){.kind = SP_VALUE_LIST, .u.list = {values, (size_t)n}};
}

void results_add(results_t *self, size_t index, const PGresult *result)
{
    if (index >= self->n)
        return;
    sp_msg_statement_result_t *item = &self->items[index];
    add_columns(self, item, result);
    for (int row = 0; row < PQntuples(result); row++)
        add_row(self, index, result, row);
    if (PQresultStatus(result) == PGRES_SINGLE_TUPLE)
        return;
    item->command = sp_str(sp_arena_strz(self->arena, PQcmdStatus((PGresult *)result)));
    item->rows_affected = strtoll(PQcmdTuples((PGresult *)result), NULL, 10);
    item->has_rows_affected = true;
}

int results_check(const results_t *self, sp_error_t *err)
{
    if (self->no_memory)
        return no_memory(err);
    if (self->overflow)
        return sp_error_set(err, SP_E_TOO_LARGE,
                            "the result is over %zu rows or %zu bytes: ask for less, with LIMIT",
                            self->max_rows, self->max_bytes);
    return 0;
}
