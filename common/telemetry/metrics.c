// Registry: families in a list, series in a list a family; both only grow, so that handles stay valid. Values are atomics; the lock is
// taken to find or make a series and to render.
#include "common/telemetry/metrics.h"

#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/config.h"
#include "common/telemetry/process.h"

enum { MAX_LABELS = 8, MAX_SERIES = 1000 };
typedef enum { COUNTER, GAUGE, HISTOGRAM } kind_t;

struct sp_series {
    sp_metric_t *metric;    // family
    sp_series_t *next;      // next of the family
    char *labels;           // rendered: `a="x",b="y"`
    atomic_bool hidden;     // left out of the text
    atomic_llong count;     // counter's value
    _Atomic uint64_t value; // gauge's value or histogram's sum, bits of a double
    atomic_llong *buckets;  // histogram: one a bound, not cumulative
};

struct sp_metric {
    sp_metrics_t *registry;   // owner
    sp_metric_t *next;        // next family
    char *name, *help;        // as told
    kind_t kind;              // type
    char *labels[MAX_LABELS]; // names
    size_t labels_n;          // count
    double *bounds;           // histogram: upper bounds
    size_t bounds_n;          // count
    sp_series_t *first;       // series, newest first
    size_t series_n;          // count
    sp_series_t *overflow;    // takes what is over MAX_SERIES
};

struct sp_metrics {
    pthread_mutex_t lock;      // families, series
    sp_metric_t *first, *last; // in the order of making
};

// Where handles point when memory ran out: counted into, never shown.
static atomic_llong no_buckets[64];
static sp_metric_t no_metric;
static sp_series_t no_series = {.metric = &no_metric, .buckets = no_buckets};

static const double default_bounds[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                        0.1,    0.25,  0.5,    1,     2.5,  5,     10};

sp_metrics_t *sp_metrics_new(const char *kind, const char *service_id)
{
    sp_metrics_t *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    pthread_mutex_init(&self->lock, NULL);
    sp_metric_t *info =
        sp_metrics_gauge(self, "shardplane_build_info", "Always 1; labels tell what runs.",
                         (const char *const[]){"service", "instance", "version", NULL});
    sp_gauge_set(sp_metric_with(info, kind, service_id, sp_config_version(), NULL), 1);
    return self;
}

static void metric_free(sp_metric_t *m)
{
    for (sp_series_t *s = m->first, *next; s; s = next) {
        next = s->next;
        free(s->labels);
        free(s->buckets);
        free(s);
    }
    for (size_t i = 0; i < m->labels_n; i++)
        free(m->labels[i]);
    free(m->name);
    free(m->help);
    free(m->bounds);
    free(m);
}

void sp_metrics_destroy(sp_metrics_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    for (sp_metric_t *m = (*self_p)->first, *next; m; m = next) {
        next = m->next;
        metric_free(m);
    }
    pthread_mutex_destroy(&(*self_p)->lock);
    free(*self_p);
    *self_p = NULL;
}

static sp_metric_t *metric_new(sp_metrics_t *self, kind_t kind, const char *name, const char *help,
                               const char *const *labels, const double *bounds, size_t n)
{
    sp_metric_t *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->registry = self;
    m->kind = kind;
    m->name = strdup(name);
    m->help = strdup(help);
    bool ok = m->name && m->help;
    for (; ok && labels && labels[m->labels_n] && m->labels_n < MAX_LABELS; m->labels_n++)
        ok = (m->labels[m->labels_n] = strdup(labels[m->labels_n])) != NULL;
    if (ok && kind == HISTOGRAM) {
        m->bounds = calloc(n, sizeof *m->bounds);
        ok = m->bounds != NULL;
        if (ok)
            memcpy(m->bounds, bounds, n * sizeof *bounds);
        m->bounds_n = n;
    }
    if (!ok) {
        metric_free(m);
        return NULL;
    }
    return m;
}

static sp_metric_t *family(sp_metrics_t *self, kind_t kind, const char *name, const char *help,
                           const char *const *labels, const double *bounds, size_t n)
{
    pthread_mutex_lock(&self->lock);
    sp_metric_t *m = self->first;
    while (m && strcmp(m->name, name) != 0)
        m = m->next;
    if (!m && (m = metric_new(self, kind, name, help, labels, bounds, n))) {
        if (self->last)
            self->last->next = m;
        else
            self->first = m;
        self->last = m;
    }
    pthread_mutex_unlock(&self->lock);
    return m ? m : &no_metric;
}

sp_metric_t *sp_metrics_counter(sp_metrics_t *self, const char *name, const char *help,
                                const char *const *labels)
{
    return family(self, COUNTER, name, help, labels, NULL, 0);
}

sp_metric_t *sp_metrics_gauge(sp_metrics_t *self, const char *name, const char *help,
                              const char *const *labels)
{
    return family(self, GAUGE, name, help, labels, NULL, 0);
}

sp_metric_t *sp_metrics_histogram(sp_metrics_t *self, const char *name, const char *help,
                                  const char *const *labels, const double *bounds, size_t n)
{
    if (!bounds)
        bounds = default_bounds, n = sizeof default_bounds / sizeof *default_bounds;
    return family(self, HISTOGRAM, name, help, labels, bounds, n);
}

// `name="value",...` with what the text format escapes.
static void add_label(sp_buf_t *out, const char *name, const char *value)
{
    sp_buf_printf(out, "%s%s=\"", out->len ? "," : "", name);
    for (const char *p = value; *p; p++) {
        if (*p == '\\')
            sp_buf_addz(out, "\\\\");
        else if (*p == '"')
            sp_buf_addz(out, "\\\"");
        else if (*p == '\n')
            sp_buf_addz(out, "\\n");
        else
            sp_buf_addc(out, *p);
    }
    sp_buf_addc(out, '"');
}

// With the lock held; text becomes the series' own on success.
static sp_series_t *series_new(sp_metric_t *self, sp_buf_t *text)
{
    sp_series_t *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    if (self->kind == HISTOGRAM)
        s->buckets = calloc(self->bounds_n + 1, sizeof *s->buckets);
    s->labels = strdup(sp_buf_cstr(text));
    if (!s->labels || (self->kind == HISTOGRAM && !s->buckets)) {
        free(s->labels);
        free(s->buckets);
        free(s);
        return NULL;
    }
    s->metric = self;
    s->next = self->first;
    self->first = s;
    self->series_n++;
    return s;
}

static sp_series_t *find_or_make(sp_metric_t *self, sp_buf_t *text)
{
    for (sp_series_t *s = self->first; s; s = s->next)
        if (strcmp(s->labels, sp_buf_cstr(text)) == 0)
            return s;
    if (self->series_n < MAX_SERIES)
        return series_new(self, text);
    if (!self->overflow) {
        sp_buf_reset(text);
        for (size_t i = 0; i < self->labels_n; i++)
            add_label(text, self->labels[i], "other");
        self->overflow = series_new(self, text);
    }
    return self->overflow;
}

sp_series_t *sp_metric_with(sp_metric_t *self, ...)
{
    if (!self->registry)
        return &no_series;
    sp_buf_t text = {.limit = 4096};
    va_list ap;
    va_start(ap, self);
    for (size_t i = 0; i < self->labels_n; i++) {
        const char *value = va_arg(ap, const char *);
        if (!value)
            break;
        add_label(&text, self->labels[i], sp_str_valid_utf8(sp_str(value)) ? value : "invalid");
    }
    va_end(ap);
    pthread_mutex_lock(&self->registry->lock);
    sp_series_t *s = text.failed ? NULL : find_or_make(self, &text);
    if (s)
        atomic_store(&s->hidden, false);
    pthread_mutex_unlock(&self->registry->lock);
    sp_buf_free(&text);
    return s ? s : &no_series;
}

void sp_series_hide(sp_series_t *self)
{
    atomic_store(&self->hidden, true);
}

void sp_counter_add(sp_series_t *self, int64_t n)
{
    if (n > 0)
        atomic_fetch_add_explicit(&self->count, n, memory_order_relaxed);
}

void sp_counter_set(sp_series_t *self, int64_t n)
{
    atomic_store_explicit(&self->count, n, memory_order_relaxed);
}

static uint64_t bits_of(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static double double_of(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

void sp_gauge_set(sp_series_t *self, double value)
{
    atomic_store_explicit(&self->value, bits_of(value), memory_order_relaxed);
}

void sp_gauge_add(sp_series_t *self, double value)
{
    uint64_t old = atomic_load_explicit(&self->value, memory_order_relaxed);
    while (!atomic_compare_exchange_weak(&self->value, &old, bits_of(double_of(old) + value))) {
    }
}

void sp_histogram_observe(sp_series_t *self, double value)
{
    const sp_metric_t *m = self->metric;
    size_t i = 0;
    while (i < m->bounds_n && value > m->bounds[i])
        i++;
    atomic_fetch_add_explicit(&self->buckets[i], 1, memory_order_relaxed);
    sp_gauge_add(self, value);
}

static void add_number(sp_buf_t *out, double value)
{
    if (isnan(value))
        sp_buf_addz(out, "NaN");
    else if (isinf(value))
        sp_buf_addz(out, value > 0 ? "+Inf" : "-Inf");
    else
        sp_buf_printf(out, "%.17g", value);
}

static void render_histogram(const sp_metric_t *m, const sp_series_t *s, sp_buf_t *out)
{
    const char *comma = *s->labels ? "," : "";
    long long sum = 0;
    for (size_t i = 0; i <= m->bounds_n; i++) {
        sum += atomic_load_explicit(&s->buckets[i], memory_order_relaxed);
        sp_buf_printf(out, "%s_bucket{%s%sle=\"", m->name, s->labels, comma);
        if (i < m->bounds_n)
            sp_buf_printf(out, "%g", m->bounds[i]);
        else
            sp_buf_addz(out, "+Inf");
        sp_buf_printf(out, "\"} %lld\n", sum);
    }
    const char *open = *s->labels ? "{" : "", *close = *s->labels ? "}" : "";
    sp_buf_printf(out, "%s_sum%s%s%s ", m->name, open, s->labels, close);
    add_number(out, double_of(atomic_load(&s->value)));
    sp_buf_printf(out, "\n%s_count%s%s%s %lld\n", m->name, open, s->labels, close, sum);
}

static void render_series(const sp_metric_t *m, const sp_series_t *s, sp_buf_t *out)
{
    if (m->kind == HISTOGRAM) {
        render_histogram(m, s, out);
        return;
    }
    sp_buf_addz(out, m->name);
    if (*s->labels)
        sp_buf_printf(out, "{%s}", s->labels);
    sp_buf_addc(out, ' ');
    if (m->kind == COUNTER)
        sp_buf_printf(out, "%lld", (long long)atomic_load(&s->count));
    else
        add_number(out, double_of(atomic_load(&s->value)));
    sp_buf_addc(out, '\n');
}

void sp_metrics_render(sp_metrics_t *self, sp_buf_t *out)
{
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    pthread_mutex_lock(&self->lock);
    for (const sp_metric_t *m = self->first; m; m = m->next) {
        sp_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", m->name, m->help, m->name,
                      kinds[m->kind]);
        for (sp_series_t *s = m->first; s; s = s->next)
            if (!atomic_load(&s->hidden))
                render_series(m, s, out);
    }
    pthread_mutex_unlock(&self->lock);
    sp_process_render(out);
}
