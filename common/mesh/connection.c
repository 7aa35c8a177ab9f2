// Connection: a DEALER and libzmq's monitor of it.
#include "common/mesh/connection.h"

#include <string.h>

#include "common/base/random.h"
#include "common/mesh/frames.h"

static int watch(sp_connection_t *self)
{
    char id[17], name[40];
    sp_random_id(id, sizeof id - 1);
    snprintf(name, sizeof name, "inproc://connection-%s", id);
    if (zmq_socket_monitor(self->zmq, name,
                           ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED) != 0)
        return -1;
    zsock_set_rcvhwm(self->monitor, 0); // libzmq's thread must not wait for us
    return zsock_connect(self->monitor, "%s", name);
}

static int listen_to(zloop_t *loop, zsock_t *sock, zloop_reader_fn *fn, void *arg)
{
    int rc = zloop_reader(loop, sock, fn, arg);
    if (rc == 0)
        zloop_reader_set_tolerant(loop, sock);
    return rc;
}

int sp_connection_open(sp_connection_t *self, zloop_t *loop, const char *endpoint,
                       zloop_reader_fn *on_readable, zloop_reader_fn *on_news, void *arg,
                       sp_error_t *err)
{
    *self = (sp_connection_t){.loop = loop,
                              .sock = zsock_new(ZMQ_DEALER),
                              .monitor = zsock_new(ZMQ_PAIR)};
    int rc = 0;
    if (self->sock && self->monitor) {
        self->zmq = zsock_resolve(self->sock);
        sp_frames_socket(self->sock);
    }
    if (!self->zmq || watch(self) != 0 || listen_to(loop, self->sock, on_readable, arg) != 0 ||
        listen_to(loop, self->monitor, on_news, arg) != 0)
        rc = sp_error_set(err, SP_E_OUT_OF_MEMORY, "DEALER socket");
    else if (zsock_connect(self->sock, "%s", endpoint) != 0)
        rc = sp_error_set(err, SP_E_INVALID_ARGUMENT, "cannot connect to %s: %s", endpoint,
                          zmq_strerror(errno));
    if (rc != 0)
        sp_connection_close(self);
    return rc;
}

void sp_connection_close(sp_connection_t *self)
{
    // First: an event that nobody takes would stop libzmq's thread.
    if (self->zmq)
        zmq_socket_monitor(self->zmq, NULL, 0);
    zsock_t **socks[] = {&self->sock, &self->monitor};
    for (int i = 0; i < 2; i++) {
        if (*socks[i])
            zloop_reader_end(self->loop, *socks[i]);
        zsock_destroy(socks[i]);
    }
    memset(self, 0, sizeof *self);
}

sp_connection_news_t sp_connection_news(sp_connection_t *self)
{
    sp_frames_t frames; // event number and value; address
    while (self->monitor && sp_frames_receive(zsock_resolve(self->monitor), 2, SIZE_MAX, &frames)) {
        uint16_t event = 0;
        if (sp_frames_size(&frames, 0) >= sizeof event)
            memcpy(&event, sp_frames_data(&frames, 0), sizeof event);
        sp_frames_close(&frames);
        bool was_up = self->up;
        self->up = event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
        if (self->up != was_up)
            return self->up ? SP_CONNECTION_UP : SP_CONNECTION_LOST;
    }
    return SP_CONNECTION_NONE;
}
