// Reads msgpack bytes token by token. Never reads behind the end and allocates nothing, whatever the bytes say.
#ifndef SP_WIRE_READER_H
#define SP_WIRE_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"
#include "common/base/str.h"

typedef enum {
    SP_MP_NIL,
    SP_MP_BOOL,
    SP_MP_INT,
    SP_MP_BIG, // an unsigned integer above INT64_MAX
    SP_MP_FLOAT,
    SP_MP_STR,
    SP_MP_BIN,
    SP_MP_ARRAY,
    SP_MP_MAP,
} sp_mp_kind_t;

typedef struct sp_mp_token {
    sp_mp_kind_t kind; // which member counts
    bool b;            // SP_MP_BOOL
    int64_t i;         // SP_MP_INT
    double f;          // SP_MP_FLOAT
    sp_str_t s;        // SP_MP_STR, SP_MP_BIN: borrowed from the input
    size_t n;          // SP_MP_ARRAY: elements; SP_MP_MAP: pairs; they follow as tokens
} sp_mp_token_t;

typedef struct sp_mp_reader {
    const uint8_t *start; // first byte, for positions in errors
    const uint8_t *at;    // next byte
    const uint8_t *end;   // behind the last byte
} sp_mp_reader_t;

void sp_mp_open(sp_mp_reader_t *self, const void *data, size_t len);
// Next token. A count is refused when even one-byte elements would not fit the bytes that remain. 0 or SP_E_MALFORMED.
int sp_mp_next(sp_mp_reader_t *self, sp_mp_token_t *ret_token, sp_error_t *err);
// Passes over one whole object. 0 or SP_E_MALFORMED.
int sp_mp_skip(sp_mp_reader_t *self, sp_error_t *err);
const char *sp_mp_kind_name(sp_mp_kind_t kind); // for errors: "a map"

#endif
