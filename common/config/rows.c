// Common option rows and what is printed from rows.
#include "common/config/rows.h"

#include <stdlib.h>
#include <string.h>

const sp_option_t sp_config_common_rows[] = {
    {.name = "service_id",
     .type = SP_OPT_STRING,
     .min = 1,
     .max = 128,
     .help = "name of this process, unique in the cluster; kind-hostname-pid unless told"},
    {.name = "metadata_endpoints",
     .type = SP_OPT_LIST,
     .def = "http://127.0.0.1:2379",
     .help = "etcd's client URLs; METADATA_ENDPOINTS (with commas) overrides"},
    {.name = "metadata_prefix",
     .type = SP_OPT_STRING,
     .def = "/shardplane",
     .min = 1,
     .max = 255,
     .help = "where the catalog lives in etcd"},
    {.name = "listen",
     .type = SP_OPT_ENDPOINT,
     .help = "where requests are taken: tcp://host:port"},
    {.name = "events_listen",
     .type = SP_OPT_ENDPOINT,
     .help = "where events are published: tcp://host:port"},
    {.name = "advertise",
     .type = SP_OPT_STRING,
     .max = 255,
     .help =
         "host or host:port that others reach this process by, when it is not the listen address"},
    {.name = "metrics_listen",
     .type = SP_OPT_ADDRESS,
     .help = "host:port of /metrics, /livez and /readyz; empty: none"},
    {.name = "secret_key_file",
     .type = SP_OPT_SECRET,
     .help = "64 hex digits that unseal the catalog's passwords; mode 0600 (openssl rand -hex 32)"},
    {.name = "log_level",
     .type = SP_OPT_STRING,
     .def = "info",
     .choices = "debug|info|warn|error",
     .help = "least level that is written"},
    {.name = "log_format",
     .type = SP_OPT_STRING,
     .def = "kv",
     .choices = "kv|json",
     .help = "key=value or JSON"},
};
const size_t sp_config_common_rows_n = sizeof sp_config_common_rows / sizeof *sp_config_common_rows;

const sp_option_t **sp_config_merge_rows(const sp_option_t *rows, size_t n, size_t *ret_n)
{
    // NOLINTNEXTLINE(bugprone-sizeof-expression): an array of pointers is meant
    const sp_option_t **out = calloc(n + sp_config_common_rows_n + 1, sizeof *out);
    if (!out)
        return NULL;
    size_t k = 0;
    for (size_t i = 0; i < sp_config_common_rows_n; i++)
        out[k++] = &sp_config_common_rows[i];
    for (size_t i = 0; i < n; i++) {
        size_t at = 0;
        while (at < k && strcmp(out[at]->name, rows[i].name) != 0)
            at++;
        if (rows[i].type == SP_OPT_NONE) {
            for (k -= at < k; at < k; at++)
                out[at] = out[at + 1];
            continue;
        }
        out[at] = &rows[i];
        if (at == k)
            k++;
    }
    *ret_n = k;
    return out;
}

const sp_option_t *sp_config_find_row(const sp_option_t *const *rows, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(rows[i]->name, name) == 0)
            return rows[i];
    return NULL;
}

// Levenshtein's distance, for names of up to 63 bytes.
static size_t distance(const char *a, const char *b)
{
    size_t row[64];
    size_t b_len = strlen(b);
    if (strlen(a) > 63 || b_len > 63)
        return 64;
    for (size_t j = 0; j <= b_len; j++)
        row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < b_len; j++) {
            size_t cost = diagonal + (a[i] != b[j]);
            diagonal = row[j + 1];
            if (diagonal + 1 < cost)
                cost = diagonal + 1;
            if (row[j] + 1 < cost)
                cost = row[j] + 1;
            row[j + 1] = cost;
        }
    }
    return row[b_len];
}

const char *sp_config_nearest(const sp_option_t *const *rows, size_t n, const char *name)
{
    const char *best = NULL;
    size_t best_distance = strlen(name) / 3 + 2;
    for (size_t i = 0; i < n; i++) {
        size_t d = distance(name, rows[i]->name);
        if (d < best_distance)
            best = rows[i]->name, best_distance = d;
    }
    return best;
}

static const char *type_text(const sp_option_t *row)
{
    switch (row->type) {
    case SP_OPT_INT:
        return "integer";
    case SP_OPT_BOOL:
        return "true or false";
    case SP_OPT_LIST:
        return "list of strings";
    case SP_OPT_ENDPOINT:
        return "endpoint";
    case SP_OPT_ADDRESS:
        return "host:port";
    case SP_OPT_FILE:
    case SP_OPT_SECRET:
        return "path";
    default:
        return row->choices ? row->choices : "string";
    }
}

void sp_config_print_help(FILE *out, const char *kind, const sp_option_t *const *rows, size_t n)
{
    fprintf(out,
            "usage: %s [--config FILE] [--help] [--version] [--print-config-sample]\n\n"
            "FILE is one JSON object; CONFIG_PATH names it when --config does not. "
            "METADATA_ENDPOINTS overrides metadata_endpoints.\n\n"
            "keys:\n",
            kind);
    for (size_t i = 0; i < n; i++) {
        fprintf(out, "  %-24s %s\n  %-24s (%s", rows[i]->name, rows[i]->help, "",
                type_text(rows[i]));
        if (rows[i]->type == SP_OPT_INT && (rows[i]->min || rows[i]->max))
            fprintf(out, ", %lld to %lld", (long long)rows[i]->min, (long long)rows[i]->max);
        if (rows[i]->def)
            fprintf(out, ", default %s", *rows[i]->def ? rows[i]->def : "empty");
        fprintf(out, "%s)\n", rows[i]->required ? ", required" : "");
    }
}

static void print_list(FILE *out, const char *text)
{
    fputc('[', out);
    for (const char *p = text; p && *p;) {
        size_t len = strcspn(p, ",");
        fprintf(out, "%s\"%.*s\"", p == text ? "" : ", ", (int)len, p);
        p += len;
        if (*p)
            p++;
    }
    fputc(']', out);
}

static const char *sample_text(const char *kind, const sp_option_t *row)
{
    static char id[64];
    if (row->def)
        return row->def;
    if (strcmp(row->name, "service_id") == 0) {
        snprintf(id, sizeof id, "%s-1", kind);
        return id;
    }
    return row->type == SP_OPT_ENDPOINT  ? "tcp://127.0.0.1:7600"
           : row->type == SP_OPT_ADDRESS ? "127.0.0.1:9090"
           : row->type == SP_OPT_INT     ? "0"
           : row->type == SP_OPT_BOOL    ? "false"
                                         : "";
}

void sp_config_print_sample(FILE *out, const char *kind, const sp_option_t *const *rows, size_t n)
{
    const char *comma = "";
    fputs("{", out);
    for (size_t i = 0; i < n; i++) {
        // An empty value would not pass where the option has no default: such keys are left for --help to explain.
        const char *text = sample_text(kind, rows[i]);
        if (!*text && !rows[i]->def)
            continue;
        fprintf(out, "%s\n  \"%s\": ", comma, rows[i]->name);
        if (rows[i]->type == SP_OPT_LIST)
            print_list(out, text);
        else if (rows[i]->type == SP_OPT_INT || rows[i]->type == SP_OPT_BOOL)
            fputs(text, out);
        else
            fprintf(out, "\"%s\"", text);
        comma = ",";
    }
    fputs("\n}\n", out);
}
