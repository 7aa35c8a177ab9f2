#include "services/gateway/backends.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/mesh/signals.h"
#include "schemas/catalog.h"

#define RELIST_MS 30000
// A service that left the list is kept so long: etcd may have lost its lease and not the service its life.
#define GONE_KEEP_MS 15000
// A service that did not answer is asked last for so long.
#define SUSPECT_MS 5000
// Share of the time that a first try gets when others could answer, too.
#define FIRST_TRY_MS 1500
// A manager that has lost the lead may still have answers on their way; behind that nobody shall wait for it.
#define DEPOSED_MS 2000

typedef struct backend {
    struct backend *next; // list
    char kind[32];        // router, manager, health
    char id[256];         // service id
    char endpoint[256];   // ROUTER socket
    sp_peer_t *peer;      // connection
    int64_t suspect_ms;   // monotonic time until which others are preferred
    int64_t gone_ms;      // monotonic time when it left the list, 0 while in it
    int64_t retire_ms;    // monotonic time to end its calls, for it leads no more; or 0
    bool listed;          // in the snapshot being taken over
} backend_t;

struct sp_backends {
    zloop_t *loop;                    // borrowed
    sp_watch_t *services;             // services/
    sp_watch_t *leader;               // leader
    backend_t *list;                  // known services
    char leader_id[256];              // leading manager, or ""
    char leader_endpoint[256];        // its ROUTER socket
    int64_t leader_revision;          // create_revision of its key: another one is another term
    bool loaded;                      // services/ was read once
    unsigned turn;                    // round robin
    int tick;                         // timer
    sp_backends_change_fn *on_change; // told of each new list
    void *arg;                        // for on_change
};

typedef struct call {
    sp_backends_t *owner;       // backends
    const sp_schema_t *schema;  // request
    const void *body;           // caller's
    sp_msg_envelope_t envelope; // its strings are the caller's
    int64_t deadline_ms;        // monotonic
    sp_reply_fn *on_reply;      // caller's
    void *arg;                  // caller's
    char asked[256];            // endpoint asked last
    int tries;                  // so far
} call_t;

static void copy(char *out, size_t size, sp_str_t s)
{
    size_t n = s.len < size ? s.len : 0; // an endpoint cut short is none
    memcpy(out, n > 0 ? s.ptr : "", n);
    out[n] = '\0';
}

static void drop(backend_t **link)
{
    backend_t *b = *link;
    *link = b->next; // first out of the list: calls that end here look for others
    sp_log(SP_LOG_INFO, "BACKEND-GONE", "kind", b->kind, "service", b->id, NULL);
    sp_peer_close(&b->peer);
    free(b);
}

static backend_t *find(const sp_backends_t *self, const char *kind, const char *id,
                       const char *endpoint)
{
    for (backend_t *b = self->list; b != NULL; b = b->next) {
        if (strcmp(b->kind, kind) == 0 && strcmp(b->id, id) == 0 &&
            strcmp(b->endpoint, endpoint) == 0) {
            return b;
        }
    }
    return NULL;
}

static backend_t *add(sp_backends_t *self, const char *kind, const char *id, const char *endpoint)
{
    backend_t *b = calloc(1, sizeof(*b));
    sp_error_t err;
    if (b == NULL) {
        return NULL;
    }
    snprintf(b->kind, sizeof(b->kind), "%s", kind);
    snprintf(b->id, sizeof(b->id), "%s", id);
    snprintf(b->endpoint, sizeof(b->endpoint), "%s", endpoint);
    if (sp_peer_open(&b->peer, self->loop, endpoint, NULL, NULL, &err) != 0) {
        sp_log(SP_LOG_WARN, "BACKEND-REFUSED", "kind", kind, "service", id, "endpoint", endpoint,
               "error", err.text, NULL);
        free(b);
        return NULL;
    }
    b->next = self->list;
    self->list = b;
    sp_log(SP_LOG_INFO, "BACKEND-FOUND", "kind", kind, "service", id, "endpoint", endpoint, NULL);
    return b;
}

static bool wanted(sp_str_t kind)
{
    return sp_str_eqz(kind, "manager") || sp_str_eqz(kind, "router") || sp_str_eqz(kind, "health");
}

static void take_over(sp_backends_t *self, const sp_msg_service_t *services, size_t n)
{
    for (backend_t *b = self->list; b != NULL; b = b->next) {
        b->listed = false;
    }
    for (size_t i = 0; i < n; i++) {
        char kind[32], id[256], endpoint[256];
        copy(kind, sizeof(kind), services[i].kind);
        copy(id, sizeof(id), services[i].id);
        copy(endpoint, sizeof(endpoint), services[i].endpoint);
        if (!wanted(services[i].kind) || endpoint[0] == '\0') {
            continue;
        }
        backend_t *b = find(self, kind, id, endpoint);
        if (b == NULL) {
            b = add(self, kind, id, endpoint);
        }
        if (b != NULL) {
            b->listed = true;
            b->gone_ms = 0;
        }
    }
    for (backend_t *b = self->list; b != NULL; b = b->next) {
        if (!b->listed && b->gone_ms == 0) {
            b->gone_ms = sp_clock_mono_ms();
        }
    }
    self->on_change(self->arg, services, n);
}

static int on_services(zloop_t *loop, zmq_pollitem_t *item, void *arg)
{
    (void)loop;
    (void)item;
    sp_backends_t *self = arg;
    sp_arena_t *arena = sp_arena_new(0);
    sp_kv_list_t list;
    if (arena == NULL || !sp_watch_take(self->services, arena, &list)) {
        sp_arena_destroy(&arena);
        return 0;
    }
    sp_msg_service_t *services = sp_arena_alloc(arena, list.n + 1, sizeof(*services));
    size_t n = 0;
    for (size_t i = 0; services != NULL && i < list.n; i++) {
        sp_error_t err;
        if (sp_wire_decode_json(&sp_schema_service, list.items[i].value.ptr,
                                list.items[i].value.len, arena, &services[n], &err) == 0) {
            n++;
        } else {
            sp_log(SP_LOG_WARN, "BACKEND-MALFORMED", "key",
                   sp_log_fmt(SP_STR_FMT, SP_STR_ARG(list.items[i].key)), "error", err.text, NULL);
        }
    }
    if (services != NULL) {
        self->loaded = true;
        take_over(self, services, n);
    }
    sp_arena_destroy(&arena);
    return 0;
}

// Ends the calls to a manager, and stays connected to it: reads are asked again, of writes nobody knows.
static void end_calls(sp_backends_t *self, backend_t *b)
{
    sp_peer_t *old = b->peer;
    sp_error_t err;
    b->retire_ms = 0;
    if (sp_peer_open(&b->peer, self->loop, b->endpoint, NULL, NULL, &err) == 0) {
        sp_peer_close(&old);
    } else {
        b->peer = old;
    }
}

static void take_leader(sp_backends_t *self, const sp_msg_catalog_leader_t *leader,
                        int64_t revision)
{
    backend_t *old = find(self, "manager", self->leader_id, self->leader_endpoint);
    bool other_term = revision != self->leader_revision;
    copy(self->leader_id, sizeof(self->leader_id), leader->service_id);
    copy(self->leader_endpoint, sizeof(self->leader_endpoint), leader->endpoint);
    self->leader_revision = revision;
    backend_t *now = find(self, "manager", self->leader_id, self->leader_endpoint);
    if (old != NULL && old != now) {
        old->retire_ms = sp_clock_mono_ms() + DEPOSED_MS;
    }
    // The same manager in another term: it may have died in between, and then nobody answers what it was asked before.
    if (now != NULL && other_term && (old == now || now->retire_ms != 0)) {
        end_calls(self, now);
    }
    sp_log(SP_LOG_INFO, "BACKEND-LEADER", "service",
           self->leader_id[0] != '\0' ? self->leader_id : "none", NULL);
}

static int on_leader(zloop_t *loop, zmq_pollitem_t *item, void *arg)
{
    (void)loop;
    (void)item;
    sp_backends_t *self = arg;
    sp_arena_t *arena = sp_arena_new(0);
    sp_kv_list_t list;
    if (arena != NULL && sp_watch_take(self->leader, arena, &list)) {
        sp_msg_catalog_leader_t leader = {.service_id = {NULL, 0}};
        int64_t revision = 0;
        for (size_t i = 0; i < list.n; i++) {
            sp_error_t err;
            if (sp_str_eqz(list.items[i].key, "leader") &&
                sp_wire_decode_json(&sp_schema_catalog_leader, list.items[i].value.ptr,
                                    list.items[i].value.len, arena, &leader, &err) == 0) {
                revision = list.items[i].create_revision;
            }
        }
        take_leader(self, &leader, revision);
    }
    sp_arena_destroy(&arena);
    return 0;
}

static int on_tick(zloop_t *loop, int timer_id, void *arg)
{
    (void)loop;
    (void)timer_id;
    sp_backends_t *self = arg;
    int64_t now = sp_clock_mono_ms();
    for (backend_t **link = &self->list; *link != NULL;) {
        backend_t *b = *link;
        bool gone = b->gone_ms != 0 && now - b->gone_ms > GONE_KEEP_MS;
        bool deposed = b->retire_ms != 0 && now > b->retire_ms;
        if (gone) {
            drop(link);
        } else if (deposed) {
            end_calls(self, b);
        }
        // Calls that ended meanwhile may have changed the list.
        link = gone || deposed ? &self->list : &b->next;
    }
    return 0;
}

// The leader stands in its own key: it may be elected before its registration is seen here.
static backend_t *pick_leader(sp_backends_t *self)
{
    if (self->leader_endpoint[0] == '\0') {
        return NULL;
    }
    backend_t *b = find(self, "manager", self->leader_id, self->leader_endpoint);
    if (b == NULL) {
        b = add(self, "manager", self->leader_id, self->leader_endpoint);
        if (b != NULL) {
            b->gone_ms = sp_clock_mono_ms(); // dropped again unless it shows up in the list
        }
    }
    return b;
}

// Lower is better: live and answering, live, left the list.
static int rank(const backend_t *b, int64_t now)
{
    return (b->gone_ms != 0 ? 2 : 0) + (b->suspect_ms > now ? 1 : 0);
}

static backend_t *pick(sp_backends_t *self, const char *kind, const char *not_endpoint)
{
    if (strcmp(kind, "manager") == 0) {
        backend_t *leader = pick_leader(self);
        return leader != NULL && strcmp(leader->endpoint, not_endpoint) != 0 ? leader : NULL;
    }
    int64_t now = sp_clock_mono_ms();
    int best = INT32_MAX;
    unsigned n = 0;
    for (backend_t *b = self->list; b != NULL; b = b->next) {
        if (strcmp(b->kind, kind) == 0 && strcmp(b->endpoint, not_endpoint) != 0) {
            int r = rank(b, now);
            n = r < best ? 1 : r == best ? n + 1 : n;
            best = r < best ? r : best;
        }
    }
    unsigned choice = n > 0 ? self->turn++ % n : 0;
    for (backend_t *b = self->list; b != NULL; b = b->next) {
        if (strcmp(b->kind, kind) == 0 && strcmp(b->endpoint, not_endpoint) != 0 &&
            rank(b, now) == best && choice-- == 0) {
            return b;
        }
    }
    return NULL;
}

static bool only_reads(const sp_schema_t *schema)
{
    const char *colon = schema->permission != NULL ? strrchr(schema->permission, ':') : NULL;
    return colon != NULL && strcmp(colon, ":read") == 0;
}

static void on_answer(void *arg, const sp_error_t *err, const sp_msg_envelope_t *envelope,
                      const sp_schema_t *schema, const void *body);

static int try_call(call_t *c, sp_error_t *err)
{
    // A manager that is asked twice leads in another term now.
    bool leader = strcmp(c->schema->service, "manager") == 0;
    backend_t *b = pick(c->owner, c->schema->service, leader ? "" : c->asked);
    if (b == NULL && leader) {
        return sp_error_set(err, SP_E_UNAVAILABLE,
                            "no manager leads at the moment; try again in a few seconds");
    }
    if (b == NULL) {
        return sp_error_set(err, SP_E_UNAVAILABLE, "no %s is registered", c->schema->service);
    }
    snprintf(c->asked, sizeof(c->asked), "%s", b->endpoint);
    int64_t left = sp_clock_until_ms(c->deadline_ms);
    bool others = only_reads(c->schema) && c->tries == 0 && left > 2 * FIRST_TRY_MS &&
                  pick(c->owner, b->kind, b->endpoint) != NULL;
    c->tries++;
    return sp_peer_call(b->peer, c->schema, c->body, &c->envelope,
                        others ? FIRST_TRY_MS : (int)(left > 0 ? left : 1), on_answer, c, err);
}

static void on_answer(void *arg, const sp_error_t *err, const sp_msg_envelope_t *envelope,
                      const sp_schema_t *schema, const void *body)
{
    call_t *c = arg;
    bool silent = err->code != 0 && schema == NULL;
    for (backend_t *b = c->owner->list; b != NULL; b = b->next) {
        if (strcmp(b->endpoint, c->asked) == 0) {
            b->suspect_ms = silent ? sp_clock_mono_ms() + SUSPECT_MS : 0;
        }
    }
    if (silent && only_reads(c->schema) && c->tries < 3 && sp_clock_until_ms(c->deadline_ms) > 0) {
        sp_error_t again;
        if (try_call(c, &again) == 0) {
            return;
        }
    }
    c->on_reply(c->arg, err, envelope, schema, body);
    free(c);
}

int sp_backends_call(sp_backends_t *self, const sp_schema_t *schema, const void *body,
                     const sp_msg_envelope_t *envelope, int timeout_ms, sp_reply_fn *on_reply,
                     void *arg, sp_error_t *err)
{
    call_t *c = calloc(1, sizeof(*c));
    if (c == NULL) {
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "a call");
    }
    *c = (call_t){.owner = self,
                  .schema = schema,
                  .body = body,
                  .envelope = *envelope,
                  .on_reply = on_reply,
                  .arg = arg,
                  .deadline_ms = sp_clock_mono_ms() + timeout_ms};
    int rc = try_call(c, err);
    if (rc != 0) {
        free(c);
    }
    // NOLINTNEXTLINE(clang-analyzer-unix.Malloc): on_answer has it
    return rc;
}

int sp_backends_open(sp_backends_t **ret_self, zloop_t *loop, const sp_store_options_t *store,
                     sp_backends_change_fn *on_change, void *arg, sp_error_t *err)
{
    sp_backends_t *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "backends");
    }
    *self = (sp_backends_t){.loop = loop, .on_change = on_change, .arg = arg, .tick = -1};
    int rc = sp_watch_start(&self->services, store, NULL, "services/", RELIST_MS, err);
    if (rc == 0) {
        rc = sp_watch_start(&self->leader, store, NULL, "leader", RELIST_MS, err);
    }
    if (rc == 0) {
        rc = sp_mesh_poll(loop, sp_watch_fd(self->services), on_services, self, err);
    }
    if (rc == 0) {
        rc = sp_mesh_poll(loop, sp_watch_fd(self->leader), on_leader, self, err);
    }
    if (rc != 0) {
        sp_backends_close(&self);
        return rc;
    }
    self->tick = zloop_timer(loop, 1000, 0, on_tick, self);
    *ret_self = self;
    return 0;
}

static void stop_watch(sp_backends_t *self, sp_watch_t **watch_p)
{
    if (*watch_p != NULL) {
        zmq_pollitem_t item = {.fd = sp_watch_fd(*watch_p), .events = ZMQ_POLLIN};
        zloop_poller_end(self->loop, &item);
        sp_watch_stop(watch_p);
    }
}

void sp_backends_close(sp_backends_t **self_p)
{
    sp_backends_t *self = *self_p;
    if (self == NULL) {
        return;
    }
    *self_p = NULL;
    stop_watch(self, &self->services);
    stop_watch(self, &self->leader);
    if (self->tick >= 0) {
        zloop_timer_end(self->loop, self->tick);
    }
    self->leader_endpoint[0] = '\0'; // calls that end now find nobody else
    backend_t *rest = self->list;
    self->list = NULL;
    while (rest != NULL) {
        drop(&rest);
    }
    free(self);
}

size_t sp_backends_count(const sp_backends_t *self, const char *kind)
{
    size_t n = 0;
    for (const backend_t *b = self->list; b != NULL; b = b->next) {
        n += strcmp(b->kind, kind) == 0 && b->gone_ms == 0 ? 1 : 0;
    }
    return n;
}

const char *sp_backends_leader(const sp_backends_t *self)
{
    return self->leader_id;
}

bool sp_backends_loaded(const sp_backends_t *self)
{
    return self->loaded;
}

int64_t sp_backends_age_ms(const sp_backends_t *self)
{
    return sp_watch_age_ms(self->services);
}
