#include "tools/shardctl/args.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const sp_opt_t *find(const sp_opt_t *const *tables, size_t n_tables, const char *name,
                            size_t len)
{
    for (size_t t = 0; t < n_tables; t++) {
        for (const sp_opt_t *o = tables[t]; o != NULL && o->name != NULL; o++) {
            if (strlen(o->name) == len && strncmp(o->name, name, len) == 0) {
                return o;
            }
        }
    }
    return NULL;
}

bool args_parse(sp_args_t *self, int argc, char **argv, const sp_opt_t *const *tables,
                size_t n_tables)
{
    bool options = true;
    if (argc > ARGS_MAX) {
        fprintf(stderr, "shardctl: too many arguments\n");
        return false;
    }
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        if (options && strcmp(arg, "--") == 0) {
            options = false;
            continue;
        }
        if (!options || strncmp(arg, "--", 2) != 0) {
            self->pos[self->n_pos++] = arg;
            continue;
        }
        const char *equals = strchr(arg, '=');
        size_t len = equals != NULL ? (size_t)(equals - arg) - 2 : strlen(arg) - 2;
        const sp_opt_t *o = find(tables, n_tables, arg + 2, len);
        if (o == NULL) {
            fprintf(stderr, "shardctl: unknown option %.*s\n", (int)len + 2, arg);
            return false;
        }
        const char *value = equals != NULL ? equals + 1 : NULL;
        if (o->value != NULL && value == NULL) {
            value = i + 1 < argc ? argv[++i] : NULL;
        }
        if ((o->value != NULL) != (value != NULL)) {
            fprintf(stderr, "shardctl: --%s takes %s\n", o->name,
                    o->value != NULL ? "a value" : "no value");
            return false;
        }
        self->opts[self->n_opts] = o;
        self->values[self->n_opts++] = value;
    }
    return true;
}

const char *args_value(const sp_args_t *self, const char *name)
{
    const char *found = NULL;
    for (int i = 0; i < self->n_opts; i++) {
        found = strcmp(self->opts[i]->name, name) == 0 ? self->values[i] : found;
    }
    return found;
}

bool args_flag(const sp_args_t *self, const char *name)
{
    for (int i = 0; i < self->n_opts; i++) {
        if (strcmp(self->opts[i]->name, name) == 0) {
            return true;
        }
    }
    return false;
}

bool args_int(const sp_args_t *self, const char *name, long long min, long long max,
              long long *ret_value)
{
    const char *text = args_value(self, name);
    if (text == NULL) {
        return true;
    }
    char *end = NULL;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || v < min || v > max) {
        fprintf(stderr, "shardctl: --%s takes a number from %lld to %lld\n", name, min, max);
        return false;
    }
    *ret_value = v;
    return true;
}

static char *first_line(const char *path)
{
    char line[8192];
    FILE *f = fopen(path, "r");
    if (f == NULL) {
        fprintf(stderr, "shardctl: %s: %s\n", path, strerror(errno));
        return NULL;
    }
    char *got = fgets(line, sizeof(line), f);
    fclose(f);
    if (got == NULL) {
        fprintf(stderr, "shardctl: %s is empty\n", path);
        return NULL;
    }
    line[strcspn(line, "\r\n")] = '\0';
    return strdup(line);
}

char *args_secret(const char *text)
{
    if (text[0] == '@') {
        return first_line(text + 1);
    }
    if (strncmp(text, "env:", 4) == 0) {
        const char *value = getenv(text + 4);
        if (value == NULL) {
            fprintf(stderr, "shardctl: the variable %s is not set\n", text + 4);
            return NULL;
        }
        return strdup(value);
    }
    return strdup(text);
}
