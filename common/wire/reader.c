#include "common/wire/reader.h"

#include <string.h>

void sp_mp_open(sp_mp_reader_t *self, const void *data, size_t len)
{
    // A NULL pointer with length 0 is an empty input; arithmetic on NULL is not allowed in C.
    self->start = self->at = len > 0 ? data : (const uint8_t *)"";
    self->end = self->start + len;
}

const char *sp_mp_kind_name(sp_mp_kind_t kind)
{
    static const char *const names[] = {"nil",        "a boolean",
                                        "an integer", "an integer over 2^63-1",
                                        "a float",    "a string",
                                        "bytes",      "a list",
                                        "a map"};
    return (size_t)kind < sizeof(names) / sizeof(names[0]) ? names[kind] : "nothing known";
}

static size_t left(const sp_mp_reader_t *self)
{
    return (size_t)(self->end - self->at);
}

static int refuse(const sp_mp_reader_t *self, sp_error_t *err, const char *what)
{
    return sp_error_set(err, SP_E_MALFORMED, "msgpack byte %zu: %s",
                        (size_t)(self->at - self->start), what);
}

// Big-endian unsigned integer of `width` bytes; the caller has checked that they are there.
static uint64_t take(sp_mp_reader_t *self, size_t width)
{
    uint64_t v = 0;
    for (size_t i = 0; i < width; i++) {
        v = v << 8 | self->at[i];
    }
    self->at += width;
    return v;
}

static int take_bytes(sp_mp_reader_t *self, sp_mp_token_t *t, sp_mp_kind_t kind, size_t len,
                      sp_error_t *err)
{
    if (len > left(self)) {
        return refuse(self, err, "a string is longer than the bytes that remain");
    }
    t->kind = kind;
    t->s = (sp_str_t){(const char *)self->at, len};
    self->at += len;
    return 0;
}

static int take_count(sp_mp_reader_t *self, sp_mp_token_t *t, sp_mp_kind_t kind, size_t n,
                      sp_error_t *err)
{
    // Each element takes a byte at least: nothing larger can be true, so nobody reserves memory for it.
    if (n > left(self) / (kind == SP_MP_MAP ? 2 : 1)) {
        return refuse(self, err, "a list or map has more elements than bytes remain");
    }
    t->kind = kind;
    t->n = n;
    return 0;
}

static int take_unsigned(sp_mp_reader_t *self, sp_mp_token_t *t, size_t width)
{
    uint64_t v = take(self, width);
    t->kind = v > INT64_MAX ? SP_MP_BIG : SP_MP_INT;
    t->i = v > INT64_MAX ? 0 : (int64_t)v;
    return 0;
}

static int take_signed(sp_mp_reader_t *self, sp_mp_token_t *t, size_t width)
{
    uint64_t v = take(self, width);
    t->kind = SP_MP_INT;
    switch (width) {
    case 1:
        t->i = v > 0x7f ? (int64_t)v - 256 : (int64_t)v;
        break;
    case 2:
        t->i = (int16_t)v;
        break;
    case 4:
        t->i = (int32_t)v;
        break;
    default:
        t->i = (int64_t)v;
        break;
    }
    return 0;
}

static int take_float(sp_mp_reader_t *self, sp_mp_token_t *t, size_t width)
{
    uint64_t bits = take(self, width);
    t->kind = SP_MP_FLOAT;
    if (width == 4) {
        uint32_t half = (uint32_t)bits;
        float f;
        memcpy(&f, &half, sizeof(f));
        t->f = (double)f;
    } else {
        memcpy(&t->f, &bits, sizeof(t->f));
    }
    return 0;
}

// Bytes behind the tag that give a number or a length, for the tags 0xc0..0xdf; 255 marks tags that are refused.
static const uint8_t tag_width[32] = {
    0, 255, 0, 0, 1,   2,   4,   255, 255, 255, 4, 8, 1, 2, 4, 8,
    1, 2,   4, 8, 255, 255, 255, 255, 255, 1,   2, 4, 2, 4, 2, 4,
};

int sp_mp_next(sp_mp_reader_t *self, sp_mp_token_t *ret_token, sp_error_t *err)
{
    if (left(self) == 0) {
        return refuse(self, err, "the message ends too early");
    }
    sp_mp_token_t t = {0};
    uint8_t tag = *self->at;
    size_t width = tag >= 0xc0 && tag <= 0xdf ? tag_width[tag - 0xc0] : 0;
    if (width == 255) {
        return refuse(self, err,
                      tag == 0xc1 ? "0xc1 is no msgpack" : "extension types are not used here");
    }
    if (width > left(self) - 1) {
        return refuse(self, err, "the message ends inside a value");
    }
    self->at++;
    int rc = 0;
    if (tag <= 0x7f || tag >= 0xe0) {
        t.kind = SP_MP_INT;
        t.i = tag >= 0xe0 ? (int64_t)tag - 256 : (int64_t)tag;
    } else if (tag <= 0x8f) {
        rc = take_count(self, &t, SP_MP_MAP, tag & 0x0f, err);
    } else if (tag <= 0x9f) {
        rc = take_count(self, &t, SP_MP_ARRAY, tag & 0x0f, err);
    } else if (tag <= 0xbf) {
        rc = take_bytes(self, &t, SP_MP_STR, tag & 0x1f, err);
    } else if (tag == 0xc0) {
        t.kind = SP_MP_NIL;
    } else if (tag <= 0xc3) {
        t.kind = SP_MP_BOOL;
        t.b = tag == 0xc3;
    } else if (tag <= 0xc6) {
        rc = take_bytes(self, &t, SP_MP_BIN, (size_t)take(self, width), err);
    } else if (tag <= 0xcb) {
        rc = take_float(self, &t, width);
    } else if (tag <= 0xcf) {
        rc = take_unsigned(self, &t, width);
    } else if (tag <= 0xd3) {
        rc = take_signed(self, &t, width);
    } else if (tag <= 0xdb) {
        rc = take_bytes(self, &t, SP_MP_STR, (size_t)take(self, width), err);
    } else {
        rc = take_count(self, &t, tag <= 0xdd ? SP_MP_ARRAY : SP_MP_MAP, (size_t)take(self, width),
                        err);
    }
    if (rc == 0) {
        *ret_token = t;
    }
    return rc;
}

int sp_mp_skip(sp_mp_reader_t *self, sp_error_t *err)
{
    // Cannot overflow: each count fits the bytes that remain, and every round consumes one.
    for (size_t pending = 1; pending > 0; pending--) {
        sp_mp_token_t t = {0};
        int rc = sp_mp_next(self, &t, err);
        if (rc != 0) {
            return rc;
        }
        pending += t.kind == SP_MP_ARRAY ? t.n : t.kind == SP_MP_MAP ? 2 * t.n : 0;
    }
    return 0;
}
