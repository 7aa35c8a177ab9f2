"""Preflight refuses what cannot be moved safely, and lists everything at once."""
import psycopg2
import pytest

from harness.api import ApiError
from harness.sql import query


def findings(plan):
    return {f["check"] for f in plan.get("findings", []) if f["severity"] == "error"}


# What is broken after registration, and the check that must say so.
BREAKS = {
    "no_primary_key": "ALTER TABLE order_items DROP CONSTRAINT order_items_pkey",
    "key_null": "ALTER TABLE orders ALTER COLUMN customer_id DROP NOT NULL",
    "unlogged": "CREATE UNLOGGED TABLE scratch (id bigint PRIMARY KEY); ALTER TABLE order_items SET UNLOGGED",
    "row_security": "ALTER TABLE customers ENABLE ROW LEVEL SECURITY",
    "rule": "CREATE RULE hush AS ON UPDATE TO customers WHERE NEW.seq < -5 DO INSTEAD NOTHING; "
            "ALTER TABLE customers ENABLE ALWAYS RULE hush",
    "trigger_always": "CREATE TRIGGER again BEFORE UPDATE ON orders FOR EACH ROW "
                      "EXECUTE FUNCTION suppress_redundant_updates_trigger(); ALTER TABLE orders ENABLE ALWAYS TRIGGER again",
    "oid_type": "ALTER TABLE customers ADD COLUMN what regclass",
    "large_objects": "SELECT lo_create(0)",
    "unlisted_table": "CREATE TABLE forgotten (id bigint PRIMARY KEY)",
    "foreign_key": "CREATE TABLE elsewhere (id bigint PRIMARY KEY REFERENCES customers)",
    "sequence_room": "CREATE SEQUENCE of_no_table AS smallint; CREATE SEQUENCE round_and_round CYCLE MAXVALUE 9",  # the second one is only warned of
}


def test_everything_wrong_is_listed_at_once(cell):
    for statement in BREAKS.values():
        cell.sql("a", statement)
    # Another consumer of the WAL, and a target that is not empty.
    cell.sql("a", "SELECT pg_create_logical_replication_slot('somebody_elses', 'pgoutput')")
    cell.sql("b", "CREATE TABLE orders (id bigint)", role="owner")
    cell.remember()
    try:
        plan = cell.rig.api.split(f"{cell.name}-a", [cell.body("b"), cell.body("c")], dry_run=True)
        wanted = set(BREAKS) | {"other_consumer", "target_not_empty"}
        assert not plan["ok"]
        assert wanted <= findings(plan), f"not listed: {sorted(wanted - findings(plan))}"
        assert [f["object"] for f in plan["findings"] if f["check"].startswith("sequence_")] == ["public.round_and_round", "public.of_no_table"]
        for f in plan.get("findings", []):
            assert f["message"] and f["hint"], f
        # The job itself is refused for the same reasons, and leaves nothing behind.
        cell.split()
        job = cell.wait("failed")
        assert job["error"]["code"] == "preflight_failed"
        assert wanted <= {f["check"] for f in job.get("findings", [])}
        cell.no_residue("bc", unchanged=False)
    except ApiError as e:
        # Refusing at once, with the same list, is as good.
        assert e.code == "preflight_failed", e
        assert wanted <= {f["check"] for f in e.details.get("findings", [])}
    finally:
        cell.sql("a", "SELECT pg_drop_replication_slot('somebody_elses')")


def test_a_primary_key_needs_an_operator_of_postgresql(cell):
    """The stream's rows are found by =, which is PostgreSQL's own for whoever trusts no other schema: an extension's types have none."""
    cell.sql("a", "CREATE EXTENSION citext; CREATE DOMAIN code AS citext; CREATE DOMAIN note AS text; CREATE TYPE mood AS ENUM ('sad'); "
                  "ALTER TABLE order_items DROP CONSTRAINT order_items_pkey, ADD c code DEFAULT 'c', ADD n note DEFAULT 'n', ADD m mood DEFAULT 'sad', "
                  "ADD a citext[] DEFAULT '{}', ADD PRIMARY KEY (id, m, n, c, a)")
    plan = cell.rig.api.split(f"{cell.name}-a", [cell.body("b")], dry_run=True)
    found = [f for f in plan["findings"] if f["check"] == "primary_key_type"]
    assert [(f["severity"], f["object"]) for f in found] == [("error", "public.order_items")] and "column c has type" in found[0]["message"], plan


def test_prepared_and_long_transactions_are_named(cell):
    """Only a warning while they are young: the slot waits for them, bounded."""
    connection = psycopg2.connect(cell.dsn("a", "primary"))
    with connection.cursor() as cursor:
        cursor.execute("UPDATE customers SET seq = seq WHERE id = 1")
        cursor.execute("PREPARE TRANSACTION 'stuck-one'")
    connection.close()
    try:
        plan = cell.rig.api.split(f"{cell.name}-a", [cell.body("b"), cell.body("c")], dry_run=True)
        assert any(f["check"] == "prepared_transaction" and "stuck-one" in f["message"] for f in plan.get("findings", [])), plan
    finally:
        cell.sql("a", "ROLLBACK PREPARED 'stuck-one'")


def test_without_a_worker_no_job_begins(cell):
    workers = [s.id for s in cell.rig.stack.of_kind("resharder")]
    for name in workers:
        cell.rig.stack.stop(name)

    def unseen():
        return not [s for s in cell.rig.api.get("/api/v1/services")["services"] if s["kind"] == "resharder"]

    cell.rig.stack.wait_for("the workers to be gone", unseen, 20)
    plan = cell.rig.api.split(f"{cell.name}-a", [cell.body("b")], dry_run=True)
    assert findings(plan) == {"workers"}, plan
    for name in workers:
        cell.rig.stack.start(name)
    assert cell.rig.api.split(f"{cell.name}-a", [cell.body("b")], dry_run=True)["ok"]


def test_row_security_needs_a_role_that_bypasses_it_on_targets_too(cell):
    role = "shardplane_apply"
    cell.sql("a", "ALTER TABLE customers ENABLE ROW LEVEL SECURITY")
    try:
        cell.sql("a", f"ALTER ROLE {role} BYPASSRLS")
        plan = cell.rig.api.split(f"{cell.name}-a", [cell.body("b")], dry_run=True)
        assert [(f["check"], f["shard_id"]) for f in plan["findings"] if f["severity"] == "error"] == [("row_security", f"{cell.name}-b")], plan
        cell.sql("b", f"ALTER ROLE {role} BYPASSRLS")
        cell.split(targets=("b",))
        cell.wait("completed")
    finally:
        for letter in "ab":
            cell.sql(letter, f"ALTER ROLE {role} NOBYPASSRLS")


def test_a_transaction_in_another_database_of_the_server_is_named(cell):
    """A slot waits for the transactions of all databases."""
    elsewhere = cell.dsn("a").replace(f"/{cell.name}", "/postgres")
    connection = psycopg2.connect(elsewhere)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()")
        cursor.execute("PREPARE TRANSACTION 'stuck-elsewhere'")
    connection.close()
    try:
        plan = cell.rig.api.split(f"{cell.name}-a", [cell.body("b"), cell.body("c")], dry_run=True)
        assert any(f["check"] == "prepared_transaction" and "stuck-elsewhere" in f["message"] for f in plan.get("findings", [])), plan
    finally:
        query(elsewhere, "ROLLBACK PREPARED 'stuck-elsewhere'")


@pytest.mark.parametrize("column, code", [
    ("numeric", "preflight_failed"), ("double precision", "preflight_failed"), ("character(8)", "preflight_failed"),
    ("timestamptz", "preflight_failed"), ("jsonb", "preflight_failed")])
def test_a_key_type_whose_equal_values_print_differently_is_refused(rig, column, code):
    name = rig.new_name("badkey")
    shards = rig.databases(name)
    a = shards["a"]
    connection = psycopg2.connect(a["owner_endpoint"])
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE t (k {column} PRIMARY KEY)")
    connection.close()
    rig.api.post("/api/v1/keyspaces", {"name": name})
    rig.api.post("/api/v1/shards", {"name": a["name"], "keyspace": name, "primary_endpoint": a["primary_endpoint"],
                                    "admin_endpoint": a["admin_endpoint"], "apply_endpoint": a["apply_endpoint"]}, timeout=60)
    with pytest.raises(ApiError) as refused:
        rig.api.post(f"/api/v1/keyspaces/{name}/tables", {"table": "t", "key_column": "k"})
    assert refused.value.code in (code, "invalid_argument"), refused.value


def test_the_same_database_under_another_name_is_refused(cell):
    body = {**cell.body("a"), "name": f"{cell.name}-again"}
    with pytest.raises(ApiError) as refused:
        cell.rig.api.post("/api/v1/shards", body)
    assert refused.value.code == "already_exists" and refused.value.status == 409
    with pytest.raises(ApiError) as refused:
        cell.rig.api.split(f"{cell.name}-a", [body, cell.body("c")])
    assert refused.value.status in (409, 422)


# What another installation has left in a database of its own, under the very name that is asked for here.
OTHERS = """
CREATE SCHEMA shardplane;
CREATE TABLE shardplane.control (one boolean PRIMARY KEY DEFAULT true, generation bigint, epoch bigint, cluster_id text, shard_id text, keyspace text, apply_role text);
INSERT INTO shardplane.control VALUES (true, 1, 5, 'anothercluster00', '{name}', 'default', 'shardplane_apply')"""


def test_the_shard_of_another_installation_is_refused_and_left_alone(cell):
    body, look = cell.body("b"), "SELECT epoch, cluster_id FROM shardplane.control"
    cell.sql("b", OTHERS.format(name=body["name"]), role="admin")
    with pytest.raises(ApiError) as refused:
        cell.rig.api.post("/api/v1/shards", body, timeout=60)
    assert refused.value.code == "already_exists", refused.value
    assert cell.sql("b", look) == [(5, "anothercluster00")]
    cell.split(targets=("b",))
    job = cell.wait("failed")
    assert "other_installation" in findings(job), job
    assert cell.sql("b", look) == [(5, "anothercluster00")]
    assert body["name"] not in [s["id"] for s in cell.rig.api.get("/api/v1/shards").get("shards", [])]


@pytest.mark.parametrize("dsn", [
    "postgresql://shop_app:s3%zzcr3t@127.0.0.1:1/shop", "host=127.0.0.1 port=1 password=s3%zzcr3t bogus=1",
    "postgresql://shop_app:s3cr3t@127.0.0.1:1/shop", "postgresql://shop_app:s3cr3t@127.0.0.1/shop?service=x", "s3cr3t",
    "postgresql://shop_app:s3cr3t@127.0.0.1:99999/shop", "postgresql://shop_app:s3cr3t@127.0.0.1:{etcd}/shop"])
def test_a_bad_dsn_is_refused_without_its_password(rig, dsn):
    dsn = dsn.replace("{etcd}", str(rig.stack.etcd.client_port))
    with pytest.raises(ApiError) as refused:
        rig.api.post("/api/v1/shards", {"name": "never", "primary_endpoint": dsn}, timeout=60)
    assert 400 <= refused.value.status < 504, refused.value
    for secret in ("s3%zzcr3t", "s3cr3t", "zzcr3t"):
        assert secret not in str(refused.value) + str(refused.value.body)
        for s in rig.stack.services.values():
            with open(s.log, encoding="utf-8", errors="replace") as f:
                assert secret not in f.read(), f"{s.id} logs a password"
