#include "services/gateway/framing.h"

#include <microhttpd.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "common/base/str.h"

// libmicrohttpd takes `Content-Length : 5` for a header of its own, and glues a folded line to the name before it: another reader sees the
// length there, and we the body as a next request. Names of RFC 9110's tokens only, and none that begins like the two that frame.
static bool bad_name(const char *name)
{
    static const char *const framing[] = {"Content-Length", "Transfer-Encoding"};
    static const char token[] =
        "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for (size_t i = 0; i < sizeof(framing) / sizeof(framing[0]); i++) {
        size_t n = strlen(framing[i]);
        if (strncasecmp(name, framing[i], n) == 0 && name[n] != '\0') {
            return true;
        }
    }
    return name[0] == '\0' || name[strspn(name, token)] != '\0';
}

static bool bad_value(const char *value)
{
    for (const char *c = value != NULL ? value : ""; *c != '\0'; c++) {
        if (((unsigned char)*c < ' ' && *c != '\t') || *c == 0x7f) {
            return true;
        }
    }
    return false;
}

static enum MHD_Result on_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                 const char *value)
{
    (void)kind;
    sp_framing_t *f = cls;
    f->bytes += strlen(name) + (value != NULL ? strlen(value) : 0) + 4;
    f->bad_header = f->bad_header || bad_name(name) || bad_value(value);
    if (strcasecmp(name, "Content-Length") == 0) {
        f->lengths++;
        int64_t length = -1;
        if (value == NULL || value[0] == '-' || sp_str_to_int64(sp_str(value), &length) != 0) {
            // A number over int64 is as good as any other that is too large.
            f->bad_length =
                value == NULL || value[strspn(value, "0123456789")] != '\0' || value[0] == '\0';
            length = INT64_MAX;
        }
        f->large = length > (int64_t)f->max_body;
        f->endless = length > (int64_t)SP_FRAMING_SWALLOW_MAX;
    } else if (strcasecmp(name, "Transfer-Encoding") == 0) {
        f->encodings++;
        f->bad_encoding = value == NULL || strcasecmp(value, "chunked") != 0;
    } else if (strcasecmp(name, "Expect") == 0) {
        f->expects = true;
    }
    return MHD_YES;
}

void sp_framing_read(struct MHD_Connection *con, sp_framing_t *self)
{
    MHD_get_connection_values(con, MHD_HEADER_KIND, on_header, self);
}

bool sp_framing_ambiguous(const sp_framing_t *self)
{
    return self->lengths > 1 || (self->lengths > 0 && self->encodings > 0) || self->encodings > 1 ||
           self->bad_length || self->bad_encoding || self->bad_header;
}
