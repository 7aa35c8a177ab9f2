#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "common/pg/dsn.h"

static int setup(void **state)
{
    return (*state = sp_arena_new(0)) == NULL;
}

static int teardown(void **state)
{
    sp_arena_t *arena = *state;
    sp_arena_destroy(&arena);
    return 0;
}

static sp_dsn_t parsed(sp_arena_t *arena, const char *text)
{
    sp_dsn_t dsn = {0};
    sp_error_t err = {0};
    if (sp_dsn_parse(sp_str(text), arena, &dsn, &err) != 0)
        fail_msg("%s: %s", text, err.text);
    return dsn;
}

static void uri(void **state)
{
    sp_dsn_t d = parsed(*state, "postgresql://app:s3%2Fcr%40t@db.example:6432/"
                                "shop?sslmode=verify-full&application_name=x%20y");
    assert_string_equal(d.user, "app");
    assert_string_equal(d.password, "s3/cr@t");
    assert_string_equal(d.host, "db.example");
    assert_int_equal(d.port, 6432);
    assert_string_equal(d.database, "shop");
    assert_string_equal(d.sslmode, "verify-full");
    assert_string_equal(d.application_name, "x y");
    d = parsed(*state, "postgres://u@[::1]/d");
    assert_string_equal(d.host, "::1");
    assert_int_equal(d.port, 5432);
    assert_null(d.password);
    d = parsed(*state, "postgresql://u:p@h/d?connect_timeout=10&keepalives=1");
    assert_string_equal(d.password, "p");
}

static void keywords(void **state)
{
    sp_dsn_t d = parsed(*state, " host=h port = 1  dbname='my db' user=u password='it\\'s \\\\'  ");
    assert_string_equal(d.database, "my db");
    assert_string_equal(d.password, "it's \\");
    assert_int_equal(d.port, 1);
}

// What is printed is read back as the same.
static void round_trip(void **state)
{
    static const char *const texts[] =
        {"host=h dbname='a/b?c#d' user='x:y@z' password='%s &=;'",
         "host=::1 dbname=d user=u password=p port=65535", "postgresql://u:p@[fe80::1%25eth0]/d",
         "host='::1]@other:1/' dbname=d user=u password=p",
         "host=h dbname='\xc3\xa9' user=u sslmode=require sslrootcert=/etc/ca.pem"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        sp_dsn_t a = parsed(*state, texts[i]), b = parsed(*state, sp_dsn_uri(&a, *state));
        assert_string_equal(a.host, b.host);
        assert_int_equal(a.port, b.port);
        assert_string_equal(a.database, b.database);
        assert_string_equal(a.user, b.user);
        assert_true((a.password == NULL) == (b.password == NULL));
        if (a.password != NULL)
            assert_string_equal(a.password, b.password);
        if (a.sslrootcert != NULL)
            assert_string_equal(a.sslrootcert, b.sslrootcert);
    }
}

// Every refusal, and none of them repeats what was given.
static void refused(void **state)
{
    static const char *const wrong[] = {
        "",
        "CANARY",
        "postgresql://",
        "postgresql://CANARY",
        "postgresql://u:CANARY%zz@h/d",
        "postgresql://u:CANARY%@h/d",
        "postgresql://u:CANARY%00@h/d",
        "postgresql://u:CANARY@/d",
        "postgresql://u:CANARY@h/",
        "postgresql://u:CANARY@h1,h2/d",
        "postgresql://u:CANARY@h1:1,h2:2/d",
        "postgresql://u:CANARY@h:0/d",
        "postgresql://u:CANARY@h:70000/d",
        "postgresql://u:CANARY@h:x/d",
        "postgresql://:CANARY@h/d",
        "postgresql://u:CANARY@h/d?service=x",
        "postgresql://u:CANARY@h/d?options=-cCANARY",
        "postgresql://u:CANARY@h/d?passfile=/x",
        "postgresql://u:CANARY@h/d?target_session_attrs=any",
        "postgresql://u:CANARY@h/d?CANARY=1",
        "postgresql://u:CANARY@h/d?sslmode=CANARY",
        "postgresql://u:CANARY@h/d?host=a,b",
        "postgresql://u:CANARY@[::1/d",
        "postgresql://u:CANARY@h/d?hostaddr=1.2.3.4",
        "postgresql://u:CANARY@h/d?user",
        "host=h user=u dbname=d password='CANARY",
        "host=h user=u dbname=d CANARY",
        "host=/CANARY user=u dbname=d",
        "host=h user=u service=CANARY dbname=d",
        "user=u dbname=d",
        "host=h user=u",
        "host=h dbname=d",
        "host=h user=u dbname=d password=\xff\xfe",
        "postgresql://u:CANARY/x@h/d",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        sp_dsn_t dsn = {0};
        sp_error_t err = {0};
        int rc = sp_dsn_parse(sp_str(wrong[i]), *state, &dsn, &err);
        if (rc != SP_E_INVALID_ARGUMENT)
            fail_msg("accepted: %s", wrong[i]);
        assert_null(strstr(err.text, "CANARY"));
        assert_null(dsn.host);
    }
    static char big[8192];
    memset(big, 'x', sizeof big - 1);
    assert_int_equal(sp_dsn_parse(sp_str(big), *state, &(sp_dsn_t){0}, NULL),
                     SP_E_INVALID_ARGUMENT);
    assert_int_equal(sp_dsn_parse((sp_str_t){"host=h\0x user=u dbname=d", 24}, *state,
                                  &(sp_dsn_t){0}, NULL),
                     SP_E_INVALID_ARGUMENT);
}

// It fits as it is written, but not as the URI that the catalog keeps.
static void too_long_as_a_uri(void **state)
{
    char text[3000] = "host=h dbname=d user=u password='";
    size_t len = strlen(text);
    memset(text + len, '%', 2000);
    memcpy(text + len + 2000, "'", 2);
    sp_dsn_t dsn;
    sp_error_t err = {0};
    assert_int_equal(sp_dsn_parse(sp_str(text), *state, &dsn, &err), SP_E_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "too long"));
    memcpy(text + len + 1000, "'", 2);
    assert_int_equal(sp_dsn_parse(sp_str(text), *state, &dsn, &err), 0);
}

static void redacted(void **state)
{
    sp_dsn_t d = parsed(*state, "postgresql://app:s3cret@h:1/shop");
    assert_string_equal(sp_dsn_redact(&d, *state), "postgresql://app@h:1/shop");
    char text[] = "FATAL: s3cret and s3crets3cret, s3cre";
    sp_dsn_scrub(&d, text);
    assert_string_equal(text, "FATAL: *** and ******, s3cre");
    sp_dsn_t one = parsed(*state, "postgresql://app:x@h:1/shop");
    char tight[] = "x is x";
    sp_dsn_scrub(&one, tight);
    assert_string_equal(tight, "* is *");
}

// Any bytes: no crash, and the answer is one or the other.
static void garbage(void **state)
{
    uint32_t seed = 12345;
    for (int round = 0; round < 20000; round++) {
        char text[64];
        static const char alphabet[] = "postgresql://=:@[]?&%'\\ ,ahu0\n\xc3";
        size_t n = 0, len = (seed >> 8) % sizeof text;
        for (; n < len; n++) {
            seed = seed * 1664525 + 1013904223;
            text[n] = alphabet[(seed >> 16) % (sizeof alphabet - 1)];
        }
        if (round % 2 == 0 && len > 13)
            memcpy(text, "postgresql://", 13); // NOLINT(bugprone-not-null-terminated-result): bytes
        seed = seed * 1664525 + 1013904223;
        sp_dsn_t dsn;
        int rc = sp_dsn_parse((sp_str_t){text, len}, *state, &dsn, NULL);
        assert_true(rc == 0 || rc == SP_E_INVALID_ARGUMENT);
        sp_arena_reset(*state);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(uri, setup, teardown),
        cmocka_unit_test_setup_teardown(keywords, setup, teardown),
        cmocka_unit_test_setup_teardown(round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(refused, setup, teardown),
        cmocka_unit_test_setup_teardown(too_long_as_a_uri, setup, teardown),
        cmocka_unit_test_setup_teardown(redacted, setup, teardown),
        cmocka_unit_test_setup_teardown(garbage, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
