#include "services/resharder/lane.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "services/resharder/lane_session.h"

enum {
    FULL_ANSWERS = 2048,          // answers outstanding before the follower waits
    FULL_BYTES = 4 * 1024 * 1024, // sent since the pipeline was quiet
    BIG_ROWS = 5000,              // a transaction of the target ends behind so many changes
    BIG_BYTES = 4 * 1024 * 1024,  // or bytes
    MAX_PARAMS = 3400,            // 1600 columns to set and as many to compare
    KEY_TEXT = 160,               // of a row, for people
};

typedef enum {
    ANSWER_PLAIN,
    ANSWER_HOLD,
    ANSWER_ONE_ROW,
    ANSWER_FETCH,
    ANSWER_COMMIT,
    ANSWER_SYNC
} answer_kind_t;
typedef struct answer {
    answer_kind_t kind; // what must come
    bool seen;          // its result came, the NULL behind it did not
    shape_kind_t op;    // ONE_ROW: for the error
    char row[KEY_TEXT]; // ONE_ROW: for the error
} answer_t;

struct lane {
    task_t *task;             // borrowed
    size_t target;            // index
    sp_pg_t *pg;              // connection, in pipeline mode
    PGconn *conn;             // the same
    sp_lsn_t durable;         // committed
    sp_lsn_t reached;         // what the open transaction will make durable
    int64_t reached_us;       // its last commit on the source
    bool open;                // BEGIN was sent
    int64_t opened_ms;        // monotonic, of BEGIN
    size_t tx_rows, tx_bytes; // of the open transaction
    size_t unanswered_bytes;  // sent since the pipeline was quiet
    int64_t rows;             // sent in all
    answer_t *answers;        // ring of what must come
    size_t first, n_answers;  // its first and count
    bool *prepared;           // a shape each
    size_t n_prepared;        // allocated
    PGresult *fetched;        // of the last fetch
    const char **values;      // of one statement
    int *lengths, *formats;   // of one statement
    char epoch[2][24];        // generation and epoch, as parameters
    const char *job_id;       // of the task's arena
    const char *origin;       // of the task's arena
};

#define ANSWERS_MAX 4096

int lane_open(lane_t **ret_self, task_t *task, size_t target, sp_error_t *err)
{
    lane_t *self = calloc(1, sizeof *self);
    if (self) {
        self->answers = calloc(ANSWERS_MAX, sizeof *self->answers);
        self->values = calloc(MAX_PARAMS, sizeof *self->values);
        self->lengths = calloc(MAX_PARAMS, sizeof *self->lengths);
        self->formats = calloc(MAX_PARAMS, sizeof *self->formats);
    }
    if (!self || !self->answers || !self->values || !self->lengths || !self->formats) {
        lane_close(&self);
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a lane");
    }
    self->task = task;
    self->target = target;
    self->job_id = sp_arena_cstr(task->arena, task->assign->job_id);
    self->origin = lane_session_origin(task, target);
    snprintf(self->epoch[0], sizeof self->epoch[0], "%lld", (long long)task->epoch.generation);
    snprintf(self->epoch[1], sizeof self->epoch[1], "%lld", (long long)task->epoch.epoch);
    int rc = lane_session_open(task, target, &self->pg, &self->durable, err);
    if (!rc) {
        self->conn = sp_pg_conn(self->pg);
        if (!PQenterPipelineMode(self->conn))
            rc = sp_error_set(err, SP_E_INTERNAL, "libpq refuses pipeline mode");
    }
    if (rc) {
        lane_close(&self);
        return rc;
    }
    *ret_self = self;
    return 0;
}

void lane_close(lane_t **self_p)
{
    lane_t *self = *self_p;
    if (!self)
        return;
    PQclear(self->fetched);
    sp_pg_close(&self->pg);
    free(self->answers);
    free(self->prepared);
    free(self->values);
    free(self->lengths);
    free(self->formats);
    free(self);
    *self_p = NULL;
}

sp_lsn_t lane_durable(const lane_t *self)
{
    return self->durable;
}

bool lane_is_open(const lane_t *self)
{
    return self->open;
}

int64_t lane_age_ms(const lane_t *self)
{
    return self->open ? sp_clock_mono_ms() - self->opened_ms : 0;
}

bool lane_is_big(const lane_t *self)
{
    return self->tx_rows >= BIG_ROWS || self->tx_bytes >= BIG_BYTES;
}

bool lane_is_full(const lane_t *self)
{
    return self->n_answers >= FULL_ANSWERS || self->unanswered_bytes >= FULL_BYTES;
}

bool lane_is_quiet(const lane_t *self)
{
    return self->n_answers == 0;
}

int64_t lane_rows(const lane_t *self)
{
    return self->rows;
}

static int lost(lane_t *self, sp_error_t *err)
{
    char words[256];
    snprintf(words, sizeof words, "%s", PQerrorMessage(self->conn));
    sp_dsn_scrub(&self->task->targets[self->target].apply, words);
    for (char *c = words; *c; c++)
        if (*c == '\n')
            *c = ' ';
    return sp_error_set(err, SP_E_PG_CONNECTION, "lost the apply connection to shard %s: %s",
                        self->task->targets[self->target].shard_id, words);
}

static answer_t *expect(lane_t *self, answer_kind_t kind)
{
    // The caller waits while lane_is_full(); a statement adds a handful.
    answer_t *a = &self->answers[(self->first + self->n_answers++) % ANSWERS_MAX];
    a->kind = kind;
    a->seen = false;
    a->row[0] = 0;
    return a;
}

static int send_plain(lane_t *self, answer_kind_t kind, const char *sql, int n,
                      const char *const *params, sp_error_t *err)
{
    if (!PQsendQueryParams(self->conn, sql, n, NULL, params, NULL, NULL, 0))
        return lost(self, err);
    expect(self, kind);
    return 0;
}

// A stale follower must not write: the transaction holds the control row of its own epoch until its end, or fails by the division.
static const char hold_sql[] = "SELECT 1 / (SELECT count(*)::int4 FROM (SELECT FROM "
                               "shardplane.control WHERE generation = $1 AND epoch = $2 "
                               "FOR SHARE) held)";

static int begin(lane_t *self, sp_error_t *err)
{
    if (self->open)
        return 0;
    const char *params[] = {self->epoch[0], self->epoch[1]};
    int rc = send_plain(self, ANSWER_PLAIN, "BEGIN", 0, NULL, err);
    if (!rc)
        rc = send_plain(self, ANSWER_HOLD, hold_sql, 2, params, err);
    if (rc)
        return rc;
    self->open = true;
    self->opened_ms = sp_clock_mono_ms();
    self->tx_rows = self->tx_bytes = 0;
    return 0;
}

static int prepare(lane_t *self, const follow_shape_t *shape, sp_error_t *err)
{
    if (shape->number >= self->n_prepared) {
        size_t n = shape->number + 64;
        bool *grown = realloc(self->prepared, n * sizeof *grown);
        if (!grown)
            return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a prepared statement");
        memset(grown + self->n_prepared, 0, (n - self->n_prepared) * sizeof *grown);
        self->prepared = grown;
        self->n_prepared = n;
    }
    if (self->prepared[shape->number])
        return 0;
    if (!PQsendPrepare(self->conn, shape->name, shape->sql, 0, NULL))
        return lost(self, err);
    expect(self, ANSWER_PLAIN);
    self->prepared[shape->number] = true;
    return 0;
}

static void add_param(lane_t *self, int *n, const sp_pgo_datum_t *d)
{
    self->values[*n] = d->kind == 'n' ? NULL : d->data;
    self->lengths[*n] = d->kind == 'n' ? 0 : d->len;
    self->formats[*n] = d->kind == 'b';
    // libpq wants text terminated. The byte behind a value is the next column's kind, which has been read, or the buffer's own end.
    if (d->kind == 't')
        ((char *)(uintptr_t)d->data)[d->len] = 0;
    self->tx_bytes += (size_t)self->lengths[*n];
    self->unanswered_bytes += (size_t)self->lengths[*n];
    ++*n;
}

static int bind(lane_t *self, const follow_relation_t *r, const follow_shape_t *shape,
                const sp_pgo_tuple_t *row, const sp_pgo_tuple_t *where, sp_error_t *err)
{
    int n = 0;
    bool sets = shape->kind == SHAPE_INSERT || shape->kind == SHAPE_UPDATE;
    for (int i = 0; sets && row && i < r->n; i++)
        if (shape->set[i])
            add_param(self, &n, &row->columns[i]);
    for (int i = 0; shape->kind != SHAPE_INSERT && i < r->n; i++) {
        if (!r->identify[i])
            continue;
        if (where->columns[i].kind != 't' && where->columns[i].kind != 'b')
            return sp_error_set(err, SP_E_MALFORMED,
                                "a change of %s without all columns of its replica identity",
                                r->table->qualified);
        add_param(self, &n, &where->columns[i]);
    }
    if (n != shape->n_params)
        return sp_error_set(err, SP_E_INTERNAL, "a statement for %s has %d parameters, not %d",
                            r->table->qualified, n, shape->n_params);
    if (!PQsendQueryPrepared(self->conn, shape->name, n, self->values, self->lengths, self->formats,
                             self->task->assign->binary_stream))
        return lost(self, err);
    return 0;
}

int lane_send(lane_t *self, const follow_relation_t *relation, const follow_shape_t *shape,
              const sp_pgo_tuple_t *row, const sp_pgo_tuple_t *where, sp_error_t *err)
{
    char text[KEY_TEXT];
    follow_row_text(relation, where ? where : row, text,
                    sizeof text); // before values are terminated in place
    int rc = begin(self, err);
    if (!rc)
        rc = prepare(self, shape, err);
    if (!rc)
        rc = bind(self, relation, shape, row, where, err);
    if (rc)
        return rc;
    answer_t *a = expect(self, ANSWER_ONE_ROW);
    a->op = shape->kind;
    memcpy(a->row, text, sizeof a->row);
    self->tx_rows++;
    self->rows++;
    return 0;
}

int lane_fetch(lane_t *self, const follow_relation_t *relation, const follow_shape_t *shape,
               const sp_pgo_tuple_t *where, sp_error_t *err)
{
    PQclear(self->fetched);
    self->fetched = NULL;
    int rc = begin(self, err);
    if (!rc)
        rc = prepare(self, shape, err);
    if (!rc)
        rc = bind(self, relation, shape, NULL, where, err);
    if (!rc)
        expect(self, ANSWER_FETCH);
    return rc;
}

PGresult *lane_fetched(lane_t *self)
{
    PGresult *result = self->fetched;
    self->fetched = NULL;
    return result;
}

int lane_touch(lane_t *self, sp_lsn_t position, sp_error_t *err)
{
    char lsn[SP_LSN_TEXT];
    const char *params[] = {sp_lsn_print(position, lsn), self->job_id, self->origin};
    int rc = begin(self, err);
    if (!rc)
        rc = send_plain(self, ANSWER_ONE_ROW,
                        "UPDATE shardplane.lane SET applied_lsn = $1 WHERE job_id = $2 AND origin "
                        "= $3",
                        3, params, err);
    if (rc)
        return rc;
    answer_t *a = &self->answers[(self->first + self->n_answers - 1) % ANSWERS_MAX];
    a->op = SHAPE_UPDATE;
    snprintf(a->row, sizeof a->row, "shardplane.lane (%.60s)", self->origin);
    lane_reached(self, position, sp_clock_wall_us());
    return 0;
}

void lane_reached(lane_t *self, sp_lsn_t end_lsn, int64_t commit_us)
{
    if (end_lsn > self->reached) {
        self->reached = end_lsn;
        self->reached_us = commit_us;
    }
}

int lane_ask(lane_t *self, sp_error_t *err)
{
    if (self->n_answers > 0 && !PQsendFlushRequest(self->conn))
        return lost(self, err);
    return PQflush(self->conn) < 0 ? lost(self, err) : 0;
}

int lane_commit(lane_t *self, sp_error_t *err)
{
    char lsn[SP_LSN_TEXT], day[32], stamp[48];
    time_t seconds = (time_t)(self->reached_us / 1000000);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    strftime(day, sizeof day, "%Y-%m-%d %H:%M:%S", &tm);
    snprintf(stamp, sizeof stamp, "%s.%06d+00", day, (int)(self->reached_us % 1000000));
    const char *params[] = {sp_lsn_print(self->reached, lsn), stamp};
    // The last call before COMMIT: whatever fails before leaves the origin where it was.
    int rc = send_plain(self, ANSWER_PLAIN, "SELECT pg_replication_origin_xact_setup($1, $2)", 2,
                        params, err);
    if (!rc)
        rc = send_plain(self, ANSWER_COMMIT, "COMMIT", 0, NULL, err);
    if (rc)
        return rc;
    if (!PQpipelineSync(self->conn))
        return lost(self, err);
    expect(self, ANSWER_SYNC);
    return PQflush(self->conn) < 0 ? lost(self, err) : 0;
}

int lane_socket(const lane_t *self)
{
    return PQsocket(self->conn);
}

short lane_events(const lane_t *self)
{
    return (short)(POLLIN | (PQflush(self->conn) > 0 ? POLLOUT : 0));
}

// ---- answers

static int failed(lane_t *self, const answer_t *a, const PGresult *result, sp_error_t *err)
{
    const char *shard = self->task->targets[self->target].shard_id;
    static const char *const words[] = {"INSERT into", "UPDATE of", "DELETE from", "read of"};
    if (PQstatus(self->conn) != CONNECTION_OK)
        return lost(self, err);
    int rc = sp_pg_result_error(result, err);
    if (a->kind == ANSWER_HOLD && err && strcmp(err->sqlstate, "22012") == 0)
        return sp_error_set(err, SP_E_STALE_EPOCH, "shard %s belongs to a newer leader", shard);
    if (a->kind == ANSWER_ONE_ROW)
        return sp_error_prefix(err, "shard %s, %s %s", shard, words[a->op], a->row);
    return rc == SP_E_SQL_ERROR ? sp_error_prefix(err, "shard %s", shard) : rc;
}

static int check(lane_t *self, const answer_t *a, PGresult *result, sp_error_t *err)
{
    static const char *const words[] = {"INSERT", "UPDATE", "DELETE", "read"};
    const char *shard = self->task->targets[self->target].shard_id;
    ExecStatusType status = PQresultStatus(result);
    if (a->kind == ANSWER_SYNC)
        return status == PGRES_PIPELINE_SYNC
                   ? 0
                   : sp_error_set(err, SP_E_INTERNAL, "shard %s answered out of step", shard);
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
        return failed(self, a, result, err);
    if (a->kind == ANSWER_ONE_ROW && strcmp(PQcmdTuples(result), "1") != 0) {
        sp_error_set(err, SP_E_VALIDATION_FAILED,
                     "shard %s has diverged: %s of %s hit %s rows instead of one", shard,
                     words[a->op], a->row, PQcmdTuples(result));
        task_retryable(err, false);
        return SP_E_VALIDATION_FAILED;
    }
    if (a->kind == ANSWER_COMMIT && strcmp(PQcmdStatus(result), "COMMIT") != 0)
        return sp_error_set(err, SP_E_INTERNAL, "shard %s answered COMMIT with %s", shard,
                            PQcmdStatus(result));
    return 0;
}

static void pop(lane_t *self)
{
    self->first = (self->first + 1) % ANSWERS_MAX;
    if (--self->n_answers == 0)
        self->unanswered_bytes = 0;
}

static void committed(lane_t *self)
{
    self->open = false;
    if (self->reached > self->durable)
        self->durable = self->reached;
}

int lane_pump(lane_t *self, sp_error_t *err)
{
    if (!PQconsumeInput(self->conn) || PQflush(self->conn) < 0)
        return lost(self, err);
    while (self->n_answers > 0 && !PQisBusy(self->conn)) {
        answer_t *a = &self->answers[self->first];
        PGresult *result = PQgetResult(self->conn);
        if (!result) {
            if (!a->seen)
                return lost(self, err);
            pop(self);
            continue;
        }
        int rc = a->seen ? 0 : check(self, a, result, err);
        if (!rc && a->kind == ANSWER_FETCH && !a->seen) {
            self->fetched = result;
            result = NULL;
        }
        PQclear(result);
        if (rc)
            return rc;
        a->seen = true;
        if (a->kind == ANSWER_SYNC) { // no NULL comes behind it
            pop(self);
            committed(self);
        }
    }
    if (PQstatus(self->conn) != CONNECTION_OK)
        return lost(self, err);
    return 0;
}
