"""Invariant I9: no password in a log, an answer, an event, an argument list, or in clear in etcd."""
import glob
import json
import os
import threading

from harness import catalog


class ArgumentWatch(threading.Thread):
    """Collects the argument lists of all processes while something runs: pg_dump and psql are short-lived."""

    def __init__(self):
        super().__init__(daemon=True)
        self.done = threading.Event()
        self.seen = set()

    def run(self):
        while not self.done.wait(0.005):
            for path in glob.glob("/proc/[0-9]*/cmdline"):
                try:
                    with open(path, "rb") as f:
                        self.seen.add(f.read())
                except OSError:
                    pass


def test_no_secret_is_shown(cell):
    record = cell.rig.stack.record["passwords"]
    with open(cell.rig.stack.paths.join("secret.key"), encoding="ascii") as f:
        secrets = {**record, "the sealing key": f.read().strip()}
    watch = ArgumentWatch()
    watch.start()
    answers = []
    try:
        cell.write(routers=1, direct=0)
        cell.split()
        cell.wait("completed", seen=answers.append)
        cell.stop_writers()
    finally:
        watch.done.set()
        watch.join()
    for path in ("/api/v1/shards", f"/api/v1/shards/{cell.name}-a", f"/api/v1/shards/{cell.name}-a/health", "/api/v1/keyspaces",
                 "/api/v1/reshard/jobs", "/api/v1/services", f"/api/v1/keyspaces/{cell.name}/ring", "/health", "/api/v1/health"):
        answers.append(cell.rig.api.get(path))
    places = {"a REST answer": json.dumps(answers).encode(), "etcd": catalog.dump(cell.rig.stack.etcd.endpoint),
              "an argument list": b"\n".join(watch.seen)}
    assert len(places["etcd"]) > 2000 and b"/shardplane/shards/" in places["etcd"], "the dump of etcd is not what it should be"
    assert any(b"resharder" in a for a in watch.seen)
    for s in cell.rig.stack.services.values():
        with open(s.log, "rb") as f:
            places[s.log] = f.read()
        places[f"metrics of {s.id}"] = s.get("/metrics")[1].encode()
    for c in cell.rig.stack.clusters.values():
        with open(c.log, "rb") as f:
            places[c.log] = f.read()
    for where, text in places.items():
        for name, secret in secrets.items():
            assert secret.encode() not in text, f"{name} is in {where}"
    for path in glob.glob(os.path.join(cell.rig.stack.paths.root, "conf", "*.json")):
        with open(path, encoding="utf-8") as f:
            assert not any(s in f.read() for s in secrets.values())
