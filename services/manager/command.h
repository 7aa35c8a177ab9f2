// Commands: everything that changes the catalog at somebody's wish, one after another in one actor that may block.
#ifndef SP_MANAGER_COMMAND_H
#define SP_MANAGER_COMMAND_H

#include "schemas/job.h"
#include "services/manager/env.h"

// The command that is being worked on.
typedef struct command {
    env_t *env;                      // store, catalog (loaded anew for each command), connections
    sp_arena_t *arena;               // replies and scratch; freed after the answer
    sp_str_t request_id;             // for logs
    sp_str_t client_id;              // of the requester
    int64_t revision;                // of the last write, for reads that follow
    sp_value_t details;              // of an error, where a program can use them
    const void *reply;               // body of the answer
    const sp_schema_t *reply_schema; // its schema
} command_t;

// Works on one command with a freshly loaded catalog; fills reply and reply_schema. Errors are the reply of a refused one.
typedef int(command_fn)(command_t *c, const void *body, sp_error_t *err);
typedef struct command_row {
    const sp_schema_t *schema; // of the body
    command_fn *run;           // its function
} command_row_t;
extern const command_row_t command_rows[]; // ends with {NULL, NULL}

// The actor's body; arg is an env_seed_t.
void command_actor(sp_actor_end_t *end, void *arg);

// Commits and remembers the revision, then loads the catalog again so that the reply shows what is there.
int command_commit(command_t *c, sp_catalog_txn_t **txn_p, sp_error_t *err);
int command_reply_ack(command_t *c);
int command_no_memory(sp_error_t *err);
// The reply of every command about a job: the job, or not_found.
int command_reply_job(command_t *c, sp_str_t id, sp_error_t *err);
// A job's limits, as far as they are given: 0, or large enough to mean something.
int command_check_limits(const sp_msg_job_throttle_t *m, sp_error_t *err);

command_fn command_keyspace_create, command_keyspace_delete, command_table_create,
    command_table_delete, command_shard_create, command_shard_delete, command_split,
    command_job_cancel, command_job_retry, command_job_finalize, command_job_throttle;

// For keyspace `default`, which needs no create: a new record and ring. Others: not_found.
int command_need_keyspace(command_t *c, sp_str_t name, sp_error_t *err);
const char *key_keyspace(sp_arena_t *arena, sp_str_t name);
const char *key_ring(sp_arena_t *arena, sp_str_t name);
const char *key_shard(sp_arena_t *arena, sp_str_t id);
// The shard's record with its next version, if it is still as it was read (mod_revision; 0: absent).
void put_shard(sp_catalog_txn_t *txn, sp_arena_t *arena, sp_msg_catalog_shard_t *record,
               int64_t mod_revision);
const char *key_job(sp_arena_t *arena, sp_str_t id);
// Puts ring/<keyspace> with version + 1, compared with what was read.
void command_raise_ring(const env_t *env, sp_arena_t *arena, sp_catalog_txn_t *txn,
                        const sp_catalog_keyspace_view_t *view);

#endif
