// Incoming: decoded messages of a server.
#include "common/mesh/incoming.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int sp_incoming_decode(sp_frames_t *frames, sp_arena_t *arena, sp_incoming_t *ret_self,
                       sp_error_t *err)
{
    memset(ret_self, 0, sizeof *ret_self);
    int rc = sp_frames_decode_envelope(sp_frames_data(frames, 0), sp_frames_size(frames, 0), arena,
                                       &ret_self->envelope, err);
    if (rc != 0) {
        memset(&ret_self->envelope, 0, sizeof ret_self->envelope);
        return rc;
    }
    if (frames->n != 2)
        return sp_error_set(err, SP_E_MALFORMED, "a message has two frames; %d came", frames->n);
    int64_t id = ret_self->envelope.message;
    const sp_schema_t *schema = sp_schema_by_id((uint16_t)id);
    if (!schema)
        return sp_error_set(err, SP_E_UNKNOWN_MESSAGE, "message %lld is unknown", (long long)id);
    size_t len = sp_frames_size(frames, 1);
    if (len > schema->max_bytes)
        return sp_error_set(err, SP_E_TOO_LARGE, "%s of %zu bytes; at most %zu", schema->name, len,
                            schema->max_bytes);
    void *body = sp_arena_alloc(arena, 1, schema->size);
    if (!body)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "%s", schema->name);
    rc = sp_wire_decode_msgpack(schema, sp_frames_data(frames, 1), len, arena, body, err);
    if (rc != 0)
        return rc;
    ret_self->schema = schema;
    ret_self->body = body;
    return 0;
}

static void copy_detail(const sp_value_t *details, const char *key, char *out, size_t size)
{
    const sp_value_t *v = details->kind == SP_VALUE_MAP ? sp_value_get(details, key) : NULL;
    if (v && v->kind == SP_VALUE_STRING && v->u.s.len < size) {
        memcpy(out, v->u.s.ptr, v->u.s.len);
        out[v->u.s.len] = '\0';
    }
}

static int error_from(const sp_msg_error_t *body, sp_error_t *err)
{
    char name[65] = "";
    if (body->code.len < sizeof name)
        memcpy(name, body->code.ptr, body->code.len);
    int code = sp_error_code(name);
    sp_error_set(err, code, SP_STR_FMT, SP_STR_ARG(body->message));
    if (err) {
        if (body->has_retryable)
            err->retryable = body->retryable;
        copy_detail(&body->details, "sqlstate", err->sqlstate, sizeof err->sqlstate);
        copy_detail(&body->details, "detail", err->detail, sizeof err->detail);
    }
    return code;
}

int sp_incoming_check(const sp_incoming_t *self, const sp_schema_t *request, sp_error_t *err)
{
    if (self->schema == &sp_schema_error)
        return error_from(self->body, err);
    if (request->reply && self->schema != request->reply && self->schema != request->other_reply)
        return sp_error_set(err, SP_E_MALFORMED, "%s was answered by %s", request->name,
                            self->schema->name);
    return 0;
}

// Only schemas know which messages change something.
static bool only_reads(const sp_schema_t *request)
{
    const char *colon = request->permission ? strrchr(request->permission, ':') : NULL;
    return !request->permission || (colon && strcmp(colon, ":read") == 0);
}

int sp_incoming_lost(const sp_schema_t *request, sp_error_t *err, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (only_reads(request))
        return sp_error_set(err, SP_E_UNAVAILABLE, "%s: %s", request->name, text);
    return sp_error_set(err, SP_E_OUTCOME_UNKNOWN, "%s: %s; whether it was done is not known",
                        request->name, text);
}

int sp_incoming_unreadable(const sp_schema_t *request, sp_error_t *err)
{
    if (only_reads(request))
        return err->code;
    char text[sizeof err->text];
    memcpy(text, err->text, sizeof text);
    return sp_error_set(err, SP_E_OUTCOME_UNKNOWN,
                        "%s: the answer cannot be read; whether it was done is not known: %s",
                        request->name, text);
}
