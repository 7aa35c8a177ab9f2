// The HTTP listener for probes: /metrics, /livez, /readyz. Its own thread; bounded connections, of which the oldest goes when there
// are too many, and bounded time of silence.
#ifndef SP_TELEMETRY_LISTENER_H
#define SP_TELEMETRY_LISTENER_H

#include <stdbool.h>
#include <stddef.h>

#include "common/base/error.h"
#include "common/telemetry/metrics.h"

typedef struct sp_listener sp_listener_t;

// Whether the service can do its work. Called in the listener's thread: read atomics only. When false, `reason` says why.
typedef bool(sp_ready_fn)(void *arg, char *reason, size_t reason_size);

// Listens on "host:port" (port 0: any free one). address NULL or "": no listener, *ret_self NULL, 0. ready NULL: always ready.
// metrics is borrowed and must outlive the listener. SP_E_CONFIG when the address is taken or malformed.
int sp_listener_open(sp_listener_t **ret_self, const char *address, sp_metrics_t *metrics,
                     sp_ready_fn *ready, void *arg, sp_error_t *err);
void sp_listener_close(sp_listener_t **self_p);
// "http://host:port" with the real port; NULL for no listener.
const char *sp_listener_endpoint(const sp_listener_t *self);

#endif
