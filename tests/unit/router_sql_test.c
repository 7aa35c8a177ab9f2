// services/router/pure_sql.c: what a request may hold.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "services/router/pure_sql.h"

static void allowed(void **state)
{
    (void)state;
    static const struct {
        const char *sql;   // statement
        bool read, surely; // expected
    } good[] = {
        {"SELECT 1", true, true},
        {"select v from things where k = $1", true, true},
        {"/* a /* nested */ b */ SELECT 1 -- BEGIN\n", true, true},
        {"-- c\n(SELECT 1) UNION (VALUES (2));  -- end", true, true},
        {"SELECT count(*), max(x) FROM t WHERE a IN (1, 2) AND EXISTS (SELECT 1)", true, true},
        {"SELECT f(1)", true, false},
        {"SELECT public.\"count\"(1)", true, false},
        {"SELECT kv.replace($1, $2)", true, false},
        {"SELECT \"kv\" . /* */ count(1)", true, false},
        {"SELECT kv.set($1)", true, false},
        {"SELECT t.v, count(*) FROM s.t WHERE t.k IN (1.5, 2.)", true, true},
        {"SELECT 'BEGIN; COMMIT', \"into\", $$ ; set_config( $$, $a$;$a$, E'\\'; x', U&'a;b'", true,
         true},
        {"SELECT 'it''s; fine'", true, true},
        {"SELECT 'a'\n'b; ''c', 1", true, true},
        {"SELECT E'a' -- c\n -- d\n '\\'; set_config(', 1", true, true},
        {"SELECT E'a' /* c\n */, '\\', 1", true, true},
        {"SELECT name FROM pg_settings", true, true},
        {"INSERT INTO t SELECT 1 AS insert", false, false},
        {"WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", false, false},
        {"(WITH x AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM x)", false, false},
        {"SELECT $1, a$b, 1.5e3 FROM t", true, true},
        {"TABLE t", true, true},
        {"VALUES (1)", true, true},
        {"INSERT INTO t VALUES ($1)", false, false},
        {"insert\ninto t select 1", false, false},
        {"UPDATE t SET a = 1", false, false},
        {"DELETE FROM t", false, false},
        {"MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE", false, false},
        {"WITH x AS (SELECT 1) SELECT * FROM x", true, true},
        {"WITH x AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM x", false, false},
        {"SELECT * FROM t FOR UPDATE", false, false},
        {"EXPLAIN SELECT 1", true, true},
        {"EXPLAIN (ANALYZE, BUFFERS) UPDATE t SET a = 1", false, false},
        {"EXPLAIN ANALYZE VERBOSE SELECT 1", true, true},
        {"EXPLAIN (SELECT 1)", true, true},
        {"SELECT pg_advisory_xact_lock(1)", true, false},
        {"SELECT 1 /* not closed", true, true},
        {"SELECT 'not closed; x", true, true},
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        sql_class_t c = {0};
        sp_error_t err = {0};
        if (sql_classify(sp_str(good[i].sql), &c, &err) != 0)
            fail_msg("%s: %s", good[i].sql, err.text);
        if (c.read_keyword != good[i].read || (c.surely_reads && !good[i].surely))
            fail_msg("%s: %d %d", good[i].sql, c.read_keyword, c.surely_reads);
        if (good[i].surely)
            if (!c.surely_reads)
                fail_msg("not sure: %s", good[i].sql);
    }
}

static void refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "",
        " ",
        "-- only a comment",
        "/* a */",
        ";",
        "BEGIN",
        "COMMIT",
        "rollback",
        "/* x */ begin",
        "-- c\nCOMMIT",
        "START TRANSACTION",
        "SAVEPOINT a",
        "END",
        "abort",
        "PREPARE TRANSACTION 'x'",
        "COMMIT PREPARED 'x'",
        "RELEASE a",
        "SET x = 1",
        "SET SESSION AUTHORIZATION postgres",
        "RESET ALL",
        "SHOW x",
        "CREATE TABLE t (a int)",
        "DROP TABLE t",
        "ALTER TABLE t ADD a int",
        "TRUNCATE t",
        "COPY t FROM STDIN",
        "LISTEN a",
        "LOCK TABLE t",
        "DO $$ BEGIN END $$",
        "CALL p()",
        "EXECUTE p",
        "DECLARE c CURSOR FOR SELECT 1",
        "FETCH c",
        "DISCARD ALL",
        "VACUUM",
        "GRANT ALL ON t TO x",
        "SELECT 1; COMMIT",
        "SELECT 1;;SELECT 2",
        "SELECT 1; -- x\n SELECT 2",
        "SELECT $$a$$; SELECT 2",
        "SELECT 'a\\'; COMMIT --'",
        "SELECT 1 INTO t",
        "SELECT * INTO TEMP t FROM s",
        "WITH x AS (SELECT 1) SELECT * INTO t FROM x",
        "SELECT 1 AS insert INTO TEMP t",
        "SELECT 1 insert INTO t",
        "(SELECT (1) merge INTO t)",
        "WITH x AS (SELECT 1) SELECT 1 AS insert INTO t",
        "WITH insert AS (SELECT 1) SELECT 1 AS insert INTO t",
        "SELECT set_config('a', 'b', false)",
        "SELECT U&\"set\\005fconfig\"('a', 'b', false)",
        "SELECT E'a'\n'\\' ' , set_config('a', 'b', false) --'",
        "SELECT E'a' -- c\n'\\' ' , set_config('a', 'b', false) --'",
        "UPDATE pg_settings SET setting = 'b' WHERE name = 'a'",
        "WITH x AS (UPDATE pg_catalog.\"pg_settings\" SET setting = 'b' RETURNING 1) SELECT 1",
        "SELECT query_to_xml('SELECT set_config(''a'', ''b'', false)', true, true, '')",
        "SELECT * FROM ts_stat($1)",
        "SELECT pg_catalog.\"set_config\"('a', 'b', false)",
        "SELECT pg_advisory_lock(1)",
        "EXPLAIN CREATE TABLE t AS SELECT 1",
        "EXPLAIN ANALYZE EXECUTE p",
        "EXPLAIN (ANALYZE) BEGIN",
        "EXPLAIN",
        "\"select\" 1",
        "'select'",
        "$1",
        "(",
        "((((",
        "\xef\xbb\xbfSELECT 1",
        "EXPLAIN (",
        "SELECT e'\\\\'; COMMIT",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        sql_class_t c;
        sp_error_t err = {0};
        if (sql_classify(sp_str(wrong[i]), &c, &err) != SP_E_INVALID_ARGUMENT)
            fail_msg("accepted: %s", wrong[i]);
        assert_true(err.text[0] != 0);
    }
}

// Any bytes, in a block of exactly their size.
static void garbage(void **state)
{
    (void)state;
    static const char alphabet[] = "select insert into()';\"$$$a$/*--*/\n\\eE'U&";
    uint32_t seed = 7;
    for (int round = 0; round < 50000; round++) {
        size_t len = (seed >> 5) % 60;
        char *text = malloc(len + 1);
        assert_non_null(text);
        for (size_t i = 0; i < len; i++) {
            seed = seed * 1664525 + 1013904223;
            text[i] = seed % 11 == 0 ? (char)(seed >> 13)
                                     : alphabet[(seed >> 16) % (sizeof alphabet - 1)];
        }
        if (len >= 7 && round % 2 == 0)
            memcpy(text, "select ", 7); // NOLINT(bugprone-not-null-terminated-result): bytes
        char *exact = malloc(len > 0 ? len : 1);
        assert_non_null(exact);
        memcpy(exact, text, len);
        sql_class_t c;
        int rc = sql_classify((sp_str_t){exact, len}, &c, NULL);
        assert_true(rc == 0 || rc == SP_E_INVALID_ARGUMENT);
        free(exact);
        free(text);
        seed = seed * 1664525 + 1013904223;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(allowed), cmocka_unit_test(refused),
                                       cmocka_unit_test(garbage)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
