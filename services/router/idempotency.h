// Requests with an idempotency key: shardplane.requests keeps body hash and reply in the same transaction as the statements.
#ifndef SP_ROUTER_IDEMPOTENCY_H
#define SP_ROUTER_IDEMPOTENCY_H

#include "services/router/execute.h"

// Hash of what the request asks for, without deadline and key.
int idempotency_hash(const sp_msg_execute_t *message, char out[EXECUTE_HASH], sp_error_t *err);
// Starts an attempt on e->slot, which is given out alone: BEGIN, the request's row, its statements, the ownership check.
int idempotency_start(execution_t *e, sp_error_t *err);

#endif
