// The prober's loop: poll() over all connections and the pipe.
#include "services/health/prober.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "services/health/probe.h"

enum { MOST_WAIT_MS = 1000, SET_ARENA = 128 * 1024 * 1024 };

typedef struct slot {
    probe_t *probe; // owned
    int64_t due_ms; // next round, monotonic
} slot_t;

typedef struct prober {
    sp_actor_end_t *end;      // pipe
    prober_options_t options; // as told
    slot_t *slots;            // one a server
    size_t n;                 // count
    struct pollfd *fds;       // room for all and the pipe
} prober_t;

static void free_slots(slot_t *slots, size_t n)
{
    for (size_t i = 0; i < n; i++)
        probe_destroy(&slots[i].probe);
    free(slots);
}

// Servers that stay keep their connection.
static void take_set(prober_t *self, const sp_msg_probe_set_t *set)
{
    size_t n = 0;
    slot_t *slots = calloc(set->servers.n + 1, sizeof *slots);
    struct pollfd *fds = calloc(set->servers.n + 1, sizeof *fds);
    if (!slots || !fds) {
        sp_log(SP_LOG_ERROR, "HEALTH-MEMORY", "servers", sp_log_fmt("%zu", set->servers.n), NULL);
        free(slots);
        free(fds);
        return; // the former set goes on
    }
    int64_t now = sp_clock_mono_ms();
    for (size_t i = 0; i < set->servers.n; i++) {
        const sp_msg_probe_server_t *server = &set->servers.items[i];
        slots[n].due_ms = now;
        for (size_t j = 0; j < self->n && !slots[n].probe; j++) {
            if (!self->slots[j].probe || !probe_is_for(self->slots[j].probe, server))
                continue;
            slots[n] = self->slots[j];
            self->slots[j].probe = NULL;
        }
        if (!slots[n].probe)
            slots[n].probe = probe_new(server, self->options.seal);
        if (slots[n].probe)
            n++;
    }
    free_slots(self->slots, self->n);
    free(self->fds);
    self->slots = slots;
    self->n = n;
    self->fds = fds;
}

static void tell(prober_t *self, const probe_t *probe, const probe_outcome_t *out)
{
    sp_msg_probe_result_t result = {.shard_id = sp_str(probe_shard(probe)),
                                    .index = probe_index(probe)};
    if (out->ok) {
        result.has_latency_ms = result.has_in_recovery = result.has_lsn = result.has_receiving =
            result.has_timeline = true;
        result.latency_ms = out->latency_ms;
        result.in_recovery = out->in_recovery;
        result.lsn = out->lsn;
        result.receiving = out->receiving;
        result.timeline = out->timeline;
        result.system_identifier = sp_str(out->system_identifier);
    } else {
        result.error = sp_str(out->error);
        if (result.error.len > 1000)
            result.error.len = 1000;
        while (!sp_str_valid_utf8(result.error))
            result.error.len--;
    }
    sp_error_t err;
    int rc = sp_actor_end_send(self->end, &sp_schema_probe_result, &result, &err);
    if (rc && rc != SP_E_CANCELLED)
        sp_log(SP_LOG_ERROR, "HEALTH-PROBE-LOST", "shard", probe_shard(probe), "error", err.text,
               NULL);
}

static void step_slot(prober_t *self, slot_t *slot, short revents)
{
    probe_outcome_t out;
    if (probe_running(slot->probe) && probe_step(slot->probe, revents, &out))
        tell(self, slot->probe, &out);
}

// Begins what is due; returns how long nothing else will be.
static int start_due(prober_t *self)
{
    int64_t now = sp_clock_mono_ms();
    int64_t next = now + MOST_WAIT_MS;
    for (size_t i = 0; i < self->n; i++) {
        slot_t *slot = &self->slots[i];
        if (!probe_running(slot->probe) && slot->due_ms <= now) {
            probe_start(slot->probe, now + self->options.timeout_ms);
            // Jitter, so that many observers do not probe in step.
            slot->due_ms = now + self->options.interval_ms -
                           sp_random_below((uint32_t)(self->options.interval_ms / 20 + 1));
            step_slot(self, slot, 0);
        }
        int64_t at =
            probe_running(slot->probe) ? now + 50 : slot->due_ms; // 50 ms: deadlines are looked at
        if (at < next)
            next = at;
    }
    return sp_clock_until_ms(next);
}

static void wait_and_step(prober_t *self, int wait_ms)
{
    struct pollfd pipe_only = {.fd = -1};
    struct pollfd *fds = self->fds ? self->fds : &pipe_only;
    for (size_t i = 0; i < self->n; i++) {
        short events = 0;
        int fd = probe_fd(self->slots[i].probe, &events);
        fds[i] = (struct pollfd){.fd = fd, .events = events};
    }
    fds[self->n] = (struct pollfd){.fd = sp_actor_end_fd(self->end), .events = POLLIN};
    if (poll(fds, self->n + 1, wait_ms) < 0 && errno != EINTR)
        sp_clock_sleep_ms(10);
    for (size_t i = 0; i < self->n; i++) {
        // Also those without an event: their deadline may have passed.
        short revents = fds[i].fd < 0 ? 0 : fds[i].revents;
        if (revents || probe_running(self->slots[i].probe))
            step_slot(self, &self->slots[i], revents);
    }
}

static void take_messages(prober_t *self, sp_arena_t *arena)
{
    const sp_schema_t *schema;
    void *body;
    while (sp_actor_end_receive(self->end, 0, arena, &schema, &body) && schema) {
        if (schema == &sp_schema_probe_set)
            take_set(self, body);
        sp_arena_reset(arena);
    }
}

void prober_run(sp_actor_end_t *end, void *arg)
{
    prober_t self = {.end = end, .options = *(prober_options_t *)arg};
    free(arg);
    sp_arena_t *arena = sp_arena_new(SET_ARENA);
    while (arena && !sp_actor_end_stopped(end)) {
        take_messages(&self, arena);
        wait_and_step(&self, start_due(&self));
    }
    free_slots(self.slots, self.n);
    free(self.fds);
    sp_arena_destroy(&arena);
}
