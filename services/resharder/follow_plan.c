#include "services/resharder/follow_plan.h"

#include <stdlib.h>
#include <string.h>

static int no_memory(sp_error_t *err)
{
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the follower's plan");
}

static int column_index(const sp_msg_job_table_t *plan, const char *name)
{
    for (size_t i = 0; i < plan->columns.n; i++)
        if (sp_str_eqz(plan->columns.items[i], name))
            return (int)i;
    return -1;
}

// ---- tables

static const char columns_sql[] =
    "WITH RECURSIVE base AS (SELECT a.attname, a.attidentity, a.attnotnull, a.atttypid AS typ FROM "
    "pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
    "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2 AND "
    "a.attnum > 0 AND NOT a.attisdropped "
    "UNION ALL SELECT b.attname, b.attidentity, b.attnotnull, t.typbasetype FROM base b JOIN "
    "pg_type t ON t.oid = b.typ AND t.typbasetype <> 0) "
    "SELECT b.attname, b.attidentity, b.typ, b.attnotnull, t.typcategory FROM base b JOIN pg_type "
    "t ON t.oid = b.typ AND t.typbasetype = 0";

// Something that a NOT NULL column of a type that can be out of line takes.
static const char *placeholder(const char *type, char category)
{
    if (strcmp(type, "114") == 0 || strcmp(type, "3802") == 0) // json, jsonb
        return "null";
    return category == 'A' ? "{}" : category == 'N' ? "0" : "";
}

static int read_columns(task_t *task, sp_pg_t *source, follow_table_t *table, sp_error_t *err)
{
    const sp_msg_job_table_t *plan = table->plan;
    const char *params[] = {sp_arena_cstr(task->arena, plan->schema),
                            sp_arena_cstr(task->arena, plan->table)};
    PGresult *result = NULL;
    if (!params[0] || !params[1])
        return no_memory(err);
    int rc = sp_pg_query(source, columns_sql, 2, params, &result, err);
    if (rc)
        return rc;
    for (int i = 0; i < PQntuples(result); i++) {
        const char *name = PQgetvalue(result, i, 0);
        int at = column_index(plan, name);
        if (at >= 0) {
            table->always_identity[at] = PQgetvalue(result, i, 1)[0] == 'a';
            if (PQgetvalue(result, i, 3)[0] == 't')
                table->placeholders[at] =
                    placeholder(PQgetvalue(result, i, 2), PQgetvalue(result, i, 4)[0]);
        }
        if (sp_str_eqz(plan->key_column, name))
            table->key_base_type = (uint32_t)strtoul(PQgetvalue(result, i, 2), NULL, 10);
    }
    PQclear(result);
    if (table->key_base_type == 0)
        return sp_error_set(err, SP_E_SCHEMA_CHANGED,
                            "table %s or its key column is gone from the source", table->qualified);
    return 0;
}

static int make_table(task_t *task, sp_pg_t *source, const sp_msg_job_table_t *plan,
                      follow_table_t *table, sp_error_t *err)
{
    table->plan = plan;
    table->qualified = sp_pg_qualified(task->arena, plan->schema, plan->table);
    table->always_identity = sp_arena_alloc(task->arena, plan->columns.n + 1, sizeof(bool));
    table->placeholders =
        sp_arena_alloc(task->arena, plan->columns.n + 1, sizeof *table->placeholders);
    if (!table->qualified || !table->always_identity || !table->placeholders)
        return no_memory(err);
    if (plan->columns.n == 0 || plan->primary_key.n == 0)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "the job names no columns or no primary key of %s", table->qualified);
    if (plan->start_lsn.len > 0) {
        int rc = sp_lsn_parse(plan->start_lsn, &table->start_lsn, err);
        if (rc)
            return rc;
    }
    return read_columns(task, source, table, err);
}

int follow_plan_make(task_t *task, sp_pg_t *source, follow_plan_t *ret_plan, sp_error_t *err)
{
    const sp_msg_task_assign_t *assign = task->assign;
    follow_plan_t plan = {.n_tables = assign->tables.n, .n_targets = assign->targets.n};
    if (plan.n_tables == 0 || plan.n_targets == 0)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "a follower needs tables and targets");
    plan.tables = sp_arena_alloc(task->arena, plan.n_tables, sizeof *plan.tables);
    plan.bounds = sp_arena_alloc(task->arena, plan.n_targets, sizeof *plan.bounds);
    if (!plan.tables || !plan.bounds)
        return no_memory(err);
    for (size_t i = 0; i < plan.n_targets; i++) {
        plan.bounds[i] =
            (sp_arcs_t){assign->targets.items[i].bounds.items, assign->targets.items[i].bounds.n};
        int rc = sp_arcs_validate(plan.bounds[i], err);
        if (rc)
            return rc;
        for (size_t j = 0; j < i; j++)
            if (sp_arcs_overlap(plan.bounds[i], plan.bounds[j]))
                return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                                    "targets %zu and %zu of the job share arcs", j, i);
    }
    for (size_t i = 0; i < plan.n_tables; i++) {
        int rc = make_table(task, source, &assign->tables.items[i], &plan.tables[i], err);
        if (rc)
            return rc;
        if (i == 0 || plan.tables[i].start_lsn < plan.first_start)
            plan.first_start = plan.tables[i].start_lsn;
    }
    plan.source_keeps = assign->source_bounds_after.n > 0;
    *ret_plan = plan;
    return 0;
}

// ---- relations

static bool in_primary_key(const sp_msg_job_table_t *plan, const char *name)
{
    for (size_t i = 0; i < plan->primary_key.n; i++)
        if (sp_str_eqz(plan->primary_key.items[i], name))
            return true;
    return false;
}

// Columns that tell the row: the primary key where the identity holds all of it, else the whole identity.
static int choose_identity(follow_relation_t *r, const sp_pgo_message_t *m, sp_error_t *err)
{
    size_t pk = 0;
    int flagged = 0;
    for (int i = 0; i < r->n; i++) {
        if (!r->columns[i].key)
            continue;
        flagged++;
        pk += in_primary_key(r->table->plan, r->columns[i].name);
    }
    bool by_pk = pk == r->table->plan->primary_key.n;
    if (flagged == 0 || (!by_pk && m->identity == 'f'))
        return sp_error_set(err, SP_E_SCHEMA_CHANGED,
                            "the replica identity of %s does not tell its rows",
                            r->table->qualified);
    for (int i = 0; i < r->n; i++)
        r->identify[i] =
            r->columns[i].key && (!by_pk || in_primary_key(r->table->plan, r->columns[i].name));
    if (!r->columns[r->key].key)
        return sp_error_set(err, SP_E_SCHEMA_CHANGED,
                            "the replica identity of %s does not hold its key column",
                            r->table->qualified);
    return 0;
}

static int match_columns(follow_relation_t *r, const sp_pgo_message_t *m, sp_arena_t *arena,
                         sp_error_t *err)
{
    const follow_table_t *t = r->table;
    r->key = -1;
    if (m->n_columns != (int)t->plan->columns.n)
        return sp_error_set(err, SP_E_SCHEMA_CHANGED,
                            "%s has %d columns in the stream and %zu in the job's plan",
                            t->qualified, m->n_columns, t->plan->columns.n);
    for (int i = 0; i < m->n_columns; i++) {
        r->columns[i] = m->columns[i];
        r->columns[i].name = sp_arena_strz(arena, m->columns[i].name);
        if (!r->columns[i].name)
            return no_memory(err);
        int at = column_index(t->plan, m->columns[i].name);
        if (at < 0)
            return sp_error_set(err, SP_E_SCHEMA_CHANGED,
                                "column %s of %s is not in the job's plan", m->columns[i].name,
                                t->qualified);
        r->fixed[i] = t->always_identity[at];
        r->placeholders[i] = t->placeholders[at];
        if (sp_str_eqz(t->plan->key_column, m->columns[i].name))
            r->key = i;
    }
    if (r->key < 0)
        return sp_error_set(err, SP_E_SCHEMA_CHANGED, "the key column of %s is not in the stream",
                            t->qualified);
    return 0;
}

bool follow_relation_same(const follow_relation_t *relation, const sp_pgo_message_t *message)
{
    const follow_relation_t *r = relation;
    if (r->oid != message->relation || r->identity != message->identity ||
        r->n != message->n_columns || !sp_str_eqz(r->table->plan->schema, message->schema) ||
        !sp_str_eqz(r->table->plan->table, message->name))
        return false;
    for (int i = 0; i < r->n; i++) {
        const sp_pgo_column_t *a = &r->columns[i], *b = &message->columns[i];
        if (a->key != b->key || a->type_oid != b->type_oid || a->type_mod != b->type_mod ||
            strcmp(a->name, b->name) != 0)
            return false;
    }
    return true;
}

int follow_relation_make(const follow_plan_t *plan, const sp_pgo_message_t *message,
                         sp_arena_t *arena, follow_relation_t **ret_relation, sp_error_t *err)
{
    const follow_table_t *table = NULL;
    for (size_t i = 0; i < plan->n_tables && !table; i++)
        if (sp_str_eqz(plan->tables[i].plan->schema, message->schema) &&
            sp_str_eqz(plan->tables[i].plan->table, message->name))
            table = &plan->tables[i];
    if (!table)
        return sp_error_set(err, SP_E_SCHEMA_CHANGED,
                            "the stream carries table %s.%s, which is not one of the job's",
                            message->schema, message->name);
    if (table->plan->has_oid && table->plan->oid != (int64_t)message->relation)
        return sp_error_set(err, SP_E_SCHEMA_CHANGED,
                            "%s is another table now than the one that was copied",
                            table->qualified);
    follow_relation_t *r = sp_arena_alloc(arena, 1, sizeof *r);
    size_t n = (size_t)message->n_columns + 1;
    if (!r)
        return no_memory(err);
    *r = (follow_relation_t){.oid = message->relation, .table = table, .n = message->n_columns};
    r->identity = message->identity;
    r->columns = sp_arena_alloc(arena, n, sizeof *r->columns);
    r->identify = sp_arena_alloc(arena, n, 1);
    r->fixed = sp_arena_alloc(arena, n, 1);
    r->placeholders = sp_arena_alloc(arena, n, sizeof *r->placeholders);
    if (!r->columns || !r->identify || !r->fixed || !r->placeholders)
        return no_memory(err);
    int rc = match_columns(r, message, arena, err);
    if (!rc)
        rc = choose_identity(r, message, err);
    if (!rc)
        *ret_relation = r;
    return rc;
}
