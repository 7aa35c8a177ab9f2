// Lag against remembered positions.
#include "services/health/pure_lag.h"

// Drops the sample that is missed least: the one whose neighbours are nearest to each other for its age. So the resolution is finest
// for recent positions, and the whole past stays covered.
static void thin_out(lag_history_t *self, int64_t now_ms)
{
    size_t least = 1;
    double least_gap = 2;
    for (size_t i = 1; i + 1 < self->n; i++) {
        double age = (double)(now_ms - self->items[i].at_ms) + 1;
        double gap = (double)(self->items[i + 1].at_ms - self->items[i - 1].at_ms) / age;
        if (gap < least_gap) {
            least_gap = gap;
            least = i;
        }
    }
    for (size_t i = least + 1; i < self->n; i++)
        self->items[i - 1] = self->items[i];
    self->n--;
}

void lag_history_add(lag_history_t *self, int64_t lsn, int64_t at_ms)
{
    if (self->n && lsn < self->items[self->n - 1].lsn)
        self->n = 0;
    if (self->n && lsn == self->items[self->n - 1].lsn)
        return;
    if (self->n == LAG_SAMPLES)
        thin_out(self, at_ms);
    self->items[self->n++] = (lag_sample_t){lsn, at_ms};
}

int64_t lag_bytes(const lag_history_t *self, int64_t replica_lsn)
{
    if (self->n == 0)
        return 0;
    int64_t primary = self->items[self->n - 1].lsn;
    return primary > replica_lsn ? primary - replica_lsn : 0;
}

int64_t lag_ms(const lag_history_t *self, int64_t replica_lsn, int64_t now_ms)
{
    for (size_t i = 0; i < self->n; i++)
        if (self->items[i].lsn > replica_lsn)
            return now_ms > self->items[i].at_ms ? now_ms - self->items[i].at_ms : 0;
    return 0;
}
