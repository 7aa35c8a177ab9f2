// A lane: one target's apply connection in pipeline mode, with its replication origin. Rows and progress commit in one transaction; a
// transaction of the target holds whole shares of source transactions. Any failure of a lane is the end of it: a new one reads from the
// origin how far the old one came.
#ifndef SP_RESHARDER_LANE_H
#define SP_RESHARDER_LANE_H

#include "services/resharder/follow_plan.h"

typedef struct lane lane_t;

// Connects as the apply role, checks the leader's epoch on the target, makes the origin if it is missing, takes it over from a backend of
// the same job that still holds it, and reads its progress. Blocks. stale_epoch, sql_error, pg_connection.
int lane_open(lane_t **ret_self, task_t *task, size_t target, sp_error_t *err);
void lane_close(lane_t **self_p); // NULL is fine; an open transaction is lost

// Everything the lane has committed and, at lane_open, had: the end of a commit record of the source, or a position behind which nothing
// is missing. 0: nothing.
sp_lsn_t lane_durable(const lane_t *self);
bool lane_is_open(const lane_t *self);   // a transaction is open
int64_t lane_age_ms(const lane_t *self); // of the open transaction
bool lane_is_big(
    const lane_t *self); // the open transaction should end at the next border of the source
bool lane_is_full(const lane_t *self);  // wait (lane_ask, lane_pump) before more is sent
bool lane_is_quiet(const lane_t *self); // no answer is outstanding
int64_t lane_rows(const lane_t *self);  // changes sent since lane_open

// Sends one change; opens the transaction when none is. Does not wait. row: what stands in the shape's column list; where: what its WHERE
// compares (text values get a NUL behind them in place: rows must be the caller's own, writable bytes).
int lane_send(lane_t *self, const follow_relation_t *relation, const follow_shape_t *shape,
              const sp_pgo_tuple_t *row, const sp_pgo_tuple_t *where, sp_error_t *err);
// An otherwise empty transaction with an xid, so that the origin can move.
int lane_touch(lane_t *self, sp_lsn_t position, sp_error_t *err);
// The open transaction holds everything of the source up to end_lsn.
void lane_reached(lane_t *self, sp_lsn_t end_lsn, int64_t commit_us);
// Asks the server to answer what it has: with lane_is_quiet the way to see whether all changes hit their rows.
int lane_ask(lane_t *self, sp_error_t *err);
// Sends the origin's position and COMMIT. Only when quiet. Afterwards wait until it is quiet again: then it is durable.
int lane_commit(lane_t *self, sp_error_t *err);
// Sends a SELECT shape inside the open transaction (opens one when none is). Its row, in the stream's own form, is lane_fetched() once
// quiet.
int lane_fetch(lane_t *self, const follow_relation_t *relation, const follow_shape_t *shape,
               const sp_pgo_tuple_t *where, sp_error_t *err);
PGresult *lane_fetched(lane_t *self); // handed out; NULL when there was none

// The event loop's side. pump: reads and writes what is possible without waiting, and checks the answers.
int lane_socket(const lane_t *self);
short lane_events(const lane_t *self);
int lane_pump(lane_t *self, sp_error_t *err);

#endif
