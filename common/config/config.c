// Configuration: one JSON object against option rows.
#include "common/config/config.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/config/check.h"
#include "common/config/rows.h"

#ifndef SHARDPLANE_VERSION
#define SHARDPLANE_VERSION "0.1.0"
#endif

enum { MAX_FILE = 1024 * 1024, MAX_LIST = 1000 };

typedef struct value {
    bool present;      // told or defaulted
    const char *text;  // string types
    int64_t number;    // SP_OPT_INT, SP_OPT_BOOL
    const char **list; // SP_OPT_LIST, NULL-terminated
    size_t list_n;     // count
} value_t;

struct sp_config {
    const sp_option_t **rows; // merged rows
    value_t *values;          // one a row
    size_t n;                 // count
    sp_arena_t *arena;        // owns all values
};

// Where a value comes from, for errors.
typedef struct source {
    const char *name; // file
    const char *text; // its text
    size_t len;       // bytes
} source_t;

const char *sp_config_version(void)
{
    return SHARDPLANE_VERSION;
}

void sp_config_destroy(sp_config_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    free((*self_p)->rows);
    free((*self_p)->values);
    sp_arena_destroy(&(*self_p)->arena);
    free(*self_p);
    *self_p = NULL;
}

// Line of a key of the outermost object: jansson keeps no positions.
static int line_of_key(const source_t *src, const char *key)
{
    int line = 1, depth = 0;
    size_t key_len = strlen(key);
    for (size_t i = 0; i < src->len; i++) {
        char c = src->text[i];
        if (c == '\n')
            line++;
        if (c == '{' || c == '[')
            depth++;
        if (c == '}' || c == ']')
            depth--;
        if (c != '"')
            continue;
        size_t begin = i + 1;
        for (i = begin; i < src->len && src->text[i] != '"'; i++)
            if (src->text[i] == '\\')
                i++;
        size_t next = i + 1;
        while (next < src->len && strchr(" \t\r\n", src->text[next]))
            next++;
        if (depth == 1 && next < src->len && src->text[next] == ':' && i - begin == key_len &&
            memcmp(src->text + begin, key, key_len) == 0)
            return line;
    }
    return 1;
}

static int refuse(const source_t *src, const char *key, const char *why, sp_error_t *err)
{
    return sp_error_set(err, SP_E_CONFIG, "%s:%d: %s: %s", src->name, line_of_key(src, key), key,
                        why);
}

static int no_memory(sp_error_t *err)
{
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the configuration");
}

static int set_list_text(sp_config_t *self, value_t *value, const char *text, sp_error_t *err)
{
    size_t most = 2;
    for (const char *p = text; *p; p++)
        most += *p == ',';
    value->list = sp_arena_alloc(self->arena, most, sizeof *value->list);
    if (!value->list)
        return no_memory(err);
    value->list_n = 0;
    for (const char *p = text; *p;) {
        size_t len = strcspn(p, ",");
        sp_str_t item = {p, len};
        while (item.len && item.ptr[0] == ' ')
            item.ptr++, item.len--;
        while (item.len && item.ptr[item.len - 1] == ' ')
            item.len--;
        if (item.len && !(value->list[value->list_n++] = sp_arena_cstr(self->arena, item)))
            return no_memory(err);
        p += len;
        if (*p)
            p++;
    }
    value->present = value->list_n > 0;
    return SP_OK;
}

static int set_list_json(sp_config_t *self, value_t *value, const char *key, const json_t *json,
                         const source_t *src, sp_error_t *err)
{
    if (json_is_string(json))
        return set_list_text(self, value, json_string_value(json), err);
    if (!json_is_array(json))
        return refuse(src, key, "it must be a list of strings, or one string with commas", err);
    size_t n = json_array_size(json);
    if (n > MAX_LIST)
        return refuse(src, key, "the list is too long", err);
    value->list = sp_arena_alloc(self->arena, n + 1, sizeof *value->list);
    if (!value->list)
        return no_memory(err);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(json, i);
        if (!json_is_string(item) || json_string_length(item) == 0)
            return refuse(src, key, "every element must be a string that is not empty", err);
        value->list[i] = sp_arena_strz(self->arena, json_string_value(item));
        if (!value->list[i])
            return no_memory(err);
    }
    value->list_n = n;
    value->present = n > 0;
    return SP_OK;
}

static int set_value(sp_config_t *self, size_t at, const json_t *json, const source_t *src,
                     sp_error_t *err)
{
    const sp_option_t *row = self->rows[at];
    value_t *value = &self->values[at];
    char why[512];
    const char *wrong = NULL;
    switch (row->type) {
    case SP_OPT_LIST: {
        int rc = set_list_json(self, value, row->name, json, src, err);
        // Whoever writes down no endpoint does not mean the one of this machine.
        if (rc == SP_OK && !value->present && row->def)
            rc = refuse(src, row->name, "empty; leave the key out for the default", err);
        return rc;
    }
    case SP_OPT_INT:
        if (!json_is_integer(json))
            return refuse(src, row->name, "it must be an integer", err);
        value->number = json_integer_value(json);
        wrong = sp_config_check_int(row, value->number, why, sizeof why);
        break;
    case SP_OPT_BOOL:
        if (!json_is_boolean(json))
            return refuse(src, row->name, "it must be true or false", err);
        value->number = json_is_true(json);
        break;
    default:
        if (!json_is_string(json))
            return refuse(src, row->name, "it must be a string", err);
        wrong = sp_config_check_text(row, json_string_value(json), why, sizeof why);
        value->text = sp_arena_strz(self->arena, json_string_value(json));
        if (!value->text)
            return no_memory(err);
    }
    if (wrong)
        return refuse(src, row->name, row->secret ? "the value is not allowed" : wrong, err);
    value->present = true;
    return SP_OK;
}

static int set_default(sp_config_t *self, size_t at, const char *kind, sp_error_t *err)
{
    const sp_option_t *row = self->rows[at];
    value_t *value = &self->values[at];
    if (!row->def) {
        if (strcmp(row->name, "service_id") != 0)
            return SP_OK;
        char host[128] = "localhost";
        gethostname(host, sizeof host - 1);
        value->text = sp_arena_printf(self->arena, "%s-%s-%d", kind, host, (int)getpid());
        value->present = value->text != NULL;
        return value->text ? SP_OK : no_memory(err);
    }
    if (row->type == SP_OPT_LIST)
        return set_list_text(self, value, row->def, err);
    value->present = true;
    if (row->type == SP_OPT_INT)
        return sp_str_to_int64(sp_str(row->def), &value->number)
                   ? sp_error_set(err, SP_E_INTERNAL, "default of %s", row->name)
                   : SP_OK;
    if (row->type == SP_OPT_BOOL)
        value->number = strcmp(row->def, "true") == 0;
    else
        value->text = row->def;
    return SP_OK;
}

// jansson quotes the text at the fault, which may be a secret; of a key that stands twice it quotes the key.
static int refuse_json(const source_t *src, const json_error_t *at, sp_error_t *err)
{
    const char *quote = strstr(at->text, " near '");
    size_t len = quote && json_error_code(at) != json_error_duplicate_key
                     ? (size_t)(quote - at->text)
                     : strlen(at->text);
    return sp_error_set(err, SP_E_CONFIG, "%s:%d:%d: %.*s", src->name, at->line, at->column,
                        (int)len, at->text);
}

static int take_json(sp_config_t *self, const source_t *src, sp_error_t *err)
{
    json_error_t at;
    json_t *root = json_loadb(src->text, src->len, JSON_REJECT_DUPLICATES, &at);
    if (!root)
        return refuse_json(src, &at, err);
    int rc = SP_OK;
    if (!json_is_object(root))
        rc = sp_error_set(err, SP_E_CONFIG,
                          "%s:1: the file must hold one JSON object, {\"key\": value, ...}",
                          src->name);
    const char *key;
    json_t *json;
    if (rc == SP_OK)
        json_object_foreach(root, key, json)
        {
            size_t i = 0;
            while (i < self->n && strcmp(self->rows[i]->name, key) != 0)
                i++;
            if (i < self->n) {
                rc = set_value(self, i, json, src, err);
            } else {
                const char *near = sp_config_nearest(self->rows, self->n, key);
                char why[128];
                snprintf(why, sizeof why,
                         near ? "no such key; did you mean \"%s\"?"
                              : "no such key; --help lists all",
                         near);
                rc = refuse(src, key, why, err);
            }
            if (rc)
                break;
        }
    json_decref(root);
    return rc;
}

static int finish(sp_config_t *self, const char *kind, const source_t *src, sp_error_t *err)
{
    for (size_t i = 0; i < self->n; i++) {
        if (!self->values[i].present) {
            int rc = set_default(self, i, kind, err);
            if (rc)
                return rc;
        }
        if (self->rows[i]->required && !self->values[i].present)
            return sp_error_set(err, SP_E_CONFIG, "%s: %s is required: %s", src->name,
                                self->rows[i]->name, self->rows[i]->help);
    }
    for (const char *p = sp_config_str(self, "service_id"); *p; p++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", *p))
            return refuse(src, "service_id", "letters, digits, '.', '_' and '-' are allowed", err);
    return SP_OK;
}

static int override_endpoints(sp_config_t *self, const char *endpoints, sp_error_t *err)
{
    int rc = SP_OK;
    for (size_t i = 0; rc == SP_OK && i < self->n; i++) {
        if (strcmp(self->rows[i]->name, "metadata_endpoints") != 0)
            continue;
        rc = set_list_text(self, &self->values[i], endpoints, err);
        if (rc == SP_OK && !self->values[i].present)
            rc = sp_error_set(err, SP_E_CONFIG, "METADATA_ENDPOINTS: the list is empty");
    }
    return rc;
}

// endpoints: METADATA_ENDPOINTS or NULL.
static int build(sp_config_t **ret_self, const char *kind, const sp_option_t *rows, size_t n,
                 const source_t *src, const char *endpoints, sp_error_t *err)
{
    sp_config_t *self = calloc(1, sizeof *self);
    if (!self)
        return no_memory(err);
    self->arena = sp_arena_new(0);
    self->rows = sp_config_merge_rows(rows, n, &self->n);
    self->values = calloc(n + sp_config_common_rows_n + 1, sizeof *self->values);
    if (!self->arena || !self->rows || !self->values) {
        sp_config_destroy(&self);
        return no_memory(err);
    }
    int rc = src->text ? take_json(self, src, err) : SP_OK;
    if (rc == SP_OK && endpoints && *endpoints)
        rc = override_endpoints(self, endpoints, err);
    if (rc == SP_OK)
        rc = finish(self, kind, src, err);
    if (rc)
        sp_config_destroy(&self);
    else
        *ret_self = self;
    return rc;
}

int sp_config_parse(sp_config_t **ret_self, const char *kind, const sp_option_t *rows, size_t n,
                    const char *name, const char *text, size_t len, sp_error_t *err)
{
    source_t src = {name, text, len};
    return build(ret_self, kind, rows, n, &src, NULL, err);
}

static int read_file(const char *path, sp_buf_t *out, sp_error_t *err)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return sp_error_set(err, SP_E_CONFIG, "%s: %s", path, strerror(errno));
    char chunk[4096];
    size_t n;
    while (!out->failed && (n = fread(chunk, 1, sizeof chunk, f)) > 0)
        sp_buf_add(out, chunk, n);
    bool bad = ferror(f) != 0;
    fclose(f);
    if (bad)
        return sp_error_set(err, SP_E_CONFIG, "%s: cannot be read", path);
    if (out->failed)
        return sp_error_set(err, SP_E_CONFIG, "%s: over 1 MiB", path);
    return SP_OK;
}

// --help and its like: true when it printed what was asked.
static bool print_asked(const char *arg, const char *kind, const sp_option_t *rows, size_t n)
{
    size_t merged_n = 0;
    const sp_option_t **merged = sp_config_merge_rows(rows, n, &merged_n);
    bool known = merged != NULL;
    if (merged && strcmp(arg, "--help") == 0)
        sp_config_print_help(stdout, kind, merged, merged_n);
    else if (merged && strcmp(arg, "--print-config-sample") == 0)
        sp_config_print_sample(stdout, kind, merged, merged_n);
    else if (strcmp(arg, "--version") == 0)
        printf("shardplane %s %s\n", kind, sp_config_version());
    else
        known = false;
    free(merged);
    return known;
}

int sp_config_load(sp_config_t **ret_self, const char *kind, const sp_option_t *rows, size_t n,
                   int argc, char **argv, bool *ret_done, sp_error_t *err)
{
    const char *path = getenv("CONFIG_PATH");
    if (path && !*path)
        path = NULL;
    *ret_done = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--config") == 0 && i + 1 < argc) {
            path = argv[++i];
        } else if (strncmp(argv[i], "--config=", 9) == 0) {
            path = argv[i] + 9;
        } else if (print_asked(argv[i], kind, rows, n)) {
            *ret_done = true;
            return SP_OK;
        } else {
            return sp_error_set(err, SP_E_CONFIG, "%s: %s; see %s --help", argv[i],
                                strcmp(argv[i], "--config") == 0 ? "a file is missing behind it"
                                                                 : "no such option",
                                kind);
        }
    }
    sp_buf_t text = {.limit = MAX_FILE};
    int rc = path ? read_file(path, &text, err) : SP_OK;
    source_t src = {path ? path : "(no configuration file)", path ? sp_buf_cstr(&text) : NULL,
                    text.len};
    if (rc == SP_OK)
        rc = build(ret_self, kind, rows, n, &src, getenv("METADATA_ENDPOINTS"), err);
    sp_buf_free(&text);
    return rc;
}

static const value_t *find(const sp_config_t *self, const char *name, bool list, bool number)
{
    for (size_t i = 0; i < self->n; i++) {
        sp_option_type_t type = self->rows[i]->type;
        if (strcmp(self->rows[i]->name, name) == 0 && (type == SP_OPT_LIST) == list &&
            (type == SP_OPT_INT || type == SP_OPT_BOOL) == number)
            return &self->values[i];
    }
    fprintf(stderr, "configuration: no option row \"%s\" of that type\n", name);
    abort();
}

const char *sp_config_str(const sp_config_t *self, const char *name)
{
    return find(self, name, false, false)->text;
}

int64_t sp_config_int(const sp_config_t *self, const char *name)
{
    return find(self, name, false, true)->number;
}

bool sp_config_bool(const sp_config_t *self, const char *name)
{
    return find(self, name, false, true)->number != 0;
}

const char *const *sp_config_list(const sp_config_t *self, const char *name, size_t *ret_n)
{
    static const char *const none[] = {NULL};
    const value_t *value = find(self, name, true, false);
    if (ret_n)
        *ret_n = value->list_n;
    return value->list ? value->list : none;
}

static int port_of_listen(const sp_config_t *self)
{
    char host[256];
    int port = -1;
    const char *listen =
        sp_config_find_row(self->rows, self->n, "listen") ? sp_config_str(self, "listen") : NULL;
    if (listen && strncmp(listen, "tcp://", 6) == 0 &&
        sp_config_split_address(listen + 6, host, sizeof host, &port))
        return port;
    return -1;
}

void sp_config_advertised(const sp_config_t *self, const char *bound, char *out, size_t out_size)
{
    snprintf(out, out_size, "%s", bound);
    const char *address = strstr(bound, "://");
    char host[256];
    int port;
    if (!address || !sp_config_split_address(address + 3, host, sizeof host, &port) || port < 0)
        return; // ipc, inproc
    const char *told = sp_config_str(self, "advertise");
    char told_host[256];
    int told_port;
    if (told && *told) {
        if (sp_config_split_address(told, told_host, sizeof told_host, &told_port)) {
            if (told_port > 0 && port == port_of_listen(self))
                port = told_port; // a port stands for `listen` only
            snprintf(host, sizeof host, "%s", told_host);
        } else {
            snprintf(host, sizeof host, "%s", told);
        }
    } else if (strcmp(host, "0.0.0.0") == 0 || strcmp(host, "*") == 0 ||
               strcmp(host, "[::]") == 0) {
        gethostname(host, sizeof host - 1);
        host[sizeof host - 1] = '\0';
    }
    snprintf(out, out_size, "%.*s://%s:%d", (int)(address - bound), bound, host, port);
}
