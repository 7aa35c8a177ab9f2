// The base floor: errors, strings, arena, buffer, log lines, random, seal, failpoints.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "common/base/seal.h"

static void errors(void **state)
{
    (void)state;
    sp_error_t err;
    assert_int_equal(sp_error_set(&err, SP_E_NOT_FOUND, "no %s", "shard"), SP_E_NOT_FOUND);
    assert_string_equal(err.text, "no shard");
    assert_false(err.retryable);
    assert_int_equal(sp_error_prefix(&err, "job %d", 7), SP_E_NOT_FOUND);
    assert_string_equal(err.text, "job 7: no shard");
    sp_error_set(&err, SP_E_CONFLICT, "again: %s", err.text); // its own text as an argument
    assert_string_equal(err.text, "again: job 7: no shard");
    assert_true(err.retryable);
    assert_int_equal(sp_error_set(NULL, SP_E_IO, "x"), SP_E_IO);
    assert_string_equal(sp_error_name(SP_E_KEY_MISMATCH), "key_mismatch");
    assert_string_equal(sp_error_name(-9999), "internal");
    assert_int_equal(sp_error_code("key_mismatch"), SP_E_KEY_MISMATCH);
    assert_int_equal(sp_error_code("nonsense"), SP_E_INTERNAL);
    assert_int_equal(sp_error_http(0), 200);
    assert_int_equal(sp_error_http(SP_E_NOT_FOUND), 404);
    assert_int_equal(sp_error_http(-9999), 500);
}

static void errors_are_utf8(void **state)
{
    (void)state;
    sp_error_t err;
    sp_error_set(&err, SP_E_IO, "%.2s: \xff\xc3\xa4", "a\xc3\xa4"); // a precision counts bytes
    assert_string_equal(err.text, "a?: ?\xc3\xa4");
    sp_error_prefix(&err, "%.1s", "\xe6\xbc\xa2");
    assert_string_equal(err.text, "?: a?: ?\xc3\xa4");
    char text[] = "\xf0\x9f\x98 \xed\xa0\x80 \xf0\x9f\x98\x80";
    sp_str_make_utf8(text);
    assert_string_equal(text, "??? ??? \xf0\x9f\x98\x80");
}

static void long_errors_are_cut_at_a_border(void **state)
{
    (void)state;
    for (size_t shift = 0; shift < 4; shift++) {
        char text[3000] = "xxxx";
        size_t n = shift;
        while (n + 4 < sizeof text)
            n += (size_t)snprintf(text + n, sizeof text - n, "\U0001f600");
        text[n] = '\0';
        sp_error_t err;
        sp_error_set(&err, SP_E_IO, "%s", text);
        assert_true(strlen(err.text) > 1000);
        assert_true(sp_str_valid_utf8(sp_str(err.text)));
        sp_error_prefix(&err, "y");
        assert_true(sp_str_valid_utf8(sp_str(err.text)));
        assert_int_equal(strncmp(err.text, "y: ", 3), 0);
        sp_error_set_detail(&err, text);
        assert_true(sp_str_valid_utf8(sp_str(err.detail)) && strlen(err.detail) > 500);
    }
    sp_error_t err;
    sp_error_set(&err, SP_E_IO, "%.2s, %s", "x\303\251", "\344\266 \303\251");
    assert_string_equal(err.text, "x?, ?? \303\251");
    sp_error_set_detail(&err, NULL);
    assert_string_equal(err.detail, "");
}

static void strings(void **state)
{
    (void)state;
    int64_t v = 5;
    assert_int_equal(sp_str_to_int64(SP_STR("-9223372036854775808"), &v), SP_OK);
    assert_true(v == INT64_MIN);
    assert_int_equal(sp_str_to_int64(SP_STR("9223372036854775807"), &v), SP_OK);
    assert_true(v == INT64_MAX);
    static const char *const bad[] =
        {"", "-", "+1", " 1", "1 ", "9223372036854775808", "-9223372036854775809", "1x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(sp_str_to_int64(sp_str(bad[i]), &v), SP_E_INVALID_ARGUMENT);
    assert_true(sp_str_eq((sp_str_t){NULL, 0}, (sp_str_t){NULL, 0}));
    assert_false(sp_str_eq((sp_str_t){NULL, 0}, SP_STR("")));
    assert_true(sp_str_cmp(SP_STR("a"), SP_STR("ab")) < 0);
    assert_true(sp_str_cmp(SP_STR("b"), SP_STR("ab")) > 0);
    assert_true(sp_str_starts(SP_STR("abc"), "ab"));
    assert_false(sp_str_starts(SP_STR("a"), "ab"));
    static const char *const good_names[] =
        {"a", "0", "shard-1", "a_b",
         "012345678901234567890123456789012345678901234567890123456789012"};
    static const char *const bad_names[] =
        {"",         "-a",
         "_a",       "A",
         "a b",      "a/b",
         "\xc3\xa9", "0123456789012345678901234567890123456789012345678901234567890123"};
    for (size_t i = 0; i < sizeof good_names / sizeof *good_names; i++)
        assert_true(sp_str_valid_name(sp_str(good_names[i])));
    for (size_t i = 0; i < sizeof bad_names / sizeof *bad_names; i++)
        assert_false(sp_str_valid_name(sp_str(bad_names[i])));
}

static void utf8(void **state)
{
    (void)state;
    static const char *const good[] = {"",
                                       "abc",
                                       "\xc2\x80",
                                       "\xdf\xbf",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xef\xbf\xbf",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] =
        {"\x80",         "\xc0\x80",         "\xc1\xbf",         "\xe0\x9f\xbf",
         "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
         "\xc2",         "\xe2\x82",         "\xf0\x9f\x98",     "a\xff"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(sp_str_valid_utf8(sp_str(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (sp_str_valid_utf8(sp_str(bad[i])))
            fail_msg("row %zu", i);
    assert_false(sp_str_valid_utf8(SP_STR("a\0b")));
}

static void arena(void **state)
{
    (void)state;
    sp_arena_t *a = sp_arena_new(1 << 20);
    size_t empty = sp_arena_held(a);
    assert_true(empty > 0);
    assert_null(sp_arena_alloc(a, SIZE_MAX / 2, 3));
    assert_null(sp_arena_alloc(a, (1 << 20) + 1, 1));
    for (int round = 0; round < 3; round++) {
        size_t total = 0;
        for (size_t n = 1; n < 3000; n += 7, total += n) {
            unsigned char *p = sp_arena_alloc(a, n, 1);
            if (!p)
                break;
            assert_int_equal((uintptr_t)p % 16, 0);
            for (size_t i = 0; i < n; i++)
                assert_int_equal(p[i], 0);
            memset(p, 0xAA, n);
        }
        assert_true(total > 500000);
        assert_true(sp_arena_held(a) > empty);
        sp_arena_reset(a);
        assert_int_equal(sp_arena_held(a), empty);
    }
    assert_string_equal(sp_arena_printf(a, "%s-%d", "x", 7), "x-7");
    assert_string_equal(sp_arena_str(a, (sp_str_t){"abcdef", 3}).ptr, "abc");
    assert_null(sp_arena_str(a, (sp_str_t){NULL, 0}).ptr);
    assert_null(sp_arena_strz(a, NULL));
    assert_non_null(sp_arena_alloc(a, 0, 8));
    sp_arena_destroy(&a);
    assert_null(a);
    sp_arena_destroy(&a);
}

static void buffer(void **state)
{
    (void)state;
    sp_buf_t b = {.limit = 10};
    assert_string_equal(sp_buf_cstr(&b), "");
    sp_buf_addz(&b, "12345");
    sp_buf_printf(&b, "%d", 67890);
    assert_string_equal(sp_buf_cstr(&b), "1234567890");
    assert_false(b.failed);
    sp_buf_addc(&b, 'x');
    assert_true(b.failed);
    assert_string_equal(sp_buf_cstr(&b), "");
    sp_buf_addz(&b, "");
    assert_int_equal(b.len, 10);
    sp_buf_reset(&b);
    sp_buf_addz(&b, "ok");
    assert_string_equal(sp_buf_cstr(&b), "ok");
    sp_buf_free(&b);
    sp_buf_free(&b);
}

// Runs fn in a child with its stderr in out; returns the wait status.
static int in_child(void (*fn)(void), char *out, size_t size)
{
    int p[2];
    assert_int_equal(pipe(p), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(p[1], STDERR_FILENO);
        close(p[0]);
        close(p[1]);
        fn();
        _exit(0);
    }
    close(p[1]);
    size_t n = 0;
    ssize_t got;
    while ((got = read(p[0], out + n, size - 1 - n)) > 0)
        n += (size_t)got;
    out[n] = '\0';
    close(p[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void log_kv(void)
{
    sp_log_setup("router", "router-1", "info", "kv");
    sp_log(SP_LOG_DEBUG, "HIDDEN", NULL);
    sp_log(SP_LOG_INFO, "TAG", "a", "plain", "b", "two words", "c", "q\"\\\n\x01", "d", NULL, "e",
           "", NULL);
}

static void log_json(void)
{
    sp_log_setup("router", "router-1", "debug", "json");
    // Not only ASCII has characters that end a line or begin an order to a terminal.
    sp_log(SP_LOG_DEBUG, "TAG", "a", "x\ty\"", "b", "\xff", "c", "é", "d",
           "\xC2\x85\xC2\x9B\xC2\xA0\xE2\x80\xA8\xE2\x80\xA9\xE2\x80\xAA", NULL);
}

static void log_lines(void **state)
{
    (void)state;
    char out[4096];
    assert_int_equal(in_child(log_kv, out, sizeof out), 0);
    assert_null(strstr(out, "HIDDEN"));
    const char *level = strstr(out, " level=");
    assert_non_null(level);
    assert_string_equal(level, " level=info svc=router id=router-1 tag=TAG a=plain b=\"two words\" "
                               "c=\"q\\\"\\\\\\n\\u0001\" e=\"\"\n");
    assert_int_equal(in_child(log_json, out, sizeof out), 0);
    level = strstr(out, "\"level\"");
    assert_non_null(level);
    assert_int_equal(strncmp(out, "{\"ts\":\"2", 8), 0);
    assert_string_equal(level, "\"level\":\"debug\",\"svc\":\"router\",\"id\":\"router-1\",\"tag\":"
                               "\"TAG\",\"a\":\"x\\ty\\\"\",\"b\":\"\\u00ff\",\"c\":\"é\",\"d\":"
                               "\"\\u0085\\u009b\xC2\xA0"
                               "\\u2028\\u2029\xE2\x80\xAA\"}\n");
}

static void randoms(void **state)
{
    (void)state;
    char id[13];
    sp_random_id(id, 12);
    assert_int_equal(strlen(id), 12);
    assert_int_equal(strspn(id, "abcdefghijklmnopqrstuvwxyz234567"), 12);
    assert_int_equal(sp_random_below(0), 0);
    for (int i = 0; i < 1000; i++) {
        assert_true(sp_random_below(7) < 7);
        int64_t b = sp_random_backoff_ms(i % 40, 100, 2000);
        assert_true(b >= 50 && b <= 2000);
        assert_true(sp_random_backoff_ms(0, 100, 2000) <= 100);
    }
}

static void seal(void **state)
{
    (void)state;
    char path[] = "/tmp/sp_seal_XXXXXX";
    sp_error_t err = {0};
    sp_seal_t *s = NULL, *other = NULL;
    int fd = mkstemp(path);
    assert_int_equal(write(fd, "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n",
                           65),
                     65);
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(sp_seal_open(&s, path, &err), SP_E_CONFIG);
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(sp_seal_open(&s, path, &err), SP_OK);
    assert_int_equal(pwrite(fd, "f", 1, 0), 1);
    assert_int_equal(sp_seal_open(&other, path, &err), SP_OK);
    assert_int_equal(ftruncate(fd, 63), 0);
    sp_seal_t *none = NULL;
    assert_int_equal(sp_seal_open(&none, path, &err), SP_E_CONFIG);
    assert_int_equal(pwrite(fd, "zz", 3, 61), 3);
    assert_int_equal(sp_seal_open(&none, path, &err), SP_E_CONFIG);
    assert_int_equal(sp_seal_open(&none, "/nonexistent", &err), SP_E_CONFIG);
    assert_null(none);
    close(fd);
    unlink(path);

    sp_arena_t *a = sp_arena_new(0);
    sp_str_t sealed, again, clear;
    const char *secret = "postgresql://app:s3cret@h:1/db";
    assert_int_equal(sp_seal_encrypt(s, sp_str(secret), a, &sealed, &err), SP_OK);
    assert_int_equal(sp_seal_encrypt(s, sp_str(secret), a, &again, &err), SP_OK);
    assert_true(sp_str_starts(sealed, "v1:"));
    assert_false(sp_str_eq(sealed, again)); // a fresh nonce each time
    assert_null(memmem(sealed.ptr, sealed.len, "s3cret", 6));
    assert_int_equal(sp_seal_decrypt(s, sealed, a, &clear, &err), SP_OK);
    assert_true(sp_str_eqz(clear, secret));
    assert_int_equal(sp_seal_decrypt(other, sealed, a, &clear, &err), SP_E_MALFORMED);
    char *bent = sp_arena_cstr(a, sealed);
    bent[20] = bent[20] == 'A' ? 'B' : 'A';
    assert_int_equal(sp_seal_decrypt(s, sp_str(bent), a, &clear, &err), SP_E_MALFORMED);
    static const char *const bad[] = {"", "v1:", "v2:AAAA", "v1:AAAA", "v1:%%%%"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(sp_seal_decrypt(s, sp_str(bad[i]), a, &clear, &err), SP_E_MALFORMED);
    assert_int_equal(sp_seal_encrypt(s, SP_STR(""), a, &sealed, &err), SP_OK);
    assert_int_equal(sp_seal_decrypt(s, sealed, a, &clear, &err), SP_OK);
    assert_int_equal(clear.len, 0);
    char one[SP_SEAL_DERIVED], same[SP_SEAL_DERIVED], differs[SP_SEAL_DERIVED];
    sp_seal_derive(s, SP_STR("role of 1"), one);
    sp_seal_derive(s, SP_STR("role of 1"), same);
    assert_int_equal(strlen(one), SP_SEAL_DERIVED - 1);
    assert_string_equal(one, same);
    sp_seal_derive(s, SP_STR("role of 2"), differs);
    assert_string_not_equal(one, differs);
    sp_seal_derive(other, SP_STR("role of 1"), differs);
    assert_string_not_equal(one, differs);
    sp_arena_destroy(&a);
    sp_seal_close(&s);
    sp_seal_close(&other);
    sp_seal_close(&other);
}

static void fail_error(void)
{
    setenv("SHARDPLANE_FAILPOINTS", "a:error*2; b:error@3;c:sleep=30", 1);
    sp_error_t err = {0};
    int a = 0, b = 0;
    if (sp_failpoint_setup(&err))
        _exit(2);
    for (int i = 0; i < 5; i++) {
        a = a * 10 + (sp_failpoint("a", &err) == SP_E_FAILPOINT);
        b = b * 10 + (sp_failpoint("b", &err) == SP_E_FAILPOINT);
    }
    int64_t begin = sp_clock_mono_ms();
    if (sp_failpoint("c", &err) || sp_failpoint("other", &err))
        _exit(3);
    if (sp_clock_mono_ms() - begin < 25)
        _exit(4);
    if (a != 11000 || b != 111)
        _exit(5);
}

static void fail_kill(void)
{
    setenv("SHARDPLANE_FAILPOINTS", "x:kill", 1);
    sp_failpoint("x", NULL);
}

// Held until another process takes the file away.
static void fail_hold(void)
{
    char path[] = "/tmp/shardplane-hold-XXXXXX", points[64];
    int fd = mkstemp(path);
    snprintf(points, sizeof points, "a:hold=%s;b:error", path);
    setenv("SHARDPLANE_FAILPOINTS", points, 1);
    if (fd < 0 || sp_failpoint_setup(NULL))
        _exit(2);
    close(fd);
    int64_t begin = sp_clock_mono_ms();
    if (fork() == 0) {
        sp_clock_sleep_ms(40);
        unlink(path);
        _exit(0);
    }
    if (sp_failpoint("a", NULL) || sp_failpoint("b", NULL) != SP_E_FAILPOINT)
        _exit(3);
    int64_t held_ms = sp_clock_mono_ms() - begin;
    if (held_ms < 40 || sp_failpoint("a", NULL) || access(path, F_OK) == 0)
        _exit(4);
}

static void fail_none(void)
{
    unsetenv("SHARDPLANE_FAILPOINTS");
    if (sp_failpoint("x", NULL))
        _exit(2);
}

static const char *bad_points;
static void fail_bad(void)
{
    setenv("SHARDPLANE_FAILPOINTS", bad_points, 1);
    sp_error_t err = {0};
    if (sp_failpoint_setup(&err) != SP_E_CONFIG)
        _exit(2);
}

static void failpoints(void **state)
{
    (void)state;
    char out[4096];
    assert_int_equal(in_child(fail_error, out, sizeof out), 0);
    assert_non_null(strstr(out, "tag=FAILPOINT point=a action=error"));
    assert_int_equal(in_child(fail_hold, out, sizeof out), 0);
    int status = in_child(fail_kill, out, sizeof out);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_int_equal(in_child(fail_none, out, sizeof out), 0);
    static const char *const bad[] = {"x",        "x:",       ":kill",   "x:explode",
                                      "x:sleep",  "x:sleep=", "x:kill*", "x:error2",
                                      "x:kill+1", "x:hold",   "x:hold=", "x:hold=y"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bad_points = bad[i];
        if (in_child(fail_bad, out, sizeof out))
            fail_msg("%s was accepted", bad[i]);
    }
}

static void clocks(void **state)
{
    (void)state;
    int64_t begin = sp_clock_mono_us();
    sp_clock_sleep_ms(5);
    assert_true(sp_clock_mono_us() - begin >= 5000);
    assert_int_equal(sp_clock_until_ms(0), 0);
    assert_int_equal(sp_clock_until_ms(INT64_MAX), INT32_MAX);
    assert_true(sp_clock_wall_ms() > INT64_C(1700000000000));
}

// Known answers: python3 -c "import hashlib; print(hashlib.blake2b(b'abc', digest_size=16).hexdigest())"
static void digests(void **state)
{
    (void)state;
    char hex[2 * SP_DIGEST_MAX + 1];
    sp_digest_hex("abc", 3, hex, 16);
    assert_string_equal(hex, "cf4ab791c62b8d2b2109c90275287816");
    sp_digest_hex("", 0, hex, 16);
    assert_string_equal(hex, "cae66941d9efbd404e4d88758ea67670");
    unsigned char raw[32];
    sp_digest(NULL, 0, raw, sizeof raw);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_are_utf8),
        cmocka_unit_test(errors),
        cmocka_unit_test(long_errors_are_cut_at_a_border),
        cmocka_unit_test(strings),
        cmocka_unit_test(utf8),
        cmocka_unit_test(arena),
        cmocka_unit_test(buffer),
        cmocka_unit_test(log_lines),
        cmocka_unit_test(randoms),
        cmocka_unit_test(seal),
        cmocka_unit_test(failpoints),
        cmocka_unit_test(clocks),
        cmocka_unit_test(digests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
