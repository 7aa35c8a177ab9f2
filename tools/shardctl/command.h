// The table of commands: what each is called, takes and does.
#ifndef SP_SHARDCTL_COMMAND_H
#define SP_SHARDCTL_COMMAND_H

#include "tools/shardctl/args.h"
#include "tools/shardctl/rest.h"

typedef struct sp_command {
    const char *group;    // "shard", or the command itself
    const char *verb;     // "list", or NULL
    const char *usage;    // positional arguments for help
    int min, max;         // how many of them
    const sp_opt_t *opts; // its own options, ended by a row without a name; or NULL
    int (*run)(const sp_rest_t *rest, const sp_args_t *args); // exit code
    const char *help;                                         // one line
} sp_command_t;

extern const sp_command_t sp_commands_catalog[]; // each list is ended by a row without a group
extern const sp_command_t sp_commands_job[];
extern const sp_command_t sp_commands_data[];

#endif
