// What /metrics of the manager shows.
#include <string.h>

#include "schemas/job.h"
#include "services/manager/manager.h"

void manager_metrics_open(manager_t *m)
{
    static const char *const by_state[] = {"state", NULL}, *const by_phase[] = {"phase", NULL},
                             *const by_result[] = {"result", NULL};
    static const double pauses[] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3,
                                    0.5,   0.75, 1,     2,    5,   10};
    manager_metrics_t *x = &m->metrics;
    sp_metrics_t *r = x->registry = sp_metrics_new("manager", m->settings.service_id);
    if (!r)
        return;
    x->jobs = sp_metrics_gauge(r, "shardplane_manager_jobs", "Jobs by state.", by_state);
    x->phase_seconds = sp_metrics_gauge(r, "shardplane_manager_phase_seconds",
                                        "Seconds that the last job spent in each phase.", by_phase);
    x->fences = sp_metrics_counter(r, "shardplane_manager_fences_total",
                                   "Cutover attempts by result.", by_result);
    x->pause =
        sp_metric_with(sp_metrics_histogram(r, "shardplane_manager_write_pause_seconds",
                                            "Write pause of a cutover, all its attempts together.",
                                            NULL, pauses, sizeof pauses / sizeof pauses[0]),
                       NULL);
    x->fence_to_open =
        sp_metric_with(sp_metrics_histogram(r, "shardplane_manager_fence_to_open_seconds",
                                            "From the lock to the targets' opening.", NULL, pauses,
                                            sizeof pauses / sizeof pauses[0]),
                       NULL);
    x->retries = sp_metric_with(sp_metrics_counter(r, "shardplane_manager_step_retries_total",
                                                   "Steps of jobs that were tried again.", NULL),
                                NULL);
    x->workers =
        sp_metric_with(sp_metrics_gauge(r, "shardplane_manager_workers", "Live resharders.", NULL),
                       NULL);
    x->queued = sp_metric_with(sp_metrics_gauge(r, "shardplane_manager_tasks_queued",
                                                "Tasks without a worker.", NULL),
                               NULL);
    x->running = sp_metric_with(sp_metrics_gauge(r, "shardplane_manager_tasks_running",
                                                 "Tasks with a worker.", NULL),
                                NULL);
    x->deaths = sp_metric_with(sp_metrics_counter(r, "shardplane_manager_worker_deaths_total",
                                                  "Workers that missed three heartbeats.", NULL),
                               NULL);
    x->done = sp_metric_with(sp_metrics_counter(r, "shardplane_manager_tasks_done_total",
                                                "Tasks that ended well.", NULL),
                             NULL);
    x->failed = sp_metric_with(sp_metrics_counter(r, "shardplane_manager_tasks_failed_total",
                                                  "Tasks that failed.", NULL),
                               NULL);
    x->leading = sp_metric_with(sp_metrics_gauge(r, "shardplane_manager_leader",
                                                 "1 while this manager leads.", NULL),
                                NULL);
    x->catalog_age = sp_metric_with(sp_metrics_gauge(r, "shardplane_manager_catalog_age_seconds",
                                                     "Since etcd last answered the watch.", NULL),
                                    NULL);
    x->requests = sp_metric_with(sp_metrics_counter(r, "shardplane_manager_requests_total",
                                                    "Messages received.", NULL),
                                 NULL);
    x->errors = sp_metric_with(sp_metrics_counter(r, "shardplane_manager_errors_total",
                                                  "Requests answered with an error.", NULL),
                               NULL);
    x->commands = sp_metric_with(sp_metrics_gauge(r, "shardplane_manager_commands_waiting",
                                                  "Commands under way.", NULL),
                                 NULL);
}

void manager_metrics_refresh(manager_t *m)
{
    manager_metrics_t *x = &m->metrics;
    workers_stats_t w;
    workers_stats(m->workers, &w);
    sp_gauge_set(x->workers, (double)w.workers);
    sp_gauge_set(x->queued, (double)w.queued);
    sp_gauge_set(x->running, (double)w.running);
    sp_counter_set(x->deaths, w.deaths);
    sp_counter_set(x->done, w.done);
    sp_counter_set(x->failed, w.failed);
    sp_gauge_set(x->leading, m->leading ? 1 : 0);
    int64_t age = sp_watch_age_ms(m->watch);
    if (age != INT64_MAX)
        sp_gauge_set(x->catalog_age, (double)age / 1000);
    sp_server_stats_t s;
    sp_server_stats(m->server, &s);
    sp_counter_set(x->requests, s.requests);
    sp_counter_set(x->errors, s.errors);
    int waiting = 0;
    for (const waiting_t *p = m->pending; p; p = p->next)
        waiting++;
    sp_gauge_set(x->commands, waiting);
    int64_t counts[SP_JOB_STATE_ROLLED_BACK + 1] = {0};
    for (size_t i = 0; m->catalog && i < m->catalog->n_jobs; i++) {
        int64_t state = m->catalog->jobs[i].job->state;
        if (state > 0 && state <= SP_JOB_STATE_ROLLED_BACK)
            counts[state]++;
    }
    for (int64_t i = 1; i <= SP_JOB_STATE_ROLLED_BACK; i++)
        sp_gauge_set(sp_metric_with(x->jobs, sp_enum_name(&sp_enum_job_state, i), NULL),
                     (double)counts[i]);
}

void manager_metrics_fact(manager_t *m, const char *fact, const char *label, double value)
{
    manager_metrics_t *x = &m->metrics;
    if (strcmp(fact, "fence") == 0)
        sp_counter_add(sp_metric_with(x->fences, label, NULL), 1);
    else if (strcmp(fact, "pause_ms") == 0)
        sp_histogram_observe(x->pause, value / 1000);
    else if (strcmp(fact, "fence_to_open_ms") == 0)
        sp_histogram_observe(x->fence_to_open, value / 1000);
    else if (strcmp(fact, "phase_seconds") == 0)
        sp_gauge_set(sp_metric_with(x->phase_seconds, label, NULL), value);
    else if (strcmp(fact, "retry") == 0)
        sp_counter_add(x->retries, 1);
}
