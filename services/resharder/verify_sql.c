#include "services/resharder/verify_sql.h"

#include <inttypes.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/pg/oids.h"
#include "services/resharder/sql/verify.h"

enum {
    BITS = 31,    // of a null bitmap: what a bigint holds and its hash does not fold
    NESTED = 200, // columns whose hashes are each other's seeds; PostgreSQL's parser has a limit
};

// The built-in types named here are those whose hash function tells apart whatever prints differently, and costs less than printing. All others are hashed as text:
// equal floats and jsonb can print differently, a numeric's sign is not in its hash, and a timestamp's hash is that of 64 bits.
//
// That one folds the halves into 32 bits, whatever the seed: 0 and 4294967297 have one hash. Where the upper halves are equal it tells the lower ones
// apart, so an int8 is hashed twice, the upper half by itself.
//
// Wraps the expression in `out` as the seed of the next column's hash. One occurrence of the seed only, or the text would double with each
// column; so a NULL is hashed as an empty value, and the bitmap in the first seed tells the two apart.
static void add_column(sp_buf_t *head, sp_buf_t *tail, const char *column, int64_t type,
                       bool nullable)
{
    const char *function, *value, *empty;
    switch (type) {
    case SP_OID_INT2:
    case SP_OID_INT4:
    case SP_OID_INT8:
        function = "hashint8extended", value = "%s::int8", empty = "0";
        break;
    case SP_OID_BOOL:
        function = "hashint4extended", value = "%s::int4", empty = "0";
        break;
    case SP_OID_UUID:
        function = "uuid_hash_extended", value = "%s::uuid",
        empty = "'00000000-0000-0000-0000-000000000000'::uuid";
        break;
    case SP_OID_BYTEA: // as text it would double, past 1 GB
        function = "hashtextextended", value = "md5(%s::bytea)", empty = "''";
        break;
    default: // the session's settings are the same on all shards
        function = "hashtextextended", value = "%s::text COLLATE \"C\"", empty = "''";
    }
    sp_buf_t part = SP_BUF_INIT;
    sp_buf_addz(&part, nullable ? "coalesce(" : "");
    const char *hole = strstr(value, "%s");
    sp_buf_add(&part, value, (size_t)(hole - value));
    sp_buf_addz(&part, column);
    sp_buf_addz(&part, hole + 2);
    if (nullable)
        sp_buf_printf(&part, ", %s)", empty);
    // The columns come last to first: the head opens, the tail closes.
    if (type == SP_OID_INT8) {
        sp_buf_printf(head, "hashint8extended(%s >> 32, ", sp_buf_cstr(&part));
        sp_buf_addc(tail, ')');
    }
    sp_buf_printf(head, "%s(%s, ", function, sp_buf_cstr(&part));
    head->failed = head->failed || part.failed;
    sp_buf_free(&part);
    sp_buf_addc(tail, ')');
}

// The seed: which columns are NULL.
static void add_bitmaps(sp_buf_t *out, const PGresult *columns)
{
    int rows = PQntuples(columns), groups = 0, in_group = 0;
    sp_buf_t seed = SP_BUF_INIT;
    for (int i = 0; i < rows; i++) {
        if (PQgetvalue(columns, i, 2)[0] != 't')
            continue;
        if (in_group == BITS)
            in_group = 0;
        if (in_group == 0)
            sp_buf_addz(&seed, groups++ > 0 ? "), hashint8extended((0" : "hashint8extended((0");
        sp_buf_printf(&seed, " | ((%s IS NULL)::int::int8 << %d)", PQgetvalue(columns, i, 0),
                      in_group++);
    }
    // f((..), f((..), 0)): each group's seed is the next group.
    sp_buf_addz(out, groups > 0 ? sp_buf_cstr(&seed) : "0");
    if (groups > 0)
        sp_buf_addz(out, "), 0)");
    for (int i = 1; i < groups; i++)
        sp_buf_addc(out, ')');
    out->failed = out->failed || seed.failed;
    sp_buf_free(&seed);
}

// Hash of columns [from, to), the first of them outermost. with_nulls: which of all columns are NULL is in it, too.
static void add_columns(sp_buf_t *out, const PGresult *columns, int from, int to, bool with_nulls)
{
    sp_buf_t tail = SP_BUF_INIT;
    for (int i = to; i-- > from;) {
        int64_t type = 0;
        sp_str_to_int64(sp_str(PQgetvalue(columns, i, 1)), &type);
        add_column(out, &tail, PQgetvalue(columns, i, 0), type,
                   PQgetvalue(columns, i, 2)[0] == 't');
    }
    if (with_nulls)
        add_bitmaps(out, columns);
    else
        sp_buf_addz(out, "0");
    sp_buf_adds(out, (sp_str_t){tail.data, tail.len});
    out->failed = out->failed || tail.failed;
    sp_buf_free(&tail);
}

static const char *row_hash(sp_arena_t *arena, const PGresult *columns)
{
    sp_buf_t out = SP_BUF_INIT;
    int n = PQntuples(columns);
    sp_buf_addz(&out, n > NESTED ? "hash_array_extended(ARRAY[" : "");
    for (int from = 0; from < n; from += NESTED) {
        sp_buf_addz(&out, from > 0 ? ", " : "");
        add_columns(&out, columns, from, n - from > NESTED ? from + NESTED : n, from == 0);
    }
    sp_buf_addz(&out, n > NESTED ? "], 0)" : "");
    const char *result = out.failed ? NULL : sp_arena_strz(arena, sp_buf_cstr(&out));
    sp_buf_free(&out);
    return result;
}

static const char *row_name(sp_arena_t *arena, const sp_msg_job_table_t *table)
{
    sp_buf_t out = SP_BUF_INIT;
    for (size_t i = 0; i < table->primary_key.n; i++) {
        const char *column = sp_pg_ident(arena, table->primary_key.items[i]);
        const char *label =
            column != NULL ? sp_arena_printf(arena, "%s%s=", i > 0 ? ", " : "", column) : NULL;
        const char *literal = label != NULL ? sp_pg_literal(arena, sp_str(label)) : NULL;
        out.failed = out.failed || literal == NULL;
        sp_buf_printf(&out, "%s%s || left(%s::text, 200)", i > 0 ? " || " : "",
                      literal != NULL ? literal : "", column != NULL ? column : "");
    }
    const char *result = out.failed     ? NULL
                         : out.len == 0 ? "'?'"
                                        : sp_arena_strz(arena, sp_buf_cstr(&out));
    sp_buf_free(&out);
    return result;
}

static const char *literal_of(sp_arena_t *arena, const int64_t *numbers, size_t n)
{
    sp_buf_t out = SP_BUF_INIT;
    sp_arcs_literal((sp_arcs_t){numbers, n}, &out);
    const char *result = out.failed ? NULL : sp_arena_strz(arena, sp_buf_cstr(&out));
    sp_buf_free(&out);
    return result;
}

// Bounds of all pieces that have an owner.
static const char *moving_bounds(sp_arena_t *arena, const split_route_t *route, bool *ret_all)
{
    int64_t *bounds = sp_arena_alloc(arena, route->n + 1, sizeof *bounds);
    size_t n = 0;
    if (bounds == NULL)
        return NULL;
    for (size_t i = 0; i < route->n; i++)
        if ((route->owners[i] >= 0) !=
            (n % 2 == 1)) // inside exactly when the number of bounds is odd
            bounds[n++] = route->starts[i];
    *ret_all = sp_arcs_is_all((sp_arcs_t){bounds, n});
    return literal_of(arena, bounds, n);
}

int verify_sql_make(task_t *task, sp_pg_t *source, const split_route_t *route,
                    verify_sql_t *ret_self, sp_error_t *err)
{
    const sp_msg_job_table_t *table = &task->assign->tables.items[0];
    sp_arena_t *arena = task->arena;
    verify_sql_t self = {.name = sp_pg_qualified(arena, table->schema, table->table)};
    const char *key = sp_pg_ident(arena, table->key_column);
    PGresult *columns = NULL;
    int rc = self.name == NULL || key == NULL
                 ? SP_E_OUT_OF_MEMORY
                 : sp_pg_query(source, SP_SQL_VERIFY_COLUMNS, 1, &self.name, &columns, err);
    if (rc == 0) {
        self.key_hash = sp_arena_printf(arena, "hashtextextended(%s::text, 0)", key);
        self.row_hash = row_hash(arena, columns);
        self.row_name = row_name(arena, table);
        self.starts = literal_of(arena, route->starts, route->n);
        self.moving = moving_bounds(arena, route, &self.all_moves);
        if (self.key_hash == NULL || self.row_hash == NULL || self.row_name == NULL ||
            self.starts == NULL || self.moving == NULL)
            rc = SP_E_OUT_OF_MEMORY;
    }
    PQclear(columns);
    if (rc == SP_E_OUT_OF_MEMORY)
        return sp_error_set(err, rc, "no memory for a verify task");
    if (rc == 0)
        *ret_self = self;
    return rc;
}

const char *verify_groups(sp_arena_t *arena, const verify_sql_t *self, int64_t from, int64_t to,
                          int shift, bool moving_only)
{
    // Filters only where they filter: each computes the key's hash once more.
    const char *range = "", *moving = "";
    if (from != INT64_MIN || to != INT64_MAX)
        range =
            sp_arena_printf(arena, " AND %s BETWEEN '%" PRId64 "'::int8 AND '%" PRId64 "'::int8",
                            self->key_hash, from, to);
    if (moving_only && !self->all_moves)
        moving = sp_arena_printf(arena, " AND width_bucket(%s, '%s'::int8[]) %% 2 = 1",
                                 self->key_hash, self->moving);
    if (range == NULL || moving == NULL)
        return NULL;
    // OFFSET 0: both hashes of a row are computed once.
    return sp_arena_printf(arena,
                           "SELECT width_bucket(k, '%s'::int8[]) - 1, k >> %d, count(*), sum(h) "
                           "FROM ("
                           "SELECT %s AS k, %s AS h FROM ONLY %s WHERE true%s%s OFFSET 0) g GROUP "
                           "BY 1, 2 ORDER BY 1, 2",
                           self->starts, shift, self->key_hash, self->row_hash, self->name, range,
                           moving);
}

const char *verify_rows(sp_arena_t *arena, const verify_sql_t *self, int64_t from, int64_t to,
                        int limit)
{
    return sp_arena_printf(arena,
                           "SELECT n COLLATE \"C\", h FROM (SELECT %s AS n, %s AS h FROM ONLY %s "
                           "WHERE %s BETWEEN '%" PRId64 "'::int8 AND '%" PRId64
                           "'::int8) s ORDER BY 1, 2 LIMIT %d",
                           self->row_name, self->row_hash, self->name, self->key_hash, from, to,
                           limit);
}
