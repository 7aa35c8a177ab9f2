// Cutting the script that `pg_restore --verbose` prints into its entries. Pure.
#ifndef SP_RESHARDER_PURE_DUMP_H
#define SP_RESHARDER_PURE_DUMP_H

#include "common/base/arena.h"
#include "common/base/error.h"

typedef struct dump_entry {
    int id; // dump id
    uint32_t
        class_oid; // catalog that the object stands in; 0: none of its own (comments, privileges, ownership of sequences)
    uint32_t oid;  // in that catalog
    const int *deps; // dump ids that it depends on
    size_t n_deps;   // count
    const char *sql; // statements
} dump_entry_t;

typedef struct dump_section {
    const char *prelude;   // settings to make first
    dump_entry_t *entries; // in the order of restoring
    size_t n;              // count
} dump_section_t;

// text is changed, and borrowed by the result. SP_E_MALFORMED, SP_E_OUT_OF_MEMORY.
int dump_cut(char *text, sp_arena_t *arena, dump_section_t *ret_section, sp_error_t *err);

// Whether the sections hold the entries that `pg_restore --list` names, each once. Else something inside an entry, e.g. a comment, looks
// like an entry: SP_E_MALFORMED, and nothing of it may be run.
int dump_check(const dump_section_t *sections, size_t n, const char *list, sp_arena_t *arena,
               sp_error_t *err);

#endif
