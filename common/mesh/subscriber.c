// Subscriber: a SUB socket in a zloop that notices lost messages by their numbers.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mesh/frames.h"
#include "common/mesh/mesh.h"

struct sp_subscriber {
    zloop_t *loop;             // borrowed
    zsock_t *sock;             // SUB
    void *zmq;                 // its libzmq socket
    const sp_schema_t *schema; // of the bodies
    size_t sequence_offset;    // of int64 `sequence` in the body; SIZE_MAX when it has none
    sp_event_fn *on_event;     // told of each message
    void *arg;                 // for on_event
    bool heard;                // `sequence` counts
    int64_t sequence;          // of the last message
    bool broken;               // a message could not be read since: the next one is behind a gap
    bool in_callback;          // the memory stays
    bool closed;               // sp_subscriber_close was called
};

static bool is_heartbeat(sp_frames_t *frames)
{
    return sp_str_eqz((sp_str_t){sp_frames_data(frames, 0), sp_frames_size(frames, 0)},
                      SP_PUBLISHER_HEARTBEAT);
}

// A heartbeat carries the last number used, so it shows a loss that nothing followed.
static void take_heartbeat(sp_subscriber_t *self, sp_frames_t *frames, sp_arena_t *arena)
{
    sp_msg_event_t event;
    if (sp_wire_decode_msgpack(&sp_schema_event, sp_frames_data(frames, 1),
                               sp_frames_size(frames, 1), arena, &event, NULL) != 0)
        return;
    bool gap = self->broken || !self->heard || event.sequence != self->sequence;
    self->heard = true;
    self->sequence = event.sequence;
    self->broken = false;
    if (gap)
        self->on_event(self->arg, SP_PUBLISHER_HEARTBEAT, NULL, NULL, true);
}

static void take_message(sp_subscriber_t *self, sp_frames_t *frames, sp_arena_t *arena)
{
    size_t len = sp_frames_size(frames, 1);
    void *body = sp_arena_alloc(arena, 1, self->schema->size);
    char *topic =
        sp_arena_cstr(arena, (sp_str_t){sp_frames_data(frames, 0), sp_frames_size(frames, 0)});
    if (!body || !topic || frames->n != 2 || len > self->schema->max_bytes ||
        sp_wire_decode_msgpack(self->schema, sp_frames_data(frames, 1), len, arena, body, NULL) !=
            0) {
        self->broken = true;
        return;
    }
    bool gap = self->broken || !self->heard;
    if (self->sequence_offset != SIZE_MAX) {
        int64_t sequence;
        memcpy(&sequence, (char *)body + self->sequence_offset, sizeof sequence);
        gap = gap || sequence != self->sequence + 1;
        self->sequence = sequence;
    }
    self->heard = true;
    self->broken = false;
    self->on_event(self->arg, topic, self->schema, body, gap);
}

static void subscriber_free(sp_subscriber_t *self)
{
    if (self->sock)
        zloop_reader_end(self->loop, self->sock);
    zsock_destroy(&self->sock);
    free(self);
}

static int on_readable(zloop_t *loop, zsock_t *sock, void *arg)
{
    (void)loop;
    (void)sock;
    sp_subscriber_t *self = arg;
    for (int i = 0; i < SP_FRAMES_BATCH; i++) {
        sp_frames_t frames;
        if (!sp_frames_receive(self->zmq, 2, (size_t)SP_FRAMES_FRAME_MAX, &frames))
            return 0;
        sp_arena_t *arena = sp_arena_new(frames.bytes * 32 + 1024 * 1024);
        self->in_callback = true;
        if (!arena)
            self->broken = true;
        else if (frames.n == 2 && is_heartbeat(&frames))
            take_heartbeat(self, &frames, arena);
        else
            take_message(self, &frames, arena);
        self->in_callback = false;
        sp_arena_destroy(&arena);
        sp_frames_close(&frames);
        if (self->closed) {
            subscriber_free(self);
            return 0;
        }
    }
    return 0;
}

int sp_subscriber_open(sp_subscriber_t **ret_self, zloop_t *loop, const char *endpoint,
                       const char *topic, const sp_schema_t *schema, sp_event_fn *on_event,
                       void *arg, sp_error_t *err)
{
    sp_subscriber_t *self = calloc(1, sizeof *self);
    if (!self)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "subscriber");
    self->loop = loop;
    self->schema = schema;
    self->on_event = on_event;
    self->arg = arg;
    self->sequence_offset = SIZE_MAX;
    for (size_t i = 0; i < schema->n; i++)
        if (strcmp(schema->fields[i].name, "sequence") == 0 && schema->fields[i].type == SP_T_INT)
            self->sequence_offset = schema->fields[i].offset;
    self->sock = zsock_new(ZMQ_SUB);
    if (!self->sock) {
        subscriber_free(self);
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "SUB socket");
    }
    self->zmq = zsock_resolve(self->sock);
    sp_frames_socket(self->sock);
    zsock_set_subscribe(self->sock, topic);
    if (*topic)
        zsock_set_subscribe(self->sock, SP_PUBLISHER_HEARTBEAT);
    if (zsock_connect(self->sock, "%s", endpoint) != 0) {
        int rc = sp_error_set(err, SP_E_INVALID_ARGUMENT, "cannot connect to %s: %s", endpoint,
                              zmq_strerror(errno));
        zsock_destroy(&self->sock);
        subscriber_free(self);
        return rc;
    }
    if (zloop_reader(loop, self->sock, on_readable, self) != 0) {
        zsock_destroy(&self->sock);
        subscriber_free(self);
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "subscriber");
    }
    zloop_reader_set_tolerant(loop, self->sock);
    *ret_self = self;
    return 0;
}

void sp_subscriber_close(sp_subscriber_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    sp_subscriber_t *self = *self_p;
    *self_p = NULL;
    if (self->in_callback)
        self->closed = true;
    else
        subscriber_free(self);
}
