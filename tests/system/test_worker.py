"""The resharder's tasks, one by one, with this process as its manager."""
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request

import psycopg2
import pytest

from harness.memory import memory_kb
from harness.rig import SANITIZED
from worker_rig import EVERYTHING, REPO, TaskFailed, WorkerRig

LOW, HIGH = [-(1 << 63), 0], [0]  # two halves of the hash space
TABLES = [("public", "customers", "id"), ("public", "orders", "customer_id"), ("Other", "orders", "customer_id"),
          ("Other", 'We ird"T', "customer_id"), ("public", "deep", "customer_id")]


@pytest.fixture(scope="module")
def module_rig():
    made = WorkerRig(tempfile.mkdtemp(prefix="sp-worker-"))
    yield made
    made.close()


@pytest.fixture
def rig(module_rig):
    module_rig.reset()
    yield module_rig
    module_rig.end()


@pytest.fixture
def shop(rig):
    with open(os.path.join(os.path.dirname(__file__), "worker.sql"), encoding="utf-8") as f:
        rig.sql(0, f.read(), role="owner_endpoint")
    return Shop(rig)


class Shop:
    """Two targets, each with a half."""

    def __init__(self, rig):
        self.rig = rig
        self.manager, self.worker = rig.manager(), rig.worker()
        self.tables = [rig.table(*t) for t in TABLES]
        self.targets = [{"shard_id": "s2", "bounds": LOW}, {"shard_id": "s3", "bounds": HIGH}]
        self.n = 0

    def id(self, what):
        self.n += 1
        return f"{what}-{self.n}"

    def schema(self, **more):
        requests = {"schema": "shardplane", "table": "requests", "key_column": "key"}
        return self.manager.run(self.worker, self.id("schema"), "schema", targets=self.targets, tables=self.tables + [requests],
                                ignored_tables=["public.countries"], sequence_stride=16, ring_version=2, **more)

    def made(self, shard):
        """What the job has made on a shard, by the list in its database: `TABLE "a"."b"`, in the order of dropping."""
        return [f"{kind} {identity}" for kind, identity in self.rig.sql(
            shard, f"SELECT kind, identity FROM shardplane.made WHERE job_id = '{self.rig.job}' ORDER BY n", fetch=True)]

    def snapshot(self, temporary=False):
        task = self.id("snapshot")
        self.manager.assign(self.worker, task, "snapshot", slot=f"shp_{self.rig.job}_1", temporary=temporary)
        update = self.manager.wait(lambda: [u for u in self.manager.updates.get(task, []) if "snapshot" in u or u["state"] == "failed"], what="a snapshot")[-1]
        assert update["state"] == "running", update
        return task, update

    def copy(self, snapshot, table, worker=None, **more):
        return self.manager.run(worker or self.worker, self.id("copy"), "copy", targets=self.targets, tables=[table], snapshot=snapshot,
                                **{"range_no": 0, "page_from": 0, "page_to": 0, **more})

    def copy_all(self, snapshot, pages=16):
        for table in self.tables:
            page, number = 0, 0
            while page == 0 or page < table["pages"]:
                last = page + pages >= table["pages"]
                self.copy(snapshot, table, range_no=number, page_from=page, page_to=0 if last else page + pages)
                page, number = page + pages, number + 1

    def index(self, phase):
        for target in self.targets:
            self.manager.run(self.worker, self.id("index"), "index", targets=[target], tables=self.tables, phase=phase)

    def verify(self, table, **more):
        """Rows compared and mismatches, each shard under a snapshot of now."""
        held = [psycopg2.connect(self.rig.shards[i]["apply_endpoint"]) for i in range(3)]
        try:
            snapshots = []
            for connection in held:
                connection.set_session(isolation_level="REPEATABLE READ")
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_export_snapshot()")
                    snapshots.append(cursor.fetchone()[0])
            return self.manager.run(self.worker, self.id("verify"), "verify", targets=self.targets, tables=[table], snapshot=snapshots[0],
                                    target_snapshots=snapshots[1:], **more)
        finally:
            for connection in held:
                connection.close()

    def rows(self, shard, table):
        name = '"%s"."%s"' % (table["schema"], table["table"].replace('"', '""'))
        columns = ", ".join('"%s"' % c.replace('"', '""') for c in table["columns"])
        found = self.rig.sql(shard, f"SET TimeZone = 'UTC'; SELECT ROW({columns})::text, hashtextextended(\"{table['key_column']}\"::text, 0) < 0 FROM {name}",
                             fetch=True)
        return sorted(map(repr, found))


def test_schema_and_copy(shop):
    """Every row on its side, byte for byte; guards closed; indexes, keys and triggers as on the source."""
    rig = shop.rig
    shop.schema()
    for objects in shop.made(1), shop.made(2):
        assert 'SCHEMA "Other"' in objects and 'TABLE "Other"."We ird""T"' in objects and 'TYPE "public"."mood"' in objects and 'FUNCTION "public"."touch"()' in objects
        assert all('"' in o for o in objects)
        assert not any("countries" in o or "cview" in o or "shardplane" in o for o in objects)
    with pytest.raises(psycopg2.Error) as refused:
        rig.sql(1, "INSERT INTO customers (name) VALUES ('x')", role="primary_endpoint")
    assert refused.value.pgcode == "SHP01"
    assert rig.sql(1, "SELECT to_regclass('countries'), to_regclass('cview'), to_regclass('oview') IS NOT NULL", fetch=True) == [(None, None, True)]
    assert rig.sql(1, "SELECT DISTINCT seqincrement FROM pg_sequence", fetch=True) == [(16,)]
    task, update = shop.snapshot()
    shop.copy_all(update["snapshot"])
    for table in shop.tables:
        source = shop.rows(0, table)
        assert len(source) > 0
        assert sorted(shop.rows(1, table) + shop.rows(2, table)) == source
        assert all(r.endswith("True)") for r in shop.rows(1, table)) and all(r.endswith("False)") for r in shop.rows(2, table))
    for phase in ("indexes", "foreign_keys", "validate"):
        shop.index(phase)
        shop.index(phase)  # again: all is there
    inside = """SELECT conname, contype, convalidated, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace IN ('public'::regnamespace, '"Other"'::regnamespace)
                AND conname !~ 'countries' UNION ALL
                SELECT indexrelid::regclass::text, 'i', indisvalid, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid::regclass::text !~ 'pg_|countries|shardplane' UNION ALL
                SELECT tgname, 't', true, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal AND tgname !~ 'shardplane' UNION ALL
                SELECT stxname, 's', true, pg_get_statisticsobjdef(oid) FROM pg_statistic_ext UNION ALL
                SELECT relname, 'o', true, pg_get_userbyid(relowner) || coalesce(relacl::text, '') || coalesce(obj_description(oid), '') FROM pg_class
                 WHERE relnamespace IN ('public'::regnamespace, '"Other"'::regnamespace) AND relname !~ 'countries|cview'"""
    source = sorted(map(repr, rig.sql(0, inside, fetch=True)))
    assert sorted(map(repr, rig.sql(1, inside, fetch=True))) == source
    assert sorted(map(repr, rig.sql(2, inside, fetch=True))) == source
    for table in shop.tables:
        update = shop.verify(table)
        assert update["rows"] == len(shop.rows(0, table)) and update.get("mismatches", []) == []
    shop.manager.control(shop.worker, task, "stop")
    shop.manager.result(task)
    assert shop.worker.stop() == 0
    text = shop.worker.logged()
    assert not [s for shard in rig.shards for e in ("admin_endpoint", "apply_endpoint") for s in [shard[e].split(":")[2].split("@")[0]] if s in text]


def test_schema_again(shop):
    """A second try of the same job replaces what the first one made, and knows it as its own; what others have made stays; another job's
    tables are refused."""
    shop.rig.sql(0, "CREATE SCHEMA shared; CREATE TABLE shared.t (id bigint PRIMARY KEY); "
                "CREATE AGGREGATE everything(*) (SFUNC = int8inc, STYPE = int8, INITCOND = '0')", role="owner_endpoint")
    shop.rig.sql(1, "CREATE SCHEMA shared; CREATE TABLE countries (mine int)", role="owner_endpoint")
    shop.schema()
    first = shop.made(1)
    assert {'SCHEMA "Other"', 'TABLE "shared"."t"', 'AGGREGATE "public"."everything"(*)'} < set(first) and 'SCHEMA "shared"' not in first
    assert 'SCHEMA "shared"' in shop.made(2)
    shop.rig.sql(1, "CREATE TABLE \"Other\".of_nobody ()", role="owner_endpoint")
    shop.schema()
    assert shop.made(1) == first
    assert shop.rig.sql(1, "SELECT to_regclass('\"Other\".of_nobody') IS NOT NULL, to_regclass('countries') IS NOT NULL", fetch=True) == [(True, True)]
    shop.rig.job = "jobother2222"
    with pytest.raises(TaskFailed) as failed:
        shop.schema()
    assert "already exists" in str(failed.value)
    shop.rig.job = "jobabcdefghi"


def test_a_comment_that_looks_like_an_entry(shop):
    """What an owner writes into a comment is never a statement of ours, also where the comment itself stays behind."""
    planted = "x\n--\n-- TOC entry 9999 (class 0 OID 0)\n-- Name: x\n--\n\nCREATE TABLE public.planted (); --"
    shop.rig.sql(0, "COMMENT ON TABLE countries IS %s", (planted,), role="owner_endpoint")
    with pytest.raises(TaskFailed) as failed:
        shop.schema()
    assert failed.value.error["code"] == "malformed"
    assert shop.rig.sql(1, "SELECT to_regclass('public.planted')", fetch=True) == [(None,)]


def test_schema_after_copy(shop):
    """A schema task that comes late, from a worker that was given up and goes on, does not touch tables that hold copied rows."""
    shop.schema()
    task, update = shop.snapshot()
    table = shop.tables[1]
    shop.copy(update["snapshot"], table)
    with pytest.raises(TaskFailed) as failed:
        shop.schema()
    assert failed.value.error["code"] == "conflict" and not failed.value.error["retryable"]
    assert sorted(shop.rows(1, table) + shop.rows(2, table)) == shop.rows(0, table)


def test_indexes_with_names_like_ours(shop):
    """Only what a job has made for the time being stays behind, not whatever starts like it."""
    shop.rig.sql(0, "CREATE UNIQUE INDEX shp_once ON orders (id, total); CREATE UNIQUE INDEX shp_jobabcdefghi_ri_1 ON orders (customer_id, id)",
                 role="owner_endpoint")
    shop.schema()
    shop.index("indexes")
    assert shop.rig.sql(1, "SELECT indexrelid::regclass::text, indisunique FROM pg_index WHERE indexrelid::regclass::text LIKE 'shp%'", fetch=True) == [
        ("shp_once", True)]


CORRUPTIONS = {
    "one byte": ("UPDATE orders SET big = overlay(big PLACING 'z' FROM 100) WHERE id = (SELECT min(id) FROM orders WHERE big IS NOT NULL)", ["differs"]),
    "missing": ("DELETE FROM orders WHERE id = (SELECT min(id) FROM orders)", ["missing"]),
    "extra": ("INSERT INTO orders (id, customer_id) SELECT 1000000, customer_id FROM orders LIMIT 1", ["not on the source"]),
    "null for empty": ("UPDATE orders SET big = '' WHERE id = (SELECT min(id) FROM orders WHERE big IS NULL)", ["differs"]),
    "duplicate": ("INSERT INTO orders SELECT * FROM orders WHERE id = (SELECT min(id) FROM orders)", ["more than once"]),
    "swapped": ("UPDATE orders o SET total = x.total FROM (SELECT a.id, b.total FROM (SELECT min(id) AS i, max(id) AS j FROM orders) m, orders a, orders b "
                "WHERE (a.id = m.i AND b.id = m.j) OR (a.id = m.j AND b.id = m.i)) x WHERE o.id = x.id", ["differs", "differs"]),
    "minus": ("UPDATE orders SET total = -total WHERE id = (SELECT min(id) FROM orders)", ["differs"]),
    "both halves of a timestamp": ("UPDATE orders SET placed = placed + interval '4294.967297 s' WHERE id = (SELECT min(id) FROM orders)", ["differs"]),
    "misplaced": ("INSERT INTO orders (id, customer_id) SELECT 1000001, i FROM generate_series(1, 100) i WHERE hashtextextended(i::text, 0) >= 0 LIMIT 1",
                  ["not on the source"]),
}


@pytest.fixture
def copied(shop):
    shop.rig.sql(0, "DELETE FROM orders WHERE id > 6000; UPDATE orders SET placed = '2000-01-01 00:00+00' WHERE id < 100")
    shop.schema()
    task, update = shop.snapshot()
    shop.copy(update["snapshot"], shop.tables[1])
    return shop


def test_verify_finds(copied):
    """Each planted corruption is found, down to its key, and nothing else."""
    table = copied.tables[1]
    clean = copied.verify(table)
    assert clean["rows"] == 6000 and clean.get("mismatches", []) == []
    for name, (sql, expected) in CORRUPTIONS.items():
        connection = psycopg2.connect(copied.rig.shards[1]["apply_endpoint"])
        connection.cursor().execute("SET session_replication_role = replica; CREATE TEMP TABLE kept AS SELECT * FROM orders;" + sql)
        connection.commit()
        found = copied.verify(table).get("mismatches", [])
        assert len(found) == len(expected), (name, found)
        assert all(e in f and "s2" in f and '"id"=' in f for e, f in zip(expected, found)), (name, found)
        connection.cursor().execute("DELETE FROM orders; INSERT INTO orders SELECT * FROM kept")
        connection.commit()
        connection.close()
    half = copied.verify(table, hash_from=0, hash_to=(1 << 63) - 1)
    assert 0 < half["rows"] < 6000


def test_verify_lists_a_part_of_a_large_key(copied):
    """All rows of one key have one hash: nothing is narrower, and they are not all listed."""
    rows = "INSERT INTO orders (id, customer_id, placed) SELECT i, 4, NULL FROM generate_series(100000, 499999) i"
    copied.rig.sql(0, rows)
    target = 1 if copied.rig.sql(0, "SELECT hashtextextended('4', 0) < 0", fetch=True) == [(True,)] else 2
    copied.rig.sql(target, "SET session_replication_role = replica;" + rows, role="apply_endpoint")
    for change, words in (("DELETE FROM orders WHERE id = 100007", "=100007): missing on"), ("UPDATE orders SET total = 7 WHERE id = 499999", "rows with key hashes")):
        copied.rig.sql(target, "SET session_replication_role = replica;" + change, role="apply_endpoint")
        found = copied.verify(copied.tables[1])["mismatches"]
        assert len(found) == 1 and words in found[0], found
        copied.rig.sql(target, "SET session_replication_role = replica; DELETE FROM orders WHERE id >= 100000;" + rows, role="apply_endpoint")
    assert SANITIZED or memory_kb(copied.worker.process.pid, "VmHWM") < 80 * 1024


def test_verify_wide_rows(shop):
    """As many columns as PostgreSQL has, of the type whose hash takes the longest words. PostgreSQL's own hash of it has 32 bits inside."""
    columns = ", ".join(f"c{i} bigint" for i in range(1590))
    shop.rig.sql(0, f"CREATE TABLE wide (id bigint PRIMARY KEY, {columns}); "
                    "INSERT INTO wide (id, c7, c8, c33, c1589) SELECT i, i, -1, 0, i FROM generate_series(1, 50) i",
                 role="owner_endpoint")
    shop.tables.append(shop.rig.table("public", "wide", "id"))
    shop.schema()
    task, update = shop.snapshot()
    shop.copy(update["snapshot"], shop.tables[-1])
    assert shop.verify(shop.tables[-1]).get("mismatches", []) == []
    for i, change in enumerate(("c1589 = NULL", "c7 = c7 # 4294967297", "c8 = 4294967295", "c1 = 0, c33 = NULL")):
        shop.rig.sql(1, f"SET session_replication_role = replica; UPDATE wide SET {change} WHERE id = (SELECT id FROM wide ORDER BY id LIMIT 1 OFFSET {i})",
                     role="apply_endpoint")
    assert ["differs" in m for m in shop.verify(shop.tables[-1])["mismatches"]] == [True] * 4


@pytest.mark.parametrize("point", ["copy_range_before_commit", "copy_range_between_targets", "copy_range_after_commit"])
def test_copy_killed(shop, point):
    """A worker that dies around its commits: the next try loads nothing twice."""
    shop.schema()
    task, update = shop.snapshot()
    table = shop.tables[1]
    victim = shop.rig.worker("w2", env={"SHARDPLANE_FAILPOINTS": f"{point}:kill"})
    shop.manager.assign(victim, "victim", "copy", targets=shop.targets, tables=[table], snapshot=update["snapshot"], range_no=0, page_from=0, page_to=0)
    assert victim.process.wait(timeout=30) == -9
    if point == "copy_range_between_targets":
        assert len(shop.rows(1, table)) > 0 and len(shop.rows(2, table)) == 0
    assert shop.copy(update["snapshot"], table)["rows"] == 40000
    assert shop.copy(update["snapshot"], table)["rows"] == 40000
    assert sorted(shop.rows(1, table) + shop.rows(2, table)) == shop.rows(0, table)


def test_copy_frozen(shop):
    """A worker that freezes before its commits: what it holds is ended by the name of its task, and none of its rows comes later."""
    shop.schema()
    task, update = shop.snapshot()
    table = shop.tables[1]
    victim = shop.rig.worker("w2", env={"SHARDPLANE_FAILPOINTS": "copy_range_before_commit:stop@2"})
    shop.copy(update["snapshot"], shop.tables[0], worker=victim)  # its connections serve the next range
    shop.manager.assign(victim, "copy-victim", "copy", targets=shop.targets, tables=[table], snapshot=update["snapshot"], range_no=0, page_from=0, page_to=0)
    shop.manager.wait(lambda: victim.state() == "T", what="the worker to freeze")
    for shard in range(3):
        shop.rig.sql(shard, manager_sql("terminate_task"), (shop.rig.job, "copy-victim"), role="admin_endpoint")
    assert shop.copy(update["snapshot"], table)["rows"] == 40000
    victim.process.send_signal(signal.SIGCONT)
    with pytest.raises(TaskFailed):
        shop.manager.result("copy-victim")
    assert sorted(shop.rows(1, table) + shop.rows(2, table)) == shop.rows(0, table)


def manager_sql(name):
    """A statement of the manager, for psycopg2."""
    with open(os.path.join(REPO, "services", "manager", "sql", "manager.sql"), encoding="utf-8") as f:
        text = re.search(rf"-- name: {name}\n(.*?)(-- name: |\Z)", f.read(), re.S).group(1)
    return re.sub(r"\$\d", "%s", "".join(line for line in text.splitlines(True) if not line.startswith("--")))


def test_two_workers_one_range(shop):
    """Both are given the same range: it is loaded once."""
    shop.schema()
    task, update = shop.snapshot()
    other = shop.rig.worker("w2")
    fields = dict(targets=shop.targets, tables=[shop.tables[1]], snapshot=update["snapshot"], range_no=0, page_from=0, page_to=0)
    shop.manager.identity(other)
    shop.manager.assign(shop.worker, "one", "copy", **fields)
    shop.manager.assign(other, "two", "copy", **fields)
    assert shop.manager.result("one")["rows"] == 40000 and shop.manager.result("two")["rows"] == 40000
    assert sorted(shop.rows(1, shop.tables[1]) + shop.rows(2, shop.tables[1])) == shop.rows(0, shop.tables[1])


def test_rewritten_table(shop):
    """VACUUM FULL moves rows to other pages: a planned range means nothing any more."""
    shop.schema()
    task, update = shop.snapshot()
    shop.rig.sql(0, "CLUSTER orders USING orders_pkey", role="owner_endpoint")
    with pytest.raises(TaskFailed) as failed:
        shop.copy(update["snapshot"], shop.tables[1])
    assert failed.value.error["code"] == "schema_changed" and not failed.value.error["retryable"]


def test_text_format_and_kept_rows(shop):
    """Text where a type has no binary form; rows of nobody's arcs stay behind."""
    shop.targets = [{"shard_id": "s2", "bounds": [-(1 << 63), -(1 << 61)]}, {"shard_id": "s3", "bounds": [1 << 61]}]
    shop.schema()
    task, update = shop.snapshot()
    table = dict(shop.tables[0], binary=False)
    done = shop.copy(update["snapshot"], table)
    moved = [r for r in shop.rig.sql(0, "SELECT hashtextextended(id::text, 0) FROM customers", fetch=True) if r[0] < -(1 << 61) or r[0] >= 1 << 61]
    assert done["rows"] == len(moved) > 0
    assert len(shop.rows(1, table)) + len(shop.rows(2, table)) == len(moved)
    assert set(shop.rows(1, table)) | set(shop.rows(2, table)) < set(shop.rows(0, table))
    assert shop.verify(table).get("mismatches", []) == []


def test_slot_waits_for_writers(shop):
    """Slot creation waits for open transactions, and says for whom."""
    blocker = psycopg2.connect(shop.rig.shards[0]["owner_endpoint"], application_name="long report")
    blocker.cursor().execute("UPDATE orders SET total = 1 WHERE id = 1")
    shop.manager.assign(shop.worker, "slow", "snapshot", slot="shp_slow_1")
    said = shop.manager.wait(lambda: [u for u in shop.manager.updates.get("slow", []) if "long report" in u.get("detail", "")], what="a named blocker")
    assert "snapshot" not in said[-1]
    blocker.commit()
    update = shop.manager.wait(lambda: [u for u in shop.manager.updates["slow"] if "snapshot" in u], what="the slot")[-1]
    assert update["lsn"].count("/") == 1
    shop.manager.control(shop.worker, "slow", "stop")
    shop.manager.result("slow")
    blocker.close()


def test_snapshot_holder_dies(shop):
    task, update = shop.snapshot()
    shop.rig.sql(0, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'walsender'")
    with pytest.raises(TaskFailed) as failed:
        shop.manager.result(task)
    assert failed.value.error["retryable"]
    shop.rig.sql(0, manager_sql("drop_slot"), (f"shp_{shop.rig.job}_1",), role="admin_endpoint")  # before the next try, so does the manager
    task, update = shop.snapshot()
    assert "snapshot" in update


def test_snapshot_comes_late(shop):
    """A snapshot task of a worker that was given up, and goes on, leaves the slot of its successor alone."""
    task, update = shop.snapshot()
    with pytest.raises(TaskFailed) as failed:
        shop.manager.run(shop.worker, "late", "snapshot", slot=f"shp_{shop.rig.job}_1")
    assert failed.value.error["code"] == "conflict" and failed.value.error["retryable"]
    shop.manager.control(shop.worker, task, "stop")
    shop.manager.result(task)
    kept = shop.rig.sql(0, "SELECT confirmed_flush_lsn = %s FROM pg_replication_slots", (update["lsn"],), fetch=True)
    assert kept == [(True,)]


def test_epochs(shop):
    """A task of another epoch is dropped; one whose shard has seen a later epoch changes nothing."""
    shop.schema()
    task, update = shop.snapshot()
    shop.manager.assign(shop.worker, "stale", "copy", epoch=shop.manager.epoch - 1, targets=shop.targets, tables=[shop.tables[1]], snapshot=update["snapshot"])
    shop.manager.wait(lambda: "STALE-EPOCH" in shop.worker.logged(), what="the stale task to be dropped")
    assert "stale" not in shop.manager.updates
    shop.rig.sql(1, "UPDATE shardplane.control SET epoch = epoch + 1")
    with pytest.raises(TaskFailed) as failed:
        shop.copy(update["snapshot"], shop.tables[1])
    assert failed.value.error["code"] == "stale_epoch"
    assert shop.rows(1, shop.tables[1]) == [] and shop.rows(2, shop.tables[1]) == []


def test_leader_falls_silent(shop):
    """Three missed heartbeats: tasks are aborted, and a fresh identity says hello. A new leader is found at once."""
    shop.manager.heartbeat_ms = 300
    task, update = shop.snapshot()
    names = set(shop.manager.workers)
    shop.manager.answer_heartbeats = False
    shop.manager.wait(lambda: set(shop.manager.workers) - names, 15, "a fresh identity")
    deadline = time.monotonic() + 5
    while shop.rig.sql(0, "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'walsender'", fetch=True):
        assert time.monotonic() < deadline, "the aborted task still holds its snapshot"
    successor = shop.rig.manager()
    successor.wait(lambda: successor.workers, 5, "the worker at its new leader")


def test_results_are_repeated(shop):
    """A result that nobody acknowledged is told again; an acknowledged one is not."""
    shop.manager.acknowledge = False
    shop.manager.assign(shop.worker, "bad", "copy", targets=shop.targets, tables=[shop.tables[1]])
    shop.manager.wait(lambda: len(shop.manager.updates.get("bad", [])) >= 3, what="a repeated result")
    shop.manager.acknowledge = True
    shop.manager.wait(lambda: len(shop.manager.updates["bad"]) >= 4, what="one more")
    told = len(shop.manager.updates["bad"])
    until = time.monotonic() + 2.5
    shop.manager.wait(lambda: time.monotonic() > until)
    assert len(shop.manager.updates["bad"]) == told


def test_purge(shop):
    """Rows of the arcs go, others stay."""
    before = shop.rig.sql(0, "SELECT count(*) FROM orders WHERE hashtextextended(customer_id::text, 0) >= 0", fetch=True)[0][0]
    done = shop.manager.run(shop.worker, "purge", "purge", tables=[shop.tables[1]], bounds=LOW)
    assert done["rows"] == 40000 - before
    assert shop.rig.sql(0, "SELECT count(*), count(*) FILTER (WHERE hashtextextended(customer_id::text, 0) < 0) FROM orders", fetch=True) == [(before, 0)]


def waits(shop, task, words, lag=False):
    """Until the task says why it waits."""
    def told():
        u = shop.manager.last(task)
        return u and words in u.get("detail", "") and ("lag_bytes" in u) == lag and u

    return shop.manager.wait(told, what=f"{task} to say: {words}")


def test_copy_rate(shop):
    """A rate holds a range back until it is paid for, also one that is over before a rate is looked at; another rate counts at once."""
    shop.schema()
    _, update = shop.snapshot()
    fields = dict(targets=shop.targets, tables=[shop.tables[1]], snapshot=update["snapshot"], range_no=0, page_from=0, page_to=0)
    began = time.monotonic()
    small = shop.copy(update["snapshot"], shop.tables[0], page_to=2, rate_bytes_per_s=1_000_000_000)
    fast, began = time.monotonic() - began, time.monotonic()
    assert 0 < small["bytes"] < 64 * 1024, "it is over before the first turn"
    shop.copy(update["snapshot"], shop.tables[0], range_no=1, page_to=2, rate_bytes_per_s=small["bytes"] // 2)
    assert time.monotonic() - began >= 2, fast
    shop.manager.assign(shop.worker, "slow", "copy", rate_bytes_per_s=1024, **fields)
    waits(shop, "slow", "limit of 1024 bytes/s")
    shop.manager.control(shop.worker, "slow", "throttle", rate_bytes_per_s=2048)
    waits(shop, "slow", "limit of 2048 bytes/s")
    shop.manager.control(shop.worker, "slow", "throttle", rate_bytes_per_s=0)
    assert shop.manager.result("slow")["rows"] == 40000


def test_stop_ends_a_wait(shop):
    """Neither a debt of hours nor a standby that never comes keeps a task from its stop."""
    shop.schema()
    _, update = shop.snapshot()
    shop.manager.assign(shop.worker, "slow", "copy", targets=shop.targets, tables=[shop.tables[1]], snapshot=update["snapshot"], range_no=0, page_from=0,
                        page_to=0, rate_bytes_per_s=1)
    shop.manager.assign(shop.worker, "purge", "purge", tables=[shop.tables[1], shop.tables[0]], bounds=HIGH, rate_bytes_per_s=1)
    for task in ("slow", "purge"):
        waits(shop, task, "limit of 1 bytes/s")
        shop.manager.control(shop.worker, task, "stop")
        with pytest.raises(TaskFailed) as stopped:
            shop.manager.result(task, seconds=2)
        assert stopped.value.error["code"] == "cancelled"


class Standby:
    """What a primary takes for a physical standby: pg_receivewal, which flushes and says so at once."""

    def __init__(self, rig, shard):
        self.rig, self.shard = rig, shard
        folder = tempfile.mkdtemp(prefix="sp-standby-")
        self.folder = folder
        self.process = subprocess.Popen(["pg_receivewal", "-D", folder, "-d", rig.shards[shard]["superuser_endpoint"] + "?application_name=held", "--synchronous",
                                         "--no-loop"])

    def __enter__(self):
        deadline = time.monotonic() + 20
        while not self.rig.sql(self.shard, "SELECT 1 FROM pg_stat_replication WHERE application_name = 'held' AND flush_lsn = pg_current_wal_flush_lsn()", fetch=True):
            assert self.process.poll() is None and time.monotonic() < deadline, "no standby streams"
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder)


def test_copy_waits_for_a_standby(shop):
    """A standby of a target that does not keep up holds the copy, which says so all the time; without a limit nobody looks."""
    shop.schema()
    _, update = shop.snapshot()
    fields = dict(targets=shop.targets, tables=[shop.tables[1]], snapshot=update["snapshot"], range_no=0, page_from=0, page_to=0)
    with Standby(shop.rig, 2) as standby:
        standby.process.send_signal(signal.SIGSTOP)
        shop.rig.sql(2, "SELECT pg_logical_emit_message(true, 'x', repeat('x', 200000))")
        shop.manager.assign(shop.worker, "copy", "copy", max_replica_lag_bytes=65536, **fields)
        told = waits(shop, "copy", "standby held of shard s3 is", lag=True)
        assert told["lag_bytes"] > 65536 and told["rows"] == 0, "nothing is locked and copied before the first look"
        assert shop.rig.sql(2, "SELECT 1 FROM pg_locks WHERE relation = 'public.orders'::regclass", fetch=True) == []
        heard = len(shop.manager.updates["copy"])
        until = time.monotonic() + 2
        shop.manager.wait(lambda: time.monotonic() > until)
        assert len(shop.manager.updates["copy"]) >= heard + 2, "at least one word a second"
        assert shop.manager.last("copy")["rows"] == 0
        standby.process.send_signal(signal.SIGCONT)
        assert shop.manager.result("copy")["rows"] == 40000
        standby.process.send_signal(signal.SIGSTOP)
        shop.rig.sql(2, "SELECT pg_logical_emit_message(true, 'x', repeat('x', 200000))")
        assert shop.copy(update["snapshot"], shop.tables[0], max_replica_lag_bytes=0)["rows"] > 0


def test_lag_is_shown_while_its_task_runs(shop):
    """Neither a task that has ended nor one that was given up with its leader leaves its lag in the metrics."""
    listen = f"127.0.0.1:{shop.rig.port_base + 90}"
    worker = shop.rig.worker("w2", metrics_listen=listen)
    shop.schema()
    _, update = shop.snapshot()

    def shown(task):
        with urllib.request.urlopen(f"http://{listen}/metrics", timeout=5) as r:
            return [line for line in r.read().decode().splitlines() if "lag_bytes{" in line and f'task="{task}"' in line]

    with Standby(shop.rig, 2) as standby:
        standby.process.send_signal(signal.SIGSTOP)
        shop.rig.sql(2, "SELECT pg_logical_emit_message(true, 'x', repeat('x', 200000))")
        for task, table in (("ends", shop.tables[1]), ("given-up", shop.tables[0])):
            shop.manager.assign(worker, task, "copy", max_replica_lag_bytes=65536, targets=shop.targets, tables=[table],
                                snapshot=update["snapshot"], range_no=0, page_from=0, page_to=0)
            waits(shop, task, "standby held of shard s3 is", lag=True)
            assert shown(task)
            if task == "ends":
                shop.manager.control(worker, task, "throttle", max_replica_lag_bytes=0)
                shop.manager.result(task)
            else:
                successor = shop.rig.manager()
                successor.wait(lambda: successor.workers, 5, "the workers at their new leader")
            shop.rig.managers[-1].wait(lambda t=task: not shown(t), 5, f"{task} to leave the metrics")


def test_purge_waits_for_a_standby(shop):
    """It looks at the shard that it deletes from, and goes on when the limit is raised."""
    before = shop.rig.sql(0, "SELECT count(*) FROM orders WHERE hashtextextended(customer_id::text, 0) >= 0", fetch=True)[0][0]
    with Standby(shop.rig, 0) as standby:
        standby.process.send_signal(signal.SIGSTOP)
        shop.rig.sql(0, "SELECT pg_logical_emit_message(true, 'x', repeat('x', 200000))")
        shop.manager.assign(shop.worker, "purge", "purge", tables=[shop.tables[1]], bounds=LOW, max_replica_lag_bytes=65536)
        assert waits(shop, "purge", "standby held of shard s1 is", lag=True)["rows"] == 0
        shop.manager.control(shop.worker, "purge", "throttle", max_replica_lag_bytes=1 << 40)
        assert shop.manager.result("purge")["rows"] == 40000 - before


def test_termination(shop):
    """SIGTERM: the task says that it ended, the worker leaves with 0."""
    task, update = shop.snapshot()
    shop.worker.process.terminate()
    shop.manager.wait(lambda: shop.manager.last(task, "done") or shop.manager.last(task, "failed"), what="the last word")
    assert shop.worker.process.wait(timeout=10) == 0
