// Walks every (state, mode, event) of the job table and checks what must hold whatever the rows say.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/job/job_fsm.h"
#include "schemas/job.h"

static void numbers_agree(void **state)
{
    (void)state;
    static const int ours[] = {SP_JOB_PENDING,    SP_JOB_PRECOPY,   SP_JOB_DELTASYNC,
                               SP_JOB_VALIDATING, SP_JOB_READY,     SP_JOB_CUTOVER,
                               SP_JOB_COMPLETED,  SP_JOB_FINALIZED, SP_JOB_LIFTING,
                               SP_JOB_FAILED,     SP_JOB_CANCELLED, SP_JOB_ROLLED_BACK};
    static const int schema[] = {SP_JOB_STATE_PENDING,   SP_JOB_STATE_PRECOPY,
                                 SP_JOB_STATE_DELTASYNC, SP_JOB_STATE_VALIDATING,
                                 SP_JOB_STATE_READY,     SP_JOB_STATE_CUTOVER,
                                 SP_JOB_STATE_COMPLETED, SP_JOB_STATE_FINALIZED,
                                 SP_JOB_STATE_LIFTING,   SP_JOB_STATE_FAILED,
                                 SP_JOB_STATE_CANCELLED, SP_JOB_STATE_ROLLED_BACK};
    assert_memory_equal(ours, schema, sizeof ours);
    assert_int_equal(sp_enum_job_state.n, SP_JOB_STATES - 1);
    for (int s = 1; s < SP_JOB_STATES; s++)
        assert_string_equal(sp_job_state_name(s), sp_enum_name(&sp_enum_job_state, s));
}

// Every cell is either exactly one row or a refusal with `conflict` that leaves the output alone.
static void every_cell(void **state)
{
    (void)state;
    size_t taken = 0;
    for (int s = -1; s <= SP_JOB_STATES; s++) {
        for (int m = -1; m <= SP_JOB_MODES; m++) {
            for (int e = -1; e <= SP_JOB_EVENTS; e++) {
                size_t rows = 0;
                for (size_t i = 0; i < sp_job_rows_n; i++)
                    rows += (int)sp_job_rows[i].from == s && (int)sp_job_rows[i].from_mode == m &&
                            (int)sp_job_rows[i].event == e;
                const sp_job_row_t *row = NULL;
                sp_error_t err = {0};
                int rc = sp_job_next(s, m, e, &row, &err);
                assert_in_range(rows, 0, 1);
                assert_int_equal(rc, rows ? SP_OK : SP_E_CONFLICT);
                if (rows == 0)
                    assert_null(row);
                if (rows == 0)
                    assert_non_null(strstr(err.text, "does not take"));
                taken += rows;
            }
        }
    }
    assert_int_equal(taken, sp_job_rows_n);
}

static void a_refused_command_names_commands(void **state)
{
    (void)state;
    const sp_job_row_t *row = NULL;
    sp_error_t err = {0};
    sp_job_next(SP_JOB_COMPLETED, SP_JOB_FLIPPED, SP_JOB_EV_RETRY, &row, &err);
    assert_non_null(strstr(err.text, "possible: finalize"));
    assert_null(strstr(err.text, "finalized"));
    sp_job_next(SP_JOB_PENDING, SP_JOB_FORWARD, SP_JOB_EV_FINALIZE, &row, &err);
    assert_non_null(strstr(err.text, "possible: cancel"));
    assert_null(strstr(err.text, "planned"));
    sp_job_next(SP_JOB_COMPLETED, SP_JOB_FLIPPED, SP_JOB_EV_SEALED, &row, &err);
    assert_non_null(strstr(err.text, "finalized"));
}

static void rows_are_sound(void **state)
{
    (void)state;
    for (size_t i = 0; i < sp_job_rows_n; i++) {
        const sp_job_row_t *r = &sp_job_rows[i];
        assert_string_not_equal(sp_job_state_name(r->from), "unknown");
        assert_string_not_equal(sp_job_state_name(r->to), "unknown");
        assert_string_not_equal(sp_job_event_name(r->event), "unknown");
        assert_true(strlen(r->comment) > 0);
        // Never back after the flip.
        if (r->from_mode == SP_JOB_FLIPPED)
            assert_int_equal(r->to_mode, SP_JOB_FLIPPED);
        if (r->from_mode == SP_JOB_FLIPPED)
            assert_true(r->to == SP_JOB_COMPLETED || r->to == SP_JOB_FINALIZED);
        // Only the flip flips, and only out of a cutover.
        if (r->to_mode == SP_JOB_FLIPPED && r->from_mode != SP_JOB_FLIPPED)
            assert_true(r->event == SP_JOB_EV_FLIPPED && r->from == SP_JOB_CUTOVER);
        // Nothing is done forward while undoing.
        if (r->from_mode == SP_JOB_UNDO_FAIL || r->from_mode == SP_JOB_UNDO_CANCEL)
            assert_true(r->event == SP_JOB_EV_UNDONE || r->event == SP_JOB_EV_CANCEL);
        // Undoing stays where it is, or leaves a cutover for lifting; it ends in failed or cancelled.
        if (r->event == SP_JOB_EV_UNDONE)
            assert_int_equal(r->to,
                             r->from_mode == SP_JOB_UNDO_FAIL ? SP_JOB_FAILED : SP_JOB_CANCELLED);
        // A cutover needs a validation of this job: only `ready` leads in, only a validation leads to `ready`.
        if (r->to == SP_JOB_CUTOVER && r->from != SP_JOB_CUTOVER)
            assert_true(r->from == SP_JOB_READY && r->event == SP_JOB_EV_ARMED);
        if (r->to == SP_JOB_READY && r->from != SP_JOB_READY)
            assert_true(r->event == SP_JOB_EV_VALIDATED || r->event == SP_JOB_EV_STILL_VALID);
        assert_false(sp_job_is_terminal(r->from));
        // Work that remains is named; ends have none.
        if (sp_job_is_terminal(r->to) || r->to == SP_JOB_FAILED)
            assert_string_equal(r->step, "");
        else
            assert_string_not_equal(r->step, "");
    }
}

// Reachable (state, mode) pairs from a new job.
static bool reached[SP_JOB_STATES][SP_JOB_MODES];

static void walk(int s, int m)
{
    if (reached[s][m])
        return;
    reached[s][m] = true;
    for (size_t i = 0; i < sp_job_rows_n; i++)
        if ((int)sp_job_rows[i].from == s && (int)sp_job_rows[i].from_mode == m)
            walk(sp_job_rows[i].to, sp_job_rows[i].to_mode);
}

static bool leads_to_end(int s, int m, bool seen[SP_JOB_STATES][SP_JOB_MODES])
{
    if (sp_job_is_terminal(s))
        return true;
    if (seen[s][m])
        return false;
    seen[s][m] = true;
    for (size_t i = 0; i < sp_job_rows_n; i++)
        if ((int)sp_job_rows[i].from == s && (int)sp_job_rows[i].from_mode == m &&
            leads_to_end(sp_job_rows[i].to, sp_job_rows[i].to_mode, seen))
            return true;
    return false;
}

static void everything_is_reached_and_ends(void **state)
{
    (void)state;
    walk(SP_JOB_PENDING, SP_JOB_FORWARD);
    for (size_t i = 0; i < sp_job_rows_n; i++)
        if (!reached[sp_job_rows[i].from][sp_job_rows[i].from_mode])
            fail_msg("row %zu starts where no job gets", i);
    for (int s = 1; s < SP_JOB_STATES; s++) {
        if (s == SP_JOB_ROLLED_BACK)
            continue;
        bool any = false;
        for (int m = 0; m < SP_JOB_MODES; m++) {
            any |= reached[s][m];
            bool seen[SP_JOB_STATES][SP_JOB_MODES] = {{false}};
            if (reached[s][m] && !leads_to_end(s, m, seen))
                fail_msg("%s (%s) never ends", sp_job_state_name(s), sp_job_mode_name(m));
        }
        if (!any)
            fail_msg("%s is never reached", sp_job_state_name(s));
    }
    assert_false(reached[SP_JOB_COMPLETED][SP_JOB_FORWARD]);
}

static void run(const int *events, size_t n, int want_state, int want_mode)
{
    int s = SP_JOB_PENDING, m = SP_JOB_FORWARD;
    for (size_t i = 0; i < n; i++) {
        const sp_job_row_t *row = NULL;
        sp_error_t err;
        if (sp_job_next(s, m, events[i], &row, &err))
            fail_msg("%s", err.text);
        s = row->to, m = row->to_mode;
    }
    assert_int_equal(s, want_state);
    assert_int_equal(m, want_mode);
}
#define RUN(state, mode, ...)                                                                      \
    run((int[]){__VA_ARGS__}, sizeof((int[]){__VA_ARGS__}) / sizeof(int), state, mode)
#define TO_CUTOVER                                                                                 \
    SP_JOB_EV_PLANNED, SP_JOB_EV_PREPARED, SP_JOB_EV_COPIED, SP_JOB_EV_CAUGHT_UP,                  \
        SP_JOB_EV_VALIDATED, SP_JOB_EV_ARMED

static void stories(void **state)
{
    (void)state;
    RUN(SP_JOB_FINALIZED, SP_JOB_FLIPPED, TO_CUTOVER, SP_JOB_EV_SEALED, SP_JOB_EV_FLIPPED,
        SP_JOB_EV_OPENED, SP_JOB_EV_FINALIZE, SP_JOB_EV_FINALIZED);
    RUN(SP_JOB_CUTOVER, SP_JOB_FORWARD, TO_CUTOVER, SP_JOB_EV_LIFT, SP_JOB_EV_LIFTED,
        SP_JOB_EV_STILL_VALID, SP_JOB_EV_ARMED);
    RUN(SP_JOB_CANCELLED, SP_JOB_FORWARD, TO_CUTOVER, SP_JOB_EV_CANCEL, SP_JOB_EV_UNDONE);
    RUN(SP_JOB_CANCELLED, SP_JOB_FORWARD, SP_JOB_EV_PLANNED, SP_JOB_EV_FAIL, SP_JOB_EV_CANCEL,
        SP_JOB_EV_UNDONE);
    RUN(SP_JOB_PRECOPY, SP_JOB_FORWARD, SP_JOB_EV_REFUSED, SP_JOB_EV_UNDONE, SP_JOB_EV_RETRY,
        SP_JOB_EV_PLANNED);
    RUN(SP_JOB_FAILED, SP_JOB_FORWARD, SP_JOB_EV_PLANNED, SP_JOB_EV_COPIED, SP_JOB_EV_CAUGHT_UP,
        SP_JOB_EV_MISMATCHED, SP_JOB_EV_UNDONE);
}

static void commands(void **state)
{
    (void)state;
    static const int before[] = {SP_JOB_PENDING,    SP_JOB_PRECOPY, SP_JOB_DELTASYNC,
                                 SP_JOB_VALIDATING, SP_JOB_READY,   SP_JOB_CUTOVER,
                                 SP_JOB_LIFTING,    SP_JOB_FAILED};
    for (int s = 1; s < SP_JOB_STATES; s++) {
        bool early = false;
        for (size_t i = 0; i < sizeof before / sizeof *before; i++)
            early |= before[i] == s;
        assert_int_equal(sp_job_may_cancel(s, SP_JOB_FORWARD), early);
        assert_false(sp_job_may_cancel(s, SP_JOB_FLIPPED));
        assert_false(sp_job_may_cancel(s, SP_JOB_UNDO_CANCEL));
        assert_int_equal(sp_job_may_retry(s, SP_JOB_FORWARD), s == SP_JOB_FAILED);
        assert_int_equal(sp_job_may_finalize(s, SP_JOB_FLIPPED), s == SP_JOB_COMPLETED);
        assert_int_equal(sp_job_is_live(s), early && s != SP_JOB_FAILED);
    }
    assert_int_equal(sp_job_mode(true, 0), SP_JOB_FLIPPED);
    assert_int_equal(sp_job_mode(false, SP_JOB_FAILED), SP_JOB_UNDO_FAIL);
    assert_int_equal(sp_job_mode(false, SP_JOB_CANCELLED), SP_JOB_UNDO_CANCEL);
    assert_int_equal(sp_job_mode(false, 0), SP_JOB_FORWARD);
}

// The page for people is printed from the table. `SP_WRITE_DOCS=1` writes it instead of comparing.
static void page_is_current(void **state)
{
    (void)state;
    const char *path = "docs/job-states.md";
    sp_buf_t want = SP_BUF_INIT, got = SP_BUF_INIT;
    sp_job_print_markdown(&want);
    if (getenv("SP_WRITE_DOCS")) {
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        fputs(sp_buf_cstr(&want), f);
        fclose(f);
    }
    FILE *f = fopen(path, "r");
    if (!f)
        fail_msg("%s is missing; run `make docs`", path);
    char chunk[4096];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0)
        sp_buf_add(&got, chunk, n);
    fclose(f);
    if (strcmp(sp_buf_cstr(&want), sp_buf_cstr(&got)) != 0)
        fail_msg("%s is not what the table says; run `make docs`", path);
    sp_buf_free(&want);
    sp_buf_free(&got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_agree),
        cmocka_unit_test(every_cell),
        cmocka_unit_test(a_refused_command_names_commands),
        cmocka_unit_test(rows_are_sound),
        cmocka_unit_test(everything_is_reached_and_ends),
        cmocka_unit_test(stories),
        cmocka_unit_test(commands),
        cmocka_unit_test(page_is_current),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
