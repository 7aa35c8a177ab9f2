// Messages of the stream, and what they do to the lanes.
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/failpoint.h"
#include "services/resharder/follow.h"

enum { MESSAGES_A_TURN = 500 };

bool follow_lane_skips(const follow_t *f, size_t lane)
{
    return follow_has_applied(f->begin.final_lsn, lane_durable(f->lanes[lane]));
}

bool follow_has_open(const follow_t *f)
{
    for (size_t i = 0; i < f->plan.n_targets; i++)
        if (lane_is_open(f->lanes[i]))
            return true;
    return false;
}

// ---- committing

static int commit_lane(follow_t *f, size_t i, sp_error_t *err)
{
    int rc = sp_failpoint("follow_before_commit", err);
    return rc ? rc : lane_commit(f->lanes[i], err);
}

// Commits one lane after another's: rows whose unchanged TOAST values were read from their old owner are durable at the new one before
// the old one forgets them. Lanes that wait for nobody commit together.
static int commit_in_order(follow_t *f, sp_error_t *err)
{
    uint64_t left = 0;
    for (size_t i = 0; i < f->plan.n_targets; i++)
        if (lane_is_open(f->lanes[i]))
            left |= UINT64_C(1) << i;
    while (left) {
        uint64_t now = 0;
        for (size_t i = 0; i < f->plan.n_targets; i++)
            if (left >> i & 1 && !(f->receivers[i] & left))
                now |= UINT64_C(1) << i;
        // Rows went both ways in one source transaction: no order is safe, and after a crash between follow_fill_missing() asks the source.
        if (!now)
            now = left & -left;
        int rc = 0;
        for (size_t i = 0; i < f->plan.n_targets && !rc; i++)
            if (now >> i & 1)
                rc = commit_lane(f, i, err);
        if (!rc)
            rc = follow_settle(f, err);
        if (!rc)
            rc = sp_failpoint("follow_after_commit", err);
        if (rc)
            return rc;
        left &= ~now;
    }
    return 0;
}

int follow_commit(follow_t *f, sp_error_t *err)
{
    if (!follow_has_open(f))
        return 0;
    // First see that every change hit its row: nothing that diverged may be made durable.
    int rc = 0;
    for (size_t i = 0; i < f->plan.n_targets && !rc; i++)
        rc = lane_ask(f->lanes[i], err);
    if (!rc)
        rc = follow_settle(f, err);
    if (!rc)
        rc = commit_in_order(f, err);
    if (!rc)
        memset(f->receivers, 0, f->plan.n_targets * sizeof *f->receivers);
    f->turn_failed = f->turn_failed || rc != 0;
    return rc;
}

// ---- changes

int follow_open_room(follow_t *f, size_t lane, sp_error_t *err)
{
    if (!lane_is_open(f->lanes[lane]))
        f->positions[lane] = f->processed;
    return lane_is_full(f->lanes[lane]) ? follow_settle_lane(f, lane, false, err) : 0;
}

static int send(follow_t *f, size_t lane, follow_relation_t *r, shape_kind_t kind,
                const unsigned char *set, const sp_pgo_tuple_t *row, const sp_pgo_tuple_t *where,
                sp_error_t *err)
{
    const follow_shape_t *shape = NULL;
    if (follow_lane_skips(f, lane))
        return 0;
    int rc = follow_open_room(f, lane, err);
    if (!rc)
        rc = follow_shape_get(r, kind, set, &f->n_shapes, f->session, &shape, err);
    return rc ? rc : lane_send(f->lanes[lane], r, shape, row, where, err);
}

// All columns have values: whole rows only.
static int send_insert(follow_t *f, size_t lane, follow_relation_t *r, const sp_pgo_tuple_t *row,
                       sp_error_t *err)
{
    unsigned char *all = sp_arena_alloc(f->message, (size_t)r->n + 1, 1);
    if (!all)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a row");
    memset(all, 1, (size_t)r->n);
    for (int i = 0; i < r->n; i++)
        if (row->columns[i].kind == 'u')
            return sp_error_set(err, SP_E_MALFORMED, "an inserted row of %s lacks column %s",
                                r->table->qualified, r->columns[i].name);
    return send(f, lane, r, SHAPE_INSERT, all, row, NULL, err);
}

static int send_update(follow_t *f, size_t lane, follow_relation_t *r, const sp_pgo_tuple_t *row,
                       const sp_pgo_tuple_t *where, sp_error_t *err)
{
    unsigned char *set = sp_arena_alloc(f->message, (size_t)r->n + 1, 1);
    int n = 0;
    if (!set)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a row");
    for (int i = 0; i < r->n; i++)
        n += set[i] = row->columns[i].kind != 'u' &&
                      !r->fixed[i]; // unchanged TOAST: the target's value stays
    return n == 0 ? 0 : send(f, lane, r, SHAPE_UPDATE, set, row, where, err);
}

// The row leaves one place and comes to another; both may be the same lane (a changed GENERATED ALWAYS identity).
static int move(follow_t *f, int from, int to, follow_relation_t *r, sp_pgo_tuple_t *row,
                const sp_pgo_tuple_t *where, sp_error_t *err)
{
    int rc = 0;
    bool arrives = to != FOLLOW_NOBODY && !follow_lane_skips(f, (size_t)to);
    if (arrives && follow_lacks_values(r, row)) {
        rc = follow_fill_missing(f, from, r, row, where, err);
        if (!rc && from != FOLLOW_NOBODY && from != to) {
            f->receivers[from] |= UINT64_C(1) << to;
            f->commit_now = true;
        }
    }
    if (!rc && from != FOLLOW_NOBODY)
        rc = send(f, (size_t)from, r, SHAPE_DELETE, NULL, NULL, where, err);
    if (!rc && arrives)
        rc = send_insert(f, (size_t)to, r, row, err);
    return rc;
}

// Identity columns that are unchanged and out of line come as 'u' in the new row; the old one holds their value.
static void complete_identity(const follow_relation_t *r, sp_pgo_tuple_t *row,
                              const sp_pgo_tuple_t *old)
{
    for (int i = 0; i < r->n; i++)
        if (row->columns[i].kind == 'u' && r->columns[i].key && old->columns[i].kind != 'n' &&
            old->columns[i].kind != 'u')
            row->columns[i] = old->columns[i];
}

static bool same_datum(const sp_pgo_datum_t *a, const sp_pgo_datum_t *b)
{
    return a->kind == b->kind && a->len == b->len &&
           (a->len == 0 || memcmp(a->data, b->data, (size_t)a->len) == 0);
}

static bool identity_changed(const follow_relation_t *r, const sp_pgo_tuple_t *row,
                             const sp_pgo_tuple_t *old, bool only_fixed)
{
    for (int i = 0; i < r->n; i++)
        if (r->identify[i] && (!only_fixed || r->fixed[i]) &&
            !same_datum(&row->columns[i], &old->columns[i]))
            return true;
    return false;
}

static int owner_of(const follow_t *f, const follow_relation_t *r, const sp_pgo_tuple_t *row,
                    int *ret_owner, sp_error_t *err)
{
    int64_t hash = 0;
    int rc = follow_key_hash(r, &row->columns[r->key], &hash, err);
    if (!rc)
        *ret_owner = follow_owner(f->plan.bounds, f->plan.n_targets, hash);
    return rc;
}

static int take_update(follow_t *f, follow_relation_t *r, sp_pgo_message_t *m, sp_error_t *err)
{
    sp_pgo_tuple_t *row = &m->new_row;
    const sp_pgo_tuple_t *old = m->old_kind ? &m->old_row : row;
    int from = FOLLOW_NOBODY, to = FOLLOW_NOBODY;
    if (m->old_kind)
        complete_identity(r, row, old);
    int rc = owner_of(f, r, old, &from, err);
    if (!rc)
        rc = owner_of(f, r, row, &to, err);
    if (rc)
        return rc;
    follow_action_t action = follow_update_action(from, to);
    if (action == FOLLOW_DROP)
        return 0;
    if (action != FOLLOW_UPDATE)
        return move(f, from, to, r, row, old, err);
    bool renamed = m->old_kind && identity_changed(r, row, old, false);
    if (renamed && f->plan.source_keeps && follow_lacks_values(r, row) &&
        !follow_lane_skips(f, (size_t)to)) {
        bool found = false; // when it is not there, the target's values stay; see follow_values.c
        rc = follow_fill_from_source(f, r, row, &found, err);
        if (rc)
            return rc;
    }
    if (renamed && identity_changed(r, row, old, true))
        return move(f, from, to, r, row, old, err);
    return send_update(f, (size_t)to, r, row, old, err);
}

static int take_change(follow_t *f, sp_pgo_message_t *m, sp_error_t *err)
{
    follow_relation_t *r = f->relations;
    while (r && r->oid != m->relation)
        r = r->next;
    const sp_pgo_tuple_t *whole = m->kind == SP_PGO_DELETE ? &m->old_row : &m->new_row;
    if (!r || !f->in_tx || whole->n != r->n || (m->old_kind && m->old_row.n != r->n))
        return sp_error_set(err, SP_E_MALFORMED,
                            "the stream carries a change that does not fit its relation");
    if (follow_in_copy(f->begin.final_lsn, r->table->start_lsn))
        return 0;
    if (m->kind == SP_PGO_UPDATE)
        return take_update(f, r, m, err);
    int owner = FOLLOW_NOBODY;
    int rc = owner_of(f, r, whole, &owner, err);
    if (rc || owner == FOLLOW_NOBODY)
        return rc;
    if (m->kind == SP_PGO_INSERT)
        return send_insert(f, (size_t)owner, r, &m->new_row, err);
    return send(f, (size_t)owner, r, SHAPE_DELETE, NULL, NULL, &m->old_row, err);
}

// ---- transactions

static int take_begin(follow_t *f, const sp_pgo_message_t *m, sp_error_t *err)
{
    if (f->in_tx)
        return sp_error_set(err, SP_E_MALFORMED, "the stream begins a transaction inside another");
    f->begin = *m;
    f->held = f->stop_at != 0 && m->final_lsn >= f->stop_at;
    f->in_tx = !f->held;
    return 0;
}

static bool any_big(const follow_t *f)
{
    for (size_t i = 0; i < f->plan.n_targets; i++)
        if (lane_is_open(f->lanes[i]) && lane_is_big(f->lanes[i]))
            return true;
    return false;
}

static int take_commit(follow_t *f, const sp_pgo_message_t *m, sp_error_t *err)
{
    if (!f->in_tx || m->final_lsn != f->begin.final_lsn)
        return sp_error_set(err, SP_E_MALFORMED,
                            "the stream ends a transaction that it did not begin");
    for (size_t i = 0; i < f->plan.n_targets; i++)
        if (lane_is_open(f->lanes[i]) && !follow_lane_skips(f, i))
            lane_reached(f->lanes[i], m->end_lsn, m->commit_us);
    f->in_tx = false;
    f->processed = m->end_lsn;
    if (f->marker && f->marker_seen)
        f->marker_lsn = m->end_lsn;
    bool now =
        f->commit_now || f->marker_lsn != 0 || any_big(f) || follow_open_ms(f) >= FOLLOW_GROUP_MS;
    f->commit_now = false;
    return now ? follow_commit(f, err) : 0;
}

static int take_relation(follow_t *f, const sp_pgo_message_t *m, sp_error_t *err)
{
    follow_relation_t *r = f->relations;
    while (r && r->oid != m->relation)
        r = r->next;
    if (r && follow_relation_same(r, m))
        return 0;
    r = NULL;
    int rc = follow_relation_make(&f->plan, m, f->session, &r, err);
    if (rc)
        return rc;
    r->next = f->relations; // the newest is found first
    f->relations = r;
    return 0;
}

static int take_message(follow_t *f, const sp_pgo_message_t *m)
{
    if (!m->transactional) {
        if (!f->in_tx && m->message_lsn > f->processed)
            f->processed = m->message_lsn;
    } else if (f->marker && strcmp(m->prefix, "shardplane") == 0 &&
               m->content_len == strlen(f->marker) &&
               memcmp(m->content, f->marker, m->content_len) == 0) {
        f->marker_seen = true;
    }
    return 0;
}

static int dispatch(follow_t *f, sp_pgo_message_t *m, sp_error_t *err)
{
    switch (m->kind) {
    case SP_PGO_BEGIN:
        return take_begin(f, m, err);
    case SP_PGO_COMMIT:
        return take_commit(f, m, err);
    case SP_PGO_ORIGIN:
    case SP_PGO_TYPE:
        return 0;
    case SP_PGO_RELATION:
        return take_relation(f, m, err);
    case SP_PGO_INSERT:
    case SP_PGO_UPDATE:
    case SP_PGO_DELETE:
        return take_change(f, m, err);
    case SP_PGO_TRUNCATE:
        return sp_error_set(err, SP_E_SCHEMA_CHANGED,
                            "a table of the job was truncated on the source while it was being "
                            "followed");
    case SP_PGO_MESSAGE:
        return take_message(f, m);
    }
    return sp_error_set(err, SP_E_UNSUPPORTED_VERSION,
                        "the stream carries a message that is not known");
}

static int take_data(follow_t *f, const sp_repl_message_t *data, sp_error_t *err)
{
    sp_pgo_message_t m = {0};
    sp_arena_reset(f->message);
    PQclear(f->values);
    f->values = NULL;
    int rc = sp_pgo_parse(data->data, data->len, f->message, &m, err);
    return rc ? rc : dispatch(f, &m, err);
}

int follow_take(follow_t *f, bool *ret_more, sp_error_t *err)
{
    *ret_more = false;
    for (int i = 0; i < MESSAGES_A_TURN && !f->held; i++) {
        sp_repl_message_t data = {0};
        int rc = sp_repl_receive(f->stream, 0, &data, err);
        if (rc)
            return rc;
        if (data.kind == SP_REPL_NONE)
            return 0;
        if (data.kind == SP_REPL_END)
            return sp_error_set(err, SP_E_PG_CONNECTION, "the source ended the stream");
        if (data.kind == SP_REPL_KEEPALIVE) {
            // Everything that committed before this position has been sent.
            if (!f->in_tx && data.wal_end > f->processed)
                f->processed = data.wal_end;
            rc = data.reply_requested ? follow_feedback(f, true, err) : 0;
        } else {
            rc = take_data(f, &data, err);
        }
        if (rc)
            return rc;
    }
    *ret_more = !f->held;
    return 0;
}
