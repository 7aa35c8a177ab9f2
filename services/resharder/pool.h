// Idle connections of copy tasks, kept for the next range: a job has hundreds of ranges, and a log-in costs both sides milliseconds of CPU.
#ifndef SP_RESHARDER_POOL_H
#define SP_RESHARDER_POOL_H

#include "services/resharder/task.h"

typedef struct pooled pooled_t; // a connection out of the pool, lent to one task

// A connection of this job to that database, an idle one where there is one; errors as task_connect. Blocks. Any thread.
int pool_take(task_t *task, const sp_dsn_t *dsn, bool replica_role, pooled_t **ret_self,
              sp_error_t *err);
sp_pg_t *pool_pg(pooled_t *self);
// Back into the pool, outside a transaction and without settings that outlive one; or closed. NULL inside is fine.
void pool_give(pooled_t **self_p);
void pool_drop(pooled_t **self_p);
// Closes what has been idle for that long; 0: everything idle.
void pool_trim(int64_t idle_ms);

#endif
