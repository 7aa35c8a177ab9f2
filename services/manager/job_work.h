// Job: what the parts of a job's engine share: its record and how it is saved, its tasks, its steps. One thread, everything blocks.
#ifndef SP_MANAGER_JOB_WORK_H
#define SP_MANAGER_JOB_WORK_H

#include "common/job/job_fsm.h"
#include "schemas/job.h"
#include "schemas/manager.h"
#include "schemas/task.h"
#include "services/manager/env.h"
#include "services/manager/ownership.h"

// A task that this job asked for.
typedef struct job_task {
    char id[40];                   // task_id: also the end of the backends' application_name
    int64_t kind;                  // SP_TASK_KIND_*
    int64_t state;                 // SP_TASK_STATE_*, 0 before the first update
    sp_arena_t *arena;             // of last
    sp_msg_task_update_t last;     // last update, own copy
    int updates;                   // how many came
    bool stopped;                  // it was told to stop
    int64_t rate_bytes_per_s;      // what it was told last; copy and purge
    int64_t max_replica_lag_bytes; // the same
    sp_error_t err;                // why it failed
    struct job_task *next;         // list
} job_task_t;

// Where a record stands. Between two writes of the actor, commands change flags and limits, never this.
typedef struct job_place {
    int64_t state, undo_to, attempt; // of the record
    bool flipped;                    // of the record
} job_place_t;

typedef struct job {
    env_t env;                      // store, catalog, connections
    char id[33];                    // job
    sp_arena_t *arena;              // of the record
    sp_msg_catalog_job_t *rec;      // record as last read or written
    int64_t mod_revision;           // of the record
    job_place_t place;              // as etcd has it; rec may be ahead
    bool undoing;                   // waits are not ended by a cancel
    bool taken_over;                // backends of earlier leaders are gone, the epoch is raised
    bool given_back;                // undo: the source owns and accepts again
    job_task_t *tasks;              // running ones
    job_task_t *holder;             // holds the exported snapshot, or NULL
    char snapshot[130];             // what the holder exported
    job_task_t *follow;             // the follower, or NULL
    char compared_lsn[32];          // of the last point of comparison that was released
    int64_t unfollowed_ms;          // monotonic, since when followers have failed in a row, or 0
    sp_msg_job_progress_t progress; // now
    int64_t live_ms;                // monotonic, when job_live was last sent
    int64_t rate_bytes;             // bytes_copied at the last rate
    int64_t rate_ms;                // monotonic, of the last rate
    int64_t fence_attempt;          // attempt that this actor has armed and not fenced yet, or 0
    char throttled[512];            // why tasks wait on purpose: progress.throttled points here
} job_t;

// ---- record (job_record.c)
// Loads catalog and record anew; pointers into the old record die. not_found when the record is gone.
int job_reload(job_t *job, sp_error_t *err);
// Compare-and-swap of the record. Flags that commands set meanwhile are taken over; a record that stands elsewhere than where it was
// left is `conflict`. An answer that is lost is found out by reading. Waits for etcd as long as this process leads.
int job_save(job_t *job, sp_error_t *err);
// Whether this version of the record stands where the actor left it: else it may not be written over.
bool job_stands_still(const job_t *job, const sp_msg_catalog_job_t *theirs);
// Takes over what only commands set (cancel, finalize, drop rows, limits) from a newer version of the record.
void job_take_flags(job_t *job, const sp_msg_catalog_job_t *theirs);
// Takes a row of the state table, saves, tells metrics. extra: puts more into the same transaction, or NULL.
typedef int(job_extra_fn)(job_t *job, sp_catalog_txn_t *txn, sp_error_t *err);
int job_transition(job_t *job, int event, job_extra_fn *extra, sp_error_t *err);
// Commits the record as it is, strictly: no merge, no second try. `conflict`, `catalog_unavailable` (unknown) are the caller's.
int job_commit_strict(job_t *job, job_extra_fn *extra, sp_error_t *err);
int job_mode(const job_t *job);
// An object is recorded before it is made: "slot:<shard>:<name>". Saves when it is new.
int job_object(job_t *job, const char *kind, sp_str_t shard, sp_str_t name, sp_error_t *err);
bool job_has_object(const job_t *job, const char *kind, sp_str_t shard, sp_str_t name);
void job_set_error(job_t *job, const sp_error_t *err);
const sp_catalog_shard_view_t *job_shard(job_t *job, sp_str_t id,
                                         sp_error_t *err); // `conflict` when it is gone

// ---- steps (job_step.c)
typedef int(job_step_fn)(job_t *job, sp_error_t *err);
// Intent saved, failpoint job_<name>_before, act, failpoint job_<name>_after, done saved. A step that is done already is passed over.
int job_step(job_t *job, const char *name, job_step_fn *act, sp_error_t *err);
bool job_step_done(const job_t *job, const char *name);
void job_step_forget(job_t *job, const char *name);
// failpoint job_<name>_<when>
int job_failpoint(const char *name, const char *when, sp_error_t *err);

// ---- tasks (job_task.c)
// Fills task_id, job, attempt, source, all targets (without registrations), keyspace; the rest is the caller's. From the arena.
sp_msg_task_assign_t job_task_assignment(job_t *job, sp_arena_t *arena, int64_t kind);
// Sends it. NULL with err set.
job_task_t *job_task_start(job_t *job, const char *what, sp_msg_task_assign_t *assign,
                           sp_error_t *err);
int job_task_control(job_t *job, const job_task_t *task, const sp_msg_task_control_t *control,
                     sp_error_t *err);
// Asks it to stop, waits shortly, then ends its backends on all shards of the job. The task is freed.
void job_task_end(job_t *job, job_task_t **task_p);
void job_tasks_ask_stop(job_t *job); // without waiting
void job_tasks_end_all(job_t *job);
bool job_task_final(const job_task_t *task);
// Takes one message, or waits up to timeout_ms. Errors: stale_epoch (this actor must end), cancelled (a cancel came, not while undoing).
int job_pump(job_t *job, int timeout_ms, sp_error_t *err);
// From here a cancel ends statements too, until it is called with false: for those that may wait long. (`undoing` holds here as well.)
void job_heed_cancel(job_t *job, bool heed);

// Many short tasks: items 0..n-1, tried again where that can help, at most `window` at once.
typedef struct job_batch {
    size_t n;         // items
    const char *what; // "copy"
    int64_t kind;     // SP_TASK_KIND_*
    int (*assign)(job_t *job, void *arg, size_t i, sp_arena_t *arena,
                  sp_msg_task_assign_t *assign); // fills item i
    int (*done)(job_t *job, void *arg, size_t i, const sp_msg_task_update_t *update,
                sp_error_t *err); // may be NULL
    void (*progress)(job_t *job, void *arg, int64_t rows_running,
                     int64_t bytes_running); // may be NULL
    bool (*lost)(job_t *job);                // true: what all items need is gone
    bool keeps_wal;                          // the slot holds WAL meanwhile: look at its budget
    void *arg;                               // of the functions
} job_batch_t;
// 0 when all are done. `unavailable` (retryable) when lost() said so.
int job_batch_run(job_t *job, const job_batch_t *batch, sp_error_t *err);
bool job_holder_lost(job_t *job);
bool job_follow_lost(job_t *job);
// Ends backends of one task on all shards of the job, as far as they answer.
void job_terminate(job_t *job, const char *task_id);

// ---- throttle (job_throttle.c)
// A new copy or purge task's limits.
void job_throttle_assign(job_t *job, sp_msg_task_assign_t *assign);
// Divides the job's rate over the tasks that run, tells those whose share has changed, and puts into progress what they wait for.
void job_throttle_tell(job_t *job);

// ---- progress
void job_live(job_t *job, bool now);
void job_fact(job_t *job, const char *fact, const char *label, double value);

// ---- states: 0 when the state was left or there is nothing more to do in it
int job_pending(job_t *job, sp_error_t *err); // job_pending.c
int job_precopy(job_t *job, sp_error_t *err); // job_prepare.c, job_copy.c
int job_prepare(job_t *job, sp_error_t *err);
int job_copy(job_t *job, sp_error_t *err);
int job_validate_keys(job_t *job,
                      sp_error_t *err); // in deltasync: `unavailable` when the follower is lost
int job_deltasync(job_t *job, sp_error_t *err); // job_follow.c
int job_follow_ensure(job_t *job, sp_error_t *err);
int job_validating(job_t *job, sp_error_t *err); // job_validate.c
int job_ready(job_t *job, sp_error_t *err);      // job_cutover.c
int job_cutover(job_t *job, sp_error_t *err);
int job_lifting(job_t *job, sp_error_t *err);
int job_completed(job_t *job, sp_error_t *err); // job_complete.c
int job_undo(job_t *job, sp_error_t *err);      // job_undo.c
// Takes over: ends all backends of the job on a shard and raises the epoch there; then on all targets.
int job_take_shard(job_t *job, sp_str_t id, sp_error_t *err);
int job_take_targets(job_t *job, sp_error_t *err);

// ---- shared pieces
// All tables of the job: those that hold rows, then the partitioned ones.
size_t job_tables_count(const job_t *job);
const sp_msg_job_table_t *job_tables_at(const job_t *job, size_t i);
// What the guards stand on: ordinary tables, and partitioned ones without their partitions. items NULL when memory runs out.
owner_tables_t job_owner_tables(const job_t *job, sp_arena_t *arena);
// The same without those that somebody has dropped from the shard meanwhile.
int job_present_tables(job_t *job, const sp_msg_catalog_shard_t *shard, owner_tables_t *ret_tables,
                       sp_error_t *err);
void job_assign_tables(const job_t *job, sp_msg_task_assign_t *assign); // all of the job, borrowed
int job_unseal_source(job_t *job, sp_error_t *err); // guards `owns(before)`, ownership open
int job_close_target(job_t *job, const sp_msg_job_target_t *target, bool row_trigger,
                     sp_error_t *err);
// One statement about the job ($1) as a control step on a shard.
int job_on_shard(job_t *job, sp_str_t shard, const char *sql, sp_error_t *err);
int job_drop_publication(job_t *job, sp_error_t *err);
int job_drop_slot(job_t *job, sp_str_t shard, sp_str_t name, sp_error_t *err);
int job_restore_identities(job_t *job, sp_error_t *err);
// What the catalog says that the source owns.
sp_arcs_t job_source_arcs(job_t *job, sp_arena_t *arena, sp_error_t *err, int *ret_rc);
// Empties tables on a target and forgets their copy_progress, in one transaction, as the apply role.
int job_empty_tables(job_t *job, sp_str_t target, const sp_msg_job_table_t *tables, size_t n,
                     sp_error_t *err);
// A watch over the source while WAL is kept: budget, slot lost, timeline.
int job_check_slot(job_t *job, sp_error_t *err);
// The same in a loop that keeps WAL, every SLOT_CHECK_MS. A source that does not answer is no error here: whoever needs it will say so.
int job_watch_slot(job_t *job, int64_t *checked_ms, sp_error_t *err);

#endif
