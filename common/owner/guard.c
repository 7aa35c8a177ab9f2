// Guards: three triggers a table that never change, and their functions' bodies, which say what the shard owns (ADR 0003).
// All names and operators in the bodies are qualified: they run under the search_path of whoever writes.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/owner/owner.h"
#include "common/owner/sql/guard.h"
#include "common/ring/hash.h"

const sp_owner_table_t sp_owner_requests_table = {{"shardplane", 10}, {"requests", 8}, {"key", 3}};

enum { ROW, STMT, TRUNC, N_PARTS };
static const struct {
    const char *suffix;  // of the function
    const char *trigger; // its trigger
    const char *when;    // in CREATE TRIGGER
    int type;            // pg_trigger.tgtype
} parts[N_PARTS] = {
    {"row", "~shardplane_row", "BEFORE INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW", 31},
    {"stmt", "~shardplane_stmt", "BEFORE INSERT OR UPDATE OR DELETE ON %s FOR EACH STATEMENT", 30},
    {"trunc", "~shardplane_trunc", "BEFORE TRUNCATE ON %s FOR EACH STATEMENT", 34},
};

// Everything that one table's guard consists of.
typedef struct definition {
    const char *table;              // qualified, quoted
    const char *functions[N_PARTS]; // names without schema, not quoted: [a-z0-9_] only
    const char *bodies[N_PARTS];    // as in pg_proc.prosrc
} definition_t;

static int no_memory(sp_error_t *err)
{
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a guard");
}

// The table's own name is of any bytes and up to 63 of them: the function's carries a hash of it.
static const char *name_functions(const sp_owner_table_t *table, sp_arena_t *arena, definition_t *d)
{
    d->table = sp_pg_qualified(arena, table->schema, table->table);
    if (d->table == NULL)
        return NULL;
    uint64_t hash = (uint64_t)sp_key_hash(d->table, strlen(d->table));
    for (int i = 0; i < N_PARTS; i++)
        if ((d->functions[i] =
                 sp_arena_printf(arena, "g_%016" PRIx64 "_%s", hash, parts[i].suffix)) == NULL)
            return NULL;
    return d->table;
}

// What the bodies are put together from.
typedef struct words {
    const sp_owner_shard_t *shard; // names
    const sp_guard_t *guard;       // form
    const char *message;           // quoted MESSAGE
    const char *apply_role;        // quoted
    const char *nonce;             // quoted
    sp_buf_t bounds;               // {..}
    const char *column;            // quoted key column
} words_t;

// RAISE with DETAIL; hash is a fragment of JSON members that may hold one %s of format(), or "".
static void add_raise(sp_buf_t *out, const words_t *w, const char *indent, const char *reason,
                      bool with_hash)
{
    sp_buf_printf(out, "%sRAISE EXCEPTION USING ERRCODE = 'SHP01', MESSAGE = %s,\n%s    DETAIL = ",
                  indent, w->message, indent);
    if (with_hash)
        sp_buf_printf(out,
                      "pg_catalog.format('{\"reason\":\"%s\",\"hash\":%%s,\"ring_version\":%" PRId64
                      ",\"keyspace\":\"%s\"}', "
                      "CASE WHEN h IS NULL THEN 'null' ELSE pg_catalog.format('\"%%s\"', h) "
                      "END);\n",
                      reason, w->guard->ring_version, w->shard->keyspace);
    else
        sp_buf_printf(out,
                      "'{\"reason\":\"%s\",\"ring_version\":%" PRId64 ",\"keyspace\":\"%s\"}';\n",
                      reason, w->guard->ring_version, w->shard->keyspace);
}

static const char *outside_reason(const sp_guard_t *guard)
{
    return guard->reason != NULL && guard->reason[0] != 0 ? guard->reason : "not_owner";
}

static void add_not_open(sp_buf_t *out, const words_t *w)
{
    sp_buf_printf(out,
                  "    IF NOT EXISTS (SELECT FROM shardplane.opened o WHERE o.nonce "
                  "OPERATOR(pg_catalog.=) %s) THEN\n",
                  w->nonce);
}

// The test of one row: refuses unless the number of bounds <= hash is odd. A NULL key counts as outside.
static void add_row_test(sp_buf_t *out, const words_t *w, const char *row)
{
    sp_buf_printf(out,
                  "        h := pg_catalog.hashtextextended(%s.%s::pg_catalog.text, "
                  "0::pg_catalog.int8);\n",
                  row, w->column);
    if (w->guard->form == SP_GUARD_CLOSED) {
        add_raise(out, w, "        ", outside_reason(w->guard), true);
        return;
    }
    sp_buf_printf(out,
                  "        IF COALESCE(pg_catalog.width_bucket(h, '%s'::pg_catalog.int8[]) "
                  "OPERATOR(pg_catalog.%%) 2, 0)"
                  " OPERATOR(pg_catalog.<>) 1 THEN\n",
                  w->bounds.data != NULL ? w->bounds.data : "{}");
    add_raise(out, w, "            ", outside_reason(w->guard), true);
    sp_buf_addz(out, "        END IF;\n");
    if (w->guard->form != SP_GUARD_ARMED)
        return;
    add_not_open(out, w);
    add_raise(out, w, "            ", "in_transition", true);
    sp_buf_addz(out, "        END IF;\n");
}

static void add_row_body(sp_buf_t *out, const words_t *w)
{
    sp_buf_printf(out,
                  "\nDECLARE\n    h pg_catalog.int8;\nBEGIN\n"
                  "    IF session_user OPERATOR(pg_catalog.=) %s::pg_catalog.name THEN\n"
                  "        IF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN RETURN OLD; END IF;\n"
                  "        RETURN NEW;\n    END IF;\n"
                  "    IF TG_OP OPERATOR(pg_catalog.<>) 'INSERT' THEN\n",
                  w->apply_role);
    add_row_test(out, w, "OLD");
    sp_buf_addz(out, "    END IF;\n    IF TG_OP OPERATOR(pg_catalog.<>) 'DELETE' THEN\n");
    add_row_test(out, w, "NEW");
    sp_buf_addz(out, "        RETURN NEW;\n    END IF;\n    RETURN OLD;\nEND ");
}

static void add_stmt_body(sp_buf_t *out, const words_t *w)
{
    if (w->guard->form == SP_GUARD_OWNS) {
        sp_buf_addz(out, "\nBEGIN\n    RETURN NULL;\nEND ");
        return;
    }
    sp_buf_printf(out,
                  "\nBEGIN\n    IF session_user OPERATOR(pg_catalog.=) %s::pg_catalog.name THEN "
                  "RETURN NULL; END IF;\n",
                  w->apply_role);
    if (w->guard->form == SP_GUARD_ARMED) {
        add_not_open(out, w);
        add_raise(out, w, "        ", "in_transition", false);
        sp_buf_addz(out, "    END IF;\n    RETURN NULL;\nEND ");
    } else {
        add_raise(out, w, "    ", outside_reason(w->guard), false);
        sp_buf_addz(out, "END ");
    }
}

static void add_trunc_body(sp_buf_t *out, const words_t *w)
{
    const sp_guard_t *g = w->guard;
    sp_buf_printf(out,
                  "\nBEGIN\n    IF session_user OPERATOR(pg_catalog.=) %s::pg_catalog.name THEN "
                  "RETURN NULL; END IF;\n",
                  w->apply_role);
    if (g->form == SP_GUARD_OWNS && g->arcs != NULL && sp_arcs_is_all(*g->arcs) && !g->job_running)
        sp_buf_addz(out, "    RETURN NULL;\n");
    else
        add_raise(out, w, "    ",
                  g->job_running || g->form == SP_GUARD_ARMED ? "in_transition" : outside_reason(g),
                  false);
    sp_buf_addz(out, "END ");
}

static int check_guard(const sp_owner_shard_t *shard, const sp_guard_t *guard, sp_error_t *err)
{
    if (!sp_str_valid_name(sp_str(shard->keyspace)) || !sp_str_valid_name(sp_str(shard->shard_id)))
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "a guard needs a shard and a keyspace of usable names");
    if (shard->apply_role == NULL || shard->apply_role[0] == 0 || strlen(shard->apply_role) > 63)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "a guard needs the name of the apply role");
    if (guard->form != SP_GUARD_CLOSED && guard->arcs == NULL)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "a guard that owns needs its arcs");
    if (guard->form == SP_GUARD_ARMED && (guard->nonce == NULL || guard->nonce[0] == 0))
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "an armed guard needs its nonce");
    const char *reason = outside_reason(guard);
    if (strcmp(reason, "not_owner") != 0 && strcmp(reason, "in_transition") != 0)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "a guard's reason is not_owner or in_transition");
    return guard->arcs != NULL ? sp_arcs_validate(*guard->arcs, err) : 0;
}

static int define(const sp_owner_shard_t *shard, const sp_owner_table_t *table,
                  const sp_guard_t *guard, sp_arena_t *arena, definition_t *d, sp_error_t *err)
{
    int rc = check_guard(shard, guard, err);
    if (rc != 0)
        return rc;
    words_t w = {.shard = shard, .guard = guard};
    if (name_functions(table, arena, d) == NULL)
        return no_memory(err);
    char *message = sp_arena_printf(arena, "shardplane: shard %s does not own this row of %s",
                                    shard->shard_id, d->table);
    w.message = message != NULL ? sp_pg_literal(arena, sp_str(message)) : NULL;
    w.apply_role = sp_pg_literal(arena, sp_str(shard->apply_role));
    w.nonce = sp_pg_literal(arena, sp_str(guard->nonce != NULL ? guard->nonce : ""));
    w.column = sp_pg_ident(arena, table->key_column);
    if (guard->arcs != NULL)
        sp_arcs_literal(*guard->arcs, &w.bounds);
    if (w.message == NULL || w.apply_role == NULL || w.nonce == NULL || w.column == NULL ||
        w.bounds.failed) {
        sp_buf_free(&w.bounds);
        return no_memory(err);
    }
    void (*const add_body[N_PARTS])(sp_buf_t *, const words_t *) = {add_row_body, add_stmt_body,
                                                                    add_trunc_body};
    for (int i = 0; i < N_PARTS && rc == 0; i++) {
        sp_buf_t body = SP_BUF_INIT;
        add_body[i](&body, &w);
        d->bodies[i] = body.failed ? NULL : sp_arena_strz(arena, sp_buf_cstr(&body));
        if (d->bodies[i] == NULL)
            rc = no_memory(err);
        sp_buf_free(&body);
    }
    sp_buf_free(&w.bounds);
    return rc;
}

static int replace_functions(sp_pg_t *pg, const definition_t *d, sp_arena_t *arena, sp_error_t *err)
{
    sp_buf_t sql = SP_BUF_INIT;
    for (int i = 0; i < N_PARTS; i++) {
        const char *body = sp_pg_literal(arena, sp_str(d->bodies[i]));
        sql.failed = sql.failed || body == NULL;
        sp_buf_printf(&sql,
                      "CREATE OR REPLACE FUNCTION shardplane.%s() RETURNS trigger LANGUAGE plpgsql "
                      "AS %s;\n",
                      d->functions[i], body != NULL ? body : "''");
    }
    int rc = sql.failed ? no_memory(err) : sp_pg_exec(pg, sp_buf_cstr(&sql), err);
    sp_buf_free(&sql);
    return rc;
}

static int make_trigger(sp_pg_t *pg, const definition_t *d, int part, const char *table,
                        sp_arena_t *arena, sp_error_t *err)
{
    sp_buf_t when = SP_BUF_INIT;
    const char *table_at = strstr(parts[part].when, "%s");
    sp_buf_add(&when, parts[part].when, (size_t)(table_at - parts[part].when));
    sp_buf_addz(&when, table);
    sp_buf_addz(&when, table_at + 2);
    const char *clause = when.failed ? NULL : sp_arena_strz(arena, sp_buf_cstr(&when));
    sp_buf_free(&when);
    if (clause == NULL)
        return no_memory(err);
    // CREATE OR REPLACE TRIGGER resets ENABLE ALWAYS: both in one implicit transaction at least.
    return sp_pg_execf(pg, err,
                       "CREATE OR REPLACE TRIGGER \"%s\" %s EXECUTE FUNCTION shardplane.%s();\n"
                       "ALTER TABLE %s ENABLE ALWAYS TRIGGER \"%s\";",
                       parts[part].trigger, clause, d->functions[part], table, parts[part].trigger);
}

// What is missing of the triggers, by SP_SQL_GUARD_TABLE. The row trigger is made on the table itself, and PostgreSQL clones it to the
// partitions with its state, those of later too; the other two are made on each.
static int make_triggers(sp_pg_t *pg, const definition_t *d, const PGresult *tree, bool want_row,
                         sp_arena_t *arena, sp_error_t *err)
{
    bool row_stands = true, row_there = strcmp(PQgetvalue(tree, 0, 5), "0") != 0;
    int rc = 0;
    for (int i = 0; i < PQntuples(tree); i++)
        row_stands = row_stands && strcmp(PQgetvalue(tree, i, 2 + ROW), "1") == 0;
    if (want_row && !row_stands)
        rc = make_trigger(pg, d, ROW, d->table, arena, err);
    for (int i = 0; i < PQntuples(tree) && rc == 0; i++)
        for (int part = STMT; part <= TRUNC && rc == 0; part++)
            if (strcmp(PQgetvalue(tree, i, 2 + part), "1") != 0)
                rc = make_trigger(pg, d, part, PQgetvalue(tree, i, 0), arena, err);
    if (rc == 0 && !want_row && row_there)
        rc = sp_pg_execf(pg, err, "DROP TRIGGER IF EXISTS \"%s\" ON %s", parts[ROW].trigger,
                         d->table);
    return rc;
}

sp_guard_t sp_guard_settled(const sp_arcs_t *arcs, int64_t ring_version)
{
    return (sp_guard_t){.form = sp_arcs_is_none(*arcs) ? SP_GUARD_CLOSED : SP_GUARD_OWNS,
                        .arcs = arcs,
                        .ring_version = ring_version,
                        .row_trigger = true};
}

int sp_guard_set(sp_pg_t *pg, const sp_owner_shard_t *shard, const sp_owner_table_t *table,
                 const sp_guard_t *guard, sp_error_t *err)
{
    definition_t d = {0};
    PGresult *found = NULL;
    sp_arena_t *arena = sp_arena_new(0);
    int rc = arena == NULL ? no_memory(err) : define(shard, table, guard, arena, &d, err);
    if (rc == 0)
        rc = replace_functions(pg, &d, arena, err);
    if (rc == 0) {
        const char *params[] = {sp_arena_cstr(arena, table->schema),
                                sp_arena_cstr(arena, table->table),
                                sp_arena_cstr(arena, table->key_column),
                                d.functions[ROW],
                                d.functions[STMT],
                                d.functions[TRUNC]};
        rc = sp_pg_query(pg, SP_SQL_GUARD_TABLE, 6, params, &found, err);
    }
    if (rc == 0 && PQntuples(found) == 0)
        rc = sp_error_set(err, SP_E_NOT_FOUND, "there is no table %s", d.table);
    if (rc == 0 && PQgetvalue(found, 0, 1)[0] != 't')
        rc = sp_error_set(err, SP_E_NOT_FOUND, "table %s has no column of its key column's name",
                          d.table);
    if (rc == 0)
        rc = make_triggers(pg, &d, found, guard->form != SP_GUARD_CLOSED || guard->row_trigger,
                           arena, err);
    PQclear(found);
    sp_arena_destroy(&arena);
    return rc;
}

int sp_guard_drop(sp_pg_t *pg, const sp_owner_table_t *table, sp_error_t *err)
{
    definition_t d = {0};
    sp_arena_t *arena = sp_arena_new(0);
    sp_buf_t sql = SP_BUF_INIT;
    bool named = arena != NULL && name_functions(table, arena, &d) != NULL;
    // CASCADE takes the triggers along, those of partitions too; there may be no table any more.
    for (int i = 0; named && i < N_PARTS; i++)
        sp_buf_printf(&sql, "DROP FUNCTION IF EXISTS shardplane.%s() CASCADE;\n", d.functions[i]);
    int rc = !named || sql.failed ? no_memory(err) : sp_pg_exec(pg, sp_buf_cstr(&sql), err);
    sp_buf_free(&sql);
    sp_arena_destroy(&arena);
    return rc;
}

// ---- digests

static void add_digest_line(sp_buf_t *out, const char *trigger, const char *function,
                            const char *body)
{
    sp_buf_printf(out, "%s %s %zu ", trigger, function,
                  strlen(body)); // NOLINT: bodies are there once define() has succeeded
    sp_buf_addz(out, body);
    sp_buf_addc(out, '\n');
}

static const char *digest_of(sp_buf_t *lines, sp_arena_t *arena)
{
    const char *text = sp_buf_cstr(lines);
    // Two hashes, of the whole and of all but its first byte: 128 bits together. Against accidents and edits by hand, not against forgers.
    char *digest = lines->failed || lines->len < 1
                       ? NULL
                       : sp_arena_printf(arena, "%016" PRIx64 "%016" PRIx64,
                                         (uint64_t)sp_key_hash(text, lines->len),
                                         (uint64_t)sp_key_hash(text + 1, lines->len - 1));
    sp_buf_free(lines);
    return digest;
}

int sp_guard_expected(const sp_owner_shard_t *shard, const sp_owner_table_t *table,
                      const sp_guard_t *guard, sp_arena_t *arena, const char **ret_digest,
                      sp_error_t *err)
{
    definition_t d = {0};
    sp_buf_t lines = SP_BUF_INIT;
    int rc = define(shard, table, guard, arena, &d, err);
    if (rc != 0)
        return rc;
    for (int i = 0; i < N_PARTS; i++)
        if (i != ROW || guard->form != SP_GUARD_CLOSED || guard->row_trigger)
            add_digest_line(&lines, parts[i].trigger, d.functions[i], d.bodies[i]);
    const char *digest = digest_of(&lines, arena);
    if (digest == NULL)
        return no_memory(err);
    *ret_digest = digest;
    return 0;
}

// One row of SP_SQL_GUARD_STATE: which part it is, or -1 when anything about it is not as sp_guard_set made it.
static int state_part(const PGresult *state, int row)
{
    for (int i = 0; i < N_PARTS; i++) {
        if (strcmp(PQgetvalue(state, row, 0), parts[i].trigger) != 0)
            continue;
        bool same = PQgetvalue(state, row, 1)[0] == 'A' &&
                    strtol(PQgetvalue(state, row, 2), NULL, 10) == parts[i].type &&
                    strcmp(PQgetvalue(state, row, 4), "shardplane") == 0 &&
                    strcmp(PQgetvalue(state, row, 5), "plpgsql") == 0 &&
                    PQgetvalue(state, row, 6)[0] == 'f' && PQgetvalue(state, row, 7)[0] == 't';
        return same ? i : -1;
    }
    return -1;
}

int sp_guard_actual(sp_pg_t *pg, const sp_owner_table_t *table, sp_arena_t *arena,
                    const char **ret_digest, sp_error_t *err)
{
    PGresult *state = NULL;
    sp_buf_t lines = SP_BUF_INIT;
    bool seen[N_PARTS] = {false};
    char bare[24]; // tables below it without its guards
    bool none = false;
    const char *params[] = {sp_arena_cstr(arena, table->schema),
                            sp_arena_cstr(arena, table->table)};
    int rc = sp_pg_value(pg, SP_SQL_GUARD_BELOW, 2, params, bare, sizeof bare, &none, err);
    if (rc == 0 && none)
        rc = sp_error_set(err, SP_E_NOT_FOUND, "there is no table " SP_STR_FMT "." SP_STR_FMT,
                          SP_STR_ARG(table->schema), SP_STR_ARG(table->table));
    if (rc == 0)
        rc = sp_pg_query(pg, SP_SQL_GUARD_STATE, 2, params, &state, err);
    if (rc != 0)
        return rc;
    bool intact = strcmp(bare, "0") == 0;
    for (int row = 0; row < PQntuples(state); row++) {
        int part = state_part(state, row);
        intact = intact && part >= 0;
        if (part < 0)
            continue;
        seen[part] = true;
        add_digest_line(&lines, PQgetvalue(state, row, 0), PQgetvalue(state, row, 3),
                        PQgetvalue(state, row, 8));
    }
    PQclear(state);
    if (!intact || !seen[STMT] || !seen[TRUNC]) {
        sp_buf_free(&lines);
        *ret_digest = "";
        return 0;
    }
    const char *digest = digest_of(&lines, arena);
    if (digest == NULL)
        return no_memory(err);
    *ret_digest = digest;
    return 0;
}
