// The life of a job. One row a (state, mode, event); their order means nothing. What has no row is refused.
#include "common/job/job_fsm.h"

#define FWD   SP_JOB_FORWARD
#define UFAIL SP_JOB_UNDO_FAIL
#define UCANC SP_JOB_UNDO_CANCEL
#define FLIP  SP_JOB_FLIPPED

// Before the flip any state can be given up: everything that the job has made is removed, then the job is failed or cancelled.
#define UNDO_ROWS(state)                                                                           \
    {state,                                                                                        \
     FWD,                                                                                          \
     SP_JOB_EV_CANCEL,                                                                             \
     state,                                                                                        \
     UCANC,                                                                                        \
     "undo",                                                                                       \
     "cancel asked for: remove everything that the job has made"},                                 \
        {state,                                                                                    \
         FWD,                                                                                      \
         SP_JOB_EV_FAIL,                                                                           \
         state,                                                                                    \
         UFAIL,                                                                                    \
         "undo",                                                                                   \
         "a step failed for good: remove everything that the job has made"},                       \
        {state,                                                                                    \
         UFAIL,                                                                                    \
         SP_JOB_EV_CANCEL,                                                                         \
         state,                                                                                    \
         UCANC,                                                                                    \
         "undo",                                                                                   \
         "cancel asked for while a failure is being undone"},                                      \
        {state,                                                                                    \
         UFAIL,                                                                                    \
         SP_JOB_EV_UNDONE,                                                                         \
         SP_JOB_FAILED,                                                                            \
         FWD,                                                                                      \
         "",                                                                                       \
         "nothing of the job is left; it may be tried again"},                                     \
    {                                                                                              \
        state, UCANC, SP_JOB_EV_UNDONE, SP_JOB_CANCELLED, FWD, "", "nothing of the job is left"    \
    }

const sp_job_row_t sp_job_rows[] = {
    {SP_JOB_PENDING, FWD, SP_JOB_EV_PLANNED, SP_JOB_PRECOPY, FWD, "prepare",
     "preflight passed and the plan of arcs is stored"},
    {SP_JOB_PENDING, FWD, SP_JOB_EV_REFUSED, SP_JOB_PENDING, UFAIL, "undo",
     "preflight found errors; the findings list them all"},
    UNDO_ROWS(SP_JOB_PENDING),

    {SP_JOB_PRECOPY, FWD, SP_JOB_EV_PREPARED, SP_JOB_PRECOPY, FWD, "copy",
     "schema, publication, slot and snapshot are there"},
    {SP_JOB_PRECOPY, FWD, SP_JOB_EV_COPIED, SP_JOB_DELTASYNC, FWD, "follow",
     "rows, indexes and foreign keys are on the targets"},
    UNDO_ROWS(SP_JOB_PRECOPY),

    {SP_JOB_DELTASYNC, FWD, SP_JOB_EV_CAUGHT_UP, SP_JOB_VALIDATING, FWD, "validate",
     "lag is small: compare source and targets at one position"},
    {SP_JOB_DELTASYNC, FWD, SP_JOB_EV_STILL_VALID, SP_JOB_READY, FWD, "arm",
     "lag is small and this job's validation still stands"},
    {SP_JOB_DELTASYNC, FWD, SP_JOB_EV_BEHIND, SP_JOB_DELTASYNC, FWD, "follow",
     "the follower was lost: another goes on from the origins' progress"},
    UNDO_ROWS(SP_JOB_DELTASYNC),

    {SP_JOB_VALIDATING, FWD, SP_JOB_EV_VALIDATED, SP_JOB_READY, FWD, "arm", "all rows are equal"},
    {SP_JOB_VALIDATING, FWD, SP_JOB_EV_MISMATCHED, SP_JOB_VALIDATING, UFAIL, "undo",
     "source and targets differ; the differing keys are recorded"},
    {SP_JOB_VALIDATING, FWD, SP_JOB_EV_BEHIND, SP_JOB_DELTASYNC, FWD, "follow",
     "the follower was lost during validation: catch up, then compare again"},
    UNDO_ROWS(SP_JOB_VALIDATING),

    {SP_JOB_READY, FWD, SP_JOB_EV_ARMED, SP_JOB_CUTOVER, FWD, "fence",
     "the targets' guards wait for their nonces: lock, drain and seal the source"},
    {SP_JOB_READY, FWD, SP_JOB_EV_BEHIND, SP_JOB_DELTASYNC, FWD, "follow",
     "the follower was lost, or lag grew, before the fence"},
    UNDO_ROWS(SP_JOB_READY),

    {SP_JOB_CUTOVER, FWD, SP_JOB_EV_SEALED, SP_JOB_CUTOVER, FWD, "flip",
     "the source refuses the moving arcs, and the targets have all of its changes"},
    {SP_JOB_CUTOVER, FWD, SP_JOB_EV_FLIPPED, SP_JOB_CUTOVER, FLIP, "open",
     "the targets own the arcs: the only point of no return"},
    {SP_JOB_CUTOVER, FWD, SP_JOB_EV_LIFT, SP_JOB_LIFTING, FWD, "lift",
     "the fence did not fit its budget, or its worker was lost: the source keeps the arcs"},
    {SP_JOB_CUTOVER, FWD, SP_JOB_EV_CANCEL, SP_JOB_LIFTING, UCANC, "undo",
     "cancel asked for inside a cutover: lift, then remove everything"},
    {SP_JOB_CUTOVER, FWD, SP_JOB_EV_FAIL, SP_JOB_LIFTING, UFAIL, "undo",
     "a step failed for good inside a cutover: lift, then remove everything"},
    {SP_JOB_CUTOVER, FLIP, SP_JOB_EV_OPENED, SP_JOB_COMPLETED, FLIP, "fold",
     "all targets accept writes: drop the forward slot, fold the guards"},

    {SP_JOB_LIFTING, FWD, SP_JOB_EV_LIFTED, SP_JOB_DELTASYNC, FWD, "follow",
     "the source accepts writes again and the targets are closed: try again"},
    UNDO_ROWS(SP_JOB_LIFTING),

    {SP_JOB_COMPLETED, FLIP, SP_JOB_EV_FINALIZE, SP_JOB_COMPLETED, FLIP, "finalize",
     "the way back is given up: drop what the job left on the source"},
    {SP_JOB_COMPLETED, FLIP, SP_JOB_EV_FINALIZED, SP_JOB_FINALIZED, FLIP, "",
     "nothing of the job is left"},

    {SP_JOB_FAILED, FWD, SP_JOB_EV_RETRY, SP_JOB_PENDING, FWD, "preflight",
     "retry asked for: from the beginning, as another attempt"},
    {SP_JOB_FAILED, FWD, SP_JOB_EV_CANCEL, SP_JOB_CANCELLED, FWD, "",
     "cancel asked for; there is nothing to undo"},
};
const size_t sp_job_rows_n = sizeof sp_job_rows / sizeof *sp_job_rows;
