// Frames: one multipart message in or out, bounded in count and total size. Internal to common/mesh.
#ifndef SP_MESH_FRAMES_H
#define SP_MESH_FRAMES_H

#include <stdbool.h>
#include <stddef.h>

#include <zmq.h>
#include <czmq.h>

#include "common/base/buf.h"
#include "common/base/error.h"
#include "common/wire/wire.h"
#include "schemas/envelope.h"

enum {
    SP_FRAMES_KEEP = 3,            // most frames that any message has: identity, envelope, body
    SP_FRAMES_HWM = 10000,         // messages queued on a socket before the sender is told no
    SP_FRAMES_ENVELOPE_MAX = 4096, // bytes of an envelope
    SP_FRAMES_HEARTBEAT_MS = 2000, // ZMTP ping on an idle connection
    SP_FRAMES_DEAD_MS = 6000,      // three missed: the connection is closed
    SP_FRAMES_HANDSHAKE_MS = 5000, // a connection that does not speak ZMTP by then is closed
    SP_FRAMES_BATCH =
        100, // messages taken in one turn of the loop, so that no socket starves others
};
// Largest body that any schema allows, and some room: the first bound, which libzmq checks a frame before it allocates.
#define SP_FRAMES_FRAME_MAX ((int64_t)16 * 1024 * 1024 + 64 * 1024)

typedef struct sp_frames {
    zmq_msg_t part[SP_FRAMES_KEEP]; // the first frames; each is initialised
    int n;                          // frames that came, also those not kept
    size_t bytes;                   // sum over all frames
} sp_frames_t;

// Sets what every socket of ours has: queue bounds, no linger, never blocks on send, dead peers noticed.
void sp_frames_socket(zsock_t *sock);

// Takes one message without blocking: true, and self must be closed. Frames behind `keep`, and all frames once the sum passes
// max_bytes, are read and dropped, so that a peer costs no more memory than libzmq has spent already.
bool sp_frames_receive(void *zmq_socket, int keep, size_t max_bytes, sp_frames_t *self);
void sp_frames_close(sp_frames_t *self);
const void *sp_frames_data(sp_frames_t *self, int i);
size_t sp_frames_size(sp_frames_t *self, int i);

// Sends [identity] envelope body without blocking. 0, or SP_E_UNAVAILABLE: the peer is gone or its queue is full.
int sp_frames_send(void *zmq_socket, zframe_t *identity, const sp_buf_t *first,
                   const sp_buf_t *second, sp_error_t *err);

// An envelope that says nothing but who speaks, and as of when.
sp_msg_envelope_t sp_frames_stamp(int64_t generation, int64_t epoch, int64_t ring_version);
// Takes over what a caller may choose: request id, trace, client and sequence.
void sp_frames_inherit(sp_msg_envelope_t *envelope, const sp_msg_envelope_t *from_or_null);
// Decodes the envelope frame; like decode, but tells another protocol version from a malformed frame.
int sp_frames_decode_envelope(const void *data, size_t len, sp_arena_t *arena,
                              sp_msg_envelope_t *ret_envelope, sp_error_t *err);
// Encodes the envelope of `message` (version and id are set here) and its body. The buffers are reset first.
int sp_frames_encode(const sp_msg_envelope_t *envelope, const sp_schema_t *schema, const void *body,
                     sp_buf_t *envelope_out, sp_buf_t *body_out, sp_error_t *err);

#endif
