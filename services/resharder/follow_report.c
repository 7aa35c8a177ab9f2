// What the follower tells: the source, how far it may forget; the manager, how far behind we are.
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "services/resharder/follow.h"

enum {
    TICK_MS = 500,          // lag and update
    FEEDBACK_MS = 500,      // feedback to the source
    STANDBY_WAIT_MS = 5000, // a target's standbys hold up the confirmation for so long at most
};

void follow_say(follow_t *f, const char *detail)
{
    snprintf(f->detail, sizeof f->detail, "%s", detail ? detail : "");
}

// ---- how far the lanes are

static sp_lsn_t applied_by(const follow_t *f, size_t lane)
{
    sp_lsn_t at = lane_is_open(f->lanes[lane]) ? f->positions[lane] : f->processed;
    sp_lsn_t durable = lane_durable(f->lanes[lane]);
    return at > durable ? at : durable;
}

static sp_lsn_t least_applied(const follow_t *f)
{
    sp_lsn_t least = UINT64_MAX;
    for (size_t i = 0; f->lanes && i < f->plan.n_targets; i++) {
        sp_lsn_t at = f->lanes[i] ? applied_by(f, i) : 0;
        if (at < least)
            least = at;
    }
    return least == UINT64_MAX ? 0 : least;
}

// ---- feedback

// Least position that a target's streaming standbys have flushed; *ret_any: there are some. The target's own position in *ret_own.
static int read_standbys(sp_pg_t *pg, sp_lsn_t *ret_own, sp_lsn_t *ret_least, bool *ret_any,
                         sp_error_t *err)
{
    PGresult *result = NULL;
    int rc = sp_pg_query(pg,
                         "SELECT pg_current_wal_flush_lsn(), min(r.flush_lsn) FROM "
                         "pg_stat_replication r WHERE r.state = 'streaming' "
                         "AND NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.active_pid = "
                         "r.pid AND s.slot_type = 'logical')",
                         0, NULL, &result, err);
    if (rc)
        return rc;
    *ret_any = PQntuples(result) == 1 && !PQgetisnull(result, 0, 1);
    rc = sp_lsn_parse(sp_str(PQgetvalue(result, 0, 0)), ret_own, err);
    if (!rc && *ret_any)
        rc = sp_lsn_parse(sp_str(PQgetvalue(result, 0, 1)), ret_least, err);
    PQclear(result);
    return rc;
}

// How far a target would still be after a promotion of one of its standbys. A standby that lags does not hold up the slot for ever: the
// position is confirmed after a bounded wait, and check_lanes() finds out if it was then the one promoted.
static int look_at_standbys(follow_t *f, size_t i, sp_error_t *err)
{
    follow_standby_t *s = &f->standbys[i];
    sp_lsn_t own = 0, least = 0, durable = lane_durable(f->lanes[i]);
    bool any = false;
    if (s->confirmed >= durable)
        return 0;
    int rc = read_standbys(f->sides[i], &own, &least, &any, err);
    if (rc)
        return rc;
    int64_t now = sp_clock_mono_ms();
    if (!any) {
        *s = (follow_standby_t){.confirmed = durable};
        return 0;
    }
    if (s->since_ms && (least >= s->target_lsn || now - s->since_ms > STANDBY_WAIT_MS)) {
        s->confirmed = s->origin;
        s->since_ms = 0;
    }
    if (!s->since_ms && s->confirmed < durable) {
        *s = (follow_standby_t){durable, own, now, s->confirmed};
        if (least >= own) {
            s->confirmed = durable;
            s->since_ms = 0;
        }
    }
    return 0;
}

int follow_feedback(follow_t *f, bool now, sp_error_t *err)
{
    if (!now && sp_clock_mono_ms() - f->fed_ms < FEEDBACK_MS)
        return 0;
    f->fed_ms = sp_clock_mono_ms();
    sp_lsn_t safe = UINT64_MAX;
    for (size_t i = 0; i < f->plan.n_targets; i++)
        if (f->standbys[i].confirmed < safe)
            safe = f->standbys[i].confirmed;
    if (safe > f->confirmed)
        f->confirmed = safe;
    int rc = sp_failpoint("follow_before_feedback", err);
    // What was processed counts as received: a server without news asks for an answer only once it is beyond that.
    return rc ? rc
              : sp_repl_feedback(f->stream,
                                 f->processed > f->confirmed ? f->processed : f->confirmed,
                                 f->confirmed, false, err);
}

// ---- lag

static int sample(follow_t *f, sp_error_t *err)
{
    char text[SP_LSN_TEXT + 4];
    int rc = sp_pg_value(f->sql, "SELECT pg_current_wal_insert_lsn()", 0, NULL, text, sizeof text,
                         NULL, err);
    if (!rc)
        rc = sp_lsn_parse(sp_str(text), &f->insert_lsn, err);
    if (!rc)
        f->samples[f->n_samples++ % FOLLOW_SAMPLES] =
            (follow_sample_t){f->insert_lsn, sp_clock_mono_ms()};
    return rc;
}

// Age of the oldest sample of the source's position that has not been reached: needs no agreement of clocks.
static int64_t lag_ms(const follow_t *f, sp_lsn_t applied)
{
    size_t n = f->n_samples < FOLLOW_SAMPLES ? f->n_samples : FOLLOW_SAMPLES;
    for (size_t i = n; i > 0; i--) { // oldest first
        const follow_sample_t *s = &f->samples[(f->n_samples - i) % FOLLOW_SAMPLES];
        if (s->insert_lsn > applied)
            return sp_clock_mono_ms() - s->at_ms;
    }
    return 0;
}

// ---- updates

int follow_tell(follow_t *f, sp_error_t *err)
{
    char applied_text[SP_LSN_TEXT], point_text[SP_LSN_TEXT];
    sp_msg_task_update_t u = f->fence; // a fence's result is repeated in every update
    sp_lsn_t applied = least_applied(f);
    f->ticked_ms = sp_clock_mono_ms();
    u.rows_applied = f->rows_before;
    for (size_t i = 0; f->lanes && i < f->plan.n_targets; i++)
        u.rows_applied += f->lanes[i] ? lane_rows(f->lanes[i]) : 0;
    u.has_rows_applied = true;
    if (applied) {
        u.applied_lsn = sp_str(sp_lsn_print(applied, applied_text));
        u.lag_bytes = f->insert_lsn > applied ? (int64_t)(f->insert_lsn - applied) : 0;
        u.lag_ms = lag_ms(f, applied);
        u.has_lag_bytes = u.has_lag_ms = f->n_samples > 0;
    }
    sp_str_t snapshots[64];
    if (f->point.lsn) {
        u.lsn = sp_str(sp_lsn_print(f->point.lsn, point_text));
        u.snapshot = sp_str(f->point.snapshot);
        for (size_t i = 0; i < f->plan.n_targets; i++)
            snapshots[i] = sp_str(f->point.names[i]);
        u.target_snapshots.items = snapshots;
        u.target_snapshots.n = f->plan.n_targets;
    }
    if (u.detail.len == 0 && f->detail[0])
        u.detail = sp_str(f->detail);
    return task_update(f->task, &u, err);
}

void follow_beat(follow_t *f)
{
    if (sp_clock_mono_ms() - f->ticked_ms >= TICK_MS)
        follow_tell(f, NULL);
}

int follow_tick(follow_t *f, sp_error_t *err)
{
    int rc = follow_feedback(f, false, err);
    if (rc || sp_clock_mono_ms() - f->ticked_ms < TICK_MS)
        return rc;
    for (size_t i = 0; i < f->plan.n_targets && !rc; i++)
        rc = look_at_standbys(f, i, err);
    if (!rc)
        rc = sample(f, err);
    if (!rc)
        follow_tell(f, NULL); // what cannot be told now is told the next time
    return rc;
}
