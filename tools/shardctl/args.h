// Command line: positional arguments and the options that a command declares.
#ifndef SP_SHARDCTL_ARGS_H
#define SP_SHARDCTL_ARGS_H

#include <stdbool.h>
#include <stddef.h>

#define ARGS_MAX 256

typedef struct sp_opt {
    const char *name;  // without the dashes
    const char *value; // what stands in help for its value; NULL: a flag
    const char *help;  // one line
} sp_opt_t;

typedef struct sp_args {
    const char *pos[ARGS_MAX];      // positional arguments
    int n_pos;                      // count
    const sp_opt_t *opts[ARGS_MAX]; // options given, in order
    const char *values[ARGS_MAX];   // their values; NULL for flags
    int n_opts;                     // count
} sp_args_t;

// Options anywhere, `--name value` or `--name=value`; `--` ends them. tables: lists ended by a row without a name. False after a
// message on stderr.
bool args_parse(sp_args_t *self, int argc, char **argv, const sp_opt_t *const *tables,
                size_t n_tables);
const char *args_value(const sp_args_t *self, const char *name); // last one given, or NULL
bool args_flag(const sp_args_t *self, const char *name);
// Whole number in [min, max]. False after a message on stderr; *ret_value untouched when the option is absent.
bool args_int(const sp_args_t *self, const char *name, long long min, long long max,
              long long *ret_value);
// A secret should not stand in the argument list: "@file" is the file's first line, "env:NAME" a variable, else the text itself.
// Allocated; NULL after a message on stderr.
char *args_secret(const char *text);

#endif
