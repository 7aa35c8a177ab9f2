// A session: connections to the source and the targets, from which on the stream is applied. Every failure ends it; the next one starts
// where the targets' origins stand.
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "services/resharder/follow.h"
#include "services/resharder/lane_session.h"

static int no_memory(sp_error_t *err)
{
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the follower");
}

void follow_session_close(follow_t *f)
{
    for (size_t i = 0; f->lanes && i < f->task->n_targets; i++) {
        if (f->lanes[i])
            f->rows_before += lane_rows(f->lanes[i]);
        lane_close(&f->lanes[i]);
    }
    for (size_t i = 0; f->sides && i < f->task->n_targets; i++)
        sp_pg_close(&f->sides[i]);
    free(f->lanes);
    free(f->sides);
    free(f->positions);
    free(f->receivers);
    free(f->standbys);
    f->lanes = NULL;
    f->sides = NULL;
    f->positions = NULL;
    f->receivers = NULL;
    f->standbys = NULL;
    sp_pg_close(&f->stream);
    sp_pg_close(&f->sql);
    sp_arena_destroy(&f->session);
    f->relations = NULL;
    f->n_shapes = 0;
    f->in_tx = f->held = f->commit_now = f->marker_seen = f->turn_failed = false;
    f->stop_at = f->marker_lsn = f->confirmed = f->processed = 0;
    f->marker = NULL;
}

// ---- the source

static int check_timeline(follow_t *f, sp_error_t *err)
{
    int timeline = 0;
    int rc = sp_repl_identify(f->stream, NULL, 0, &timeline, NULL, err);
    if (rc)
        return rc;
    if (f->timeline && f->timeline != timeline) {
        sp_error_set(err, SP_E_CONFLICT,
                     "the source went from timeline %d to %d: its slot cannot be trusted",
                     f->timeline, timeline);
        return task_retryable(err, false);
    }
    f->timeline = timeline;
    return 0;
}

// A slot that is gone or has lost WAL is never made again: what lies between would be missing without a trace.
static int check_slot(follow_t *f, const char *slot, sp_lsn_t *ret_confirmed, sp_error_t *err)
{
    const char *params[] = {slot};
    PGresult *result = NULL;
    int rc = sp_pg_query(f->sql,
                         "SELECT confirmed_flush_lsn, wal_status, coalesce(active_pid, 0), plugin, "
                         "database = current_database(), temporary "
                         "FROM pg_replication_slots WHERE slot_name = $1",
                         1, params, &result, err);
    if (rc)
        return rc;
    if (PQntuples(result) != 1) {
        sp_error_set(err, SP_E_NOT_FOUND,
                     "slot %s is gone from the source: changes are lost, the job must copy again",
                     slot);
        rc = task_retryable(err, false);
    } else if (strcmp(PQgetvalue(result, 0, 1), "lost") == 0) {
        sp_error_set(err, SP_E_NOT_FOUND, "slot %s has lost WAL: the job must copy again", slot);
        rc = task_retryable(err, false);
    } else if (strcmp(PQgetvalue(result, 0, 3), "pgoutput") != 0 ||
               PQgetvalue(result, 0, 4)[0] != 't') {
        rc = sp_error_set(err, SP_E_INVALID_ARGUMENT,
                          "slot %s is not a pgoutput slot of this database", slot);
    } else {
        rc = sp_lsn_parse(sp_str(PQgetvalue(result, 0, 0)), ret_confirmed, err);
    }
    long active = rc ? 0 : strtol(PQgetvalue(result, 0, 2), NULL, 10);
    PQclear(result);
    if (active > 0)
        lane_session_end_backend(f->task, f->sql, active);
    return rc;
}

// A lane behind the slot has lost progress, e.g. with a promotion of its target: what lies between is not sent again.
static int check_lanes(follow_t *f, sp_lsn_t confirmed, sp_lsn_t *ret_from, sp_error_t *err)
{
    sp_lsn_t from = UINT64_MAX;
    for (size_t i = 0; i < f->plan.n_targets; i++) {
        sp_lsn_t has = lane_durable(f->lanes[i]);
        if (has < f->plan.first_start)
            has = f->plan.first_start;
        if (f->plan.first_start && has < confirmed) {
            char a[SP_LSN_TEXT], b[SP_LSN_TEXT];
            sp_error_set(err, SP_E_CONFLICT,
                         "shard %s stands at %s, but the slot has moved to %s: changes are lost, "
                         "the job must copy again",
                         f->task->targets[i].shard_id, sp_lsn_print(has, a),
                         sp_lsn_print(confirmed, b));
            return task_retryable(err, false);
        }
        f->positions[i] = has;
        if (has < from)
            from = has;
    }
    *ret_from = from;
    return 0;
}

enum { START_TRIES = 30, START_MS = 100 };

// The walsender of a follower that died holds the slot until it notices.
static int start_stream(follow_t *f, const char *slot, sp_lsn_t from, sp_error_t *err)
{
    const char *publication = sp_arena_cstr(f->session, f->task->assign->publication);
    sp_lsn_t confirmed = 0;
    if (!publication)
        return no_memory(err);
    for (int i = 0;; i++) {
        sp_error_t fault = {0};
        int rc = sp_repl_start(f->stream, slot, from, publication, f->task->assign->binary_stream,
                               &fault);
        if (!rc)
            return 0;
        if (strcmp(fault.sqlstate, "55006") != 0 || i == START_TRIES || task_stopped(f->task)) {
            if (err)
                *err = fault;
            return sp_error_prefix(err, "start of the stream");
        }
        sp_clock_sleep_ms(START_MS);
        if ((rc = check_slot(f, slot, &confirmed, err)) != 0)
            return rc;
    }
}

static int open_source(follow_t *f, sp_error_t *err)
{
    sp_pg_options_t walsender = {.replication = true};
    const task_shard_t *source = &f->task->source;
    int rc = task_connect(f->task, &source->apply, NULL, &f->sql, err);
    if (!rc)
        rc = sp_owner_hold_epoch(f->sql, f->task->epoch, err);
    if (!rc && !f->planned) {
        rc = follow_plan_make(f->task, f->sql, &f->plan, err);
        f->planned = !rc;
    }
    if (!rc)
        rc = task_connect(f->task, &source->apply, &walsender, &f->stream, err);
    return rc ? rc : check_timeline(f, err);
}

static int open_targets(follow_t *f, sp_error_t *err)
{
    for (size_t i = 0; i < f->plan.n_targets; i++) {
        int rc = task_connect(f->task, &f->task->targets[i].apply, NULL, &f->sides[i], err);
        if (!rc)
            rc = lane_open(&f->lanes[i], f->task, i, err);
        if (rc)
            return rc;
        f->standbys[i].confirmed = 0;
    }
    return 0;
}

int follow_session_open(follow_t *f, sp_error_t *err)
{
    size_t n = f->task->n_targets;
    sp_lsn_t confirmed = 0, from = 0;
    const char *slot = sp_arena_cstr(f->task->arena, f->task->assign->slot);
    if (n == 0 || n > 64 || !slot || !*slot)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "a follower needs a slot and 1 to 64 targets");
    f->session = sp_arena_new(0);
    f->lanes = calloc(n, sizeof *f->lanes); // NOLINT(bugprone-sizeof-expression): pointers
    f->sides = calloc(n, sizeof *f->sides); // NOLINT(bugprone-sizeof-expression): pointers
    f->positions = calloc(n, sizeof *f->positions);
    f->receivers = calloc(n, sizeof *f->receivers);
    f->standbys = calloc(n, sizeof *f->standbys);
    if (!f->session || !f->lanes || !f->sides || !f->positions || !f->receivers || !f->standbys)
        return no_memory(err);
    int rc = open_source(f, err);
    if (!rc)
        rc = open_targets(f, err);
    if (!rc)
        rc = check_slot(f, slot, &confirmed, err);
    if (!rc)
        rc = check_lanes(f, confirmed, &from, err);
    if (!rc)
        rc = start_stream(f, slot, from, err);
    if (rc)
        return rc;
    f->processed = from;
    f->confirmed = confirmed;
    char lsn[SP_LSN_TEXT];
    sp_log(SP_LOG_INFO, "FOLLOW-STARTED", "job", f->job_id, "slot", slot, "from",
           sp_lsn_print(from, lsn), "timeline", sp_log_fmt("%d", f->timeline), NULL);
    return sp_failpoint("follow_started", err);
}
