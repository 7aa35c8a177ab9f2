// Clocks.
#include "common/base/clock.h"

#include <errno.h>
#include <limits.h>
#include <time.h>

static int64_t read_us(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int64_t sp_clock_mono_ms(void)
{
    return read_us(CLOCK_MONOTONIC) / 1000;
}

int64_t sp_clock_mono_us(void)
{
    return read_us(CLOCK_MONOTONIC);
}

int64_t sp_clock_wall_ms(void)
{
    return read_us(CLOCK_REALTIME) / 1000;
}

int64_t sp_clock_wall_us(void)
{
    return read_us(CLOCK_REALTIME);
}

int sp_clock_until_ms(int64_t deadline_mono_ms)
{
    int64_t now = sp_clock_mono_ms();
    if (deadline_mono_ms <= now)
        return 0;
    int64_t left = deadline_mono_ms - now;
    return left > INT_MAX ? INT_MAX : (int)left;
}

void sp_clock_sleep_ms(int64_t ms)
{
    if (ms <= 0)
        return;
    struct timespec t = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &t, &t) == EINTR) {
    }
}
