// Look-ups and statements through a router, and any other request.
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/shardctl/command.h"
#include "tools/shardctl/show.h"

static const char *keyspace_of(const sp_args_t *args)
{
    const char *keyspace = args_value(args, "keyspace");
    return keyspace != NULL ? keyspace : "default";
}

static int route_one(const sp_rest_t *rest, const sp_args_t *args)
{
    static const sp_column_t card[] = {{"shard", "shard_id", false},
                                       {"key", "key", false},
                                       {"hash", "hash", false},
                                       {"ring version", "ring_version", false},
                                       {"host", "host", false},
                                       {"port", "port", false},
                                       {"database", "database", false}};
    return show_card(rest, "GET",
                     rest_path("/v1/shard-for-key?keyspace=%s&key=%s", keyspace_of(args),
                               args->pos[0]),
                     NULL, card, sizeof(card) / sizeof(card[0]));
}

static int route(const sp_rest_t *rest, const sp_args_t *args)
{
    if (args->n_pos == 1) {
        return route_one(rest, args);
    }
    json_t *keys = json_array(), *reply = NULL;
    for (int i = 0; i < args->n_pos; i++) {
        json_array_append_new(keys, json_string(args->pos[i]));
    }
    int code =
        rest_call(rest, "POST", rest_path("/v1/shards-for-keys"),
                  json_pack("{s:s,s:o}", "keyspace", keyspace_of(args), "keys", keys), &reply);
    if (code == EXIT_DONE && rest->json) {
        show_json(reply);
    } else if (code == EXIT_DONE) {
        json_t *rows = json_array();
        for (int i = 0; i < args->n_pos; i++) {
            json_int_t owner =
                json_integer_value(json_array_get(json_object_get(reply, "owner"), (size_t)i));
            json_t *shard = json_array_get(json_object_get(reply, "shards"), (size_t)owner);
            json_array_append_new(rows,
                                  json_pack("{s:s,s:O?}", "key", args->pos[i], "shard", shard));
        }
        static const sp_column_t columns[] = {{"KEY", "key", false}, {"SHARD", "shard", false}};
        table_print(stdout, rows, columns, 2);
        json_decref(rows);
    }
    json_decref(reply);
    return code;
}

// A parameter: null, true, false and numbers as JSON has them, else text. --text keeps everything text.
static json_t *parameter(const char *text, bool keep_text)
{
    json_t *value = keep_text ? NULL : json_loads(text, JSON_DECODE_ANY, NULL);
    if (value != NULL && !json_is_string(value) && !json_is_object(value) &&
        !json_is_array(value)) {
        return value;
    }
    json_decref(value);
    return json_string(text);
}

static void show_results(json_t *reply)
{
    size_t i;
    json_t *result;
    json_array_foreach(json_object_get(reply, "results"), i, result)
    {
        table_result(stdout, json_object_get(result, "columns"), json_object_get(result, "rows"));
        const char *tag = json_string_value(json_object_get(result, "command"));
        printf("%s\n", tag != NULL ? tag : "");
    }
    const char *shard = json_string_value(json_object_get(reply, "shard_id")),
               *endpoint = json_string_value(json_object_get(reply, "endpoint"));
    fprintf(stderr, "on %s%s%s, ring version %lld\n", shard, endpoint != NULL ? ", " : "",
            endpoint != NULL ? endpoint : "",
            (long long)json_integer_value(json_object_get(reply, "ring_version")));
}

static int execute(const sp_rest_t *rest, const sp_args_t *args)
{
    long long deadline = 0;
    if (!args_int(args, "deadline-ms", 1, 600000, &deadline)) {
        return EXIT_USAGE;
    }
    json_t *params = json_array(), *reply = NULL;
    for (int i = 2; i < args->n_pos; i++) {
        json_array_append_new(params, parameter(args->pos[i], args_flag(args, "text")));
    }
    json_t *body = json_pack("{s:s,s:s,s:s,s:o}", "keyspace", keyspace_of(args), "shard_key",
                             args->pos[0], "sql", args->pos[1], "params", params);
    if (args_flag(args, "eventual")) {
        json_object_set_new(body, "consistency", json_string("eventual"));
    }
    if (deadline > 0) {
        json_object_set_new(body, "deadline_ms", json_integer(deadline));
    }
    if (args_value(args, "idempotency-key") != NULL) {
        json_object_set_new(body, "idempotency_key",
                            json_string(args_value(args, "idempotency-key")));
    }
    sp_rest_t patient = *rest;
    long wait_s = (deadline > 0 ? (long)deadline : 30000) / 1000 + 5;
    patient.timeout_s = rest->timeout_s > wait_s ? rest->timeout_s : wait_s;
    int code = rest_call(&patient, "POST", rest_path("/v1/execute"), body, &reply);
    if (code == EXIT_DONE && rest->json) {
        show_json(reply);
    } else if (code == EXIT_DONE) {
        show_results(reply);
    }
    json_decref(reply);
    return code;
}

static int call(const sp_rest_t *rest, const sp_args_t *args)
{
    char method[16];
    json_t *body = NULL, *reply = NULL;
    snprintf(method, sizeof(method), "%s", args->pos[0]);
    for (char *c = method; *c != '\0'; c++) {
        *c = (char)toupper((unsigned char)*c);
    }
    if (args->n_pos == 3) {
        json_error_t je;
        body = strcmp(args->pos[2], "-") == 0 ? json_loadf(stdin, 0, &je)
                                              : json_loads(args->pos[2], 0, &je);
        if (body == NULL) {
            fprintf(stderr, "shardctl: the body is not valid JSON: line %d, column %d\n", je.line,
                    je.column);
            return EXIT_USAGE;
        }
    }
    if (args->pos[1][0] != '/') {
        fprintf(stderr, "shardctl: a path starts with a slash\n");
        json_decref(body);
        return EXIT_USAGE;
    }
    sp_rest_t any = *rest;
    any.any_text = true;
    int code = rest_call(&any, method, strdup(args->pos[1]), body, &reply);
    if (code == EXIT_DONE && json_is_string(reply)) {
        fwrite(json_string_value(reply), 1, json_string_length(reply), stdout);
    } else if (code == EXIT_DONE) {
        show_json(reply);
    }
    json_decref(reply);
    return code;
}

static const sp_opt_t route_opts[] = {{"keyspace", "NAME", "keyspace (default)"},
                                      {NULL, NULL, NULL}};
static const sp_opt_t exec_opts[] = {{"keyspace", "NAME", "keyspace (default)"},
                                     {"text", NULL, "parameters are text, also 42, true and null"},
                                     {"eventual", NULL, "read from a replica where one is healthy"},
                                     {"idempotency-key", "KEY",
                                      "a repeated request returns the first reply"},
                                     {"deadline-ms", "N", "give up after this long (30000)"},
                                     {NULL, NULL, NULL}};

const sp_command_t sp_commands_data[] = {
    {"route", NULL, "KEY...", 1, 200, route_opts, route, "which shard owns a key, or several"},
    {"exec", NULL, "KEY SQL [PARAM...]", 2, 200, exec_opts, execute,
     "run one statement on the shard that owns KEY"},
    {"call", NULL, "METHOD PATH [JSON]", 2, 3, NULL, call,
     "any request, e.g. call GET /api/v1/shards"},
    {NULL, NULL, NULL, 0, 0, NULL, NULL, NULL},
};
