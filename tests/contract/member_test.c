// Membership and election against a private etcd: registration, takeover, self-deposition, restarts.
#include "tests/contract/private_etcd.h"

#include <poll.h>

#include "common/store/catalog.h"
#include "common/store/member.h"

static private_etcd_t etcd;
static int opened;

typedef struct env {
    char prefix[64];            // of keys
    const char *urls[1];        // of etcd
    sp_store_options_t options; // for etcd
    sp_store_t *store;          // to look
} env_t;

static int setup(void **state)
{
    env_t *e = calloc(1, sizeof *e);
    snprintf(e->prefix, sizeof e->prefix, "/member/%d", ++opened);
    e->urls[0] = etcd.client;
    e->options =
        (sp_store_options_t){.endpoints = e->urls, .n = 1, .prefix = e->prefix, .timeout_ms = 2000};
    assert_int_equal(sp_store_open_etcd(&e->store, &e->options, NULL), 0);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    env_t *e = *state;
    sp_store_close(&e->store);
    free(e);
    return 0;
}

static sp_member_t *start(env_t *e, const char *kind, const char *id, int ttl_s, bool campaign)
{
    sp_msg_service_t service = {.kind = sp_str(kind),
                                .id = sp_str(id),
                                .endpoint = sp_str("tcp://127.0.0.1:7")};
    sp_member_t *m = NULL;
    sp_error_t err = {0};
    if (sp_member_start(&m, &e->options, &service, ttl_s, campaign, &err) != 0)
        fail_msg("%s", err.text);
    return m;
}

static size_t services(env_t *e)
{
    sp_catalog_t *c = NULL;
    if (sp_catalog_load(e->store, &c, NULL) != 0)
        return SIZE_MAX;
    size_t n = c->n_services;
    sp_catalog_unref(&c);
    return n;
}

static bool wait_services(env_t *e, size_t n, int wait_ms)
{
    for (int64_t end = sp_clock_mono_ms() + wait_ms; sp_clock_mono_ms() < end;
         sp_clock_sleep_ms(20))
        if (services(e) == n)
            return true;
    return false;
}

static int64_t wait_epoch(const sp_member_t *m, bool leading, int wait_ms)
{
    for (int64_t end = sp_clock_mono_ms() + wait_ms; sp_clock_mono_ms() < end;
         sp_clock_sleep_ms(10))
        if ((sp_member_epoch(m) != 0) == leading)
            return sp_member_epoch(m);
    return -1;
}

static void test_registration(void **state)
{
    env_t *e = *state;
    sp_member_t *r1 = start(e, "router", "r1", 2, false);
    sp_member_t *r2 = start(e, "router", "r2", 2, false);
    assert_true(wait_services(e, 2, 5000));
    assert_int_equal(sp_member_epoch(r1), 0);
    // It stays, well past the lease's time.
    sp_clock_sleep_ms(4000);
    assert_int_equal(services(e), 2);
    sp_member_stop(&r1);
    assert_int_equal(services(e), 1); // gone at once
    // Whoever takes the lease or the key away, it comes back.
    assert_int_equal(sp_store_lease_revoke(e->store, sp_member_lease(r2), NULL), 0);
    assert_int_equal(services(e), 0);
    assert_true(wait_services(e, 1, 5000));
    sp_op_t drop = {.key = SP_STR("services/router/r2"), .remove = true};
    bool committed;
    assert_int_equal(sp_store_txn(e->store, NULL, 0, &drop, 1, &committed, NULL, NULL), 0);
    assert_true(wait_services(e, 1, 5000));
    sp_member_stop(&r2);
}

static void test_election_and_handover(void **state)
{
    env_t *e = *state;
    sp_member_t *m1 = start(e, "manager", "m1", 5, true);
    int64_t first = wait_epoch(m1, true, 5000);
    assert_true(first > 0);
    struct pollfd fd = {.fd = sp_member_fd(m1), .events = POLLIN};
    assert_int_equal(poll(&fd, 1, 0), 1);
    sp_member_drain(m1);
    assert_int_equal(poll(&fd, 1, 0), 0);
    sp_catalog_t *c = NULL;
    assert_int_equal(sp_catalog_load(e->store, &c, NULL), 0);
    assert_true(sp_str_eqz(c->leader.service_id, "m1"));
    assert_int_equal(c->leader_rev.create_revision, first);
    sp_catalog_unref(&c);
    sp_member_t *m2 = start(e, "manager", "m2", 5, true);
    sp_clock_sleep_ms(1500);
    assert_int_equal(sp_member_epoch(m2), 0);
    assert_int_equal(sp_member_epoch(m1), first);
    // An orderly stop hands over within a second or so.
    sp_member_stop(&m1);
    int64_t second = wait_epoch(m2, true, 1500);
    assert_true(second > first);
    sp_member_stop(&m2);
}

// A leader that is killed: its process is a child, ended by SIGKILL.
static void test_takeover_after_kill(void **state)
{
    env_t *e = *state;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        start(e, "manager", "m1", 5, true);
        pause();
        _exit(0);
    }
    assert_true(wait_services(e, 1, 5000));
    sp_catalog_t *c = NULL;
    int64_t epoch = 0;
    for (int64_t end = sp_clock_mono_ms() + 5000; epoch == 0 && sp_clock_mono_ms() < end;
         sp_clock_sleep_ms(20)) {
        assert_int_equal(sp_catalog_load(e->store, &c, NULL), 0);
        epoch = c->leader_rev.create_revision;
        sp_catalog_unref(&c);
    }
    assert_true(epoch > 0);
    sp_member_t *m2 = start(e, "manager", "m2", 5, true);
    sp_clock_sleep_ms(1000);
    assert_int_equal(sp_member_epoch(m2), 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    int64_t began = sp_clock_mono_ms();
    assert_true(wait_epoch(m2, true, 15000) > epoch);
    print_message("takeover after kill -9: %lld ms\n", (long long)(sp_clock_mono_ms() - began));
    sp_member_stop(&m2);
}

// etcd hangs: the leader steps down by its own clock, before its lease can end; then it leads again under a new epoch.
static void test_leader_steps_down_by_itself(void **state)
{
    env_t *e = *state;
    sp_member_t *m = start(e, "manager", "m1", 3, true);
    int64_t first = wait_epoch(m, true, 5000);
    assert_true(first > 0);
    private_etcd_freeze(&etcd);
    int64_t began = sp_clock_mono_ms();
    int64_t rc = wait_epoch(m, false, 10000);
    int64_t took = sp_clock_mono_ms() - began;
    kill(etcd.pid, SIGCONT);
    assert_int_equal(rc, 0);
    assert_true(took <= 2100); // two thirds of the lease's time
    int64_t second = wait_epoch(m, true, 15000);
    assert_true(second > first);
    sp_member_stop(&m);
}

// etcd is away for so long that the leader steps down. A lease that etcd finds on its disk lives its whole time again, and with it
// the key of a leader that is none: it must not hold up the next one.
static void test_leader_again_after_an_outage(void **state)
{
    env_t *e = *state;
    sp_member_t *m = start(e, "manager", "m1", 9, true);
    int64_t first = wait_epoch(m, true, 5000);
    assert_true(first > 0);
    private_etcd_kill(&etcd);
    assert_int_equal(wait_epoch(m, false, 10000), 0);
    sp_clock_sleep_ms(2000); // it cannot give its lease back either
    private_etcd_run(&etcd);
    assert_true(wait_epoch(m, true, 4000) > first);
    sp_member_stop(&m);
}

static void test_leader_key_taken_away(void **state)
{
    env_t *e = *state;
    sp_member_t *m = start(e, "manager", "m1", 5, true);
    int64_t first = wait_epoch(m, true, 5000);
    assert_true(first > 0);
    sp_op_t usurp = {.key = SP_STR("leader"),
                     .value = SP_STR("{\"service_id\":\"x\",\"endpoint\":\"y\"}")};
    bool committed;
    assert_int_equal(sp_store_txn(e->store, NULL, 0, &usurp, 1, &committed, NULL, NULL), 0);
    assert_int_equal(wait_epoch(m, false, 3000), 0);
    sp_clock_sleep_ms(1500);
    assert_int_equal(sp_member_epoch(m), 0);
    usurp.remove = true;
    assert_int_equal(sp_store_txn(e->store, NULL, 0, &usurp, 1, &committed, NULL, NULL), 0);
    assert_true(wait_epoch(m, true, 5000) > first);
    sp_member_stop(&m);
}

static void test_etcd_restart(void **state)
{
    env_t *e = *state;
    sp_member_t *m = start(e, "manager", "m1", 15, true);
    int64_t epoch = wait_epoch(m, true, 5000);
    assert_true(epoch > 0);
    private_etcd_kill(&etcd);
    private_etcd_run(&etcd);
    // A short restart costs nobody the leadership.
    sp_clock_sleep_ms(3000);
    assert_int_equal(sp_member_epoch(m), epoch);
    assert_int_equal(services(e), 1);
    sp_member_stop(&m);
}

static void test_bad_arguments(void **state)
{
    env_t *e = *state;
    sp_member_t *m = NULL;
    sp_msg_service_t service = {.kind = sp_str("router")}; // no id
    assert_int_equal(sp_member_start(&m, &e->options, &service, 5, false, NULL),
                     SP_E_MISSING_FIELD);
    service.id = sp_str("r");
    assert_int_equal(sp_member_start(&m, &e->options, &service, 1, false, NULL),
                     SP_E_INVALID_ARGUMENT);
    assert_null(m);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

static int begin(void **state)
{
    (void)state;
    private_etcd_start(&etcd);
    return 0;
}

static int end(void **state)
{
    (void)state;
    private_etcd_stop(&etcd);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_registration),
        TEST(test_election_and_handover),
        TEST(test_takeover_after_kill),
        TEST(test_leader_steps_down_by_itself),
        TEST(test_leader_again_after_an_outage),
        TEST(test_leader_key_taken_away),
        TEST(test_etcd_restart),
        TEST(test_bad_arguments),
    };
    return cmocka_run_group_tests_name("member", tests, begin, end);
}
