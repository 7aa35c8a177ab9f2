// COPY in both directions over the blocking connection.
#include <poll.h>
#include <stdlib.h>

#include "common/pg/internal.h"

enum { UNFLUSHED_MAX = 256 * 1024 };

int sp_pg_copy_start(sp_pg_t *self, const char *sql, sp_error_t *err)
{
    PGresult *result = NULL;
    int64_t deadline = sp_pg_deadline(self);
    if (self->broken || PQsendQuery(self->conn, sql) == 0)
        return sp_pg_lost(self, err);
    int rc = sp_pg_flush(self, deadline, err);
    if (rc != 0)
        return sp_pg_abandoned(self, rc);
    if ((rc = sp_pg_collect(self, deadline, &result, err)) != 0)
        return rc;
    ExecStatusType status = PQresultStatus(result);
    PQclear(result);
    if (status != PGRES_COPY_IN && status != PGRES_COPY_OUT && status != PGRES_COPY_BOTH)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "the statement starts no COPY");
    return 0;
}

int sp_pg_copy_put(sp_pg_t *self, const void *data, size_t len, sp_error_t *err)
{
    const char *at = data;
    int64_t deadline = sp_pg_deadline(self);
    while (len > 0) {
        int piece = len > (1 << 20) ? 1 << 20
                                    : (int)len; // libpq doubles its buffer to what one call brings
        int sent = PQputCopyData(self->conn, at, piece);
        if (sent < 0)
            return sp_pg_lost(self, err);
        if (sent == 1) {
            at += piece;
            len -= (size_t)piece;
        }
        // libpq sends by itself each 8 KiB, and keeps in memory what the socket does not take: now and then we wait for it.
        self->unflushed += (size_t)piece;
        if (sent == 1 && self->unflushed < UNFLUSHED_MAX)
            continue;
        self->unflushed = 0;
        int rc = sp_pg_flush(self, deadline, err);
        if (rc != 0) {
            self->broken = self->broken || rc == SP_E_CANCELLED || rc == SP_E_DEADLINE_EXCEEDED;
            return rc;
        }
    }
    return 0;
}

int sp_pg_copy_end(sp_pg_t *self, const char *error_or_null, int64_t *ret_rows, sp_error_t *err)
{
    PGresult *result = NULL;
    int64_t deadline = sp_pg_deadline(self);
    int rc = 0, sent;
    if (self->broken)
        return sp_pg_lost(self, err);
    while ((sent = PQputCopyEnd(self->conn, error_or_null)) == 0)
        if ((rc = sp_pg_wait(self, POLLOUT, deadline, err)) != 0)
            break;
    if (sent < 0)
        return sp_pg_lost(self, err);
    if (rc == 0)
        rc = sp_pg_flush(self, deadline, err);
    if (rc != 0) {
        self->broken = true;
        return rc;
    }
    sp_error_t fault = {0};
    rc = sp_pg_collect(self, deadline, &result, &fault);
    if (rc == SP_E_SQL_ERROR && error_or_null != NULL)
        rc = 0; // the abort that was asked for
    if (rc == 0 && ret_rows != NULL)
        *ret_rows = result != NULL ? strtoll(PQcmdTuples(result), NULL, 10) : 0;
    if (rc != 0 && err != NULL)
        *err = fault;
    PQclear(result);
    return rc;
}

int sp_pg_copy_take(sp_pg_t *self, int64_t deadline, int *ret_len, sp_error_t *err)
{
    PQfreemem(self->copy_data);
    self->copy_data = NULL;
    if (self->broken)
        return sp_pg_lost(self, err);
    int len = PQgetCopyData(self->conn, &self->copy_data, 1);
    if (len == -2)
        return sp_pg_lost(self, err);
    if (len == -1) { // the end, or an error that the results tell
        PGresult *result = NULL;
        int rc = sp_pg_collect(self, deadline, &result, err);
        PQclear(result);
        if (rc != 0)
            return rc;
    }
    *ret_len = len;
    return 0;
}

int sp_pg_copy_get(sp_pg_t *self, const char **ret_data, int *ret_len, sp_error_t *err)
{
    int64_t deadline = sp_pg_deadline(self);
    for (;;) {
        int len = 0;
        int rc = sp_pg_copy_take(self, deadline, &len, err);
        if (rc != 0)
            return rc;
        if (len != 0) {
            *ret_data = self->copy_data; // NULL at the end
            *ret_len = len;
            return 0;
        }
        rc = sp_pg_wait(self, POLLIN, deadline, err);
        if (rc != 0) {
            self->broken = true; // rows are on their way: nothing else can be asked here
            return rc;
        }
        if (PQconsumeInput(self->conn) == 0)
            return sp_pg_lost(self, err);
    }
}
