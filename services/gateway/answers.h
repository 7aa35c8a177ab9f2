// Answers: what every reply of the gateway looks like.
#ifndef SP_GATEWAY_ANSWERS_H
#define SP_GATEWAY_ANSWERS_H

#include "common/wire/wire.h"
#include "services/gateway/http.h"

// {"error": {"code", "message", "details"}} with the HTTP status of the code. details NULL: what err itself knows. allow: for 405, or
// NULL.
void sp_answer_error(sp_exchange_t *x, const sp_error_t *err, const sp_value_t *details,
                     const char *allow);
void sp_answer_code(sp_exchange_t *x, int code, const char *text);
// A message as JSON.
void sp_answer_message(sp_exchange_t *x, int status, const sp_schema_t *schema, const void *body);

#endif
