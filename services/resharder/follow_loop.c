// The loop: one thread waits for the stream, all lanes and the worker, and does what is due.
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "services/resharder/follow.h"

enum {
    TOUCH_MS = 1000,       // idle lanes follow the stream's position so often
    TURN_MS = 100,         // longest wait of a turn
    BACKOFF_MS = 200,      // first wait before a new session
    BACKOFF_MAX_MS = 3000, // longest
    GIVE_UP_MS = 30000,    // sessions that fail for so long: the manager's turn
    POLLED = 64 + 3,       // lanes, stream, control, one more
};

// Polls; true in *ret_stream when the stream has something.
static int wait_for(follow_t *f, bool stream, int timeout_ms, int extra_fd, bool *ret_stream,
                    sp_error_t *err)
{
    struct pollfd p[POLLED];
    nfds_t n = 0;
    for (size_t i = 0; i < f->plan.n_targets; i++)
        p[n++] = (struct pollfd){lane_socket(f->lanes[i]), lane_events(f->lanes[i]), 0};
    p[n++] = (struct pollfd){stream ? PQsocket(sp_pg_conn(f->stream)) : -1, POLLIN, 0};
    p[n++] = (struct pollfd){f->n_controls < FOLLOW_CONTROLS ? task_fd(f->task) : -1, POLLIN, 0};
    p[n++] = (struct pollfd){extra_fd, POLLIN, 0};
    if (poll(p, n, timeout_ms) < 0 && errno != EINTR)
        return sp_error_set(err, SP_E_IO, "poll: %s", strerror(errno));
    if (task_stopped(f->task))
        return sp_error_set(err, SP_E_CANCELLED, "the follower was told to stop");
    *ret_stream = stream && p[f->plan.n_targets].revents != 0;
    for (size_t i = 0; i < f->plan.n_targets; i++) {
        int rc = p[i].revents ? lane_pump(f->lanes[i], err) : 0;
        if (rc)
            return rc;
    }
    return 0;
}

// Once around while the stream waits for lanes. What holds them up may last: it is told.
static int wait_for_lanes(follow_t *f, sp_error_t *err)
{
    bool ignored = false;
    int rc = wait_for(f, false, TURN_MS, -1, &ignored, err);
    return rc ? rc : follow_tick(f, err);
}

int follow_settle_lane(follow_t *f, size_t lane, bool until_empty, sp_error_t *err)
{
    int rc = lane_ask(f->lanes[lane], err);
    while (!rc && (until_empty ? !lane_is_quiet(f->lanes[lane]) : lane_is_full(f->lanes[lane])))
        rc = wait_for_lanes(f, err);
    return rc;
}

int follow_settle(follow_t *f, sp_error_t *err)
{
    int rc = 0;
    for (size_t i = 0; i < f->plan.n_targets; i++)
        while (!rc && !lane_is_quiet(f->lanes[i]))
            rc = wait_for_lanes(f, err);
    return rc;
}

// Lanes without changes follow the stream, so that the slot can move.
static int touch_idle(follow_t *f, sp_error_t *err)
{
    if (f->in_tx || sp_clock_mono_ms() - f->moved_ms < TOUCH_MS)
        return 0;
    f->moved_ms = sp_clock_mono_ms();
    bool any = false;
    for (size_t i = 0; i < f->plan.n_targets; i++) {
        if (lane_durable(f->lanes[i]) >= f->processed)
            continue;
        if (lane_is_open(f->lanes[i])) {
            lane_reached(f->lanes[i], f->processed, sp_clock_wall_us());
        } else {
            f->positions[i] = f->processed;
            int rc = lane_touch(f->lanes[i], f->processed, err);
            if (rc)
                return rc;
        }
        any = true;
    }
    return any ? follow_commit(f, err) : 0;
}

int64_t follow_open_ms(const follow_t *f)
{
    int64_t age = -1;
    for (size_t i = 0; i < f->plan.n_targets; i++)
        if (lane_is_open(f->lanes[i]) && lane_age_ms(f->lanes[i]) > age)
            age = lane_age_ms(f->lanes[i]);
    return age;
}

int follow_turn(follow_t *f, int timeout_ms, int extra_fd, sp_error_t *err)
{
    bool more = false, readable = false;
    int64_t age = follow_open_ms(f);
    int wait_ms = timeout_ms < TURN_MS ? timeout_ms : TURN_MS;
    if (age >= 0 && !f->in_tx)
        wait_ms = age >= FOLLOW_GROUP_MS            ? 0
                  : FOLLOW_GROUP_MS - age < wait_ms ? (int)(FOLLOW_GROUP_MS - age)
                                                    : wait_ms;
    // What libpq has read already does not show on the socket.
    int rc = f->held ? 0 : follow_take(f, &more, err);
    if (!rc)
        rc = wait_for(f, !f->held, more ? 0 : wait_ms, extra_fd, &readable, err);
    if (!rc && readable && !PQconsumeInput(sp_pg_conn(f->stream)))
        rc = sp_error_set(err, SP_E_PG_CONNECTION, "lost the stream of the source");
    if (!rc && readable && !f->held)
        rc = follow_take(f, &more, err);
    if (!rc && !f->in_tx && follow_open_ms(f) >= FOLLOW_GROUP_MS)
        rc = follow_commit(f, err);
    if (!rc)
        rc = touch_idle(f, err);
    if (!rc)
        rc = follow_tick(f, err);
    if (!rc)
        follow_receive(f);
    f->turn_failed = f->turn_failed || rc != 0;
    return rc;
}

static int run_session(follow_t *f, int64_t *ret_good_ms, sp_error_t *err)
{
    int rc = follow_session_open(f, err);
    if (rc)
        return rc;
    follow_say(f, NULL);
    while (!rc) {
        *ret_good_ms = sp_clock_mono_ms();
        rc = follow_turn(f, TURN_MS, -1, err);
        if (!rc)
            rc = follow_obey(f, err);
    }
    return rc;
}

// Whether a new session may get on where this one failed. Serialisation failures and lost connections, not refusals.
static bool may_go_on(const sp_error_t *err)
{
    return err->retryable && err->code != SP_E_CANCELLED && err->code != SP_E_STALE_EPOCH;
}

// Between two sessions; control messages are heard.
static void pause_for(follow_t *f, int64_t ms)
{
    int64_t until = sp_clock_mono_ms() + ms;
    while (!task_stopped(f->task) && sp_clock_until_ms(until) > 0) {
        struct pollfd p = {task_fd(f->task), POLLIN, 0};
        int left = sp_clock_until_ms(until);
        poll(&p, 1, left < TURN_MS ? left : TURN_MS);
        follow_receive(f);
        follow_obey(f, NULL);
        follow_beat(f);
    }
}

static int follow_run(follow_t *f, sp_error_t *err)
{
    int64_t good_ms = sp_clock_mono_ms();
    for (int failures = 0;; failures++) {
        int64_t before = good_ms;
        sp_error_clear(err);
        int rc = run_session(f, &good_ms, err);
        if (good_ms != before)
            failures = 0;
        follow_session_close(f);
        if (task_stopped(f->task))
            return sp_error_set(err, SP_E_CANCELLED, "the follower was told to stop");
        if (!may_go_on(err) || sp_clock_mono_ms() - good_ms > GIVE_UP_MS)
            return rc;
        sp_log(SP_LOG_WARN, "FOLLOW-LOST", "job", f->job_id, "error", err->text, NULL);
        follow_say(f, err->text);
        pause_for(f, sp_random_backoff_ms(failures, BACKOFF_MS, BACKOFF_MAX_MS));
    }
}

int task_follow(task_t *task, sp_msg_task_update_t *result, sp_error_t *err)
{
    follow_t *f = sp_arena_alloc(task->arena, 1, sizeof *f);
    sp_error_t fault = {0};
    if (!f)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the follower");
    f->task = task;
    f->job_id = sp_arena_cstr(task->arena, task->assign->job_id);
    f->message = sp_arena_new(0);
    int rc = f->job_id && f->message
                 ? follow_run(f, &fault)
                 : sp_error_set(&fault, SP_E_OUT_OF_MEMORY, "no memory for the follower");
    follow_point_release(f);
    for (size_t i = 0; i < f->n_controls; i++)
        sp_arena_destroy(&f->control_arena[i]);
    sp_arena_destroy(&f->message);
    PQclear(f->values);
    result->rows_applied = f->rows_before;
    result->has_rows_applied = true;
    sp_log(rc == SP_E_CANCELLED ? SP_LOG_INFO : SP_LOG_ERROR, "FOLLOW-ENDED", "job", f->job_id,
           "error", fault.text, NULL);
    if (err)
        *err = fault;
    return rc;
}
