// Which catalogs a router may believe: refused are another cluster's, an earlier generation's, and one whose ring has gone back, has changed
// under its version, has lost all its owners, or has vanished.
#ifndef SP_ROUTER_PURE_VERSIONS_H
#define SP_ROUTER_PURE_VERSIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"
#include "common/base/str.h"

typedef struct ring_seen {
    char keyspace[64];       // name
    int64_t create_revision; // of its ring record: a keyspace made anew counts from the start
    int64_t version;         // highest seen
    uint64_t digest;         // sp_ring_digest; 0: no key had an owner yet
} ring_seen_t;

typedef struct ring_versions {
    char cluster_id[128]; // "" before the first
    int64_t generation;   // highest seen
    ring_seen_t *seen;    // owned
    size_t n;             // count
} ring_versions_t;

void ring_versions_free(ring_versions_t *self);
// Each new catalog: first its generation record, then every ring, and those that are not there; all of them before any is kept.
// catalog_unavailable tells why not.
int ring_versions_check_generation(const ring_versions_t *self, sp_str_t cluster_id,
                                   int64_t generation, sp_error_t *err);
int ring_versions_check_ring(const ring_versions_t *self, sp_str_t keyspace,
                             int64_t create_revision, int64_t version, uint64_t digest,
                             sp_error_t *err);
// has: whether the catalog has the keyspace. One whose keys have owners is never deleted.
int ring_versions_check_gone(const ring_versions_t *self, bool (*has)(void *arg, sp_str_t keyspace),
                             void *arg, sp_error_t *err);
// Remembers what was accepted. out_of_memory.
int ring_versions_keep(ring_versions_t *self, sp_str_t cluster_id, int64_t generation,
                       sp_error_t *err);
int ring_versions_keep_ring(ring_versions_t *self, sp_str_t keyspace, int64_t create_revision,
                            int64_t version, uint64_t digest, sp_error_t *err);

#endif
