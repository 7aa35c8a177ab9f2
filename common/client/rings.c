// Local rings: a thread follows the routers' feeds and keeps, for each keyspace that was asked for, the newest ring.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/client/client.h"
#include "common/mesh/actor.h"
#include "common/mesh/mesh.h"
#include "common/mesh/signals.h"
#include "common/ring/arcs.h"
#include "common/ring/hash.h"
#include "common/ring/key.h"
#include "common/ring/ring.h"
#include "schemas/route.h"

enum {
    MAX_KEYSPACES = 1000,
    FETCH_MS = 3000,   // one fetch by the thread
    TICK_MS = 20,      // how often the thread looks for work
    POLL_MS = 1000,    // without a feed, rings are asked for so often
    RELIST_MS = 10000, // with one, so often, in case it is silent
};

// Immutable once made.
typedef struct table {
    int references;  // under the lock
    int64_t version; // of the ring
    int key_type;    // 0: open
    sp_ring_t *ring; // hash to place in `owners`
    shardplane_owner_t
        *owners;       // shard and endpoint; hash and version are filled in for each answer
    sp_arena_t *arena; // scratch of making it, and owners
} table_t;

typedef struct keyspace {
    struct keyspace *next; // list
    char *name;            // owned
    table_t *table;        // newest; NULL until it was fetched
    bool wanted;           // a fetch is due
    int64_t fetched_ms;    // last try, monotonic
    sp_error_t fault;      // of the last try
} keyspace_t;

struct sp_rings {
    shardplane_t *client;    // borrowed
    pthread_mutex_t lock;    // for keyspaces and what they hold
    pthread_cond_t changed;  // a table came, or a try ended
    keyspace_t *keyspaces;   // asked for so far
    size_t keyspaces_n;      // count
    bool stop;               // under the lock
    pthread_t thread;        // follows
    zloop_t *loop;           // the thread's
    sp_subscriber_t **feeds; // the thread's
};

// ---- tables

static void table_free(table_t *t)
{
    sp_ring_destroy(&t->ring);
    sp_arena_destroy(&t->arena);
    free(t);
}

static void table_unref(sp_rings_t *self, table_t *t)
{
    if (!t)
        return;
    pthread_mutex_lock(&self->lock);
    bool last = --t->references == 0;
    pthread_mutex_unlock(&self->lock);
    if (last)
        table_free(t);
}

static int key_type_of(sp_str_t name)
{
    for (int type = SP_KEY_BIGINT; type <= SP_KEY_UUID; type++)
        if (sp_str_eqz(name, sp_key_type_name(type)))
            return type;
    return 0;
}

static void copy_text(char *out, size_t size, sp_str_t s)
{
    snprintf(out, size, SP_STR_FMT, SP_STR_ARG(s));
}

// Starts of a shard's ranges are its tokens, provided that the ranges of all shards cover everything exactly once.
static int fill_table(table_t *t, const sp_msg_ring_snapshot_t *snapshot, sp_error_t *err)
{
    size_t n = snapshot->shards.n;
    sp_ring_shard_t *members = sp_arena_alloc(t->arena, n, sizeof *members);
    t->owners = sp_arena_alloc(t->arena, n, sizeof *t->owners);
    sp_arcs_t all = SP_ARCS_NONE;
    if (!members || !t->owners)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "ring");
    for (size_t i = 0; i < n; i++) {
        const sp_msg_ring_shard_t *s = &snapshot->shards.items[i];
        sp_arcs_t arcs = {s->bounds.items, s->bounds.n};
        int64_t *tokens = sp_arena_alloc(t->arena, arcs.n / 2 + 1, sizeof *tokens);
        if (!tokens)
            return sp_error_set(err, SP_E_OUT_OF_MEMORY, "ring");
        if (sp_arcs_validate(arcs, NULL) != 0 || sp_arcs_overlap(all, arcs))
            return sp_error_set(err, SP_E_MALFORMED, "the router's ring has bounds that overlap");
        int rc = sp_arcs_union(all, arcs, t->arena, &all, err);
        if (rc != 0)
            return rc;
        for (size_t b = 0; b < arcs.n; b += 2)
            tokens[b / 2] = arcs.bounds[b];
        members[i] = (sp_ring_shard_t){.id = s->shard_id, .tokens = {tokens, (arcs.n + 1) / 2}};
        copy_text(t->owners[i].shard_id, sizeof t->owners[i].shard_id, s->shard_id);
        copy_text(t->owners[i].host, sizeof t->owners[i].host, s->host);
        copy_text(t->owners[i].database, sizeof t->owners[i].database, s->database);
        t->owners[i].port = (int)s->port;
    }
    if (!sp_arcs_is_all(all) && !sp_arcs_is_none(all))
        return sp_error_set(err, SP_E_MALFORMED, "the router's ring has holes");
    t->version = snapshot->ring_version;
    t->key_type = key_type_of(snapshot->key_type);
    return sp_ring_build(&t->ring, members, n, err);
}

static table_t *table_new(const sp_msg_ring_snapshot_t *snapshot, sp_error_t *err)
{
    table_t *t = calloc(1, sizeof *t);
    if (t)
        t->arena = sp_arena_new((size_t)256 * 1024 * 1024);
    if (!t || !t->arena) {
        free(t);
        sp_error_set(err, SP_E_OUT_OF_MEMORY, "ring");
        return NULL;
    }
    t->references = 1;
    if (fill_table(t, snapshot, err) == 0)
        return t;
    table_free(t);
    return NULL;
}

// ---- keyspaces; the lock is held

static keyspace_t *find(sp_rings_t *self, const char *name)
{
    for (keyspace_t *k = self->keyspaces; k; k = k->next)
        if (strcmp(k->name, name) == 0)
            return k;
    return NULL;
}

static keyspace_t *find_or_add(sp_rings_t *self, const char *name)
{
    keyspace_t *k = find(self, name);
    if (k || self->keyspaces_n >= MAX_KEYSPACES)
        return k;
    k = calloc(1, sizeof *k);
    char *copy = strdup(name);
    if (!k || !copy) {
        free(k);
        free(copy);
        return NULL;
    }
    k->name = copy;
    k->wanted = true;
    k->next = self->keyspaces;
    self->keyspaces = k;
    self->keyspaces_n++;
    return k;
}

// ---- the thread

// One of the same version may name other primaries, and nothing else.
static bool is_newer(const table_t *fresh, const table_t *old)
{
    return fresh->version > old->version ||
           (fresh->version == old->version &&
            sp_ring_digest(fresh->ring) == sp_ring_digest(old->ring));
}

// Takes a snapshot over unless it is older than what is there.
static void take_over(sp_rings_t *self, const sp_msg_ring_snapshot_t *snapshot)
{
    char name[64];
    copy_text(name, sizeof name, snapshot->keyspace);
    sp_error_t err = {0};
    table_t *fresh = table_new(snapshot, &err), *old = NULL;
    pthread_mutex_lock(&self->lock);
    keyspace_t *k = find(self, name);
    if (k && !fresh)
        k->fault = err;
    if (k && fresh && (!k->table || is_newer(fresh, k->table))) {
        old = k->table;
        k->table = fresh;
        fresh = NULL;
    }
    pthread_cond_broadcast(&self->changed);
    pthread_mutex_unlock(&self->lock);
    table_unref(self, old);
    if (fresh)
        table_free(fresh);
}

static void fetch(sp_rings_t *self, const char *name)
{
    sp_arena_t *arena = sp_arena_new((size_t)256 * 1024 * 1024);
    sp_msg_ring_get_t ask = {.keyspace = sp_str(name)};
    void *body = NULL;
    sp_error_t err = {0};
    int rc = arena ? sp_client_ask(self->client, &sp_schema_ring_get, &ask, SP_ASK_READ,
                                   sp_clock_mono_ms() + FETCH_MS, arena, &body, &err)
                   : sp_error_set(&err, SP_E_OUT_OF_MEMORY, "ring");
    pthread_mutex_lock(&self->lock);
    keyspace_t *k = find(self, name);
    k->fetched_ms = sp_clock_mono_ms();
    k->fault = err;
    pthread_cond_broadcast(&self->changed);
    pthread_mutex_unlock(&self->lock);
    if (rc == 0 && body)
        take_over(self, body);
    sp_arena_destroy(&arena);
}

// One keyspace whose ring should be fetched now; its name stays valid, for keyspaces are never removed.
static const char *due(sp_rings_t *self)
{
    int64_t now = sp_clock_mono_ms();
    int every_ms = self->client->feeds_n > 0 ? RELIST_MS : POLL_MS;
    const char *name = NULL;
    pthread_mutex_lock(&self->lock);
    for (keyspace_t *k = self->keyspaces; k && !name; k = k->next) {
        // A wish is granted at most every so often, so that many callers do not become many questions.
        bool wish = k->wanted && now - k->fetched_ms >= TICK_MS;
        if (wish || now - k->fetched_ms >= every_ms) {
            name = k->name;
            k->wanted = false;
        }
    }
    pthread_mutex_unlock(&self->lock);
    return name;
}

static int on_tick(zloop_t *loop, int timer, void *arg)
{
    (void)loop;
    (void)timer;
    sp_rings_t *self = arg;
    pthread_mutex_lock(&self->lock);
    bool stop = self->stop;
    pthread_mutex_unlock(&self->lock);
    if (stop)
        return -1;
    const char *name = due(self);
    if (name)
        fetch(self, name);
    return 0;
}

static void on_change(void *arg, const char *topic, const sp_schema_t *schema, const void *body,
                      bool gap)
{
    (void)topic;
    sp_rings_t *self = arg;
    if (gap) {
        pthread_mutex_lock(&self->lock);
        for (keyspace_t *k = self->keyspaces; k; k = k->next)
            k->wanted = true;
        pthread_mutex_unlock(&self->lock);
    }
    if (schema)
        take_over(self, ((const sp_msg_ring_change_t *)body)->ring);
}

static void *run(void *arg)
{
    sp_rings_t *self = arg;
    for (size_t i = 0; i < self->client->feeds_n; i++)
        sp_subscriber_open(&self->feeds[i], self->loop, self->client->feeds[i], "ring.",
                           &sp_schema_ring_change, on_change, self, NULL);
    zloop_timer(self->loop, TICK_MS, 0, on_tick, self);
    sp_mesh_run(self->loop);
    for (size_t i = 0; i < self->client->feeds_n; i++)
        sp_subscriber_close(&self->feeds[i]);
    return NULL;
}

// ---- what callers use

int sp_rings_open(sp_rings_t **ret_self, shardplane_t *client, sp_error_t *err)
{
    sp_rings_t *self = calloc(1, sizeof *self);
    if (!self)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "rings");
    self->client = client;
    self->loop = sp_mesh_loop();
    self->feeds = calloc(client->feeds_n + 1, sizeof(void *));
    pthread_mutex_init(&self->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&self->changed, &attr);
    pthread_condattr_destroy(&attr);
    if (self->loop && self->feeds && pthread_create(&self->thread, NULL, run, self) == 0) {
        *ret_self = self;
        return 0;
    }
    zloop_destroy(&self->loop);
    free(self->feeds);
    free(self);
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "rings");
}

void sp_rings_close(sp_rings_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    sp_rings_t *self = *self_p;
    pthread_mutex_lock(&self->lock);
    self->stop = true;
    pthread_mutex_unlock(&self->lock);
    pthread_join(self->thread, NULL);
    for (keyspace_t *k = self->keyspaces, *next; k; k = next) {
        next = k->next;
        if (k->table)
            table_free(k->table);
        free(k->name);
        free(k);
    }
    zloop_destroy(&self->loop);
    pthread_cond_destroy(&self->changed);
    pthread_mutex_destroy(&self->lock);
    free(self->feeds);
    free(self);
    *self_p = NULL;
}

static bool wait_change(sp_rings_t *self, int64_t deadline_ms)
{
    struct timespec t = {.tv_sec = deadline_ms / 1000, .tv_nsec = (deadline_ms % 1000) * 1000000};
    return pthread_cond_timedwait(&self->changed, &self->lock, &t) == 0;
}

// The newest table, with a reference; waits for the first one.
static table_t *table_of(sp_rings_t *self, const char *keyspace, int64_t deadline_ms,
                         sp_error_t *err)
{
    table_t *t = NULL;
    pthread_mutex_lock(&self->lock);
    keyspace_t *k = find_or_add(self, keyspace);
    if (!k)
        sp_error_set(err, SP_E_OUT_OF_MEMORY, "too many keyspaces");
    int64_t began_ms = sp_clock_mono_ms();
    while (k && !k->table) {
        // A fault of before this call may be over.
        if (k->fault.code != 0 && !k->fault.retryable && k->fetched_ms >= began_ms) {
            *err = k->fault;
            break;
        }
        if (k->fetched_ms < began_ms)
            k->wanted = true;
        if (!wait_change(self, deadline_ms) && sp_clock_until_ms(deadline_ms) == 0) {
            if (k->fault.code != 0)
                *err = k->fault;
            else
                sp_error_set(err, SP_E_UNAVAILABLE, "no router gave the ring of %s", keyspace);
            break;
        }
    }
    if (k && k->table) {
        t = k->table;
        t->references++;
    }
    pthread_mutex_unlock(&self->lock);
    return t;
}

int sp_rings_route(sp_rings_t *self, const char *keyspace, const char *key, int64_t deadline_ms,
                   shardplane_owner_t *ret_owner, sp_error_t *err)
{
    table_t *t = table_of(self, keyspace, deadline_ms, err);
    if (!t)
        return err->code;
    char canonical[SP_KEY_CANONICAL_MAX];
    sp_str_t text = sp_str(key);
    int rc = 0;
    if (t->key_type != 0)
        rc = sp_key_canonical(t->key_type, sp_str(key), canonical, sizeof canonical, &text, err);
    if (rc == 0) {
        int64_t hash = sp_key_hash(text.ptr, text.len);
        int owner = sp_ring_lookup(t->ring, hash);
        if (owner < 0) {
            rc = sp_error_set(err, SP_E_NO_OWNER, "keyspace %s has no shard that owns the key",
                              keyspace);
        } else {
            *ret_owner = t->owners[owner];
            ret_owner->hash = hash;
            ret_owner->ring_version = t->version;
        }
    }
    table_unref(self, t);
    return rc;
}

bool sp_rings_wait(sp_rings_t *self, const char *keyspace, int64_t version, int64_t deadline_ms)
{
    bool newer = false;
    pthread_mutex_lock(&self->lock);
    keyspace_t *k = find_or_add(self, keyspace);
    if (k)
        k->wanted = true;
    while (k && !(newer = k->table && k->table->version > version))
        if (!wait_change(self, deadline_ms) && sp_clock_until_ms(deadline_ms) == 0)
            break;
    pthread_mutex_unlock(&self->lock);
    return newer;
}
