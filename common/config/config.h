// Configuration: option rows feed the parser, --help, the sample file and the checks. One JSON object in a file, a few overrides by
// environment. Errors name file, line and a hint.
#ifndef SP_CONFIG_CONFIG_H
#define SP_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"

typedef enum {
    SP_OPT_STRING, // min, max bound the bytes (max 0: 4096)
    SP_OPT_INT,    // min, max bound the value
    SP_OPT_BOOL,   // true or false
    SP_OPT_LIST,   // array of strings, or one string with commas
    SP_OPT_ENDPOINT, // tcp://host:port, tcp://*:port, tcp://host:* (any free port), ipc://path, inproc://name
    SP_OPT_ADDRESS, // host:port of an HTTP listener; "" switches it off
    SP_OPT_FILE,    // path; relative ones count from the working directory
    SP_OPT_SECRET, // path of a file that must exist and that only its owner may read (mode 0600 or less)
    SP_OPT_NONE, // in a service's row: it does not take the common row of this name
} sp_option_type_t;

typedef struct sp_option {
    const char *name;      // key in the file
    sp_option_type_t type; // type
    const char *def;       // default as text (SP_OPT_LIST: with commas), NULL: absent
    int64_t min, max;      // range, see the type; 0, 0: the type's own
    const char *help;      // one line for people
    bool required;         // loading fails without it
    bool secret;           // the value never shows in a log
    const char *choices;   // SP_OPT_STRING: "debug|info|warn|error", or NULL
} sp_option_t;

typedef struct sp_config sp_config_t;

// Every service has these rows without naming them; a service's own row of the same name replaces a common one (another default), or
// takes it away (SP_OPT_NONE):
//   service_id (kind-hostname-pid), metadata_endpoints (http://127.0.0.1:2379), metadata_prefix (/shardplane), listen, events_listen,
//   advertise (host[:port] to register instead of the listen address), metrics_listen, secret_key_file, log_level (info), log_format (kv).
//
// Reads --config FILE, or CONFIG_PATH, or neither (defaults only); METADATA_ENDPOINTS overrides metadata_endpoints. --help, --version
// and --print-config-sample print to stdout and set *ret_done: the process should exit with 0. Unknown keys (the nearest known one is
// named), duplicate keys, wrong types and values out of range are SP_E_CONFIG. rows must outlive the config.
int sp_config_load(sp_config_t **ret_self, const char *kind, const sp_option_t *rows, size_t n,
                   int argc, char **argv, bool *ret_done, sp_error_t *err);
// The same from a text, for tests and fuzzing; `name` stands in errors.
int sp_config_parse(sp_config_t **ret_self, const char *kind, const sp_option_t *rows, size_t n,
                    const char *name, const char *text, size_t len, sp_error_t *err);
void sp_config_destroy(sp_config_t **self_p);

// Values; borrowed from the config. A name that no row has, or that is of another type, is a bug of ours and ends the process.
const char *
sp_config_str(const sp_config_t *self,
              const char *name); // NULL when absent; STRING, ENDPOINT, ADDRESS, FILE, SECRET
int64_t sp_config_int(const sp_config_t *self, const char *name); // 0 when absent
bool sp_config_bool(const sp_config_t *self, const char *name);   // false when absent
const char *const *sp_config_list(const sp_config_t *self, const char *name,
                                  size_t *ret_n); // NULL-terminated

// What to register for others: `bound` (tcp://host:port, as the socket says) with the host, and where told the port, of `advertise`;
// a wildcard host without `advertise` becomes this machine's host name. out may not be `bound`.
void sp_config_advertised(const sp_config_t *self, const char *bound, char *out, size_t out_size);

// Release, also what --version prints.
const char *sp_config_version(void);

#endif
