// Growable byte buffer. After an allocation failure or past its limit it is `failed`; later appends do nothing, so check once.
#ifndef SP_BASE_BUF_H
#define SP_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>

#include "common/base/str.h"

typedef struct sp_buf {
    char *data;   // owned; NUL-terminated behind len once anything was appended
    size_t len;   // bytes in use
    size_t cap;   // bytes allocated
    size_t limit; // most bytes, 0 none
    bool failed;  // an append did not fit
} sp_buf_t;

#define SP_BUF_INIT                                                                                \
    {                                                                                              \
        0                                                                                          \
    }
void sp_buf_free(sp_buf_t *self);  // frees and zeroes; also a zeroed one
void sp_buf_reset(sp_buf_t *self); // keeps the memory
bool sp_buf_reserve(sp_buf_t *self, size_t more);
void sp_buf_add(sp_buf_t *self, const void *data, size_t len);
void sp_buf_addz(sp_buf_t *self, const char *z);
void sp_buf_adds(sp_buf_t *self, sp_str_t s);
void sp_buf_addc(sp_buf_t *self, char c);
void sp_buf_printf(sp_buf_t *self, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
const char *sp_buf_cstr(sp_buf_t *self); // "" when empty or failed

#endif
