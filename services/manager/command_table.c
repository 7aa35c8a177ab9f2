// Commands about tables. A table is guarded on every shard before the catalog says that it is registered; letting it go is the reverse.
#include <string.h>

#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/ring/key.h"
#include "schemas/shard.h"
#include "services/manager/command.h"
#include "services/manager/preflight.h"
#include "services/manager/registration.h"
#include "services/manager/sql/manager.h"
#include "services/manager/views.h"

// One shard of the keyspace, while a table is being registered.
typedef struct place {
    const sp_msg_catalog_shard_t *shard; // record
    sp_arcs_t arcs;                      // what it owns
    bool there;                          // the table exists on it
    bool guarded;                        // guards were set by this command
} place_t;

typedef struct places {
    place_t *items; // from the arena
    size_t n;       // count
} places_t;

static int find_places(command_t *c, const sp_catalog_keyspace_view_t *view, places_t *ret,
                       sp_error_t *err)
{
    const sp_catalog_t *catalog = c->env->catalog;
    ret->items = sp_arena_alloc(c->arena, catalog->n_shards + 1, sizeof *ret->items);
    ret->n = 0;
    if (!ret->items)
        return command_no_memory(err);
    for (size_t i = 0; i < catalog->n_shards; i++) {
        const sp_msg_catalog_shard_t *s = catalog->shards[i].shard;
        if (!sp_str_eq(s->keyspace, view->keyspace->name))
            continue;
        if (s->status != SP_SHARD_STATUS_ACTIVE && s->status != SP_SHARD_STATUS_EMPTY)
            return sp_error_set(err, SP_E_CONFLICT,
                                "shard " SP_STR_FMT
                                " is being registered or removed; try again when that has ended",
                                SP_STR_ARG(s->id));
        place_t *p = &ret->items[ret->n++];
        p->shard = s;
        int rc = ownership_arcs(view, s->id, c->arena, &p->arcs, err);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static sp_value_t findings_value(const preflight_report_t *report, sp_arena_t *arena)
{
    sp_value_t *items = sp_arena_alloc(arena, report->n_findings + 1, sizeof *items);
    size_t n = 0;
    for (size_t i = 0; items && i < report->n_findings; i++) {
        const sp_msg_preflight_finding_t *f = &report->findings[i];
        sp_value_pair_t *pairs = sp_arena_alloc(arena, 6, sizeof *pairs);
        if (!pairs)
            break;
        size_t k = 0;
        const struct {
            const char *name;
            sp_str_t value;
        } all[] = {{"check", f->check},   {"severity", f->severity}, {"shard_id", f->shard_id},
                   {"object", f->object}, {"message", f->message},   {"hint", f->hint}};
        for (size_t m = 0; m < 6; m++)
            if (all[m].value.ptr)
                pairs[k++] = (sp_value_pair_t){sp_str(all[m].name),
                                               {.kind = SP_VALUE_STRING, .u.s = all[m].value}};
        items[n++] = (sp_value_t){.kind = SP_VALUE_MAP, .u.map = {pairs, k}};
    }
    sp_value_pair_t *top = sp_arena_alloc(arena, 1, sizeof *top);
    if (!top)
        return (sp_value_t){0};
    top[0] = (sp_value_pair_t){SP_STR("findings"), {.kind = SP_VALUE_LIST, .u.list = {items, n}}};
    return (sp_value_t){.kind = SP_VALUE_MAP, .u.map = {top, 1}};
}

// Looks at the table on one shard: existence, key type, everything that stands against it.
static int examine(command_t *c, place_t *p, const sp_owner_table_t *table, int64_t *key_type,
                   sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    owner_tables_t one = {(sp_owner_table_t *)table, 1}, present;
    int rc = env_pg_record(c->env, p->shard, ENV_ADMIN, &pg, err);
    if (rc == 0)
        rc = registration_present(pg, &one, c->arena, &present, err);
    if (rc != 0)
        return rc;
    p->there = present.n == 1;
    if (!p->there && !sp_arcs_is_none(p->arcs))
        return sp_error_set(err, SP_E_PREFLIGHT_FAILED,
                            "shard " SP_STR_FMT " owns keys, but has no table " SP_STR_FMT
                            "." SP_STR_FMT,
                            SP_STR_ARG(p->shard->id), SP_STR_ARG(table->schema),
                            SP_STR_ARG(table->table));
    if (!p->there)
        return 0;
    int64_t type = 0;
    rc = preflight_key_type(pg, table, &type, err);
    if (rc != 0)
        return rc;
    preflight_report_t report = {0};
    rc = preflight_table(pg, sp_arena_cstr(c->arena, p->shard->id), table, type ? type : *key_type,
                         c->arena, &report, err);
    if (rc == 0 && (!report.ok || type == 0)) {
        c->details = findings_value(&report, c->arena);
        const sp_msg_preflight_finding_t *f = NULL;
        for (size_t i = 0; i < report.n_findings && !f; i++)
            if (sp_str_eqz(report.findings[i].severity, "error"))
                f = &report.findings[i];
        return sp_error_set(err, SP_E_PREFLIGHT_FAILED,
                            "table " SP_STR_FMT "." SP_STR_FMT " cannot be sharded: " SP_STR_FMT,
                            SP_STR_ARG(table->schema), SP_STR_ARG(table->table),
                            SP_STR_ARG(
                                f ? f->message
                                  : SP_STR("its key column is of a type that cannot be a key")));
    }
    if (rc == 0 && *key_type != 0 && *key_type != type)
        rc =
            sp_error_set(err, SP_E_INVALID_ARGUMENT, "the key column is %s, keyspace's keys are %s",
                         sp_key_type_name((int)type), sp_key_type_name((int)*key_type));
    *key_type = type;
    return rc;
}

// From the shards on which this command has set them, or from all. Goes round all of them; the first error is told.
static int drop_guards(command_t *c, const places_t *places, const sp_owner_table_t *table,
                       bool all, sp_error_t *ret_err)
{
    int first = 0;
    for (size_t i = 0; i < places->n; i++) {
        const place_t *p = &places->items[i];
        sp_pg_t *pg = NULL;
        sp_error_t err = {0};
        if (!p->guarded && !all)
            continue;
        int rc = env_pg_record(c->env, p->shard, ENV_ADMIN, &pg, &err);
        if (rc == 0)
            rc = env_begin(c->env, pg, &err);
        if (rc == 0)
            rc = sp_pg_exec(pg, "SET LOCAL lock_timeout = '2s'", &err);
        if (rc == 0)
            rc = sp_guard_drop(pg, table, &err);
        if (rc == 0)
            rc = env_commit(pg, &err);
        if (rc != 0 && pg)
            env_rollback(pg);
        if (rc == 0)
            continue;
        sp_log(SP_LOG_WARN, "TABLE-GUARDS-LEFT", "shard",
               sp_log_fmt(SP_STR_FMT, SP_STR_ARG(p->shard->id)), "reason", err.text, NULL);
        if (first == 0 && ret_err)
            *ret_err = err;
        first = first ? first : rc;
    }
    return first;
}

// The ring version of the shard's last change, as the guards of its other tables tell it.
static int shard_version(command_t *c, const place_t *p, int64_t *ret_version, sp_error_t *err)
{
    sp_pg_t *pg = NULL;
    sp_ownership_t o = {.ring_version = *ret_version};
    bool found = false;
    int rc = env_pg_record(c->env, p->shard, ENV_ADMIN, &pg, err);
    if (rc == 0)
        rc = sp_ownership_read(pg, sp_arena_cstr(c->arena, p->shard->keyspace), c->arena, &o,
                               &found, err);
    if (rc == 0 && found)
        *ret_version = o.ring_version;
    return rc;
}

static int guard_all(command_t *c, places_t *places, const sp_owner_table_t *table, int64_t version,
                     sp_error_t *err)
{
    owner_tables_t one = {(sp_owner_table_t *)table, 1};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < places->n; i++) {
        place_t *p = &places->items[i];
        int64_t last = version;
        if (!p->there)
            continue;
        if ((rc = shard_version(c, p, &last, err)) != 0)
            break;
        sp_guard_t guard = sp_guard_settled(&p->arcs, last);
        p->guarded = true;
        rc = ownership_set(c->env, p->shard, &one, &guard, NULL, err);
    }
    return rc;
}

// After the guards: no misplaced row can come any more, so one look is enough.
static int refuse_misplaced(command_t *c, const places_t *places, const sp_owner_table_t *table,
                            sp_error_t *err)
{
    for (size_t i = 0; i < places->n; i++) {
        const place_t *p = &places->items[i];
        sp_pg_t *pg = NULL;
        int64_t misplaced = 0, rows = 0;
        if (!p->there)
            continue;
        int rc = env_pg_record(c->env, p->shard, ENV_ADMIN, &pg, err);
        if (rc == 0) {
            sp_pg_set_timeout(pg, 600000);
            rc = registration_misplaced(pg, table, p->arcs, &misplaced, &rows, err);
            sp_pg_set_timeout(pg, 30000);
        }
        if (rc == 0 && misplaced > 0)
            rc = sp_error_set(err, SP_E_PREFLIGHT_FAILED,
                              "shard " SP_STR_FMT " holds %lld rows of " SP_STR_FMT "." SP_STR_FMT
                              " whose keys belong to other shards",
                              SP_STR_ARG(p->shard->id), (long long)misplaced,
                              SP_STR_ARG(table->schema), SP_STR_ARG(table->table));
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int put_table(command_t *c, const sp_catalog_keyspace_view_t *view,
                     const sp_msg_table_t *table, int64_t key_type, sp_error_t *err)
{
    sp_msg_catalog_keyspace_t k = *view->keyspace;
    sp_msg_table_t *items = sp_arena_alloc(c->arena, k.tables.n + 1, sizeof *items);
    sp_catalog_txn_t *txn = env_txn(c->env);
    if (!items || !txn) {
        sp_catalog_txn_destroy(&txn);
        return command_no_memory(err);
    }
    if (k.tables.n > 0)
        memcpy(items, k.tables.items, k.tables.n * sizeof *items);
    items[k.tables.n] = *table;
    k.tables.items = items;
    k.tables.n++;
    if (key_type) {
        k.key_type = key_type;
        k.has_key_type = true;
    }
    const char *key = key_keyspace(c->arena, k.name);
    sp_catalog_txn_expect(txn, key, view->rev.mod_revision);
    sp_catalog_txn_put(txn, key, &sp_schema_catalog_keyspace, &k, 0);
    // A change of owners in between would make the guards that were just set wrong.
    if (view->ring_record)
        sp_catalog_txn_expect(txn, key_ring(c->arena, k.name), view->ring_rev.mod_revision);
    return command_commit(c, &txn, err);
}

static int reply_table(command_t *c, const sp_msg_table_t *table, sp_str_t keyspace,
                       sp_error_t *err)
{
    sp_msg_table_t *reply = sp_arena_alloc(c->arena, 1, sizeof *reply);
    if (!reply)
        return command_no_memory(err);
    view_table(table, keyspace, reply);
    c->reply = reply;
    c->reply_schema = &sp_schema_table;
    return 0;
}

static int need_free_keyspace(command_t *c, sp_str_t name,
                              const sp_catalog_keyspace_view_t **ret_view, sp_error_t *err)
{
    *ret_view = sp_catalog_keyspace(c->env->catalog, name);
    if (!*ret_view)
        return sp_error_set(err, SP_E_NOT_FOUND, "keyspace " SP_STR_FMT " does not exist",
                            SP_STR_ARG(name));
    const sp_msg_catalog_job_t *job = keyspace_busy_with(c->env->catalog, name);
    if (!job)
        return 0;
    sp_error_set(err, SP_E_CONFLICT, "job " SP_STR_FMT " is changing keyspace " SP_STR_FMT,
                 SP_STR_ARG(job->id), SP_STR_ARG(name));
    err->retryable = job->state == SP_JOB_STATE_COMPLETED; // a matter of seconds
    return SP_E_CONFLICT;
}

int command_table_create(command_t *c, const void *body, sp_error_t *err)
{
    const sp_msg_table_create_t *m = body;
    int rc = command_need_keyspace(c, m->keyspace, err);
    const sp_catalog_keyspace_view_t *view = NULL;
    if (rc == 0)
        rc = need_free_keyspace(c, m->keyspace, &view, err);
    if (rc != 0)
        return rc;
    const sp_msg_table_t *old = keyspace_table(view->keyspace, m->schema, m->table);
    // The same once more sets its guards again: what somebody altered, and what partitions lack that came later.
    bool again = old && old->mode != SP_TABLE_MODE_IGNORED && m->mode != SP_TABLE_MODE_IGNORED &&
                 sp_str_eq(old->key_column, m->key_column);
    if (old && !again)
        return sp_error_set(err, SP_E_ALREADY_EXISTS,
                            "table " SP_STR_FMT "." SP_STR_FMT " is registered already",
                            SP_STR_ARG(m->schema), SP_STR_ARG(m->table));
    sp_msg_table_t record = {.schema = m->schema,
                             .table = m->table,
                             .key_column = m->key_column,
                             .mode = m->mode,
                             .has_mode = true};
    if (m->mode == SP_TABLE_MODE_IGNORED) {
        rc = put_table(c, view, &record, 0, err);
        return rc == 0 ? reply_table(c, &record, m->keyspace, err) : rc;
    }
    if (!m->key_column.len)
        return sp_error_set(err, SP_E_MISSING_FIELD, "key_column: a sharded table needs it");
    if (sp_str_eqz(m->schema, "shardplane") || sp_str_eqz(m->schema, "pg_catalog") ||
        sp_str_eqz(m->schema, "information_schema"))
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "schema " SP_STR_FMT " is not the application's",
                            SP_STR_ARG(m->schema));
    sp_owner_table_t table = {m->schema, m->table, m->key_column};
    places_t places;
    int64_t key_type = view->keyspace->key_type, before = key_type;
    rc = find_places(c, view, &places, err);
    for (size_t i = 0; rc == 0 && i < places.n; i++)
        rc = examine(c, &places.items[i], &table, &key_type, err);
    if (rc == 0 && places.n == 0)
        rc = sp_error_set(err, SP_E_CONFLICT,
                          "keyspace " SP_STR_FMT
                          " has no shard yet: register one that holds the table first",
                          SP_STR_ARG(m->keyspace));
    if (rc != 0)
        return rc;
    rc = guard_all(c, &places, &table, view->ring_record ? view->ring_record->version : 0, err);
    if (rc == 0)
        rc = sp_failpoint("table_guarded", err);
    if (rc == 0 && !again) // a source may keep rows that have moved
        rc = refuse_misplaced(c, &places, &table, err);
    if (rc == 0 && !again)
        rc = put_table(c, view, &record, before ? 0 : key_type, err);
    if (rc == SP_E_CATALOG_UNAVAILABLE || rc == SP_E_STALE_EPOCH)
        return rc; // the record may be there: guards stay, the same request completes it
    if (rc != 0 && !again)
        drop_guards(c, &places, &table, false, NULL);
    return rc == 0 ? reply_table(c, &record, m->keyspace, err) : rc;
}

// Rows of the table on more than one shard would be left without an owner.
static int refuse_spread(command_t *c, const places_t *places, const sp_owner_table_t *table,
                         sp_error_t *err)
{
    size_t holders = 0;
    for (size_t i = 0; i < places->n; i++) {
        sp_pg_t *pg = NULL;
        owner_tables_t one = {(sp_owner_table_t *)table, 1}, present;
        int rc = env_pg_record(c->env, places->items[i].shard, ENV_ADMIN, &pg, err);
        if (rc == 0)
            rc = registration_present(pg, &one, c->arena, &present, err);
        if (rc != 0)
            return rc;
        const char *sql =
            present.n ? sp_arena_printf(c->arena, "SELECT EXISTS (SELECT FROM %s)::text",
                                        sp_pg_qualified(c->arena, table->schema, table->table))
                      : NULL;
        char out[8] = "";
        bool null = false;
        if (sql)
            rc = sp_pg_value(pg, sql, 0, NULL, out, sizeof out, &null, err);
        if (rc != 0)
            return rc;
        places->items[i].there = present.n > 0;
        holders += out[0] == 't';
    }
    if (holders > 1)
        return sp_error_set(err, SP_E_CONFLICT,
                            "table " SP_STR_FMT "." SP_STR_FMT " has rows on %zu shards",
                            SP_STR_ARG(table->schema), SP_STR_ARG(table->table), holders);
    return 0;
}

// Takes the table out of the keyspace's record.
static int remove_table(command_t *c, const sp_catalog_keyspace_view_t *view,
                        const sp_msg_table_t *table, sp_error_t *err)
{
    sp_msg_catalog_keyspace_t k = *view->keyspace;
    sp_msg_table_t *items = sp_arena_alloc(c->arena, k.tables.n, sizeof *items);
    sp_catalog_txn_t *txn = items ? env_txn(c->env) : NULL;
    if (!txn)
        return command_no_memory(err);
    size_t n = 0;
    for (size_t i = 0; i < k.tables.n; i++)
        if (&view->keyspace->tables.items[i] != table)
            items[n++] = k.tables.items[i];
    k.tables.items = items;
    k.tables.n = n;
    const char *key = key_keyspace(c->arena, k.name);
    sp_catalog_txn_expect(txn, key, view->rev.mod_revision);
    sp_catalog_txn_put(txn, key, &sp_schema_catalog_keyspace, &k, 0);
    return command_commit(c, &txn, err);
}

// Guards of a table that is not registered: what a delete, or a registration, has left that was cut off.
static int find_left(command_t *c, places_t *places, const sp_owner_table_t *table, bool *ret_any,
                     sp_error_t *err)
{
    const char *params[] = {sp_arena_cstr(c->arena, table->schema),
                            sp_arena_cstr(c->arena, table->table)};
    *ret_any = false;
    for (size_t i = 0; i < places->n; i++) {
        sp_pg_t *pg = NULL;
        char out[8] = "";
        bool null = false;
        int rc = env_pg_record(c->env, places->items[i].shard, ENV_ADMIN, &pg, err);
        if (rc == 0)
            rc = sp_pg_value(pg, SP_SQL_TABLE_GUARDED, 2, params, out, sizeof out, &null, err);
        if (rc != 0)
            return rc;
        *ret_any = *ret_any || out[0] == 't';
    }
    return 0;
}

static bool has_job_table(const sp_msg_job_table_t *tables, size_t n, const sp_owner_table_t *table)
{
    for (size_t i = 0; i < n; i++)
        if (sp_str_eq(tables[i].schema, table->schema) && sp_str_eq(tables[i].table, table->table))
            return true;
    return false;
}

// Finalize may purge the rows that have moved away, by the job's own list: only guards keep newer ones of the same keys out.
static int refuse_kept(command_t *c, sp_str_t keyspace, const sp_owner_table_t *table,
                       sp_error_t *err)
{
    for (size_t i = 0; i < c->env->catalog->n_jobs; i++) {
        const sp_msg_catalog_job_t *j = c->env->catalog->jobs[i].job;
        if (j->state != SP_JOB_STATE_COMPLETED || !sp_str_eq(j->keyspace, keyspace))
            continue;
        if (!has_job_table(j->tables.items, j->tables.n, table) &&
            !has_job_table(j->partitioned.items, j->partitioned.n, table))
            continue;
        sp_error_set(err, SP_E_CONFLICT,
                     "table " SP_STR_FMT "." SP_STR_FMT " was moved by job " SP_STR_FMT
                     ", which is not finalized: finalize it first",
                     SP_STR_ARG(table->schema), SP_STR_ARG(table->table), SP_STR_ARG(j->id));
        err->retryable = false; // not by itself
        return SP_E_CONFLICT;
    }
    return 0;
}

int command_table_delete(command_t *c, const void *body, sp_error_t *err)
{
    const sp_msg_table_delete_t *m = body;
    const sp_catalog_keyspace_view_t *view = NULL;
    places_t places = {0};
    int rc = need_free_keyspace(c, m->keyspace, &view, err);
    const sp_msg_table_t *old =
        rc == 0 ? keyspace_table(view->keyspace, m->schema, m->table) : NULL;
    bool ignored = old && old->mode == SP_TABLE_MODE_IGNORED, left = false;
    sp_owner_table_t table = {m->schema, m->table, old ? old->key_column : (sp_str_t){0}};
    if (rc == 0 && !ignored)
        rc = find_places(c, view, &places, err);
    if (rc == 0 && !old)
        rc = find_left(c, &places, &table, &left, err);
    if (rc == 0 && !old && !left)
        rc = sp_error_set(err, SP_E_NOT_FOUND,
                          "table " SP_STR_FMT "." SP_STR_FMT " is not registered",
                          SP_STR_ARG(m->schema), SP_STR_ARG(m->table));
    if (rc == 0 && old && !ignored)
        rc = refuse_kept(c, m->keyspace, &table, err);
    if (rc == 0 && old && !ignored)
        rc = refuse_spread(c, &places, &table, err);
    if (rc != 0)
        return rc;
    // The strings of `old`, and the shards' records, live in the catalog that the commit replaces.
    sp_catalog_t *kept = sp_catalog_ref(c->env->catalog);
    if (old)
        rc = remove_table(c, view, old, err);
    if (rc == 0)
        rc = sp_failpoint("table_unregistered", err);
    if (rc == 0 && !ignored && drop_guards(c, &places, &table, true, err) != 0)
        rc = sp_error_prefix(err, "the table is not registered any more, but guards are left; ask "
                                  "again");
    sp_catalog_unref(&kept);
    return rc == 0 ? command_reply_ack(c) : rc;
}
