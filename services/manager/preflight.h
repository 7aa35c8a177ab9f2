// Preflight: everything that stands against a job, listed at once, and the plan of its tables. Reads only. Blocks (job actor).
#ifndef SP_MANAGER_PREFLIGHT_H
#define SP_MANAGER_PREFLIGHT_H

#include "common/owner/owner.h"
#include "schemas/catalog.h"
#include "schemas/job.h"
#include "schemas/task.h"

typedef struct preflight_shard {
    const char *shard_id; // shard
    sp_pg_t *
        admin; // admin role's connection; NULL: could not connect (the caller adds that finding itself)
    sp_pg_t *apply; // apply role's connection; NULL likewise
} preflight_shard_t;

typedef struct preflight_input {
    const char *job_id; // objects named after it are ours; may be "" (dry run)
    const sp_msg_catalog_keyspace_t *keyspace; // tables, key type
    preflight_shard_t source;                  // source
    const preflight_shard_t *targets;          // targets
    size_t n_targets;                          // count
    int64_t sequence_stride;                   // the keyspace's
    const int64_t *target_ordinals;            // one a target
    int64_t pages_per_range;                   // size of a copy range; 0: 2048
} preflight_input_t;

typedef struct preflight_report {
    sp_msg_preflight_finding_t *findings; // from the arena
    size_t n_findings;                    // count
    bool ok;                              // no finding is an error
    sp_msg_job_table_t *
        tables; // sharded tables that hold rows and shardplane.requests, as far as they could be read
    size_t n_tables;                 // count
    sp_msg_job_table_t *partitioned; // the partitioned ones, at all depths, parents first
    size_t n_partitioned;            // count
    bool binary_stream;              // every column of every table has a portable binary form
    int64_t rows, bytes;             // estimates, all tables
    int timeline;                    // the source's
} preflight_report_t;

// 0 with the report filled; an error only when the source could not be read at all.
int preflight_run(const preflight_input_t *input, sp_arena_t *arena, preflight_report_t *ret_report,
                  sp_error_t *err);
// The part that concerns one table on one shard, for registering it: key column, key type, primary key, triggers, inheritance, ...
int preflight_table(sp_pg_t *admin, const char *shard_id, const sp_owner_table_t *table,
                    int64_t key_type, sp_arena_t *arena, preflight_report_t *ret_report,
                    sp_error_t *err);
// Key type (SP_KEY_TYPE_*) that a column has, 0 when it cannot be a key column.
int preflight_key_type(sp_pg_t *admin, const sp_owner_table_t *table, int64_t *ret_key_type,
                       sp_error_t *err);

#endif
