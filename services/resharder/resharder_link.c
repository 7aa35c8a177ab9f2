// The link to the leading manager, as a Paranoid Pirate's worker: any traffic counts as a heartbeat, three missed mean dead, then
// everything for that leader is given up, and a connection with a fresh identity is tried after a jittered backoff.
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "services/resharder/pool.h"
#include "services/resharder/resharder.h"

enum {
    HELLO_TIMEOUT_MS = 2000,
    BACKOFF_MS = 100,
    BACKOFF_MAX_MS = 3000,
    LIVENESS = 3,
    REPEAT_MS = 1000
};

static bool same_epoch(sp_epoch_t a, sp_epoch_t b)
{
    return a.generation == b.generation && a.epoch == b.epoch;
}

static bool older_epoch(sp_epoch_t a, sp_epoch_t b)
{
    return a.generation != b.generation ? a.generation < b.generation : a.epoch < b.epoch;
}

void resharder_link_drop(resharder_t *self, const char *why, bool backoff)
{
    if (self->leader == NULL)
        return;
    sp_log(self->stopping ? SP_LOG_INFO : SP_LOG_WARN, "LEADER-DROPPED", "endpoint",
           self->leader_endpoint, "reason", why, "tasks",
           sp_log_fmt("%zu", task_table_running(self->tasks)), NULL);
    task_table_abort(self->tasks, false);
    pool_trim(0);
    self->epoch = (sp_epoch_t){0};
    atomic_store(&self->ready, false);
    sp_gauge_set(self->metrics.welcomed, 0);
    self->reconnect_ms =
        sp_clock_mono_ms() +
        (backoff ? sp_random_backoff_ms(self->attempt, BACKOFF_MS, BACKOFF_MAX_MS) : 0);
    self->attempt += backoff && self->attempt < 16;
    sp_peer_close(&self->leader); // an open hello hears of it, and finds no leader
}

static void on_welcome(void *arg, const sp_error_t *err, const sp_msg_envelope_t *envelope,
                       const sp_schema_t *schema, const void *body)
{
    resharder_t *self = arg;
    if (self->leader == NULL) // closed by us
        return;
    if (err->code != 0 || schema != &sp_schema_worker_welcome) {
        resharder_link_drop(self,
                            err->code != 0 ? err->text : "the reply to worker_hello is no welcome",
                            true);
        return;
    }
    const sp_msg_worker_welcome_t *welcome = body;
    sp_epoch_t epoch = {envelope->generation, envelope->epoch};
    if (epoch.epoch == 0 || older_epoch(epoch, self->catalog_epoch)) {
        resharder_link_drop(self, "it welcomed us with an epoch that the catalog has overtaken",
                            true);
        return;
    }
    if (!same_epoch(epoch, self->last_epoch))
        task_table_abort(self->tasks, true);
    self->epoch = self->last_epoch = epoch;
    self->heartbeat_ms = welcome->heartbeat_ms;
    self->attempt = 0;
    atomic_store(&self->ready, true);
    sp_gauge_set(self->metrics.welcomed, 1);
    sp_peer_stamp(self->leader, epoch.generation, epoch.epoch, 0);
    sp_log(SP_LOG_INFO, "LEADER-WELCOMED", "endpoint", self->leader_endpoint, "worker",
           self->worker_id, "epoch",
           sp_log_fmt("%lld/%lld", (long long)epoch.generation, (long long)epoch.epoch), NULL);
    task_table_repeat(self->tasks, 0);
}

static void say_hello(resharder_t *self)
{
    sp_msg_worker_hello_t hello = {.worker_id = sp_str(self->worker_id),
                                   .slots = self->slots,
                                   .has_slots = true};
    sp_error_t err = {0};
    self->hello_ms = self->beat_ms = sp_clock_mono_ms();
    if (sp_peer_call(self->leader, &sp_schema_worker_hello, &hello, NULL, HELLO_TIMEOUT_MS,
                     on_welcome, self, &err) != 0)
        resharder_link_drop(self, err.text, true);
}

static void connect_leader(resharder_t *self, const char *endpoint, sp_epoch_t epoch)
{
    char suffix[13];
    sp_error_t err = {0};
    sp_random_id(suffix, sizeof suffix - 1);
    snprintf(self->worker_id, sizeof self->worker_id, "%.50s/%s", self->service_id, suffix);
    snprintf(self->leader_endpoint, sizeof self->leader_endpoint, "%s", endpoint);
    self->catalog_epoch = epoch;
    self->epoch = (sp_epoch_t){0};
    if (sp_peer_open(&self->leader, self->loop, endpoint, resharder_on_push, self, &err) != 0) {
        sp_log(SP_LOG_WARN, "LEADER-UNREACHABLE", "endpoint", endpoint, "error", err.text, NULL);
        self->reconnect_ms =
            sp_clock_mono_ms() + sp_random_backoff_ms(self->attempt++, BACKOFF_MS, BACKOFF_MAX_MS);
        return;
    }
    say_hello(self);
}

// The catalog's leader; false when it names none.
static bool named_leader(resharder_t *self, char *endpoint, size_t size, sp_epoch_t *ret_epoch)
{
    const sp_catalog_t *c = self->catalog;
    if (c == NULL || c->leader.service_id.ptr == NULL || c->leader.endpoint.len == 0 ||
        c->leader.endpoint.len >= size)
        return false;
    snprintf(endpoint, size, SP_STR_FMT, SP_STR_ARG(c->leader.endpoint));
    *ret_epoch = (sp_epoch_t){c->generation.generation, c->leader_rev.create_revision};
    return true;
}

void resharder_link_send(resharder_t *self, const sp_schema_t *schema, const void *body)
{
    sp_error_t err = {0};
    if (self->leader == NULL || self->epoch.epoch == 0)
        return;
    if (sp_peer_send(self->leader, schema, body, &err) == 0)
        self->beat_ms = sp_clock_mono_ms();
    else
        sp_log(SP_LOG_WARN, "LEADER-SEND", "message", schema->name, "error", err.text, NULL);
}

void resharder_link_tick(resharder_t *self)
{
    char endpoint[sizeof self->leader_endpoint];
    sp_epoch_t epoch = {0};
    int64_t now = sp_clock_mono_ms();
    bool named = named_leader(self, endpoint, sizeof endpoint, &epoch);
    // A newer leader: what the old one asked for is void. (No leader at all may be a blink; missed heartbeats decide.)
    sp_epoch_t mine = self->epoch.epoch != 0 ? self->epoch : self->catalog_epoch;
    if (self->leader != NULL && named &&
        (older_epoch(mine, epoch) ||
         (same_epoch(mine, epoch) && strcmp(endpoint, self->leader_endpoint) != 0)))
        resharder_link_drop(self, "another manager leads", false);
    if (self->leader == NULL) {
        if (named && now >= self->reconnect_ms && !self->stopping)
            connect_leader(self, endpoint, epoch);
        return;
    }
    if (self->epoch.epoch == 0) // the hello's own timeout decides
        return;
    if (now - sp_peer_heard_ms(self->leader) > LIVENESS * self->heartbeat_ms) {
        sp_counter_add(self->metrics.lost, 1);
        resharder_link_drop(self, "three heartbeats are missing", true);
        return;
    }
    if (now - self->beat_ms >= self->heartbeat_ms / 2)
        resharder_link_send(self, &sp_schema_heartbeat, &(sp_msg_heartbeat_t){0});
    task_table_repeat(self->tasks, REPEAT_MS);
}
