// State and loop of health: the catalog comes in by a watch, results by actors, verdicts go out as events and answers.
#include "services/health/health.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "services/health/guards.h"
#include "services/health/prober.h"

enum { TICK_MS = 1000, LEASE_S = 10, RELIST_MS = 30000 };
#define CATALOG_ARENA ((size_t)512 * 1024 * 1024)

static void publish(health_t *self, shard_t *shard)
{
    shard->told = shard->verdict;
    const char *state = sp_enum_name(&sp_enum_verdict, shard->verdict);
    sp_arena_t *arena = sp_arena_new(0);
    sp_msg_shard_health_t view = {0};
    sp_str_t why = {NULL, 0};
    if (arena && shards_view(shard, sp_str(self->service_id), arena, &view) && view.reasons.n &&
        shard->verdict != VERDICT_HEALTHY)
        why = view.reasons.items[0];
    sp_log(shard->verdict == VERDICT_HEALTHY ? SP_LOG_INFO : SP_LOG_WARN, "HEALTH-VERDICT", "shard",
           shard->id, "verdict", state, "why",
           why.ptr ? sp_log_fmt(SP_STR_FMT, SP_STR_ARG(why)) : NULL, NULL);
    sp_msg_event_t event = {.kind = SP_STR("shard.health"),
                            .keyspace = sp_str(shard->keyspace),
                            .shard_id = sp_str(shard->id),
                            .state = sp_str(state),
                            .message = why};
    if (self->publisher)
        sp_publisher_event(self->publisher, &event);
    sp_arena_destroy(&arena);
}

// The first verdict waits until every server was looked at, but bad news does not.
static bool known_enough(const shard_t *shard)
{
    bool all = true;
    for (size_t i = 0; i < shard->n; i++)
        all &= shard->servers[i].seen.probed;
    return shard->verdict == VERDICT_UNHEALTHY ||
           (shard->verdict != VERDICT_UNKNOWN && (all || shard->told));
}

static void news_of(health_t *self, shard_t *shard)
{
    if (!shard)
        return;
    health_metrics_shard(self, shard);
    if (shard->verdict != shard->told && known_enough(shard))
        publish(self, shard);
}

static void on_probe(void *owner, sp_actor_t *actor, const sp_schema_t *schema, const void *body)
{
    (void)actor;
    health_t *self = owner;
    if (!schema) {
        atomic_store(&self->actor_lost, true);
    } else if (schema == &sp_schema_probe_result) {
        shard_t *shard = shards_take_probe(&self->shards, body);
        health_metrics_probe(self, shard, body);
        news_of(self, shard);
    }
}

static void on_guards(void *owner, sp_actor_t *actor, const sp_schema_t *schema, const void *body)
{
    (void)actor;
    health_t *self = owner;
    if (!schema)
        atomic_store(&self->actor_lost, true);
    else if (schema == &sp_schema_guard_result)
        news_of(self, shards_take_guards(&self->shards, body));
}

static void send_probe_set(health_t *self)
{
    sp_arena_t *arena = sp_arena_new(CATALOG_ARENA);
    sp_msg_probe_set_t set;
    sp_error_t err = {0};
    if (!arena || !shards_probe_set(&self->shards, arena, &set))
        sp_error_set(&err, SP_E_OUT_OF_MEMORY, "no memory");
    else
        sp_actor_send(self->prober, &sp_schema_probe_set, &set, &err);
    if (err.code)
        sp_log(SP_LOG_ERROR, "HEALTH-PROBES-NOT-SET", "error", err.text, NULL);
    sp_arena_destroy(&arena);
}

static void take_catalog(health_t *self)
{
    sp_arena_t *arena = sp_arena_new(CATALOG_ARENA);
    sp_kv_list_t list;
    sp_catalog_t *catalog = NULL;
    sp_error_t err = {0};
    if (arena && sp_watch_take(self->watch, arena, &list)) {
        if (sp_catalog_parse(&list, &catalog, &err) == SP_OK) {
            health_metrics_forget(self, &self->shards); // those that stay come back below
            if (shards_take_catalog(&self->shards, catalog)) {
                atomic_store(&self->has_catalog, true);
                send_probe_set(self);
            }
            for (size_t i = 0; i < self->shards.n; i++)
                health_metrics_shard(self, &self->shards.items[i]);
        } else { // doubt about the catalog: the last good one goes on
            sp_log(SP_LOG_WARN, "CATALOG-REFUSED", "error", err.text, NULL);
        }
    }
    sp_catalog_unref(&catalog);
    sp_arena_destroy(&arena);
}

static int on_watch(zloop_t *loop, zmq_pollitem_t *item, void *arg)
{
    (void)loop, (void)item;
    take_catalog(arg);
    return 0;
}

static int on_tick(zloop_t *loop, int timer, void *arg)
{
    (void)loop, (void)timer;
    health_t *self = arg;
    health_metrics_tick(self);
    if (self->publisher)
        sp_publisher_heartbeat(self->publisher);
    sp_server_set_ready(self->server,
                        atomic_load(&self->has_catalog) && !atomic_load(&self->actor_lost));
    return 0;
}

static bool is_ready(void *arg, char *reason, size_t size)
{
    health_t *self = arg;
    if (!atomic_load(&self->has_catalog))
        snprintf(reason, size, "the catalog has not been read yet");
    else if (atomic_load(&self->actor_lost))
        snprintf(reason, size, "a part of this process has ended");
    else
        return true;
    return false;
}

static int open_actors(health_t *self, const sp_store_options_t *store, sp_error_t *err)
{
    prober_options_t *probing = malloc(sizeof *probing);
    guards_options_t *guarding = malloc(sizeof *guarding);
    if (!probing || !guarding) {
        free(probing);
        free(guarding);
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for actors");
    }
    *probing = (prober_options_t){self->seal, sp_config_int(self->config, "probe_interval_ms"),
                                  sp_config_int(self->config, "probe_timeout_ms")};
    *guarding =
        (guards_options_t){self->seal, *store, sp_config_int(self->config, "guard_interval_ms")};
    int rc = sp_actor_start(&self->prober, self->loop, prober_run, probing, on_probe, self, err);
    if (rc) {
        free(probing);
        free(guarding);
        return rc;
    }
    rc = sp_actor_start(&self->guards, self->loop, guards_run, guarding, on_guards, self, err);
    if (rc)
        free(guarding);
    return rc;
}

static int open_catalog(health_t *self, const sp_store_options_t *store, sp_error_t *err)
{
    int rc = sp_watch_start(&self->watch, store, NULL, "", RELIST_MS, err);
    if (rc == SP_OK)
        rc = sp_mesh_poll(self->loop, sp_watch_fd(self->watch), on_watch, self, err);
    if (rc)
        return rc;
    sp_service_t service = {.kind = "health",
                            .endpoint = sp_server_endpoint(self->server),
                            .events =
                                self->publisher ? sp_publisher_endpoint(self->publisher) : NULL,
                            .metrics = sp_listener_endpoint(self->listener),
                            .lease_ttl_s = LEASE_S};
    return sp_service_join(&self->member, self->config, &service, err);
}

static int open_sockets(health_t *self, sp_error_t *err)
{
    int rc = health_metrics_open(&self->metrics, self->service_id, err);
    if (rc == SP_OK)
        rc = sp_server_open(&self->server, self->loop, sp_config_str(self->config, "listen"),
                            "health", self->service_id, health_dispatch, self, err);
    const char *events = sp_config_str(self->config, "events_listen");
    if (rc == SP_OK && events && *events)
        rc = sp_publisher_open(&self->publisher, events, self->service_id, err);
    if (rc == SP_OK)
        rc = sp_listener_open(&self->listener, sp_config_str(self->config, "metrics_listen"),
                              self->metrics.registry, is_ready, self, err);
    return rc;
}

static int open_all(health_t *self, sp_error_t *err)
{
    self->service_id = sp_config_str(self->config, "service_id");
    self->shards.limits =
        (verdict_limits_t){.failures = sp_config_int(self->config, "failures"),
                           .slow_ms = sp_config_int(self->config, "slow_ms"),
                           .max_lag_bytes = sp_config_int(self->config, "max_lag_bytes"),
                           .max_lag_ms = sp_config_int(self->config, "max_lag_ms")};
    int rc = sp_seal_open(&self->seal, sp_config_str(self->config, "secret_key_file"), err);
    if (rc)
        return rc;
    self->loop = sp_mesh_loop();
    if (!self->loop)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the loop");
    rc = sp_signals_open(&self->signals, self->loop, NULL, NULL, err);
    if (rc == SP_OK)
        rc = open_sockets(self, err);
    sp_store_options_t store = sp_service_store(self->config);
    if (rc == SP_OK)
        rc = open_actors(self, &store, err);
    if (rc == SP_OK)
        rc = open_catalog(self, &store, err);
    if (rc == SP_OK && zloop_timer(self->loop, TICK_MS, 0, on_tick, self) < 0)
        rc = sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the loop");
    return rc;
}

static void close_all(health_t *self)
{
    sp_member_stop(&self->member);
    sp_actor_stop(&self->prober);
    sp_actor_stop(&self->guards);
    sp_watch_stop(&self->watch);
    sp_listener_close(&self->listener);
    sp_publisher_close(&self->publisher);
    sp_server_close(&self->server);
    sp_signals_close(&self->signals);
    if (self->loop)
        zloop_destroy(&self->loop);
    shards_clear(&self->shards);
    sp_metrics_destroy(&self->metrics.registry);
    sp_seal_close(&self->seal);
}

int health_run(const sp_config_t *config, sp_error_t *err)
{
    health_t self = {.config = config};
    int rc = open_all(&self, err);
    if (rc == SP_OK) {
        sp_log(SP_LOG_INFO, "HEALTH-STARTED", "endpoint", sp_server_endpoint(self.server), NULL);
        sp_mesh_run(self.loop);
        sp_log(SP_LOG_INFO, "HEALTH-STOPPED", NULL);
    }
    close_all(&self);
    return rc;
}
