"""The follower against three real clusters, without manager and services: exactly once through crashes, the validation point, the fence."""
import contextlib
import os
import random
import signal
import subprocess
import time

import psycopg2
import pytest

from follow_driver import JOB, MIN, REPO, TABLES, Driver, Writers, qualified
from harness import rig
from harness.memory import memory_kb
from spstack.ports import free_base
from spstack.stack import Stack

RIG = os.environ.get("SP_FOLLOW_RIG", os.path.join(REPO, "build", "plain", "tests", "system", "follow_rig"))
FOLDER = os.path.join(rig.FOLDER, "follow")
ROUNDS = int(os.environ.get("SP_FOLLOW_ROUNDS", "5"))
SLOW = rig.SLOW


@pytest.fixture(scope="module")
def shards():
    os.makedirs(FOLDER, exist_ok=True)
    stack = Stack(os.path.join(FOLDER, "stack"))
    stack.up(shards=3, port_base=free_base(), services=False, fsync=False, fresh=True)
    yield stack.status()["shards"]
    stack.down(purge=True)


@pytest.fixture
def driver(shards, request):
    options = getattr(request, "param", {})
    made = Driver(FOLDER, RIG, shards, **options)
    made.make()
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()
    made.stop_writers()
    made.drop()


def both(**options):
    return pytest.mark.parametrize("driver", [{"source_keeps": k, **options} for k in (False, True)], indirect=True,
                                   ids=["source-keeps-nothing", "source-keeps-arcs"])


POINTS = (None, "follow_before_commit:kill@%d", "follow_after_commit:kill@%d", "follow_before_feedback:kill@2", "follow_started:kill",
          "follow_before_commit:error*1@%d", "follow_after_commit:sleep=200*1@%d")


@pytest.mark.parametrize("driver", [{"source_keeps": False, "binary": True}, {"source_keeps": True, "binary": True},
                                    {"source_keeps": False, "binary": False}], indirect=True, ids=["binary", "source-keeps-arcs", "text"])
def test_each_change_once_through_crashes(driver):
    rnd = random.Random(11)
    writers = Writers(driver, n=2, seed=rnd.randint(1, 1000), pause=0.004)
    for _ in range(ROUNDS):
        point = rnd.choice(POINTS)
        driver.start(point % rnd.randint(1, 30) if point and "%d" in point else point)
        try:
            driver.process.wait(rnd.uniform(0.1, 1.2))
        except subprocess.TimeoutExpired:
            driver.kill()
        assert not [u for u in driver.updates if u["state"] == "failed"], driver.updates[-1]
    writers.stop()
    assert writers.commits > 50
    driver.start()
    driver.catch_up(60 * SLOW)
    assert driver.differences() == []
    assert driver.stop() == 0


def test_the_comparison_sees_defects(driver):
    driver.start()
    driver.catch_up()
    assert driver.differences() == []
    for shard, plant in ((1, "DELETE FROM customers WHERE id = (SELECT min(id) FROM customers)"),
                         (2, "UPDATE customers SET note = '' WHERE id = (SELECT min(id) FROM customers)"),
                         (1, "INSERT INTO customers VALUES (-1, 'phantom', '', NULL)")):
        driver.sql(shard, plant, role="apply_endpoint")
        assert len(driver.differences()) > 0
        driver.sql(shard, "DELETE FROM customers", role="apply_endpoint")


def test_a_change_that_hits_no_row_is_divergence(driver):
    driver.sql(1, "DELETE FROM customers", role="apply_endpoint")
    driver.start()
    driver.sql(0, "UPDATE customers SET name = 'x'")
    failed = driver.wait("failure", lambda u: u["state"] == "failed")
    assert failed["error"]["code"] == "validation_failed" and not failed["error"]["retryable"]
    assert '"customers" (id=' in failed["error"]["message"] and driver.shards[1]["name"] in failed["error"]["message"]
    # Nothing of it was made durable: a new follower finds the same.
    driver.process.wait(10)
    driver.start()
    driver.wait("failure", lambda u: u["state"] == "failed")


@pytest.mark.parametrize("change, words", [
    ("ALTER TABLE customers ADD COLUMN more int; UPDATE customers SET more = 1", "columns"),
    ("ALTER TABLE customers RENAME ref TO other; UPDATE customers SET other = NULL", "not in the job's plan"),
    ("ALTER TABLE customers DISABLE TRIGGER USER; TRUNCATE customers", "truncated"),
    ("DROP TABLE customers; CREATE TABLE customers (id bigint PRIMARY KEY, name text, note text, ref int UNIQUE);"
     "ALTER PUBLICATION shp_" + JOB + " ADD TABLE customers; INSERT INTO customers VALUES (1)", "another table"),
])
def test_a_changed_schema_stops_the_job(driver, change, words):
    driver.start()
    driver.catch_up()
    driver.super(0, change)
    failed = driver.wait("failure", lambda u: u["state"] == "failed")
    assert failed["error"]["code"] == "schema_changed" and not failed["error"]["retryable"], failed
    assert words in failed["error"]["message"]


def test_a_missing_slot_is_never_made_again(driver):
    driver.super(0, f"SELECT pg_drop_replication_slot('{driver.slot}')")
    driver.start()
    failed = driver.wait("failure", lambda u: u["state"] == "failed")
    assert failed["error"]["code"] == "not_found" and not failed["error"]["retryable"]
    assert driver.super(0, "SELECT count(*) FROM pg_replication_slots", True) == [(0,)]


def test_a_target_that_lost_its_progress_is_found_out(driver):
    driver.start()
    driver.catch_up()
    before = driver.lsn()
    driver.sql(0, "UPDATE customers SET name = 'y' WHERE id < 10")
    deadline = time.monotonic() + 30 * SLOW
    # The slot has moved past what a target without progress would have to be sent again.
    while driver.super(0, f"SELECT confirmed_flush_lsn > '{before}' FROM pg_replication_slots", True) != [(True,)]:
        assert time.monotonic() < deadline, "the update was never confirmed to the source"
        time.sleep(0.05)
    assert driver.stop() == 0
    wait_for_backends(driver)
    driver.super(1, "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin")
    driver.start()
    failed = driver.wait("failure", lambda u: u["state"] == "failed")
    assert failed["error"]["code"] == "conflict" and not failed["error"]["retryable"] and "copy again" in failed["error"]["message"]


def test_a_newer_leader_stops_the_follower(driver):
    driver.start()
    driver.catch_up()
    driver.super(1, "UPDATE shardplane.control SET epoch = epoch + 1")
    driver.sql(0, "UPDATE customers SET name = 'z'")
    failed = driver.wait("failure", lambda u: u["state"] == "failed")
    assert failed["error"]["code"] == "stale_epoch"
    assert driver.super(1, "SELECT count(*) FROM customers WHERE name = 'z'", True) == [(0,)]


@both()
def test_validation_point_is_one_moment(driver):
    driver.start()
    writers = Writers(driver, n=2, seed=3)
    for _ in range(3):
        time.sleep(0.3)
        driver.forget()
        driver.tell("validate_point")
        u = driver.wait("snapshot", lambda u: u.get("snapshot"), 30 * SLOW)
        for schema, table, key, _pk, columns in TABLES:
            names = ", ".join(f'"{c}"::text' for c in columns)
            for i in (0, 1):
                query = f"SELECT {names} FROM {qualified(schema, table)} WHERE %s ORDER BY 1, 2"
                assert at(driver, 0, u["snapshot"], query % driver.where(key, i)) == at(driver, i + 1, u["target_snapshots"][i], query % "true")
        driver.tell("validate_release")
        driver.wait("release", lambda u: u is driver.updates[-1] and "snapshot" not in u)
    writers.stop()
    driver.catch_up()
    assert driver.differences() == []


def at(driver, shard, snapshot, query):
    connection = psycopg2.connect(driver.shards[shard]["superuser_endpoint"])
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
            cursor.execute(query)
            return cursor.fetchall()
    finally:
        connection.close()


def fence(driver, attempt, budget_ms=1500, lock_wait_ms=300):
    driver.tell("fence", attempt=attempt, nonce=f"nonce-of-{attempt}", budget_ms=int(budget_ms * SLOW), lock_wait_ms=lock_wait_ms, ring_version=9)
    return driver.wait("fence", lambda u: u.get("fence_attempt") == attempt, 20 * SLOW)


@both()
def test_fence_seals_and_opens(driver):
    driver.start()
    writers = Writers(driver, n=2, seed=4)
    driver.catch_up()
    for attempt in range(2, 8):
        u = fence(driver, attempt)
        if u["fence"] == "sealed":
            break
        time.sleep(0.2)
    assert u["fence"] == "sealed", u
    assert u["fence_started_us"] < u["fence_sealed_us"] and not u.get("flushed_replicas")  # the shards here have none
    assert driver.super(0, "SELECT state, attempt, nonce FROM shardplane.ownership", True) == [("sealed", attempt, f"nonce-of-{attempt}")]
    refused = writers.refused
    deadline = time.monotonic() + 10 * SLOW
    while writers.refused == refused:
        assert time.monotonic() < deadline, "the source still takes every write"
        time.sleep(0.05)
    writers.stop()
    # Before opening, everything that was acknowledged is there.
    assert driver.differences() == []
    driver.tell("open", attempt=attempt, ring_version=9)
    driver.wait("opened", lambda u: u.get("fence") == "opened")
    for i in (1, 2):
        assert driver.super(i, "SELECT count(*) FROM shardplane.opened", True) == [(1,)]
    check_sequences(driver)


def check_sequences(driver):
    for name, start, base in (('public."Orders_id_seq"', 1, 1), ('"odd schema"."n seq"', 5, 3)):
        issued = driver.super(0, f"SELECT last_value FROM {name}", True)[0][0]
        given = {}
        for i in range(3):
            given[i] = {driver.super(i, f"SELECT nextval('{name}')", True)[0][0] for _ in range(3)}
        for i in (1, 2):
            assert min(given[i]) > issued
            assert {(v - start) // base % 64 for v in given[i]} == {i} and {(v - start) % base for v in given[i]} == {0}
        if driver.keeps:
            assert {(v - start) // base % 64 for v in given[0]} == {0}
        assert not given[1] & given[2] and (not driver.keeps or not given[0] & (given[1] | given[2]))


@pytest.mark.parametrize("point, state", [("fence_after_lock:kill", "open"), ("fence_after_marker:kill", "open"), ("fence_before_seal:kill", "open"),
                                          ("fence_before_seal:stop", "open"), ("fence_after_seal:kill", "sealed")])
def test_a_death_before_the_seal_lifts_the_fence(driver, point, state):
    driver.start(point)
    driver.catch_up()
    driver.tell("fence", attempt=2, nonce="n", budget_ms=int(800 * SLOW), lock_wait_ms=300, ring_version=9)
    if point.endswith("kill"):
        driver.process.wait(20 * SLOW)
    deadline = time.monotonic() + 5 * SLOW
    while True:  # a write passes, or is refused, but does not hang
        try:
            driver.sql(0, "SET lock_timeout = '100ms'; UPDATE customers SET name = 'after' WHERE id = 1", role="primary_endpoint")
            assert state == "open"
            break
        except psycopg2.Error as e:
            if e.pgcode == "SHP01":
                assert state == "sealed"
                break
            assert e.pgcode == "55P03" and time.monotonic() < deadline, e
    assert driver.super(0, "SELECT state FROM shardplane.ownership", True) == [(state,)]


def test_blockers_are_named(driver):
    driver.start()
    driver.catch_up()
    holder = psycopg2.connect(driver.shards[0]["primary_endpoint"], application_name="long report")
    holder.cursor().execute("UPDATE customers SET name = 'held' WHERE id = 1")
    began = time.monotonic()
    u = fence(driver, 2, budget_ms=800, lock_wait_ms=100)
    assert u["fence"] == "lifted" and "long report" in u["detail"], u
    assert time.monotonic() - began < 6 * SLOW
    driver.sql(0, "UPDATE customers SET name = 'free' WHERE id = 2")
    holder.rollback()
    holder.close()
    assert fence(driver, 3)["fence"] == "sealed"


def test_a_change_that_the_stream_does_not_show_voids_the_seal(driver):
    driver.start()
    driver.catch_up()
    driver.super(0, "ALTER TABLE customers ADD COLUMN quiet int")  # no row changes: nothing reaches pgoutput
    u = fence(driver, 2)
    assert u["fence"] == "lifted" and "altered" in u["detail"], u
    assert driver.super(0, "SELECT state FROM shardplane.ownership", True) == [("open",)]


def test_lost_connections_are_made_again(driver):
    driver.start()
    writers = Writers(driver, n=1, seed=8)
    for _ in range(4):
        time.sleep(0.4)
        for i in range(3):
            driver.super(i, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'shardplane/%' AND random() < 0.7")
    writers.stop()
    driver.catch_up(40 * SLOW)
    assert driver.differences() == []
    assert driver.process.poll() is None


def wait_for_backends(driver):
    """A backend of a follower that has ended works off what it was sent, and lets go of its origin, a moment later."""
    deadline = time.monotonic() + 30
    for i in range(3):
        while driver.super(i, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'shardplane/%'", True) != [(0,)]:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def swap(driver):
    """Two rows with values out of line change places between the targets, in one transaction; returns their new ids."""
    homes = dict(driver.super(0, "SELECT i, width_bucket(hashtextextended(i::text, 0), ARRAY[%d, 0]::int8[]) FROM generate_series(1, 9999) i" % MIN, True))
    taken = [k for (k,) in driver.super(0, "SELECT id FROM customers WHERE length(note) > 2000 ORDER BY id", True)]
    free = [k for k in range(5000, 9999) if k not in taken]
    first, second = (next(k for k in taken if homes[k] == home) for home in (1, 2))
    to_second, to_first = (next(k for k in free if homes[k] == home) for home in (2, 1))
    driver.sql(0, f"BEGIN; UPDATE customers SET id = {to_second} WHERE id = {first}; UPDATE customers SET id = {to_first} WHERE id = {second}; COMMIT")
    return to_first, to_second


def test_rows_go_both_ways_in_one_transaction(driver):
    driver.start("follow_after_commit:sleep=200")
    swap(driver)
    driver.catch_up()
    assert driver.differences() == []


def test_rows_go_both_ways_and_the_follower_dies_between_the_commits(driver):
    for n in (1, 2) * 6:  # idle lanes may commit before them
        at_first, at_second = swap(driver)
        driver.start(f"follow_after_commit:kill@{n}")
        driver.process.wait(20 * SLOW)
        wait_for_backends(driver)
        arrived = [driver.super(shard, f"SELECT count(*) FROM customers WHERE id = {k}", True)[0][0] for shard, k in ((1, at_first), (2, at_second))]
        driver.start()
        driver.catch_up()
        assert driver.differences() == []
        driver.stop()
        if sorted(arrived) == [0, 1]:
            return
    raise AssertionError("no death fell between the two commits")


def test_deferrable_unique_values_swapped_in_one_statement(driver):
    for i in range(3):
        driver.sql(i, "ALTER TABLE customers ADD CONSTRAINT name_once UNIQUE (name) DEFERRABLE")
    driver.start()
    low = [k for (k,) in driver.super(1, "SELECT id FROM customers ORDER BY id LIMIT 2", True)]
    driver.sql(0, "UPDATE customers SET name = CASE id WHEN %s THEN (SELECT name FROM customers WHERE id = %s) "
                  "ELSE (SELECT name FROM customers WHERE id = %s) END WHERE id IN (%s, %s)", (low[0], low[1], low[0], *low))
    driver.catch_up()
    assert driver.differences() == []
    # A relation that is sent again, and is the same, costs no new statements.
    for _ in range(3):
        driver.sql(0, "ANALYZE customers; UPDATE customers SET note = 'again' WHERE id = %s", (low[0],))
    driver.catch_up()
    assert driver.differences() == []


def moving_keys(driver, home):
    """A customer with a value out of line whose key lies in `home` (1, 2: a target, 3: the source keeps it), and a free key of target 1."""
    homes = dict(driver.super(0, "SELECT i, width_bucket(hashtextextended(i::text, 0), ARRAY[%d, 0, %d]::int8[]) FROM generate_series(1, 9999) i"
                              % (MIN, 2 ** 62), True))
    taken = [k for (k,) in driver.super(0, "SELECT id FROM customers WHERE length(note) > 2000 ORDER BY id", True)]
    return next(k for k in taken if homes[k] == home), next(k for k in range(5000, 9999) if homes[k] == 1 and k not in taken)


@pytest.mark.parametrize("driver", [{"source_keeps": True}], indirect=True, ids=["source-keeps-arcs"])
def test_a_change_that_fails_while_a_fence_is_prepared_is_not_lost(driver):
    driver.start()
    driver.catch_up()
    kept, free = moving_keys(driver, 3)
    there, _ = moving_keys(driver, 1)
    with held(driver, 0, "LOCK TABLE pg_policy IN ACCESS EXCLUSIVE MODE"):  # fingerprints wait for it
        driver.tell("fence", attempt=2, nonce="n", budget_ms=int(3000 * SLOW), lock_wait_ms=int(3000 * SLOW), ring_version=9)
        waits_for(driver, "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE '%/fence' AND wait_event_type = 'Lock'")
        driver.super(0, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'shardplane/{JOB}/follow' "
                        "AND backend_type = 'client backend'")
        # The second change needs the source for its value; the first one makes a transaction that is committed soon.
        driver.sql(0, f"BEGIN; UPDATE customers SET name = 'there' WHERE id = {there}; UPDATE customers SET id = {free} WHERE id = {kept}; COMMIT")
        waits_for(driver, f"SELECT 1 FROM pg_stat_replication WHERE sent_lsn >= '{driver.lsn()}'")
    driver.wait("fence", lambda u: u.get("fence_attempt") == 2, 20 * SLOW)
    driver.catch_up()
    assert driver.differences() == []


@contextlib.contextmanager
def held(driver, shard, statement):
    """A transaction that has run the statement is open."""
    connection = psycopg2.connect(driver.shards[shard]["superuser_endpoint"])
    try:
        connection.cursor().execute(statement)
        yield
    finally:
        connection.close()


WAITS = f"SELECT 1 FROM pg_stat_activity WHERE application_name = 'shardplane/{JOB}/follow' AND wait_event_type = 'Lock'"


def waits_for(driver, query, shard=0, seconds=10):
    deadline = time.monotonic() + seconds * SLOW
    while not driver.super(shard, query, True):
        assert time.monotonic() < deadline, f"no row of {query}"
        time.sleep(0.02)


def test_a_target_that_takes_nothing_is_not_buffered_for(driver):
    driver.start()
    driver.catch_up()
    with held(driver, 1, "LOCK TABLE customers IN ACCESS EXCLUSIVE MODE"):
        driver.sql(0, f"INSERT INTO customers SELECT i, 'big', repeat(md5(i::text), 32768), i FROM generate_series(10000, 10400) i WHERE {driver.where('i', 0)}")
        waits_for(driver, WAITS, shard=1)
        # The stream is read on for as long as there is room: all 200 MB at most.
        sent, deadline = False, time.monotonic() + 5 * SLOW
        while not sent and time.monotonic() < deadline:
            time.sleep(0.1)
            sent = driver.super(0, f"SELECT bool_and(sent_lsn >= '{driver.lsn()}') FROM pg_stat_replication", True) == [(True,)]
    driver.catch_up()
    assert driver.differences() == []
    assert rig.SANITIZED or memory_kb(driver.process.pid, "VmHWM") < 64 * 1024


@both()
def test_a_large_value_moves_with_its_row(driver):
    row, free = moving_keys(driver, 2)
    driver.sql(0, "UPDATE customers SET note = repeat(md5('large'), 2300000) WHERE id = %s", (row,))
    driver.sql(0, "UPDATE \"Orders\" SET blob = decode(repeat(md5('large'), 2300000), 'hex') WHERE customer_id = %s", (row,))
    driver.start()
    driver.catch_up()
    driver.sql(0, "UPDATE customers SET id = %s WHERE id = %s", (free, row))
    driver.sql(0, "UPDATE \"Orders\" SET customer_id = %s WHERE customer_id = %s", (free, row))
    driver.catch_up()
    assert driver.differences() == []


@pytest.mark.parametrize("driver", [{"source_keeps": True}], indirect=True, ids=["source-keeps-arcs"])
def test_a_locked_source_does_not_keep_the_follower_from_its_stop(driver):
    kept, free = moving_keys(driver, 3)
    driver.start()
    driver.catch_up()
    driver.process.send_signal(signal.SIGSTOP)
    driver.sql(0, f"UPDATE customers SET id = {free} WHERE id = {kept}")
    with held(driver, 0, "LOCK TABLE customers IN ACCESS EXCLUSIVE MODE"):
        driver.process.send_signal(signal.SIGCONT)
        waits_for(driver, WAITS)
        assert driver.stop() == 0
    driver.start()
    driver.catch_up()
    assert driver.differences() == []


@pytest.mark.parametrize("driver", [{"source_keeps": True}], indirect=True, ids=["source-keeps-arcs"])
def test_a_value_from_the_source_is_as_old_as_the_validation_point(driver):
    kept, free = moving_keys(driver, 3)
    driver.start("follow_point_slot:sleep=%d" % int(2000 * SLOW))
    driver.catch_up()
    slots = "SELECT 1 FROM pg_replication_slots WHERE temporary"
    with held(driver, 0, "SELECT pg_current_xact_id()"):  # a writer, which the slot waits for
        driver.tell("validate_point")
        waits_for(driver, slots)
        driver.sql(0, f"UPDATE customers SET id = {free} WHERE id = {kept}")
    waits_for(driver, slots + " AND confirmed_flush_lsn IS NOT NULL")
    driver.sql(0, f"UPDATE customers SET note = 'later than the point' WHERE id = {free}")
    u = driver.wait("snapshot", lambda u: u.get("snapshot"), 30 * SLOW)
    row = f"SELECT id, name, note, ref FROM customers WHERE id = {free}"
    assert at(driver, 1, u["target_snapshots"][0], row) == at(driver, 0, u["snapshot"], row) != []
    driver.tell("validate_release")
    driver.catch_up()
    assert driver.differences() == []


def test_a_lane_that_waits_is_told(driver):
    driver.start()
    driver.catch_up()
    row, _ = moving_keys(driver, 1)
    with held(driver, 1, f"SELECT 1 FROM customers WHERE id = {row} FOR UPDATE"):
        driver.sql(0, "UPDATE customers SET name = 'waits' WHERE id = %s", (row,))
        waits_for(driver, WAITS, shard=1)
        driver.forget()
        driver.wait("lag", lambda u: u.get("lag_bytes", 0) > 0 and u.get("lag_ms", 0) > 1000, 10 * SLOW)
    driver.catch_up()
    assert driver.differences() == []


@both()
def test_a_sequence_of_no_table_goes_on(driver):
    for i in range(3):
        driver.sql(i, "CREATE SEQUENCE alone MAXVALUE 1000000; CREATE SEQUENCE alone_again CYCLE MAXVALUE 9")
    driver.sql(0, "SELECT setval('alone', 5000); CREATE SEQUENCE late")  # the targets do not have that one
    driver.start()
    driver.catch_up()
    u = fence(driver, 2)
    assert u["fence"] == "sealed", u
    given = [driver.super(i, "SELECT nextval('alone')", True)[0][0] for i in range(3)]
    assert min(given[1:]) > 5000 and [(v - 1) % 64 for v in given[1:]] == [1, 2]
    assert given[0] == 5001 or driver.keeps and (given[0] - 1) % 64 == 0 and given[0] > 5000
