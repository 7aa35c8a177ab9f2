#include "tools/shardctl/rest.h"

#include <curl/curl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "tools/shardctl/table.h"

// Replies larger than this are not ours.
#define REPLY_MAX ((size_t)256 * 1024 * 1024)

char *rest_path(const char *format, ...)
{
    sp_buf_t out = SP_BUF_INIT;
    va_list args;
    va_start(args, format);
    for (const char *c = format; *c != '\0'; c++) {
        if (c[0] == '%' && c[1] == 's') {
            char *escaped = curl_easy_escape(NULL, va_arg(args, const char *), 0);
            sp_buf_addz(&out, escaped != NULL ? escaped : "");
            curl_free(escaped);
            c++;
        } else {
            sp_buf_addc(&out, *c);
        }
    }
    va_end(args);
    return out.data;
}

static size_t on_bytes(char *data, size_t size, size_t n, void *arg)
{
    sp_buf_t *out = arg;
    sp_buf_add(out, data, size * n);
    return out->failed ? 0 : size * n;
}

static CURL *open_request(const sp_rest_t *self, const char *method, const char *path,
                          const char *body, struct curl_slist **headers)
{
    CURL *curl = curl_easy_init();
    sp_buf_t url = SP_BUF_INIT;
    sp_buf_printf(&url, "%s%s", self->gateway, path != NULL ? path : "");
    if (curl == NULL || url.failed) {
        sp_buf_free(&url);
        curl_easy_cleanup(curl);
        return NULL;
    }
    curl_easy_setopt(curl, CURLOPT_URL, url.data);
    sp_buf_free(&url);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 5L);
    *headers = curl_slist_append(*headers, "Accept: application/json, text/event-stream");
    if (body != NULL) {
        *headers = curl_slist_append(*headers, "Content-Type: application/json");
        curl_easy_setopt(curl, CURLOPT_COPYPOSTFIELDS, body);
    }
    if (self->idempotency_key != NULL) {
        sp_buf_t line = SP_BUF_INIT;
        sp_buf_printf(&line, "Idempotency-Key: %s", self->idempotency_key);
        *headers = curl_slist_append(*headers, sp_buf_cstr(&line));
        sp_buf_free(&line);
    }
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, *headers);
    return curl;
}

static json_t *error_body(const sp_rest_t *self, const char *code, const char *what)
{
    return json_pack("{s:{s:s,s:o}}", "error", "code", code, "message",
                     json_sprintf("%s: %s", self->gateway, what));
}

// What was answered, as JSON; returns the exit code. Bytes that are no JSON come from something that is not the gateway, or from a path
// that answers with text.
static int read_reply(const sp_rest_t *self, long status, sp_buf_t *reply, json_t **ret_reply)
{
    bool good = status >= 200 && status < 300;
    json_t *json = json_loadb(sp_buf_cstr(reply), reply->len, 0, NULL);
    if (json == NULL && good && self->any_text) {
        json = json_stringn(sp_buf_cstr(reply), reply->len);
    }
    if (json != NULL && (good || json_is_object(json_object_get(json, "error")))) {
        *ret_reply = json;
        return good ? EXIT_DONE : EXIT_REFUSED;
    }
    char what[96];
    snprintf(what, sizeof(what), "HTTP %ld, and not a gateway's answer; is this its address?",
             status);
    json_decref(json);
    *ret_reply = error_body(self, "unreadable", what);
    return EXIT_REFUSED;
}

int rest_try(const sp_rest_t *self, const char *method, char *path, json_t *body, long *ret_status,
             json_t **ret_reply)
{
    struct curl_slist *headers = NULL;
    char *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL;
    sp_buf_t reply = {.limit = REPLY_MAX};
    CURL *curl = open_request(self, method, path, text, &headers);
    int code = EXIT_UNREACHABLE;
    *ret_reply = NULL;
    if (curl != NULL) {
        long status = 0;
        curl_easy_setopt(curl, CURLOPT_TIMEOUT, self->timeout_s);
        curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_bytes);
        curl_easy_setopt(curl, CURLOPT_WRITEDATA, &reply);
        CURLcode rc = curl_easy_perform(curl);
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
        if (rc == CURLE_OK) {
            code = read_reply(self, status, &reply, ret_reply);
        } else {
            *ret_reply = error_body(self, "unreachable", curl_easy_strerror(rc));
        }
        if (ret_status != NULL) {
            *ret_status = status;
        }
    }
    curl_easy_cleanup(curl);
    curl_slist_free_all(headers);
    sp_buf_free(&reply);
    json_decref(body);
    free(text);
    free(path);
    return code;
}

void rest_explain(const sp_rest_t *self, int code, const json_t *reply)
{
    if (code == EXIT_DONE) {
        return;
    }
    if (self->json && reply != NULL) {
        table_json(stdout, reply);
        return;
    }
    const json_t *error = json_object_get(reply, "error");
    char *name = table_text(json_object_get(error, "code"));
    char *message = table_text(json_object_get(error, "message"));
    json_t *details = json_object_get(error, "details");
    fprintf(stderr, "shardctl: %s: %s\n", name[0] != '\0' ? name : "error",
            message[0] != '\0' ? message : "memory ran out");
    free(name);
    free(message);
    const char *key;
    json_t *value;
    json_object_foreach(details, key, value)
    {
        if (strcmp(key, "findings") == 0) {
            table_findings(stderr, value);
        } else {
            char *text = table_text(value);
            fprintf(stderr, "  %s: %s\n", key, text);
            free(text);
        }
    }
}

int rest_call(const sp_rest_t *self, const char *method, char *path, json_t *body,
              json_t **ret_reply)
{
    int code = rest_try(self, method, path, body, NULL, ret_reply);
    rest_explain(self, code, *ret_reply);
    return code;
}

typedef struct follower {
    CURL *curl;                                    // request
    sp_buf_t refusal;                              // body of another answer
    sp_buf_t line;                                 // not complete yet
    sp_buf_t data;                                 // of the event so far
    bool (*on_event)(const char *data, void *arg); // caller's
    void *arg;                                     // for on_event
    bool ended;                                    // on_event has seen enough
} follower_t;

static void take_line(follower_t *f, const char *line)
{
    if (strncmp(line, "data: ", 6) == 0) {
        sp_buf_addz(&f->data, line + 6);
    } else if (line[0] == '\0' && f->data.len > 0) {
        f->ended = !f->on_event(sp_buf_cstr(&f->data), f->arg);
        sp_buf_reset(&f->data);
    }
}

static size_t on_stream(char *data, size_t size, size_t n, void *arg)
{
    follower_t *f = arg;
    long status = 0;
    curl_easy_getinfo(f->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200) {
        return on_bytes(data, size, n, &f->refusal);
    }
    for (size_t i = 0; i < size * n && !f->ended; i++) {
        if (data[i] != '\n') {
            sp_buf_addc(&f->line, data[i]);
            continue;
        }
        take_line(f, sp_buf_cstr(&f->line));
        sp_buf_reset(&f->line);
    }
    return f->ended || f->line.failed ? 0 : size * n;
}

int rest_events(const sp_rest_t *self, bool (*on_event)(const char *data, void *arg), void *arg)
{
    struct curl_slist *headers = NULL;
    follower_t f = {.line = {.limit = 1024 * 1024},
                    .data = {.limit = 1024 * 1024},
                    .refusal = {.limit = 1024 * 1024},
                    .on_event = on_event,
                    .arg = arg};
    CURL *curl = open_request(self, "GET", "/api/v1/events", NULL, &headers);
    CURLcode rc = CURLE_FAILED_INIT;
    long status = 0;
    if (curl != NULL) {
        f.curl = curl;
        curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_stream);
        curl_easy_setopt(curl, CURLOPT_WRITEDATA, &f);
        curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
        curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, 30L); // heartbeats come every 5 s
        rc = curl_easy_perform(curl);
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    }
    json_t *refusal = NULL;
    int code = EXIT_DONE;
    if (rc == CURLE_OK && status != 200) {
        code = read_reply(self, status, &f.refusal, &refusal);
    } else if (rc != CURLE_OK && !f.ended) {
        refusal = error_body(self, "unreachable", curl_easy_strerror(rc));
        code = EXIT_UNREACHABLE;
    }
    rest_explain(self, code, refusal);
    json_decref(refusal);
    curl_easy_cleanup(curl);
    curl_slist_free_all(headers);
    sp_buf_free(&f.line);
    sp_buf_free(&f.data);
    sp_buf_free(&f.refusal);
    return code;
}
