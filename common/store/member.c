// Membership: a thread that keeps one lease alive, and under it the service's key and, for a leader, the leader's key.
#include "common/store/member.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "common/store/keeper.h"
#include "common/wire/wire.h"

// A standby looks this often whether the leader's key is gone.
enum { STANDBY_MS = 500, BACKOFF_MS = 100, BACKOFF_CAP_MS = 1000 };

struct sp_member {
    sp_keeper_t keeper;       // thread and its store; news: leadership changed
    char *key;                // services/<kind>/<id>
    char *record;             // the service as JSON
    char *id;                 // service id
    char *endpoint;           // for the leader's record
    int64_t ttl_ms;           // of the lease
    bool campaign;            // wants to lead
    _Atomic int64_t lease;    // 0: none
    _Atomic int64_t epoch;    // of our leadership, 0 none; counts only until valid_ms
    _Atomic int64_t valid_ms; // monotonic: leadership ends here unless it is renewed
    int64_t leading;          // the thread's: epoch that it believes to lead under, 0 none
    int64_t renewed_ms;       // the thread's: when the last successful renewal was sent
    int64_t given_up;         // the thread's: lease that etcd has not heard the end of yet, 0 none
    bool registered;          // the thread's: our key was there last time
    bool down;                // the thread's: the store did not answer last time
    sp_arena_t *arena;        // the thread's scratch
};

// ---- leadership

static void begin_leading(sp_member_t *self, int64_t epoch)
{
    atomic_store(&self->valid_ms, self->renewed_ms + self->ttl_ms * 2 / 3);
    self->leading = epoch;
    atomic_store(&self->epoch, epoch);
    sp_log(SP_LOG_INFO, "LEADER-ELECTED", "epoch", sp_log_fmt("%lld", (long long)epoch), NULL);
    sp_keeper_tell(&self->keeper);
}

static void end_leading(sp_member_t *self, const char *why)
{
    if (self->leading == 0)
        return;
    sp_log(SP_LOG_WARN, "LEADER-LOST", "epoch", sp_log_fmt("%lld", (long long)self->leading),
           "reason", why, NULL);
    self->leading = 0;
    atomic_store(&self->epoch, 0);
    sp_keeper_tell(&self->keeper);
}

// Takes an epoch whose time is over away, and never gives it back: whoever has once been told that it does not lead must not hear
// of the same epoch again, for its work was dropped meanwhile. True when there was one.
static bool expire(sp_member_t *self)
{
    int64_t epoch = atomic_load(&self->epoch);
    if (epoch == 0 || sp_clock_mono_ms() < atomic_load(&self->valid_ms))
        return false;
    return atomic_compare_exchange_strong(&self->epoch, &epoch, 0);
}

// Ends the lease that was given up, unless it has ended. While etcd is away that fails, and afterwards the lease would live its time,
// and keep the leader's key from whoever leads next.
static int give_back(sp_member_t *self, sp_error_t *err)
{
    int rc = self->given_up ? sp_store_lease_revoke(self->keeper.store, self->given_up, err) : 0;
    if (rc == 0)
        self->given_up = 0;
    return rc;
}

// Gives up lease and leadership; the next round starts with a new lease and so, when it leads again, with a new epoch: work that
// was begun under the old one can never pass for current.
static void start_over(sp_member_t *self, const char *why)
{
    end_leading(self, why);
    int64_t lease = atomic_exchange(&self->lease, 0);
    self->registered = false;
    if (lease != 0)
        self->given_up = lease;
    give_back(self, NULL);
}

// ---- one round of the thread; each returns 0, or an error after which the round is tried again

static int grant(sp_member_t *self, sp_error_t *err)
{
    int64_t sent_ms = sp_clock_mono_ms();
    int64_t lease = 0;
    int rc = sp_store_lease_grant(self->keeper.store, self->ttl_ms / 1000, &lease, err);
    if (rc != 0)
        return rc;
    self->renewed_ms = sent_ms;
    atomic_store(&self->lease, lease);
    return 0;
}

static int renew(sp_member_t *self, sp_error_t *err)
{
    int64_t sent_ms = sp_clock_mono_ms();
    bool alive = false;
    int rc = sp_store_lease_keepalive(self->keeper.store, atomic_load(&self->lease), &alive, err);
    if (rc != 0)
        return rc;
    if (!alive) {
        start_over(self, "the lease has ended");
        return sp_error_set(err, SP_E_NOT_FOUND, "the lease has ended");
    }
    self->renewed_ms = sent_ms;
    return 0;
}

static int put_service(sp_member_t *self, sp_error_t *err)
{
    sp_kv_t kv = {0};
    bool found = false, committed = false;
    int rc = sp_store_get(self->keeper.store, sp_str(self->key), self->arena, &kv, &found, err);
    if (rc != 0 || (found && self->registered) ||
        (found && kv.lease == atomic_load(&self->lease))) {
        self->registered = self->registered || rc == 0;
        return rc;
    }
    sp_op_t op = {.key = sp_str(self->key),
                  .value = sp_str(self->record),
                  .lease = atomic_load(&self->lease)};
    rc = sp_store_txn(self->keeper.store, NULL, 0, &op, 1, &committed, NULL, err);
    if (rc == SP_E_NOT_FOUND)
        start_over(self, "the lease has ended");
    if (rc == 0 && !self->registered)
        sp_log(SP_LOG_INFO, "MEMBER-REGISTERED", "key", self->key, NULL);
    self->registered = rc == 0;
    return rc;
}

static int campaign(sp_member_t *self, sp_error_t *err)
{
    sp_msg_catalog_leader_t leader = {.service_id = sp_str(self->id),
                                      .endpoint = sp_str(self->endpoint ? self->endpoint : ""),
                                      .elected_ms = sp_clock_wall_ms(),
                                      .has_elected_ms = true};
    sp_buf_t text = SP_BUF_INIT;
    int rc = sp_wire_encode_json(&sp_schema_catalog_leader, &leader, true, &text, err);
    sp_cmp_t absent = {.kind = SP_CMP_ABSENT, .key = SP_STR("leader")};
    sp_op_t op = {.key = SP_STR("leader"),
                  .value = {text.data, text.len},
                  .lease = atomic_load(&self->lease)};
    bool committed = false;
    // Whether it was won, the next look at the key tells; so a lost answer does no harm.
    if (rc == 0)
        rc = sp_store_txn(self->keeper.store, &absent, 1, &op, 1, &committed, NULL, err);
    if (rc == SP_E_NOT_FOUND)
        start_over(self, "the lease has ended");
    sp_buf_free(&text);
    return rc;
}

// Looks at the leader's key by a linearizable read: etcd of this release may renew a lease that it has revoked, so a renewal alone
// proves nothing.
static int look_at_leader(sp_member_t *self, bool may_campaign, sp_error_t *err)
{
    sp_kv_t kv = {0};
    bool found = false;
    int rc = sp_store_get(self->keeper.store, SP_STR("leader"), self->arena, &kv, &found, err);
    if (rc != 0)
        return rc;
    bool ours = found && kv.lease == atomic_load(&self->lease);
    expire(self);
    if (self->leading != atomic_load(&self->epoch)) {
        start_over(self, "the lease was not renewed in time");
        return sp_error_set(err, SP_E_NOT_FOUND, "the lease was not renewed in time");
    }
    if (self->leading != 0 && (!ours || kv.create_revision != self->leading)) {
        start_over(self, "the leader's key is not ours any more");
        return sp_error_set(err, SP_E_NOT_FOUND, "the leader's key is not ours any more");
    }
    if (self->leading != 0)
        atomic_store(&self->valid_ms, self->renewed_ms + self->ttl_ms * 2 / 3);
    else if (ours)
        begin_leading(self, kv.create_revision);
    else if (!found && may_campaign) {
        rc = campaign(self, err);
        if (rc == 0)
            rc = look_at_leader(self, false, err);
    }
    return rc;
}

static int one_round(sp_member_t *self, sp_error_t *err)
{
    sp_arena_reset(self->arena);
    int rc = 0;
    if (atomic_load(&self->lease) == 0) {
        rc = give_back(self, err);
        if (rc == 0)
            rc = grant(self, err);
    } else if (sp_clock_mono_ms() - self->renewed_ms >= self->ttl_ms / 4)
        rc = renew(self, err);
    if (rc == 0)
        rc = put_service(self, err);
    if (rc == 0 && self->campaign)
        rc = look_at_leader(self, true, err);
    return rc;
}

// ---- the thread

static void report(sp_member_t *self, int rc, const sp_error_t *err)
{
    if (rc != 0 && !self->down)
        sp_log(SP_LOG_WARN, "MEMBER-UNREGISTERED", "key", self->key, "reason", err->text, NULL);
    if (rc == 0 && self->down)
        sp_log(SP_LOG_INFO, "MEMBER-BACK", "key", self->key, NULL);
    self->down = rc != 0;
}

static void *run(void *arg)
{
    sp_member_t *self = arg;
    int failures = 0;
    int64_t wait_ms = 0;
    while (!sp_keeper_stopped_within(&self->keeper, wait_ms)) {
        sp_error_t err = {0};
        int rc = one_round(self, &err);
        if (err.code == SP_E_CANCELLED)
            break;
        report(self, rc, &err);
        failures = rc == 0 ? 0 : failures + 1;
        // Others may believe in the lease for another third of its time; we do not.
        expire(self);
        if (self->leading != atomic_load(&self->epoch))
            start_over(self, "the lease was not renewed in time");
        wait_ms = self->campaign && STANDBY_MS < self->ttl_ms / 4 ? STANDBY_MS : self->ttl_ms / 4;
        if (failures)
            wait_ms = sp_random_backoff_ms(failures, BACKOFF_MS, BACKOFF_CAP_MS);
    }
    // Somebody else may lead at once.
    sp_store_cancel_by(self->keeper.store, -1);
    start_over(self, "it stops");
    return NULL;
}

static char *copy(sp_str_t s)
{
    return s.ptr ? strndup(s.ptr, s.len) : NULL;
}

static void member_free(sp_member_t *self)
{
    sp_arena_destroy(&self->arena);
    free(self->key);
    free(self->record);
    free(self->id);
    free(self->endpoint);
    free(self);
}

static int fill(sp_member_t *self, const sp_msg_service_t *service, sp_error_t *err)
{
    self->arena = sp_arena_new(0);
    self->id = copy(service->id);
    self->endpoint = copy(service->endpoint);
    sp_buf_t text = SP_BUF_INIT;
    int rc = sp_wire_encode_json(&sp_schema_service, service, true, &text, err);
    if (rc == 0)
        self->record = copy((sp_str_t){text.data, text.len});
    sp_buf_free(&text);
    if (rc != 0)
        return rc;
    if (asprintf(&self->key, "services/%.*s/%.*s", SP_STR_ARG(service->kind),
                 SP_STR_ARG(service->id)) < 0)
        self->key = NULL;
    if (!self->arena || !self->id || !self->record || !self->key)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "membership");
    return 0;
}

int sp_member_start(sp_member_t **ret_self, const sp_store_options_t *options,
                    const sp_msg_service_t *service, int ttl_s, bool campaign_too, sp_error_t *err)
{
    if (ttl_s < 2 || ttl_s > 3600)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "a member's lease lives 2 to 3600 s");
    sp_member_t *self = calloc(1, sizeof *self);
    if (!self)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "membership");
    self->ttl_ms = (int64_t)ttl_s * 1000;
    self->campaign = campaign_too;
    // A request that hangs must leave time for another one before the lease ends.
    sp_store_options_t quick = *options;
    quick.timeout_ms = (int)(self->ttl_ms / 4);
    if (options->timeout_ms > 0 && options->timeout_ms < quick.timeout_ms)
        quick.timeout_ms = options->timeout_ms;
    int rc = fill(self, service, err);
    if (rc == 0)
        rc = sp_keeper_start(&self->keeper, &quick, NULL, run, self, err);
    if (rc != 0) {
        member_free(self);
        return rc;
    }
    *ret_self = self;
    return 0;
}

void sp_member_stop(sp_member_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    sp_keeper_stop(&(*self_p)->keeper);
    member_free(*self_p);
    *self_p = NULL;
}

int64_t sp_member_epoch(const sp_member_t *self)
{
    // By the clock, too: the thread may hang, or the whole process may have been stopped.
    if (expire((sp_member_t *)self))
        sp_keeper_tell(&self->keeper);
    return atomic_load(&self->epoch);
}

int64_t sp_member_lease(const sp_member_t *self)
{
    return atomic_load(&self->lease);
}

int sp_member_fd(const sp_member_t *self)
{
    return self->keeper.news_fd;
}

void sp_member_drain(sp_member_t *self)
{
    sp_keeper_heed(&self->keeper);
}
