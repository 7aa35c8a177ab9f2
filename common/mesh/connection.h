// Connection: a DEALER to one endpoint that tells when it is up and when it was lost. Internal to common/mesh.
#ifndef SP_MESH_CONNECTION_H
#define SP_MESH_CONNECTION_H

#include <stdbool.h>

#include <czmq.h>

#include "common/base/error.h"

typedef struct sp_connection {
    zloop_t *loop;    // borrowed
    zsock_t *sock;    // DEALER; NULL: closed
    void *zmq;        // its libzmq socket
    zsock_t *monitor; // what happens to it
    bool up;          // somebody is there who speaks the protocol
} sp_connection_t;

typedef enum {
    SP_CONNECTION_NONE, // nothing happened
    SP_CONNECTION_UP,   // what is sent from now on goes somewhere
    SP_CONNECTION_LOST, // nothing that was sent will be answered; what came before can still be received
} sp_connection_news_t;

// Connects in the background. on_readable: a message may have come; on_news: ask sp_connection_news(), until there is none.
// SP_E_INVALID_ARGUMENT for a bad endpoint, SP_E_OUT_OF_MEMORY.
int sp_connection_open(sp_connection_t *self, zloop_t *loop, const char *endpoint,
                       zloop_reader_fn *on_readable, zloop_reader_fn *on_news, void *arg,
                       sp_error_t *err);
// With all that waits in it, both ways; also a zeroed one.
void sp_connection_close(sp_connection_t *self);
sp_connection_news_t sp_connection_news(sp_connection_t *self);

#endif
