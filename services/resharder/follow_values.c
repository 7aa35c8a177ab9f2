// Values that are not in the stream: a row that moves must be whole, and unchanged values that are stored out of line do not come with it.
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "services/resharder/follow.h"

enum { VISIBLE_MS = 10000 }; // a source may wait for its synchronous standby

bool follow_lacks_values(const follow_relation_t *r, const sp_pgo_tuple_t *row)
{
    for (int i = 0; i < r->n; i++)
        if (row->columns[i].kind == 'u')
            return true;
    return false;
}

// Fills the unchanged columns of `row` from f->values, which has all columns in the stream's form, and lives as long as the message.
static void fill(const follow_t *f, const follow_relation_t *r, sp_pgo_tuple_t *row)
{
    const PGresult *from = f->values;
    for (int i = 0; i < r->n; i++) {
        if (row->columns[i].kind != 'u')
            continue;
        bool null = PQgetisnull(from, 0, i);
        char form = PQfformat(from, i) == 1 ? 'b' : 't';
        row->columns[i] =
            (sp_pgo_datum_t){null ? 'n' : form, PQgetvalue(from, 0, i), PQgetlength(from, 0, i)};
    }
}

// From the old owner, inside the transaction that deletes it there.
static int fill_from_lane(follow_t *f, size_t from, follow_relation_t *r, sp_pgo_tuple_t *row,
                          const sp_pgo_tuple_t *where, sp_error_t *err)
{
    const follow_shape_t *shape = NULL;
    int rc = follow_open_room(f, from, err);
    if (!rc)
        rc = follow_shape_get(r, SHAPE_SELECT, NULL, &f->n_shapes, f->session, &shape, err);
    if (!rc)
        rc = lane_fetch(f->lanes[from], r, shape, where, err);
    if (!rc)
        rc = follow_settle_lane(f, from, true, err);
    if (rc)
        return rc;
    PQclear(f->values);
    f->values = lane_fetched(f->lanes[from]);
    if (f->values && PQntuples(f->values) == 1) {
        fill(f, r, row);
        return 0;
    }
    char text[160];
    sp_error_set(err, SP_E_VALIDATION_FAILED,
                 "%s moves with values that are not in the stream, and shard %s has no such row",
                 follow_row_text(r, row, text, sizeof text), f->task->targets[from].shard_id);
    task_retryable(err, false);
    return SP_E_VALIDATION_FAILED;
}

// The stream may bring a transaction before the source shows it: the commit record is sent once it is flushed, and only then does the
// committing backend leave the list of running transactions.
static int await_visible(follow_t *f, sp_error_t *err)
{
    char xid[16], seen[8] = "";
    snprintf(xid, sizeof xid, "%u", f->begin.xid);
    const char *params[] = {xid};
    int64_t until = sp_clock_mono_ms() + VISIBLE_MS;
    for (;;) {
        int rc = sp_pg_value(f->sql,
                             "SELECT ((pg_snapshot_xmax(s)::text::numeric - $1::numeric) % "
                             "4294967296) BETWEEN 1 AND 2147483647 AND NOT EXISTS "
                             "(SELECT FROM pg_snapshot_xip(s) x WHERE x::text::numeric % "
                             "4294967296 = $1::numeric) "
                             "FROM pg_current_snapshot() s",
                             1, params, seen, sizeof seen, NULL, err);
        if (rc || seen[0] == 't')
            return rc;
        if (sp_clock_until_ms(until) == 0)
            return sp_error_set(err, SP_E_DEADLINE_EXCEEDED,
                                "the source has written the commit of transaction %s and does not "
                                "show it",
                                xid);
        sp_clock_sleep_ms(1);
    }
}

int follow_fill_from_source(follow_t *f, follow_relation_t *r, sp_pgo_tuple_t *row, bool *ret_found,
                            sp_error_t *err)
{
    const follow_shape_t *shape = NULL;
    sp_pg_t *reader = f->point.reader; // its snapshot shows the transaction: it lies before X
    const char *values[32];
    int lengths[32], formats[32], n = 0;
    int rc = follow_shape_get(r, SHAPE_SELECT, NULL, &f->n_shapes, f->session, &shape, err);
    if (!rc && !reader)
        rc = await_visible(f, err);
    if (rc)
        return rc;
    for (int i = 0; i < r->n && n < 32; i++) {
        sp_pgo_datum_t *d = &row->columns[i];
        if (!r->identify[i])
            continue;
        if (d->kind == 't')
            ((char *)(uintptr_t)d->data)[d->len] = 0; // see lane.c: text values get a NUL in place
        values[n] = d->data;
        lengths[n] = d->len;
        formats[n++] = d->kind == 'b';
    }
    sp_pg_params_t params = {n, values, lengths, formats, f->task->assign->binary_stream};
    PQclear(f->values);
    f->values = NULL;
    rc = sp_pg_query_params(reader ? reader : f->sql, shape->sql, &params, &f->values, err);
    *ret_found = !rc && PQntuples(f->values) == 1;
    if (*ret_found)
        fill(f, r, row);
    return rc;
}

// Where the source keeps arcs, rows come from there with values that no target has: they are read from the source as it is now, or, on the
// way to a validation point, as it is there. If the value has changed since, the stream brings the change and overwrites it. If the row is
// gone or has another identity since, the stream brings that too, so a placeholder does until then: each new identity makes the row be read
// again, up to the last one, under which the source holds it until its end. So a row is right once the stream is applied. An old owner that
// committed this transaction before a crash has deleted the row: the source is asked then, too, but without a placeholder, which nothing
// would replace. See docs/adr/0007.
int follow_fill_missing(follow_t *f, int from, follow_relation_t *r, sp_pgo_tuple_t *row,
                        const sp_pgo_tuple_t *where, sp_error_t *err)
{
    bool found = false;
    bool forgotten = from != FOLLOW_NOBODY && follow_lane_skips(f, (size_t)from);
    int rc = f->plan.source_keeps || from == FOLLOW_NOBODY || forgotten
                 ? follow_fill_from_source(f, r, row, &found, err)
                 : 0;
    if (rc || found)
        return rc;
    if (from != FOLLOW_NOBODY)
        return fill_from_lane(f, (size_t)from, r, row, where, err);
    for (int i = 0; i < r->n; i++) {
        const char *z = r->placeholders[i];
        if (row->columns[i].kind == 'u')
            row->columns[i] =
                (sp_pgo_datum_t){z ? 't' : 'n', z ? sp_arena_strz(f->message, z) : NULL,
                                 z ? (int)strlen(z) : 0};
    }
    return 0;
}
