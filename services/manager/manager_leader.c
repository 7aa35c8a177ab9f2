// Leading: stepping up and down, the actors that a leader runs, and what they say.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "schemas/job.h"
#include "schemas/manager.h"
#include "services/manager/check.h"
#include "services/manager/command.h"
#include "services/manager/job.h"
#include "services/manager/manager.h"
#include "services/manager/reaper.h"
#include "services/manager/views.h"

enum { MAX_PENDING = 1000, MAX_CHECKS = 2 };

waiting_t *waiting_add(waiting_t **list, sp_request_t *request)
{
    waiting_t *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->request = request;
    sp_request_keep(request);
    while (*list)
        list = &(*list)->next;
    *list = w;
    return w;
}

waiting_t *waiting_take(waiting_t **list)
{
    waiting_t *w = *list;
    if (w)
        *list = w->next;
    return w;
}

static size_t waiting_count(const waiting_t *list)
{
    size_t n = 0;
    for (; list; list = list->next)
        n++;
    return n;
}

static void fail_waiting(waiting_t **list, int code, const char *why)
{
    waiting_t *w;
    while ((w = waiting_take(list))) {
        sp_request_fail(&w->request, code, "%s", why);
        free(w);
    }
}

static env_seed_t *new_seed(const manager_t *m, const char *name)
{
    env_seed_t *seed = calloc(1, sizeof *seed);
    if (seed) {
        seed->settings = &m->settings;
        seed->epoch = m->epoch;
        snprintf(seed->name, sizeof seed->name, "%s", name);
    }
    return seed;
}

static int start_actor(manager_t *m, sp_actor_t **ret, sp_actor_fn *fn, const char *name,
                       sp_actor_message_fn *on_message, sp_error_t *err)
{
    env_seed_t *seed = new_seed(m, name);
    if (!seed)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "actor");
    int rc = sp_actor_start(ret, m->loop, fn, seed, on_message, m, err);
    if (rc != 0)
        free(seed);
    return rc;
}

// ---- reads

void manager_serve_reads(manager_t *m)
{
    int64_t now = sp_clock_mono_ms();
    while (m->reads && m->catalog &&
           (m->catalog->revision >= m->min_revision || now >= m->reads->until_ms)) {
        waiting_t *w = waiting_take(&m->reads);
        w->read(m, w->request);
        free(w);
    }
}

// ---- commands

static void on_leader_ready(manager_t *m, const sp_msg_leader_ready_t *ready);

static void answer(sp_request_t *request, const sp_schema_t *schema, const void *body)
{
    if (schema != &sp_schema_error) {
        sp_request_reply(&request, schema, body);
        return;
    }
    const sp_msg_error_t *e = body;
    sp_error_t err = {0};
    error_from_message(e, &err);
    sp_request_error_details(&request, &err,
                             e->details.kind == SP_VALUE_ABSENT ? NULL : &e->details);
}

static void on_command_message(void *owner, sp_actor_t *actor, const sp_schema_t *schema,
                               const void *body)
{
    manager_t *m = owner;
    if (!schema) { // ended: its epoch is over, or it could not start
        if (m->commands == actor) {
            m->leading = false;
            fail_waiting(&m->pending, SP_E_OUTCOME_UNKNOWN,
                         "the manager stopped leading while it worked on this");
            sp_actor_stop(&m->commands);
        }
        return;
    }
    if (schema == &sp_schema_leader_ready) {
        on_leader_ready(m, body);
        return;
    }
    if (schema == &sp_schema_command_done) {
        const sp_msg_command_done_t *done = body;
        if (done->revision > m->min_revision)
            m->min_revision = done->revision;
        return;
    }
    waiting_t *w = waiting_take(&m->pending);
    if (w) {
        answer(w->request, schema, body);
        free(w);
    }
}

int manager_command(manager_t *m, sp_request_t *request, sp_error_t *err)
{
    if (waiting_count(m->pending) >= MAX_PENDING)
        return sp_error_set(err, SP_E_RATE_LIMITED, "%d commands are waiting", MAX_PENDING);
    sp_msg_command_t head = {.request_id = request->envelope.request_id,
                             .client_id = request->envelope.client_id,
                             .sequence = request->envelope.sequence,
                             .has_sequence = request->envelope.has_sequence};
    int rc = sp_actor_send(m->commands, &sp_schema_command, &head, err);
    if (rc == 0)
        rc = sp_actor_send(m->commands, request->schema, request->body, err);
    if (rc == 0 && !waiting_add(&m->pending, request))
        rc = sp_error_set(err, SP_E_OUT_OF_MEMORY, "command");
    return rc;
}

// ---- checks: each in an actor of its own, because they scan tables

static void on_check_message(void *owner, sp_actor_t *actor, const sp_schema_t *schema,
                             const void *body)
{
    manager_t *m = owner;
    for (waiting_t **link = &m->checks; *link; link = &(*link)->next) {
        waiting_t *w = *link;
        if (w->actor != actor)
            continue;
        if (schema && w->request) {
            answer(w->request, schema, body);
            w->request = NULL;
        } else if (!schema) {
            if (w->request)
                sp_request_fail(&w->request, SP_E_UNAVAILABLE, "the check ended without a result");
            *link = w->next;
            sp_actor_stop(&w->actor);
            free(w);
        }
        return;
    }
}

int manager_check(manager_t *m, sp_request_t *request, sp_error_t *err)
{
    if (waiting_count(m->checks) >= MAX_CHECKS)
        return sp_error_set(err, SP_E_RATE_LIMITED, "%d checks are running", MAX_CHECKS);
    waiting_t *w = calloc(1, sizeof *w);
    if (!w)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "check");
    int rc = start_actor(m, &w->actor, check_actor, "check", on_check_message, err);
    if (rc == 0) {
        rc = sp_actor_send(w->actor, request->schema, request->body, err);
        if (rc != 0)
            sp_actor_stop(&w->actor);
    }
    if (rc != 0) {
        free(w);
        return rc;
    }
    w->request = request;
    sp_request_keep(request);
    w->next = m->checks;
    m->checks = w;
    return 0;
}

// ---- jobs

job_slot_t *manager_job_slot(manager_t *m, sp_str_t id)
{
    for (job_slot_t *s = m->jobs; s; s = s->next)
        if (sp_str_eqz(id, s->id))
            return s;
    return NULL;
}

static void on_live(manager_t *m, job_slot_t *slot, const sp_msg_job_live_t *live)
{
    sp_buf_reset(&slot->live);
    if (sp_wire_encode_msgpack(&sp_schema_job_live, live, &slot->live, NULL) != 0 ||
        !live->progress)
        return;
    const sp_msg_job_progress_t *p = live->progress;
    sp_value_pair_t pairs[] = {
        {SP_STR("percent"), {.kind = SP_VALUE_FLOAT, .u.f = p->percent}},
        {SP_STR("rows_copied"), sp_value_int(p->rows_copied)},
        {SP_STR("rows_total"), sp_value_int(p->rows_total)},
        {SP_STR("bytes_copied"), sp_value_int(p->bytes_copied)},
        {SP_STR("bytes_total"), sp_value_int(p->bytes_total)},
        {SP_STR("rate_bytes_per_s"), {.kind = SP_VALUE_FLOAT, .u.f = p->rate_bytes_per_s}},
        {SP_STR("rows_applied"), sp_value_int(p->rows_applied)},
        {SP_STR("lag_bytes"), sp_value_int(p->lag_bytes)},
        {SP_STR("lag_ms"), sp_value_int(p->lag_ms)},
        {SP_STR("rows_validated"), sp_value_int(p->rows_validated)},
        {SP_STR("eta_ms"), sp_value_int(p->eta_ms)},
        {SP_STR("step"),
         {.kind = SP_VALUE_STRING, .u.s = live->step.ptr ? live->step : SP_STR("")}},
        {SP_STR("throttled"),
         {.kind = SP_VALUE_STRING, .u.s = p->throttled.ptr ? p->throttled : SP_STR("")}},
    };
    sp_value_t details = {.kind = SP_VALUE_MAP, .u.map = {pairs, sizeof pairs / sizeof pairs[0]}};
    sp_str_t none = {0};
    manager_publish(m, "job.progress", none, none, live->job_id,
                    sp_enum_name(&sp_enum_job_state, live->state), NULL, &details);
}

static void on_job_message(void *owner, sp_actor_t *actor, const sp_schema_t *schema,
                           const void *body)
{
    manager_t *m = owner;
    job_slot_t *slot = m->jobs;
    while (slot && slot->actor != actor)
        slot = slot->next;
    if (!slot)
        return;
    if (!schema) {
        workers_forget(m->workers, actor);
        sp_actor_stop(&slot->actor);
        sp_buf_reset(&slot->live);
        // The record may have changed after the actor last looked: one that is still needed starts again with the next tick, not at
        // once, for what we know of the catalog may be older than what it has read.
        slot->told_revision = 0;
    } else if (schema == &sp_schema_task_assign) {
        workers_assign(m->workers, actor, body);
    } else if (schema == &sp_schema_task_control) {
        workers_control(m->workers, actor, body);
    } else if (schema == &sp_schema_job_live) {
        on_live(m, slot, body);
    } else if (schema == &sp_schema_job_fact) {
        const sp_msg_job_fact_t *f = body;
        manager_metrics_fact(m, sp_log_fmt(SP_STR_FMT, SP_STR_ARG(f->fact)),
                             sp_log_fmt(SP_STR_FMT, SP_STR_ARG(f->label)), f->value);
    }
}

static void sync_job(manager_t *m, const sp_catalog_job_view_t *view)
{
    job_slot_t *slot = manager_job_slot(m, view->job->id);
    sp_error_t err = {0};
    if (slot && slot->actor) {
        if (slot->told_revision != view->rev.mod_revision) {
            sp_msg_job_wake_t wake = {.revision = view->rev.mod_revision, .has_revision = true};
            slot->told_revision = view->rev.mod_revision;
            sp_actor_send(slot->actor, &sp_schema_job_wake, &wake, &err);
        }
        return;
    }
    if (!job_needs_actor(view->job))
        return;
    if (!slot) {
        slot = calloc(1, sizeof *slot);
        if (!slot)
            return;
        snprintf(slot->id, sizeof slot->id, SP_STR_FMT, SP_STR_ARG(view->job->id));
        slot->next = m->jobs;
        m->jobs = slot;
    }
    if (start_actor(m, &slot->actor, job_actor, slot->id, on_job_message, &err) != 0)
        sp_log(SP_LOG_ERROR, "MANAGER-JOB", "job", slot->id, "reason", err.text, NULL);
    else
        slot->told_revision = view->rev.mod_revision;
}

void manager_sync_jobs(manager_t *m)
{
    for (size_t i = 0; m->catalog && i < m->catalog->n_jobs; i++)
        sync_job(m, &m->catalog->jobs[i]);
}

// ---- leadership

static void on_sweeper_message(void *owner, sp_actor_t *actor, const sp_schema_t *schema,
                               const void *body)
{
    manager_t *m = owner;
    (void)body;
    if (!schema && m->sweeper == actor)
        sp_actor_stop(&m->sweeper);
}

static void on_leader_ready(manager_t *m, const sp_msg_leader_ready_t *ready)
{
    sp_error_t err = {0};
    m->generation = ready->generation;
    m->leading = true;
    if (ready->revision > m->min_revision)
        m->min_revision = ready->revision;
    sp_server_stamp(m->server, m->generation, m->epoch, 0);
    sp_log(SP_LOG_INFO, "MANAGER-LEADS", "epoch",
           sp_log_fmt("%lld/%lld", (long long)m->generation, (long long)m->epoch), NULL);
    sp_str_t none = {0};
    manager_publish(m, "leader.elected", none, none, none, NULL, m->settings.service_id, NULL);
    if (start_actor(m, &m->sweeper, reaper_actor, "reaper", on_sweeper_message, &err) != 0)
        sp_log(SP_LOG_ERROR, "MANAGER-REAPER", "reason", err.text, NULL);
    manager_sync_jobs(m);
}

void manager_step_down(manager_t *m)
{
    m->leading = false;
    if (m->epoch != 0)
        sp_log(SP_LOG_INFO, "MANAGER-STEPS-DOWN", "epoch", sp_log_fmt("%lld", (long long)m->epoch),
               NULL);
    // All are asked before the first is joined, so that the waits overlap.
    if (m->commands)
        sp_actor_ask_stop(m->commands);
    if (m->sweeper)
        sp_actor_ask_stop(m->sweeper);
    for (waiting_t *w = m->checks; w; w = w->next)
        sp_actor_ask_stop(w->actor);
    for (job_slot_t *s = m->jobs; s; s = s->next)
        if (s->actor)
            sp_actor_ask_stop(s->actor);
    sp_actor_stop(&m->commands);
    sp_actor_stop(&m->sweeper);
    waiting_t *check;
    while ((check = waiting_take(&m->checks))) {
        if (check->request)
            sp_request_fail(&check->request, SP_E_NOT_LEADER,
                            "this manager does not lead any more");
        sp_actor_stop(&check->actor);
        free(check);
    }
    for (job_slot_t *s = m->jobs; s; s = s->next) {
        sp_actor_stop(&s->actor);
        s->told_revision = 0;
        sp_buf_reset(&s->live);
    }
    fail_waiting(&m->pending, SP_E_OUTCOME_UNKNOWN,
                 "the manager stopped leading while it worked on this");
    fail_waiting(&m->reads, SP_E_NOT_LEADER, "this manager does not lead any more");
    if (m->workers)
        workers_clear(m->workers);
    m->epoch = 0;
    m->generation = 0;
    if (m->server)
        sp_server_stamp(m->server, 0, 0, 0);
}

void manager_leadership(manager_t *m)
{
    int64_t epoch = sp_member_epoch(m->settings.member);
    if (epoch == m->epoch && (epoch == 0 || m->commands))
        return;
    if (m->epoch != 0)
        manager_step_down(m);
    m->epoch = epoch;
    if (epoch == 0)
        return;
    sp_error_t err = {0};
    if (start_actor(m, &m->commands, command_actor, "commands", on_command_message, &err) != 0)
        sp_log(SP_LOG_ERROR, "MANAGER-COMMANDS", "reason", err.text, NULL);
}
