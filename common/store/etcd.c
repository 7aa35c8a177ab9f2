// The store over etcd: typed builders of requests, so that no field can be misspelt (etcd ignores what it does not know, and a
// compare without its field passes on an absent key).
#include <stdlib.h>
#include <string.h>

#include "common/store/etcd_http.h"
#include "common/store/etcd_watch.h"
#include "common/store/store_impl.h"

// A scratch arena holds an answer as text, as values and decoded; the answer is at most 64 MiB.
#define SCRATCH_LIMIT ((size_t)512 * 1024 * 1024)

typedef struct etcd {
    sp_store_t base;       // first
    sp_etcd_http_t http;   // transport
    sp_etcd_watch_t watch; // the one stream
    sp_buf_t request;      // scratch
    char *prefix;          // "/shardplane/": in front of every key
    size_t prefix_len;     // bytes
} etcd_t;

// ---- keys

// "name":"base64 of prefix and key", and with `end` the first key behind all that start with it.
static void add_key(etcd_t *self, const char *name, sp_str_t key, bool end)
{
    sp_buf_t full = SP_BUF_INIT;
    sp_buf_add(&full, self->prefix, self->prefix_len);
    sp_buf_adds(&full, key);
    if (end && !full.failed) {
        while (full.len > 0 && (unsigned char)full.data[full.len - 1] == 0xFF)
            full.len--;
        if (full.len > 0)
            full.data[full.len - 1]++;
    }
    if (full.failed)
        self->request.failed = true;
    else
        sp_etcd_add_bytes(&self->request, name, (sp_str_t){full.data, full.len});
    sp_buf_free(&full);
}

static void begin(etcd_t *self)
{
    sp_buf_free(&self->request); // also its failure
    sp_buf_addc(&self->request, '{');
}

// ---- reading

static int read_kv(etcd_t *self, const sp_value_t *map, int64_t revision, sp_arena_t *arena,
                   sp_kv_t *ret_kv, sp_error_t *err)
{
    sp_str_t key;
    sp_kv_t kv = {0};
    if (map->kind != SP_VALUE_MAP)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "etcd's answer: a key is not a map");
    int rc = sp_etcd_bytes(map, "key", arena, &key, err);
    if (rc == 0)
        rc = sp_etcd_bytes(map, "value", arena, &kv.value, err);
    if (rc == 0)
        rc = sp_etcd_int64(map, "create_revision", &kv.create_revision, err);
    if (rc == 0)
        rc = sp_etcd_int64(map, "mod_revision", &kv.mod_revision, err);
    if (rc == 0)
        rc = sp_etcd_int64(map, "lease", &kv.lease, err);
    if (rc != 0)
        return rc;
    bool ours = key.len > self->prefix_len && memcmp(key.ptr, self->prefix, self->prefix_len) == 0;
    bool sane = kv.create_revision > 0 && kv.mod_revision >= kv.create_revision &&
                kv.mod_revision <= revision;
    if (!ours || !sane)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "etcd's answer: %s",
                            ours ? "revisions that cannot be" : "a key that was not asked for");
    kv.key = (sp_str_t){key.ptr + self->prefix_len, key.len - self->prefix_len};
    *ret_kv = kv;
    return 0;
}

// since 0: the whole list; else only what changed after it, and count is of all keys.
static int read_range(etcd_t *self, const sp_value_t *reply, sp_str_t wanted, bool prefix,
                      int64_t since, sp_arena_t *arena, sp_kv_list_t *ret_list, size_t *ret_count,
                      sp_error_t *err)
{
    const sp_value_t *kvs = sp_value_get(reply, "kvs");
    bool more;
    int64_t count;
    int rc = sp_etcd_bool(reply, "more", &more, err);
    if (rc == 0)
        rc = sp_etcd_int64(reply, "count", &count, err);
    if (rc != 0)
        return rc;
    // The header is the newest seen, for it was just accepted.
    int64_t revision = self->http.seen_revision;
    size_t n = kvs && kvs->kind == SP_VALUE_LIST ? kvs->u.list.n : 0;
    bool whole = since > 0 ? count >= (int64_t)n : count == (int64_t)n;
    if ((kvs && kvs->kind != SP_VALUE_LIST) || more || !whole || (!prefix && n > 1))
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "etcd's answer: not the whole list");
    sp_kv_list_t list = {.n = n, .revision = revision};
    list.items = sp_arena_alloc(arena, n, sizeof *list.items);
    if (!list.items)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "the list does not fit");
    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = read_kv(self, &kvs->u.list.items[i], revision, arena, &list.items[i], err);
        if (rc != 0)
            break;
        sp_str_t key = list.items[i].key;
        bool asked = prefix ? key.len >= wanted.len && memcmp(key.ptr, wanted.ptr, wanted.len) == 0
                            : sp_str_eq(key, wanted);
        if (!asked || (i > 0 && sp_str_cmp(list.items[i - 1].key, key) >= 0))
            rc = sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "etcd's answer: keys out of order");
    }
    if (rc == 0) {
        *ret_list = list;
        *ret_count = (size_t)count;
    }
    return rc;
}

// Sends the request. What the answer borrows from is the caller's to destroy, after an error too.
static int post(etcd_t *self, const char *path, sp_etcd_kind_t kind, bool wrapped,
                sp_arena_t **ret_scratch, sp_value_t *ret_reply, sp_error_t *err)
{
    *ret_scratch = sp_arena_new(SCRATCH_LIMIT);
    if (!*ret_scratch)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "request to etcd");
    return sp_etcd_post(&self->http, path, &self->request, kind, wrapped, *ret_scratch, ret_reply,
                        err);
}

static int request_range(etcd_t *self, sp_str_t key, bool prefix, int64_t since, sp_arena_t *arena,
                         sp_kv_list_t *ret_list, size_t *ret_count, sp_error_t *err)
{
    begin(self);
    add_key(self, "key", key, false);
    if (prefix) {
        sp_buf_addc(&self->request, ',');
        add_key(self, "range_end", key, true);
    }
    if (since > 0)
        sp_buf_printf(&self->request, ",\"min_mod_revision\":\"%lld\"", (long long)since + 1);
    sp_buf_addc(&self->request, '}');
    sp_arena_t *scratch = NULL;
    sp_value_t reply;
    int rc = post(self, "kv/range", SP_ETCD_READ, false, &scratch, &reply, err);
    if (rc == 0)
        rc = read_range(self, &reply, key, prefix, since, arena, ret_list, ret_count, err);
    sp_arena_destroy(&scratch);
    return rc;
}

static int etcd_range(sp_store_t *base, sp_str_t key, bool prefix, sp_arena_t *arena,
                      sp_kv_list_t *ret_list, sp_error_t *err)
{
    size_t count;
    return request_range((etcd_t *)base, key, prefix, 0, arena, ret_list, &count, err);
}

static int etcd_changes(sp_store_t *base, sp_str_t prefix, int64_t since, sp_arena_t *arena,
                        sp_kv_list_t *ret_list, size_t *ret_count, sp_error_t *err)
{
    return request_range((etcd_t *)base, prefix, true, since, arena, ret_list, ret_count, err);
}

static int etcd_revision(sp_store_t *base, int64_t *ret_revision, sp_error_t *err)
{
    etcd_t *self = (etcd_t *)base;
    begin(self);
    add_key(self, "key", SP_STR(""), false);
    sp_buf_addz(&self->request, ",\"count_only\":true}");
    sp_arena_t *scratch = NULL;
    sp_value_t reply;
    int rc = post(self, "kv/range", SP_ETCD_READ, false, &scratch, &reply, err);
    if (rc == 0)
        *ret_revision = self->http.seen_revision;
    sp_arena_destroy(&scratch);
    return rc;
}

// ---- writing

static void add_compare(etcd_t *self, const sp_cmp_t *cmp)
{
    sp_buf_t *out = &self->request;
    sp_buf_addz(out, "{\"result\":\"EQUAL\",");
    add_key(self, "key", cmp->key, false);
    switch (cmp->kind) {
    case SP_CMP_MOD_REVISION:
        sp_buf_printf(out, ",\"target\":\"MOD\",\"mod_revision\":\"%lld\"}",
                      (long long)cmp->revision);
        break;
    case SP_CMP_CREATE_REVISION:
        sp_buf_printf(out, ",\"target\":\"CREATE\",\"create_revision\":\"%lld\"}",
                      (long long)cmp->revision);
        break;
    case SP_CMP_VALUE:
        sp_buf_addz(out, ",\"target\":\"VALUE\",");
        sp_etcd_add_bytes(out, "value", cmp->value);
        sp_buf_addc(out, '}');
        break;
    case SP_CMP_ABSENT:
        sp_buf_addz(out, ",\"target\":\"CREATE\",\"create_revision\":\"0\"}");
        break;
    }
}

static void add_op(etcd_t *self, const sp_op_t *op)
{
    sp_buf_t *out = &self->request;
    sp_buf_addz(out, op->remove ? "{\"request_delete_range\":{" : "{\"request_put\":{");
    add_key(self, "key", op->key, false);
    if (!op->remove) {
        sp_buf_addc(out, ',');
        sp_etcd_add_bytes(out, "value", op->value);
        if (op->lease)
            sp_buf_printf(out, ",\"lease\":\"%lld\"", (long long)op->lease);
    }
    sp_buf_addz(out, "}}");
}

static int etcd_txn(sp_store_t *base, const sp_cmp_t *cmps, size_t n_cmps, const sp_op_t *ops,
                    size_t n_ops, bool *ret_committed, int64_t *ret_revision, sp_error_t *err)
{
    etcd_t *self = (etcd_t *)base;
    begin(self);
    sp_buf_addz(&self->request, "\"compare\":[");
    for (size_t i = 0; i < n_cmps; i++) {
        if (i > 0)
            sp_buf_addc(&self->request, ',');
        add_compare(self, &cmps[i]);
    }
    sp_buf_addz(&self->request, "],\"success\":[");
    for (size_t i = 0; i < n_ops; i++) {
        if (i > 0)
            sp_buf_addc(&self->request, ',');
        add_op(self, &ops[i]);
    }
    sp_buf_addz(&self->request, "]}");
    sp_arena_t *scratch = NULL;
    sp_value_t reply;
    bool committed;
    int rc = post(self, "kv/txn", SP_ETCD_WRITE, false, &scratch, &reply, err);
    if (rc == 0)
        rc = sp_etcd_bool(&reply, "succeeded", &committed, err);
    if (rc == 0) {
        *ret_committed = committed;
        if (ret_revision)
            *ret_revision = self->http.seen_revision;
    }
    sp_arena_destroy(&scratch);
    return rc;
}

// ---- leases

// POSTs {field: value} and gives two int64s of the answer.
static int lease_request(etcd_t *self, const char *path, const char *field, int64_t value,
                         bool wrapped, int64_t *ret_id, int64_t *ret_ttl, sp_error_t *err)
{
    begin(self);
    sp_buf_printf(&self->request, "\"%s\":\"%lld\"}", field, (long long)value);
    sp_arena_t *scratch = NULL;
    sp_value_t reply;
    int rc = post(self, path, SP_ETCD_READ, wrapped, &scratch, &reply, err);
    if (rc == 0)
        rc = sp_etcd_int64(&reply, "ID", ret_id, err);
    if (rc == 0)
        rc = sp_etcd_int64(&reply, "TTL", ret_ttl, err);
    sp_arena_destroy(&scratch);
    return rc;
}

static int etcd_lease_grant(sp_store_t *base, int64_t ttl_s, int64_t *ret_lease, sp_error_t *err)
{
    int64_t id = 0, ttl = 0;
    // Asked twice where the first answer was lost: the other lease ends by itself.
    int rc = lease_request((etcd_t *)base, "lease/grant", "TTL", ttl_s, false, &id, &ttl, err);
    if (rc != 0)
        return rc;
    if (id == 0 || ttl < 1)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "etcd's answer: no lease");
    *ret_lease = id;
    return 0;
}

static int etcd_lease_keepalive(sp_store_t *base, int64_t lease, bool *ret_alive, sp_error_t *err)
{
    int64_t id = 0, ttl = 0;
    int rc = lease_request((etcd_t *)base, "lease/keepalive", "ID", lease, true, &id, &ttl, err);
    if (rc != 0 && rc != SP_E_NOT_FOUND)
        return rc;
    // A lease that is gone is answered by HTTP 200 without TTL.
    *ret_alive = rc == 0 && id == lease && ttl > 0;
    sp_error_clear(err);
    return 0;
}

static int etcd_lease_revoke(sp_store_t *base, int64_t lease, sp_error_t *err)
{
    int64_t id = 0, ttl = 0;
    int rc = lease_request((etcd_t *)base, "lease/revoke", "ID", lease, false, &id, &ttl, err);
    if (rc != SP_E_NOT_FOUND)
        return rc;
    sp_error_clear(err); // gone already
    return 0;
}

// ---- watch and life

static int etcd_watch_begin(sp_store_t *base, sp_str_t prefix, int64_t revision, sp_error_t *err)
{
    etcd_t *self = (etcd_t *)base;
    begin(self);
    sp_buf_addz(&self->request, "\"create_request\":{");
    add_key(self, "key", prefix, false);
    sp_buf_addc(&self->request, ',');
    add_key(self, "range_end", prefix, true);
    sp_buf_printf(&self->request, ",\"start_revision\":\"%lld\"}}", (long long)revision);
    return sp_etcd_watch_begin(&self->watch, &self->http, &self->request, err);
}

static sp_news_t etcd_watch_wait(sp_store_t *base, int timeout_ms)
{
    etcd_t *self = (etcd_t *)base;
    return sp_etcd_watch_wait(&self->watch, &self->http, timeout_ms);
}

static void etcd_watch_end(sp_store_t *base)
{
    sp_etcd_watch_end(&((etcd_t *)base)->watch);
}

static void etcd_cancel_by(sp_store_t *base, int fd)
{
    ((etcd_t *)base)->http.cancel_fd = fd;
}

static void etcd_close(sp_store_t *base)
{
    etcd_t *self = (etcd_t *)base;
    sp_etcd_watch_end(&self->watch);
    sp_etcd_http_close(&self->http);
    sp_buf_free(&self->request);
    free(self->prefix);
    free(self);
}

static const sp_store_ops_t etcd_ops = {
    .close = etcd_close,
    .range = etcd_range,
    .changes = etcd_changes,
    .txn = etcd_txn,
    .lease_grant = etcd_lease_grant,
    .lease_keepalive = etcd_lease_keepalive,
    .lease_revoke = etcd_lease_revoke,
    .revision = etcd_revision,
    .watch_begin = etcd_watch_begin,
    .watch_wait = etcd_watch_wait,
    .watch_end = etcd_watch_end,
    .cancel_by = etcd_cancel_by,
};

int sp_store_open_etcd(sp_store_t **ret_self, const sp_store_options_t *options, sp_error_t *err)
{
    size_t len = options->prefix ? strlen(options->prefix) : 0;
    while (len > 0 && options->prefix[len - 1] == '/')
        len--;
    if (len == 0 || len > 255)
        return sp_error_set(err, SP_E_CONFIG,
                            "the metadata prefix is 1 to 255 bytes, e.g. /shardplane");
    etcd_t *self = calloc(1, sizeof *self);
    char *prefix = malloc(len + 2);
    if (!self || !prefix) {
        free(self);
        free(prefix);
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "store");
    }
    memcpy(prefix, options->prefix, len);
    prefix[len] = '/';
    prefix[len + 1] = '\0';
    self->base.ops = &etcd_ops;
    self->prefix = prefix;
    self->prefix_len = len + 1;
    int rc = sp_etcd_http_open(&self->http, options, err);
    if (rc != 0) {
        free(prefix);
        free(self);
        return rc;
    }
    *ret_self = &self->base;
    return 0;
}
