"""kill -9 of the leader inside a registration, and inside letting a shard go: the same request, or a delete, completes it."""
import contextlib

import pytest

from harness.api import ApiError


def gone(cell, letter):
    return cell.sql(letter, "SELECT to_regnamespace('shardplane') IS NULL")[0][0]


def killed_in(cell, point, call):
    """Makes the leader die at a failpoint of this call; returns once another one leads."""
    cell.rig.lead_with(f"{point}:kill")
    with contextlib.suppress(ApiError):
        call()
    cell.rig.wait_dead("manager-1")
    assert cell.rig.leader() == "manager-2"


@pytest.mark.parametrize("point", ["command_before", "shard_intent", "shard_installed", "command_after"])
@pytest.mark.parametrize("how", ["again", "delete"])
def test_a_registration_is_cut_off(cell, point, how):
    api, path = cell.rig.api2, f"/api/v1/shards/{cell.name}-b"
    killed_in(cell, point, lambda: cell.register("b"))
    if how == "again":
        try:
            api.retrying("POST", "/api/v1/shards", cell.body("b"))
        except ApiError as e:
            assert point == "command_after" and e.code == "already_exists", e
        assert api.get(path)["status"] == "empty"
        cell.job_id = api.split(f"{cell.name}-a", [f"{cell.name}-b"])["id"]
        cell.wait("completed")
        return
    try:
        api.retrying("DELETE", path)
    except ApiError as e:
        assert point == "command_before" and e.code == "not_found", e
    assert gone(cell, "b")
    cell.register("b")


@pytest.mark.parametrize("point", ["command_before", "shard_deleting", "command_after"])
def test_a_deletion_is_cut_off(cell, point):
    api, path = cell.rig.api2, f"/api/v1/shards/{cell.name}-b"
    cell.register("b")
    killed_in(cell, point, lambda: cell.rig.api.delete(path))
    try:
        api.retrying("DELETE", path)
    except ApiError as e:
        assert point == "command_after" and e.code == "not_found", e
    assert gone(cell, "b")
    cell.register("b")
