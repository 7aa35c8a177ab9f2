// pg_dump and pg_restore as child processes: no shell, no file, no secret in an argument; what they print goes to memory.
#include "services/resharder/dump.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/log.h"

enum { WAIT_MS = 100, GRACE_MS = 2000, ENV_MAX = 20, WORDS = 700 };
#define SCRIPT_LIMIT ((size_t)256 * 1024 * 1024)

static char bin_dir[1024];                               // folder of the programs; "" PATH
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // for cached and all references
static dump_t *cached;                                   // last one made, holds one reference

void dump_setup(const char *pg_bin)
{
    glob_t found = {0};
    snprintf(bin_dir, sizeof bin_dir, "%s", pg_bin != NULL ? pg_bin : "");
    if (bin_dir[0] != '\0' || glob("/usr/lib/postgresql/*/bin/pg_dump", 0, NULL, &found) != 0)
        return;
    long best = -1;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        long major = strtol(found.gl_pathv[i] + strlen("/usr/lib/postgresql/"), NULL, 10);
        if (major > best) {
            best = major;
            snprintf(bin_dir, sizeof bin_dir, "/usr/lib/postgresql/%ld/bin", major);
        }
    }
    globfree(&found);
}

// ---- one child

// What libpq in the child reads. The password is in the environment only, which other users cannot see.
static int make_environment(task_t *task, const sp_dsn_t *dsn, char **env, sp_error_t *err)
{
    sp_arena_t *a = task->arena;
    const char *path = getenv("PATH");
    int n = 0;
    env[n++] = sp_arena_printf(a, "PATH=%s", path != NULL ? path : "/usr/local/bin:/usr/bin:/bin");
    env[n++] = sp_arena_strz(a, "LC_ALL=C");
    env[n++] = sp_arena_strz(a, "PGPASSFILE=/dev/null");
    env[n++] = sp_arena_strz(a, "PGSERVICEFILE=/dev/null");
    env[n++] = sp_arena_strz(a, "PGCLIENTENCODING=UTF8");
    env[n++] = sp_arena_strz(a, "PGCONNECT_TIMEOUT=10");
    env[n++] = sp_arena_printf(a, "PGAPPNAME=%s", task->application_name);
    if (dsn != NULL) {
        const char *const pairs[][2] = {{"PGHOST", dsn->host},
                                        {"PGDATABASE", dsn->database},
                                        {"PGUSER", dsn->user},
                                        {"PGPASSWORD", dsn->password},
                                        {"PGSSLMODE", dsn->sslmode},
                                        {"PGSSLROOTCERT", dsn->sslrootcert},
                                        {"PGSSLCERT", dsn->sslcert},
                                        {"PGSSLKEY", dsn->sslkey}};
        env[n++] = sp_arena_printf(a, "PGPORT=%d", dsn->port);
        for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
            if (pairs[i][1] != NULL)
                env[n++] = sp_arena_printf(a, "%s=%s", pairs[i][0], pairs[i][1]);
    }
    for (int i = 0; i < n; i++)
        if (env[i] == NULL)
            return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a child process");
    env[n] = NULL;
    return 0;
}

static int spawn(const char *program, char *const *argv, char *const *env, int in, int out,
                 int errors, pid_t *ret_pid, sp_error_t *err)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t none, handled;
    char path[1100];
    sigemptyset(&none);
    sigemptyset(&handled);
    sigaddset(&handled, SIGPIPE);
    sigaddset(&handled, SIGTERM);
    sigaddset(&handled, SIGINT);
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                        POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &handled);
    posix_spawnattr_setpgroup(&attr, 0);
    if (in >= 0)
        posix_spawn_file_actions_adddup2(&files, in, 0);
    else
        posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, out, 1);
    posix_spawn_file_actions_adddup2(&files, errors, 2);
    snprintf(path, sizeof path, "%s%s%s", bin_dir, bin_dir[0] != '\0' ? "/" : "", program);
    int rc = posix_spawnp(ret_pid, path, &files, &attr, argv, env);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&files);
    return rc == 0 ? 0
                   : sp_error_set(err, SP_E_CONFIG, "cannot run %s: %s (is pg_bin right?)", path,
                                  strerror(rc));
}

// Until the child ends; a task that must stop ends it.
static int await(task_t *task, pid_t pid, int *ret_status)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0), signals = 0;
    int64_t asked_ms = 0;
    for (;;) {
        pid_t ended = waitpid(pid, ret_status, WNOHANG);
        if (ended == pid || (ended < 0 && errno != EINTR))
            break;
        if (task_stopped(task) && signals == 0) {
            kill(pid, SIGTERM);
            asked_ms = sp_clock_mono_ms();
            signals = 1;
        } else if (signals == 1 && sp_clock_mono_ms() - asked_ms > GRACE_MS) {
            kill(pid, SIGKILL);
            signals = 2;
        }
        if (fd >= 0)
            poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, WAIT_MS);
        else
            sp_clock_sleep_ms(WAIT_MS / 5);
    }
    if (fd >= 0)
        close(fd);
    return signals > 0 ? SP_E_CANCELLED : 0;
}

// The end of what a child said, as one line without the password.
static void last_words(int fd, const sp_dsn_t *dsn, char *out, size_t size)
{
    off_t length = lseek(fd, 0, SEEK_END);
    off_t from = length > (off_t)size - 1 ? length - (off_t)size + 1 : 0;
    ssize_t n = pread(fd, out, size - 1, from);
    out[n > 0 ? n : 0] = '\0';
    if (dsn != NULL)
        sp_dsn_scrub(dsn, out);
    for (char *p = out; *p != '\0'; p++)
        if (*p == '\n' || *p == '\r' || *p == '\t')
            *p = ' ';
}

// Runs a program with its output into *ret_out (a memfd that the caller closes).
static int run(task_t *task, const char *program, char *const *argv, const sp_dsn_t *dsn, int in,
               int *ret_out, sp_error_t *err)
{
    char *env[ENV_MAX];
    char words[WORDS];
    pid_t pid = 0;
    int status = 0;
    int out = memfd_create("shardplane-dump", MFD_CLOEXEC),
        errors = memfd_create("shardplane-words", MFD_CLOEXEC);
    int rc = out < 0 || errors < 0 ? sp_error_set(err, SP_E_IO, "memfd_create: %s", strerror(errno))
                                   : make_environment(task, dsn, env, err);
    if (rc == 0)
        rc = spawn(program, argv, env, in, out, errors, &pid, err);
    if (rc == 0 && await(task, pid, &status) != 0)
        rc = sp_error_set(err, SP_E_CANCELLED, "stopped while %s ran", program);
    if (rc == 0 && (!WIFEXITED(status) || WEXITSTATUS(status) != 0)) {
        last_words(errors, dsn, words, sizeof words);
        rc = sp_error_set(err, SP_E_UNAVAILABLE, "%s failed: %s", program,
                          words[0] != '\0' ? words : "it was killed");
    }
    if (errors >= 0)
        close(errors);
    if (rc == 0)
        *ret_out = out;
    else if (out >= 0)
        close(out);
    return rc;
}

static int read_all(int fd, sp_arena_t *arena, char **ret_text, sp_error_t *err)
{
    off_t length = lseek(fd, 0, SEEK_END);
    if (length < 0 || (size_t)length > SCRIPT_LIMIT)
        return sp_error_set(err, SP_E_TOO_LARGE, "the schema's dump is larger than %zu bytes",
                            SCRIPT_LIMIT);
    char *text = sp_arena_alloc(arena, (size_t)length + 1, 1);
    size_t got = 0;
    while (text != NULL && got < (size_t)length) {
        ssize_t n = pread(fd, text + got, (size_t)length - got, (off_t)got);
        if (n <= 0 && errno != EINTR)
            return sp_error_set(err, SP_E_IO, "reading the schema's dump: %s", strerror(errno));
        got += n > 0 ? (size_t)n : 0;
    }
    if (text == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the schema's dump");
    if (memchr(text, '\0', got) != NULL)
        return sp_error_set(err, SP_E_MALFORMED, "the schema's dump holds a NUL byte");
    *ret_text = text;
    return 0;
}

// ---- the dump

// What pg_restore prints of the archive.
static int restore(task_t *task, int archive, char *const *argv, sp_arena_t *arena, char **ret_text,
                   sp_error_t *err)
{
    int out = -1;
    if (lseek(archive, 0, SEEK_SET) != 0)
        return sp_error_set(err, SP_E_IO, "the schema's dump: %s", strerror(errno));
    int rc = run(task, "pg_restore", argv, NULL, archive, &out, err);
    if (rc == 0)
        rc = read_all(out, arena, ret_text, err);
    if (out >= 0)
        close(out);
    return rc;
}

static int restore_section(task_t *task, int archive, const char *name, sp_arena_t *arena,
                           dump_section_t *ret_section, sp_error_t *err)
{
    char section[40], *text = NULL;
    snprintf(section, sizeof section, "--section=%s", name);
    char *argv[] = {"pg_restore",        "--verbose",          section,    "--no-tablespaces",
                    "--no-publications", "--no-subscriptions", "--file=-", NULL};
    int rc = restore(task, archive, argv, arena, &text, err);
    return rc == 0 ? dump_cut(text, arena, ret_section, err) : rc;
}

static int restore_both(task_t *task, int archive, dump_t *dump, sp_arena_t *arena, sp_error_t *err)
{
    char *argv[] = {"pg_restore",
                    "--list",
                    "--section=pre-data",
                    "--section=post-data",
                    "--no-publications",
                    "--no-subscriptions",
                    NULL};
    char *list = NULL;
    int rc = restore_section(task, archive, "pre-data", arena, &dump->pre, err);
    if (rc == 0)
        rc = restore_section(task, archive, "post-data", arena, &dump->post, err);
    if (rc == 0)
        rc = restore(task, archive, argv, arena, &list, err);
    const dump_section_t sections[] = {dump->pre, dump->post};
    return rc == 0 ? dump_check(sections, 2, list, arena, err) : rc;
}

static int make(task_t *task, const char *key, dump_t **ret_dump, sp_error_t *err)
{
    char *argv[] = {"pg_dump",
                    "--format=custom",
                    "--compress=0",
                    "--schema-only",
                    "--exclude-schema=shardplane",
                    "--no-publications",
                    "--no-subscriptions",
                    "--lock-wait-timeout=20s",
                    "--no-password",
                    NULL};
    int archive = -1;
    sp_arena_t *arena = sp_arena_new(SCRIPT_LIMIT * 4);
    dump_t *dump = arena != NULL ? sp_arena_alloc(arena, 1, sizeof *dump) : NULL;
    int rc = dump == NULL ? sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the schema's dump")
                          : run(task, "pg_dump", argv, &task->source.admin, -1, &archive, err);
    if (rc == 0)
        rc = restore_both(task, archive, dump, arena, err);
    if (archive >= 0)
        close(archive);
    if (rc != 0 || dump == NULL) {
        sp_arena_destroy(&arena);
        return sp_error_prefix(err, "schema of source %s", task->source.shard_id);
    }
    dump->arena = arena;
    dump->references = 1;
    snprintf(dump->key, sizeof dump->key, "%s", key);
    *ret_dump = dump;
    return 0;
}

static void release_locked(dump_t *dump)
{
    if (dump == NULL || --dump->references > 0)
        return;
    sp_arena_t *arena = dump->arena; // holds the dump itself
    sp_arena_destroy(&arena);
}

static int get(task_t *task, bool fresh, const dump_t **ret_dump, sp_error_t *err)
{
    char key[sizeof cached->key];
    dump_t *dump = NULL;
    snprintf(key, sizeof key, "%.40s/%lld/%.60s", sp_arena_cstr(task->arena, task->assign->job_id),
             (long long)task->assign->attempt, task->source.shard_id);
    pthread_mutex_lock(&lock);
    if (!fresh && cached != NULL && strcmp(cached->key, key) == 0) {
        dump = cached;
        dump->references++;
    }
    pthread_mutex_unlock(&lock);
    int rc = dump == NULL ? make(task, key, &dump, err) : 0;
    if (rc != 0 || dump == NULL)
        return rc;
    pthread_mutex_lock(&lock);
    if (cached != dump) {
        release_locked(cached);
        cached = dump;
        dump->references++;
    }
    pthread_mutex_unlock(&lock);
    *ret_dump = dump;
    return 0;
}

int dump_get(task_t *task, const dump_t **ret_dump, sp_error_t *err)
{
    return get(task, false, ret_dump, err);
}

int dump_get_fresh(task_t *task, const dump_t **ret_dump, sp_error_t *err)
{
    return get(task, true, ret_dump, err);
}

void dump_release(const dump_t **dump_p)
{
    pthread_mutex_lock(&lock);
    release_locked((dump_t *)*dump_p);
    pthread_mutex_unlock(&lock);
    *dump_p = NULL;
}

void dump_forget(void)
{
    pthread_mutex_lock(&lock);
    release_locked(cached);
    cached = NULL;
    pthread_mutex_unlock(&lock);
}
