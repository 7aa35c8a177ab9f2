// Identity: who answers at a DSN. An endpoint that is not PostgreSQL 15, is a replica, or is a database that is registered already is
// refused before anything is written. Blocks.
#ifndef SP_MANAGER_IDENTITY_H
#define SP_MANAGER_IDENTITY_H

#include "schemas/shard.h"
#include "services/manager/env.h"

typedef struct identity {
    char system_identifier[32]; // of the cluster
    char database[64];          // current_database()
    char user[64];              // session_user
    bool in_recovery;           // a replica
    bool replication;           // the role may use replication, or is a superuser
    int version;                // server_version_num
} identity_t;

// `what` names the endpoint in errors ("admin_endpoint"). The DSN's text is never in an error.
int identity_probe(env_t *env, const char *what, sp_str_t dsn_text, sp_arena_t *arena,
                   sp_dsn_t *ret_dsn, identity_t *ret_identity, sp_error_t *err);

// A registration that was checked: the record with sealed DSNs (status, tokens, ordinal and job are the caller's), from the arena.
// apply is absent when no apply_endpoint was told: identity_provision makes it.
// Errors: invalid_argument, pg_connection, already_exists (names the other shard).
int identity_check(env_t *env, const sp_msg_shard_create_t *request, sp_arena_t *arena,
                   sp_msg_catalog_shard_t *ret_record, sp_error_t *err);
// Whether two records name one database, whatever their DSNs say.
bool identity_same_database(const sp_msg_catalog_shard_t *a, const sp_msg_catalog_shard_t *b);
// Makes sure the record has an apply role: uses another shard's of the same cluster, or makes role shardplane_apply. Those that a job
// registers together are not in the catalog with their role yet: they are looked for in `targets`, which may be NULL.
int identity_provision(env_t *env, sp_msg_catalog_shard_t *record,
                       const sp_msg_job_target_t *targets, size_t n_targets, sp_arena_t *arena,
                       sp_error_t *err);

#endif
