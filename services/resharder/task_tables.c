#include "services/resharder/task_tables.h"

size_t task_tables_count(const sp_msg_task_assign_t *assign)
{
    return assign->tables.n + assign->partitioned.n;
}

const sp_msg_job_table_t *task_tables_at(const sp_msg_task_assign_t *assign, size_t i)
{
    return i < assign->tables.n ? &assign->tables.items[i]
                                : &assign->partitioned.items[i - assign->tables.n];
}

bool task_tables_is_top(const sp_msg_job_table_t *table)
{
    return !table->partition;
}
