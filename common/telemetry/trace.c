// Trace context, https://www.w3.org/TR/trace-context/: 00-<32 hex>-<16 hex>-<2 hex>.
#include "common/telemetry/trace.h"

#include <stdio.h>
#include <string.h>

#include "common/base/random.h"

static int digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1; // upper case is not allowed
}

static bool read_hex(const char *p, unsigned char *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int high = digit(p[2 * i]), low = digit(p[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        out[i] = (unsigned char)(high << 4 | low);
    }
    return true;
}

static bool all_zero(const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i])
            return false;
    return true;
}

bool sp_trace_parse(sp_str_t t, sp_trace_t *ret_trace)
{
    sp_trace_t trace;
    unsigned char version;
    if (t.len < SP_TRACEPARENT_LEN || t.ptr[2] != '-' || t.ptr[35] != '-' || t.ptr[52] != '-')
        return false;
    if (!read_hex(t.ptr, &version, 1) || version == 0xFF)
        return false;
    if (version == 0 ? t.len != SP_TRACEPARENT_LEN
                     : t.len > SP_TRACEPARENT_LEN && t.ptr[SP_TRACEPARENT_LEN] != '-')
        return false;
    if (!read_hex(t.ptr + 3, trace.trace_id, 16) || !read_hex(t.ptr + 36, trace.span_id, 8) ||
        !read_hex(t.ptr + 53, &trace.flags, 1))
        return false;
    if (all_zero(trace.trace_id, 16) || all_zero(trace.span_id, 8))
        return false;
    *ret_trace = trace;
    return true;
}

void sp_trace_start(sp_trace_t *ret_trace)
{
    sp_trace_t trace = {.flags = 0};
    do
        sp_random_bytes(trace.trace_id, sizeof trace.trace_id);
    while (all_zero(trace.trace_id, sizeof trace.trace_id));
    sp_trace_child(&trace, ret_trace);
}

void sp_trace_child(const sp_trace_t *parent, sp_trace_t *ret_trace)
{
    sp_trace_t trace = *parent;
    do
        sp_random_bytes(trace.span_id, sizeof trace.span_id);
    while (all_zero(trace.span_id, sizeof trace.span_id));
    *ret_trace = trace;
}

void sp_trace_format(const sp_trace_t *self, char *out)
{
    char *p = out + snprintf(out, 4, "00-");
    for (size_t i = 0; i < 16; i++)
        p += snprintf(p, 3, "%02x", self->trace_id[i]);
    *p++ = '-';
    for (size_t i = 0; i < 8; i++)
        p += snprintf(p, 3, "%02x", self->span_id[i]);
    snprintf(p, 4, "-%02x", self->flags & 1);
}
