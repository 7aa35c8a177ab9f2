// pgoutput, protocol version 1: bytes to messages. Every length is checked; a type that is not known is unsupported_version.
#ifndef SP_PG_PGOUTPUT_H
#define SP_PG_PGOUTPUT_H

#include "common/base/arena.h"
#include "common/base/error.h"
#include "common/pg/lsn.h"

// Microseconds from 1970-01-01 to PostgreSQL's epoch, 2000-01-01.
#define SP_PG_EPOCH_US INT64_C(946684800000000)

typedef enum {
    SP_PGO_BEGIN,
    SP_PGO_COMMIT,
    SP_PGO_ORIGIN,
    SP_PGO_RELATION,
    SP_PGO_TYPE,
    SP_PGO_INSERT,
    SP_PGO_UPDATE,
    SP_PGO_DELETE,
    SP_PGO_TRUNCATE,
    SP_PGO_MESSAGE
} sp_pgo_kind_t;
typedef struct sp_pgo_datum {
    char kind;        // 'n' null, 'u' unchanged TOAST, 't' text, 'b' binary
    const char *data; // borrowed from the message
    int len;          // bytes
} sp_pgo_datum_t;
typedef struct sp_pgo_tuple {
    sp_pgo_datum_t *columns; // from the arena
    int n;                   // count; 0: no tuple
} sp_pgo_tuple_t;
typedef struct sp_pgo_column {
    bool key;          // part of the replica identity
    const char *name;  // NUL-terminated
    uint32_t type_oid; // type
    int32_t type_mod;  // atttypmod
} sp_pgo_column_t;
typedef struct sp_pgo_message {
    sp_pgo_kind_t kind;
    sp_lsn_t final_lsn;        // BEGIN: LSN of the commit record; COMMIT: the same
    sp_lsn_t end_lsn;          // COMMIT: behind the commit record
    int64_t commit_us;         // BEGIN, COMMIT: Unix microseconds
    uint32_t xid;              // BEGIN
    uint32_t relation;         // RELATION, INSERT, UPDATE, DELETE: oid on the source
    const char *schema, *name; // RELATION; ORIGIN: name
    char identity;             // RELATION: d, n, f, i
    sp_pgo_column_t *columns;  // RELATION
    int n_columns;             // RELATION
    char old_kind;             // UPDATE, DELETE: 'K' key only, 'O' whole row, 0 none
    sp_pgo_tuple_t old_row;    // UPDATE, DELETE
    sp_pgo_tuple_t new_row;    // INSERT, UPDATE
    uint32_t *truncated;       // TRUNCATE: relations
    int n_truncated;           // TRUNCATE
    bool transactional;        // MESSAGE
    sp_lsn_t message_lsn;      // MESSAGE
    const char *prefix;        // MESSAGE
    const char *content;       // MESSAGE
    size_t content_len;        // MESSAGE
} sp_pgo_message_t;
int sp_pgo_parse(const void *data, size_t len, sp_arena_t *arena, sp_pgo_message_t *ret_message,
                 sp_error_t *err);

#endif
