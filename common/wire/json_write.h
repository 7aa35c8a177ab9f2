// Scalars and free values as JSON text.
#ifndef SP_WIRE_JSON_WRITE_H
#define SP_WIRE_JSON_WRITE_H

#include "common/base/buf.h"
#include "common/base/error.h"
#include "common/wire/value.h"

void sp_json_write_string(sp_buf_t *out, sp_str_t s); // quoted and escaped; s is valid UTF-8
void sp_json_write_float(
    sp_buf_t *out, double v); // shortest form that reads back the same; not finite: as a string
void sp_json_write_base64(sp_buf_t *out, sp_str_t s); // quoted
// SP_E_MALFORMED for depth and text that is not UTF-8.
int sp_json_write_value(const sp_value_t *value, int depth, sp_buf_t *out, sp_error_t *err);

#endif
