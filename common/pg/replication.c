#include "common/pg/replication.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/pg/internal.h"
#include "common/pg/pgoutput.h"

static int no_memory(sp_error_t *err)
{
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a replication command");
}

static const char *quoted_slot(sp_arena_t *arena, const char *slot)
{
    return arena != NULL ? sp_pg_ident(arena, sp_str(slot)) : NULL;
}

int sp_repl_create_slot(sp_pg_t *self, const char *slot, bool temporary, bool export_snapshot,
                        sp_lsn_t *ret_consistent_point, char *snapshot, size_t snapshot_size,
                        sp_error_t *err)
{
    sp_arena_t *arena = sp_arena_new(0);
    const char *name = quoted_slot(arena, slot);
    const char *sql =
        name == NULL
            ? NULL
            : sp_arena_printf(arena,
                              "CREATE_REPLICATION_SLOT %s%s LOGICAL pgoutput (SNAPSHOT '%s')", name,
                              temporary ? " TEMPORARY" : "",
                              export_snapshot ? "export" : "nothing");
    PGresult *result = NULL;
    int rc = sql == NULL ? no_memory(err) : sp_pg_query(self, sql, 0, NULL, &result, err);
    sp_arena_destroy(&arena);
    if (rc != 0)
        return rc;
    // slot_name, consistent_point, snapshot_name, output_plugin
    if (PQntuples(result) != 1 || PQnfields(result) < 3)
        rc = sp_error_set(err, SP_E_MALFORMED, "CREATE_REPLICATION_SLOT gave %d rows of %d columns",
                          PQntuples(result), PQnfields(result));
    if (rc == 0)
        rc = sp_lsn_parse(sp_str(PQgetvalue(result, 0, 1)), ret_consistent_point, err);
    if (rc == 0 && export_snapshot && snapshot != NULL) {
        int n = snprintf(snapshot, snapshot_size, "%s", PQgetvalue(result, 0, 2));
        if (n <= 0 || (size_t)n >= snapshot_size)
            rc = sp_error_set(err, SP_E_MALFORMED,
                              "CREATE_REPLICATION_SLOT exported no usable snapshot");
    }
    PQclear(result);
    return rc;
}

int sp_repl_drop_slot(sp_pg_t *self, const char *slot, sp_error_t *err)
{
    sp_error_t fault = {0};
    sp_arena_t *arena = sp_arena_new(0);
    const char *name = quoted_slot(arena, slot);
    int rc = name == NULL ? no_memory(&fault)
                          : sp_pg_execf(self, &fault, "DROP_REPLICATION_SLOT %s WAIT", name);
    sp_arena_destroy(&arena);
    if (rc == SP_E_SQL_ERROR && strcmp(fault.sqlstate, "42704") == 0)
        return 0; // there is none
    if (rc != 0 && err != NULL)
        *err = fault;
    return rc;
}

int sp_repl_identify(sp_pg_t *self, char *system_id, size_t size, int *ret_timeline,
                     sp_lsn_t *ret_flush, sp_error_t *err)
{
    PGresult *result = NULL;
    int rc = sp_pg_query(self, "IDENTIFY_SYSTEM", 0, NULL, &result, err);
    if (rc != 0)
        return rc;
    int64_t timeline = 0;
    if (PQntuples(result) != 1 || PQnfields(result) < 3 ||
        sp_str_to_int64(sp_str(PQgetvalue(result, 0, 1)), &timeline) != 0)
        rc = sp_error_set(err, SP_E_MALFORMED, "IDENTIFY_SYSTEM gave no usable row");
    if (rc == 0 && ret_flush != NULL)
        rc = sp_lsn_parse(sp_str(PQgetvalue(result, 0, 2)), ret_flush, err);
    if (rc == 0 && system_id != NULL)
        snprintf(system_id, size, "%s", PQgetvalue(result, 0, 0));
    if (rc == 0 && ret_timeline != NULL)
        *ret_timeline = (int)timeline;
    PQclear(result);
    return rc;
}

int sp_repl_start(sp_pg_t *self, const char *slot, sp_lsn_t from, const char *publication,
                  bool binary, sp_error_t *err)
{
    char lsn[SP_LSN_TEXT];
    sp_arena_t *arena = sp_arena_new(0);
    const char *name = quoted_slot(arena, slot), *list = NULL, *sql = NULL;
    // publication_names is a literal that holds identifiers.
    const char *ident = name != NULL ? sp_pg_ident(arena, sp_str(publication)) : NULL;
    if (ident != NULL)
        list = sp_pg_literal(arena, sp_str(ident));
    // The grammar of replication commands knows no E'' literal.
    if (list != NULL && list[0] != '\'') {
        sp_arena_destroy(&arena);
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "a publication's name holds a backslash");
    }
    if (list != NULL)
        sql = sp_arena_printf(arena,
                              "START_REPLICATION SLOT %s LOGICAL %s (proto_version '1', "
                              "publication_names %s, binary '%s', messages 'true')",
                              name, sp_lsn_print(from, lsn), list, binary ? "true" : "false");
    int rc = sql == NULL ? no_memory(err) : sp_pg_copy_start(self, sql, err);
    sp_arena_destroy(&arena);
    return rc;
}

static uint64_t get_uint64(const char *at)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value = value << 8 | (unsigned char)at[i];
    return value;
}

static void put_uint64(char *at, uint64_t value)
{
    for (int i = 7; i >= 0; i--, value >>= 8)
        at[i] = (char)(value & 0xff);
}

// A CopyData payload: 'w' with WAL data, or 'k' keepalive.
static int parse_copy_data(const char *data, size_t len, sp_repl_message_t *ret_message,
                           sp_error_t *err)
{
    sp_repl_message_t m = {0};
    if (data[0] == 'w' && len >= 25) {
        m.kind = SP_REPL_DATA;
        m.wal_start = get_uint64(data + 1);
        m.wal_end = get_uint64(data + 9);
        m.server_us = (int64_t)(get_uint64(data + 17) + (uint64_t)SP_PG_EPOCH_US);
        m.data = data + 25;
        m.len = len - 25;
    } else if (data[0] == 'k' && len == 18) {
        m.kind = SP_REPL_KEEPALIVE;
        m.wal_end = get_uint64(data + 1);
        m.server_us = (int64_t)(get_uint64(data + 9) + (uint64_t)SP_PG_EPOCH_US);
        m.reply_requested = data[17] != 0;
    } else {
        return sp_error_set(err, SP_E_MALFORMED, "replication stream: message 0x%02x of %zu bytes",
                            (unsigned char)data[0], len);
    }
    *ret_message = m;
    return 0;
}

int sp_repl_receive(sp_pg_t *self, int timeout_ms, sp_repl_message_t *ret_message, sp_error_t *err)
{
    int64_t deadline = sp_clock_mono_ms() + timeout_ms;
    for (;;) {
        int len = 0;
        int rc = sp_pg_copy_take(self, sp_pg_deadline(self), &len, err);
        if (rc != 0)
            return rc;
        if (len > 0)
            return parse_copy_data(self->copy_data, (size_t)len, ret_message, err);
        if (len < 0) {
            *ret_message = (sp_repl_message_t){.kind = SP_REPL_END};
            return 0;
        }
        rc = sp_pg_wait(self, POLLIN, deadline, err);
        if (rc == SP_E_DEADLINE_EXCEEDED) {
            *ret_message = (sp_repl_message_t){.kind = SP_REPL_NONE};
            return 0;
        }
        if (rc != 0)
            return rc;
        if (PQconsumeInput(self->conn) == 0)
            return sp_pg_lost(self, err);
    }
}

int sp_repl_feedback(sp_pg_t *self, sp_lsn_t received, sp_lsn_t flushed, bool ask_reply,
                     sp_error_t *err)
{
    char update[34] = {'r'};
    put_uint64(update + 1, received);
    put_uint64(update + 9, flushed);
    put_uint64(update + 17, flushed);
    put_uint64(update + 25, (uint64_t)(sp_clock_wall_us() - SP_PG_EPOCH_US));
    update[33] = ask_reply;
    if (self->broken || PQputCopyData(self->conn, update, sizeof update) != 1)
        return sp_pg_lost(self, err);
    return sp_pg_flush(self, sp_pg_deadline(self), err);
}
