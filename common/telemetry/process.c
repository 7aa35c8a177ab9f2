// Process metrics from /proc/self.
#include "common/telemetry/process.h"

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FIELDS = 25 };

typedef struct stat_line {
    long long user_ticks, system_ticks; // CPU
    long long threads;                  // threads
    long long start_ticks;              // since boot
    long long virtual_bytes;            // address space
    long long resident_pages;           // memory
} stat_line_t;

static bool read_stat(stat_line_t *ret)
{
    char text[1024];
    FILE *f = fopen("/proc/self/stat", "re");
    if (!f)
        return false;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = '\0';
    const char *p = strrchr(text, ')'); // the name may hold anything
    if (!p)
        return false;
    // Behind the name come the state and numbers, see proc(5): field 3 is the state.
    long long fields[FIELDS] = {0};
    char *at = (char *)(uintptr_t)p + 3;
    for (int field = 4; field < FIELDS; field++) {
        char *end;
        fields[field] = strtoll(at, &end, 10);
        if (end == at)
            return false;
        at = end;
    }
    *ret = (stat_line_t){.user_ticks = fields[14],
                         .system_ticks = fields[15],
                         .threads = fields[20],
                         .start_ticks = fields[22],
                         .virtual_bytes = fields[23],
                         .resident_pages = fields[24]};
    return true;
}

static long count_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    if (!d)
        return -1;
    long n = -3; // ., .. and the folder itself
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static double boot_time(void)
{
    FILE *f = fopen("/proc/stat", "re");
    if (!f)
        return 0;
    char line[256];
    double at = 0;
    while (at == 0 && fgets(line, sizeof line, f))
        if (strncmp(line, "btime ", 6) == 0)
            at = (double)strtoll(line + 6, NULL, 10);
    fclose(f);
    return at;
}

static void gauge(sp_buf_t *out, const char *name, const char *type, const char *help, double value)
{
    sp_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s %.17g\n", name, help, name, type, name,
                  value);
}

void sp_process_render(sp_buf_t *out)
{
    stat_line_t st;
    double hz = (double)sysconf(_SC_CLK_TCK);
    if (read_stat(&st)) {
        gauge(out, "process_cpu_seconds_total", "counter", "User and system CPU time, in seconds.",
              (double)(st.user_ticks + st.system_ticks) / hz);
        gauge(out, "process_resident_memory_bytes", "gauge", "Resident memory.",
              (double)st.resident_pages * (double)sysconf(_SC_PAGESIZE));
        gauge(out, "process_virtual_memory_bytes", "gauge", "Virtual memory.",
              (double)st.virtual_bytes);
        gauge(out, "process_threads", "gauge", "Threads.", (double)st.threads);
        gauge(out, "process_start_time_seconds", "gauge", "Start, as Unix time.",
              boot_time() + (double)st.start_ticks / hz);
    }
    long fds = count_fds();
    if (fds >= 0)
        gauge(out, "process_open_fds", "gauge", "Open descriptors.", (double)fds);
}
