"""How a transaction is run. run() never raises for what a client must expect: it returns (outcome, code)."""
import re
import time

import psycopg2

from .route_client import NoReply, RouteClient, RouteError


class RouterExecutor:
    """Through a router: one request is one transaction."""

    via = "router"

    def __init__(self, endpoints, keyspace="default", timeout_ms=10000):
        self.client = RouteClient(endpoints, keyspace)
        self.timeout_ms = timeout_ms

    def close(self):
        self.client.close()

    def same_owner(self, key, other):
        """Whether both keys live on one shard now, as far as the router knows."""
        try:
            return self.client.shard_for_key(key)[0] == self.client.shard_for_key(other)[0]
        except (RouteError, NoReply):
            return False

    def run(self, key, statements, mode="plain", hold=0.0):
        """statements: [(sql, params, rows it must touch)]"""
        del mode, hold  # a request is always one implicit transaction
        try:
            reply = self.client.execute(key, [(sql, params) for sql, params, _ in statements], self.timeout_ms)
        except NoReply:
            return "unknown", "no_reply"
        except RouteError as e:
            if e.code == "outcome_unknown":
                return "unknown", e.code
            # A row that the new key puts on another shard: the documented answer, and nothing was changed.
            return ("refused" if e.code == "key_mismatch" else "error"), e.code
        for result, (_, _, wanted) in zip(reply[3], statements):
            if result.get(2, 0) != wanted:
                return "zero", f"{result.get(1)} instead of {wanted}"
        return "ack", None


class DirectExecutor:
    """Straight to one shard, whoever owns the key: a client with a stale ring. SHP01 is `refused`, and it just goes on."""

    via = "direct"

    def __init__(self, dsn, name="writer", statement_timeout_ms=20000):
        self.dsn = dsn
        self.name = re.sub(r"\W", "_", name)
        self.options = f"-c statement_timeout={statement_timeout_ms}"
        self.connection = None
        self.prepared = 0

    def close(self):
        if self.connection is not None:
            try:
                self.connection.close()
            except psycopg2.Error:
                pass
            self.connection = None

    def same_owner(self, key, other):
        """It believes so: that is what stale means."""
        del key, other
        return True

    def _connected(self):
        if self.connection is None or self.connection.closed:
            self.connection = psycopg2.connect(self.dsn, application_name=f"ledger-{self.name}", options=self.options,
                                               connect_timeout=5)
        return self.connection

    def _failed(self, error, committing):
        """(outcome, code) of a psycopg2 error."""
        code = error.pgcode
        lost = self.connection is None or self.connection.closed or code is None
        try:
            if not lost:
                self.connection.rollback()
        except psycopg2.Error:
            lost = True
        if lost:
            self.close()
            if committing:
                return "unknown", code or "connection_lost"
            time.sleep(0.1)
            return "error", code or "connection_lost"
        return ("refused" if code == "SHP01" else "error"), code

    def run(self, key, statements, mode="plain", hold=0.0):
        """mode: plain; long (stays open for `hold` seconds before its commit); prepared (in two phases, `hold` between)."""
        del key
        committing = False
        try:
            connection = self._connected()
            with connection.cursor() as cursor:
                for sql, params, wanted in statements:
                    cursor.execute(re.sub(r"\$\d+", "%s", sql.replace("%", "%%")), params)
                    if cursor.rowcount != wanted:
                        connection.rollback()
                        return "zero", f"{cursor.statusmessage} instead of {wanted}"
                if mode == "prepared":
                    return self._two_phases(connection, cursor, hold)
                if mode == "long":
                    time.sleep(hold)
                committing = True
            connection.commit()
            return "ack", None
        except psycopg2.Error as e:
            return self._failed(e, committing)

    def _two_phases(self, connection, cursor, hold):
        self.prepared += 1
        gid = f"ledger-{self.name}-{self.prepared}-{time.time_ns()}"
        try:
            cursor.execute(f"PREPARE TRANSACTION '{gid}'")
        except psycopg2.Error as e:
            outcome = self._failed(e, True)
            # Lost during PREPARE: it may have been prepared. Presumed abort, as a coordinator that never decided.
            return self._decide(gid, "ROLLBACK") if outcome[0] == "unknown" else outcome
        connection.commit()
        time.sleep(hold)
        return self._decide(gid, "COMMIT")

    def _decide(self, gid, verdict, seconds=60):
        """Carries out the coordinator's decision however often the connection breaks."""
        deadline = time.monotonic() + seconds
        tries = 0
        while time.monotonic() < deadline:
            try:
                connection = self._connected()
                connection.autocommit = True
                try:
                    with connection.cursor() as cursor:
                        tries += 1
                        cursor.execute(f"{verdict} PREPARED '{gid}'")
                finally:
                    if not connection.closed:
                        connection.autocommit = False
                return ("ack", None) if verdict == "COMMIT" else ("error", "rolled_back")
            except psycopg2.Error as e:
                if e.pgcode == "42704":  # gone: an earlier try that we lost sight of did it, or somebody else undid it
                    return ("ack", None) if verdict == "COMMIT" and tries > 1 else ("error", "rolled_back")
                self.close()
                time.sleep(0.2)
        return "unknown", "undecided"
