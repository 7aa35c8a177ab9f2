// The watch stream of etcd's JSON gateway: one JSON object a line, for as long as it lasts. Only used as a hint that something
// changed; what it is, a linearizable list tells. Internal to common/store.
#ifndef SP_STORE_ETCD_WATCH_H
#define SP_STORE_ETCD_WATCH_H

#include "common/store/etcd_http.h"
#include "common/store/store_impl.h"

typedef struct sp_etcd_watch {
    CURLM *multi;     // drives the stream
    CURL *easy;       // the stream; NULL: none
    sp_buf_t request; // its body
    sp_buf_t text;    // what came and is not a whole line yet
    bool ended;       // the transfer is over
    size_t endpoint;  // which one it goes to
} sp_etcd_watch_t;

// Sends the request; ends an earlier stream.
int sp_etcd_watch_begin(sp_etcd_watch_t *self, sp_etcd_http_t *http, const sp_buf_t *request,
                        sp_error_t *err);
// SP_NEWS_LOST also when etcd moved on to another endpoint, cancels, or has compacted the revision.
sp_news_t sp_etcd_watch_wait(sp_etcd_watch_t *self, sp_etcd_http_t *http, int timeout_ms);
void sp_etcd_watch_end(sp_etcd_watch_t *self); // also a zeroed one

#endif
