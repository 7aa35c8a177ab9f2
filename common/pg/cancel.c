// Cancelling with a bound. PQcancel() connects anew and waits until the server closes: a frozen one never does. So it runs in a thread,
// which is left behind when it takes too long, and ends when the server goes on or its machine is given up.
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "common/pg/internal.h"

typedef struct request {
    pthread_mutex_t lock; // for `over` and `left`
    pthread_cond_t ended; // of PQcancel()
    PGcancel *cancel;     // owned
    bool over;            // PQcancel() has returned
    bool left;            // nobody waits for it any more
} request_t;

static void request_free(request_t *self)
{
    PQfreeCancel(self->cancel);
    pthread_cond_destroy(&self->ended);
    pthread_mutex_destroy(&self->lock);
    free(self);
}

static request_t *request_new(PGconn *conn)
{
    request_t *self = calloc(1, sizeof *self);
    pthread_condattr_t attr;
    if (!self)
        return NULL;
    pthread_mutex_init(&self->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&self->ended, &attr);
    pthread_condattr_destroy(&attr);
    self->cancel = PQgetCancel(conn);
    return self;
}

static void *run(void *arg)
{
    request_t *self = arg;
    char words[256];
    PQcancel(self->cancel, words, sizeof words); // its failure shows as the statement going on
    pthread_mutex_lock(&self->lock);
    self->over = true;
    pthread_cond_signal(&self->ended);
    bool left = self->left;
    pthread_mutex_unlock(&self->lock);
    if (left)
        request_free(self);
    return NULL;
}

static struct timespec after(int ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += (long)(ms % 1000) * 1000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}

bool sp_pg_cancel_within(PGconn *conn, int ms)
{
    request_t *self = request_new(conn);
    pthread_t thread;
    if (!self)
        return false;
    if (!self->cancel || pthread_create(&thread, NULL, run, self) != 0) {
        request_free(self);
        return false;
    }
    pthread_detach(thread);
    struct timespec until = after(ms);
    pthread_mutex_lock(&self->lock);
    while (!self->over && pthread_cond_timedwait(&self->ended, &self->lock, &until) == 0)
        ;
    bool over = self->over;
    self->left = !over;
    pthread_mutex_unlock(&self->lock);
    if (over)
        request_free(self);
    return over;
}
