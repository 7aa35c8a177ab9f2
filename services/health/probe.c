// A probe: idle -> connecting -> asking -> idle. A kept connection that turns out dead is replaced within the same round, so that a
// restarted server does not count as a failure once it is back.
#include "services/health/probe.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/pg/conninfo.h"
#include "common/pg/pg.h"

static const char question[] =
    "SELECT pg_is_in_recovery(),"
    " (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - "
    "'0/0'::pg_lsn)::int8,"
    " EXISTS (SELECT FROM pg_stat_wal_receiver),"
    " (SELECT system_identifier FROM pg_control_system())::text,"
    " (SELECT timeline_id FROM pg_control_checkpoint())";
enum { COL_RECOVERY, COL_LSN, COL_RECEIVING, COL_SYSTEM, COL_TIMELINE, COLUMNS };

typedef enum { IDLE, CONNECTING, ASKING } stage_t;
enum { RECONNECT_ROUNDS = 10 };

struct probe {
    char shard_id[64];          // shard
    int64_t index;              // 0 the primary
    sp_arena_t *arena;          // owns sealed and dsn
    sp_str_t sealed;            // as in the catalog
    sp_dsn_t dsn;               // in clear
    char broken[512];           // why the DSN cannot be used, else ""
    PGconn *conn;               // or NULL
    stage_t stage;              // where the round stands
    bool reused;                // this round goes over a kept connection
    int kept_rounds;            // rounds over this connection
    short events;               // to wait for
    int64_t deadline_ms;        // of the round
    int64_t asked_us;           // when the query was sent
    sp_error_t err;             // of the last failure
    char system_identifier[32]; // of the last answer
};

probe_t *probe_new(const sp_msg_probe_server_t *server, const sp_seal_t *seal)
{
    probe_t *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    self->arena = sp_arena_new(64 * 1024);
    if (self->arena)
        self->sealed = sp_arena_str(self->arena, server->dsn);
    if (!self->sealed.ptr) {
        probe_destroy(&self);
        return NULL;
    }
    snprintf(self->shard_id, sizeof self->shard_id, SP_STR_FMT, SP_STR_ARG(server->shard_id));
    self->index = server->index;
    sp_str_t clear;
    sp_error_t err;
    if (sp_seal_decrypt(seal, self->sealed, self->arena, &clear, &err) ||
        sp_dsn_parse(clear, self->arena, &self->dsn, &err))
        snprintf(self->broken, sizeof self->broken, "its DSN cannot be used: %.400s", err.text);
    return self;
}

static void drop_connection(probe_t *self)
{
    PQfinish(self->conn);
    self->conn = NULL;
    self->stage = IDLE;
}

void probe_destroy(probe_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    drop_connection(*self_p);
    sp_arena_destroy(&(*self_p)->arena);
    free(*self_p);
    *self_p = NULL;
}

bool probe_is_for(const probe_t *self, const sp_msg_probe_server_t *server)
{
    return self->index == server->index && sp_str_eqz(server->shard_id, self->shard_id) &&
           sp_str_eq(server->dsn, self->sealed);
}

const char *probe_shard(const probe_t *self)
{
    return self->shard_id;
}

int64_t probe_index(const probe_t *self)
{
    return self->index;
}

bool probe_running(const probe_t *self)
{
    return self->stage != IDLE;
}

int probe_fd(const probe_t *self, short *ret_events)
{
    if (self->stage == IDLE || !self->conn)
        return -1;
    *ret_events = self->events;
    return PQsocket(self->conn);
}

static void begin_connecting(probe_t *self)
{
    self->reused = false;
    self->kept_rounds = 0;
    self->stage = CONNECTING;
    self->events = POLLOUT;
    sp_conninfo_t info;
    if (self->broken[0]) {
        sp_error_set(&self->err, SP_E_PG_CONNECTION, "%s", self->broken);
        return;
    }
    if (sp_conninfo_make(&info, &self->dsn, "shardplane/health/probe", NULL, false, NULL,
                         &self->err))
        return;
    self->conn = PQconnectStartParams(info.keywords, info.values, 0);
    sp_conninfo_free(&info);
    if (self->conn)
        PQsetnonblocking(self->conn, 1);
    else
        sp_error_set(&self->err, SP_E_OUT_OF_MEMORY, "no memory for a connection");
}

static void begin_asking(probe_t *self)
{
    self->stage = ASKING;
    self->asked_us = sp_clock_mono_us();
    self->events = PQsendQuery(self->conn, question) ? POLLIN | POLLOUT : 0;
}

void probe_start(probe_t *self, int64_t deadline_ms)
{
    if (self->stage != IDLE)
        return;
    self->deadline_ms = deadline_ms;
    // Kept sessions go on when the postmaster hangs, so now and then a new one must be possible.
    if (self->conn && ++self->kept_rounds >= RECONNECT_ROUNDS)
        drop_connection(self);
    if (self->conn) {
        self->reused = true;
        begin_asking(self);
    } else {
        begin_connecting(self);
    }
}

// The round has failed. err is filled by the caller, or from the connection.
static bool fail_round(probe_t *self, probe_outcome_t *ret)
{
    drop_connection(self);
    *ret = (probe_outcome_t){.ok = false, .error = self->err.text};
    return true;
}

static bool fail_connection(probe_t *self, const char *what, probe_outcome_t *ret)
{
    if (self->reused) { // it may only be an old connection
        drop_connection(self);
        begin_connecting(self);
        return false;
    }
    sp_conninfo_failed(&self->dsn, what, self->conn ? PQerrorMessage(self->conn) : "", &self->err);
    return fail_round(self, ret);
}

static bool take_answer(probe_t *self, const PGresult *result, probe_outcome_t *ret)
{
    if (PQntuples(result) != 1 || PQnfields(result) != COLUMNS) {
        sp_error_set(&self->err, SP_E_PG_CONNECTION, "the answer to a probe has the wrong form");
        return false;
    }
    *ret = (probe_outcome_t){.ok = true,
                             .latency_ms = (double)(sp_clock_mono_us() - self->asked_us) / 1000.0};
    ret->in_recovery = PQgetvalue(result, 0, COL_RECOVERY)[0] == 't';
    ret->receiving = PQgetvalue(result, 0, COL_RECEIVING)[0] == 't';
    sp_str_to_int64(sp_str(PQgetvalue(result, 0, COL_LSN)),
                    &ret->lsn); // NULL is "": nothing replayed, 0
    sp_str_to_int64(sp_str(PQgetvalue(result, 0, COL_TIMELINE)), &ret->timeline);
    snprintf(self->system_identifier, sizeof self->system_identifier, "%s",
             PQgetvalue(result, 0, COL_SYSTEM));
    ret->system_identifier = self->system_identifier;
    return true;
}

static bool step_connecting(probe_t *self, short revents, probe_outcome_t *ret)
{
    if (!self->conn)
        return fail_round(self, ret);
    if (PQstatus(self->conn) == CONNECTION_BAD)
        return fail_connection(self, "cannot connect", ret);
    if (!revents)
        return false; // libpq takes a call as news of the socket
    switch (PQconnectPoll(self->conn)) {
    case PGRES_POLLING_READING:
        self->events = POLLIN;
        break;
    case PGRES_POLLING_WRITING:
        self->events = POLLOUT;
        break;
    case PGRES_POLLING_OK:
        begin_asking(self);
        break;
    default:
        return fail_connection(self, "cannot connect", ret);
    }
    return false;
}

static bool step_asking(probe_t *self, short revents, probe_outcome_t *ret)
{
    if (self->events == 0)
        return fail_connection(self, "lost", ret);
    int unsent = PQflush(self->conn);
    if (unsent < 0 || ((revents & (POLLIN | POLLERR | POLLHUP)) && !PQconsumeInput(self->conn)))
        return fail_connection(self, "lost", ret);
    self->events = unsent ? POLLIN | POLLOUT : POLLIN;
    bool have = false;
    while (!PQisBusy(self->conn)) {
        PGresult *result = PQgetResult(self->conn);
        if (!result) {
            if (!have)
                return fail_connection(self, "lost", ret);
            self->stage = IDLE; // the connection is kept for the next round
            return true;
        }
        if (PQresultStatus(result) == PGRES_TUPLES_OK && take_answer(self, result, ret)) {
            have = true;
            PQclear(result);
            continue;
        }
        if (PQresultStatus(result) != PGRES_TUPLES_OK)
            sp_pg_result_error(result, &self->err);
        PQclear(result);
        // Class 57P ends the session only: a shutdown, if it lasts, shows on the next connection.
        bool ended =
            PQstatus(self->conn) == CONNECTION_BAD || strncmp(self->err.sqlstate, "57P", 3) == 0;
        return self->reused && ended ? fail_connection(self, "lost", ret) : fail_round(self, ret);
    }
    if (PQstatus(self->conn) == CONNECTION_BAD)
        return fail_connection(self, "lost", ret);
    return false;
}

bool probe_step(probe_t *self, short revents, probe_outcome_t *ret_outcome)
{
    if (self->stage == IDLE)
        return false;
    if (sp_clock_mono_ms() >= self->deadline_ms) {
        sp_error_set(&self->err, SP_E_DEADLINE_EXCEEDED, "no answer in time (%s)",
                     self->stage == CONNECTING ? "while connecting" : "connected, the query hangs");
        return fail_round(self, ret_outcome);
    }
    if (self->stage == CONNECTING)
        return step_connecting(self, revents, ret_outcome);
    return step_asking(self, revents, ret_outcome);
}
