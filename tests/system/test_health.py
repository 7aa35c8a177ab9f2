"""Health: what an operator sees when a server stops, hangs or lags, or when somebody lifts a guard."""
import os

import psycopg2
import pytest

from harness.api import Api, ApiError
from harness.rig import BIN, FOLDER, SLOW
from harness.shopstack import Shop, register_tables, shard_body
from harness.sql import query
from ledger import shop
from ledger.route_client import RouteClient
from spstack.ports import free_base
from spstack.stack import Stack

OVERRIDES = {"health.probe_interval_ms": 200, "health.probe_timeout_ms": 1000, "health.guard_interval_ms": 500,
             "health.max_lag_ms": 1500}


class Watched:
    """A stack with one shard and one replica, and its health as the gateway shows it."""

    def __init__(self, stack):
        self.stack = stack
        self.stack.up(shards=1, replicas=1, resharders=1, port_base=free_base(), fsync=False, binaries=BIN, fresh=True,
                      overrides=OVERRIDES)
        self.api = Api(self.stack.service("gateway-1").address("http", "http://"), timeout=20 * SLOW)
        self.shard = self.stack.status()["shards"][0]
        shop.load(self.shard["owner_endpoint"], 20, 40, 80)
        self.api.post("/api/v1/shards", shard_body(self.shard), timeout=60)
        register_tables(self.api)

    def sql(self, text, where="primary"):
        dsn = self.shard["superuser_endpoint"]
        if where == "replica":
            dsn = dsn.replace(f":{self.shard['port']}/", f":{self.shard['replicas'][0]['port']}/")
        return query(dsn, text)

    def health(self):
        try:
            return self.api.get("/api/v1/shards/shard1/health")
        except ApiError:
            return {}

    def wait(self, verdict, words="", seconds=20):
        def check():
            h = self.health()
            if h.get("verdict") == verdict and words in " ".join(h.get("reasons", [])):
                return h
            return None

        try:
            return self.stack.wait_for(f"{verdict} {words}", check, seconds * SLOW)
        except Exception:
            print(self.health())
            raise

    def wait_healthy(self):
        def check():
            h = self.health()
            # A replica's lag is known once the primary's position before it is.
            known = all(e["role"] == "primary" or "lag_bytes" in e for e in h.get("endpoints", []))
            return h if h.get("verdict") == "healthy" and h.get("guards_ok") and known else None

        return self.stack.wait_for("healthy, guards looked at, lag known", check, 30 * SLOW)


@pytest.fixture(scope="module")
def watched():
    stack = Stack(os.path.join(FOLDER, "health"))
    try:
        yield Watched(stack)
    finally:
        stack.down(purge=True)


def test_healthy(watched):
    h = watched.wait_healthy()
    assert [e["role"] for e in h["endpoints"]] == ["primary", "replica"]
    primary, replica = h["endpoints"]
    assert primary["endpoint"]["port"] == watched.shard["port"] and not primary["in_recovery"]
    assert replica["in_recovery"] and replica["lag_bytes"] >= 0 and replica["system_identifier"] == primary["system_identifier"]
    assert 0 < primary["latency_ms"] < 1000 * SLOW
    listed = watched.api.get("/api/v1/shards").get("shards", [])[0]
    assert listed["health"]["verdict"] == "healthy"
    with pytest.raises(ApiError) as missing:
        watched.api.get("/api/v1/shards/nope/health")
    assert missing.value.status == 404


@pytest.mark.parametrize("how, back", [
    ('ALTER TABLE customers DISABLE TRIGGER "~shardplane_row"', 'ALTER TABLE customers ENABLE ALWAYS TRIGGER "~shardplane_row"'),
    ('ALTER TABLE customers ENABLE TRIGGER "~shardplane_row"', 'ALTER TABLE customers ENABLE ALWAYS TRIGGER "~shardplane_row"'),
    ("UPDATE shardplane.ownership SET bounds = '{0}'", "UPDATE shardplane.ownership SET bounds = '{-9223372036854775808}'"),
])
def test_a_guard_that_was_lifted_shows(watched, how, back):
    watched.wait_healthy()
    watched.sql(how)
    try:
        h = watched.wait("degraded", "catalog" if "ownership" in how else "customers")
        assert h["guards_ok"] is False
    finally:
        watched.sql(back)
    watched.wait_healthy()


def test_guards_that_cannot_be_looked_at_are_told(watched):
    """The prober connects as the application: it does not notice that the admin role is locked out."""
    watched.wait_healthy()

    def told():
        with open(watched.stack.paths.join("log", "health-1.log"), encoding="utf-8") as f:
            return [line for line in f if "HEALTH-GUARDS-UNKNOWN" in line and "not permitted to log in" in line]

    watched.sql("ALTER ROLE shardplane_ddl NOLOGIN")
    try:
        watched.stack.wait_for("a word about the guards", told, 20 * SLOW)
    finally:
        watched.sql("ALTER ROLE shardplane_ddl LOGIN")
    watched.wait_healthy()


def test_a_late_replica_shows_its_lag(watched):
    watched.wait_healthy()
    watched.sql("SELECT pg_wal_replay_pause()", "replica")
    try:
        watched.sql("CREATE TABLE public.noise AS SELECT repeat('x', 100) FROM generate_series(1, 2000)")
        h = watched.wait("degraded", "ms behind")
        replica = h["endpoints"][1]
        assert replica["lag_bytes"] > 200000 and replica["lag_ms"] > 1500
    finally:
        watched.sql("SELECT pg_wal_replay_resume()", "replica")
        watched.sql("DROP TABLE IF EXISTS public.noise")
    assert watched.wait_healthy()["endpoints"][1]["lag_ms"] < 1500


EVENTUAL = 2


def test_eventual_reads_come_from_a_replica_while_there_is_one(watched):
    watched.wait_healthy()
    client = RouteClient([watched.stack.service("router-1").address("listen", "tcp://")])

    def where(**options):
        reply = client.execute(1, [("SELECT pg_is_in_recovery()", [])], **options)
        return reply[3][0][4][0][0], reply[4]

    try:
        assert where() == (False, "primary")
        watched.stack.wait_for("an answer of the replica", lambda: where(consistency=EVENTUAL) == (True, "replica"), 10 * SLOW)
        assert [where(consistency=EVENTUAL) for _ in range(5)] == [(True, "replica")] * 5
        watched.stack.cluster("shard1-replica1").stop()
        assert where(consistency=EVENTUAL) == (False, "primary")
    finally:
        watched.stack.cluster("shard1-replica1").start()
        client.close()
    watched.wait_healthy()


def test_servers_that_stop(watched):
    watched.wait_healthy()
    watched.stack.cluster("shard1-replica1").stop()
    watched.wait("degraded", "replica")
    watched.stack.cluster("shard1-replica1").start()
    watched.wait_healthy()
    watched.stack.cluster("shard1").stop()
    h = watched.wait("unhealthy", "does not answer")
    assert "password" not in str(h) and watched.shard["primary_endpoint"].split(":")[2].split("@")[0] not in str(h)
    watched.stack.cluster("shard1").start()
    watched.wait_healthy()


def test_health_goes_on_without_etcd(watched):
    watched.wait_healthy()
    watched.stack.etcd.stop()
    try:
        watched.stack.cluster("shard1-replica1").stop()
        watched.wait("degraded", "replica")
    finally:
        watched.stack.etcd.start()
        watched.stack.cluster("shard1-replica1").start()
    watched.wait_healthy()


def test_no_false_alarm_through_a_split():
    """Guards are compared all the time while a job changes them, and once more when it is done."""
    stack = Stack(os.path.join(FOLDER, "health-split"))
    try:
        stack.up(shards=3, resharders=1, port_base=free_base(), fsync=False, binaries=BIN, fresh=True,
                 overrides={"health.guard_interval_ms": 200})
        api = Api(stack.service("gateway-1").address("http", "http://"), timeout=20 * SLOW)
        made = Shop(stack, api, customers=200, orders=400, items=800)
        job = api.split("shard1", made.targets("shard2", "shard3"))
        alarms = []

        def state():
            for shard in api.get("/api/v1/shards").get("shards", []):
                alarms.extend(r for r in shard.get("health", {}).get("reasons", []) if "guard" in r or "ownership" in r)
            return api.get(f"/api/v1/reshard/jobs/{job['id']}")["state"]

        stack.wait_for("the job", lambda: state() == "completed", 60 * SLOW)
        api.post(f"/api/v1/reshard/jobs/{job['id']}/finalize", {"drop_source_rows": True})
        stack.wait_for("the end of the job", lambda: state() == "finalized", 60 * SLOW)

        # What the guards of all three are compared with is the ring after the split: shard1 owns nothing, and must refuse.
        with psycopg2.connect(made.shards["shard1"]["superuser_endpoint"]) as c, c.cursor() as cursor:
            cursor.execute('ALTER TABLE customers DISABLE TRIGGER "~shardplane_stmt"')

        def noticed():
            h = {s: api.get(f"/api/v1/shards/{s}/health") for s in ("shard1", "shard2", "shard3")}
            return h if h["shard1"].get("guards_ok") is False and h["shard2"].get("guards_ok") and h["shard3"].get("guards_ok") else None

        h = stack.wait_for("the lifted guard of shard1, and none other", noticed, 30 * SLOW)
        assert all("customers" in r for r in h["shard1"]["reasons"]), h["shard1"]
        assert alarms == []
    finally:
        stack.down(purge=True)


def test_an_empty_shard_needs_no_tables():
    """A shard that owns nothing may lack the tables; one that somebody makes there must refuse, or be told."""
    stack = Stack(os.path.join(FOLDER, "health-empty"))
    try:
        stack.up(shards=2, resharders=1, port_base=free_base(), fsync=False, binaries=BIN, fresh=True,
                 overrides={"health.guard_interval_ms": 200})
        api = Api(stack.service("gateway-1").address("http", "http://"), timeout=20 * SLOW)
        made = Shop(stack, api, customers=20, orders=40, items=80)
        api.post("/api/v1/shards", shard_body(made.shards["shard2"]), timeout=60)

        def seen(ok):
            def check():
                h = api.get("/api/v1/shards/shard2/health")
                return h if h.get("guards_ok") is ok else None
            return check

        def looked():
            h = api.get("/api/v1/shards/shard2/health")
            return h if "guards_ok" in h else None

        assert stack.wait_for("a look at the empty shard", looked, 30 * SLOW)["guards_ok"], looked()
        query(made.shards["shard2"]["owner_endpoint"], "CREATE TABLE public.customers (id bigint PRIMARY KEY)")
        h = stack.wait_for("a table without guards", seen(False), 30 * SLOW)
        assert len(h["reasons"]) == 1 and "customers" in h["reasons"][0], h
        register_tables(api)
        stack.wait_for("its guards", seen(True), 30 * SLOW)
    finally:
        stack.down(purge=True)
