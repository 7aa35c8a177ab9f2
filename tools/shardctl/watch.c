#include "tools/shardctl/watch.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "tools/shardctl/table.h"

#define INTERVAL_MS 400
#define BAR         24
// A gateway or manager that is being replaced comes back within this.
#define PATIENCE_MS 60000
// Without a terminal: a line at least so often.
#define QUIET_MS 5000

static double number(json_t *job, const char *path)
{
    return json_number_value(table_at(job, path));
}

static const char *text(json_t *job, const char *path)
{
    const char *z = json_string_value(table_at(job, path));
    return z != NULL ? z : "";
}

static void add_clipped(sp_buf_t *out, const char *before, json_t *value, int most,
                        const char *after)
{
    char *plain = table_text(value);
    if (plain[0] != '\0') {
        sp_buf_printf(out, "%s%.*s%s", before, most, plain, after);
    }
    free(plain);
}

// "precopy    [=====>      ]  45.2%  rows 135,000/300,000  38.2 MB/s  lag 12.0 kB 35 ms  ETA 4 s"
static void progress_line(json_t *job, sp_buf_t *out)
{
    char a[32], b[32], bar[BAR + 1];
    double percent = number(job, "progress.percent");
    percent = percent >= 0 && percent <= 100 ? percent : 0;
    int full = (int)(percent / 100 * BAR);
    memset(bar, ' ', BAR);
    memset(bar, '=', (size_t)full);
    if (full < BAR) {
        bar[full] = '>';
    }
    bar[BAR] = '\0';
    sp_buf_printf(out, "%-10s [%s] %5.1f%%", text(job, "state"), bar, percent);
    if (number(job, "progress.rows_total") > 0) {
        sp_buf_printf(out, "  rows %s/%s", table_count(a, number(job, "progress.rows_copied")),
                      table_count(b, number(job, "progress.rows_total")));
    }
    if (number(job, "progress.rate_bytes_per_s") > 0) {
        sp_buf_printf(out, "  %.1f MB/s", number(job, "progress.rate_bytes_per_s") / 1e6);
    }
    if (table_at(job, "progress.lag_bytes") != NULL) {
        sp_buf_printf(out, "  lag %s %s", table_bytes(a, number(job, "progress.lag_bytes")),
                      table_ms(b, number(job, "progress.lag_ms")));
    }
    if (number(job, "progress.eta_ms") > 0) {
        sp_buf_printf(out, "  ETA %s", table_ms(a, number(job, "progress.eta_ms")));
    }
    add_clipped(out, "  throttled: ", table_at(job, "progress.throttled"), 200, "");
    add_clipped(out, "  (", table_at(job, "error.message"), 120, ")");
}

// A line that wraps could not be drawn over: what does not fit is left out.
static void cut_to_terminal(char *line)
{
    struct winsize size;
    int room = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 80;
    for (; *line != '\0'; line++) {
        room -= ((unsigned char)*line & 0xc0) != 0x80; // characters, not bytes
        if (room == 0) {
            *line = '\0';
            return;
        }
    }
}

void watch_card(json_t *job)
{
    static const sp_column_t card[] = {{"job", "id", false},
                                       {"kind", "kind", false},
                                       {"state", "state", false},
                                       {"step", "step", false},
                                       {"keyspace", "keyspace", false},
                                       {"source", "source_shard_id", false},
                                       {"targets", "target_shard_ids", false},
                                       {"attempt", "attempt", false},
                                       {"rows copied", "progress.rows_copied", false},
                                       {"bytes copied", "progress.bytes_copied", false},
                                       {"changes applied", "progress.rows_applied", false},
                                       {"rows validated", "progress.rows_validated", false},
                                       {"max bytes/s", "max_bytes_per_s", false},
                                       {"max replica lag, bytes", "max_replica_lag_bytes", false},
                                       {"throttled", "progress.throttled", false},
                                       {"ring before", "ring_version_before", false},
                                       {"ring after", "ring_version_after", false},
                                       {"fence to open, ms", "cutover.fence_to_open_ms", false},
                                       {"write pause, ms", "cutover.write_pause_ms", false},
                                       {"cutover attempts", "cutover.attempts", false},
                                       {"error", "error.message", false},
                                       {"commands", "can", false}};
    static const sp_column_t phases[] = {{"PHASE", "name", false}, {"SECONDS", "seconds", true}};
    table_card(stdout, job, card, sizeof(card) / sizeof(card[0]));
    if (json_array_size(json_object_get(job, "phases")) > 0) {
        printf("\n");
        table_print(stdout, json_object_get(job, "phases"), phases, 2);
    }
    if (json_array_size(json_object_get(job, "findings")) > 0) {
        printf("\n");
        table_findings(stdout, json_object_get(job, "findings"));
    }
}

// 0 while it runs, else what watch_job returns plus one.
static int ended(json_t *job)
{
    const char *state = text(job, "state");
    bool can_finalize = false;
    size_t i;
    json_t *command;
    json_array_foreach(json_object_get(job, "can"), i, command)
    {
        const char *name = json_string_value(command);
        can_finalize = can_finalize || (name != NULL && strcmp(name, "finalize") == 0);
    }
    // One that is being finalized goes on.
    if (strcmp(state, "finalized") == 0 || (strcmp(state, "completed") == 0 && can_finalize)) {
        return EXIT_DONE + 1;
    }
    bool over = strcmp(state, "failed") == 0 || strcmp(state, "cancelled") == 0 ||
                strcmp(state, "rolled_back") == 0;
    return over ? EXIT_REFUSED + 1 : 0;
}

typedef struct view {
    bool terminal;    // redraw one line
    char state[32];   // shown last
    int64_t shown_ms; // monotonic time of the last line
    char *dumped;     // --json: shown last
} view_t;

static void show(const sp_rest_t *rest, view_t *view, json_t *job)
{
    if (rest->json) {
        char *dump = json_dumps(job, JSON_COMPACT | JSON_REAL_PRECISION(15));
        if (dump != NULL && (view->dumped == NULL || strcmp(dump, view->dumped) != 0)) {
            printf("%s\n", dump);
            fflush(stdout);
        }
        free(view->dumped);
        view->dumped = dump;
        return;
    }
    sp_buf_t buf = SP_BUF_INIT;
    progress_line(job, &buf);
    char *line = buf.data != NULL ? buf.data : "";
    bool changed = strcmp(view->state, text(job, "state")) != 0;
    if (view->terminal) {
        cut_to_terminal(line);
        // A phase that is over keeps its line.
        printf("%s\r\033[K%s", changed && view->state[0] != '\0' ? "\n" : "", line);
    } else if (changed || sp_clock_mono_ms() - view->shown_ms > QUIET_MS) {
        printf("%s\n", line);
        view->shown_ms = sp_clock_mono_ms();
    }
    fflush(stdout);
    sp_buf_free(&buf);
    snprintf(view->state, sizeof(view->state), "%s", text(job, "state"));
}

int watch_job(const sp_rest_t *rest, const char *job_id)
{
    view_t view = {.terminal = isatty(STDOUT_FILENO) != 0};
    int64_t patient_until = sp_clock_mono_ms() + PATIENCE_MS;
    bool seen = false;
    for (;;) {
        json_t *reply = NULL;
        long status = 0;
        int code = rest_try(rest, "GET", rest_path("/api/v1/reshard/jobs/%s", job_id), NULL,
                            &status, &reply);
        int over = 0;
        if (code == EXIT_DONE) {
            seen = true;
            patient_until = sp_clock_mono_ms() + PATIENCE_MS;
            show(rest, &view, reply);
            over = ended(reply);
        } else if ((code == EXIT_REFUSED && status < 500) || !seen ||
                   sp_clock_mono_ms() > patient_until) {
            printf("%s", view.terminal && view.state[0] != '\0' ? "\n" : "");
            rest_explain(rest, code, reply);
            over = code + 1;
        }
        if (over != 0 && code == EXIT_DONE && !rest->json) {
            printf("%s\n", view.terminal ? "\n" : "");
            watch_card(reply);
        }
        json_decref(reply);
        if (over != 0) {
            free(view.dumped);
            return over - 1;
        }
        sp_clock_sleep_ms(INTERVAL_MS);
    }
}
