// Framing: what a request's headers say about its body, for requests that two readers could read differently.
#ifndef SP_GATEWAY_FRAMING_H
#define SP_GATEWAY_FRAMING_H

#include <stdbool.h>
#include <stddef.h>

struct MHD_Connection;

// Of a body that is refused, so much is read and dropped before the answer: a client that writes and never reads meanwhile would see
// a broken connection instead of the reason.
#define SP_FRAMING_SWALLOW_MAX ((size_t)16 * 1024 * 1024)

typedef struct sp_framing {
    int lengths;       // Content-Length headers
    int encodings;     // Transfer-Encoding headers
    bool bad_length;   // not a number
    bool bad_encoding; // anything but chunked
    bool bad_header;   // a name or value that another reader may take for another header
    bool large;        // Content-Length over max_body
    bool endless;      // ... and over what would be swallowed
    bool expects;      // Expect: 100-continue
    size_t max_body;   // limit
    size_t bytes;      // names and values
} sp_framing_t;

// Reads all headers; max_body is set by the caller.
void sp_framing_read(struct MHD_Connection *con, sp_framing_t *self);
// Whether the headers contradict each other, or can be read in more than one way.
bool sp_framing_ambiguous(const sp_framing_t *self);

#endif
