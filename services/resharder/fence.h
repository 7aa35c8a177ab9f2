// The fence: lock, marker, drain, sequences, seal, within one budget. Until the seal's COMMIT a death of anybody lifts it by itself.
#ifndef SP_RESHARDER_FENCE_H
#define SP_RESHARDER_FENCE_H

#include "services/resharder/follow.h"

typedef struct fence {
    follow_t *f;                          // borrowed
    const sp_msg_task_control_t *control; // borrowed
    sp_arena_t *arena;                    // of this try
    const char *nonce;                    // of marker and seal
    const char *marker;                   // <job>/<attempt>/<nonce>
    int64_t deadline_ms;                  // monotonic, of the seal
    int64_t started_us;                   // Unix time of the lock request
    int64_t steps_us[3];                  // Unix time: locked, drained, all checked
    sp_pg_t *a;                           // session A: admin role; lock, guards, seal
    sp_pg_t *b;                           // session B: apply role; marker, sequences
    sp_pg_t **admins; // to the targets, admin role; NULL when there are no sequences
    struct fence_sequence *sequences; // that go on
    size_t n_sequences;               // count
    const char *sequences_sql;        // reads all of them on the source
    struct fence_replica *replicas;   // of source and targets
    size_t n_replicas;                // count
    const char **tables; // quoted names of what is locked, sorted; partitions follow their table
    size_t n_tables;     // count
    const char *regclasses_sql; // ARRAY of the oids of all tables, partitions too
    const char *check_sql;      // fingerprints of all tables, then the count of their triggers
} fence_t;

// ---- fence.c
// Runs the whole verb and leaves its outcome in f->fence. 0 also when the fence was lifted; an error only when the session is broken.
int fence_run(follow_t *f, const sp_msg_task_control_t *control, sp_error_t *err);
// Writes a lifted fence into f->fence.
void fence_set_lifted(follow_t *f, int64_t attempt, const char *why);
// Opens the targets: all nonces at once. Leaves opened in f->fence.
int fence_open_targets(follow_t *f, const sp_msg_task_control_t *control, sp_error_t *err);

// deadline_exceeded when the budget is used up; cancelled when the manager said lift.
int fence_in_time(fence_t *fence, sp_error_t *err);

// Waits until a connection has answered, while the stream goes on. The results are the caller's to get.
int fence_await(fence_t *fence, PGconn *conn, sp_error_t *err);
// Applies what the stream has now.
int fence_catch_up(fence_t *fence, sp_error_t *err);

// ---- fence_lock.c
int fence_lock_prepare(fence_t *fence, sp_error_t *err);
// LOCK; the stream goes on meanwhile. Blockers are named in err.
int fence_lock_take(fence_t *fence, sp_error_t *err);

// ---- fence_seal.c
// Compares the tables with the job's fingerprints a first time, and prepares to do it quickly.
int fence_seal_prepare(fence_t *fence, sp_error_t *err);
// Opens session A's transaction and writes everything that the seal makes true: guards, ownership. Nobody sees it before COMMIT, and COMMIT
// comes under the lock, so this need not wait for it.
int fence_seal_write(fence_t *fence, sp_error_t *err);
// Under the lock, which also keeps the tables' definitions: compares them again. The answer is awaited by finish.
int fence_seal_check_start(fence_t *fence, sp_error_t *err);
int fence_seal_check_finish(fence_t *fence, sp_error_t *err);
// COMMIT. *ret_unknown: nobody knows whether it happened.
int fence_seal(fence_t *fence, bool *ret_unknown, sp_error_t *err);

// ---- fence_sequence.c
// Lists the sequences that the targets have, too, and gives those their increments.
int fence_sequence_prepare(fence_t *fence, sp_error_t *err);
// Under the lock: reads them on the source (session B) and tells each target its next value; the answers are awaited by finish.
int fence_sequence_start(fence_t *fence, sp_error_t *err);
int fence_sequence_finish(fence_t *fence, sp_error_t *err);

// ---- fence_replica.c
// Connects to the replicas; one that does not answer counts as one that has not flushed.
void fence_replica_prepare(fence_t *fence);
// Waits a little, and names in the fence's result those that have flushed what their primary has now.
void fence_replica_compare(fence_t *fence);
void fence_replica_close(fence_t *fence);

#endif
