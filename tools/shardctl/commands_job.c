// Splits and jobs, and the stream of events.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/shardctl/command.h"
#include "tools/shardctl/show.h"
#include "tools/shardctl/watch.h"

#define LIMIT_MAX 1125899906842624LL // of a throttle, as in schemas/job.json

// --target NAME | NAME=DSN; false after a message.
static bool add_target(json_t *targets, const char *text)
{
    const char *equals = strchr(text, '=');
    if (equals == NULL) {
        json_array_append_new(targets, json_string(text));
        return true;
    }
    char *dsn = args_secret(equals + 1);
    if (dsn != NULL) {
        json_array_append_new(targets, json_pack("{s:s%,s:s}", "name", text,
                                                 (size_t)(equals - text), "primary_endpoint", dsn));
    }
    free(dsn);
    return dsn != NULL;
}

// --targets-from FILE: a JSON array of ids and objects as in POST /api/v1/shards; "-" is standard input.
static bool add_targets_from(json_t *targets, const char *path)
{
    json_error_t je;
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "r");
    if (file == NULL) {
        fprintf(stderr, "shardctl: %s: %s\n", path, strerror(errno));
        return false;
    }
    json_t *list = json_loadf(file, 0, &je);
    if (file != stdin) {
        fclose(file);
    }
    if (!json_is_array(list)) {
        fprintf(stderr, "shardctl: %s: line %d: %s\n", path, list == NULL ? je.line : 1,
                list == NULL ? je.text : "an array is needed");
        json_decref(list);
        return false;
    }
    json_array_extend(targets, list);
    json_decref(list);
    return true;
}

static void show_plan(json_t *plan)
{
    static const sp_column_t moves[] = {{"FROM", "from", false},
                                        {"TO", "to", false},
                                        {"SHARE", "share", true},
                                        {"ARCS", "arcs", true}};
    char rows[32], bytes[32];
    table_print(stdout, json_object_get(plan, "moves"), moves, 4);
    printf("\n%s rows, %s in %lld tables, %lld copy tasks, about %.0f s to copy\n",
           table_count(rows, json_number_value(json_object_get(plan, "rows"))),
           table_bytes(bytes, json_number_value(json_object_get(plan, "bytes"))),
           (long long)json_integer_value(json_object_get(plan, "tables")),
           (long long)json_integer_value(json_object_get(plan, "copy_tasks")),
           json_number_value(json_object_get(plan, "seconds")));
    if (json_array_size(json_object_get(plan, "findings")) > 0) {
        printf("\n");
        table_findings(stdout, json_object_get(plan, "findings"));
    }
    printf("\n%s\n", json_is_true(json_object_get(plan, "ok"))
                         ? "preflight passed"
                         : "preflight FAILED: the split would be refused");
}

// --max-bytes-per-s and --max-replica-lag-bytes into a body, where they are given; false after a message.
static bool add_limits(json_t *body, const sp_args_t *args)
{
    static const struct {
        const char *option; // without the dashes
        const char *field;  // of the request
    } limits[] = {{"max-bytes-per-s", "max_bytes_per_s"},
                  {"max-replica-lag-bytes", "max_replica_lag_bytes"}};
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        long long value = -1;
        if (!args_int(args, limits[i].option, 0, LIMIT_MAX, &value)) {
            return false;
        }
        if (value >= 0) {
            json_object_set_new(body, limits[i].field, json_integer(value));
        }
    }
    return true;
}

static int split(const sp_rest_t *rest, const sp_args_t *args)
{
    json_t *targets = json_array(), *reply = NULL;
    bool ok = true, dry_run = args_flag(args, "dry-run");
    for (int i = 0; ok && i < args->n_opts; i++) {
        if (strcmp(args->opts[i]->name, "target") == 0) {
            ok = add_target(targets, args->values[i]);
        } else if (strcmp(args->opts[i]->name, "targets-from") == 0) {
            ok = add_targets_from(targets, args->values[i]);
        }
    }
    if (ok && json_array_size(targets) == 0) {
        fprintf(stderr, "shardctl: --target is needed\n");
        ok = false;
    }
    json_t *body =
        json_pack("{s:s,s:o}", "source_shard_id", args->pos[0], "target_shards", targets);
    if (!ok || !add_limits(body, args)) {
        json_decref(body);
        return EXIT_USAGE;
    }
    sp_rest_t one = *rest;
    one.idempotency_key = args_value(args, "idempotency-key");
    one.timeout_s = rest->timeout_s > 120 ? rest->timeout_s : 120; // preflight looks at every table
    int code = rest_call(&one, "POST",
                         rest_path(dry_run ? "/api/v1/reshard/split?dry_run=true"
                                           : "/api/v1/reshard/split"),
                         body, &reply);
    bool answered = code == EXIT_DONE;
    if (answered && dry_run) {
        code = json_is_true(json_object_get(reply, "ok")) ? EXIT_DONE : EXIT_REFUSED;
    }
    if (answered) {
        const char *id = json_string_value(json_object_get(reply, "id"));
        if (rest->json) {
            show_json(reply);
        } else if (dry_run) {
            show_plan(reply);
        } else {
            printf("job %s: %s\n", id, json_string_value(json_object_get(reply, "state")));
        }
        if (!dry_run && args_flag(args, "watch") && id != NULL) {
            code = watch_job(rest, id);
        } else if (!dry_run && !rest->json) {
            printf("follow it with: shardctl job watch %s\n", id);
        }
    }
    json_decref(reply);
    return code;
}

static int job_list(const sp_rest_t *rest, const sp_args_t *args)
{
    static const sp_column_t columns[] = {{"ID", "id", false},
                                          {"KIND", "kind", false},
                                          {"STATE", "state", false},
                                          {"%", "progress.percent", true},
                                          {"SOURCE", "source_shard_id", false},
                                          {"TARGETS", "target_shard_ids", false},
                                          {"PAUSE MS", "cutover.write_pause_ms", true},
                                          {"ERROR", "error.message", false}};
    long long limit = 100;
    if (!args_int(args, "limit", 1, 1000, &limit)) {
        return EXIT_USAGE;
    }
    char number[32];
    snprintf(number, sizeof(number), "%lld", limit);
    const char *state = args_value(args, "state");
    return show_list(rest,
                     state != NULL
                         ? rest_path("/api/v1/reshard/jobs?limit=%s&state=%s", number, state)
                         : rest_path("/api/v1/reshard/jobs?limit=%s", number),
                     "jobs", columns, sizeof(columns) / sizeof(columns[0]), "no jobs");
}

static int one_job(const sp_rest_t *rest, const char *method, char *path, json_t *body)
{
    json_t *reply = NULL;
    int code = rest_call(rest, method, path, body, &reply);
    if (code == EXIT_DONE && rest->json) {
        show_json(reply);
    } else if (code == EXIT_DONE) {
        watch_card(reply);
    }
    json_decref(reply);
    return code;
}

static int job_get(const sp_rest_t *rest, const sp_args_t *args)
{
    return one_job(rest, "GET", rest_path("/api/v1/reshard/jobs/%s", args->pos[0]), NULL);
}

static int job_watch(const sp_rest_t *rest, const sp_args_t *args)
{
    return watch_job(rest, args->pos[0]);
}

static int job_cancel(const sp_rest_t *rest, const sp_args_t *args)
{
    return one_job(rest, "POST", rest_path("/api/v1/reshard/jobs/%s/cancel", args->pos[0]), NULL);
}

static int job_retry(const sp_rest_t *rest, const sp_args_t *args)
{
    return one_job(rest, "POST", rest_path("/api/v1/reshard/jobs/%s/retry", args->pos[0]), NULL);
}

static int job_finalize(const sp_rest_t *rest, const sp_args_t *args)
{
    json_t *body = json_pack("{s:b}", "drop_source_rows", args_flag(args, "drop-source-rows"));
    return one_job(rest, "POST", rest_path("/api/v1/reshard/jobs/%s/finalize", args->pos[0]), body);
}

static int job_throttle(const sp_rest_t *rest, const sp_args_t *args)
{
    json_t *body = json_object();
    if (!add_limits(body, args)) {
        json_decref(body);
        return EXIT_USAGE;
    }
    if (json_object_size(body) == 0) {
        fprintf(stderr, "shardctl: --max-bytes-per-s or --max-replica-lag-bytes is needed\n");
        json_decref(body);
        return EXIT_USAGE;
    }
    return one_job(rest, "POST", rest_path("/api/v1/reshard/jobs/%s/throttle", args->pos[0]), body);
}

static bool on_event(const char *data, void *arg)
{
    const sp_rest_t *rest = arg;
    if (rest->json) {
        printf("%s\n", data);
        return fflush(stdout) == 0;
    }
    static const char *const parts[] = {"keyspace", "shard_id", "job_id", "state", "message"};
    json_t *event = json_loads(data, 0, NULL);
    char *kind = table_text(json_object_get(event, "kind"));
    printf("%-16s", kind);
    free(kind);
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        char *text = table_text(json_object_get(event, parts[i]));
        printf("%s%s", text[0] != '\0' ? "  " : "", text);
        free(text);
    }
    printf("\n");
    json_decref(event);
    return fflush(stdout) == 0;
}

static int events(const sp_rest_t *rest, const sp_args_t *args)
{
    (void)args;
    sp_rest_t copy = *rest;
    return rest_events(rest, on_event, &copy);
}

#define RATE_HELP "copy and purge at most so many bytes a second, all tasks together; 0: no limit"
#define LAG_HELP                                                                                   \
    "pause while a standby of the shards that are written is so far behind; 0: no limit"
static const sp_opt_t split_opts[] =
    {{"target", "NAME[=DSN]",
      "a registered empty shard, or a new one; may be repeated (DSN: also @file, env:NAME)"},
     {"targets-from", "FILE",
      "JSON array of targets, objects as in POST /api/v1/shards; - is standard input"},
     {"max-bytes-per-s", "N", RATE_HELP},
     {"max-replica-lag-bytes", "N", LAG_HELP},
     {"dry-run", NULL, "only plan, cost and preflight; exit code 1 when it would be refused"},
     {"watch", NULL, "follow the job to its end"},
     {"idempotency-key", "KEY", "a repeated request with this key returns the first job"},
     {NULL, NULL, NULL}};
static const sp_opt_t job_list_opts[] = {{"state", "STATE", "only this state's"},
                                         {"limit", "N", "at most so many (100)"},
                                         {NULL, NULL, NULL}};
static const sp_opt_t throttle_opts[] = {{"max-bytes-per-s", "N", RATE_HELP},
                                         {"max-replica-lag-bytes", "N", LAG_HELP},
                                         {NULL, NULL, NULL}};
static const sp_opt_t finalize_opts[] = {{"drop-source-rows", NULL,
                                          "also delete the moved rows from the source"},
                                         {NULL, NULL, NULL}};

const sp_command_t sp_commands_job[] = {
    {"split", NULL, "SOURCE", 1, 1, split_opts, split,
     "split a shard: its arcs move to the targets"},
    {"job", "list", "", 0, 0, job_list_opts, job_list, "jobs, newest first"},
    {"job", "get", "ID", 1, 1, NULL, job_get, "one job with its phases"},
    {"job", "watch", "ID", 1, 1, NULL, job_watch,
     "follow a job to its end; exit code 1 when it fails"},
    {"job", "cancel", "ID", 1, 1, NULL, job_cancel, "undo a job before its flip"},
    {"job", "retry", "ID", 1, 1, NULL, job_retry, "start a failed job again"},
    {"job", "finalize", "ID", 1, 1, finalize_opts, job_finalize,
     "drop what a completed job left on its source"},
    {"job", "throttle", "ID", 1, 1, throttle_opts, job_throttle,
     "change how fast a job goes, while it runs"},
    {"events", NULL, "", 0, 0, NULL, events, "follow what happens, until interrupted"},
    {NULL, NULL, NULL, 0, 0, NULL, NULL, NULL},
};
