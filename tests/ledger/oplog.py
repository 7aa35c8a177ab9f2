"""The ledger's log: JSON lines, an intent before an operation is sent and an outcome after it is known.

    {"i": 7, "via": "router", "kind": "update", "key": 42, "t": 1700000000.1, "rows": [["customers", 42, [42, 3, null]]]}
    {"i": 7, "r": "ack", "t": 1700000000.2}

A row is [table, primary key, state after the operation]: null when it is deleted, else [key, seq, version of the blob], where
a null version means the blob that was loaded. An intent without an outcome is an operation of unknown fate.
Outcomes: ack, error (nothing changed), refused (nothing changed, as documented), zero (success that touched no row), unknown.
"""
import json
import os
import time

OUTCOMES = ("ack", "error", "refused", "zero", "unknown")


class OpLog:
    """One writer's log. Every line reaches the kernel before the call returns, and the disk where `fsync` is set."""

    def __init__(self, path, fsync=False):
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.fsync = fsync
        self.next = 1

    def _put(self, record):
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        if os.write(self.fd, line) != len(line):
            raise OSError("short write to the ledger's log")
        if self.fsync:
            os.fdatasync(self.fd)

    def intent(self, via, kind, key, rows):
        """Records what is about to be sent; returns the operation's number."""
        number, self.next = self.next, self.next + 1
        self._put({"i": number, "via": via, "kind": kind, "key": key, "t": time.time(), "rows": rows})
        return number

    def outcome(self, number, result, code=None, **facts):
        record = {"i": number, "r": result, "t": time.time()}
        if code:
            record["code"] = code
        record.update(facts)
        self._put(record)

    def close(self):
        os.close(self.fd)


class Op:
    """One operation as read back."""

    __slots__ = ("writer", "number", "via", "kind", "key", "started", "rows", "result", "code", "ended")

    def __init__(self, writer, record):
        self.writer = writer
        self.number = record["i"]
        self.via = record["via"]
        self.kind = record["kind"]
        self.key = record["key"]
        self.started = record["t"]
        self.rows = [(table, pk, None if state is None else tuple(state)) for table, pk, state in record["rows"]]
        self.result = "unknown"
        self.code = None
        self.ended = None


def read(path):
    """The operations of one log in order. A torn last line (the writer was killed) is an operation that was never sent."""
    writer = os.path.basename(path)
    ops = {}
    with open(path, "rb") as f:
        for line in f:
            try:
                record = json.loads(line)
            except ValueError:
                if line.endswith(b"\n"):
                    raise
                break
            if "r" in record:
                op = ops[record["i"]]
                op.result, op.code, op.ended = record["r"], record.get("code"), record["t"]
            else:
                ops[record["i"]] = Op(writer, record)
    return list(ops.values())


def read_folder(folder):
    """{log name: operations} of every *.log in a folder."""
    return {name: read(os.path.join(folder, name)) for name in sorted(os.listdir(folder)) if name.endswith(".log")}
