#include "services/manager/preflight.h"

#include <inttypes.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/owner/fingerprint.h"
#include "common/ring/hash.h"
#include "common/wire/wire.h"
#include "schemas/shard.h"
#include "services/manager/sql/preflight.h"

#define FINDINGS_MAX      1000 // what schemas/job.json allows
#define SLOTS_NEEDED      2    // the job's slot and one temporary one at a time
#define WALSENDERS_NEEDED 3    // follower, snapshot holder, validation point
#define ORIGINS_NEEDED    1    // one lane a target
#define PAGES_PER_RANGE   2048 // 16 MiB of heap: a lost worker loses seconds
#define GOLDEN_KEY        "shardplane golden key"

typedef struct collector {
    sp_arena_t *arena;          // owner of everything below
    preflight_report_t *report; // what is filled
} collector_t;

static const char *cell(sp_arena_t *arena, const PGresult *result, int row, int column)
{
    return PQgetisnull(result, row, column) ? NULL
                                            : sp_arena_strz(arena, PQgetvalue(result, row, column));
}

static int add_finding(collector_t *self, const char *shard_id, const char *check,
                       const char *severity, const char *object, const char *message,
                       const char *hint, sp_error_t *err)
{
    preflight_report_t *report = self->report;
    if (strcmp(severity, "error") == 0)
        report->ok = false;
    if (report->n_findings == FINDINGS_MAX)
        return 0;
    if (!report->findings) {
        report->findings = sp_arena_alloc(self->arena, FINDINGS_MAX, sizeof *report->findings);
        if (!report->findings)
            return sp_error_set(err, SP_E_OUT_OF_MEMORY, "preflight findings");
    }
    report->findings[report->n_findings++] = (sp_msg_preflight_finding_t){
        .check = sp_str(check),
        .severity = sp_str(severity),
        .shard_id = sp_str(shard_id),
        .object = sp_str(object),
        .message = sp_str(message),
        .hint = sp_str(hint),
    };
    return 0;
}

// Runs one check of preflight.sql and adds what it returns.
static int run_check(collector_t *self, sp_pg_t *pg, const char *shard_id, const char *sql,
                     const char *tables, const char *facts, sp_error_t *err)
{
    const char *params[] = {tables, facts};
    PGresult *result = NULL;
    int rc = sp_pg_query(pg, sql, 2, params, &result, err);
    if (rc)
        return sp_error_prefix(err, "preflight on shard %s", shard_id);
    for (int i = 0; i < PQntuples(result) && !rc; i++) {
        const char *check = cell(self->arena, result, i, 0),
                   *severity = cell(self->arena, result, i, 1);
        const char *object = cell(self->arena, result, i, 2),
                   *message = cell(self->arena, result, i, 3);
        const char *hint = cell(self->arena, result, i, 4);
        if (!check || !severity || !message)
            rc = sp_error_set(err, SP_E_INTERNAL, "a preflight check returned an incomplete row");
        else
            rc = add_finding(self, shard_id, check, severity, object, message, hint, err);
    }
    PQclear(result);
    return rc;
}

// Same, but a check that PostgreSQL refuses to run becomes a finding: the other checks must still be listed.
static int run_check_or_find(collector_t *self, sp_pg_t *pg, const char *shard_id, const char *sql,
                             const char *tables, const char *facts, sp_error_t *err)
{
    sp_error_t local = {0};
    int rc = run_check(self, pg, shard_id, sql, tables, facts, &local);
    if (rc != SP_E_SQL_ERROR) {
        if (rc && err)
            *err = local;
        return rc;
    }
    return add_finding(self, shard_id, "preflight", "error", NULL,
                       sp_arena_strz(self->arena, local.text),
                       "give the role the rights that docs/operations.md lists", err);
}

static sp_value_t text_value(sp_str_t s)
{
    return s.ptr ? (sp_value_t){.kind = SP_VALUE_STRING, .u.s = s}
                 : (sp_value_t){.kind = SP_VALUE_NULL};
}

// [{"s": schema, "t": table, "k": key, "m": mode}] of n tables, from the arena; NULL when memory runs out.
static const char *tables_json(sp_arena_t *arena, const sp_msg_table_t *tables, size_t n)
{
    sp_buf_t buf = SP_BUF_INIT;
    sp_buf_addc(&buf, '[');
    for (size_t i = 0; i < n; i++) {
        const sp_msg_table_t *t = &tables[i];
        sp_value_pair_t pairs[] = {
            {SP_STR("s"), text_value(t->schema)},
            {SP_STR("t"), text_value(t->table)},
            {SP_STR("k"), text_value(t->key_column)},
            {SP_STR("m"),
             text_value(t->mode == SP_TABLE_MODE_IGNORED ? SP_STR("ignored") : SP_STR("sharded"))},
        };
        sp_value_t map = {.kind = SP_VALUE_MAP, .u.map = {pairs, sizeof pairs / sizeof pairs[0]}};
        if (i)
            sp_buf_addc(&buf, ',');
        if (sp_wire_value_to_json(&map, &buf, NULL)) {
            sp_buf_free(&buf);
            return NULL;
        }
    }
    sp_buf_addc(&buf, ']');
    const char *json = buf.failed ? NULL : sp_arena_strz(arena, sp_buf_cstr(&buf));
    sp_buf_free(&buf);
    return json;
}

static const char *key_type_name(int64_t key_type)
{
    switch (key_type) {
    case SP_KEY_TYPE_BIGINT:
        return "\"bigint\"";
    case SP_KEY_TYPE_TEXT:
        return "\"text\"";
    case SP_KEY_TYPE_UUID:
        return "\"uuid\"";
    default:
        return "null";
    }
}

// ["a", "b"] as JSON to a list of strings.
static int string_list(sp_arena_t *arena, const char *json, sp_str_t **ret_items, size_t *ret_n,
                       sp_error_t *err)
{
    sp_value_t value;
    int rc = json ? sp_wire_value_from_json(json, strlen(json), arena, &value, err) : 0;
    if (rc || !json || value.kind != SP_VALUE_LIST)
        return rc;
    sp_str_t *items = sp_arena_alloc(arena, value.u.list.n + 1, sizeof *items);
    if (!items)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "preflight plan");
    for (size_t i = 0; i < value.u.list.n; i++)
        items[i] = value.u.list.items[i].u.s;
    *ret_items = items;
    *ret_n = value.u.list.n;
    return 0;
}

static int64_t number(const PGresult *result, int row, int column)
{
    int64_t value = 0;
    const char *text = PQgetisnull(result, row, column) ? "" : PQgetvalue(result, row, column);
    return sp_str_to_int64(sp_str(text), &value) ? 0 : value;
}

// A partitioned table holds no rows: what is known of it is its definition.
static int plan_partitioned(collector_t *self, sp_pg_t *pg, const sp_msg_job_table_t *t,
                            sp_error_t *err)
{
    const char *fingerprint = NULL;
    int rc = sp_owner_fingerprint(pg, t->schema, t->table, self->arena, &fingerprint, err);
    if (rc)
        return rc;
    self->report->partitioned[self->report->n_partitioned++] =
        (sp_msg_job_table_t){.schema = t->schema,
                             .table = t->table,
                             .key_column = t->key_column,
                             .oid = t->oid,
                             .has_oid = true,
                             .fingerprint = sp_str(fingerprint),
                             .partition = t->partition,
                             .has_partition = t->has_partition};
    return 0;
}

static int plan_row(collector_t *self, const preflight_input_t *input, sp_pg_t *pg,
                    const PGresult *result, int row, sp_error_t *err)
{
    sp_arena_t *arena = self->arena;
    sp_msg_job_table_t t = {
        .schema = sp_str(cell(arena, result, row, 0)),
        .table = sp_str(cell(arena, result, row, 1)),
        .key_column = sp_str(cell(arena, result, row, 2)),
        .oid = number(result, row, 3),
        .has_oid = true,
        .relfilenode = number(result, row, 4),
        .has_relfilenode = true,
        .pages = number(result, row, 5),
        .has_pages = true,
        .rows_estimate = number(result, row, 6),
        .has_rows_estimate = true,
        .bytes = number(result, row, 7),
        .has_bytes = true,
        .binary = !PQgetisnull(result, row, 10) && PQgetvalue(result, row, 10)[0] == 't',
        .has_binary = true,
        .identity_before = sp_str(cell(arena, result, row, 11)),
        .copied = false,
        .has_copied = true,
        .partition = PQgetvalue(result, row, 14)[0] == 't',
    };
    t.has_partition = t.partition;
    if (PQgetvalue(result, row, 13)[0] == 't')
        return plan_partitioned(self, pg, &t, err);
    int rc = string_list(arena, cell(arena, result, row, 8), &t.columns.items, &t.columns.n, err);
    if (!rc)
        rc = string_list(arena, cell(arena, result, row, 9), &t.primary_key.items, &t.primary_key.n,
                         err);
    const char *fingerprint = NULL;
    if (!rc)
        rc = sp_owner_fingerprint(pg, t.schema, t.table, arena, &fingerprint, err);
    if (rc)
        return rc;
    t.fingerprint = sp_str(fingerprint);
    bool needs_identity = PQgetisnull(result, row, 12) || PQgetvalue(result, row, 12)[0] == 't';
    if (needs_identity)
        t.identity_index = sp_str(sp_arena_printf(arena, "shp_%s_ri_%d", input->job_id, row));
    t.pages_per_range = input->pages_per_range > 0 ? input->pages_per_range : PAGES_PER_RANGE;
    t.has_pages_per_range = true;
    t.ranges = t.pages / t.pages_per_range + 1;
    t.has_ranges = true;
    sp_msg_job_table_t *kept = &self->report->tables[self->report->n_tables++];
    *kept = t;
    self->report->rows += t.rows_estimate;
    self->report->bytes += t.bytes;
    self->report->binary_stream = self->report->binary_stream && t.binary;
    return 0;
}

static int plan_tables(collector_t *self, const preflight_input_t *input, const char *tables,
                       sp_error_t *err)
{
    preflight_report_t *report = self->report;
    const char *params[] = {tables, "{}"};
    PGresult *result = NULL;
    int rc = sp_pg_query(input->source.admin, SP_SQL_PREFLIGHT_PLAN, 2, params, &result, err);
    if (rc)
        return sp_error_prefix(err, "plan of the tables on shard %s", input->source.shard_id);
    size_t n = (size_t)PQntuples(result);
    report->tables = sp_arena_alloc(self->arena, n + 1, sizeof *report->tables);
    report->partitioned = sp_arena_alloc(self->arena, n + 1, sizeof *report->partitioned);
    report->binary_stream = true;
    if (!report->tables || !report->partitioned)
        rc = sp_error_set(err, SP_E_OUT_OF_MEMORY, "preflight plan");
    for (size_t i = 0; i < n && !rc; i++)
        rc = plan_row(self, input, input->source.admin, result, (int)i, err);
    PQclear(result);
    return rc;
}

// Facts about the source that the targets are compared with; also its timeline and version.
static int source_facts(const preflight_input_t *input, const char *tables, sp_arena_t *arena,
                        preflight_report_t *report, const char **ret_facts, int64_t *ret_version,
                        bool *ret_row_security, sp_error_t *err)
{
    char *facts = sp_arena_alloc(arena, 65536, 1);
    if (!facts)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "preflight");
    const char *params[] = {tables, "{}"};
    bool null = false;
    int rc = sp_pg_value(input->source.admin, SP_SQL_PREFLIGHT_SOURCE_FACTS, 2, params, facts,
                         65536, &null, err);
    if (rc || null)
        return rc ? rc : sp_error_set(err, SP_E_INTERNAL, "the source told no facts");
    sp_value_t map;
    rc = sp_wire_value_from_json(facts, strlen(facts), arena, &map, err);
    if (rc)
        return rc;
    const sp_value_t *timeline = sp_value_get(&map, "timeline"),
                     *version = sp_value_get(&map, "version"),
                     *row_security = sp_value_get(&map, "row_security");
    *ret_row_security = row_security && row_security->kind == SP_VALUE_BOOL && row_security->u.b;
    if (timeline && timeline->kind == SP_VALUE_INT)
        report->timeline = (int)timeline->u.i;
    if (!version || version->kind != SP_VALUE_STRING || sp_str_to_int64(version->u.s, ret_version))
        return sp_error_set(err, SP_E_INTERNAL, "the source told no version");
    *ret_facts = facts;
    return 0;
}

static const char *server_facts(sp_arena_t *arena, bool source, int64_t min_version)
{
    return sp_arena_printf(arena,
                           "{\"min_version\": %" PRId64
                           ", \"slots\": %d, \"walsenders\": %d, \"origins\": %d, \"source\": %s, "
                           "\"golden\": \"%" PRId64 "\"}",
                           min_version, source ? SLOTS_NEEDED : 0, source ? WALSENDERS_NEEDED : 0,
                           source ? 0 : ORIGINS_NEEDED, source ? "true" : "false",
                           sp_key_hash(GOLDEN_KEY, sizeof GOLDEN_KEY - 1));
}

static const char *sequence_facts(const preflight_input_t *input, sp_arena_t *arena)
{
    sp_buf_t buf = SP_BUF_INIT;
    sp_buf_printf(&buf, "{\"stride\": %" PRId64 ", \"ordinals\": [", input->sequence_stride);
    for (size_t i = 0; i < input->n_targets; i++)
        sp_buf_printf(&buf, "%s%" PRId64, i ? ", " : "", input->target_ordinals[i]);
    sp_buf_addz(&buf, "]}");
    const char *facts = sp_arena_strz(arena, sp_buf_cstr(&buf));
    sp_buf_free(&buf);
    return facts;
}

// Whether the role sees all rows under row level security.
static int rls_bypassed(sp_pg_t *apply, bool *ret_ok, sp_error_t *err)
{
    char out[8];
    bool null = false;
    int rc = sp_pg_value(apply,
                         "SELECT (rolbypassrls OR rolsuper)::text FROM pg_roles WHERE rolname = "
                         "current_user",
                         0, NULL, out, sizeof out, &null, err);
    if (!rc)
        *ret_ok = out[0] == 't';
    return rc;
}

static int check_source(collector_t *self, const preflight_input_t *input, const char *tables,
                        sp_error_t *err)
{
    sp_arena_t *arena = self->arena;
    const preflight_shard_t *source = &input->source;
    bool rls_ok = false;
    int rc = source->apply ? rls_bypassed(source->apply, &rls_ok, err) : 0;
    if (rc)
        return rc;
    const char *table_facts =
        sp_arena_printf(arena, "{\"key_type\": %s, \"rls_ok\": %s}",
                        key_type_name(input->keyspace->key_type), rls_ok ? "true" : "false");
    const struct {
        sp_pg_t *pg;       // whose eyes
        const char *sql;   // check
        const char *facts; // $2
    } checks[] = {
        {source->admin, SP_SQL_PREFLIGHT_SERVER, server_facts(arena, true, 0)},
        {source->admin, SP_SQL_PREFLIGHT_ADMIN_ROLE, "{}"},
        {source->apply, SP_SQL_PREFLIGHT_APPLY_ROLE, "{\"source\": true}"},
        {source->admin, SP_SQL_PREFLIGHT_TABLES, table_facts},
        {source->admin, SP_SQL_PREFLIGHT_COLUMN_TYPES, "{}"},
        {source->admin, SP_SQL_PREFLIGHT_UNLISTED, "{}"},
        {source->admin, SP_SQL_PREFLIGHT_SEQUENCES, sequence_facts(input, arena)},
    };
    for (size_t i = 0; i < sizeof checks / sizeof checks[0] && !rc; i++) {
        if (checks[i].pg)
            rc = run_check_or_find(self, checks[i].pg, source->shard_id, checks[i].sql, tables,
                                   checks[i].facts, err);
    }
    return rc;
}

static int check_target(collector_t *self, const preflight_shard_t *target, const char *tables,
                        const char *facts, int64_t version, bool row_security, sp_error_t *err)
{
    int rc = 0;
    if (target->admin)
        rc = run_check_or_find(self, target->admin, target->shard_id, SP_SQL_PREFLIGHT_SERVER,
                               tables, server_facts(self->arena, false, version), err);
    if (!rc && target->admin)
        rc = run_check_or_find(self, target->admin, target->shard_id, SP_SQL_PREFLIGHT_TARGET,
                               tables, facts, err);
    if (!rc && target->admin)
        rc = run_check_or_find(self, target->admin, target->shard_id, SP_SQL_PREFLIGHT_ADMIN_ROLE,
                               "[]", "{}", err);
    if (!rc && target->apply)
        rc = run_check_or_find(self, target->apply, target->shard_id, SP_SQL_PREFLIGHT_APPLY_ROLE,
                               "[]",
                               row_security ? "{\"source\": false, \"row_security\": true}"
                                            : "{\"source\": false, \"row_security\": false}",
                               err);
    return rc;
}

// The registered tables with the partitions that were found: none of them may stand on a target yet.
static const char *all_tables_json(sp_arena_t *arena, const sp_msg_table_t *tables, size_t n,
                                   const preflight_report_t *report)
{
    size_t most = n + report->n_tables + report->n_partitioned;
    sp_msg_table_t *all = sp_arena_alloc(arena, most + 1, sizeof *all);
    if (!all)
        return NULL;
    if (n)
        memcpy(all, tables, n * sizeof *all);
    for (size_t i = 0; i < report->n_tables + report->n_partitioned; i++) {
        const sp_msg_job_table_t *t =
            i < report->n_tables ? &report->tables[i] : &report->partitioned[i - report->n_tables];
        if (t->partition)
            all[n++] = (sp_msg_table_t){.schema = t->schema,
                                        .table = t->table,
                                        .key_column = t->key_column};
    }
    return tables_json(arena, all, n);
}

int preflight_run(const preflight_input_t *input, sp_arena_t *arena, preflight_report_t *ret_report,
                  sp_error_t *err)
{
    preflight_report_t report = {.ok = true};
    collector_t self = {arena, &report};
    const sp_msg_catalog_keyspace_t *keyspace = input->keyspace;
    size_t n = keyspace->tables.n;
    sp_msg_table_t *all = sp_arena_alloc(arena, n + 1, sizeof *all);
    if (!all)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "preflight");
    if (n)
        memcpy(all, keyspace->tables.items, n * sizeof *all);
    all[n] = (sp_msg_table_t){.schema = SP_STR("shardplane"),
                              .table = SP_STR("requests"),
                              .key_column = SP_STR("key")};
    // The idempotency table moves with its rows, but is not the operator's to mend: it is planned, not checked.
    const char *user_tables = tables_json(arena, all, n),
               *moving_tables = tables_json(arena, all, n + 1);
    if (!user_tables || !moving_tables)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "preflight");
    if (!input->source.admin)
        return sp_error_set(err, SP_E_PG_CONNECTION, "shard %s: no connection to read the source",
                            input->source.shard_id);

    const char *facts = NULL;
    int64_t version = 0;
    bool row_security = false;
    int rc = source_facts(input, user_tables, arena, &report, &facts, &version, &row_security, err);
    if (!rc)
        rc = check_source(&self, input, user_tables, err);
    if (!rc)
        rc = plan_tables(&self, input, moving_tables, err);
    const char *there = rc ? NULL : all_tables_json(arena, all, n, &report);
    if (!rc && !there)
        rc = sp_error_set(err, SP_E_OUT_OF_MEMORY, "preflight");
    for (size_t i = 0; i < input->n_targets && !rc; i++)
        rc = check_target(&self, &input->targets[i], there, facts, version, row_security, err);
    if (!rc && n == 0)
        rc =
            add_finding(&self, input->source.shard_id, "no_tables", "error", NULL,
                        "the keyspace has no registered tables",
                        "register the sharded tables with POST /api/v1/keyspaces/{keyspace}/tables",
                        err);
    if (!rc)
        *ret_report = report;
    return rc;
}

int preflight_table(sp_pg_t *admin, const char *shard_id, const sp_owner_table_t *table,
                    int64_t key_type, sp_arena_t *arena, preflight_report_t *ret_report,
                    sp_error_t *err)
{
    preflight_report_t report = {.ok = true};
    collector_t self = {arena, &report};
    sp_msg_table_t one = {.schema = table->schema,
                          .table = table->table,
                          .key_column = table->key_column};
    const char *tables = tables_json(arena, &one, 1);
    const char *facts =
        sp_arena_printf(arena, "{\"key_type\": %s, \"rls_ok\": true}", key_type_name(key_type));
    if (!tables || !facts)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "preflight");
    // Foreign keys are judged when a job is planned, once all tables are registered.
    int rc = run_check(&self, admin, shard_id, SP_SQL_PREFLIGHT_TABLES, tables, facts, err);
    if (!rc)
        rc = run_check(&self, admin, shard_id, SP_SQL_PREFLIGHT_ADMIN_ROLE, tables, "{}", err);
    if (rc)
        return rc;
    size_t kept = 0;
    report.ok = true;
    for (size_t i = 0; i < report.n_findings; i++) {
        if (sp_str_eqz(report.findings[i].check, "foreign_key"))
            continue;
        if (sp_str_eqz(report.findings[i].severity, "error"))
            report.ok = false;
        report.findings[kept++] = report.findings[i];
    }
    report.n_findings = kept;
    *ret_report = report;
    return 0;
}

int preflight_key_type(sp_pg_t *admin, const sp_owner_table_t *table, int64_t *ret_key_type,
                       sp_error_t *err)
{
    sp_arena_t *arena = sp_arena_new(0);
    if (!arena)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "key type");
    const char *params[] = {sp_arena_cstr(arena, table->schema), sp_arena_cstr(arena, table->table),
                            sp_arena_cstr(arena, table->key_column)};
    char out[8];
    bool null = false;
    int rc = sp_pg_value(admin, SP_SQL_PREFLIGHT_KEY_TYPE, 3, params, out, sizeof out, &null, err);
    if (!rc)
        *ret_key_type = null ? 0 : out[0] - '0';
    sp_arena_destroy(&arena);
    return rc;
}
