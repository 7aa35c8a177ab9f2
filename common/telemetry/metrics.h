// Metrics in Prometheus' text format. Families are made at start; a series is a family with label values. All calls are thread-safe.
#ifndef SP_TELEMETRY_METRICS_H
#define SP_TELEMETRY_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/buf.h"

typedef struct sp_metrics sp_metrics_t; // a registry
typedef struct sp_metric sp_metric_t;   // a family; lives as long as its registry
typedef struct sp_series sp_series_t; // one family with label values; lives as long as its registry

// kind ("router") stands as label `service` on shardplane_build_info; id as `instance`. NULL when memory runs out.
sp_metrics_t *sp_metrics_new(const char *kind, const char *service_id);
void sp_metrics_destroy(sp_metrics_t **self_p);

// Families. name is complete (shardplane_router_requests_total); labels: NULL-terminated names, or NULL for none. Asked for again
// under the same name it is the same family. Strings are copied. At most 1000 series a family: further label values fall into one
// series whose values are all "other". Never NULL: without memory a family that counts nothing.
sp_metric_t *sp_metrics_counter(sp_metrics_t *self, const char *name, const char *help,
                                const char *const *labels);
sp_metric_t *sp_metrics_gauge(sp_metrics_t *self, const char *name, const char *help,
                              const char *const *labels);
// bounds: ascending upper bounds in the metric's unit, n of them; NULL: 0.5 ms to 10 s, in seconds.
sp_metric_t *sp_metrics_histogram(sp_metrics_t *self, const char *name, const char *help,
                                  const char *const *labels, const double *bounds, size_t n);

// The series for label values, as many C strings as there are labels (none: sp_metric_with(m, NULL)). End with NULL. Hot paths keep
// what this returns.
sp_series_t *sp_metric_with(sp_metric_t *self, ...) __attribute__((sentinel));
// Not shown any more until sp_metric_with is called again for it (a shard that is gone).
void sp_series_hide(sp_series_t *self);

void sp_counter_add(sp_series_t *self, int64_t n); // n >= 0
void sp_counter_set(sp_series_t *self, int64_t n); // mirrors a counter kept elsewhere
void sp_gauge_set(sp_series_t *self, double value);
void sp_gauge_add(sp_series_t *self, double value);
void sp_histogram_observe(sp_series_t *self, double value);

// Text exposition format 0.0.4, with this process' own metrics (resident memory, descriptors, threads, CPU, start time).
void sp_metrics_render(sp_metrics_t *self, sp_buf_t *out);

#endif
