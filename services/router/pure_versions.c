#include "services/router/pure_versions.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ring_versions_free(ring_versions_t *self)
{
    free(self->seen);
    *self = (ring_versions_t){0};
}

static ring_seen_t *find(const ring_versions_t *self, sp_str_t keyspace)
{
    for (size_t i = 0; i < self->n; i++)
        if (sp_str_eqz(keyspace, self->seen[i].keyspace))
            return &self->seen[i];
    return NULL;
}

int ring_versions_check_generation(const ring_versions_t *self, sp_str_t cluster_id,
                                   int64_t generation, sp_error_t *err)
{
    if (generation <= 0)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE,
                            "the catalog has no generation: no manager has made it yet, or it was "
                            "emptied");
    if (self->generation == 0)
        return 0;
    if (!sp_str_eqz(cluster_id, self->cluster_id))
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE,
                            "the catalog is of another cluster than before");
    if (generation < self->generation)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE,
                            "the catalog's generation went back from %" PRId64 " to %" PRId64,
                            self->generation, generation);
    return 0;
}

int ring_versions_check_ring(const ring_versions_t *self, sp_str_t keyspace,
                             int64_t create_revision, int64_t version, uint64_t digest,
                             sp_error_t *err)
{
    const ring_seen_t *seen = find(self, keyspace);
    if (seen == NULL)
        return 0;
    if (seen->digest != 0 && digest == 0)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE,
                            "the ring of keyspace " SP_STR_FMT
                            " had owners, and has none in version %" PRId64
                            ": its shards are missing",
                            SP_STR_ARG(keyspace), version);
    if (seen->create_revision < create_revision)
        return 0;
    if (seen->create_revision > create_revision || version < seen->version)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE,
                            "the ring of keyspace " SP_STR_FMT " went back from version %" PRId64
                            " to %" PRId64,
                            SP_STR_ARG(keyspace), seen->version, version);
    if (version == seen->version && digest != seen->digest)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE,
                            "the ring of keyspace " SP_STR_FMT
                            " has other owners than before under "
                            "the same version %" PRId64,
                            SP_STR_ARG(keyspace), version);
    return 0;
}

int ring_versions_check_gone(const ring_versions_t *self, bool (*has)(void *arg, sp_str_t keyspace),
                             void *arg, sp_error_t *err)
{
    for (size_t i = 0; i < self->n; i++)
        if (self->seen[i].digest != 0 && !has(arg, sp_str(self->seen[i].keyspace)))
            return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE,
                                "keyspace %s is not in the catalog any more, and its keys had "
                                "owners",
                                self->seen[i].keyspace);
    return 0;
}

int ring_versions_keep(ring_versions_t *self, sp_str_t cluster_id, int64_t generation,
                       sp_error_t *err)
{
    if (cluster_id.len >= sizeof self->cluster_id)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "the catalog's cluster id is too long");
    snprintf(self->cluster_id, sizeof self->cluster_id, SP_STR_FMT, SP_STR_ARG(cluster_id));
    // A generation that rose comes from an import: revisions and versions may count anew.
    if (generation > self->generation)
        self->n = 0;
    self->generation = generation;
    return 0;
}

int ring_versions_keep_ring(ring_versions_t *self, sp_str_t keyspace, int64_t create_revision,
                            int64_t version, uint64_t digest, sp_error_t *err)
{
    ring_seen_t *seen = find(self, keyspace);
    if (seen == NULL) {
        ring_seen_t *more = realloc(self->seen, (self->n + 1) * sizeof *more);
        if (more == NULL)
            return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for ring versions");
        self->seen = more;
        seen = &self->seen[self->n++];
        snprintf(seen->keyspace, sizeof seen->keyspace, SP_STR_FMT, SP_STR_ARG(keyspace));
    }
    seen->create_revision = create_revision;
    seen->version = version;
    seen->digest = digest;
    return 0;
}
