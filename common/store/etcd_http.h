// Requests to etcd's JSON gateway: endpoints tried in turn, bounded answers, and no answer that is behind what was seen already.
// Internal to common/store.
#ifndef SP_STORE_ETCD_HTTP_H
#define SP_STORE_ETCD_HTTP_H

#include <curl/curl.h>

#include "common/base/buf.h"
#include "common/store/store.h"
#include "common/wire/value.h"

typedef struct sp_etcd_http {
    CURLM *multi;               // drives the requests of this handle, keeps its connections
    CURL *easy;                 // of the request under way
    struct curl_slist *headers; // of each request
    char **urls;                // endpoints without a trailing slash
    char **labels;              // the same without user and password, for errors
    size_t n;                   // endpoints
    size_t at;                  // the one in use
    int timeout_ms;             // one call
    int cancel_fd;              // readable: give up; -1 none
    int64_t seen_revision;      // highest header.revision
    int64_t seen_term;          // highest header.raft_term
    int64_t cluster_id;         // of the first answer; 0 before it
    bool has_cluster;           // cluster_id counts
} sp_etcd_http_t;

// Says how a failed request may be treated.
typedef enum {
    SP_ETCD_READ,  // safe to ask again elsewhere
    SP_ETCD_WRITE, // only where it surely was not done
} sp_etcd_kind_t;

int sp_etcd_http_open(sp_etcd_http_t *self, const sp_store_options_t *options, sp_error_t *err);
void sp_etcd_http_close(sp_etcd_http_t *self); // also a zeroed one

// POSTs body to <endpoint>/v3/<path>; the answer's JSON object goes into arena, its header has been checked.
// `wrapped`: the header stands in `result`, as streams have it; then ret_reply is what `result` holds.
// SP_E_CATALOG_UNAVAILABLE; SP_E_NOT_FOUND (a lease that is gone); SP_E_INVALID_ARGUMENT, SP_E_TOO_LARGE (etcd refused it);
// SP_E_CANCELLED.
int sp_etcd_post(sp_etcd_http_t *self, const char *path, const sp_buf_t *body, sp_etcd_kind_t kind,
                 bool wrapped, sp_arena_t *arena, sp_value_t *ret_reply, sp_error_t *err);
// Makes the next request go to another endpoint.
void sp_etcd_rotate(sp_etcd_http_t *self);
// Checks a `header` and remembers it. An answer that is behind, of another cluster, or not an etcd header is
// SP_E_CATALOG_UNAVAILABLE.
int sp_etcd_header(sp_etcd_http_t *self, const sp_value_t *reply, int64_t *ret_revision,
                   sp_error_t *err);
// A transfer with the options that every request has; used by the watch too. The answer is appended to `answer`; it and the body
// must outlive the transfer.
CURL *sp_etcd_request(sp_etcd_http_t *self, const char *path, const sp_buf_t *body,
                      sp_buf_t *answer);

// Typed reads of hostile JSON. An absent int64 is 0, as proto3 has it; a string or an integer; anything else is an error.
int sp_etcd_int64(const sp_value_t *map, const char *key, int64_t *ret_value, sp_error_t *err);
int sp_etcd_bool(const sp_value_t *map, const char *key, bool *ret_value, sp_error_t *err);
// Base64 bytes into arena; absent is "".
int sp_etcd_bytes(const sp_value_t *map, const char *key, sp_arena_t *arena, sp_str_t *ret_value,
                  sp_error_t *err);
// Appends "key":"base64".
void sp_etcd_add_bytes(sp_buf_t *out, const char *key, sp_str_t value);

#endif
