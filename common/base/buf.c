// Growable byte buffer.
#include "common/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sp_buf_free(sp_buf_t *self)
{
    if (!self)
        return;
    size_t limit = self->limit;
    free(self->data);
    *self = (sp_buf_t){.limit = limit};
}

void sp_buf_reset(sp_buf_t *self)
{
    self->len = 0;
    self->failed = false;
    if (self->data)
        self->data[0] = '\0';
}

bool sp_buf_reserve(sp_buf_t *self, size_t more)
{
    if (self->failed)
        return false;
    size_t need; // with the NUL
    if (__builtin_add_overflow(self->len, more, &need) || __builtin_add_overflow(need, 1, &need) ||
        (self->limit && need - 1 > self->limit)) {
        self->failed = true;
        return false;
    }
    if (need <= self->cap)
        return true;
    size_t cap = self->cap ? self->cap : 64;
    while (cap < need)
        cap = cap > SIZE_MAX / 2 ? need : cap * 2;
    char *data = realloc(self->data, cap);
    if (!data) {
        self->failed = true;
        return false;
    }
    self->data = data;
    self->cap = cap;
    return true;
}

void sp_buf_add(sp_buf_t *self, const void *data, size_t len)
{
    if (!sp_buf_reserve(self, len))
        return;
    if (len)
        memcpy(self->data + self->len, data, len);
    self->len += len;
    self->data[self->len] = '\0';
}

void sp_buf_addz(sp_buf_t *self, const char *z)
{
    sp_buf_add(self, z, strlen(z));
}

void sp_buf_adds(sp_buf_t *self, sp_str_t s)
{
    sp_buf_add(self, s.ptr, s.len);
}

void sp_buf_addc(sp_buf_t *self, char c)
{
    sp_buf_add(self, &c, 1);
}

void sp_buf_printf(sp_buf_t *self, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) {
        self->failed = true;
    } else if (sp_buf_reserve(self, (size_t)n)) {
        vsnprintf(self->data + self->len, (size_t)n + 1, fmt, again);
        self->len += (size_t)n;
    }
    va_end(again);
}

const char *sp_buf_cstr(sp_buf_t *self)
{
    return self->failed || !self->data || self->len == 0 ? "" : self->data;
}
