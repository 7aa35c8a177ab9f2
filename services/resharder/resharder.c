// State and loop of the worker.
#include "services/resharder/resharder.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "services/resharder/dump.h"
#include "services/resharder/pool.h"

enum {
    TICK_MS = 100,
    STOP_MS = 10000,
    LEASE_S = 10,
    RELIST_MS = 30000,
    POOL_IDLE_MS = 3000,
    CATALOG_ARENA = 512 * 1024 * 1024
};

static void take_catalog(resharder_t *self)
{
    sp_arena_t *arena = sp_arena_new(CATALOG_ARENA);
    sp_kv_list_t list;
    sp_catalog_t *catalog = NULL;
    sp_error_t err = {0};
    if (arena != NULL && sp_watch_take(self->watch, arena, &list)) {
        if (sp_catalog_parse(&list, &catalog, &err) == 0) {
            sp_catalog_unref(&self->catalog);
            self->catalog = catalog;
            atomic_store(&self->has_catalog, true);
        } else {
            sp_log(SP_LOG_WARN, "CATALOG-REFUSED", "error", err.text, NULL);
        }
    }
    sp_arena_destroy(&arena);
}

static int on_watch(zloop_t *loop, zmq_pollitem_t *item, void *arg)
{
    (void)loop;
    (void)item;
    resharder_t *self = arg;
    take_catalog(self);
    resharder_link_tick(self);
    return 0;
}

static int on_tick(zloop_t *loop, int timer, void *arg)
{
    (void)loop;
    (void)timer;
    resharder_t *self = arg;
    resharder_metrics_tick(self);
    pool_trim(POOL_IDLE_MS);
    if (!self->stopping) {
        resharder_link_tick(self);
        return 0;
    }
    bool idle = task_table_running(self->tasks) == 0;
    return idle || sp_clock_mono_ms() >= self->stop_ms ? -1 : 0;
}

// Tasks are asked to stop and say how they ended; the manager hands them to others.
static int on_signal(void *arg, int signo)
{
    resharder_t *self = arg;
    if (signo == SIGHUP)
        return 0;
    if (self->stopping)
        return -1; // asked twice
    sp_log(SP_LOG_INFO, "RESHARDER-STOPPING", "tasks",
           sp_log_fmt("%zu", task_table_running(self->tasks)), NULL);
    self->stopping = true;
    self->stop_ms = sp_clock_mono_ms() + STOP_MS;
    task_table_stop(self->tasks);
    return 0;
}

static bool is_ready(void *arg, char *reason, size_t reason_size)
{
    resharder_t *self = arg;
    if (!atomic_load(&self->has_catalog))
        snprintf(reason, reason_size, "the catalog has not been read yet");
    else if (!atomic_load(&self->ready))
        snprintf(reason, reason_size, "no leading manager has welcomed this worker yet");
    else
        return true;
    return false;
}

static int open_catalog(resharder_t *self, sp_error_t *err)
{
    sp_store_options_t store = sp_service_store(self->config);
    int rc = sp_watch_start(&self->watch, &store, NULL, "", RELIST_MS, err);
    if (rc == 0)
        rc = sp_mesh_poll(self->loop, sp_watch_fd(self->watch), on_watch, self, err);
    if (rc != 0)
        return rc;
    sp_service_t service = {.kind = "resharder",
                            .metrics = sp_listener_endpoint(self->listener),
                            .lease_ttl_s = LEASE_S};
    return sp_service_join(&self->member, self->config, &service, err);
}

static int open_all(resharder_t *self, sp_error_t *err)
{
    self->slots = sp_config_int(self->config, "task_slots");
    self->service_id = sp_config_str(self->config, "service_id");
    dump_setup(sp_config_str(self->config, "pg_bin"));
    int rc = sp_seal_open(&self->seal, sp_config_str(self->config, "secret_key_file"), err);
    if (rc != 0)
        return rc;
    self->loop = sp_mesh_loop();
    self->tasks = self->loop != NULL ? task_table_new(self->loop, resharder_on_update, self) : NULL;
    if (self->tasks == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the loop");
    if ((rc = sp_signals_open(&self->signals, self->loop, on_signal, self, err)) != 0 ||
        (rc = resharder_metrics_open(&self->metrics, self->service_id, err)) != 0 ||
        (rc = sp_listener_open(&self->listener, sp_config_str(self->config, "metrics_listen"),
                               self->metrics.registry, is_ready, self, err)) != 0)
        return rc;
    if (zloop_timer(self->loop, TICK_MS, 0, on_tick, self) < 0)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the loop");
    return open_catalog(self, err);
}

static void close_all(resharder_t *self)
{
    task_table_destroy(&self->tasks);
    sp_peer_close(&self->leader);
    sp_member_stop(&self->member);
    sp_watch_stop(&self->watch);
    sp_listener_close(&self->listener);
    sp_catalog_unref(&self->catalog);
    resharder_metrics_close(self);
    sp_signals_close(&self->signals);
    if (self->loop != NULL)
        zloop_destroy(&self->loop);
    sp_seal_close(&self->seal);
    pool_trim(0);
    dump_forget();
}

int resharder_run(const sp_config_t *config, sp_error_t *err)
{
    resharder_t self = {.config = config};
    int rc = open_all(&self, err);
    if (rc == 0) {
        sp_log(SP_LOG_INFO, "RESHARDER-STARTED", "slots", sp_log_fmt("%lld", (long long)self.slots),
               NULL);
        sp_mesh_run(self.loop);
        sp_log(SP_LOG_INFO, "RESHARDER-STOPPED", NULL);
    }
    close_all(&self);
    return rc;
}
