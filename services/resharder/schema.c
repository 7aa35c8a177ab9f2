// Task `schema`: the source's pre-data on every target, with closed guards, in one transaction a target.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/failpoint.h"
#include "services/resharder/schema_plan.h"
#include "services/resharder/sql/schema.h"
#include "services/resharder/task_tables.h"

enum { NAME_MAX_BYTES = 500, LIST_MAX = 10000 }; // bounds of job_target.schema_objects

typedef struct target {
    sp_pg_t *pg;          // admin role
    bool *here;           // one an entry: a schema or extension that was there before the job
    const char **objects; // in the order of dropping: `TABLE "a"."b"`
    size_t n_objects;     // count
    bool marked;          // an earlier try of this job was committed here
} target_t;

static int no_memory(sp_error_t *err)
{
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a schema task");
}

static bool is_kind(const plan_entry_t *e, const char *kind)
{
    return e->kind != NULL && strcmp(e->kind, kind) == 0;
}

static bool listed(const sp_msg_job_target_t *target, const char *object)
{
    for (size_t i = 0; i < target->schema_objects.n; i++)
        if (sp_str_eqz(target->schema_objects.items[i], object))
            return true;
    return false;
}

// An object that goes into the list: it has a DROP of its own.
static bool droppable(const plan_entry_t *e)
{
    static const char *const not_alone[] =
        {"TRIGGER",           "RULE",          "POLICY", "TABLE CONSTRAINT",
         "DOMAIN CONSTRAINT", "DEFAULT VALUE", "INDEX"};
    if (e->left_out || e->exists || e->kind == NULL || e->identity == NULL ||
        strlen(e->identity) + strlen(e->kind) >= NAME_MAX_BYTES)
        return false;
    for (size_t i = 0; i < sizeof not_alone / sizeof not_alone[0]; i++)
        if (strcmp(e->kind, not_alone[i]) == 0)
            return false;
    return true;
}

// Sequences of a column go with their table.
static bool is_own_sequence(const plan_entry_t *e)
{
    return is_kind(e, "SEQUENCE") && e->table != 0 && e->table != e->entry->oid;
}

// ---- what is on a target before

static int mark_here(task_t *task, target_t *t, const sp_msg_job_target_t *told,
                     const schema_plan_t *plan, sp_error_t *err)
{
    const char **schemas = sp_arena_alloc(task->arena, plan->n + 1, sizeof *schemas),
               **extensions = sp_arena_alloc(task->arena, plan->n + 1, sizeof *extensions);
    size_t n_schemas = 0, n_extensions = 0;
    PGresult *result = NULL;
    t->here = sp_arena_alloc(task->arena, plan->n + 1, sizeof *t->here);
    if (schemas == NULL || extensions == NULL || t->here == NULL)
        return no_memory(err);
    for (size_t i = 0; i < plan->n; i++) {
        if (is_kind(&plan->entries[i], "SCHEMA"))
            schemas[n_schemas++] = plan->entries[i].identity;
        else if (is_kind(&plan->entries[i], "EXTENSION"))
            extensions[n_extensions++] = plan->entries[i].identity;
    }
    const char *params[] = {schema_text_array(task->arena, schemas, n_schemas),
                            schema_text_array(task->arena, extensions, n_extensions)};
    if (params[0] == NULL || params[1] == NULL)
        return no_memory(err);
    int rc = sp_pg_query(t->pg, SP_SQL_EXISTING, 2, params, &result, err);
    if (rc != 0)
        return rc;
    for (int row = 0; row < PQntuples(result); row++)
        for (size_t i = 0; i < plan->n; i++) {
            const plan_entry_t *e = &plan->entries[i];
            const char *name = e->identity != NULL
                                   ? sp_arena_printf(task->arena, "%s %s", e->kind, e->identity)
                                   : NULL;
            // What an earlier try of this job made is no obstacle: it is dropped and made again.
            if (name != NULL && strcmp(name, PQgetvalue(result, row, 0)) == 0)
                t->here[i] = !listed(told, name);
        }
    PQclear(result);
    return 0;
}

static int list_objects(task_t *task, target_t *t, const schema_plan_t *plan, sp_error_t *err)
{
    t->objects = sp_arena_alloc(task->arena, plan->n + 1, sizeof *t->objects);
    if (t->objects == NULL)
        return no_memory(err);
    for (size_t i = plan->n;
         i-- > 0 && t->n_objects < LIST_MAX;) { // backwards: what depends on others first
        const plan_entry_t *e = &plan->entries[i];
        if (!droppable(e) || t->here[i] || is_own_sequence(e))
            continue;
        if ((t->objects[t->n_objects++] =
                 sp_arena_printf(task->arena, "%s %s", e->kind, e->identity)) == NULL)
            return no_memory(err);
    }
    return 0;
}

// Committed with the objects themselves: tells a later try that they are this job's, even when nobody has recorded the list.
#define MARK_WHERE                                                                                 \
    "job_id = $1 AND attempt = -1 AND table_schema = '' AND table_name = 'schema' AND range_no = " \
    "0"

static int look(task_t *task, size_t i, target_t *t, const schema_plan_t *plan, sp_error_t *err)
{
    char out[8];
    bool null = true;
    sp_pg_options_t options = {.query_timeout_ms = 300000};
    const char *job = sp_arena_cstr(task->arena, task->assign->job_id);
    int rc = task_connect(task, &task->targets[i].admin, &options, &t->pg, err);
    if (rc == 0)
        rc = sp_pg_value(t->pg, "SELECT 1 FROM shardplane.copy_progress WHERE " MARK_WHERE, 1, &job,
                         out, sizeof out, &null, err);
    t->marked = !null;
    if (rc == 0)
        rc = mark_here(task, t, &task->assign->targets.items[i], plan, err);
    return rc == 0 ? list_objects(task, t, plan, err) : rc;
}

// ---- making it

// `TABLE "a"."b"` -> `DROP TABLE IF EXISTS "a"."b" CASCADE`: the kind ends where the identity starts.
static const char *drop_statement(sp_arena_t *arena, const plan_entry_t *e)
{
    bool plain = strcmp(e->kind, "CAST") != 0;
    return sp_arena_printf(arena, "DROP %s IF EXISTS %s%s", e->kind, e->identity,
                           plain ? " CASCADE" : "");
}

static int restore(target_t *t, const schema_plan_t *plan, sp_error_t *err)
{
    int rc = sp_pg_exec(t->pg, plan->section->prelude, err);
    for (size_t i = 0; rc == 0 && i < plan->n; i++) {
        const plan_entry_t *e = &plan->entries[i];
        if (e->left_out || e->exists || t->here[i])
            continue;
        if ((rc = sp_pg_exec(t->pg, e->entry->sql, err)) != 0)
            sp_error_prefix(err, "making %s %s", e->kind != NULL ? e->kind : "a property of",
                            e->identity != NULL ? e->identity : "an object");
    }
    return rc;
}

// Each shard issues its own residue; which one it starts at is set when the source is fenced.
static int spread_sequences(task_t *task, target_t *t, sp_error_t *err)
{
    int64_t stride = task->assign->sequence_stride, step;
    PGresult *result = NULL;
    int rc = stride > 1 ? sp_pg_query(t->pg, SP_SQL_SEQUENCES, 0, NULL, &result, err) : 0;
    for (int i = 0; rc == 0 && result != NULL && i < PQntuples(result); i++) {
        if (sp_str_to_int64(sp_str(PQgetvalue(result, i, 1)), &step) != 0)
            rc = sp_error_set(err, SP_E_MALFORMED, "sequence %s has no increment",
                              PQgetvalue(result, i, 0));
        else if (step % stride != 0) // else the source has the stride already
            rc = sp_pg_execf(t->pg, err, "ALTER SEQUENCE %s INCREMENT BY %" PRId64,
                             PQgetvalue(result, i, 0), step * stride);
    }
    PQclear(result);
    return rc;
}

static int close_guards(task_t *task, size_t i, target_t *t, sp_error_t *err)
{
    sp_guard_t guard = {.form = SP_GUARD_CLOSED,
                        .reason = "in_transition",
                        .job_running = true,
                        .row_trigger = false};
    guard.ring_version = task->assign->ring_version > 0 ? task->assign->ring_version - 1 : 0;
    int rc = 0;
    for (size_t j = 0; rc == 0 && j < task_tables_count(task->assign); j++) {
        const sp_msg_job_table_t *table = task_tables_at(task->assign, j);
        if (!task_tables_is_top(table))
            continue;
        sp_owner_table_t owned = {.schema = table->schema,
                                  .table = table->table,
                                  .key_column = table->key_column};
        rc = sp_guard_set(t->pg, &task->targets[i].owner, &owned, &guard, err);
    }
    return rc;
}

// A late task, of a worker that was given up and goes on, must not drop what is in use by now. Asked once the tables are locked by their
// DROP, so nobody can be copying.
static int check_not_copied(task_t *task, target_t *t, sp_error_t *err)
{
    char out[8];
    bool none = true;
    const char *job = sp_arena_cstr(task->arena, task->assign->job_id);
    int rc =
        sp_pg_value(t->pg,
                    "SELECT 1 FROM shardplane.copy_progress WHERE job_id = $1 AND attempt >= 0 "
                    "LIMIT 1",
                    1, &job, out, sizeof out, &none, err);
    if (rc != 0 || none)
        return rc;
    sp_error_set(err, SP_E_CONFLICT, "rows have been copied already: the tables stay");
    return task_retryable(err, false);
}

static int make_target(task_t *task, size_t i, target_t *t, const schema_plan_t *plan,
                       sp_error_t *err)
{
    const char *job = sp_pg_literal(task->arena, task->assign->job_id);
    int rc = job == NULL ? no_memory(err)
                         : sp_pg_exec(t->pg, "BEGIN; SET LOCAL lock_timeout = '20s'", err);
    if (rc == 0)
        rc = sp_owner_hold_epoch(t->pg, task->epoch, err);
    // Ours are those that an earlier list names, or, once the mark is here, all that we would make.
    for (size_t j = plan->n; rc == 0 && j-- > 0;) {
        const plan_entry_t *e = &plan->entries[j];
        const char *name = e->identity != NULL
                               ? sp_arena_printf(task->arena, "%s %s", e->kind, e->identity)
                               : NULL;
        bool ours = name != NULL && (listed(&task->assign->targets.items[i], name) ||
                                     (t->marked && !t->here[j] && !is_kind(e, "EXTENSION")));
        if (ours && droppable(e) && !is_own_sequence(e))
            rc = sp_pg_exec(t->pg, drop_statement(task->arena, e), err);
    }
    if (rc == 0)
        rc = check_not_copied(task, t, err);
    if (rc == 0)
        rc = restore(t, plan, err);
    if (rc == 0)
        rc = sp_pg_exec(t->pg, "SET LOCAL search_path = pg_catalog", err);
    if (rc == 0)
        rc = spread_sequences(task, t, err);
    if (rc == 0)
        rc = close_guards(task, i, t, err);
    if (rc == 0)
        rc = sp_pg_execf(t->pg, err,
                         "INSERT INTO shardplane.copy_progress (job_id, attempt, table_schema, "
                         "table_name, range_no, rows, bytes) "
                         "VALUES (%s, -1, '', 'schema', 0, 0, 0) ON CONFLICT DO NOTHING",
                         job);
    if (rc == 0)
        rc = sp_failpoint("schema_before_commit", err);
    if (rc == 0)
        rc = sp_pg_exec(t->pg, "COMMIT", err);
    if (rc == 0)
        rc = sp_failpoint("schema_after_commit", err);
    return rc;
}

// ---- telling

static int tell_objects(task_t *task, const target_t *targets, sp_msg_task_update_t *update,
                        sp_error_t *err)
{
    update->schema_objects.items =
        sp_arena_alloc(task->arena, task->n_targets, sizeof *update->schema_objects.items);
    if (update->schema_objects.items == NULL)
        return no_memory(err);
    update->schema_objects.n = task->n_targets;
    for (size_t i = 0; i < task->n_targets; i++) {
        sp_value_t *list = &update->schema_objects.items[i];
        list->kind = SP_VALUE_LIST;
        list->u.list.n = targets[i].n_objects;
        list->u.list.items =
            sp_arena_alloc(task->arena, targets[i].n_objects + 1, sizeof *list->u.list.items);
        if (list->u.list.items == NULL)
            return no_memory(err);
        for (size_t j = 0; j < targets[i].n_objects; j++)
            list->u.list.items[j] = sp_value_str(targets[i].objects[j]);
    }
    return 0;
}

static int run(task_t *task, const dump_t *dump, target_t *targets, sp_msg_task_update_t *result,
               sp_error_t *err)
{
    sp_pg_t *source = NULL;
    schema_plan_t plan = {0};
    int rc = task_connect(task, &task->source.admin, NULL, &source, err);
    if (rc == 0)
        rc = schema_plan_make(task, source, &dump->pre, &plan, err);
    sp_pg_close(&source);
    if (rc != 0)
        return sp_error_prefix(err, "source %s", task->source.shard_id);
    for (size_t i = 0; rc == 0 && i < task->n_targets; i++)
        if ((rc = look(task, i, &targets[i], &plan, err)) != 0)
            sp_error_prefix(err, "target %s", task->targets[i].shard_id);
    // Told before anything is made, so that whatever happens next, the job knows what to undo.
    if (rc == 0)
        rc = tell_objects(task, targets, result, err);
    if (rc == 0) {
        sp_msg_task_update_t intent = {.schema_objects = result->schema_objects};
        rc = task_update(task, &intent, err);
    }
    for (size_t i = 0; rc == 0 && i < task->n_targets; i++)
        if ((rc = make_target(task, i, &targets[i], &plan, err)) != 0)
            sp_error_prefix(err, "target %s", task->targets[i].shard_id);
    return rc;
}

int task_schema(task_t *task, sp_msg_task_update_t *result, sp_error_t *err)
{
    const dump_t *dump = NULL;
    target_t *targets = sp_arena_alloc(task->arena, task->n_targets + 1, sizeof *targets);
    if (targets == NULL)
        return no_memory(err);
    int rc = dump_get_fresh(task, &dump, err);
    if (rc == 0)
        rc = run(task, dump, targets, result, err);
    for (size_t i = 0; i < task->n_targets; i++)
        sp_pg_close(&targets[i].pg); // what is not committed is rolled back
    if (dump != NULL)
        dump_release(&dump);
    return rc;
}
