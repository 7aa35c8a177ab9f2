"""The writers' way through a router, against a router of forty lines that can be told to misbehave."""
import os
import random
import re
import shutil
import threading

import msgpack
import psycopg2
import pytest
import zmq

from ledger import checker, oplog, route_client, shop, writer
from spstack.ports import free_base
from spstack.stack import Stack


class FakeRouter(threading.Thread):
    """Runs every request on one database. `vice`: None, or how it treats one request in ten."""

    def __init__(self, dsn, vice=None):
        super().__init__(daemon=True)
        self.socket = zmq.Context.instance().socket(zmq.ROUTER)
        self.endpoint = f"tcp://127.0.0.1:{self.socket.bind_to_random_port('tcp://127.0.0.1')}"
        self.db = psycopg2.connect(dsn)
        self.vice, self.random, self.done = vice, random.Random(7), False

    def run(self):
        while not self.done:
            if self.socket.poll(100):
                identity, envelope, body = self.socket.recv_multipart()
                asked = msgpack.unpackb(envelope, strict_map_key=False)
                reply = self.answer(asked[2], msgpack.unpackb(body, strict_map_key=False))
                if reply:
                    number, fields = reply
                    self.socket.send_multipart([identity, msgpack.packb({1: 1, 2: number, 3: asked[3]}), msgpack.packb(fields)])
        self.socket.close(linger=0)
        self.db.close()

    def answer(self, number, body):
        if number == route_client.SHARD_FOR_KEY:
            return route_client.SHARD_FOR_KEY_REPLY, {1: "shard1", 2: "default", 3: body[2], 4: 0, 5: 1}
        vice = self.vice if self.random.random() < 0.1 else None
        if vice == "lost request":
            return None
        results = []
        with self.db.cursor() as cursor:
            for statement in body[3]:
                cursor.execute(re.sub(r"\$\d+", "%s", statement[1]), statement[2])
                results.append({1: cursor.statusmessage, 2: cursor.rowcount})
        if vice in ("refuses", "lies"):
            self.db.rollback()
        else:
            self.db.commit()
        if vice == "lost reply":
            return None
        if vice in ("refuses", "refuses after commit"):
            return route_client.ERROR, {1: "sql_error", 2: "no"}
        return route_client.EXECUTE_REPLY, {1: "shard1", 2: 1, 3: results}


@pytest.fixture(scope="module")
def stack():
    folder = f"/tmp/shardplane-writer-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    made = Stack(folder)
    made.up(shards=1, services=False, port_base=free_base(20), fsync=False)
    yield made
    made.down(purge=True)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("vice, defects", [
    (None, None), ("lost request", None), ("lost reply", None), ("refuses", None),
    ("lies", {"lost", "stale"}), ("refuses after commit", {"phantom"})])
def test_through_a_router(stack, tmp_path, vice, defects):
    dsn = stack.cluster("shard1").uri("postgres")
    with psycopg2.connect(dsn) as c, c.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS order_items, orders, customers")
    shop.load(dsn, 100, 200, 400)
    base = checker.baseline(dsn)
    router = FakeRouter(dsn, vice)
    router.start()
    stop = threading.Event()
    threading.Timer(1.5, stop.set).start()
    # A lost request costs a client its timeout, and the margin of the reply.
    spec = {"folder": str(tmp_path), "writers": [{"via": "router", "endpoints": [router.endpoint]}] * 3, "of": 3,
            "customers": 100, "orders": 200, "rate": 0, "hot": 20, "timeout_ms": 300}
    route_margin, route_client.REPLY_MARGIN_MS = route_client.REPLY_MARGIN_MS, 100
    try:
        assert writer.run_spec(spec, stop.wait) == 0
    finally:
        route_client.REPLY_MARGIN_MS = route_margin
        router.done = True
        router.join()
    logs = oplog.read_folder(str(tmp_path))
    report = checker.check(checker.Ledger(base, logs), checker.Ring({"shard1": [-2**63]}), {"shard1": dsn})
    found = {k for k, n in report.counts.items() if n}
    counts = checker.count_outcomes(logs)
    assert counts["acknowledged"] > 10
    if defects is None:
        assert report.clean, str(report)
        assert (counts["unknown"] > 0) == (vice in ("lost request", "lost reply"))
        assert (report.unknown["applied"] > 0) == (vice == "lost reply")
    else:
        assert found & defects and not found - defects - {"lost", "stale"}, str(report)
