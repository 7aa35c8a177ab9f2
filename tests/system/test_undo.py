"""Giving a job up where that is hard: a shard that is away, a statement that waits, a failure that is being undone already."""
import contextlib
import json
import os
import time

import psycopg2
import pytest

from harness.rig import SLOW, Reviver

from test_crash import hold, reach


def cancel(cell):
    cell.rig.api.retrying("POST", f"/api/v1/reshard/jobs/{cell.job_id}/cancel", {})


@contextlib.contextmanager
def reading(cell, text):
    """A transaction in shard a that has read, and does not end."""
    connection = psycopg2.connect(cell.dsn("a", "primary"))
    try:
        connection.set_session(isolation_level="REPEATABLE READ")
        with connection.cursor() as cursor:
            cursor.execute(text)
        yield
    finally:
        connection.close()


def test_a_target_that_cannot_be_reached_ends_the_job(rig):
    """Nothing was made on it yet, so there is nothing to undo there; the job fails with what preflight found, and may be tried again."""
    cell = rig.cell(register=("a", "b"))
    cluster = rig.stack.cluster(cell.shards["b"]["cluster"])
    cluster.stop("immediate")
    cell.job_id = rig.api.split(f"{cell.name}-a", [f"{cell.name}-b"])["id"]
    job = cell.wait("failed", 30)
    assert [f["check"] for f in job["findings"]] == ["unreachable"], job
    cluster.start()
    rig.api.retrying("POST", f"/api/v1/reshard/jobs/{cell.job_id}/retry", {})
    cell.wait("completed")
    cell.close()


def test_a_cancel_leaves_a_registered_target_as_it_was(rig):
    """It was a shard before, and stays one, without anything that the job has made there."""
    cell = rig.cell(register=("a", "b"))
    hold(rig, "deltasync")
    cell.remember()
    cell.job_id = rig.api.split(f"{cell.name}-a", [f"{cell.name}-b"])["id"]
    reach(cell, "deltasync")
    cancel(cell)
    rig.release()
    cell.wait("cancelled")
    cell.no_residue("ab")
    assert rig.api.get(f"/api/v1/shards/{cell.name}-b")["status"] == "empty"
    got = rig.api.check(cell.name)
    assert got["ok"], got
    cell.close()


def test_a_cancel_knows_what_a_lost_worker_has_made(rig):
    """Killed between the commit of the schema and its answer: all of it goes, what others have made there stays."""
    cell = rig.cell(register=("a", "b"))
    cell.sql("a", "CREATE SCHEMA app; CREATE TABLE app.notes (id bigint PRIMARY KEY); CREATE SCHEMA shared; CREATE TABLE shared.t (id bigint PRIMARY KEY); "
             "CREATE AGGREGATE app.everything(*) (SFUNC = int8inc, STYPE = int8, INITCOND = '0'); "
             "CREATE TABLE settings (name text)", role="owner")
    for table in ({"schema": "app", "table": "notes", "key_column": "id"}, {"schema": "shared", "table": "t", "key_column": "id"},
                  {"table": "settings", "mode": "ignored"}):
        rig.api.post(f"/api/v1/keyspaces/{cell.name}/tables", table, timeout=60)
    cell.sql("b", "CREATE TABLE settings (name text); INSERT INTO settings VALUES ('mine'); CREATE SCHEMA shared; CREATE TABLE shared.mine ()",
             role="owner")
    cell.remember()
    others = rig.work_with(rig.held("schema_after_commit"))
    cell.job_id = rig.api.split(f"{cell.name}-a", [f"{cell.name}-b"])["id"]
    cell.wait("precopy", 30)
    rig.stack.wait_for("the schema", lambda: cell.sql("b", "SELECT to_regclass('app.notes') IS NOT NULL") == [(True,)], 30 * SLOW)
    cancel(cell)
    rig.stack.kill("resharder-1")
    for name in ["resharder-1", *others]:
        rig.stack.start(name, {"SHARDPLANE_FAILPOINTS": ""})
    cell.wait("cancelled")
    cell.no_residue("ab")
    assert cell.sql("b", "SELECT name FROM settings") == [("mine",)]
    cell.close()


def test_a_table_stays_registered_until_guards_are_folded(cell):
    """Folding makes the guards of all tables of the job, and a purge deletes moved rows by the job's list: none of them may be let go before."""
    rig, table = cell.rig, "notes"
    cell.sql("a", f"CREATE TABLE {table} (id bigint PRIMARY KEY)", role="owner")
    rig.api.post(f"/api/v1/keyspaces/{cell.name}/tables", {"table": table, "key_column": "id"}, timeout=60)
    rig.lead_with(rig.held("job_fold_before"))
    cell.split()
    cell.wait("completed")

    path = f"/api/v1/keyspaces/{cell.name}/tables"

    def refused(method, where, body=None):
        """How: None, or whether the same will do a little later."""
        data = None if body is None else json.dumps(body).encode()
        status, headers, text = rig.api.raw(method, where, data, {"Content-Type": "application/json"}, timeout=60)
        if status < 300:
            return None
        assert status == 409 and cell.job_id in text.decode(), text
        return headers.get("Retry-After") is not None

    assert refused("DELETE", f"{path}/public/{table}") is True
    assert refused("POST", path, {"table": table, "key_column": "id"}) is True
    rig.release()
    rig.stack.wait_for("the fold", lambda: refused("POST", path, {"table": table, "key_column": "id"}) is None, 20 * SLOW)
    assert refused("DELETE", f"{path}/public/{table}") is False
    cell.finalize()
    assert refused("DELETE", f"{path}/public/{table}") is None
    for letter in "abc":
        assert cell.sql(letter, f"SELECT count(*) FROM pg_trigger WHERE tgrelid = '{table}'::regclass AND NOT tgisinternal") == [(0,)]


def test_an_undo_drops_the_slot_while_a_target_is_away(cell):
    """A target that does not come back for long must not make the source keep its WAL for as long."""
    hold(cell.rig, "deltasync")
    cell.remember()
    cell.split()
    reach(cell, "deltasync")

    def slots():
        return cell.sql("a", f"SELECT count(*) FROM pg_replication_slots WHERE starts_with(slot_name, 'shp_{cell.job_id}_')")[0][0]

    assert slots() == 1
    cluster = cell.rig.stack.cluster(cell.shards["b"]["cluster"])
    cluster.stop("immediate")
    try:
        cancel(cell)
        cell.rig.release()
        cell.rig.stack.wait_for("the slot to go", lambda: slots() == 0, 30 * SLOW)
        job = cell.rig.api.job(cell.job_id)
        assert job["state"] == "deltasync", job
    finally:
        cluster.start()
    cell.wait("cancelled")
    cell.no_residue()


def test_an_undo_goes_on_where_the_index_of_an_identity_is_gone(cell):
    """It cannot be set again; the table is left as PostgreSQL leaves one whose identity's index is dropped: without."""
    for table in ("orders", "order_items"):
        cell.sql("a", f"CREATE UNIQUE INDEX {table}_own ON {table} (id, note)", role="owner")
        cell.sql("a", f"ALTER TABLE {table} REPLICA IDENTITY USING INDEX {table}_own", role="owner")
    hold(cell.rig, "deltasync")
    cell.remember()
    cell.split()
    reach(cell, "deltasync")
    identity = "SELECT relreplident::text, EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisreplident) FROM pg_class c WHERE oid = '{}'::regclass"
    assert cell.sql("a", "SELECT count(*) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid "
                         f"WHERE i.indisreplident AND starts_with(x.relname, 'shp_{cell.job_id}_ri_')") == [(2,)]
    cell.sql("a", "DROP INDEX orders_own", role="owner")
    cancel(cell)
    cell.rig.release()
    cell.wait("cancelled", 40)
    assert cell.sql("a", identity.format("orders")) == [("n", False)]
    assert cell.sql("a", identity.format("order_items")) == [("i", True)]
    cell.no_residue("bc")
    cell.no_residue("a", unchanged=False)


def test_a_cancel_ends_a_statement_that_waits(cell):
    """An index is built CONCURRENTLY for the job's time: it waits for every older snapshot, and the cancel must not."""
    cell.remember()
    with reading(cell, "SELECT count(*) FROM customers"):
        cell.split()
        cell.rig.stack.wait_for("the index to wait", lambda: cell.rig.api.job(cell.job_id).get("step") == "identities", 30 * SLOW)
        time.sleep(0.5)
        cancel(cell)
        cell.wait("cancelled", 20)
    cell.no_residue()


def test_a_cancel_gives_a_sealed_source_back_before_all_else(cell):
    """Cancelled between seal and flip, while a reader holds up what must be undone on the tables: writes do not wait for that."""
    hold(cell.rig, "cutover")
    cell.remember()
    cell.split()
    reach(cell, "cutover")

    def accepts():
        with contextlib.suppress(psycopg2.Error):
            return cell.sql("a", "UPDATE customers SET seq = seq WHERE id = 1", role="primary") == 1
        return False

    cell.rig.stack.wait_for("the seal", lambda: not accepts(), 20 * SLOW)
    with reading(cell, "SELECT count(*) FROM orders"):
        cancel(cell)
        cell.rig.release()
        began = time.monotonic()
        cell.rig.stack.wait_for("the source to accept again", accepts, 60 * SLOW)
        waited = time.monotonic() - began
        assert waited < 10 * SLOW, f"writes waited {waited:.1f} s"
    cell.wait("cancelled")
    cell.no_residue()


def test_a_cancel_while_a_failure_is_undone_is_not_lost(cell):
    cell.rig.lead_with(cell.rig.held("job_undo_before"))
    cell.sql("a", "CREATE TABLE forgotten (id bigint PRIMARY KEY)")
    cell.split()
    cell.rig.stack.wait_for("the failure", lambda: cell.rig.api.job(cell.job_id).get("findings"), 20 * SLOW)
    cancel(cell)
    cell.rig.release()
    # It may pass through `failed`: the cancel is obeyed even when it comes with the very last write of the undo.
    cell.rig.stack.wait_for("the cancel to be obeyed", lambda: cell.rig.api.job(cell.job_id)["state"] == "cancelled", 20 * SLOW)
    assert cell.rig.api.job(cell.job_id)["error"]["code"] == "preflight_failed"


def test_a_record_that_is_too_large_ends_the_job(cell):
    """What cannot be written cannot be gone on with: the job says so, instead of making its plan over and over."""
    columns = ", ".join(f"c{i:04}_{'x' * 56} boolean" for i in range(1590))
    for i in range(14):
        cell.sql("a", f"CREATE TABLE wide{i} (id bigint PRIMARY KEY, {columns})", role="owner")
        cell.rig.api.post(f"/api/v1/keyspaces/{cell.name}/tables", {"table": f"wide{i}", "key_column": "id"}, timeout=60)
    cell.split()
    job = cell.wait("failed", 60)
    assert job["error"]["code"] == "too_large", job


def test_a_table_that_is_dropped_meanwhile_ends_the_job(cell):
    """What is gone needs no guard: the rest is undone, and the next split moves what is left."""
    hold(cell.rig, "deltasync")
    cell.split()
    reach(cell, "deltasync")
    cell.sql("a", "DROP TABLE order_items", role="owner")
    cell.rig.release()
    job = cell.wait("failed", 40)
    assert "order_items" in job["error"]["message"], job
    cell.rig.api.delete(f"/api/v1/keyspaces/{cell.name}/tables/public/order_items")
    cell.split()
    cell.wait("completed")
    # Dropped everywhere before the guards are folded, or while the way back is kept.
    cell.sql("a", "DROP TABLE orders", role="owner")
    cell.finalize()


# The first two of each list run with every submission; SP_ALL=1 runs all.
UNDO = ["job_undo_targets_before", "job_undo_after", "job_cancel_after", "job_undo_before", "job_undo_source_before", "job_undone_after"]
LIFT = ["job_lift_after", "job_unseal_after", "job_unseal_before", "job_lifted_after"]
FEW = None if os.environ.get("SP_ALL") else 2


@pytest.mark.parametrize("point", UNDO[:FEW])
def test_the_leader_dies_while_a_job_is_undone(cell, point):
    """Whoever leads next goes on with the undo, in whatever order it was cut off."""
    cell.rig.lead_with(f"{cell.rig.held('job_follow_after')};{point}:kill")
    cell.remember()
    cell.write()
    cell.split()
    reach(cell, "deltasync")
    with Reviver(cell.rig, "manager-1") as reviver:
        cancel(cell)
        cell.rig.release()
        cell.wait("cancelled", 60)
        assert reviver.died or point == "job_undone_after", "the failpoint was never reached: the test proved nothing"
    cell.wait_acked(20, "router")
    cell.wait_acked(10, "direct")
    cell.check(cell.stop_writers())
    cell.no_residue()


@pytest.mark.parametrize("point", LIFT[:FEW])
def test_the_leader_dies_while_a_fence_is_lifted(cell, point):
    """A long transaction of the application keeps the fence from its lock; the cutover that comes after is another attempt."""
    cell.rig.lead_with(f"{cell.rig.held('job_arm_before')};{point}:kill")
    connection = psycopg2.connect(cell.dsn("a", "primary"))
    cell.write()
    cell.split()
    reach(cell, "ready")
    with Reviver(cell.rig, "manager-1") as reviver:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE customers SET seq = seq WHERE id = 1")
        cell.rig.release()
        cell.rig.stack.wait_for("a fence to be lifted", lambda: reviver.died, 60 * SLOW)
        connection.close()
        cell.wait("completed", 90)
    cell.finish()
