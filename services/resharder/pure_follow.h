// Decisions of the follower without input or output: what a lane has already, where a change goes, what a sequence starts with.
#ifndef SP_RESHARDER_PURE_FOLLOW_H
#define SP_RESHARDER_PURE_FOLLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"
#include "common/pg/lsn.h"
#include "common/ring/arcs.h"

// Whether a lane whose origin stands at `progress` has the transaction whose commit record begins at final_lsn. The origin holds the
// *end* of the last applied commit record, which is where the next record may begin: equal means not applied yet. This is the test
// that PostgreSQL's walsender makes with a start position (SnapBuildXactNeedsSkip), so the two always agree.
bool follow_has_applied(sp_lsn_t final_lsn, sp_lsn_t progress);
// Whether a table's copy, taken at start_lsn (a slot's consistent point), holds the transaction already. The snapshot of a slot holds
// exactly the transactions whose commit record begins below its consistent point.
bool follow_in_copy(sp_lsn_t final_lsn, sp_lsn_t start_lsn);

enum { FOLLOW_NOBODY = -1 }; // no target owns it: the source keeps the row
// Index of the target that owns the hash, or FOLLOW_NOBODY.
int follow_owner(const sp_arcs_t *bounds, size_t n, int64_t hash);

typedef enum {
    FOLLOW_DROP,
    FOLLOW_INSERT,
    FOLLOW_UPDATE,
    FOLLOW_DELETE,
    FOLLOW_MOVE
} follow_action_t;
// What an UPDATE means for the targets: MOVE deletes at `from` and inserts at `to`; INSERT comes from the part that the source keeps,
// DELETE goes to it; DROP never leaves it.
follow_action_t follow_update_action(int from, int to);

// A sequence as the source has it.
typedef struct follow_sequence {
    int64_t last;      // last value given out; ignored when never called
    bool called;       // whether a value was given out
    int64_t start;     // START
    int64_t increment; // INCREMENT, not 0
    int64_t min, max;  // bounds
} follow_sequence_t;
// The shard with `ordinal` gives out only values of its own residue: start + base * k, where k mod stride = ordinal mod stride and base
// is the increment (or the increment / stride, when the source had been given its own residue before). ret_next lies beyond `last` and
// some headroom (values that clients have fetched and not used yet), or is the residue's first value of an unused sequence.
// SP_E_INVALID_ARGUMENT when the sequence has no room left.
int follow_sequence_next(const follow_sequence_t *sequence, int64_t stride, int64_t ordinal,
                         int64_t headroom, int64_t *ret_increment, int64_t *ret_next,
                         sp_error_t *err);

#endif
