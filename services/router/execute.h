// One execute request from its receipt to its answer: tried on the key's owner, parked while the key moves, tried again.
#ifndef SP_ROUTER_EXECUTE_H
#define SP_ROUTER_EXECUTE_H

#include "services/router/pools.h"
#include "services/router/router.h"
#include "services/router/values.h"

enum { EXECUTE_HASH = 33 };

typedef enum {
    STEP_RUN,
    STEP_COMMIT,
    STEP_LOOKUP
} step_t; // the last two only with an idempotency key

struct execution {
    execution_t *next, **link;       // in the router's list
    router_t *router;                // owner
    sp_request_t *request;           // answered at the end
    const sp_msg_execute_t *message; // its body
    sp_str_t keyspace;               // name
    sp_str_t key;                    // canonical
    int64_t hash;                    // of key
    int64_t deadline_ms;             // monotonic
    sp_pipe_statement_t *statements; // the client's
    size_t n;                        // count
    bool eventual;                   // asked for a replica
    bool idempotent;                 // has an idempotency key
    bool surely_reads;               // sent as a read-only transaction: losing it changes nothing
    bool primary_only;               // eventual, and a replica could not answer
    results_t results;               // of this attempt
    // this attempt
    step_t step;               // what is on the connection
    sp_pipe_statement_t *sent; // statements of the group, ours among them; room for n + 4
    const char **ours;         // parameters of ours; room for 6
    char timeout[16];          // one of them
    size_t first;              // place of the client's first one in it
    slot_t *slot;              // connection; held over several groups with an idempotency key
    sp_str_t shard_id;         // where; in the request's arena
    int64_t ring_version;      // of the ring that chose it
    bool on_replica;           // endpoint
    // between attempts
    pool_waiter_t waiter;         // place in the queue for a connection
    bool parked;                  // waits
    bool waits_for_ring;          // a newer ring ends it
    int64_t wake_ms;              // monotonic
    int64_t parked_since_ms;      // monotonic
    int64_t parked_ms;            // in all
    int attempts;                 // started
    int backoff;                  // times parked for the same cause
    int conflicts;                // serialization failures
    sp_error_t last;              // why it was parked
    bool unknown;                 // a COMMIT was lost; the idempotency key has not decided yet
    char body_hash[EXECUTE_HASH]; // with an idempotency key
};

void execute_handle(router_t *self, sp_request_t *request);
// Parked ones whose time has come, or whose deadline has passed. Each tick.
void execute_tick(router_t *self);
// A newer catalog: those that wait for a ring look again.
void execute_wake(router_t *self);
// A connection has room for the one that waited longest (pools_options_t).
void execute_served(pool_waiter_t *waiter);
// The service is about to stop: those that wait are told so, and so is everyone that would begin to wait from now on; but who must know
// what became of a commit goes on. New requests are refused.
void execute_drain(router_t *self);
// The service stops: closes all connections; every request is answered, with unavailable or outcome_unknown.
void execute_stop(router_t *self);

// For idempotency.c
// Fills a statement that sets statement_timeout a little before the deadline, so that the answer is the server's and sure; how many: 0 where
// the session's own will do. *value is its parameter.
size_t execute_timeout(execution_t *e, sp_pipe_statement_t *statement, const char **value);
int execute_submit(execution_t *e, const sp_pipe_statement_t *statements, size_t n, bool read_only,
                   sp_pipe_result_fn *on_result, sp_pipe_done_fn *done, sp_error_t *err);
void execute_judge(execution_t *e, const sp_error_t *err, size_t statement); // an attempt failed
void execute_succeed(execution_t *e);                     // it is committed: answers with results
void execute_fail(execution_t *e, const sp_error_t *err); // answers
void execute_park(execution_t *e, const sp_error_t *why, bool waits_for_ring, int64_t wait_ms);
void execute_finish(execution_t *e); // bookkeeping and memory; the request is answered

#endif
