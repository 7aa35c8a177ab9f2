// Requests to etcd's JSON gateway over libcurl.
#include "common/store/etcd_http.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/wire/wire.h"

enum { DEFAULT_TIMEOUT_MS = 3000, MIN_ATTEMPT_MS = 300 };
#define MAX_ANSWER ((size_t)64 * 1024 * 1024)

// ---- life

static void init_curl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

static bool valid_url(const char *url)
{
    if (!url || strlen(url) > 1024)
        return false;
    for (const char *p = url; *p; p++)
        if ((unsigned char)*p <= ' ' || *p == '"' || *p == '?' || *p == '#')
            return false;
    return strncmp(url, "http://", 7) == 0 || strncmp(url, "https://", 8) == 0;
}

static int copy_endpoints(sp_etcd_http_t *self, const sp_store_options_t *options, sp_error_t *err)
{
    self->urls = calloc(options->n, sizeof *self->urls);
    self->labels = calloc(options->n, sizeof *self->labels);
    if (!self->urls || !self->labels)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "etcd endpoints");
    self->n = options->n;
    for (size_t i = 0; i < self->n; i++) {
        const char *url = options->endpoints[i];
        if (!valid_url(url))
            return sp_error_set(err, SP_E_CONFIG,
                                "etcd endpoint %zu is not of the form http://host:port", i + 1);
        const char *host = strstr(url, "://") + 3;
        const char *at = strrchr(host, '@');
        self->urls[i] = strdup(url);
        self->labels[i] = strdup(at ? at + 1 : host);
        if (!self->urls[i] || !self->labels[i])
            return sp_error_set(err, SP_E_OUT_OF_MEMORY, "etcd endpoints");
        for (size_t len = strlen(self->urls[i]); len > 0 && self->urls[i][len - 1] == '/'; len--)
            self->urls[i][len - 1] = '\0';
    }
    return 0;
}

int sp_etcd_http_open(sp_etcd_http_t *self, const sp_store_options_t *options, sp_error_t *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_curl);
    memset(self, 0, sizeof *self);
    self->cancel_fd = -1;
    if (options->n == 0)
        return sp_error_set(err, SP_E_CONFIG, "no etcd endpoint is configured");
    self->timeout_ms = options->timeout_ms > 0 ? options->timeout_ms : DEFAULT_TIMEOUT_MS;
    int rc = copy_endpoints(self, options, err);
    self->multi = rc == 0 ? curl_multi_init() : NULL;
    self->easy = rc == 0 ? curl_easy_init() : NULL;
    // Without this, libcurl waits for a 100-continue before a larger body.
    self->headers = rc == 0 ? curl_slist_append(NULL, "Expect:") : NULL;
    struct curl_slist *more =
        self->headers ? curl_slist_append(self->headers, "Content-Type: application/json") : NULL;
    if (rc == 0 && (!self->multi || !self->easy || !more))
        rc = sp_error_set(err, SP_E_OUT_OF_MEMORY, "libcurl");
    if (rc != 0) {
        sp_etcd_http_close(self);
        return rc;
    }
    // Many processes start together: they spread over the endpoints.
    self->at = sp_random_below((uint32_t)self->n);
    return 0;
}

void sp_etcd_http_close(sp_etcd_http_t *self)
{
    if (self->easy)
        curl_easy_cleanup(self->easy);
    if (self->multi)
        curl_multi_cleanup(self->multi);
    curl_slist_free_all(self->headers);
    for (size_t i = 0; i < self->n; i++) {
        free(self->urls[i]);
        free(self->labels[i]);
    }
    free(self->urls);
    free(self->labels);
    memset(self, 0, sizeof *self);
}

void sp_etcd_rotate(sp_etcd_http_t *self)
{
    self->at = (self->at + 1) % self->n;
}

// ---- one request

static size_t collect(char *data, size_t size, size_t n, void *arg)
{
    sp_buf_t *out = arg;
    sp_buf_add(out, data, size * n);
    return out->failed ? 0 : size * n; // short: libcurl gives up
}

static void set_options(sp_etcd_http_t *self, CURL *easy, const char *path, const sp_buf_t *body,
                        sp_buf_t *answer)
{
    char url[1200];
    snprintf(url, sizeof url, "%s/v3/%s", self->urls[self->at], path);
    curl_easy_reset(easy);
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_POST, 1L);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body->data);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body->len);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, collect);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, answer);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, self->headers);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_NOPROXY, "*"); // the environment's proxy is for the outside
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)(self->timeout_ms / 2 + 1));
}

CURL *sp_etcd_request(sp_etcd_http_t *self, const char *path, const sp_buf_t *body,
                      sp_buf_t *answer)
{
    CURL *easy = curl_easy_init();
    if (easy)
        set_options(self, easy, path, body, answer);
    return easy;
}

// Runs the transfer until it ends, time is up, or the cancel descriptor becomes readable.
static CURLcode transfer(sp_etcd_http_t *self, int64_t deadline_ms, bool *ret_cancelled)
{
    CURLcode code = CURLE_OPERATION_TIMEDOUT;
    bool done = false;
    *ret_cancelled = false;
    if (curl_multi_add_handle(self->multi, self->easy) != CURLM_OK)
        return CURLE_OUT_OF_MEMORY;
    while (!done) {
        int running, left;
        curl_multi_perform(self->multi, &running);
        for (CURLMsg *m; (m = curl_multi_info_read(self->multi, &left)) != NULL;) {
            if (m->msg == CURLMSG_DONE && m->easy_handle == self->easy) {
                code = m->data.result;
                done = true;
            }
        }
        int wait_ms = sp_clock_until_ms(deadline_ms);
        if (done || wait_ms == 0)
            break;
        struct curl_waitfd cancel = {.fd = self->cancel_fd, .events = CURL_WAIT_POLLIN};
        curl_multi_poll(self->multi, &cancel, self->cancel_fd >= 0 ? 1 : 0, wait_ms, NULL);
        if (self->cancel_fd >= 0 && cancel.revents) {
            *ret_cancelled = true;
            break;
        }
    }
    curl_multi_remove_handle(self->multi, self->easy);
    return code;
}

// What etcd says when it refuses: {"error": text, "code": gRPC code}; from 3.6 on `message` alone has the text; and a stream has
// `message` and `grpc_code`.
static int refusal(sp_etcd_http_t *self, long status, const sp_value_t *reply, sp_error_t *err)
{
    enum { GRPC_INVALID_ARGUMENT = 3, GRPC_NOT_FOUND = 5 };
    int64_t code = 0;
    const sp_value_t *text = sp_value_get(reply, "error");
    if (!text)
        text = sp_value_get(reply, "message");
    sp_str_t why = text && text->kind == SP_VALUE_STRING ? text->u.s : SP_STR("no reason given");
    if (sp_etcd_int64(reply, sp_value_get(reply, "grpc_code") ? "grpc_code" : "code", &code, NULL))
        code = 0;
    int ours = SP_E_CATALOG_UNAVAILABLE;
    if (code == GRPC_NOT_FOUND && text)
        ours = SP_E_NOT_FOUND;
    else if (code == GRPC_INVALID_ARGUMENT &&
             sp_str_starts(why, "etcdserver: request is too large"))
        ours = SP_E_TOO_LARGE;
    else if (code == GRPC_INVALID_ARGUMENT)
        ours = SP_E_INVALID_ARGUMENT;
    return sp_error_set(err, ours, "etcd %s refused: HTTP %ld, %.*s", self->labels[self->at],
                        status, why.len > 300 ? 300 : (int)why.len, why.ptr);
}

int sp_etcd_header(sp_etcd_http_t *self, const sp_value_t *reply, int64_t *ret_revision,
                   sp_error_t *err)
{
    const char *label = self->labels[self->at];
    const sp_value_t *header = reply->kind == SP_VALUE_MAP ? sp_value_get(reply, "header") : NULL;
    if (!header || header->kind != SP_VALUE_MAP)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "%s does not answer like etcd", label);
    int64_t revision, term;
    int rc = sp_etcd_int64(header, "revision", &revision, err);
    if (rc == 0)
        rc = sp_etcd_int64(header, "raft_term", &term, err);
    if (rc != 0)
        return rc;
    // An unsigned 64-bit id, so it may not fit an int64; its text is as good.
    const sp_value_t *cluster = sp_value_get(header, "cluster_id");
    int64_t cluster_id = 0;
    if (cluster && cluster->kind == SP_VALUE_STRING)
        for (size_t i = 0; i < cluster->u.s.len && i < 20; i++)
            cluster_id =
                (int64_t)((uint64_t)cluster_id * 10 + (uint64_t)(cluster->u.s.ptr[i] - '0'));
    if (revision <= 0 || term <= 0)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "%s does not answer like etcd", label);
    if (self->has_cluster && cluster_id != self->cluster_id)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "etcd %s belongs to another cluster",
                            label);
    if (revision < self->seen_revision || term < self->seen_term)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE,
                            "etcd %s is behind: revision %lld after %lld, term %lld after %lld",
                            label, (long long)revision, (long long)self->seen_revision,
                            (long long)term, (long long)self->seen_term);
    self->cluster_id = cluster_id;
    self->has_cluster = true;
    self->seen_revision = revision;
    self->seen_term = term;
    *ret_revision = revision;
    return 0;
}

// An answer of HTTP 200 into a checked object.
static int accept_answer(sp_etcd_http_t *self, const sp_buf_t *text, bool wrapped,
                         sp_arena_t *arena, sp_value_t *ret_reply, sp_error_t *err)
{
    sp_value_t reply;
    sp_error_t why = {0};
    if (sp_wire_value_from_json(text->data, text->len, arena, &reply, &why) != 0)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "etcd %s answered no JSON: %s",
                            self->labels[self->at], why.text);
    if (wrapped) {
        const sp_value_t *result =
            reply.kind == SP_VALUE_MAP ? sp_value_get(&reply, "result") : NULL;
        if (!result) {
            // A stream's error comes under HTTP 200 too.
            const sp_value_t *inner =
                reply.kind == SP_VALUE_MAP ? sp_value_get(&reply, "error") : NULL;
            return refusal(self, 200, inner ? inner : &reply, err);
        }
        reply = *result;
    }
    int64_t revision;
    int rc = sp_etcd_header(self, &reply, &revision, err);
    if (rc == 0)
        *ret_reply = reply;
    return rc;
}

// One attempt at the endpoint in use. *ret_done: the request may have been carried out, or its refusal is final.
static int attempt(sp_etcd_http_t *self, const char *path, const sp_buf_t *body,
                   sp_etcd_kind_t kind, bool wrapped, int64_t deadline_ms, sp_arena_t *arena,
                   sp_value_t *ret_reply, bool *ret_done, sp_error_t *err)
{
    sp_buf_t text = {.limit = MAX_ANSWER};
    set_options(self, self->easy, path, body, &text);
    // On a connection that turns out dead libcurl sends the request a second time by itself; a transaction that was carried out the
    // first time would then report a failed compare.
    curl_easy_setopt(self->easy, CURLOPT_FRESH_CONNECT, kind == SP_ETCD_WRITE ? 1L : 0L);
    bool cancelled;
    CURLcode code = transfer(self, deadline_ms, &cancelled);
    long status = 0;
    curl_easy_getinfo(self->easy, CURLINFO_RESPONSE_CODE, &status);
    int rc;
    *ret_done = code != CURLE_COULDNT_CONNECT && code != CURLE_COULDNT_RESOLVE_HOST;
    if (cancelled) {
        rc = sp_error_set(err, SP_E_CANCELLED, "the request to etcd was given up");
    } else if (code != CURLE_OK) {
        rc = sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "etcd %s: %s", self->labels[self->at],
                          text.failed ? "the answer is too large" : curl_easy_strerror(code));
    } else if (status != 200) {
        sp_value_t reply = {0};
        if (sp_wire_value_from_json(text.data, text.len, arena, &reply, NULL) != 0)
            reply = (sp_value_t){0};
        rc = refusal(self, status, &reply, err);
    } else {
        rc = accept_answer(self, &text, wrapped, arena, ret_reply, err);
    }
    sp_buf_free(&text);
    return rc;
}

int sp_etcd_post(sp_etcd_http_t *self, const char *path, const sp_buf_t *body, sp_etcd_kind_t kind,
                 bool wrapped, sp_arena_t *arena, sp_value_t *ret_reply, sp_error_t *err)
{
    if (body->failed)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "request to etcd");
    int64_t deadline_ms = sp_clock_mono_ms() + self->timeout_ms;
    int share_ms = self->timeout_ms / (int)self->n;
    if (share_ms < MIN_ATTEMPT_MS)
        share_ms = MIN_ATTEMPT_MS;
    int rc = SP_E_CATALOG_UNAVAILABLE;
    for (size_t i = 0; i < self->n; i++) {
        int64_t until_ms = deadline_ms;
        // A member that hangs must not use up the time of the others.
        if (kind == SP_ETCD_READ && sp_clock_mono_ms() + share_ms < deadline_ms)
            until_ms = sp_clock_mono_ms() + share_ms;
        bool done;
        sp_error_clear(err);
        rc = attempt(self, path, body, kind, wrapped, until_ms, arena, ret_reply, &done, err);
        if (rc != SP_E_CATALOG_UNAVAILABLE)
            return rc;
        sp_etcd_rotate(self);
        if (kind == SP_ETCD_WRITE && done)
            return rc;
        if (sp_clock_until_ms(deadline_ms) == 0)
            return rc;
    }
    return rc;
}
