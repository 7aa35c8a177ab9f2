// Keyspaces, tables, shards, services, check.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/shardctl/command.h"
#include "tools/shardctl/show.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const sp_column_t keyspace_columns[] = {{"NAME", "name", false},
                                               {"KEY TYPE", "key_type", false},
                                               {"RING", "ring_version", true},
                                               {"STRIDE", "sequence_stride", true},
                                               {"SHARDS", "shards", false}};
static const sp_column_t table_columns[] = {{"SCHEMA", "schema", false},
                                            {"TABLE", "table", false},
                                            {"KEY", "key_column", false},
                                            {"MODE", "mode", false}};
static const sp_column_t shard_columns[] = {{"ID", "id", false},
                                            {"KEYSPACE", "keyspace", false},
                                            {"STATUS", "status", false},
                                            {"HEALTH", "health.verdict", false},
                                            {"SHARE", "share", true},
                                            {"ARCS", "arcs", true},
                                            {"RING", "ring_version", true},
                                            {"PRIMARY", "primary_endpoint", false}};
static const sp_column_t shard_card[] = {{"id", "id", false},
                                         {"keyspace", "keyspace", false},
                                         {"status", "status", false},
                                         {"primary", "primary_endpoint", false},
                                         {"replicas", "replicas", false},
                                         {"share", "share", false},
                                         {"arcs", "arcs", false},
                                         {"vnodes", "vnode_count", false},
                                         {"ring version", "ring_version", false},
                                         {"ordinal", "ordinal", false},
                                         {"version", "version", false}};

// Adds "name": value where the option was given.
static void set_option(json_t *body, const sp_args_t *args, const char *option, const char *field)
{
    const char *value = args_value(args, option);
    if (value != NULL) {
        json_object_set_new(body, field, json_string(value));
    }
}

static bool set_secret(json_t *body, const char *field, const char *text)
{
    char *secret = args_secret(text);
    if (secret != NULL) {
        json_object_set_new(body, field, json_string(secret));
    }
    free(secret);
    return secret != NULL;
}

static int keyspace_create(const sp_rest_t *rest, const sp_args_t *args)
{
    long long stride = 0;
    if (!args_int(args, "sequence-stride", 1, 65536, &stride)) {
        return EXIT_USAGE;
    }
    json_t *body = json_pack("{s:s}", "name", args->pos[0]);
    set_option(body, args, "key-type", "key_type");
    if (stride > 0) {
        json_object_set_new(body, "sequence_stride", json_integer(stride));
    }
    return show_card(rest, "POST", rest_path("/api/v1/keyspaces"), body, keyspace_columns,
                     COUNT(keyspace_columns));
}

static int keyspace_list(const sp_rest_t *rest, const sp_args_t *args)
{
    (void)args;
    return show_list(rest, rest_path("/api/v1/keyspaces"), "keyspaces", keyspace_columns,
                     COUNT(keyspace_columns), "no keyspaces");
}

static int keyspace_get(const sp_rest_t *rest, const sp_args_t *args)
{
    json_t *reply = NULL;
    int code =
        rest_call(rest, "GET", rest_path("/api/v1/keyspaces/%s", args->pos[0]), NULL, &reply);
    if (code == EXIT_DONE && rest->json) {
        show_json(reply);
    } else if (code == EXIT_DONE) {
        table_card(stdout, reply, keyspace_columns, COUNT(keyspace_columns));
        if (json_array_size(json_object_get(reply, "tables")) > 0) {
            printf("\n");
            table_print(stdout, json_object_get(reply, "tables"), table_columns,
                        COUNT(table_columns));
        }
    }
    json_decref(reply);
    return code;
}

static int keyspace_delete(const sp_rest_t *rest, const sp_args_t *args)
{
    return show_done(rest, "DELETE", rest_path("/api/v1/keyspaces/%s", args->pos[0]), NULL,
                     "removed");
}

static int keyspace_ring(const sp_rest_t *rest, const sp_args_t *args)
{
    static const sp_column_t columns[] = {{"SHARD", "shard_id", false},
                                          {"SHARE", "share", true},
                                          {"HOST", "host", false},
                                          {"PORT", "port", true},
                                          {"DATABASE", "database", false}};
    return show_list(rest, rest_path("/api/v1/keyspaces/%s/ring", args->pos[0]), "shards", columns,
                     COUNT(columns), "nobody owns anything");
}

static int table_create(const sp_rest_t *rest, const sp_args_t *args)
{
    json_t *body = json_pack("{s:s}", "table", args->pos[1]);
    set_option(body, args, "schema", "schema");
    set_option(body, args, "key", "key_column");
    if (args_flag(args, "ignored")) {
        json_object_set_new(body, "mode", json_string("ignored"));
    }
    return show_card(rest, "POST", rest_path("/api/v1/keyspaces/%s/tables", args->pos[0]), body,
                     table_columns, COUNT(table_columns));
}

static int table_list(const sp_rest_t *rest, const sp_args_t *args)
{
    return show_list(rest, rest_path("/api/v1/keyspaces/%s/tables", args->pos[0]), "tables",
                     table_columns, COUNT(table_columns), "no tables");
}

static const char *schema_of(const sp_args_t *args)
{
    const char *schema = args_value(args, "schema");
    return schema != NULL ? schema : "public";
}

static int table_get(const sp_rest_t *rest, const sp_args_t *args)
{
    return show_card(rest, "GET",
                     rest_path("/api/v1/keyspaces/%s/tables/%s/%s", args->pos[0], schema_of(args),
                               args->pos[1]),
                     NULL, table_columns, COUNT(table_columns));
}

static int table_delete(const sp_rest_t *rest, const sp_args_t *args)
{
    return show_done(rest, "DELETE",
                     rest_path("/api/v1/keyspaces/%s/tables/%s/%s", args->pos[0], schema_of(args),
                               args->pos[1]),
                     NULL, "unregistered; the table itself was not touched");
}

static int shard_create(const sp_rest_t *rest, const sp_args_t *args)
{
    long long vnodes = 0;
    const char *primary = args_value(args, "primary");
    if (primary == NULL || !args_int(args, "vnodes", 1, 4096, &vnodes)) {
        fprintf(stderr, "%s", primary == NULL ? "shardctl: --primary is needed\n" : "");
        return EXIT_USAGE;
    }
    json_t *body = json_pack("{s:s}", "name", args->pos[0]), *replicas = json_array();
    bool ok = set_secret(body, "primary_endpoint", primary);
    const char *admin = args_value(args, "admin"), *apply = args_value(args, "apply");
    ok = ok && (admin == NULL || set_secret(body, "admin_endpoint", admin));
    ok = ok && (apply == NULL || set_secret(body, "apply_endpoint", apply));
    for (int i = 0; ok && i < args->n_opts; i++) {
        if (strcmp(args->opts[i]->name, "replica") == 0) {
            char *secret = args_secret(args->values[i]);
            ok = secret != NULL;
            json_array_append_new(replicas, json_string(ok ? secret : ""));
            free(secret);
        }
    }
    json_object_set_new(body, "replicas", replicas);
    set_option(body, args, "keyspace", "keyspace");
    if (vnodes > 0) {
        json_object_set_new(body, "vnode_count", json_integer(vnodes));
    }
    if (!ok) {
        json_decref(body);
        return EXIT_USAGE;
    }
    return show_card(rest, "POST", rest_path("/api/v1/shards"), body, shard_card,
                     COUNT(shard_card));
}

static int shard_list(const sp_rest_t *rest, const sp_args_t *args)
{
    const char *keyspace = args_value(args, "keyspace");
    return show_list(rest,
                     keyspace != NULL ? rest_path("/api/v1/shards?keyspace=%s", keyspace)
                                      : rest_path("/api/v1/shards"),
                     "shards", shard_columns, COUNT(shard_columns), "no shards");
}

static int shard_get(const sp_rest_t *rest, const sp_args_t *args)
{
    return show_card(rest, "GET", rest_path("/api/v1/shards/%s", args->pos[0]), NULL, shard_card,
                     COUNT(shard_card));
}

static int shard_delete(const sp_rest_t *rest, const sp_args_t *args)
{
    return show_done(rest, "DELETE", rest_path("/api/v1/shards/%s", args->pos[0]), NULL,
                     "unregistered");
}

static int shard_health(const sp_rest_t *rest, const sp_args_t *args)
{
    static const sp_column_t card[] = {{"shard", "shard_id", false},
                                       {"verdict", "verdict", false},
                                       {"reasons", "reasons", false},
                                       {"guards ok", "guards_ok", false},
                                       {"observer", "observer", false}};
    static const sp_column_t columns[] = {{"ROLE", "role", false},
                                          {"HOST", "endpoint.host", false},
                                          {"PORT", "endpoint.port", true},
                                          {"VERDICT", "verdict", false},
                                          {"LATENCY MS", "latency_ms", true},
                                          {"LAG BYTES", "lag_bytes", true},
                                          {"LAG MS", "lag_ms", true},
                                          {"REASON", "reason", false}};
    json_t *reply = NULL;
    int code =
        rest_call(rest, "GET", rest_path("/api/v1/shards/%s/health", args->pos[0]), NULL, &reply);
    if (code == EXIT_DONE && rest->json) {
        show_json(reply);
    } else if (code == EXIT_DONE) {
        table_card(stdout, reply, card, COUNT(card));
        printf("\n");
        table_print(stdout, json_object_get(reply, "endpoints"), columns, COUNT(columns));
    }
    json_decref(reply);
    return code;
}

static int service_list(const sp_rest_t *rest, const sp_args_t *args)
{
    static const sp_column_t columns[] = {{"KIND", "kind", false},
                                          {"ID", "id", false},
                                          {"ENDPOINT", "endpoint", false},
                                          {"EVENTS", "events_endpoint", false},
                                          {"METRICS", "metrics_endpoint", false},
                                          {"VERSION", "version", false}};
    (void)args;
    json_t *reply = NULL;
    int code = rest_call(rest, "GET", rest_path("/api/v1/services"), NULL, &reply);
    if (code == EXIT_DONE && rest->json) {
        show_json(reply);
    } else if (code == EXIT_DONE) {
        table_print(stdout, json_object_get(reply, "services"), columns, COUNT(columns));
        const char *leader = json_string_value(json_object_get(reply, "leader"));
        printf("\nleader: %s, epoch %lld\n", leader != NULL ? leader : "none",
               (long long)json_integer_value(json_object_get(reply, "epoch")));
    }
    json_decref(reply);
    return code;
}

static int health(const sp_rest_t *rest, const sp_args_t *args)
{
    static const sp_column_t card[] = {{"status", "status", false},
                                       {"gateway", "service_id", false},
                                       {"version", "version", false},
                                       {"leader", "leader", false},
                                       {"reason", "reason", false},
                                       {"managers", "services.manager", false},
                                       {"routers", "services.router", false},
                                       {"health services", "services.health", false}};
    (void)args;
    return show_card(rest, "GET", rest_path("/api/v1/health"), NULL, card, COUNT(card));
}

// Exit code 1 also when something is wrong with the keyspace.
static int check(const sp_rest_t *rest, const sp_args_t *args)
{
    static const sp_column_t columns[] = {{"KIND", "kind", false},
                                          {"SHARD", "shard_id", false},
                                          {"TABLE", "table", false},
                                          {"ROWS", "rows", true},
                                          {"WHAT", "message", false}};
    sp_rest_t patient = *rest;
    patient.timeout_s = rest->timeout_s > 600 ? rest->timeout_s : 600;
    json_t *reply = NULL;
    char buf[32];
    int code = rest_call(&patient, "POST", rest_path("/api/v1/keyspaces/%s/check", args->pos[0]),
                         NULL, &reply);
    if (code == EXIT_DONE) {
        bool ok = json_is_true(json_object_get(reply, "ok"));
        if (rest->json) {
            show_json(reply);
        } else {
            if (json_array_size(json_object_get(reply, "findings")) > 0) {
                table_print(stdout, json_object_get(reply, "findings"), columns, COUNT(columns));
            }
            printf("%s: %s rows looked at, ring version %lld\n", ok ? "nothing wrong" : "NOT OK",
                   table_count(buf, json_number_value(json_object_get(reply, "rows_scanned"))),
                   (long long)json_integer_value(json_object_get(reply, "ring_version")));
        }
        code = ok ? EXIT_DONE : EXIT_REFUSED;
    }
    json_decref(reply);
    return code;
}

static const sp_opt_t keyspace_create_opts[] =
    {{"key-type", "TYPE", "bigint, text or uuid; else the first table decides"},
     {"sequence-stride", "N", "most shards that issue sequence values side by side (64)"},
     {NULL, NULL, NULL}};
static const sp_opt_t table_create_opts[] = {{"key", "COLUMN",
                                              "key column; needed unless --ignored"},
                                             {"schema", "NAME", "schema (public)"},
                                             {"ignored", NULL, "known, but never moved or guarded"},
                                             {NULL, NULL, NULL}};
static const sp_opt_t table_opts[] = {{"schema", "NAME", "schema (public)"}, {NULL, NULL, NULL}};
static const sp_opt_t shard_create_opts[] =
    {{"primary", "DSN",
      "application role's DSN, needed; @file and env:NAME keep it off the argument list"},
     {"admin", "DSN", "DDL role's DSN (the primary's)"},
     {"apply", "DSN", "apply role's DSN (made by the admin role)"},
     {"replica", "DSN", "a replica's DSN; may be repeated"},
     {"keyspace", "NAME", "keyspace (default)"},
     {"vnodes", "N", "tokens (256)"},
     {NULL, NULL, NULL}};
static const sp_opt_t shard_list_opts[] = {{"keyspace", "NAME", "only this keyspace's"},
                                           {NULL, NULL, NULL}};

const sp_command_t sp_commands_catalog[] = {
    {"health", NULL, "", 0, 0, NULL, health, "the gateway and what it sees"},
    {"service", "list", "", 0, 0, NULL, service_list, "live services and the leader"},
    {"keyspace", "create", "NAME", 1, 1, keyspace_create_opts, keyspace_create, "make a keyspace"},
    {"keyspace", "list", "", 0, 0, NULL, keyspace_list, "all keyspaces"},
    {"keyspace", "get", "NAME", 1, 1, NULL, keyspace_get, "one keyspace with its tables"},
    {"keyspace", "ring", "NAME", 1, 1, NULL, keyspace_ring, "who owns how much"},
    {"keyspace", "delete", "NAME", 1, 1, NULL, keyspace_delete, "remove a keyspace without shards"},
    {"table", "create", "KEYSPACE TABLE", 2, 2, table_create_opts, table_create,
     "register a table; from here it is guarded"},
    {"table", "list", "KEYSPACE", 1, 1, NULL, table_list, "tables of a keyspace"},
    {"table", "get", "KEYSPACE TABLE", 2, 2, table_opts, table_get, "one table"},
    {"table", "delete", "KEYSPACE TABLE", 2, 2, table_opts, table_delete, "unregister a table"},
    {"shard", "create", "NAME", 1, 1, shard_create_opts, shard_create,
     "register a database as a shard"},
    {"shard", "list", "", 0, 0, shard_list_opts, shard_list, "shards with their health"},
    {"shard", "get", "ID", 1, 1, NULL, shard_get, "one shard"},
    {"shard", "health", "ID", 1, 1, NULL, shard_health, "a shard's servers, one by one"},
    {"shard", "delete", "ID", 1, 1, NULL, shard_delete, "unregister a shard that owns nothing"},
    {"check", NULL, "KEYSPACE", 1, 1, NULL, check,
     "scan for misplaced rows and altered guards; exit code 1 when there are any"},
    {NULL, NULL, NULL, 0, 0, NULL, NULL, NULL},
};
