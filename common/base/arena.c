// Arena: a chain of blocks, the newest first; big pieces get a block of their own.
#include "common/base/arena.h"

#include <stdalign.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_BLOCK = 4096, BIG_BLOCK = 64 * 1024 };
#define DEFAULT_LIMIT ((size_t)64 * 1024 * 1024)

typedef struct block {
    struct block *next;                        // older block
    size_t cap;                                // bytes in data
    size_t used;                               // bytes handed out
    alignas(max_align_t) unsigned char data[]; // memory
} block_t;

struct sp_arena {
    block_t *first;  // kept by reset
    block_t *newest; // where allocation goes on; the chain ends at first
    size_t limit;    // most bytes
    size_t total;    // bytes handed out
    size_t held;     // bytes of all blocks
};

static block_t *block_new(size_t cap, block_t *next)
{
    if (cap > SIZE_MAX - sizeof(block_t))
        return NULL;
    block_t *b = malloc(sizeof *b + cap);
    if (!b)
        return NULL;
    b->next = next;
    b->cap = cap;
    b->used = 0;
    return b;
}

sp_arena_t *sp_arena_new(size_t limit)
{
    sp_arena_t *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    self->limit = limit ? limit : DEFAULT_LIMIT;
    self->first = self->newest = block_new(FIRST_BLOCK, NULL);
    if (!self->first) {
        free(self);
        return NULL;
    }
    self->held = FIRST_BLOCK;
    return self;
}

static void free_chain(block_t *b, const block_t *stop)
{
    while (b && b != stop) {
        block_t *next = b->next;
        free(b);
        b = next;
    }
}

void sp_arena_destroy(sp_arena_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    free_chain((*self_p)->newest, NULL);
    free(*self_p);
    *self_p = NULL;
}

void sp_arena_reset(sp_arena_t *self)
{
    free_chain(self->newest, self->first);
    self->newest = self->first;
    self->first->used = 0;
    self->first->next = NULL;
    self->total = 0;
    self->held = FIRST_BLOCK;
}

size_t sp_arena_held(const sp_arena_t *self)
{
    return self->held;
}

void *sp_arena_alloc(sp_arena_t *self, size_t n, size_t size)
{
    size_t want;
    if (__builtin_mul_overflow(n, size, &want) || want > self->limit)
        return NULL;
    if (want == 0)
        want = 1;
    want = (want + alignof(max_align_t) - 1) & ~(alignof(max_align_t) - 1);
    if (want > self->limit - self->total)
        return NULL;
    block_t *b = self->newest;
    if (want > b->cap - b->used) {
        size_t cap = b->cap < BIG_BLOCK ? b->cap * 2 : BIG_BLOCK;
        b = block_new(want > cap ? want : cap, self->newest);
        if (!b)
            return NULL;
        self->newest = b;
        self->held += b->cap;
    }
    void *p = b->data + b->used;
    b->used += want;
    self->total += want;
    memset(p, 0, want);
    return p;
}

sp_str_t sp_arena_str(sp_arena_t *self, sp_str_t s)
{
    if (!s.ptr)
        return s;
    char *z = sp_arena_cstr(self, s);
    return z ? (sp_str_t){z, s.len} : (sp_str_t){NULL, 0};
}

char *sp_arena_strz(sp_arena_t *self, const char *z)
{
    return z ? sp_arena_cstr(self, sp_str(z)) : NULL;
}

char *sp_arena_cstr(sp_arena_t *self, sp_str_t s)
{
    if (s.len == SIZE_MAX)
        return NULL;
    char *z = sp_arena_alloc(self, s.len + 1, 1);
    if (z && s.len)
        memcpy(z, s.ptr, s.len);
    return z;
}

char *sp_arena_printf(sp_arena_t *self, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *z = n < 0 ? NULL : sp_arena_alloc(self, (size_t)n + 1, 1);
    if (z)
        vsnprintf(z, (size_t)n + 1, fmt, again);
    va_end(again);
    return z;
}
