"""The private etcd: one member, fast elections."""
import json
import signal
import urllib.error
import urllib.request

from .procs import PidFile, spawn, wait_until


class Etcd:
    """One etcd process in `<dir>/etcd`."""

    def __init__(self, paths, record):
        self.data = paths.join("etcd")
        self.log = paths.join("log", "etcd.log")
        self.pidfile = PidFile(paths.join("run", "etcd.pid"))
        self.client_port = record["client_port"]
        self.peer_port = record["peer_port"]

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.client_port}"

    def spawn(self):
        peer = f"http://127.0.0.1:{self.peer_port}"
        # A lone member still waits out one election timeout at start; these cut it from 1-2 s to a fraction.
        spawn(["etcd", "--name", "local", "--data-dir", self.data,
               "--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint,
               "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
               "--initial-cluster", f"local={peer}", "--heartbeat-interval", "20", "--election-timeout", "200",
               "--logger", "zap", "--log-outputs", "stderr"],
              self.log, self.pidfile)

    def healthy(self):
        try:
            with urllib.request.urlopen(self.endpoint + "/health", timeout=1) as r:
                return json.load(r).get("health") == "true"
        except (OSError, ValueError, urllib.error.URLError):
            return False

    def wait(self, seconds=20.0):
        wait_until("etcd", self.healthy, seconds, self.log, self.pidfile)

    def start(self):
        if self.pidfile.pid() is None:
            self.spawn()
        self.wait()

    def stop(self, sig=signal.SIGTERM):
        self.pidfile.stop(sig)

    def status(self):
        return {"endpoint": self.endpoint, "pid": self.pidfile.pid(), "log": self.log}
