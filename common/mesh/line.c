// Line: a DEALER of its own, used from one thread at a time; and the one-shot call made of it.
#include "common/mesh/line.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/mesh/incoming.h"
#include "common/mesh/mesh.h"

struct sp_line {
    zsock_t *sock;         // DEALER
    void *zmq;             // its libzmq socket
    char endpoint[256];    // for errors
    sp_buf_t envelope_buf; // scratch
    sp_buf_t body_buf;     // scratch
};

// The decoded strings borrow from the bytes, which must live as long as the caller's arena: moves the frames there.
static int into_arena(sp_frames_t *frames, sp_arena_t *arena, sp_error_t *err)
{
    sp_str_t copies[2];
    int n = frames->n;
    for (int i = 0; i < 2; i++)
        copies[i] =
            sp_arena_str(arena, (sp_str_t){sp_frames_data(frames, i), sp_frames_size(frames, i)});
    sp_frames_close(frames);
    if (!copies[0].ptr || !copies[1].ptr)
        return sp_error_set(err, SP_E_TOO_LARGE, "the reply does not fit");
    for (int i = 0; i < 2; i++)
        zmq_msg_init_data(&frames->part[i], (void *)copies[i].ptr, copies[i].len, NULL, NULL);
    zmq_msg_init(&frames->part[2]);
    frames->n = n;
    return 0;
}

// Waits for the message that answers request_id. true: *ret_rc tells how it went; false: none came.
static bool await_reply(sp_line_t *self, const char *request_id, const sp_schema_t *schema,
                        int64_t deadline_ms, sp_arena_t *arena, sp_incoming_t *ret_in, int *ret_rc,
                        sp_error_t *err)
{
    for (;;) {
        zmq_pollitem_t item = {.socket = self->zmq, .events = ZMQ_POLLIN};
        int wait_ms = sp_clock_until_ms(deadline_ms);
        int n = zmq_poll(&item, 1, wait_ms);
        if (n < 0 && errno != EINTR)
            return false;
        sp_frames_t frames;
        if (n <= 0 || !sp_frames_receive(self->zmq, 2, (size_t)SP_FRAMES_FRAME_MAX, &frames)) {
            if (sp_clock_until_ms(deadline_ms) == 0)
                return false;
            continue;
        }
        *ret_rc = into_arena(&frames, arena, err);
        if (*ret_rc != 0)
            return true;
        *ret_rc = sp_incoming_decode(&frames, arena, ret_in, err);
        sp_frames_close(&frames);
        if (!sp_str_eqz(ret_in->envelope.request_id, request_id)) {
            sp_error_clear(err);
            continue;
        }
        if (*ret_rc == 0)
            *ret_rc = sp_incoming_check(ret_in, schema, err);
        return true;
    }
}

int sp_line_open(sp_line_t **ret_self, const char *endpoint, sp_error_t *err)
{
    sp_line_t *self = calloc(1, sizeof *self);
    if (self)
        self->sock = zsock_new(ZMQ_DEALER);
    if (!self || !self->sock) {
        free(self);
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "DEALER socket");
    }
    snprintf(self->endpoint, sizeof self->endpoint, "%s", endpoint);
    sp_frames_socket(self->sock);
    if (zsock_connect(self->sock, "%s", endpoint) != 0) {
        int rc = sp_error_set(err, SP_E_INVALID_ARGUMENT, "cannot connect to %s: %s", endpoint,
                              zmq_strerror(errno));
        sp_line_close(&self);
        return rc;
    }
    self->zmq = zsock_resolve(self->sock);
    *ret_self = self;
    return 0;
}

void sp_line_close(sp_line_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    zsock_destroy(&(*self_p)->sock);
    sp_buf_free(&(*self_p)->envelope_buf);
    sp_buf_free(&(*self_p)->body_buf);
    free(*self_p);
    *self_p = NULL;
}

int sp_line_call(sp_line_t *self, const sp_schema_t *schema, const void *body,
                 const sp_msg_envelope_t *envelope_or_null, int timeout_ms, sp_arena_t *arena,
                 const sp_schema_t **ret_schema, void **ret_body, bool *ret_lost, sp_error_t *err)
{
    int64_t deadline_ms = sp_clock_mono_ms() + timeout_ms;
    sp_msg_envelope_t envelope = {0};
    sp_frames_inherit(&envelope, envelope_or_null);
    char request_id[65];
    sp_random_id(request_id, 16);
    if (envelope.request_id.ptr && envelope.request_id.len > 0)
        snprintf(request_id, sizeof request_id, SP_STR_FMT, SP_STR_ARG(envelope.request_id));
    envelope.request_id = sp_str(request_id);
    envelope.deadline_ms = timeout_ms;
    envelope.has_deadline_ms = true;
    *ret_lost = false;
    int rc = sp_frames_encode(&envelope, schema, body, &self->envelope_buf, &self->body_buf, err);
    if (rc == 0)
        rc = sp_frames_send(self->zmq, NULL, &self->envelope_buf, &self->body_buf, err);
    if (rc != 0)
        return rc;
    sp_incoming_t in = {0};
    sp_error_t why = {0};
    if (!await_reply(self, request_id, schema, deadline_ms, arena, &in, &rc, &why)) {
        *ret_lost = true;
        return sp_incoming_lost(schema, err, "%s did not answer within %d ms", self->endpoint,
                                timeout_ms);
    }
    if (rc == 0) {
        *ret_schema = in.schema;
        *ret_body = in.body;
        return 0;
    }
    if (in.schema != &sp_schema_error)
        rc = sp_incoming_unreadable(schema, &why);
    if (err)
        *err = why;
    return rc;
}

int sp_mesh_call(const char *endpoint, const sp_schema_t *schema, const void *body, int timeout_ms,
                 sp_arena_t *arena, const sp_schema_t **ret_schema, void **ret_body,
                 sp_error_t *err)
{
    sp_line_t *line = NULL;
    bool lost;
    int rc = sp_line_open(&line, endpoint, err);
    if (line)
        rc = sp_line_call(line, schema, body, NULL, timeout_ms, arena, ret_schema, ret_body, &lost,
                          err);
    sp_line_close(&line);
    return rc;
}
