// Pace: bytes a second as a debt in time. What was moved is paid for by waiting afterwards, so that a chunk of any size is allowed and the
// average holds; what a slow peer did not use is not saved up, but for a moment.
#ifndef SP_RESHARDER_PURE_PACE_H
#define SP_RESHARDER_PURE_PACE_H

#include <stdint.h>

enum { PACE_CREDIT_MS = 250 }; // slowness that may be made up for

typedef struct pace {
    int64_t rate_bytes_per_s; // 0: no limit
    double free_ms;           // monotonic time at which all that was moved is paid for
} pace_t;

// Starts without debt and without credit.
void pace_start(pace_t *self, int64_t rate_bytes_per_s, int64_t now_ms);
// Another rate from now on: what is still to be paid is paid at the new one.
void pace_change(pace_t *self, int64_t rate_bytes_per_s, int64_t now_ms);
void pace_spend(pace_t *self, int64_t bytes, int64_t now_ms);
// How long to wait before more is moved, ms; 0: go on.
int64_t pace_wait_ms(const pace_t *self, int64_t now_ms);

#endif
