// Publisher: a PUB socket whose messages are numbered. Frames: topic, body.
#include <stdio.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/mesh/frames.h"
#include "common/mesh/mesh.h"

struct sp_publisher {
    zsock_t *sock;        // PUB
    void *zmq;            // its libzmq socket
    char endpoint[256];   // with the real port
    char service_id[128]; // goes into events
    int64_t sequence;     // last used
    sp_buf_t topic_buf;   // scratch
    sp_buf_t body_buf;    // scratch
};

int sp_publisher_open(sp_publisher_t **ret_self, const char *listen, const char *service_id,
                      sp_error_t *err)
{
    sp_publisher_t *self = calloc(1, sizeof *self);
    if (!self)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "publisher");
    snprintf(self->service_id, sizeof self->service_id, "%s", service_id ? service_id : "");
    // Had every publisher begun at 0, one that starts again could be where subscribers heard the last one: no gap would show.
    self->sequence = sp_clock_wall_us();
    self->sock = zsock_new(ZMQ_PUB);
    if (!self->sock) {
        free(self);
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "PUB socket");
    }
    sp_frames_socket(self->sock);
    if (zsock_bind(self->sock, "%s", listen) < 0) {
        int rc = sp_error_set(err, SP_E_IO, "cannot listen on %s: %s", listen, zmq_strerror(errno));
        sp_publisher_close(&self);
        return rc;
    }
    self->zmq = zsock_resolve(self->sock);
    snprintf(self->endpoint, sizeof self->endpoint, "%s", zsock_endpoint(self->sock));
    *ret_self = self;
    return 0;
}

void sp_publisher_close(sp_publisher_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    sp_publisher_t *self = *self_p;
    zsock_destroy(&self->sock);
    sp_buf_free(&self->topic_buf);
    sp_buf_free(&self->body_buf);
    free(self);
    *self_p = NULL;
}

const char *sp_publisher_endpoint(const sp_publisher_t *self)
{
    return self->endpoint;
}

int64_t sp_publisher_sequence(const sp_publisher_t *self)
{
    return self->sequence;
}

int64_t sp_publisher_next(sp_publisher_t *self)
{
    return ++self->sequence;
}

int sp_publisher_send(sp_publisher_t *self, const char *topic, const sp_schema_t *schema,
                      const void *body, sp_error_t *err)
{
    sp_buf_reset(&self->topic_buf);
    sp_buf_reset(&self->body_buf);
    sp_buf_addz(&self->topic_buf, topic);
    if (self->topic_buf.failed)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "topic");
    int rc = sp_wire_encode_msgpack(schema, body, &self->body_buf, err);
    if (rc != 0)
        return rc;
    // A slow subscriber loses messages here, silently; the numbers tell it.
    return sp_frames_send(self->zmq, NULL, &self->topic_buf, &self->body_buf, err);
}

static void send_event(sp_publisher_t *self, sp_msg_event_t *event)
{
    event->time_ms = sp_clock_wall_ms();
    event->has_time_ms = true;
    event->publisher = sp_str(self->service_id);
    char topic[65];
    snprintf(topic, sizeof topic, SP_STR_FMT, SP_STR_ARG(event->kind));
    // What cannot be encoded leaves a gap in the numbers, so that subscribers fetch a snapshot.
    sp_publisher_send(self, topic, &sp_schema_event, event, NULL);
}

int64_t sp_publisher_event(sp_publisher_t *self, sp_msg_event_t *event)
{
    event->sequence = ++self->sequence;
    event->has_sequence = true;
    send_event(self, event);
    return self->sequence;
}

void sp_publisher_heartbeat(sp_publisher_t *self)
{
    sp_msg_event_t event = {.sequence = self->sequence,
                            .has_sequence = true,
                            .kind = sp_str(SP_PUBLISHER_HEARTBEAT)};
    send_event(self, &event);
}
