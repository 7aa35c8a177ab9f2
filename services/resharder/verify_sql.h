// The queries that `verify` compares shards with.
#ifndef SP_RESHARDER_VERIFY_SQL_H
#define SP_RESHARDER_VERIFY_SQL_H

#include "services/resharder/pure_split.h"
#include "services/resharder/task.h"

typedef struct verify_sql {
    const char *name;     // quoted table
    const char *key_hash; // expression: the key's hash
    const char *row_hash; // expression: all columns of a row as one bigint
    const char *row_name; // expression: primary key for people
    const char *starts;   // literal of int8[]: pieces of the route
    const char *moving;   // literal of int8[]: bounds of all that moves, together
    bool all_moves;       // they are the whole space
} verify_sql_t;

// Asks the source for the columns. Everything is in the task's arena.
int verify_sql_make(task_t *task, sp_pg_t *source, const split_route_t *route,
                    verify_sql_t *ret_self, sp_error_t *err);
// Groups of rows with from <= key hash <= to: piece, hash >> shift, count, sum of row hashes. moving_only: on the source.
const char *verify_groups(sp_arena_t *arena, const verify_sql_t *self, int64_t from, int64_t to,
                          int shift, bool moving_only);
// The rows themselves: name, row hash; ordered by both, the first `limit` of them.
const char *verify_rows(sp_arena_t *arena, const verify_sql_t *self, int64_t from, int64_t to,
                        int limit);

#endif
