// Results of execute.
#include "common/client/result.h"

#include <stdlib.h>

struct shardplane_result {
    sp_arena_t *arena;                   // all of it
    const sp_msg_execute_reply_t *reply; // decoded
    const char *shard_id;                // ended by a NUL
    const char **commands;               // one a statement, ended by a NUL
    const char ***columns;               // names: one a column of each statement
};

// Strings of a frame are not ended by a NUL: those that are handed out by name are copied.
static bool copy_names(shardplane_result_t *self, size_t i)
{
    const sp_msg_statement_result_t *s = &self->reply->results.items[i];
    self->commands[i] = sp_arena_cstr(self->arena, s->command.ptr ? s->command : SP_STR(""));
    self->columns[i] = sp_arena_alloc(self->arena, s->columns.n, sizeof(char *));
    bool ok = self->commands[i] && self->columns[i];
    for (size_t c = 0; ok && c < s->columns.n; c++) {
        self->columns[i][c] = sp_arena_cstr(self->arena, s->columns.items[c].name);
        ok = self->columns[i][c] != NULL;
    }
    return ok;
}

// Text and bytes get their NUL too, so that they can be handed out as they are.
static bool end_cells(shardplane_result_t *self, const sp_msg_statement_result_t *s)
{
    for (size_t r = 0; r < s->rows.n; r++) {
        sp_value_t *row = &s->rows.items[r];
        if (row->kind != SP_VALUE_LIST)
            continue;
        for (size_t c = 0; c < row->u.list.n; c++) {
            sp_value_t *v = &row->u.list.items[c];
            if (v->kind != SP_VALUE_STRING && v->kind != SP_VALUE_BYTES)
                continue;
            v->u.s.ptr = sp_arena_cstr(self->arena, v->u.s);
            if (!v->u.s.ptr)
                return false;
        }
    }
    return true;
}

shardplane_result_t *sp_result_new(sp_arena_t **arena_p, sp_msg_execute_reply_t *reply,
                                   sp_error_t *err)
{
    // It was committed all the same: not out_of_memory, which would say that the call may be made again.
    static const char too_large[] = "it was executed, but there is no memory for the result";
    shardplane_result_t *self = calloc(1, sizeof *self);
    if (!self) {
        sp_error_set(err, SP_E_TOO_LARGE, too_large);
        return NULL;
    }
    self->arena = *arena_p;
    *arena_p = NULL;
    self->reply = reply;
    self->shard_id = sp_arena_cstr(self->arena, reply->shard_id);
    self->commands = sp_arena_alloc(self->arena, reply->results.n, sizeof *self->commands);
    self->columns = sp_arena_alloc(self->arena, reply->results.n, sizeof *self->columns);
    bool ok = self->shard_id && self->commands && self->columns;
    for (size_t i = 0; ok && i < reply->results.n; i++)
        ok = copy_names(self, i) && end_cells(self, &reply->results.items[i]);
    if (!ok) {
        sp_error_set(err, SP_E_TOO_LARGE, too_large);
        shardplane_result_free(self);
        return NULL;
    }
    return self;
}

void shardplane_result_free(shardplane_result_t *self)
{
    if (!self)
        return;
    sp_arena_destroy(&self->arena);
    free(self);
}

static const sp_msg_statement_result_t *statement_of(const shardplane_result_t *self, size_t i)
{
    return self && i < self->reply->results.n ? &self->reply->results.items[i] : NULL;
}

static const sp_value_t *cell_of(const shardplane_result_t *self, size_t i, size_t row,
                                 size_t column)
{
    const sp_msg_statement_result_t *s = statement_of(self, i);
    if (!s || row >= s->rows.n || s->rows.items[row].kind != SP_VALUE_LIST ||
        column >= s->rows.items[row].u.list.n)
        return NULL;
    return &s->rows.items[row].u.list.items[column];
}

const char *shardplane_result_shard_id(const shardplane_result_t *self)
{
    return self ? self->shard_id : NULL;
}

int64_t shardplane_result_ring_version(const shardplane_result_t *self)
{
    return self ? self->reply->ring_version : 0;
}

int64_t shardplane_result_attempts(const shardplane_result_t *self)
{
    return self ? self->reply->attempts : 0;
}

int64_t shardplane_result_parked_ms(const shardplane_result_t *self)
{
    return self ? self->reply->parked_ms : 0;
}

size_t shardplane_result_statements(const shardplane_result_t *self)
{
    return self ? self->reply->results.n : 0;
}

const char *shardplane_result_command(const shardplane_result_t *self, size_t statement)
{
    return statement_of(self, statement) ? self->commands[statement] : NULL;
}

int64_t shardplane_result_rows_affected(const shardplane_result_t *self, size_t statement)
{
    const sp_msg_statement_result_t *s = statement_of(self, statement);
    return s ? s->rows_affected : 0;
}

size_t shardplane_result_columns(const shardplane_result_t *self, size_t statement)
{
    const sp_msg_statement_result_t *s = statement_of(self, statement);
    return s ? s->columns.n : 0;
}

const char *shardplane_result_column_name(const shardplane_result_t *self, size_t statement,
                                          size_t column)
{
    const sp_msg_statement_result_t *s = statement_of(self, statement);
    return s && column < s->columns.n ? self->columns[statement][column] : NULL;
}

size_t shardplane_result_rows(const shardplane_result_t *self, size_t statement)
{
    const sp_msg_statement_result_t *s = statement_of(self, statement);
    return s ? s->rows.n : 0;
}

shardplane_type_t shardplane_result_type(const shardplane_result_t *self, size_t statement,
                                         size_t row, size_t column)
{
    const sp_value_t *v = cell_of(self, statement, row, column);
    switch (v ? v->kind : SP_VALUE_NULL) {
    case SP_VALUE_BOOL:
        return SHARDPLANE_BOOL;
    case SP_VALUE_INT:
        return SHARDPLANE_INT;
    case SP_VALUE_FLOAT:
        return SHARDPLANE_FLOAT;
    case SP_VALUE_STRING:
        return SHARDPLANE_TEXT;
    case SP_VALUE_BYTES:
        return SHARDPLANE_BYTES;
    default:
        return SHARDPLANE_NULL;
    }
}

int64_t shardplane_result_int(const shardplane_result_t *self, size_t statement, size_t row,
                              size_t column)
{
    const sp_value_t *v = cell_of(self, statement, row, column);
    if (v && v->kind == SP_VALUE_INT)
        return v->u.i;
    return v && v->kind == SP_VALUE_BOOL ? v->u.b : 0;
}

double shardplane_result_float(const shardplane_result_t *self, size_t statement, size_t row,
                               size_t column)
{
    const sp_value_t *v = cell_of(self, statement, row, column);
    if (v && v->kind == SP_VALUE_FLOAT)
        return v->u.f;
    return (double)shardplane_result_int(self, statement, row, column);
}

const char *shardplane_result_text(const shardplane_result_t *self, size_t statement, size_t row,
                                   size_t column, size_t *ret_len)
{
    const sp_value_t *v = cell_of(self, statement, row, column);
    bool text = v && (v->kind == SP_VALUE_STRING || v->kind == SP_VALUE_BYTES);
    if (ret_len)
        *ret_len = text ? v->u.s.len : 0;
    return text ? v->u.s.ptr : NULL;
}
