#include "services/resharder/pure_pace.h"

static const double longest_ms = 1e12; // a huge debt at a tiny rate: some 30 years are for ever

void pace_start(pace_t *self, int64_t rate_bytes_per_s, int64_t now_ms)
{
    self->rate_bytes_per_s = rate_bytes_per_s > 0 ? rate_bytes_per_s : 0;
    self->free_ms = (double)now_ms;
}

void pace_change(pace_t *self, int64_t rate_bytes_per_s, int64_t now_ms)
{
    double owed_ms = self->free_ms - (double)now_ms;
    double before = (double)self->rate_bytes_per_s;
    pace_start(self, rate_bytes_per_s, now_ms);
    if (owed_ms > 0 && before > 0 && self->rate_bytes_per_s > 0)
        self->free_ms += owed_ms * before / (double)self->rate_bytes_per_s;
}

void pace_spend(pace_t *self, int64_t bytes, int64_t now_ms)
{
    if (self->rate_bytes_per_s == 0 || bytes <= 0)
        return;
    double oldest = (double)(now_ms - PACE_CREDIT_MS);
    if (self->free_ms < oldest)
        self->free_ms = oldest;
    self->free_ms += (double)bytes * 1000.0 / (double)self->rate_bytes_per_s;
}

int64_t pace_wait_ms(const pace_t *self, int64_t now_ms)
{
    double wait_ms = self->free_ms - (double)now_ms;
    if (self->rate_bytes_per_s == 0 || wait_ms <= 0)
        return 0;
    return wait_ms > longest_ms ? (int64_t)longest_ms : (int64_t)wait_ms + 1;
}
