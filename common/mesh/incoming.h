// Incoming: a message that a server sent, decoded: a reply, an error, or one that nobody asked for. Internal to common/mesh.
#ifndef SP_MESH_INCOMING_H
#define SP_MESH_INCOMING_H

#include "common/base/arena.h"
#include "common/base/error.h"
#include "common/mesh/frames.h"

typedef struct sp_incoming {
    sp_msg_envelope_t envelope; // zero when it did not decode
    const sp_schema_t *schema;  // of the body; NULL when it did not decode
    void *body;                 // from the arena, borrows from the frames
} sp_incoming_t;

// Decodes [envelope, body]. On failure the envelope may still be there, so that a call can be told.
int sp_incoming_decode(sp_frames_t *frames, sp_arena_t *arena, sp_incoming_t *ret_self,
                       sp_error_t *err);
// 0 when the message is the reply that `request` expects; else what the error message says, or `malformed`.
int sp_incoming_check(const sp_incoming_t *self, const sp_schema_t *request, sp_error_t *err);
// What a caller is told when no answer came: `unavailable` for messages that only read, else `outcome_unknown`.
int sp_incoming_lost(const sp_schema_t *request, sp_error_t *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// The same for an answer that cannot be read, of which err tells: `outcome_unknown` unless the message only reads. Returns err's code.
int sp_incoming_unreadable(const sp_schema_t *request, sp_error_t *err);

#endif
