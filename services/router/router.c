// State and loop of the router.
#include "services/router/router.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/ring/hash.h"
#include "common/ring/key.h"
#include "services/router/execute.h"
#include "services/router/pools.h"
#include "services/router/rings.h"
#include "services/router/waiting.h"

enum {
    TICK_MS = 5,
    MEASURE_MS = 500,
    LEASE_S = 10,
    RELIST_MS = 30000,
    STOP_WAIT_MS = 5000, // for requests that are on a connection
    CATALOG_ARENA = 512 * 1024 * 1024
};

// ---- look-ups

int router_keyspace(const router_t *self, sp_str_t name,
                    const sp_catalog_keyspace_view_t **ret_keyspace, sp_error_t *err)
{
    if (self->catalog == NULL)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE,
                            "the router has not read the catalog yet");
    const sp_catalog_keyspace_view_t *k = sp_catalog_keyspace(self->catalog, name);
    if (k == NULL)
        return sp_error_set(err, SP_E_NOT_FOUND, "there is no keyspace " SP_STR_FMT,
                            SP_STR_ARG(name));
    *ret_keyspace = k;
    return 0;
}

int router_key(const sp_catalog_keyspace_view_t *keyspace, sp_str_t key, sp_arena_t *arena,
               sp_str_t *ret_key, int64_t *ret_hash, sp_error_t *err)
{
    char canonical[SP_KEY_CANONICAL_MAX];
    sp_str_t text = key;
    // Before the first table fixes the type, a key is what it says.
    int type = keyspace->keyspace->has_key_type ? (int)keyspace->keyspace->key_type : SP_KEY_TEXT;
    int rc = sp_key_canonical(type, key, canonical, sizeof canonical, &text, err);
    if (rc != 0)
        return rc;
    sp_str_t kept = sp_arena_str(arena, text);
    if (kept.ptr == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a key");
    *ret_key = kept;
    *ret_hash = sp_key_hash(kept.ptr, kept.len);
    return 0;
}

int router_owner(const sp_catalog_keyspace_view_t *keyspace, int64_t hash, int *ret_index,
                 sp_error_t *err)
{
    int index = keyspace->ring != NULL ? sp_ring_lookup(keyspace->ring, hash) : -1;
    if (index < 0)
        return sp_error_set(err, SP_E_NO_OWNER,
                            "keyspace " SP_STR_FMT " has no shard that owns anything yet",
                            SP_STR_ARG(keyspace->keyspace->name));
    *ret_index = index;
    return 0;
}

int64_t router_ring_version(const sp_catalog_keyspace_view_t *keyspace)
{
    return keyspace->ring_record != NULL ? keyspace->ring_record->version : 0;
}

// ---- catalog

static bool has_keyspace(void *arg, sp_str_t name)
{
    return sp_catalog_keyspace(arg, name) != NULL;
}

static int believe(router_t *self, sp_catalog_t *catalog, sp_error_t *err)
{
    const sp_msg_catalog_generation_t *g = &catalog->generation;
    int rc = ring_versions_check_generation(&self->versions, g->cluster_id, g->generation, err);
    // An import counts anew; otherwise no ring may go back, or lose its owners.
    bool same = self->versions.generation == 0 || self->versions.generation == g->generation;
    for (size_t i = 0; rc == 0 && same && i < catalog->n_keyspaces; i++) {
        const sp_catalog_keyspace_view_t *k = &catalog->keyspaces[i];
        rc = ring_versions_check_ring(&self->versions, k->keyspace->name,
                                      k->ring_rev.create_revision, router_ring_version(k),
                                      sp_ring_digest(k->ring), err);
    }
    if (rc == 0 && same)
        rc = ring_versions_check_gone(&self->versions, has_keyspace, catalog, err);
    if (rc == 0)
        rc = ring_versions_keep(&self->versions, g->cluster_id, g->generation, err);
    for (size_t i = 0; rc == 0 && i < catalog->n_keyspaces; i++) {
        const sp_catalog_keyspace_view_t *k = &catalog->keyspaces[i];
        rc =
            ring_versions_keep_ring(&self->versions, k->keyspace->name, k->ring_rev.create_revision,
                                    router_ring_version(k), sp_ring_digest(k->ring), err);
    }
    return rc;
}

static void stamp(router_t *self)
{
    int64_t highest = 0;
    for (size_t i = 0; i < self->catalog->n_keyspaces; i++) {
        const sp_catalog_keyspace_view_t *k = &self->catalog->keyspaces[i];
        char name[64];
        snprintf(name, sizeof name, SP_STR_FMT, SP_STR_ARG(k->keyspace->name));
        sp_gauge_set(sp_metric_with(self->metrics.ring, name, NULL),
                     (double)router_ring_version(k));
        if (router_ring_version(k) > highest)
            highest = router_ring_version(k);
    }
    sp_server_stamp(self->server, self->catalog->generation.generation,
                    self->catalog->leader_rev.create_revision, highest);
}

static bool rings_differ(const sp_catalog_t *a, const sp_catalog_t *b)
{
    if (a == NULL || a->n_keyspaces != b->n_keyspaces)
        return true;
    for (size_t i = 0; i < a->n_keyspaces; i++)
        if (a->keyspaces[i].ring_rev.mod_revision != b->keyspaces[i].ring_rev.mod_revision)
            return true;
    return false;
}

// Keeps the last good catalog: what does not parse, is of another cluster, or goes back is not believed.
static void take_catalog(router_t *self)
{
    sp_arena_t *arena = sp_arena_new(CATALOG_ARENA);
    sp_kv_list_t list;
    sp_catalog_t *catalog = NULL, *before = self->catalog;
    sp_error_t err = {0};
    if (arena == NULL || !sp_watch_take(self->watch, arena, &list)) {
        sp_arena_destroy(&arena);
        return;
    }
    int rc = sp_catalog_parse(&list, &catalog, &err);
    sp_arena_destroy(&arena);
    if (rc == 0)
        rc = believe(self, catalog, &err);
    if (rc != 0) {
        sp_catalog_unref(&catalog);
        sp_counter_add(self->metrics.refused, 1);
        sp_log(before == NULL ? SP_LOG_INFO : SP_LOG_WARN, "CATALOG-REFUSED", "error", err.text,
               NULL);
        return;
    }
    self->catalog = catalog;
    bool rings = rings_differ(before, catalog);
    pools_update(self->pools, catalog);
    stamp(self);
    sp_server_set_ready(self->server, self->stop_by_ms == 0);
    atomic_store(&self->has_catalog, true);
    if (before == NULL)
        sp_log(SP_LOG_INFO, "ROUTER-READY", "keyspaces", sp_log_fmt("%zu", catalog->n_keyspaces),
               "shards", sp_log_fmt("%zu", catalog->n_shards), NULL);
    rings_publish(self, before);
    sp_catalog_unref(&before);
    if (rings)
        execute_wake(self);
    waiting_wake(self);
}

static int on_watch(zloop_t *loop, zmq_pollitem_t *item, void *arg)
{
    (void)loop;
    (void)item;
    take_catalog(arg);
    return 0;
}

// ---- time

static void measure(router_t *self)
{
    size_t n = 0;
    for (const execution_t *e = self->executions; e != NULL; e = e->next)
        n++;
    sp_gauge_set(self->metrics.in_flight, (double)n);
    sp_gauge_set(self->metrics.parked, (double)self->n_parked);
    int64_t age = sp_watch_age_ms(self->watch);
    sp_gauge_set(self->metrics.catalog_age, age == INT64_MAX ? -1 : (double)age / 1000);
    pools_measure(self->pools, &self->metrics);
}

static int on_tick(zloop_t *loop, int timer, void *arg)
{
    (void)loop;
    (void)timer;
    router_t *self = arg;
    pools_tick(self->pools);
    execute_tick(self);
    waiting_tick(self);
    int64_t now = sp_clock_mono_ms();
    if (self->publisher != NULL && now >= self->heartbeat_ms) {
        sp_publisher_heartbeat(self->publisher);
        self->heartbeat_ms = now + 1000;
    }
    bool answered = self->executions == NULL;
    return self->stop_by_ms != 0 && (answered || now > self->stop_by_ms) ? -1 : 0;
}

static int on_measure(zloop_t *loop, int timer, void *arg)
{
    (void)loop;
    (void)timer;
    measure(arg);
    return 0;
}

// What is on a connection ends there, or its outcome would be unknown; all else is for other routers.
static int on_signal(void *arg, int signo)
{
    router_t *self = arg;
    if (signo == SIGHUP)
        return 0;
    if (self->stop_by_ms != 0)
        return -1; // asked twice
    sp_log(SP_LOG_INFO, "ROUTER-STOPPING", NULL);
    self->stop_by_ms = sp_clock_mono_ms() + STOP_WAIT_MS;
    atomic_store(&self->stopping, true);
    sp_server_set_ready(self->server, false);
    sp_member_stop(&self->member); // nobody should find us any more
    execute_drain(self);
    return self->executions == NULL ? -1 : 0;
}

static bool is_ready(void *arg, char *reason, size_t reason_size)
{
    router_t *self = arg;
    bool stopping = atomic_load(&self->stopping);
    if (atomic_load(&self->has_catalog) && !stopping)
        return true;
    snprintf(reason, reason_size, "%s",
             stopping ? "stopping" : "the catalog has not been read yet");
    return false;
}

// ---- opening and closing

static int open_catalog(router_t *self, sp_error_t *err)
{
    sp_store_options_t store = sp_service_store(self->config);
    int rc = sp_watch_start(&self->watch, &store, NULL, "", RELIST_MS, err);
    if (rc == 0)
        rc = sp_mesh_poll(self->loop, sp_watch_fd(self->watch), on_watch, self, err);
    if (rc != 0)
        return rc;
    sp_service_t service = {.kind = "router",
                            .endpoint = sp_server_endpoint(self->server),
                            .events =
                                self->publisher ? sp_publisher_endpoint(self->publisher) : NULL,
                            .metrics = sp_listener_endpoint(self->listener),
                            .lease_ttl_s = LEASE_S};
    return sp_service_join(&self->member, self->config, &service, err);
}

static int open_sockets(router_t *self, sp_error_t *err)
{
    const char *id = sp_config_str(self->config, "service_id"),
               *listen = sp_config_str(self->config, "listen"),
               *events = sp_config_str(self->config, "events_listen");
    int rc =
        sp_server_open(&self->server, self->loop, listen, "router", id, router_dispatch, self, err);
    if (rc == 0 && events != NULL && *events != 0)
        rc = sp_publisher_open(&self->publisher, events, id, err);
    if (rc == 0)
        rc = sp_listener_open(&self->listener, sp_config_str(self->config, "metrics_listen"),
                              self->metrics.registry, is_ready, self, err);
    return rc;
}

static int open_all(router_t *self, sp_error_t *err)
{
    int rc = sp_seal_open(&self->seal, sp_config_str(self->config, "secret_key_file"), err);
    if (rc == 0)
        rc = router_metrics_open(&self->metrics, sp_config_str(self->config, "service_id"), err);
    if (rc != 0)
        return rc;
    self->loop = sp_mesh_loop();
    pools_options_t options = {.loop = self->loop,
                               .seal = self->seal,
                               .application_name = sp_config_str(self->config, "service_id"),
                               .pool_size = (size_t)sp_config_int(self->config, "pool_size"),
                               .depth = (size_t)sp_config_int(self->config, "pipeline_depth"),
                               .served = execute_served};
    if (self->loop == NULL || (self->pools = pools_new(&options)) == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the loop");
    if ((rc = sp_signals_open(&self->signals, self->loop, on_signal, self, err)) != 0 ||
        (rc = open_sockets(self, err)) != 0)
        return rc;
    if (zloop_timer(self->loop, TICK_MS, 0, on_tick, self) < 0 ||
        zloop_timer(self->loop, MEASURE_MS, 0, on_measure, self) < 0)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the loop");
    return open_catalog(self, err);
}

static void close_all(router_t *self)
{
    sp_member_stop(&self->member);
    sp_watch_stop(&self->watch);
    waiting_stop(self);
    if (self->pools != NULL)
        execute_stop(self);
    sp_server_close(&self->server);
    sp_publisher_close(&self->publisher);
    sp_listener_close(&self->listener);
    sp_catalog_unref(&self->catalog);
    ring_versions_free(&self->versions);
    sp_signals_close(&self->signals);
    if (self->loop != NULL)
        zloop_destroy(&self->loop);
    router_metrics_close(&self->metrics);
    sp_seal_close(&self->seal);
}

int router_run(const sp_config_t *config, sp_error_t *err)
{
    router_t self = {.config = config};
    int rc = open_all(&self, err);
    if (rc == 0) {
        sp_log(SP_LOG_INFO, "ROUTER-STARTED", "listen", sp_server_endpoint(self.server), NULL);
        sp_mesh_run(self.loop);
        sp_log(SP_LOG_INFO, "ROUTER-STOPPED", NULL);
    }
    close_all(&self);
    return rc;
}
