#include "services/resharder/schema_plan.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "services/resharder/sql/schema.h"

enum { CLASS_EXTENSION = 3079, CLASS_NAMESPACE = 2615, CLASS_REWRITE = 2618, CLASS_CLASS = 1259 };

const char *schema_text_array(sp_arena_t *arena, const char *const *items, size_t n)
{
    sp_buf_t out = SP_BUF_INIT;
    sp_buf_addc(&out, '{');
    for (size_t i = 0; i < n; i++) {
        sp_buf_addz(&out, i > 0 ? ",\"" : "\"");
        for (const char *p = items[i]; *p != '\0'; p++) {
            if (*p == '"' || *p == '\\')
                sp_buf_addc(&out, '\\');
            sp_buf_addc(&out, *p);
        }
        sp_buf_addc(&out, '"');
    }
    sp_buf_addc(&out, '}');
    const char *result = out.failed ? NULL : sp_arena_strz(arena, sp_buf_cstr(&out));
    sp_buf_free(&out);
    return result;
}

static int ask(task_t *task, sp_pg_t *source, const dump_section_t *section, PGresult **ret_result,
               sp_error_t *err)
{
    sp_buf_t classes = SP_BUF_INIT, oids = SP_BUF_INIT;
    size_t n = task->assign->ignored_tables.n;
    const char **ignored = sp_arena_alloc(task->arena, n + 1, sizeof *ignored);
    for (size_t i = 0; ignored != NULL && i < n; i++)
        ignored[i] = sp_arena_cstr(task->arena, task->assign->ignored_tables.items[i]);
    const char *list = ignored != NULL ? schema_text_array(task->arena, ignored, n) : NULL;
    for (size_t i = 0; i < section->n; i++) {
        sp_buf_printf(&classes, "%c%u", i > 0 ? ',' : '{', section->entries[i].class_oid);
        sp_buf_printf(&oids, "%c%u", i > 0 ? ',' : '{', section->entries[i].oid);
    }
    sp_buf_addz(&classes, section->n > 0 ? "}" : "{}");
    sp_buf_addz(&oids, section->n > 0 ? "}" : "{}");
    const char *params[] = {sp_buf_cstr(&classes), sp_buf_cstr(&oids), list};
    int rc = list == NULL || classes.failed || oids.failed
                 ? sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the schema's entries")
                 : sp_pg_query(source, SP_SQL_ENTRIES, 3, params, ret_result, err);
    sp_buf_free(&classes);
    sp_buf_free(&oids);
    return rc;
}

static const char *text(sp_arena_t *arena, const PGresult *r, int row, int column)
{
    return PQgetisnull(r, row, column) ? NULL : sp_arena_strz(arena, PQgetvalue(r, row, column));
}

static void fill(task_t *task, const PGresult *r, int row, plan_entry_t *e)
{
    e->left_out = PQgetvalue(r, row, 1)[0] == 't';
    e->kind = text(task->arena, r, row, 2);
    e->identity = text(task->arena, r, row, 3);
    e->table = (uint32_t)strtoul(PQgetvalue(r, row, 4), NULL, 10);
    e->contype = PQgetvalue(r, row, 5)[0];
    e->validated = PQgetvalue(r, row, 6)[0] == 't';
    e->definition = text(task->arena, r, row, 7);
    e->table_name = text(task->arena, r, row, 8);
    e->table_kind = PQgetvalue(r, row, 9)[0];
    e->constraint = text(task->arena, r, row, 10);
    e->exists = e->entry->class_oid == CLASS_NAMESPACE && e->identity != NULL &&
                strcmp(e->identity, "\"public\"") == 0;
}

// What has no object of its own, and views: left out with what they depend on. (Anything else that depends on an ignored table fails
// when it is restored, and says so.)
static bool follows(const plan_entry_t *e)
{
    return e->entry->class_oid == 0 || e->entry->class_oid == CLASS_REWRITE ||
           (e->entry->class_oid == CLASS_CLASS && (e->table_kind == 'v' || e->table_kind == 'm'));
}

static bool starts(const char *sql, const char *words)
{
    while (*sql == '\n' || *sql == ' ' || (sql[0] == '-' && sql[1] == '-')) {
        if (*sql == '-') {
            const char *line_end = strchr(sql, '\n');
            if (line_end == NULL)
                return false;
            sql = line_end;
        }
        sql++;
    }
    return strncmp(sql, words, strlen(words)) == 0;
}

static void spread(schema_plan_t *plan)
{
    for (size_t i = 0; i < plan->n; i++) {
        plan_entry_t *e = &plan->entries[i];
        if (e->left_out)
            continue;
        // Comments on what is there already would need its owner's rights.
        if (e->entry->class_oid == 0 && (starts(e->entry->sql, "COMMENT ON EXTENSION ") ||
                                         starts(e->entry->sql, "COMMENT ON SCHEMA public ")))
            e->left_out = true;
        for (size_t j = 0; follows(e) && j < i; j++)
            for (size_t d = 0; plan->entries[j].left_out && d < e->entry->n_deps; d++)
                e->left_out = e->left_out || e->entry->deps[d] == plan->entries[j].entry->id;
    }
}

int schema_plan_make(task_t *task, sp_pg_t *source, const dump_section_t *section,
                     schema_plan_t *ret_plan, sp_error_t *err)
{
    PGresult *result = NULL;
    schema_plan_t plan = {.n = section->n, .section = section};
    plan.entries = sp_arena_alloc(task->arena, section->n + 1, sizeof *plan.entries);
    if (plan.entries == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the schema's entries");
    int rc = ask(task, source, section, &result, err);
    if (rc != 0)
        return rc;
    if ((size_t)PQntuples(result) != section->n) {
        rc = sp_error_set(err, SP_E_INTERNAL, "the source told of %d entries out of %zu",
                          PQntuples(result), section->n);
    } else {
        for (size_t i = 0; i < section->n; i++) {
            plan.entries[i].entry = &section->entries[i];
            fill(task, result, (int)i, &plan.entries[i]);
        }
        spread(&plan);
        *ret_plan = plan;
    }
    PQclear(result);
    return rc;
}
