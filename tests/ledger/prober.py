"""Asks every shard, ten times a second, whether it would accept a write: invariant I2, at most one shard does for a key at a time.

A probe is a client's transaction, rolled back: BEGIN, an INSERT of a row of its own into each table for each of some keys, each
under a savepoint. What the guard refuses is SHP01; what went in could be committed for as long as that transaction stays open.
So a round asks one shard after the other, keeps the transactions that took something open, and rolls all of them back at its
end. One thread asks, so that its probes have one order. A round asks about half of the keys, the next but one about the other half.
Three things prove a violation, whatever time the probes took:

    both     two shards' transactions hold a row of one key, and both were still alive after the later row had gone in
    again    a shard took a key after another one had taken it: within one change of owners nothing is handed back
    third    a key was taken by more shards than its old and its new owner

Nothing of it stays: rows are rolled back, keys are negative (nobody else's are), no sequence is drawn from. A shard waits for its
locks for LOCK_MS only, less than a fence waits before it looks for a deadlock: then the round knows nothing about that shard. If the
prober is halted while it holds rows, the server ends its session after IDLE_MS.
"""
import select
import threading
import time

import psycopg2

PERIOD_S = 0.1
LOCK_MS = 10
IDLE_MS = 500
ANSWER_S = 2.0
KEYS = 8
HALVES = 2
CYCLE = 2 * HALVES  # rounds until each key has been asked about in either order of shards
VIOLATIONS = ("both", "again", "third")

# Table -> its probe; $1 is the key. Parents first: with them, a row that belongs to a taken parent is taken too.
SHOP = {
    "customers": "INSERT INTO public.customers (id, name, profile) VALUES ($1, 'probe', '{}')",
    "orders": "INSERT INTO public.orders (id, customer_id) VALUES ($1, $1)",
    "order_items": "INSERT INTO public.order_items (id, order_id, customer_id) VALUES ($1, $1, $1)",
    "requests": "INSERT INTO shardplane.requests (key, request_id, body_hash) VALUES ($1::text, 'probe', '')",
}

TAKEN, PASSED, REFUSED = "ok", "23503", "SHP01"  # PASSED: the guard let it by, and then it had no parent

PROBE = """
BEGIN;
SET LOCAL lock_timeout = {lock_ms};
SET LOCAL plan_cache_mode = force_generic_plan;
DO $probe$
DECLARE
    found text := '';
    k bigint;
BEGIN
    {tables}
    PERFORM set_config('ledger.probe', found, true);
END $probe$;
SELECT current_setting('ledger.probe');
"""
PROBE_TABLE = """
    FOREACH k IN ARRAY ARRAY[{keys}]::bigint[] LOOP
        BEGIN
            {statement};
            found := found || ' ok';
        EXCEPTION WHEN OTHERS THEN
            IF SQLSTATE IN ('55P03', '40P01') THEN RAISE; END IF;
            found := found || ' ' || SQLSTATE;
        END;
    END LOOP;"""


def probe(statements, keys):
    """The whole text that asks one shard about some keys. Statements stand in it as they are, so that each is planned but once."""
    keys = ", ".join(str(k) for k in keys)
    tables = "".join(PROBE_TABLE.format(keys=keys, statement=s.replace("$1", "k")) for s in statements)
    return PROBE.format(lock_ms=LOCK_MS, tables=tables)


def spread_keys(dsn, count=KEYS):
    """[(key, hash)] of keys that lie evenly around the ring, so that every shard of a plan has some."""
    connection = psycopg2.connect(dsn)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT -i, hashtextextended((-i)::text, 0) AS h FROM generate_series(1, 500) i ORDER BY h")
            found = cursor.fetchall()
    finally:
        connection.close()
    return [found[len(found) * i // count] for i in range(count)]


class Sightings:
    """Which shard took and which refused what, in the order of asking; a name is (table, key)."""

    def __init__(self):
        self.took = {}      # name -> [[shard, began, ended]], a new entry when the shard changes
        self.refused = {}   # (name, shard) -> times
        self.violations = []  # (kind, text)

    def violation(self, kind, name, text):
        self.violations.append((kind, f"{kind}: {name[0]} of key {name[1]}: {text}"))

    def add(self, name, shard, code, began, ended):
        if code == REFUSED:
            self.refused[name, shard] = self.refused.get((name, shard), 0) + 1
        if code not in (TAKEN, PASSED):
            return
        history = self.took.setdefault(name, [])
        if history and history[-1][0] == shard:
            history[-1][2] = ended
            return
        if shard in [h[0] for h in history]:
            self.violation("again", name, f"{shard} took it [{began:.4f}, {ended:.4f}] after {history}")
        elif len(history) >= 2:
            self.violation("third", name, f"{shard} took it [{began:.4f}, {ended:.4f}] after {history}")
        history.append([shard, began, ended])

    def kinds(self):
        return {kind for kind, _ in self.violations}


class Session:
    """One shard's connection. Everything has a deadline of the client's own, for a server that is stopped answers nothing."""

    def __init__(self, dsn):
        self.dsn = dsn
        self.connection = None

    def close(self):
        if self.connection is not None:
            try:
                self.connection.close()
            except psycopg2.Error:
                pass
            self.connection = None

    def _await(self, deadline):
        while True:
            state = self.connection.poll()
            if state == psycopg2.extensions.POLL_OK:
                return
            read, write = ([self.connection], []) if state == psycopg2.extensions.POLL_READ else ([], [self.connection])
            left = deadline - time.monotonic()
            if left <= 0 or not any(select.select(read, write, [], left)):
                raise psycopg2.OperationalError("no answer")

    def run(self, sql):
        """The first column of the last statement's only row, or None; raises psycopg2.Error, after which the session may be gone."""
        deadline = time.monotonic() + ANSWER_S
        try:
            if self.connection is None:
                self.connection = psycopg2.connect(
                    self.dsn, async_=1, application_name="ledger-prober",
                    options=f"-c statement_timeout=1000 -c idle_in_transaction_session_timeout={IDLE_MS}")
                self._await(deadline)
            cursor = self.connection.cursor()
            cursor.execute(sql)
            self._await(deadline)
            return cursor.fetchone()[0] if cursor.description else None
        except psycopg2.Error as e:
            if e.pgcode is None or self.connection is None or self.connection.closed:
                self.close()
            raise

    def rollback(self):
        if self.connection is not None:
            try:
                self.run("ROLLBACK")
            except psycopg2.Error:
                self.close()  # the server rolls it back


class Prober(threading.Thread):
    """start(), then judge(). `shards`: {shard id: DSN of an application's role}."""

    def __init__(self, shards, keys, probes=None):
        """keys: as spread_keys() gives them."""
        super().__init__(daemon=True)
        probes = probes or SHOP
        self.hashes = dict(keys)
        self.sessions = {shard: Session(dsn) for shard, dsn in shards.items()}
        self.names = [(table, key) for table in probes for key in self.hashes]
        self.halves = []  # [(names, SQL)]
        for i in range(HALVES):
            keys = list(self.hashes)[i::HALVES]
            self.halves.append(([(table, key) for table in probes for key in keys], probe(probes.values(), keys)))
        self.seen = Sightings()
        self.rounds = 0
        self.answers = {shard: {} for shard in shards}  # shard -> {"asked" or SQLSTATE or "away": times}
        self.held_ms = 0.0                              # the longest that a round kept rows open
        self.broken = None
        self.done = threading.Event()
        self.clock = time.time() - time.monotonic()

    def now(self):
        """Unix time that only rises."""
        return self.clock + time.monotonic()

    def run(self):
        try:
            while not self.done.is_set():
                began = time.monotonic()
                self.round()
                self.done.wait(max(0.0, PERIOD_S - (time.monotonic() - began)))
        except Exception as e:  # pylint: disable=broad-except
            self.broken = e
        finally:
            for session in self.sessions.values():
                session.close()

    def round(self):
        """Forwards, then backwards: what opens between two probes is seen from either side."""
        shards = list(self.sessions)[::-1 if self.rounds % 2 else 1]
        half = self.halves[self.rounds // 2 % HALVES]
        held, began = {}, time.monotonic()
        try:
            for shard in shards:
                taken = self.ask(shard, *half)
                if taken:
                    held[shard] = taken
                else:
                    self.sessions[shard].rollback()
            self.compare(held)
        finally:
            for shard in held:
                self.sessions[shard].rollback()
        if held:
            self.held_ms = max(self.held_ms, (time.monotonic() - began) * 1000)
        self.rounds += 1

    def ask(self, shard, names, sql):
        """Those of the names that a shard took, whose rows its transaction now holds: {name: (began, ended)}."""
        began = self.now()
        try:
            codes = self.sessions[shard].run(sql).split()
        except psycopg2.Error as e:
            self.count(shard, e.pgcode or "away")
            return {}
        ended = self.now()
        self.count(shard, "asked")
        if len(codes) != len(names):
            raise AssertionError(f"{len(names)} probes, {len(codes)} answers")
        for name, code in zip(names, codes):
            self.seen.add(name, shard, code, began, ended)
        return {name: (began, ended) for name, code in zip(names, codes) if code == TAKEN}

    def count(self, shard, what):
        self.answers[shard][what] = self.answers[shard].get(what, 0) + 1

    def compare(self, held):
        """Names that two open transactions hold: a violation once both turn out to have been alive all the time."""
        shared = {}
        for shard, taken in held.items():
            for name in taken:
                shared.setdefault(name, []).append(shard)
        shared = {name: owners for name, owners in shared.items() if len(owners) > 1}
        alive = {}
        for shard in {s for owners in shared.values() for s in owners}:
            asked = self.now()
            try:
                self.sessions[shard].run("SELECT 1")
                alive[shard] = asked
            except psycopg2.Error:
                pass
        for name, owners in shared.items():
            proof = [f"{s} took it [{held[s][name][0]:.4f}, {held[s][name][1]:.4f}] and held it at {alive[s]:.4f}"
                     for s in owners if s in alive]
            if len(proof) > 1:
                self.seen.violation("both", name, "; ".join(proof))

    # -- the verdict --------------------------------------------------------------------------------------------------

    def stop(self):
        self.done.set()
        self.join(timeout=30)
        if self.is_alive():
            raise AssertionError("the prober does not end")

    def await_rounds(self, more=CYCLE, seconds=30):
        """Until so many rounds have begun and ended since this call."""
        goal, deadline = self.rounds + more + 1, time.monotonic() + seconds
        while self.rounds < goal and self.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        if self.rounds < goal:
            raise AssertionError(f"the prober made {self.rounds} rounds, not {goal}: {self.broken or self.answers}")

    def judge(self, owner):
        """Stops; raises AssertionError for a violation, and when it did not see enough to have noticed one: each key must have
        been taken in each table, last by owner(hash), and each moved one refused before by its new owner, since by its old one."""
        self.stop()
        if self.broken:
            raise AssertionError(f"the prober broke: {self.broken!r}") from self.broken
        summary = f"{self.rounds} rounds, rows held for up to {self.held_ms:.0f} ms, answers {self.answers}"
        if self.seen.violations:
            raise AssertionError("\n".join([f"{len(self.seen.violations)} writes accepted where they must not be ({summary})"] +
                                           [text for _, text in self.seen.violations[:10]]))
        blind = []
        for name in self.names:
            history = [h[0] for h in self.seen.took.get(name, [])]
            if not history or history[-1] != owner(self.hashes[name[1]]):
                blind.append(f"{name} was last taken by {history[-1:]}, its owner is {owner(self.hashes[name[1]])}")
            blind += [f"{name} went from {history[0]} to {history[-1]}, but {shard} was never seen to refuse it"
                      for shard in history[:2] if len(history) > 1 and not self.seen.refused.get((name, shard))]
        if blind:
            raise AssertionError("\n".join([f"the prober saw too little ({summary})"] + blind[:10]))
        return summary
