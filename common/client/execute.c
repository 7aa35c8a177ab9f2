// Requests of statements, and running them through a router.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/client/client.h"
#include "common/client/result.h"
#include "schemas/route.h"

enum { MAX_STATEMENTS = 100, MAX_PARAMS = 1000, KEY_RANDOM = 26 };
#define REQUEST_LIMIT ((size_t)16 * 1024 * 1024)
#define RESULT_LIMIT  ((size_t)1024 * 1024 * 1024)

struct shardplane_request {
    sp_arena_t *arena;                             // all of it
    sp_msg_execute_t body;                         // what is sent
    sp_msg_statement_t statements[MAX_STATEMENTS]; // of the body
    size_t params_cap;                             // room in the last statement's parameters
    sp_error_t fault;                              // first one
};

shardplane_request_t *shardplane_request_new(const char *keyspace, const char *key)
{
    shardplane_request_t *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    self->arena = sp_arena_new(REQUEST_LIMIT);
    if (!self->arena) {
        free(self);
        return NULL;
    }
    self->body.statements.items = self->statements;
    self->body.keyspace = sp_arena_str(self->arena, sp_str(keyspace ? keyspace : "default"));
    self->body.shard_key = sp_arena_str(self->arena, sp_str(key));
    if (!key)
        sp_error_set(&self->fault, SP_E_INVALID_ARGUMENT, "a request needs a key");
    return self;
}

void shardplane_request_free(shardplane_request_t *self)
{
    if (!self)
        return;
    sp_arena_destroy(&self->arena);
    free(self);
}

static bool usable(const shardplane_request_t *self)
{
    return self && self->fault.code == 0;
}

static void too_large(shardplane_request_t *self, const char *what)
{
    sp_error_set(&self->fault, SP_E_TOO_LARGE, "the request has too many or too large %s", what);
}

void shardplane_request_statement(shardplane_request_t *self, const char *sql)
{
    if (!usable(self))
        return;
    if (!sql) {
        sp_error_set(&self->fault, SP_E_INVALID_ARGUMENT, "a statement needs its text");
        return;
    }
    sp_str_t copy = sp_arena_str(self->arena, sp_str(sql));
    if (!copy.ptr || self->body.statements.n >= MAX_STATEMENTS) {
        too_large(self, "statements");
        return;
    }
    self->statements[self->body.statements.n++] = (sp_msg_statement_t){.sql = copy};
    self->params_cap = 0;
}

static void add_param(shardplane_request_t *self, sp_value_t value)
{
    if (!usable(self))
        return;
    if (self->body.statements.n == 0) {
        sp_error_set(&self->fault, SP_E_INVALID_ARGUMENT,
                     "a parameter needs a statement before it");
        return;
    }
    sp_msg_statement_t *s = &self->statements[self->body.statements.n - 1];
    if (s->params.n == self->params_cap) {
        size_t cap = self->params_cap ? self->params_cap * 2 : 8;
        sp_value_t *grown =
            s->params.n < MAX_PARAMS ? sp_arena_alloc(self->arena, cap, sizeof *grown) : NULL;
        if (!grown) {
            too_large(self, "parameters");
            return;
        }
        if (s->params.n > 0)
            memcpy(grown, s->params.items, s->params.n * sizeof *grown);
        s->params.items = grown;
        self->params_cap = cap;
    }
    s->params.items[s->params.n++] = value;
}

void shardplane_request_null(shardplane_request_t *self)
{
    add_param(self, (sp_value_t){.kind = SP_VALUE_NULL});
}

void shardplane_request_bool(shardplane_request_t *self, int value)
{
    add_param(self, (sp_value_t){.kind = SP_VALUE_BOOL, .u.b = value != 0});
}

void shardplane_request_int(shardplane_request_t *self, int64_t value)
{
    add_param(self, (sp_value_t){.kind = SP_VALUE_INT, .u.i = value});
}

void shardplane_request_float(shardplane_request_t *self, double value)
{
    add_param(self, (sp_value_t){.kind = SP_VALUE_FLOAT, .u.f = value});
}

static void add_string(shardplane_request_t *self, sp_value_kind_t kind, sp_str_t value)
{
    if (!usable(self))
        return;
    sp_str_t copy = value.ptr ? sp_arena_str(self->arena, value) : value;
    if (!value.ptr)
        shardplane_request_null(self);
    else if (!copy.ptr)
        too_large(self, "parameters");
    else
        add_param(self, (sp_value_t){.kind = kind, .u.s = copy});
}

void shardplane_request_text(shardplane_request_t *self, const char *value)
{
    add_string(self, SP_VALUE_STRING, sp_str(value));
}

void shardplane_request_bytes(shardplane_request_t *self, const void *value, size_t len)
{
    add_string(self, SP_VALUE_BYTES, (sp_str_t){value, len});
}

void shardplane_request_idempotency_key(shardplane_request_t *self, const char *key)
{
    if (!usable(self))
        return;
    char made[KEY_RANDOM + 1];
    if (!key) {
        sp_random_id(made, KEY_RANDOM);
        key = made;
    }
    self->body.idempotency_key = sp_arena_str(self->arena, sp_str(key));
    if (!self->body.idempotency_key.ptr || !*key)
        sp_error_set(&self->fault, SP_E_INVALID_ARGUMENT, "an idempotency key has 1 to 128 bytes");
}

void shardplane_request_eventual(shardplane_request_t *self)
{
    if (!usable(self))
        return;
    self->body.consistency = SP_CONSISTENCY_EVENTUAL;
    self->body.has_consistency = true;
}

void shardplane_request_deadline(shardplane_request_t *self, int timeout_ms)
{
    if (!usable(self))
        return;
    if (timeout_ms < 1 || timeout_ms > 600000)
        sp_error_set(&self->fault, SP_E_INVALID_ARGUMENT, "a deadline is 1 to 600000 ms");
    self->body.deadline_ms = timeout_ms;
    self->body.has_deadline_ms = true;
}

int shardplane_execute(shardplane_t *self, const shardplane_request_t *request,
                       shardplane_result_t **ret_result, shardplane_error_t *err)
{
    sp_error_t why = {0};
    if (!self || !request) {
        sp_error_set(&why, SP_E_INVALID_ARGUMENT, "execute needs a client and a request");
        return sp_client_error(&why, err);
    }
    if (request->fault.code != 0)
        return sp_client_error(&request->fault, err);
    int64_t deadline_ms = sp_client_deadline(self, (int)request->body.deadline_ms);
    sp_msg_execute_t body = request->body;
    body.deadline_ms = sp_clock_until_ms(deadline_ms);
    body.has_deadline_ms = body.deadline_ms > 0;
    sp_ask_t kind = body.consistency == SP_CONSISTENCY_EVENTUAL ? SP_ASK_READ
                    : body.idempotency_key.ptr                  ? SP_ASK_KEYED
                                                                : SP_ASK_ONCE;
    sp_arena_t *arena = sp_arena_new(RESULT_LIMIT);
    void *reply = NULL;
    if (!arena)
        sp_error_set(&why, SP_E_OUT_OF_MEMORY, "result");
    else if (sp_client_ask(self, &sp_schema_execute, &body, kind, deadline_ms, arena, &reply,
                           &why) == 0) {
        if (ret_result)
            *ret_result = sp_result_new(&arena, reply, &why);
    }
    sp_arena_destroy(&arena);
    return sp_client_error(&why, err);
}
