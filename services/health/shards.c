// The table of shards.
#include "services/health/shards.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"

static void copy_str(char *out, size_t size, sp_str_t s)
{
    snprintf(out, size, SP_STR_FMT, SP_STR_ARG(s));
}

static void clear_guard_reasons(shard_t *shard)
{
    for (size_t i = 0; i < shard->guard_reasons_n; i++)
        free(shard->guard_reasons[i]);
    shard->guard_reasons_n = 0;
}

static void clear_shard(shard_t *shard)
{
    for (size_t i = 0; i < shard->n; i++)
        free(shard->servers[i].dsn);
    free(shard->servers);
    clear_guard_reasons(shard);
    *shard = (shard_t){.n = 0};
}

static void clear_items(shard_t *items, size_t n)
{
    for (size_t i = 0; i < n; i++)
        clear_shard(&items[i]);
    free(items);
}

void shards_clear(shards_t *self)
{
    clear_items(self->items, self->n);
    self->items = NULL;
    self->n = 0;
}

shard_t *shards_find(const shards_t *self, sp_str_t id)
{
    for (size_t i = 0; i < self->n; i++)
        if (sp_str_eqz(id, self->items[i].id))
            return &self->items[i];
    return NULL;
}

// A server keeps what is known of it as long as its sealed DSN is the same.
static bool fill_server(server_t *server, const shard_t *former, size_t index, sp_str_t dsn,
                        const sp_msg_endpoint_t *where)
{
    const server_t *same =
        former && index < former->n && sp_str_eqz(dsn, former->servers[index].dsn)
            ? &former->servers[index]
            : NULL;
    if (same)
        *server = *same;
    else
        *server = (server_t){.verdict = VERDICT_UNKNOWN, .reason = "not probed yet"};
    server->dsn = strndup(dsn.ptr ? dsn.ptr : "", dsn.len);
    server->seen.primary = index == 0;
    copy_str(server->role, sizeof server->role, index == 0 ? SP_STR("primary") : SP_STR("replica"));
    if (where) {
        copy_str(server->host, sizeof server->host, where->host);
        copy_str(server->database, sizeof server->database, where->database);
        copy_str(server->user, sizeof server->user, where->user);
        server->port = where->port;
    }
    return server->dsn != NULL;
}

static bool fill_shard(shard_t *shard, const shard_t *former, const sp_msg_catalog_shard_t *record)
{
    copy_str(shard->id, sizeof shard->id, record->id);
    copy_str(shard->keyspace, sizeof shard->keyspace, record->keyspace);
    copy_str(shard->expected_system, sizeof shard->expected_system, record->system_identifier);
    shard->verdict = former ? former->verdict : VERDICT_UNKNOWN;
    shard->told = former ? former->told : 0;
    shard->servers = calloc(record->replicas.n + 1, sizeof *shard->servers);
    if (!shard->servers)
        return false;
    for (size_t i = 0; i <= record->replicas.n; i++) {
        sp_str_t dsn = i == 0 ? record->primary : record->replicas.items[i - 1];
        const sp_msg_endpoint_t *where = i == 0 ? record->primary_info
                                         : i <= record->replica_infos.n
                                             ? &record->replica_infos.items[i - 1]
                                             : NULL;
        shard->n = i + 1;
        if (!fill_server(&shard->servers[i], former, i, dsn, where))
            return false;
    }
    return true;
}

bool shards_take_catalog(shards_t *self, const sp_catalog_t *catalog)
{
    shard_t *items = calloc(catalog->n_shards + 1, sizeof *items);
    if (!items)
        return false;
    size_t n = 0;
    for (size_t i = 0; i < catalog->n_shards; i++) {
        const sp_msg_catalog_shard_t *record = catalog->shards[i].shard;
        if (record->status == SP_SHARD_STATUS_DELETING || !record->primary.len)
            continue;
        n++;
        if (!fill_shard(&items[n - 1], shards_find(self, record->id), record)) {
            clear_items(items, n);
            return false;
        }
    }
    // What cannot fail any more: guards' findings move, pointers into the table are set anew.
    for (size_t i = 0; i < n; i++) {
        shard_t *former = shards_find(self, sp_str(items[i].id));
        if (former && strcmp(items[i].servers[0].dsn, former->servers[0].dsn) == 0) {
            items[i].guards_known = former->guards_known;
            items[i].guards_ok = former->guards_ok;
            items[i].guard_reasons_n = former->guard_reasons_n;
            memcpy(items[i].guard_reasons, former->guard_reasons, sizeof items[i].guard_reasons);
            former->guard_reasons_n = 0;
        }
        for (size_t j = 0; j < items[i].n; j++) {
            server_t *server = &items[i].servers[j];
            server->seen.error = server->error;
            server->seen.system_identifier = sp_str(server->system_identifier);
        }
    }
    clear_items(self->items, self->n);
    self->items = items;
    self->n = n;
    return true;
}

bool shards_probe_set(const shards_t *self, sp_arena_t *arena, sp_msg_probe_set_t *ret_set)
{
    size_t total = 0;
    for (size_t i = 0; i < self->n; i++)
        total += self->items[i].n;
    sp_msg_probe_server_t *servers = sp_arena_alloc(arena, total, sizeof *servers);
    if (!servers)
        return false;
    size_t k = 0;
    for (size_t i = 0; i < self->n; i++)
        for (size_t j = 0; j < self->items[i].n; j++)
            servers[k++] = (sp_msg_probe_server_t){.shard_id = sp_str(self->items[i].id),
                                                   .index = (int64_t)j,
                                                   .dsn = sp_str(self->items[i].servers[j].dsn)};
    *ret_set = (sp_msg_probe_set_t){0};
    ret_set->servers.items = servers;
    ret_set->servers.n = total;
    return true;
}

static void judge(shards_t *self, shard_t *shard)
{
    verdict_t verdicts[64];
    size_t n = shard->n < 64 ? shard->n : 64;
    for (size_t i = 0; i < n; i++) {
        server_t *server = &shard->servers[i];
        server->seen.expected_system =
            *shard->expected_system ? sp_str(shard->expected_system) : (sp_str_t){NULL, 0};
        server->verdict =
            verdict_of_server(&server->seen, &self->limits, server->reason, sizeof server->reason);
        verdicts[i] = server->verdict;
    }
    shard->verdict = verdict_of_shard(verdicts, n, shard->guards_known && !shard->guards_ok);
}

// A replica's lag is set when it answers, against what the primary has said before: never against a later position.
static void take_position(shard_t *shard, server_t *server, int64_t lsn)
{
    int64_t now = sp_clock_mono_ms();
    lag_history_t *history = &shard->servers[0].history;
    if (server->seen.primary) {
        lag_history_add(history, lsn, now);
        return;
    }
    server->seen.has_lag = history->n > 0;
    server->seen.lag_bytes = lag_bytes(history, lsn);
    server->seen.lag_ms = lag_ms(history, lsn, now);
}

shard_t *shards_take_probe(shards_t *self, const sp_msg_probe_result_t *result)
{
    shard_t *shard = shards_find(self, result->shard_id);
    if (!shard || result->index < 0 || (size_t)result->index >= shard->n)
        return NULL;
    server_t *server = &shard->servers[result->index];
    server->seen.probed = true;
    server->checked_ms = sp_clock_wall_ms();
    if (result->error.ptr) {
        server->seen.failures++;
        copy_str(server->error, sizeof server->error, result->error);
    } else {
        server->seen.failures = 0;
        server->seen.answered = true;
        server->seen.latency_ms = result->latency_ms;
        server->seen.in_recovery = result->in_recovery;
        server->seen.receiving = result->receiving;
        server->timeline = result->timeline;
        copy_str(server->system_identifier, sizeof server->system_identifier,
                 result->system_identifier);
    }
    if (!result->error.ptr)
        take_position(shard, server, result->lsn);
    server->seen.error = server->error;
    server->seen.system_identifier = sp_str(server->system_identifier);
    judge(self, shard);
    return shard;
}

shard_t *shards_take_guards(shards_t *self, const sp_msg_guard_result_t *result)
{
    shard_t *shard = shards_find(self, result->shard_id);
    if (!shard)
        return NULL;
    clear_guard_reasons(shard);
    shard->guards_known = true;
    shard->guards_ok = result->ok;
    for (size_t i = 0;
         i < result->reasons.n && i < sizeof shard->guard_reasons / sizeof *shard->guard_reasons;
         i++) {
        char *reason = strndup(result->reasons.items[i].ptr, result->reasons.items[i].len);
        if (reason)
            shard->guard_reasons[shard->guard_reasons_n++] = reason;
    }
    judge(self, shard);
    return shard;
}

static void view_server(const server_t *server, size_t index, sp_msg_endpoint_t *where,
                        sp_msg_endpoint_health_t *out)
{
    *where = (sp_msg_endpoint_t){.host = sp_str(server->host),
                                 .port = server->port,
                                 .has_port = true,
                                 .database = sp_str(server->database),
                                 .user = sp_str(server->user)};
    *out = (sp_msg_endpoint_health_t){.role = sp_str(server->role),
                                      .endpoint = where,
                                      .verdict = server->verdict,
                                      .has_verdict = true};
    if (server->reason[0])
        out->reason = (sp_str_t){server->reason, strnlen(server->reason, 1000)};
    while (out->reason.len && !sp_str_valid_utf8(out->reason))
        out->reason.len--;
    if (server->seen.probed)
        out->checked_ms = server->checked_ms, out->has_checked_ms = true;
    if (index > 0)
        out->index = (int64_t)index - 1, out->has_index = true;
    if (!server->seen.answered)
        return;
    out->latency_ms = server->seen.latency_ms;
    out->timeline = server->timeline;
    out->in_recovery = server->seen.in_recovery;
    out->has_latency_ms = out->has_timeline = out->has_in_recovery = true;
    out->system_identifier = sp_str(server->system_identifier);
    if (index == 0 || !server->seen.has_lag)
        return;
    out->lag_bytes = server->seen.lag_bytes;
    out->lag_ms = server->seen.lag_ms;
    out->has_lag_bytes = out->has_lag_ms = true;
}

bool shards_view(const shard_t *shard, sp_str_t observer, sp_arena_t *arena,
                 sp_msg_shard_health_t *ret_view)
{
    sp_msg_endpoint_t *wheres = sp_arena_alloc(arena, shard->n, sizeof *wheres);
    sp_msg_endpoint_health_t *servers = sp_arena_alloc(arena, shard->n, sizeof *servers);
    sp_str_t *reasons = sp_arena_alloc(arena, shard->n + shard->guard_reasons_n, sizeof *reasons);
    if (!wheres || !servers || !reasons)
        return false;
    *ret_view = (sp_msg_shard_health_t){.shard_id = sp_str(shard->id),
                                        .verdict = shard->verdict,
                                        .has_verdict = true,
                                        .observer = observer,
                                        .guards_ok = shard->guards_ok,
                                        .has_guards_ok = shard->guards_known};
    size_t k = 0;
    for (size_t i = 0; i < shard->n; i++) {
        const server_t *server = &shard->servers[i];
        view_server(server, i, &wheres[i], &servers[i]);
        if (server->seen.probed && server->checked_ms > ret_view->checked_ms)
            ret_view->checked_ms = server->checked_ms, ret_view->has_checked_ms = true;
        if (server->verdict == VERDICT_HEALTHY)
            continue;
        const char *text = sp_arena_printf(arena, "%s %s:%lld %.800s", server->role, server->host,
                                           (long long)server->port, server->reason);
        if (!text)
            return false;
        reasons[k] = sp_str(text);
        while (reasons[k].len && !sp_str_valid_utf8(reasons[k]))
            reasons[k].len--;
        k++;
    }
    for (size_t i = 0; i < shard->guard_reasons_n; i++)
        reasons[k++] = sp_str(shard->guard_reasons[i]);
    ret_view->endpoints.items = servers;
    ret_view->endpoints.n = shard->n;
    ret_view->reasons.items = reasons;
    ret_view->reasons.n = k;
    return true;
}
