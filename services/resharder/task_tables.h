// The tables of a task's job. Those of assign->tables hold rows: they are copied, followed, verified, purged. Partitioned tables hold none:
// they matter for definitions, guards and locks.
#ifndef SP_RESHARDER_TASK_TABLES_H
#define SP_RESHARDER_TASK_TABLES_H

#include "services/resharder/task.h"

// Number of all tables, and the i-th: those that hold rows first, in order.
size_t task_tables_count(const sp_msg_task_assign_t *assign);
const sp_msg_job_table_t *task_tables_at(const sp_msg_task_assign_t *assign, size_t i);

// Whether guards and locks name it: an ordinary table, or a partitioned one that stands for all its partitions.
bool task_tables_is_top(const sp_msg_job_table_t *table);

#endif
