// A table's definition as one hash: columns, types (labels of enums, constraints of domains), collations, defaults, generated and identity, constraints,
// indexes, policies, privileges, replica identity left out, Shardplane's own triggers and temporary indexes (shp_*) left out. Prepare records it; the seal
// compares it. Roles are in it by name, and partitions by oid: only a server's own fingerprints can be compared.
#ifndef SP_OWNER_FINGERPRINT_H
#define SP_OWNER_FINGERPRINT_H

#include "common/pg/pg.h"

// 32 hex digits from the arena. not_found when the table does not exist.
int sp_owner_fingerprint(sp_pg_t *pg, sp_str_t schema, sp_str_t table, sp_arena_t *arena,
                         const char **ret_fingerprint, sp_error_t *err);

#endif
