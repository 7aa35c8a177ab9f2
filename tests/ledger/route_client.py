"""A router's client from pyzmq and msgpack alone: the protocol as schemas/route.json says it, by code that nobody here wrote."""
import itertools
import os

import msgpack
import zmq

SHARD_FOR_KEY, SHARD_FOR_KEY_REPLY = 101, 102
EXECUTE, EXECUTE_REPLY = 105, 106
ERROR = 1
# The router answers within the deadline; this is for the way there and back.
REPLY_MARGIN_MS = 2000


class RouteError(Exception):
    """The router's answer was an error: nothing was changed, unless the code is outcome_unknown."""

    def __init__(self, body):
        self.code = body.get(1, "?")
        self.details = body.get(3) or {}
        super().__init__(f"{self.code}: {body.get(2, '')}")


class NoReply(Exception):
    """No answer in time: it may or may not have happened."""


class RouteClient:
    """Talks to one of several routers; after a silence, to the next. Not for use by two threads."""

    _counter = itertools.count(1)

    def __init__(self, endpoints, keyspace="default", context=None):
        self.endpoints = list(endpoints)
        self.keyspace = keyspace
        self.context = context or zmq.Context.instance()
        self.prefix = f"ledger-{os.getpid()}-{id(self) & 0xffffff:x}"
        self.at = next(self._counter) % len(self.endpoints)
        self.socket = None

    def close(self):
        if self.socket is not None:
            self.socket.close(linger=0)
            self.socket = None

    def _connected(self):
        if self.socket is None:
            self.socket = self.context.socket(zmq.DEALER)
            self.socket.setsockopt(zmq.LINGER, 0)
            # A request for a router that is not there must not be delivered to its successor minutes later.
            self.socket.setsockopt(zmq.IMMEDIATE, 1)
            self.socket.connect(self.endpoints[self.at])
        return self.socket

    def _drop(self):
        """A fresh socket, and the next router: a late reply must not be taken for the next request's."""
        self.close()
        self.at = (self.at + 1) % len(self.endpoints)

    def call(self, message, body, reply, timeout_ms=10000):
        """Sends one request; returns the reply's fields by number. Raises RouteError, or NoReply."""
        request_id = f"{self.prefix}-{next(self._counter)}"
        envelope = {1: 1, 2: message, 3: request_id, 4: timeout_ms}
        socket = self._connected()
        if not socket.poll(timeout_ms, zmq.POLLOUT):
            self._drop()
            raise RouteError({1: "unavailable", 2: "no router is connected; nothing was sent"})
        socket.send_multipart([msgpack.packb(envelope), msgpack.packb(body)])
        while socket.poll(timeout_ms + REPLY_MARGIN_MS, zmq.POLLIN):
            frames = socket.recv_multipart()
            if len(frames) != 2:
                continue
            got = msgpack.unpackb(frames[0], strict_map_key=False)
            if got.get(3) != request_id:
                continue
            fields = msgpack.unpackb(frames[1], strict_map_key=False)
            if got[2] == ERROR:
                raise RouteError(fields)
            if got[2] != reply:
                raise RouteError({1: "malformed", 2: f"reply {got[2]} where {reply} was expected"})
            return fields
        self._drop()
        raise NoReply(f"no reply to {request_id} within {timeout_ms} ms")

    def shard_for_key(self, key, timeout_ms=10000):
        """(shard id, ring version)"""
        got = self.call(SHARD_FOR_KEY, {1: self.keyspace, 2: str(key)}, SHARD_FOR_KEY_REPLY, timeout_ms)
        return got[1], got[5]

    def execute(self, key, statements, timeout_ms=10000, consistency=None, idempotency_key=None):
        """statements: [(sql, params)]. Returns the reply's fields; field 3 holds one result a statement."""
        body = {1: self.keyspace, 2: str(key), 3: [{1: sql, 2: list(params)} for sql, params in statements], 8: timeout_ms}
        if consistency is not None:
            body[6] = consistency
        if idempotency_key is not None:
            body[7] = idempotency_key
        return self.call(EXECUTE, body, EXECUTE_REPLY, timeout_ms)
