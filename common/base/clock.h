// Clocks: timers and deadlines use the monotonic one only; wall time is for people.
#ifndef SP_BASE_CLOCK_H
#define SP_BASE_CLOCK_H

#include <stdint.h>

int64_t sp_clock_mono_ms(void);
int64_t sp_clock_mono_us(void);
int64_t sp_clock_wall_ms(void); // Unix time
int64_t sp_clock_wall_us(void);
// Milliseconds until a monotonic deadline, never below 0, cut at INT_MAX.
int sp_clock_until_ms(int64_t deadline_mono_ms);
void sp_clock_sleep_ms(int64_t ms); // blocks; for actors only

#endif
