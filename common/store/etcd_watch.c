// The watch stream of etcd's JSON gateway.
#include "common/store/etcd_watch.h"

#include <string.h>

#include "common/base/clock.h"
#include "common/wire/wire.h"

enum { MAX_LINE = 32 * 1024 * 1024 };

int sp_etcd_watch_begin(sp_etcd_watch_t *self, sp_etcd_http_t *http, const sp_buf_t *request,
                        sp_error_t *err)
{
    sp_etcd_watch_end(self);
    self->text.limit = MAX_LINE;
    sp_buf_adds(&self->request, (sp_str_t){request->data, request->len});
    self->multi = curl_multi_init();
    self->easy = sp_etcd_request(http, "watch", &self->request, &self->text);
    if (request->failed || self->request.failed || !self->multi || !self->easy) {
        sp_etcd_watch_end(self);
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "watch of etcd");
    }
    self->endpoint = http->at;
    curl_multi_add_handle(self->multi, self->easy);
    return 0;
}

void sp_etcd_watch_end(sp_etcd_watch_t *self)
{
    if (self->multi && self->easy)
        curl_multi_remove_handle(self->multi, self->easy);
    if (self->easy)
        curl_easy_cleanup(self->easy);
    if (self->multi)
        curl_multi_cleanup(self->multi);
    sp_buf_free(&self->request);
    sp_buf_free(&self->text);
    memset(self, 0, sizeof *self);
}

// One line of the stream. `canceled` and `compact_revision` come under HTTP 200.
static sp_news_t read_line(sp_etcd_http_t *http, const char *line, size_t len)
{
    sp_arena_t *arena = sp_arena_new((size_t)8 * MAX_LINE);
    sp_value_t value;
    sp_news_t news = SP_NEWS_LOST;
    if (!arena || sp_wire_value_from_json(line, len, arena, &value, NULL) != 0 ||
        value.kind != SP_VALUE_MAP)
        goto done;
    const sp_value_t *result = sp_value_get(&value, "result");
    bool canceled = true;
    int64_t compacted = 0, revision = 0;
    if (!result || sp_etcd_bool(result, "canceled", &canceled, NULL) != 0 || canceled ||
        sp_etcd_int64(result, "compact_revision", &compacted, NULL) != 0 || compacted != 0)
        goto done;
    const sp_value_t *header = sp_value_get(result, "header");
    if (!header || sp_etcd_int64(header, "revision", &revision, NULL) != 0)
        goto done;
    const sp_value_t *events = sp_value_get(result, "events");
    if (events && events->kind != SP_VALUE_LIST)
        goto done;
    // What a list has shown already is no news.
    news = events && revision > http->seen_revision ? SP_NEWS_CHANGED : SP_NEWS_NONE;
done:
    sp_arena_destroy(&arena);
    return news;
}

// Reads all whole lines; the strongest of their news.
static sp_news_t read_lines(sp_etcd_watch_t *self, sp_etcd_http_t *http)
{
    sp_news_t news = SP_NEWS_NONE;
    size_t at = 0;
    for (char *end; at < self->text.len &&
                    (end = memchr(self->text.data + at, '\n', self->text.len - at)) != NULL;) {
        size_t len = (size_t)(end - self->text.data) - at;
        if (len > 0) {
            sp_news_t one = read_line(http, self->text.data + at, len);
            news = one > news ? one : news;
        }
        at += len + 1;
    }
    if (at > 0) {
        memmove(self->text.data, self->text.data + at, self->text.len - at);
        self->text.len -= at;
    }
    return news;
}

sp_news_t sp_etcd_watch_wait(sp_etcd_watch_t *self, sp_etcd_http_t *http, int timeout_ms)
{
    if (!self->easy || self->endpoint != http->at)
        return SP_NEWS_LOST;
    int64_t deadline_ms = sp_clock_mono_ms() + timeout_ms;
    for (;;) {
        int running, left;
        curl_multi_perform(self->multi, &running);
        for (CURLMsg *m; (m = curl_multi_info_read(self->multi, &left)) != NULL;)
            self->ended = self->ended || m->msg == CURLMSG_DONE;
        sp_news_t news = read_lines(self, http);
        if (news != SP_NEWS_NONE)
            return news;
        if (self->ended || self->text.failed)
            return SP_NEWS_LOST;
        int wait_ms = sp_clock_until_ms(deadline_ms);
        if (wait_ms == 0)
            return SP_NEWS_NONE;
        struct curl_waitfd cancel = {.fd = http->cancel_fd, .events = CURL_WAIT_POLLIN};
        curl_multi_poll(self->multi, &cancel, http->cancel_fd >= 0 ? 1 : 0, wait_ms, NULL);
        if (http->cancel_fd >= 0 && cancel.revents)
            return SP_NEWS_STOPPED;
    }
}
