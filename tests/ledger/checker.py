"""Compares what the shards hold with what the ledger says they should hold.

Defects, each a count and some examples:

    lost         a row that must be there is nowhere, or an acknowledged transaction is there in part
    duplicated   a row is on two shards
    stale        a row is older than, or differs from, what was acknowledged; a deleted row is back; a statement was told
                 "no such row" though the row existed
    misplaced    a row is on a shard that does not own its key; on a sealed source whose old rows have not been dropped yet
                 (`leftovers`) only when it is newer than its owner's
    phantom      a row, or a version of it, that nobody was told had been written: never attempted, or refused

Where the outcome is unknown, both states are right.
"""
import bisect
import io
import json
import time
import urllib.request

import psycopg2

from . import shop

KINDS = ("lost", "duplicated", "stale", "misplaced", "phantom")
MAX_EXAMPLES = 20


def quote(name):
    return '"' + name.replace('"', '""') + '"'


class Ring:
    """Who owns a hash, from the bounds that the REST API shows."""

    def __init__(self, shards, version=None):
        """shards: {shard id: bounds}; raises ValueError unless every hash has exactly one owner."""
        self.version = version
        arcs = []
        for shard, bounds in shards.items():
            if bounds != sorted(set(bounds)):
                raise ValueError(f"bounds of {shard} are not ascending")
            for i in range(0, len(bounds), 2):
                arcs.append((bounds[i], bounds[i + 1] if i + 1 < len(bounds) else 2**63, shard))
        arcs.sort()
        at = -2**63
        for start, end, shard in arcs:
            if start != at:
                raise ValueError(f"the ring has {'an overlap' if start < at else 'a gap'} at {start} ({shard})")
            at = end
        if at != 2**63:
            raise ValueError("the ring does not reach its end")
        self.starts = [a[0] for a in arcs]
        self.owners = [a[2] for a in arcs]

    @classmethod
    def fetch(cls, gateway, keyspace="default", at_least=0, seconds=10):
        """Asks again until the ring has version `at_least`: whoever answers learns of a flip a little later than its job."""
        deadline = time.monotonic() + seconds
        while True:
            with urllib.request.urlopen(f"{gateway}/api/v1/keyspaces/{keyspace}/ring", timeout=10) as r:
                got = json.load(r)
            if got["ring_version"] >= at_least or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        return cls({s["shard_id"]: [int(b) for b in s.get("bounds", [])] for s in got["shards"]}, got["ring_version"])

    def owner(self, key_hash):
        return self.owners[bisect.bisect_right(self.starts, key_hash) - 1]


def dump(dsn, table):
    """Rows of one table: (primary key, key, key hash by PostgreSQL itself, version, note, md5 of the blob)."""
    sql = (f"COPY (SELECT {quote(table['pk'])}, {quote(table['key'])}, hashtextextended({quote(table['key'])}::text, 0), seq, "
           f"note, CASE WHEN blob IS NULL THEN '' ELSE md5(blob) END "
           f"FROM {quote(table['schema'])}.{quote(table['table'])}) TO STDOUT")
    out = io.StringIO()
    connection = psycopg2.connect(dsn, options="-c session_replication_role=origin")
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass(%s)", (f"{quote(table['schema'])}.{quote(table['table'])}",))
            if cursor.fetchone()[0] is None:
                return []
            cursor.copy_expert(sql, out)
    finally:
        connection.close()
    rows = []
    for line in out.getvalue().split("\n")[:-1]:
        pk, key, key_hash, seq, note, md5 = line.split("\t")
        rows.append((int(pk), int(key), int(key_hash), int(seq), note, md5))
    return rows


def baseline(dsn, tables=shop.TABLES):
    """{(table, pk): state} of a shard before anybody writes; a state is (key, version, note, md5 of the blob)."""
    return {(t["table"], pk): (key, seq, note, md5) for t in tables for pk, key, _, seq, note, md5 in dump(dsn, t)}


class Expected:
    """The states that a row may be in, and the history that decides which defect a wrong one is."""

    __slots__ = ("possible", "acked_seq", "attempted", "deleted")

    def __init__(self, first):
        self.possible = [first]
        self.acked_seq = first[1] if first else None
        self.attempted = set()  # versions whose outcome was not an acknowledgement
        self.deleted = False    # an acknowledged delete was the last word


class Ledger:
    """What should be there: a baseline and the writers' operations."""

    def __init__(self, base, logs):
        """base: as baseline() gives it; logs: {name: [Op]} as oplog.read_folder() gives it."""
        self.base = base
        self.rows = {}
        self.ops = [op for ops in logs.values() for op in ops]
        self.missed = []  # acknowledged statements that saw no row though it was there
        self.last = {}    # row -> its last operation that may have happened
        for ops in logs.values():
            for op in ops:
                self._apply(op)

    def _state(self, table, pk, after):
        if after is None:
            return None
        key, seq, blob = after
        if blob is None:
            kept = self.base.get((table, pk))
            md5 = kept[3] if kept else ""
        else:
            md5 = shop.blob_md5(pk, blob)
        return key, seq, shop.note_of(table, pk, seq), md5

    def _apply(self, op):
        for table, pk, after in op.rows:
            row = self.rows.get((table, pk))
            if row is None:
                row = self.rows[table, pk] = Expected(self.base.get((table, pk)))
            state = self._state(table, pk, after)
            unsure = op.result == "unknown" or (op.result == "zero" and op.via == "router")
            if op.result == "ack":
                row.possible = [state]
                row.deleted = state is None
                row.acked_seq = state[1] if state else row.acked_seq
                self.last[table, pk] = op
            elif unsure:
                if state not in row.possible:
                    row.possible.append(state)
                self.last[table, pk] = op
            elif state is not None:
                row.attempted.add(state[1])
            # An insert starts from nothing; anything else was aimed at a row that was there.
            if op.result == "zero" and op.via == "router" and row.possible[0] is not None:
                self.missed.append((op, table, pk))

    def expected(self, table, pk):
        return self.rows.get((table, pk)) or Expected(self.base.get((table, pk)))


class Report:
    """Counts, examples, and what else the summary needs."""

    def __init__(self):
        self.counts = dict.fromkeys(KINDS, 0)
        self.examples = []
        self.rows = 0
        self.leftovers = 0
        self.unknown = {"applied": 0, "not_applied": 0}

    def add(self, kind, text):
        self.counts[kind] += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(f"{kind}: {text}")

    @property
    def clean(self):
        return not any(self.counts.values())

    def __str__(self):
        counts = ", ".join(f"{n} {kind}" for kind, n in self.counts.items())
        return "\n".join([f"{self.rows} rows checked: {counts}"] + ["  " + e for e in self.examples])


def judge_row(report, name, want, have):
    """One row against the states that it may be in; `have` is None when it is nowhere."""
    if have in want.possible:
        return
    table, pk = name
    where = f"{table} {pk}: have {have}, may be {want.possible}"
    if have is None:
        report.add("lost", where)
        return
    live = [s for s in want.possible if s is not None]
    if not live:
        report.add("stale" if want.deleted else "phantom", where)
    elif have[1] > max(s[1] for s in live):
        report.add("phantom", where)
    elif have[1] in want.attempted and have[1] not in [s[1] for s in live]:
        report.add("phantom", where)
    else:
        report.add("stale", where)


def judge_atomicity(report, ledger, found):
    """An operation of unknown fate on several rows happened to all of them or to none."""
    ops = {}
    for name, op in ledger.last.items():
        if op.result == "unknown" and len(op.rows) > 1:
            ops.setdefault(id(op), (op, []))[1].append(name)
    for op, names in ops.values():
        after = {(t, pk): ledger._state(t, pk, a) for t, pk, a in op.rows}  # pylint: disable=protected-access
        applied = {n: found.get(n) == after[n] for n in names if len(ledger.rows[n].possible) > 1}
        if len(set(applied.values())) > 1:
            report.add("lost", f"half a transaction: {op.writer} #{op.number} {op.kind}: applied {applied}")


def check(ledger, ring, shards, tables=shop.TABLES, leftovers=()):
    """shards: {shard id: DSN that may read all}. leftovers: sealed sources that may still hold rows that have moved."""
    report = Report()
    found, left = {}, []
    for shard, dsn in shards.items():
        for t in tables:
            for pk, key, key_hash, seq, note, md5 in dump(dsn, t):
                report.rows += 1
                name, state = (t["table"], pk), (key, seq, note, md5)
                owner = ring.owner(key_hash)
                if owner != shard:
                    if shard in leftovers:
                        left.append((shard, name, state))
                        continue
                    report.add("misplaced", f"{name[0]} {pk} (key {key}) is on {shard}, its owner is {owner}")
                if name in found:
                    report.add("duplicated", f"{name[0]} {pk} is on two shards, one of them {shard}")
                    if owner != shard:
                        continue  # judge the copy that its owner has
                found[name] = state
    for shard, name, state in left:
        report.leftovers += 1
        mine = found.get(name)
        want = ledger.expected(*name)
        if (mine is not None and state[1] > mine[1]) or (mine is None and None not in want.possible):
            report.add("misplaced", f"{name[0]} {name[1]} on {shard}, which is sealed, is newer than its owner's: {state} / {mine}")
    for name, state in ledger.base.items():
        if name not in ledger.rows and found.get(name) != state:
            judge_row(report, name, Expected(state), found.get(name))
    for name, want in ledger.rows.items():
        judge_row(report, name, want, found.get(name))
    for name in found.keys() - ledger.base.keys() - ledger.rows.keys():
        report.add("phantom", f"{name[0]} {name[1]}: {found[name]} was never written by anybody")
    for op, table, pk in ledger.missed:
        report.add("stale", f"{op.writer} #{op.number} {op.kind} was told that {table} {pk} does not exist")
    judge_atomicity(report, ledger, found)
    for op in ledger.ops:
        if op.result == "unknown":
            table, pk, after = op.rows[0]
            hit = found.get((table, pk)) == ledger._state(table, pk, after)  # pylint: disable=protected-access
            report.unknown["applied" if hit else "not_applied"] += 1
    return report


# -- figures ----------------------------------------------------------------------------------------------------------


def percentile(sorted_values, share):
    if not sorted_values:
        return None
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]


def latencies_ms(logs, via="router"):
    """Of acknowledged operations: p50, p99, max."""
    values = sorted((op.ended - op.started) * 1000 for ops in logs.values() for op in ops
                    if op.via == via and op.result == "ack")
    return {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99), "max": values[-1] if values else None}


def longest_pause_ms(logs, via="router", since=0.0, until=float("inf")):
    """The longest time that a client spent from first trying to write until a write of its was acknowledged, tries that
    failed included. What a client does between two writes of its own will does not count."""
    longest = 0.0
    for ops in logs.values():
        trying = None
        for op in ops:
            if op.via != via or op.ended is None or op.ended < since or op.started > until:
                continue
            if trying is None:
                trying = op.started
            if op.result in ("ack", "refused", "zero"):
                longest = max(longest, op.ended - trying)
                trying = None
        if trying is not None and ops:
            longest = max(longest, ops[-1].ended - trying if ops[-1].ended else 0.0)
    return longest * 1000


def count_outcomes(logs, via=None):
    counts = {"attempted": 0, "acknowledged": 0, "unknown": 0, "failed": 0, "refused": 0}
    for ops in logs.values():
        for op in ops:
            if via is None or op.via == via:
                counts["attempted"] += 1
                counts[{"ack": "acknowledged", "error": "failed", "zero": "failed"}.get(op.result, op.result)] += 1
    return counts


def stale_writes(logs, ring, source, hash_dsn, since):
    """Direct operations started after `since` (Unix time of the flip) on keys that `source` no longer owns."""
    ops = [op for ops in logs.values() for op in ops if op.via == "direct" and op.started > since]
    keys = sorted({op.key for op in ops})
    hashes = {}
    if keys:
        connection = psycopg2.connect(hash_dsn)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT k, hashtextextended(k::text, 0) FROM unnest(%s::bigint[]) AS k", (keys,))
                hashes = dict(cursor.fetchall())
        finally:
            connection.close()
    stale = [op for op in ops if ring.owner(hashes[op.key]) != source]
    return {"attempted": len(stale), "refused": sum(op.result == "refused" for op in stale),
            "accepted": sum(op.result == "ack" for op in stale)}
