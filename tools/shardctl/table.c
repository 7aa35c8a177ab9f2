#include "tools/shardctl/table.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"

static void add_plain(sp_buf_t *out, const char *text)
{
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
        // U+0080 to U+009F are control characters too: c2 80 to c2 9f.
        if (*c < 0x20 || *c == 0x7f || (*c == 0xc2 && c[1] >= 0x80 && c[1] <= 0x9f)) {
            sp_buf_addc(out, '.');
            c += *c == 0xc2;
        } else {
            sp_buf_addc(out, (char)*c);
        }
    }
}

// {"host", "port", "database", "user"} as primary_endpoint is written. Allocated; NULL when a part is missing.
static char *endpoint_url(const json_t *server)
{
    const char *host = NULL, *database = NULL, *user = NULL;
    json_int_t port = 0;
    sp_buf_t out = SP_BUF_INIT;
    if (json_unpack((json_t *)server, "{s:s,s:I,s:s,s:s}", "host", &host, "port", &port, "database",
                    &database, "user", &user) == 0) {
        sp_buf_printf(&out, "postgresql://%s@%s:%lld/%s", user, host, (long long)port, database);
    }
    return out.data;
}

static void add_text(sp_buf_t *out, const json_t *value)
{
    size_t i;
    json_t *item;
    if (json_is_string(value)) {
        add_plain(out, json_string_value(value));
    } else if (json_is_integer(value)) {
        sp_buf_printf(out, "%lld", (long long)json_integer_value(value));
    } else if (json_is_real(value)) {
        sp_buf_printf(out, "%.15g", json_real_value(value));
    } else if (json_is_boolean(value)) {
        sp_buf_addz(out, json_is_true(value) ? "true" : "false");
    } else if (json_is_array(value)) {
        json_array_foreach(value, i, item)
        {
            sp_buf_addz(out, i > 0 ? ", " : "");
            add_text(out, item);
        }
    } else if (json_is_object(value) && json_object_get(value, "host") != NULL) {
        char *url = endpoint_url(value);
        add_plain(out, url != NULL ? url : "");
        free(url);
    } else if (json_is_object(value)) {
        char *text = json_dumps(value, JSON_COMPACT);
        add_plain(out, text != NULL ? text : "");
        free(text);
    }
}

char *table_text(const json_t *value)
{
    sp_buf_t out = SP_BUF_INIT;
    add_text(&out, value);
    return out.data != NULL ? out.data : strdup("");
}

void table_json(FILE *out, const json_t *value)
{
    json_dumpf(value, out, JSON_INDENT(2) | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
    fprintf(out, "\n");
}

json_t *table_at(json_t *object, const char *path)
{
    const char *dot;
    while ((dot = strchr(path, '.')) != NULL) {
        char key[64];
        snprintf(key, sizeof(key), "%.*s", (int)(dot - path), path);
        object = json_object_get(object, key);
        path = dot + 1;
    }
    return json_object_get(object, path);
}

// Columns that a terminal needs: characters, not bytes. Wide ones count as one; a column is off by a little then.
static int width(const char *text)
{
    int n = 0;
    for (; *text != '\0'; text++) {
        n += ((unsigned char)*text & 0xc0) != 0x80;
    }
    return n;
}

static void print_cells(FILE *out, char *const *cells, const int *widths, const bool *right,
                        size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int pad = widths[i] - width(cells[i]);
        bool last = i + 1 == n;
        fprintf(out, "%s%*s%s%*s", i > 0 ? "  " : "", right[i] ? pad : 0, "", cells[i],
                right[i] || last ? 0 : pad, "");
    }
    fprintf(out, "\n");
}

// cells: n_rows * n texts, the header first. Frees them.
static void print_grid(FILE *out, char **cells, size_t n_rows, size_t n, const bool *right)
{
    int *widths = calloc(n + 1, sizeof(*widths));
    for (size_t i = 0; widths != NULL && i < n_rows * n; i++) {
        int w = width(cells[i]);
        widths[i % n] = w > widths[i % n] ? w : widths[i % n];
    }
    for (size_t row = 0; widths != NULL && row < n_rows; row++) {
        print_cells(out, cells + row * n, widths, right, n);
    }
    for (size_t i = 0; i < n_rows * n; i++) {
        free(cells[i]);
    }
    free(widths);
}

void table_print(FILE *out, json_t *rows, const sp_column_t *columns, size_t n)
{
    size_t n_rows = json_array_size(rows) + 1, at = 0;
    char **cells = calloc(n_rows * n, sizeof(*cells));
    bool *right = calloc(n, sizeof(*right));
    for (size_t c = 0; cells != NULL && right != NULL && c < n; c++) {
        cells[at++] = strdup(columns[c].header);
        right[c] = columns[c].right;
    }
    for (size_t r = 0; cells != NULL && right != NULL && r + 1 < n_rows; r++) {
        for (size_t c = 0; c < n; c++) {
            cells[at++] = table_text(table_at(json_array_get(rows, r), columns[c].path));
        }
    }
    if (at == n_rows * n) {
        print_grid(out, cells, n_rows, n, right);
    }
    free(cells);
    free(right);
}

void table_card(FILE *out, json_t *object, const sp_column_t *columns, size_t n)
{
    int w = 0;
    for (size_t i = 0; i < n; i++) {
        w = width(columns[i].header) > w ? width(columns[i].header) : w;
    }
    for (size_t i = 0; i < n; i++) {
        json_t *value = table_at(object, columns[i].path);
        if (value == NULL || (json_is_array(value) && json_array_size(value) == 0)) {
            continue;
        }
        char *text = table_text(value);
        fprintf(out, "%-*s  %s\n", w, columns[i].header, text);
        free(text);
    }
}

void table_result(FILE *out, json_t *columns, json_t *rows)
{
    size_t n = json_array_size(columns), n_rows = json_array_size(rows) + 1, at = 0;
    char **cells = n > 0 ? calloc(n_rows * n, sizeof(*cells)) : NULL;
    bool *right = n > 0 ? calloc(n, sizeof(*right)) : NULL;
    for (size_t c = 0; cells != NULL && right != NULL && c < n; c++) {
        cells[at++] = table_text(json_object_get(json_array_get(columns, c), "name"));
        right[c] = json_is_number(json_array_get(json_array_get(rows, 0), c));
    }
    for (size_t r = 0; cells != NULL && right != NULL && r + 1 < n_rows; r++) {
        for (size_t c = 0; c < n; c++) {
            cells[at++] = table_text(json_array_get(json_array_get(rows, r), c));
        }
    }
    if (n > 0 && at == n_rows * n) {
        print_grid(out, cells, n_rows, n, right);
    }
    free(cells);
    free(right);
}

void table_findings(FILE *out, json_t *findings)
{
    static const sp_column_t columns[] = {{"SEVERITY", "severity", false},
                                          {"CHECK", "check", false},
                                          {"SHARD", "shard_id", false},
                                          {"OBJECT", "object", false},
                                          {"WHAT", "message", false},
                                          {"HINT", "hint", false}};
    if (json_array_size(findings) > 0) {
        table_print(out, findings, columns, sizeof(columns) / sizeof(columns[0]));
    }
}

const char *table_count(char *buf, double n)
{
    char digits[32];
    size_t len = (size_t)snprintf(digits, sizeof(digits), "%.0f", n), at = 0;
    for (size_t i = 0; i < len && at < 30; i++) {
        if (i > 0 && (len - i) % 3 == 0 && digits[i - 1] != '-') {
            buf[at++] = ',';
        }
        buf[at++] = digits[i];
    }
    buf[at] = '\0';
    return buf;
}

const char *table_bytes(char *buf, double n)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    size_t u = 0;
    while (n >= 1000 && u + 1 < sizeof(units) / sizeof(units[0])) {
        n /= 1000;
        u++;
    }
    snprintf(buf, 32, u == 0 ? "%.0f %s" : "%.1f %s", n, units[u]);
    return buf;
}

const char *table_ms(char *buf, double ms)
{
    if (ms < 1000) {
        snprintf(buf, 32, "%.0f ms", ms);
    } else if (ms < 120000) {
        snprintf(buf, 32, "%.1f s", ms / 1000);
    } else {
        snprintf(buf, 32, "%.0f min", ms / 60000);
    }
    return buf;
}
