// common/pg against a real PostgreSQL: blocking connections, replication, pipelines.
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>

#include "common/base/clock.h"
#include "common/pg/conninfo.h"
#include "common/pg/pgoutput.h"
#include "common/pg/pipe.h"
#include "common/pg/replication.h"
#include "tests/contract/postgres_fixture.h"

static void done_ok(int rc, const sp_error_t *err)
{
    if (rc != 0)
        fail_msg("%s %s %s", sp_error_name(rc), err->sqlstate, err->text);
}

static void exec_ok(sp_pg_t *pg, const char *sql)
{
    sp_error_t err = {0};
    done_ok(sp_pg_exec(pg, sql, &err), &err);
}

// ---- blocking

static bool stopped_at_once(void *arg)
{
    return *(int64_t *)arg < sp_clock_mono_ms();
}

static void deadlines_and_stops(void **state)
{
    (void)state;
    sp_error_t err = {0};
    sp_pg_t *pg = fixture_open("shop_app", &(sp_pg_options_t){.query_timeout_ms = 200});
    int64_t start = sp_clock_mono_ms();
    assert_int_equal(sp_pg_exec(pg, "SELECT pg_sleep(20)", &err), SP_E_DEADLINE_EXCEEDED);
    assert_true(sp_clock_mono_ms() - start < 2000);
    exec_ok(pg, "SELECT 1"); // usable again
    sp_pg_close(&pg);
    int64_t stop = sp_clock_mono_ms() + 150;
    pg = fixture_open("shop_app",
                      &(sp_pg_options_t){.stopped = stopped_at_once, .stopped_arg = &stop});
    assert_int_equal(sp_pg_exec(pg, "SELECT pg_sleep(20)", &err), SP_E_CANCELLED);
    assert_true(sp_clock_mono_ms() - start < 4000);
    sp_pg_close(&pg);
}

static pid_t postmaster(void)
{
    char path[128], line[32] = "";
    snprintf(path, sizeof path, "%s/data/postmaster.pid", fixture_dir);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_non_null(fgets(line, sizeof line, f));
    fclose(f);
    return (pid_t)strtol(line, NULL, 10);
}

static pid_t frozen[2]; // server, backend

static void thaw(int signo)
{
    (void)signo;
    kill(frozen[0], SIGCONT);
    kill(frozen[1], SIGCONT);
}

// Neither the statement nor its cancel is answered: the caller waits no longer than for both.
static void frozen_server(void **state)
{
    (void)state;
    sp_error_t err = {0};
    sp_pg_t *pg = fixture_open("shop_app", &(sp_pg_options_t){.query_timeout_ms = 200});
    frozen[0] = postmaster();
    frozen[1] = (pid_t)sp_pg_backend_pid(pg);
    assert_true(frozen[0] > 1 && frozen[1] > 1);
    signal(SIGALRM, thaw);
    kill(frozen[0], SIGSTOP);
    kill(frozen[1], SIGSTOP);
    int64_t start = sp_clock_mono_ms();
    alarm(10); // an endless wait fails the test
    int rc = sp_pg_exec(pg, "SELECT 1", &err);
    int64_t spent = sp_clock_mono_ms() - start;
    alarm(0);
    thaw(0);
    assert_int_equal(rc, SP_E_DEADLINE_EXCEEDED);
    assert_true(spent < 5000);
    // A cancel that is still under way could hit another statement.
    assert_int_equal(sp_pg_exec(pg, "SELECT 1", &err), SP_E_PG_CONNECTION);
    sp_pg_close(&pg);
    pg = fixture_open("shop_app", NULL);
    exec_ok(pg, "SELECT 1");
    sp_pg_close(&pg);
}

static void errors_are_told(void **state)
{
    (void)state;
    sp_error_t err = {0};
    char out[4];
    bool null = false;
    sp_pg_t *pg = fixture_open("shop_app", NULL), *killer = fixture_open("shardplane_ddl", NULL);
    assert_int_equal(sp_pg_exec(pg, "SELEKT", &err), SP_E_SQL_ERROR);
    assert_string_equal(err.sqlstate, "42601");
    done_ok(sp_pg_value(pg, "SELECT NULL", 0, NULL, out, sizeof out, &null, &err), &err);
    assert_true(null);
    assert_int_equal(sp_pg_value(pg, "SELECT 'four'", 0, NULL, out, sizeof out, &null, &err),
                     SP_E_TOO_LARGE);
    done_ok(sp_pg_execf(killer, &err, "SELECT pg_terminate_backend(%d)", sp_pg_backend_pid(pg)),
            &err);
    assert_int_equal(sp_pg_exec(pg, "SELECT 1", &err), SP_E_PG_CONNECTION);
    assert_int_equal(sp_pg_exec(pg, "SELECT 1", &err), SP_E_PG_CONNECTION);
    sp_pg_close(&pg);
    sp_pg_close(&killer);
    // Long words are cut, but no character in two: whoever gets them on the bus would get nothing.
    pg = fixture_open("shop_app", NULL);
    for (int odd = 0; odd < 2; odd++) {
        assert_int_equal(sp_pg_execf(pg, &err,
                                     "DO $$ BEGIN RAISE EXCEPTION USING MESSAGE = '%s' || "
                                     "repeat('\303\251', 800), DETAIL = '%s' || "
                                     "repeat('\303\251', 800), HINT = '%s' || repeat('\303\251', "
                                     "800); END $$",
                                     odd ? "x" : "", odd ? "x" : "", odd ? "x" : ""),
                         SP_E_SQL_ERROR);
        assert_true(sp_str_valid_utf8(sp_str(err.text)) && strlen(err.text) > 600);
        assert_true(sp_str_valid_utf8(sp_str(err.detail)) && strlen(err.detail) > 500);
    }
    sp_pg_close(&pg);
    sp_dsn_t nobody = fixture_dsn("nobody");
    nobody.password = "CANARY";
    assert_int_equal(sp_pg_open(&pg, &nobody, NULL, &err), SP_E_PG_CONNECTION);
    assert_null(strstr(err.text, "CANARY"));
    assert_null(pg);
    sp_dsn_t closed = fixture_dsn("shop_app");
    closed.port = 1;
    assert_int_equal(sp_pg_open(&pg, &closed, NULL, &err), SP_E_PG_CONNECTION);
}

static void parameters_in_both_forms(void **state)
{
    (void)state;
    sp_error_t err = {0};
    PGresult *result = NULL;
    sp_pg_t *pg = fixture_open("shop_app", NULL);
    const char *values[] = {"\0\0\0\7", "8", NULL};
    const int lengths[] = {4, 0, 0}, formats[] = {1, 0, 0};
    sp_pg_params_t params = {3, values, lengths, formats, true};
    done_ok(sp_pg_query_params(pg, "SELECT $1::int4, $2::int4, $3::text", &params, &result, &err),
            &err);
    assert_int_equal(PQfformat(result, 1), 1);
    assert_memory_equal(PQgetvalue(result, 0, 0), "\0\0\0\7", 4);
    assert_memory_equal(PQgetvalue(result, 0, 1), "\0\0\0\10", 4);
    assert_true(PQgetisnull(result, 0, 2));
    PQclear(result);
    sp_pg_close(&pg);
}

static void copy_round_trip(void **state)
{
    (void)state;
    sp_error_t err = {0};
    int64_t rows = 0;
    const char *data = NULL;
    int len = 0, n = 0;
    sp_pg_t *pg = fixture_open("shop_owner", NULL);
    exec_ok(pg, "CREATE TABLE public.c (a int, b text)");
    done_ok(sp_pg_copy_start(pg, "COPY public.c FROM STDIN", &err), &err);
    for (int i = 0; i < 20000; i++)
        done_ok(sp_pg_copy_put(pg, "1\thello, this is a row of some length\n", 38, &err), &err);
    done_ok(sp_pg_copy_end(pg, NULL, &rows, &err), &err);
    assert_int_equal(rows, 20000);
    done_ok(sp_pg_copy_start(pg, "COPY public.c TO STDOUT", &err), &err);
    for (;;) {
        done_ok(sp_pg_copy_get(pg, &data, &len, &err), &err);
        if (len < 0)
            break;
        assert_int_equal(len, 38);
        n++;
    }
    assert_int_equal(n, 20000);
    done_ok(sp_pg_copy_start(pg, "COPY public.c FROM STDIN", &err), &err);
    done_ok(sp_pg_copy_end(pg, "enough", &rows, &err), &err);
    done_ok(sp_pg_copy_start(pg, "COPY public.c FROM STDIN", &err), &err);
    done_ok(sp_pg_copy_put(pg, "x\ty\n", 4, &err), &err);
    assert_int_equal(sp_pg_copy_end(pg, NULL, &rows, &err), SP_E_SQL_ERROR);
    assert_string_equal(err.sqlstate, "22P02");
    exec_ok(pg, "DROP TABLE public.c");
    sp_pg_close(&pg);
}

// ---- replication

static void stream(void **state)
{
    (void)state;
    sp_error_t err = {0};
    sp_lsn_t point = 0;
    char snapshot[64], system_id[32];
    int timeline = 0;
    sp_pg_t *owner = fixture_open("shop_owner", NULL);
    exec_ok(owner, "CREATE TABLE public.s (id int PRIMARY KEY, t text); INSERT INTO public.s "
                   "VALUES (1, 'before'); CREATE PUBLICATION \"p'ub\" FOR TABLE public.s");
    sp_pg_t *sender = fixture_open("shardplane_apply", &(sp_pg_options_t){.replication = true});
    done_ok(sp_repl_identify(sender, system_id, sizeof system_id, &timeline, NULL, &err), &err);
    assert_int_equal(timeline, 1);
    done_ok(sp_repl_drop_slot(sender, "none_there", &err), &err);
    done_ok(sp_repl_create_slot(sender, "slot1", false, true, &point, snapshot, sizeof snapshot,
                                &err),
            &err);
    sp_pg_t *reader = fixture_open("shardplane_apply", NULL);
    exec_ok(owner, "INSERT INTO public.s VALUES (2, 'after'); SELECT pg_logical_emit_message(true, "
                   "'shardplane', 'mark')");
    done_ok(sp_pg_execf(reader, &err,
                        "BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '%s'",
                        snapshot),
            &err);
    char count[8];
    done_ok(sp_pg_value(reader, "SELECT count(*) FROM public.s", 0, NULL, count, sizeof count, NULL,
                        &err),
            &err);
    assert_string_equal(count, "1");
    done_ok(sp_repl_start(sender, "slot1", point, "p'ub", true, &err), &err);
    bool inserted = false, marked = false;
    sp_arena_t *arena = sp_arena_new(0);
    sp_lsn_t last = 0;
    for (int64_t until = sp_clock_mono_ms() + 5000;
         sp_clock_mono_ms() < until && !(inserted && marked && last != 0);) {
        sp_repl_message_t m;
        sp_pgo_message_t change;
        done_ok(sp_repl_receive(sender, 200, &m, &err), &err);
        if (m.kind != SP_REPL_DATA)
            continue;
        done_ok(sp_pgo_parse(m.data, m.len, arena, &change, &err), &err);
        inserted = inserted || (change.kind == SP_PGO_INSERT && change.new_row.n == 2 &&
                                change.new_row.columns[0].kind == 'b');
        marked = marked ||
                 (change.kind == SP_PGO_MESSAGE && change.content_len == 4 && change.transactional);
        last = change.kind == SP_PGO_COMMIT ? change.end_lsn : last;
    }
    assert_true(inserted && marked && last > point);
    done_ok(sp_repl_feedback(sender, last, last, true, &err), &err);
    sp_repl_message_t m;
    done_ok(sp_repl_receive(sender, 2000, &m, &err), &err);
    assert_int_equal(m.kind, SP_REPL_KEEPALIVE);
    sp_pg_close(&sender);
    sender = fixture_open("shardplane_apply", &(sp_pg_options_t){.replication = true});
    done_ok(sp_repl_drop_slot(sender, "slot1", &err), &err);
    sp_pg_close(&sender);
    sp_pg_close(&reader);
    exec_ok(owner, "DROP TABLE public.s; DROP PUBLICATION \"p'ub\"");
    sp_pg_close(&owner);
    sp_arena_destroy(&arena);
}

// ---- pipelines

typedef struct answer {
    bool done;        // told
    sp_error_t err;   // how
    size_t statement; // where
    int rows;         // seen
    char last[64];    // last value of the first column
} answer_t;

static void on_result(void *arg, size_t index, const PGresult *result)
{
    answer_t *a = arg;
    (void)index;
    for (int i = 0; i < PQntuples(result); i++, a->rows++)
        snprintf(a->last, sizeof a->last, "%s", PQgetvalue(result, i, 0));
}

static void on_done(void *arg, const sp_error_t *err, size_t statement)
{
    answer_t *a = arg;
    assert_false(a->done);
    a->done = true;
    a->err = *err;
    a->statement = statement;
}

static void turn(sp_pipe_t *pipe)
{
    sp_pipe_tick(pipe);
    struct pollfd p = {sp_pipe_fd(pipe),
                       (short)(POLLIN | (sp_pipe_wants_write(pipe) ? POLLOUT : 0)), 0};
    if (poll(&p, p.fd >= 0, 20) > 0)
        sp_pipe_ready(pipe);
}

static void wait_for(sp_pipe_t *pipe, const bool *flag)
{
    for (int64_t until = sp_clock_mono_ms() + 10000; !*flag;) {
        turn(pipe);
        if (sp_clock_mono_ms() > until)
            fail_msg("no answer");
    }
}

static void wait_up(sp_pipe_t *pipe)
{
    for (int64_t until = sp_clock_mono_ms() + 10000; !sp_pipe_up(pipe);) {
        turn(pipe);
        if (sp_clock_mono_ms() > until)
            fail_msg("not up: %s", sp_pipe_fault(pipe));
    }
}

static sp_pipe_t *pipe_open(const char *user, size_t cache)
{
    sp_pipe_t *pipe = NULL;
    sp_error_t err = {0};
    sp_dsn_t dsn = fixture_dsn(user);
    done_ok(sp_pipe_new(&pipe, &dsn,
                        &(sp_pipe_options_t){.application_name = "test", .cache = cache}, &err),
            &err);
    wait_up(pipe);
    return pipe;
}

#define S(text)                                                                                    \
    {                                                                                              \
        .sql = (text)                                                                              \
    }
#define SEND(pipe, list, answer)                                                                   \
    send_request(pipe, list, sizeof(list) / sizeof((list)[0]), answer, 5000, false)
#define SEND_READ(pipe, list, answer)                                                              \
    send_request(pipe, list, sizeof(list) / sizeof((list)[0]), answer, 5000, true)

static void send_request(sp_pipe_t *pipe, const sp_pipe_statement_t *list, size_t n, answer_t *a,
                         int64_t ms, bool read_only)
{
    sp_error_t err = {0};
    const sp_pipe_request_t request = {list,    n, sp_clock_mono_ms() + ms, read_only, on_result,
                                       on_done, a};
    *a = (answer_t){0};
    done_ok(sp_pipe_submit(pipe, &request, &err), &err);
}

static int64_t scalar(const char *sql)
{
    sp_pg_t *pg = fixture_open("shop_owner", NULL);
    char out[32] = "";
    sp_error_t err = {0};
    done_ok(sp_pg_value(pg, sql, 0, NULL, out, sizeof out, NULL, &err), &err);
    sp_pg_close(&pg);
    return strtoll(out, NULL, 10);
}

static void make_table(void)
{
    sp_pg_t *pg = fixture_open("shop_owner", NULL);
    exec_ok(pg, "DROP TABLE IF EXISTS public.p; CREATE TABLE public.p (id int PRIMARY KEY, ref int "
                "REFERENCES public.p DEFERRABLE INITIALLY DEFERRED)");
    sp_pg_close(&pg);
}

static void pipelined(void **state)
{
    (void)state;
    make_table();
    sp_pipe_t *pipe = pipe_open("shop_app", 0);
    answer_t answers[300];
    static const char *const one[] = {"7"};
    static const sp_pipe_statement_t read[] = {S("SELECT generate_series(1, 3)"),
                                               {.sql = "SELECT $1::int",
                                                .n_params = 1,
                                                .values = one}};
    for (int i = 0; i < 300; i++)
        SEND_READ(pipe, read, &answers[i]);
    assert_int_equal(sp_pipe_depth(pipe), 300);
    for (int i = 0; i < 300; i++) {
        wait_for(pipe, &answers[i].done);
        assert_int_equal(answers[i].err.code, 0);
        assert_int_equal(answers[i].rows, 4);
        assert_string_equal(answers[i].last, "7");
    }
    assert_int_equal(sp_pipe_depth(pipe), 0);
    sp_pipe_destroy(&pipe);
}

// One request is one transaction; the ones before and behind it do not notice.
static void errors_roll_back(void **state)
{
    (void)state;
    make_table();
    sp_pipe_t *pipe = pipe_open("shop_app", 0);
    answer_t a, b, c, d, e;
    static const sp_pipe_statement_t good[] = {S("INSERT INTO public.p VALUES (1)")};
    static const sp_pipe_statement_t bad[] = {S("INSERT INTO public.p VALUES (2)"),
                                              S("INSERT INTO public.p VALUES (1)"), S("SELECT 50")};
    static const sp_pipe_statement_t at_commit[] = {S("INSERT INTO public.p VALUES (3, 99)")};
    static const sp_pipe_statement_t broken[] = {S("SELECT 5"), S("SELEKT"), S("SELECT 6")};
    static const sp_pipe_statement_t last[] = {S("SELECT 6"), S("SELECT count(*) FROM public.p")};
    SEND(pipe, good, &a);
    SEND(pipe, bad, &b);
    SEND(pipe, at_commit, &c);
    SEND(pipe, broken, &d);
    SEND(pipe, last, &e); // its SELECT 6 leans on the Parse that was skipped behind SELEKT
    wait_for(pipe, &e.done);
    assert_int_equal(a.err.code, 0);
    assert_int_equal(b.err.code, SP_E_SQL_ERROR);
    assert_string_equal(b.err.sqlstate, "23505");
    assert_int_equal(b.statement, 1);
    assert_int_equal(c.err.code, SP_E_SQL_ERROR);
    assert_string_equal(c.err.sqlstate, "23503");
    assert_int_equal(c.statement, 1); // the commit
    assert_string_equal(d.err.sqlstate, "42601");
    assert_int_equal(e.err.code, SP_E_UNAVAILABLE);
    assert_true(e.err.retryable);
    SEND(pipe, last, &e);
    wait_for(pipe, &e.done);
    assert_int_equal(e.err.code, 0);
    assert_string_equal(e.last, "1");
    assert_int_equal(scalar("SELECT count(*) FROM public.p"), 1);
    sp_pipe_destroy(&pipe);
}

static void cache_is_bounded(void **state)
{
    (void)state;
    sp_pipe_t *pipe = pipe_open("shop_app", 16);
    answer_t a;
    for (int i = 0; i < 100; i++) {
        char sql[32];
        snprintf(sql, sizeof sql, "SELECT %d", i % 40);
        sp_pipe_statement_t s[] = {{.sql = sql}};
        SEND(pipe, s, &a);
        wait_for(pipe, &a.done);
        assert_int_equal(a.err.code, 0);
    }
    static const sp_pipe_statement_t count[] = {S("SELECT count(*) FROM pg_prepared_statements")};
    SEND(pipe, count, &a);
    wait_for(pipe, &a.done);
    assert_true(strtol(a.last, NULL, 10) <= 16);
    sp_pipe_destroy(&pipe);
}

// A backend that stops while the cache is being emptied: nobody asked for that, and yet it must not hold the connection for ever.
static void frozen_while_the_cache_is_emptied(void **state)
{
    (void)state;
    sp_pipe_t *pipe = pipe_open("shop_app", 2);
    answer_t a;
    static const sp_pipe_statement_t pid[] = {S("SELECT pg_backend_pid()"), S("SELECT 1")};
    static const sp_pipe_statement_t last[] = {S("SELECT 3")};
    static const sp_pipe_statement_t again[] = {S("SELECT pg_backend_pid()")};
    SEND(pipe, again, &a);
    wait_for(pipe, &a.done);
    pid_t backend = (pid_t)strtol(a.last, NULL, 10);
    SEND(pipe, pid, &a);
    wait_for(pipe, &a.done);
    assert_true(backend > 1);
    frozen[0] = frozen[1] = backend;
    signal(SIGALRM, thaw);
    kill(backend, SIGSTOP);
    alarm(30);
    send_request(pipe, last, 1, &a, 300, true);
    assert_int_equal(sp_pipe_depth(pipe), 2);
    wait_for(pipe, &a.done);
    assert_int_equal(a.err.code, SP_E_DEADLINE_EXCEEDED);
    for (int64_t until = sp_clock_mono_ms() + 10000; sp_pipe_up(pipe);) {
        turn(pipe);
        if (sp_clock_mono_ms() > until) {
            thaw(0);
            fail_msg("still up");
        }
    }
    alarm(0);
    thaw(0);
    sp_pipe_destroy(&pipe);
}

static void changed_plan_is_made_again(void **state)
{
    (void)state;
    make_table();
    sp_pipe_t *pipe = pipe_open("shop_app", 0);
    answer_t a;
    static const sp_pipe_statement_t all[] = {S("SELECT * FROM public.p")};
    SEND(pipe, all, &a);
    wait_for(pipe, &a.done);
    scalar("SELECT 1");
    sp_pg_t *pg = fixture_open("shop_owner", NULL);
    exec_ok(pg, "ALTER TABLE public.p ADD COLUMN more text");
    sp_pg_close(&pg);
    SEND(pipe, all, &a);
    wait_for(pipe, &a.done);
    assert_int_equal(a.err.code, SP_E_UNAVAILABLE);
    SEND(pipe, all, &a);
    wait_for(pipe, &a.done);
    assert_int_equal(a.err.code, 0);
    sp_pipe_destroy(&pipe);
}

static void kill_backends(void)
{
    scalar("SELECT 1");
    sp_pg_t *pg = fixture_open("shardplane_ddl", NULL);
    exec_ok(pg, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
                "'test'");
    sp_pg_close(&pg);
}

static void lost_connections(void **state)
{
    (void)state;
    make_table();
    sp_pipe_t *pipe = pipe_open("shop_app", 0);
    answer_t a, b, c;
    static const sp_pipe_statement_t slow[] = {S("SELECT pg_sleep(30)")};
    static const sp_pipe_statement_t write[] = {S("INSERT INTO public.p VALUES (1)")};
    SEND(pipe, slow, &a);
    SEND(pipe, write, &b);
    SEND_READ(pipe, slow, &c);
    turn(pipe);
    kill_backends();
    wait_for(pipe, &c.done);
    assert_int_equal(a.err.code,
                     SP_E_UNAVAILABLE); // told to be rolled back by the server's last word
    assert_int_equal(b.err.code, SP_E_OUTCOME_UNKNOWN);
    assert_int_equal(c.err.code, SP_E_UNAVAILABLE);
    assert_false(sp_pipe_up(pipe));
    sp_error_t err = {0};
    assert_int_equal(sp_pipe_submit(pipe, &(sp_pipe_request_t){.statements = write, .n = 1}, &err),
                     SP_E_UNAVAILABLE);
    wait_up(pipe);
    assert_int_equal(sp_pipe_connects(pipe), 2);
    SEND(pipe, write, &b);
    wait_for(pipe, &b.done);
    assert_int_equal(b.err.code, 0);
    SEND(pipe, slow, &a);
    sp_pipe_destroy(&pipe);
    assert_true(a.done);
    assert_int_equal(a.err.code, SP_E_OUTCOME_UNKNOWN);
}

static void late_answers(void **state)
{
    (void)state;
    sp_pipe_t *pipe = pipe_open("shop_app", 0);
    answer_t a, b, c;
    static const sp_pipe_statement_t slow[] = {S("SELECT pg_sleep(1)")};
    static const sp_pipe_statement_t fast[] = {S("SELECT 5")};
    send_request(pipe, slow, 1, &a, 100, false);
    send_request(pipe, slow, 1, &b, 100, true);
    SEND(pipe, fast, &c);
    wait_for(pipe, &b.done);
    assert_int_equal(a.err.code, SP_E_OUTCOME_UNKNOWN);
    assert_int_equal(b.err.code, SP_E_DEADLINE_EXCEEDED);
    assert_int_equal(sp_pipe_depth(pipe), 3);
    wait_for(pipe, &c.done);
    assert_int_equal(c.err.code, 0);
    assert_int_equal(c.rows, 1);
    sp_pipe_destroy(&pipe);
}

static void nobody_there(void **state)
{
    (void)state;
    sp_pipe_t *pipe = NULL;
    sp_error_t err = {0};
    sp_dsn_t dsn = fixture_dsn("shop_app");
    dsn.port = 1;
    dsn.password = "CANARY";
    done_ok(sp_pipe_new(&pipe, &dsn, &(sp_pipe_options_t){0}, &err), &err);
    for (int i = 0; i < 20; i++)
        turn(pipe);
    assert_false(sp_pipe_up(pipe));
    assert_non_null(strstr(sp_pipe_fault(pipe), "refused"));
    assert_null(strstr(sp_pipe_fault(pipe), "CANARY"));
    sp_pipe_destroy(&pipe);
}

// ---- who else has a say

static void environment_is_ignored(void **state)
{
    (void)state;
    setenv("PGHOSTADDR", "127.9.9.9", 1); // nobody listens there
    setenv("PGSERVICE", "none such", 1);
    setenv("PGTARGETSESSIONATTRS", "standby", 1);
    sp_conninfo_ignore_environment();
    sp_pg_t *pg = fixture_open("shop_app", NULL);
    exec_ok(pg, "SELECT 1");
    sp_pg_close(&pg);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(deadlines_and_stops),
                                       cmocka_unit_test(frozen_server),
                                       cmocka_unit_test(errors_are_told),
                                       cmocka_unit_test(parameters_in_both_forms),
                                       cmocka_unit_test(copy_round_trip),
                                       cmocka_unit_test(stream),
                                       cmocka_unit_test(pipelined),
                                       cmocka_unit_test(errors_roll_back),
                                       cmocka_unit_test(cache_is_bounded),
                                       cmocka_unit_test(frozen_while_the_cache_is_emptied),
                                       cmocka_unit_test(changed_plan_is_made_again),
                                       cmocka_unit_test(lost_connections),
                                       cmocka_unit_test(late_answers),
                                       cmocka_unit_test(nobody_there),
                                       cmocka_unit_test(environment_is_ignored)};
    return cmocka_run_group_tests(tests, fixture_start, fixture_stop);
}
