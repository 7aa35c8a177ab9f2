// Results: a reply of execute, kept with the arena that it lives in. Internal to common/client.
#ifndef SP_CLIENT_RESULT_H
#define SP_CLIENT_RESULT_H

#include "common/base/arena.h"
#include "common/base/error.h"
#include "common/client/shardplane.h"
#include "schemas/route.h"

// Takes the arena over, in which reply lives. NULL, and err, when it does not fit.
shardplane_result_t *sp_result_new(sp_arena_t **arena_p, sp_msg_execute_reply_t *reply,
                                   sp_error_t *err);

#endif
