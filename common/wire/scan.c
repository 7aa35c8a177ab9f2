#include "common/wire/scan.h"

#include "common/wire/reader.h"

// Deepest nesting that any caller may allow: the size of the stack below.
#define MAX_DEPTH 64

int sp_wire_scan(const void *data, size_t len, int max_depth, sp_error_t *err)
{
    size_t open[MAX_DEPTH]; // objects that each open list or map still expects
    int depth = 0;
    sp_mp_reader_t reader;
    sp_mp_open(&reader, data, len);
    do {
        sp_mp_token_t t;
        int rc = sp_mp_next(&reader, &t, err);
        if (rc != 0) {
            return rc;
        }
        if (t.kind == SP_MP_STR && !sp_str_valid_utf8(t.s)) {
            return sp_error_set(err, SP_E_MALFORMED,
                                "msgpack byte %zu: a string is not valid UTF-8, or holds a NUL",
                                (size_t)(reader.at - reader.start) - t.s.len);
        }
        if (depth > 0) {
            open[depth - 1]--;
        }
        if (t.kind == SP_MP_ARRAY || t.kind == SP_MP_MAP) {
            if (depth >= max_depth || depth >= MAX_DEPTH) {
                return sp_error_set(err, SP_E_MALFORMED, "msgpack byte %zu: nested deeper than %d",
                                    (size_t)(reader.at - reader.start), max_depth);
            }
            open[depth++] = t.kind == SP_MP_MAP ? 2 * t.n : t.n;
        }
        while (depth > 0 && open[depth - 1] == 0) {
            depth--;
        }
    } while (depth > 0);
    if (reader.at != reader.end) {
        return sp_error_set(err, SP_E_MALFORMED, "msgpack: %zu bytes behind the end of the message",
                            (size_t)(reader.end - reader.at));
    }
    return 0;
}
