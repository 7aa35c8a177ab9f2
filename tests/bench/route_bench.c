// route.local_ns_vs_hash: looking up the owner of a 32-byte key in a ring of 64 shards x 256 tokens, over hashing the key alone, side by
// side in alternating rounds. Prints {"ratios": {...}, "raw": {...}}; the medians count.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/ring/hash.h"
#include "common/ring/ring.h"

enum { SHARDS = 64, TOKENS = 256, KEYS = 4096, LOOPS = 200, ROUNDS = 9 };

static char keys[KEYS][33];
static volatile int64_t sink; // keeps the work from being optimised away

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double round_ns(const sp_ring_t *ring)
{
    int64_t began = sp_clock_mono_us(), sum = 0;
    for (int loop = 0; loop < LOOPS; loop++)
        for (int i = 0; i < KEYS; i++) {
            int64_t hash = sp_key_hash(keys[i], 32);
            sum += ring ? sp_ring_lookup(ring, hash) : hash;
        }
    sink = sum;
    return (double)(sp_clock_mono_us() - began) * 1000 / ((double)LOOPS * KEYS);
}

int main(void)
{
    sp_arena_t *arena = sp_arena_new(0);
    sp_ring_shard_t shards[SHARDS];
    int64_t *taken = calloc(SHARDS * TOKENS, sizeof *taken);
    size_t n_taken = 0;
    sp_ring_t *ring = NULL;
    sp_error_t err = {0};
    int rc = arena && taken ? 0 : SP_E_OUT_OF_MEMORY;
    for (int i = 0; i < SHARDS && rc == 0; i++) {
        shards[i].id = sp_str(sp_arena_printf(arena, "shard%d", i));
        rc = sp_tokens_initial(shards[i].id, TOKENS, (sp_tokens_t){taken, n_taken}, arena,
                               &shards[i].tokens, &err);
        for (size_t t = 0; rc == 0 && t < TOKENS; t++)
            taken[n_taken++] = shards[i].tokens.items[t];
    }
    if (rc == 0)
        rc = sp_ring_build(&ring, shards, SHARDS, &err);
    if (rc != 0) {
        fprintf(stderr, "route_bench: %s\n", err.text);
        sp_arena_destroy(&arena);
        free(taken);
        return 1;
    }
    for (int i = 0; i < KEYS; i++)
        snprintf(keys[i], sizeof keys[i], "customer-%023d", i * 7919);
    double hash[ROUNDS], lookup[ROUNDS], ratio[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        hash[i] = round_ns(NULL);
        lookup[i] = round_ns(ring);
        ratio[i] = lookup[i] / hash[i];
    }
    qsort(hash, ROUNDS, sizeof *hash, by_value);
    qsort(lookup, ROUNDS, sizeof *lookup, by_value);
    qsort(ratio, ROUNDS, sizeof *ratio, by_value);
    printf("{\"ratios\": {\"route.local_ns_vs_hash\": %.2f}, \"raw\": {\"hash_ns\": %.1f, "
           "\"lookup_ns\": %.1f, "
           "\"rounds\": %d}}\n",
           ratio[ROUNDS / 2], hash[ROUNDS / 2], lookup[ROUNDS / 2], ROUNDS);
    sp_ring_destroy(&ring);
    sp_arena_destroy(&arena);
    free(taken);
    return 0;
}
