// Line: a blocking connection to one endpoint, one request at a time. A line may move between threads when a lock lies between its
// uses.
#ifndef SP_MESH_LINE_H
#define SP_MESH_LINE_H

#include "common/base/arena.h"
#include "common/base/error.h"
#include "common/wire/wire.h"
#include "schemas/envelope.h"

typedef struct sp_line sp_line_t;

// Connects in the background. The endpoint is copied. SP_E_INVALID_ARGUMENT, SP_E_OUT_OF_MEMORY.
int sp_line_open(sp_line_t **ret_self, const char *endpoint, sp_error_t *err);
void sp_line_close(sp_line_t **self_p);
// Asks, and waits at most timeout_ms for the answer, decoded into arena. Of the envelope, request_id, traceparent, client_id and
// sequence are used. *ret_lost: no answer came, so that the
// line must be closed (its queue may still hold the request); the error is as sp_peer_call has it.
int sp_line_call(sp_line_t *self, const sp_schema_t *schema, const void *body,
                 const sp_msg_envelope_t *envelope_or_null, int timeout_ms, sp_arena_t *arena,
                 const sp_schema_t **ret_schema, void **ret_body, bool *ret_lost, sp_error_t *err);

#endif
