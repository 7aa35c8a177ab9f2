// check_keyspace: misplaced rows, guards and ownership that differ from the catalog, and leftovers of jobs. Reads only.
#ifndef SP_MANAGER_CHECK_H
#define SP_MANAGER_CHECK_H

#include "services/manager/env.h"

// The actor's body: receives one check_keyspace, answers check_reply or error, and ends.
void check_actor(sp_actor_end_t *end, void *arg);

#endif
