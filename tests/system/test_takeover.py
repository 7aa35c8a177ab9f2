"""Who goes on: workers that are stopped for a new release, leaders that die while a shard is away, answers that come too late."""
import base64
import json

import pytest

from harness.etcd_proxy import EtcdProxy

from test_crash import RESUME_SECONDS, hold, reach


@pytest.mark.parametrize("phase", ["precopy", "validating"])
def test_workers_are_stopped_one_after_the_other(cell, phase):
    """A rolling restart: what a worker gives up because it stops goes to another one, and the job does not fail."""
    hold(cell.rig, phase)
    cell.write()
    cell.split()
    reach(cell, phase)
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
