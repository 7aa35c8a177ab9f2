// Blocking call with a socket of its own, for actors and tools.
#include <string.h>

#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/mesh/incoming.h"
#include "common/mesh/mesh.h"

// Waits for the message that answers request_id, and moves its frames into the arena.
static int await_reply(zsock_t *sock, const char *endpoint, const char *request_id,
                       const sp_schema_t *schema, int64_t deadline_ms, sp_arena_t *arena,
                       sp_incoming_t *ret_in, sp_error_t *err)
{
    void *zmq = zsock_resolve(sock);
    for (;;) {
        zmq_pollitem_t item = {.socket = zmq, .events = ZMQ_POLLIN};
        int wait_ms = sp_clock_until_ms(deadline_ms);
        int n = zmq_poll(&item, 1, wait_ms);
        if (n < 0 && errno != EINTR)
            return sp_incoming_lost(schema, err, "%s: %s", endpoint, zmq_strerror(errno));
        sp_frames_t frames;
        if (n <= 0 || !sp_frames_receive(zmq, 2, (size_t)SP_FRAMES_FRAME_MAX, &frames)) {
            if (sp_clock_until_ms(deadline_ms) > 0)
                continue;
            return sp_incoming_lost(schema, err, "%s did not answer in time", endpoint);
        }
        // The decoded strings borrow from the bytes, which must live as long as the caller's arena.
        sp_str_t body =
            sp_arena_str(arena, (sp_str_t){sp_frames_data(&frames, 1), sp_frames_size(&frames, 1)});
        sp_str_t head =
            sp_arena_str(arena, (sp_str_t){sp_frames_data(&frames, 0), sp_frames_size(&frames, 0)});
        int count = frames.n;
        sp_frames_close(&frames);
        if (!body.ptr || !head.ptr)
            return sp_error_set(err, SP_E_TOO_LARGE, "the reply of %s does not fit", endpoint);
        zmq_msg_init_data(&frames.part[0], (void *)head.ptr, head.len, NULL, NULL);
        zmq_msg_init_data(&frames.part[1], (void *)body.ptr, body.len, NULL, NULL);
        zmq_msg_init(&frames.part[2]);
        frames.n = count;
        int rc = sp_incoming_decode(&frames, arena, ret_in, err);
        sp_frames_close(&frames);
        if (!sp_str_eqz(ret_in->envelope.request_id, request_id)) {
            sp_error_clear(err);
            continue;
        }
        return rc != 0 ? rc : sp_incoming_check(ret_in, schema, err);
    }
}

int sp_mesh_call(const char *endpoint, const sp_schema_t *schema, const void *body, int timeout_ms,
                 sp_arena_t *arena, const sp_schema_t **ret_schema, void **ret_body,
                 sp_error_t *err)
{
    int64_t deadline_ms = sp_clock_mono_ms() + timeout_ms;
    char request_id[17];
    sp_random_id(request_id, sizeof request_id - 1);
    sp_msg_envelope_t envelope = {.request_id = sp_str(request_id),
                                  .deadline_ms = timeout_ms,
                                  .has_deadline_ms = true};
    sp_buf_t head = SP_BUF_INIT, tail = SP_BUF_INIT;
    zsock_t *sock = NULL;
    sp_incoming_t in = {0};
    int rc = sp_frames_encode(&envelope, schema, body, &head, &tail, err);
    if (rc != 0)
        goto done;
    sock = zsock_new(ZMQ_DEALER);
    if (!sock) {
        rc = sp_error_set(err, SP_E_OUT_OF_MEMORY, "DEALER socket");
        goto done;
    }
    sp_frames_socket(sock);
    if (zsock_connect(sock, "%s", endpoint) != 0) {
        rc = sp_error_set(err, SP_E_INVALID_ARGUMENT, "cannot connect to %s: %s", endpoint,
                          zmq_strerror(errno));
        goto done;
    }
    rc = sp_frames_send(zsock_resolve(sock), NULL, &head, &tail, err);
    if (rc == 0)
        rc = await_reply(sock, endpoint, request_id, schema, deadline_ms, arena, &in, err);
    if (rc == 0) {
        *ret_schema = in.schema;
        *ret_body = in.body;
    }
done:
    zsock_destroy(&sock);
    sp_buf_free(&head);
    sp_buf_free(&tail);
    return rc;
}
