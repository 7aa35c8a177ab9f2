// Lookup: the hash's top bits choose a bucket, whose few tokens are searched in order. All values are kept biased by 2^63, so that
// they compare as unsigned numbers and their top bits ascend.
#include "common/ring/ring.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/ring/hash.h"

typedef struct point {
    uint64_t at;    // biased token
    uint32_t owner; // index of the shard
} point_t;

typedef struct shard {
    sp_str_t id;        // owned by ids
    sp_tokens_t tokens; // points into tokens
} shard_t;

struct sp_ring {
    uint64_t *at;    // biased tokens, ascending
    uint32_t *owner; // owner of each
    size_t n;        // tokens
    uint32_t *first; // by bucket: first token in it; one more entry than there are buckets
    int shift;       // 64 minus the number of bucket bits
    shard_t *shards; // in the caller's order
    size_t shards_n; // count
    char *ids;       // all ids, each NUL-terminated
    int64_t *tokens; // tokens shard by shard
};

enum { LINEAR = 16, MAX_BUCKET_BITS = 22 };

static uint64_t bias(int64_t v)
{
    return (uint64_t)v ^ (UINT64_C(1) << 63);
}

static int64_t unbias(uint64_t v)
{
    return (int64_t)(v ^ (UINT64_C(1) << 63));
}

static int by_place(const void *a, const void *b)
{
    uint64_t x = ((const point_t *)a)->at, y = ((const point_t *)b)->at;
    return x < y ? -1 : x > y;
}

void sp_ring_destroy(sp_ring_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    sp_ring_t *self = *self_p;
    free(self->at);
    free(self->owner);
    free(self->first);
    free(self->shards);
    free(self->ids);
    free(self->tokens);
    free(self);
    *self_p = NULL;
}

// Copies ids and tokens; checks each shard by itself.
static int take_shards(sp_ring_t *self, const sp_ring_shard_t *shards, size_t n, sp_error_t *err)
{
    size_t ids_len = 0;
    for (size_t i = 0; i < n; i++) {
        if (shards[i].id.len == 0)
            return sp_error_set(err, SP_E_INVALID_ARGUMENT, "shard %zu of the ring has no name", i);
        ids_len += shards[i].id.len + 1;
        self->n += shards[i].tokens.n;
    }
    if (self->n > UINT32_MAX / 4 || n > UINT32_MAX / 4)
        return sp_error_set(err, SP_E_TOO_LARGE, "a ring of %zu tokens", self->n);
    self->shards_n = n;
    self->shards = calloc(n + 1, sizeof *self->shards);
    self->ids = malloc(ids_len + 1);
    self->tokens = calloc(self->n + 1, sizeof *self->tokens);
    if (!self->shards || !self->ids || !self->tokens)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a ring");
    char *id = self->ids;
    int64_t *token = self->tokens;
    for (size_t i = 0; i < n; i++) {
        const sp_ring_shard_t *s = &shards[i];
        memcpy(id, s->id.ptr, s->id.len);
        id[s->id.len] = '\0';
        self->shards[i] = (shard_t){{id, s->id.len}, {token, s->tokens.n}};
        id += s->id.len + 1;
        for (size_t j = 0; j < s->tokens.n; j++) {
            if (j > 0 && s->tokens.items[j - 1] >= s->tokens.items[j])
                return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                                    "tokens of shard " SP_STR_FMT " do not ascend at place %zu",
                                    SP_STR_ARG(s->id), j);
            *token++ = s->tokens.items[j];
        }
        for (size_t j = 0; j < i; j++)
            if (sp_str_eq(shards[j].id, s->id))
                return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                                    "shard " SP_STR_FMT " stands in the ring twice",
                                    SP_STR_ARG(s->id));
    }
    return SP_OK;
}

static int place_tokens(sp_ring_t *self, sp_error_t *err)
{
    self->at = calloc(self->n + 1, sizeof *self->at);
    self->owner = malloc((self->n + 1) * sizeof *self->owner);
    point_t *points = calloc(self->n + 1, sizeof *points);
    if (!self->at || !self->owner || !points) {
        free(points);
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a ring");
    }
    size_t n = 0;
    for (size_t i = 0; i < self->shards_n; i++)
        for (size_t j = 0; j < self->shards[i].tokens.n; j++)
            points[n++] = (point_t){bias(self->shards[i].tokens.items[j]), (uint32_t)i};
    qsort(points, n, sizeof *points, by_place);
    int rc = SP_OK;
    for (size_t i = 0; i < n; i++) {
        self->at[i] = points[i].at;
        self->owner[i] = points[i].owner;
        if (i > 0 && points[i].at == points[i - 1].at && rc == SP_OK)
            rc =
                sp_error_set(err, SP_E_INVALID_ARGUMENT,
                             "token %" PRId64 " is held by both " SP_STR_FMT " and " SP_STR_FMT,
                             unbias(points[i].at), SP_STR_ARG(self->shards[points[i - 1].owner].id),
                             SP_STR_ARG(self->shards[points[i].owner].id));
    }
    free(points);
    return rc;
}

// Twice as many buckets as tokens, so that most hold none or one.
static int make_buckets(sp_ring_t *self, sp_error_t *err)
{
    int bits = 1;
    while (bits < MAX_BUCKET_BITS && ((size_t)1 << bits) < 2 * self->n)
        bits++;
    self->shift = 64 - bits;
    size_t buckets = (size_t)1 << bits;
    self->first = malloc((buckets + 1) * sizeof *self->first);
    if (!self->first)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a ring");
    size_t token = 0;
    for (size_t b = 0; b < buckets; b++) {
        while (token < self->n && self->at[token] >> self->shift < b)
            token++;
        self->first[b] = (uint32_t)token;
    }
    self->first[buckets] = (uint32_t)self->n;
    return SP_OK;
}

int sp_ring_build(sp_ring_t **ret_self, const sp_ring_shard_t *shards, size_t n, sp_error_t *err)
{
    sp_ring_t *self = calloc(1, sizeof *self);
    if (!self)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a ring");
    int rc = take_shards(self, shards, n, err);
    if (rc == SP_OK)
        rc = place_tokens(self, err);
    if (rc == SP_OK)
        rc = make_buckets(self, err);
    if (rc)
        sp_ring_destroy(&self);
    else
        *ret_self = self;
    return rc;
}

// Number of tokens at or below a biased hash.
static inline size_t tokens_upto(const sp_ring_t *self, uint64_t h)
{
    size_t bucket = (size_t)(h >> self->shift);
    size_t low = self->first[bucket], high = self->first[bucket + 1];
    while (high - low > LINEAR) { // only where tokens crowd
        size_t mid = low + (high - low) / 2;
        if (self->at[mid] <= h)
            low = mid + 1;
        else
            high = mid;
    }
    while (low < high && self->at[low] <= h)
        low++;
    return low;
}

int sp_ring_lookup(const sp_ring_t *self, int64_t hash)
{
    if (self->n == 0)
        return -1;
    size_t upto = tokens_upto(self, bias(hash));
    return (int)self->owner[upto ? upto - 1 : self->n - 1];
}

size_t sp_ring_shards_n(const sp_ring_t *self)
{
    return self->shards_n;
}

size_t sp_ring_tokens_n(const sp_ring_t *self)
{
    return self->n;
}

static bool has_shard(const sp_ring_t *self, int index)
{
    return index >= 0 && (size_t)index < self->shards_n;
}

sp_str_t sp_ring_shard_id(const sp_ring_t *self, int index)
{
    return has_shard(self, index) ? self->shards[index].id : (sp_str_t){NULL, 0};
}

int sp_ring_find(const sp_ring_t *self, sp_str_t shard_id)
{
    for (size_t i = 0; i < self->shards_n; i++)
        if (sp_str_eq(self->shards[i].id, shard_id))
            return (int)i;
    return -1;
}

sp_tokens_t sp_ring_shard_tokens(const sp_ring_t *self, int index)
{
    return has_shard(self, index) ? self->shards[index].tokens : SP_TOKENS_NONE;
}

int sp_ring_next_token(const sp_ring_t *self, int64_t token, int64_t *ret_next, sp_error_t *err)
{
    size_t upto = self->n ? tokens_upto(self, bias(token)) : 0;
    if (upto == 0 || self->at[upto - 1] != bias(token))
        return sp_error_set(err, SP_E_NOT_FOUND, "%" PRId64 " is no token", token);
    *ret_next = unbias(self->at[upto == self->n ? 0 : upto]);
    return SP_OK;
}

int sp_ring_bounds(const sp_ring_t *self, int index, sp_arena_t *arena, sp_arcs_t *ret,
                   sp_error_t *err)
{
    if (!has_shard(self, index))
        return sp_error_set(err, SP_E_NOT_FOUND, "the ring has no shard number %d", index);
    *ret = SP_ARCS_NONE;
    if (self->shards[index].tokens.n == 0)
        return SP_OK;
    uint32_t me = (uint32_t)index;
    // The keys below the first token belong to the last token's holder.
    bool inside = self->owner[self->n - 1] == me;
    size_t most = 2 * self->shards[index].tokens.n + 1;
    int64_t *out = sp_arena_alloc(arena, most, sizeof *out);
    if (!out)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for %zu bounds", most);
    size_t n = 0;
    if (inside)
        out[n++] = INT64_MIN;
    for (size_t i = 0; i < self->n; i++) {
        bool mine = self->owner[i] == me;
        if (mine == inside)
            continue;
        if (n > 0 && out[n - 1] == unbias(self->at[i]))
            n--; // a token at the very beginning leaves nothing below it
        else
            out[n++] = unbias(self->at[i]);
        inside = mine;
    }
    *ret = (sp_arcs_t){n ? out : NULL, n};
    return SP_OK;
}

// The finalizer of MurmurHash3: each bit of the result hangs on all of x.
static uint64_t mixed(uint64_t x)
{
    x = (x ^ x >> 33) * UINT64_C(0xFF51AFD7ED558CCD);
    x = (x ^ x >> 33) * UINT64_C(0xC4CEB9FE1A85EC53);
    return x ^ x >> 33;
}

uint64_t sp_ring_digest(const sp_ring_t *self)
{
    uint64_t sum = 0; // the order of shards does not matter
    for (size_t i = 0; self != NULL && i < sp_ring_shards_n(self); i++) {
        sp_str_t id = sp_ring_shard_id(self, (int)i);
        sp_tokens_t tokens = sp_ring_shard_tokens(self, (int)i);
        uint64_t owner = (uint64_t)sp_key_hash(id.ptr, id.len);
        for (size_t t = 0; t < tokens.n; t++)
            sum += mixed((uint64_t)tokens.items[t] ^ owner);
    }
    return sum;
}
