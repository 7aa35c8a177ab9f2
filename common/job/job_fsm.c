// Questions to the table of rows.
#include "common/job/job_fsm.h"

#include <stdio.h>
#include <string.h>

static const char *const state_names[SP_JOB_STATES] = {
    [SP_JOB_PENDING] = "pending",     [SP_JOB_PRECOPY] = "precopy",
    [SP_JOB_DELTASYNC] = "deltasync", [SP_JOB_VALIDATING] = "validating",
    [SP_JOB_READY] = "ready",         [SP_JOB_CUTOVER] = "cutover",
    [SP_JOB_COMPLETED] = "completed", [SP_JOB_FINALIZED] = "finalized",
    [SP_JOB_LIFTING] = "lifting",     [SP_JOB_FAILED] = "failed",
    [SP_JOB_CANCELLED] = "cancelled", [SP_JOB_ROLLED_BACK] = "rolled_back",
};
static const char *const mode_names[SP_JOB_MODES] = {"forward", "undo_fail", "undo_cancel",
                                                     "flipped"};
static const char *const event_names[SP_JOB_EVENTS] = {
    [SP_JOB_EV_PLANNED] = "planned",
    [SP_JOB_EV_REFUSED] = "refused",
    [SP_JOB_EV_PREPARED] = "prepared",
    [SP_JOB_EV_COPIED] = "copied",
    [SP_JOB_EV_CAUGHT_UP] = "caught_up",
    [SP_JOB_EV_STILL_VALID] = "still_valid",
    [SP_JOB_EV_BEHIND] = "behind",
    [SP_JOB_EV_VALIDATED] = "validated",
    [SP_JOB_EV_MISMATCHED] = "mismatched",
    [SP_JOB_EV_ARMED] = "armed",
    [SP_JOB_EV_SEALED] = "sealed",
    [SP_JOB_EV_FLIPPED] = "flipped",
    [SP_JOB_EV_OPENED] = "opened",
    [SP_JOB_EV_LIFT] = "lift",
    [SP_JOB_EV_LIFTED] = "lifted",
    [SP_JOB_EV_FINALIZE] = "finalize",
    [SP_JOB_EV_FINALIZED] = "finalized",
    [SP_JOB_EV_CANCEL] = "cancel",
    [SP_JOB_EV_FAIL] = "fail",
    [SP_JOB_EV_UNDONE] = "undone",
    [SP_JOB_EV_RETRY] = "retry",
};

static const char *name_of(const char *const *names, int n, int value)
{
    return value >= 0 && value < n && names[value] ? names[value] : "unknown";
}

const char *sp_job_state_name(int state)
{
    return name_of(state_names, SP_JOB_STATES, state);
}

const char *sp_job_mode_name(int mode)
{
    return name_of(mode_names, SP_JOB_MODES, mode);
}

const char *sp_job_event_name(int event)
{
    return name_of(event_names, SP_JOB_EVENTS, event);
}

static const sp_job_row_t *find(int state, int mode, int event)
{
    for (size_t i = 0; i < sp_job_rows_n; i++) {
        const sp_job_row_t *r = &sp_job_rows[i];
        if ((int)r->from == state && (int)r->from_mode == mode && (int)r->event == event)
            return r;
    }
    return NULL;
}

// What operators say; all else happens.
static bool is_command(int event)
{
    return event == SP_JOB_EV_CANCEL || event == SP_JOB_EV_RETRY || event == SP_JOB_EV_FINALIZE;
}

int sp_job_next(int state, int mode, int event, const sp_job_row_t **ret_row, sp_error_t *err)
{
    const sp_job_row_t *row = find(state, mode, event);
    if (row) {
        *ret_row = row;
        return SP_OK;
    }
    char possible[256] = "";
    size_t len = 0;
    for (size_t i = 0; i < sp_job_rows_n && len < sizeof possible; i++) {
        const sp_job_row_t *r = &sp_job_rows[i];
        if ((int)r->from == state && (int)r->from_mode == mode &&
            (is_command((int)r->event) || !is_command(event)))
            len += (size_t)snprintf(possible + len, sizeof possible - len, "%s%s", len ? ", " : "",
                                    sp_job_event_name(r->event));
    }
    return sp_error_set(err, SP_E_CONFLICT, "a job in state %s (%s) does not take %s; possible: %s",
                        sp_job_state_name(state), sp_job_mode_name(mode), sp_job_event_name(event),
                        *possible ? possible : "nothing");
}

sp_job_mode_t sp_job_mode(bool flipped, int undo_to)
{
    if (flipped)
        return SP_JOB_FLIPPED;
    return undo_to == SP_JOB_FAILED      ? SP_JOB_UNDO_FAIL
           : undo_to == SP_JOB_CANCELLED ? SP_JOB_UNDO_CANCEL
                                         : SP_JOB_FORWARD;
}

bool sp_job_is_live(int state)
{
    return (state >= SP_JOB_PENDING && state <= SP_JOB_CUTOVER) || state == SP_JOB_LIFTING;
}

bool sp_job_is_terminal(int state)
{
    return state == SP_JOB_FINALIZED || state == SP_JOB_CANCELLED || state == SP_JOB_ROLLED_BACK;
}

bool sp_job_may_cancel(int state, int mode)
{
    return find(state, mode, SP_JOB_EV_CANCEL) != NULL;
}

bool sp_job_may_retry(int state, int mode)
{
    return find(state, mode, SP_JOB_EV_RETRY) != NULL;
}

bool sp_job_may_finalize(int state, int mode)
{
    return find(state, mode, SP_JOB_EV_FINALIZE) != NULL;
}
