// Frames: one multipart message in or out.
#include "common/mesh/frames.h"

#include <errno.h>
#include <string.h>

void sp_frames_socket(zsock_t *sock)
{
    zsock_set_sndhwm(sock, SP_FRAMES_HWM);
    zsock_set_rcvhwm(sock, SP_FRAMES_HWM);
    zsock_set_linger(sock, 0);
    zsock_set_sndtimeo(sock, 0);
    zsock_set_maxmsgsize(sock, (int)SP_FRAMES_FRAME_MAX);
    zsock_set_heartbeat_ivl(sock, SP_FRAMES_HEARTBEAT_MS);
    zsock_set_heartbeat_timeout(sock, SP_FRAMES_DEAD_MS);
    zsock_set_handshake_ivl(sock, SP_FRAMES_HANDSHAKE_MS);
}

// Receives one frame into msg; false when there is none (or the socket is closing).
static bool receive_frame(void *zmq_socket, zmq_msg_t *msg)
{
    int rc;
    do {
        rc = zmq_msg_recv(msg, zmq_socket, ZMQ_DONTWAIT);
    } while (rc < 0 && errno == EINTR);
    return rc >= 0;
}

bool sp_frames_receive(void *zmq_socket, int keep, size_t max_bytes, sp_frames_t *self)
{
    self->n = 0;
    self->bytes = 0;
    for (int i = 0; i < SP_FRAMES_KEEP; i++)
        zmq_msg_init(&self->part[i]);
    for (bool more = true; more; self->n++) {
        zmq_msg_t msg;
        zmq_msg_init(&msg);
        if (!receive_frame(zmq_socket, &msg)) {
            zmq_msg_close(&msg);
            break;
        }
        more = zmq_msg_more(&msg) != 0;
        self->bytes += zmq_msg_size(&msg);
        if (self->n < keep && self->n < SP_FRAMES_KEEP && self->bytes <= max_bytes)
            zmq_msg_move(&self->part[self->n], &msg);
        zmq_msg_close(&msg);
    }
    if (self->n > 0)
        return true;
    sp_frames_close(self);
    return false;
}

void sp_frames_close(sp_frames_t *self)
{
    for (int i = 0; i < SP_FRAMES_KEEP; i++)
        zmq_msg_close(&self->part[i]);
}

const void *sp_frames_data(sp_frames_t *self, int i)
{
    return zmq_msg_data(&self->part[i]);
}

size_t sp_frames_size(sp_frames_t *self, int i)
{
    return zmq_msg_size(&self->part[i]);
}

static bool send_frame(void *zmq_socket, const void *data, size_t len, bool more)
{
    int rc;
    do {
        rc = zmq_send(zmq_socket, data, len, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0));
    } while (rc < 0 && errno == EINTR);
    return rc >= 0;
}

int sp_frames_send(void *zmq_socket, zframe_t *identity, const sp_buf_t *first,
                   const sp_buf_t *second, sp_error_t *err)
{
    bool sent =
        !identity || send_frame(zmq_socket, zframe_data(identity), zframe_size(identity), true);
    sent = sent && send_frame(zmq_socket, first->data, first->len, true);
    sent = sent && send_frame(zmq_socket, second->data, second->len, false);
    if (sent)
        return 0;
    if (errno == EAGAIN)
        return sp_error_set(err, SP_E_UNAVAILABLE, "the peer's queue is full");
    return sp_error_set(err, SP_E_UNAVAILABLE, "the peer cannot be reached: %s",
                        zmq_strerror(errno));
}

// Value of field 1 when it stands first, as every encoder of ours writes it; else -1. Only called on scanned bytes.
static int64_t peek_version(const unsigned char *p, size_t len)
{
    if (len < 3 || (p[0] & 0xF0) != 0x80 || p[1] != 1)
        return -1;
    if (p[2] < 0x80)
        return p[2];
    if (p[2] == 0xCC && len >= 4)
        return p[3];
    if (p[2] == 0xCD && len >= 5)
        return (int64_t)p[3] << 8 | p[4];
    return -1;
}

sp_msg_envelope_t sp_frames_stamp(int64_t generation, int64_t epoch, int64_t ring_version)
{
    return (sp_msg_envelope_t){.generation = generation,
                               .has_generation = true,
                               .epoch = epoch,
                               .has_epoch = true,
                               .ring_version = ring_version,
                               .has_ring_version = true};
}

void sp_frames_inherit(sp_msg_envelope_t *envelope, const sp_msg_envelope_t *from_or_null)
{
    if (!from_or_null)
        return;
    envelope->request_id = from_or_null->request_id;
    envelope->traceparent = from_or_null->traceparent;
    envelope->client_id = from_or_null->client_id;
    envelope->sequence = from_or_null->sequence;
    envelope->has_sequence = from_or_null->has_sequence;
}

int sp_frames_decode_envelope(const void *data, size_t len, sp_arena_t *arena,
                              sp_msg_envelope_t *ret_envelope, sp_error_t *err)
{
    if (len > SP_FRAMES_ENVELOPE_MAX)
        return sp_error_set(err, SP_E_TOO_LARGE, "envelope of %zu bytes; at most %d", len,
                            SP_FRAMES_ENVELOPE_MAX);
    int rc = sp_wire_decode_msgpack(&sp_schema_envelope, data, len, arena, ret_envelope, err);
    if (rc == SP_E_INVALID_ARGUMENT) {
        int64_t version = peek_version(data, len);
        if (version != 1 && version >= 0)
            return sp_error_set(err, SP_E_UNSUPPORTED_VERSION,
                                "protocol version %d; this release speaks 1", (int)version);
    }
    return rc;
}

int sp_frames_encode(const sp_msg_envelope_t *envelope, const sp_schema_t *schema, const void *body,
                     sp_buf_t *envelope_out, sp_buf_t *body_out, sp_error_t *err)
{
    if (!schema || schema->id == 0)
        return sp_error_set(err, SP_E_INTERNAL, "%s is no message", schema ? schema->name : "NULL");
    sp_msg_envelope_t e = *envelope;
    e.version = 1;
    e.has_version = true;
    e.message = schema->id;
    e.has_message = true;
    sp_buf_reset(envelope_out);
    sp_buf_reset(body_out);
    int rc = sp_wire_encode_msgpack(&sp_schema_envelope, &e, envelope_out, err);
    if (rc == 0)
        rc = sp_wire_encode_msgpack(schema, body, body_out, err);
    return rc;
}
