// Free values as msgpack, inside a message's decoder and encoder.
#ifndef SP_WIRE_VALUE_MSGPACK_H
#define SP_WIRE_VALUE_MSGPACK_H

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/wire/reader.h"
#include "common/wire/value.h"

// One value at the reader's place; `depth` counts the lists and maps around it. Strings borrow from the input. The bytes need not
// have been scanned. SP_E_MALFORMED (also duplicate keys and integers over int64) or SP_E_TOO_LARGE.
int sp_value_msgpack_read(sp_mp_reader_t *reader, sp_arena_t *arena, int depth,
                          sp_value_t *ret_value, sp_error_t *err);
// Appends a value. SP_E_MALFORMED for depth and text that is not UTF-8.
int sp_value_msgpack_write(const sp_value_t *value, int depth, sp_buf_t *out, sp_error_t *err);

#endif
