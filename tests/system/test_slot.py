"""What a job does when its source can keep its changes no longer: it ends, says why, and leaves nothing behind."""
import pytest

from harness.rig import SLOW

LOST_SECONDS = 30
BUDGET = 16 << 20
FILL = f"SELECT count(pg_logical_emit_message(false, 'ballast', repeat('x', 1 << 20))) FROM generate_series(1, {BUDGET * 3 // 2 >> 20})"


def hold_in_deltasync(cell):
    """Workers sleep from here on: the job stays in deltasync, and nobody reads its slot. Returns the slot's name."""
    cell.wait(("deltasync", "validating", "ready"), poll=0.02)
    for s in cell.rig.stack.of_kind("resharder"):
        cell.rig.stack.pause(s.id)
    # From later states the loss of its follower leads back to deltasync.
    idle = f"SELECT slot_name FROM pg_replication_slots WHERE NOT active AND NOT temporary AND starts_with(slot_name, 'shp_{cell.job_id}_')"
    slot = cell.rig.stack.wait_for("a slot that nobody reads", lambda: cell.sql("a", idle), 30 * SLOW)[0][0]
    cell.wait("deltasync")
    return slot


def wake_workers(cell):
    for s in cell.rig.stack.of_kind("resharder"):
        cell.rig.stack.resume(s.id)


def break_job(cell, act, seen=None):
    """Does what the job must not survive; it must end as failed while the workers sleep. Returns it."""
    act()
    job = cell.wait("failed", LOST_SECONDS, seen=seen)
    assert job["error"]["code"] == "conflict" and not job["error"].get("retryable"), job["error"]
    assert cell.sql("a", "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == [(0,)]
    wake_workers(cell)
    ids = [s["id"] for s in cell.rig.api.get(f"/api/v1/shards?keyspace={cell.name}").get("shards", [])]
    assert ids == [f"{cell.name}-a"], "shards that the job registered must go with it"
    return job


def split_to_the_end(cell):
    """The same split again, this time undisturbed, while clients write."""
    cell.split()
    cell.wait("completed")
    cell.finish()


def test_a_job_that_keeps_too_much_wal_gives_up(cell):
    """Nobody reads the slot, the source is written to: past the budget the job ends rather than fill the source's disk."""
    cell.rig.reconfigure("manager", **{"manager.wal_budget_bytes": BUDGET})
    cell.rig.lead_with("")
    try:
        cell.remember()
        cell.write()
        cell.split()
        hold_in_deltasync(cell)

        job = break_job(cell, lambda: cell.sql("a", FILL))
        assert "budget" in job["error"]["message"] and str(BUDGET) in job["error"]["message"], job["error"]
        cell.wait_acked(20, "router")
        cell.wait_acked(10, "direct")
        cell.no_residue()
    finally:
        cell.rig.reconfigure("manager")
        cell.rig.lead_with("")
    split_to_the_end(cell)


def test_a_job_that_waits_for_a_worker_keeps_to_its_budget(cell):
    """The snapshot's holder is lost, and nobody is there to make another: the slot keeps WAL meanwhile, and not past the budget."""
    cell.rig.reconfigure("manager", **{"manager.wal_budget_bytes": BUDGET})
    cell.rig.set_failpoints("resharder", "copy_range_before_commit:sleep=2000")
    cell.rig.lead_with(cell.rig.held("job_resnapshot_before"))

    def held():
        with open(cell.rig.stack.paths.join("log", "manager-1.log"), encoding="utf-8") as f:
            return [line for line in f if "FAILPOINT" in line and "job_resnapshot_before" in line]

    before = len(held())
    try:
        cell.remember()
        cell.split()
        cell.rig.stack.wait_for("the copy", lambda: cell.rig.api.job(cell.job_id).get("step") == "copy", 30 * SLOW)
        for s in cell.rig.stack.of_kind("resharder"):
            cell.rig.stack.pause(s.id)
        # What looks at the slot while tasks run has ended by then.
        cell.rig.stack.wait_for("the old snapshot to be given up", lambda: len(held()) > before, 60 * SLOW)
        cell.sql("a", FILL)
        cell.rig.release()
        job = cell.wait("failed", LOST_SECONDS)
        assert "budget" in job["error"]["message"], job["error"]
        wake_workers(cell)
        cell.no_residue()
    finally:
        wake_workers(cell)
        cell.rig.set_failpoints("resharder", "")
        cell.rig.reconfigure("manager")
        cell.rig.lead_with("")


def drop(cell, slot):
    cell.sql("a", f"SELECT pg_drop_replication_slot('{slot}')")


def invalidate(cell, slot):
    """The source keeps no more WAL for slots than it must, and writes some segments."""
    try:
        for text in ("max_slot_wal_keep_size = '1MB'", "wal_keep_size = 0"):
            cell.sql("a", f"ALTER SYSTEM SET {text}")
        cell.sql("a", "SELECT pg_reload_conf()")

        def lost():
            cell.sql("a", "SELECT pg_logical_emit_message(false, 'ballast', 'x'), pg_switch_wal()")
            cell.sql("a", "CHECKPOINT")
            # Gone as well: the manager may have seen the loss and cleaned up already.
            return cell.sql("a", f"SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{slot}'") in ([("lost",)], [])

        cell.rig.stack.wait_for("the slot to be lost", lost, 30 * SLOW)
    finally:
        for name in ("max_slot_wal_keep_size", "wal_keep_size"):
            cell.sql("a", f"ALTER SYSTEM RESET {name}")
        cell.sql("a", "SELECT pg_reload_conf()")


@pytest.mark.parametrize("how, word", [(drop, "gone"), (invalidate, "lost")])
def test_a_slot_that_is_lost_ends_the_job(cell, how, word):
    """It is not made again: what was written meanwhile would be missing without a trace. A new split copies anew."""
    cell.remember()
    cell.write(routers=1, direct=0)
    cell.split()
    slot = hold_in_deltasync(cell)
    statuses = set()

    def look(_job):
        statuses.update(cell.sql("a", f"SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{slot}'"))

    job = break_job(cell, lambda: how(cell, slot), seen=look)
    assert slot in job["error"]["message"] and word in job["error"]["message"], job["error"]
    assert statuses <= {("lost",)}, f"the slot was made again: {statuses}"
    cell.wait_acked(20, "router")
    cell.no_residue()
    split_to_the_end(cell)
