// Settings: the manager's options as plain values, read once at start.
#ifndef SP_MANAGER_SETTINGS_H
#define SP_MANAGER_SETTINGS_H

#include "common/base/seal.h"
#include "common/config/config.h"
#include "common/store/service.h"

typedef struct settings {
    const sp_config_t *config;         // owns the strings
    char service_id[64];               // this manager
    sp_store_options_t store;          // where etcd is
    const sp_seal_t *seal;             // key for DSNs; immutable, so threads share it
    sp_member_t *member;               // leadership; its calls are thread-safe
    int64_t lease_ttl_s;               // of the leader key
    int64_t heartbeat_ms;              // to and from workers; three missed mean dead
    int64_t pages_per_range;           // heap pages of a copy range
    int64_t job_max_bytes_per_s;       // limit of a job that was told none, 0 none
    int64_t job_max_replica_lag_bytes; // the same for the lag of standbys
    int64_t caught_up_bytes;           // lag under which a job is caught up
    int64_t wal_budget_bytes;          // WAL that a job's slot may retain
    int64_t fence_budget_ms;           // lock, drain and seal together
    int64_t fence_lock_wait_ms;        // one lock wait
    int64_t fence_attempts;            // cutovers tried before the job fails
    int64_t retry_for_s; // a step that fails in a way that may heal is tried again so long
    int64_t sweep_s;     // between two sweeps of the reaper
} settings_t;

extern const sp_option_t manager_options[];
extern const size_t manager_options_n;

// Fills all but seal and member.
void settings_read(const sp_config_t *config, settings_t *ret_settings);

#endif
