// Arena: memory that lives as long as one message or one piece of work, freed at once.
#ifndef SP_BASE_ARENA_H
#define SP_BASE_ARENA_H

#include <stddef.h>

#include "common/base/str.h"

typedef struct sp_arena sp_arena_t;

// Limit: most bytes it may hand out (0: 64 MiB). NULL when memory runs out.
sp_arena_t *sp_arena_new(size_t limit);
void sp_arena_destroy(sp_arena_t **self_p);
void sp_arena_reset(sp_arena_t *self);        // frees all but the first block
size_t sp_arena_held(const sp_arena_t *self); // bytes of memory that it takes now
// Zeroed, aligned for any type; NULL over the limit or when memory runs out. n*size is checked for overflow.
void *sp_arena_alloc(sp_arena_t *self, size_t n, size_t size);
sp_str_t sp_arena_str(sp_arena_t *self,
                      sp_str_t s); // copy, also NUL-terminated behind len; absent on failure
char *sp_arena_strz(sp_arena_t *self, const char *z); // copy of a C string
char *sp_arena_cstr(sp_arena_t *self, sp_str_t s);    // NUL-terminated copy
char *sp_arena_printf(sp_arena_t *self, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
