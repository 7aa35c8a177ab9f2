// The listening socket of the REST API.
#ifndef SP_GATEWAY_HTTP_LISTEN_H
#define SP_GATEWAY_HTTP_LISTEN_H

#include <stddef.h>

#include "common/base/error.h"

// "host:port", "[::1]:port", "*:port", ":port"; port 0: any. The descriptor is the caller's. SP_E_CONFIG.
int sp_http_listen(const char *address, int *ret_fd, sp_error_t *err);
// "http://host:port" of a bound socket.
void sp_http_name(int fd, char *out, size_t size);

#endif
