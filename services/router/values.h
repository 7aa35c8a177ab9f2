// Parameters to PostgreSQL's text form, and its results to typed values.
#ifndef SP_ROUTER_VALUES_H
#define SP_ROUTER_VALUES_H

#include "common/base/arena.h"
#include "common/base/error.h"
#include "common/pg/pg.h"
#include "schemas/route.h"

// Text of a parameter, from the arena; *ret_text NULL for SQL NULL. Lists and maps become JSON, bytes \x hex. invalid_argument: NUL inside.
int value_to_text(const sp_value_t *value, sp_arena_t *arena, const char **ret_text,
                  sp_error_t *err);

// What the statements of one attempt gave. Kept in an arena of its own, emptied for the next attempt.
typedef struct results {
    sp_arena_t *arena;                // owned
    sp_msg_statement_result_t *items; // one a statement
    size_t *caps;                     // rows that each list has room for
    size_t n;                         // statements
    size_t bytes, max_bytes;          // of all values, and their limit
    size_t rows, max_rows;            // likewise
    bool overflow;                    // past a limit: later rows were dropped
    bool no_memory;                   // an allocation failed
} results_t;

int results_reset(results_t *self, size_t n, size_t max_rows, size_t max_bytes,
                  sp_error_t *err); // also makes a zeroed one ready
void results_free(results_t *self);
void results_add(results_t *self, size_t index, const PGresult *result);
int results_check(const results_t *self, sp_error_t *err); // too_large, out_of_memory

#endif
