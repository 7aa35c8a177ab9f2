// The fake: the same semantics in this process's memory, for tests. Its watch looks every few milliseconds.
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/store/store_impl.h"

enum { LOOK_MS = 5 };

typedef struct record {
    struct record *next;     // ascending by key
    char *key;               // owned
    size_t key_len;          // bytes
    char *value;             // owned
    size_t value_len;        // bytes
    int64_t create_revision; // as in etcd
    int64_t mod_revision;    // as in etcd
    int64_t lease;           // 0: none
} record_t;

typedef struct lease {
    struct lease *next;  // any order
    int64_t id;          // never 0
    int64_t ttl_s;       // as granted
    int64_t deadline_ms; // monotonic
} lease_t;

typedef struct database {
    struct database *next; // in `databases`
    char *name;            // owned
    int handles;           // open ones
    record_t *records;     // ascending by key
    lease_t *leases;       // live ones
    int64_t revision;      // of the last change; 1 at first, as in etcd
    int64_t next_lease;    // id
} database_t;

typedef struct memory {
    sp_store_t base;        // first
    database_t *db;         // shared
    int cancel_fd;          // -1: none
    char *watch_prefix;     // NULL: no watch
    int64_t watch_revision; // first one that is news
} memory_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // for everything below `databases`
static database_t *databases;

static sp_str_t key_of(const record_t *r)
{
    return (sp_str_t){r->key, r->key_len};
}

static void record_free(record_t *r)
{
    free(r->key);
    free(r->value);
    free(r);
}

// Where the record is linked, or would be.
static record_t **find(database_t *db, sp_str_t key)
{
    record_t **at = &db->records;
    while (*at && sp_str_cmp(key_of(*at), key) < 0)
        at = &(*at)->next;
    return at;
}

static record_t *lookup(database_t *db, sp_str_t key)
{
    record_t *r = *find(db, key);
    return r && sp_str_eq(key_of(r), key) ? r : NULL;
}

// A lease takes its keys along, all in one revision.
static void end_lease(database_t *db, lease_t **at)
{
    lease_t *l = *at;
    bool removed = false;
    for (record_t **r = &db->records; *r;) {
        record_t *one = *r;
        if (one->lease != l->id) {
            r = &one->next;
            continue;
        }
        *r = one->next;
        record_free(one);
        removed = true;
    }
    db->revision += removed;
    *at = l->next;
    free(l);
}

static lease_t **find_lease(database_t *db, int64_t id)
{
    lease_t **at = &db->leases;
    while (*at && (*at)->id != id)
        at = &(*at)->next;
    return at;
}

static database_t *enter(sp_store_t *base)
{
    database_t *db = ((memory_t *)base)->db;
    pthread_mutex_lock(&lock);
    int64_t now = sp_clock_mono_ms();
    for (lease_t **at = &db->leases; *at;) {
        if ((*at)->deadline_ms <= now)
            end_lease(db, at);
        else
            at = &(*at)->next;
    }
    return db;
}

static void leave(void)
{
    pthread_mutex_unlock(&lock);
}

// Records that match, changed after `since`; *ret_count: all that match.
static int collect(sp_store_t *base, sp_str_t key, bool prefix, int64_t since, sp_arena_t *arena,
                   sp_kv_list_t *ret_list, size_t *ret_count, sp_error_t *err)
{
    database_t *db = enter(base);
    size_t n = 0;
    for (record_t *r = db->records; r; r = r->next)
        n++;
    sp_kv_list_t list = {.items = sp_arena_alloc(arena, n, sizeof *list.items),
                         .revision = db->revision};
    bool ok = list.items != NULL;
    *ret_count = 0;
    for (record_t *r = db->records; ok && r; r = r->next) {
        sp_str_t k = key_of(r);
        if (prefix ? k.len < key.len || memcmp(k.ptr, key.ptr, key.len) != 0 : !sp_str_eq(k, key))
            continue;
        ++*ret_count;
        if (r->mod_revision <= since)
            continue;
        sp_kv_t *kv = &list.items[list.n++];
        *kv = (sp_kv_t){.key = sp_arena_str(arena, k),
                        .value = sp_arena_str(arena, (sp_str_t){r->value, r->value_len}),
                        .create_revision = r->create_revision,
                        .mod_revision = r->mod_revision,
                        .lease = r->lease};
        ok = kv->key.ptr && kv->value.ptr;
    }
    leave();
    if (!ok)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "the list does not fit");
    *ret_list = list;
    return 0;
}

static int memory_range(sp_store_t *base, sp_str_t key, bool prefix, sp_arena_t *arena,
                        sp_kv_list_t *ret_list, sp_error_t *err)
{
    size_t count;
    return collect(base, key, prefix, 0, arena, ret_list, &count, err);
}

static int memory_changes(sp_store_t *base, sp_str_t prefix, int64_t since, sp_arena_t *arena,
                          sp_kv_list_t *ret_list, size_t *ret_count, sp_error_t *err)
{
    return collect(base, prefix, true, since, arena, ret_list, ret_count, err);
}

static bool holds(database_t *db, const sp_cmp_t *cmp)
{
    const record_t *r = lookup(db, cmp->key);
    switch (cmp->kind) {
    case SP_CMP_MOD_REVISION:
        return (r ? r->mod_revision : 0) == cmp->revision;
    case SP_CMP_CREATE_REVISION:
        return (r ? r->create_revision : 0) == cmp->revision;
    case SP_CMP_VALUE:
        return r && sp_str_eq((sp_str_t){r->value, r->value_len},
                              cmp->value.ptr ? cmp->value : SP_STR(""));
    case SP_CMP_ABSENT:
        return !r;
    }
    return false;
}

static char *copy(sp_str_t s)
{
    char *p = malloc(s.len + 1);
    if (p && s.len)
        memcpy(p, s.ptr, s.len);
    if (p)
        p[s.len] = '\0';
    return p;
}

static bool put(database_t *db, const sp_op_t *op, int64_t revision)
{
    record_t **at = find(db, op->key);
    record_t *r = *at && sp_str_eq(key_of(*at), op->key) ? *at : NULL;
    char *value = copy(op->value);
    if (!value)
        return false;
    if (!r) {
        r = calloc(1, sizeof *r);
        char *key = copy(op->key);
        if (!r || !key) {
            free(r);
            free(key);
            free(value);
            return false;
        }
        r->key = key;
        r->key_len = op->key.len;
        r->create_revision = revision;
        r->next = *at;
        *at = r;
    }
    free(r->value);
    r->value = value;
    r->value_len = op->value.len;
    r->mod_revision = revision;
    r->lease = op->lease;
    return true;
}

static bool drop(database_t *db, sp_str_t key)
{
    record_t **at = find(db, key);
    record_t *r = *at;
    if (!r || !sp_str_eq(key_of(r), key))
        return false;
    *at = r->next;
    record_free(r);
    return true;
}

static int memory_txn(sp_store_t *base, const sp_cmp_t *cmps, size_t n_cmps, const sp_op_t *ops,
                      size_t n_ops, bool *ret_committed, int64_t *ret_revision, sp_error_t *err)
{
    database_t *db = enter(base);
    bool hold = true;
    int rc = 0;
    for (size_t i = 0; i < n_cmps; i++)
        hold = hold && holds(db, &cmps[i]);
    for (size_t i = 0; hold && i < n_ops && rc == 0; i++)
        if (!ops[i].remove && ops[i].lease && !*find_lease(db, ops[i].lease))
            rc = sp_error_set(err, SP_E_NOT_FOUND, "the lease is gone");
    bool changed = false;
    for (size_t i = 0; hold && i < n_ops && rc == 0; i++) {
        if (ops[i].remove) {
            changed = drop(db, ops[i].key) || changed;
            continue;
        }
        changed = true;
        if (!put(db, &ops[i], db->revision + 1))
            rc = sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "memory ran out");
    }
    db->revision += changed;
    int64_t revision = db->revision;
    leave();
    if (rc != 0)
        return rc;
    *ret_committed = hold;
    if (ret_revision)
        *ret_revision = revision;
    return 0;
}

static int memory_lease_grant(sp_store_t *base, int64_t ttl_s, int64_t *ret_lease, sp_error_t *err)
{
    lease_t *l = calloc(1, sizeof *l);
    if (!l)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "memory ran out");
    database_t *db = enter(base);
    l->id = ++db->next_lease;
    l->ttl_s = ttl_s;
    l->deadline_ms = sp_clock_mono_ms() + ttl_s * 1000;
    l->next = db->leases;
    db->leases = l;
    *ret_lease = l->id;
    leave();
    return 0;
}

static int memory_lease_keepalive(sp_store_t *base, int64_t lease, bool *ret_alive, sp_error_t *err)
{
    (void)err;
    lease_t *l = *find_lease(enter(base), lease);
    *ret_alive = l != NULL;
    if (l)
        l->deadline_ms = sp_clock_mono_ms() + l->ttl_s * 1000;
    leave();
    return 0;
}

static int memory_lease_revoke(sp_store_t *base, int64_t lease, sp_error_t *err)
{
    (void)err;
    database_t *db = enter(base);
    lease_t **at = find_lease(db, lease);
    if (*at)
        end_lease(db, at);
    leave();
    return 0;
}

static int memory_revision(sp_store_t *base, int64_t *ret_revision, sp_error_t *err)
{
    (void)err;
    *ret_revision = enter(base)->revision;
    leave();
    return 0;
}

static int memory_watch_begin(sp_store_t *base, sp_str_t prefix, int64_t revision, sp_error_t *err)
{
    memory_t *self = (memory_t *)base;
    free(self->watch_prefix);
    self->watch_prefix = copy(prefix);
    self->watch_revision = revision;
    if (!self->watch_prefix)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "watch");
    return 0;
}

static sp_news_t memory_watch_wait(sp_store_t *base, int timeout_ms)
{
    memory_t *self = (memory_t *)base;
    int64_t deadline_ms = sp_clock_mono_ms() + timeout_ms;
    if (!self->watch_prefix)
        return SP_NEWS_LOST;
    for (;;) {
        int64_t revision;
        memory_revision(base, &revision, NULL);
        if (revision >= self->watch_revision) {
            self->watch_revision = revision + 1; // some change; which one, the list tells
            return SP_NEWS_CHANGED;
        }
        int wait_ms = sp_clock_until_ms(deadline_ms);
        if (wait_ms == 0)
            return SP_NEWS_NONE;
        struct pollfd fd = {.fd = self->cancel_fd, .events = POLLIN};
        if (poll(&fd, 1, wait_ms < LOOK_MS ? wait_ms : LOOK_MS) > 0)
            return SP_NEWS_STOPPED;
    }
}

static void memory_watch_end(sp_store_t *base)
{
    memory_t *self = (memory_t *)base;
    free(self->watch_prefix);
    self->watch_prefix = NULL;
}

static void memory_cancel_by(sp_store_t *base, int fd)
{
    ((memory_t *)base)->cancel_fd = fd;
}

static void database_free(database_t *db)
{
    for (record_t *r = db->records, *next; r; r = next) {
        next = r->next;
        record_free(r);
    }
    for (lease_t *l = db->leases, *next; l; l = next) {
        next = l->next;
        free(l);
    }
    free(db->name);
    free(db);
}

static void memory_close(sp_store_t *base)
{
    memory_t *self = (memory_t *)base;
    memory_watch_end(base);
    pthread_mutex_lock(&lock);
    if (--self->db->handles == 0) {
        database_t **at = &databases;
        while (*at != self->db)
            at = &(*at)->next;
        *at = self->db->next;
        database_free(self->db);
    }
    pthread_mutex_unlock(&lock);
    free(self);
}

static const sp_store_ops_t memory_ops = {
    .close = memory_close,
    .range = memory_range,
    .changes = memory_changes,
    .txn = memory_txn,
    .lease_grant = memory_lease_grant,
    .lease_keepalive = memory_lease_keepalive,
    .lease_revoke = memory_lease_revoke,
    .revision = memory_revision,
    .watch_begin = memory_watch_begin,
    .watch_wait = memory_watch_wait,
    .watch_end = memory_watch_end,
    .cancel_by = memory_cancel_by,
};

static database_t *open_database(const char *name)
{
    for (database_t *db = databases; db; db = db->next)
        if (strcmp(db->name, name) == 0)
            return db;
    database_t *db = calloc(1, sizeof *db);
    char *copied = strdup(name);
    if (!db || !copied) {
        free(db);
        free(copied);
        return NULL;
    }
    db->name = copied;
    db->revision = 1;
    db->next = databases;
    databases = db;
    return db;
}

int sp_store_open_memory(sp_store_t **ret_self, const char *name, sp_error_t *err)
{
    memory_t *self = calloc(1, sizeof *self);
    pthread_mutex_lock(&lock);
    database_t *db = self ? open_database(name) : NULL;
    if (db)
        db->handles++;
    pthread_mutex_unlock(&lock);
    if (!db) {
        free(self);
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "store");
    }
    self->base.ops = &memory_ops;
    self->db = db;
    self->cancel_fd = -1;
    *ret_self = &self->base;
    return 0;
}
