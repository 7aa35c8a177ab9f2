// What the follower knows before the first change: the job's tables and arcs; and the relations of the stream matched with them.
#ifndef SP_RESHARDER_FOLLOW_PLAN_H
#define SP_RESHARDER_FOLLOW_PLAN_H

#include "common/pg/pgoutput.h"
#include "common/ring/arcs.h"
#include "services/resharder/task.h"

typedef struct follow_table {
    const sp_msg_job_table_t *plan; // as the job recorded it
    const char *qualified;          // quoted
    sp_lsn_t start_lsn;             // changes whose commit begins below are in the copy; 0: none is
    uint32_t key_base_type;         // of the key column, domains resolved
    bool *
        always_identity; // a column of the plan each: GENERATED ALWAYS AS IDENTITY, which no UPDATE may set
    const char **
        placeholders; // a column of the plan each: value until the right one comes; NULL is SQL NULL
} follow_table_t;

typedef struct follow_plan {
    follow_table_t *tables; // of the job
    size_t n_tables;        // count
    sp_arcs_t *bounds;      // what moves to each target
    size_t n_targets;       // count
    sp_lsn_t first_start;   // least start_lsn; 0 when a table has none
    bool source_keeps;      // the source keeps some arcs
} follow_plan_t;

// Reads the assignment and, from the source, the types of the key columns and the identity columns. schema_changed when a table is gone.
int follow_plan_make(task_t *task, sp_pg_t *source, follow_plan_t *ret_plan, sp_error_t *err);

// One shape of statement: an operation and the columns that it sets.
typedef enum { SHAPE_INSERT, SHAPE_UPDATE, SHAPE_DELETE, SHAPE_SELECT } shape_kind_t;
typedef struct follow_shape {
    shape_kind_t kind;         // operation
    unsigned char *set;        // a byte a column of the relation: in the column list
    char name[24];             // of the prepared statement
    const char *sql;           // text
    int n_params;              // parameters
    unsigned number;           // index into a lane's list of what it has prepared
    struct follow_shape *next; // of the same relation
} follow_shape_t;

typedef struct follow_relation {
    uint32_t oid;                 // on the source
    const follow_table_t *table;  // of the plan
    sp_pgo_column_t *columns;     // as streamed, names copied
    char identity;                // as streamed
    int n;                        // count
    unsigned char *identify;      // a byte a column: in WHERE
    unsigned char *fixed;         // a byte a column: GENERATED ALWAYS AS IDENTITY
    const char **placeholders;    // of the table, in the stream's order
    int key;                      // index of the key column
    follow_shape_t *shapes;       // statements so far
    struct follow_relation *next; // list
} follow_relation_t;

// Matches a RELATION message with the plan, by name. schema_changed, not retryable, when its columns are not the plan's, when it is
// another table under the same name, or when its replica identity cannot tell the row and its key. Everything from the arena.
int follow_relation_make(const follow_plan_t *plan, const sp_pgo_message_t *message,
                         sp_arena_t *arena, follow_relation_t **ret_relation, sp_error_t *err);

// Whether a RELATION message says nothing new: the source sends it again after each ANALYZE.
bool follow_relation_same(const follow_relation_t *relation, const sp_pgo_message_t *message);

// The statement of that shape; made when it is the first of its kind. set: a byte a column (ignored for DELETE and SELECT, which selects
// all columns). *counter numbers the shapes of one session.
int follow_shape_get(follow_relation_t *relation, shape_kind_t kind, const unsigned char *set,
                     unsigned *counter, sp_arena_t *arena, const follow_shape_t **ret_shape,
                     sp_error_t *err);

// The key's hash, from the column's text or binary form. malformed when the bytes are no key.
int follow_key_hash(const follow_relation_t *relation, const sp_pgo_datum_t *key, int64_t *ret_hash,
                    sp_error_t *err);
// "schema.table (id=7)", for people; binary values of integer and uuid keys are printed.
const char *follow_row_text(const follow_relation_t *relation, const sp_pgo_tuple_t *row, char *out,
                            size_t size);

#endif
