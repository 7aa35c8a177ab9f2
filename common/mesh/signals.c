// Signals: a self-pipe between the handler and the loop.
#include "common/mesh/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const int caught[] = {SIGTERM, SIGINT, SIGHUP, SIGPIPE};
enum { N_CAUGHT = sizeof caught / sizeof caught[0] };

struct sp_signals {
    zloop_t *loop;                     // borrowed
    sp_signal_fn *on_signal;           // or NULL
    void *arg;                         // for on_signal
    int fds[2];                        // pipe: read end, write end
    struct sigaction before[N_CAUGHT]; // to restore
};

// A handler has no other way to find the pipe. -1: none open.
static atomic_int pipe_fd = -1;

static void handle(int signo)
{
    int saved = errno;
    int fd = atomic_load(&pipe_fd);
    unsigned char byte = (unsigned char)signo;
    // A full pipe already holds what would be written.
    if (signo != SIGPIPE && fd >= 0 && write(fd, &byte, 1) < 0)
        errno = saved;
    errno = saved;
}

static int on_readable(zloop_t *loop, zmq_pollitem_t *item, void *arg)
{
    (void)loop;
    sp_signals_t *self = arg;
    unsigned char bytes[64];
    ssize_t n = read(item->fd, bytes, sizeof bytes);
    for (ssize_t i = 0; i < n; i++) {
        if (self->on_signal) {
            if (self->on_signal(self->arg, bytes[i]) != 0)
                return -1;
        } else if (bytes[i] != SIGHUP) {
            return -1;
        }
    }
    return 0;
}

void sp_mesh_setup(void)
{
    zsys_handler_set(NULL);
    zsys_init();
    zsys_set_logstream(stderr);
    zsys_set_linger(0);
}

zloop_t *sp_mesh_loop(void)
{
    sp_mesh_setup();
    zloop_t *loop = zloop_new();
    if (loop)
        zloop_set_nonstop(loop, true);
    return loop;
}

int sp_mesh_poll(zloop_t *loop, int fd, zloop_fn *fn, void *arg, sp_error_t *err)
{
    zmq_pollitem_t item = {.fd = fd, .events = ZMQ_POLLIN};
    if (zloop_poller(loop, &item, fn, arg) != 0)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the loop");
    zloop_poller_set_tolerant(loop, &item);
    return 0;
}

void sp_mesh_run(zloop_t *loop)
{
    while (zloop_start(loop) == 0) {
    }
}

int sp_signals_open(sp_signals_t **ret_self, zloop_t *loop, sp_signal_fn *on_signal, void *arg,
                    sp_error_t *err)
{
    if (atomic_load(&pipe_fd) >= 0)
        return sp_error_set(err, SP_E_CONFLICT, "signals are handled already");
    sp_mesh_setup();
    sp_signals_t *self = calloc(1, sizeof *self);
    if (!self)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "signals");
    if (pipe2(self->fds, O_CLOEXEC | O_NONBLOCK) != 0) {
        free(self);
        return sp_error_set(err, SP_E_IO, "pipe for signals: %s", strerror(errno));
    }
    self->loop = loop;
    self->on_signal = on_signal;
    self->arg = arg;
    int rc = sp_mesh_poll(loop, self->fds[0], on_readable, self, err);
    if (rc != 0) {
        close(self->fds[0]);
        close(self->fds[1]);
        free(self);
        return rc;
    }
    atomic_store(&pipe_fd, self->fds[1]);
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < N_CAUGHT; i++)
        sigaction(caught[i], &action, &self->before[i]);
    *ret_self = self;
    return 0;
}

void sp_signals_close(sp_signals_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    sp_signals_t *self = *self_p;
    for (int i = 0; i < N_CAUGHT; i++)
        sigaction(caught[i], &self->before[i], NULL);
    atomic_store(&pipe_fd, -1);
    zmq_pollitem_t item = {.fd = self->fds[0], .events = ZMQ_POLLIN};
    zloop_poller_end(self->loop, &item);
    close(self->fds[0]);
    close(self->fds[1]);
    free(self);
    *self_p = NULL;
}
