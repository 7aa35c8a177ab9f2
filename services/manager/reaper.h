// Reaper: removes slots, publications and origins of jobs that are over.
#ifndef SP_MANAGER_REAPER_H
#define SP_MANAGER_REAPER_H

#include "services/manager/env.h"

// One slot, publication or origin of ours in a database.
typedef struct leftover {
    char kind[16];   // slot, publication, origin
    char name[64];   // shp_<job>...
    char job_id[16]; // taken from the name
} leftover_t;

// Lists them. From the arena.
int reaper_list(sp_pg_t *pg, sp_arena_t *arena, leftover_t **ret_items, size_t *ret_n,
                sp_error_t *err);

// Whether it must stay: its job still needs it, or nobody here knows whose it is.
bool reaper_keeps(const sp_catalog_t *catalog, const leftover_t *item);

// The actor's body: sweeps once at start and then each sweep_s; looks at replicas that lacked a seal (readmit.h) as often.
void reaper_actor(sp_actor_end_t *end, void *arg);

#endif
