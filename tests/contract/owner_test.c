// Guards and assert_owner against a real PostgreSQL, all as roles that are not superusers.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>

#include "common/owner/fingerprint.h"
#include "common/owner/owner.h"
#include "common/ring/hash.h"
#include "tests/contract/postgres_fixture.h"

static const sp_owner_shard_t shard = {"s1", "shop", "cluster1", "shardplane_apply", "shop_app"};
static const sp_owner_shard_t other_shard = {"s2", "shop", "cluster1", "shardplane_apply",
                                             "shop_app"};
static const sp_epoch_t epoch = {1, 100};
static const sp_owner_table_t customers = {{"public", 6}, {"customers", 9}, {"id", 2}};
static const sp_owner_table_t orders = {{"public", 6}, {"orders", 6}, {"customer_id", 11}};

static sp_pg_t *ddl, *app, *owner, *apply; // connections of one test
static sp_arena_t *arena;                  // memory of one test

static void ok(sp_pg_t *pg, const char *sql)
{
    sp_error_t err = {0};
    if (sp_pg_exec(pg, sql, &err) != 0)
        fail_msg("%s: %s %s %s", sql, sp_error_name(err.code), err.sqlstate, err.text);
}

static sp_refusal_t refused(sp_pg_t *pg, const char *sql, const char *reason)
{
    sp_error_t err = {0};
    sp_refusal_t r = {0};
    if (sp_pg_exec(pg, sql, &err) == 0)
        fail_msg("accepted: %s", sql);
    if (strcmp(err.sqlstate, "SHP01") != 0)
        fail_msg("%s: %s %s instead of SHP01", sql, err.sqlstate, err.text);
    assert_true(sp_refusal_parse(err.detail, &r));
    if (r.in_transition != (strcmp(reason, "in_transition") == 0))
        fail_msg("%s: %s", sql, err.detail);
    return r;
}

static void fails(sp_pg_t *pg, const char *sql, const char *sqlstate)
{
    sp_error_t err = {0};
    if (sp_pg_exec(pg, sql, &err) == 0)
        fail_msg("accepted: %s", sql);
    if (strcmp(err.sqlstate, sqlstate) != 0)
        fail_msg("%s: %s %s instead of %s", sql, err.sqlstate, err.text, sqlstate);
}

static int64_t value(sp_pg_t *pg, const char *sql)
{
    char out[64];
    sp_error_t err = {0};
    if (sp_pg_value(pg, sql, 0, NULL, out, sizeof out, NULL, &err) != 0)
        fail_msg("%s: %s", sql, err.text);
    return strtoll(out, NULL, 10);
}

static void done(int rc, const sp_error_t *err)
{
    if (rc != 0)
        fail_msg("%s %s %s", sp_error_name(rc), err->sqlstate, err->text);
}

static void set_guard(const sp_owner_table_t *table, const sp_guard_t *guard)
{
    sp_error_t err = {0};
    ok(ddl, "BEGIN");
    done(sp_guard_set(ddl, &shard, table, guard, &err), &err);
    ok(ddl, "COMMIT");
}

static void set_both(const sp_guard_t *guard)
{
    set_guard(&customers, guard);
    set_guard(&orders, guard);
}

static void write_ownership(const sp_ownership_t *o)
{
    sp_error_t err = {0};
    bool own = PQtransactionStatus(sp_pg_conn(ddl)) == PQTRANS_IDLE;
    if (own)
        ok(ddl, "BEGIN");
    done(sp_ownership_write(ddl, "shop", o, &err), &err);
    if (own)
        ok(ddl, "COMMIT");
}

// The half of the space that key 1 is in; a key of the other half is `foreign`.
static sp_arcs_t half(void)
{
    static const int64_t low[] = {INT64_MIN, 0}, high[] = {0};
    return sp_key_hash("1", 1) < 0 ? (sp_arcs_t){low, 2} : (sp_arcs_t){high, 1};
}

static int key_in(bool inside, int from)
{
    char text[16];
    for (int key = from;; key++) {
        int n = snprintf(text, sizeof text, "%d", key);
        if (sp_arcs_contains(half(), sp_key_hash(text, (size_t)n)) == inside)
            return key;
    }
}

static const char *sqlf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static const char *sqlf(const char *fmt, ...)
{
    static char ring[8][600];
    static unsigned at;
    char *out = ring[at++ % 8];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(out, sizeof ring[0], fmt, ap);
    va_end(ap);
    return out;
}

static int setup(void **state)
{
    (void)state;
    sp_error_t err = {0};
    arena = sp_arena_new(0);
    const sp_pg_options_t search = {.search_path = "public, pg_catalog"};
    ddl = fixture_open("shardplane_ddl", NULL);
    app = fixture_open("shop_app", &search);
    owner = fixture_open("shop_owner", &search);
    apply = fixture_open("shardplane_apply", &search);
    ok(owner, "CREATE TABLE customers (id bigint PRIMARY KEY, name text);"
              "CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES "
              "customers ON DELETE CASCADE ON UPDATE CASCADE,"
              " note text)");
    done(sp_owner_install(ddl, &shard, epoch, &err), &err);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    sp_pg_close(&app);
    sp_pg_close(&apply);
    sp_pg_exec(ddl, "ROLLBACK", NULL);
    sp_owner_uninstall(ddl, NULL);
    sp_pg_exec(owner,
               "ROLLBACK; DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE ON SCHEMA "
               "public TO shop_app",
               NULL);
    sp_pg_close(&ddl);
    sp_pg_close(&owner);
    sp_arena_destroy(&arena);
    return 0;
}

static sp_arcs_t all;
#define OWNS(a) (&(sp_guard_t){.form = SP_GUARD_OWNS, .arcs = (a), .ring_version = 7})
#define CLOSED(why)                                                                                \
    (&(sp_guard_t){.form = SP_GUARD_CLOSED,                                                        \
                   .ring_version = 7,                                                              \
                   .reason = (why),                                                                \
                   .row_trigger = true})

// ---- tests

static void install_twice(void **state)
{
    (void)state;
    sp_error_t err = {0};
    done(sp_owner_install(ddl, &shard, epoch, &err), &err);
    assert_int_equal(sp_owner_install(ddl, &other_shard, epoch, &err), SP_E_ALREADY_EXISTS);
    sp_owner_shard_t foreign = shard;
    foreign.cluster_id = "cluster2";
    assert_int_equal(sp_owner_install(ddl, &foreign, epoch, &err), SP_E_ALREADY_EXISTS);
    assert_int_equal(sp_owner_install(ddl, &shard, (sp_epoch_t){1, 99}, &err), SP_E_STALE_EPOCH);
    done(sp_owner_install(ddl, &shard, (sp_epoch_t){1, 101}, &err), &err);
    sp_owner_shard_t no_role = shard;
    no_role.apply_role = "nobody_there";
    assert_int_equal(sp_owner_install(ddl, &no_role, (sp_epoch_t){1, 101}, &err), SP_E_NOT_FOUND);
    no_role = shard;
    no_role.app_role = "nobody_there";
    assert_int_equal(sp_owner_install(ddl, &no_role, (sp_epoch_t){1, 101}, &err), SP_E_NOT_FOUND);
}

// The role's name goes into statements and bodies.
static void hostile_apply_role(void **state)
{
    (void)state;
    sp_error_t err = {0};
    sp_arcs_t mine = half();
    sp_owner_shard_t odd = shard;
    odd.apply_role = "it's \"the\\role\";\n%s SELECT 1;";
    const char *role = sp_pg_ident(arena, sp_str(odd.apply_role));
    sp_pg_t *super = fixture_open("postgres", NULL);
    done(sp_pg_execf(super, &err, "CREATE ROLE %s LOGIN; GRANT pg_write_all_data TO %s", role,
                     role),
         &err);
    int rc = sp_owner_install(ddl, &odd, epoch, &err);
    if (rc == 0)
        rc = sp_guard_set(ddl, &odd, &customers, OWNS(&mine), &err);
    sp_pg_t *pg = fixture_open(odd.apply_role, NULL);
    const char *insert = sqlf("INSERT INTO public.customers VALUES (%d, 'x')", key_in(false, 1));
    if (rc == 0)
        rc = sp_pg_exec(pg, insert, &err);
    sp_pg_close(&pg);
    sp_pg_exec(super, sqlf("DROP OWNED BY %s; DROP ROLE %s", role, role), NULL);
    sp_pg_close(&super);
    done(rc, &err);
    refused(app, insert, "not_owner");
}

static void epochs(void **state)
{
    (void)state;
    sp_error_t err = {0};
    done(sp_owner_raise_epoch(ddl, (sp_epoch_t){1, 200}, &err), &err);
    assert_int_equal(sp_owner_raise_epoch(ddl, (sp_epoch_t){1, 150}, &err), SP_E_STALE_EPOCH);
    done(sp_owner_raise_epoch(ddl, (sp_epoch_t){2, 3}, &err),
         &err); // a restored etcd counts from the start again
    assert_int_equal(sp_owner_raise_epoch(ddl, (sp_epoch_t){1, 900}, &err), SP_E_STALE_EPOCH);
    ok(apply, "BEGIN");
    done(sp_owner_hold_epoch(apply, (sp_epoch_t){2, 3}, &err), &err);
    // Whoever holds it keeps a new leader waiting until its commit.
    sp_pg_set_timeout(ddl, 200);
    assert_int_equal(sp_owner_raise_epoch(ddl, (sp_epoch_t){2, 4}, &err), SP_E_DEADLINE_EXCEEDED);
    sp_pg_set_timeout(ddl, 0);
    ok(apply, "COMMIT");
    done(sp_owner_raise_epoch(ddl, (sp_epoch_t){2, 4}, &err), &err);
    ok(apply, "BEGIN");
    assert_int_equal(sp_owner_hold_epoch(apply, (sp_epoch_t){2, 3}, &err), SP_E_STALE_EPOCH);
    ok(apply, "ROLLBACK");
}

static void application_cannot_write_control(void **state)
{
    (void)state;
    write_ownership(&(sp_ownership_t){.ring_version = 1, .arcs = all});
    fails(app, "UPDATE shardplane.ownership SET ring_version = 9", "42501");
    fails(app, "INSERT INTO shardplane.opened VALUES ('n', 'j', 1)", "42501");
    fails(app, "SELECT * FROM shardplane.control", "42501");
    fails(app, "INSERT INTO shardplane.made VALUES ('j', 1, 'TABLE', 'x')", "42501");
    set_guard(&customers, CLOSED("not_owner"));
    fails(app, "ALTER TABLE customers DISABLE TRIGGER ALL", "42501");
    fails(app,
          "CREATE OR REPLACE FUNCTION shardplane.assert_owner(keyspace text, key text) RETURNS "
          "void LANGUAGE sql AS ''",
          "42501");
    assert_true(value(app, "SELECT count(*) FROM shardplane.ownership") == 1);
    set_guard(&sp_owner_requests_table, OWNS(&all));
    ok(app, "INSERT INTO shardplane.requests (key, request_id, body_hash) VALUES ('1', 'r', 'h')");
}

// What stands there is handed to DROP: not even who may write all data writes it, whatever triggers it has switched off.
static void made_is_the_owners(void **state)
{
    (void)state;
    sp_pg_t *super = fixture_open("postgres", NULL);
    ok(super, "CREATE ROLE writer LOGIN; GRANT pg_write_all_data TO writer; "
              "GRANT SET ON PARAMETER session_replication_role TO writer");
    ok(ddl, "INSERT INTO shardplane.made VALUES ('j', 1, 'TABLE', 'x')");
    sp_pg_t *writer = fixture_open("writer", NULL);
    ok(writer, "SET session_replication_role = replica");
    fails(writer, "INSERT INTO shardplane.made VALUES ('j', 2, 'TABLE', 'y')", "42501");
    fails(writer, "UPDATE shardplane.made SET identity = 'y'", "42501");
    fails(writer, "DELETE FROM shardplane.made", "42501");
    sp_pg_close(&writer);
    ok(ddl, "DELETE FROM shardplane.made");
    ok(super, "REVOKE SET ON PARAMETER session_replication_role FROM writer; DROP ROLE writer");
    sp_pg_close(&super);
}

// A stored reply holds rows of tables that its reader may have no right to, and a request without it runs twice.
static void replies_are_the_routers(void **state)
{
    (void)state;
    sp_error_t err = {0};
    sp_pg_t *super = fixture_open("postgres", NULL);
    ok(super, "CREATE ROLE stranger LOGIN");
    ok(ddl, "GRANT ALL ON shardplane.requests TO PUBLIC"); // as it once was
    done(sp_owner_install(ddl, &shard, epoch, &err), &err);
    sp_pg_t *stranger = fixture_open("stranger", NULL);
    fails(stranger, "SELECT reply FROM shardplane.requests", "42501");
    fails(stranger, "DELETE FROM shardplane.requests", "42501");
    refused(stranger, "SELECT shardplane.assert_owner('shop', '1')", "not_owner");
    sp_pg_close(&stranger);
    ok(super, "DROP ROLE stranger");
    sp_pg_close(&super);
    set_guard(&sp_owner_requests_table, OWNS(&all));
    ok(app, "INSERT INTO shardplane.requests (key, request_id, body_hash) VALUES ('1', 'r', 'h')");
}

static void installed_closed(void **state)
{
    (void)state;
    const char *insert =
        "INSERT INTO shardplane.requests (key, request_id, body_hash) VALUES ('1', 'r', 'h')";
    sp_error_t err = {0};
    refused(app, insert, "not_owner");
    // An upgrade does not close what is owned.
    set_guard(&sp_owner_requests_table, OWNS(&all));
    done(sp_owner_install(ddl, &shard, epoch, &err), &err);
    ok(app, insert);
}

static void everything_owned(void **state)
{
    (void)state;
    set_both(OWNS(&all));
    ok(app,
       "INSERT INTO customers VALUES (1, 'a'), (2, 'b'); INSERT INTO orders VALUES (10, 1, 'x');"
       "UPDATE orders SET note = 'y' WHERE id = 10; UPDATE orders SET customer_id = 2 WHERE id = "
       "10;"
       "INSERT INTO customers VALUES (1, 'c') ON CONFLICT (id) DO UPDATE SET name = excluded.name; "
       "DELETE FROM customers");
    assert_true(value(app, "SELECT count(*) FROM orders") == 0);
}

// Every way to write, on a shard that owns half of the space.
static void half_owned(void **state)
{
    (void)state;
    sp_arcs_t mine = half();
    int in = key_in(true, 1), in2 = key_in(true, in + 1), out = key_in(false, 1);
    set_both(OWNS(&all));
    ok(owner, sqlf("INSERT INTO customers VALUES (%d, 'foreign'), (%d, 'x'); INSERT INTO orders "
                   "VALUES (1, %d, ''), (2, %d, '')",
                   out, in2, out, in2));
    set_both(OWNS(&mine));
    char text[16];
    int n = snprintf(text, sizeof text, "%d", out);
    int64_t hash = sp_key_hash(text, (size_t)n);

    ok(app, sqlf("INSERT INTO customers VALUES (%d, 'ok')", in));
    sp_refusal_t r =
        refused(app, sqlf("INSERT INTO customers VALUES (%d, 'no')", key_in(false, out + 1)),
                "not_owner");
    assert_true(r.has_hash && r.ring_version == 7);
    r = refused(app, sqlf("UPDATE customers SET name = 'n' WHERE id = %d", out), "not_owner");
    assert_true(r.has_hash && r.hash == hash);
    refused(app, sqlf("DELETE FROM customers WHERE id = %d", out), "not_owner");
    refused(app, sqlf("UPDATE customers SET id = %d WHERE id = %d", key_in(false, out + 1), in),
            "not_owner"); // key moves away
    refused(app,
            sqlf("INSERT INTO customers VALUES (%d, 'u') ON CONFLICT (id) DO UPDATE SET name = 'u'",
                 out),
            "not_owner");
    refused(app, sqlf("INSERT INTO customers VALUES (%d, 'u') ON CONFLICT DO NOTHING", out),
            "not_owner");
    refused(app,
            sqlf("MERGE INTO customers c USING (SELECT %d::bigint AS id) s ON c.id = s.id WHEN "
                 "MATCHED THEN UPDATE SET name = 'm'",
                 out),
            "not_owner");
    refused(app, "UPDATE customers SET name = 'all'", "not_owner");
    fails(app, "TRUNCATE orders", "42501");
}

// TRUNCATE: the application has no privilege for it, the owner has.
static void truncate_is_refused(void **state)
{
    (void)state;
    sp_arcs_t mine = half();
    set_both(OWNS(&mine));
    refused(owner, "TRUNCATE customers, orders", "not_owner");
    set_both(CLOSED("in_transition"));
    refused(owner, "TRUNCATE customers, orders", "in_transition");
    set_both(
        &(sp_guard_t){.form = SP_GUARD_OWNS, .arcs = &all, .ring_version = 7, .job_running = true});
    refused(owner, "TRUNCATE customers, orders", "in_transition");
    set_both(OWNS(&all));
    ok(owner, "TRUNCATE customers, orders");
}

static void copy_is_checked(void **state)
{
    (void)state;
    sp_arcs_t mine = half();
    sp_error_t err = {0};
    int64_t rows = 0;
    set_both(OWNS(&mine));
    char line[32];
    for (int inside = 1; inside >= 0; inside--) {
        int n = snprintf(line, sizeof line, "%d\tx\n", key_in(inside, 500));
        done(sp_pg_copy_start(app, "COPY customers FROM STDIN", &err), &err);
        done(sp_pg_copy_put(app, line, (size_t)n, &err), &err);
        int rc = sp_pg_copy_end(app, NULL, &rows, &err);
        assert_int_equal(rc, inside ? 0 : SP_E_SQL_ERROR);
        if (inside)
            assert_true(rows == 1);
        else
            assert_string_equal(err.sqlstate, "SHP01");
    }
    set_both(CLOSED("not_owner"));
    done(sp_pg_copy_start(app, "COPY customers FROM STDIN", &err), &err);
    assert_int_equal(sp_pg_copy_end(app, NULL, &rows, &err),
                     SP_E_SQL_ERROR); // not even without rows
    assert_string_equal(err.sqlstate, "SHP01");
    done(sp_pg_copy_start(apply, "COPY customers FROM STDIN", &err), &err);
    done(sp_pg_copy_put(apply, "900\tx\n", 6, &err), &err);
    done(sp_pg_copy_end(apply, NULL, &rows, &err), &err);
}

static void closed(void **state)
{
    (void)state;
    set_both(OWNS(&all));
    ok(app, "INSERT INTO customers VALUES (1, 'a')");
    set_both(CLOSED("in_transition"));
    sp_refusal_t r = refused(app, "INSERT INTO customers VALUES (2, 'b')", "in_transition");
    assert_true(!r.has_hash && r.ring_version == 7);
    refused(app, "UPDATE customers SET name = 'x' WHERE id = 1", "in_transition");
    refused(app, "UPDATE customers SET name = 'x' WHERE id = 999999",
            "in_transition"); // an UPDATE 0 would look like success
    refused(app, "DELETE FROM orders WHERE false", "in_transition");
    refused(owner, "INSERT INTO customers VALUES (2, 'b')", "in_transition");
    assert_true(value(app, "SELECT count(*) FROM customers") == 1); // reads are for assert_owner
    ok(apply, "INSERT INTO customers VALUES (2, 'b')");
    // Without its row trigger, as a target under COPY.
    set_guard(&customers,
              &(sp_guard_t){.form = SP_GUARD_CLOSED, .ring_version = 7, .row_trigger = false});
    assert_true(value(ddl, "SELECT count(*) FROM pg_trigger WHERE tgname = '~shardplane_row' AND "
                           "tgrelid = 'public.customers'::regclass") == 0);
    refused(app, "INSERT INTO customers VALUES (3, 'b')", "not_owner");
    set_both(CLOSED("not_owner"));
    assert_true(value(ddl, "SELECT count(*) FROM pg_trigger WHERE tgname = '~shardplane_row' AND "
                           "tgenabled = 'A'") == 2);
}

static void armed(void **state)
{
    (void)state;
    sp_error_t err = {0};
    sp_arcs_t mine = half();
    bool open = true;
    int in = key_in(true, 1), out = key_in(false, 1);
    sp_guard_t guard = {.form = SP_GUARD_ARMED, .arcs = &mine, .nonce = "n'1", .ring_version = 8};
    set_both(&guard);
    write_ownership(&(sp_ownership_t){.ring_version = 8,
                                      .arcs = mine,
                                      .state = SP_OWNERSHIP_ARMED,
                                      .job_id = "j",
                                      .attempt = 1,
                                      .nonce = "n'1"});
    refused(app, sqlf("INSERT INTO customers VALUES (%d, 'a')", in), "in_transition");
    refused(app, "UPDATE customers SET name = 'x' WHERE false", "in_transition");
    refused(app, sqlf("SELECT shardplane.assert_owner('shop', '%d')", in), "in_transition");
    done(sp_owner_is_open(apply, "n'1", &open, &err), &err);
    assert_false(open);
    // A snapshot from before the opening can only refuse.
    ok(app, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM customers");
    done(sp_owner_open(apply, "n'1", "j", 8, &err), &err);
    done(sp_owner_open(apply, "n'1", "j", 8, &err), &err); // again: nothing
    refused(app, sqlf("INSERT INTO customers VALUES (%d, 'a')", in), "in_transition");
    ok(app, "ROLLBACK");
    done(sp_owner_is_open(apply, "n'1", &open, &err), &err);
    assert_true(open);
    ok(app,
       sqlf("INSERT INTO customers VALUES (%d, 'a'); SELECT shardplane.assert_owner('shop', '%d')",
            in, in));
    refused(app, sqlf("INSERT INTO customers VALUES (%d, 'a')", out), "not_owner");
    refused(app, sqlf("SELECT shardplane.assert_owner('shop', '%d')", out), "not_owner");
    refused(owner, "TRUNCATE customers, orders", "in_transition");
}

static void null_key(void **state)
{
    (void)state;
    set_both(OWNS(&all));
    sp_refusal_t r = refused(app, "INSERT INTO customers VALUES (NULL, 'a')", "not_owner");
    assert_true(r.null_key && !r.has_hash);
}

static void replica_role_does_not_bypass(void **state)
{
    (void)state;
    set_both(CLOSED("not_owner"));
    sp_pg_t *pg =
        fixture_open("shardplane_ddl",
                     &(sp_pg_options_t){.replica_role = true, .search_path = "public, pg_catalog"});
    refused(pg, "INSERT INTO customers VALUES (1, 'a')", "not_owner");
    sp_arcs_t none = SP_ARCS_NONE;
    set_both(OWNS(&none));
    refused(pg, "INSERT INTO customers VALUES (1, 'a')", "not_owner");
    sp_pg_close(&pg);
}

// A cascade runs as the table's owner: it is checked like anybody's statement.
static void cascade_is_checked(void **state)
{
    (void)state;
    set_both(OWNS(&all));
    ok(app, "INSERT INTO customers VALUES (1, 'a'); INSERT INTO orders VALUES (1, 1, '')");
    set_guard(&orders, CLOSED("in_transition"));
    refused(app, "DELETE FROM customers WHERE id = 1", "in_transition");
    assert_true(value(app, "SELECT count(*) FROM customers") == 1);
    ok(apply, "DELETE FROM customers WHERE id = 1");
    assert_true(value(app, "SELECT count(*) FROM orders") == 0);
}

// The seal as the cutover does it; a transaction that began before it cannot write after it, whatever its snapshot.
static void seal_reaches_old_snapshots(void **state)
{
    (void)state;
    sp_error_t err = {0};
    set_both(OWNS(&all));
    ok(app, "INSERT INTO customers VALUES (1, 'a'); PREPARE u AS UPDATE customers SET name = name "
            "|| 'x' WHERE id = 1; EXECUTE u; EXECUTE u");
    const char *levels[] = {"REPEATABLE READ", "SERIALIZABLE"};
    for (int i = 0; i < 2; i++) {
        set_both(OWNS(&all));
        ok(app, sqlf("BEGIN ISOLATION LEVEL %s; SELECT count(*) FROM orders", levels[i]));
        ok(ddl, "BEGIN; LOCK TABLE public.customers, public.orders IN SHARE ROW EXCLUSIVE MODE");
        sp_guard_t seal = {.form = SP_GUARD_CLOSED,
                           .ring_version = 9,
                           .reason = "in_transition",
                           .row_trigger = true};
        done(sp_guard_set(ddl, &shard, &customers, &seal, &err), &err);
        done(sp_guard_set(ddl, &shard, &orders, &seal, &err), &err);
        ok(ddl, "COMMIT");
        refused(app, "EXECUTE u", "in_transition");
        ok(app, "ROLLBACK");
    }
}

// While the locks are held a writer waits, and then meets the new body.
static void writer_waits_for_seal(void **state)
{
    (void)state;
    sp_error_t err = {0};
    set_both(OWNS(&all));
    ok(app, "INSERT INTO customers VALUES (1, 'a')");
    ok(ddl, "BEGIN; LOCK TABLE public.customers, public.orders IN SHARE ROW EXCLUSIVE MODE");
    done(sp_guard_set(ddl, &shard, &customers, CLOSED("in_transition"), &err), &err);
    PGconn *conn = sp_pg_conn(app);
    assert_int_equal(PQsendQuery(conn, "UPDATE customers SET name = 'late' WHERE id = 1"), 1);
    while (PQflush(conn) == 1)
        ;
    while (value(owner, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 0)
        usleep(5000);
    ok(ddl, "COMMIT");
    PGresult *result = PQgetResult(conn);
    assert_string_equal(PQresultErrorField(result, PG_DIAG_SQLSTATE), "SHP01");
    PQclear(result);
    assert_null(PQgetResult(conn));
}

static void assert_owner(void **state)
{
    (void)state;
    sp_arcs_t mine = half();
    int in = key_in(true, 1), out = key_in(false, 1);
    refused(app, "SELECT shardplane.assert_owner('shop', '1')", "not_owner"); // nothing written yet
    write_ownership(&(sp_ownership_t){.ring_version = 3, .arcs = mine});
    refused(app, "SELECT shardplane.assert_owner('other', '1')", "not_owner");
    refused(app, "SELECT shardplane.assert_owner('a\"b', NULL)", "not_owner");
    sp_refusal_t r =
        refused(app, sqlf("SELECT shardplane.assert_owner('shop', '%d')", out), "not_owner");
    assert_true(r.has_hash && r.ring_version == 3);
    ok(app, sqlf("SELECT shardplane.assert_owner('shop', '%d')", in));

    // READ COMMITTED sees a seal that came after the statement before it.
    ok(app,
       sqlf("BEGIN; SELECT * FROM customers; SELECT shardplane.assert_owner('shop', '%d')", in));
    write_ownership(&(sp_ownership_t){.ring_version = 4,
                                      .arcs = SP_ARCS_NONE,
                                      .state = SP_OWNERSHIP_SEALED,
                                      .job_id = "j",
                                      .attempt = 1,
                                      .nonce = "n"});
    refused(app, sqlf("SELECT shardplane.assert_owner('shop', '%d')", in), "in_transition");
    ok(app, "ROLLBACK");

    // REPEATABLE READ would read the past: it fails instead.
    write_ownership(&(sp_ownership_t){.ring_version = 5, .arcs = mine});
    ok(app, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM customers");
    write_ownership(&(sp_ownership_t){.ring_version = 6,
                                      .arcs = SP_ARCS_NONE,
                                      .state = SP_OWNERSHIP_SEALED,
                                      .job_id = "j",
                                      .attempt = 1,
                                      .nonce = "n"});
    fails(app, sqlf("SELECT shardplane.assert_owner('shop', '%d')", in), "40001");
    ok(app, "ROLLBACK");
    write_ownership(&(sp_ownership_t){.ring_version = 7, .arcs = mine});
    ok(app, sqlf("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT shardplane.assert_owner('shop', "
                 "'%d'); COMMIT",
                 in));
}

// A seal writes its ownership row and then waits for the tables. A transaction that has written one of them must not wait for the seal in
// turn: neither would get on, and no cutover would ever pass such clients.
static void assert_owner_waits_for_no_seal(void **state)
{
    (void)state;
    sp_arcs_t mine = half();
    int in = key_in(true, 1);
    const char *levels[] = {"READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"};
    set_both(OWNS(&mine));
    write_ownership(&(sp_ownership_t){.ring_version = 3, .arcs = mine});
    sp_pg_set_timeout(app, 2000);
    for (int i = 0; i < 3; i++) {
        const char *assert = sqlf("SELECT shardplane.assert_owner('shop', '%d')", in);
        ok(app,
           sqlf("BEGIN ISOLATION LEVEL %s; INSERT INTO customers VALUES (%d, 'a')", levels[i], in));
        ok(ddl, "BEGIN; SET LOCAL lock_timeout = '5s'");
        write_ownership(&(sp_ownership_t){.ring_version = 4,
                                          .arcs = SP_ARCS_NONE,
                                          .state = SP_OWNERSHIP_SEALED,
                                          .job_id = "j",
                                          .attempt = 1,
                                          .nonce = "n"});
        if (i == 0) { // its commit comes before the seal's
            ok(app, assert);
        } else {
            sp_refusal_t r = refused(app, assert, "in_transition");
            assert_true(r.has_hash && r.ring_version == 3);
        }
        ok(app, "ROLLBACK");
        ok(ddl, "LOCK TABLE public.customers IN SHARE ROW EXCLUSIVE MODE; ROLLBACK");
        ok(app, sqlf("BEGIN ISOLATION LEVEL %s; %s; COMMIT", levels[i], assert));
    }
    // Those that only look do not keep each other out.
    sp_pg_t *other = fixture_open("shop_app", NULL);
    const char *look = sqlf("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT "
                            "shardplane.assert_owner('shop', '%d')",
                            in);
    ok(app, look);
    ok(other, look);
    ok(other, "COMMIT");
    ok(app, "COMMIT");
    sp_pg_close(&other);
}

static void *write_seal(void *arg)
{
    write_ownership(arg);
    return NULL;
}

// Those who look share the row: without an end of it, a seal would wait for ever.
static void a_seal_waits_for_no_newcomer(void **state)
{
    (void)state;
    sp_arcs_t mine = half();
    sp_ownership_t seal = {.ring_version = 4,
                           .arcs = SP_ARCS_NONE,
                           .state = SP_OWNERSHIP_SEALED,
                           .job_id = "j",
                           .attempt = 1,
                           .nonce = "n"};
    const char *look = sqlf("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT "
                            "shardplane.assert_owner('shop', '%d')",
                            key_in(true, 1));
    sp_pg_t *other = fixture_open("shop_app", NULL);
    pthread_t thread;
    write_ownership(&(sp_ownership_t){.ring_version = 3, .arcs = mine});
    ok(app, look);
    pthread_create(&thread, NULL, write_seal, &seal);
    while (value(owner, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 0)
        usleep(5000);
    refused(other, look, "in_transition");
    ok(app, "COMMIT");
    pthread_join(thread, NULL);
    sp_pg_close(&other);
}

static void ownership_round_trip(void **state)
{
    (void)state;
    sp_error_t err = {0};
    sp_ownership_t o = {0};
    bool found = true;
    sp_arcs_t mine = half();
    done(sp_ownership_read(ddl, "shop", arena, &o, &found, &err), &err);
    assert_false(found);
    write_ownership(&(sp_ownership_t){.ring_version = 8,
                                      .arcs = mine,
                                      .state = SP_OWNERSHIP_ARMED,
                                      .job_id = "j",
                                      .attempt = 3,
                                      .nonce = "n"});
    done(sp_ownership_read(app, "shop", arena, &o, &found, &err), &err);
    assert_true(found && o.ring_version == 8 && sp_arcs_equal(o.arcs, mine) &&
                o.state == SP_OWNERSHIP_ARMED && o.attempt == 3);
    assert_string_equal(o.job_id, "j");
    assert_string_equal(o.nonce, "n");
}

static const char *actual(const sp_owner_table_t *table)
{
    const char *digest = NULL;
    sp_error_t err = {0};
    done(sp_guard_actual(ddl, table, arena, &digest, &err), &err);
    return digest;
}

static const char *row_function(void)
{
    static char name[64];
    sp_error_t err = {0};
    done(sp_pg_value(ddl,
                     "SELECT p.proname FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid WHERE "
                     "g.tgname = '~shardplane_row'"
                     " AND g.tgrelid = 'public.customers'::regclass",
                     0, NULL, name, sizeof name, NULL, &err),
         &err);
    return name;
}

static void digests(void **state)
{
    (void)state;
    sp_error_t err = {0};
    sp_arcs_t mine = half();
    const char *expected = NULL, *other = NULL;
    assert_string_equal(actual(&customers), "");
    const sp_guard_t *forms[] =
        {OWNS(&mine),
         OWNS(&all),
         CLOSED("not_owner"),
         CLOSED("in_transition"),
         &(sp_guard_t){.form = SP_GUARD_CLOSED, .ring_version = 7},
         &(sp_guard_t){.form = SP_GUARD_ARMED, .arcs = &mine, .nonce = "n", .ring_version = 7}};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        set_guard(&customers, forms[i]);
        done(sp_guard_expected(&shard, &customers, forms[i], arena, &expected, &err), &err);
        assert_string_equal(actual(&customers), expected);
        for (size_t j = 0; j < sizeof forms / sizeof forms[0]; j++) {
            done(sp_guard_expected(&shard, &customers, forms[j], arena, &other, &err), &err);
            assert_int_equal(strcmp(other, expected) == 0, i == j);
        }
    }
    // What an operator, or a mistake, may do to a guard.
    const struct {
        const char *break_it; // statement
        bool empty;           // digest is ""
    } faults[] = {
        {"ALTER TABLE public.customers DISABLE TRIGGER \"~shardplane_row\"", true},
        {"ALTER TABLE public.customers ENABLE TRIGGER \"~shardplane_row\"",
         true}, // ORIGIN: replica role would bypass it
        {"ALTER TABLE public.customers ENABLE REPLICA TRIGGER \"~shardplane_stmt\"", true},
        {"DROP TRIGGER \"~shardplane_row\" ON public.customers", false},
        {"DROP TRIGGER \"~shardplane_stmt\" ON public.customers", true},
        {"DROP TRIGGER \"~shardplane_trunc\" ON public.customers", true},
        {"CREATE OR REPLACE TRIGGER \"~shardplane_row\" BEFORE INSERT ON public.customers FOR EACH "
         "ROW EXECUTE FUNCTION"
         " public.pass()",
         true},
        {"CREATE TRIGGER \"\303\251 later\" BEFORE INSERT ON public.customers FOR EACH ROW EXECUTE "
         "FUNCTION public.pass()",
         true},
    };
    ok(owner, "CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'");
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        set_guard(&customers, OWNS(&mine));
        done(sp_guard_expected(&shard, &customers, OWNS(&mine), arena, &expected, &err), &err);
        assert_string_equal(actual(&customers), expected);
        ok(ddl, faults[i].break_it);
        if ((actual(&customers)[0] == 0) != faults[i].empty ||
            strcmp(actual(&customers), expected) == 0)
            fail_msg("not noticed: %s", faults[i].break_it);
        ok(owner, "DROP TRIGGER IF EXISTS \"\303\251 later\" ON customers");
    }
    set_guard(&customers, OWNS(&mine)); // mends all of it
    assert_string_equal(actual(&customers), expected);
    ok(ddl, sqlf("CREATE OR REPLACE FUNCTION shardplane.%s() RETURNS trigger LANGUAGE plpgsql AS "
                 "'BEGIN RETURN NEW; END'",
                 row_function()));
    assert_string_not_equal(actual(&customers), expected);
}

// Triggers that still carry the guard's name, function and state, and yet let something pass.
static void altered_triggers_are_mended(void **state)
{
    (void)state;
    sp_error_t err = {0};
    sp_arcs_t mine = half();
    static const struct {
        const char *of, *when, *arguments; // of CREATE TRIGGER
    } forms[] = {{"", "WHEN (false)", ""}, {"OF name", "", ""}, {"", "", "'x'"}};
    const char *expected = NULL;
    done(sp_guard_expected(&shard, &customers, OWNS(&mine), arena, &expected, &err), &err);
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        set_guard(&customers, OWNS(&mine));
        ok(ddl, sqlf("CREATE OR REPLACE TRIGGER \"~shardplane_row\" BEFORE INSERT OR UPDATE %s OR "
                     "DELETE ON public.customers FOR EACH ROW %s EXECUTE FUNCTION "
                     "shardplane.%s(%s); ALTER TABLE public.customers ENABLE ALWAYS TRIGGER "
                     "\"~shardplane_row\"",
                     forms[i].of, forms[i].when, row_function(), forms[i].arguments));
        assert_string_equal(actual(&customers), "");
        set_guard(&customers, OWNS(&mine));
        assert_string_equal(actual(&customers), expected);
    }
    refused(app, sqlf("INSERT INTO customers VALUES (%d, 'x')", key_in(false, 1)), "not_owner");
}

static void hostile_names(void **state)
{
    (void)state;
    static const char *const names[] =
        {"a\"b",        "it's; DROP TABLE x; --",
         "back\\slash", "100%s%n",
         "UPPER lower", "\303\251\360\237\230\200",
         "select",      "x123456789012345678901234567890123456789012345678901234567890ab",
         "$$",          "a.b"};
    sp_arcs_t mine = half();
    int in = key_in(true, 1), out = key_in(false, 1);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        for (int other = 0; other < 2;
             other++) { // the same name in two schemas, with different ownership
            sp_str_t schema = sp_str(other ? names[i] : "public");
            sp_owner_table_t t = {schema, sp_str(names[i]), sp_str(names[i])};
            const char *q = sp_pg_qualified(arena, schema, t.table),
                       *c = sp_pg_ident(arena, t.key_column), *expected = NULL;
            if (other)
                ok(owner, sqlf("CREATE SCHEMA %s", sp_pg_ident(arena, schema)));
            ok(owner, sqlf("CREATE TABLE %s (%s integer PRIMARY KEY)", q, c));
            sp_error_t err = {0};
            const sp_guard_t *guard = other ? CLOSED("not_owner") : OWNS(&mine);
            set_guard(&t, guard);
            done(sp_guard_expected(&shard, &t, guard, arena, &expected, &err), &err);
            assert_string_equal(actual(&t), expected);
            refused(owner, sqlf("INSERT INTO %s VALUES (%d)", q, out), "not_owner");
            if (other) {
                refused(owner, sqlf("INSERT INTO %s VALUES (%d)", q, in), "not_owner");
                done(sp_guard_drop(ddl, &t, &err), &err);
                assert_string_equal(actual(&t), "");
                ok(owner, sqlf("INSERT INTO %s VALUES (%d); DROP SCHEMA %s CASCADE", q, out,
                               sp_pg_ident(arena, schema)));
            } else {
                ok(owner, sqlf("INSERT INTO %s VALUES (%d)", q, in));
            }
        }
    }
}

static void key_types(void **state)
{
    (void)state;
    sp_arcs_t mine = half();
    ok(owner, "CREATE TABLE t (k text PRIMARY KEY); CREATE TABLE v (k varchar(50) PRIMARY KEY); "
              "CREATE TABLE u (k uuid PRIMARY KEY);"
              "CREATE TABLE i (k smallint PRIMARY KEY)");
    const char *tables[] = {"t", "v", "u", "i"};
    for (int i = 0; i < 4; i++)
        set_guard(&(sp_owner_table_t){{"public", 6}, sp_str(tables[i]), {"k", 1}}, OWNS(&mine));
    const struct {
        const char *table, *key; // where and what
    } rows[] = {{"t", "\303\251t\303\251"},
                {"t", ""},
                {"t", "42"},
                {"v", "abc"},
                {"v", "zz"},
                {"u", "6f3f0a52-6d0c-4b64-9d0b-0d6ff0ff9d01"},
                {"u", "00000000-0000-0000-0000-000000000000"},
                {"i", "-32768"},
                {"i", "7"},
                {"i", "8"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const char *sql = sqlf("INSERT INTO %s VALUES ('%s')", rows[i].table, rows[i].key);
        if (sp_arcs_contains(mine, sp_key_hash(rows[i].key, strlen(rows[i].key))))
            ok(app, sql);
        else
            refused(app, sql, "not_owner");
    }
}

// Bodies must not look anything up in the writer's search_path.
static void search_path_cannot_fool(void **state)
{
    (void)state;
    sp_arcs_t mine = half();
    set_both(OWNS(&mine));
    ok(owner,
       "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO shop_app; SET search_path = evil, "
       "pg_catalog;"
       "CREATE FUNCTION evil.yes(name, name) RETURNS boolean LANGUAGE sql AS 'SELECT true';"
       "CREATE FUNCTION evil.one(integer, integer) RETURNS integer LANGUAGE sql AS 'SELECT 1';"
       "CREATE FUNCTION evil.hashtextextended(text, bigint) RETURNS bigint LANGUAGE sql AS 'SELECT "
       "1::bigint';"
       "CREATE FUNCTION evil.width_bucket(bigint, bigint[]) RETURNS integer LANGUAGE sql AS "
       "'SELECT 1';"
       "CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = name, FUNCTION = evil.yes);"
       "CREATE OPERATOR evil.% (LEFTARG = integer, RIGHTARG = integer, FUNCTION = evil.one);"
       "CREATE DOMAIN evil.text AS pg_catalog.int4; RESET search_path");
    sp_pg_t *pg =
        fixture_open("shop_app", &(sp_pg_options_t){.search_path = "evil, public, pg_catalog"});
    refused(pg, sqlf("INSERT INTO public.customers VALUES (%d, 'x')", key_in(false, 1)),
            "not_owner");
    ok(pg, sqlf("INSERT INTO public.customers VALUES (%d, 'x')", key_in(true, 1)));
    sp_pg_close(&pg);
    ok(owner, "DROP SCHEMA evil CASCADE");
}

static const sp_owner_table_t parted = {{"public", 6}, {"parted", 6}, {"k", 1}};

// A table with a leaf and a partitioned partition.
static void make_parted(void)
{
    ok(owner, "CREATE TABLE parted (k bigint NOT NULL, d integer NOT NULL, PRIMARY KEY (k, d)) "
              "PARTITION BY LIST (d);"
              "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);"
              "CREATE TABLE parted_3 PARTITION OF parted FOR VALUES IN (3, 4) PARTITION BY LIST "
              "(d);"
              "CREATE TABLE parted_4 PARTITION OF parted_3 FOR VALUES IN (3, 4)");
}

// Triggers of ours on the table and its partitions that are in a state.
static int64_t triggers(const char *where)
{
    return value(owner,
                 sqlf("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '~shardplane%%' AND "
                      "tgrelid IN (SELECT relid FROM pg_partition_tree('parted')) AND %s",
                      where));
}

// The parent's row guard is cloned to its partitions, those of later too; statements straight to a partition meet it there.
static void partitions_are_guarded(void **state)
{
    (void)state;
    sp_arcs_t mine = half();
    int in = key_in(true, 1), out = key_in(false, 1);
    make_parted();
    set_guard(&parted, OWNS(&mine));
    ok(owner, "CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2)");
    sp_pg_t *replica =
        fixture_open("shardplane_ddl",
                     &(sp_pg_options_t){.replica_role = true, .search_path = "public, pg_catalog"});
    static const int leaves[] = {1, 2, 4};
    for (int i = 0; i < 3; i++) {
        int d = leaves[i];
        ok(app, sqlf("INSERT INTO parted VALUES (%d, %d)", in, d));
        refused(app, sqlf("INSERT INTO parted VALUES (%d, %d)", out, d), "not_owner");
        refused(app, sqlf("INSERT INTO parted_%d VALUES (%d, %d)", d, out, d), "not_owner");
        refused(replica, sqlf("INSERT INTO parted_%d VALUES (%d, %d)", d, out, d), "not_owner");
        refused(app, sqlf("UPDATE parted SET k = %d WHERE d = %d", out, d), "not_owner");
    }
    sp_pg_close(&replica);
    // Rows move between partitions, not to keys of others on the way.
    ok(app, "UPDATE parted SET d = 3 WHERE d = 1");
    refused(app, sqlf("UPDATE parted SET d = 1, k = %d WHERE d = 3", out), "not_owner");
    assert_int_equal(value(owner, "SELECT count(*) FROM parted_4"), 2);
    ok(app, "DELETE FROM parted WHERE d = 3");
    set_guard(&parted, CLOSED("in_transition"));
    refused(app, "UPDATE parted SET k = 1 WHERE false", "in_transition");
    refused(app, sqlf("INSERT INTO parted_2 VALUES (%d, 2)", in), "in_transition");
}

// Statement triggers fire for the table that a statement names: each partition has its own, at any depth.
static void statements_to_partitions_are_refused(void **state)
{
    (void)state;
    sp_arcs_t mine = half();
    make_parted();
    set_guard(&parted, OWNS(&mine));
    assert_int_equal(triggers("tgenabled = 'A'"), 12);
    static const char *const names[] = {"parted", "parted_1", "parted_3", "parted_4"};
    for (int i = 0; i < 4; i++) {
        ok(app, sqlf("UPDATE %s SET k = 1 WHERE false", names[i]));
        refused(owner, sqlf("TRUNCATE %s", names[i]), "not_owner");
    }
    set_guard(&parted, CLOSED("not_owner"));
    for (int i = 0; i < 4; i++) {
        refused(app, sqlf("UPDATE %s SET k = 1 WHERE false", names[i]), "not_owner");
        refused(app, sqlf("DELETE FROM %s WHERE false", names[i]), "not_owner");
        refused(owner, sqlf("TRUNCATE %s", names[i]), "not_owner");
    }
    // A target under COPY: no row trigger, on no partition either.
    set_guard(&parted, &(sp_guard_t){.form = SP_GUARD_CLOSED, .reason = "in_transition"});
    assert_int_equal(triggers("tgname = '~shardplane_row'"), 0);
    assert_int_equal(triggers("true"), 8);
    refused(app, "UPDATE parted_4 SET k = 1 WHERE false", "in_transition");
    set_guard(&parted, OWNS(&all));
    assert_int_equal(triggers("tgenabled = 'A'"), 12);
    ok(owner, "TRUNCATE parted_4");
    ok(owner, "TRUNCATE parted");
    sp_error_t err = {0};
    done(sp_guard_drop(ddl, &parted, &err), &err);
    assert_int_equal(triggers("true"), 0);
}

// Rows of a child by inheritance are rows of the table, and no trigger of the table sees them.
static void children_are_in_the_digest(void **state)
{
    (void)state;
    sp_arcs_t mine = half();
    sp_error_t err = {0};
    const char *expected = NULL, *digest = NULL;
    set_guard(&customers, OWNS(&mine));
    done(sp_guard_expected(&shard, &customers, OWNS(&mine), arena, &expected, &err), &err);
    ok(owner, "CREATE TABLE child () INHERITS (customers)");
    ok(app, sqlf("INSERT INTO child VALUES (%d, 'x')", key_in(false, 1)));
    assert_string_equal(actual(&customers), "");
    ok(owner, "DROP TABLE child");
    assert_string_equal(actual(&customers), expected);
    ok(owner, "ALTER TABLE customers RENAME TO clients");
    assert_int_equal(sp_guard_actual(ddl, &customers, arena, &digest, &err), SP_E_NOT_FOUND);
    assert_null(digest);
}

// A difference on a partition is a difference of the table's guards, and setting them mends it.
static void partitions_are_in_the_digest(void **state)
{
    (void)state;
    sp_arcs_t mine = half();
    sp_error_t err = {0};
    const char *expected = NULL;
    make_parted();
    ok(owner, "CREATE TABLE parted_9 (k bigint NOT NULL, d integer NOT NULL, PRIMARY KEY (k, d));"
              "CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'");
    static const char *const faults[] =
        {"ALTER TABLE parted_1 DISABLE TRIGGER \"~shardplane_row\"",
         "ALTER TABLE parted_4 ENABLE TRIGGER \"~shardplane_row\"",
         "ALTER TABLE ONLY parted ENABLE TRIGGER \"~shardplane_row\"",
         "ALTER TABLE parted_3 ENABLE REPLICA TRIGGER \"~shardplane_stmt\"",
         "DROP TRIGGER \"~shardplane_stmt\" ON parted_4",
         "DROP TRIGGER \"~shardplane_trunc\" ON parted_1",
         ("CREATE OR REPLACE TRIGGER \"~shardplane_stmt\" BEFORE UPDATE ON parted_4 EXECUTE "
          "FUNCTION pass()"),
         ("CREATE TRIGGER \"\303\251 later\" BEFORE INSERT ON parted_4 FOR EACH ROW EXECUTE "
          "FUNCTION "
          "pass()"),
         "CREATE TABLE parted_5 PARTITION OF parted FOR VALUES IN (5)",
         "ALTER TABLE parted ATTACH PARTITION parted_9 FOR VALUES IN (9)"};
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        set_guard(&parted, OWNS(&mine));
        done(sp_guard_expected(&shard, &parted, OWNS(&mine), arena, &expected, &err), &err);
        assert_string_equal(actual(&parted), expected);
        ok(owner, faults[i]);
        if (actual(&parted)[0] != 0)
            fail_msg("not noticed: %s", faults[i]);
        ok(owner, "DROP TRIGGER IF EXISTS \"\303\251 later\" ON parted_4");
    }
    set_guard(&parted, OWNS(&mine));
    assert_string_equal(actual(&parted), expected);
    ok(owner, "ALTER TABLE parted DETACH PARTITION parted_9"); // keeps two triggers, owes none
    assert_string_equal(actual(&parted), expected);
    ok(owner, "ALTER TABLE parted ATTACH PARTITION parted_9 FOR VALUES IN (9)");
    assert_string_equal(actual(&parted), expected);
}

// A partition that comes, goes, or is another one of the same name changes the definition of the table above it.
static void partitions_are_in_the_fingerprint(void **state)
{
    (void)state;
    sp_error_t err = {0};
    make_parted();
    static const char *const changes[] =
        {"CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2)",
         "ALTER TABLE parted DETACH PARTITION parted_2",
         "DROP TABLE parted_2; CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2)",
         "DROP TABLE parted_2; CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2)"};
    const char *before = NULL, *after = NULL;
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        done(sp_owner_fingerprint(ddl, parted.schema, parted.table, arena, &before, &err), &err);
        ok(owner, changes[i]);
        done(sp_owner_fingerprint(ddl, parted.schema, parted.table, arena, &after, &err), &err);
        if (strcmp(before, after) == 0)
            fail_msg("not noticed: %s", changes[i]);
    }
    sp_str_t leaf = SP_STR("parted_2");
    done(sp_owner_fingerprint(ddl, parted.schema, leaf, arena, &before, &err), &err);
    ok(owner, "ALTER TABLE parted DETACH PARTITION parted_2; ALTER TABLE parted ATTACH PARTITION "
              "parted_2 FOR VALUES IN (2, 7)");
    done(sp_owner_fingerprint(ddl, parted.schema, leaf, arena, &after, &err), &err);
    assert_string_not_equal(before, after);
}

// Whoever may do what, and what a type or a policy lets in, is part of the definition.
static void types_policies_and_privileges_are_in_the_fingerprint(void **state)
{
    (void)state;
    sp_error_t err = {0};
    sp_str_t schema = SP_STR("public"), table = SP_STR("typed");
    ok(owner, "CREATE TYPE mood AS ENUM ('sad', 'ok');"
              "CREATE TYPE size AS ENUM ('small');"
              "CREATE DOMAIN few AS integer CHECK (VALUE < 9);"
              "CREATE DOMAIN sizes AS size[];"
              "CREATE TABLE typed (k bigint PRIMARY KEY, m mood, n few, s sizes);"
              "CREATE POLICY small ON typed USING (k > 0) WITH CHECK (k > 0)");
    static const char *const changes[] = {"ALTER POLICY small ON typed WITH CHECK (k > 1)",
                                          "ALTER POLICY small ON typed TO shop_app",
                                          ("DROP POLICY small ON typed; CREATE POLICY small ON "
                                           "typed FOR UPDATE TO shop_app "
                                           "USING (k > 0) WITH CHECK (k > 1)"),
                                          ("DROP POLICY small ON typed; CREATE POLICY small ON "
                                           "typed AS RESTRICTIVE FOR UPDATE TO "
                                           "shop_app USING (k > 0) WITH CHECK (k > 1)"),
                                          "ALTER TYPE mood ADD VALUE 'glad'",
                                          "ALTER TYPE mood RENAME VALUE 'ok' TO 'so'",
                                          "ALTER TYPE size ADD VALUE 'tiny' BEFORE 'small'",
                                          "ALTER DOMAIN few ADD CHECK (VALUE > 1)",
                                          "ALTER DOMAIN few SET DEFAULT 2",
                                          "ALTER DOMAIN sizes ADD CHECK (cardinality(VALUE) > 0)",
                                          "REVOKE SELECT ON typed FROM shop_app",
                                          "GRANT SELECT (m) ON typed TO shop_app"};
    const char *before = NULL, *after = NULL;
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        done(sp_owner_fingerprint(ddl, schema, table, arena, &before, &err), &err);
        ok(owner, changes[i]);
        done(sp_owner_fingerprint(ddl, schema, table, arena, &after, &err), &err);
        if (strcmp(before, after) == 0)
            fail_msg("not noticed: %s", changes[i]);
    }
}

static void requests_is_guarded(void **state)
{
    (void)state;
    sp_arcs_t mine = half();
    set_guard(&sp_owner_requests_table, OWNS(&mine));
    ok(app,
       sqlf("INSERT INTO shardplane.requests (key, request_id, body_hash) VALUES ('%d', 'r', 'h')",
            key_in(true, 1)));
    refused(app,
            sqlf("INSERT INTO shardplane.requests (key, request_id, body_hash) VALUES ('%d', 'r', "
                 "'h')",
                 key_in(false, 1)),
            "not_owner");
}

static void bad_arguments(void **state)
{
    (void)state;
    sp_error_t err = {0};
    int64_t unsorted[] = {5, 1};
    sp_arcs_t wrong = {unsorted, 2};
    sp_owner_table_t nowhere = {{"public", 6}, {"nowhere", 7}, {"id", 2}},
                     no_column = {{"public", 6}, {"orders", 6}, {"nope", 4}};
    sp_owner_shard_t strange = shard;
    strange.keyspace = "a\"b";
    assert_int_equal(sp_guard_set(ddl, &shard, &customers, OWNS(&wrong), &err),
                     SP_E_INVALID_ARGUMENT);
    assert_int_equal(sp_guard_set(ddl, &shard, &nowhere, OWNS(&all), &err), SP_E_NOT_FOUND);
    assert_int_equal(sp_guard_set(ddl, &shard, &no_column, OWNS(&all), &err), SP_E_NOT_FOUND);
    assert_int_equal(sp_guard_set(ddl, &strange, &customers, OWNS(&all), &err),
                     SP_E_INVALID_ARGUMENT);
    assert_int_equal(sp_guard_set(ddl, &shard, &customers, CLOSED("because"), &err),
                     SP_E_INVALID_ARGUMENT);
    assert_int_equal(sp_guard_set(ddl, &shard, &customers,
                                  &(sp_guard_t){.form = SP_GUARD_ARMED, .arcs = &all}, &err),
                     SP_E_INVALID_ARGUMENT);
}

static void terminate(void **state)
{
    (void)state;
    sp_error_t err = {0};
    sp_pg_t *a = fixture_open("shardplane_apply",
                              &(sp_pg_options_t){.application_name = "shardplane/job1/copy"});
    sp_pg_t *b = fixture_open("shardplane_apply",
                              &(sp_pg_options_t){.application_name = "shardplane/job12/copy"});
    sp_pg_t *c = fixture_open("shardplane_apply",
                              &(sp_pg_options_t){.application_name = "shardplane/job1/follow",
                                                 .replication = true});
    done(sp_owner_terminate(ddl, "job1", &err), &err);
    assert_int_equal(sp_pg_exec(a, "SELECT 1", &err), SP_E_PG_CONNECTION);
    ok(b, "SELECT 1");
    assert_int_equal(sp_pg_exec(c, "IDENTIFY_SYSTEM", &err), SP_E_PG_CONNECTION);
    sp_pg_close(&a);
    sp_pg_close(&b);
    sp_pg_close(&c);
}

static void refusal_parse(void **state)
{
    (void)state;
    sp_refusal_t r;
    assert_true(sp_refusal_parse("{\"reason\" : \"in_transition\", \"hash\": \"-5\", "
                                 "\"ring_version\" :12, \"keyspace\":\"x\"}",
                                 &r));
    assert_true(r.in_transition && r.has_hash && r.hash == -5 && r.ring_version == 12);
    static const char *const wrong[] = {"",
                                        "{}",
                                        "x",
                                        "{\"reason\":\"x\",\"ring_version\":1}",
                                        "{\"reason\":\"not_owner\"}",
                                        "{\"reason\"",
                                        "{\"reason\":\"not_owner\",\"ring_version\":x}"};
    assert_false(sp_refusal_parse(NULL, &r));
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_false(sp_refusal_parse(wrong[i], &r));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    all = sp_arcs_all();
    const struct CMUnitTest tests[] = {T(install_twice),
                                       T(hostile_apply_role),
                                       T(epochs),
                                       T(application_cannot_write_control),
                                       T(made_is_the_owners),
                                       T(replies_are_the_routers),
                                       T(installed_closed),
                                       T(everything_owned),
                                       T(half_owned),
                                       T(truncate_is_refused),
                                       T(copy_is_checked),
                                       T(closed),
                                       T(armed),
                                       T(null_key),
                                       T(replica_role_does_not_bypass),
                                       T(cascade_is_checked),
                                       T(seal_reaches_old_snapshots),
                                       T(writer_waits_for_seal),
                                       T(assert_owner),
                                       T(assert_owner_waits_for_no_seal),
                                       T(a_seal_waits_for_no_newcomer),
                                       T(ownership_round_trip),
                                       T(digests),
                                       T(altered_triggers_are_mended),
                                       T(hostile_names),
                                       T(key_types),
                                       T(search_path_cannot_fool),
                                       T(partitions_are_guarded),
                                       T(statements_to_partitions_are_refused),
                                       T(children_are_in_the_digest),
                                       T(partitions_are_in_the_digest),
                                       T(partitions_are_in_the_fingerprint),
                                       T(types_policies_and_privileges_are_in_the_fingerprint),
                                       T(requests_is_guarded),
                                       T(bad_arguments),
                                       T(terminate),
                                       cmocka_unit_test(refusal_parse)};
    return cmocka_run_group_tests(tests, fixture_start, fixture_stop);
}
