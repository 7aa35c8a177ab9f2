// Bounded scan of msgpack bytes: before msgpack-c or the decoder sees them, because a five-byte array header makes an unpacker
// reserve gigabytes.
#ifndef SP_WIRE_SCAN_H
#define SP_WIRE_SCAN_H

#include <stddef.h>

#include "common/base/error.h"

// Exactly one msgpack object of at most max_depth, whose every count fits the bytes that remain, valid UTF-8 strings, no 0xc1, no ext,
// nothing behind it. A list or map is one level. 0 or SP_E_MALFORMED. Allocates nothing.
int sp_wire_scan(const void *data, size_t len, int max_depth, sp_error_t *err);

#endif
