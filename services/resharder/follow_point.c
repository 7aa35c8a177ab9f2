// The validation point: a position X of the source, a snapshot of the source at X and one of each target at X.
#include <stdio.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "services/resharder/follow.h"

enum {
    SLOT_MS = 15000,  // a slot waits for every open writer of the source
    REACH_MS = 20000, // until the lanes are at X
    RETRY_MS = 2000,  // after a failure
};

void follow_point_release(follow_t *f)
{
    follow_point_t *p = &f->point;
    for (size_t i = 0; p->targets && i < f->task->n_targets; i++)
        sp_pg_close(&p->targets[i]);
    free(p->targets);
    free(p->names);
    sp_pg_close(&p->reader);
    sp_pg_close(&p->source); // its temporary slot goes with it
    *p = (follow_point_t){0};
}

// A temporary slot: its consistent point is X, and its snapshot holds exactly what committed before.
static int make_slot(follow_t *f, sp_lsn_t *ret_lsn, sp_error_t *err)
{
    sp_pg_options_t options = {.replication = true, .query_timeout_ms = SLOT_MS};
    char name[64], random[9];
    sp_random_id(random, 8);
    snprintf(name, sizeof name, "shp_%.20s_v_%s", f->job_id, random);
    int rc = task_connect(f->task, &f->task->source.apply, &options, &f->point.source, err);
    if (!rc)
        rc = sp_repl_create_slot(f->point.source, name, true, true, ret_lsn, f->point.snapshot,
                                 sizeof f->point.snapshot, err);
    return rc;
}

static int open_reader(follow_t *f, sp_error_t *err)
{
    const char *snapshot = sp_pg_literal(f->message, sp_str(f->point.snapshot));
    int rc = task_connect(f->task, &f->task->source.apply, NULL, &f->point.reader, err);
    return rc ? rc
              : sp_pg_execf(f->point.reader, err,
                            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION "
                            "SNAPSHOT %s",
                            snapshot ? snapshot : "''");
}

// Something must follow X in the stream, or we would wait for a busy hour to tell that nothing lies before it.
static int nudge(follow_t *f, sp_error_t *err)
{
    char content[64];
    snprintf(content, sizeof content, "%s/point", f->job_id);
    const char *params[] = {content};
    PGresult *result = NULL;
    int rc = sp_pg_query(f->sql, "SELECT pg_logical_emit_message(true, 'shardplane', $1)", 1,
                         params, &result, err);
    PQclear(result);
    return rc;
}

static int reach(follow_t *f, sp_error_t *err)
{
    int64_t until = sp_clock_mono_ms() + REACH_MS;
    while (!f->held && (f->in_tx || f->processed < f->stop_at)) {
        if (sp_clock_until_ms(until) == 0)
            return sp_error_set(err, SP_E_DEADLINE_EXCEEDED,
                                "the targets did not come as far as the validation point in %d s",
                                REACH_MS / 1000);
        int rc = follow_turn(f, 20, -1, err);
        if (rc)
            return rc;
    }
    return follow_commit(f, err);
}

static int export_target(follow_t *f, size_t i, sp_error_t *err)
{
    follow_point_t *p = &f->point;
    int rc = task_connect(f->task, &f->task->targets[i].apply, NULL, &p->targets[i], err);
    if (!rc)
        rc =
            sp_pg_exec(p->targets[i],
                       "SET idle_in_transaction_session_timeout = 0; SET idle_session_timeout = 0; "
                       "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
                       err);
    if (!rc)
        rc = sp_pg_value(p->targets[i], "SELECT pg_export_snapshot()", 0, NULL, p->names[i],
                         sizeof p->names[i], NULL, err);
    return rc;
}

static int make(follow_t *f, sp_error_t *err)
{
    follow_point_t *p = &f->point;
    sp_lsn_t lsn = 0;
    // NOLINTNEXTLINE(bugprone-sizeof-expression): an array of pointers is meant
    p->targets = calloc(f->task->n_targets, sizeof *p->targets);
    p->names = calloc(f->task->n_targets, sizeof *p->names);
    if (!p->targets || !p->names)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a validation point");
    // Nothing is taken from the stream while the slot is made, so no lane can be past X when we learn it. A source transaction that has
    // begun in the stream has committed before.
    int rc = make_slot(f, &lsn, err);
    if (!rc)
        rc = sp_failpoint("follow_point_slot", err);
    if (!rc)
        rc = open_reader(f, err);
    if (rc)
        return rc;
    f->stop_at = lsn;
    rc = nudge(f, err);
    if (!rc)
        rc = reach(f, err);
    sp_pg_close(&p->reader);
    for (size_t i = 0; i < f->task->n_targets && !rc; i++)
        rc = export_target(f, i, err);
    if (!rc)
        rc = sp_failpoint("follow_point", err);
    f->stop_at = 0;
    if (f->held) { // it goes on with the transaction that stopped it
        f->held = false;
        f->in_tx = true;
    }
    if (!rc)
        p->lsn = lsn;
    return rc;
}

int follow_point_make(follow_t *f, sp_error_t *err)
{
    sp_error_t fault = {0};
    char lsn[SP_LSN_TEXT];
    follow_point_release(f);
    int rc = make(f, &fault);
    if (!rc) {
        follow_say(f, NULL);
        sp_log(SP_LOG_INFO, "FOLLOW-POINT", "job", f->job_id, "lsn",
               sp_lsn_print(f->point.lsn, lsn), NULL);
        return follow_tell(f, err);
    }
    follow_point_release(f);
    f->point.wanted = true;
    f->point.retry_ms = sp_clock_mono_ms() + RETRY_MS;
    sp_error_prefix(&fault, "validation point");
    follow_say(f, fault.text);
    sp_log(SP_LOG_WARN, "FOLLOW-POINT-FAILED", "job", f->job_id, "error", fault.text, NULL);
    if (!f->turn_failed && rc != SP_E_CANCELLED)
        return 0; // the stream goes on; tried again later
    if (err)
        *err = fault;
    return rc;
}
