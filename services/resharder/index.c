// Task `index`: the source's post-data on one target: indexes and all that is not a foreign key, then foreign keys NOT VALID, then their
// validation. A foreign key of a partitioned table has no such form: it is made, checked at once, where the others are validated.
// Each object in a transaction of its own; what is there already is skipped, so a task can be done again.
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/failpoint.h"
#include "common/base/random.h"
#include "services/resharder/schema_plan.h"
#include "services/resharder/task_tables.h"

enum { CLASS_CONSTRAINT = 2606, LOCK_TRIES = 40 };

typedef struct index_task {
    task_t *task;       // owner
    sp_pg_t *pg;        // admin role, target
    schema_plan_t plan; // of post-data
    bool *chosen;       // one an entry: belongs to this task
    int64_t made;       // objects made
} index_task_t;

// Whether a table is one of this task's; by oid on the source, or by name.
static bool is_ours(const index_task_t *self, const plan_entry_t *e)
{
    const sp_msg_task_assign_t *a = self->task->assign;
    for (size_t i = 0; i < task_tables_count(a); i++) {
        const sp_msg_job_table_t *t = task_tables_at(a, i);
        const char *name =
            t->has_oid ? NULL : sp_pg_qualified(self->task->arena, t->schema, t->table);
        if (t->has_oid ? t->oid == (int64_t)e->table
                       : name != NULL && e->table_name != NULL && strcmp(name, e->table_name) == 0)
            return true;
    }
    return false;
}

// When a table's entry is made.
static int64_t phase_of(const plan_entry_t *e)
{
    if (e->contype != 'f')
        return SP_INDEX_PHASE_INDEXES;
    return e->table_kind == 'p' ? SP_INDEX_PHASE_VALIDATE : SP_INDEX_PHASE_FOREIGN_KEYS;
}

// Entries of no sharded table (an index of a materialized view, a rule of a view) are made with the foreign keys, once by each task:
// the second one finds them.
static void choose(index_task_t *self)
{
    int64_t phase = self->task->assign->phase;
    for (size_t i = 0; i < self->plan.n; i++) {
        const plan_entry_t *e = &self->plan.entries[i];
        if (e->left_out)
            continue;
        if (e->entry->class_oid == 0 &&
            e->entry->oid == 0) { // comments and the like: with what they belong to
            for (size_t j = 0; j < i; j++)
                for (size_t d = 0; self->chosen[j] && d < e->entry->n_deps; d++)
                    self->chosen[i] =
                        self->chosen[i] || e->entry->deps[d] == self->plan.entries[j].entry->id;
            continue;
        }
        bool table = e->table_kind == 'r' || e->table_kind == 'p';
        self->chosen[i] =
            table ? is_ours(self, e) && phase_of(e) == phase : phase == SP_INDEX_PHASE_FOREIGN_KEYS;
    }
}

// What says that the object is there. 42P16, of a primary key: the table has one already. The text says so in the server's language.
static bool is_there(const plan_entry_t *e, const sp_error_t *err)
{
    return strcmp(err->sqlstate, "42P07") == 0 || strcmp(err->sqlstate, "42710") == 0 ||
           (strcmp(err->sqlstate, "42P16") == 0 && e->contype == 'p');
}

static int make_one(index_task_t *self, const plan_entry_t *e, const char *sql, sp_error_t *err)
{
    sp_error_t fault = {0};
    int rc = sp_pg_exec(self->pg, "BEGIN", err);
    if (rc == 0)
        rc = sp_owner_hold_epoch(self->pg, self->task->epoch, err);
    if (rc != 0)
        return rc;
    if ((rc = sp_pg_exec(self->pg, sql, &fault)) == 0) {
        self->made++;
        task_progress(self->task, self->made, 0);
        rc = sp_pg_exec(self->pg, "COMMIT", err);
        return rc == 0 ? sp_failpoint("index_after_commit", err) : rc;
    }
    if (rc == SP_E_SQL_ERROR && is_there(e, &fault))
        return sp_pg_exec(self->pg, "ROLLBACK", err);
    if (err != NULL)
        *err = fault;
    // Tables that were copied under two snapshots fit together once the stream has brought both to
    // the same position.
    if (err != NULL && strcmp(fault.sqlstate, "23503") == 0)
        err->retryable = true;
    return sp_error_prefix(err, "making %s %s", e->kind != NULL ? e->kind : "a property of",
                           e->identity != NULL ? e->identity : "an object");
}

// A foreign key: NOT VALID, so that it takes no scan now. That of a partitioned table has no such form, and comes while the follower
// writes: it must not wait for a lock so long that the follower could wait for this session in turn (half of deadlock_timeout's default).
static const char *foreign_key(index_task_t *self, const plan_entry_t *e)
{
    bool partitioned = e->table_kind == 'p';
    bool mark = !partitioned && strstr(e->definition, " NOT VALID") == NULL;
    return sp_arena_printf(self->task->arena, "%sALTER TABLE %s%s ADD CONSTRAINT %s %s%s",
                           partitioned ? "SET LOCAL lock_timeout = '400ms'; " : "",
                           partitioned ? "" : "ONLY ", e->table_name, e->constraint, e->definition,
                           mark ? " NOT VALID" : "");
}

// Again while somebody holds a lock that it needs.
static int make_between(index_task_t *self, const plan_entry_t *e, const char *sql, sp_error_t *err)
{
    for (int i = 0;; i++) {
        sp_error_t fault = {0};
        int rc = make_one(self, e, sql, &fault);
        if (rc == 0)
            return 0;
        if (!sp_pg_lock_refused(&fault) || i >= LOCK_TRIES || task_stopped(self->task)) {
            if (err != NULL)
                *err = fault;
            return rc;
        }
        if ((rc = sp_pg_exec(self->pg, "ROLLBACK", err)) != 0)
            return rc;
        sp_clock_sleep_ms(sp_random_backoff_ms(i, 50, 1000));
    }
}

static int make_chosen(index_task_t *self, sp_error_t *err)
{
    int rc = sp_pg_exec(self->pg, self->plan.section->prelude, err);
    for (size_t i = 0; rc == 0 && i < self->plan.n; i++) {
        const plan_entry_t *e = &self->plan.entries[i];
        if (!self->chosen[i])
            continue;
        bool foreign = e->entry->class_oid == CLASS_CONSTRAINT && e->contype == 'f';
        const char *sql = foreign ? foreign_key(self, e) : e->entry->sql;
        rc = sql == NULL ? sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for an index task")
                         : make_between(self, e, sql, err);
    }
    return rc;
}

// Those that are valid on the source; what is NOT VALID there may hold rows that break it.
static int validate_keys(index_task_t *self, sp_error_t *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < self->plan.n; i++) {
        const plan_entry_t *e = &self->plan.entries[i];
        if (e->left_out || phase_of(e) != SP_INDEX_PHASE_FOREIGN_KEYS || !e->validated ||
            !is_ours(self, e))
            continue;
        const char *sql =
            sp_arena_printf(self->task->arena, "ALTER TABLE %s VALIDATE CONSTRAINT %s",
                            e->table_name, e->constraint);
        rc = sql == NULL ? sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for an index task")
                         : make_one(self, e, sql, err);
    }
    return rc;
}

// The table's own replica identity: while the job runs, the source may have another.
static int set_identity(index_task_t *self, const sp_msg_job_table_t *t, const char *name,
                        sp_error_t *err)
{
    char kind = t->identity_before.len > 0 ? t->identity_before.ptr[0] : '\0';
    if (kind == 'i' && t->identity_before.len > 2) {
        const char *index = sp_pg_ident(self->task->arena, (sp_str_t){t->identity_before.ptr + 2,
                                                                      t->identity_before.len - 2});
        return index == NULL ? sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for an index task")
                             : sp_pg_execf(self->pg, err,
                                           "ALTER TABLE ONLY %s REPLICA IDENTITY USING INDEX %s",
                                           name, index);
    }
    const char *form = kind == 'f'   ? "FULL"
                       : kind == 'n' ? "NOTHING"
                       : kind == 'd' ? "DEFAULT"
                                     : NULL;
    return form == NULL
               ? 0
               : sp_pg_execf(self->pg, err, "ALTER TABLE ONLY %s REPLICA IDENTITY %s", name, form);
}

// Without statistics the first plans on a new shard, and the validation of its foreign keys, would be bad ones.
static int finish_tables(index_task_t *self, sp_error_t *err)
{
    const sp_msg_task_assign_t *a = self->task->assign;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < task_tables_count(a); i++) {
        const sp_msg_job_table_t *t = task_tables_at(a, i);
        const char *name = sp_pg_qualified(self->task->arena, t->schema, t->table);
        if (name == NULL)
            return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for an index task");
        rc = set_identity(self, t, name, err);
        if (rc == 0 && task_tables_is_top(t)) // takes partitions along
            rc = sp_pg_execf(self->pg, err, "ANALYZE %s", name);
    }
    return rc;
}

static int run(index_task_t *self, const dump_t *dump, sp_error_t *err)
{
    sp_pg_t *source = NULL;
    sp_pg_options_t options = {
        .query_timeout_ms =
            -1}; // an index takes what it takes; stop and keepalives end what is dead
    int rc = task_connect(self->task, &self->task->source.admin, NULL, &source, err);
    if (rc == 0)
        rc = schema_plan_make(self->task, source, &dump->post, &self->plan, err);
    sp_pg_close(&source);
    if (rc != 0)
        return sp_error_prefix(err, "source %s", self->task->source.shard_id);
    self->chosen = sp_arena_alloc(self->task->arena, self->plan.n + 1, sizeof *self->chosen);
    if (self->chosen == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for an index task");
    rc = task_connect(self->task, &self->task->targets[0].admin, &options, &self->pg, err);
    if (rc == 0 && self->task->assign->phase == SP_INDEX_PHASE_VALIDATE)
        rc = validate_keys(self, err);
    if (rc == 0) {
        choose(self);
        rc = make_chosen(self, err);
    }
    if (rc == 0 && self->task->assign->phase == SP_INDEX_PHASE_INDEXES)
        rc = finish_tables(self, err);
    return rc == 0 ? 0 : sp_error_prefix(err, "target %s", self->task->targets[0].shard_id);
}

int task_index(task_t *task, sp_msg_task_update_t *result, sp_error_t *err)
{
    index_task_t self = {.task = task};
    const dump_t *dump = NULL;
    if (task->n_targets != 1 || task->assign->tables.n == 0)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "an index task needs one target and tables");
    int rc = dump_get(task, &dump, err);
    if (rc == 0)
        rc = run(&self, dump, err);
    sp_pg_close(&self.pg);
    if (dump != NULL)
        dump_release(&dump);
    result->rows = self.made;
    result->has_rows = true;
    return rc;
}
