// Steps: intent, act, record; and what a job says about itself while it works.
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "services/manager/job_work.h"

// How often a job tells how far it is, and over how long its speed is measured.
enum { LIVE_MS = 250, RATE_MS = 1000 };

int job_failpoint(const char *name, const char *when, sp_error_t *err)
{
    char point[64];
    snprintf(point, sizeof point, "job_%s_%s", name, when);
    return sp_failpoint(point, err);
}

bool job_step_done(const job_t *job, const char *name)
{
    return sp_catalog_step_done(job->rec, name);
}

void job_step_forget(job_t *job, const char *name)
{
    sp_msg_catalog_job_t *r = job->rec;
    size_t n = 0;
    for (size_t i = 0; i < r->steps_done.n; i++)
        if (!sp_str_eqz(r->steps_done.items[i], name))
            r->steps_done.items[n++] = r->steps_done.items[i];
    r->steps_done.n = n;
}

int job_step(job_t *job, const char *name, job_step_fn *act, sp_error_t *err)
{
    if (job_step_done(job, name))
        return 0;
    sp_msg_catalog_job_t *r = job->rec;
    r->step = sp_str(sp_arena_strz(job->arena, name));
    int rc = job_save(job, err);
    if (rc == 0)
        rc = job_failpoint(name, "before", err);
    int64_t started = sp_clock_mono_ms();
    job_live(job, true);
    if (rc == 0)
        rc = act(job, err);
    if (rc == 0)
        rc = job_failpoint(name, "after", err);
    if (rc != 0)
        return rc;
    r = job->rec; // act may have loaded it anew
    sp_str_t *items = sp_arena_alloc(job->arena, r->steps_done.n + 1, sizeof *items);
    if (!items)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "job");
    if (r->steps_done.n)
        memcpy(items, r->steps_done.items, r->steps_done.n * sizeof *items);
    items[r->steps_done.n] = sp_str(sp_arena_strz(job->arena, name));
    r->steps_done.items = items;
    r->steps_done.n++;
    sp_log(SP_LOG_INFO, "JOB-STEP", "job", job->id, "step", name, "ms",
           sp_log_fmt("%lld", (long long)(sp_clock_mono_ms() - started)), NULL);
    return job_save(job, err);
}

// Part of the whole job, for a progress bar: the copy is most of it.
static double percent(const job_t *job)
{
    const sp_msg_job_progress_t *p = &job->progress;
    double copied = p->bytes_total > 0 ? (double)p->bytes_copied / (double)p->bytes_total : 0;
    copied = copied > 1 ? 1 : copied;
    switch ((int)job->rec->state) {
    case SP_JOB_PENDING:
        return 0;
    case SP_JOB_PRECOPY:
        return 5 + 65 * copied;
    case SP_JOB_DELTASYNC:
        return 75;
    case SP_JOB_VALIDATING:
        return 80 + (p->rows_total > 0
                         ? 10.0 * (double)p->rows_validated /
                               (double)(p->rows_total > p->rows_validated ? p->rows_total
                                                                          : p->rows_validated)
                         : 0);
    case SP_JOB_READY:
    case SP_JOB_LIFTING:
        return 90;
    case SP_JOB_CUTOVER:
        return 95;
    case SP_JOB_COMPLETED:
    case SP_JOB_FINALIZED:
        return 100;
    default:
        return p->percent;
    }
}

void job_live(job_t *job, bool now)
{
    int64_t t = sp_clock_mono_ms();
    if (!now && t - job->live_ms < LIVE_MS)
        return;
    sp_msg_job_progress_t *p = &job->progress;
    if (job->rec->state != SP_JOB_STATE_PRECOPY) { // nothing is being copied
        p->rate_bytes_per_s = 0;
        p->eta_ms = 0;
        p->has_eta_ms = false;
        job->rate_ms = 0;
    } else if (t - job->rate_ms >= RATE_MS) {
        int64_t moved = p->bytes_copied - job->rate_bytes;
        p->rate_bytes_per_s =
            job->rate_ms && moved > 0 ? (double)moved * 1000 / (double)(t - job->rate_ms) : 0;
        job->rate_bytes = p->bytes_copied;
        job->rate_ms = t;
        bool told = p->rate_bytes_per_s > 0 && p->bytes_total > p->bytes_copied;
        p->eta_ms =
            told
                ? (int64_t)((double)(p->bytes_total - p->bytes_copied) * 1000 / p->rate_bytes_per_s)
                : 0;
        p->has_eta_ms = told;
    }
    p->percent = percent(job);
    p->has_percent = p->has_rows_total = p->has_rows_copied = p->has_bytes_total =
        p->has_bytes_copied = p->has_rate_bytes_per_s = true;
    p->has_rows_applied = p->has_lag_bytes = p->has_lag_ms = p->has_rows_validated =
        p->has_tasks_total = p->has_tasks_done = true;
    job->live_ms = t;
    sp_msg_job_live_t live = {.job_id = sp_str(job->id),
                              .state = job->rec->state,
                              .step = job->rec->step,
                              .progress = p};
    sp_actor_end_send(job->env.end, &sp_schema_job_live, &live, NULL);
}

void job_fact(job_t *job, const char *fact, const char *label, double value)
{
    sp_msg_job_fact_t f = {.job_id = sp_str(job->id),
                           .fact = sp_str(fact),
                           .label = sp_str(label),
                           .value = value,
                           .has_value = true};
    sp_actor_end_send(job->env.end, &sp_schema_job_fact, &f, NULL);
}
