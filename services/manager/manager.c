// The manager's loop: catalog snapshots, leadership, timers, and the order in which things are opened and closed.
#include "services/manager/manager.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/wire/wire.h"

enum { RELIST_MS = 30000, CATALOG_ARENA = 512 << 20 };

static void on_snapshot(manager_t *m)
{
    sp_arena_t *arena = sp_arena_new(CATALOG_ARENA);
    sp_kv_list_t list;
    sp_error_t err = {0};
    sp_catalog_t *now = NULL;
    if (!arena || !sp_watch_take(m->watch, arena, &list)) {
        sp_arena_destroy(&arena);
        return;
    }
    if (sp_catalog_parse(&list, &now, &err) != 0) {
        // Doubt about the catalog means refusal: the last good one stays.
        if (sp_clock_mono_ms() - m->watch_error_ms > 5000)
            sp_log(SP_LOG_ERROR, "MANAGER-CATALOG", "reason", err.text, NULL);
        m->watch_error_ms = sp_clock_mono_ms();
        sp_arena_destroy(&arena);
        return;
    }
    sp_catalog_t *before = m->catalog;
    m->catalog = now;
    if (m->leading) {
        manager_publish_changes(m, before, now);
        manager_sync_jobs(m);
        manager_serve_reads(m);
    }
    sp_catalog_unref(&before);
    sp_arena_destroy(&arena);
}

static int on_watch(zloop_t *loop, zmq_pollitem_t *item, void *arg)
{
    (void)loop;
    (void)item;
    on_snapshot(arg);
    return 0;
}

static int on_member(zloop_t *loop, zmq_pollitem_t *item, void *arg)
{
    (void)loop;
    (void)item;
    manager_t *m = arg;
    sp_member_drain(m->settings.member);
    manager_leadership(m);
    return 0;
}

static int on_beat(zloop_t *loop, int timer, void *arg)
{
    (void)loop;
    (void)timer;
    manager_t *m = arg;
    // The lease may have run out without anybody telling, or the command actor have ended: ask.
    manager_leadership(m);
    if (m->leading) {
        workers_tick(m->workers);
        manager_serve_reads(m);
    }
    return 0;
}

static int on_second(zloop_t *loop, int timer, void *arg)
{
    (void)loop;
    (void)timer;
    manager_t *m = arg;
    on_snapshot(m);
    if (m->leading)
        manager_sync_jobs(m);
    manager_metrics_refresh(m);
    bool fresh = m->catalog != NULL;
    atomic_store(&m->ready, fresh && (m->epoch == 0 || m->leading));
    sp_server_set_ready(m->server, m->leading);
    sp_publisher_heartbeat(m->publisher); // a lost event shows within a second
    return 0;
}

static bool is_ready(void *arg, char *reason, size_t size)
{
    manager_t *m = arg;
    if (atomic_load(&m->ready))
        return true;
    snprintf(reason, size, "the catalog is not loaded yet");
    return false;
}

static int start_member(manager_t *m, sp_error_t *err)
{
    sp_service_t service = {.kind = "manager",
                            .endpoint = sp_server_endpoint(m->server),
                            .events = sp_publisher_endpoint(m->publisher),
                            .metrics = sp_listener_endpoint(m->listener),
                            .lease_ttl_s = (int)m->settings.lease_ttl_s,
                            .campaign = true};
    return sp_service_join(&m->settings.member, m->settings.config, &service, err);
}

static int open_all(manager_t *m, sp_error_t *err)
{
    const sp_config_t *c = m->settings.config;
    int rc = sp_seal_open(&m->seal, sp_config_str(c, "secret_key_file"), err);
    m->settings.seal = m->seal;
    m->loop = sp_mesh_loop();
    if (rc == 0 && !m->loop)
        rc = sp_error_set(err, SP_E_OUT_OF_MEMORY, "loop");
    if (rc == 0)
        rc = sp_signals_open(&m->signals, m->loop, NULL, NULL, err);
    if (rc == 0)
        rc = sp_server_open(&m->server, m->loop, sp_config_str(c, "listen"), "manager",
                            m->settings.service_id, manager_dispatch, m, err);
    if (rc == 0)
        rc = sp_publisher_open(&m->publisher, sp_config_str(c, "events_listen"),
                               m->settings.service_id, err);
    if (rc == 0) {
        manager_metrics_open(m);
        m->workers = workers_new(m->server, m->settings.heartbeat_ms);
        if (!m->metrics.registry || !m->workers)
            rc = sp_error_set(err, SP_E_OUT_OF_MEMORY, "metrics");
    }
    if (rc == 0)
        rc = sp_listener_open(&m->listener, sp_config_str(c, "metrics_listen"), m->metrics.registry,
                              is_ready, m, err);
    if (rc == 0)
        rc = sp_watch_start(&m->watch, &m->settings.store, NULL, "", RELIST_MS, err);
    if (rc == 0)
        rc = start_member(m, err);
    if (rc == 0)
        rc = sp_mesh_poll(m->loop, sp_watch_fd(m->watch), on_watch, m, err);
    if (rc == 0)
        rc = sp_mesh_poll(m->loop, sp_member_fd(m->settings.member), on_member, m, err);
    if (rc == 0 &&
        (zloop_timer(m->loop, (size_t)(m->settings.heartbeat_ms / 2), 0, on_beat, m) < 0 ||
         zloop_timer(m->loop, 1000, 0, on_second, m) < 0))
        rc = sp_error_set(err, SP_E_OUT_OF_MEMORY, "loop");
    return rc;
}

static void close_all(manager_t *m)
{
    manager_step_down(m);
    while (m->jobs) {
        job_slot_t *slot = m->jobs;
        m->jobs = slot->next;
        sp_buf_free(&slot->live);
        free(slot);
    }
    // Leadership goes first, so that a standby need not wait for the lease to end.
    sp_member_stop(&m->settings.member);
    sp_watch_stop(&m->watch);
    sp_listener_close(&m->listener);
    workers_destroy(&m->workers);
    sp_server_close(&m->server);
    sp_publisher_close(&m->publisher);
    sp_signals_close(&m->signals);
    if (m->loop)
        zloop_destroy(&m->loop);
    sp_metrics_destroy(&m->metrics.registry);
    sp_catalog_unref(&m->catalog);
    sp_seal_close(&m->seal);
}

int manager_run(const sp_config_t *config, sp_error_t *err)
{
    manager_t *m = calloc(1, sizeof *m);
    if (!m)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the manager");
    settings_read(config, &m->settings);
    int rc = open_all(m, err);
    if (rc == 0) {
        sp_log(SP_LOG_INFO, "MANAGER-STARTED", "listen", sp_server_endpoint(m->server), "version",
               sp_config_version(), NULL);
        sp_mesh_run(m->loop);
        sp_log(SP_LOG_INFO, "MANAGER-STOPPED", NULL);
    }
    close_all(m);
    free(m);
    return rc;
}
