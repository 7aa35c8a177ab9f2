// What the manager wants of a running follower.
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "services/resharder/fence.h"

static void drop_control(follow_t *f, size_t at)
{
    sp_arena_destroy(&f->control_arena[at]);
    f->n_controls--;
    for (size_t i = at; i < f->n_controls; i++) {
        f->controls[i] = f->controls[i + 1];
        f->control_arena[i] = f->control_arena[i + 1];
    }
    f->control_arena[f->n_controls] = NULL;
}

void follow_receive(follow_t *f)
{
    while (f->n_controls < FOLLOW_CONTROLS) {
        const sp_msg_task_control_t *control = NULL;
        sp_arena_t *arena = sp_arena_new(0);
        if (!arena || !task_receive(f->task, 0, arena, &control)) {
            sp_arena_destroy(&arena);
            return;
        }
        f->controls[f->n_controls] = control;
        f->control_arena[f->n_controls++] = arena;
    }
}

bool follow_lift_wanted(follow_t *f, int64_t attempt)
{
    for (size_t i = 0; i < f->n_controls; i++)
        if (f->controls[i]->verb == SP_TASK_VERB_LIFT && f->controls[i]->attempt == attempt) {
            drop_control(f, i);
            return true;
        }
    return false;
}

// A fence that is not sealed is lifted already: it never outlives its verb. What was sealed stays sealed.
static void answer_lift(follow_t *f, int64_t attempt)
{
    if (f->fence.fence_attempt == attempt &&
        (f->fence.fence == SP_FENCE_STATE_SEALED || f->fence.fence == SP_FENCE_STATE_OPENED ||
         f->fence.fence == SP_FENCE_STATE_UNKNOWN))
        return;
    fence_set_lifted(f, attempt, "the manager gave it up");
}

static int obey_fence(follow_t *f, const sp_msg_task_control_t *control, sp_error_t *err)
{
    // The same verb again, e.g. after a reconnect: the first answer stands.
    if (f->fence.has_fence && f->fence.fence_attempt == control->attempt &&
        f->fence.fence != SP_FENCE_STATE_NONE)
        return 0;
    if (!f->lanes) {
        fence_set_lifted(f, control->attempt,
                         f->detail[0] ? f->detail : "the follower is not connected");
        return 0;
    }
    return fence_run(f, control, err);
}

static int obey_one(follow_t *f, const sp_msg_task_control_t *control, sp_error_t *err)
{
    switch (control->verb) {
    case SP_TASK_VERB_VALIDATE_POINT:
        if (f->point.lsn == 0) {
            f->point.wanted = true;
            f->point.retry_ms = 0;
        }
        return 0;
    case SP_TASK_VERB_VALIDATE_RELEASE:
        follow_point_release(f);
        return 0;
    case SP_TASK_VERB_FENCE:
        return obey_fence(f, control, err);
    case SP_TASK_VERB_LIFT:
        answer_lift(f, control->attempt);
        return 0;
    case SP_TASK_VERB_OPEN:
        return fence_open_targets(f, control, err);
    default:
        return 0; // stop is task_stopped()
    }
}

int follow_obey(follow_t *f, sp_error_t *err)
{
    while (f->n_controls > 0) {
        const sp_msg_task_control_t *control = f->controls[0];
        sp_arena_t *arena = f->control_arena[0];
        f->control_arena[0] = NULL;
        drop_control(f, 0); // before: a fence looks for its lift in the rest
        sp_log(SP_LOG_INFO, "FOLLOW-VERB", "job", f->job_id, "verb",
               sp_enum_name(&sp_enum_task_verb, control->verb), "attempt",
               sp_log_fmt("%lld", (long long)control->attempt), NULL);
        int rc = obey_one(f, control, err);
        sp_arena_destroy(&arena);
        follow_tell(f, NULL);
        if (rc)
            return rc;
    }
    if (f->point.wanted && f->lanes && sp_clock_mono_ms() >= f->point.retry_ms)
        return follow_point_make(f, err);
    return 0;
}
