// Cutting of pg_restore's verbose script.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "services/resharder/pure_dump.h"

static const char head[] =
    "--\n-- PostgreSQL database dump\n--\n\n\\restrict KeY1\n\nSET lock_timeout = 0;\n\n";
static const char entry_a[] =
    "--\n-- TOC entry 215 (class 1259 OID 16389)\n-- Name: a; Type: TABLE; Schema: public; Owner: "
    "o\n-- Data Pos: 0\n--\n\n"
    "CREATE TABLE a (t text DEFAULT '\n--\n-- TOC entry 5 (class x OID 1)\n');\n\n\n";
static const char entry_b[] = "--\n-- TOC entry 3 (class 0 OID 0)\n-- Dependencies: 215 6\n-- "
                              "Name: b\n--\n\nCOMMENT ON TABLE a IS '\n\\restrict x\n';\n\n";
static const char tail[] =
    "\n\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict KeY1\n\n";

static char *join(const char *a, const char *b, const char *c, const char *d)
{
    char *text = malloc(4096);
    assert_non_null(text);
    snprintf(text, 4096, "%s%s%s%s", a, b, c, d);
    return text;
}

static void test_cut(void **state)
{
    (void)state;
    sp_arena_t *arena = sp_arena_new(0);
    sp_error_t err = {0};
    dump_section_t section;
    char *text = join(head, entry_a, entry_b, tail);
    assert_int_equal(dump_cut(text, arena, &section, &err), 0);
    assert_int_equal(section.n, 2);
    assert_non_null(strstr(section.prelude, "SET lock_timeout = 0;"));
    assert_null(strstr(section.prelude, "restrict"));
    assert_int_equal(section.entries[0].id, 215);
    assert_int_equal(section.entries[0].class_oid, 1259);
    assert_int_equal(section.entries[0].oid, 16389);
    assert_int_equal(section.entries[0].n_deps, 0);
    assert_non_null(strstr(section.entries[0].sql, "CREATE TABLE a"));
    assert_non_null(
        strstr(section.entries[0].sql, "-- TOC entry 5")); // within a statement: not a mark
    assert_null(strstr(section.entries[0].sql, "COMMENT"));
    assert_int_equal(section.entries[1].id, 3);
    assert_int_equal(section.entries[1].n_deps, 2);
    assert_int_equal(section.entries[1].deps[0], 215);
    assert_int_equal(section.entries[1].deps[1], 6);
    assert_non_null(strstr(section.entries[1].sql, "\n\\restrict x\n")); // a user's own line stays
    assert_null(strstr(section.entries[1].sql, "unrestrict"));           // psql's does not
    free(text);
    sp_arena_destroy(&arena);
}

static void test_list(void **state)
{
    (void)state;
    static const char list[] = ";\n;     TOC Entries: 2\n;\n3; 0 0 COMMENT public TABLE a o\n"
                               "215; 1259 16389 TABLE public a o\n";
    sp_arena_t *arena = sp_arena_new(0);
    sp_error_t err = {0};
    dump_section_t sections[2];
    char *pre = join(head, entry_a, tail, ""), *post = join(head, entry_b, tail, "");
    assert_int_equal(dump_cut(pre, arena, &sections[0], &err), 0);
    assert_int_equal(dump_cut(post, arena, &sections[1], &err), 0);
    assert_int_equal(dump_check(sections, 2, list, arena, &err), 0);
    // One that is not listed, one that is there twice, one that is missing.
    assert_int_equal(dump_check(sections, 2, "215; 1 2 TABLE", arena, &err), SP_E_MALFORMED);
    sections[1] = sections[0];
    assert_int_equal(dump_check(sections, 2, list, arena, &err), SP_E_MALFORMED);
    assert_int_equal(dump_check(sections, 1, list, arena, &err), SP_E_MALFORMED);
    free(pre);
    free(post);
    sp_arena_destroy(&arena);
}

static void test_older_release(void **state)
{
    (void)state;
    sp_arena_t *arena = sp_arena_new(0);
    sp_error_t err = {0};
    dump_section_t section;
    char *text = join("--\n\nSET a = 0;\n\n", entry_b, "", "\n--\n");
    assert_int_equal(dump_cut(text, arena, &section, &err), 0);
    assert_int_equal(section.n, 1);
    assert_non_null(strstr(section.entries[0].sql, "\n\\restrict x\n"));
    free(text);
    text = join("", "", "", "");
    assert_int_equal(dump_cut(text, arena, &section, &err), 0);
    assert_int_equal(section.n, 0);
    free(text);
    text = join(head, "--\n-- TOC entry 3 (class 0 OID 0)\n-- Dependencies: 215 6", "", "");
    assert_int_equal(dump_cut(text, arena, &section, &err), SP_E_MALFORMED);
    free(text);
    sp_arena_destroy(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cut), cmocka_unit_test(test_list),
                                       cmocka_unit_test(test_older_release)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
