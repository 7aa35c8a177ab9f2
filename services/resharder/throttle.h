// Throttle: how fast a task that moves rows may go: bytes a second, and how far physical standbys of the shards that it writes to may fall
// behind. The manager says both at the start and changes them while the task runs. A task that waits tells why, and goes on telling; a
// stop ends its wait at once.
#ifndef SP_RESHARDER_THROTTLE_H
#define SP_RESHARDER_THROTTLE_H

#include "services/resharder/pure_pace.h"
#include "services/resharder/task.h"

typedef struct throttle {
    task_t *task;               // owner
    const task_shard_t *shards; // whose standbys must keep up
    size_t n_shards;            // count
    pace_t pace;                // bytes a second
    int64_t max_lag_bytes;      // of a standby; 0 none
    int64_t lag_bytes;          // of the worst standby when last looked at
    int64_t paid_bytes;         // told to the pace
    int64_t looked_ms;          // monotonic time of the last look at the standbys; 0: look now
    int64_t heard_ms;           // monotonic time of the last look for a message
    sp_arena_t *arena;          // of messages
    char worst[160];            // the worst standby, for people
    char reason[256];           // why it waits, or "" while it does not
} throttle_t;

// Tells the manager that the task runs, and waits for standbys that are behind: call it before anything is locked. shards: borrowed for the
// throttle's life. `cancelled` after a stop. throttle_close in any case.
int throttle_open(throttle_t *self, task_t *task, const task_shard_t *shards, size_t n_shards,
                  sp_error_t *err);
void throttle_close(throttle_t *self);
// rows, bytes: of the task so far. Tells them, takes what the manager says, and waits as long as it must. `cancelled` after a stop.
int throttle_turn(throttle_t *self, int64_t rows, int64_t bytes, sp_error_t *err);
// The end: waits until all bytes are paid for, or a stop. Standbys do not count any more: what is done is done.
void throttle_settle(throttle_t *self, int64_t rows, int64_t bytes);

#endif
