// Task `snapshot`: the job's slot with its exported snapshot, held until the manager says stop.
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/pg/replication.h"
#include "services/resharder/sql/snapshot.h"
#include "services/resharder/task.h"

enum { SLOT_WAIT_MS = 45000, TELL_AFTER_MS = 1000, HOLD_POLL_MS = 100 };

typedef struct snapshot {
    task_t *task;       // owner
    const char *slot;   // its name
    sp_pg_t *walsender; // holds slot and snapshot
    sp_pg_t *watcher;   // apply role: who blocks
    int64_t told_ms;    // monotonic time of the last word about blockers
    bool looking;       // inside look(): its own waiting asks again
    char blockers[900]; // for people
} snapshot_t;

// Asked while the slot is being made: names those that it waits for, from time to time.
static bool look(void *arg)
{
    snapshot_t *self = arg;
    int64_t now = sp_clock_mono_ms();
    if (task_stopped(self->task))
        return true;
    if (self->looking || self->walsender == NULL || self->watcher == NULL ||
        now - self->told_ms < TELL_AFTER_MS)
        return false;
    self->looking = true;
    self->told_ms = now;
    char pid[16], who[800];
    const char *params[] = {pid};
    bool null = true;
    snprintf(pid, sizeof pid, "%d", sp_pg_backend_pid(self->walsender));
    if (sp_pg_value(self->watcher, SP_SQL_BLOCKERS, 1, params, who, sizeof who, &null, NULL) == 0 &&
        !null) {
        snprintf(self->blockers, sizeof self->blockers, "slot %s waits for open transactions: %s",
                 self->slot, who);
        sp_msg_task_update_t update = {.detail = sp_str(self->blockers)};
        task_update(self->task, &update, NULL);
        sp_log(SP_LOG_INFO, "SLOT-WAITS", "slot", self->slot, "for", who, NULL);
    }
    self->looking = false;
    return false;
}

static int connect_both(snapshot_t *self, sp_error_t *err)
{
    sp_pg_options_t options = {.application_name = self->task->application_name,
                               .replication = true,
                               .query_timeout_ms = SLOT_WAIT_MS,
                               .stopped = look,
                               .stopped_arg = self};
    sp_pg_options_t watching = {.query_timeout_ms = 2000};
    const sp_dsn_t *apply = &self->task->source.apply;
    int rc = task_connect(self->task, apply, &watching, &self->watcher, err);
    return rc == 0 ? sp_pg_open(&self->walsender, apply, &options, err) : rc;
}

static int create(snapshot_t *self, sp_lsn_t *ret_lsn, char *name, size_t size, sp_error_t *err)
{
    // Checked, not held: the slot would wait for a transaction that locks a row.
    int rc = sp_owner_hold_epoch(self->watcher, self->task->epoch, err);
    if (rc == 0)
        rc = sp_failpoint("before_slot", err);
    if (rc != 0)
        return rc;
    self->told_ms = sp_clock_mono_ms();
    rc = sp_repl_create_slot(self->walsender, self->slot, self->task->assign->temporary, true,
                             ret_lsn, name, size, err);
    // Never dropped here: this may be the late task, and the slot its successor's. What an earlier try has left drops who assigns the next.
    if (rc == SP_E_SQL_ERROR && err != NULL && strcmp(err->sqlstate, "42710") == 0)
        return sp_error_set(err, SP_E_CONFLICT, "there is a slot %s already", self->slot);
    if (rc == SP_E_DEADLINE_EXCEEDED && self->blockers[0] != '\0') {
        sp_error_set(err, SP_E_DEADLINE_EXCEEDED, "%s", self->blockers);
        return task_retryable(err, true);
    }
    return rc == 0 ? sp_failpoint("after_slot", err) : rc;
}

// Until stop: 0; or the connection dies, and the snapshot with it.
static int hold(snapshot_t *self, sp_error_t *err)
{
    PGconn *conn = sp_pg_conn(self->walsender);
    sp_arena_t *arena = sp_arena_new(0);
    int rc =
        arena == NULL ? sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a snapshot task") : 0;
    while (rc == 0 && !task_stopped(self->task)) {
        struct pollfd p[] = {{.fd = PQsocket(conn), .events = POLLIN},
                             {.fd = task_fd(self->task), .events = POLLIN}};
        poll(p, 2, HOLD_POLL_MS);
        const sp_msg_task_control_t *ignored;
        task_receive(self->task, 0, arena, &ignored);
        sp_arena_reset(arena);
        if (p[0].revents != 0 && (PQconsumeInput(conn) == 0 || PQstatus(conn) != CONNECTION_OK)) {
            sp_error_set(err, SP_E_PG_CONNECTION,
                         "the connection that held slot %s and its snapshot was lost", self->slot);
            rc = task_retryable(err, true);
        }
    }
    sp_arena_destroy(&arena);
    return rc;
}

static int run(snapshot_t *self, sp_msg_task_update_t *result, sp_error_t *err)
{
    char name[129], text[SP_LSN_TEXT];
    sp_lsn_t lsn = 0;
    int rc = connect_both(self, err);
    if (rc == 0)
        rc = create(self, &lsn, name, sizeof name, err);
    sp_pg_close(&self->watcher);
    if (rc != 0)
        return sp_error_prefix(err, "source %s", self->task->source.shard_id);
    result->lsn = sp_arena_str(self->task->arena, sp_str(sp_lsn_print(lsn, text)));
    result->snapshot = sp_arena_str(self->task->arena, sp_str(name));
    sp_msg_task_update_t update = {.lsn = result->lsn, .snapshot = result->snapshot};
    if ((rc = task_update(self->task, &update, err)) != 0)
        return rc;
    sp_log(SP_LOG_INFO, "SLOT-MADE", "slot", self->slot, "lsn", text, "temporary",
           self->task->assign->temporary ? "true" : "false", NULL);
    return hold(self, err);
}

int task_snapshot(task_t *task, sp_msg_task_update_t *result, sp_error_t *err)
{
    snapshot_t self = {.task = task, .slot = sp_arena_cstr(task->arena, task->assign->slot)};
    if (task->assign->slot.len == 0 || self.slot == NULL)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "a snapshot task needs a slot");
    int rc = run(&self, result, err);
    sp_pg_close(&self.watcher);
    sp_pg_close(&self.walsender);
    return rc;
}
