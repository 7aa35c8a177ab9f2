"""The main job: a shard is split while clients write, and every row is where it belongs."""
import json
import os
import uuid

import psycopg2
import pytest

from harness import catalog, residue
from harness.api import ApiError
from harness.rig import SLOW
from harness.sql import query
from ledger import checker
from ledger.route_client import RouteClient, RouteError

HERE = os.path.dirname(os.path.realpath(__file__))


def test_split_under_load(cell):
    """The demo at a smaller size: all ways of writing, stale clients, long and prepared transactions."""
    before = cell.rig.api.ring_version(cell.name)
    cell.write(routers=3, direct=2)
    cell.split()
    job = cell.wait("completed")
    report, logs = cell.finish()
    assert report.rows > 4000
    assert job["ring_version_after"] > job["ring_version_before"] == before
    assert cell.rig.api.ring_version(cell.name) == job["ring_version_after"]
    assert job["validation"]["passed"] and job["validation"]["rows"] > 3000
    states = [p["name"] for p in job["phases"]]
    assert [s for i, s in enumerate(states) if s not in states[:i]][:6] == ["pending", "precopy", "deltasync", "validating",
                                                                          "ready", "cutover"]
    assert job["cutover"]["fence_to_open_ms"] > 0
    counts = checker.count_outcomes(logs, "router")
    assert counts["failed"] == 0 and counts["unknown"] == 0, counts
    assert checker.longest_pause_ms(logs) < 1000 * float(os.environ.get("SP_SLOW", "1"))
    stale = cell.stale(logs)
    assert stale["attempted"] > 0 and stale["refused"] + stale["accepted"] <= stale["attempted"]


def test_split_without_load_keeps_the_old_rows_until_they_are_dropped(cell):
    cell.remember()
    cell.split()
    cell.wait("completed")
    cell.check({}, leftovers="a")
    assert cell.sql("a", "SELECT count(*) FROM orders")[0][0] == 1200
    # The source owns nothing any more: even a statement that touches no row is refused there.
    with pytest.raises(psycopg2.Error) as refused:
        cell.sql("a", "UPDATE orders SET seq = seq WHERE id = -1", role="primary")
    assert refused.value.pgcode == "SHP01"
    cell.finalize(drop=False)
    cell.check({}, leftovers="a")
    assert cell.sql("a", "SELECT count(*) FROM orders")[0][0] == 1200
    cell.no_residue(unchanged=False)


def test_progress_counts_what_is_being_copied(cell):
    """In steps of less than a second, and never past its total, although the source has more rows than it knows of."""
    cell.sql("a", "ALTER TABLE orders SET (autovacuum_enabled = false)")
    cell.sql("a", "INSERT INTO orders (id, customer_id, note) SELECT 1000000 + i, 1 + i % 400, repeat('x', 300) "
                  "FROM generate_series(1, 6000) i")
    rows = sum(cell.sql("a", f"SELECT count(*) FROM {t}")[0][0] for t in ("customers", "orders", "order_items"))
    cell.rig.set_failpoints("resharder", "copy_range_before_commit:sleep=500")
    seen = []
    cell.split()
    job = cell.wait("completed", poll=0.05, seen=lambda job: seen.append((job["state"], job.get("progress", {}))))
    copied = [(p.get("rows_copied", 0), p.get("rows_total", 0)) for state, p in seen if state == "precopy"]
    # Ranges wait half a second each, so few are done in one: each step shows.
    assert len({n for n, _ in copied if n}) >= 6, copied
    assert job["progress"]["rows_copied"] == rows == job["progress"]["rows_total"]
    assert all(p.get("rows_copied", 0) <= p.get("rows_total", 0) for _, p in seen), seen


def test_targets_may_be_registered_empty_before(rig):
    cell = rig.cell(register=("a", "b", "c"))
    shards = {s["id"]: s for s in rig.api.get(f"/api/v1/shards?keyspace={cell.name}").get("shards", [])}
    assert shards[f"{cell.name}-a"]["status"] == "active" and shards[f"{cell.name}-b"]["status"] == "empty"
    cell.job_id = rig.api.split(f"{cell.name}-a", [f"{cell.name}-b", f"{cell.name}-c"])["id"]
    cell.wait("completed")
    cell.finalize()
    cell.check({})
    share = {s["id"]: s["share"] for s in rig.api.get(f"/api/v1/shards?keyspace={cell.name}").get("shards", [])}
    assert share[f"{cell.name}-a"] == 0 and abs(share[f"{cell.name}-b"] - 0.5) < 0.1, share


def test_a_completed_job_gives_its_slot_up_before_it_needs_a_target(cell):
    """Guards are folded on every shard, whenever each can be reached: the source keeps no WAL for that."""
    cell.rig.lead_with(cell.rig.held("job_fold_before"))
    cell.split()
    cell.wait("completed")
    slots = f"SELECT count(*) FROM pg_replication_slots WHERE starts_with(slot_name, 'shp_{cell.job_id}_')"
    cell.rig.stack.wait_for("the slot to go", lambda: cell.sql("a", slots) == [(0,)], 20 * SLOW)
    cell.rig.release()
    cell.finalize()


def test_the_same_idempotency_key_returns_the_same_job(cell):
    first = cell.split(key="split-once")
    assert cell.split(key="split-once", api=cell.rig.api2) == first
    with pytest.raises(ApiError) as other:
        cell.split(targets=("b",), key="split-once")
    assert other.value.code == "idempotency_mismatch"
    changed = ({"admin_endpoint": cell.dsn("b", "superuser")}, {"apply_endpoint": cell.dsn("c", "apply")},
               {"replicas": [cell.dsn("a", "primary")]}, {"keyspace": "another"})
    for change in changed:
        with pytest.raises(ApiError) as other:
            cell.rig.api.split(f"{cell.name}-a", [{**cell.body("b"), **change}, cell.body("c")], key="split-once")
        assert other.value.code == "idempotency_mismatch", change
    with pytest.raises(ApiError) as busy:
        cell.split()
    assert busy.value.status == 409
    cell.job_id = first
    cell.wait("completed")


def test_dry_run_changes_nothing(cell):
    cell.remember()
    shards = cell.rig.api.get("/api/v1/shards")
    plan = cell.rig.api.split(f"{cell.name}-a", [cell.body("b"), cell.body("c")], dry_run=True)
    assert plan["ok"] and plan["tables"] >= 3 and plan["rows"] > 0 and plan["bytes"] > 0
    assert {m["to"] for m in plan["moves"]} == {f"{cell.name}-b", f"{cell.name}-c"}
    assert abs(sum(m["share"] for m in plan["moves"]) - 1) < 1e-6
    after = cell.rig.api.get("/api/v1/shards")
    assert [s["id"] for s in after["shards"]] == [s["id"] for s in shards["shards"]]
    assert not [j for j in cell.rig.api.get("/api/v1/reshard/jobs").get("jobs", []) if j["keyspace"] == cell.name]
    for letter in "abc":
        assert not residue.difference(cell.objects[letter], residue.objects(cell.dsn(letter)))


# -- every schema feature -------------------------------------------------------------------------------------------------

FEATURES = (("public", "accounts", "id"), ("public", "orders", "customer_id"), ("Sales Dept", "orders", "Customer Id"),
            ("Sales Dept", 'Ünïcode "quoted" é', "héllo"), ("public", "audit", "account_id"),
            ("Sales Dept", "events", "account_id"))


def rows_of(dsn, schema, table, key):
    """{row as text with every column by name: key hash}"""
    connection = psycopg2.connect(dsn, options="-c extra_float_digits=3 -c timezone=UTC")
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT string_agg(format('%%I', attname), ', ' ORDER BY attname) FROM pg_attribute "
                           "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
                           (f"{checker.quote(schema)}.{checker.quote(table)}",))
            columns = cursor.fetchone()[0]
            cursor.execute(f"SELECT ROW({columns})::text, hashtextextended({checker.quote(key)}::text, 0) "
                           f"FROM {checker.quote(schema)}.{checker.quote(table)}".replace("%", "%%"), [])
            return dict(cursor.fetchall())
    finally:
        connection.close()


class FeatureCell:
    """features.sql in a database of its own keyspace."""

    def __init__(self, rig):
        self.rig, self.name = rig, rig.new_name("feature")
        self.shards = rig.databases(self.name)
        with open(os.path.join(HERE, "features.sql"), encoding="utf-8") as f:
            self.sql("a", f.read(), role="owner")
        rig.api.post("/api/v1/keyspaces", {"name": self.name})
        for letter in "abc":
            if letter == "a":
                self.register(letter)
                self.tables()
            else:
                self.register(letter)

    def register(self, letter):
        s = self.shards[letter]
        self.rig.api.post("/api/v1/shards", {"name": s["name"], "keyspace": self.name,
                                             "primary_endpoint": s["primary_endpoint"],
                                             "admin_endpoint": s["admin_endpoint"],
                                             "apply_endpoint": s["apply_endpoint"]}, timeout=60)

    def tables(self):
        path = f"/api/v1/keyspaces/{self.name}/tables"
        for schema, table, key in FEATURES:
            self.rig.api.post(path, {"schema": schema, "table": table, "key_column": key}, timeout=60)
        for table in ("local_settings", "local_log"):
            self.rig.api.post(path, {"table": table, "mode": "ignored"}, timeout=60)

    def sql(self, letter, text, role="superuser"):
        return query(self.shards[letter][f"{role}_endpoint"], text)


CHANGES = (
    "UPDATE accounts SET late = 'changed' WHERE id % 7 = 0",                    # unchanged TOAST
    "UPDATE accounts SET big = big || 'x', tags = tags || '{new}' WHERE id % 10 = 0",
    "UPDATE accounts SET profile = profile || '{\"k\": 1}', raw = raw || '\\x00' WHERE id % 11 = 0",
    "UPDATE orders SET customer_id = customer_id % 500 + 1 WHERE id % 13 = 0",  # the key, not the primary key
    "UPDATE \"Sales Dept\".orders SET \"Customer Id\" = \"Customer Id\" % 500 + 1, \"UPPER\" = -1 WHERE \"Order #\" % 5 = 0",
    "UPDATE \"Sales Dept\".\"Ünïcode \"\"quoted\"\" é\" SET \"%s\" = NULL WHERE \"héllo\" % 3 = 0",
    "DELETE FROM \"Sales Dept\".\"Ünïcode \"\"quoted\"\" é\" WHERE \"héllo\" % 10 = 0",
    "DELETE FROM orders WHERE id % 17 = 0",
    "INSERT INTO orders (customer_id, total) SELECT i, 5 FROM generate_series(1, 100) i",
    "INSERT INTO accounts (name, big) SELECT 'streamed', repeat(md5(i::text), 200) FROM generate_series(1, 50) i",
    "UPDATE \"Sales Dept\".events SET \"at\" = \"at\" + 300 WHERE id % 3 = 0",                  # from partition to partition
    "UPDATE \"Sales Dept\".events SET kind = 'plain', account_id = account_id % 500 + 1 WHERE id % 7 = 0",
    "UPDATE \"Sales Dept\".\"events 2024\" SET body = NULL WHERE id % 5 = 0",                 # straight to one
    "INSERT INTO \"Sales Dept\".\"events 2025 plain\" (account_id, \"at\", body) SELECT i, '2025-03-03', 'direct' FROM generate_series(1, 50) i",
    "DELETE FROM \"Sales Dept\".events WHERE id % 11 = 0",
    "DELETE FROM accounts WHERE id IN (SELECT id FROM accounts a WHERE NOT EXISTS "
    "(SELECT FROM \"Sales Dept\".orders o WHERE o.\"Customer Id\" = a.id) LIMIT 3)",
)


def test_every_schema_feature_moves(rig):
    cell = FeatureCell(rig)
    # Changes of every kind while rows are copied and followed, by the application, after the snapshot.
    changed = []

    def seen(job):
        if job["state"] in ("precopy", "deltasync") and job.get("progress", {}).get("rows_copied") and not changed:
            for statement in CHANGES:
                cell.sql("a", statement, role="primary")
            changed.append(job["state"])

    # Copying 3,000 rows takes no time: the changes must meet it, not follow it.
    rig.set_failpoints("resharder", "copy_range_before_commit:sleep=300")
    job_id = rig.api.split(f"{cell.name}-a", [f"{cell.name}-b", f"{cell.name}-c"])["id"]
    job = rig.api.wait_job(job_id, "completed", 60, seen=seen, poll=0.02)
    assert changed, "the changes did not meet the copy"
    assert job["validation"]["passed"]
    ring = checker.Ring.fetch(rig.api.base, cell.name, job["ring_version_after"])
    for schema, table, key in FEATURES:
        source = rows_of(cell.shards["a"]["superuser_endpoint"], schema, table, key)
        assert source, table
        merged = {}
        for letter in "bc":
            rows = rows_of(cell.shards[letter]["superuser_endpoint"], schema, table, key)
            assert rows, f"{table}: nothing on {letter}"
            assert {ring.owner(h) for h in rows.values()} == {cell.shards[letter]["name"]}
            merged.update(rows)
        assert merged == source, f"{schema}.{table}: {sorted(set(source) ^ set(merged))[:3]}"
    definitions(cell)
    sequences(cell)
    assert cell.sql("a", "SELECT value FROM local_settings") == [("here",)]
    assert cell.sql("b", "SELECT to_regclass('local_settings'), to_regclass('local_log'), to_regclass('local_log_all')") == [(None, None, None)]
    rig.api.post(f"/api/v1/reshard/jobs/{job_id}/finalize", {"drop_source_rows": True})
    rig.api.wait_job(job_id, "finalized", 60)
    for schema, table, _ in FEATURES:
        assert cell.sql("a", f"SELECT count(*) FROM {checker.quote(schema)}.{checker.quote(table)}") == [(0,)]


def definitions(cell):
    """Targets have the source's constraints, indexes, defaults, triggers, replica identities and privileges."""
    query = """
    SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated::text FROM pg_constraint
     WHERE conrelid <> 0 AND connamespace::regnamespace::text <> 'shardplane'
    UNION ALL SELECT 'index', tablename, schemaname, indexname, indexdef FROM pg_indexes
     WHERE schemaname IN ('public', 'Sales Dept') AND indexname NOT LIKE 'shp%'
    UNION ALL SELECT 'default', adrelid::regclass::text, (SELECT attname FROM pg_attribute WHERE attrelid = adrelid AND attnum = adnum),
                     pg_get_expr(adbin, adrelid), '' FROM pg_attrdef
     WHERE (SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = adrelid) <> 'shardplane'
       AND (SELECT relname FROM pg_class WHERE oid = adrelid) <> 'accounts'
    UNION ALL SELECT 'trigger', tgrelid::regclass::text, tgname, tgenabled::text, '' FROM pg_trigger
     WHERE NOT tgisinternal AND tgname NOT LIKE '~shardplane%'
    UNION ALL SELECT 'acl', oid::regclass::text, relkind::text, relacl::text, relowner::regrole::text FROM pg_class
     WHERE relnamespace::regnamespace::text IN ('public', '"Sales Dept"') AND relkind IN ('r', 'p', 'S')
    UNION ALL SELECT 'partition', oid::regclass::text, relkind::text, pg_get_expr(relpartbound, oid), coalesce(pg_get_partkeydef(oid), '')
      FROM pg_class WHERE relispartition
    UNION ALL SELECT 'comment', conrelid::regclass::text, conname, obj_description(oid, 'pg_constraint'), '' FROM pg_constraint
     WHERE obj_description(oid, 'pg_constraint') IS NOT NULL AND conrelid <> 0
    """
    source = {r for r in cell.sql("a", query) if "local_" not in r[1]}
    for letter in "bc":
        target = set(cell.sql(letter, query))
        assert target == source, sorted(map(str, target ^ source))


def sequences(cell):
    """Each target issues values of its own, above everything that the source has issued."""
    names = ["public.orders_id_seq", "public.accounts_id_seq", "public.accounts_serial_no_seq", "public.audit_id_seq", '"Sales Dept".events_id_seq',
             "public.ticket_numbers"]
    for name in names:
        last = cell.sql("a", f"SELECT last_value FROM {name}")[0][0]
        drawn = {letter: [cell.sql(letter, f"SELECT nextval('{name}')")[0][0] for _ in range(50)] for letter in "bc"}
        assert not set(drawn["b"]) & set(drawn["c"]), name
        assert min(drawn["b"] + drawn["c"]) > last, (name, last)


# -- key types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, keys", [
    ("text", ["", " ", "a", "A", "a ", "é", "e\u0301", "漢字", "x" * 2000, "'", "\\", "%", "NULL", "042", "🎉"] + [f"k{i}" for i in range(300)]),
    ("uuid", [str(uuid.UUID(int=i * 0x1234567890ABCDEF1234567)) for i in range(300)]),
    ("integer", list(range(-150, 150)) + [2**31 - 1, -2**31]),
])
def test_other_key_types(rig, kind, keys):
    name = rig.new_name("keys")
    shards = rig.databases(name)
    connection = psycopg2.connect(shards["a"]["owner_endpoint"])
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE things (k {kind} PRIMARY KEY, v integer NOT NULL DEFAULT 0)")
        cursor.executemany("INSERT INTO things (k) VALUES (%s)", [(k,) for k in keys])
    connection.close()
    rig.api.post("/api/v1/keyspaces", {"name": name})
    body = {"keyspace": name}
    for letter in "abc":
        s = shards[letter]
        rig.api.post("/api/v1/shards", {**body, "name": s["name"], "primary_endpoint": s["primary_endpoint"],
                                        "admin_endpoint": s["admin_endpoint"], "apply_endpoint": s["apply_endpoint"]}, timeout=60)
        if letter == "a":
            rig.api.post(f"/api/v1/keyspaces/{name}/tables", {"table": "things", "key_column": "k"}, timeout=60)
    client = RouteClient(rig.router_endpoints, name)
    job_id = rig.api.split(f"{name}-a", [f"{name}-b", f"{name}-c"])["id"]
    rig.api.wait_job(job_id, "completed", 60)
    for key in keys:
        reply = client.execute(key, [("UPDATE things SET v = v + 1 WHERE k = $1", [key]), ("SELECT v FROM things WHERE k = $1", [key])])
        assert reply[3][0][2] == 1 and reply[3][1][4] == [[1]], (key, reply)
        assert reply[1] in (f"{name}-b", f"{name}-c")
    with pytest.raises(RouteError) as wrong:
        # A row whose key belongs to somebody else.
        home = client.shard_for_key(keys[-1])[0]
        stranger = next(k for k in keys if client.shard_for_key(k)[0] != home)
        client.execute(keys[-1], [("UPDATE things SET v = 0 WHERE k = $1", [keys[-1]]),
                                  ("INSERT INTO things (k, v) VALUES ($1, 9)", [stranger])])
    assert wrong.value.code in ("key_mismatch", "sql_error"), wrong.value
    client.close()


def test_a_finalize_while_the_follower_is_stopped_is_not_lost(cell):
    """The job's actor writes its record while the command does: the flag must survive whoever writes last."""
    cell.rig.lead_with(cell.rig.held("job_stop_follow_before"))
    try:
        cell.split()
        cell.wait("completed")
        cell.rig.api.post(f"/api/v1/reshard/jobs/{cell.job_id}/finalize", {"drop_source_rows": True})
        cell.rig.release()
        cell.wait("finalized")
    finally:
        cell.rig.restore()


def test_the_old_source_gets_no_keys_before_the_job_is_finalized(cell):
    """Finalize may delete what has moved away from it, so until then it cannot be the target of another split."""
    cell.split()
    cell.wait("completed")
    cell.sql("a", "DROP TABLE order_items, orders, customers")
    with pytest.raises(ApiError) as refused:
        cell.rig.api.split(f"{cell.name}-b", [f"{cell.name}-a"])
    assert refused.value.status == 409 and cell.job_id in str(refused.value), refused.value
    cell.finalize()
    second = cell.rig.api.split(f"{cell.name}-b", [f"{cell.name}-a"])["id"]
    cell.rig.api.wait_job(second, "completed")


def test_a_job_that_is_over_is_kept_without_its_tables(cell):
    """The catalog is read as a whole by everybody, and jobs stay in it: what only their work needed goes."""
    def record():
        key = f"/shardplane/jobs/{cell.job_id}".encode()
        return json.loads(catalog.read(cell.rig.stack.etcd.endpoint, key, key + b"\0")[key])

    cell.split()
    cell.wait("completed")
    work = ("tables", "objects")
    assert all(record()[name] for name in work)
    assert all(t["registration"] and t["bounds_after"] for t in record()["targets"])
    cell.finalize()
    kept = record()
    assert not any(kept.get(name) for name in work), kept.keys()
    assert not any(t.get("registration") or t.get("bounds_after") for t in kept["targets"])
    job = cell.rig.api.job(cell.job_id)
    assert job["validation"]["passed"] and job["target_shard_ids"] == [f"{cell.name}-b", f"{cell.name}-c"]
    assert job["phases"][-1]["name"] == "finalized" and job["progress"]["rows_copied"] > 0


def test_check_finds_rows_that_no_job_left(cell):
    """What a source keeps of a job is not misplaced; anything else on it is."""
    def misplaced():
        return [(f["shard_id"], f["table"], f["rows"]) for f in cell.rig.api.check(cell.name).get("findings", [])
                if f["kind"] == "misplaced_rows"]

    cell.split()
    cell.wait("completed")
    assert not misplaced()
    cell.finalize()
    cell.sql("a", "DROP TABLE order_items, orders, customers")
    cell.job_id = cell.rig.api.split(f"{cell.name}-b", [f"{cell.name}-a"])["id"]
    cell.wait("completed")
    cell.finalize(drop=False)
    assert not misplaced()
    keys = cell.sql("b", "SELECT i, hashtextextended(i::text, 0) FROM generate_series(1000000, 1000999) i")
    stranger = next(k for k, h in keys if cell.ring().owner(h) == f"{cell.name}-c")
    cell.sql("b", f"INSERT INTO customers (id, name, profile, seq, note) VALUES ({stranger}, 'planted', '{{}}', 0, '')", role="apply")
    assert misplaced() == [(f"{cell.name}-b", '"public"."customers"', 1)]
