// Keeper: a thread with a store handle of its own, asked to end and telling news through descriptors. Internal to common/store: what
// watch.c and member.c stand on.
#ifndef SP_STORE_KEEPER_H
#define SP_STORE_KEEPER_H

#include <pthread.h>

#include "common/store/store.h"

typedef struct sp_keeper {
    sp_store_t *store; // the thread's; its calls end with SP_E_CANCELLED once stop was asked
    pthread_t thread;  // joined by stop
    int stop_fd;       // eventfd: readable once stop was asked
    int news_fd;       // eventfd: readable while there is news that nobody heeded
} sp_keeper_t;

// Opens a store (etcd by its options, or the fake of that name) and runs `run` with `arg`. On failure nothing is left: stop is for
// what was started. SP_E_OUT_OF_MEMORY, SP_E_CONFIG.
int sp_keeper_start(sp_keeper_t *self, const sp_store_options_t *etcd_options,
                    const char *memory_name, void *(*run)(void *arg), void *arg, sp_error_t *err);
// Asks, waits for the thread to end, and closes all.
void sp_keeper_stop(sp_keeper_t *self);
// The thread's: waits so long, or until stop is asked: then true.
bool sp_keeper_stopped_within(const sp_keeper_t *self, int64_t ms);
// From any thread: makes news_fd readable; and the owner: makes it quiet again.
void sp_keeper_tell(const sp_keeper_t *self);
void sp_keeper_heed(const sp_keeper_t *self);

#endif
