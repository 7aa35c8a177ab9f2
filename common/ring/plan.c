// Split: the source's arcs are laid end to end in ring order, starting at its first token; that line is cut by weight.
#include "common/ring/plan.h"

#include <stdlib.h>
#include <string.h>

typedef unsigned __int128 wide_t; // the whole space is 2^64 wide

// Part of the source's arcs: hashes from + 0 .. from + width - 1, modulo 2^64.
typedef struct piece {
    uint64_t from; // first hash, as an unsigned number; also a token
    wide_t width;  // hashes
    size_t parts;  // tokens it is divided into
} piece_t;

typedef struct work {
    const sp_ring_t *ring; // as it is now
    sp_arena_t *arena;     // for results
    piece_t *line;         // the source's arcs in ring order
    size_t line_n;         // count
    wide_t total;          // their width
} work_t;

static int no_memory(sp_error_t *err)
{
    return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a plan");
}

static int check_targets(sp_str_t source, const sp_plan_target_t *targets, size_t n,
                         sp_error_t *err)
{
    if (n == 0)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "a split needs at least one target");
    for (size_t i = 0; i < n; i++) {
        sp_str_t id = targets[i].id;
        if (id.len == 0)
            return sp_error_set(err, SP_E_INVALID_ARGUMENT, "target %zu has no name", i + 1);
        if (sp_str_eq(id, source))
            return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                                "shard " SP_STR_FMT " is both source and target", SP_STR_ARG(id));
        if (targets[i].vnode_count < 1 || targets[i].vnode_count > 65536)
            return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                                "target " SP_STR_FMT ": vnode_count must be 1 to 65536",
                                SP_STR_ARG(id));
        for (size_t j = 0; j < i; j++)
            if (sp_str_eq(targets[j].id, id))
                return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                                    "target " SP_STR_FMT " is named twice", SP_STR_ARG(id));
    }
    return SP_OK;
}

static int lay_out(work_t *w, int source, sp_error_t *err)
{
    sp_tokens_t tokens = sp_ring_shard_tokens(w->ring, source);
    w->line = sp_arena_alloc(w->arena, tokens.n, sizeof *w->line);
    if (!w->line)
        return no_memory(err);
    for (size_t i = 0; i < tokens.n; i++) {
        int64_t next;
        int rc = sp_ring_next_token(w->ring, tokens.items[i], &next, err);
        if (rc)
            return rc;
        uint64_t width = (uint64_t)next - (uint64_t)tokens.items[i];
        // Width 0 modulo 2^64: the only token of the ring owns everything.
        w->line[i] = (piece_t){(uint64_t)tokens.items[i], width ? width : (wide_t)1 << 64, 1};
        w->total += w->line[i].width;
    }
    w->line_n = tokens.n;
    return SP_OK;
}

// The pieces of the line between two offsets.
static piece_t *cut_run(const work_t *w, wide_t from, wide_t to, size_t *ret_n)
{
    piece_t *run = sp_arena_alloc(w->arena, w->line_n, sizeof *run);
    if (!run)
        return NULL;
    size_t n = 0;
    wide_t at = 0;
    for (size_t i = 0; i < w->line_n && at < to; i++) {
        piece_t p = w->line[i];
        wide_t end = at + p.width;
        if (end > from) {
            wide_t begin = at > from ? at : from;
            wide_t stop = end < to ? end : to;
            run[n++] = (piece_t){p.from + (uint64_t)(begin - at), stop - begin, 1};
        }
        at = end;
    }
    *ret_n = n;
    return run;
}

// Heap order: the piece whose parts are widest stands first. width / parts compared without dividing: 2^64 * 2^17 fits.
static bool wider(const piece_t *a, const piece_t *b)
{
    return a->width * b->parts > b->width * a->parts;
}

static void sift_down(piece_t *heap, size_t n, size_t i)
{
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n)
            return;
        if (child + 1 < n && wider(&heap[child + 1], &heap[child]))
            child++;
        if (!wider(&heap[child], &heap[i]))
            return;
        piece_t swap = heap[i];
        heap[i] = heap[child];
        heap[child] = swap;
        i = child;
    }
}

// Gives the widest parts one part more until `want` tokens are there, or every part is a single hash.
static size_t divide(piece_t *run, size_t n, size_t want)
{
    for (size_t i = n / 2; i-- > 0;)
        sift_down(run, n, i);
    size_t tokens = n;
    while (tokens < want && run[0].width > run[0].parts) {
        run[0].parts++;
        tokens++;
        sift_down(run, n, 0);
    }
    return tokens;
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

// Tokens at the beginnings of all parts, ascending.
static int run_tokens(const work_t *w, const piece_t *run, size_t n, size_t tokens_n,
                      sp_tokens_t *ret, sp_error_t *err)
{
    int64_t *items = sp_arena_alloc(w->arena, tokens_n, sizeof *items);
    if (!items)
        return no_memory(err);
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < run[i].parts; j++)
            items[k++] = (int64_t)(run[i].from + (uint64_t)(run[i].width * j / run[i].parts));
    qsort(items, k, sizeof *items, by_value);
    *ret = (sp_tokens_t){items, k};
    return SP_OK;
}

static int join_tokens(const work_t *w, sp_tokens_t a, sp_tokens_t b, sp_tokens_t *ret,
                       sp_error_t *err)
{
    int64_t *items = sp_arena_alloc(w->arena, a.n + b.n, sizeof *items);
    if (!items)
        return no_memory(err);
    if (a.n)
        memcpy(items, a.items, a.n * sizeof *items);
    if (b.n)
        memcpy(items + a.n, b.items, b.n * sizeof *items);
    qsort(items, a.n + b.n, sizeof *items, by_value);
    *ret = (sp_tokens_t){items, a.n + b.n};
    return SP_OK;
}

static int run_arcs(const work_t *w, const piece_t *run, size_t n, sp_arcs_t *ret, sp_error_t *err)
{
    sp_range_t *ranges = sp_arena_alloc(w->arena, n, sizeof *ranges);
    if (!ranges)
        return no_memory(err);
    for (size_t i = 0; i < n; i++) {
        if (run[i].width == (wide_t)1 << 64) {
            *ret = sp_arcs_all();
            return SP_OK;
        }
        ranges[i] =
            (sp_range_t){(int64_t)run[i].from, (int64_t)(run[i].from + (uint64_t)run[i].width)};
    }
    return sp_arcs_from_ranges(ranges, n, w->arena, ret, err);
}

static int plan_target(const work_t *w, const sp_plan_target_t *target, wide_t from, wide_t to,
                       sp_plan_move_t *move, sp_error_t *err)
{
    size_t n = 0;
    piece_t *run = cut_run(w, from, to, &n);
    if (!run)
        return no_memory(err);
    move->id = sp_arena_str(w->arena, target->id);
    if (!move->id.ptr)
        return no_memory(err);
    int rc = run_arcs(w, run, n, &move->moves, err);
    if (rc)
        return rc;
    move->share = sp_arcs_share(move->moves);
    int index = sp_ring_find(w->ring, target->id);
    sp_tokens_t held = sp_ring_shard_tokens(w->ring, index);
    size_t want = target->vnode_count > held.n ? target->vnode_count - held.n : 0;
    size_t tokens = divide(run, n, want);
    rc = run_tokens(w, run, n, tokens, &move->tokens_new, err);
    if (rc == SP_OK)
        rc = join_tokens(w, held, move->tokens_new, &move->tokens_after, err);
    sp_arcs_t owned = SP_ARCS_NONE;
    if (rc == SP_OK && index >= 0)
        rc = sp_ring_bounds(w->ring, index, w->arena, &owned, err);
    if (rc == SP_OK)
        rc = sp_arcs_union(owned, move->moves, w->arena, &move->bounds_after, err);
    return rc;
}

int sp_plan_split(const sp_ring_t *ring, sp_str_t source, const sp_plan_target_t *targets, size_t n,
                  sp_arena_t *arena, sp_plan_t *ret_plan, sp_error_t *err)
{
    int index = sp_ring_find(ring, source);
    if (index < 0)
        return sp_error_set(err, SP_E_NOT_FOUND, "the ring has no shard " SP_STR_FMT,
                            SP_STR_ARG(source));
    int rc = check_targets(source, targets, n, err);
    if (rc)
        return rc;
    work_t w = {.ring = ring, .arena = arena};
    rc = lay_out(&w, index, err);
    if (rc)
        return rc;
    if (w.total < n)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "shard " SP_STR_FMT " owns %s to divide",
                            SP_STR_ARG(source), w.total ? "too little" : "nothing");
    wide_t weights = 0;
    for (size_t i = 0; i < n; i++)
        weights += targets[i].vnode_count;
    sp_plan_t plan = {.source_tokens_after = SP_TOKENS_NONE,
                      .source_after = SP_ARCS_NONE,
                      .moves_n = n};
    plan.moves = sp_arena_alloc(arena, n, sizeof *plan.moves);
    if (!plan.moves)
        return no_memory(err);
    rc = sp_ring_bounds(ring, index, arena, &plan.source_before, err);
    wide_t from = 0, weight = 0;
    for (size_t i = 0; i < n && rc == SP_OK; i++) {
        weight += targets[i].vnode_count;
        wide_t to = w.total * weight / weights; // 2^64 * 2^16 * targets fits
        if (to == from)
            rc = sp_error_set(err, SP_E_INVALID_ARGUMENT, "target " SP_STR_FMT " would get nothing",
                              SP_STR_ARG(targets[i].id));
        else
            rc = plan_target(&w, &targets[i], from, to, &plan.moves[i], err);
        from = to;
    }
    if (rc == SP_OK)
        *ret_plan = plan;
    return rc;
}
