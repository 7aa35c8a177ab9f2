// shardctl: the operator's command line, over the REST API.
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/config.h"
#include "tools/shardctl/command.h"

#define DEFAULT_GATEWAY "http://127.0.0.1:8081"

static const sp_opt_t global_opts[] = {{"gateway", "URL",
                                        "gateway (SHARDPLANE_GATEWAY, or " DEFAULT_GATEWAY ")"},
                                       {"json", NULL, "answers as JSON, for programs"},
                                       {"timeout", "SECONDS", "for one request (35)"},
                                       {"help", NULL, "this text, or a command's"},
                                       {"version", NULL, "the release"},
                                       {NULL, NULL, NULL}};

static const sp_command_t *const tables[] = {sp_commands_catalog, sp_commands_job,
                                             sp_commands_data};
#define N_TABLES (sizeof(tables) / sizeof(tables[0]))

static void print_opts(FILE *out, const sp_opt_t *opts)
{
    for (const sp_opt_t *o = opts; o != NULL && o->name != NULL; o++) {
        char left[64];
        snprintf(left, sizeof(left), "--%s%s%s", o->name, o->value != NULL ? " " : "",
                 o->value != NULL ? o->value : "");
        fprintf(out, "  %-26s %s\n", left, o->help);
    }
}

static void help(FILE *out, const char *group)
{
    fprintf(out, "shardctl [OPTIONS] COMMAND ...\n\n");
    for (size_t t = 0; t < N_TABLES; t++) {
        for (const sp_command_t *c = tables[t]; c->group != NULL; c++) {
            if (group == NULL || strcmp(group, c->group) == 0) {
                char left[64];
                snprintf(left, sizeof(left), "%s%s%s %s", c->group, c->verb != NULL ? " " : "",
                         c->verb != NULL ? c->verb : "", c->usage);
                fprintf(out, "  %-30s %s\n", left, c->help);
            }
        }
    }
    fprintf(out, "\noptions:\n");
    print_opts(out, global_opts);
    fprintf(out, "\n`shardctl COMMAND --help` shows a command's own options.\n"
                 "Exit codes: 0 done; 1 refused, failed, or check found something; 2 wrong usage; "
                 "3 the gateway cannot be reached.\n");
}

static void help_command(FILE *out, const sp_command_t *c)
{
    fprintf(out, "shardctl %s%s%s%s%s%s\n\n  %s\n", c->group, c->verb != NULL ? " " : "",
            c->verb != NULL ? c->verb : "", c->usage[0] != '\0' ? " " : "", c->usage,
            c->opts != NULL ? " [OPTIONS]" : "", c->help);
    if (c->opts != NULL) {
        fprintf(out, "\noptions, besides those of every command (shardctl --help):\n");
        print_opts(out, c->opts);
    }
}

// How many words a global option takes, itself included; 0 when it is none.
static int global_option(const char *arg)
{
    for (const sp_opt_t *o = global_opts; strncmp(arg, "--", 2) == 0 && o->name != NULL; o++) {
        size_t len = strlen(o->name);
        if (strncmp(arg + 2, o->name, len) == 0 && (arg[2 + len] == '\0' || arg[2 + len] == '=')) {
            return o->value != NULL && arg[2 + len] == '\0' ? 2 : 1;
        }
    }
    return 0;
}

// First two words that are no global options, or values of them, name the command.
static const sp_command_t *find(int argc, char **argv, int *ret_first, int *ret_second)
{
    *ret_first = *ret_second = 0;
    for (int i = 1; i < argc && *ret_second == 0; i++) {
        int words = global_option(argv[i]);
        if (words > 0) {
            i += words - 1;
        } else if (strncmp(argv[i], "--", 2) != 0) {
            *(*ret_first == 0 ? ret_first : ret_second) = i;
        } else if (*ret_first != 0) {
            break; // `shard --x list` is not read as `shard list`
        }
    }
    for (size_t t = 0; t < N_TABLES && *ret_first != 0; t++) {
        for (const sp_command_t *c = tables[t]; c->group != NULL; c++) {
            bool group = strcmp(c->group, argv[*ret_first]) == 0;
            if (group && (c->verb == NULL ||
                          (*ret_second != 0 && strcmp(c->verb, argv[*ret_second]) == 0))) {
                return c;
            }
        }
    }
    return NULL;
}

static int run(const sp_command_t *c, int argc, char **argv, int first, int second)
{
    const sp_opt_t *both[] = {global_opts, c->opts};
    sp_args_t args = {.n_pos = 0};
    int n = 0;
    char **rest_of = calloc((size_t)argc, sizeof(*rest_of));
    if (rest_of == NULL) {
        return EXIT_REFUSED;
    }
    for (int i = 1; i < argc; i++) {
        if (i != first && (c->verb == NULL || i != second)) {
            rest_of[n++] = argv[i];
        }
    }
    bool parsed = args_parse(&args, n, rest_of, both, 2);
    free(rest_of);
    if (parsed && args_flag(&args, "help")) {
        help_command(stdout, c);
        return EXIT_DONE;
    }
    if (parsed && args_flag(&args, "version")) {
        printf("shardctl %s\n", sp_config_version());
        return EXIT_DONE;
    }
    long long timeout = 35;
    if (!parsed || !args_int(&args, "timeout", 1, 86400, &timeout) || args.n_pos < c->min ||
        args.n_pos > c->max) {
        fprintf(stderr, "usage: ");
        help_command(stderr, c);
        return EXIT_USAGE;
    }
    const char *gateway = args_value(&args, "gateway");
    gateway = gateway != NULL ? gateway : getenv("SHARDPLANE_GATEWAY");
    gateway = gateway != NULL && gateway[0] != '\0' ? gateway : DEFAULT_GATEWAY;
    bool scheme = strncmp(gateway, "http://", 7) == 0 || strncmp(gateway, "https://", 8) == 0;
    size_t size = strlen(gateway) + 8;
    sp_rest_t rest = {.gateway = malloc(size),
                      .timeout_s = (long)timeout,
                      .json = args_flag(&args, "json")};
    if (rest.gateway == NULL) {
        return EXIT_REFUSED;
    }
    snprintf(rest.gateway, size, "%s%s", scheme ? "" : "http://", gateway);
    for (size_t len = strlen(rest.gateway); len > 0 && rest.gateway[len - 1] == '/'; len--) {
        rest.gateway[len - 1] = '\0';
    }
    int code = c->run(&rest, &args);
    free(rest.gateway);
    return code;
}

static bool has_word(int argc, char **argv, const char *word)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], word) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_group(const char *name)
{
    for (size_t t = 0; t < N_TABLES; t++) {
        for (const sp_command_t *c = tables[t]; c->group != NULL; c++) {
            if (strcmp(c->group, name) == 0) {
                return true;
            }
        }
    }
    return false;
}

// No command was named, or none that there is: help, where it was asked for, or what is wrong. first, second: places of the words, or 0.
static int run_none(int argc, char **argv, int first, int second)
{
    bool word_is_help = first != 0 && strcmp(argv[first], "help") == 0;
    const char *group = word_is_help ? (second != 0 ? argv[second] : NULL)
                        : first != 0 ? argv[first]
                                     : NULL;
    bool asked = word_is_help || has_word(argc, argv, "--help");
    if (asked && (group == NULL || is_group(group))) {
        help(stdout, group);
        return EXIT_DONE;
    }
    if (group != NULL) {
        bool verb = !word_is_help && second != 0;
        fprintf(stderr, "shardctl: there is no command `%s%s%s`\n\n", group, verb ? " " : "",
                verb ? argv[second] : "");
    }
    help(stderr, group != NULL && is_group(group) ? group : NULL);
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    int first, second;
    curl_global_init(CURL_GLOBAL_DEFAULT);
    const sp_command_t *c = find(argc, argv, &first, &second);
    int code = EXIT_DONE;
    if (c != NULL) {
        code = run(c, argc, argv, first, second);
    } else if (has_word(argc, argv, "--version")) {
        printf("shardctl %s\n", sp_config_version());
    } else {
        code = run_none(argc, argv, first, second);
    }
    curl_global_cleanup();
    return code;
}
