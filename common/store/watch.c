// Watch: a thread that keeps one whole, linearizable snapshot of a prefix up to date. The stream only wakes it: what changed is
// always read by a list, so an event that etcd lost, repeated or sent late can do no harm; and each second of silence is checked
// by a read of the store's revision.
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "common/store/keeper.h"
#include "common/store/store_impl.h"

// Lists closer than GAP_MS to each other become one: a burst of changes is one snapshot.
enum {
    GAP_MS = 10,
    PROBE_MS = 1000,
    DEFAULT_RELIST_MS = 30000,
    BACKOFF_MS = 100,
    BACKOFF_CAP_MS = 1000
};
#define SNAPSHOT_LIMIT ((size_t)256 * 1024 * 1024)

struct sp_watch {
    sp_keeper_t keeper;       // thread and its store; news: a snapshot waits
    char *prefix;             // owned
    int relist_ms;            // at least this often
    _Atomic int64_t heard_ms; // when the store last answered, monotonic; 0 never
    pthread_mutex_t lock;     // for the three below
    sp_arena_t *arena;        // of `list`
    sp_kv_list_t list;        // latest snapshot
    bool fresh;               // it was not taken yet
    int64_t listed_ms;        // the thread's: when it last listed
    int64_t whole_ms;         // the thread's: when it last listed all
    int64_t revision;         // the thread's: of its last list
    bool down;                // the thread's: the store did not answer last time
};

static void heard(sp_watch_t *self)
{
    atomic_store(&self->heard_ms, sp_clock_mono_ms());
    if (self->down)
        sp_log(SP_LOG_INFO, "STORE-BACK", "prefix", self->prefix, NULL);
    self->down = false;
}

static void unheard(sp_watch_t *self, const sp_error_t *err)
{
    if (!self->down && err->code != SP_E_CANCELLED)
        sp_log(SP_LOG_WARN, "STORE-UNAVAILABLE", "prefix", self->prefix, "reason", err->text, NULL);
    self->down = self->down || err->code != SP_E_CANCELLED;
}

static bool same(const sp_kv_list_t *a, const sp_kv_list_t *b)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++)
        if (a->items[i].mod_revision != b->items[i].mod_revision ||
            !sp_str_eq(a->items[i].key, b->items[i].key))
            return false;
    return true;
}

// Puts a list in place of the last one; it is news unless it says the same.
static void publish(sp_watch_t *self, sp_arena_t *arena, const sp_kv_list_t *list)
{
    pthread_mutex_lock(&self->lock);
    sp_arena_t *old = self->arena;
    bool news = !old || !same(&self->list, list);
    self->arena = arena;
    self->list = *list;
    self->fresh = self->fresh || news;
    pthread_mutex_unlock(&self->lock);
    sp_arena_destroy(&old);
    if (news)
        sp_keeper_tell(&self->keeper);
}

// The last snapshot with the changes merged in; false when a key is gone (the counts differ) or it does not fit.
static bool merge(const sp_kv_list_t *old, const sp_kv_list_t *changes, size_t count,
                  sp_arena_t *arena, sp_kv_list_t *ret_list)
{
    sp_kv_list_t list = {.items = sp_arena_alloc(arena, count, sizeof *list.items),
                         .revision = changes->revision};
    size_t o = 0, c = 0;
    while (list.items && list.n < count && (o < old->n || c < changes->n)) {
        int order = o == old->n       ? 1
                    : c == changes->n ? -1
                                      : sp_str_cmp(old->items[o].key, changes->items[c].key);
        if (order >= 0) {
            list.items[list.n++] = changes->items[c++];
            o += order == 0;
            continue;
        }
        sp_kv_t *kv = &list.items[list.n++];
        *kv = old->items[o++];
        kv->key = sp_arena_str(arena, kv->key);
        kv->value = sp_arena_str(arena, kv->value);
        if (!kv->key.ptr || !kv->value.ptr)
            return false;
    }
    if (!list.items || list.n != count || o < old->n || c < changes->n)
        return false;
    *ret_list = list;
    return true;
}

// A linearizable read of what changed since the last snapshot. A key whose revision is not above that snapshot's was in it, with
// the same value; so when the number of keys is right, old and changed ones together are the whole. Where a key was deleted it is
// not, and all is listed.
static int read_snapshot(sp_watch_t *self, bool whole, sp_arena_t *arena, sp_kv_list_t *ret_list,
                         sp_error_t *err)
{
    if (!whole && self->arena) {
        sp_kv_list_t changes;
        size_t count;
        int rc = self->keeper.store->ops->changes(self->keeper.store, sp_str(self->prefix),
                                                  self->revision, arena, &changes, &count, err);
        if (rc != 0 || merge(&self->list, &changes, count, arena, ret_list))
            return rc;
        sp_arena_reset(arena);
    }
    return sp_store_list(self->keeper.store, sp_str(self->prefix), arena, ret_list, err);
}

static bool list_now(sp_watch_t *self, bool whole)
{
    sp_error_t err = {0};
    sp_kv_list_t list = {0};
    sp_arena_t *arena = sp_arena_new(SNAPSHOT_LIMIT);
    int rc = arena ? read_snapshot(self, whole, arena, &list, &err)
                   : sp_error_set(&err, SP_E_OUT_OF_MEMORY, "watch");
    // A handle refuses answers that are behind, but a new one would not know: never hand out an older snapshot.
    if (rc == 0 && list.revision < self->revision)
        rc = sp_error_set(&err, SP_E_CATALOG_UNAVAILABLE,
                          "the store went back from revision %lld to %lld",
                          (long long)self->revision, (long long)list.revision);
    if (rc != 0) {
        unheard(self, &err);
        sp_arena_destroy(&arena);
        return false;
    }
    self->revision = list.revision;
    self->listed_ms = sp_clock_mono_ms();
    if (whole)
        self->whole_ms = self->listed_ms;
    heard(self);
    publish(self, arena, &list);
    return true;
}

// A second without news: is the store still there, and has it moved on without telling?
static bool probe(sp_watch_t *self)
{
    sp_error_t err = {0};
    int64_t revision;
    if (self->keeper.store->ops->revision(self->keeper.store, &revision, &err) != 0) {
        unheard(self, &err);
        return false;
    }
    heard(self);
    if (sp_clock_mono_ms() - self->whole_ms >= self->relist_ms)
        return list_now(self, true);
    if (revision != self->revision)
        return list_now(self, false);
    return true;
}

// Follows one stream until it is lost or stop is asked.
static void follow(sp_watch_t *self)
{
    const sp_store_ops_t *ops = self->keeper.store->ops;
    sp_error_t err = {0};
    if (ops->watch_begin(self->keeper.store, sp_str(self->prefix), self->revision + 1, &err) != 0) {
        unheard(self, &err);
        return;
    }
    for (bool going = true; going;) {
        switch (ops->watch_wait(self->keeper.store,
                                PROBE_MS < self->relist_ms ? PROBE_MS : self->relist_ms)) {
        case SP_NEWS_CHANGED:
            going = !sp_keeper_stopped_within(&self->keeper,
                                              self->listed_ms + GAP_MS - sp_clock_mono_ms()) &&
                    list_now(self, sp_clock_mono_ms() - self->whole_ms >= self->relist_ms);
            break;
        case SP_NEWS_NONE:
            going = probe(self);
            break;
        case SP_NEWS_LOST:
        case SP_NEWS_STOPPED:
            going = false;
            break;
        }
    }
    ops->watch_end(self->keeper.store);
}

static void *run(void *arg)
{
    sp_watch_t *self = arg;
    int failures = 0;
    int64_t wait_ms = 0;
    while (!sp_keeper_stopped_within(&self->keeper, wait_ms)) {
        int64_t began_ms = sp_clock_mono_ms();
        bool listed = list_now(self, true);
        if (listed)
            follow(self);
        // A stream that ends at once, again and again, must not become a busy loop.
        bool lasted = listed && sp_clock_mono_ms() - began_ms >= PROBE_MS;
        failures = lasted ? 0 : failures + 1;
        wait_ms = lasted ? 0 : sp_random_backoff_ms(failures, BACKOFF_MS, BACKOFF_CAP_MS);
    }
    return NULL;
}

static void watch_free(sp_watch_t *self)
{
    sp_arena_destroy(&self->arena);
    pthread_mutex_destroy(&self->lock);
    free(self->prefix);
    free(self);
}

int sp_watch_start(sp_watch_t **ret_self, const sp_store_options_t *etcd_options,
                   const char *memory_name, const char *prefix, int relist_ms, sp_error_t *err)
{
    sp_watch_t *self = calloc(1, sizeof *self);
    if (!self)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "watch");
    pthread_mutex_init(&self->lock, NULL);
    self->relist_ms = relist_ms > 0 ? relist_ms : DEFAULT_RELIST_MS;
    self->prefix = strdup(prefix);
    int rc = self->prefix
                 ? sp_keeper_start(&self->keeper, etcd_options, memory_name, run, self, err)
                 : sp_error_set(err, SP_E_OUT_OF_MEMORY, "watch");
    if (rc != 0) {
        watch_free(self);
        return rc;
    }
    *ret_self = self;
    return 0;
}

void sp_watch_stop(sp_watch_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    sp_keeper_stop(&(*self_p)->keeper);
    watch_free(*self_p);
    *self_p = NULL;
}

int sp_watch_fd(const sp_watch_t *self)
{
    return self->keeper.news_fd;
}

bool sp_watch_take(sp_watch_t *self, sp_arena_t *arena, sp_kv_list_t *ret_list)
{
    // Cleared first: what is published meanwhile sets it again.
    sp_keeper_heed(&self->keeper);
    pthread_mutex_lock(&self->lock);
    bool taken = self->fresh;
    if (taken) {
        sp_kv_list_t list = self->list;
        list.items = sp_arena_alloc(arena, list.n, sizeof *list.items);
        taken = list.items != NULL;
        for (size_t i = 0; taken && i < list.n; i++) {
            list.items[i] = self->list.items[i];
            list.items[i].key = sp_arena_str(arena, self->list.items[i].key);
            list.items[i].value = sp_arena_str(arena, self->list.items[i].value);
            taken = list.items[i].key.ptr && list.items[i].value.ptr;
        }
        if (taken) {
            *ret_list = list;
            self->fresh = false;
        }
    }
    pthread_mutex_unlock(&self->lock);
    return taken;
}

int64_t sp_watch_age_ms(const sp_watch_t *self)
{
    int64_t heard_ms = atomic_load(&self->heard_ms);
    return heard_ms ? sp_clock_mono_ms() - heard_ms : INT64_MAX;
}
