// Requests to the gateway.
#ifndef SP_SHARDCTL_REST_H
#define SP_SHARDCTL_REST_H

#include <jansson.h>
#include <stdbool.h>

// Exit codes of shardctl.
enum { EXIT_DONE = 0, EXIT_REFUSED = 1, EXIT_USAGE = 2, EXIT_UNREACHABLE = 3 };

typedef struct sp_rest {
    char *gateway;               // URL without a slash at the end
    long timeout_s;              // for one request
    bool json;                   // programs read the output
    bool any_text;               // a success that is not JSON becomes a JSON string
    const char *idempotency_key; // header of the next requests, or NULL
} sp_rest_t;

// "/api/v1/shards/%s" with each %s replaced by the next argument, percent-encoded. Allocated.
char *rest_path(const char *format, ...);
// Sends; path is freed, body is dropped (either may be NULL). Returns EXIT_DONE with *ret_reply (owned by the caller), or EXIT_REFUSED or
// EXIT_UNREACHABLE with an error body, the gateway's or one of the same form. *ret_status may be NULL. Says nothing.
int rest_try(const sp_rest_t *self, const char *method, char *path, json_t *body, long *ret_status,
             json_t **ret_reply);
// The same, and tells people on stderr (programs on stdout) what went wrong.
int rest_call(const sp_rest_t *self, const char *method, char *path, json_t *body,
              json_t **ret_reply);
void rest_explain(const sp_rest_t *self, int code, const json_t *reply);
// Follows server-sent events until the connection ends; each event's data goes to on_event, which returns false to end.
// An error is told as by rest_call.
int rest_events(const sp_rest_t *self, bool (*on_event)(const char *data, void *arg), void *arg);

#endif
