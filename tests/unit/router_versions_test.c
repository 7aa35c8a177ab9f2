// services/router/pure_versions.c: which catalogs a router believes.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "services/router/pure_versions.h"

static const sp_str_t a = {"a", 1}, b = {"b", 1}, c1 = {"c1", 2}, c2 = {"c2", 2};

static void generations(void **state)
{
    (void)state;
    ring_versions_t v = {0};
    assert_int_equal(ring_versions_check_generation(&v, c1, 0, NULL),
                     SP_E_CATALOG_UNAVAILABLE); // empty
    assert_int_equal(ring_versions_check_generation(&v, c1, 2, NULL), 0);
    assert_int_equal(ring_versions_keep(&v, c1, 2, NULL), 0);
    assert_int_equal(ring_versions_check_generation(&v, c1, 2, NULL), 0);
    assert_int_equal(ring_versions_check_generation(&v, c1, 1, NULL), SP_E_CATALOG_UNAVAILABLE);
    assert_int_equal(ring_versions_check_generation(&v, c2, 2, NULL), SP_E_CATALOG_UNAVAILABLE);
    assert_int_equal(ring_versions_check_generation(&v, c1, 0, NULL), SP_E_CATALOG_UNAVAILABLE);
    assert_int_equal(ring_versions_check_generation(&v, c1, 3, NULL), 0);
    ring_versions_free(&v);
}

static void rings(void **state)
{
    (void)state;
    ring_versions_t v = {0};
    assert_int_equal(ring_versions_keep(&v, c1, 1, NULL), 0);
    assert_int_equal(ring_versions_check_ring(&v, a, 10, 5, 1, NULL), 0);
    assert_int_equal(ring_versions_keep_ring(&v, a, 10, 5, 1, NULL), 0);
    assert_int_equal(ring_versions_keep_ring(&v, b, 11, 1, 1, NULL), 0);
    assert_int_equal(ring_versions_check_ring(&v, a, 10, 5, 1, NULL), 0);
    assert_int_equal(ring_versions_check_ring(&v, a, 10, 6, 1, NULL), 0);
    assert_int_equal(ring_versions_check_ring(&v, a, 10, 4, 1, NULL), SP_E_CATALOG_UNAVAILABLE);
    assert_int_equal(ring_versions_check_ring(&v, a, 9, 7, 1, NULL), SP_E_CATALOG_UNAVAILABLE);
    assert_int_equal(ring_versions_check_ring(&v, a, 20, 1, 1, NULL), 0); // deleted and made anew
    assert_int_equal(ring_versions_check_ring(&v, b, 11, 0, 1, NULL), SP_E_CATALOG_UNAVAILABLE);
    assert_int_equal(ring_versions_keep_ring(&v, a, 10, 9, 1, NULL), 0);
    assert_int_equal(ring_versions_check_ring(&v, a, 10, 8, 1, NULL), SP_E_CATALOG_UNAVAILABLE);
    // An import counts anew.
    assert_int_equal(ring_versions_keep(&v, c1, 2, NULL), 0);
    assert_int_equal(ring_versions_check_ring(&v, a, 1, 1, 1, NULL), 0);
    ring_versions_free(&v);
}

static bool only_b(void *arg, sp_str_t keyspace)
{
    ++*(int *)arg;
    return sp_str_eq(keyspace, b);
}

// The same version stands for the same owners, and a ring that had some does not vanish.
static void damage(void **state)
{
    (void)state;
    ring_versions_t v = {0};
    int asked = 0;
    assert_int_equal(ring_versions_keep(&v, c1, 1, NULL), 0);
    assert_int_equal(ring_versions_keep_ring(&v, b, 11, 1, 7, NULL), 0);
    assert_int_equal(ring_versions_keep_ring(&v, a, 10, 0, 0, NULL), 0);
    assert_int_equal(ring_versions_check_ring(&v, b, 11, 1, 7, NULL), 0);
    assert_int_equal(ring_versions_check_ring(&v, b, 11, 1, 8, NULL), SP_E_CATALOG_UNAVAILABLE);
    assert_int_equal(ring_versions_check_ring(&v, b, 11, 2, 8, NULL), 0);
    assert_int_equal(ring_versions_check_ring(&v, b, 12, 1, 8, NULL), 0);    // made anew
    assert_int_equal(ring_versions_check_gone(&v, only_b, &asked, NULL), 0); // a never had owners
    assert_int_equal(ring_versions_check_ring(&v, b, 11, 2, 0, NULL), SP_E_CATALOG_UNAVAILABLE);
    assert_int_equal(ring_versions_check_ring(&v, b, 12, 2, 0, NULL), SP_E_CATALOG_UNAVAILABLE);
    // A new keyspace has a version and no owners, for as long as nobody registers a shard.
    assert_int_equal(ring_versions_check_ring(&v, c1, 12, 12, 0, NULL), 0);
    assert_int_equal(ring_versions_keep_ring(&v, a, 10, 1, 0, NULL), 0);
    assert_int_equal(ring_versions_check_ring(&v, a, 10, 1, 0, NULL), 0);
    assert_int_equal(ring_versions_check_ring(&v, a, 10, 2, 9, NULL), 0);
    assert_int_equal(ring_versions_check_gone(&v, only_b, &asked, NULL), 0); // nor has it now
    assert_int_equal(ring_versions_keep_ring(&v, a, 10, 1, 9, NULL), 0);
    assert_int_equal(ring_versions_check_gone(&v, only_b, &asked, NULL), SP_E_CATALOG_UNAVAILABLE);
    assert_true(asked > 1);
    ring_versions_free(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(generations), cmocka_unit_test(rings),
                                       cmocka_unit_test(damage)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
