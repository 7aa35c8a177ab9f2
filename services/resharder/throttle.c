#include "services/resharder/throttle.h"

#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "services/resharder/pool.h"

enum {
    LOOK_MS = 1000,         // between two looks at standbys
    HEAR_MS = 100,          // between two looks for messages, and the longest sleep
    LOOK_TIMEOUT_MS = 2000, // of a look
    MESSAGE_ARENA = 64 * 1024,
};

// ---- standbys

// The physical standby that has flushed least, and how far that is behind its primary. No row: none streams. A logical walsender is no
// standby; it is a follower of some job. One that has never said how far it is may be an archiver that says so once a segment, or never.
static const char standby_sql[] =
    "SELECT greatest(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), r.flush_lsn), 0)::bigint, "
    "coalesce(nullif(r.application_name, ''), 'without a name') FROM pg_stat_replication r "
    "WHERE r.state IN ('streaming', 'catchup') AND r.flush_lsn IS NOT NULL AND NOT EXISTS "
    "(SELECT FROM pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical') "
    "ORDER BY r.flush_lsn LIMIT 1";

static int look_at(throttle_t *self, const task_shard_t *shard, sp_error_t *err)
{
    pooled_t *lent = NULL;
    PGresult *result = NULL;
    int64_t lag = 0;
    int rc = pool_take(self->task, &shard->apply, true, &lent, err);
    if (rc == 0) {
        sp_pg_set_timeout(pool_pg(lent), LOOK_TIMEOUT_MS);
        rc = sp_pg_query(pool_pg(lent), standby_sql, 0, NULL, &result, err);
    }
    if (rc == 0 && PQntuples(result) == 1 &&
        sp_str_to_int64(sp_str(PQgetvalue(result, 0, 0)), &lag) == 0 && lag > self->lag_bytes) {
        self->lag_bytes = lag;
        snprintf(self->worst, sizeof self->worst, "standby %.63s of shard %.63s",
                 PQgetvalue(result, 0, 1), shard->shard_id);
    }
    PQclear(result);
    rc == 0 ? pool_give(&lent) : pool_drop(&lent);
    return rc;
}

// A look that fails changes nothing: a shard that does not answer shows itself to the task's own connection.
static void look(throttle_t *self)
{
    int64_t now = sp_clock_mono_ms(), before = self->lag_bytes;
    if (self->max_lag_bytes == 0 || (self->looked_ms != 0 && now - self->looked_ms < LOOK_MS))
        return;
    self->lag_bytes = 0;
    for (size_t i = 0; i < self->n_shards; i++) {
        sp_error_t err = {0};
        if (look_at(self, &self->shards[i], &err) == 0)
            continue;
        self->lag_bytes = self->lag_bytes > before ? self->lag_bytes : before;
        sp_log(SP_LOG_WARN, "TASK-STANDBYS", "task",
               sp_arena_cstr(self->arena, self->task->assign->task_id), "shard",
               self->shards[i].shard_id, "error", err.text, NULL);
    }
    self->looked_ms = sp_clock_mono_ms();
}

// ---- messages

// Waits up to timeout_ms for the manager's word, and takes all that has come.
static void hear(throttle_t *self, int timeout_ms)
{
    const sp_msg_task_control_t *control = NULL;
    while (task_receive(self->task, timeout_ms, self->arena, &control)) {
        timeout_ms = 0;
        if (control->verb == SP_TASK_VERB_THROTTLE) {
            pace_change(&self->pace, control->rate_bytes_per_s, sp_clock_mono_ms());
            self->max_lag_bytes = control->max_replica_lag_bytes;
            self->looked_ms = 0;
        }
    }
    sp_arena_reset(self->arena);
    self->heard_ms = sp_clock_mono_ms();
}

static void tell(throttle_t *self, int64_t rows, int64_t bytes)
{
    bool by_lag = self->max_lag_bytes > 0 && self->lag_bytes > self->max_lag_bytes;
    sp_msg_task_update_t update = {.rows = rows,
                                   .has_rows = true,
                                   .bytes = bytes,
                                   .has_bytes = true,
                                   .lag_bytes = self->lag_bytes,
                                   .has_lag_bytes = by_lag};
    if (self->reason[0] != '\0')
        update.detail = sp_str(self->reason);
    task_progress_with(self->task, &update);
}

// ---- waiting

// How long to wait by what is known now, at most HEAR_MS; says why. 0: go on.
static int must_wait(throttle_t *self)
{
    int64_t by_rate = pace_wait_ms(&self->pace, sp_clock_mono_ms());
    if (self->max_lag_bytes > 0 && self->lag_bytes > self->max_lag_bytes) {
        snprintf(self->reason, sizeof self->reason, "%s is %lld bytes behind, the limit is %lld",
                 self->worst, (long long)self->lag_bytes, (long long)self->max_lag_bytes);
        return HEAR_MS;
    }
    if (by_rate > 0)
        snprintf(self->reason, sizeof self->reason, "a limit of %lld bytes/s for this task",
                 (long long)self->pace.rate_bytes_per_s);
    return by_rate < HEAR_MS ? (int)by_rate : HEAR_MS;
}

int throttle_turn(throttle_t *self, int64_t rows, int64_t bytes, sp_error_t *err)
{
    pace_spend(&self->pace, bytes - self->paid_bytes, sp_clock_mono_ms());
    self->paid_bytes = bytes;
    if (sp_clock_mono_ms() - self->heard_ms >= HEAR_MS)
        hear(self, 0);
    look(self);
    bool waited = false;
    for (int wait_ms; (wait_ms = must_wait(self)) > 0; waited = true) {
        if (task_stopped(self->task))
            return sp_error_set(err, SP_E_CANCELLED, "stopped");
        tell(self, rows, bytes);
        hear(self, wait_ms);
        look(self);
    }
    // A rate that binds is told as long as it does, not only in the middle of a wait.
    if (!waited || self->pace.rate_bytes_per_s == 0)
        self->reason[0] = '\0';
    tell(self, rows, bytes);
    return 0;
}

void throttle_settle(throttle_t *self, int64_t rows, int64_t bytes)
{
    self->max_lag_bytes = self->lag_bytes = 0;
    pace_spend(&self->pace, bytes - self->paid_bytes, sp_clock_mono_ms());
    self->paid_bytes = bytes;
    for (int wait_ms; (wait_ms = must_wait(self)) > 0 && !task_stopped(self->task);) {
        tell(self, rows, bytes);
        hear(self, wait_ms);
        self->max_lag_bytes = 0;
    }
}

int throttle_open(throttle_t *self, task_t *task, const task_shard_t *shards, size_t n_shards,
                  sp_error_t *err)
{
    *self = (throttle_t){.task = task, .shards = shards, .n_shards = n_shards};
    self->arena = sp_arena_new(MESSAGE_ARENA);
    if (self->arena == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a task's throttle");
    const sp_msg_task_assign_t *a = task->assign;
    pace_start(&self->pace, a->rate_bytes_per_s, sp_clock_mono_ms());
    self->max_lag_bytes = a->max_replica_lag_bytes;
    // The manager divides the job's rate over the tasks that run: it must hear of this one before anything is moved.
    sp_msg_task_update_t runs = {.has_rows = true, .has_bytes = true};
    int rc = task_update(task, &runs, err);
    return rc == 0 ? throttle_turn(self, 0, 0, err) : rc;
}

void throttle_close(throttle_t *self)
{
    sp_arena_destroy(&self->arena);
}
