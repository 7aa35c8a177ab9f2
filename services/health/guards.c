// Rounds over all shards. A difference counts only when a second look, with the catalog loaded anew, still sees it: the first may
// have fallen between a change of the catalog and the change of a database.
#include "services/health/guards.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "services/health/guard_check.h"

enum { SECOND_LOOK_MS = 2000, SLICE_MS = 50 };

typedef struct guards {
    sp_actor_end_t *end;      // pipe
    guards_options_t options; // as told
    sp_store_t *store;        // catalog
    sp_arena_t *arena;        // of one check
} guards_t;

static bool is_stopped(void *arg)
{
    return sp_actor_end_stopped(arg);
}

static void rest(const guards_t *self, int64_t ms)
{
    int64_t until = sp_clock_mono_ms() + ms;
    while (!sp_actor_end_stopped(self->end) && sp_clock_mono_ms() < until)
        sp_clock_sleep_ms(SLICE_MS);
}

static void tell(guards_t *self, sp_str_t shard_id, const guard_check_t *check)
{
    sp_str_t reasons[GUARD_MOST_REASONS];
    for (size_t i = 0; i < check->n; i++) {
        reasons[i] = sp_str(check->reasons[i]);
        if (reasons[i].len > 1000)
            reasons[i].len = 1000;
        while (!sp_str_valid_utf8(reasons[i]))
            reasons[i].len--;
    }
    sp_msg_guard_result_t result = {.shard_id = shard_id, .ok = check->n == 0};
    result.reasons.items = reasons;
    result.reasons.n = check->n;
    sp_error_t err;
    int rc = sp_actor_end_send(self->end, &sp_schema_guard_result, &result, &err);
    if (rc && rc != SP_E_CANCELLED)
        sp_log(SP_LOG_ERROR, "HEALTH-GUARDS-LOST", "error", err.text, NULL);
}

// One look at one shard. 0 when something can be said.
static int look(guards_t *self, const sp_catalog_t *catalog, const sp_msg_catalog_shard_t *shard,
                guard_check_t *ret_check)
{
    sp_error_t err = {0};
    sp_arena_reset(self->arena);
    int rc = guard_check_shard(catalog, shard, self->options.seal, is_stopped, self->end,
                               self->arena, ret_check, &err);
    // Whether the database answers is the prober's news, but it asks as another role.
    if (rc && rc != SP_E_CANCELLED)
        sp_log(SP_LOG_WARN, "HEALTH-GUARDS-UNKNOWN", "shard",
               sp_log_fmt(SP_STR_FMT, SP_STR_ARG(shard->id)), "error", err.text, NULL);
    return rc;
}

static void look_again(guards_t *self, sp_str_t shard_id)
{
    rest(self, SECOND_LOOK_MS);
    sp_catalog_t *catalog = NULL;
    sp_error_t err;
    if (sp_actor_end_stopped(self->end) || sp_catalog_load(self->store, &catalog, &err))
        return;
    const sp_catalog_shard_view_t *view = sp_catalog_shard(catalog, shard_id);
    guard_check_t check;
    if (view && guard_check_applies(catalog, view->shard) &&
        look(self, catalog, view->shard, &check) == 0)
        tell(self, shard_id, &check);
    sp_catalog_unref(&catalog);
}

static void round_over_all(guards_t *self)
{
    sp_catalog_t *catalog = NULL;
    sp_error_t err;
    if (sp_catalog_load(self->store, &catalog, &err)) {
        sp_log(SP_LOG_DEBUG, "HEALTH-CATALOG", "error", err.text,
               NULL); // the watch has told it already
        return;
    }
    for (size_t i = 0; i < catalog->n_shards && !sp_actor_end_stopped(self->end); i++) {
        const sp_msg_catalog_shard_t *shard = catalog->shards[i].shard;
        guard_check_t check;
        if (!guard_check_applies(catalog, shard) || look(self, catalog, shard, &check))
            continue;
        if (check.n == 0)
            tell(self, shard->id, &check);
        else
            look_again(self, shard->id);
    }
    sp_catalog_unref(&catalog);
}

void guards_run(sp_actor_end_t *end, void *arg)
{
    guards_t self = {.end = end, .options = *(guards_options_t *)arg};
    free(arg);
    sp_error_t err;
    self.arena = sp_arena_new(0);
    if (!self.arena || sp_store_open_etcd(&self.store, &self.options.store, &err)) {
        sp_log(SP_LOG_ERROR, "HEALTH-GUARDS-OFF", "error", self.arena ? err.text : "no memory",
               NULL);
    } else {
        while (!sp_actor_end_stopped(end)) {
            round_over_all(&self);
            rest(&self, self.options.interval_ms);
        }
    }
    sp_store_close(&self.store);
    sp_arena_destroy(&self.arena);
}
