// Catalog transactions: compares and writes collected, then sent as one; the first fault is told by commit.
#include <stdlib.h>
#include <string.h>

#include "common/store/catalog.h"

enum { MAX_OPS = 128 }; // as the store allows

struct sp_catalog_txn {
    sp_arena_t *arena;      // keys and values
    int64_t leader;         // create_revision of the leader's key; 0: none
    sp_cmp_t cmps[MAX_OPS]; // compares
    size_t n_cmps;          // count
    sp_op_t ops[MAX_OPS];   // writes
    size_t n_ops;           // count
    sp_error_t fault;       // first one
};

sp_catalog_txn_t *sp_catalog_txn_new(int64_t leader_create_revision)
{
    sp_catalog_txn_t *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    self->arena = sp_arena_new(0);
    self->leader = leader_create_revision;
    if (!self->arena) {
        free(self);
        return NULL;
    }
    if (leader_create_revision != 0)
        self->cmps[self->n_cmps++] = (sp_cmp_t){.kind = SP_CMP_CREATE_REVISION,
                                                .key = SP_STR("leader"),
                                                .revision = leader_create_revision};
    return self;
}

void sp_catalog_txn_destroy(sp_catalog_txn_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    sp_arena_destroy(&(*self_p)->arena);
    free(*self_p);
    *self_p = NULL;
}

// Copies the key; absent (and the fault noted) when it cannot go in.
static sp_str_t take_key(sp_catalog_txn_t *self, const char *key, size_t used)
{
    sp_str_t none = {0};
    if (self->fault.code != 0)
        return none;
    sp_str_t copy = sp_arena_str(self->arena, sp_str(key));
    if (used >= MAX_OPS)
        sp_error_set(&self->fault, SP_E_TOO_LARGE,
                     "a transaction has at most %d compares and writes", MAX_OPS);
    else if (!copy.ptr)
        sp_error_set(&self->fault, SP_E_OUT_OF_MEMORY, "catalog transaction");
    return self->fault.code != 0 ? none : copy;
}

void sp_catalog_txn_expect(sp_catalog_txn_t *self, const char *key, int64_t mod_revision)
{
    sp_str_t copy = take_key(self, key, self->n_cmps);
    if (copy.ptr)
        self->cmps[self->n_cmps++] =
            (sp_cmp_t){.kind = SP_CMP_MOD_REVISION, .key = copy, .revision = mod_revision};
}

void sp_catalog_txn_put(sp_catalog_txn_t *self, const char *key, const sp_schema_t *schema,
                        const void *record, int64_t lease)
{
    sp_str_t copy = take_key(self, key, self->n_ops);
    if (!copy.ptr)
        return;
    sp_buf_t text = SP_BUF_INIT;
    sp_str_t value = {0};
    if (sp_wire_encode_json(schema, record, true, &text, &self->fault) == 0)
        value = sp_arena_str(self->arena, (sp_str_t){text.data, text.len});
    sp_buf_free(&text);
    if (self->fault.code != 0)
        sp_error_prefix(&self->fault, "catalog key %s", key);
    else if (!value.ptr)
        sp_error_set(&self->fault, SP_E_OUT_OF_MEMORY, "catalog transaction");
    else
        self->ops[self->n_ops++] = (sp_op_t){.key = copy, .value = value, .lease = lease};
}

void sp_catalog_txn_delete(sp_catalog_txn_t *self, const char *key)
{
    sp_str_t copy = take_key(self, key, self->n_ops);
    if (copy.ptr)
        self->ops[self->n_ops++] = (sp_op_t){.key = copy, .remove = true};
}

// Which compare failed? The leader's is worth telling apart: there is no use in trying again.
static int refused(const sp_catalog_txn_t *self, sp_store_t *store, sp_error_t *err)
{
    sp_kv_t kv = {0};
    bool found = false;
    if (self->leader != 0 &&
        sp_store_get(store, SP_STR("leader"), self->arena, &kv, &found, NULL) == 0 &&
        (!found || kv.create_revision != self->leader))
        return sp_error_set(err, SP_E_STALE_EPOCH,
                            "epoch %lld is over; the catalog has another leader",
                            (long long)self->leader);
    return sp_error_set(err, SP_E_CONFLICT, "the catalog has changed since it was read");
}

int sp_catalog_txn_commit(sp_catalog_txn_t *self, sp_store_t *store, int64_t *ret_revision,
                          sp_error_t *err)
{
    if (self->fault.code != 0) {
        if (err)
            *err = self->fault;
        return self->fault.code;
    }
    bool committed = false;
    int rc = sp_store_txn(store, self->cmps, self->n_cmps, self->ops, self->n_ops, &committed,
                          ret_revision, err);
    if (rc != 0)
        return rc;
    return committed ? 0 : refused(self, store, err);
}
