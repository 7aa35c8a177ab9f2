// Shared by pg.c, copy.c and replication.c; nobody else includes it.
#ifndef SP_PG_INTERNAL_H
#define SP_PG_INTERNAL_H

#include "common/base/arena.h"
#include "common/pg/pg.h"

struct sp_pg {
    PGconn *conn;               // connection, non-blocking
    sp_arena_t *arena;          // of dsn
    sp_dsn_t dsn;               // own copy, for scrubbing
    char where[200];            // "PostgreSQL at host:port/db"
    int query_timeout_ms;       // a statement; -1 none
    bool replication;           // a walsender: simple queries only
    bool broken;                // not usable any more
    bool (*stopped)(void *arg); // or NULL
    void *stopped_arg;          // its argument
    char *copy_data;            // last row handed out, PQfreemem
    size_t unflushed;           // COPY bytes given to libpq since its buffer was last seen empty
};

int64_t sp_pg_deadline(const sp_pg_t *self); // monotonic ms of a statement that starts now
// Waits for poll events: 0, cancelled, deadline_exceeded, pg_connection.
int sp_pg_wait(sp_pg_t *self, short events, int64_t deadline, sp_error_t *err);
int sp_pg_flush(sp_pg_t *self, int64_t deadline, sp_error_t *err);
int sp_pg_lost(sp_pg_t *self, sp_error_t *err); // marks broken; pg_connection
// Reads all results of the running command. *ret_result is the last one, NULL, or the one that shows a COPY state.
int sp_pg_collect(sp_pg_t *self, int64_t deadline, PGresult **ret_result, sp_error_t *err);
// Takes a message of a COPY into copy_data without waiting: *ret_len is its length, 0 when none is there yet, -1 at the end (an error
// that ended it is returned).
int sp_pg_copy_take(sp_pg_t *self, int64_t deadline, int *ret_len, sp_error_t *err);
// Asks the server to cancel what runs on the connection. False when that is not over yet after `ms`: it may still hit whatever runs then.
bool sp_pg_cancel_within(PGconn *conn, int ms);
int sp_pg_abandoned(sp_pg_t *self,
                    int rc); // cancels what runs when rc is a timeout or a stop; returns rc

#endif
