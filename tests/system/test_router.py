"""Routers: statements on the owner of a key, whatever happens to it meanwhile."""
import json
import os
import signal
import threading
import time

import msgpack
import psycopg2
import pytest
import zmq

from harness import catalog
from harness.rig import SLOW
from harness.sql import query
from ledger.route_client import RouteClient, RouteError

INSERT = "INSERT INTO things (k, v) VALUES ($1, 1)"
UPSERT = "INSERT INTO things (k, v) VALUES ($1, 1) ON CONFLICT (k) DO UPDATE SET v = things.v + 1 RETURNING v"


class Things:
    """A keyspace with one table, `things`, in shard a."""

    def __init__(self, rig):
        self.rig, self.name = rig, rig.new_name("things")
        self.shards = rig.databases(self.name)
        self.sql("a", "CREATE TABLE things (k bigint PRIMARY KEY, v integer NOT NULL, "
                      "ref bigint REFERENCES things DEFERRABLE INITIALLY DEFERRED)", "owner")
        rig.api.post("/api/v1/keyspaces", {"name": self.name})
        self.register("a")
        rig.api.post(f"/api/v1/keyspaces/{self.name}/tables", {"table": "things", "key_column": "k"}, timeout=60)
        self.client = RouteClient(rig.router_endpoints[:1], self.name)
        # Without a wait: whoever has registered something may use it at once.
        assert self.client.shard_for_key(1)[0] == f"{self.name}-a"

    def register(self, letter):
        s = self.shards[letter]
        self.rig.api.post("/api/v1/shards", {"name": s["name"], "keyspace": self.name, **{
            f"{role}_endpoint": s[f"{role}_endpoint"] for role in ("primary", "admin", "apply")}}, timeout=60)

    def sql(self, letter, text, role="superuser"):
        return query(self.shards[letter][f"{role}_endpoint"], text)

    def split(self):
        for letter in "bc":
            self.register(letter)
        job = self.rig.api.split(f"{self.name}-a", [f"{self.name}-b", f"{self.name}-c"])["id"]
        return lambda: self.rig.api.wait_job(job, "completed", 60 * SLOW)

    def rows(self):
        return {k: v for letter in "bc" for k, v in self.sql(letter, "SELECT k, v FROM things")}


@pytest.fixture
def things(rig):
    made = Things(rig)
    yield made
    made.client.close()


def refused(client, code, key, statements, **kwargs):
    with pytest.raises(RouteError) as wrong:
        client.execute(key, statements, **kwargs)
    assert wrong.value.code == code, wrong.value
    return wrong.value


def test_a_request_is_one_transaction(things):
    c = things.client
    reply = c.execute(1, [(INSERT, [1]), ("UPDATE things SET v = v + 1 WHERE k = $1", [1]), ("SELECT v FROM things WHERE k = $1", [1])])
    assert [r[2] for r in reply[3]] == [1, 1, 1] and reply[3][2][4] == [[2]] and reply[4] == "primary"
    e = refused(c, "sql_error", 1, [("UPDATE things SET v = 99 WHERE k = $1", [1]), ("SELECT 1 / 0", [])])
    assert e.details["sqlstate"] == "22012" and e.details["statement"] == 1
    # A constraint that only the commit finds broken.
    e = refused(c, "sql_error", 1, [("UPDATE things SET v = 98, ref = 5 WHERE k = $1", [1])])
    assert e.details["sqlstate"] == "23503"
    assert c.execute(1, [("SELECT v FROM things WHERE k = 1", [])])[3][0][4] == [[2]]
    # The canonical form of a key.
    assert c.shard_for_key("+0001") == c.shard_for_key(1)
    refused(c, "invalid_argument", "one", [("SELECT 1", [])])


def test_a_long_error_reaches_the_client_with_its_facts(things):
    """Texts are cut, and the cut falls into a character."""
    things.sql("a", "ALTER TABLE things ADD name text UNIQUE", "owner")
    insert = "INSERT INTO things (k, v, name) VALUES ($1, 1, $2)"
    for n, name in enumerate(("é" * 600, "x" + "é" * 600)):
        things.client.execute(n, [(insert, [n, name])])
        e = refused(things.client, "sql_error", 9, [(insert, [9, name])])
        assert e.details["sqlstate"] == "23505" and e.details["detail"].startswith("Key (name)=(") and "duplicate key" in str(e)
        e = refused(things.client, "sql_error", 9, [(f"SELECT '{name}'::integer", [])])
        assert e.details["sqlstate"] == "22P02" and "invalid input syntax" in str(e)


def test_eventual_reads_fall_back_to_the_primary(things):
    c = things.client
    c.execute(1, [(INSERT, [1])])
    reply = c.execute(1, [("SELECT v FROM things WHERE k = 1", [])], consistency=2)
    assert reply[3][0][4] == [[1]] and reply[4] == "primary"  # the cell has no replicas
    refused(c, "invalid_argument", 1, [("UPDATE things SET v = 2", [])], consistency=2)
    refused(c, "invalid_argument", 1, [("SELECT 1", []), ("SELECT 2", [])], consistency=2)
    # Nothing is written there, as nothing would be on a replica: who loses the answer asks again.
    things.sql("a", "CREATE FUNCTION sly() RETURNS bigint LANGUAGE sql AS 'INSERT INTO things (k, v) VALUES (2, 2) RETURNING k'")
    e = refused(c, "sql_error", 1, [("SELECT sly()", [])], consistency=2)
    assert e.details["sqlstate"] == "25006"
    assert things.sql("a", "SELECT k FROM things") == [(1,)]


def test_a_read_runs_read_only_until_it_is_seen_to_write(things):
    """Only what writes nothing may be run again after a lost connection, and words alone cannot tell: a view may call anything."""
    c = things.client
    things.sql("a", """CREATE FUNCTION note() RETURNS bigint LANGUAGE sql AS 'INSERT INTO things (k, v) VALUES (2, 2) RETURNING k';
        CREATE VIEW sly AS SELECT note() AS k; GRANT SELECT ON sly TO PUBLIC;
        CREATE VIEW how AS SELECT current_setting('transaction_read_only') AS read_only; GRANT SELECT ON how TO PUBLIC""")
    assert c.execute(1, [("SELECT * FROM how", [])])[3][0][4] == [["on"]]
    assert c.execute(1, [(INSERT, [1]), ("SELECT * FROM how", [])])[3][1][4] == [["off"]]
    assert c.execute(2, [("SELECT * FROM sly", [])])[3][0][4] == [[2]]
    assert things.sql("a", "SELECT k FROM things ORDER BY k") == [(1,), (2,)]
    assert c.execute(1, [("SELECT v FROM things WHERE k = 1 FOR SHARE", [])])[3][0][4] == [[1]]


def test_limits(things):
    c = things.client
    refused(c, "too_large", 1, [("SELECT generate_series(1, 100001)", [])])
    refused(c, "too_large", 1, [("SELECT repeat('x', 9000000)", [])])
    start = time.monotonic()
    refused(c, "deadline_exceeded", 1, [("SELECT pg_sleep(30)", [])], timeout_ms=300)
    assert time.monotonic() - start < 2 * SLOW
    assert c.execute(1, [("SELECT 1", [])])[3][0][4] == [[1]]


def test_a_slow_statement_does_not_stop_the_others(things):
    slow = [RouteClient(things.rig.router_endpoints[:1], things.name) for _ in range(3)]
    threads = [threading.Thread(target=c.execute, args=(1, [("SELECT pg_sleep(2)", [])])) for c in slow]
    for t in threads:
        t.start()
    time.sleep(0.2)
    start = time.monotonic()
    for _ in range(50):
        things.client.execute(1, [("SELECT 1", [])])
    assert time.monotonic() - start < 1.5 * SLOW
    for t in threads:
        t.join()
    for c in slow:
        c.close()


def test_who_waits_longest_for_a_connection_is_served_first(things):
    """More requests than connections can carry, and a new one for each answer: nobody waits until the rush is over."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(things.rig.router_endpoints[0])

    def send(n):
        socket.send_multipart([msgpack.packb({1: 1, 2: 105, 3: str(n), 4: 60000}),
                               msgpack.packb({1: things.name, 2: "1", 4: "SELECT pg_sleep(0.01)", 8: 60000})])

    first, sent, answered = set(range(300)), 300, 0
    for n in first:
        send(n)
    while first:
        assert socket.poll(30000 * SLOW), "no answer"
        envelope, body = (msgpack.unpackb(f, strict_map_key=False) for f in socket.recv_multipart())
        assert envelope[2] == 106, body
        first.discard(int(envelope[3]))
        answered += 1
        assert answered < 600, f"{len(first)} of the first 300 still wait"
        send(sent)
        sent += 1
    socket.close()


def test_idempotency_key(things):
    c = things.client
    first = c.execute(1, [(UPSERT, [1])], idempotency_key="a")
    assert c.execute(1, [(UPSERT, [1])], idempotency_key="a") == first
    refused(c, "idempotency_mismatch", 1, [(UPSERT, [2])], idempotency_key="a")
    assert c.execute(1, [(UPSERT, [1])], idempotency_key="b")[3][0][4] == [[2]]
    # What fails leaves no trace: the key may be used again.
    refused(c, "sql_error", 1, [("SELECT 1 / 0", [])], idempotency_key="c")
    assert c.execute(1, [(UPSERT, [1])], idempotency_key="c")[3][0][4] == [[3]]
    # Many at once: one effect.
    replies = []

    def repeat():
        mine = RouteClient(things.rig.router_endpoints, things.name)
        replies.append(mine.execute(1, [(UPSERT, [1])], idempotency_key="d")[3][0][4])
        mine.close()

    threads = [threading.Thread(target=repeat) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert replies == [[[4]]] * 8


def test_a_long_reply_is_kept_under_its_idempotency_key(things):
    """It is far larger than the request, and so is what it takes to read it back."""
    c = things.client
    things.sql("a", "INSERT INTO things SELECT n, 1 FROM generate_series(1, 40000) n", "owner")
    for key, columns in (("many", "k"), ("wide", "k, repeat('x', 15) AS x")):
        update = f"UPDATE things SET v = v + 1 WHERE k <= 40000 RETURNING {columns}"
        first = c.execute(1, [(update, [])], idempotency_key=key)
        assert len(first[3][0][4]) == 40000
        assert c.execute(1, [(update, [])], idempotency_key=key) == first
    assert things.sql("a", "SELECT DISTINCT v FROM things") == [(3,)]


def test_an_idempotency_key_keeps_to_the_deadline(things):
    """The statement ends with it, and so do its locks; and it may last longer than the session's own limit."""
    c = things.client
    c.execute(1, [(INSERT, [1])])
    with psycopg2.connect(things.shards["a"]["superuser_endpoint"]) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT FROM things WHERE k = 1 FOR UPDATE")
        refused(c, "deadline_exceeded", 1, [(UPSERT, [2]), (UPSERT, [1])], idempotency_key="a", timeout_ms=500)
        things.rig.stack.wait_for("the end of the statement", lambda: things.sql(
            "a", "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") == [(0,)], 2 * SLOW)
    assert things.sql("a", "SELECT k, v FROM things") == [(1, 1)]
    reply = c.execute(1, [("SELECT current_setting('statement_timeout')", [])], idempotency_key="b", timeout_ms=90000)
    assert reply[3][0][4][0][0].startswith("89")


def test_a_result_that_is_too_large_says_what_became_of_the_write(things):
    c = things.client
    many = "SELECT generate_series(1, 100001)"
    e = refused(c, "too_large", 1, [(INSERT, [1]), (many, [])])
    assert "is committed" in str(e) and things.sql("a", "SELECT k FROM things") == [(1,)]
    e = refused(c, "too_large", 2, [(INSERT, [2]), (many, [])], idempotency_key="a")
    assert "nothing was changed" in str(e) and "is committed" not in str(e)
    assert things.sql("a", "SELECT k FROM things") == [(1,)]


def test_a_lost_commit_stays_unknown_until_its_key_was_looked_up(things):
    """The connection is lost inside COMMIT, and the attempt that should decide waits for a lock until the deadline."""
    things.sql("a", """CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(20); RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON things DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION dawdle()""")
    told = []

    def write():
        c = RouteClient(things.rig.router_endpoints[:1], things.name)
        told.append(refused(c, "outcome_unknown", 1, [(INSERT, [1])], idempotency_key="a", timeout_ms=4000))
        c.close()

    writer = threading.Thread(target=write)
    writer.start()
    sleeping = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    pid = things.rig.stack.wait_for("the commit", lambda: things.sql("a", sleeping), 10 * SLOW)[0][0]
    with psycopg2.connect(things.shards["a"]["superuser_endpoint"]) as holder, holder.cursor() as cursor:
        locker = threading.Thread(target=cursor.execute, args=("LOCK shardplane.requests",))
        locker.start()
        things.rig.stack.wait_for("the lock to be queued", lambda: things.sql(
            "a", "SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"), 10 * SLOW)
        things.sql("a", f"SELECT pg_terminate_backend({pid})")
        locker.join()
        writer.join()
    assert told and "commit was lost" in str(told[0])


def test_idempotency_moves_with_its_rows(things):
    c = things.client
    first = {k: c.execute(k, [(UPSERT, [k])], idempotency_key=f"r{k}") for k in range(1, 60)}
    wait = things.split()
    wait()
    for k, reply in first.items():
        assert c.execute(k, [(UPSERT, [k])], idempotency_key=f"r{k}") == reply
        assert c.shard_for_key(k)[0] != reply[1]
    assert things.rows() == {k: 1 for k in first}


def test_lost_connections_lose_and_double_nothing(things):
    """Backends are killed under load: an acknowledged write is there, a failed one is not, and an idempotency key leaves no doubt."""
    acked, unknown, failed, stop = set(), set(), set(), threading.Event()

    def write(worker):
        c = RouteClient(things.rig.router_endpoints, things.name)
        n = 0
        while not stop.is_set():
            n += 1
            key = worker * 1000000 + n
            try:
                c.execute(key, [(INSERT, [key])], idempotency_key=f"w{key}" if worker % 2 else None)
                acked.add(key)
            except RouteError as e:
                (unknown if e.code == "outcome_unknown" else failed).add(key)
        c.close()

    threads = [threading.Thread(target=write, args=(w,)) for w in range(6)]
    for t in threads:
        t.start()
    kills, deadline = 0, time.monotonic() + 20 * SLOW
    while (kills < 15 or len(acked) <= 100) and time.monotonic() < deadline:
        kills += 1
        time.sleep(0.1)
        things.sql("a", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'router-%' AND random() < 0.5 "
                        "AND datname = current_database()")
    stop.set()
    for t in threads:
        t.join()
    there = {k for k, in things.sql("a", "SELECT k FROM things")}
    assert len(acked) > 100
    assert not acked - there, "lost"
    assert not failed & there, "told to have failed"
    assert not there - acked - unknown, "from nowhere"
    assert not {k for k in unknown if k // 1000000 % 2}, "an idempotency key decides"


def test_ring_feed(things):
    socket = zmq.Context.instance().socket(zmq.SUB)
    socket.setsockopt(zmq.SUBSCRIBE, f"ring.{things.name}".encode())
    socket.connect(things.rig.stack.of_kind("router")[0].address("events"))
    wait = things.split()
    wait()
    changes = []
    while socket.poll(2000 if not changes else 300):
        topic, body = socket.recv_multipart()
        assert topic == f"ring.{things.name}".encode()
        changes.append(msgpack.unpackb(body, strict_map_key=False))
    socket.close(linger=0)
    assert [c[1] for c in changes] == sorted({c[1] for c in changes})
    versions = [c[2][3] for c in changes]
    assert versions == sorted(versions) and versions[-1] == things.client.shard_for_key(1)[1]
    snapshot = things.client.call(107, {1: things.name}, 108)
    assert {s[1] for s in snapshot[5]} == {s[1] for s in changes[-1][2][5]} == {f"{things.name}-b", f"{things.name}-c"}
    assert abs(sum(s[3] for s in snapshot[5]) - 1) < 1e-9


def test_the_feed_tells_of_another_primary(things):
    """A promotion changes where a shard is, and not what it owns."""
    etcd, shard = things.rig.stack.etcd.endpoint, things.shards["a"]["name"]
    socket = zmq.Context.instance().socket(zmq.SUB)
    socket.setsockopt(zmq.SUBSCRIBE, f"ring.{things.name}".encode())
    socket.connect(things.rig.stack.of_kind("router")[0].address("events"))
    record = catalog.shard(etcd, shard)
    try:
        for n in range(100):  # the subscription may take a moment
            record["primary_info"]["port"] = 60000 + n
            catalog.write(etcd, f"/shardplane/shards/{shard}".encode(), record)
            if socket.poll(100):
                break
        change = msgpack.unpackb(socket.recv_multipart(zmq.NOBLOCK)[1], strict_map_key=False)
        assert [(s[1], s[5] >= 60000) for s in change[2][5]] == [(shard, True)]
    finally:
        socket.close(linger=0)


def test_a_router_that_slept_over_the_flip(things):
    """SIGSTOP across the whole split: on waking, its requests go to the new owners."""
    c = RouteClient(things.rig.router_endpoints[1:2], things.name)
    c.execute(1, [(INSERT, [1])])
    pid = things.rig.stack.service("router-2").pidfile.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        wait = things.split()
        wait()
    finally:
        os.kill(pid, signal.SIGCONT)
    reply = c.execute(1, [("UPDATE things SET v = v + 1 WHERE k = 1 RETURNING v", [])])
    assert reply[3][0][4] == [[2]] and reply[1] != f"{things.name}-a"
    c.close()


def test_a_router_that_stops_ends_what_it_has_begun(things):
    """What is on a connection is answered as ever, and the rest is for other routers."""
    told = []

    def write(key):
        c = RouteClient(things.rig.router_endpoints[:1], things.name)
        # With an idempotency key on a connection of its own: both are seen to sleep.
        told.append(c.execute(key, [(INSERT, [key]), ("SELECT pg_sleep(1)", [])], idempotency_key="own" if key == 2 else None)[1])
        c.close()

    def refuses():
        try:  # one that comes before the router has seen its signal must not wait behind the sleepers
            return not things.client.execute(9, [("SELECT 1", [])], timeout_ms=100)
        except RouteError as e:
            return e.code == "unavailable" and "stopping" in str(e)

    writers = [threading.Thread(target=write, args=(key,)) for key in (1, 2)]
    for w in writers:
        w.start()
    things.rig.stack.wait_for("both statements", lambda: things.sql(
        "a", "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'") == [(2,)], 10 * SLOW)
    os.kill(things.rig.stack.service("router-1").pidfile.pid(), signal.SIGTERM)
    things.rig.stack.wait_for("a refusal", refuses, 2 * SLOW)
    for w in writers:
        w.join()
    assert told == [f"{things.name}-a"] * 2 and things.sql("a", "SELECT k FROM things ORDER BY k") == [(1,), (2,)]
    things.rig.wait_dead("router-1", 10)


def test_an_unknown_keyspace_is_told_soon(things):
    c = RouteClient(things.rig.router_endpoints[:1], "nowhere")
    start = time.monotonic()
    refused(c, "not_found", 1, [("SELECT 1", [])])
    with pytest.raises(RouteError) as wrong:
        c.shard_for_key(1)
    assert wrong.value.code == "not_found"
    assert time.monotonic() - start < 2 * SLOW
    c.close()


def test_a_keyspace_without_owners_keeps_no_router_from_what_is_new(things):
    empty = things.rig.new_name("empty")
    things.rig.api.post("/api/v1/keyspaces", {"name": empty})
    other = RouteClient(things.rig.router_endpoints[:1], empty)
    refused(other, "no_owner", 1, [("SELECT 1", [])])
    other.close()
    beside = Things(things.rig)
    things.rig.api.delete(f"/api/v1/keyspaces/{empty}")
    after = Things(things.rig)
    for c in (beside.client, after.client):
        assert c.execute(1, [(INSERT, [1])])[4] == "primary"
        c.close()


def test_serves_from_the_last_good_catalog_when_records_vanish(things):
    """Somebody deletes what no transaction of ours would: the keys keep their owners."""
    c, etcd = things.client, things.rig.stack.etcd.endpoint
    keys = [f"/shardplane/{what}".encode() for what in (
        f"shards/{things.shards['a']['name']}", f"ring/{things.name}", f"keyspaces/{things.name}")]
    records = catalog.read(etcd, b"/shardplane/", b"/shardplane0")
    c.execute(1, [(INSERT, [1])])
    try:
        for key in keys:
            catalog.delete(etcd, key)
            for _ in range(10):
                assert c.execute(1, [("SELECT v FROM things WHERE k = 1", [])])[3][0][4] == [[1]]
                assert c.shard_for_key(1)[0] == f"{things.name}-a"
                time.sleep(0.05)
    finally:
        for key in reversed(keys):
            catalog.write(etcd, key, json.loads(records[key]))
    # What comes back is believed again.
    later = Things(things.rig)
    later.client.close()


def test_serves_while_etcd_is_down(things):
    c = things.client
    c.execute(1, [(INSERT, [1])])
    things.rig.stack.etcd.stop()
    try:
        for _ in range(20):
            assert c.execute(1, [("SELECT v FROM things WHERE k = 1", [])])[3][0][4] == [[1]]
            assert c.shard_for_key(1)[0] == f"{things.name}-a"
            time.sleep(0.05)
    finally:
        things.rig.stack.etcd.start()
        things.rig.leader()
