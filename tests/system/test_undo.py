"""Giving a job up where that is hard: a shard that is away, a statement that waits, a failure that is being undone already."""


def test_a_record_that_is_too_large_ends_the_job(cell):
    """What cannot be written cannot be gone on with: the job says so, instead of making its plan over and over."""
    columns = ", ".join(f"c{i:04}_{'x' * 56} boolean" for i in range(1590))
    for i in range(14):
        cell.sql("a", f"CREATE TABLE wide{i} (id bigint PRIMARY KEY, {columns})", role="owner")
        cell.rig.api.post(f"/api/v1/keyspaces/{cell.name}/tables", {"table": f"wide{i}", "key_column": "id"}, timeout=60)
    cell.split()
    job = cell.wait("failed", 60)
    assert job["error"]["code"] == "too_large", job
