// Failpoints: SHARDPLANE_FAILPOINTS="after_fence:kill;before_flip:sleep=500;copy_range:error*2;x:stop" makes named places fail.
// Actions: kill (SIGKILL to oneself), stop (SIGSTOP to oneself), error (returns SP_E_FAILPOINT), sleep=<ms>, hold=<path> (for as long
// as that file is there; absolute, without ; or ,). `*n`: only the first n times (default: always). `@k`: from the k-th passage on.
// Neither for hold. Costs one load when the variable is not set.
#ifndef SP_BASE_FAILPOINT_H
#define SP_BASE_FAILPOINT_H

#include "common/base/error.h"

// 0, or SP_E_FAILPOINT with err filled. Each use stands in docs/failpoints.md.
int sp_failpoint(const char *name, sp_error_t *err);
// Checks the variable once at start: 0 or SP_E_CONFIG.
int sp_failpoint_setup(sp_error_t *err);

#endif
