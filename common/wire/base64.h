// Base64 (RFC 4648, with padding), for bytes in JSON and for keys and values of etcd's JSON gateway.
#ifndef SP_WIRE_BASE64_H
#define SP_WIRE_BASE64_H

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/error.h"

void sp_base64_encode(const void *data, size_t len, sp_buf_t *out);
// Bytes from the arena, NUL-terminated behind their length. SP_E_MALFORMED for anything but whole padded groups; SP_E_TOO_LARGE.
int sp_base64_decode(sp_str_t text, sp_arena_t *arena, sp_str_t *ret_bytes, sp_error_t *err);

#endif
