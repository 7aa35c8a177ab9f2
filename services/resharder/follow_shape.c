// Statements of the lanes: one a relation, operation and set of columns; and keys of rows as hashes and as text.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/pg/oids.h"
#include "common/ring/hash.h"
#include "services/resharder/follow_plan.h"

static void add_name(sp_buf_t *sql, const follow_relation_t *r, int column, sp_arena_t *arena)
{
    const char *quoted = sp_pg_ident(arena, sp_str(r->columns[column].name));
    if (quoted)
        sp_buf_addz(sql, quoted);
    else
        sql->failed = true;
}

static void add_where(sp_buf_t *sql, const follow_relation_t *r, int *param, sp_arena_t *arena)
{
    const char *word = " WHERE ";
    for (int i = 0; i < r->n; i++) {
        if (!r->identify[i])
            continue;
        sp_buf_addz(sql, word);
        add_name(sql, r, i, arena);
        sp_buf_printf(sql, " = $%d", ++*param);
        word = " AND ";
    }
}

static void add_list(sp_buf_t *sql, const follow_relation_t *r, const unsigned char *set,
                     sp_arena_t *arena)
{
    const char *comma = "";
    for (int i = 0; i < r->n; i++) {
        if (set && !set[i])
            continue;
        sp_buf_addz(sql, comma);
        add_name(sql, r, i, arena);
        comma = ", ";
    }
}

static void add_insert(sp_buf_t *sql, const follow_relation_t *r, const unsigned char *set,
                       int *param, sp_arena_t *arena)
{
    sp_buf_printf(sql, "INSERT INTO %s (", r->table->qualified);
    add_list(sql, r, set, arena);
    sp_buf_addz(sql, ") OVERRIDING SYSTEM VALUE VALUES (");
    for (int i = 0; i < r->n; i++)
        if (set[i]) {
            ++*param;
            sp_buf_printf(sql, *param > 1 ? ", $%d" : "$%d", *param);
        }
    sp_buf_addz(sql, ")");
}

static void add_update(sp_buf_t *sql, const follow_relation_t *r, const unsigned char *set,
                       int *param, sp_arena_t *arena)
{
    const char *comma = "";
    sp_buf_printf(sql, "UPDATE ONLY %s SET ", r->table->qualified);
    for (int i = 0; i < r->n; i++) {
        if (!set[i])
            continue;
        sp_buf_addz(sql, comma);
        add_name(sql, r, i, arena);
        sp_buf_printf(sql, " = $%d", ++*param);
        comma = ", ";
    }
    add_where(sql, r, param, arena);
}

static int build(follow_shape_t *shape, const follow_relation_t *r, sp_arena_t *arena)
{
    sp_buf_t sql = SP_BUF_INIT;
    switch (shape->kind) {
    case SHAPE_INSERT:
        add_insert(&sql, r, shape->set, &shape->n_params, arena);
        break;
    case SHAPE_UPDATE:
        add_update(&sql, r, shape->set, &shape->n_params, arena);
        break;
    case SHAPE_DELETE:
        sp_buf_printf(&sql, "DELETE FROM ONLY %s", r->table->qualified);
        add_where(&sql, r, &shape->n_params, arena);
        break;
    case SHAPE_SELECT:
        sp_buf_addz(&sql, "SELECT ");
        add_list(&sql, r, NULL, arena);
        sp_buf_printf(&sql, " FROM ONLY %s", r->table->qualified);
        add_where(&sql, r, &shape->n_params, arena);
        break;
    }
    shape->sql = sql.failed ? NULL : sp_arena_strz(arena, sp_buf_cstr(&sql));
    sp_buf_free(&sql);
    return shape->sql ? 0 : SP_E_OUT_OF_MEMORY;
}

int follow_shape_get(follow_relation_t *relation, shape_kind_t kind, const unsigned char *set,
                     unsigned *counter, sp_arena_t *arena, const follow_shape_t **ret_shape,
                     sp_error_t *err)
{
    bool has_set = kind == SHAPE_INSERT || kind == SHAPE_UPDATE;
    for (follow_shape_t *s = relation->shapes; s; s = s->next)
        if (s->kind == kind && (!has_set || memcmp(s->set, set, (size_t)relation->n) == 0)) {
            *ret_shape = s;
            return 0;
        }
    follow_shape_t *shape = sp_arena_alloc(arena, 1, sizeof *shape);
    unsigned char *copy = sp_arena_alloc(arena, (size_t)relation->n + 1, 1);
    if (!shape || !copy)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a statement");
    if (has_set)
        memcpy(copy, set, (size_t)relation->n);
    *shape =
        (follow_shape_t){.kind = kind, .set = copy, .number = *counter, .next = relation->shapes};
    snprintf(shape->name, sizeof shape->name, "s%u", *counter);
    if (build(shape, relation, arena))
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a statement");
    ++*counter;
    relation->shapes = shape;
    *ret_shape = shape;
    return 0;
}

// ---- keys

// Canonical text of a value in binary form; NULL when the type has none here or the length is wrong.
static const char *binary_text(uint32_t type, const sp_pgo_datum_t *d, char *out, size_t size)
{
    const unsigned char *b = (const unsigned char *)d->data;
    uint64_t value = 0;
    if (type == SP_OID_UUID) {
        if (d->len != 16)
            return NULL;
        char *at = out;
        for (int i = 0; i < 16; i++)
            at += snprintf(at, size - (size_t)(at - out),
                           i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", b[i]);
        return out;
    }
    int want = type == SP_OID_INT2 ? 2 : type == SP_OID_INT4 ? 4 : type == SP_OID_INT8 ? 8 : -1;
    if (d->len != want)
        return NULL;
    for (int i = 0; i < want; i++)
        value = value << 8 | b[i];
    int64_t number = want == 2 ? (int16_t)value : want == 4 ? (int32_t)value : (int64_t)value;
    snprintf(out, size, "%" PRId64, number);
    return out;
}

static bool is_number_or_uuid(uint32_t type)
{
    return type == SP_OID_INT2 || type == SP_OID_INT4 || type == SP_OID_INT8 || type == SP_OID_UUID;
}

int follow_key_hash(const follow_relation_t *relation, const sp_pgo_datum_t *key, int64_t *ret_hash,
                    sp_error_t *err)
{
    char text[40];
    uint32_t type = relation->table->key_base_type;
    if (key->kind != 't' && key->kind != 'b')
        return sp_error_set(err, SP_E_MALFORMED, "a row of %s without a key",
                            relation->table->qualified);
    if (key->kind == 'b' && is_number_or_uuid(type)) {
        if (!binary_text(type, key, text, sizeof text))
            return sp_error_set(err, SP_E_MALFORMED, "a key of %s in an unknown binary form",
                                relation->table->qualified);
        *ret_hash = sp_key_hash(text, strlen(text));
    } else {
        *ret_hash = sp_key_hash(key->data,
                                (size_t)key->len); // text and varchar: the same bytes in both forms
    }
    return 0;
}

const char *follow_row_text(const follow_relation_t *relation, const sp_pgo_tuple_t *row, char *out,
                            size_t size)
{
    char text[40];
    int used = snprintf(out, size, "%s (", relation->table->qualified);
    const char *comma = "";
    for (int i = 0; i < relation->n && i < row->n && used < (int)size; i++) {
        if (!relation->identify[i])
            continue;
        const sp_pgo_datum_t *d = &row->columns[i];
        uint32_t type =
            i == relation->key ? relation->table->key_base_type : relation->columns[i].type_oid;
        const char *value = d->kind == 't' ? "" : "?";
        int len = d->kind == 't' ? d->len : 1;
        if (d->kind == 't')
            value = d->data;
        else if (d->kind == 'b' && is_number_or_uuid(type) &&
                 binary_text(type, d, text, sizeof text))
            value = text, len = (int)strlen(text);
        used += snprintf(out + used, size - (size_t)used, "%s%s=%.*s", comma,
                         relation->columns[i].name, len < 60 ? len : 60, value);
        comma = ", ";
    }
    if (used < (int)size)
        snprintf(out + used, size - (size_t)used, ")");
    return out;
}
