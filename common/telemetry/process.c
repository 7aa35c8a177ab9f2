// Process metrics from /proc/self.
#include "common/telemetry/process.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct stat_line {
    unsigned long long user_ticks, system_ticks; // CPU
    long threads;                                // threads
    unsigned long long start_ticks;              // since boot
    unsigned long virtual_bytes;                 // address space
    long resident_pages;                         // memory
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
    // Fields from the third on, see proc(5).
    return p && sscanf(p + 1,
                       " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %ld "
                       "%*d %llu %lu %ld",
                       &ret->user_ticks, &ret->system_ticks, &ret->threads, &ret->start_ticks,
                       &ret->virtual_bytes, &ret->resident_pages) == 6;
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
    unsigned long long at = 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "btime %llu", &at) == 1)
            break;
    fclose(f);
    return (double)at;
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
