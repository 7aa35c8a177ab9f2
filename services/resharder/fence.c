#include "services/resharder/fence.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"

enum { PREPARE_MS = 3500 }; // before the lock, when nobody waits; then the budget counts

static int no_memory(sp_error_t *err)
{
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a fence");
}

void fence_set_lifted(follow_t *f, int64_t attempt, const char *why)
{
    snprintf(f->fence_detail, sizeof f->fence_detail, "%s", why ? why : "");
    f->fence = (sp_msg_task_update_t){.fence = SP_FENCE_STATE_LIFTED,
                                      .has_fence = true,
                                      .fence_attempt = attempt,
                                      .has_fence_attempt = true,
                                      .detail = sp_str(f->fence_detail)};
}

int fence_in_time(fence_t *fence, sp_error_t *err)
{
    if (task_stopped(fence->f->task) || follow_lift_wanted(fence->f, fence->control->attempt))
        return sp_error_set(err, SP_E_CANCELLED, "the manager gave it up");
    if (sp_clock_until_ms(fence->deadline_ms) == 0)
        return sp_error_set(err, SP_E_DEADLINE_EXCEEDED,
                            "the fence's budget of %lld ms was used up",
                            (long long)fence->control->budget_ms);
    return 0;
}

int fence_await(fence_t *fence, PGconn *conn, sp_error_t *err)
{
    if (PQflush(conn) < 0)
        return sp_error_set(err, SP_E_PG_CONNECTION, "a connection of the fence was lost");
    while (PQisBusy(conn)) {
        int rc = follow_turn(fence->f, 5, PQsocket(conn), err);
        if (!rc)
            rc = fence_in_time(fence, err);
        if (rc)
            return rc;
        if (!PQconsumeInput(conn) || PQflush(conn) < 0)
            return sp_error_set(err, SP_E_PG_CONNECTION, "a connection of the fence was lost");
    }
    return 0;
}

// ---- before the lock

static int connect_as(fence_t *fence, const sp_dsn_t *dsn, sp_pg_t **ret_pg, sp_error_t *err)
{
    const char *name = sp_arena_printf(fence->arena, "shardplane/%s/fence", fence->f->job_id);
    sp_pg_options_t options = {.application_name = name,
                               .stopped = task_stopped,
                               .stopped_arg = fence->f->task};
    return name ? sp_pg_open(ret_pg, dsn, &options, err) : no_memory(err);
}

static int prepare(fence_t *fence, sp_error_t *err)
{
    follow_t *f = fence->f;
    const sp_msg_task_control_t *c = fence->control;
    fence->nonce = sp_arena_cstr(fence->arena, c->nonce);
    fence->marker = sp_arena_printf(fence->arena, "%s/%lld/%s", f->job_id, (long long)c->attempt,
                                    fence->nonce ? fence->nonce : "");
    if (!fence->nonce || !fence->marker)
        return no_memory(err);
    if (!fence->nonce[0] || c->budget_ms <= 0 || c->lock_wait_ms <= 0)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "a fence needs a nonce, a budget and a lock wait");
    int rc = connect_as(fence, &f->task->source.admin, &fence->a, err);
    if (!rc)
        rc = connect_as(fence, &f->task->source.apply, &fence->b, err);
    if (!rc)
        rc = fence_lock_prepare(fence, err);
    if (!rc)
        rc = fence_sequence_prepare(fence, err);
    if (!rc)
        rc = fence_seal_prepare(fence, err);
    if (!rc)
        fence_replica_prepare(fence);
    return rc ? rc : fence_in_time(fence, err);
}

// What came while we prepared is applied before anybody has to wait for it.
int fence_catch_up(fence_t *fence, sp_error_t *err)
{
    follow_t *f = fence->f;
    for (int i = 0; i < 50; i++) {
        int rc = follow_turn(f, 0, -1, err);
        if (rc)
            return rc;
        if (!f->in_tx && !follow_has_open(f))
            break;
    }
    return f->in_tx ? 0 : follow_commit(f, err);
}

// ---- under the lock

static int send_marker(fence_t *fence, sp_error_t *err)
{
    const char *params[] = {fence->marker};
    if (!PQsendQueryParams(sp_pg_conn(fence->b),
                           "SELECT pg_logical_emit_message(true, 'shardplane', $1)", 1, NULL,
                           params, NULL, NULL, 0) ||
        PQflush(sp_pg_conn(fence->b)) < 0)
        return sp_error_set(err, SP_E_PG_CONNECTION, "the marker could not be sent to the source");
    return 0;
}

static int await_marker_sent(fence_t *fence, sp_error_t *err)
{
    PGconn *conn = sp_pg_conn(fence->b);
    int rc = fence_await(fence, conn, err);
    for (PGresult *result = NULL; !rc && (result = PQgetResult(conn)) != NULL; PQclear(result))
        if (PQresultStatus(result) != PGRES_TUPLES_OK)
            rc = sp_pg_result_error(result, err);
    return rc;
}

// Until every lane has made the marker's transaction, and with it all before, durable.
static int drain(fence_t *fence, sp_error_t *err)
{
    follow_t *f = fence->f;
    int rc = await_marker_sent(fence, err);
    if (!rc)
        rc = fence_sequence_start(fence, err);
    while (!rc && f->marker_lsn == 0) {
        rc = follow_turn(f, 5, -1, err);
        if (!rc)
            rc = fence_in_time(fence, err);
    }
    return rc ? rc : follow_commit(f, err);
}

static int run_locked(fence_t *fence, bool *ret_unknown, sp_error_t *err)
{
    follow_t *f = fence->f;
    fence->steps_us[0] = sp_clock_wall_us();
    int rc = sp_failpoint("fence_after_lock", err);
    if (!rc)
        rc = send_marker(fence, err);
    if (!rc)
        rc = fence_seal_check_start(fence, err);
    if (!rc)
        rc = drain(fence, err);
    fence->steps_us[1] = sp_clock_wall_us();
    if (!rc)
        rc = sp_failpoint("fence_after_marker", err);
    if (!rc)
        rc = fence_sequence_finish(fence, err);
    if (!rc)
        rc = fence_seal_check_finish(fence, err);
    fence->steps_us[2] = sp_clock_wall_us();
    if (!rc)
        rc = sp_failpoint("fence_before_seal", err);
    if (!rc)
        rc = fence_seal(fence, ret_unknown, err);
    if (!rc) {
        char *text = f->marker_text;
        f->fence.marker_lsn = sp_str(sp_lsn_print(f->marker_lsn, text));
        f->fence.fence_sealed_us = sp_clock_wall_us();
        f->fence.has_fence_sealed_us = true;
    }
    return rc;
}

// ---- afterwards

static void set_outcome(fence_t *fence, int64_t state, const char *detail)
{
    follow_t *f = fence->f;
    f->fence.fence = state;
    f->fence.has_fence = true;
    f->fence.fence_attempt = fence->control->attempt;
    f->fence.has_fence_attempt = true;
    f->fence.fence_started_us = fence->started_us;
    f->fence.has_fence_started_us = fence->started_us != 0;
    snprintf(f->fence_detail, sizeof f->fence_detail, "%s", detail ? detail : "");
    if (detail)
        f->fence.detail = sp_str(f->fence_detail);
}

static const char *since(int64_t from, int64_t to)
{
    return sp_log_fmt("%lld", (long long)(to - from));
}

static void after_seal(fence_t *fence)
{
    follow_t *f = fence->f;
    sp_error_t ignored = {0};
    set_outcome(fence, SP_FENCE_STATE_SEALED, NULL);
    sp_failpoint("fence_after_seal", &ignored);
    fence_replica_compare(fence);
    const int64_t *at = fence->steps_us;
    sp_log(SP_LOG_INFO, "RESHARD-FENCED", "job", f->job_id, "attempt",
           since(0, fence->control->attempt), "lock_us", since(fence->started_us, at[0]),
           "drain_us", since(at[0], at[1]), "checks_us", since(at[1], at[2]), "commit_us",
           since(at[2], f->fence.fence_sealed_us), "total_us",
           since(fence->started_us, f->fence.fence_sealed_us), NULL);
}

static void close_all(fence_t *fence)
{
    sp_pg_close(&fence->a); // rolls back what is not committed
    sp_pg_close(&fence->b);
    for (size_t i = 0; fence->admins && i < fence->f->task->n_targets; i++)
        sp_pg_close(&fence->admins[i]);
    fence_replica_close(fence);
    sp_arena_destroy(&fence->arena);
}

// Whether the stream or the lanes failed, rather than the fence; or no fence of this job can be sealed any more.
static bool session_broke(const fence_t *fence, int rc)
{
    const follow_t *f = fence->f;
    if (rc == SP_E_SCHEMA_CHANGED)
        return true;
    if (rc == SP_E_CANCELLED)
        return task_stopped(f->task);
    return f->turn_failed;
}

int fence_run(follow_t *f, const sp_msg_task_control_t *control, sp_error_t *err)
{
    fence_t fence = {.f = f,
                     .control = control,
                     .arena = sp_arena_new(0),
                     .deadline_ms = sp_clock_mono_ms() + PREPARE_MS};
    sp_error_t fault = {0};
    bool unknown = false;
    int rc = fence.arena ? prepare(&fence, &fault) : no_memory(&fault);
    f->fence = (sp_msg_task_update_t){0};
    if (!rc) {
        f->marker_seen = false;
        f->marker_lsn = 0;
        f->marker = fence.marker;
        rc = fence_seal_write(&fence, &fault);
    }
    if (!rc)
        rc = fence_catch_up(&fence, &fault);
    if (!rc) {
        rc = fence_lock_take(&fence, &fault);
    }
    if (!rc)
        rc = run_locked(&fence, &unknown, &fault);
    f->marker = NULL;
    f->marker_lsn = 0;
    if (!rc) {
        after_seal(&fence);
    } else {
        if (fence.a && !unknown)
            sp_pg_exec(fence.a, "ROLLBACK",
                       NULL); // at once: closing alone leaves it to the server when it notices
        set_outcome(&fence, unknown ? SP_FENCE_STATE_UNKNOWN : SP_FENCE_STATE_LIFTED, fault.text);
        sp_log(SP_LOG_WARN, unknown ? "RESHARD-FENCE-UNKNOWN" : "RESHARD-FENCE-LIFTED", "job",
               f->job_id, "error", fault.text, NULL);
    }
    bool broke = rc && session_broke(&fence, rc);
    close_all(&fence);
    if (!broke)
        return 0;
    if (err)
        *err = fault;
    return rc;
}

// ---- opening

typedef struct opener {
    follow_t *f;          // borrowed
    size_t target;        // index
    int64_t ring_version; // after the flip
    const char *nonce;    // of the target
    int rc;               // outcome
    sp_error_t err;       // its reason
} opener_t;

static void *open_one(void *arg)
{
    opener_t *o = arg;
    sp_pg_t *own = NULL;
    sp_pg_t *pg = o->f->sides ? o->f->sides[o->target] : NULL;
    if (!pg) {
        o->rc =
            task_connect(o->f->task, &o->f->task->targets[o->target].apply, NULL, &own, &o->err);
        pg = own;
    }
    if (!o->rc)
        o->rc = sp_owner_open(pg, o->nonce, o->f->job_id, o->ring_version, &o->err);
    sp_pg_close(&own);
    return NULL;
}

int fence_open_targets(follow_t *f, const sp_msg_task_control_t *control, sp_error_t *err)
{
    size_t n = f->task->n_targets;
    opener_t openers[64] = {0};
    pthread_t threads[64];
    bool started[64] = {false};
    if (n > 64)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "more than 64 targets");
    for (size_t i = 0; i < n; i++) {
        const char *nonce = sp_arena_cstr(f->task->arena, f->task->assign->targets.items[i].nonce);
        openers[i] =
            (opener_t){.f = f, .target = i, .ring_version = control->ring_version, .nonce = nonce};
        if (!nonce || !nonce[0])
            openers[i].rc =
                sp_error_set(&openers[i].err, SP_E_INVALID_ARGUMENT, "a target without a nonce");
        else if (i + 1 < n)
            started[i] = pthread_create(&threads[i], NULL, open_one, &openers[i]) == 0;
        if (!started[i] && !openers[i].rc)
            open_one(&openers[i]); // the last one on this thread
    }
    const opener_t *bad = NULL;
    for (size_t i = 0; i < n; i++) {
        if (started[i])
            pthread_join(threads[i], NULL);
        if (openers[i].rc)
            bad = &openers[i];
    }
    if (bad) {
        // Said again by the manager until it works; the flip stands.
        follow_say(f, bad->err.text);
        sp_log(SP_LOG_WARN, "FOLLOW-OPEN-FAILED", "job", f->job_id, "error", bad->err.text, NULL);
        if (f->lanes && bad->err.retryable) { // a new session has new connections
            if (err)
                *err = bad->err;
            return bad->rc;
        }
        return 0;
    }
    f->fence.fence = SP_FENCE_STATE_OPENED;
    f->fence.has_fence = true;
    f->fence.fence_attempt = control->attempt;
    f->fence.has_fence_attempt = true;
    f->fence.opened_us = sp_clock_wall_us();
    f->fence.has_opened_us = true;
    sp_log(SP_LOG_INFO, "RESHARD-OPENED", "job", f->job_id, NULL);
    return 0;
}
