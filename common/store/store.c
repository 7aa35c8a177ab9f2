// Store: checks that both implementations share, then the implementation.
#include "common/store/store.h"

#include "common/store/store_impl.h"

enum { MAX_KEY = 1024, MAX_OPS = 128 }; // etcd refuses more operations in a transaction
// etcd's own limit of a request unless it is told another; far over it, it answers as if it were busy.
#define MAX_BYTES ((size_t)1536 * 1024)

static int check_key(sp_str_t key, sp_error_t *err)
{
    if (!key.ptr || key.len == 0 || key.len > MAX_KEY || key.ptr[0] == '/')
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "a key is 1 to %d bytes without a leading slash", MAX_KEY);
    return 0;
}

void sp_store_close(sp_store_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    (*self_p)->ops->close(*self_p);
    *self_p = NULL;
}

int sp_store_get(sp_store_t *self, sp_str_t key, sp_arena_t *arena, sp_kv_t *ret_kv,
                 bool *ret_found, sp_error_t *err)
{
    sp_kv_list_t list;
    int rc = check_key(key, err);
    if (rc == 0)
        rc = self->ops->range(self, key, false, arena, &list, err);
    if (rc != 0)
        return rc;
    *ret_found = list.n > 0;
    if (list.n > 0)
        *ret_kv = list.items[0];
    return 0;
}

int sp_store_list(sp_store_t *self, sp_str_t prefix, sp_arena_t *arena, sp_kv_list_t *ret_list,
                  sp_error_t *err)
{
    if (prefix.len > MAX_KEY)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "a prefix has at most %d bytes", MAX_KEY);
    return self->ops->range(self, prefix.ptr ? prefix : SP_STR(""), true, arena, ret_list, err);
}

int sp_store_txn(sp_store_t *self, const sp_cmp_t *cmps, size_t n_cmps, const sp_op_t *ops,
                 size_t n_ops, bool *ret_committed, int64_t *ret_revision, sp_error_t *err)
{
    int rc = 0;
    if (n_cmps > MAX_OPS || n_ops > MAX_OPS)
        return sp_error_set(err, SP_E_TOO_LARGE, "a transaction has at most %d compares and writes",
                            MAX_OPS);
    for (size_t i = 0; i < n_cmps && rc == 0; i++)
        rc = check_key(cmps[i].key, err);
    for (size_t i = 0; i < n_ops && rc == 0; i++)
        rc = check_key(ops[i].key, err);
    // etcd refuses a key that is written twice; the fake must as well.
    for (size_t i = 0; i < n_ops && rc == 0; i++)
        for (size_t j = 0; j < i && rc == 0; j++)
            if (sp_str_eq(ops[i].key, ops[j].key))
                rc = sp_error_set(err, SP_E_INVALID_ARGUMENT, "%.*s is written twice",
                                  SP_STR_ARG(ops[i].key));
    size_t bytes = 0;
    for (size_t i = 0; i < n_cmps; i++)
        bytes += cmps[i].key.len + cmps[i].value.len;
    for (size_t i = 0; i < n_ops; i++)
        bytes += ops[i].key.len + ops[i].value.len;
    if (rc == 0 && bytes > MAX_BYTES)
        rc = sp_error_set(err, SP_E_TOO_LARGE, "a transaction of %zu bytes; at most %zu", bytes,
                          MAX_BYTES);
    if (rc != 0)
        return rc;
    return self->ops->txn(self, cmps, n_cmps, ops, n_ops, ret_committed, ret_revision, err);
}

int sp_store_lease_grant(sp_store_t *self, int64_t ttl_s, int64_t *ret_lease, sp_error_t *err)
{
    if (ttl_s < 1 || ttl_s > 86400)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "a lease lives 1 to 86400 s");
    return self->ops->lease_grant(self, ttl_s, ret_lease, err);
}

int sp_store_lease_keepalive(sp_store_t *self, int64_t lease, bool *ret_alive, sp_error_t *err)
{
    return self->ops->lease_keepalive(self, lease, ret_alive, err);
}

int sp_store_lease_revoke(sp_store_t *self, int64_t lease, sp_error_t *err)
{
    return self->ops->lease_revoke(self, lease, err);
}

void sp_store_cancel_by(sp_store_t *self, int fd)
{
    self->ops->cancel_by(self, fd);
}
