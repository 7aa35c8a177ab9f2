// Random numbers.
#include "common/base/random.h"

#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void start(void)
{
    if (sodium_init() < 0)
        abort(); // no source of randomness at all: nothing safe can be done
}

void sp_random_bytes(void *out, size_t len)
{
    pthread_once(&once, start);
    randombytes_buf(out, len);
}

uint64_t sp_random_u64(void)
{
    uint64_t value;
    sp_random_bytes(&value, sizeof value);
    return value;
}

uint32_t sp_random_below(uint32_t limit)
{
    pthread_once(&once, start);
    return limit ? randombytes_uniform(limit) : 0;
}

void sp_random_id(char *out, size_t n)
{
    static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz234567";
    sp_random_bytes(out, n);
    for (size_t i = 0; i < n; i++)
        out[i] = alphabet[(unsigned char)out[i] & 31];
    out[n] = '\0';
}

int64_t sp_random_backoff_ms(int attempt, int64_t base_ms, int64_t cap_ms)
{
    int64_t low = base_ms / 2;
    int64_t high = base_ms;
    for (int i = 0; i < attempt && high < cap_ms; i++)
        high = high > INT64_MAX / 2 ? cap_ms : high * 2;
    if (high > cap_ms)
        high = cap_ms;
    if (high <= low)
        return high > 0 ? high : 0;
    return low + (int64_t)(sp_random_u64() % (uint64_t)(high - low + 1));
}
