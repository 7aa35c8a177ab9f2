"""A split with one target, end to end: everything moves to one shard, with its sequences."""


def test_a_split_with_one_target_under_load(cell):
    before = cell.rig.api.ring_version(cell.name)
    cell.write(routers=2, direct=1)
    cell.split(targets=("b",))
    cell.wait("completed")
    cell.wait_acked(20, "router")
    logs = cell.stop_writers()
    cell.check(logs, leftovers="a")
    shares = {s["id"]: s["share"] for s in cell.rig.api.get(f"/api/v1/shards?keyspace={cell.name}")["shards"]}
    assert shares[f"{cell.name}-a"] == 0 and shares[f"{cell.name}-b"] == 1, shares
    cell.finalize()
    cell.check(logs)
    cell.no_residue(unchanged=False)
    assert cell.rig.api2.check(cell.name)["ok"]
    assert cell.rig.api.ring_version(cell.name) > before
