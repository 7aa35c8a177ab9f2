"""Drives the follower alone: three PostgreSQL clusters, a source with writers, two targets, no manager. See follow_rig.c."""
import json
import os
import queue
import random
import signal
import subprocess
import threading
import time

import psycopg2

REPO = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
JOB = "followjob234"
MIN = -(2 ** 63)
TABLES = [
    ("public", "customers", "id", ["id"], ["id", "name", "note", "ref"]),
    ("public", "Orders", "customer_id", ["id"], ["id", "customer_id", "amount", "payload", "blob", "tags"]),
    ("odd schema", "items", "customer_id", ["customer_id", "n"], ["customer_id", "n", "body"]),
    ("shardplane", "requests", "key", ["key", "request_id"], ["key", "request_id", "body_hash", "reply", "created_at"]),
]
SCHEMA = """
CREATE TABLE customers (id bigint PRIMARY KEY, name text, note text, ref int UNIQUE);
ALTER TABLE customers ALTER note SET STORAGE EXTERNAL;
CREATE TABLE "Orders" (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_id bigint NOT NULL, amount numeric,
    payload jsonb, blob bytea, doubled numeric GENERATED ALWAYS AS (amount * 2) STORED, tags text[]);
ALTER TABLE "Orders" ALTER blob SET STORAGE EXTERNAL;
CREATE SCHEMA IF NOT EXISTS "odd schema";
CREATE SEQUENCE "odd schema"."n seq" START 5 INCREMENT 3;
CREATE TABLE "odd schema".items (customer_id int, n int DEFAULT nextval('"odd schema"."n seq"'), body text, PRIMARY KEY (customer_id, n));
ALTER TABLE "odd schema".items ALTER body SET STORAGE EXTERNAL;
GRANT USAGE ON SCHEMA "odd schema" TO PUBLIC;
GRANT ALL ON ALL TABLES IN SCHEMA "odd schema" TO PUBLIC;
"""
DROP = 'DROP TABLE IF EXISTS customers, "Orders"; DROP SEQUENCE IF EXISTS alone, alone_again, late; DROP SCHEMA IF EXISTS "odd schema" CASCADE; DROP SCHEMA IF EXISTS shardplane CASCADE;'


def qualified(schema, table):
    return f'"{schema}"."{table}"'


class Driver:
    def __init__(self, folder, rig, shards, source_keeps=False, binary=True):
        self.folder, self.rig, self.shards, self.binary = folder, rig, shards, binary
        # Hashes below 0, up to 2^62 and above; the source keeps the last part or nothing.
        self.bounds = [[MIN, 0], [0, 2 ** 62]] if source_keeps else [[MIN, 0], [0]]
        self.keeps = [2 ** 62] if source_keeps else []
        self.slot, self.publication = f"shp_{JOB}_1", f"shp_{JOB}"
        self.process, self.updates, self.attempt = None, [], 0
        self.got = threading.Condition()
        self.epoch = 7
        self.writers = []

    def sql(self, shard, statement, params=None, role="owner_endpoint", fetch=False):
        connection = psycopg2.connect(self.shards[shard][role])
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, params)
                return cursor.fetchall() if fetch else None
        finally:
            connection.close()

    def super(self, shard, statement, fetch=False):
        return self.sql(shard, statement, role="superuser_endpoint", fetch=fetch)

    # ---- making and dropping

    def drop(self):
        for i in range(3):
            self.super(i, f"""DO $$ BEGIN PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'shardplane/%';
                END $$""")
        deadline = time.monotonic() + 10
        while True:
            try:
                self.super(0, f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'shp_%'")
                break
            except psycopg2.Error:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self.super(0, f"DROP PUBLICATION IF EXISTS {self.publication}")
        for i in range(3):
            self.super(i, "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname LIKE 'shp_%'")
            self.super(i, DROP)

    def make(self, rows=400):
        self.drop()
        for i in range(3):
            self.sql(i, SCHEMA)
        self.write_assignment({})
        subprocess.run([self.rig, self.assignment, "install"], check=True, timeout=60)
        self.super(0, f"""CREATE UNIQUE INDEX "shp_{JOB}_ri_1" ON "Orders" (customer_id, id);
            ALTER TABLE "Orders" REPLICA IDENTITY USING INDEX "shp_{JOB}_ri_1";
            CREATE PUBLICATION {self.publication} FOR TABLE {", ".join(qualified(t[0], t[1]) for t in TABLES)}""")
        self.load(rows)
        start = self.super(0, f"SELECT lsn FROM pg_create_logical_replication_slot('{self.slot}', 'pgoutput')", True)[0][0]
        self.copy()
        prints = self.fingerprints()
        self.write_assignment({t[1]: start for t in TABLES}, prints)

    def load(self, rows):
        self.sql(0, "INSERT INTO customers SELECT i, 'name ' || i, repeat(md5(i::text), 200), i FROM generate_series(1, %s) i", (rows,))
        self.sql(0, """INSERT INTO "Orders" (customer_id, amount, payload, blob, tags)
            SELECT i, i / 7.0, jsonb_build_object('i', i), decode(repeat(md5(i::text), 150), 'hex'), ARRAY['a', NULL, 'c,' || i]
            FROM generate_series(1, %s) i""", (rows,))
        self.sql(0, """INSERT INTO "odd schema".items (customer_id, body) SELECT i, repeat(md5(i::text), 100) FROM generate_series(1, %s) i""", (rows,))
        self.super(0, "INSERT INTO shardplane.requests SELECT i::text, 'r' || i, md5(i::text), 'reply' FROM generate_series(1, 50) i")

    def where(self, key, i):
        bounds = "{" + ",".join(str(b) for b in self.bounds[i]) + "}"
        return f"width_bucket(hashtextextended({key}::text, 0), '{bounds}'::int8[]) % 2 = 1"

    def copy(self):
        for i in (0, 1):
            for schema, table, key, _, columns in TABLES:
                names = ", ".join(f'"{c}"' for c in columns)
                out = os.path.join(self.folder, "rows")
                with open(out, "wb") as f, psycopg2.connect(self.shards[0]["superuser_endpoint"]) as c:
                    c.cursor().copy_expert(f"COPY (SELECT {names} FROM {qualified(schema, table)} WHERE {self.where(key, i)}) TO STDOUT", f)
                c.close()
                with open(out, "rb") as f:
                    c = psycopg2.connect(self.shards[i + 1]["apply_endpoint"])
                    with c:
                        c.cursor().copy_expert(f"COPY {qualified(schema, table)} ({names}) FROM STDIN", f)
                    c.close()

    def fingerprints(self):
        out = subprocess.run([self.rig, self.assignment, "fingerprints"], check=True, timeout=60, stdout=subprocess.PIPE, text=True).stdout
        return dict(zip([t[1] for t in TABLES], out.split()))

    def write_assignment(self, starts, prints=None):
        def shard(i):
            s = self.shards[i]
            return {"id": s["name"], "apply": s["apply_endpoint"], "admin": s["admin_endpoint"], "apply_role": "shardplane_apply",
                    "replicas": [r["endpoint"] for r in s["replicas"]]}
        oids = {}
        for schema, table, *_ in TABLES:
            found = self.super(0, f"SELECT to_regclass('{qualified(schema, table)}')::oid::bigint", True)[0][0]
            oids[table] = found
        tables = []
        for schema, table, key, pk, columns in TABLES:
            t = {"schema": schema, "table": table, "key_column": key, "columns": columns, "primary_key": pk}
            if oids[table]:
                t["oid"] = oids[table]
            if table in starts:
                t["start_lsn"] = starts[table]
            if prints:
                t["fingerprint"] = prints[table]
            tables.append(t)
        assign = {"task_id": "follow-1", "job_id": JOB, "attempt": 1, "kind": "follow", "source_shard_id": self.shards[0]["name"],
                  "keyspace": "default", "slot": self.slot, "publication": self.publication, "tables": tables,
                  "targets": [{"shard_id": self.shards[i + 1]["name"], "bounds": [str(b) for b in self.bounds[i]],
                               "nonce": f"nonce{i}", "origin": f"shp_{JOB}_{self.shards[i + 1]['name']}", "ordinal": i + 1} for i in (0, 1)],
                  "source_bounds_after": [str(b) for b in self.keeps], "sequence_stride": 64, "ring_version": 9,
                  "binary_stream": self.binary}
        self.assignment = os.path.join(self.folder, "assignment.json")
        with open(self.assignment, "w", encoding="utf-8") as f:
            json.dump({"generation": 1, "epoch": self.epoch, "source": shard(0), "targets": [shard(1), shard(2)], "assign": assign}, f)

    # ---- the follower

    def start(self, failpoints=None):
        env = dict(os.environ)
        env.pop("SHARDPLANE_FAILPOINTS", None)
        if failpoints:
            env["SHARDPLANE_FAILPOINTS"] = failpoints
        self.log = open(os.path.join(self.folder, "follow.log"), "ab")
        self.process = subprocess.Popen([self.rig, self.assignment], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, env=env)
        self.updates = []
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def _read(self, process):
        for line in process.stdout:
            with self.got:
                if process is self.process:
                    self.updates.append(json.loads(line))
                    self.got.notify_all()

    def forget(self):
        """Later waits see only later updates."""
        with self.got:
            self.updates = []

    def stop_writers(self):
        for w in self.writers:
            w.stop()

    def tell(self, verb, **fields):
        self.process.stdin.write((json.dumps({"task_id": "follow-1", "verb": verb, **fields}) + "\n").encode())
        self.process.stdin.flush()

    def wait(self, what, condition, seconds=30):
        deadline = time.monotonic() + seconds
        with self.got:
            while True:
                for u in reversed(self.updates):
                    if condition(u):
                        return u
                left = deadline - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self.got.wait(0.3)):
                    raise AssertionError(f"no update with {what}; last: {self.updates[-1:]}; exit {self.process.poll()}")
                self.got.wait(min(left, 0.5))

    def stop(self):
        if self.process.poll() is None:
            self.process.stdin.close()
        return self.process.wait(20)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def lsn(self):
        return self.super(0, "SELECT pg_current_wal_insert_lsn()", True)[0][0]

    def catch_up(self, seconds=60):
        def number(lsn):
            high, low = lsn.split("/")
            return int(high, 16) << 32 | int(low, 16)
        want = number(self.lsn())
        with self.got:
            self.updates = self.updates[-1:]
        return self.wait(f"applied_lsn {want:X}", lambda u: number(u.get("applied_lsn", "0/0")) >= want, seconds)

    # ---- comparing

    def rows(self, shard, table, condition="true"):
        schema, name, key, _, columns = next(t for t in TABLES if t[1] == table)
        names = ", ".join(f'"{c}"::text' for c in columns)
        if name == "Orders":
            names += ", doubled::text"
        return self.super(shard, f"SELECT {names} FROM {qualified(schema, name)} WHERE {condition.replace('KEY', key)} ORDER BY 1, 2", True)

    def differences(self):
        """What is wrong on the targets, as text; empty when all is right."""
        wrong = []
        for _, table, key, *_ in TABLES:
            for i in (0, 1):
                want = self.rows(0, table, self.where("KEY", i))
                have = self.rows(i + 1, table)
                if want != have:
                    lost, extra = set(want) - set(have), set(have) - set(want)
                    wrong.append(f"{table} on target {i}: {len(lost)} missing or old, {len(extra)} too many; e.g. "
                                 f"{[tuple(str(v)[:20] for v in r) for r in list(lost)[:2]]} {[tuple(str(v)[:20] for v in r) for r in list(extra)[:2]]}")
        return wrong


class Writers:
    """Random changes of all kinds on the source, until stopped. Errors of PostgreSQL (unique violations among writers, SHP01) are counted."""

    def __init__(self, driver, n=3, seed=1, pause=0.002, rows=400):
        self.driver, self.pause, self.rows = driver, pause, rows
        self.done, self.errors, self.commits, self.longest_ms, self.refused = threading.Event(), 0, 0, 0.0, 0
        driver.writers.append(self)
        self.threads = [threading.Thread(target=self.run, args=(seed * 100 + i,), daemon=True) for i in range(n)]
        for t in self.threads:
            t.start()

    def run(self, seed):
        rnd = random.Random(seed)
        c = psycopg2.connect(self.driver.shards[0]["primary_endpoint"])
        while not self.done.is_set():
            began = time.monotonic()
            try:
                with c, c.cursor() as cursor:
                    for _ in range(rnd.choice((1, 1, 1, 2, 3, 8))):
                        self.step(cursor, rnd)
                self.commits += 1
                self.longest_ms = max(self.longest_ms, (time.monotonic() - began) * 1000)
            except psycopg2.OperationalError as e:
                if c.closed:
                    raise
                self.errors += 1
            except psycopg2.Error as e:
                self.errors += 1
                if e.pgcode == "SHP01":
                    self.refused += 1
            if self.pause:
                time.sleep(self.pause)
        c.close()

    def step(self, cursor, rnd):
        k, other = rnd.randint(1, self.rows * 2), rnd.randint(1, self.rows * 2)
        big = "%032x" % rnd.getrandbits(128) * 150
        choice = rnd.randint(0, 13)
        if choice == 0:
            cursor.execute("INSERT INTO customers VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING", (k, f"n{k}", big, rnd.randint(1, 10 ** 8)))
        elif choice == 1:
            cursor.execute("UPDATE customers SET name = %s WHERE id = %s", (f"kept toast {rnd.random()}", k))
        elif choice == 2:
            cursor.execute("UPDATE customers SET note = %s WHERE id = %s", (big, k))
        elif choice == 3:  # moves a row with its TOAST
            cursor.execute("UPDATE customers SET id = %s WHERE id = %s AND NOT EXISTS (SELECT FROM customers WHERE id = %s)", (other, k, other))
        elif choice == 4:
            cursor.execute("DELETE FROM customers WHERE id = %s", (k,))
        elif choice == 5:
            cursor.execute('INSERT INTO "Orders" (customer_id, amount, payload, blob, tags) VALUES (%s, %s, %s, %s, %s)',
                           (k, rnd.random(), json.dumps({"k": k, "s": "\\N\t'\""}), big.encode(), ["x", None, big[:3]]))
        elif choice == 6:
            cursor.execute('UPDATE "Orders" SET customer_id = %s WHERE customer_id = %s', (other, k))
        elif choice == 7:
            cursor.execute('UPDATE "Orders" SET amount = amount + 1, payload = NULL WHERE customer_id = %s', (k,))
        elif choice == 8:
            cursor.execute('DELETE FROM "Orders" WHERE customer_id = %s', (k,))
        elif choice == 9:
            cursor.execute('INSERT INTO "odd schema".items (customer_id, body) VALUES (%s, %s)', (k, big))
        elif choice == 10:
            cursor.execute('UPDATE "odd schema".items SET customer_id = %s WHERE customer_id = %s', (other, k))
        elif choice == 11:
            cursor.execute('DELETE FROM "odd schema".items WHERE customer_id = %s', (k,))
        elif choice == 12:  # a unique value handed on inside one transaction, and a new identity
            cursor.execute("UPDATE customers SET ref = NULL WHERE id = %s RETURNING id", (k,))
            cursor.execute("UPDATE customers SET ref = %s WHERE id = %s AND NOT EXISTS (SELECT FROM customers WHERE ref = %s)", (k, other, k))
            cursor.execute('UPDATE "Orders" SET id = DEFAULT WHERE customer_id = %s', (k,))
        else:
            cursor.execute("INSERT INTO shardplane.requests VALUES (%s, %s, 'h', 'r') ON CONFLICT DO NOTHING", (str(k), str(rnd.random())))

    def stop(self):
        self.done.set()
        for t in self.threads:
            t.join(20)
