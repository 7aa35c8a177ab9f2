#include "services/router/pools.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/random.h"

enum { WARM = 2, RETIRE_MS = 30000 };

struct slot {
    pool_t *pool;    // owner
    sp_pipe_t *pipe; // connection
    int fd;          // registered with the loop, -1: none
    bool writing;    // registered for writing too
    bool alone;      // given out for a transaction of several steps
    bool was_up;     // at the last look
};

typedef struct queue {
    pool_waiter_t *head;  // has waited longest
    pool_waiter_t **tail; // where the next one goes
} queue_t;

struct pool {
    shard_pools_t *owner; // all pools
    pool_t *next;         // in the owner's list
    char shard_id[64];    // shard
    char *sealed;         // DSN as in the catalog
    int replica;          // -1: primary, else index
    sp_arena_t *arena;    // of dsn
    sp_dsn_t dsn;         // unsealed
    bool usable;          // dsn is there
    char fault[256];      // why it is not
    slot_t *slots;        // pool_size of them; pipe NULL: not opened
    int64_t retired_ms;   // 0: in use
    bool kept;            // scratch of pools_update
    queue_t queues[2];    // for room; for a connection alone
    bool serving;         // the first of a queue picks
};

struct shard_pools {
    pools_options_t options; // as given
    pool_t *first;           // list
};

// ---- one connection in the loop

static void slot_watch(slot_t *self);
static void serve(pool_t *self);

static int on_ready(zloop_t *loop, zmq_pollitem_t *item, void *arg)
{
    (void)loop;
    (void)item;
    slot_t *self = arg;
    sp_pipe_ready(self->pipe);
    slot_watch(self);
    serve(self->pool);
    return 0;
}

// Makes the loop poll what the connection wants. After every call into the pipe, before anything else can open a descriptor: a closed
// descriptor's number is soon another's.
static void slot_watch(slot_t *self)
{
    int fd = self->pipe != NULL ? sp_pipe_fd(self->pipe) : -1;
    bool writing = fd >= 0 && sp_pipe_wants_write(self->pipe);
    zloop_t *loop = self->pool->owner->options.loop;
    if (fd == self->fd && writing == self->writing)
        return;
    if (self->fd >= 0) {
        zmq_pollitem_t old = {.fd = self->fd};
        zloop_poller_end(loop, &old);
    }
    self->fd = fd;
    self->writing = writing;
    if (fd < 0)
        return;
    zmq_pollitem_t item = {.fd = fd, .events = (short)(ZMQ_POLLIN | (writing ? ZMQ_POLLOUT : 0))};
    if (zloop_poller(loop, &item, on_ready, self) != 0)
        self->fd = -1; // the tick tries again
    else
        zloop_poller_set_tolerant(loop, &item);
}

int slot_submit(slot_t *self, const sp_pipe_request_t *request, sp_error_t *err)
{
    int rc = sp_pipe_submit(self->pipe, request, err);
    slot_watch(self);
    return rc;
}

void slot_release(slot_t *self)
{
    self->alone = false;
}

bool slot_up(const slot_t *self)
{
    return self->pipe != NULL && sp_pipe_up(self->pipe);
}

static void slot_open(slot_t *self)
{
    const pools_options_t *o = &self->pool->owner->options;
    sp_pipe_options_t options = {.application_name = o->application_name,
                                 .read_only = self->pool->replica >= 0};
    sp_error_t err = {0};
    if (self->pipe != NULL || !self->pool->usable)
        return;
    if (sp_pipe_new(&self->pipe, &self->pool->dsn, &options, &err) != 0) {
        sp_log(SP_LOG_WARN, "POOL-FAILED", "shard", self->pool->shard_id, "error", err.text, NULL);
        return;
    }
    sp_pipe_tick(self->pipe);
    slot_watch(self);
}

static void slot_close(slot_t *self)
{
    if (self->fd >= 0) {
        zmq_pollitem_t old = {.fd = self->fd};
        zloop_poller_end(self->pool->owner->options.loop, &old);
        self->fd = -1;
    }
    sp_pipe_destroy(&self->pipe);
}

// ---- those who wait

static void enqueue(queue_t *self, pool_waiter_t *waiter)
{
    *waiter = (pool_waiter_t){.link = self->tail, .tail = &self->tail};
    *self->tail = waiter;
    self->tail = &waiter->next;
}

void pool_waiter_leave(pool_waiter_t *waiter)
{
    if (waiter->link == NULL)
        return;
    *waiter->link = waiter->next;
    if (waiter->next != NULL)
        waiter->next->link = waiter->link;
    else
        *waiter->tail = waiter->link;
    *waiter = (pool_waiter_t){0};
}

// ---- one server

static void pool_destroy(pool_t *self)
{
    for (int alone = 0; alone < 2; alone++)
        while (self->queues[alone].head != NULL)
            pool_waiter_leave(self->queues[alone].head);
    for (size_t i = 0; self->slots != NULL && i < self->owner->options.pool_size; i++)
        slot_close(&self->slots[i]);
    free(self->slots);
    free(self->sealed);
    sp_arena_destroy(&self->arena);
    free(self);
}

static pool_t *pool_new(shard_pools_t *owner, sp_str_t shard_id, int replica, sp_str_t sealed)
{
    pool_t *self = calloc(1, sizeof *self);
    if (self == NULL)
        return NULL;
    self->owner = owner;
    self->replica = replica;
    for (int alone = 0; alone < 2; alone++)
        self->queues[alone].tail = &self->queues[alone].head;
    snprintf(self->shard_id, sizeof self->shard_id, SP_STR_FMT, SP_STR_ARG(shard_id));
    self->sealed = strndup(sealed.ptr != NULL ? sealed.ptr : "", sealed.len);
    self->slots = calloc(owner->options.pool_size, sizeof *self->slots);
    self->arena = sp_arena_new(0);
    if (self->sealed == NULL || self->slots == NULL || self->arena == NULL) {
        pool_destroy(self);
        return NULL;
    }
    for (size_t i = 0; i < owner->options.pool_size; i++)
        self->slots[i] = (slot_t){.pool = self, .fd = -1};
    sp_str_t clear = {NULL, 0};
    sp_error_t err = {0};
    if (sp_seal_decrypt(owner->options.seal, sealed, self->arena, &clear, &err) == 0 &&
        sp_dsn_parse(clear, self->arena, &self->dsn, &err) == 0)
        self->usable = true;
    else
        sp_log(SP_LOG_ERROR, "POOL-DSN-UNUSABLE", "shard", self->shard_id, "error", err.text, NULL);
    snprintf(self->fault, sizeof self->fault, "%.200s", err.text);
    // Warm ones, so that the first request behind a cutover does not wait for a handshake.
    for (size_t i = 0; i < WARM && i < owner->options.pool_size; i++)
        slot_open(&self->slots[i]);
    return self;
}

// Some connections are kept for transactions of several steps: those need an idle one, which under load no other would ever be.
static size_t reserved(const pools_options_t *o)
{
    return o->pool_size >= 4 ? o->pool_size / 4 : o->pool_size > 1;
}

// The connection with the fewest requests that has room for one more, or NULL.
static slot_t *best_slot(const pool_t *self, bool alone)
{
    const pools_options_t *o = &self->owner->options;
    slot_t *best = NULL;
    size_t least = alone ? 1 : o->depth, n = alone ? o->pool_size : o->pool_size - reserved(o);
    for (size_t i = 0; i < n && least > 0; i++) {
        slot_t *s = &self->slots[alone ? n - 1 - i : i]; // the reserved ones are the last
        if (!slot_up(s) || s->alone || sp_pipe_depth(s->pipe) >= least)
            continue;
        least = sp_pipe_depth(s->pipe);
        best = s;
    }
    return best;
}

static void open_one_more(pool_t *self, bool alone)
{
    const pools_options_t *o = &self->owner->options;
    size_t n = alone ? o->pool_size : o->pool_size - reserved(o);
    for (size_t i = 0; i < n; i++) {
        slot_t *s = &self->slots[alone ? n - 1 - i : i];
        if (s->pipe == NULL) {
            slot_open(s);
            return;
        }
    }
}

slot_t *pool_pick(pool_t *self, bool alone, pool_waiter_t *waiter)
{
    bool behind = self->queues[alone].head != NULL && !self->serving;
    slot_t *best = behind ? NULL : best_slot(self, alone);
    // All are busy: one more, for the next ones.
    if (best == NULL || sp_pipe_depth(best->pipe) > 0)
        open_one_more(self, alone);
    if (best == NULL)
        enqueue(&self->queues[alone], waiter);
    else
        best->alone = alone;
    return best;
}

static void serve_first(pool_t *self, bool alone)
{
    pool_waiter_t *first = self->queues[alone].head;
    pool_waiter_leave(first);
    self->serving = true;
    self->owner->options.served(first);
    self->serving = false;
}

// In the order in which they came, as long as there is room.
static void serve(pool_t *self)
{
    for (int alone = 1; alone >= 0; alone--)
        while (self->queues[alone].head != NULL && best_slot(self, alone) != NULL)
            serve_first(self, alone);
}

// All of them, to look for another pool.
static void dismiss(pool_t *self)
{
    for (int alone = 0; alone < 2; alone++)
        while (self->queues[alone].head != NULL)
            serve_first(self, alone);
}

const char *pool_fault(const pool_t *self)
{
    if (!self->usable)
        return self->fault;
    for (size_t i = 0; i < self->owner->options.pool_size; i++)
        if (slot_up(&self->slots[i]))
            return "";
    return self->slots[0].pipe != NULL ? sp_pipe_fault(self->slots[0].pipe) : "not connected yet";
}

static bool pool_idle(const pool_t *self)
{
    for (size_t i = 0; i < self->owner->options.pool_size; i++)
        if (self->slots[i].pipe != NULL &&
            (sp_pipe_depth(self->slots[i].pipe) > 0 || self->slots[i].alone))
            return false;
    return true;
}

// Drives all connections.
static void pool_tick(pool_t *self)
{
    for (size_t i = 0; i < self->owner->options.pool_size; i++) {
        slot_t *s = &self->slots[i];
        if (s->pipe == NULL)
            continue;
        sp_pipe_tick(s->pipe);
        slot_watch(s);
        bool up = sp_pipe_up(s->pipe);
        if (up != s->was_up && (up || i == 0))
            sp_log(up ? SP_LOG_DEBUG : SP_LOG_WARN, up ? "POOL-UP" : "POOL-DOWN", "shard",
                   self->shard_id, "endpoint", self->replica < 0 ? "primary" : "replica", "error",
                   up ? NULL : sp_pipe_fault(s->pipe), NULL);
        s->was_up = up;
    }
    serve(self);
}

// ---- all of them

shard_pools_t *pools_new(const pools_options_t *options)
{
    shard_pools_t *self = calloc(1, sizeof *self);
    if (self != NULL)
        self->options = *options;
    return self;
}

void pools_destroy(shard_pools_t **self_p)
{
    shard_pools_t *self = *self_p;
    if (self == NULL)
        return;
    while (self->first != NULL) {
        pool_t *gone = self->first;
        self->first = gone->next;
        pool_destroy(gone);
    }
    free(self);
    *self_p = NULL;
}

static void keep_or_open(shard_pools_t *self, sp_str_t shard_id, int replica, sp_str_t sealed)
{
    for (pool_t *p = self->first; p != NULL; p = p->next)
        if (p->retired_ms == 0 && p->replica == replica && sp_str_eqz(shard_id, p->shard_id) &&
            sp_str_eqz(sealed, p->sealed)) {
            p->kept = true;
            return;
        }
    pool_t *made = pool_new(self, shard_id, replica, sealed);
    if (made == NULL)
        return; // the next catalog tries again
    made->kept = true;
    made->next = self->first;
    self->first = made;
}

// It lacked something when its shard was given keys: nobody knows what else it will show, or when.
static bool is_ineligible(const sp_msg_catalog_shard_t *shard, size_t replica)
{
    for (size_t i = 0; i < shard->ineligible_replicas.n; i++)
        if (shard->ineligible_replicas.items[i] == (int64_t)replica)
            return true;
    return false;
}

void pools_update(shard_pools_t *self, const sp_catalog_t *catalog)
{
    for (pool_t *p = self->first; p != NULL; p = p->next)
        p->kept = false;
    for (size_t i = 0; i < catalog->n_shards; i++) {
        const sp_msg_catalog_shard_t *s = catalog->shards[i].shard;
        if (s->primary.len == 0 || s->status == SP_SHARD_STATUS_REGISTERING ||
            s->status == SP_SHARD_STATUS_DELETING)
            continue;
        keep_or_open(self, s->id, -1, s->primary);
        for (size_t r = 0; r < s->replicas.n; r++)
            if (!is_ineligible(s, r))
                keep_or_open(self, s->id, (int)r, s->replicas.items[r]);
    }
    for (pool_t *p = self->first; p != NULL; p = p->next)
        if (!p->kept && p->retired_ms == 0)
            p->retired_ms = sp_clock_mono_ms();
    for (pool_t *p = self->first; p != NULL; p = p->next)
        if (p->retired_ms != 0)
            dismiss(p);
}

void pools_tick(shard_pools_t *self)
{
    int64_t now = sp_clock_mono_ms();
    for (pool_t **at = &self->first; *at != NULL;) {
        pool_t *p = *at;
        pool_tick(p);
        if (p->replica >= 0 && pool_fault(p)[0] != 0)
            dismiss(p); // the primary, or another replica, will do
        if (p->retired_ms != 0 && (pool_idle(p) || now > p->retired_ms + RETIRE_MS)) {
            *at = p->next;
            pool_destroy(p);
        } else {
            at = &p->next;
        }
    }
}

pool_t *pools_primary(shard_pools_t *self, sp_str_t shard_id)
{
    for (pool_t *p = self->first; p != NULL; p = p->next)
        if (p->retired_ms == 0 && p->replica < 0 && sp_str_eqz(shard_id, p->shard_id))
            return p;
    return NULL;
}

pool_t *pools_replica(shard_pools_t *self, sp_str_t shard_id)
{
    pool_t *chosen = NULL;
    uint32_t n = 0;
    for (pool_t *p = self->first; p != NULL; p = p->next)
        if (p->retired_ms == 0 && p->replica >= 0 && sp_str_eqz(shard_id, p->shard_id) &&
            pool_fault(p)[0] == 0 && sp_random_below(++n) == 0)
            chosen = p; // each with the same chance
    return chosen;
}

void pools_measure(shard_pools_t *self, router_metrics_t *metrics)
{
    for (pool_t *p = self->first; p != NULL; p = p->next) {
        size_t up = 0, down = 0, flights = 0;
        for (size_t i = 0; i < self->options.pool_size; i++) {
            if (p->slots[i].pipe == NULL)
                continue;
            *(sp_pipe_up(p->slots[i].pipe) ? &up : &down) += 1;
            flights += sp_pipe_depth(p->slots[i].pipe);
        }
        const char *endpoint = p->replica < 0 ? "primary" : "replica";
        if (p->retired_ms != 0)
            continue;
        sp_gauge_set(sp_metric_with(metrics->connections, p->shard_id, endpoint, "up", NULL),
                     (double)up);
        sp_gauge_set(sp_metric_with(metrics->connections, p->shard_id, endpoint, "down", NULL),
                     (double)down);
        sp_gauge_set(sp_metric_with(metrics->flights, p->shard_id, endpoint, NULL),
                     (double)flights);
    }
}
