// W3C trace context: `traceparent` in envelopes and HTTP headers.
#ifndef SP_TELEMETRY_TRACE_H
#define SP_TELEMETRY_TRACE_H

#include <stdbool.h>

#include "common/base/str.h"

enum { SP_TRACEPARENT_LEN = 55 };

typedef struct sp_trace {
    unsigned char trace_id[16]; // not all zero
    unsigned char span_id[8];   // not all zero
    unsigned char flags;        // bit 0: sampled
} sp_trace_t;

// Strict about version 00, tolerant of later ones, as the specification asks. False: leave it and start a trace of one's own.
bool sp_trace_parse(sp_str_t traceparent, sp_trace_t *ret_trace);
// A new trace, not sampled.
void sp_trace_start(sp_trace_t *ret_trace);
// A new span of the same trace.
void sp_trace_child(const sp_trace_t *parent, sp_trace_t *ret_trace);
// out: SP_TRACEPARENT_LEN + 1 bytes.
void sp_trace_format(const sp_trace_t *self, char *out);

#endif
