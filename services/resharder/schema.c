// Task `schema`: the source's pre-data on every target, with closed guards, in one transaction a target.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/failpoint.h"
#include "services/resharder/schema_plan.h"
#include "services/resharder/sql/schema.h"
#include "services/resharder/task_tables.h"

typedef struct target {
    sp_pg_t *pg;    // admin role
    PGresult *made; // kind and identity of what an earlier try of this job has made here
    bool *here;     // one an entry: a schema or extension that stands here now
} target_t;

static int no_memory(sp_error_t *err)
{
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a schema task");
}

static bool is_kind(const plan_entry_t *e, const char *kind)
{
    return e->kind != NULL && strcmp(e->kind, kind) == 0;
}

// They stay between two tries of a job, for others may have put something into them.
static bool is_container(const char *kind)
{
    return strcmp(kind, "SCHEMA") == 0 || strcmp(kind, "EXTENSION") == 0;
}

static bool is_entry(const plan_entry_t *e, const char *kind, const char *identity)
{
    return is_kind(e, kind) && e->identity != NULL && strcmp(e->identity, identity) == 0;
}

// An object that goes into the list: it has a DROP of its own.
static bool droppable(const plan_entry_t *e)
{
    static const char *const not_alone[] =
        {"TRIGGER",           "RULE",          "POLICY", "TABLE CONSTRAINT",
         "DOMAIN CONSTRAINT", "DEFAULT VALUE", "INDEX",  "USER MAPPING"};
    if (e->left_out || e->exists || e->kind == NULL || e->identity == NULL)
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

static int mark_here(task_t *task, target_t *t, const schema_plan_t *plan, sp_error_t *err)
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
            if (is_entry(e, PQgetvalue(result, row, 0), PQgetvalue(result, row, 1)))
                t->here[i] = true;
        }
    PQclear(result);
    return 0;
}

// What an earlier try of this job made is no obstacle: it is dropped and made again.
static int drop_made(task_t *task, target_t *t, sp_error_t *err)
{
    const char *job = sp_arena_cstr(task->arena, task->assign->job_id);
    int rc = sp_pg_query(t->pg, SP_SQL_TAKE_MADE, 1, &job, &t->made, err);
    for (int i = 0; rc == 0 && i < PQntuples(t->made); i++)
        if (!is_container(PQgetvalue(t->made, i, 0)))
            rc = sp_pg_execf(t->pg, err, "DROP %s IF EXISTS %s CASCADE", PQgetvalue(t->made, i, 0),
                             PQgetvalue(t->made, i, 1));
    return rc;
}

// ---- making it

// Committed with the objects themselves: whoever undoes this, or tries it again, knows them whatever dies meanwhile.
static int keep_made(task_t *task, const target_t *t, const schema_plan_t *plan, sp_error_t *err)
{
    size_t most = plan->n + (size_t)PQntuples(t->made), n = 0;
    const char **kinds = sp_arena_alloc(task->arena, most + 1, sizeof *kinds),
               **identities = sp_arena_alloc(task->arena, most + 1, sizeof *identities);
    PGresult *result = NULL;
    if (kinds == NULL || identities == NULL)
        return no_memory(err);
    for (size_t i = plan->n; i-- > 0;) { // backwards: what depends on others first
        const plan_entry_t *e = &plan->entries[i];
        if (!droppable(e) || is_own_sequence(e) || t->here[i])
            continue;
        kinds[n] = e->kind;
        identities[n++] = e->identity;
    }
    for (int i = 0; i < PQntuples(t->made); i++) { // those that stayed, after all that they hold
        if (!is_container(PQgetvalue(t->made, i, 0)))
            continue;
        kinds[n] = PQgetvalue(t->made, i, 0);
        identities[n++] = PQgetvalue(t->made, i, 1);
    }
    const char *params[] = {sp_arena_cstr(task->arena, task->assign->job_id),
                            schema_text_array(task->arena, kinds, n),
                            schema_text_array(task->arena, identities, n)};
    if (params[1] == NULL || params[2] == NULL)
        return no_memory(err);
    int rc = sp_pg_query(t->pg, SP_SQL_KEEP_MADE, 3, params, &result, err);
    PQclear(result);
    return rc;
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
    int rc = sp_pg_value(t->pg, "SELECT 1 FROM shardplane.copy_progress WHERE job_id = $1 LIMIT 1",
                         1, &job, out, sizeof out, &none, err);
    if (rc != 0 || none)
        return rc;
    sp_error_set(err, SP_E_CONFLICT, "rows have been copied already: the tables stay");
    return task_retryable(err, false);
}

static int make_target(task_t *task, size_t i, target_t *t, const schema_plan_t *plan,
                       sp_error_t *err)
{
    int rc = sp_pg_exec(t->pg, "BEGIN; SET LOCAL lock_timeout = '20s'", err);
    if (rc == 0)
        rc = sp_owner_hold_epoch(t->pg, task->epoch, err);
    if (rc == 0)
        rc = drop_made(task, t, err);
    if (rc == 0)
        rc = check_not_copied(task, t, err);
    if (rc == 0)
        rc = mark_here(task, t, plan, err);
    if (rc == 0)
        rc = restore(t, plan, err);
    if (rc == 0)
        rc = sp_pg_exec(t->pg, "SET LOCAL search_path = pg_catalog", err);
    if (rc == 0)
        rc = spread_sequences(task, t, err);
    if (rc == 0)
        rc = close_guards(task, i, t, err);
    if (rc == 0)
        rc = keep_made(task, t, plan, err);
    if (rc == 0)
        rc = sp_failpoint("schema_before_commit", err);
    if (rc == 0)
        rc = sp_pg_exec(t->pg, "COMMIT", err);
    if (rc == 0)
        rc = sp_failpoint("schema_after_commit", err);
    return rc;
}

static int run(task_t *task, const dump_t *dump, target_t *targets, sp_error_t *err)
{
    sp_pg_t *source = NULL;
    schema_plan_t plan = {0};
    int rc = task_connect(task, &task->source.admin, NULL, &source, err);
    if (rc == 0)
        rc = schema_plan_make(task, source, &dump->pre, &plan, err);
    sp_pg_close(&source);
    if (rc != 0)
        return sp_error_prefix(err, "source %s", task->source.shard_id);
    // Before anything is made: who terminates the task's sessions gets them all.
    sp_pg_options_t options = {.query_timeout_ms = 300000};
    for (size_t i = 0; rc == 0 && i < task->n_targets; i++)
        if ((rc = task_connect(task, &task->targets[i].admin, &options, &targets[i].pg, err)) != 0)
            sp_error_prefix(err, "target %s", task->targets[i].shard_id);
    for (size_t i = 0; rc == 0 && i < task->n_targets; i++)
        if ((rc = make_target(task, i, &targets[i], &plan, err)) != 0)
            sp_error_prefix(err, "target %s", task->targets[i].shard_id);
    return rc;
}

int task_schema(task_t *task, sp_msg_task_update_t *result, sp_error_t *err)
{
    (void)result;
    const dump_t *dump = NULL;
    target_t *targets = sp_arena_alloc(task->arena, task->n_targets + 1, sizeof *targets);
    if (targets == NULL)
        return no_memory(err);
    int rc = dump_get_fresh(task, &dump, err);
    if (rc == 0)
        rc = run(task, dump, targets, err);
    for (size_t i = 0; i < task->n_targets; i++) {
        PQclear(targets[i].made);
        sp_pg_close(&targets[i].pg); // what is not committed is rolled back
    }
    if (dump != NULL)
        dump_release(&dump);
    return rc;
}
