"""A cancel before the flip undoes everything: nothing is left behind, nothing is lost, and the split can be tried again."""
import pytest

from harness.api import ApiError

from test_crash import HOLD, hold, reach

BEFORE_THE_FLIP = ["precopy", "deltasync", "validating", "ready", "cutover"]


@pytest.mark.parametrize("phase", BEFORE_THE_FLIP)
def test_cancel(cell, phase):
    assert set(BEFORE_THE_FLIP) <= set(HOLD)
    cell.remember()
    hold(cell.rig, phase)
    cell.write()
    cell.split()
    reach(cell, phase)
    cancelled = cell.rig.api.retrying("POST", f"/api/v1/reshard/jobs/{cell.job_id}/cancel", {})
    assert cancelled["id"] == cell.job_id
    # Asking twice is no error.
    cell.rig.api2.retrying("POST", f"/api/v1/reshard/jobs/{cell.job_id}/cancel", {})
    cell.rig.release()
    cell.wait("cancelled")
    cell.wait_acked(20, "router")
    cell.wait_acked(10, "direct")
    cell.check(cell.stop_writers())
    cell.no_residue()
    ids = [s["id"] for s in cell.rig.api.get(f"/api/v1/shards?keyspace={cell.name}").get("shards", [])]
    assert ids == [f"{cell.name}-a"], "shards that the job registered must go with it"
    with pytest.raises(ApiError) as refused:
        cell.rig.api.post(f"/api/v1/reshard/jobs/{cell.job_id}/finalize", {})
    assert refused.value.status == 409
    # Again, and this time to its end.
    cell.rig.restore()
    cell.split()
    cell.wait("completed")
    cell.finalize()


def test_after_the_flip_a_cancel_is_refused(cell):
    cell.split()
    cell.wait("completed")
    with pytest.raises(ApiError) as refused:
        cell.rig.api.post(f"/api/v1/reshard/jobs/{cell.job_id}/cancel", {})
    assert refused.value.status == 409 and refused.value.code == "conflict"
    cell.finalize()


def test_unknown_jobs(rig):
    for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry"), ("POST", "/finalize")):
        with pytest.raises(ApiError) as refused:
            rig.api.call(method, "/api/v1/reshard/jobs/nosuchjob00" + path, {} if method == "POST" else None)
        assert refused.value.status == 404, refused.value
