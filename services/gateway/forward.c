#include "services/gateway/forward.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/telemetry/trace.h"
#include "schemas/envelope.h"
#include "schemas/health.h"
#include "schemas/job.h"
#include "schemas/route.h"
#include "schemas/shard.h"
#include "services/gateway/answers.h"

// What the list of shards waits for verdicts.
#define HEALTH_WAIT_MS 500

typedef struct forward {
    sp_gateway_t *gateway;                    // owner
    sp_exchange_t *x;                         // stays until it is answered
    const sp_schema_t *schema;                // request
    void *body;                               // request, in x's arena
    int pending;                              // replies to come
    sp_error_t err;                           // of the main reply
    const sp_schema_t *reply;                 // schema of the main reply, or NULL
    sp_buf_t reply_bytes;                     // main reply while health is waited for
    sp_buf_t health_bytes;                    // verdicts, or empty
    char traceparent[SP_TRACEPARENT_LEN + 1]; // sent on
} forward_t;

// Messages that work longer than the usual: preflights, scans.
static int timeout_of(const sp_gateway_t *self, const sp_schema_t *schema, const void *body)
{
    if (schema == &sp_schema_execute && body != NULL) {
        const sp_msg_execute_t *execute = body;
        return (int)(execute->has_deadline_ms ? execute->deadline_ms : 30000) +
               2000; // the router gives up first and tells why
    }
    if (schema == &sp_schema_check_keyspace) {
        return 600000;
    }
    if (schema == &sp_schema_reshard_split || schema == &sp_schema_shard_create ||
        schema == &sp_schema_table_create || schema == &sp_schema_table_delete ||
        schema == &sp_schema_shard_delete) {
        return self->request_timeout_ms > 120000 ? self->request_timeout_ms : 120000;
    }
    return self->request_timeout_ms;
}

static void *decode_again(const sp_schema_t *schema, const sp_buf_t *bytes, sp_arena_t *arena)
{
    void *body = bytes->len > 0 ? sp_arena_alloc(arena, 1, schema->size) : NULL;
    return body != NULL &&
                   sp_wire_decode_msgpack(schema, bytes->data, bytes->len, arena, body, NULL) == 0
               ? body
               : NULL;
}

static void add_health(sp_msg_shard_list_reply_t *list, const sp_msg_health_list_reply_t *health)
{
    for (size_t i = 0; i < list->shards.n; i++) {
        for (size_t k = 0; k < health->shards.n; k++) {
            if (sp_str_eq(list->shards.items[i].id, health->shards.items[k].shard_id)) {
                list->shards.items[i].health = &health->shards.items[k];
            }
        }
    }
}

static void answer_success(forward_t *f, const void *body)
{
    int status = f->reply == f->schema->other_reply ? 200 : f->schema->status;
    sp_answer_message(f->x, status, f->reply, body);
}

static void finish(forward_t *f)
{
    if (f->err.code != 0) {
        sp_answer_error(f->x, &f->err, NULL, NULL);
    } else {
        sp_msg_shard_list_reply_t *list =
            decode_again(&sp_schema_shard_list_reply, &f->reply_bytes, f->x->arena);
        const sp_msg_health_list_reply_t *health =
            decode_again(&sp_schema_health_list_reply, &f->health_bytes, f->x->arena);
        if (list == NULL) {
            sp_answer_code(f->x, SP_E_INTERNAL, "the list of shards cannot be read");
        } else {
            if (health != NULL) {
                add_health(list, health);
            }
            answer_success(f, list);
        }
    }
}

static void end(forward_t *f)
{
    sp_buf_free(&f->reply_bytes);
    sp_buf_free(&f->health_bytes);
    free(f);
}

static void on_health(void *arg, const sp_error_t *err, const sp_msg_envelope_t *envelope,
                      const sp_schema_t *schema, const void *body)
{
    (void)envelope;
    forward_t *f = arg;
    if (err->code == 0 && schema == &sp_schema_health_list_reply) {
        sp_wire_encode_msgpack(schema, body, &f->health_bytes, NULL);
    }
    if (--f->pending == 0) {
        finish(f);
        end(f);
    }
}

static void on_reply(void *arg, const sp_error_t *err, const sp_msg_envelope_t *envelope,
                     const sp_schema_t *schema, const void *body)
{
    (void)envelope;
    forward_t *f = arg;
    f->err = *err;
    f->reply = schema;
    // The body does not live until the verdicts are here.
    bool list = err->code == 0 && schema == &sp_schema_shard_list_reply;
    if (list) {
        sp_wire_encode_msgpack(schema, body, &f->reply_bytes, NULL);
    }
    if (--f->pending > 0) {
        return;
    }
    if (list) {
        finish(f);
    } else if (err->code != 0) {
        const sp_msg_error_t *error = schema == &sp_schema_error ? body : NULL;
        sp_answer_error(f->x, err, error != NULL ? &error->details : NULL, NULL);
    } else {
        answer_success(f, body);
    }
    end(f);
}

static void send_on(forward_t *f)
{
    sp_gateway_t *self = f->gateway;
    sp_msg_envelope_t envelope = {.request_id = sp_str(f->x->request_id)};
    if (f->traceparent[0] != '\0') {
        envelope.traceparent = sp_str(f->traceparent);
    }
    // Counted before the calls, because a reply must not find itself the last one while another is being sent.
    f->pending = 1;
    if (f->schema == &sp_schema_shard_list && sp_backends_count(self->backends, "health") > 0) {
        static const sp_msg_health_list_t nothing = {0};
        f->pending++;
        if (sp_backends_call(self->backends, &sp_schema_health_list, &nothing, &envelope,
                             HEALTH_WAIT_MS, on_health, f, NULL) != 0) {
            f->pending--;
        }
    }
    sp_error_t err = {0};
    if (sp_backends_call(self->backends, f->schema, f->body, &envelope,
                         timeout_of(self, f->schema, f->body), on_reply, f, &err) != 0) {
        f->err = err;
        if (--f->pending == 0) {
            finish(f);
            end(f);
        }
    }
}

// The body as a value; *ret_body stays absent when there is none.
static int parse_body(sp_exchange_t *x, sp_value_t *ret_body, sp_error_t *err)
{
    bool takes_body = strcmp(x->method, "POST") == 0 || strcmp(x->method, "PUT") == 0 ||
                      strcmp(x->method, "PATCH") == 0;
    if (x->body.len == 0) {
        return 0;
    }
    if (!takes_body) {
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "%s takes no body", x->method);
    }
    const char *type = sp_http_header(x, "Content-Type");
    static const char json[] = "application/json";
    if (type != NULL && (strncasecmp(type, json, sizeof(json) - 1) != 0 ||
                         strchr(" ;\t", type[sizeof(json) - 1]) == NULL)) {
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "Content-Type: application/json is needed");
    }
    return sp_wire_value_from_json(x->body.data, x->body.len, x->arena, ret_body, err);
}

// The header Idempotency-Key is the field of that name, where the message has one.
static int add_idempotency_key(const sp_schema_t *schema, sp_exchange_t *x, const sp_value_t *body,
                               sp_route_fields_t *fields, sp_error_t *err)
{
    const char *key = sp_http_header(x, "Idempotency-Key");
    bool has = false;
    for (size_t i = 0; i < schema->n; i++) {
        has = has || strcmp(schema->fields[i].name, "idempotency_key") == 0;
    }
    if (key == NULL || !has || fields->n == SP_ROUTE_MAX_FIELDS) {
        return 0;
    }
    const sp_value_t *given = sp_value_get(body, "idempotency_key");
    if (given != NULL && given->kind == SP_VALUE_STRING) {
        return sp_str_eqz(given->u.s, key)
                   ? 0
                   : sp_error_set(err, SP_E_INVALID_ARGUMENT,
                                  "Idempotency-Key and the body's idempotency_key differ");
    }
    if (key[0] == '\0' || !sp_str_valid_utf8(sp_str(key))) {
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "Idempotency-Key is empty or not text");
    }
    fields->pairs[fields->n++] =
        (sp_value_pair_t){.key = SP_STR("idempotency_key"), .value = sp_value_str(key)};
    return 0;
}

// From the request to a message. 0 with *ret_schema and *ret_body.
static int understand(sp_exchange_t *x, sp_str_t path, sp_str_t query,
                      const sp_schema_t **ret_schema, void **ret_body, char *allow,
                      size_t allow_size, sp_error_t *err)
{
    sp_route_fields_t fields = {.n = 0};
    sp_value_t body = {.kind = SP_VALUE_ABSENT};
    int rc = sp_route_find(x->method, path, x->arena, ret_schema, &fields, allow, allow_size, err);
    if (rc != 0) {
        return rc;
    }
    x->label = (*ret_schema)->name;
    if ((rc = sp_route_query(*ret_schema, query, x->arena, &fields, err)) != 0 ||
        (rc = parse_body(x, &body, err)) != 0 ||
        (rc = add_idempotency_key(*ret_schema, x, &body, &fields, err)) != 0) {
        return rc;
    }
    *ret_body = sp_arena_alloc(x->arena, 1, (*ret_schema)->size);
    if (*ret_body == NULL) {
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "memory ran out");
    }
    return sp_route_message(*ret_schema, &fields, body.kind != SP_VALUE_ABSENT ? &body : NULL,
                            x->arena, *ret_body, err);
}

void sp_forward(sp_gateway_t *self, sp_exchange_t *x, sp_str_t path, sp_str_t query)
{
    sp_error_t err = {0};
    char allow[64] = "";
    const sp_schema_t *schema = NULL;
    void *body = NULL;
    if (understand(x, path, query, &schema, &body, allow, sizeof(allow), &err) != 0) {
        sp_answer_error(x, &err, NULL, allow[0] != '\0' ? allow : NULL);
        return;
    }
    if (sp_http_in_flight(self->http) > self->max_in_flight) {
        sp_answer_code(x, SP_E_RATE_LIMITED, "too many requests are in flight");
        return;
    }
    if (self->stop_by_ms != 0) {
        sp_answer_code(x, SP_E_UNAVAILABLE, "the gateway is stopping");
        return;
    }
    forward_t *f = calloc(1, sizeof(*f));
    if (f == NULL) {
        sp_answer_code(x, SP_E_OUT_OF_MEMORY, "memory ran out");
        return;
    }
    *f = (forward_t){.gateway = self, .x = x, .schema = schema, .body = body};
    sp_trace_t parent, span;
    const char *traceparent = sp_http_header(x, "traceparent");
    if (traceparent != NULL && sp_trace_parse(sp_str(traceparent), &parent)) {
        sp_trace_child(&parent, &span);
        sp_trace_format(&span, f->traceparent);
    }
    send_on(f);
}
