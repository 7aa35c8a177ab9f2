// Reaper: removes slots, publications and origins that belong to no live job, and settles shards whose guards a crash left behind.
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

// The actor's body: sweeps once at start and then each sweep_s.
void reaper_actor(sp_actor_end_t *end, void *arg);

#endif
