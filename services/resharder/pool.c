#include "services/resharder/pool.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"

enum { IDLE_MAX = 64, RENAME_MS = 5000 };

struct pooled {
    pooled_t *next;   // in the pool
    sp_pg_t *pg;      // open
    task_t *task;     // that has it; NULL while idle
    int64_t since_ms; // monotonic time of the last giving back
    char key[600];    // job, database and role
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // for the two below
static pooled_t *idle;                                   // newest first
static int n_idle;                                       // count

static bool stopped(void *arg)
{
    pooled_t *self = arg;
    return self->task != NULL && task_stopped(self->task);
}

// Ended by somebody while it was idle: something came that nobody asked for.
static bool is_gone(pooled_t *self)
{
    struct pollfd p = {.fd = PQsocket(sp_pg_conn(self->pg)), .events = POLLIN};
    return p.fd < 0 || poll(&p, 1, 0) != 0;
}

static pooled_t *find(const char *key)
{
    pthread_mutex_lock(&lock);
    pooled_t **link = &idle;
    while (*link != NULL && strcmp((*link)->key, key) != 0)
        link = &(*link)->next;
    pooled_t *found = *link;
    if (found != NULL) {
        *link = found->next;
        n_idle--;
    }
    pthread_mutex_unlock(&lock);
    return found;
}

// The manager ends what a lost worker has left by the name of its task.
static bool rename_backend(pooled_t *self)
{
    const char *name = sp_pg_literal(self->task->arena, sp_str(self->task->application_name));
    sp_pg_set_timeout(self->pg, RENAME_MS);
    return name != NULL && sp_pg_execf(self->pg, NULL, "SET application_name = %s", name) == 0;
}

int pool_take(task_t *task, const sp_dsn_t *dsn, bool replica_role, pooled_t **ret_self,
              sp_error_t *err)
{
    char key[sizeof idle->key];
    // No epoch: each transaction checks its own.
    int n =
        snprintf(key, sizeof key, SP_STR_FMT " %d %s:%d/%s@%s", SP_STR_ARG(task->assign->job_id),
                 replica_role, dsn->host, dsn->port, dsn->database, dsn->user);
    pooled_t *self = NULL;
    while (n > 0 && n < (int)sizeof key && (self = find(key)) != NULL) {
        self->task = task;
        if (!is_gone(self) && rename_backend(self)) {
            *ret_self = self;
            return 0;
        }
        pool_drop(&self);
    }
    if ((self = calloc(1, sizeof *self)) == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a connection");
    self->task = task;
    snprintf(self->key, sizeof self->key, "%s", key);
    sp_pg_options_t options = {.application_name = task->application_name,
                               .replica_role = replica_role,
                               .stopped = stopped,
                               .stopped_arg = self};
    int rc = sp_pg_open(&self->pg, dsn, &options, err);
    if (rc == 0)
        *ret_self = self;
    else
        free(self);
    return rc;
}

sp_pg_t *pool_pg(pooled_t *self)
{
    return self->pg;
}

void pool_drop(pooled_t **self_p)
{
    if (*self_p == NULL)
        return;
    sp_pg_close(&(*self_p)->pg);
    free(*self_p);
    *self_p = NULL;
}

void pool_give(pooled_t **self_p)
{
    pooled_t *self = *self_p;
    if (self == NULL)
        return;
    *self_p = NULL;
    self->task = NULL;
    self->since_ms = sp_clock_mono_ms();
    pthread_mutex_lock(&lock);
    bool room = n_idle < IDLE_MAX && PQtransactionStatus(sp_pg_conn(self->pg)) == PQTRANS_IDLE;
    if (room) {
        self->next = idle;
        idle = self;
        n_idle++;
    }
    pthread_mutex_unlock(&lock);
    if (!room)
        pool_drop(&self);
}

void pool_trim(int64_t idle_ms)
{
    int64_t now = sp_clock_mono_ms();
    pooled_t *old = NULL;
    pthread_mutex_lock(&lock);
    for (pooled_t **link = &idle; *link != NULL;) {
        pooled_t *self = *link;
        if (now - self->since_ms < idle_ms) {
            link = &self->next;
            continue;
        }
        *link = self->next;
        self->next = old;
        old = self;
        n_idle--;
    }
    pthread_mutex_unlock(&lock);
    while (old != NULL) {
        pooled_t *next = old->next;
        pool_drop(&old);
        old = next;
    }
}
