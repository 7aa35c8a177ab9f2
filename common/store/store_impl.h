// What an implementation of the store provides. Internal to common/store.
#ifndef SP_STORE_STORE_IMPL_H
#define SP_STORE_STORE_IMPL_H

#include "common/store/store.h"

// What a watch has to tell.
typedef enum {
    SP_NEWS_NONE,    // nothing until the timeout
    SP_NEWS_CHANGED, // something under the prefix changed
    SP_NEWS_LOST,    // the stream ended or cannot be trusted: list, and begin again
    SP_NEWS_STOPPED, // the cancel descriptor became readable
} sp_news_t;

// Keys here are relative. Calls as in store.h, plus:
typedef struct sp_store_ops {
    void (*close)(sp_store_t *self); // frees it
    // One key, or with `prefix` all that start with it.
    int (*range)(sp_store_t *self, sp_str_t key, bool prefix, sp_arena_t *arena,
                 sp_kv_list_t *ret_list, sp_error_t *err);
    // Of the keys that start with prefix, those changed after `since`; *ret_count is how many there are in all.
    int (*changes)(sp_store_t *self, sp_str_t prefix, int64_t since, sp_arena_t *arena,
                   sp_kv_list_t *ret_list, size_t *ret_count, sp_error_t *err);
    int (*txn)(sp_store_t *self, const sp_cmp_t *cmps, size_t n_cmps, const sp_op_t *ops,
               size_t n_ops, bool *ret_committed, int64_t *ret_revision, sp_error_t *err);
    int (*lease_grant)(sp_store_t *self, int64_t ttl_s, int64_t *ret_lease, sp_error_t *err);
    int (*lease_keepalive)(sp_store_t *self, int64_t lease, bool *ret_alive, sp_error_t *err);
    int (*lease_revoke)(sp_store_t *self, int64_t lease, sp_error_t *err);
    // Store revision by a linearizable read that transfers nothing else.
    int (*revision)(sp_store_t *self, int64_t *ret_revision, sp_error_t *err);
    // At most one watch a handle: changes under prefix from `revision` on.
    int (*watch_begin)(sp_store_t *self, sp_str_t prefix, int64_t revision, sp_error_t *err);
    sp_news_t (*watch_wait)(sp_store_t *self, int timeout_ms);
    void (*watch_end)(sp_store_t *self);
    // A descriptor that, once readable, ends whatever call waits; -1 for none. Borrowed.
    void (*cancel_by)(sp_store_t *self, int fd);
} sp_store_ops_t;

struct sp_store {
    const sp_store_ops_t *ops; // implementation; the rest of it follows
};

#endif
