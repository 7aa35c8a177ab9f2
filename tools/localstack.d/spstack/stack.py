"""A whole stack in one folder: what it consists of (stack.json), up, down and status."""
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import threading
import time

from . import postgres
from .etcd import Etcd
from .ports import POSTGRES_FIRST, Ports, refuse_used
from .postgres import Cluster
from .procs import StackError
from .services import KINDS, Service

REPO = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
DEFAULT_DIR = os.path.join(REPO, "build", "stack")
DEFAULT_BIN = os.path.join(REPO, "bin")
ROLES = ("postgres", "shop_owner", "shop_app", "shardplane_ddl", "shardplane_apply", "replicator")


class Paths:
    """The stack's folder."""

    def __init__(self, root):
        self.root = os.path.realpath(root)

    def join(self, *parts):
        return os.path.join(self.root, *parts)

    def make(self):
        for name in ("", "conf", "log", "run"):
            os.makedirs(self.join(name), exist_ok=True)


def in_parallel(functions):
    """Runs all, waits for all (also when interrupted: what is half started could not be stopped), then raises the first error."""
    errors = []

    def run(function):
        try:
            function()
        except Exception as e:  # pylint: disable=broad-except
            errors.append(e)

    threads = [threading.Thread(target=run, args=(f,)) for f in functions]
    for t in threads:
        t.start()
    try:
        for t in threads:
            t.join()
    except BaseException:
        for t in threads:
            t.join()
        raise
    if errors:
        raise errors[0]


class Stack:
    """Open an existing stack with Stack(dir); make one with Stack(dir).up(shards=3, ...)."""

    def __init__(self, directory=DEFAULT_DIR):
        self.paths = Paths(directory)
        self.record = None
        self.etcd = None
        self.clusters = {}
        self.services = {}
        with contextlib.suppress(FileNotFoundError):
            with open(self.paths.join("stack.json"), encoding="utf-8") as f:
                self._adopt(json.load(f))

    # -- the record ---------------------------------------------------------------------------------------------------

    def _adopt(self, record):
        self.record = record
        self.etcd = Etcd(self.paths, record["etcd"])
        self.clusters = {c["name"]: Cluster(self.paths, c, record["passwords"], record["fsync"])
                         for c in record["clusters"]}
        self.services = {s["id"]: Service(self, s) for s in record["services"]}

    def _save(self):
        tmp = self.paths.join("stack.json.tmp")
        fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            json.dump(self.record, f, indent=2)
        os.replace(tmp, self.paths.join("stack.json"))

    @contextlib.contextmanager
    def _locked(self):
        """One up, down or add at a time in a folder."""
        path = self.paths.join("lock")
        while True:
            os.makedirs(self.paths.root, exist_ok=True)
            with open(path, "w", encoding="ascii") as f:
                fcntl.flock(f, fcntl.LOCK_EX)
                try:
                    current = os.path.samestat(os.fstat(f.fileno()), os.stat(path))
                except FileNotFoundError:
                    current = False
                if current:  # else a purge that went before has removed the file
                    yield
                    return

    def _plan(self, shards, replicas, counts, port_base, fsync, binaries):
        ports = Ports(port_base)
        record = {
            "version": 1,
            "wanted": {"shards": shards, "replicas": replicas, **counts},
            "port_base": port_base,
            "fsync": fsync,
            "bin": os.path.realpath(binaries),
            "passwords": {role: secrets.token_urlsafe(18) for role in ROLES},
            "etcd": {"client_port": ports.take(2379), "peer_port": ports.take(2380)},
            "clusters": [],
            "services": [],
        }
        # Gateways first, so that a stack's address is always port base + 2.
        for kind in ("gateway", "router", "manager", "resharder", "health"):
            for n in range(1, counts[kind] + 1):
                record["services"].append({"kind": kind, "id": f"{kind}-{n}", "ports": ports.service(kind, n)})
        for i in range(1, shards + 1):
            primary = ports.take(POSTGRES_FIRST)
            record["clusters"].append({"name": f"shard{i}", "shard": f"shard{i}", "port": primary})
            for r in range(1, replicas + 1):
                record["clusters"].append({"name": f"shard{i}-replica{r}", "shard": f"shard{i}",
                                           "port": ports.take(POSTGRES_FIRST), "upstream": primary})
        return record

    # -- up, down -----------------------------------------------------------------------------------------------------

    def up(self, *, shards=3, replicas=0, resharders=2, managers=1, routers=1, healths=1, gateways=1, services=True,
           port_base=None, fsync=True, binaries=DEFAULT_BIN, env=None, overrides=None, fresh=False):
        """Makes or resumes the stack and waits until all of it is ready. `env` is {"K": v} or {"KIND-N:K": v}."""
        counts = {"manager": managers, "router": routers, "resharder": resharders, "health": healths, "gateway": gateways}
        if not services:
            counts = dict.fromkeys(counts, 0)
        if shards < 0 or replicas < 0 or min(counts.values()) < 0:
            raise StackError("counts cannot be negative")
        if fresh:
            self.down(purge=True)
        with self._locked():
            self.paths.make()
            wanted = {"shards": shards, "replicas": replicas, **counts}
            if self.record is None:
                self._adopt(self._plan(shards, replicas, counts, port_base, fsync, binaries))
            else:
                if self.record["wanted"] != wanted or self.record["port_base"] != port_base:
                    raise StackError(f"{self.paths.root} holds a stack of another shape ({self.record['wanted']}, port base "
                                     f"{self.record['port_base']}): use `down --purge` first, `up --fresh`, or another --dir")
                self.record["bin"] = os.path.realpath(binaries)
            refuse_used(self._idle_ports())
            self._save()
            self._write_files(overrides)
            try:
                self._bring_up(env or {})
            except BaseException:
                self._stop_all()
                raise
        return self

    def _idle_ports(self):
        """(name, port) of everything that is about to be started."""
        ports = []
        if self.etcd.pidfile.pid() is None:
            ports += [("etcd", self.etcd.client_port), ("etcd peers", self.etcd.peer_port)]
        for s in self.services.values():
            if s.pidfile.pid() is None:
                ports += [(f"{s.id} {what}", port) for what, port in s.ports.items()]
        ports += [(f"PostgreSQL {c.name}", c.port) for c in self.clusters.values() if c.pidfile.pid() is None]
        return ports

    def _write_files(self, overrides):
        key = self.paths.join("secret.key")
        if not os.path.exists(key):
            fd = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "w", encoding="ascii") as f:
                f.write(secrets.token_hex(32) + "\n")
        for s in self.services.values():
            s.write_config(overrides)
        postgres.data_root(self.paths)

    def _bring_up(self, env):
        def shard(primary):
            fresh = not primary.made()
            if fresh:
                primary.clear()
                primary.initdb()
            primary.start()
            if fresh:
                primary.make_roles()
                primary.mark_made()
            for c in self.clusters.values():
                if c.upstream == primary.port:
                    if not c.made():
                        c.clear()
                        c.basebackup()
                        c.mark_made()
                    c.start()

        self.etcd.start()
        for kind in KINDS:
            for s in self.of_kind(kind):
                s.spawn(self._env_of(s, env))
        in_parallel([lambda c=c: shard(c) for c in self.clusters.values() if c.upstream is None])
        for s in self.services.values():
            s.wait()

    @staticmethod
    def _env_of(service, env):
        """The part of {"K": v, "KIND-N:K": v} that concerns one service."""
        chosen = {}
        for name, value in env.items():
            scope, _, key = name.rpartition(":")
            if scope in ("", service.kind, service.id):
                chosen[key] = value
        return chosen

    def _stop_all(self):
        """Gateways and routers first, etcd and databases last; within a rank all at once."""
        for kinds in (("gateway",), ("router", "health"), ("resharder",), ("manager",)):
            in_parallel([s.stop for k in kinds for s in self.of_kind(k)])
        standbys = [c for c in self.clusters.values() if c.upstream is not None]
        in_parallel([c.stop for c in standbys])
        in_parallel([c.stop for c in self.clusters.values() if c.upstream is None] + [self.etcd.stop])

    def _kill_all(self):
        """For a stack whose data go with it: nothing to flush, nobody to hand over to."""
        in_parallel([lambda s=s: s.pidfile.stop(signal.SIGKILL) for s in (*self.services.values(), self.etcd)]
                    + [lambda c=c: c.stop("immediate") for c in self.clusters.values()])

    def down(self, purge=False):
        """Stops what the pid files name. Data and logs stay unless `purge`; then nothing is waited for, and the folder goes too,
        if nothing else is in it."""
        if not os.path.isdir(self.paths.root):
            return
        with self._locked():
            if self.record is not None:
                (self._kill_all if purge else self._stop_all)()
            if purge:
                postgres.purge_data_root(self.paths)
                for name in ("etcd", "conf", "log", "run"):
                    shutil.rmtree(self.paths.join(name), ignore_errors=True)
                for name in ("stack.json", "stack.json.tmp", "secret.key", "lock"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(self.paths.join(name))
                with contextlib.suppress(OSError):
                    os.rmdir(self.paths.root)
                self.record, self.etcd, self.clusters, self.services = None, None, {}, {}

    # -- parts --------------------------------------------------------------------------------------------------------

    def of_kind(self, kind):
        return [s for s in self.services.values() if s.kind == kind]

    def service(self, name):
        if name not in self.services:
            raise StackError(f"no service {name} in this stack: it has {', '.join(sorted(self.services)) or 'none'}")
        return self.services[name]

    def cluster(self, name):
        if name not in self.clusters:
            raise StackError(f"no cluster {name} in this stack: it has {', '.join(sorted(self.clusters)) or 'none'}")
        return self.clusters[name]

    def start(self, name, env=None, wait=True, seconds=30.0):
        """(Re)starts one service; failpoints and the like come in `env`."""
        s = self.service(name)
        s.spawn(env)
        if wait:
            s.wait(seconds)

    def stop(self, name):
        self.service(name).stop()

    def kill(self, name):
        self.service(name).stop(signal.SIGKILL)

    def pause(self, name):
        """SIGSTOP: alive, but mute."""
        if not self.service(name).pidfile.send(signal.SIGSTOP):
            raise StackError(f"{name} is not running")

    def resume(self, name):
        if not self.service(name).pidfile.send(signal.SIGCONT):
            raise StackError(f"{name} is not running")

    def add(self, kind, env=None, overrides=None):
        """One more service of a kind; returns its id."""
        if kind not in KINDS:
            raise StackError(f"unknown kind {kind}: one of {', '.join(KINDS)}")
        with self._locked():
            n = 1 + max([int(s.id.rsplit("-", 1)[1]) for s in self.of_kind(kind)], default=0)
            taken = {p for s in self.services.values() for p in s.ports.values()}
            taken |= {c.port for c in self.clusters.values()} | {self.etcd.client_port, self.etcd.peer_port}
            record = {"kind": kind, "id": f"{kind}-{n}", "ports": Ports(self.record["port_base"], taken).service(kind, n)}
            refuse_used([(record["id"], p) for p in record["ports"].values()])
            self.record["services"].append(record)
            self._adopt(self.record)
            self._save()
            service = self.services[record["id"]]
            service.write_config(overrides)
            service.spawn(env)
        service.wait()
        return service.id

    def wait_ready(self, seconds=30.0):
        for s in self.services.values():
            s.wait(seconds)

    # -- status -------------------------------------------------------------------------------------------------------

    def _shard_status(self, primary):
        replicas = [{"name": c.name, "endpoint": c.uri("shop_app"), "port": c.port, "pid": c.pidfile.pid(), "log": c.log,
                     "data": c.data} for c in self.clusters.values() if c.upstream == primary.port]
        return {
            "name": primary.name, "host": "127.0.0.1", "port": primary.port, "database": postgres.DATABASE,
            "primary_endpoint": primary.uri("shop_app"), "admin_endpoint": primary.uri("shardplane_ddl"),
            "apply_endpoint": primary.uri("shardplane_apply"), "owner_endpoint": primary.uri("shop_owner"),
            "superuser_endpoint": primary.uri("postgres"), "pid": primary.pidfile.pid(), "log": primary.log,
            "data": primary.data, "replicas": replicas,
        }

    def status(self):
        """Every endpoint, DSN, pid and log path. `state` is up, partial or down."""
        if self.record is None:
            return {"state": "down", "dir": self.paths.root, "gateway": None, "etcd": None, "secret_key_file": None,
                    "shards": [], "services": []}
        gateways = self.of_kind("gateway")
        pids = [self.etcd.pidfile.pid()] + [c.pidfile.pid() for c in self.clusters.values()]
        pids += [s.pidfile.pid() for s in self.services.values()]
        state = "up" if all(pids) else "partial" if any(pids) else "down"
        return {
            "state": state,
            "dir": self.paths.root,
            "gateway": gateways[0].address("http", "http://") if gateways else None,
            "etcd": self.etcd.status(),
            "secret_key_file": self.paths.join("secret.key"),
            "shards": [self._shard_status(c) for c in self.clusters.values() if c.upstream is None],
            "services": [s.status() for s in self.services.values()],
        }

    def wait_for(self, what, check, seconds=30.0, interval=0.05):
        """Polls a named condition; raises StackError when the deadline passes."""
        deadline = time.monotonic() + seconds
        while True:
            got = check()
            if got:
                return got
            if time.monotonic() > deadline:
                raise StackError(f"{what}: not so within {seconds:g} s")
            time.sleep(interval)
