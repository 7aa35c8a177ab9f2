// What a statement is, by its words alone: which are allowed in a request, and whether one surely only reads. No parser: whatever is in
// doubt is left to PostgreSQL, or taken for a write.
#ifndef SP_ROUTER_PURE_SQL_H
#define SP_ROUTER_PURE_SQL_H

#include <stdbool.h>

#include "common/base/error.h"
#include "common/base/str.h"

typedef struct sql_class {
    // It starts with a word that can only read: SELECT, VALUES, TABLE, EXPLAIN, WITH without a writing word.
    bool read_keyword;
    // And calls no function by a name that is not known to be harmless. A view or an overload may write still.
    bool surely_reads;
} sql_class_t;

// invalid_argument: not SELECT, INSERT, UPDATE, DELETE, MERGE, WITH, VALUES, TABLE or EXPLAIN of these; more than one statement; SELECT INTO;
// what changes the session (a connection is shared by all requests): such functions, functions that run a text, a written pg_settings; names
// as U&"", which could hide one of them. What the application's own functions do to the session nobody sees.
int sql_classify(sp_str_t sql, sql_class_t *ret_class, sp_error_t *err);

#endif
