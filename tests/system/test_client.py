"""libshardplane on the real stack, called over its C interface: one request after the other while the shard is split."""
import ctypes
import os
import threading
import time

import psycopg2
import pytest

from harness.rig import BIN, SLOW

LIBRARY = os.path.join(BIN, "libshardplane.so.0")


class Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("retryable", ctypes.c_int), ("name", ctypes.c_char * 32), ("sqlstate", ctypes.c_char * 6),
                ("message", ctypes.c_char * 1024), ("detail", ctypes.c_char * 512)]


class Options(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("routers", ctypes.POINTER(ctypes.c_char_p)), ("routers_n", ctypes.c_size_t),
                ("feeds", ctypes.POINTER(ctypes.c_char_p)), ("feeds_n", ctypes.c_size_t), ("timeout_ms", ctypes.c_int)]


class Owner(ctypes.Structure):
    _fields_ = [("shard_id", ctypes.c_char * 64), ("host", ctypes.c_char * 256), ("port", ctypes.c_int), ("database", ctypes.c_char * 64),
                ("hash", ctypes.c_int64), ("ring_version", ctypes.c_int64)]


TRANSACTION = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(Owner), ctypes.POINTER(Error))


def load():
    lib = ctypes.CDLL(LIBRARY)
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64
    lib.shardplane_open.argtypes = [ctypes.POINTER(pointer), ctypes.POINTER(Options), ctypes.POINTER(Error)]
    lib.shardplane_close.argtypes = [ctypes.POINTER(pointer)]
    lib.shardplane_request_new.restype = pointer
    lib.shardplane_request_new.argtypes = [text, text]
    for name in ("free", "eventual", "null"):
        getattr(lib, f"shardplane_request_{name}").argtypes = [pointer]
    for name in ("statement", "text", "idempotency_key"):
        getattr(lib, f"shardplane_request_{name}").argtypes = [pointer, text]
    lib.shardplane_request_int.argtypes = [pointer, number]
    lib.shardplane_request_deadline.argtypes = [pointer, ctypes.c_int]
    lib.shardplane_execute.argtypes = [pointer, pointer, ctypes.POINTER(pointer), ctypes.POINTER(Error)]
    lib.shardplane_result_free.argtypes = [pointer]
    lib.shardplane_result_shard_id.restype = text
    lib.shardplane_result_shard_id.argtypes = [pointer]
    lib.shardplane_result_rows.restype = ctypes.c_size_t
    lib.shardplane_result_rows.argtypes = [pointer, ctypes.c_size_t]
    lib.shardplane_result_int.restype = number
    lib.shardplane_result_int.argtypes = [pointer] + [ctypes.c_size_t] * 3
    for name in ("route", "shard_for_key"):
        getattr(lib, f"shardplane_{name}").argtypes = [pointer, text, text, ctypes.POINTER(Owner), ctypes.POINTER(Error)]
    lib.shardplane_transaction.argtypes = [pointer, text, text, ctypes.c_int, TRANSACTION, pointer, ctypes.POINTER(Error)]
    lib.shardplane_refusal.argtypes = [text, text]
    return lib


class Client:
    """The library, as little wrapped as can be."""

    def __init__(self, routers, feeds, keyspace):
        self.lib, self.self, self.keyspace = load(), ctypes.c_void_p(), keyspace.encode()
        options = Options(ctypes.sizeof(Options), (ctypes.c_char_p * len(routers))(*[r.encode() for r in routers]), len(routers),
                          (ctypes.c_char_p * len(feeds))(*[f.encode() for f in feeds]), len(feeds), 0)
        err = Error()
        assert self.lib.shardplane_open(ctypes.byref(self.self), ctypes.byref(options), ctypes.byref(err)) == 0, err.message

    def close(self):
        self.lib.shardplane_close(ctypes.byref(self.self))

    def execute(self, key, sql, params=(), once=False, deadline_ms=20000):
        """(shard, first cell or None); raises AssertionError with the library's message."""
        request, result, err = self.lib.shardplane_request_new(self.keyspace, str(key).encode()), ctypes.c_void_p(), Error()
        self.lib.shardplane_request_statement(request, sql.encode())
        for p in params:
            if isinstance(p, int):
                self.lib.shardplane_request_int(request, p)
            else:
                self.lib.shardplane_request_text(request, p.encode())
        if once:
            self.lib.shardplane_request_idempotency_key(request, None)
        self.lib.shardplane_request_deadline(request, deadline_ms)
        rc = self.lib.shardplane_execute(self.self, request, ctypes.byref(result), ctypes.byref(err))
        self.lib.shardplane_request_free(request)
        assert rc == 0, (err.name, err.message, err.detail)
        rows = self.lib.shardplane_result_rows(result, 0)
        out = self.lib.shardplane_result_shard_id(result).decode(), self.lib.shardplane_result_int(result, 0, 0, 0) if rows else None
        self.lib.shardplane_result_free(result)
        return out

    def owner(self, key, ask=False):
        owner, err = Owner(), Error()
        call = self.lib.shardplane_shard_for_key if ask else self.lib.shardplane_route
        assert call(self.self, self.keyspace, str(key).encode(), ctypes.byref(owner), ctypes.byref(err)) == 0, (err.name, err.message)
        return owner

    def transaction(self, key, work, timeout_ms=20000):
        err = Error()

        def call(_arg, owner, _err):
            try:
                work(owner.contents)
                return 0
            except psycopg2.Error as e:
                detail = (e.diag.message_detail or "").encode() if e.diag else None
                code = self.lib.shardplane_refusal((e.pgcode or "").encode(), detail)
                return code if code else -19

        rc = self.lib.shardplane_transaction(self.self, self.keyspace, str(key).encode(), timeout_ms, TRANSACTION(call), None, ctypes.byref(err))
        assert rc == 0, (rc, err.name, err.message)


@pytest.fixture
def client(cell):
    routers = cell.rig.stack.of_kind("router")
    made = Client([r.address("listen") for r in routers], [r.address("events") for r in routers], cell.name)
    yield made
    made.close()


def test_local_and_remote_routing_agree(cell, client):
    for key in range(1, 50):
        here, there = client.owner(key), client.owner(key, ask=True)
        assert (here.shard_id, here.hash, here.port) == (there.shard_id, there.hash, there.port)
        assert here.shard_id.decode() == f"{cell.name}-a" and here.port == cell.shards["a"]["port"]


def test_every_statement_once_while_the_shard_is_split(cell, client):
    """Through routers with idempotency keys, and straight to the owner by the local ring; one router is killed on the way."""
    keys = [int(r[0]) for r in cell.sql("a", "SELECT id FROM customers ORDER BY id LIMIT 20")]
    seq = {k: cell.sql("a", f"SELECT seq FROM customers WHERE id = {k}")[0][0] for k in keys}
    added, faults, stop = {k: 0 for k in keys}, [], threading.Event()

    def routed(mine):
        while not stop.is_set():
            for k in mine:
                try:
                    client.execute(k, "UPDATE customers SET seq = seq + 1 WHERE id = $1", (k,), once=True)
                    added[k] += 1
                except AssertionError as e:
                    faults.append(e)
                    return

    def direct(mine):
        while not stop.is_set():
            for k in mine:
                def work(owner, k=k):
                    letter = owner.shard_id.decode()[-1]
                    with psycopg2.connect(cell.shards[letter]["primary_endpoint"]) as con, con.cursor() as cur:
                        cur.execute("UPDATE customers SET seq = seq + 1 WHERE id = %s", (k,))
                        cur.execute("SELECT shardplane.assert_owner(%s, %s)", (cell.name, str(k)))
                try:
                    client.transaction(k, work)
                    added[k] += 1
                except AssertionError as e:
                    faults.append(e)
                    return

    threads = [threading.Thread(target=routed, args=(keys[:7],)), threading.Thread(target=routed, args=(keys[7:14],)),
               threading.Thread(target=direct, args=(keys[14:],))]
    for t in threads:
        t.start()
    try:
        cell.split()
        cell.rig.stack.kill("router-2")
        cell.wait("completed")
        time.sleep(1)
    finally:
        stop.set()
        for t in threads:
            t.join(60 * SLOW)
    assert not faults, faults
    moved = set()
    for k in keys:
        shard, value = client.execute(k, "SELECT seq FROM customers WHERE id = $1", (k,))
        moved.add(shard)
        assert client.owner(k).shard_id.decode() == shard
        assert value == seq[k] + added[k], (k, shard, seq[k], added[k], value)
    assert len(moved) > 1 or f"{cell.name}-a" not in moved
    assert sum(added.values()) > len(keys)
