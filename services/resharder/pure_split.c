#include "services/resharder/pure_split.h"

#include <stdlib.h>
#include <string.h>

const unsigned char split_binary_header[19] = {'P', 'G', 'C', 'O', 'P', 'Y', '\n', 0xff, '\r', '\n',
                                               0,   0,   0,   0,   0,   0,   0,    0,    0};
const unsigned char split_binary_trailer[2] = {0xff, 0xff};

enum { SIGNATURE = 11, HEADER = 19, COUNT = 2, LENGTH = 4, KEY = 12 };
enum {
    AT_HEADER,    // 19 bytes: signature, flags, length of the extension
    AT_EXTENSION, // `left` bytes to skip
    AT_COUNT,     // int16 fields
    AT_KEY,       // int32 8, int64 hash
    AT_LENGTH,    // int32 length of a field
    AT_FIELD,     // `left` bytes of it
    AT_TRAILER,   // nothing may come
    AT_TEXT_KEY,  // digits up to a tab
    AT_TEXT_REST, // up to a line feed
};

// ---- who gets a hash

typedef struct piece {
    int64_t at; // first hash
    int owner;  // target, or -1 where one ends
} piece_t;

// An end before a start at the same hash, so that neighbours touch without overlapping.
static int compare_pieces(const void *a, const void *b)
{
    const piece_t *x = a, *y = b;
    if (x->at != y->at)
        return x->at < y->at ? -1 : 1;
    return (x->owner >= 0) - (y->owner >= 0);
}

int split_route_make(split_route_t *ret_route, const sp_arcs_t *arcs, size_t n, sp_arena_t *arena,
                     sp_error_t *err)
{
    size_t total = 1, used = 0;
    for (size_t i = 0; i < n; i++) {
        int rc = sp_arcs_validate(arcs[i], err);
        if (rc != 0)
            return rc;
        total += arcs[i].n;
        for (size_t j = i + 1; j < n; j++)
            if (sp_arcs_validate(arcs[j], NULL) == 0 && sp_arcs_overlap(arcs[i], arcs[j]))
                return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                                    "the arcs of targets %zu and %zu overlap", i + 1, j + 1);
    }
    piece_t *pieces = sp_arena_alloc(arena, total, sizeof *pieces);
    int64_t *starts = sp_arena_alloc(arena, total, sizeof *starts);
    int *owners = sp_arena_alloc(arena, total, sizeof *owners);
    if (pieces == NULL || starts == NULL || owners == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for %zu arcs", total);
    pieces[used++] = (piece_t){INT64_MIN, -1};
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < arcs[i].n; j++)
            pieces[used++] = (piece_t){arcs[i].bounds[j], j % 2 == 0 ? (int)i : -1};
    qsort(pieces, used, sizeof *pieces, compare_pieces);
    size_t kept = 0;
    for (size_t i = 0; i < used; i++) { // of pieces at the same hash the last one counts
        if (kept > 0 && starts[kept - 1] == pieces[i].at)
            kept--;
        starts[kept] = pieces[i].at;
        owners[kept++] = pieces[i].owner;
    }
    *ret_route = (split_route_t){starts, owners, kept};
    return 0;
}

int split_route_find(const split_route_t *self, int64_t hash)
{
    size_t low = 0, high = self->n; // starts[low] <= hash < starts[high]
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (self->starts[middle] <= hash)
            low = middle;
        else
            high = middle;
    }
    return self->owners[low];
}

// ---- the stream

void split_start(split_t *self, bool binary, const split_route_t *route, int64_t *rows,
                 split_put_fn *put, void *arg)
{
    *self = (split_t){.route = route,
                      .put = put,
                      .arg = arg,
                      .rows = rows,
                      .state = binary ? AT_HEADER : AT_TEXT_KEY};
}

static uint64_t get_number(const unsigned char *at, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value = value << 8 | at[i];
    return value;
}

static int malformed(sp_error_t *err, const char *what)
{
    return sp_error_set(err, SP_E_MALFORMED, "COPY stream: %s", what);
}

// Bytes [*at, *at + need) as one piece, gathered over cuts: NULL when there are not enough yet.
static const unsigned char *gather(split_t *self, const unsigned char **at,
                                   const unsigned char *end, size_t need)
{
    if (self->part_len == 0 && (size_t)(end - *at) >= need) {
        *at += need;
        return *at - need;
    }
    size_t take = need - self->part_len;
    if (take > (size_t)(end - *at))
        take = (size_t)(end - *at);
    memcpy(self->part + self->part_len, *at, take);
    self->part_len += take;
    *at += take;
    if (self->part_len < need)
        return NULL;
    self->part_len = 0;
    return self->part;
}

static int found(split_t *self, int64_t hash)
{
    self->target = split_route_find(self->route, hash);
    if (self->target < 0)
        self->skipped++;
    else
        self->rows[self->target]++;
    return self->target;
}

static int read_header(split_t *self, const unsigned char *p, sp_error_t *err)
{
    if (memcmp(p, split_binary_header, SIGNATURE) != 0)
        return malformed(err, "no binary signature");
    if (get_number(p + SIGNATURE, 4) != 0)
        return malformed(err, "flags that we do not know");
    self->left = get_number(p + 15, 4);
    self->state = AT_EXTENSION;
    return 0;
}

static int read_key(split_t *self, const unsigned char *p, sp_error_t *err)
{
    if (get_number(p, 4) == 0xffffffff)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "a row's key is NULL");
    if (get_number(p, 4) != 8)
        return malformed(err, "the first column is not a bigint");
    if (found(self, (int64_t)get_number(p + 4, 8)) >= 0) {
        unsigned char count[COUNT] = {(unsigned char)(self->fields >> 8),
                                      (unsigned char)self->fields};
        int rc = self->put(self->arg, (size_t)self->target, count, sizeof count, err);
        if (rc != 0)
            return rc;
    }
    self->state = self->fields > 0 ? AT_LENGTH : AT_COUNT;
    return 0;
}

// Fields from `at` on, as far as the row and the input go; passes them on in one piece. A length that a cut divides is kept in part,
// but its bytes are passed on as they come.
static int pass_fields(split_t *self, const unsigned char **at, const unsigned char *end,
                       sp_error_t *err)
{
    const unsigned char *from = *at, *p = from;
    while (self->fields > 0 && p < end) {
        if (self->state == AT_LENGTH) {
            const unsigned char *length = gather(self, &p, end, LENGTH);
            if (length == NULL)
                break;
            uint64_t value = get_number(length, LENGTH);
            if (value != 0xffffffff && value > INT32_MAX)
                return malformed(err, "a field's length is negative");
            self->left = value == 0xffffffff ? 0 : value;
            self->state = AT_FIELD;
        }
        uint64_t here = (uint64_t)(end - p) < self->left ? (uint64_t)(end - p) : self->left;
        p += here;
        self->left -= here;
        if (self->left == 0) {
            self->state = AT_LENGTH;
            self->fields--;
        }
    }
    if (self->fields == 0)
        self->state = AT_COUNT;
    *at = p;
    return self->target >= 0 && p > from
               ? self->put(self->arg, (size_t)self->target, from, (size_t)(p - from), err)
               : 0;
}

static int feed_binary(split_t *self, const unsigned char **at, const unsigned char *end,
                       sp_error_t *err)
{
    const unsigned char *p;
    switch (self->state) {
    case AT_HEADER:
        return (p = gather(self, at, end, HEADER)) != NULL ? read_header(self, p, err) : 0;
    case AT_EXTENSION: {
        uint64_t here = (uint64_t)(end - *at) < self->left ? (uint64_t)(end - *at) : self->left;
        *at += here;
        self->left -= here;
        if (self->left == 0)
            self->state = AT_COUNT;
        return 0;
    }
    case AT_COUNT:
        if ((p = gather(self, at, end, COUNT)) == NULL)
            return 0;
        self->fields = (int16_t)get_number(p, COUNT);
        self->state = self->fields == -1 ? AT_TRAILER : AT_KEY;
        if (self->fields < -1 || self->fields == 0)
            return malformed(err, "a row without its key's hash");
        if (self->fields > 0)
            self->fields--;
        return 0;
    case AT_KEY:
        return (p = gather(self, at, end, KEY)) != NULL ? read_key(self, p, err) : 0;
    case AT_LENGTH:
    case AT_FIELD:
        return pass_fields(self, at, end, err);
    default:
        return malformed(err, "bytes after the trailer");
    }
}

static int feed_text(split_t *self, const unsigned char **at, const unsigned char *end,
                     sp_error_t *err)
{
    if (self->state == AT_TEXT_KEY) {
        const unsigned char *tab = memchr(*at, '\t', (size_t)(end - *at));
        size_t here = (size_t)((tab != NULL ? tab : end) - *at);
        if (self->part_len + here > 20)
            return malformed(err, "the first column is not a bigint");
        memcpy(self->part + self->part_len, *at, here);
        self->part_len += here;
        *at += here;
        if (tab == NULL)
            return 0;
        (*at)++;
        int64_t hash;
        sp_str_t text = {(const char *)self->part, self->part_len};
        self->part_len = 0;
        if (sp_str_eqz(text, "\\N"))
            return sp_error_set(err, SP_E_INVALID_ARGUMENT, "a row's key is NULL");
        if (sp_str_to_int64(text, &hash) != 0)
            return malformed(err, "the first column is not a bigint");
        found(self, hash);
        self->state = AT_TEXT_REST;
        return 0;
    }
    const unsigned char *from = *at, *newline = memchr(from, '\n', (size_t)(end - from));
    *at = newline != NULL ? newline + 1 : end;
    if (newline != NULL)
        self->state = AT_TEXT_KEY;
    return self->target >= 0
               ? self->put(self->arg, (size_t)self->target, from, (size_t)(*at - from), err)
               : 0;
}

int split_feed(split_t *self, const void *data, size_t len, sp_error_t *err)
{
    if (data == NULL)
        return 0;
    const unsigned char *at = data, *end = at + len;
    while (at < end) {
        int rc = self->state >= AT_TEXT_KEY ? feed_text(self, &at, end, err)
                                            : feed_binary(self, &at, end, err);
        if (rc != 0)
            return rc;
    }
    return 0;
}

int split_end(const split_t *self, sp_error_t *err)
{
    bool whole = self->state == AT_TRAILER || (self->state == AT_TEXT_KEY && self->part_len == 0);
    return whole ? 0 : malformed(err, "cut short");
}
