#include "common/pg/pg.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/pg/conninfo.h"
#include "common/pg/internal.h"

enum { CONNECT_MS = 5000, QUERY_MS = 30000, SLICE_MS = 100, CANCEL_MS = 1000, DRAIN_MS = 2000 };

// ---- waiting

int64_t sp_pg_deadline(const sp_pg_t *self)
{
    return self->query_timeout_ms < 0 ? INT64_MAX : sp_clock_mono_ms() + self->query_timeout_ms;
}

// One poll of at most SLICE_MS: 1 ready, 0 nothing yet, or an error.
static int wait_slice(sp_pg_t *self, short events, int64_t deadline, sp_error_t *err)
{
    if (self->stopped != NULL && self->stopped(self->stopped_arg))
        return sp_error_set(err, SP_E_CANCELLED, "stopped while waiting for %s", self->where);
    int left = deadline == INT64_MAX ? SLICE_MS : sp_clock_until_ms(deadline);
    if (left == 0)
        return sp_error_set(err, SP_E_DEADLINE_EXCEEDED, "%s did not answer in time", self->where);
    struct pollfd p = {PQsocket(self->conn), events, 0};
    if (p.fd < 0)
        return sp_pg_lost(self, err);
    int n = poll(&p, 1, left < SLICE_MS ? left : SLICE_MS);
    if (n < 0 && errno != EINTR)
        return sp_error_set(err, SP_E_IO, "poll: %s", strerror(errno));
    return n > 0;
}

int sp_pg_wait(sp_pg_t *self, short events, int64_t deadline, sp_error_t *err)
{
    int rc;
    while ((rc = wait_slice(self, events, deadline, err)) == 0)
        ;
    return rc < 0 ? rc : 0;
}

int sp_pg_lost(sp_pg_t *self, sp_error_t *err)
{
    self->broken = true;
    return sp_conninfo_failed(&self->dsn, "lost the connection to PostgreSQL",
                              PQerrorMessage(self->conn), err);
}

int sp_pg_flush(sp_pg_t *self, int64_t deadline, sp_error_t *err)
{
    for (;;) {
        int left = PQflush(self->conn);
        if (left == 0)
            return 0;
        if (left < 0)
            return sp_pg_lost(self, err);
        int rc = sp_pg_wait(self, POLLIN | POLLOUT, deadline, err);
        if (rc != 0)
            return rc;
        // The server may be stuck on sending to us: read, or both wait for ever.
        if (PQconsumeInput(self->conn) == 0)
            return sp_pg_lost(self, err);
    }
}

// The next result, or NULL at the end of the command, in *ret_result.
static int next_result(sp_pg_t *self, int64_t deadline, PGresult **ret_result, sp_error_t *err)
{
    while (PQisBusy(self->conn)) {
        int rc = sp_pg_wait(self, POLLIN, deadline, err);
        if (rc != 0)
            return rc;
        if (PQconsumeInput(self->conn) == 0)
            return sp_pg_lost(self, err);
    }
    *ret_result = PQgetResult(self->conn);
    return 0;
}

static bool is_copy(const PGresult *result)
{
    ExecStatusType status = PQresultStatus(result);
    return status == PGRES_COPY_IN || status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH;
}

// After a timeout or a stop: cancels the statement and reads what is left, so that the connection can be used again; else it is given up.
static void abandon(sp_pg_t *self)
{
    if (self->broken || PQstatus(self->conn) != CONNECTION_OK)
        return;
    if (!sp_pg_cancel_within(self->conn, CANCEL_MS)) {
        self->broken = true;
        return;
    }
    bool (*stopped)(void *) = self->stopped;
    self->stopped = NULL;
    int64_t deadline = sp_clock_mono_ms() + DRAIN_MS;
    PGresult *result = NULL;
    int rc = sp_pg_flush(self, deadline, NULL);
    while (rc == 0 && (rc = next_result(self, deadline, &result, NULL)) == 0 && result != NULL) {
        bool copy = is_copy(result);
        PQclear(result);
        if (copy)
            rc = -1;
    }
    self->broken = self->broken || rc != 0;
    self->stopped = stopped;
}

int sp_pg_abandoned(sp_pg_t *self, int rc)
{
    if (rc == SP_E_CANCELLED || rc == SP_E_DEADLINE_EXCEEDED)
        abandon(self);
    return rc;
}

static int usable(sp_pg_t *self, sp_error_t *err)
{
    if (self->broken || PQstatus(self->conn) != CONNECTION_OK)
        return sp_pg_lost(self, err);
    if (self->stopped != NULL && self->stopped(self->stopped_arg))
        return sp_error_set(err, SP_E_CANCELLED, "stopped before a statement on %s", self->where);
    return 0;
}

// Reads all results; keeps the last good one, or the first error. A COPY state ends the reading: *ret_result shows it.
int sp_pg_collect(sp_pg_t *self, int64_t deadline, PGresult **ret_result, sp_error_t *err)
{
    PGresult *kept = NULL, *result = NULL;
    int rc = 0, failed = 0;
    while ((rc = next_result(self, deadline, &result, err)) == 0 && result != NULL) {
        ExecStatusType status = PQresultStatus(result);
        if (status == PGRES_FATAL_ERROR || status == PGRES_BAD_RESPONSE) {
            if (failed == 0)
                failed = sp_pg_result_error(result, err);
            PQclear(result);
            if (PQstatus(self->conn) != CONNECTION_OK)
                break;
            continue;
        }
        PQclear(kept);
        kept = result;
        if (is_copy(result))
            break;
    }
    if (rc == 0 && failed != 0) {
        rc = failed;
        // FATAL, or no SQLSTATE at all: the connection is gone with the statement.
        if (PQstatus(self->conn) != CONNECTION_OK) {
            self->broken = true;
            if (err != NULL)
                err->code = SP_E_PG_CONNECTION, err->retryable = true;
            rc = SP_E_PG_CONNECTION;
        }
        if (err != NULL)
            sp_dsn_scrub(&self->dsn, err->text);
    }
    if (rc != 0) {
        PQclear(kept);
        return sp_pg_abandoned(self, rc);
    }
    *ret_result = kept;
    return 0;
}

// ---- opening

static int connect_now(sp_pg_t *self, const sp_conninfo_t *info, int timeout_ms, sp_error_t *err)
{
    int64_t deadline = sp_clock_mono_ms() + timeout_ms;
    self->conn = PQconnectStartParams(info->keywords, info->values, 0);
    if (self->conn == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a connection");
    PostgresPollingStatusType state =
        PQstatus(self->conn) == CONNECTION_BAD ? PGRES_POLLING_FAILED : PGRES_POLLING_WRITING;
    while (state != PGRES_POLLING_OK) {
        if (state == PGRES_POLLING_FAILED)
            return sp_conninfo_failed(&self->dsn, "cannot connect to PostgreSQL",
                                      PQerrorMessage(self->conn), err);
        int rc = sp_pg_wait(self, state == PGRES_POLLING_READING ? POLLIN : POLLOUT, deadline, err);
        if (rc == SP_E_DEADLINE_EXCEEDED)
            return sp_conninfo_failed(&self->dsn, "cannot connect to PostgreSQL",
                                      "no answer within the connect timeout", err);
        if (rc != 0)
            return rc;
        state = PQconnectPoll(self->conn);
    }
    PQsetnonblocking(self->conn, 1);
    return 0;
}

int sp_pg_open(sp_pg_t **ret_self, const sp_dsn_t *dsn, const sp_pg_options_t *options,
               sp_error_t *err)
{
    static const sp_pg_options_t none = {0};
    // What a role or database sets for applications is not for us. Timeouts are ours (query_timeout_ms): theirs would end a long COPY or a
    // held snapshot. What we have committed must outlive a crash of the server: the catalog goes on from it.
    static const char *const pinned[] = {"statement_timeout=0",
                                         "lock_timeout=0",
                                         "idle_in_transaction_session_timeout=0",
                                         "idle_session_timeout=0",
                                         "synchronous_commit=on",
                                         NULL};
    const sp_pg_options_t *o = options != NULL ? options : &none;
    sp_conninfo_t info = {0};
    sp_pg_t *self = calloc(1, sizeof *self);
    if (self == NULL || (self->arena = sp_arena_new(0)) == NULL ||
        !sp_dsn_copy(dsn, self->arena, &self->dsn)) {
        sp_pg_close(&self);
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a connection");
    }
    snprintf(self->where, sizeof self->where, "PostgreSQL at %.80s:%d/%.63s", self->dsn.host,
             self->dsn.port, self->dsn.database);
    self->replication = o->replication;
    self->stopped = o->stopped;
    self->stopped_arg = o->stopped_arg;
    sp_pg_set_timeout(self, o->query_timeout_ms);
    int rc = sp_conninfo_make(&info, &self->dsn, o->application_name, o->search_path,
                              o->replication, pinned, err);
    if (rc == 0)
        rc = connect_now(self, &info,
                         o->connect_timeout_ms > 0 ? o->connect_timeout_ms : CONNECT_MS, err);
    sp_conninfo_free(&info);
    if (rc == 0) {
        PQsetNoticeReceiver(self->conn, sp_conninfo_drop_notice, NULL);
        if (o->replica_role)
            rc = sp_pg_exec(self, "SET session_replication_role = replica", err);
    }
    if (rc != 0) {
        sp_pg_close(&self);
        return rc;
    }
    *ret_self = self;
    return 0;
}

void sp_pg_close(sp_pg_t **self_p)
{
    sp_pg_t *self = *self_p;
    if (self == NULL)
        return;
    PQfreemem(self->copy_data);
    PQfinish(self->conn);
    sp_arena_destroy(&self->arena);
    free(self);
    *self_p = NULL;
}

PGconn *sp_pg_conn(sp_pg_t *self)
{
    return self->conn;
}

int sp_pg_backend_pid(const sp_pg_t *self)
{
    return PQbackendPID(self->conn);
}

void sp_pg_set_timeout(sp_pg_t *self, int query_timeout_ms)
{
    self->query_timeout_ms = query_timeout_ms == 0 ? QUERY_MS : query_timeout_ms;
}

// ---- statements

int sp_pg_exec(sp_pg_t *self, const char *sql, sp_error_t *err)
{
    PGresult *result = NULL;
    int rc = usable(self, err);
    if (rc != 0)
        return rc;
    int64_t deadline = sp_pg_deadline(self);
    if (PQsendQuery(self->conn, sql) == 0)
        return sp_pg_lost(self, err);
    if ((rc = sp_pg_flush(self, deadline, err)) != 0)
        return sp_pg_abandoned(self, rc);
    if ((rc = sp_pg_collect(self, deadline, &result, err)) != 0)
        return rc;
    if (result != NULL && is_copy(result)) {
        PQclear(result);
        self->broken = true; // nobody will feed it
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "COPY is not possible here");
    }
    PQclear(result);
    return 0;
}

int sp_pg_execf(sp_pg_t *self, sp_error_t *err, const char *fmt, ...)
{
    char *sql = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&sql, fmt, ap);
    va_end(ap);
    if (n < 0)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a statement");
    int rc = sp_pg_exec(self, sql, err);
    free(sql);
    return rc;
}

int sp_pg_query_params(sp_pg_t *self, const char *sql, const sp_pg_params_t *params,
                       PGresult **ret_result, sp_error_t *err)
{
    PGresult *result = NULL;
    int rc = usable(self, err);
    if (rc != 0)
        return rc;
    int64_t deadline = sp_pg_deadline(self);
    // A walsender takes simple queries only.
    int sent = self->replication && params->n == 0
                   ? PQsendQuery(self->conn, sql)
                   : PQsendQueryParams(self->conn, sql, params->n, NULL, params->values,
                                       params->lengths, params->formats, params->binary_result);
    if (sent == 0)
        return sp_pg_lost(self, err);
    if ((rc = sp_pg_flush(self, deadline, err)) != 0)
        return sp_pg_abandoned(self, rc);
    if ((rc = sp_pg_collect(self, deadline, &result, err)) != 0)
        return rc;
    if (result == NULL || is_copy(result)) {
        self->broken = self->broken || result != NULL;
        PQclear(result);
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "the statement gives no result");
    }
    *ret_result = result;
    return 0;
}

int sp_pg_query(sp_pg_t *self, const char *sql, int n_params, const char *const *params,
                PGresult **ret_result, sp_error_t *err)
{
    return sp_pg_query_params(self, sql, &(sp_pg_params_t){.n = n_params, .values = params},
                              ret_result, err);
}

int sp_pg_value(sp_pg_t *self, const char *sql, int n_params, const char *const *params, char *out,
                size_t out_size, bool *ret_null, sp_error_t *err)
{
    PGresult *result = NULL;
    int rc = sp_pg_query(self, sql, n_params, params, &result, err);
    if (rc != 0)
        return rc;
    bool null = PQntuples(result) < 1 || PQnfields(result) < 1 || PQgetisnull(result, 0, 0);
    size_t len = null ? 0 : (size_t)PQgetlength(result, 0, 0);
    if (len >= out_size) {
        rc = sp_error_set(err, SP_E_TOO_LARGE,
                          "a value of %zu bytes where at most %zu were expected", len, out_size);
    } else {
        memcpy(out, null ? "" : PQgetvalue(result, 0, 0), len);
        out[len] = 0;
        if (ret_null != NULL)
            *ret_null = null;
    }
    PQclear(result);
    return rc;
}

// Whether the same statement can succeed later by itself.
static bool state_retryable(const char *state)
{
    static const char *const list[] = {"40001", "40P01", "40003", "55P03", "55006", "57P01",
                                       "57P02", "57P03", "53300", "SHP01", NULL};
    for (size_t i = 0; list[i] != NULL; i++)
        if (strcmp(state, list[i]) == 0)
            return true;
    // 08P01 is what parameters that do not fit the statement get.
    return strncmp(state, "08", 2) == 0 && strcmp(state, "08P01") != 0;
}

bool sp_pg_lock_refused(const sp_error_t *err)
{
    return err != NULL && err->code == SP_E_SQL_ERROR &&
           (strcmp(err->sqlstate, "55P03") == 0 || strcmp(err->sqlstate, "40P01") == 0);
}

int sp_pg_result_error(const PGresult *result, sp_error_t *err)
{
    const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE),
               *text = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL),
               *hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);
    if (state == NULL) // libpq's own: the connection broke
        return sp_error_set(err, SP_E_PG_CONNECTION, "lost the connection to PostgreSQL: %.500s",
                            PQresultErrorMessage(result));
    sp_error_set(err, SP_E_SQL_ERROR, "%.700s%s%.200s", text != NULL ? text : "",
                 hint != NULL ? " Hint: " : "", hint != NULL ? hint : "");
    if (err != NULL) {
        snprintf(err->sqlstate, sizeof err->sqlstate, "%s", state);
        sp_error_set_detail(err, detail);
        err->retryable = state_retryable(state);
    }
    return SP_E_SQL_ERROR;
}
