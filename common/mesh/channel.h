// Channel: encoded messages from one thread to another, with an eventfd that an event loop can poll. Internal to common/mesh.
#ifndef SP_MESH_CHANNEL_H
#define SP_MESH_CHANNEL_H

#include <stdbool.h>

#include "common/base/arena.h"
#include "common/base/error.h"
#include "common/wire/wire.h"

typedef struct sp_channel sp_channel_t;

sp_channel_t *sp_channel_new(void); // NULL when memory or descriptors run out
// When neither side uses it any more.
void sp_channel_destroy(sp_channel_t **self_p);
// Waits up to wait_ms for room. 0; SP_E_RATE_LIMITED when it is full still; SP_E_CANCELLED once closed; or an encoding error.
int sp_channel_send(sp_channel_t *self, const sp_schema_t *schema, const void *body, int wait_ms,
                    sp_error_t *err);
// Takes the oldest message, decoded into arena, without waiting: true. What does not decode is dropped, for both sides are ours.
bool sp_channel_take(sp_channel_t *self, sp_arena_t *arena, const sp_schema_t **ret_schema,
                     void **ret_body);
// Readable while there may be a message, and after close.
int sp_channel_fd(const sp_channel_t *self);
void sp_channel_close(sp_channel_t *self); // no more messages enter; what is inside stays
bool sp_channel_closed(sp_channel_t *self);

#endif
