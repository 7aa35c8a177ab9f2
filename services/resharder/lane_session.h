// A lane's connection as a server session: settings, epoch, replication origin.
#ifndef SP_RESHARDER_LANE_SESSION_H
#define SP_RESHARDER_LANE_SESSION_H

#include "common/pg/lsn.h"
#include "services/resharder/task.h"

// See lane_open. *ret_progress: the origin's.
int lane_session_open(task_t *task, size_t target, sp_pg_t **ret_pg, sp_lsn_t *ret_progress,
                      sp_error_t *err);
// The origin's name, from the task's arena; NULL when memory ran out.
const char *lane_session_origin(task_t *task, size_t target);
// Ends a backend if it belongs to the same job. Not an error when it is gone or another's.
void lane_session_end_backend(task_t *task, sp_pg_t *pg, long pid);
// The last number in a text, 0 if there is none: PostgreSQL names the backend that is in the way so, in every language.
long lane_session_pid_in(const char *text);

#endif
