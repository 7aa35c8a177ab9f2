"""Who goes on: workers that are stopped for a new release, leaders that die while a shard is away, answers that come too late."""
import base64
import contextlib
import json
import time

import pytest

from harness.etcd_proxy import EtcdProxy
from harness.rig import SLOW
from harness.sql import query

from test_crash import RESUME_SECONDS, TAKEOVER_SECONDS, hold, reach


@pytest.mark.parametrize("phase", ["precopy", "validating"])
def test_workers_are_stopped_one_after_the_other(cell, phase):
    """A rolling restart: what a worker gives up because it stops goes to another one, and the job does not fail."""
    hold(cell.rig, phase)
    cell.write()
    cell.split()
    reach(cell, phase)
    cell.rig.release()
    for s in cell.rig.stack.of_kind("resharder"):
        cell.rig.stack.stop(s.id)
        cell.rig.stack.start(s.id)
    cell.wait("completed", RESUME_SECONDS + 30)
    cell.finish()


def job_writes(body):
    """Job records that a transaction writes."""
    for op in json.loads(body).get("success", []):
        put = op.get("request_put", {})
        if b"/jobs/" in base64.b64decode(put.get("key", "")):
            yield json.loads(base64.b64decode(put["value"]))


def test_a_flip_that_arrives_after_it_was_given_up(cell):
    """The flip's transaction is under way longer than anybody waits, and is carried out just before the lift's: then the lift must fail."""
    rig = cell.rig
    held, landed = [], []

    def on_request(proxy, path, body):
        if path != "/v3/kv/txn" or landed:
            return True
        for record in job_writes(body):
            if record.get("flipped") and not held:
                held.append(body)
            if record.get("flipped"):
                return False  # nobody answers
            if held and record["state"] == "lifting":
                landed.append(json.loads(proxy.ask("/v3/kv/txn", held[0])).get("succeeded"))
        return True

    with EtcdProxy(rig.stack.etcd.client_port, on_request) as proxy:
        rig.reconfigure("manager", **{"manager-1.metadata_endpoints": [proxy.endpoint]})
        rig.lead_with("")
        try:
            cell.write()
            cell.split()
            job = cell.wait("completed", RESUME_SECONDS + 30)
            assert landed == [True], "the late flip was not carried out: the test proved nothing"
            assert "lifting" not in [p["name"] for p in job["phases"]], job["phases"]
            cell.finish()
        finally:
            rig.reconfigure("manager")
            rig.lead_with("")


def test_a_target_that_is_away_does_not_keep_another_one_shut(cell):
    """The leader dies after the flip while one target is away: whoever leads next opens the other one at once."""
    rig, away = cell.rig, cell.shards["b"]
    server = away["superuser_endpoint"].replace(f"/{away['database']}", "/postgres")
    rig.lead_with("job_flip_after:stop")
    cell.split()
    rig.wait_stopped("manager-1")
    query(server, f"ALTER DATABASE {away['database']} ALLOW_CONNECTIONS false")
    query(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", away["database"])
    began = time.monotonic()
    try:
        def opened():
            return cell.sql("c", "SELECT count(*) FROM shardplane.opened") == [(1,)]

        rig.stack.wait_for("the other target to open", opened, (TAKEOVER_SECONDS + 5) * SLOW)
        print(f"open after {time.monotonic() - began:.1f} s")
    finally:
        query(server, f"ALTER DATABASE {away['database']} ALLOW_CONNECTIONS true")
        rig.stack.resume("manager-1")
    cell.wait("completed", RESUME_SECONDS)
    cell.finalize()


def test_a_follower_that_never_gets_on_ends_the_job(cell):
    """Each one fails in a way that could heal, and none does: the job says why, instead of trying for ever."""
    rig, role = cell.rig, "shardplane_apply"
    rig.reconfigure("manager", **{"manager.retry_for_s": 10})
    hold(rig, "deltasync")
    try:
        cell.split()
        reach(cell, "deltasync")
        cell.sql("b", f"ALTER ROLE {role} NOLOGIN")
        cell.sql("b", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", role)
        rig.release()
        job = cell.wait("failed", 100)
        assert f"{cell.name}-b" in job["error"]["message"] or role in job["error"]["message"], job["error"]
    finally:
        cell.sql("b", f"ALTER ROLE {role} LOGIN")
        rig.reconfigure("manager")
        rig.lead_with("")
    cell.split()
    cell.wait("completed")
    cell.finalize()


def test_an_unregistered_table_is_let_go_of_by_asking_again(cell):
    """The leader dies between catalog and guards: the same request finishes what it had begun."""
    rig = cell.rig
    path = f"/api/v1/keyspaces/{cell.name}/tables/public/order_items"
    rig.lead_with("table_unregistered:kill")
    with contextlib.suppress(Exception):
        rig.api2.delete(path)
    rig.wait_dead("manager-1")
    rig.leader()
    guards = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'order_items'::regclass AND tgname LIKE '~shardplane%%'"
    assert cell.sql("a", guards) == [(3,)]
    rig.api2.retrying("DELETE", path)
    assert cell.sql("a", guards) == [(0,)]
    with pytest.raises(Exception) as refused:
        rig.api2.delete(path)
    assert refused.value.status == 404
