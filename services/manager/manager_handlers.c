// One function a message, one dispatch table. Reads are answered from the watched catalog, once it is as new as the last command.
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/job/job_fsm.h"
#include "schemas/job.h"
#include "schemas/manager.h"
#include "schemas/shard.h"
#include "schemas/task.h"
#include "services/manager/manager.h"
#include "services/manager/views.h"

enum { READ_WAIT_MS = 1000 };

// ---- who may ask

static void refuse_standby(manager_t *m, sp_request_t *request)
{
    sp_error_t err = {0};
    const sp_msg_catalog_leader_t *leader = m->catalog ? &m->catalog->leader : NULL;
    bool other =
        leader && leader->service_id.len && !sp_str_eqz(leader->service_id, m->settings.service_id);
    sp_error_set(&err, SP_E_NOT_LEADER, "%s is a standby; %s", m->settings.service_id,
                 other ? "ask the leader" : "a leader is being elected");
    sp_value_pair_t pairs[2];
    sp_value_t details = {.kind = SP_VALUE_MAP, .u.map = {pairs, 0}};
    if (other) {
        pairs[0] = (sp_value_pair_t){SP_STR("leader"),
                                     {.kind = SP_VALUE_STRING, .u.s = leader->service_id}};
        pairs[1] = (sp_value_pair_t){SP_STR("endpoint"),
                                     {.kind = SP_VALUE_STRING, .u.s = leader->endpoint}};
        details.u.map.n = 2;
    }
    sp_request_error_details(&request, &err, other ? &details : NULL);
}

// True: leading, and the catalog is new enough. Else the request was refused or waits.
static bool may_read(manager_t *m, sp_request_t *request, sp_handler_fn *read)
{
    if (!m->leading || !m->catalog) {
        refuse_standby(m, request);
        return false;
    }
    if (m->catalog->revision >= m->min_revision || request->kept)
        return true;
    waiting_t *w = waiting_add(&m->reads, request);
    if (!w) {
        sp_request_fail(&request, SP_E_OUT_OF_MEMORY, "read");
        return false;
    }
    w->read = read;
    w->until_ms = sp_clock_mono_ms() + READ_WAIT_MS;
    return false;
}

static void on_command(void *self, sp_request_t *request)
{
    manager_t *m = self;
    sp_error_t err = {0};
    if (!m->leading || !m->commands)
        refuse_standby(m, request);
    else if (manager_command(m, request, &err) != 0)
        sp_request_error(&request, &err);
}

// ---- keyspaces and tables

static void on_keyspace_list(void *self, sp_request_t *request)
{
    manager_t *m = self;
    if (!may_read(m, request, on_keyspace_list))
        return;
    sp_msg_keyspace_list_reply_t reply = {0};
    reply.keyspaces.items =
        sp_arena_alloc(request->arena, m->catalog->n_keyspaces + 1, sizeof *reply.keyspaces.items);
    bool ok = reply.keyspaces.items != NULL;
    for (size_t i = 0; ok && i < m->catalog->n_keyspaces; i++)
        ok = view_keyspace(m->catalog, &m->catalog->keyspaces[i], request->arena,
                           &reply.keyspaces.items[reply.keyspaces.n++]);
    if (ok)
        sp_request_reply(&request, &sp_schema_keyspace_list_reply, &reply);
    else
        sp_request_fail(&request, SP_E_OUT_OF_MEMORY, "keyspaces");
}

static const sp_catalog_keyspace_view_t *need_keyspace(manager_t *m, sp_request_t **request_p,
                                                       sp_str_t name)
{
    const sp_catalog_keyspace_view_t *view = sp_catalog_keyspace(m->catalog, name);
    if (!view)
        sp_request_fail(request_p, SP_E_NOT_FOUND, "keyspace " SP_STR_FMT " does not exist",
                        SP_STR_ARG(name));
    return view;
}

static void on_keyspace_get(void *self, sp_request_t *request)
{
    manager_t *m = self;
    if (!may_read(m, request, on_keyspace_get))
        return;
    const sp_msg_keyspace_get_t *body = request->body;
    const sp_catalog_keyspace_view_t *view = need_keyspace(m, &request, body->keyspace);
    sp_msg_keyspace_t reply;
    if (!view)
        return;
    if (view_keyspace(m->catalog, view, request->arena, &reply))
        sp_request_reply(&request, &sp_schema_keyspace, &reply);
    else
        sp_request_fail(&request, SP_E_OUT_OF_MEMORY, "keyspace");
}

static void on_table_list(void *self, sp_request_t *request)
{
    manager_t *m = self;
    if (!may_read(m, request, on_table_list))
        return;
    const sp_msg_table_list_t *body = request->body;
    const sp_catalog_keyspace_view_t *view = need_keyspace(m, &request, body->keyspace);
    if (!view)
        return;
    const sp_msg_catalog_keyspace_t *k = view->keyspace;
    sp_msg_table_list_reply_t reply = {0};
    reply.tables.items =
        sp_arena_alloc(request->arena, k->tables.n + 1, sizeof *reply.tables.items);
    if (!reply.tables.items) {
        sp_request_fail(&request, SP_E_OUT_OF_MEMORY, "tables");
        return;
    }
    for (size_t i = 0; i < k->tables.n; i++)
        view_table(&k->tables.items[i], k->name, &reply.tables.items[reply.tables.n++]);
    sp_request_reply(&request, &sp_schema_table_list_reply, &reply);
}

static void on_table_get(void *self, sp_request_t *request)
{
    manager_t *m = self;
    if (!may_read(m, request, on_table_get))
        return;
    const sp_msg_table_get_t *body = request->body;
    const sp_catalog_keyspace_view_t *view = need_keyspace(m, &request, body->keyspace);
    const sp_msg_table_t *t =
        view ? keyspace_table(view->keyspace, body->schema, body->table) : NULL;
    sp_msg_table_t reply;
    if (!view)
        return;
    if (!t) {
        sp_request_fail(&request, SP_E_NOT_FOUND,
                        "table " SP_STR_FMT "." SP_STR_FMT " is not registered",
                        SP_STR_ARG(body->schema), SP_STR_ARG(body->table));
        return;
    }
    view_table(t, view->keyspace->name, &reply);
    sp_request_reply(&request, &sp_schema_table, &reply);
}

// ---- shards and services

static void on_shard_list(void *self, sp_request_t *request)
{
    manager_t *m = self;
    if (!may_read(m, request, on_shard_list))
        return;
    const sp_msg_shard_list_t *body = request->body;
    sp_msg_shard_list_reply_t reply = {0};
    reply.shards.items =
        sp_arena_alloc(request->arena, m->catalog->n_shards + 1, sizeof *reply.shards.items);
    bool ok = reply.shards.items != NULL;
    for (size_t i = 0; ok && i < m->catalog->n_shards; i++) {
        const sp_msg_catalog_shard_t *s = m->catalog->shards[i].shard;
        if (!body->keyspace.len || sp_str_eq(body->keyspace, s->keyspace))
            ok = view_shard(m->catalog, s, request->arena, &reply.shards.items[reply.shards.n++]);
    }
    if (ok)
        sp_request_reply(&request, &sp_schema_shard_list_reply, &reply);
    else
        sp_request_fail(&request, SP_E_OUT_OF_MEMORY, "shards");
}

static void on_shard_get(void *self, sp_request_t *request)
{
    manager_t *m = self;
    if (!may_read(m, request, on_shard_get))
        return;
    const sp_msg_shard_get_t *body = request->body;
    const sp_catalog_shard_view_t *view = sp_catalog_shard(m->catalog, body->shard_id);
    sp_msg_shard_t reply;
    if (!view)
        sp_request_fail(&request, SP_E_NOT_FOUND, "shard " SP_STR_FMT " is not registered",
                        SP_STR_ARG(body->shard_id));
    else if (view_shard(m->catalog, view->shard, request->arena, &reply))
        sp_request_reply(&request, &sp_schema_shard, &reply);
    else
        sp_request_fail(&request, SP_E_OUT_OF_MEMORY, "shard");
}

static void on_service_list(void *self, sp_request_t *request)
{
    manager_t *m = self;
    if (!may_read(m, request, on_service_list))
        return;
    sp_msg_service_list_reply_t reply = {.leader = m->catalog->leader.service_id,
                                         .epoch = m->epoch,
                                         .has_epoch = true};
    reply.services.items = m->catalog->services;
    reply.services.n = m->catalog->n_services;
    sp_request_reply(&request, &sp_schema_service_list_reply, &reply);
}

static void on_check(void *self, sp_request_t *request)
{
    manager_t *m = self;
    if (!may_read(m, request, on_check))
        return;
    const sp_msg_check_keyspace_t *body = request->body;
    sp_error_t err = {0};
    if (need_keyspace(m, &request, body->keyspace) && manager_check(m, request, &err) != 0)
        sp_request_error(&request, &err);
}

// ---- jobs

static bool show_job(manager_t *m, const sp_msg_catalog_job_t *job, sp_arena_t *arena,
                     sp_msg_job_t *ret)
{
    if (!view_job(job, arena, ret))
        return false;
    job_slot_t *slot = manager_job_slot(m, job->id);
    sp_msg_job_live_t *live =
        slot && slot->actor && slot->live.len ? sp_arena_alloc(arena, 1, sizeof *live) : NULL;
    if (!live)
        return true;
    // Decoded strings borrow from the bytes, which the actor's next message replaces.
    sp_str_t bytes = sp_arena_str(arena, (sp_str_t){slot->live.data, slot->live.len});
    if (!bytes.ptr ||
        sp_wire_decode_msgpack(&sp_schema_job_live, bytes.ptr, bytes.len, arena, live, NULL) != 0 ||
        live->state != job->state)
        return true;
    if (live->progress)
        ret->progress = live->progress;
    if (live->step.len)
        ret->step = live->step;
    return true;
}

static int newest_first(const void *a, const void *b)
{
    const sp_msg_catalog_job_t *x = *(const sp_msg_catalog_job_t *const *)a,
                               *y = *(const sp_msg_catalog_job_t *const *)b;
    return x->created_ms < y->created_ms   ? 1
           : x->created_ms > y->created_ms ? -1
                                           : sp_str_cmp(y->id, x->id);
}

static void on_job_list(void *self, sp_request_t *request)
{
    manager_t *m = self;
    if (!may_read(m, request, on_job_list))
        return;
    const sp_msg_job_list_t *body = request->body;
    size_t n = 0;
    const sp_msg_catalog_job_t **all =
        // NOLINTNEXTLINE(bugprone-sizeof-expression): an array of pointers is meant
        sp_arena_alloc(request->arena, m->catalog->n_jobs + 1, sizeof *all);
    sp_msg_job_list_reply_t reply = {0};
    reply.jobs.items =
        sp_arena_alloc(request->arena, m->catalog->n_jobs + 1, sizeof *reply.jobs.items);
    bool ok = all && reply.jobs.items;
    for (size_t i = 0; ok && i < m->catalog->n_jobs; i++)
        if (body->state == 0 || m->catalog->jobs[i].job->state == body->state)
            all[n++] = m->catalog->jobs[i].job;
    if (ok)
        // NOLINTNEXTLINE(bugprone-sizeof-expression): an array of pointers is meant
        qsort(all, n, sizeof *all, newest_first);
    for (size_t i = 0; ok && i < n && (int64_t)i < body->limit; i++)
        ok = show_job(m, all[i], request->arena, &reply.jobs.items[reply.jobs.n++]);
    if (ok)
        sp_request_reply(&request, &sp_schema_job_list_reply, &reply);
    else
        sp_request_fail(&request, SP_E_OUT_OF_MEMORY, "jobs");
}

static void on_job_get(void *self, sp_request_t *request)
{
    manager_t *m = self;
    if (!may_read(m, request, on_job_get))
        return;
    const sp_msg_job_get_t *body = request->body;
    const sp_catalog_job_view_t *view = sp_catalog_job(m->catalog, body->job_id);
    sp_msg_job_t reply;
    if (!view)
        sp_request_fail(&request, SP_E_NOT_FOUND, "job " SP_STR_FMT " does not exist",
                        SP_STR_ARG(body->job_id));
    else if (show_job(m, view->job, request->arena, &reply))
        sp_request_reply(&request, &sp_schema_job, &reply);
    else
        sp_request_fail(&request, SP_E_OUT_OF_MEMORY, "job");
}

// ---- workers

static void on_worker_hello(void *self, sp_request_t *request)
{
    manager_t *m = self;
    if (m->leading)
        workers_hello(m->workers, request);
    else
        refuse_standby(m, request);
}

static void on_heartbeat(void *self, sp_request_t *request)
{
    manager_t *m = self;
    if (m->leading)
        workers_heartbeat(m->workers, request);
    else
        refuse_standby(m, request);
}

static void on_task_update(void *self, sp_request_t *request)
{
    manager_t *m = self;
    if (!m->leading)
        refuse_standby(m, request);
    else if (request->envelope.epoch != m->epoch || request->envelope.generation != m->generation)
        sp_request_fail(&request, SP_E_STALE_EPOCH, "the update is for epoch %lld/%lld",
                        (long long)request->envelope.generation,
                        (long long)request->envelope.epoch);
    else
        workers_update(m->workers, request);
}

const sp_dispatch_t manager_dispatch[] = {
    {&sp_schema_keyspace_create, on_command},
    {&sp_schema_keyspace_list, on_keyspace_list},
    {&sp_schema_keyspace_get, on_keyspace_get},
    {&sp_schema_keyspace_delete, on_command},
    {&sp_schema_table_create, on_command},
    {&sp_schema_table_list, on_table_list},
    {&sp_schema_table_get, on_table_get},
    {&sp_schema_table_delete, on_command},
    {&sp_schema_shard_create, on_command},
    {&sp_schema_shard_list, on_shard_list},
    {&sp_schema_shard_get, on_shard_get},
    {&sp_schema_shard_delete, on_command},
    {&sp_schema_check_keyspace, on_check},
    {&sp_schema_service_list, on_service_list},
    {&sp_schema_reshard_split, on_command},
    {&sp_schema_job_list, on_job_list},
    {&sp_schema_job_get, on_job_get},
    {&sp_schema_job_cancel, on_command},
    {&sp_schema_job_retry, on_command},
    {&sp_schema_job_finalize, on_command},
    {&sp_schema_job_throttle, on_command},
    {&sp_schema_worker_hello, on_worker_hello},
    {&sp_schema_heartbeat, on_heartbeat},
    {&sp_schema_task_update, on_task_update},
    {NULL, NULL},
};
