"""A stack for many system tests: each test is a cell, a keyspace with databases of its own on the stack's three clusters."""
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time

import psycopg2

from harness import residue
from harness.api import Api, ApiError
from harness.shopstack import register_tables
from harness.sql import query
from harness.writers import Writers
from ledger import checker, prober, shop
from spstack.ports import free_base
from spstack.stack import DEFAULT_BIN, REPO, Stack, in_parallel

BIN = os.environ.get("SP_BIN", DEFAULT_BIN)
FOLDER = os.environ.get("SP_SYSTEM_DIR", os.path.join(REPO, "build", "system"))
# Connections of routers and health services to the databases of old cells add up.
CELLS_PER_STACK = int(os.environ.get("SP_CELLS_PER_STACK", "6"))
SANITIZER = re.compile(r"(ERROR: (Address|Leak|Thread)Sanitizer|WARNING: ThreadSanitizer|runtime error: )")
# Sanitizers keep what was freed: how large such a process is says nothing.
SANITIZED = "asan" in BIN or "tsan" in BIN
# Slow builds (sanitizers, a loaded machine) get longer deadlines.
SLOW = float(os.environ.get("SP_SLOW", "1"))


# A short lease, so that a takeover fits into a test; small ranges, so that a small table is copied in several tasks.
OVERRIDES = {"manager.lease_ttl_s": 5, "manager.copy_pages_per_range": 16}
# Points that a split and its finalize do not pass: commands on the catalog, undoing, sweeping.
ELSEWHERE = re.compile(r"command_|readmit|shard_|table_|job_created|reaper_|job_(lift|lifted|cancel|fail|undone|retry|refused|mismatched|behind|"
                       r"still_valid|unseal|resnapshot|undo)")
# What each submission runs; SP_ALL=1 runs every one.
CHOSEN = re.compile(r"job_(planned|prepared|copied|caught_up|validated|armed|opened|finalized)_after|"
                    r"job_(snapshot|schema|identities|foreign_keys|fold|drop_slot|restore_identities)_after|job_(fence|flip|open)_(before|after)|"
                    r"copy_range_\w+|after_slot|schema_after_commit|index_after_commit|follow_(started|before_commit|after_commit|point)|"
                    r"verify_start|fence_\w+|purge_batch")


def failpoints(service):
    """Names of the failpoints that stand in a service's sources, and so all its durable steps."""
    out = subprocess.run([sys.executable, os.path.join(REPO, "tools", "failpoints.py"), "--names", service], stdout=subprocess.PIPE,
                         text=True, check=True).stdout
    found = [p for p in out.split() if not ELSEWHERE.match(p)]
    assert found, f"{service} has no failpoints"
    return found if os.environ.get("SP_ALL") else [p for p in found if CHOSEN.fullmatch(p)]


def reachable(dsn):
    with contextlib.suppress(psycopg2.OperationalError):
        psycopg2.connect(dsn).close()
        return True
    return False


class Reviver(threading.Thread):
    """Waits for a service to die, then starts it again without failpoints, as its supervisor would."""

    def __init__(self, rig, victim, also=()):
        super().__init__(daemon=True)
        self.rig, self.victim, self.also = rig, victim, also
        self.died = None  # Unix time
        self.error = None
        self.done = threading.Event()

    def run(self):
        service = self.rig.stack.service(self.victim)
        while not self.done.wait(0.02):
            if service.pidfile.pid() is None:
                self.died = time.time()
                try:
                    for name in (*self.also, self.victim):
                        self.rig.stack.start(name, {"SHARDPLANE_FAILPOINTS": ""}, wait=False)
                        self.rig.env[name] = ""
                except Exception as e:  # pylint: disable=broad-except
                    self.error = e
                return

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join()
        if self.error:
            raise self.error


class Rig:
    """One stack at a time; rebuilt after a test that failed, or when it is worn."""

    def __init__(self, folder=FOLDER, replicas=0):
        self.folder, self.replicas = folder, replicas
        self.stack = None
        self.cells = 0
        self.number = 0
        self.read = {}  # log -> bytes that were looked at for sanitizer reports
        self.env = {}

    # -- the stack ----------------------------------------------------------------------------------------------------

    def ensure(self):
        """A stack that is up, with every service running and no failpoint set."""
        if self.stack is not None and self.cells >= CELLS_PER_STACK:
            self.drop()
        if self.stack is None:
            self.stack = Stack(self.folder)
            self.stack.up(shards=3, replicas=self.replicas, managers=2, routers=2, gateways=2, resharders=2, port_base=free_base(), fsync=False,
                          binaries=BIN, fresh=True, overrides=OVERRIDES)
            self.cells, self.read, self.env = 0, {}, {}
        return self

    def drop(self):
        if self.stack is not None:
            self.stack.down(purge=True)
            self.stack = None

    def keep_logs(self, name):
        """Logs of a failed test go to build/system-failed/<test>."""
        target = os.path.join(REPO, "build", "system-failed", re.sub(r"\W+", "_", name))
        os.makedirs(target, exist_ok=True)
        for log in os.listdir(self.stack.paths.join("log")):
            with open(self.stack.paths.join("log", log), "rb") as f, open(os.path.join(target, log), "wb") as out:
                out.write(f.read())
        return target

    @property
    def api(self):
        return Api(self.stack.service("gateway-1").address("http", "http://"), timeout=20 * SLOW)

    @property
    def api2(self):
        return Api(self.stack.service("gateway-2").address("http", "http://"), timeout=20 * SLOW)

    @property
    def router_endpoints(self):
        return [s.address("listen") for s in self.stack.of_kind("router")]

    def leader(self, seconds=30):
        """Id of the leading manager."""
        def ask():
            with contextlib.suppress(ApiError):
                return self.api2.get("/api/v1/services").get("leader")
            return None

        return self.stack.wait_for("a leading manager", ask, seconds * SLOW)

    def set_failpoints(self, kind, points, only=None):
        """Restarts all services of a kind with SHARDPLANE_FAILPOINTS; `only` names the one that gets them."""
        for s in self.stack.of_kind(kind):
            self.stack.stop(s.id)
        for s in self.stack.of_kind(kind):
            mine = points if only in (None, s.id) else ""
            self.stack.start(s.id, {"SHARDPLANE_FAILPOINTS": mine}, seconds=30 * SLOW)
            self.env[s.id] = mine

    def lead_with(self, points, manager="manager-1"):
        """Restarts the managers so that `manager` leads with these failpoints, and the others stand by without."""
        for s in self.stack.of_kind("manager"):
            self.stack.stop(s.id)
        self.env[manager] = points
        self.stack.start(manager, {"SHARDPLANE_FAILPOINTS": points}, wait=False)
        self.stack.wait_for(f"{manager} to lead", lambda: self.leader() == manager, 30 * SLOW)
        for s in self.stack.of_kind("manager"):
            if s.id != manager:
                self.stack.start(s.id, wait=False)

    def work_with(self, points, worker="resharder-1"):
        """Only one resharder runs, with these failpoints; the others are down until somebody starts them."""
        for s in self.stack.of_kind("resharder"):
            self.stack.stop(s.id)
        self.env[worker] = points
        self.stack.start(worker, {"SHARDPLANE_FAILPOINTS": points})
        return [s.id for s in self.stack.of_kind("resharder") if s.id != worker]

    def held(self, point):
        """For set_failpoints() and its like: whoever comes to `point` waits there until release()."""
        with open(self.gate, "w", encoding="utf-8"):
            return f"{point}:hold={self.gate}"

    def release(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.gate)

    @property
    def gate(self):
        return self.stack.paths.join("gate")

    def wait_dead(self, service, seconds=60):
        self.stack.wait_for(f"{service} to die", lambda: self.stack.service(service).pidfile.pid() is None, seconds * SLOW)

    def wait_stopped(self, service, seconds=60):
        """Until a service has stopped itself (failpoint action `stop`)."""
        def stopped():
            pid = self.stack.service(service).pidfile.pid()
            if pid is None:
                return False
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
                return f.read().rsplit(")", 1)[1].split()[0] == "T"

        self.stack.wait_for(f"{service} to stop itself", stopped, seconds * SLOW)

    @contextlib.contextmanager
    def in_test(self, request):
        """Everything runs when a test begins. After a failure the logs are kept and the stack is thrown away."""
        try:
            self.ensure()
        except BaseException:
            if self.stack is not None and self.stack.record is not None:
                self.drop()
            self.stack = None
            raise
        yield self
        self.release()
        reports = self.sanitizer_reports()
        if getattr(request.node, "failed_call", True) or reports:
            print(f"logs kept in {self.keep_logs(request.node.name)}")
            self.drop()
        else:
            self.restore()
        assert not reports, "\n".join(reports)

    def reconfigure(self, kind, **values):
        """Services of a kind read other values when they are started the next time."""
        for s in self.stack.of_kind(kind):
            s.write_config({**OVERRIDES, **values})

    def restore(self):
        """After a test, or within: everything runs again, without failpoints."""
        self.release()
        for s in self.stack.services.values():
            s.pidfile.send(signal.SIGCONT)
        if self.stack.etcd.pidfile.pid() is None:
            self.stack.etcd.start()
        for c in self.stack.clusters.values():
            if c.pidfile.pid() is None:
                c.start()
        for s in self.stack.services.values():
            if self.env.get(s.id):
                self.stack.stop(s.id)
                self.env[s.id] = ""
            if s.pidfile.pid() is None:
                self.stack.start(s.id, wait=False)
        self.stack.wait_ready(30 * SLOW)

    def sanitizer_reports(self):
        """New reports of ASan, UBSan or TSan in the services' logs."""
        found = []
        for s in self.stack.services.values():
            with contextlib.suppress(FileNotFoundError):
                with open(s.log, "rb") as f:
                    f.seek(self.read.get(s.log, 0))
                    text = f.read()
                self.read[s.log] = self.read.get(s.log, 0) + len(text)
                for m in SANITIZER.finditer(text.decode("utf-8", "replace")):
                    found.append(f"{s.id}: {text[m.start():m.start() + 400].decode('utf-8', 'replace')}")
        return found

    # -- cells --------------------------------------------------------------------------------------------------------

    def databases(self, name):
        """Makes database `name` on each cluster; returns {letter: shard status with its DSNs}."""
        clusters = [c for c in self.stack.clusters.values() if c.upstream is None]
        in_parallel([lambda c=c: c.make_roles(name) for c in clusters])
        out = {}
        for letter, c in zip("abcdefgh", clusters):
            out[letter] = {
                "name": f"{name}-{letter}", "port": c.port, "database": name, "cluster": c.name,
                "replicas": [r.uri("shop_app", name) for r in self.stack.clusters.values() if r.upstream == c.port],
                "primary_endpoint": c.uri("shop_app", name), "admin_endpoint": c.uri("shardplane_ddl", name),
                "apply_endpoint": c.uri("shardplane_apply", name), "owner_endpoint": c.uri("shop_owner", name),
                "superuser_endpoint": c.uri("postgres", name)}
        self.cells += 1
        for c in self.stack.clusters.values():
            if c.upstream is not None:
                self.stack.wait_for(f"{name} on {c.name}", lambda c=c: reachable(c.uri("shop_app", name)), 30 * SLOW)
        return out

    def new_name(self, prefix="cell"):
        self.number += 1
        return f"{prefix}{self.number}"

    def cell(self, **sizes):
        """A keyspace with the ledger's shop in shard a, ready to be split."""
        return Cell(self, self.new_name(), **sizes)


class Cell:
    """One keyspace, its databases, its writers and its prober."""

    def __init__(self, rig, name, customers=400, orders=1200, items=2400, register=("a",), shards=None, layout=None):
        self.rig, self.name = rig, name
        self.shards = shards or rig.databases(name)
        self.sizes = {"customers": customers, "orders": orders}
        shop.load(self.shards["a"]["owner_endpoint"], customers, orders, items)
        if layout:
            self.sql("a", layout, role="owner")
        rig.api.post("/api/v1/keyspaces", {"name": name})
        for letter in register:
            if letter == "a":
                self.register("a")
                register_tables(rig.api, keyspace=name)
            else:
                self.register(letter)
        self.base = checker.baseline(self.dsn("a"))
        self.writers = None
        self.prober = None
        self.job_id = None
        self.objects = {}

    def dsn(self, letter, role="superuser"):
        return self.shards[letter][f"{role}_endpoint"]

    def body(self, letter):
        s = self.shards[letter]
        given = ("primary_endpoint", "admin_endpoint", "apply_endpoint", "replicas")
        return {"name": s["name"], "keyspace": self.name, **{k: s[k] for k in given if s.get(k)}}

    def register(self, letter):
        return self.rig.api.post("/api/v1/shards", self.body(letter), timeout=60)

    def sql(self, letter, text, *args, role="superuser"):
        return query(self.dsn(letter, role), text, *args)

    def write(self, routers=2, direct=1, rate=25, **spec):
        """Starts the prober and ledger writers, and waits until each way has had some writes acknowledged."""
        self.probe()
        self.writers = Writers(os.path.join(self.rig.stack.paths.root, "ledger", self.name), self.sizes, routers + direct,
                               rate=rate, seed=self.rig.number, timeout_ms=15000, long_seconds=0.2, hot=60,
                               mix={"long": 1, "prepared": 2}, **spec)
        endpoints = self.rig.router_endpoints
        if routers:
            self.writers.start([{"via": "router", "endpoints": endpoints, "keyspace": self.name}] * routers)
        if direct:
            self.writers.direct(self.shards["a"]["primary_endpoint"], direct)
        self.wait_acked(20, "router" if routers else "direct")
        return self

    def probe(self):
        """From here to finish(), each shard is asked what it accepts (I2)."""
        self.prober = prober.Prober({s["name"]: s["primary_endpoint"] for s in self.shards.values()},
                                    prober.spread_keys(self.dsn("a")))
        self.prober.start()

    def judge_prober(self):
        """One owner a key at any time: fails with the prober's words otherwise; returns its summary."""
        self.prober.await_rounds(seconds=30 * SLOW)
        return self.prober.judge(self.ring().owner)

    def wait_acked(self, more=20, via="router", seconds=30):
        """Until so many further writes were acknowledged: clients are served."""
        goal = self.writers.acked(via) + more
        self.rig.stack.wait_for(f"{more} more writes through {via} ({self.writers.stats()})",
                                lambda: self.writers.acked(via) >= goal, seconds * SLOW)

    def remember(self):
        """Notes what each database holds now, for no_residue()."""
        self.objects = {letter: residue.objects(self.dsn(letter)) for letter in self.shards}

    def split(self, targets=("b", "c"), api=None, **kwargs):
        bodies = [self.body(t) for t in targets]
        self.job_id = (api or self.rig.api).split(self.shards["a"]["name"], bodies, **kwargs)["id"]
        return self.job_id

    def wait(self, states, seconds=60, **kwargs):
        return self.rig.api2.wait_job(self.job_id, states, seconds * SLOW, **kwargs)

    def finalize(self, drop=True):
        self.rig.api2.retrying("POST", f"/api/v1/reshard/jobs/{self.job_id}/finalize", {"drop_source_rows": drop})
        return self.wait("finalized")

    def stop_writers(self):
        logs = self.writers.stop()
        self.writers = None
        return logs

    def registered(self):
        ids = {s["id"] for s in self.rig.api2.retrying("GET", f"/api/v1/shards?keyspace={self.name}").get("shards", [])}
        return {s["name"]: s["superuser_endpoint"] for s in self.shards.values() if s["name"] in ids}

    def ring(self):
        """As it is after the cell's job."""
        job = self.rig.api2.job(self.job_id) if self.job_id else {}
        flipped = job.get("state") in ("completed", "finalized")
        return checker.Ring.fetch(self.rig.api2.base, self.name, job["ring_version_after"] if flipped else 0, 10 * SLOW)

    def check(self, logs, leftovers=()):
        """Fails with the checker's words unless the ledger is clean; returns its report."""
        ring = self.ring()
        left = [self.shards[letter]["name"] for letter in leftovers]
        report = checker.check(checker.Ledger(self.base, logs), ring, self.registered(), leftovers=left)
        assert report.clean, str(report)
        return report

    def no_residue(self, letters="abc", unchanged=True, seconds=20):
        """Nothing of the job is left: the databases hold what remember() saw, and no session or progress row of a job."""
        def left():
            found = []
            for letter in letters:
                found += [f"{letter}: {x}" for x in sorted(residue.live(self.dsn(letter)))]
                if unchanged:
                    found += [f"{letter}: {x}" for x in residue.difference(self.objects[letter],
                                                                           residue.objects(self.dsn(letter)))]
                else:
                    # Origins are the whole cluster's: only this job's names count, other cells may have completed ones.
                    found += [f"{letter}: {x}" for x in sorted(residue.objects(self.dsn(letter))) if f"shp_{self.job_id}" in x]
            return found

        deadline = time.monotonic() + seconds * SLOW
        found = left()
        while found and time.monotonic() < deadline:
            time.sleep(0.2)
            found = left()
        assert not found, "\n".join(found)

    def finish(self):
        """After the flip: clients go on, the job is finalized, every row is where it belongs, nothing is left behind."""
        self.wait_acked(20, "router")
        logs = self.stop_writers()
        self.check(logs, leftovers="a")
        self.finalize()
        report = self.check(logs)
        self.judge_prober()
        self.no_residue(unchanged=False)
        got = self.rig.api2.check(self.name)
        assert got["ok"], got.get("findings", [])
        stale = self.stale(logs)
        assert stale["accepted"] == 0, stale
        return report, logs

    def stale(self, logs):
        job = self.rig.api2.job(self.job_id)
        flipped = (job.get("cutover") or {}).get("flipped_ms", 0) / 1000
        ring = self.ring()
        return checker.stale_writes(logs, ring, self.shards["a"]["name"], self.dsn("a"), flipped)

    def close(self):
        if self.prober is not None:
            self.prober.stop()
            self.prober = None
        if self.writers is not None:
            self.writers.kill()
            self.writers = None
