// One pipelined connection for event loops: nothing here blocks (but for looking up a host name when it connects). It owns no loop: after
// each call the caller polls sp_pipe_fd() for reading, and for writing when sp_pipe_wants_write(), and calls sp_pipe_tick() at least
// every 50 ms. A request is its statements and one Sync: one implicit transaction.
// Settings are pinned as in pg.h, but for search_path, which is the role's.
#ifndef SP_PG_PIPE_H
#define SP_PG_PIPE_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"
#include "common/pg/dsn.h"

typedef struct sp_pipe sp_pipe_t;

typedef struct sp_pipe_options {
    const char *application_name; // shown in pg_stat_activity
    int connect_timeout_ms;       // 0: 3000
    int statement_timeout_ms;     // the session's; 0: 30000
    bool
        read_only; // default_transaction_read_only, for replicas; without it a standby is no server
    size_t cache;  // prepared statements, 0: 256
} sp_pipe_options_t;

typedef struct sp_pipe_statement {
    const char *sql;           // text with $1..$n
    int n_params;              // count
    const char *const *values; // text form; NULL is SQL NULL; types are the server's to infer
} sp_pipe_statement_t;

// A result of statement `index`: one row (PGRES_SINGLE_TUPLE) each time, then PGRES_TUPLES_OK or PGRES_COMMAND_OK. Borrowed for the call.
// Also called when a later statement fails: what it says counts only once done tells success.
typedef void(sp_pipe_result_fn)(void *arg, size_t index, const PGresult *result);
// Exactly once a request, never from inside sp_pipe_submit(). err->code:
//   0                  committed
//   sql_error          rolled back; sqlstate, text, detail; `statement` is its index (n: the commit itself)
//   unavailable        the connection is lost or cannot be made, and nothing was committed: try again
//   outcome_unknown    lost, or too late, after Sync was sent and before the answer
//   deadline_exceeded  too late, and nothing was changed
typedef void(sp_pipe_done_fn)(void *arg, const sp_error_t *err, size_t statement);

typedef struct sp_pipe_request {
    const sp_pipe_statement_t *statements; // borrowed until done
    size_t n;                              // count, at least 1
    int64_t deadline_mono_ms;              // give up then
    bool read_only; // changes nothing: losing it is unavailable, being late deadline_exceeded
    sp_pipe_result_fn *on_result; // may be NULL
    sp_pipe_done_fn *done;        // see there
    void *arg;                    // for both
} sp_pipe_request_t;

// Copies dsn; connects at the first tick. SP_E_OUT_OF_MEMORY.
int sp_pipe_new(sp_pipe_t **ret_self, const sp_dsn_t *dsn, const sp_pipe_options_t *options,
                sp_error_t *err);
// Ends all requests as if the connection were lost, closes. NULL is fine. Not from inside a callback.
void sp_pipe_destroy(sp_pipe_t **self_p);

int sp_pipe_fd(const sp_pipe_t *self); // -1: nothing to poll now. May change with every call
bool sp_pipe_wants_write(const sp_pipe_t *self);
void sp_pipe_ready(sp_pipe_t *self); // the descriptor became readable or writable
void sp_pipe_tick(sp_pipe_t *self);  // connects, reconnects, looks at deadlines

bool sp_pipe_up(const sp_pipe_t *self); // connected
size_t
sp_pipe_depth(const sp_pipe_t *self); // requests whose answer is not complete, also given-up ones
const char *
sp_pipe_fault(const sp_pipe_t *self);            // why it is not connected, "" when it is; redacted
int64_t sp_pipe_connects(const sp_pipe_t *self); // connections made since the start

// Sends at once; the caller looks at sp_pipe_up() first. unavailable when it is not connected: done is not called then.
int sp_pipe_submit(sp_pipe_t *self, const sp_pipe_request_t *request, sp_error_t *err);

#endif
