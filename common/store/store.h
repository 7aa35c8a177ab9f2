// The catalog's store: a small key-value interface with linearizable reads, compare-and-swap transactions, leases and a watch.
// Two implementations: etcd over its JSON gateway (libcurl) and an in-memory fake; both pass tests/contract/store_test.c.
// All calls block up to their deadline: use them in actors, never in an event loop. A handle belongs to one thread at a time.
#ifndef SP_STORE_STORE_H
#define SP_STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/error.h"
#include "common/base/str.h"

typedef struct sp_store sp_store_t;

typedef struct sp_store_options {
    const char *const *endpoints; // etcd URLs, borrowed for the call
    size_t n;                     // count
    const char
        *prefix;    // e.g. "/shardplane"; keys below are relative to it, without a leading slash
    int timeout_ms; // one request; 0: 3000
} sp_store_options_t;

typedef struct sp_kv {
    sp_str_t key;            // relative to the prefix
    sp_str_t value;          // bytes
    int64_t create_revision; // etcd's
    int64_t mod_revision;    // etcd's
    int64_t lease;           // 0: none
} sp_kv_t;

typedef struct sp_kv_list {
    sp_kv_t *items;   // ascending by key, from the arena
    size_t n;         // count
    int64_t revision; // store revision of this read
} sp_kv_list_t;

typedef enum {
    SP_CMP_MOD_REVISION,
    SP_CMP_CREATE_REVISION,
    SP_CMP_VALUE,
    SP_CMP_ABSENT
} sp_cmp_kind_t;
typedef struct sp_cmp {
    sp_cmp_kind_t kind; // what must hold for key
    sp_str_t key;       // relative key
    int64_t revision;   // MOD_REVISION, CREATE_REVISION: equal to this
    sp_str_t value;     // VALUE: equal to this
} sp_cmp_t;

typedef struct sp_op {
    sp_str_t key;   // relative key
    bool remove;    // delete instead of put
    sp_str_t value; // put: bytes
    int64_t lease;  // put: lease or 0
} sp_op_t;

// Opening makes no request. Endpoints are tried in turn; an endpoint whose revision or term is lower than one already seen is left.
int sp_store_open_etcd(sp_store_t **ret_self, const sp_store_options_t *options, sp_error_t *err);
// The fake: handles opened with the same name in one process share their data.
int sp_store_open_memory(sp_store_t **ret_self, const char *name, sp_error_t *err);
void sp_store_close(sp_store_t **self_p);
// A descriptor that, once readable, ends the call that waits with SP_E_CANCELLED; borrowed; -1 for none.
void sp_store_cancel_by(sp_store_t *self, int fd);

// Linearizable reads. A missing key is 0 with *ret_found false. Errors: catalog_unavailable.
int sp_store_get(sp_store_t *self, sp_str_t key, sp_arena_t *arena, sp_kv_t *ret_kv,
                 bool *ret_found, sp_error_t *err);
// All keys that start with prefix ("" is all).
int sp_store_list(sp_store_t *self, sp_str_t prefix, sp_arena_t *arena, sp_kv_list_t *ret_list,
                  sp_error_t *err);
// One transaction: all compares hold -> all ops done. *ret_committed false (and 0) when a compare failed. An error that is
// catalog_unavailable leaves it open whether it was committed: read again. too_large: over 128 compares or ops, or 1.5 MiB in all.
int sp_store_txn(sp_store_t *self, const sp_cmp_t *cmps, size_t n_cmps, const sp_op_t *ops,
                 size_t n_ops, bool *ret_committed, int64_t *ret_revision, sp_error_t *err);

int sp_store_lease_grant(sp_store_t *self, int64_t ttl_s, int64_t *ret_lease, sp_error_t *err);
// *ret_alive false when the lease is gone (etcd answers 200 without TTL).
int sp_store_lease_keepalive(sp_store_t *self, int64_t lease, bool *ret_alive, sp_error_t *err);
int sp_store_lease_revoke(sp_store_t *self, int64_t lease, sp_error_t *err);

// Watch: a thread that lists `prefix`, then watches from that revision, and lists again on cancel, compaction, reconnect, endpoint
// change, and every relist_ms. Each change is handed over as a whole snapshot, so a consumer can never be half up to date.
typedef struct sp_watch sp_watch_t;
int sp_watch_start(sp_watch_t **ret_self, const sp_store_options_t *etcd_options,
                   const char *memory_name, const char *prefix, int relist_ms, sp_error_t *err);
void sp_watch_stop(sp_watch_t **self_p); // joins the thread
int sp_watch_fd(
    const sp_watch_t
        *self); // readable when a new snapshot waits (eventfd); poll it in the event loop
// Latest snapshot if there is one newer than the last taken, copied into the arena: true. The revision never falls.
bool sp_watch_take(sp_watch_t *self, sp_arena_t *arena, sp_kv_list_t *ret_list);
// Milliseconds since the store last answered this watch (list, event or progress); INT64_MAX before the first list.
int64_t sp_watch_age_ms(const sp_watch_t *self);

#endif
