// Which SQL texts a connection has prepared, and under which name. Bounded: when it is full the owner empties server and cache together.
#ifndef SP_PG_STMT_CACHE_H
#define SP_PG_STMT_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SP_STMT_NAME 24

typedef struct sp_stmt_cache {
    struct sp_stmt_entry *slots; // open addressing; sql NULL: free
    size_t n_slots;              // power of two, at least twice the limit
    size_t limit;                // most statements on the server
    size_t made;   // statements made on the server since it was emptied, also forgotten ones
    uint64_t next; // number of the next name; never used twice on one connection
} sp_stmt_cache_t;

bool sp_stmt_cache_init(sp_stmt_cache_t *self, size_t limit); // false without memory
void sp_stmt_cache_free(sp_stmt_cache_t *self);
void sp_stmt_cache_clear(sp_stmt_cache_t *self); // the server has forgotten all
bool sp_stmt_cache_full(const sp_stmt_cache_t *self, size_t more);
// Number of the statement's name, 0 when it is not prepared.
uint64_t sp_stmt_cache_find(const sp_stmt_cache_t *self, const char *sql);
// Adds one that is not there; its number, 0 without memory.
uint64_t sp_stmt_cache_add(sp_stmt_cache_t *self, const char *sql);
// Forgets by number: it failed to prepare, or its plan is out of date.
void sp_stmt_cache_forget(sp_stmt_cache_t *self, uint64_t number);
const char *sp_stmt_cache_name(uint64_t number, char out[SP_STMT_NAME]);

#endif
