// Runs task_follow() without a manager: the assignment and the DSNs come from a JSON file, control messages from standard input (one JSON
// object a line), updates go to standard output (one a line). End of input is `stop`. Used by test_follow.py.
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/owner/fingerprint.h"
#include "common/owner/owner.h"
#include "services/resharder/task.h"

static char input[1 << 16]; // what was read and not handed out
static size_t n_input;
static bool ended;

static void read_input(void)
{
    while (n_input < sizeof input - 1) {
        ssize_t n = read(0, input + n_input, sizeof input - 1 - n_input);
        if (n == 0)
            ended = true;
        if (n <= 0)
            return;
        n_input += (size_t)n;
    }
}

bool task_stopped(void *task)
{
    (void)task;
    if (!ended)
        read_input();
    return ended;
}

int task_fd(task_t *task)
{
    (void)task;
    return 0;
}

bool task_receive(task_t *task, int timeout_ms, sp_arena_t *arena,
                  const sp_msg_task_control_t **ret_control)
{
    (void)task;
    (void)timeout_ms;
    if (task_stopped(task))
        return false;
    char *end = memchr(input, '\n', n_input);
    if (!end)
        return false;
    sp_msg_task_control_t *control = sp_arena_alloc(arena, 1, sizeof *control);
    sp_str_t line = sp_arena_str(arena, (sp_str_t){input, (size_t)(end - input)});
    n_input -= (size_t)(end + 1 - input);
    memmove(input, end + 1, n_input);
    sp_error_t err = {0};
    if (sp_wire_decode_json(&sp_schema_task_control, line.ptr, line.len, arena, control, &err)) {
        fprintf(stderr, "rig: %s\n", err.text);
        return false;
    }
    *ret_control = control;
    return true;
}

int task_update(task_t *task, sp_msg_task_update_t *update, sp_error_t *err)
{
    sp_buf_t out = SP_BUF_INIT;
    update->task_id = task->assign->task_id;
    if (!update->has_state) {
        update->state = SP_TASK_STATE_RUNNING;
        update->has_state = true;
    }
    int rc = sp_wire_encode_json(&sp_schema_task_update, update, false, &out, err);
    if (rc == 0) {
        puts(sp_buf_cstr(&out));
        fflush(stdout);
    } else if (err) {
        fprintf(stderr, "rig: %s\n", err->text);
    }
    sp_buf_free(&out);
    return rc;
}

int task_connect(task_t *task, const sp_dsn_t *dsn, const sp_pg_options_t *options,
                 sp_pg_t **ret_pg, sp_error_t *err)
{
    sp_pg_options_t o = options ? *options : (sp_pg_options_t){0};
    o.application_name = task->application_name;
    o.stopped = task_stopped;
    o.stopped_arg = task;
    return sp_pg_open(ret_pg, dsn, &o, err);
}

int task_retryable(sp_error_t *err, bool retryable)
{
    if (!err)
        return SP_E_INTERNAL;
    err->retryable = retryable;
    return err->code;
}

static void read_shard(sp_arena_t *arena, const json_t *json, task_shard_t *shard)
{
    sp_error_t err = {0};
    const char *id = json_string_value(json_object_get(json, "id"));
    shard->shard_id = sp_arena_strz(arena, id);
    shard->owner =
        (sp_owner_shard_t){.shard_id = shard->shard_id,
                           .keyspace = "default",
                           .cluster_id = "rig",
                           .apply_role =
                               sp_arena_strz(arena, json_string_value(
                                                        json_object_get(json, "apply_role"))),
                           .app_role = "shop_app"};
    if (sp_dsn_parse(sp_str(
                         sp_arena_strz(arena, json_string_value(json_object_get(json, "apply")))),
                     arena, &shard->apply, &err) ||
        sp_dsn_parse(sp_str(
                         sp_arena_strz(arena, json_string_value(json_object_get(json, "admin")))),
                     arena, &shard->admin, &err)) {
        fprintf(stderr, "rig: %s\n", err.text);
        _exit(2);
    }
    shard->app = shard->admin;
    const json_t *replicas = json_object_get(json, "replicas");
    shard->replicas = sp_arena_alloc(arena, json_array_size(replicas) + 1, sizeof *shard->replicas);
    for (size_t i = 0; i < json_array_size(replicas); i++)
        if (sp_dsn_parse(sp_str(
                             sp_arena_strz(arena, json_string_value(json_array_get(replicas, i)))),
                         arena, &shard->replicas[i], &err) == 0)
            shard->n_replicas++;
}

// Schema shardplane, the epoch, open guards on the source and closed ones on the targets.
static int install(task_t *task, const task_shard_t *shard, bool source, sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    sp_arcs_t all = sp_arcs_all();
    sp_guard_t guard = {.form = source ? SP_GUARD_OWNS : SP_GUARD_CLOSED,
                        .arcs = &all,
                        .ring_version = 1,
                        .reason = "not_owner",
                        .row_trigger = source};
    sp_ownership_t ownership = {.ring_version = 1,
                                .arcs = source ? all : SP_ARCS_NONE,
                                .state = SP_OWNERSHIP_OPEN,
                                .job_id = "",
                                .nonce = ""};
    int rc = sp_pg_open(&pg, &shard->admin, NULL, err);
    if (!rc)
        rc = sp_owner_install(pg, &shard->owner, task->epoch, err);
    if (!rc)
        rc = sp_owner_raise_epoch(pg, task->epoch, err);
    if (!rc)
        rc = sp_pg_exec(pg, "BEGIN", err);
    for (size_t i = 0; i < task->assign->tables.n && !rc; i++) {
        const sp_msg_job_table_t *t = &task->assign->tables.items[i];
        rc = sp_guard_set(pg, &shard->owner,
                          &(sp_owner_table_t){t->schema, t->table, t->key_column}, &guard, err);
    }
    if (!rc)
        rc = sp_ownership_write(pg, "default", &ownership, err);
    if (!rc)
        rc = sp_pg_exec(pg, "COMMIT", err);
    sp_pg_close(&pg);
    return rc;
}

// A line a table.
static int print_fingerprints(task_t *task, sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    int rc = sp_pg_open(&pg, &task->source.admin, NULL, err);
    for (size_t i = 0; i < task->assign->tables.n && !rc; i++) {
        const char *text = NULL;
        rc = sp_owner_fingerprint(pg, task->assign->tables.items[i].schema,
                                  task->assign->tables.items[i].table, task->arena, &text, err);
        puts(text ? text : "");
    }
    if (rc)
        fprintf(stderr, "rig: %s\n", err->text);
    sp_pg_close(&pg);
    return rc != 0;
}

static int install_all(task_t *task, sp_error_t *err)
{
    int rc = install(task, &task->source, true, err);
    for (size_t i = 0; i < task->n_targets && !rc; i++)
        rc = install(task, &task->targets[i], false, err);
    if (rc)
        fprintf(stderr, "rig: %s\n", err->text);
    return rc != 0;
}

static int follow(task_t *task)
{
    sp_msg_task_update_t result = {0};
    sp_error_t err = {0};
    fcntl(0, F_SETFL, O_NONBLOCK);
    int rc = task_follow(task, &result, &err);
    result.state = rc ? SP_TASK_STATE_FAILED : SP_TASK_STATE_DONE;
    result.has_state = true;
    sp_msg_error_t error = {.code = sp_str(sp_error_name(err.code)),
                            .message = sp_str(err.text),
                            .retryable = err.retryable,
                            .has_retryable = true};
    if (rc)
        result.error = &error;
    task_update(task, &result, NULL);
    return rc && rc != SP_E_CANCELLED;
}

int main(int argc, char **argv)
{
    json_error_t fault;
    sp_error_t err = {0};
    json_t *json = argc >= 2 ? json_load_file(argv[1], 0, &fault) : NULL;
    sp_arena_t *arena = sp_arena_new(512 << 20);
    sp_msg_task_assign_t assign;
    task_t task = {.arena = arena, .assign = &assign};
    if (!json || sp_failpoint_setup(&err)) {
        fprintf(stderr, "rig: no file, or bad failpoints\n");
        return 2;
    }
    sp_log_setup("resharder", "rig", "debug", "kv");
    char *text = json_dumps(json_object_get(json, "assign"), 0);
    if (sp_wire_decode_json(&sp_schema_task_assign, text, strlen(text), arena, &assign, &err)) {
        fprintf(stderr, "rig: %s\n", err.text);
        return 2;
    }
    task.epoch = (sp_epoch_t){json_integer_value(json_object_get(json, "generation")),
                              json_integer_value(json_object_get(json, "epoch"))};
    task.n_targets = assign.targets.n;
    task.targets = sp_arena_alloc(arena, task.n_targets + 1, sizeof *task.targets);
    read_shard(arena, json_object_get(json, "source"), &task.source);
    for (size_t i = 0; i < task.n_targets; i++)
        read_shard(arena, json_array_get(json_object_get(json, "targets"), i), &task.targets[i]);
    snprintf(task.application_name, sizeof task.application_name, "shardplane/%.*s/follow",
             (int)assign.job_id.len, assign.job_id.ptr);
    bool plain = argc < 3;
    int status = plain                                  ? follow(&task)
                 : strcmp(argv[2], "fingerprints") == 0 ? print_fingerprints(&task, &err)
                                                        : install_all(&task, &err);
    free(text);
    json_decref(json);
    sp_arena_destroy(&arena);
    return status;
}
