// What this worker counts.
#include <stdlib.h>
#include <string.h>

#include "services/resharder/resharder.h"

// What a running task has told last, so that counters grow by the difference.
typedef struct seen {
    struct seen *next; // in the list
    char *task_id;     // owned
    int64_t rows;      // told last
    int64_t bytes;     // told last
    bool lag;          // its lag is shown
} seen_t;

int resharder_metrics_open(resharder_metrics_t *self, const char *service_id, sp_error_t *err)
{
    static const char *const by_kind[] = {"kind", NULL};
    static const char *const by_result[] = {"kind", "result", NULL};
    static const char *const by_task[] = {"task", NULL};
    sp_metrics_t *m = sp_metrics_new("resharder", service_id);
    if (m == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for metrics");
    self->registry = m;
    self->rows = sp_metrics_counter(m, "shardplane_resharder_rows_total",
                                    "Rows copied, applied, compared or deleted.", by_kind);
    self->bytes = sp_metrics_counter(m, "shardplane_resharder_bytes_total",
                                     "Bytes of these rows, as sent.", by_kind);
    self->ended =
        sp_metrics_counter(m, "shardplane_resharder_tasks_total", "Tasks that ended.", by_result);
    self->running =
        sp_metrics_gauge(m, "shardplane_resharder_tasks_running", "Tasks that run.", by_kind);
    self->lag_bytes = sp_metrics_gauge(m, "shardplane_resharder_lag_bytes",
                                       "WAL that the slowest target is behind.", by_task);
    self->lag_ms = sp_metrics_gauge(m, "shardplane_resharder_lag_ms",
                                    "Age of the oldest change not applied, ms.", by_task);
    self->welcomed =
        sp_metric_with(sp_metrics_gauge(m, "shardplane_resharder_welcomed",
                                        "1 while a leader has welcomed this worker.", NULL),
                       NULL);
    self->lost = sp_metric_with(sp_metrics_counter(m, "shardplane_resharder_leaders_lost_total",
                                                   "Leaders given up for missed heartbeats.", NULL),
                                NULL);
    return 0;
}

static seen_t *see(resharder_t *self, sp_str_t task_id)
{
    for (seen_t *s = self->seen; s != NULL; s = s->next)
        if (sp_str_eqz(task_id, s->task_id))
            return s;
    seen_t *s = calloc(1, sizeof *s);
    char *id = strndup(task_id.ptr, task_id.len);
    if (s == NULL || id == NULL) {
        free(s);
        free(id);
        return NULL;
    }
    *s = (seen_t){.next = self->seen, .task_id = id};
    self->seen = s;
    return s;
}

static void forget(resharder_t *self, seen_t *gone)
{
    if (gone->lag) {
        sp_series_hide(sp_metric_with(self->metrics.lag_bytes, gone->task_id, NULL));
        sp_series_hide(sp_metric_with(self->metrics.lag_ms, gone->task_id, NULL));
    }
    for (seen_t **link = &self->seen; *link != NULL; link = &(*link)->next)
        if (*link == gone) {
            *link = gone->next;
            free(gone->task_id);
            free(gone);
            return;
        }
}

void resharder_metrics_update(resharder_t *self, int64_t kind, const sp_msg_task_update_t *update)
{
    const char *name = sp_enum_name(&sp_enum_task_kind, kind);
    bool final = update->state != SP_TASK_STATE_RUNNING;
    seen_t *seen = see(self, update->task_id);
    if (seen == NULL)
        return;
    int64_t rows = update->has_rows           ? update->rows
                   : update->has_rows_applied ? update->rows_applied
                                              : seen->rows;
    int64_t bytes = update->has_bytes ? update->bytes : seen->bytes;
    // A task that fails may have rolled back what it told; counters only grow.
    if (rows > seen->rows)
        sp_counter_add(sp_metric_with(self->metrics.rows, name, NULL), rows - seen->rows);
    if (bytes > seen->bytes)
        sp_counter_add(sp_metric_with(self->metrics.bytes, name, NULL), bytes - seen->bytes);
    seen->rows = rows;
    seen->bytes = bytes;
    seen->lag = seen->lag || update->has_lag_bytes || update->has_lag_ms;
    if (update->has_lag_bytes)
        sp_gauge_set(sp_metric_with(self->metrics.lag_bytes, seen->task_id, NULL),
                     (double)update->lag_bytes);
    if (update->has_lag_ms)
        sp_gauge_set(sp_metric_with(self->metrics.lag_ms, seen->task_id, NULL),
                     (double)update->lag_ms);
    if (!final)
        return;
    sp_counter_add(sp_metric_with(self->metrics.ended, name,
                                  sp_enum_name(&sp_enum_task_state, update->state), NULL),
                   1);
    forget(self, seen);
}

void resharder_metrics_tick(resharder_t *self)
{
    for (int64_t kind = SP_TASK_KIND_SCHEMA; kind <= SP_TASK_KIND_PURGE; kind++)
        sp_gauge_set(sp_metric_with(self->metrics.running, sp_enum_name(&sp_enum_task_kind, kind),
                                    NULL),
                     (double)task_table_running_kind(self->tasks, kind));
    // Those that were given up with their leader have no last word.
    for (seen_t *s = self->seen, *next; s != NULL; s = next) {
        next = s->next;
        if (!task_table_has(self->tasks, sp_str(s->task_id)))
            forget(self, s);
    }
}

void resharder_metrics_close(resharder_t *self)
{
    while (self->seen != NULL)
        forget(self, self->seen);
    sp_metrics_destroy(&self->metrics.registry);
}
