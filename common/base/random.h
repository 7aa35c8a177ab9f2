// Random: from the operating system through libsodium.
#ifndef SP_BASE_RANDOM_H
#define SP_BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

void sp_random_bytes(void *out, size_t len);
uint64_t sp_random_u64(void);
uint32_t sp_random_below(uint32_t limit); // uniform in [0, limit); 0 for limit 0
// n characters of lower-case base32 (a-z2-7) and a NUL: out needs n+1 bytes.
void sp_random_id(char *out, size_t n);
// Backoff with full jitter: uniform in [base/2, min(cap, base << attempt)].
int64_t sp_random_backoff_ms(int attempt, int64_t base_ms, int64_t cap_ms);

#endif
