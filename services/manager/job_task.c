// Tasks: asked of the loop by messages, which knows the workers; updates come back the same way.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "services/manager/job_work.h"
#include "services/manager/sql/manager.h"

enum { STOP_WAIT_MS = 3000, WINDOW = 32, TRIES = 30, SETTLE_MS = 2500 };

static sp_msg_job_target_t *copy_targets(job_t *job, sp_arena_t *arena)
{
    const sp_msg_catalog_job_t *r = job->rec;
    sp_msg_job_target_t *items = sp_arena_alloc(arena, r->targets.n + 1, sizeof *items);
    for (size_t i = 0; items && i < r->targets.n; i++) {
        items[i] = r->targets.items[i];
        items[i].registration = NULL; // sealed DSNs stay in the catalog
    }
    return items;
}

sp_msg_task_assign_t job_task_assignment(job_t *job, sp_arena_t *arena, int64_t kind)
{
    const sp_msg_catalog_job_t *r = job->rec;
    sp_msg_task_assign_t a = {.job_id = r->id,
                              .attempt = r->attempt,
                              .has_attempt = true,
                              .kind = kind,
                              .has_kind = true,
                              .source_shard_id = r->source_shard_id,
                              .keyspace = r->keyspace,
                              .publication = r->publication,
                              .binary_stream = r->binary_stream,
                              .has_binary_stream = true};
    a.targets.items = copy_targets(job, arena);
    a.targets.n = a.targets.items ? r->targets.n : 0;
    return a;
}

job_task_t *job_task_start(job_t *job, const char *what, sp_msg_task_assign_t *assign,
                           sp_error_t *err)
{
    job_task_t *t = calloc(1, sizeof *t);
    char suffix[9];
    if (!t) {
        sp_error_set(err, SP_E_OUT_OF_MEMORY, "task");
        return NULL;
    }
    sp_random_id(suffix, 8);
    snprintf(t->id, sizeof t->id, "%s-%s", what, suffix);
    t->kind = assign->kind;
    t->rate_bytes_per_s = assign->rate_bytes_per_s;
    t->max_replica_lag_bytes = assign->max_replica_lag_bytes;
    assign->task_id = sp_str(t->id);
    if (sp_actor_end_send(job->env.end, &sp_schema_task_assign, assign, err) != 0) {
        free(t);
        return NULL;
    }
    t->next = job->tasks;
    job->tasks = t;
    return t;
}

int job_task_control(job_t *job, const job_task_t *task, const sp_msg_task_control_t *control,
                     sp_error_t *err)
{
    sp_msg_task_control_t c = *control;
    c.task_id = sp_str(task->id);
    return sp_actor_end_send(job->env.end, &sp_schema_task_control, &c, err);
}

static void ask_to_stop(job_t *job, job_task_t *t)
{
    sp_msg_task_control_t stop = {.verb = SP_TASK_VERB_STOP, .has_verb = true};
    t->stopped = true;
    if (!job_task_final(t))
        job_task_control(job, t, &stop, NULL);
}

bool job_task_final(const job_task_t *task)
{
    return task->state == SP_TASK_STATE_DONE || task->state == SP_TASK_STATE_FAILED;
}

static void task_free(job_t *job, job_task_t *t)
{
    for (job_task_t **link = &job->tasks; *link; link = &(*link)->next) {
        if (*link != t)
            continue;
        *link = t->next;
        break;
    }
    if (job->holder == t)
        job->holder = NULL;
    if (job->follow == t)
        job->follow = NULL;
    sp_arena_destroy(&t->arena);
    free(t);
}

static void on_update(job_t *job, const sp_msg_task_update_t *u)
{
    job_task_t *t = job->tasks;
    while (t && !sp_str_eqz(u->task_id, t->id))
        t = t->next;
    if (!t || job_task_final(t))
        return;
    // The message's memory belongs to the pump: keep a decoded copy.
    sp_arena_t *arena = sp_arena_new(64 << 20);
    sp_buf_t bytes = SP_BUF_INIT;
    sp_msg_task_update_t copy;
    sp_error_t err = {0};
    int rc = arena ? sp_wire_encode_msgpack(&sp_schema_task_update, u, &bytes, &err)
                   : SP_E_OUT_OF_MEMORY;
    sp_str_t kept =
        rc == 0 ? sp_arena_str(arena, (sp_str_t){bytes.data, bytes.len}) : (sp_str_t){0};
    if (kept.ptr)
        rc = sp_wire_decode_msgpack(&sp_schema_task_update, kept.ptr, kept.len, arena, &copy, &err);
    sp_buf_free(&bytes);
    if (rc != 0 || !kept.ptr) {
        sp_arena_destroy(&arena);
        return;
    }
    sp_arena_destroy(&t->arena);
    t->arena = arena;
    t->last = copy;
    t->state = copy.state;
    t->updates++;
    if (t->state == SP_TASK_STATE_FAILED) {
        error_from_message(copy.error, &t->err);
        // A worker that stops gives its tasks up in the same words as one that was told to.
        if (t->err.code == SP_E_CANCELLED && !t->stopped)
            sp_error_set(&t->err, SP_E_UNAVAILABLE, "its worker has stopped");
        sp_log(SP_LOG_WARN, "JOB-TASK-FAILED", "job", job->id, "task", t->id, "code",
               sp_error_name(t->err.code), "retryable", t->err.retryable ? "true" : "false",
               "reason", t->err.text, NULL);
    }
}

// Somebody changed the record: only flags can be new, for all else is written here.
static void look_at_flags(job_t *job)
{
    char key[64];
    snprintf(key, sizeof key, "jobs/%s", job->id);
    sp_arena_t *arena = sp_arena_new(256 << 20);
    sp_kv_t kv;
    bool found = false;
    sp_msg_catalog_job_t now;
    sp_error_t ignored = {0};
    int rc = arena ? sp_store_get(job->env.store, sp_str(key), arena, &kv, &found, &ignored)
                   : SP_E_OUT_OF_MEMORY;
    if (rc == 0 && found &&
        sp_wire_decode_json(&sp_schema_catalog_job, kv.value.ptr, kv.value.len, arena, &now,
                            &ignored) == 0) {
        if (now.cancel_requested && !job->rec->cancel_requested)
            sp_log(SP_LOG_INFO, "JOB-CANCEL", "job", job->id, NULL);
        // All flags, before the revision: a save under it would write over the ones that were not taken.
        job_take_flags(job, &now);
        if (now.epoch <= job->env.epoch.epoch && kv.mod_revision > job->mod_revision &&
            job_stands_still(job, &now))
            job->mod_revision = kv.mod_revision;
    }
    sp_arena_destroy(&arena);
}

int job_pump(job_t *job, int timeout_ms, sp_error_t *err)
{
    job_live(job, false);
    sp_arena_t *arena = sp_arena_new(256 << 20);
    const sp_schema_t *schema = NULL;
    void *body = NULL;
    if (!arena)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "job");
    int64_t deadline = sp_clock_mono_ms() + timeout_ms;
    int rc = 0;
    for (;;) {
        int left = sp_clock_until_ms(deadline);
        bool got =
            sp_actor_end_receive(job->env.end, left < 100 ? left : 100, arena, &schema, &body);
        if ((got && !schema) || env_stopped(&job->env)) {
            rc = sp_error_set(err, SP_E_STALE_EPOCH, "this manager does not lead any more");
            break;
        }
        if (got && schema == &sp_schema_task_update)
            on_update(job, body);
        if (got && schema == &sp_schema_job_wake &&
            ((sp_msg_job_wake_t *)body)->revision > job->mod_revision)
            look_at_flags(job);
        if (got || sp_clock_until_ms(deadline) == 0)
            break;
    }
    sp_arena_destroy(&arena);
    if (rc == 0 && job->rec->cancel_requested && !job->undoing && !job->rec->flipped)
        rc = sp_error_set(err, SP_E_CANCELLED, "a cancel was asked for");
    return rc;
}

static bool cancel_came(void *arg)
{
    sp_error_t why = {0};
    return job_pump(arg, 0, &why) == SP_E_CANCELLED;
}

void job_heed_cancel(job_t *job, bool heed)
{
    job->env.interrupted = heed ? cancel_came : NULL;
    job->env.interrupted_arg = job;
}

// ---- ending

static void terminate_on(job_t *job, sp_str_t shard, const char *task_id)
{
    sp_pg_t *pg = NULL;
    sp_error_t err = {0};
    char out[24];
    bool null = false;
    const char *params[] = {job->id, task_id};
    if (env_pg(&job->env, shard, ENV_ADMIN, &pg, &err) != 0 ||
        sp_pg_value(pg, SP_SQL_TERMINATE_TASK, 2, params, out, sizeof out, &null, &err) != 0)
        sp_log(SP_LOG_WARN, "JOB-TERMINATE", "job", job->id, "task", task_id, "reason", err.text,
               NULL);
}

void job_terminate(job_t *job, const char *task_id)
{
    terminate_on(job, job->rec->source_shard_id, task_id);
    for (size_t i = 0; i < job->rec->targets.n; i++)
        terminate_on(job, job->rec->targets.items[i].shard_id, task_id);
}

static void end_by(job_t *job, job_task_t **task_p, int64_t deadline)
{
    job_task_t *t = *task_p;
    *task_p = NULL;
    if (!t)
        return;
    sp_error_t err = {0};
    bool was_undoing = job->undoing;
    if (!t->stopped)
        ask_to_stop(job, t);
    job->undoing = true; // a cancel must not end this wait
    while (!job_task_final(t) && sp_clock_until_ms(deadline) > 0 && job_pump(job, 100, &err) == 0)
        ;
    job->undoing = was_undoing;
    // A worker that is stopped or cut off may still hold locks, snapshots and the slot.
    bool clean = t->state == SP_TASK_STATE_DONE ||
                 (t->state == SP_TASK_STATE_FAILED && t->err.code != SP_E_UNAVAILABLE);
    if (!clean && !env_stopped(&job->env))
        job_terminate(job, t->id);
    task_free(job, t);
}

void job_task_end(job_t *job, job_task_t **task_p)
{
    end_by(job, task_p, sp_clock_mono_ms() + STOP_WAIT_MS);
}

void job_tasks_ask_stop(job_t *job)
{
    for (job_task_t *t = job->tasks; t; t = t->next)
        ask_to_stop(job, t);
}

void job_tasks_end_all(job_t *job)
{
    int64_t deadline = sp_clock_mono_ms() + STOP_WAIT_MS; // of all together
    job_tasks_ask_stop(job);
    while (job->tasks) {
        job_task_t *t = job->tasks;
        end_by(job, &t, deadline);
    }
}

// ---- batches

typedef struct item {
    job_task_t *task;      // running, or NULL
    int tries;             // failures so far
    int64_t not_before_ms; // monotonic
    bool done;             // ended well
} item_t;

static int start_item(job_t *job, const job_batch_t *batch, item_t *item, size_t i, sp_error_t *err)
{
    sp_arena_t *arena = sp_arena_new(256 << 20);
    if (!arena)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "task");
    sp_msg_task_assign_t a = job_task_assignment(job, arena, batch->kind);
    int rc = batch->assign(job, batch->arg, i, arena, &a);
    if (rc == 0 && !(item->task = job_task_start(job, batch->what, &a, err)))
        rc = err->code;
    sp_arena_destroy(&arena);
    return rc;
}

// Looks at a final task: done, again later, or an error for all.
static int finish_item(job_t *job, const job_batch_t *batch, item_t *item, size_t i,
                       sp_error_t *err)
{
    job_task_t *t = item->task;
    int rc = 0;
    if (t->state == SP_TASK_STATE_DONE) {
        item->done = true;
        if (batch->done)
            rc = batch->done(job, batch->arg, i, &t->last, err);
    } else {
        *err = t->err;
        rc = t->err.code;
        // A snapshot whose holder is dying looks like a hard error: give its death time to be noticed.
        int64_t deadline = sp_clock_mono_ms() + SETTLE_MS;
        while (batch->lost && !t->err.retryable && !batch->lost(job) &&
               sp_clock_until_ms(deadline) > 0) {
            sp_error_t pumped = {0};
            if (job_pump(job, 100, &pumped) != 0) {
                *err = pumped;
                return pumped.code;
            }
        }
        if (t->err.retryable && ++item->tries < TRIES) {
            item->not_before_ms = sp_clock_mono_ms() + sp_random_backoff_ms(item->tries, 100, 3000);
            job_fact(job, "retry", batch->what, 1);
            rc = 0;
        }
        if (t->err.code == SP_E_UNAVAILABLE)
            job_terminate(job, t->id);
    }
    item->task = NULL;
    task_free(job, t);
    return rc;
}

static int batch_round(job_t *job, const job_batch_t *batch, item_t *items, size_t *ret_left,
                       sp_error_t *err)
{
    size_t running = 0, left = 0;
    int64_t now = sp_clock_mono_ms(), rows = 0, bytes = 0;
    for (size_t i = 0; i < batch->n; i++)
        running += items[i].task != NULL;
    for (size_t i = 0; i < batch->n; i++) {
        int rc = 0;
        if (items[i].done)
            continue;
        if (items[i].task && job_task_final(items[i].task)) {
            running--;
            rc = finish_item(job, batch, &items[i], i, err);
        } else if (!items[i].task && running < WINDOW && now >= items[i].not_before_ms) {
            rc = start_item(job, batch, &items[i], i, err);
            running++;
        }
        if (rc != 0)
            return rc;
        if (items[i].task) {
            rows += items[i].task->last.rows;
            bytes += items[i].task->last.bytes;
        }
        left += !items[i].done;
    }
    job_throttle_tell(job);
    if (batch->progress)
        batch->progress(job, batch->arg, rows, bytes);
    job->progress.tasks_total = (int64_t)batch->n;
    job->progress.tasks_done = (int64_t)(batch->n - left);
    *ret_left = left;
    return 0;
}

int job_batch_run(job_t *job, const job_batch_t *batch, sp_error_t *err)
{
    item_t *items = calloc(batch->n + 1, sizeof *items);
    size_t left = batch->n;
    int64_t checked = sp_clock_mono_ms();
    int rc = items ? 0 : sp_error_set(err, SP_E_OUT_OF_MEMORY, "tasks");
    while (rc == 0 && left > 0) {
        rc = batch_round(job, batch, items, &left, err);
        if (rc == 0 && batch->keeps_wal)
            rc = job_watch_slot(job, &checked, err);
        if (batch->lost && rc != SP_E_STALE_EPOCH && left > 0 && batch->lost(job)) {
            rc = sp_error_set(err, SP_E_UNAVAILABLE,
                              "%s: the worker that holds the snapshot or the stream was lost",
                              batch->what);
            break;
        }
        if (rc == 0 && left > 0)
            rc = job_pump(job, 200, err);
    }
    sp_error_t why = err ? *err : (sp_error_t){0};
    int64_t deadline = sp_clock_mono_ms() + STOP_WAIT_MS;
    for (size_t i = 0; items && i < batch->n; i++)
        if (items[i].task && !env_stopped(&job->env))
            ask_to_stop(job, items[i].task);
    for (size_t i = 0; items && i < batch->n; i++) {
        if (items[i].task && env_stopped(&job->env))
            task_free(job, items[i].task);
        else
            end_by(job, &items[i].task, deadline);
    }
    job_throttle_tell(job); // nothing waits any more
    if (err)
        *err = why;
    free(items);
    return rc;
}

bool job_holder_lost(job_t *job)
{
    return !job->holder || job_task_final(job->holder);
}

bool job_follow_lost(job_t *job)
{
    return !job->follow || job_task_final(job->follow);
}
