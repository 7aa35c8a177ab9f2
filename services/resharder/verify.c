// Task `verify`: source and targets at one position, compared by count and order-independent hash, down to the keys that differ.
#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/failpoint.h"
#include "services/resharder/verify_sql.h"

enum {
    REPORT_MAX = 20,
    LIST_ROWS = 50000,
    FIRST_SHIFT = 56,
    NARROWER = 8,
    GROUPS_MAX = 8,
    TEXT_MAX = 1000
};

// One shard's answer; each is asked in a thread of its own, so that all work at the same time.
typedef struct side {
    task_t *task;              // owner
    const task_shard_t *shard; // which
    sp_str_t snapshot;         // its snapshot
    sp_pg_t *pg;               // apply role, under the snapshot
    const char *sql;           // what to ask next
    PGresult *result;          // its answer
    int rc;                    // of the asking
    sp_error_t err;            // its text
    pthread_t thread;          // that asks
} side_t;

typedef struct verify {
    task_t *task;        // owner
    split_route_t route; // who gets what
    verify_sql_t sql;    // queries
    side_t *sides;       // source, then targets
    size_t n;            // 1 + targets
    int64_t rows;        // source rows compared
    sp_str_t *found;     // mismatches
    size_t n_found;      // count
} verify_t;

typedef struct group {
    int piece;       // of the route
    int64_t bucket;  // key hash >> shift
    int64_t count;   // rows
    const char *sum; // of row hashes
} group_t;

static int no_memory(sp_error_t *err)
{
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a verify task");
}

// ---- asking

static void *ask(void *arg)
{
    side_t *self = arg;
    self->rc = sp_pg_query(self->pg, self->sql, 0, NULL, &self->result, &self->err);
    return NULL;
}

// Asks sides [0, n) whose sql is not NULL.
static int ask_all(verify_t *self, sp_error_t *err)
{
    int rc = 0;
    bool *started = sp_arena_alloc(self->task->arena, self->n, sizeof *started);
    if (started == NULL)
        return no_memory(err);
    for (size_t i = 0; i < self->n; i++) {
        side_t *s = &self->sides[i];
        PQclear(s->result);
        s->result = NULL;
        s->rc = 0;
        if (s->sql == NULL)
            continue;
        started[i] = pthread_create(&s->thread, NULL, ask, s) == 0;
        if (!started[i])
            ask(s); // no thread left: one after the other
    }
    for (size_t i = 0; i < self->n; i++) {
        side_t *s = &self->sides[i];
        if (started[i])
            pthread_join(s->thread, NULL);
        if (s->rc == 0 || rc != 0)
            continue;
        rc = s->rc;
        if (err != NULL)
            *err = s->err;
        sp_error_prefix(err, "shard %s", s->shard->shard_id);
    }
    return rc;
}

static int open_side(side_t *self, sp_error_t *err)
{
    sp_pg_options_t options = {.query_timeout_ms = -1};
    const char *snapshot = sp_pg_literal(self->task->arena, self->snapshot);
    int rc = snapshot == NULL
                 ? no_memory(err)
                 : task_connect(self->task, &self->shard->apply, &options, &self->pg, err);
    // No parallel workers: the application's queries come first; the manager spreads tables over workers.
    if (rc == 0)
        rc = sp_pg_execf(self->pg, err,
                         "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION "
                         "SNAPSHOT %s; SET LOCAL row_security = off; "
                         "SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL jit = off",
                         snapshot);
    return rc == 0 ? 0 : sp_error_prefix(err, "shard %s", self->shard->shard_id);
}

// ---- comparing

static int64_t number(const PGresult *r, int row, int column)
{
    return strtoll(PQgetvalue(r, row, column), NULL, 10);
}

static bool take_group(const PGresult *r, int row, group_t *ret_group)
{
    if (r == NULL || row >= PQntuples(r))
        return false;
    *ret_group = (group_t){(int)number(r, row, 0), number(r, row, 1), number(r, row, 2),
                           PQgetvalue(r, row, 3)};
    return true;
}

static void report(verify_t *self, const char *text)
{
    if (self->n_found < REPORT_MAX)
        self->found[self->n_found++] = sp_arena_str(self->task->arena, sp_str(text));
}

static void report_row(verify_t *self, const char *name, const char *what, size_t target)
{
    char text[TEXT_MAX];
    snprintf(text, sizeof text, "%s (%.600s): %s %s", self->sql.name, name, what,
             self->sides[target + 1].shard->shard_id);
    report(self, text);
}

// Rows of a small range, by name. Rows of one name and hash pair off; what is left differs. A list that is full goes on: behind its end
// nothing can be said.
static void compare_rows(verify_t *self, size_t target)
{
    const PGresult *a = self->sides[0].result, *b = self->sides[target + 1].result;
    int i = 0, j = 0, n = PQntuples(a), m = PQntuples(b);
    while ((i < n || j < m) && self->n_found < REPORT_MAX) {
        if ((i >= n && n > LIST_ROWS) || (j >= m && m > LIST_ROWS))
            return;
        int order = i >= n ? 1 : j >= m ? -1 : strcmp(PQgetvalue(a, i, 0), PQgetvalue(b, j, 0));
        if (order < 0) {
            report_row(self, PQgetvalue(a, i++, 0), "missing on", target);
        } else if (order > 0) {
            bool again = j > 0 && strcmp(PQgetvalue(b, j - 1, 0), PQgetvalue(b, j, 0)) == 0;
            report_row(self, PQgetvalue(b, j++, 0),
                       again ? "more than once on" : "not on the source, but on", target);
        } else {
            if (strcmp(PQgetvalue(a, i, 1), PQgetvalue(b, j, 1)) != 0)
                report_row(self, PQgetvalue(a, i, 0), "differs on", target);
            i++;
            j++;
        }
    }
}

static int compare_range(verify_t *self, size_t target, int64_t from, int64_t to, int shift,
                         int64_t rows, sp_error_t *err);

// Hashes of one group: its bucket within its piece and the range that was asked for.
static void group_range(const verify_t *self, const group_t *g, int shift, int64_t *from,
                        int64_t *to)
{
    assert(self->route.starts != NULL); // made by prepare()
    uint64_t width = shift >= 64 ? UINT64_MAX : (UINT64_C(1) << shift) - 1;
    int64_t low = (int64_t)((uint64_t)g->bucket << shift), high = (int64_t)((uint64_t)low + width);
    int64_t piece_low = self->route.starts[g->piece];
    int64_t piece_high =
        (size_t)g->piece + 1 < self->route.n ? self->route.starts[g->piece + 1] - 1 : INT64_MAX;
    low = low > piece_low ? low : piece_low;
    high = high < piece_high ? high : piece_high;
    *from = low > *from ? low : *from;
    *to = high < *to ? high : *to;
}

typedef struct suspect {
    int64_t from, to; // hashes
    int64_t rows;     // the greater of both sides
} suspect_t;

// Walks both sides' groups in order. The source's groups of other targets are passed over.
static size_t find_suspects(verify_t *self, size_t target, int64_t from, int64_t to, int shift,
                            suspect_t *out, size_t max)
{
    assert(self->sides != NULL && self->route.owners != NULL); // made by prepare()
    const PGresult *a = self->sides[0].result, *b = self->sides[target + 1].result;
    size_t n = 0;
    group_t g = {0}, h = {0};
    int i = 0, j = 0;
    bool left = false, right = take_group(b, j, &h);
    for (;;) {
        while ((left = take_group(a, i, &g)) && self->route.owners[g.piece] != (int)target)
            i++;
        if (!left && !right)
            return n;
        int order = !left                  ? 1
                    : !right               ? -1
                    : g.piece != h.piece   ? (g.piece < h.piece ? -1 : 1)
                    : g.bucket != h.bucket ? (g.bucket < h.bucket ? -1 : 1)
                                           : 0;
        bool same = order == 0 && g.count == h.count && strcmp(g.sum, h.sum) == 0;
        if (!same && n < max) {
            const group_t *which = order <= 0 ? &g : &h;
            suspect_t s = {from, to, order == 0 && h.count > g.count ? h.count : which->count};
            group_range(self, which, shift, &s.from, &s.to);
            out[n++] = s;
        }
        if (order <= 0)
            i++;
        if (order >= 0)
            right = take_group(b, ++j, &h);
    }
}

static void report_range(verify_t *self, size_t target, int64_t from, int64_t to)
{
    char text[TEXT_MAX];
    snprintf(text, sizeof text, "%s: rows with key hashes %" PRId64 " to %" PRId64 " differ on %s",
             self->sql.name, from, to, self->sides[target + 1].shard->shard_id);
    report(self, text);
}

static int list_rows(verify_t *self, size_t target, int64_t from, int64_t to, sp_error_t *err)
{
    size_t before = self->n_found;
    const char *sql = verify_rows(self->task->arena, &self->sql, from, to, LIST_ROWS + 1);
    // In a piece of others, whatever the target has is too much.
    bool own = split_route_find(&self->route, from) == (int)target;
    for (size_t i = 0; i < self->n; i++)
        self->sides[i].sql = (i == 0 && own) || i == target + 1 ? sql : NULL;
    int rc = sql == NULL ? no_memory(err) : ask_all(self, err);
    if (rc != 0)
        return rc;
    // Hashes of this target's piece only: a range never reaches over its border.
    compare_rows(self, target);
    if (self->n_found == before)
        report_range(self, target, from, to);
    return 0;
}

static int narrow(verify_t *self, size_t target, const suspect_t *suspects, size_t n, int shift,
                  sp_error_t *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n && self->n_found < REPORT_MAX; i++)
        rc = compare_range(self, target, suspects[i].from, suspects[i].to, shift, suspects[i].rows,
                           err);
    return rc;
}

// Into a range that differs: a listing when it is small, or one hash, else narrower groups.
static int compare_range(verify_t *self, size_t target, int64_t from, int64_t to, int shift,
                         int64_t rows, sp_error_t *err)
{
    suspect_t suspects[GROUPS_MAX];
    if (rows <= LIST_ROWS || shift < NARROWER)
        return list_rows(self, target, from, to, err);
    shift -= NARROWER;
    for (size_t i = 0; i < self->n; i++) {
        bool asked = i == 0 || i == target + 1;
        const char *sql =
            asked ? verify_groups(self->task->arena, &self->sql, from, to, shift, i == 0) : NULL;
        if (asked && sql == NULL)
            return no_memory(err);
        self->sides[i].sql = sql;
    }
    int rc = ask_all(self, err);
    if (rc != 0)
        return rc;
    size_t n = find_suspects(self, target, from, to, shift, suspects, GROUPS_MAX);
    if (n == 0) // under the same snapshots the parts cannot agree where the whole does not
        report_range(self, target, from, to);
    return narrow(self, target, suspects, n, shift, err);
}

// ---- the whole

static int compare(verify_t *self, sp_error_t *err)
{
    const sp_msg_task_assign_t *a = self->task->assign;
    int64_t from = a->has_hash_from ? a->hash_from : INT64_MIN,
            to = a->has_hash_to ? a->hash_to : INT64_MAX;
    assert(self->sides != NULL); // made by prepare()
    size_t n_targets = self->task->n_targets;
    size_t *n = sp_arena_alloc(self->task->arena, n_targets, sizeof *n);
    suspect_t *suspects =
        sp_arena_alloc(self->task->arena, n_targets * GROUPS_MAX, sizeof *suspects);
    if (n == NULL || suspects == NULL)
        return no_memory(err);
    for (size_t i = 0; i < self->n; i++)
        if ((self->sides[i].sql = verify_groups(self->task->arena, &self->sql, from, to,
                                                FIRST_SHIFT, i == 0)) == NULL)
            return no_memory(err);
    int rc = ask_all(self, err);
    if (rc != 0)
        return rc;
    group_t g;
    for (int i = 0; take_group(self->sides[0].result, i, &g); i++)
        self->rows += g.count;
    for (size_t t = 0; t < n_targets; t++)
        n[t] = find_suspects(self, t, from, to, FIRST_SHIFT, suspects + t * GROUPS_MAX, GROUPS_MAX);
    for (size_t t = 0; rc == 0 && t < n_targets; t++)
        rc = narrow(self, t, suspects + t * GROUPS_MAX, n[t], FIRST_SHIFT, err);
    return rc;
}

static int prepare(verify_t *self, sp_error_t *err)
{
    task_t *task = self->task;
    const sp_msg_task_assign_t *a = task->assign;
    if (a->tables.n != 1 || task->n_targets == 0 || a->snapshot.len == 0 ||
        a->target_snapshots.n != task->n_targets)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "a verify task needs one table, targets, and a snapshot of each shard");
    self->n = task->n_targets + 1;
    self->sides = sp_arena_alloc(task->arena, self->n, sizeof *self->sides);
    self->found = sp_arena_alloc(task->arena, REPORT_MAX, sizeof *self->found);
    sp_arcs_t *arcs = sp_arena_alloc(task->arena, task->n_targets, sizeof *arcs);
    if (self->sides == NULL || self->found == NULL || arcs == NULL)
        return no_memory(err);
    self->sides[0] = (side_t){.task = task, .shard = &task->source, .snapshot = a->snapshot};
    for (size_t i = 0; i < task->n_targets; i++) {
        arcs[i] = (sp_arcs_t){a->targets.items[i].bounds.items, a->targets.items[i].bounds.n};
        self->sides[i + 1] = (side_t){.task = task,
                                      .shard = &task->targets[i],
                                      .snapshot = a->target_snapshots.items[i]};
    }
    int rc = split_route_make(&self->route, arcs, task->n_targets, task->arena, err);
    for (size_t i = 0; rc == 0 && i < self->n; i++)
        rc = open_side(&self->sides[i], err);
    if (rc == 0)
        rc = verify_sql_make(task, self->sides[0].pg, &self->route, &self->sql, err);
    return rc;
}

int task_verify(task_t *task, sp_msg_task_update_t *result, sp_error_t *err)
{
    verify_t self = {.task = task};
    int rc = sp_failpoint("verify_start", err);
    if (rc == 0)
        rc = prepare(&self, err);
    if (rc == 0)
        rc = compare(&self, err);
    for (size_t i = 0; self.sides != NULL && i < self.n; i++) {
        PQclear(self.sides[i].result);
        sp_pg_close(&self.sides[i].pg);
    }
    result->rows = self.rows;
    result->has_rows = true;
    result->mismatches.items = self.found;
    result->mismatches.n = self.n_found;
    return rc;
}
