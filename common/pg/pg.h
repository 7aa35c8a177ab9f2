// A PostgreSQL connection for actors: blocking calls with deadlines over asynchronous libpq. Not for event loops (see pipe.h).
// Every connection pins client_encoding UTF8, DateStyle ISO, IntervalStyle postgres, TimeZone UTC, extra_float_digits 3, bytea_output hex,
// search_path pg_catalog (so all names are qualified), default_transaction_isolation read committed, and TCP keepalives and tcp_user_timeout.
#ifndef SP_PG_PG_H
#define SP_PG_PG_H

#include <libpq-fe.h>
#include <stdbool.h>

#include "common/base/error.h"
#include "common/pg/dsn.h"

typedef struct sp_pg sp_pg_t;
typedef struct sp_pg_options {
    const char *application_name; // e.g. shardplane/<job>/<task>
    int connect_timeout_ms;       // 0: 5000
    int query_timeout_ms; // a statement; 0: 30000; -1 none. Past it the statement is cancelled: deadline_exceeded
    bool replication;        // replication=database: for walsenders
    bool replica_role;       // SET session_replication_role = replica (apply)
    const char *search_path; // NULL: pg_catalog
    bool (*stopped)(
        void *
            arg); // polled at least every 100 ms while waiting; true ends the call with `cancelled`. May be NULL
    void *stopped_arg; // its argument
} sp_pg_options_t;

// Errors: pg_connection (redacted), cancelled, deadline_exceeded.
int sp_pg_open(sp_pg_t **ret_self, const sp_dsn_t *dsn, const sp_pg_options_t *options,
               sp_error_t *err);
void sp_pg_close(sp_pg_t **self_p); // NULL is fine; cancels nothing
PGconn *sp_pg_conn(sp_pg_t *self);  // for quoting and COPY loops
int sp_pg_backend_pid(const sp_pg_t *self);
void sp_pg_set_timeout(sp_pg_t *self, int query_timeout_ms);

// No parameters, several statements allowed, results dropped. A PostgreSQL error is sql_error with sqlstate, text and detail in err; a lost
// connection is pg_connection; 40001, 40P01, 55P03, 57P01.. are retryable.
int sp_pg_exec(sp_pg_t *self, const char *sql, sp_error_t *err);
int sp_pg_execf(sp_pg_t *self, sp_error_t *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// Text parameters (NULL is SQL NULL), text results. *ret_result is cleared by the caller with PQclear; untouched on failure.
int sp_pg_query(sp_pg_t *self, const char *sql, int n_params, const char *const *params,
                PGresult **ret_result, sp_error_t *err);
// The same in either form. lengths: of binary values; formats: one a parameter, 1 binary; both NULL: text.
typedef struct sp_pg_params {
    int n;                     // count
    const char *const *values; // NULL is SQL NULL
    const int *lengths;        // bytes
    const int *formats;        // 0 text, 1 binary
    bool binary_result;        // of all columns
} sp_pg_params_t;
int sp_pg_query_params(sp_pg_t *self, const char *sql, const sp_pg_params_t *params,
                       PGresult **ret_result, sp_error_t *err);
// One value of one row into out (cut is an error); *ret_null when it is NULL or there is no row (out is "").
int sp_pg_value(sp_pg_t *self, const char *sql, int n_params, const char *const *params, char *out,
                size_t out_size, bool *ret_null, sp_error_t *err);

// COPY. start: sends `sql` and waits for COPY mode. put/end: to the server. get: *ret_data borrowed until the next get, *ret_len -1 at the end.
int sp_pg_copy_start(sp_pg_t *self, const char *sql, sp_error_t *err);
int sp_pg_copy_put(sp_pg_t *self, const void *data, size_t len, sp_error_t *err);
int sp_pg_copy_end(sp_pg_t *self, const char *error_or_null, int64_t *ret_rows,
                   sp_error_t *err); // error_or_null: abort the COPY
int sp_pg_copy_get(sp_pg_t *self, const char **ret_data, int *ret_len, sp_error_t *err);

// Quoting, into the arena. ident: "a""b". literal: 'it''s' (E'' where needed). qualified: "s"."t".
const char *sp_pg_ident(sp_arena_t *arena, sp_str_t name);
const char *sp_pg_literal(sp_arena_t *arena, sp_str_t text);
const char *sp_pg_qualified(sp_arena_t *arena, sp_str_t schema, sp_str_t table);
// Fills err from a result: code, sqlstate, message, detail.
int sp_pg_result_error(const PGresult *result, sp_error_t *err);
// Whether the statement failed only because a lock was not granted in time, or to end a deadlock (55P03, 40P01). false for NULL.
bool sp_pg_lock_refused(const sp_error_t *err);

#endif
