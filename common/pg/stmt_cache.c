#include "common/pg/stmt_cache.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct sp_stmt_entry {
    char *sql;       // owned; NULL: free slot
    uint64_t number; // 0: forgotten, the slot keeps the probe chain together
} entry_t;

// FNV-1a, 64 bit.
static uint64_t hash_text(const char *text)
{
    uint64_t h = UINT64_C(14695981039346656037);
    for (; *text != 0; text++)
        h = (h ^ (unsigned char)*text) * UINT64_C(1099511628211);
    return h;
}

bool sp_stmt_cache_init(sp_stmt_cache_t *self, size_t limit)
{
    *self = (sp_stmt_cache_t){.limit = limit, .n_slots = 16, .next = 1};
    while (self->n_slots < 2 * limit)
        self->n_slots *= 2;
    self->slots = calloc(self->n_slots, sizeof *self->slots);
    return self->slots != NULL;
}

void sp_stmt_cache_clear(sp_stmt_cache_t *self)
{
    for (size_t i = 0; self->slots != NULL && i < self->n_slots; i++) {
        free(self->slots[i].sql);
        self->slots[i] = (entry_t){0};
    }
    self->made = 0;
}

void sp_stmt_cache_free(sp_stmt_cache_t *self)
{
    sp_stmt_cache_clear(self);
    free(self->slots);
    *self = (sp_stmt_cache_t){0};
}

bool sp_stmt_cache_full(const sp_stmt_cache_t *self, size_t more)
{
    return self->made + more > self->limit;
}

// The slot of sql, or the free one where it would go. There is one: slots are twice the limit, and full is emptied.
static entry_t *slot_of(const sp_stmt_cache_t *self, const char *sql)
{
    for (size_t i = hash_text(sql) & (self->n_slots - 1);; i = (i + 1) & (self->n_slots - 1))
        if (self->slots[i].sql == NULL || strcmp(self->slots[i].sql, sql) == 0)
            return &self->slots[i];
}

uint64_t sp_stmt_cache_find(const sp_stmt_cache_t *self, const char *sql)
{
    return slot_of(self, sql)->number;
}

uint64_t sp_stmt_cache_add(sp_stmt_cache_t *self, const char *sql)
{
    entry_t *slot = slot_of(self, sql);
    if (slot->sql == NULL && (slot->sql = strdup(sql)) == NULL)
        return 0;
    self->made++;
    return slot->number = self->next++;
}

void sp_stmt_cache_forget(sp_stmt_cache_t *self, uint64_t number)
{
    for (size_t i = 0; i < self->n_slots; i++)
        if (self->slots[i].number == number)
            self->slots[i].number = 0;
}

const char *sp_stmt_cache_name(uint64_t number, char out[SP_STMT_NAME])
{
    snprintf(out, SP_STMT_NAME, "s%" PRIu64, number);
    return out;
}
