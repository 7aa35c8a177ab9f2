// A private etcd for contract tests: in a scratch folder, on free ports, ended with the test.
#ifndef SP_TESTS_CONTRACT_PRIVATE_ETCD_H
#define SP_TESTS_CONTRACT_PRIVATE_ETCD_H

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/clock.h"
#include "common/store/store.h"

typedef struct private_etcd {
    char folder[256]; // scratch
    char client[64];  // URL
    char peer[64];    // URL
    pid_t pid;        // 0: not running
} private_etcd_t;

// A port that nobody listens on just now.
static inline int free_port(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    close(fd);
    return ntohs(a.sin_port);
}

static inline bool private_etcd_answers(const private_etcd_t *self)
{
    const char *urls[] = {self->client};
    sp_store_options_t options = {.endpoints = urls, .n = 1, .prefix = "/probe", .timeout_ms = 500};
    sp_store_t *store = NULL;
    assert_int_equal(sp_store_open_etcd(&store, &options, NULL), 0);
    sp_arena_t *arena = sp_arena_new(0);
    sp_kv_list_t list;
    bool ok = sp_store_list(store, SP_STR(""), arena, &list, NULL) == 0;
    sp_arena_destroy(&arena);
    sp_store_close(&store);
    return ok;
}

// Also again, after kill: the data is still there.
static inline void private_etcd_run(private_etcd_t *self)
{
    char cluster[128], data[300], log[300];
    snprintf(cluster, sizeof cluster, "t=%s", self->peer);
    snprintf(data, sizeof data, "%s/data", self->folder);
    snprintf(log, sizeof log, "%s/log", self->folder);
    self->pid = fork();
    assert_true(self->pid >= 0);
    if (self->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(fd, 1);
        dup2(fd, 2);
        execlp("etcd", "etcd", "--name", "t", "--data-dir", data, "--listen-client-urls",
               self->client, "--advertise-client-urls", self->client, "--listen-peer-urls",
               self->peer, "--initial-advertise-peer-urls", self->peer, "--initial-cluster",
               cluster, "--heartbeat-interval", "20", "--election-timeout", "200",
               "--unsafe-no-fsync", (char *)NULL);
        _exit(127);
    }
    for (int64_t end = sp_clock_mono_ms() + 20000; sp_clock_mono_ms() < end;) {
        int status;
        if (waitpid(self->pid, &status, WNOHANG) == self->pid)
            fail_msg("etcd ended with status %d; is etcd-server installed? log: %s", status, log);
        if (private_etcd_answers(self))
            return;
        sp_clock_sleep_ms(50);
    }
    fail_msg("etcd does not answer; log: %s", log);
}

static inline void private_etcd_start(private_etcd_t *self)
{
    memset(self, 0, sizeof *self);
    const char *tmp = getenv("TMPDIR");
    snprintf(self->folder, sizeof self->folder, "%s/shardplane-etcd-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(self->folder));
    snprintf(self->client, sizeof self->client, "http://127.0.0.1:%d", free_port());
    snprintf(self->peer, sizeof self->peer, "http://127.0.0.1:%d", free_port());
    private_etcd_run(self);
}

static inline void private_etcd_kill(private_etcd_t *self)
{
    if (self->pid <= 0)
        return;
    kill(self->pid, SIGKILL);
    waitpid(self->pid, NULL, 0);
    self->pid = 0;
}

static inline void remove_folder(const char *path)
{
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        char one[4096];
        if (snprintf(one, sizeof one, "%s/%s", path, e->d_name) >= (int)sizeof one)
            continue;
        if (e->d_type == DT_DIR)
            remove_folder(one);
        else
            unlink(one);
    }
    if (dir)
        closedir(dir);
    rmdir(path);
}

static inline void private_etcd_stop(private_etcd_t *self)
{
    private_etcd_kill(self);
    remove_folder(self->folder);
}

// Stops it (SIGSTOP) and returns once each of its threads stands: until then one of them may still answer.
static inline void private_etcd_freeze(const private_etcd_t *self)
{
    char path[64];
    kill(self->pid, SIGSTOP);
    snprintf(path, sizeof path, "/proc/%d/task", (int)self->pid);
    for (int running = 1; running;) {
        running = 0;
        DIR *tasks = opendir(path);
        assert_non_null(tasks);
        for (struct dirent *t; (t = readdir(tasks));) {
            char stat[512] = "", line[600];
            if (t->d_name[0] == '.')
                continue;
            snprintf(line, sizeof line, "%s/%.20s/stat", path, t->d_name);
            FILE *f = fopen(line, "r");
            if (!f)
                continue;
            size_t n = fread(stat, 1, sizeof stat - 1, f);
            fclose(f);
            stat[n] = 0;
            const char *state = strrchr(stat, ')');
            running |= state && state[2] != 'T';
        }
        closedir(tasks);
    }
}

#endif
