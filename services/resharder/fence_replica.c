// Which replicas would lose something if they were promoted right after the flip.
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/failpoint.h"
#include "services/resharder/fence.h"

enum {
    CONNECT_MS = 1000,     // one replica
    CONNECT_ALL_MS = 2000, // all of them: the fence is not prepared for ever
    WAIT_MS = 40,          // for replicas to catch up, while everybody waits
    LOOK_MS = 1,           // between two looks
};

typedef struct fence_replica {
    const char *name; // shard/index
    sp_pg_t *pg;      // NULL: it does not answer
    sp_pg_t *primary; // whose position it must reach, borrowed
    sp_lsn_t must;    // that position; 0: it could not be read, so nobody can be said to have it
    bool asked;       // its answer is awaited
    bool has;         // it has flushed that far
} fence_replica_t;

static void prepare_shard(fence_t *fence, const task_shard_t *shard, sp_pg_t *primary,
                          int64_t until)
{
    for (size_t i = 0; i < shard->n_replicas; i++) {
        fence_replica_t *r = &fence->replicas[fence->n_replicas++];
        r->name = sp_arena_printf(fence->arena, "%s/%zu", shard->shard_id, i);
        r->primary = primary;
        int64_t left = sp_clock_until_ms(until);
        sp_pg_options_t options = {.connect_timeout_ms =
                                       left < CONNECT_MS ? (int)left : CONNECT_MS};
        if (left > 0)
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
    int64_t until = sp_clock_mono_ms() + CONNECT_ALL_MS;
    prepare_shard(fence, &task->source, fence->b, until);
    for (size_t i = 0; i < task->n_targets; i++)
        prepare_shard(fence, &task->targets[i], fence->f->sides[i], until);
}

static void read_must(fence_t *fence)
{
    fence_replica_t *r = fence->replicas;
    for (size_t i = 0; i < fence->n_replicas; i++) {
        char text[SP_LSN_TEXT + 4];
        if (i && r[i].primary == r[i - 1].primary)
            r[i].must = r[i - 1].must;
        else if (!r[i].primary ||
                 sp_pg_value(r[i].primary, "SELECT pg_current_wal_flush_lsn()", 0, NULL, text,
                             sizeof text, NULL, NULL) ||
                 sp_lsn_parse(sp_str(text), &r[i].must, NULL))
            r[i].must = 0;
    }
}

// Asks, or takes the answer that is there: all at once and without waiting, because the source is sealed. Not by sp_pg_query(), which
// cancels what takes too long, and a cancel waits for a server that is frozen.
static int look(fence_replica_t *r)
{
    PGconn *conn = sp_pg_conn(r->pg);
    if (!r->asked) {
        r->asked = true;
        return PQsendQuery(conn, "SELECT coalesce(pg_last_wal_receive_lsn(), '0/0')") &&
                       PQflush(conn) >= 0
                   ? 0
                   : -1;
    }
    if (PQflush(conn) < 0 || !PQconsumeInput(conn))
        return -1;
    while (r->asked && !PQisBusy(conn)) {
        PGresult *result = PQgetResult(conn);
        sp_lsn_t lsn = 0;
        if (!result)
            r->asked = false;
        else if (PQresultStatus(result) == PGRES_TUPLES_OK &&
                 sp_lsn_parse(sp_str(PQgetvalue(result, 0, 0)), &lsn, NULL) == 0)
            r->has = lsn >= r->must;
        PQclear(result);
    }
    return 0;
}

// The number of replicas that have not got it yet.
static size_t look_at_all(fence_t *fence)
{
    size_t left = 0;
    for (size_t i = 0; i < fence->n_replicas; i++) {
        fence_replica_t *r = &fence->replicas[i];
        if (!r->has && r->must && r->pg && look(r))
            sp_pg_close(&r->pg);
        left += !r->has && r->must && r->pg;
    }
    return left;
}

void fence_replica_compare(fence_t *fence)
{
    sp_msg_task_update_t *result = &fence->f->fence;
    sp_arena_t *arena = fence->f->task->arena;
    sp_str_t *names = sp_arena_alloc(arena, fence->n_replicas + 1, sizeof *names);
    sp_error_t ignored = {0};
    if (!names)
        return; // nobody is named
    read_must(fence);
    int64_t until = sp_clock_mono_ms() + WAIT_MS;
    while (sp_failpoint("replica_look", &ignored) || look_at_all(fence) > 0) {
        if (sp_clock_until_ms(until) == 0)
            break;
        sp_clock_sleep_ms(LOOK_MS);
    }
    result->flushed_replicas.items = names;
    result->flushed_replicas.n = 0;
    for (size_t i = 0; i < fence->n_replicas; i++)
        if (fence->replicas[i].has)
            names[result->flushed_replicas.n++] =
                sp_arena_str(arena, sp_str(fence->replicas[i].name));
}

void fence_replica_close(fence_t *fence)
{
    for (size_t i = 0; i < fence->n_replicas; i++)
        sp_pg_close(&fence->replicas[i].pg);
}
