#include "common/wire/unique.h"

#include <stdlib.h>

static int compare(const void *a, const void *b)
{
    return sp_str_cmp(*(const sp_str_t *)a, *(const sp_str_t *)b);
}

int sp_unique_keys(const sp_value_pair_t *pairs, size_t n, sp_arena_t *arena, sp_error_t *err)
{
    sp_str_t few[16];
    sp_str_t *keys =
        n <= sizeof(few) / sizeof(few[0]) ? few : sp_arena_alloc(arena, n, sizeof(sp_str_t));
    if (keys == NULL) {
        return sp_error_set(err, SP_E_TOO_LARGE, "a map takes more memory than a message may");
    }
    for (size_t i = 0; i < n; i++) {
        keys[i] = pairs[i].key;
    }
    qsort(keys, n, sizeof(keys[0]), compare);
    for (size_t i = 1; i < n; i++) {
        if (sp_str_eq(keys[i - 1], keys[i])) {
            // Never half a key: a cut inside a character would make the error itself invalid UTF-8.
            return keys[i].len > 64 ? sp_error_set(err, SP_E_MALFORMED,
                                                   "a key of %zu bytes is given twice", keys[i].len)
                                    : sp_error_set(err, SP_E_MALFORMED,
                                                   "the key '" SP_STR_FMT "' is given twice",
                                                   SP_STR_ARG(keys[i]));
        }
    }
    return 0;
}
