// Starts tests/contract/postgres.sh for a test program and opens connections to it by role. Included by one .c file a program.
#ifndef SP_TESTS_CONTRACT_POSTGRES_FIXTURE_H
#define SP_TESTS_CONTRACT_POSTGRES_FIXTURE_H

#include <netinet/in.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/pg/pg.h"

extern char **environ;

static char fixture_dir[64]; // of the server
static char fixture_port[8]; // its port

static int fixture_script(const char *action)
{
    char *argv[] = {"tests/contract/postgres.sh", (char *)action, fixture_dir, fixture_port, NULL};
    pid_t pid;
    int status = -1;
    if (posix_spawn(&pid, argv[0], NULL, NULL, argv, environ) != 0 ||
        waitpid(pid, &status, 0) != pid)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// A port that was free a moment ago; SP_TEST_PORT fixes it.
static int fixture_free_port(void)
{
    const char *fixed = getenv("SP_TEST_PORT");
    if (fixed != NULL)
        return (int)strtol(fixed, NULL, 10);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int port = fd >= 0 && bind(fd, (struct sockaddr *)&a, len) == 0 &&
                       getsockname(fd, (struct sockaddr *)&a, &len) == 0
                   ? ntohs(a.sin_port)
                   : 0;
    close(fd);
    return port;
}

static int fixture_start(void **state)
{
    (void)state;
    snprintf(fixture_dir, sizeof fixture_dir, "/tmp/shardplane-test-%d", (int)getpid());
    snprintf(fixture_port, sizeof fixture_port, "%d", fixture_free_port());
    return fixture_script("start");
}

static int fixture_stop(void **state)
{
    (void)state;
    return fixture_script("stop");
}

static sp_dsn_t fixture_dsn(const char *user)
{
    return (sp_dsn_t){.host = "127.0.0.1",
                      .port = (int)strtol(fixture_port, NULL, 10),
                      .database = "shop",
                      .user = user,
                      .password = "test"};
}

static sp_pg_t *fixture_open(const char *user, const sp_pg_options_t *options)
{
    sp_pg_t *pg = NULL;
    sp_error_t err = {0};
    sp_dsn_t dsn = fixture_dsn(user);
    if (sp_pg_open(&pg, &dsn, options, &err) != 0)
        fail_msg("open as %s: %s", user, err.text);
    return pg;
}

#endif
