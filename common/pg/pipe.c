#include "common/pg/pipe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/pg/conninfo.h"
#include "common/pg/pg.h"
#include "common/pg/stmt_cache.h"

enum {
    CONNECT_MS = 3000,
    STATEMENT_MS = 30000,
    CACHE = 256,
    CACHED_SQL_MAX = 16384, // longer texts are parsed each time
    BACKOFF_BASE_MS = 50,
    BACKOFF_CAP_MS = 2000,
    STUCK_MS = 5000, // what is still not answered this long after it was due ends the connection
};

typedef enum { DOWN, CONNECTING, UP } state_t;

// A request on its way. Steps come back in order: for each statement maybe Parse, then its execution; at last Sync.
typedef struct flight {
    struct flight *next;       // sent after this one
    sp_pipe_request_t request; // done NULL: given up, or our own
    int64_t due;               // its deadline; our own: when it became the head
    sp_error_t err;            // first error of the group
    size_t failed;             // statement of err
    size_t at;                 // statement whose answer is expected; n: Sync
    bool parsing;              // its Parse is expected first
    uint64_t *prepared;        // number that each statement made (bit 63) or uses; 0: unnamed
} flight_t;

#define MADE (UINT64_C(1) << 63)

struct sp_pipe {
    sp_arena_t *arena;                 // of dsn
    sp_dsn_t dsn;                      // copy
    sp_pipe_options_t options;         // application_name points into the arena
    state_t state;                     // connection
    PGconn *conn;                      // NULL when down
    PostgresPollingStatusType polling; // while connecting
    int64_t timer;                     // DOWN: next try; CONNECTING: give up
    int attempt;                       // for the backoff
    int64_t connects;                  // made
    bool want_write;                   // libpq holds bytes
    bool doomed; // sending failed: closed at the next tick, because submit calls nobody back
    bool armed;  // the head's execution is in single-row mode
    flight_t *head, **tail; // in the order sent
    size_t depth;           // of the list
    sp_stmt_cache_t cache;  // prepared here
    char fault[400];        // why it is down
};

// ---- answers

// Takes the head off and tells its owner.
static void finish_head(sp_pipe_t *self)
{
    flight_t *f = self->head;
    self->head = f->next;
    if (self->head == NULL)
        self->tail = &self->head;
    self->depth--;
    self->armed = false;
    if (f->request.done != NULL)
        f->request.done(f->request.arg, &f->err, f->failed);
    free(f->prepared);
    free(f);
}

// Ends a request whose Sync was sent and whose answer will not come.
static void lose(flight_t *f, const char *why)
{
    if (f->err.code != 0) // rolled back for a reason that is known
        return;
    f->failed = f->request.n;
    if (f->request.read_only)
        sp_error_set(&f->err, SP_E_UNAVAILABLE, "lost the connection to the shard: %.300s", why);
    else
        sp_error_set(&f->err, SP_E_OUTCOME_UNKNOWN,
                     "lost the connection to the shard while the transaction was under way: %.300s",
                     why);
}

static void go_down(sp_pipe_t *self, const char *why)
{
    sp_error_t err;
    sp_conninfo_failed(&self->dsn, "shard", why, &err);
    snprintf(self->fault, sizeof self->fault, "%.399s", err.text);
    PQfinish(self->conn);
    self->conn = NULL;
    self->state = DOWN;
    self->want_write = self->doomed = false;
    sp_stmt_cache_clear(&self->cache);
    self->timer =
        sp_clock_mono_ms() + sp_random_backoff_ms(self->attempt, BACKOFF_BASE_MS, BACKOFF_CAP_MS);
    self->attempt += self->attempt < 10;
    // A callback may submit to another pipe, never to this one: it is down.
    while (self->head != NULL) {
        lose(self->head, self->fault);
        finish_head(self);
    }
}

static void arm_head(sp_pipe_t *self)
{
    flight_t *f = self->head;
    if (f != NULL && f->due == 0)
        f->due = sp_clock_mono_ms();
    if (f == NULL || self->armed || f->parsing || f->at >= f->request.n)
        return;
    self->armed = true;
    PQsetSingleRowMode(self->conn); // without it the result comes whole: also right
}

static void take_error(sp_pipe_t *self, flight_t *f, const PGresult *result)
{
    const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
    if (f->err.code != 0 ||
        sqlstate ==
            NULL) // without SQLSTATE: libpq's own word for a lost connection, which go_down() judges
        return;
    bool at_commit = f->at >= f->request.n;
    bool fatal = severity != NULL && strcmp(severity, "ERROR") != 0;
    if (at_commit && fatal)
        return; // committed or not: lose() says so
    sp_pg_result_error(result, &f->err);
    sp_dsn_scrub(&self->dsn, f->err.text);
    f->failed = f->at;
    if (!at_commit && f->prepared != NULL &&
        (strcmp(sqlstate, "26000") == 0 || strcmp(sqlstate, "0A000") == 0) &&
        f->prepared[f->at] != 0) {
        // Another request's Parse failed that this one relied on, or DDL changed the plan's result: prepared anew the next time.
        sp_stmt_cache_forget(&self->cache, f->prepared[f->at] & ~MADE);
        if ((f->prepared[f->at] & MADE) == 0)
            sp_error_set(&f->err, SP_E_UNAVAILABLE, "the prepared statement must be made again");
    } else if (fatal) { // the session is ending; what it was doing is rolled back
        sp_error_set(&f->err, SP_E_UNAVAILABLE, "the shard ended the session: %s", f->err.text);
    } else if (strcmp(sqlstate, "57014") == 0 &&
               sp_clock_mono_ms() + 50 >= f->request.deadline_mono_ms) {
        sp_error_set(&f->err, SP_E_DEADLINE_EXCEEDED,
                     "the statement was cancelled at its deadline");
    }
}

// After an error the group is skipped to its Sync: what was to be prepared in the rest was not.
static void forget_unmade(sp_pipe_t *self, flight_t *f)
{
    for (size_t i = f->failed; f->prepared != NULL && i < f->request.n; i++)
        if ((f->prepared[i] & MADE) != 0 && (i > f->failed || f->parsing))
            sp_stmt_cache_forget(&self->cache, f->prepared[i] & ~MADE);
}

// One result of the head; NULL ends a step. False when the connection is lost.
static bool take_result(sp_pipe_t *self, const PGresult *result)
{
    flight_t *f = self->head;
    if (result == NULL) {
        if (f->at >= f->request.n)
            return PQstatus(self->conn) == CONNECTION_OK;
        self->armed = false;
        if (f->parsing)
            f->parsing = false;
        else if (++f->at < f->request.n)
            f->parsing = f->prepared != NULL && (f->prepared[f->at] & MADE) != 0;
        arm_head(self);
        return true;
    }
    switch (PQresultStatus(result)) {
    case PGRES_PIPELINE_SYNC:
        finish_head(self);
        arm_head(self);
        return true;
    case PGRES_SINGLE_TUPLE:
    case PGRES_TUPLES_OK:
    case PGRES_COMMAND_OK:
    case PGRES_EMPTY_QUERY:
        if (!f->parsing && f->err.code == 0 && f->at < f->request.n &&
            f->request.on_result != NULL && f->request.done != NULL)
            f->request.on_result(f->request.arg, f->at, result);
        return true;
    case PGRES_PIPELINE_ABORTED:
        return true;
    case PGRES_FATAL_ERROR: {
        bool first = f->err.code == 0;
        take_error(self, f, result);
        if (first && f->err.code != 0)
            forget_unmade(self, f);
        return PQstatus(self->conn) == CONNECTION_OK;
    }
    default: // COPY and the like, which no statement may start here
        return false;
    }
}

static void read_results(sp_pipe_t *self)
{
    while (self->state == UP && self->head != NULL && !PQisBusy(self->conn)) {
        PGresult *result = PQgetResult(self->conn);
        bool good = take_result(self, result);
        PQclear(result);
        if (!good)
            go_down(self, PQerrorMessage(self->conn));
    }
    if (self->state == UP && self->head == NULL && PQstatus(self->conn) != CONNECTION_OK)
        go_down(self, PQerrorMessage(self->conn));
}

static void flush(sp_pipe_t *self)
{
    int left = PQflush(self->conn);
    self->want_write = left == 1;
    if (left < 0) { // the server may have told why before it closed
        PQconsumeInput(self->conn);
        read_results(self);
        if (self->state == UP)
            go_down(self, PQerrorMessage(self->conn));
    }
}

// ---- connecting

static void start_connect(sp_pipe_t *self)
{
    char timeout[48];
    snprintf(timeout, sizeof timeout, "statement_timeout=%d", self->options.statement_timeout_ms);
    const char *more[] = {timeout,
                          self->options.read_only ? "default_transaction_read_only=on" : NULL,
                          NULL};
    sp_conninfo_t info = {0};
    sp_error_t err = {0};
    self->timer = sp_clock_mono_ms() + self->options.connect_timeout_ms;
    if (sp_conninfo_make(&info, &self->dsn, self->options.application_name, "", false, more,
                         &err) == 0)
        self->conn = PQconnectStartParams(info.keywords, info.values, 0);
    sp_conninfo_free(&info);
    self->state = CONNECTING;
    self->polling = PGRES_POLLING_WRITING;
    if (self->conn == NULL || PQstatus(self->conn) == CONNECTION_BAD)
        go_down(self, self->conn != NULL ? PQerrorMessage(self->conn) : "out of memory");
}

static void go_on_connecting(sp_pipe_t *self)
{
    self->polling = PQconnectPoll(self->conn);
    if (self->polling == PGRES_POLLING_FAILED) {
        go_down(self, PQerrorMessage(self->conn));
    } else if (self->polling == PGRES_POLLING_OK) {
        if (PQsetnonblocking(self->conn, 1) != 0 || PQenterPipelineMode(self->conn) != 1) {
            go_down(self, "the connection cannot be pipelined");
            return;
        }
        // A primary's address may lead to a standby, during a failover say: what is read there may be old.
        const char *standby = PQparameterStatus(self->conn, "in_hot_standby");
        if (!self->options.read_only && standby != NULL && strcmp(standby, "on") == 0) {
            go_down(self, "the server is a standby, and no primary");
            return;
        }
        PQsetNoticeReceiver(self->conn, sp_conninfo_drop_notice, NULL);
        self->state = UP;
        self->attempt = 0;
        self->connects++;
        self->fault[0] = 0;
    }
}

// ---- the loop's side

int sp_pipe_new(sp_pipe_t **ret_self, const sp_dsn_t *dsn, const sp_pipe_options_t *options,
                sp_error_t *err)
{
    sp_pipe_t *self = calloc(1, sizeof *self);
    if (self != NULL && (self->arena = sp_arena_new(0)) != NULL &&
        sp_dsn_copy(dsn, self->arena, &self->dsn)) {
        self->options = *options;
        self->options.application_name = options->application_name != NULL
                                             ? sp_arena_strz(self->arena, options->application_name)
                                             : NULL;
        self->options.connect_timeout_ms =
            options->connect_timeout_ms > 0 ? options->connect_timeout_ms : CONNECT_MS;
        self->options.statement_timeout_ms =
            options->statement_timeout_ms > 0 ? options->statement_timeout_ms : STATEMENT_MS;
        self->tail = &self->head;
        snprintf(self->fault, sizeof self->fault, "not connected yet");
        if (sp_stmt_cache_init(&self->cache, options->cache > 0 ? options->cache : CACHE)) {
            *ret_self = self;
            return 0;
        }
    }
    sp_pipe_destroy(&self);
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a connection");
}

void sp_pipe_destroy(sp_pipe_t **self_p)
{
    sp_pipe_t *self = *self_p;
    if (self == NULL)
        return;
    *self_p = NULL;
    if (self->tail != NULL)
        go_down(self, "the router gave the connection up");
    sp_stmt_cache_free(&self->cache);
    sp_arena_destroy(&self->arena);
    free(self);
}

int sp_pipe_fd(const sp_pipe_t *self)
{
    return self->conn != NULL ? PQsocket(self->conn) : -1;
}

bool sp_pipe_wants_write(const sp_pipe_t *self)
{
    return self->state == CONNECTING ? self->polling == PGRES_POLLING_WRITING : self->want_write;
}

void sp_pipe_ready(sp_pipe_t *self)
{
    if (self->state == CONNECTING) {
        go_on_connecting(self);
        return;
    }
    if (self->state != UP)
        return;
    if (PQconsumeInput(self->conn) == 0) {
        read_results(self); // what came before the end
        if (self->state == UP)
            go_down(self, PQerrorMessage(self->conn));
        return;
    }
    read_results(self);
    if (self->state == UP && self->want_write)
        flush(self);
}

// Requests that are late: told so now; their answers are dropped when they come.
static void check_deadlines(sp_pipe_t *self, int64_t now)
{
    if (self->head != NULL && now > self->head->due + STUCK_MS) {
        go_down(self, "a request was not answered for too long");
        return;
    }
    for (flight_t *f = self->head; f != NULL; f = f->next) {
        if (f->request.done == NULL || now < f->request.deadline_mono_ms)
            continue;
        sp_error_t err = f->err;
        if (err.code == 0 && f->request.read_only)
            sp_error_set(&err, SP_E_DEADLINE_EXCEEDED,
                         "the shard did not answer before the deadline");
        else if (err.code == 0)
            sp_error_set(&err, SP_E_OUTCOME_UNKNOWN,
                         "the shard did not answer before the deadline; the transaction may still "
                         "be committed");
        sp_pipe_done_fn *done = f->request.done;
        f->request.done = NULL; // first: the callback's memory ends with it
        done(f->request.arg, &err, f->err.code != 0 ? f->failed : f->request.n);
    }
}

void sp_pipe_tick(sp_pipe_t *self)
{
    int64_t now = sp_clock_mono_ms();
    if (self->state == DOWN && now >= self->timer)
        start_connect(self);
    else if (self->state == CONNECTING && now >= self->timer)
        go_down(self, "no answer within the connect timeout");
    else if (self->state == UP && self->doomed)
        go_down(self, "sending failed");
    else if (self->state == UP)
        check_deadlines(self, now);
}

bool sp_pipe_up(const sp_pipe_t *self)
{
    return self->state == UP && !self->doomed;
}

size_t sp_pipe_depth(const sp_pipe_t *self)
{
    return self->depth;
}

const char *sp_pipe_fault(const sp_pipe_t *self)
{
    return self->fault;
}

int64_t sp_pipe_connects(const sp_pipe_t *self)
{
    return self->connects;
}

// ---- sending

static flight_t *flight_new(const sp_pipe_request_t *request)
{
    flight_t *f = calloc(1, sizeof *f);
    if (f == NULL || (f->prepared = calloc(request->n, sizeof *f->prepared)) == NULL) {
        free(f);
        return NULL;
    }
    f->request = *request;
    if (f->request.deadline_mono_ms > INT64_MAX / 2)
        f->request.deadline_mono_ms = INT64_MAX / 2;
    f->due = f->request.deadline_mono_ms;
    return f;
}

static void append(sp_pipe_t *self, flight_t *f)
{
    f->parsing = (f->prepared[0] & MADE) != 0;
    *self->tail = f;
    self->tail = &f->next;
    self->depth++;
    arm_head(self);
}

// Queues one statement: 1, or 0 when libpq refuses.
static int send_statement(sp_pipe_t *self, const sp_pipe_statement_t *s, uint64_t *prepared)
{
    char name[SP_STMT_NAME];
    bool cached = strlen(s->sql) <= CACHED_SQL_MAX;
    uint64_t number = cached ? sp_stmt_cache_find(&self->cache, s->sql) : 0;
    *prepared = number;
    if (number == 0 && cached && !sp_stmt_cache_full(&self->cache, 1) &&
        (number = sp_stmt_cache_add(&self->cache, s->sql)) != 0) {
        *prepared = number | MADE;
        if (PQsendPrepare(self->conn, sp_stmt_cache_name(number, name), s->sql, 0, NULL) != 1)
            return 0;
    }
    if (number == 0)
        return PQsendQueryParams(self->conn, s->sql, s->n_params, NULL, s->values, NULL, NULL, 0);
    return PQsendQueryPrepared(self->conn, sp_stmt_cache_name(number, name), s->n_params, s->values,
                               NULL, NULL, 0);
}

static int send_group(sp_pipe_t *self, const sp_pipe_request_t *request)
{
    flight_t *f = flight_new(request);
    int sent = f != NULL;
    for (size_t i = 0; sent == 1 && i < request->n; i++)
        sent = send_statement(self, &request->statements[i], &f->prepared[i]);
    if (sent == 1)
        sent = PQpipelineSync(self->conn);
    if (sent == 1) {
        append(self, f);
        return 0;
    }
    if (f != NULL)
        free(f->prepared);
    free(f);
    return -1;
}

// Empties the server's prepared statements and the cache together, in a group of its own that a request's failure cannot skip.
static int empty_cache(sp_pipe_t *self)
{
    static const sp_pipe_statement_t deallocate = {.sql = "DEALLOCATE ALL"};
    sp_pipe_request_t request = {.statements = &deallocate, .n = 1};
    flight_t *f = flight_new(&request);
    if (f == NULL ||
        PQsendQueryParams(self->conn, deallocate.sql, 0, NULL, NULL, NULL, NULL, 0) != 1 ||
        PQpipelineSync(self->conn) != 1) {
        if (f != NULL)
            free(f->prepared);
        free(f);
        return -1;
    }
    append(self, f);
    sp_stmt_cache_clear(&self->cache);
    return 0;
}

int sp_pipe_submit(sp_pipe_t *self, const sp_pipe_request_t *request, sp_error_t *err)
{
    if (!sp_pipe_up(self))
        return sp_error_set(err, SP_E_UNAVAILABLE, "%s", self->fault);
    if (request->n == 0)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "a request without statements");
    if ((sp_stmt_cache_full(&self->cache, request->n) && empty_cache(self) != 0) ||
        send_group(self, request) != 0) {
        // Part of a group may be in libpq's buffer, but no Sync: the server rolls it back when the connection ends.
        self->doomed = true;
        return sp_error_set(err, SP_E_UNAVAILABLE, "the statement cannot be sent: %.200s",
                            PQerrorMessage(self->conn));
    }
    int left = PQflush(self->conn);
    self->want_write =
        left != 0; // a failure shows at the next ready or tick, never from inside this call
    return 0;
}
