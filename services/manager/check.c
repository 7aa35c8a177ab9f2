// check_keyspace: looks into every shard of a keyspace and compares with the catalog.
#include "services/manager/check.h"

#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "schemas/shard.h"
#include "services/manager/ownership.h"
#include "services/manager/reaper.h"
#include "services/manager/registration.h"
#include "services/manager/views.h"

enum { FINDINGS_MAX = 1000, SCAN_TIMEOUT_MS = 600000 };

typedef struct check {
    env_t env;                                  // connections
    sp_arena_t *arena;                          // findings
    const sp_catalog_keyspace_view_t *keyspace; // what is checked
    sp_msg_check_finding_t *items;              // findings
    size_t n;                                   // count
    int64_t rows;                               // scanned
} check_t;

static void find(check_t *c, const char *kind, sp_str_t shard, const char *table, int64_t rows,
                 const char *message)
{
    if (c->n >= FINDINGS_MAX)
        return;
    c->items[c->n++] =
        (sp_msg_check_finding_t){.kind = sp_str(kind),
                                 .shard_id = shard,
                                 .table = sp_str(table),
                                 .rows = rows,
                                 .has_rows = rows > 0,
                                 .message = sp_str(sp_arena_strz(c->arena, message))};
}

static void check_table(check_t *c, const sp_msg_catalog_shard_t *s, sp_pg_t *pg,
                        const sp_owner_table_t *table, sp_arcs_t arcs, sp_arcs_t rows_of,
                        bool in_job)
{
    sp_error_t err = {0};
    const char *name = sp_pg_qualified(c->arena, table->schema, table->table);
    int64_t misplaced = 0, rows = 0;
    char text[1200];
    // Rows of a live job's target are not its own yet.
    if (registration_misplaced(pg, table, rows_of, &misplaced, &rows, &err) != 0) {
        find(c, "unreachable", s->id, name, 0, err.text);
        return;
    }
    c->rows += rows;
    if (misplaced > 0 && !in_job) {
        snprintf(text, sizeof text, "%lld rows of %s belong to other shards", (long long)misplaced,
                 name);
        find(c, "misplaced_rows", s->id, name, misplaced, text);
    }
    if (in_job)
        return;
    int64_t version = 0;
    sp_ownership_t o;
    bool found = false;
    if (sp_ownership_read(pg, sp_arena_cstr(c->arena, s->keyspace), c->arena, &o, &found, &err) ==
            0 &&
        found)
        version = o.ring_version;
    sp_owner_shard_t owner = env_owner(&c->env, s, c->arena);
    const char *want = NULL, *have = NULL;
    sp_guard_t guard = sp_guard_settled(&arcs, version);
    int rc = sp_guard_actual(pg, table, c->arena, &have, &err);
    bool same = false;
    if (rc == 0)
        rc = sp_guard_expected(&owner, table, &guard, c->arena, &want, &err);
    if (rc == 0)
        same = strcmp(have, want) == 0;
    // A table may have been registered at a later ring version than the shard's last change.
    int64_t now = c->keyspace->ring_record ? c->keyspace->ring_record->version : 0;
    for (int64_t v = now; rc == 0 && !same && have[0] && v >= 0 && v > now - 64; v--) {
        guard = sp_guard_settled(&arcs, v);
        rc = sp_guard_expected(&owner, table, &guard, c->arena, &want, &err);
        same = rc == 0 && strcmp(have, want) == 0;
    }
    if (rc != 0)
        find(c, "unreachable", s->id, name, 0, err.text);
    else if (!have[0])
        find(c, "guard_missing", s->id, name, 0,
             "a guard trigger is missing or not ENABLE ALWAYS, on the table or on a table below "
             "it");
    else if (!same)
        find(c, "guard_differs", s->id, name, 0, "the guard is not what the catalog says");
}

static void check_ownership(check_t *c, const sp_msg_catalog_shard_t *s, sp_pg_t *pg,
                            sp_arcs_t arcs)
{
    sp_error_t err = {0};
    sp_ownership_t o;
    bool found = false;
    if (sp_ownership_read(pg, sp_arena_cstr(c->arena, s->keyspace), c->arena, &o, &found, &err) !=
        0)
        find(c, "unreachable", s->id, NULL, 0, err.text);
    else if (!found || o.state != SP_OWNERSHIP_OPEN || !sp_arcs_equal(o.arcs, arcs))
        find(c, "ownership_differs", s->id, NULL, 0,
             "shardplane.ownership is not what the catalog's ring says");
}

static void check_residue(check_t *c, const sp_msg_catalog_shard_t *s, sp_pg_t *pg)
{
    leftover_t *items = NULL;
    size_t n = 0;
    sp_error_t err = {0};
    char text[256];
    if (reaper_list(pg, c->arena, &items, &n, &err) != 0)
        find(c, "unreachable", s->id, NULL, 0, err.text);
    for (size_t i = 0; i < n; i++)
        if (!reaper_keeps(c->env.catalog, &items[i])) {
            snprintf(text, sizeof text, "%s %s belongs to no live job", items[i].kind,
                     items[i].name);
            find(c, "residue", s->id, NULL, 0, text);
        }
}

// Arcs whose rows may lie on the shard: what it owns, and what jobs moved away from it whose rows it keeps behind closed guards, until
// they are finalized, or for ever where their finalize was not to drop them.
static int may_lie(const check_t *c, const sp_msg_catalog_shard_t *s, sp_arcs_t owned,
                   sp_arcs_t *ret, sp_error_t *err)
{
    int rc = 0;
    *ret = owned;
    for (size_t i = 0; rc == 0 && i < c->env.catalog->n_jobs; i++) {
        const sp_msg_catalog_job_t *j = c->env.catalog->jobs[i].job;
        bool kept = j->state == SP_JOB_STATE_COMPLETED ||
                    (j->state == SP_JOB_STATE_FINALIZED && !j->drop_source_rows);
        if (!kept || !sp_str_eq(j->source_shard_id, s->id))
            continue;
        for (size_t k = 0; rc == 0 && k < j->targets.n; k++) {
            const sp_msg_job_target_t *t = &j->targets.items[k];
            rc = sp_arcs_union(*ret, (sp_arcs_t){t->bounds.items, t->bounds.n}, c->arena, ret, err);
        }
    }
    return rc;
}

static void check_shard(check_t *c, const sp_msg_catalog_shard_t *s)
{
    sp_pg_t *pg = NULL;
    sp_error_t err = {0};
    owner_tables_t tables, present;
    sp_arcs_t arcs, rows_of;
    if (env_pg_record(&c->env, s, ENV_ADMIN, &pg, &err) != 0 ||
        !ownership_tables(c->keyspace->keyspace, c->arena, &tables) ||
        registration_present(pg, &tables, c->arena, &present, &err) != 0 ||
        ownership_arcs(c->keyspace, s->id, c->arena, &arcs, &err) != 0 ||
        may_lie(c, s, arcs, &rows_of, &err) != 0) {
        find(c, "unreachable", s->id, NULL, 0, err.text);
        return;
    }
    bool in_job = s->job_id.len > 0;
    sp_pg_set_timeout(pg, SCAN_TIMEOUT_MS);
    check_residue(c, s, pg);
    if (!in_job)
        check_ownership(c, s, pg, arcs);
    if (!sp_arcs_is_none(arcs) && present.n < tables.n)
        find(c, "guard_missing", s->id, NULL, 0,
             "the shard owns keys, but a registered table does not exist on it");
    for (size_t i = 0; i < present.n && !env_stopped(&c->env); i++)
        check_table(c, s, pg, &present.items[i], arcs, rows_of, in_job);
}

static int run(check_t *c, const sp_msg_check_keyspace_t *m, sp_msg_check_reply_t *reply,
               sp_error_t *err)
{
    int rc = env_load(&c->env, err);
    if (rc != 0)
        return rc;
    c->keyspace = sp_catalog_keyspace(c->env.catalog, m->keyspace);
    c->items = sp_arena_alloc(c->arena, FINDINGS_MAX, sizeof *c->items);
    if (!c->keyspace)
        return sp_error_set(err, SP_E_NOT_FOUND, "keyspace " SP_STR_FMT " does not exist",
                            SP_STR_ARG(m->keyspace));
    if (!c->items)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "check");
    for (size_t i = 0; i < c->env.catalog->n_shards && !env_stopped(&c->env); i++) {
        const sp_msg_catalog_shard_t *s = c->env.catalog->shards[i].shard;
        if (sp_str_eq(s->keyspace, m->keyspace) &&
            (s->status == SP_SHARD_STATUS_ACTIVE || s->status == SP_SHARD_STATUS_EMPTY))
            check_shard(c, s);
    }
    *reply = (sp_msg_check_reply_t){.ok = c->n == 0,
                                    .has_ok = true,
                                    .rows_scanned = c->rows,
                                    .has_rows_scanned = true,
                                    .has_ring_version = true};
    reply->findings.items = c->items;
    reply->findings.n = c->n;
    reply->ring_version = c->keyspace->ring_record ? c->keyspace->ring_record->version : 0;
    return 0;
}

void check_actor(sp_actor_end_t *end, void *arg)
{
    check_t c = {0};
    sp_error_t err = {0};
    const sp_schema_t *schema = NULL;
    void *body = NULL;
    c.arena = sp_arena_new(256 << 20);
    if (!c.arena || env_open(&c.env, arg, end, &err) != 0) {
        sp_log(SP_LOG_ERROR, "MANAGER-CHECK", "reason", err.text, NULL);
        sp_arena_destroy(&c.arena);
        return;
    }
    if (sp_actor_end_receive(end, 5000, c.arena, &schema, &body) &&
        schema == &sp_schema_check_keyspace) {
        sp_msg_check_reply_t reply;
        int rc = run(&c, body, &reply, &err);
        if (rc == 0)
            sp_actor_end_send(end, &sp_schema_check_reply, &reply, NULL);
        else
            sp_actor_end_send(end, &sp_schema_error, error_message(&err, c.arena), NULL);
    }
    env_close(&c.env);
    sp_arena_destroy(&c.arena);
}
