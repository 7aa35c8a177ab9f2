// Which replicas would lose something if they were promoted right after the flip.
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "services/resharder/fence.h"

enum {
    CONNECT_MS = 1000,
    WAIT_MS = 40, // for replicas to catch up, while everybody waits
    LOOK_MS = 5,  // between two looks
};

typedef struct fence_replica {
    const char *name; // shard/index
    sp_pg_t *pg;      // NULL: it does not answer
    sp_pg_t *primary; // whose position it must reach, borrowed
    sp_lsn_t must;    // that position
} fence_replica_t;

static void prepare_shard(fence_t *fence, const task_shard_t *shard, sp_pg_t *primary)
{
    sp_pg_options_t options = {.connect_timeout_ms = CONNECT_MS, .query_timeout_ms = CONNECT_MS};
    for (size_t i = 0; i < shard->n_replicas; i++) {
        fence_replica_t *r = &fence->replicas[fence->n_replicas++];
        r->name = sp_arena_printf(fence->arena, "%s/%zu", shard->shard_id, i);
        r->primary = primary;
        task_connect(fence->f->task, &shard->replicas[i], &options, &r->pg, NULL);
    }
}

void fence_replica_prepare(fence_t *fence)
{
    task_t *task = fence->f->task;
    size_t n = task->source.n_replicas;
    for (size_t i = 0; i < task->n_targets; i++)
        n += task->targets[i].n_replicas;
    fence->replicas = sp_arena_alloc(fence->arena, n + 1, sizeof *fence->replicas);
    if (!fence->replicas)
        return;
    prepare_shard(fence, &task->source, fence->b);
    for (size_t i = 0; i < task->n_targets; i++)
        prepare_shard(fence, &task->targets[i], fence->f->sides[i]);
}

static sp_lsn_t read_lsn(sp_pg_t *pg, const char *sql)
{
    char text[SP_LSN_TEXT + 4];
    sp_lsn_t lsn = 0;
    if (!pg || sp_pg_value(pg, sql, 0, NULL, text, sizeof text, NULL, NULL) ||
        sp_lsn_parse(sp_str(text), &lsn, NULL))
        return 0;
    return lsn;
}

static bool has_it(const fence_replica_t *r)
{
    // 0: the primary's position could not be read, so nobody can be said to have it.
    return r->must && r->pg &&
           read_lsn(r->pg, "SELECT coalesce(pg_last_wal_receive_lsn(), '0/0')") >= r->must;
}

void fence_replica_compare(fence_t *fence)
{
    sp_msg_task_update_t *result = &fence->f->fence;
    size_t n = fence->n_replicas;
    bool *has = sp_arena_alloc(fence->arena, n + 1, sizeof *has);
    sp_str_t *names = sp_arena_alloc(fence->f->task->arena, n + 1, sizeof *names);
    if (!has || !names)
        return; // nobody is named
    result->flushed_replicas.items = names;
    result->flushed_replicas.n = 0;
    for (size_t i = 0; i < n; i++)
        fence->replicas[i].must =
            i && fence->replicas[i].primary == fence->replicas[i - 1].primary
                ? fence->replicas[i - 1].must
                : read_lsn(fence->replicas[i].primary, "SELECT pg_current_wal_flush_lsn()");
    int64_t until = sp_clock_mono_ms() + WAIT_MS;
    for (;;) {
        for (size_t i = 0; i < n; i++)
            if (!has[i] && (has[i] = has_it(&fence->replicas[i])))
                names[result->flushed_replicas.n++] =
                    sp_arena_str(fence->f->task->arena, sp_str(fence->replicas[i].name));
        if (result->flushed_replicas.n == n || sp_clock_until_ms(until) == 0)
            break;
        sp_clock_sleep_ms(LOOK_MS);
    }
}

void fence_replica_close(fence_t *fence)
{
    for (size_t i = 0; i < fence->n_replicas; i++)
        sp_pg_close(&fence->replicas[i].pg);
}
