"""Ledger writers in processes of their own, so that the tests' Python does not slow them down."""
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

from ledger import oplog

# More than the longest operation takes: four statements of 20 s.
STOP_SECONDS = 120
TESTS = os.path.realpath(os.path.join(os.path.dirname(__file__), ".."))


class Writers:
    """Groups of writers that share one folder of logs. `of` is how many there will be in all."""

    def __init__(self, folder, sizes, of, rate=40, **spec):
        self.folder = folder
        self.spec = {"folder": folder, "of": of, "rate": rate, **sizes, **spec}
        self.first = 0
        self.processes = []
        shutil.rmtree(folder, ignore_errors=True)  # another run's ledger is about other rows
        os.makedirs(folder)

    def start(self, writers, **spec):
        """One process with a thread for each of `writers`: {"via": "router", "endpoints": [...]} or {"via": "direct", ...}."""
        spec = {**self.spec, **spec, "writers": writers, "first": self.first}
        if self.first + len(writers) > self.spec["of"]:
            raise ValueError("more writers than `of` said")
        path = os.path.join(self.folder, f"spec-{self.first}.json")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # a direct writer's DSN holds a password
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            json.dump(spec, f)
        self.first += len(writers)
        with open(os.path.join(self.folder, "output.txt"), "ab") as out:
            self.processes.append(subprocess.Popen([sys.executable, "-m", "ledger.writer", path], cwd=TESTS, stdout=out,
                                                   stderr=out, stdin=subprocess.DEVNULL, start_new_session=True))

    def routers(self, endpoints, count=1, **spec):
        self.start([{"via": "router", "endpoints": endpoints}] * count, **spec)

    def direct(self, dsn, count=1, **spec):
        self.start([{"via": "direct", "dsn": dsn}] * count, **spec)

    def stats(self):
        """Counts so far by way: {"router": {"ack": 1, ...}, ...}; up to half a second old."""
        out = {}
        for name in os.listdir(self.folder):
            if name.startswith("stats-") and name.endswith(".json"):
                with open(os.path.join(self.folder, name), encoding="utf-8") as f:
                    got = json.load(f)
                if got["broken"]:
                    raise AssertionError(f"a writer broke: {got['broken']}; see {self.folder}/output.txt")
                for via, counts in got["via"].items():
                    sums = out.setdefault(via, {})
                    for key, n in counts.items():
                        sums[key] = sums.get(key, 0) + n
        return out

    def acked(self, via="router"):
        return self.stats().get(via, {}).get("ack", 0)

    def stop(self):
        """Lets each writer finish its operation; returns the logs. A process that failed is an AssertionError."""
        codes = []
        for p in self.processes:
            if p.poll() is None:
                p.send_signal(signal.SIGTERM)
        for p in self.processes:
            try:
                codes.append(p.wait(timeout=STOP_SECONDS))
            except subprocess.TimeoutExpired:
                p.send_signal(signal.SIGUSR1)  # it writes down where each of its threads stands
                with contextlib.suppress(subprocess.TimeoutExpired):
                    p.wait(timeout=1)
                p.kill()
                codes.append(p.wait())
        self.processes = []
        if any(codes):
            with open(os.path.join(self.folder, "output.txt"), encoding="utf-8", errors="replace") as f:
                raise AssertionError(f"writers ended with {codes}:\n{f.read()[-4000:]}")
        return oplog.read_folder(self.folder)

    def kill(self):
        """For clean-up."""
        for p in self.processes:
            if p.poll() is None:
                p.kill()
            p.wait()
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
