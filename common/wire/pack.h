// msgpack-c's packer on a buffer: the shortest form of each value. Failures stay in the buffer until sp_pack_end().
#ifndef SP_WIRE_PACK_H
#define SP_WIRE_PACK_H

#include "common/base/buf.h"
#include "common/base/error.h"

void sp_pack_nil(sp_buf_t *out);
void sp_pack_bool(sp_buf_t *out, bool v);
void sp_pack_int(sp_buf_t *out, int64_t v);
void sp_pack_float(sp_buf_t *out, double v);
void sp_pack_str(sp_buf_t *out, sp_str_t v); // absent is written as ""
void sp_pack_bin(sp_buf_t *out, sp_str_t v);
void sp_pack_array(sp_buf_t *out, size_t n);
void sp_pack_map(sp_buf_t *out, size_t n);

// Ends what began at `before` bytes: on failure (rc, or the buffer's) cuts it off again. rc, SP_E_TOO_LARGE (the buffer's limit)
// or SP_E_OUT_OF_MEMORY.
int sp_pack_end(sp_buf_t *out, size_t before, int rc, sp_error_t *err);

#endif
