// Metrics as Prometheus reads them, trace context, and the probe listener over a real socket.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/telemetry/listener.h"
#include "common/telemetry/metrics.h"
#include "common/telemetry/trace.h"

static const char *const by_code[] = {"code", NULL};

static char *render(sp_metrics_t *m)
{
    sp_buf_t out = SP_BUF_INIT;
    sp_metrics_render(m, &out);
    return out.data; // freed by the caller
}

static void has(const char *text, const char *line)
{
    if (!strstr(text, line))
        fail_msg("no \"%s\" in:\n%s", line, text);
}

static void families(void **state)
{
    (void)state;
    sp_metrics_t *m = sp_metrics_new("router", "router-1");
    sp_metric_t *requests = sp_metrics_counter(m, "requests_total", "Requests.", by_code);
    sp_counter_add(sp_metric_with(requests, "ok", NULL), 2);
    sp_counter_add(sp_metric_with(requests, "ok", NULL), 1);
    sp_counter_add(sp_metric_with(requests, "a\"b\\c\nd", NULL), 1);
    sp_counter_add(sp_metric_with(requests, "ok", NULL), -5);
    sp_gauge_set(sp_metric_with(sp_metrics_gauge(m, "depth", "Depth.", NULL), NULL), 1.5);
    sp_series_t *h = sp_metric_with(sp_metrics_histogram(m, "seconds", "Time.", NULL,
                                                         (const double[]){0.1, 1}, 2),
                                    NULL);
    sp_histogram_observe(h, 0.05);
    sp_histogram_observe(h, 0.1);
    sp_histogram_observe(h, 0.5);
    sp_histogram_observe(h, 7);
    assert_ptr_equal(sp_metrics_counter(m, "requests_total", "Requests.", by_code), requests);
    char *text = render(m);
    has(text, "# TYPE requests_total counter\n");
    has(text, "requests_total{code=\"ok\"} 3\n");
    has(text, "requests_total{code=\"a\\\"b\\\\c\\nd\"} 1\n");
    has(text, "\ndepth 1.5\n");
    has(text, "seconds_bucket{le=\"0.1\"} 2\nseconds_bucket{le=\"1\"} "
              "3\nseconds_bucket{le=\"+Inf\"} 4\n");
    has(text, "seconds_count 4\n");
    has(text, "service=\"router\",instance=\"router-1\"");
    has(text, "\nprocess_resident_memory_bytes ");
    has(text, "\nprocess_open_fds ");
    has(text, "\nprocess_threads 1\n");
    free(text);
    sp_metrics_destroy(&m);
}

static void hidden_and_bounded(void **state)
{
    (void)state;
    sp_metrics_t *m = sp_metrics_new("x", "x");
    sp_metric_t *lag = sp_metrics_gauge(m, "lag", "Lag.", by_code);
    for (int i = 0; i < 1500; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%d", i);
        sp_gauge_add(sp_metric_with(lag, name, NULL), 1);
    }
    sp_series_hide(sp_metric_with(lag, "s7", NULL));
    char *text = render(m);
    has(text, "lag{code=\"other\"} 500\n");
    assert_null(strstr(text, "\"s7\""));
    assert_null(strstr(text, "\"s1200\""));
    free(text);
    sp_metric_with(lag, "s7", NULL);
    text = render(m);
    has(text, "lag{code=\"s7\"} 1\n");
    free(text);
    sp_metrics_destroy(&m);
}

static void *count(void *arg)
{
    sp_metric_t *metric = arg;
    for (int i = 0; i < 20000; i++) {
        sp_counter_add(sp_metric_with(metric, i % 2 ? "a" : "b", NULL), 1);
    }
    return NULL;
}

static void threads(void **state)
{
    (void)state;
    sp_metrics_t *m = sp_metrics_new("x", "x");
    sp_metric_t *metric = sp_metrics_counter(m, "n", "N.", by_code);
    pthread_t t[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, count, metric), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    char *text = render(m);
    has(text, "n{code=\"a\"} 40000\n");
    has(text, "n{code=\"b\"} 40000\n");
    free(text);
    sp_metrics_destroy(&m);
}

static void traces(void **state)
{
    (void)state;
    sp_trace_t t, child;
    char out[SP_TRACEPARENT_LEN + 1];
    const char *good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert_true(sp_trace_parse(sp_str(good), &t));
    sp_trace_format(&t, out);
    assert_string_equal(out, good);
    sp_trace_child(&t, &child);
    assert_memory_equal(child.trace_id, t.trace_id, 16);
    assert_memory_not_equal(child.span_id, t.span_id, 8);
    assert_true(
        sp_trace_parse(SP_STR("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"), &t));
    static const char *const bad[] =
        {"",
         "00",
         "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
         "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
         "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
         "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
         "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
         "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
         "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (sp_trace_parse(sp_str(bad[i]), &t))
            fail_msg("%s was accepted", bad[i]);
    sp_trace_start(&t);
    sp_trace_format(&t, out);
    assert_true(sp_trace_parse(sp_str(out), &t));
}

static char page[65536];

// Connects and sends the text, which may be part of a request.
static int say(const char *endpoint, const char *request)
{
    int port = (int)strtol(strrchr(endpoint, ':') + 1, NULL, 10);
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    assert_int_equal(write(fd, request, strlen(request)), (ssize_t)strlen(request));
    return fd;
}

static int get(const char *endpoint, const char *request)
{
    int fd = say(endpoint, request);
    size_t n = 0;
    ssize_t got;
    while ((got = read(fd, page + n, sizeof page - 1 - n)) > 0)
        n += (size_t)got;
    page[n] = '\0';
    close(fd);
    return n > 12 ? (int)strtol(page + 9, NULL, 10) : 0;
}

static bool never_ready(void *arg, char *reason, size_t size)
{
    snprintf(reason, size, "no catalog yet");
    return *(bool *)arg;
}

static void listener(void **state)
{
    (void)state;
    sp_metrics_t *m = sp_metrics_new("router", "r");
    sp_listener_t *l = NULL, *second = NULL;
    sp_error_t err = {0};
    bool ready = false;
    assert_int_equal(sp_listener_open(&l, "", m, NULL, NULL, &err), SP_OK);
    assert_null(l);
    assert_int_equal(sp_listener_open(&l, "127.0.0.1:0", m, never_ready, &ready, &err), SP_OK);
    const char *at = sp_listener_endpoint(l);
    assert_int_equal(get(at, "GET /livez HTTP/1.0\r\n\r\n"), 200);
    assert_int_equal(get(at, "GET /readyz HTTP/1.0\r\n\r\n"), 503);
    has(page, "no catalog yet");
    ready = true;
    assert_int_equal(get(at, "GET /readyz HTTP/1.0\r\n\r\n"), 200);
    assert_int_equal(get(at, "GET /metrics HTTP/1.0\r\n\r\n"), 200);
    has(page, "shardplane_build_info{");
    assert_int_equal(get(at, "GET /other HTTP/1.0\r\n\r\n"), 404);
    assert_int_equal(get(at, "POST /metrics HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc"), 405);
    assert_int_equal(sp_listener_open(&second, at + 7, m, NULL, NULL, &err), SP_E_IO);
    assert_non_null(strstr(err.text, "in use"));
    assert_int_equal(sp_listener_open(&second, "127.0.0.1:70000", m, NULL, NULL, &err),
                     SP_E_CONFIG);
    sp_listener_close(&l);
    sp_listener_close(&l);
    sp_metrics_destroy(&m);
}

// Requests that never end must not keep a probe out.
static void slow_clients(void **state)
{
    (void)state;
    enum { SLOW = 200 };
    sp_metrics_t *m = sp_metrics_new("router", "r");
    sp_listener_t *l = NULL;
    sp_error_t err = {0};
    assert_int_equal(sp_listener_open(&l, "127.0.0.1:0", m, NULL, NULL, &err), SP_OK);
    const char *at = sp_listener_endpoint(l);
    static const char *const begun[] = {"", "GET /livez HTTP/1.1\r\nX-A: ",
                                        "POST /livez HTTP/1.1\r\nHost: x\r\n"
                                        "Transfer-Encoding: chunked\r\n\r\n1\r\nx"};
    int fds[SLOW];
    for (int i = 0; i < SLOW; i++)
        fds[i] = say(at, begun[i % 3]);
    int64_t began = sp_clock_mono_ms();
    for (int i = 0; i < 10; i++)
        assert_int_equal(get(at, "GET /livez HTTP/1.0\r\n\r\n"), 200);
    assert_true(sp_clock_mono_ms() - began < 5000);
    for (int i = 0; i < SLOW; i++)
        close(fds[i]);
    sp_listener_close(&l);
    sp_metrics_destroy(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families), cmocka_unit_test(hidden_and_bounded),
        cmocka_unit_test(threads),  cmocka_unit_test(traces),
        cmocka_unit_test(listener), cmocka_unit_test(slow_clients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
