"""The Shardplane services of a stack: their configuration files, and starting, stopping and probing them."""
import json
import os
import signal
import urllib.error
import urllib.request

from .procs import PidFile, StackError, spawn, wait_until

KINDS = ("manager", "router", "resharder", "health", "gateway")


class Service:
    """One process, `KIND-N`, with `<dir>/conf/KIND-N.json` and `<dir>/log/KIND-N.log`."""

    def __init__(self, stack, record):
        paths = stack.paths
        self.stack = stack
        self.kind = record["kind"]
        self.id = record["id"]
        self.ports = record["ports"]
        self.config = paths.join("conf", f"{self.id}.json")
        self.log = paths.join("log", f"{self.id}.log")
        self.pidfile = PidFile(paths.join("run", f"{self.id}.pid"))

    def address(self, what, scheme="tcp://"):
        port = self.ports.get(what)
        return f"{scheme}127.0.0.1:{port}" if port else None

    @property
    def probe_address(self):
        """host:port of /readyz."""
        return self.address("http", "") or self.address("metrics", "")

    def write_config(self, overrides=None):
        """Overrides are {"key": value} for every kind or {"kind.key" or "kind-n.key": value} for some."""
        conf = {
            "service_id": self.id,
            "metadata_endpoints": [self.stack.etcd.endpoint],
            "metadata_prefix": "/shardplane",
            "log_level": "info",
            "log_format": "kv",
        }
        if self.kind != "gateway":  # it opens no DSN
            conf["secret_key_file"] = self.stack.paths.join("secret.key")
        for key, value in (("listen", self.address("listen")), ("events_listen", self.address("events")),
                           ("metrics_listen", self.address("metrics", "")), ("http_listen", self.address("http", ""))):
            if value:
                conf[key] = value
        for name, value in (overrides or {}).items():
            scope, _, key = name.rpartition(".")
            if scope in ("", self.kind, self.id):
                conf[key] = value
        with open(self.config, "w", encoding="utf-8") as f:
            json.dump(conf, f, indent=2)
            f.write("\n")

    def spawn(self, env=None):
        binary = os.path.join(self.stack.record["bin"], self.kind)
        if not os.access(binary, os.X_OK):
            raise StackError(f"{binary} is missing: run `make build` first (or use --bin DIR, or --no-services)")
        # The configuration file says all: a variable that the caller has for another installation must not lead elsewhere.
        inherited = {k: v for k, v in os.environ.items() if k != "METADATA_ENDPOINTS"}
        if self.pidfile.pid() is None:
            spawn([binary, "--config", self.config], self.log, self.pidfile, env={**inherited, **(env or {})})

    def get(self, path, timeout=1.0):
        """Status and body of a GET on the probe listener; (0, "") when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://{self.probe_address}{path}", timeout=timeout) as r:
                return r.status, r.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode("utf-8", "replace")
        except (OSError, ValueError):
            return 0, ""

    def ready(self):
        return self.get("/readyz")[0] == 200

    def wait(self, seconds=30.0):
        wait_until(self.id, self.ready, seconds, self.log, self.pidfile)

    def stop(self, sig=signal.SIGTERM):
        self.pidfile.stop(sig)

    def status(self):
        return {
            "kind": self.kind, "id": self.id, "pid": self.pidfile.pid(), "log": self.log, "config": self.config,
            "listen": self.address("listen"), "events_listen": self.address("events"), "metrics": self.probe_address,
            "alive": self.pidfile.pid() is not None,
        }
