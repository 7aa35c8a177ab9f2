"""The checker finds each defect that is planted, and nothing where nothing is wrong."""
import contextlib
import json
import os
import shutil
import threading

import psycopg2
import pytest

from ledger import checker, oplog, shop, writer
from spstack.ports import free_base
from spstack.stack import Stack

HALVES = {"shard1": [-2**63, 0], "shard2": [0]}
TABLES = [t["table"] for t in shop.TABLES]


class Rig:
    """Two databases without guards, a history of direct writes, and the rows spread over both by their hash."""

    def __init__(self, folder):
        self.stack = Stack(os.path.join(folder, "stack"))
        self.stack.up(shards=2, services=False, port_base=free_base(20), fsync=False)
        self.dsn = {s["name"]: s["superuser_endpoint"] for s in self.stack.status()["shards"]}
        self.ring = checker.Ring(HALVES)
        shop.load(self.dsn["shard1"], 300, 600, 1200)
        with psycopg2.connect(self.dsn["shard2"]) as c, c.cursor() as cursor:
            cursor.execute(shop.DDL)
        self.base = checker.baseline(self.dsn["shard1"])
        self.logs = os.path.join(folder, "logs")
        stop = threading.Event()
        spec = {"folder": self.logs, "writers": [{"via": "direct", "dsn": self.dsn["shard1"]}] * 3, "of": 3, "customers": 300,
                "orders": 600, "rate": 0, "long_seconds": 0.05, "hot": 40, "mix": {"long": 4, "prepared": 4}}
        threading.Timer(2.5, stop.set).start()
        assert writer.run_spec(spec, stop.wait) == 0
        self.spread()

    def spread(self):
        """Moves what shard2 owns there."""
        for t in shop.TABLES:
            with psycopg2.connect(self.dsn["shard1"]) as c, c.cursor() as cursor:
                path = os.path.join(self.logs, t["table"] + ".copy")
                with open(path, "wb") as f:
                    cursor.copy_expert(f"COPY (SELECT * FROM {t['table']} WHERE hashtextextended({t['key']}::text, 0) >= 0) "
                                       "TO STDOUT (FORMAT binary)", f)
            with psycopg2.connect(self.dsn["shard2"]) as c, c.cursor() as cursor, open(path, "rb") as f:
                cursor.copy_expert(f"COPY {t['table']} FROM STDIN (FORMAT binary)", f)
        for t in reversed(shop.TABLES):
            self.sql("shard1", f"DELETE FROM {t['table']} WHERE hashtextextended({t['key']}::text, 0) >= 0")

    def sql(self, shard, text, *args):
        with psycopg2.connect(self.dsn[shard], options="-c session_replication_role=replica") as c, c.cursor() as cursor:
            cursor.execute(text, args or None)
            return cursor.fetchall() if cursor.description else cursor.rowcount

    def check(self, logs=None, **options):
        ledger = checker.Ledger(self.base, logs or oplog.read_folder(self.logs))
        return checker.check(ledger, options.pop("ring", self.ring), self.dsn, **options)

    @contextlib.contextmanager
    def changed(self, shard, text, *args):
        """Runs a statement on one shard, and puts all its tables back afterwards."""
        for t in TABLES:
            self.sql(shard, f"CREATE TABLE keep_{t} AS TABLE {t}")
        try:
            assert self.sql(shard, text, *args) == 1, "the plant must change one row"
            yield
        finally:
            for t in TABLES:
                self.sql(shard, f"DELETE FROM {t}")
                self.sql(shard, f"INSERT INTO {t} TABLE keep_{t}")
                self.sql(shard, f"DROP TABLE keep_{t}")

    def acked(self, kind):
        """An acknowledged operation of a kind whose first row was touched last by it, and where that row lives."""
        logs = oplog.read_folder(self.logs)
        last = checker.Ledger(self.base, logs).last
        for ops in logs.values():
            for op in ops:
                if op.kind == kind and op.result == "ack" and last[op.rows[0][:2]] is op:
                    key = op.rows[0][2][0] if op.rows[0][2] else op.key
                    return op, self.home(key)
        raise AssertionError(f"the history has no final {kind}")

    def home(self, key):
        return self.ring.owner(self.sql("shard1", "SELECT hashtextextended(%s::text, 0)", key)[0][0])


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    # Not under pytest's own folder: that is closed to the user that PostgreSQL runs as.
    folder = os.path.join("/tmp", f"shardplane-ledger-{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    made = None
    try:
        made = Rig(folder)
        yield made
    finally:
        Stack(os.path.join(folder, "stack")).down(purge=True)
        shutil.rmtree(folder, ignore_errors=True)


def other(shard):
    return "shard2" if shard == "shard1" else "shard1"


def only(report, **wanted):
    """Exactly these defects."""
    assert {k: n for k, n in report.counts.items() if n} == wanted, str(report)


def test_a_clean_history_is_clean(rig):
    report = rig.check()
    assert report.clean, str(report)
    kinds = {op.kind for ops in oplog.read_folder(rig.logs).values() for op in ops if op.result == "ack"}
    assert kinds == set(writer.DIRECT_MIX), "every kind of operation took part"
    counts = checker.count_outcomes(oplog.read_folder(rig.logs))
    assert counts["acknowledged"] > 300 and counts["unknown"] == counts["failed"] == counts["refused"] == 0


def test_lost_acknowledged_row(rig):
    op, shard = rig.acked("insert")
    with rig.changed(shard, "DELETE FROM orders WHERE id = %s", op.rows[0][1]):
        only(rig.check(), lost=1)


def test_lost_loaded_row(rig):
    touched = {op.rows[0][1] for ops in oplog.read_folder(rig.logs).values() for op in ops}
    pk = next(i for i in range(1, 1200) if ("order_items", i) in rig.base and i not in touched)
    with rig.changed(rig.home(rig.base["order_items", pk][0]), "DELETE FROM order_items WHERE id = %s", pk):
        only(rig.check(), lost=1)


def copy_row(rig, source, target, pk):
    """Puts an order of one shard on the other too."""
    row = rig.sql(source, "SELECT id, customer_id, seq, note, blob FROM orders WHERE id = %s", pk)[0]
    return rig.changed(target, "INSERT INTO orders (id, customer_id, seq, note, blob) VALUES (%s, %s, %s, %s, %s)", *row)


def test_duplicated_row_is_also_misplaced(rig):
    op, shard = rig.acked("insert")
    with copy_row(rig, shard, other(shard), op.rows[0][1]):
        only(rig.check(), duplicated=1, misplaced=1)


def test_misplaced_row(rig):
    op, shard = rig.acked("insert")
    pk = op.rows[0][1]
    with copy_row(rig, shard, other(shard), pk), rig.changed(shard, "DELETE FROM orders WHERE id = %s", pk):
        only(rig.check(), misplaced=1)


def test_stale_version(rig):
    op, shard = rig.acked("toast_keep")
    table, pk, _ = op.rows[0]
    with rig.changed(shard, f"UPDATE {table} SET seq = 0, note = '' WHERE id = %s", pk):
        only(rig.check(), stale=1)


def test_lost_toast_is_stale(rig):
    op, shard = rig.acked("update")
    table, pk, _ = op.rows[0]
    for value in ("''", "NULL", "'other'"):
        with rig.changed(shard, f"UPDATE {table} SET blob = {value} WHERE id = %s", pk):
            only(rig.check(), stale=1)


def test_deleted_row_is_back(rig):
    op, shard = rig.acked("delete")
    table, pk, _ = op.rows[0]
    columns = "id, customer_id" if table == "orders" else "id, order_id, customer_id"
    values = [pk, op.key] if table == "orders" else [pk, 1, op.key]
    with rig.changed(shard, f"INSERT INTO {table} ({columns}) VALUES ({', '.join(['%s'] * len(values))})", *values):
        only(rig.check(), stale=1)


def test_phantom_row(rig):
    op, shard = rig.acked("update")
    table, pk, _ = op.rows[0]
    with rig.changed(shard, f"UPDATE {table} SET seq = 999999 WHERE id = %s", pk):
        only(rig.check(), phantom=1)
    with rig.changed(rig.home(5), "INSERT INTO orders (id, customer_id) VALUES (12345678901234, 5)"):
        only(rig.check(), phantom=1)


def edited(rig, op, result):
    """The logs with one operation's outcome changed."""
    logs = oplog.read_folder(rig.logs)
    found = [o for o in logs[op.writer] if o.number == op.number][0]
    found.result = result
    return logs


@pytest.mark.parametrize("kind", ["insert", "update", "key_change", "multi", "new_customer"])
def test_refused_but_there_is_phantom(rig, kind):
    op, _ = rig.acked(kind)
    for result in ("error", "refused"):
        report = rig.check(edited(rig, op, result))
        assert report.counts["phantom"] > 0 and report.counts["lost"] == 0, str(report)


def test_delete_that_was_refused_but_happened_is_lost(rig):
    op, _ = rig.acked("delete")
    only(rig.check(edited(rig, op, "refused")), lost=1)


@pytest.mark.parametrize("kind", ["insert", "update", "delete", "multi", "cascade"])
def test_unknown_may_be_either(rig, kind):
    op, _ = rig.acked(kind)
    report = rig.check(edited(rig, op, "unknown"))
    only(report)
    assert report.unknown == {"applied": 1, "not_applied": 0}


def test_half_of_an_unknown_transaction_is_lost(rig):
    op, shard = rig.acked("multi")
    item = [pk for table, pk, _ in op.rows if table == "order_items"][0]
    with rig.changed(shard, "DELETE FROM order_items WHERE id = %s", item):
        only(rig.check(edited(rig, op, "unknown")), lost=1)
        only(rig.check(), lost=1)


def test_unknown_insert_that_did_not_happen(rig):
    op, shard = rig.acked("insert")
    with rig.changed(shard, "DELETE FROM orders WHERE id = %s", op.rows[0][1]):
        report = rig.check(edited(rig, op, "unknown"))
        only(report)
        assert report.unknown == {"applied": 0, "not_applied": 1}


def test_success_that_saw_no_row_is_stale(rig):
    op, _ = rig.acked("update")
    logs = edited(rig, op, "zero")
    [o for o in logs[op.writer] if o.number == op.number][0].via = "router"
    only(rig.check(logs), stale=1)


def test_leftovers_of_a_sealed_source(rig):
    op, shard = rig.acked("insert")
    source, pk = other(shard), op.rows[0][1]
    with copy_row(rig, shard, source, pk):
        report = rig.check(leftovers=(source,))
        only(report)
        assert report.leftovers == 1
        # A stale client's write that the source should have refused.
        assert rig.sql(source, "UPDATE orders SET seq = 999999 WHERE id = %s", pk) == 1
        only(rig.check(leftovers=(source,)), misplaced=1)
        # The only copy: its owner has lost it.
        with rig.changed(shard, "DELETE FROM orders WHERE id = %s", pk):
            only(rig.check(leftovers=(source,)), misplaced=1, lost=1)


def test_wrong_owner_in_the_ring_is_misplaced(rig):
    report = rig.check(ring=checker.Ring({"shard1": [-2**63, 2**62], "shard2": [2**62]}))
    assert report.counts["misplaced"] > 0 and report.counts["lost"] == 0, str(report)


@pytest.mark.parametrize("bounds", [{"a": [-2**63, 0], "b": [1]}, {"a": [-2**63, 5], "b": [0]}, {"a": [-2**63, 0], "b": []},
                                    {"a": [0], "b": []}, {"a": [5, 1, -2**63], "b": []}])
def test_a_ring_with_gap_or_overlap_is_no_ring(bounds):
    with pytest.raises(ValueError):
        checker.Ring(bounds)


def test_ring_finds_owners_at_its_edges():
    ring = checker.Ring({"a": [-2**63, -10, 10], "b": [-10, 10]})
    owners = {-2**63: "a", -11: "a", -10: "b", 9: "b", 10: "a", 2**63 - 1: "a"}
    assert {h: ring.owner(h) for h in owners} == owners


def test_torn_last_line_was_never_sent(tmp_path):
    path = tmp_path / "w.log"
    log = oplog.OpLog(str(path))
    log.outcome(log.intent("direct", "insert", 1, [["orders", 1, [1, 1, None]]]), "ack")
    log.intent("direct", "insert", 1, [["orders", 2, [1, 2, None]]])
    with open(path, "ab") as f:
        f.write(json.dumps({"i": 3, "via": "direct"}).encode()[:10])
    assert [(o.number, o.result) for o in oplog.read(str(path))] == [(1, "ack"), (2, "unknown")]


def test_longest_pause_counts_failed_tries():
    def op(number, start, end, result):
        o = oplog.Op("w", {"i": number, "via": "router", "kind": "insert", "key": 1, "t": start, "rows": []})
        o.result, o.ended = result, end
        return o

    logs = {"w": [op(1, 0.0, 0.1, "ack"), op(2, 5.0, 5.2, "error"), op(3, 5.3, 5.4, "error"), op(4, 5.5, 5.6, "ack")]}
    assert checker.longest_pause_ms(logs) == pytest.approx(600)
    assert checker.latencies_ms(logs)["max"] == pytest.approx(100)
