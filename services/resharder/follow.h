// The follower: reads a source's change stream and applies it to the targets, each row once, in commit order. Here: what its parts share.
#ifndef SP_RESHARDER_FOLLOW_H
#define SP_RESHARDER_FOLLOW_H

#include "common/pg/replication.h"
#include "services/resharder/follow_plan.h"
#include "services/resharder/lane.h"
#include "services/resharder/pure_follow.h"

enum {
    FOLLOW_SAMPLES = 256,
    FOLLOW_CONTROLS = 16,
    FOLLOW_GROUP_MS = 20, // a target transaction takes in whole source transactions for so long
};

typedef struct follow_sample {
    sp_lsn_t insert_lsn; // of the source
    int64_t at_ms;       // monotonic
} follow_sample_t;

// What a target's own standbys have. See follow_report.c.
typedef struct follow_standby {
    sp_lsn_t origin;     // position of the source that is confirmed once ...
    sp_lsn_t target_lsn; // ... the standbys have flushed this position of the target
    int64_t since_ms;    // monotonic, of the first look; 0: nothing is awaited
    sp_lsn_t confirmed;  // position of the source that may be confirmed
} follow_standby_t;

// Snapshots on which a verification compares; they outlive a reconnect of the stream.
typedef struct follow_point {
    bool wanted;        // validate_point came, not done yet
    int64_t retry_ms;   // monotonic: not before
    sp_pg_t *source;    // walsender that exports the source's snapshot
    sp_pg_t **targets;  // transactions that export the targets'
    char (*names)[128]; // their snapshots
    sp_lsn_t lsn;       // X
    char snapshot[128]; // the source's
    sp_pg_t *reader;    // on the way to X: reads values from the source as they are at X; else NULL
} follow_point_t;

typedef struct follow {
    task_t *task;        // borrowed
    const char *job_id;  // of the task's arena
    follow_plan_t plan;  // tables and arcs
    bool planned;        // plan is there
    int timeline;        // the source's, as first identified; 0 before
    sp_arena_t *message; // of one message
    PGresult *values;    // that one message lacked

    // A session: from a connection of the stream to its loss.
    sp_arena_t *session;          // relations and statements
    sp_pg_t *stream;              // walsender
    sp_pg_t *sql;                 // to the source, apply role: lag, markers
    sp_pg_t **sides;              // to the targets, apply role: standbys, nonces
    lane_t **lanes;               // one a target
    follow_relation_t *relations; // of the stream
    unsigned n_shapes;            // numbers given out

    // Where the stream stands.
    bool in_tx;             // between BEGIN and COMMIT
    sp_pgo_message_t begin; // of the transaction that runs
    bool held;              // `begin` waits: its commit lies at or behind stop_at
    sp_lsn_t stop_at;       // take no transaction from here on; 0: none
    sp_lsn_t processed;     // everything before has been sent to the lanes (or was none of theirs)
    sp_lsn_t *positions;    // a lane each: everything before is durable or was none of its
    uint64_t *
        receivers; // a lane each, bits: lanes that must commit before it, because they hold rows that it deletes
    bool commit_now;     // the running transaction ends its target transactions
    const char *marker;  // content awaited, NULL none
    bool marker_seen;    // and committed by the source
    sp_lsn_t marker_lsn; // end of its commit record
    int64_t moved_ms;    // monotonic, last touch of idle lanes
    bool turn_failed;    // a turn or a commit failed: the session must end

    // Reports.
    int64_t rows_before;                     // rows of earlier sessions
    int64_t ticked_ms;                       // monotonic, last report
    int64_t fed_ms;                          // monotonic, last feedback
    sp_lsn_t confirmed;                      // told to the source
    sp_lsn_t insert_lsn;                     // of the source, last read
    follow_sample_t samples[FOLLOW_SAMPLES]; // ring
    size_t n_samples;                        // ever taken
    follow_standby_t *standbys;              // a target each
    char detail[512];                        // for people; "" none

    // Controls.
    follow_point_t point;                                   // validation
    const sp_msg_task_control_t *controls[FOLLOW_CONTROLS]; // not handled yet
    size_t n_controls;                                      // count
    sp_arena_t *control_arena[FOLLOW_CONTROLS];             // of each
    sp_msg_task_update_t fence;                             // the fence's part of every update
    char marker_text[SP_LSN_TEXT];                          // in `fence`
    char fence_detail[1024];                                // in `fence`
} follow_t;

// ---- follow_session.c
// Connects everything and starts the stream at the least progress of the lanes.
int follow_session_open(follow_t *f, sp_error_t *err);
void follow_session_close(follow_t *f);

// ---- follow_apply.c
// Takes what the stream has now, without waiting, a bounded piece at a time. *ret_more: there is more.
int follow_take(follow_t *f, bool *ret_more, sp_error_t *err);
// Ends the open transactions of all lanes and waits until they are durable. Not inside a source transaction.
int follow_commit(follow_t *f, sp_error_t *err);
bool follow_has_open(const follow_t *f); // any lane has an open transaction
// Whether the lane's target has the current transaction already.
bool follow_lane_skips(const follow_t *f, size_t lane);
// Before something is sent to a lane: waits while it is full.
int follow_open_room(follow_t *f, size_t lane, sp_error_t *err);

// ---- follow_values.c
// Whether columns came as unchanged, without their values.
bool follow_lacks_values(const follow_relation_t *r, const sp_pgo_tuple_t *row);
// Fills them from the source as it is now, or at a validation point that is being made, by the row's new identity. *ret_found false: it has
// no such row any more. What is filled in is borrowed until the next message.
int follow_fill_from_source(follow_t *f, follow_relation_t *r, sp_pgo_tuple_t *row, bool *ret_found,
                            sp_error_t *err);
// Fills them for a row that leaves `from` (or FOLLOW_NOBODY), where it has the identity `where`.
int follow_fill_missing(follow_t *f, int from, follow_relation_t *r, sp_pgo_tuple_t *row,
                        const sp_pgo_tuple_t *where, sp_error_t *err);

// ---- follow_loop.c
// One turn: waits up to timeout_ms for the stream (unless it is held), the lanes, a control message or `extra_fd` (-1 none), then pumps,
// takes, ends transactions that are due, reports. What the fence and the validation wait in.
int follow_turn(follow_t *f, int timeout_ms, int extra_fd, sp_error_t *err);
int64_t follow_open_ms(
    const follow_t *f); // age of the oldest open transaction of the lanes; -1: none is open
// Waits until all lanes have answered everything.
int follow_settle(follow_t *f, sp_error_t *err);
// The same for one lane.
int follow_settle_lane(follow_t *f, size_t lane, bool until_empty, sp_error_t *err);

// ---- follow_report.c
int follow_tick(follow_t *f, sp_error_t *err); // feedback, lag, update: when they are due
int follow_feedback(follow_t *f, bool now, sp_error_t *err);
int follow_tell(follow_t *f, sp_error_t *err); // an update at once
void follow_beat(follow_t *f);                 // an update when one is due; also without a session
void follow_say(follow_t *f, const char *detail); // for people; copied

// ---- follow_point.c
int follow_point_make(follow_t *f,
                      sp_error_t *err); // blocks for the slot, then turns until the lanes are there
void follow_point_release(follow_t *f);

// ---- follow_control.c
void follow_receive(follow_t *f); // reads waiting control messages
// Handles them. The session may be down (`lanes` NULL): then a fence is lifted at once.
int follow_obey(follow_t *f, sp_error_t *err);
bool follow_lift_wanted(follow_t *f, int64_t attempt); // a lift for that attempt waits; takes it

#endif
