// What lives inside a shard's database: schema `shardplane`, control and ownership rows, guards. SQL stands in common/owner/sql/*.sql.
// All functions work on a connection of the admin (DDL) role unless they say otherwise; they block (actors only) and are idempotent.
#ifndef SP_OWNER_OWNER_H
#define SP_OWNER_OWNER_H

#include "common/pg/pg.h"
#include "common/ring/arcs.h"

typedef struct sp_epoch {
    int64_t generation; // catalog generation
    int64_t epoch;      // create_revision of the leader's key
} sp_epoch_t;

typedef struct sp_owner_shard {
    const char *shard_id; // shard
    const char *keyspace; // its keyspace
    const char
        *cluster_id; // catalog_generation.cluster_id: a database of another cluster is refused
    const char *apply_role; // exempt from guards
    const char *app_role;   // what routers connect as; NULL where only guards are meant
} sp_owner_shard_t;

typedef struct sp_owner_table {
    sp_str_t schema;     // exact
    sp_str_t table;      // exact
    sp_str_t key_column; // exact
} sp_owner_table_t;

// shardplane.requests: callers add it to the tables that they guard, publish and copy.
extern const sp_owner_table_t sp_owner_requests_table;

// Creates or upgrades schema shardplane (tables, assert_owner, grants for the apply role, the routers' and PUBLIC where needed) in one transaction.
// A shardplane.requests that it makes is closed. already_exists when control names another shard or cluster.
int sp_owner_install(sp_pg_t *pg, const sp_owner_shard_t *shard, sp_epoch_t epoch, sp_error_t *err);
// Drops guards, then the schema. For unregistering.
int sp_owner_uninstall(sp_pg_t *pg, sp_error_t *err);

// Raises control to (generation, epoch): stale_epoch when it is higher already.
int sp_owner_raise_epoch(sp_pg_t *pg, sp_epoch_t epoch, sp_error_t *err);
// Inside the caller's transaction: locks the control row FOR SHARE until commit and checks the epoch: stale_epoch when it differs. Outside
// one it only checks. Also as the apply role.
int sp_owner_hold_epoch(sp_pg_t *pg, sp_epoch_t epoch, sp_error_t *err);
// Terminates all backends whose application_name starts with `shardplane/<job>/`, waits until they are gone (bounded), not oneself.
int sp_owner_terminate(sp_pg_t *pg, const char *job_id, sp_error_t *err);

typedef enum { SP_GUARD_CLOSED, SP_GUARD_OWNS, SP_GUARD_ARMED } sp_guard_form_t;
typedef struct sp_guard {
    sp_guard_form_t form;  // see docs/architecture.md, Guards
    const sp_arcs_t *arcs; // OWNS: what is owned; ARMED: owned already plus coming
    const char *nonce;     // ARMED
    int64_t ring_version;  // told in refusals
    const char *
        reason; // of refusals outside the arcs: "not_owner" (also NULL) or "in_transition" (a seal)
    bool job_running; // TRUNCATE is refused
    bool
        row_trigger; // CLOSED: whether the row trigger is (kept) there; false: dropped, for a target under COPY
} sp_guard_t;

// The guard of a shard that is in no job: OWNS, or CLOSED where it owns nothing. Borrows arcs.
sp_guard_t sp_guard_settled(const sp_arcs_t *arcs, int64_t ring_version);
// Inside the caller's transaction: replaces the functions' bodies of one table; makes triggers that are missing (ENABLE ALWAYS). Taking
// trigger DDL needs SHARE ROW EXCLUSIVE on the table; replacing bodies alone takes no table lock (the caller holds it for a seal).
int sp_guard_set(sp_pg_t *pg, const sp_owner_shard_t *shard, const sp_owner_table_t *table,
                 const sp_guard_t *guard, sp_error_t *err);
// Drops one table's guards (unregistered table).
int sp_guard_drop(sp_pg_t *pg, const sp_owner_table_t *table, sp_error_t *err);
// Hash of the definitions and enabled state that `guard` should have / that the database has ("" when triggers are missing or not ALWAYS, on
// the table or on one below it; not_found when there is no such table).
int sp_guard_expected(const sp_owner_shard_t *shard, const sp_owner_table_t *table,
                      const sp_guard_t *guard, sp_arena_t *arena, const char **ret_digest,
                      sp_error_t *err);
int sp_guard_actual(sp_pg_t *pg, const sp_owner_table_t *table, sp_arena_t *arena,
                    const char **ret_digest, sp_error_t *err);

// The ownership row, which assert_owner and a new leader read.
typedef enum { SP_OWNERSHIP_OPEN, SP_OWNERSHIP_SEALED, SP_OWNERSHIP_ARMED } sp_ownership_state_t;
typedef struct sp_ownership {
    int64_t ring_version; // of the shard's last ownership change
    sp_arcs_t
        arcs; // OPEN: owned now; SEALED: what is left; ARMED: owned once `opened` holds the nonce
    sp_ownership_state_t state; // state
    const char *job_id;         // or ""
    int64_t attempt;            // or 0
    const char *nonce;          // or ""
} sp_ownership_t;
int sp_ownership_write(sp_pg_t *pg, const char *keyspace, const sp_ownership_t *ownership,
                       sp_error_t *err); // in the caller's transaction
int sp_ownership_read(sp_pg_t *pg, const char *keyspace, sp_arena_t *arena,
                      sp_ownership_t *ret_ownership, bool *ret_found, sp_error_t *err);
// Opens an armed target: one INSERT. Also as the apply role.
int sp_owner_open(sp_pg_t *pg, const char *nonce, const char *job_id, int64_t ring_version,
                  sp_error_t *err);
int sp_owner_is_open(sp_pg_t *pg, const char *nonce, bool *ret_open, sp_error_t *err);

// The DETAIL of an SHP01 refusal.
typedef struct sp_refusal {
    bool in_transition;   // else not_owner
    int64_t hash;         // of the row's key; has_hash false for a statement guard
    bool has_hash;        // hash is there
    bool null_key;        // the row's key was NULL: it belongs nowhere
    int64_t ring_version; // the shard's
} sp_refusal_t;
bool sp_refusal_parse(const char *detail, sp_refusal_t *ret_refusal);

#endif
