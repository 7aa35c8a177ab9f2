// How fast a job goes: its limits divided over the tasks that move rows now, and what these wait for. The limits stand in the record;
// a command that changes them wakes this actor (job_take_flags), and the next look at the tasks tells them.
#include <stdio.h>

#include "services/manager/job_work.h"

static int64_t max_bytes_per_s(const job_t *job)
{
    return job->rec->has_max_bytes_per_s ? job->rec->max_bytes_per_s
                                         : job->env.settings->job_max_bytes_per_s;
}

static int64_t max_replica_lag_bytes(const job_t *job)
{
    return job->rec->has_max_replica_lag_bytes ? job->rec->max_replica_lag_bytes
                                               : job->env.settings->job_max_replica_lag_bytes;
}

// One of so many tasks' part of the rate; 0 means no limit, so a part is never 0.
static int64_t share(int64_t rate, int64_t tasks)
{
    if (rate == 0 || tasks < 2)
        return rate;
    return rate > tasks ? rate / tasks : 1;
}

static bool moves_rows(const job_task_t *t)
{
    return (t->kind == SP_TASK_KIND_COPY || t->kind == SP_TASK_KIND_PURGE) && !job_task_final(t);
}

// Its share as if all that were handed out ran already, so that it never starts with too much; once it runs it is told its real one.
void job_throttle_assign(job_t *job, sp_msg_task_assign_t *assign)
{
    int64_t tasks = 1;
    for (const job_task_t *t = job->tasks; t; t = t->next)
        tasks += moves_rows(t);
    assign->rate_bytes_per_s = share(max_bytes_per_s(job), tasks);
    assign->max_replica_lag_bytes = max_replica_lag_bytes(job);
    assign->has_rate_bytes_per_s = assign->has_max_replica_lag_bytes = true;
}

static void tell(job_t *job, job_task_t *t, int64_t rate, int64_t lag)
{
    if (t->rate_bytes_per_s == rate && t->max_replica_lag_bytes == lag)
        return;
    sp_msg_task_control_t control = {.verb = SP_TASK_VERB_THROTTLE,
                                     .has_verb = true,
                                     .rate_bytes_per_s = rate,
                                     .has_rate_bytes_per_s = true,
                                     .max_replica_lag_bytes = lag,
                                     .has_max_replica_lag_bytes = true};
    if (job_task_control(job, t, &control, NULL) != 0)
        return; // the next look tries again
    t->rate_bytes_per_s = rate;
    t->max_replica_lag_bytes = lag;
}

// A standby that is behind stops everything, a rate only slows: the first is what people should read.
static void say_why(job_t *job, const job_task_t *by_lag, bool by_rate)
{
    job->throttled[0] = '\0';
    if (by_lag)
        snprintf(job->throttled, sizeof job->throttled, "%.*s", (int)by_lag->last.detail.len,
                 by_lag->last.detail.ptr);
    else if (by_rate)
        snprintf(job->throttled, sizeof job->throttled, "the job's limit is %lld bytes/s",
                 (long long)max_bytes_per_s(job));
    job->progress.throttled = job->throttled[0] ? sp_str(job->throttled) : (sp_str_t){0};
}

// A task that waits for a worker hears nothing: what it says first shows that it runs.
void job_throttle_tell(job_t *job)
{
    int64_t running = 0;
    const job_task_t *by_lag = NULL;
    bool by_rate = false;
    for (const job_task_t *t = job->tasks; t; t = t->next)
        running += moves_rows(t) && t->state == SP_TASK_STATE_RUNNING;
    for (job_task_t *t = job->tasks; t; t = t->next) {
        if (!moves_rows(t) || t->state != SP_TASK_STATE_RUNNING)
            continue;
        tell(job, t, share(max_bytes_per_s(job), running), max_replica_lag_bytes(job));
        if (t->last.detail.len && t->last.has_lag_bytes)
            by_lag = t;
        by_rate = by_rate || t->last.detail.len;
    }
    say_why(job, by_lag, by_rate);
}
