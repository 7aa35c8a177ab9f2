// Configuration: what is accepted, and that every refusal names file, line and what to do.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/config/config.h"

static const sp_option_t rows[] = {
    {.name = "listen", .type = SP_OPT_ENDPOINT, .def = "tcp://127.0.0.1:7601", .help = "listen"},
    {.name = "pool_size",
     .type = SP_OPT_INT,
     .def = "8",
     .min = 1,
     .max = 1000,
     .help = "connections a shard"},
    {.name = "strict", .type = SP_OPT_BOOL, .def = "true", .help = "strictness"},
    {.name = "tags", .type = SP_OPT_LIST, .help = "tags"},
    {.name = "token", .type = SP_OPT_STRING, .max = 5, .secret = true, .help = "token"},
};
enum { ROWS = sizeof rows / sizeof *rows };

static int parse(sp_config_t **ret, const char *text, sp_error_t *err)
{
    *err = (sp_error_t){0};
    return sp_config_parse(ret, "router", rows, ROWS, "r.json", text, strlen(text), err);
}

static void defaults(void **state)
{
    (void)state;
    sp_config_t *c = NULL;
    sp_error_t err;
    assert_int_equal(parse(&c, "{}", &err), SP_OK);
    size_t n;
    assert_string_equal(sp_config_list(c, "metadata_endpoints", &n)[0], "http://127.0.0.1:2379");
    assert_int_equal(n, 1);
    assert_string_equal(sp_config_str(c, "metadata_prefix"), "/shardplane");
    assert_string_equal(sp_config_str(c, "listen"), "tcp://127.0.0.1:7601");
    assert_int_equal(sp_config_int(c, "pool_size"), 8);
    assert_true(sp_config_bool(c, "strict"));
    assert_null(sp_config_str(c, "secret_key_file"));
    assert_int_equal(strncmp(sp_config_str(c, "service_id"), "router-", 7), 0);
    assert_null(sp_config_list(c, "tags", &n)[0]);
    assert_int_equal(n, 0);
    sp_config_destroy(&c);
    sp_config_destroy(&c);
}

static void values(void **state)
{
    (void)state;
    sp_config_t *c = NULL;
    sp_error_t err;
    if (parse(&c,
              "{\"pool_size\": 3, \"strict\": false, \"tags\": [\"a\", \"b\"], "
              "\"metadata_endpoints\": \"http://a:1, http://b:2\", \"service_id\": \"r-1\"}",
              &err))
        fail_msg("%s", err.text);
    size_t n;
    assert_int_equal(sp_config_int(c, "pool_size"), 3);
    assert_false(sp_config_bool(c, "strict"));
    assert_string_equal(sp_config_list(c, "tags", &n)[1], "b");
    assert_string_equal(sp_config_list(c, "metadata_endpoints", &n)[1], "http://b:2");
    assert_int_equal(n, 2);
    assert_string_equal(sp_config_str(c, "service_id"), "r-1");
    sp_config_destroy(&c);
    assert_int_equal(parse(&c, "{\"tags\": []}", &err), SP_OK); // none is what it has anyway
    assert_null(sp_config_list(c, "tags", &n)[0]);
    sp_config_destroy(&c);
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *text;  // file
        const char *where; // begin of the error
        const char *what;  // somewhere in it
    } cases[] = {
        {"{\n \"service_id\": \"a\",\n \"pool_sise\": 3}",
         "r.json:3: pool_sise:", "did you mean \"pool_size\"?"},
        {"{\n \"zzzzzzzzzzz\": 3}", "r.json:2: zzzzzzzzzzz:", "--help"},
        {"{\"pool_size\": 3,\n \"pool_size\": 4}", "r.json:2:", "duplicate"},
        {"{\"pool_size\": \"3\"}", "r.json:1: pool_size:", "integer"},
        {"{\"pool_size\": 3.5}", "r.json:1: pool_size:", "integer"},
        {"{\"pool_size\": 0}", "r.json:1: pool_size:", "1 to 1000"},
        {"{\"strict\": 1}", "r.json:1: strict:", "true or false"},
        {"{\"tags\": [1]}", "r.json:1: tags:", "string"},
        {"{\n\n\"listen\": \"tcp://127.0.0.1:70000\"}", "r.json:3: listen:", "65535"},
        {"{\"listen\": \"127.0.0.1:7000\"}", "r.json:1: listen:", "tcp://host:port"},
        {"{\"listen\": \"tcp://a:b:70\"}", "r.json:1: listen:", "tcp://host:port"},
        {"{\"metrics_listen\": \"127.0.0.1:70000\"}", "r.json:1: metrics_listen:", "65535"},
        {"{\"metrics_listen\": \"127.0.0.1:-1\"}", "r.json:1: metrics_listen:", "65535"},
        {"{\"log_level\": \"loud\"}", "r.json:1: log_level:", "debug|info|warn|error"},
        {"{\"service_id\": \"a/b\"}", "r.json:1: service_id:", "letters"},
        {"{\"secret_key_file\": \"/nonexistent/key\"}",
         "r.json:1: secret_key_file:", "No such file"},
        {"[]", "r.json:1:", "one JSON object"},
        {"{", "r.json:1:", ""},
        {"", "r.json:1:", ""},
        {"{\"log_level\": \"in\\u0000fo\"}", "r.json:1:", ""},
        {"{} x", "r.json:1:", ""},
        {"{\"metadata_prefix\": \"a\\nb\"}", "r.json:1: metadata_prefix:", "control"},
        {"{\"metadata_endpoints\": []}", "r.json:1: metadata_endpoints:", "empty"},
        {"{\n\"metadata_endpoints\": \" , \"}", "r.json:2: metadata_endpoints:", "empty"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sp_config_t *c = NULL;
        sp_error_t err;
        if (parse(&c, cases[i].text, &err) != SP_E_CONFIG)
            fail_msg("accepted: %s", cases[i].text);
        assert_null(c);
        if (strncmp(err.text, cases[i].where, strlen(cases[i].where)) != 0 ||
            !strstr(err.text, cases[i].what))
            fail_msg("%s gave: %s", cases[i].text, err.text);
    }
}

static void secrets_are_not_echoed(void **state)
{
    (void)state;
    sp_config_t *c = NULL;
    sp_error_t err;
    assert_int_equal(parse(&c, "{\"token\": \"hunter22\"}", &err), SP_E_CONFIG);
    assert_null(strstr(err.text, "hunter"));
    // The parser quotes what it does not expect.
    assert_int_equal(parse(&c, "{\n\"token\" \"hunter\"}", &err), SP_E_CONFIG);
    assert_int_equal(strncmp(err.text, "r.json:2:", 9), 0);
    assert_null(strstr(err.text, "hunter"));
}

static void secret_files(void **state)
{
    (void)state;
    char path[] = "/tmp/sp_config_XXXXXX", text[256];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    snprintf(text, sizeof text, "{\"secret_key_file\": \"%s\"}", path);
    sp_config_t *c = NULL;
    sp_error_t err;
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(parse(&c, text, &err), SP_E_CONFIG);
    assert_non_null(strstr(err.text, "chmod 600"));
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(parse(&c, text, &err), SP_OK);
    assert_string_equal(sp_config_str(c, "secret_key_file"), path);
    sp_config_destroy(&c);
    unlink(path);
}

static void command_line(void **state)
{
    (void)state;
    char path[] = "/tmp/sp_config_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "{\"pool_size\": 5}", 16), 16);
    close(fd);
    sp_config_t *c = NULL;
    sp_error_t err;
    bool done;
    setenv("METADATA_ENDPOINTS", "http://x:1,http://y:2", 1);
    char *by_option[] = {"router", "--config", path, NULL};
    assert_int_equal(sp_config_load(&c, "router", rows, ROWS, 3, by_option, &done, &err), SP_OK);
    assert_false(done);
    assert_int_equal(sp_config_int(c, "pool_size"), 5);
    assert_string_equal(sp_config_list(c, "metadata_endpoints", NULL)[1], "http://y:2");
    sp_config_destroy(&c);
    setenv("CONFIG_PATH", path, 1);
    char *bare[] = {"router", NULL};
    assert_int_equal(sp_config_load(&c, "router", rows, ROWS, 1, bare, &done, &err), SP_OK);
    assert_int_equal(sp_config_int(c, "pool_size"), 5);
    sp_config_destroy(&c);
    setenv("CONFIG_PATH", "/nonexistent.json", 1);
    assert_int_equal(sp_config_load(&c, "router", rows, ROWS, 1, bare, &done, &err), SP_E_CONFIG);
    unsetenv("CONFIG_PATH");
    setenv("METADATA_ENDPOINTS", " ,", 1);
    assert_int_equal(sp_config_load(&c, "router", rows, ROWS, 1, bare, &done, &err), SP_E_CONFIG);
    assert_non_null(strstr(err.text, "METADATA_ENDPOINTS"));
    unsetenv("METADATA_ENDPOINTS");
    char *endless[] = {"router", "--config", "/dev/zero", NULL};
    alarm(20); // it must not read for ever
    assert_int_equal(sp_config_load(&c, "router", rows, ROWS, 3, endless, &done, &err),
                     SP_E_CONFIG);
    alarm(0);
    assert_non_null(strstr(err.text, "over 1 MiB"));
    char *unknown[] = {"router", "--confog", path, NULL};
    assert_int_equal(sp_config_load(&c, "router", rows, ROWS, 3, unknown, &done, &err),
                     SP_E_CONFIG);
    char *missing[] = {"router", "--config", NULL};
    assert_int_equal(sp_config_load(&c, "router", rows, ROWS, 2, missing, &done, &err),
                     SP_E_CONFIG);
    unlink(path);
}

static void required(void **state)
{
    (void)state;
    static const sp_option_t strict_rows[] = {
        {.name = "must", .type = SP_OPT_STRING, .required = true, .help = "what is needed"}};
    sp_config_t *c = NULL;
    sp_error_t err;
    assert_int_equal(sp_config_parse(&c, "x", strict_rows, 1, "r.json", "{}", 2, &err),
                     SP_E_CONFIG);
    assert_non_null(strstr(err.text, "must is required: what is needed"));
}

static void common_rows_that_a_service_does_not_take(void **state)
{
    (void)state;
    static const sp_option_t few_rows[] =
        {{.name = "listen", .type = SP_OPT_NONE},
         {.name = "own", .type = SP_OPT_INT, .def = "1", .help = "x"},
         {.name = "log_format", .type = SP_OPT_NONE}};
    sp_config_t *c = NULL;
    sp_error_t err;
    const char *text = "{\"listen\": \"tcp://127.0.0.1:1\"}";
    assert_int_equal(sp_config_parse(&c, "x", few_rows, 3, "r.json", text, strlen(text), &err),
                     SP_E_CONFIG);
    assert_non_null(strstr(err.text, "listen: no such key"));
    text = "{\"events_listen\": \"tcp://127.0.0.1:1\", \"advertise\": \"db-1:99\", \"own\": 2}";
    assert_int_equal(sp_config_parse(&c, "x", few_rows, 3, "r.json", text, strlen(text), &err),
                     SP_OK);
    assert_int_equal(sp_config_int(c, "own"), 2);
    assert_string_equal(sp_config_str(c, "log_level"), "info");
    char out[300];
    sp_config_advertised(c, "tcp://0.0.0.0:7621", out, sizeof out); // no `listen` to compare with
    assert_string_equal(out, "tcp://db-1:7621");
    sp_config_destroy(&c);
}

static void advertised(void **state)
{
    (void)state;
    static const struct {
        const char *config, *bound, *want; // text, socket's address, what to register
    } cases[] = {
        {"{}", "tcp://127.0.0.1:7601", "tcp://127.0.0.1:7601"},
        {"{\"advertise\": \"db-1\"}", "tcp://0.0.0.0:7601", "tcp://db-1:7601"},
        {"{\"advertise\": \"db-1:99\"}", "tcp://127.0.0.1:7601", "tcp://db-1:99"},
        {"{\"advertise\": \"db-1:99\"}", "tcp://127.0.0.1:7621", "tcp://db-1:7621"},
        {"{\"advertise\": \"db-1:99\"}", "http://0.0.0.0:9090", "http://db-1:9090"},
        {"{\"advertise\": \"db-1\"}", "ipc:///tmp/x", "ipc:///tmp/x"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sp_config_t *c = NULL;
        sp_error_t err;
        char out[300];
        assert_int_equal(parse(&c, cases[i].config, &err), SP_OK);
        sp_config_advertised(c, cases[i].bound, out, sizeof out);
        assert_string_equal(out, cases[i].want);
        sp_config_destroy(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(values),
        cmocka_unit_test(refusals),
        cmocka_unit_test(secrets_are_not_echoed),
        cmocka_unit_test(secret_files),
        cmocka_unit_test(command_line),
        cmocka_unit_test(required),
        cmocka_unit_test(advertised),
        cmocka_unit_test(common_rows_that_a_service_does_not_take),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
