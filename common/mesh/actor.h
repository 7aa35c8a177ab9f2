// Actors: a thread with a pipe to its owner's loop; encoded messages through the pipe, never pointers to shared data.
#ifndef SP_MESH_ACTOR_H
#define SP_MESH_ACTOR_H

#include <czmq.h>

#include "common/base/arena.h"
#include "common/base/error.h"
#include "common/wire/wire.h"

typedef struct sp_actor sp_actor_t;         // the owner's end
typedef struct sp_actor_end sp_actor_end_t; // the thread's end
// The thread's body; returns when its work is done or sp_actor_end_stopped() is true. arg is handed over (the thread owns it).
typedef void(sp_actor_fn)(sp_actor_end_t *end, void *arg);
// A message from the thread, in the owner's loop; valid during the call. schema NULL: the thread has ended (told once). May stop
// the actor.
typedef void(sp_actor_message_fn)(void *owner, sp_actor_t *actor, const sp_schema_t *schema,
                                  const void *body);

// Starts the thread. When this fails, arg is still the caller's. The loop must outlive the actor.
int sp_actor_start(sp_actor_t **ret_self, zloop_t *loop, sp_actor_fn *fn, void *arg,
                   sp_actor_message_fn *on_message, void *owner, sp_error_t *err);
// Asks the thread to stop and joins it: blocks until its body returns. Threads look at sp_actor_end_stopped() at least every 100 ms
// or wait on its fd. Messages not delivered yet are dropped.
void sp_actor_stop(sp_actor_t **self_p);
void sp_actor_ask_stop(
    sp_actor_t *self); // without joining; on_message still hears the rest and the end
// Never blocks. SP_E_RATE_LIMITED when 4096 messages or 64 MiB wait, SP_E_CANCELLED after ask_stop, or an encoding error.
int sp_actor_send(sp_actor_t *self, const sp_schema_t *schema, const void *body, sp_error_t *err);

bool sp_actor_end_stopped(sp_actor_end_t *self);
// Waits for room until stop is asked. SP_E_CANCELLED, or an encoding error.
int sp_actor_end_send(sp_actor_end_t *self, const sp_schema_t *schema, const void *body,
                      sp_error_t *err);
// Waits up to timeout_ms (-1: for ever) for a message from the owner (decoded into arena): true; *ret_schema NULL means stop was
// asked and no message is left.
bool sp_actor_end_receive(sp_actor_end_t *self, int timeout_ms, sp_arena_t *arena,
                          const sp_schema_t **ret_schema, void **ret_body);
// Readable while a message may wait or stop was asked; receive() clears it when it finds nothing.
int sp_actor_end_fd(sp_actor_end_t *self);

#endif
