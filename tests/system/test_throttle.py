"""How fast a job may go: by bytes a second and by the lag of standbys, said at the start and changed while it runs."""
import os
import signal
import subprocess
import time

import pytest

from harness.api import ApiError
from harness.rig import BIN, SLOW
from harness.sql import query
from spstack.ports import free_base
from spstack.postgres import Cluster

SHARDCTL = os.path.join(BIN, "shardctl")
# What tasks may have sent before they wait: two workers with two tasks each, one turn (64 KiB) and the targets' buffers.
UNPAID = 4 * (64 + 2 * 64) * 1024


@pytest.fixture
def big(rig):
    """A cell with some megabytes in many ranges."""
    made = rig.cell(customers=2000, orders=20000, items=60000)
    yield made
    made.close()


def throttle(cell, **limits):
    return cell.rig.api.post(f"/api/v1/reshard/jobs/{cell.job_id}/throttle", limits)


def split(cell, targets=("b", "c"), **limits):
    body = {"source_shard_id": cell.shards["a"]["name"], "target_shards": [cell.body(t) for t in targets], **limits}
    cell.job_id = cell.rig.api.post("/api/v1/reshard/split", body, timeout=60)["id"]


def progress(cell):
    job = cell.rig.api2.job(cell.job_id)
    return {"state": job["state"], **(job.get("progress") or {})}


def wait_progress(cell, what, check, seconds=60):
    """Until check(progress) in precopy; a job that is past it will never satisfy it."""
    def look():
        p = progress(cell)
        assert p["state"] in ("pending", "precopy"), f"waited for {what}, but the job is {p['state']}"
        return check(p) and p

    return cell.rig.stack.wait_for(what, look, seconds * SLOW)


def test_a_rate_slows_the_copy_and_may_be_lifted(big):
    rate, sent = 200_000, 2_000_000
    began = time.monotonic()
    split(big, max_bytes_per_s=rate)
    wait_progress(big, f"{sent} bytes", lambda p: p.get("bytes_copied", 0) >= sent)
    took = time.monotonic() - began
    assert took >= (sent - UNPAID) / rate, f"{sent} bytes in {took:.2f} s"
    job = big.rig.api2.job(big.job_id)
    assert job["max_bytes_per_s"] == rate and job["max_replica_lag_bytes"] == 268435456
    # A rate at which the rest would take an hour, said to tasks that run: they say so, and so does the job.
    assert throttle(big, max_bytes_per_s=1024)["max_bytes_per_s"] == 1024
    wait_progress(big, "the new limit", lambda p: "1024 bytes/s" in p.get("throttled", ""), 20)
    at = progress(big)["bytes_copied"]
    assert throttle(big, max_bytes_per_s=0)["max_replica_lag_bytes"] == 268435456
    big.wait("completed")
    job = big.rig.api2.job(big.job_id)
    assert job["max_bytes_per_s"] == 0 and "throttled" not in job["progress"], job
    assert (job["progress"]["bytes_copied"] - at) / 1024 > 600, "the copy was nearly done before the limit was lifted"
    big.finalize()


def test_a_limit_outlives_the_leader_and_what_it_writes_meanwhile(big):
    """It comes while the actor is about to write the record: that write must keep it. And the next leader obeys it."""
    big.rig.lead_with(big.rig.held("job_prepared_before"))
    split(big)
    log = big.rig.stack.service("manager-1").log

    def about_to_write():
        with open(log, encoding="utf-8", errors="replace") as f:
            return f"job={big.job_id} step=snapshot ms=" in f.read()

    big.rig.stack.wait_for("the actor before its write", about_to_write, 60 * SLOW, interval=0.01)
    throttle(big, max_bytes_per_s=2048)
    big.rig.release()
    wait_progress(big, "the actor's write", lambda p: "throttled" in p)
    assert big.rig.api2.job(big.job_id)["max_bytes_per_s"] == 2048
    big.rig.stack.kill("manager-1")
    big.rig.stack.wait_for("another leader", lambda: big.rig.leader() != "manager-1", 30 * SLOW)
    wait_progress(big, "its tasks to obey", lambda p: "2048 bytes/s" in p.get("throttled", ""))
    throttle(big, max_bytes_per_s=0)
    big.wait("completed")
    big.finalize()


BAD = [({}, "is needed"), ({"max_bytes_per_s": -1}, "max_bytes_per_s"), ({"max_bytes_per_s": 1023}, "at least 1024"),
       ({"max_bytes_per_s": 1 << 51}, "max_bytes_per_s"), ({"max_bytes_per_s": 1.5}, "max_bytes_per_s"), ({"max_bytes_per_s": "1"}, "max_bytes_per_s"),
       ({"max_replica_lag_bytes": -1}, "max_replica_lag_bytes"), ({"max_replica_lag_bytes": 65535}, "at least 65536"),
       ({"max_replica_lag_bytes": 1 << 60}, "max_replica_lag_bytes"), ({"max_bytes_per_s": 0, "max_byte_per_s": 1}, "max_byte_per_s")]


def test_what_may_be_asked(cell):
    def refused(status, ask, *args, **kwargs):
        with pytest.raises(ApiError) as e:
            ask(*args, **kwargs)
        assert e.value.status == status, e.value
        return str(e.value)

    for body, words in BAD:
        if body:
            assert words in refused(400, split, cell, **body)
    assert cell.rig.api.get(f"/api/v1/shards?keyspace={cell.name}")["shards"][0].get("job_id") is None
    split(cell, max_bytes_per_s=4096, max_replica_lag_bytes=0)
    job = cell.rig.api.job(cell.job_id)
    assert (job["max_bytes_per_s"], job["max_replica_lag_bytes"]) == (4096, 0)
    for body, words in BAD:
        assert words in refused(400, throttle, cell, **body)
    job = throttle(cell, max_replica_lag_bytes=1 << 20)
    assert (job["max_bytes_per_s"], job["max_replica_lag_bytes"]) == (4096, 1 << 20), "what is absent stays"
    throttle(cell, max_bytes_per_s=0)
    cell.wait("completed")
    assert throttle(cell, max_bytes_per_s=100_000_000)["max_bytes_per_s"] == 100_000_000, "past copying it counts for the purge"
    updated = cell.finalize()["updated_ms"]
    again = throttle(cell, max_bytes_per_s=100_000_000)
    assert (again["state"], again["updated_ms"]) == ("finalized", updated), "what is set already is not written again"
    assert "nothing left" in refused(409, throttle, cell, max_bytes_per_s=0)


def test_a_purge_obeys(big):
    split(big)
    big.wait("completed")
    throttle(big, max_bytes_per_s=2048)
    big.rig.api.post(f"/api/v1/reshard/jobs/{big.job_id}/finalize", {"drop_source_rows": True})
    big.rig.stack.wait_for("the purge to wait", lambda: "2048 bytes/s" in progress(big).get("throttled", ""), 30 * SLOW)
    assert big.rig.api2.job(big.job_id)["step"] == "purge"
    throttle(big, max_bytes_per_s=0)
    big.wait("finalized")
    assert big.rig.api2.check(big.name)["ok"]


class Standby:
    """A streaming replica of a shard's cluster for one test; held: it gets nothing any more."""

    def __init__(self, cell, letter):
        stack = cell.rig.stack
        self.cell, self.primary = cell, next(c for c in stack.clusters.values() if c.port == cell.shards[letter]["port"])
        record = {"name": f"{self.primary.name}-{cell.name}", "port": free_base(), "upstream": self.primary.port}
        self.cluster = Cluster(stack.paths, record, self.primary.passwords, fsync=False)
        self.held = None

    def __enter__(self):
        self.cluster.basebackup()
        self.cluster.start()
        name = self.cluster.name
        # One that streams and has not said yet how far it is does not count as a standby.
        self.cell.rig.stack.wait_for(f"{name} to stream", lambda: query(
            self.primary.uri("postgres", "postgres"),
            f"SELECT 1 FROM pg_stat_replication WHERE application_name = '{name}' AND state = 'streaming' AND flush_lsn IS NOT NULL"),
                                     30 * SLOW)
        return self

    def hold(self):
        self.held = query(self.cluster.uri("postgres", "postgres"), "SELECT pid FROM pg_stat_wal_receiver")[0][0]
        os.kill(self.held, signal.SIGSTOP)

    def let_go(self):
        if self.held:
            os.kill(self.held, signal.SIGCONT)
        self.held = None

    def __exit__(self, *_):
        self.let_go()
        self.cluster.stop("immediate")
        self.cluster.clear()


def test_a_standby_that_lags_holds_the_copy(big):
    """The copy stands still and says why, for people too; a cancel ends that at once, and a standby that comes along lets it go on."""
    rig = big.rig
    big.remember()
    with Standby(big, "b") as standby:
        standby.hold()
        split(big, max_replica_lag_bytes=65536)
        wait_progress(big, "a pause", lambda p: f"standby {standby.cluster.name} of shard {big.name}-b is" in p.get("throttled", ""))
        with subprocess.Popen([SHARDCTL, "job", "watch", big.job_id], stdout=subprocess.PIPE, text=True,
                              env={**os.environ, "SHARDPLANE_GATEWAY": rig.api.base}) as watch:
            line = watch.stdout.readline()
            watch.kill()
        assert line.startswith("precopy") and "throttled: standby" in line and "behind" in line, line
        rig.api.post(f"/api/v1/reshard/jobs/{big.job_id}/cancel", {})
        big.wait("cancelled", 20)
        assert standby.held, "it was never let go"
        big.no_residue()
        split(big, max_replica_lag_bytes=65536)
        wait_progress(big, "a pause", lambda p: "behind" in p.get("throttled", ""))
        standby.let_go()
        big.wait("completed")
        assert "throttled" not in rig.api.job(big.job_id)["progress"]
        big.finalize()


def test_from_the_command_line(cell):
    def shardctl(*args):
        done = subprocess.run([SHARDCTL, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=90 * SLOW, check=False,
                              env={**os.environ, "SHARDPLANE_GATEWAY": cell.rig.api.base, "B": cell.dsn("b", "primary")})
        return done.returncode, done.stdout, done.stderr

    # The targets' other roles are not asked for: these are registered before.
    for letter in "bc":
        cell.register(letter)
    targets = ("--target", cell.shards["b"]["name"], "--target", cell.shards["c"]["name"])
    code, out, err = shardctl("split", cell.shards["a"]["name"], *targets, "--max-bytes-per-s", "4096", "--max-replica-lag-bytes", "1048576")
    assert code == 0, err
    cell.job_id = out.split()[1].rstrip(":")
    code, out, err = shardctl("job", "get", cell.job_id)
    assert code == 0 and "4096" in out and "1048576" in out, out
    for args in (("job", "throttle", cell.job_id), ("job", "throttle", cell.job_id, "--max-bytes-per-s", "-1"), ("job", "throttle"),
                 ("job", "throttle", cell.job_id, "--max-bytes-per-s", "fast")):
        assert shardctl(*args)[0] == 2, args
    code, _, err = shardctl("job", "throttle", cell.job_id, "--max-bytes-per-s", "5")
    assert code == 1 and "invalid_argument" in err
    code, _, err = shardctl("job", "throttle", "nosuchjob00", "--max-bytes-per-s", "0")
    assert code == 1 and "not_found" in err
    code, out, err = shardctl("job", "throttle", cell.job_id, "--max-bytes-per-s", "0")
    assert code == 0 and cell.job_id in out, err
    assert shardctl("job", "watch", cell.job_id)[0] == 0
    cell.finalize()
