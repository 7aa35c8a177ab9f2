// Which entries of a dump are restored on targets, and what PostgreSQL's catalogs say about each.
#ifndef SP_RESHARDER_SCHEMA_PLAN_H
#define SP_RESHARDER_SCHEMA_PLAN_H

#include "services/resharder/dump.h"

typedef struct plan_entry {
    const dump_entry_t *entry; // in the dump
    bool left_out;             // stays on the source
    bool exists;               // stands on every database: public
    const char *kind;          // as in DROP: TABLE, SCHEMA, ...; NULL for entries without an object
    const char *identity;      // quoted and qualified; NULL likewise
    uint32_t table;            // oid of the table that it belongs to, or 0
    const char *table_name;    // quoted and qualified, or NULL
    char table_kind;           // relkind of it, or 0
    char contype;              // of a constraint: p, u, f, x, c; else 0
    bool validated;            // constraint: validated on the source
    const char *definition;    // constraint: pg_get_constraintdef
    const char *constraint;    // constraint: quoted name
} plan_entry_t;

typedef struct schema_plan {
    plan_entry_t *entries;         // one an entry of the section, in order
    size_t n;                      // count
    const dump_section_t *section; // what it is of
} schema_plan_t;

// Asks the source. Everything is in the task's arena; the dump must outlive it.
int schema_plan_make(task_t *task, sp_pg_t *source, const dump_section_t *section,
                     schema_plan_t *ret_plan, sp_error_t *err);

// "{a,b}" literal of texts, or of numbers, as a query parameter; NULL without memory.
const char *schema_text_array(sp_arena_t *arena, const char *const *items, size_t n);

#endif
