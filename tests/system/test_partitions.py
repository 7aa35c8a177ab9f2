"""Partitioned tables: the table is registered and guarded, its leaves are copied and followed."""
import os
import threading

import psycopg2
import pytest

from harness import residue
from harness.api import ApiError
from harness.rig import SLOW, Reviver
from test_crash import survive

HERE = os.path.dirname(os.path.realpath(__file__))
LEAVES = {"customers": ("customers_even", "customers_odd_1", "customers_odd_3"),
          "order_items": ("items_loaded", "items_young_one", "items_young_more", "items_old", "items_rest")}
MIDDLE = ("customers_odd", "items_young")


@pytest.fixture
def parted(rig):
    with open(os.path.join(HERE, "partitions.sql"), encoding="utf-8") as f:
        made = rig.cell(layout=f.read())
    yield made
    made.close()


class LeafWriter(threading.Thread):
    """Writes straight into leaves: what of a row nobody else writes. The last acknowledged value of each row must survive."""

    def __init__(self, dsn):
        super().__init__(daemon=True)
        self.dsn = dsn
        self.acked, self.doubt = {}, set()
        self.refused = None
        self.stop = threading.Event()

    def run(self):
        connection = psycopg2.connect(self.dsn)
        connection.autocommit = True
        n = 0
        try:
            with connection.cursor() as cursor:
                while not self.stop.is_set():
                    n += 1
                    pk, value = n * 7 % 400 + 1, f"leaf {n}"
                    try:
                        cursor.execute("UPDATE items_loaded SET product = %s WHERE id = %s AND seq = 0", (value, pk))
                        if cursor.rowcount == 1:
                            self.acked[pk] = value
                    except psycopg2.Error as e:
                        if e.pgcode == "SHP01":
                            self.refused = e.pgcode
                            return
                        if e.pgcode not in ("40001", "40P01", "55P03"):
                            self.doubt.add(pk)
                            raise
        finally:
            connection.close()


def shape(cell, letter):
    """Everything about the tables that a target must have like its source, guards included."""
    return set(cell.sql(letter, """
        SELECT 'relation', c.oid::regclass::text, c.relkind::text, pg_get_expr(c.relpartbound, c.oid), c.relreplident::text
          FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'i', 'I')
        UNION ALL SELECT 'inherits', inhrelid::regclass::text, inhparent::regclass::text, '', '' FROM pg_inherits
        UNION ALL SELECT 'trigger', tgrelid::regclass::text, tgname, tgenabled::text, tgtype::text FROM pg_trigger
         WHERE tgname LIKE '~shardplane%' AND tgrelid <> 'shardplane.requests'::regclass
        UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid),
                         convalidated::text || coalesce(obj_description(oid, 'pg_constraint'), '') FROM pg_constraint
         WHERE conrelid <> 0 AND conparentid = 0 AND connamespace = 'public'::regnamespace
        UNION ALL SELECT 'children', conrelid::regclass::text, confrelid::regclass::text, count(*)::text, '' FROM pg_constraint
         WHERE conparentid <> 0 AND contype = 'f' GROUP BY 2, 3"""))


def test_partitioned_tables_split_under_load(parted):
    cell = parted
    before = shape(cell, "a")
    assert sum(1 for x in before if x[0] == "trigger") == 3 * (1 + 5 + 7) and {x[3] for x in before if x[0] == "trigger"} == {"A"}
    leaf_writer = LeafWriter(cell.dsn("a", "primary"))
    leaf_writer.start()
    cell.write(routers=3, direct=2)
    # Copying some thousand rows takes no time: the changes must meet it.
    cell.rig.set_failpoints("resharder", "copy_range_before_commit:sleep=150")
    cell.split()
    job = cell.wait("completed")
    assert job["validation"]["passed"]
    leaf_writer.join(20 * SLOW)
    assert leaf_writer.refused == "SHP01" and len(leaf_writer.acked) > 100 and not leaf_writer.doubt
    moved = cell.sql("b", "SELECT tableoid::regclass::text, count(*) FROM order_items GROUP BY 1") + \
        cell.sql("b", "SELECT tableoid::regclass::text, count(*) FROM customers GROUP BY 1")
    assert {"items_loaded", "items_young_one", "items_old"} <= {name for name, n in moved if n}, moved
    # What went straight into a leaf is there, unless the row was changed by the ledger's writers afterwards and stayed a row of theirs.
    there = {}
    for letter in "bc":
        there.update(dict(cell.sql(letter, "SELECT id, product FROM order_items WHERE id <= 401")))
    assert {pk: there[pk] for pk in leaf_writer.acked if pk in there} == {pk: v for pk, v in leaf_writer.acked.items() if pk in there}
    report, _ = cell.finish()
    assert report.rows > 3500
    for letter in "bc":
        assert shape(cell, letter) == before, sorted(map(str, shape(cell, letter) ^ before))
    for leaf in LEAVES["customers"] + LEAVES["order_items"]:
        assert cell.sql("a", f"SELECT count(*) FROM {leaf}") == [(0,)]
    # The old owner refuses, whatever is named and even where no row is touched.
    for name in ("customers", "order_items", *MIDDLE, *LEAVES["customers"], *LEAVES["order_items"]):
        for statement in (f"UPDATE {name} SET note = '' WHERE false", f"TRUNCATE {name} CASCADE"):
            with pytest.raises(psycopg2.Error) as refused:
                cell.sql("a", statement, role="owner")
            assert refused.value.pgcode == "SHP01", (statement, refused.value)


@pytest.mark.parametrize("point", ["copy_range_between_targets", "index_after_commit", "follow_before_commit", "fence_after_seal"])
def test_a_worker_dies_over_partitioned_tables(parted, point):
    """A new snapshot takes some leaves again and not others; indexes and foreign keys are made a second time."""
    others = parted.rig.work_with(f"{point}:kill")
    parted.write()
    with Reviver(parted.rig, "resharder-1", others) as reviver:
        survive(parted, reviver)
    assert shape(parted, "b") == shape(parted, "a") == shape(parted, "c")


def test_a_cancelled_job_leaves_partitions_as_they_were(parted):
    cell = parted
    cell.remember()
    before = shape(cell, "a")
    cell.rig.set_failpoints("resharder", cell.rig.held("verify_start"))
    cell.split()
    cell.wait("validating")
    cell.rig.api.post(f"/api/v1/reshard/jobs/{cell.job_id}/cancel")
    cell.rig.release()
    cell.wait("cancelled")
    cell.no_residue()
    assert shape(cell, "a") == before
    cell.sql("a", "TRUNCATE items_rest", role="owner")
    cell.check({})


@pytest.mark.parametrize("ddl", [
    "CREATE TABLE items_new PARTITION OF order_items FOR VALUES FROM (500) TO (600)",
    "CREATE TABLE items_new PARTITION OF order_items FOR VALUES FROM (500) TO (600);"
    "INSERT INTO order_items (id, order_id, customer_id, seq) VALUES (-1, 1, 1, 555)",
    "ALTER TABLE order_items DETACH PARTITION items_old",
])
def test_a_partition_that_comes_or_goes_stops_the_job(parted, ddl):
    cell = parted
    cell.rig.set_failpoints("resharder", cell.rig.held("verify_start"))
    cell.split()
    cell.wait("validating")
    cell.sql("a", ddl, role="owner")
    cell.rig.release()
    job = cell.wait("failed")
    assert job["error"]["code"] == "schema_changed", job["error"]
    cell.no_residue("bc", unchanged=False)
    assert cell.sql("a", "SELECT count(*) FROM order_items WHERE id = -1")[0][0] == ("INSERT" in ddl)


def test_a_later_partition_is_reported_until_its_guards_are_set(parted):
    cell, api = parted, parted.rig.api
    assert api.check(cell.name)["ok"]
    cell.sql("a", "CREATE TABLE items_new PARTITION OF order_items FOR VALUES FROM (500) TO (600)", role="owner")
    # Its rows are guarded from the start: PostgreSQL clones the row trigger with its state.
    assert cell.sql("a", "SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'items_new'::regclass AND tgname LIKE '~%'") == [
        ("~shardplane_row", "A")]
    found = api.check(cell.name)
    assert [(f["kind"], f["table"]) for f in found["findings"]] == [("guard_missing", '"public"."order_items"')], found
    api.post(f"/api/v1/keyspaces/{cell.name}/tables", {"table": "order_items", "key_column": "customer_id"}, timeout=60)
    assert api.check(cell.name)["ok"]
    with pytest.raises(ApiError) as other:
        api.post(f"/api/v1/keyspaces/{cell.name}/tables", {"table": "order_items", "key_column": "id"}, timeout=60)
    assert other.value.code == "already_exists"


def test_rows_of_partitions_are_counted_once(parted):
    cell, api = parted, parted.rig.api
    scanned = api.check(cell.name)["rows_scanned"]
    assert scanned == sum(cell.sql("a", f"SELECT count(*) FROM {t}")[0][0] for t in ("customers", "orders", "order_items"))


REFUSED = {
    "partition": ("leaf", "CREATE TABLE t (k bigint NOT NULL, d integer NOT NULL, PRIMARY KEY (k, d)) PARTITION BY LIST (d);"
                          "CREATE TABLE leaf PARTITION OF t FOR VALUES IN (1)"),
    "table_kind": ("t", "CREATE TABLE t (k bigint NOT NULL, d integer NOT NULL) PARTITION BY LIST (d);"
                        "CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;"
                        "CREATE FOREIGN TABLE far PARTITION OF t FOR VALUES IN (1) SERVER nowhere"),
    "unlogged": ("t", "CREATE TABLE t (k bigint NOT NULL, d integer NOT NULL, PRIMARY KEY (k, d)) PARTITION BY LIST (d);"
                      "CREATE UNLOGGED TABLE leaf PARTITION OF t FOR VALUES IN (1)"),
    "no_primary_key": ("t", "CREATE TABLE t (k bigint NOT NULL, d integer NOT NULL) PARTITION BY LIST (d);"
                            "CREATE TABLE leaf PARTITION OF t (PRIMARY KEY (k)) FOR VALUES IN (1)"),
    "inheritance": ("t", "CREATE TABLE t (k bigint PRIMARY KEY); CREATE TABLE child () INHERITS (t)"),
    "trigger_always": ("t", "CREATE TABLE t (k bigint NOT NULL, d integer NOT NULL, PRIMARY KEY (k, d)) PARTITION BY LIST (d);"
                            "CREATE TABLE leaf PARTITION OF t FOR VALUES IN (1);"
                            "CREATE TRIGGER again BEFORE UPDATE ON leaf FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();"
                            "ALTER TABLE leaf ENABLE ALWAYS TRIGGER again"),
}


@pytest.mark.parametrize("check", REFUSED)
def test_what_cannot_move_is_refused(cell, check):
    table, ddl = REFUSED[check]
    cell.sql("a", ddl + ";" + "".join(f"ALTER TABLE {t} OWNER TO shop_owner;" for t in ("t", table)))
    before = residue.objects(cell.dsn("a"))
    with pytest.raises(ApiError) as refused:
        cell.rig.api.post(f"/api/v1/keyspaces/{cell.name}/tables", {"table": table, "key_column": "k"}, timeout=60)
    assert refused.value.code == "preflight_failed"
    assert check in {f["check"] for f in refused.value.details["findings"] if f["severity"] == "error"}, refused.value.body
    assert not residue.difference(before, residue.objects(cell.dsn("a")))


def test_preflight_looks_at_every_partition(parted):
    """What was right when the table was registered, and is not any more."""
    cell, api = parted, parted.rig.api
    cell.sql("a", "ALTER TABLE items_rest SET UNLOGGED")
    api.post(f"/api/v1/keyspaces/{cell.name}/tables", {"table": "items_old", "mode": "ignored"})
    cell.sql("a", "CREATE TABLE elsewhere (k bigint REFERENCES customers)", role="owner")
    cell.sql("b", "CREATE TABLE customers_odd_3 (id bigint)", role="owner")
    plan = api.split(f"{cell.name}-a", [cell.body("b"), cell.body("c")], dry_run=True)
    found = {(f["check"], f["object"]) for f in plan["findings"] if f["severity"] == "error"}
    assert found == {("unlogged", "public.items_rest"), ("partition", "public.items_old"), ("foreign_key", "public.elsewhere"),
                     ("unlisted_table", "public.elsewhere"), ("target_not_empty", "public.customers_odd_3")}, plan["findings"]
