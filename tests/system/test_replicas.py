"""Shards with streaming replicas: who must not be promoted after a split, and a source that was replaced by its replica."""
import contextlib
import os
import shutil
import signal

import pytest

from harness import catalog
from harness.rig import FOLDER, SLOW, Reviver, Rig
from harness.sql import query
from ledger.route_client import RouteClient, RouteError

from test_slot import break_job, hold_in_deltasync, split_to_the_end


@pytest.fixture(scope="module")
def replicated():
    made = Rig(os.path.join(FOLDER, "replicas"), replicas=1)
    yield made
    made.drop()


@pytest.fixture
def rig(replicated, request):
    """Like the rig of all other tests, but each of its clusters has a replica."""
    with replicated.in_test(request) as ready:
        yield ready


def replica(cell, letter):
    port = cell.shards[letter]["port"]
    return next(c for c in cell.rig.stack.clusters.values() if c.upstream == port)


def ask(cluster, text, database="postgres"):
    return query(cluster.uri("postgres", database), text)


@contextlib.contextmanager
def asleep(pids):
    """SIGSTOP until the block ends."""
    try:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # a backend that has just ended
                os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def receiver(cluster):
    """Asleep, the replica answers queries, but gets nothing any more."""
    return [ask(cluster, "SELECT pid FROM pg_stat_wal_receiver")[0][0]]


def whole(cluster):
    """The postmaster and all its children."""
    pids = [cluster.pidfile.pid()]
    with open(f"/proc/{pids[0]}/task/{pids[0]}/children", encoding="ascii") as f:
        return pids + [int(p) for p in f.read().split()]


def ineligible(cell):
    return {letter: catalog.shard(cell.rig.stack.etcd.endpoint, s["name"]).get("ineligible_replicas", [])
            for letter, s in cell.shards.items()}


def wait_level(cell, letters="abc"):
    """Until each replica has everything that its primary has."""
    for letter in letters:
        lsn = cell.sql(letter, "SELECT pg_current_wal_flush_lsn()")[0][0]
        other = replica(cell, letter)
        cell.rig.stack.wait_for(f"{other.name} to reach {lsn}",
                                lambda c=other, at=lsn: ask(c, f"SELECT pg_last_wal_replay_lsn() >= '{at}'") == [(True,)], 30 * SLOW)


def eventual_reads(cell):
    """{shard's letter: what answered}. Every customer is found."""
    client = RouteClient(cell.rig.router_endpoints, cell.name)
    seen = {}
    for key in range(1, 60):
        reply = client.execute(key, [("SELECT id FROM customers WHERE id = $1", [key])], consistency=2)
        assert reply[3][0][4] == [[key]], (key, reply)
        seen.setdefault(reply[1][-1], set()).add(reply[4])
    client.close()
    return seen


def said(cell, text):
    """How often manager-1 has said so."""
    with open(cell.rig.stack.service("manager-1").log, encoding="utf-8", errors="replace") as f:
        return f.read().count(text)


def looked_at(cell, letters):
    """Until a new leader has looked at these replicas, and found that they lack something."""
    words = [f"tag=REPLICA-BEHIND shard={cell.shards[letter]['name']} " for letter in letters]
    before = [said(cell, w) for w in words]
    cell.rig.lead_with("")
    cell.rig.stack.wait_for("a look at the replicas", lambda: all(said(cell, w) > n for w, n in zip(words, before)), 20 * SLOW)


def readmitted(cell):
    """Until each replica is eligible again: a leader looks when it begins, and from then on from time to time."""
    cell.rig.reconfigure("manager", **{"manager.sweep_s": 1})
    try:
        cell.rig.lead_with("")
        cell.rig.stack.wait_for("all replicas to be eligible", lambda: ineligible(cell) == {"a": [], "b": [], "c": []}, 30 * SLOW)
    finally:
        cell.rig.reconfigure("manager")
        cell.rig.lead_with("")


def rows(cell, letter, table):
    return sorted(cell.sql(letter, f"SELECT t::text FROM {table} t"))


def test_split_under_load_with_replicas(cell):
    """Everything that the split promises without replicas; and they end up with what their primaries have."""
    cell.write()
    cell.split()
    cell.wait("completed")
    cell.finish()
    wait_level(cell)
    for letter in "abc":
        for table in ("customers", "orders", "order_items"):
            there = [r for r in ask(replica(cell, letter), f"SELECT t::text FROM {table} t ORDER BY 1", cell.name)]
            assert sorted(there) == rows(cell, letter, table), f"{table} of {letter}"
        assert ask(replica(cell, letter), "SELECT count(*) FROM pg_replication_slots") == [(0,)]
        assert cell.sql(letter, "SELECT count(*) FROM pg_replication_slots") == [(0,)]


def test_the_flip_waits_for_replicas(cell):
    """The first looks see nobody caught up; the flip comes when they have: all may be promoted."""
    wait_level(cell)
    cell.rig.set_failpoints("resharder", "replica_look:error*3")
    cell.split()
    cell.wait("completed")
    assert ineligible(cell) == {"a": [], "b": [], "c": []}
    cell.finalize()


def test_a_replica_that_is_behind_is_not_eligible(cell):
    """One of the source and one of a target get nothing from before the fence on; the others stay eligible, and the job does not hang."""
    with asleep(receiver(replica(cell, "a")) + receiver(replica(cell, "c"))):
        cell.split()
        job = cell.wait("completed")
        assert ineligible(cell) == {"a": [0], "b": [], "c": [0]}
        assert job["cutover"]["fence_to_open_ms"] < 1500 * SLOW, job["cutover"]
        for letter, behind in (("a", True), ("b", False), ("c", True)):
            if behind:
                received = ask(replica(cell, letter), "SELECT pg_last_wal_receive_lsn()")[0][0]
                assert cell.sql(letter, f"SELECT pg_current_wal_flush_lsn() > '{received}'") == [(True,)], "it was not behind at all"
        cell.finalize()
        # It does not answer eventual reads either: it has not got the rows that its shard was given.
        wait_level(cell, "b")
        assert eventual_reads(cell) == {"b": {"replica"}, "c": {"primary"}}
        # A new leader, which looks at them at once, does not make them eligible.
        looked_at(cell, "ac")
        assert ineligible(cell) == {"a": [0], "b": [], "c": [0]}
    readmitted(cell)
    cell.rig.stack.wait_for("routers to ask them", lambda: eventual_reads(cell) == {"b": {"replica"}, "c": {"replica"}}, 10 * SLOW)


def test_a_replica_that_has_not_replayed_a_move_does_not_answer_for_it(cell):
    """It has flushed all of it, and so is eligible; but who reads there finds the time before."""
    ask(replica(cell, "c"), "SELECT pg_wal_replay_pause()")
    try:
        cell.split()
        cell.wait("completed")
        assert ineligible(cell) == {"a": [], "b": [], "c": []}
        wait_level(cell, "b")
        assert eventual_reads(cell) == {"b": {"replica"}, "c": {"primary"}}
        # Nor does what it has flushed make it eligible, once it is not.
        etcd, shard = cell.rig.stack.etcd.endpoint, cell.shards["c"]["name"]
        cell.rig.stack.wait_for("the shard to be free", lambda: not catalog.shard(etcd, shard).get("job_id"), 20 * SLOW)
        catalog.write(etcd, f"/shardplane/shards/{shard}".encode(), {**catalog.shard(etcd, shard), "ineligible_replicas": [0]})
        looked_at(cell, "c")
        assert ineligible(cell) == {"a": [], "b": [], "c": [0]}
    finally:
        ask(replica(cell, "c"), "SELECT pg_wal_replay_resume()")
    readmitted(cell)
    cell.rig.stack.wait_for("routers to ask them", lambda: eventual_reads(cell) == {"b": {"replica"}, "c": {"replica"}}, 10 * SLOW)
    cell.finalize()


def test_a_replica_that_freezes_inside_the_fence_holds_up_nobody(cell):
    """It has answered before the lock and does not any more: writers wait no longer for that, and it is not eligible."""
    wait_level(cell)
    cell.rig.set_failpoints("resharder", "fence_after_lock:sleep=400*1")
    cell.split()
    locked = ("SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.granted AND l.mode = 'ShareRowExclusiveLock' "
              "AND a.datname = current_database() AND a.application_name LIKE 'shardplane/%/fence'")
    cell.rig.stack.wait_for("the fence's lock", lambda: cell.sql("a", locked) != [(0,)], 30 * SLOW, interval=0.01)
    with asleep(whole(replica(cell, "a"))):
        job = cell.wait("completed")
        assert ineligible(cell) == {"a": [0], "b": [], "c": []}
        assert job["cutover"]["attempts"] == 1 and job["cutover"]["fence_to_open_ms"] < 2000 * SLOW, job["cutover"]
    cell.finalize()


def test_a_standby_is_not_taken_for_a_primary(cell):
    """An address that leads to one, as during a failover: a strong read is refused rather than old."""
    etcd, shard = cell.rig.stack.etcd.endpoint, cell.shards["a"]["name"]
    record = catalog.shard(etcd, shard)
    client = RouteClient(cell.rig.router_endpoints, cell.name)
    read = [("SELECT id FROM customers WHERE id = 1", [])]
    assert client.execute(1, read)[4] == "primary"
    catalog.write(etcd, f"/shardplane/shards/{shard}".encode(), {**record, "primary": record["replicas"][0]})

    def refuses():
        try:
            return not client.execute(1, read, timeout_ms=500)
        except RouteError as e:
            return e.code == "unavailable" and "standby" in str(e)

    cell.rig.stack.wait_for("a refusal", refuses, 10 * SLOW)
    catalog.write(etcd, f"/shardplane/shards/{shard}".encode(), record)
    assert client.execute(1, read)[4] == "primary"
    client.close()


def test_nobody_is_eligible_when_nobody_knows(cell):
    """The worker dies right after the seal, before it could say which replicas have it."""
    cell.rig.lead_with("readmit:error")
    others = cell.rig.work_with("fence_after_seal:kill")
    with Reviver(cell.rig, "resharder-1", others) as reviver:
        cell.split()
        cell.wait("completed")
        assert reviver.died
    assert ineligible(cell) == {"a": [0], "b": [0], "c": [0]}
    cell.finalize()
    readmitted(cell)


def replace_by_replica(cell, letter, before_it_returns):
    """Stops the primary and lets its replica, promoted, take its place at the same address; the old one becomes the new one's replica."""
    primary = next(c for c in cell.rig.stack.clusters.values() if c.port == cell.shards[letter]["port"])
    standby = replica(cell, letter)
    primary.stop("fast")
    assert ask(standby, "SELECT pg_promote(true, 30)") == [(True,)]
    before_it_returns(standby)
    standby.stop("fast")
    primary.clear()
    os.rename(standby.data, primary.data)
    primary.append_conf()
    primary.start()
    shutil.rmtree(standby.data, ignore_errors=True)
    standby.basebackup()
    standby.start()


def test_a_promoted_source_ends_the_job(cell):
    """Its slot did not come along; and one that somebody makes under the same name is not taken for it."""
    cell.remember()
    cell.split()
    slot = hold_in_deltasync(cell)

    def somebody_helps(standby):
        ask(standby, f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')", cell.name)

    def promote():
        replace_by_replica(cell, "a", somebody_helps)

    job = break_job(cell, promote)
    assert "promoted" in job["error"]["message"] and "timeline 2" in job["error"]["message"], job["error"]
    cell.no_residue("bc")
    cell.write()
    split_to_the_end(cell)
