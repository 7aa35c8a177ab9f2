// The table as a page for people, with a diagram.
#include <string.h>

#include "common/job/job_fsm.h"

// A node of the diagram: the state, and its mode where that is not the usual one.
static void add_node(sp_buf_t *out, int state, int mode)
{
    sp_buf_addz(out, sp_job_state_name(state));
    if (mode == SP_JOB_FLIPPED && state == SP_JOB_CUTOVER)
        sp_buf_addz(out, "_flipped");
}

static bool is_undo(const sp_job_row_t *r)
{
    return r->event == SP_JOB_EV_CANCEL || r->event == SP_JOB_EV_FAIL ||
           r->event == SP_JOB_EV_UNDONE;
}

// Undoing looks the same from everywhere, so it is drawn once.
static void add_diagram(sp_buf_t *out)
{
    sp_buf_addz(out, "```mermaid\nstateDiagram-v2\n    [*] --> pending\n");
    for (size_t i = 0; i < sp_job_rows_n; i++) {
        const sp_job_row_t *r = &sp_job_rows[i];
        if (is_undo(r) && r->from != SP_JOB_FAILED)
            continue;
        bool undo = r->to_mode == SP_JOB_UNDO_FAIL;
        sp_buf_addz(out, "    ");
        add_node(out, r->from, r->from_mode);
        sp_buf_addz(out, " --> ");
        if (undo)
            sp_buf_addz(out, "undoing");
        else
            add_node(out, r->to, r->to_mode);
        sp_buf_printf(out, ": %s\n", sp_job_event_name(r->event));
    }
    sp_buf_addz(out, "    any_before_the_flip --> undoing: cancel, fail\n    undoing --> failed: "
                     "undone\n    undoing --> cancelled: undone\n"
                     "    finalized --> [*]\n    cancelled --> [*]\n```\n");
}

void sp_job_print_markdown(sp_buf_t *out)
{
    sp_buf_addz(out, "# States of a job\n\n"
                     "Printed from the table in `common/job/job_rows.c` by `make docs`; `make "
                     "test` fails when this page differs.\n\n"
                     "A job has a state and a mode. The mode is `forward`, `undo_fail` or "
                     "`undo_cancel` while everything that the job has made is\n"
                     "being removed, or `flipped` once owners have changed: from there nothing "
                     "leads back. What has no row below is refused with\n"
                     "`conflict`. `rolled_back` is reserved.\n\n");
    add_diagram(out);
    sp_buf_addz(out, "\n| from | mode | event | to | mode | next step | what it means "
                     "|\n|---|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < sp_job_rows_n; i++) {
        const sp_job_row_t *r = &sp_job_rows[i];
        sp_buf_printf(out, "| `%s` | %s | `%s` | `%s` | %s | %s | %s |\n",
                      sp_job_state_name(r->from), sp_job_mode_name(r->from_mode),
                      sp_job_event_name(r->event), sp_job_state_name(r->to),
                      sp_job_mode_name(r->to_mode), *r->step ? r->step : "-", r->comment);
    }
    sp_buf_addz(out, "\n| state | holds its shards | commands |\n|---|---|---|\n");
    for (int s = 1; s < SP_JOB_STATES; s++) {
        bool cancel = sp_job_may_cancel(s, SP_JOB_FORWARD),
             retry = sp_job_may_retry(s, SP_JOB_FORWARD),
             finalize = sp_job_may_finalize(s, SP_JOB_FLIPPED);
        sp_buf_printf(out, "| `%s` | %s | %s%s%s%s |\n", sp_job_state_name(s),
                      sp_job_is_live(s) ? "yes" : "no", cancel ? "cancel " : "",
                      retry ? "retry " : "", finalize ? "finalize " : "",
                      cancel || retry || finalize ? "" : "-");
    }
}
