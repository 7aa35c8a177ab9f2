#include "common/store/keeper.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void set_event(int fd)
{
    uint64_t one = 1;
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

static void keeper_free(sp_keeper_t *self)
{
    sp_store_close(&self->store);
    if (self->stop_fd >= 0)
        close(self->stop_fd);
    if (self->news_fd >= 0)
        close(self->news_fd);
    self->stop_fd = self->news_fd = -1;
}

int sp_keeper_start(sp_keeper_t *self, const sp_store_options_t *etcd_options,
                    const char *memory_name, void *(*run)(void *arg), void *arg, sp_error_t *err)
{
    self->store = NULL;
    self->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    self->news_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = 0;
    if (self->stop_fd < 0 || self->news_fd < 0)
        rc = sp_error_set(err, SP_E_OUT_OF_MEMORY, "no descriptor for an event");
    else if (etcd_options)
        rc = sp_store_open_etcd(&self->store, etcd_options, err);
    else
        rc = sp_store_open_memory(&self->store, memory_name, err);
    if (rc == 0) {
        sp_store_cancel_by(self->store, self->stop_fd);
        if (pthread_create(&self->thread, NULL, run, arg) != 0)
            rc = sp_error_set(err, SP_E_OUT_OF_MEMORY, "a thread cannot start");
    }
    if (rc != 0)
        keeper_free(self);
    return rc;
}

void sp_keeper_stop(sp_keeper_t *self)
{
    set_event(self->stop_fd);
    pthread_join(self->thread, NULL);
    keeper_free(self);
}

bool sp_keeper_stopped_within(const sp_keeper_t *self, int64_t ms)
{
    struct pollfd fd = {.fd = self->stop_fd, .events = POLLIN};
    return poll(&fd, 1, ms > 0 ? (int)ms : 0) > 0;
}

void sp_keeper_tell(const sp_keeper_t *self)
{
    set_event(self->news_fd);
}

void sp_keeper_heed(const sp_keeper_t *self)
{
    uint64_t count;
    while (read(self->news_fd, &count, sizeof count) < 0 && errno == EINTR)
        ;
}
