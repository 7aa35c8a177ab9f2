// The life of a job as one table. Pure: it says what may happen, the manager does it. The diagram in docs/job-states.md is printed
// from this table.
#ifndef SP_JOB_JOB_FSM_H
#define SP_JOB_JOB_FSM_H

#include <stdbool.h>
#include <stddef.h>

#include "common/base/buf.h"
#include "common/base/error.h"

// The numbers of enum job_state in schemas/job.json (a unit test compares them).
typedef enum {
    SP_JOB_PENDING = 1,      // preflight and plan
    SP_JOB_PRECOPY = 2,      // targets' schema, slot, copy, indexes
    SP_JOB_DELTASYNC = 3,    // targets follow the source's changes
    SP_JOB_VALIDATING = 4,   // source and targets are compared at one position
    SP_JOB_READY = 5,        // targets are being armed
    SP_JOB_CUTOVER = 6,      // fence, drain, seal, flip, open
    SP_JOB_COMPLETED = 7,    // targets own the arcs; the source is kept
    SP_JOB_FINALIZED = 8,    // nothing of the job is left
    SP_JOB_LIFTING = 9,      // a cutover is being given up
    SP_JOB_FAILED = 10,      // undone; may be tried again
    SP_JOB_CANCELLED = 11,   // undone at somebody's wish
    SP_JOB_ROLLED_BACK = 12, // reserved: the way back after a flip
} sp_job_state_t;
enum { SP_JOB_STATES = 13 }; // one more than the greatest

// What the record says besides the state: `flipped` and `undo_to` of catalog_job. They exclude each other.
typedef enum {
    SP_JOB_FORWARD = 0,     // neither
    SP_JOB_UNDO_FAIL = 1,   // undo_to failed: everything that was made is being removed
    SP_JOB_UNDO_CANCEL = 2, // undo_to cancelled
    SP_JOB_FLIPPED = 3,     // flipped: only forward from here
} sp_job_mode_t;
enum { SP_JOB_MODES = 4 };

typedef enum {
    SP_JOB_EV_PLANNED = 1, // preflight passed and the plan of arcs is stored
    SP_JOB_EV_REFUSED,     // preflight found errors
    SP_JOB_EV_PREPARED,    // schema, publication, slot and snapshot are there
    SP_JOB_EV_COPIED,      // rows, indexes and foreign keys are on the targets
    SP_JOB_EV_CAUGHT_UP,   // lag is small and the job has no valid validation
    SP_JOB_EV_STILL_VALID, // lag is small and this job's validation still stands
    SP_JOB_EV_BEHIND,      // the follower was lost, or lag grew
    SP_JOB_EV_VALIDATED,   // all rows equal
    SP_JOB_EV_MISMATCHED,  // source and targets differ
    SP_JOB_EV_ARMED,       // targets' guards wait for their nonces
    SP_JOB_EV_SEALED,      // the source's commit inside the fence closed its guards
    SP_JOB_EV_FLIPPED,     // the transaction in etcd that changes owners
    SP_JOB_EV_OPENED,      // all targets hold their nonces
    SP_JOB_EV_LIFT,        // the fence is given up
    SP_JOB_EV_LIFTED,      // the source owns and accepts again; targets are closed
    SP_JOB_EV_FINALIZE,    // command: give up the way back
    SP_JOB_EV_FINALIZED,   // everything the job left is gone
    SP_JOB_EV_CANCEL,      // command
    SP_JOB_EV_FAIL,        // a step failed for good
    SP_JOB_EV_UNDONE,      // everything that the job has made is removed
    SP_JOB_EV_RETRY,       // command
} sp_job_event_t;
enum { SP_JOB_EVENTS = SP_JOB_EV_RETRY + 1 };

typedef struct sp_job_row {
    sp_job_state_t from;     // state
    sp_job_mode_t from_mode; // mode
    sp_job_event_t event;    // what happened
    sp_job_state_t to;       // next state; may be the same
    sp_job_mode_t to_mode;   // next mode
    const char *step;        // what is done next; stands in the job's `step`
    const char *comment;     // for people: the log line
} sp_job_row_t;

extern const sp_job_row_t sp_job_rows[];
extern const size_t sp_job_rows_n;

// The row for (state, mode, event). SP_E_CONFLICT when there is none, with a text that names what is possible; *ret_row untouched.
int sp_job_next(int state, int mode, int event, const sp_job_row_t **ret_row, sp_error_t *err);
// Mode from the record: catalog_job.flipped and .undo_to (0 when absent).
sp_job_mode_t sp_job_mode(bool flipped, int undo_to);

bool sp_job_is_live(
    int state); // holds its shards: another job on them is refused (pending..cutover, lifting)
bool sp_job_is_terminal(
    int state); // nothing can happen to it any more (finalized, cancelled, rolled_back)
// A row for the command exists. A repeated cancel of a cancelled job is the caller's no-op.
bool sp_job_may_cancel(int state, int mode);
bool sp_job_may_retry(int state, int mode);
bool sp_job_may_finalize(int state, int mode);

const char *sp_job_state_name(int state); // "precopy"; "unknown" for none
const char *sp_job_mode_name(int mode);   // "forward"
const char *sp_job_event_name(int event); // "caught_up"

// The table as docs/job-states.md (with a Mermaid diagram).
void sp_job_print_markdown(sp_buf_t *out);

#endif
