"""kill -9 at every durable step of a split, and around it: each ends in a finished job, a clean ledger and no residue."""
import time

import pytest

from harness.api import ApiError
from harness.rig import SLOW, Reviver, failpoints
from ledger import checker
from ledger.route_client import RouteClient

RESUME_SECONDS = 60  # I5
TAKEOVER_SECONDS = 15


def survive(cell, reviver):
    """Splits and finalizes while `reviver`'s victim dies at its failpoint; returns the finalized job's logs."""
    key = f"crash-{cell.name}"
    bodies = [cell.body("b"), cell.body("c")]
    cell.job_id = cell.rig.api2.retrying("POST", "/api/v1/reshard/split", {
        "source_shard_id": f"{cell.name}-a", "target_shards": bodies}, {"Idempotency-Key": key}, seconds=30 * SLOW)["id"]
    cell.wait("completed", RESUME_SECONDS + 30)
    _, logs = cell.finish()
    assert reviver.died, "the failpoint was never reached: the test proved nothing"
    if checker.latencies_ms(logs)["max"] > (TAKEOVER_SECONDS + 2) * 1000 * SLOW:
        raise AssertionError(f"a client waited {checker.latencies_ms(logs)['max']:.0f} ms for its write")
    return logs


@pytest.mark.parametrize("point", failpoints("manager"))
def test_leader_is_killed(cell, point):
    cell.rig.lead_with(f"{point}:kill")
    cell.write()
    with Reviver(cell.rig, "manager-1") as reviver:
        survive(cell, reviver)


@pytest.mark.parametrize("point", failpoints("resharder"))
def test_worker_is_killed(cell, point):
    others = cell.rig.work_with(f"{point}:kill")
    cell.write()
    with Reviver(cell.rig, "resharder-1", others) as reviver:
        survive(cell, reviver)


# -- router and gateway, etcd, in each phase --------------------------------------------------------------------------------

# phase -> (service kind, failpoint) where a job is held in it.
HOLD = {
    "precopy": ("resharder", "copy_range_before_commit"),
    "deltasync": ("manager", "job_follow_after"),
    "validating": ("manager", "job_validate_before"),
    "ready": ("manager", "job_arm_before"),
    "cutover": ("manager", "job_flip_before"),
    "flipped": ("manager", "job_flip_after"),  # still in cutover: the targets are not open yet
}


def hold(rig, phase):
    """Jobs go no further than this phase until rig.release()."""
    kind, point = HOLD[phase]
    if kind == "manager":
        rig.lead_with(rig.held(point))
    else:
        rig.set_failpoints(kind, rig.held(point))


def reach(cell, phase):
    """Until the job is seen in the phase that it is held in."""
    def flipped(job):
        return "flipped_ms" in job.get("cutover", {})

    order = ["pending", "precopy", "deltasync", "validating", "ready", "cutover", "completed", "finalized"]
    state = "cutover" if phase == "flipped" else phase
    job = cell.wait(order[order.index(state):], 60)
    if phase == "flipped":
        cell.rig.stack.wait_for("the flip", lambda: flipped(cell.rig.api2.job(cell.job_id)), 20 * SLOW)
        job = cell.rig.api2.job(cell.job_id)
    assert job["state"] == state and flipped(job) == (phase == "flipped"), f"held in {phase}, but the job is {job['state']}"
    return job


@pytest.mark.parametrize("phase", HOLD)
def test_router_and_gateway_are_killed(cell, phase):
    """Others serve, what was under way is unknown or repeated, never doubled."""
    hold(cell.rig, phase)
    cell.write()
    cell.split()
    reach(cell, phase)
    for name in ("router-1", "gateway-1"):
        cell.rig.stack.kill(name)
    cell.rig.release()
    cell.wait_acked(10, "router")
    for name in ("router-1", "gateway-1"):
        cell.rig.stack.start(name)
    cell.wait("completed")
    cell.finish()


@pytest.mark.parametrize("phase", HOLD)
def test_etcd_restarts(cell, phase):
    """The data path goes on with the last catalog; the job goes on when etcd is back."""
    hold(cell.rig, phase)
    cell.write()
    cell.split()
    reach(cell, phase)
    cell.rig.stack.etcd.stop(9)
    if phase not in ("cutover", "flipped"):
        cell.wait_acked(10, "router")
    cell.rig.release()
    time.sleep(1)  # how long etcd stays away from what the job does next
    cell.rig.stack.etcd.start()
    cell.wait("completed", RESUME_SECONDS + 30)
    cell.finish()


# -- what a catalog that is away must not do --------------------------------------------------------------------------------


def test_without_etcd_reads_and_writes_go_on_and_changes_are_refused(cell):
    client = RouteClient(cell.rig.router_endpoints[:1], cell.name)
    before = client.shard_for_key(1)
    cell.rig.stack.etcd.stop()
    assert client.shard_for_key(1) == before
    assert client.execute(1, [("UPDATE customers SET seq = seq WHERE id = $1", [1])])[3][0][2] == 1
    with pytest.raises(ApiError) as refused:
        cell.rig.api.post("/api/v1/keyspaces", {"name": "never"}, timeout=60)
    assert refused.value.status == 503, refused.value
    # A router that starts now knows nothing, and must not answer as if the ring were empty.
    cell.rig.stack.stop("router-2")
    cell.rig.stack.start("router-2", wait=False)
    other = RouteClient(cell.rig.router_endpoints[1:], cell.name)
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        assert cell.rig.stack.service("router-2").get("/readyz")[0] != 200
        with pytest.raises(Exception) as unready:
            other.shard_for_key(1, timeout_ms=500)
        assert getattr(unready.value, "code", "none") in ("none", "catalog_unavailable", "unavailable"), unready.value
    cell.rig.stack.etcd.start()
    cell.rig.stack.service("router-2").wait(30 * SLOW)
    assert other.shard_for_key(1) == before
    cell.rig.leader()
    client.close()
    other.close()


def test_a_router_that_slept_through_the_flip_is_corrected(cell):
    """SIGSTOP across the flip: on waking it must not answer from the old owner, and its version never falls."""
    sleeper = RouteClient(cell.rig.router_endpoints[:1], cell.name)
    keys = list(range(1, 40))
    before = {k: sleeper.shard_for_key(k) for k in keys}
    hold(cell.rig, "deltasync")
    cell.split()
    reach(cell, "deltasync")
    cell.rig.stack.pause("router-1")
    cell.rig.release()
    cell.wait("completed")
    awake = RouteClient(cell.rig.router_endpoints[1:], cell.name)
    for k in keys:
        reply = awake.execute(k, [("UPDATE customers SET name = 'after the flip' WHERE id = $1", [k])])
        assert reply[3][0][2] == 1
    # Queued while it sleeps: answered when it wakes, with what it knew before.
    cell.rig.stack.resume("router-1")
    for k in keys:
        reply = sleeper.execute(k, [("SELECT name FROM customers WHERE id = $1", [k])])
        assert reply[3][0][4] == [["after the flip"]], f"a read that the flip has overtaken: {reply}"
        assert reply[2] > before[k][1]
        reply = sleeper.execute(k, [("UPDATE customers SET name = 'by the sleeper' WHERE id = $1", [k])])
        assert reply[3][0][2] == 1 and reply[1] != f"{cell.name}-a"
    rows = cell.sql("b", "SELECT count(*) FROM customers WHERE name = 'by the sleeper'")[0][0]
    rows += cell.sql("c", "SELECT count(*) FROM customers WHERE name = 'by the sleeper'")[0][0]
    assert rows == len(keys)
    assert cell.sql("a", "SELECT count(*) FROM customers WHERE name <> 'customer ' || id") == [(0,)]
    sleeper.close()
    awake.close()


def test_a_leader_that_slept_is_powerless(cell):
    """SIGSTOP of the leader for longer than its lease, in the middle of a split: the other finishes; on waking it changes nothing."""
    cell.rig.lead_with("")
    hold(cell.rig, "precopy")
    cell.write()
    cell.split()
    reach(cell, "precopy")
    cell.rig.stack.pause("manager-1")
    cell.rig.stack.wait_for("the standby to lead", lambda: cell.rig.leader() == "manager-2", TAKEOVER_SECONDS * SLOW)
    cell.rig.stack.resume("manager-1")
    cell.rig.release()
    cell.wait("completed", RESUME_SECONDS)
    cell.finish()
