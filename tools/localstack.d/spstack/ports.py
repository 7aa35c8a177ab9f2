"""Which port everything listens on.

Without a base, the ports that the documentation names (etcd 2379, gateway 8081, metrics 9090 and 9091); with one, consecutive
ports from it. The answer is stored in stack.json, so a stopped stack comes back at the same addresses.
"""
import os
import socket

from .procs import StackError

# kind -> (first ROUTER port, first PUB port, first metrics port, metrics port of the second instance)
SERVICE_PORTS = {
    "router": (7601, 7621, 9090, 9100),
    "manager": (7641, 7661, 9091, 9120),
    "resharder": (None, None, 9092, 9140),
    "health": (7681, 7701, 9093, 9160),
}
POSTGRES_FIRST = 15432
GATEWAY_FIRST = 8081


class Ports:
    """Hands out ports. `taken` holds those already in the stack."""

    def __init__(self, base=None, taken=()):
        self.base = base
        self.taken = set(taken)

    def take(self, fixed):
        """The fixed default port, or the next one above it or above the base."""
        port = fixed if self.base is None else self.base
        while port in self.taken:
            port += 1
        if not 1 <= port <= 65535:
            raise StackError(f"--port-base {self.base} leaves no room: ports go from 1 to 65535")
        self.taken.add(port)
        return port

    def service(self, kind, number):
        """listen, events and metrics ports of one service; None where it has no such socket."""
        if kind == "gateway":
            return {"http": self.take(GATEWAY_FIRST)}
        listen, events, metrics, more = SERVICE_PORTS[kind]
        got = {}
        if listen is not None:
            got["listen"] = self.take(listen)
            got["events"] = self.take(events)
        got["metrics"] = self.take(metrics if number == 1 else more)
        return got


def refuse_used(ports):
    """Raises StackError naming every port that somebody listens on already."""
    used = []
    for name, port in ports:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
            except OSError as e:
                used.append(f"  127.0.0.1:{port} for {name} ({e.strerror})")
    if used:
        raise StackError("these ports cannot be used:\n" + "\n".join(used)
                         + "\nstop what listens there, or give this stack other ports with --port-base P")


def free_base(size=80, first=None, last=32000):
    """The start of `size` ports that nobody listens on, below the range that the kernel hands out. For tests that run beside
    each other: where to begin looking depends on the process, and SP_PORT_BASE sets it."""
    if first is None:
        first = int(os.environ.get("SP_PORT_BASE", 0)) or 24000 + os.getpid() % 60 * 100
    for base in list(range(first, last - size, size)) + list(range(21000, first, size)):
        try:
            refuse_used([("", port) for port in range(base, base + size)])
            return base
        except StackError:
            continue
    raise StackError("no free range of ports")
