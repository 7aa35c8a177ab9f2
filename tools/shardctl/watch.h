// A job, followed until it ends.
#ifndef SP_SHARDCTL_WATCH_H
#define SP_SHARDCTL_WATCH_H

#include "tools/shardctl/rest.h"

// On a terminal a live line with a bar; else a line a change; with --json the job at each change, one a line. EXIT_DONE when it
// completed (or was finalized, once that was asked for), EXIT_REFUSED when it failed or was cancelled.
int watch_job(const sp_rest_t *rest, const char *job_id);
// The job for people.
void watch_card(json_t *job);

#endif
