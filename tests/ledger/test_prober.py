"""The prober sees each way in which two shards can accept one key, and says so when it could not have."""
import contextlib
import os
import shutil

import psycopg2
import pytest

from ledger import prober, shop
from spstack.ports import free_base
from spstack.stack import Stack

TABLES = ("public.customers", "public.orders", "public.order_items", "shardplane.requests")
REQUESTS = """CREATE SCHEMA shardplane;
CREATE TABLE shardplane.requests (key text, request_id text, body_hash text NOT NULL, PRIMARY KEY (key, request_id))"""
GUARD = """CREATE OR REPLACE FUNCTION shardplane.guard() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN RAISE EXCEPTION 'not mine' USING ERRCODE = 'SHP01'; END$$"""
OLD, NEW, THIRD = "shard1", "shard2", "shard3"


class Shards:
    """Databases with the shop's tables, that refuse everything or nothing."""

    def __init__(self, stack):
        self.stack = stack
        status = stack.status()["shards"]
        self.root = {s["name"]: s["superuser_endpoint"] for s in status}
        self.app = {s["name"]: s["owner_endpoint"] for s in status}
        for name in self.root:
            self.sql(name, shop.DDL, root=False)
            self.sql(name, REQUESTS, root=False)
            self.sql(name, GUARD, root=False)
            for table in TABLES:
                self.sql(name, f"CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON {table} EXECUTE FUNCTION shardplane.guard()",
                         root=False)

    def sql(self, shard, text, root=True):
        with contextlib.closing(psycopg2.connect((self.root if root else self.app)[shard])) as c:
            c.autocommit = True
            with c.cursor() as cursor:
                cursor.execute(text)
                return cursor.fetchall() if cursor.description else None

    def open(self, shard, tables=TABLES):
        for table in tables:
            self.sql(shard, f"ALTER TABLE {table} DISABLE TRIGGER guard")

    def close(self, shard, tables=TABLES):
        for table in tables:
            self.sql(shard, f"ALTER TABLE {table} ENABLE TRIGGER guard")

    def sessions(self):
        return sum(self.sql(s, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ledger-prober'")[0][0]
                   for s in self.root)

    def rows(self):
        return sum(self.sql(s, f"SELECT count(*) FROM {t}")[0][0] for s in self.root for t in TABLES)


@pytest.fixture(scope="module")
def built():
    folder = f"/tmp/shardplane-prober-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    stack = Stack(folder)
    try:
        stack.up(shards=3, services=False, port_base=free_base(20), fsync=False)
        yield Shards(stack)
    finally:
        stack.down(purge=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def shards(built):
    """All but the old owner are closed."""
    for name in built.root:
        built.close(name)
    built.open(OLD)
    return built


@contextlib.contextmanager
def probing(shards, **more):
    made = prober.Prober(more.get("dsns", shards.app), prober.spread_keys(shards.root[OLD]))
    made.start()
    try:
        made.await_rounds()
        yield made
        if made.is_alive():
            made.await_rounds()
    finally:
        made.stop()
    shards.stack.wait_for("the prober's sessions to end", lambda: shards.sessions() == 0, 10)
    assert shards.rows() == 0


def owned_by(shard):
    return lambda key_hash: shard


def hand_over(shards, made):
    shards.close(OLD)
    made.await_rounds()
    shards.open(NEW)
    made.await_rounds()


def test_a_hand_over_in_order_is_clean(shards):
    with probing(shards) as made:
        hand_over(shards, made)
    assert "rows held" in made.judge(owned_by(NEW))
    assert all(h[0][0] == OLD and h[1][0] == NEW and len(h) == 2 and h[0][2] < h[1][1] for h in made.seen.took.values())
    assert len(made.seen.took) == len(TABLES) * prober.KEYS


def test_nothing_moves(shards):
    with probing(shards) as made:
        pass
    made.judge(owned_by(OLD))


@pytest.mark.parametrize("when", ["before", "after"])
def test_guards_that_are_off_on_one_shard(shards, when):
    """A target that accepts before it owns anything, and a source that was never closed."""
    with probing(shards) as made:
        if when == "after":
            hand_over(shards, made)
        shards.open(NEW if when == "before" else OLD)
    assert "both" in made.seen.kinds()
    with pytest.raises(AssertionError, match="accepted where they must not be"):
        made.judge(owned_by(NEW))


@pytest.mark.parametrize("table", TABLES)
def test_the_guard_of_one_table_is_off(shards, table):
    """With its parents guarded: no row of it can stay, and still the guard has let one by."""
    with probing(shards) as made:
        hand_over(shards, made)
        shards.open(OLD, [table])
    assert "again" in made.seen.kinds()
    assert {name[0] for name in made.seen.took if len(made.seen.took[name]) > 2} == {table.split(".")[1]}


def test_an_old_owner_that_accepts_again_never_at_once(shards):
    with probing(shards) as made:
        hand_over(shards, made)
        shards.close(NEW)
        made.await_rounds()
        shards.open(OLD)
    assert made.seen.kinds() == {"again"}


def test_a_key_that_wanders_on(shards):
    with probing(shards) as made:
        hand_over(shards, made)
        shards.close(NEW)
        made.await_rounds()
        shards.open(THIRD)
    assert made.seen.kinds() == {"third"}


def test_a_transaction_that_ended_proves_nothing(shards):
    """What was taken first is gone before the second is taken: the shard that held it would not have committed it."""
    shards.open(NEW)
    made = prober.Prober(shards.app, prober.spread_keys(shards.root[OLD]))
    ask, order = made.ask, []

    def ask_and_lose(shard, *half):
        taken = ask(shard, *half)
        order.append(shard)
        if shard == OLD:
            shards.sql(OLD, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ledger-prober'")
        return taken

    made.ask = ask_and_lose
    made.round()
    assert order[:2] == [OLD, NEW] and not made.seen.kinds()
    made.ask = ask
    made.round()
    assert "both" in made.seen.kinds()
    made.start()
    made.stop()


@pytest.mark.parametrize("mode", ["fast", "kill"])
def test_databases_restart(shards, mode):
    with probing(shards) as made:
        for shard in (OLD, NEW):
            cluster = shards.stack.cluster(shard)
            cluster.stop(mode)
            made.await_rounds()
            cluster.start()
            made.await_rounds()
        hand_over(shards, made)
        assert made.answers[OLD]["away"] and made.answers[NEW]["away"]
    made.judge(owned_by(NEW))


def test_a_fence_is_waited_for_and_is_no_acceptance(shards):
    with probing(shards) as made, contextlib.closing(psycopg2.connect(shards.app[OLD])) as fence, fence.cursor() as cursor:
        cursor.execute("LOCK TABLE customers, orders, order_items, shardplane.requests IN SHARE ROW EXCLUSIVE MODE")
        before = made.answers[OLD]["asked"]
        made.await_rounds(4)
        assert made.answers[OLD]["55P03"] >= 4 and made.answers[OLD]["asked"] <= before + 1
        for table in TABLES:
            cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER guard")
        fence.commit()
        made.await_rounds()
        shards.open(NEW)
    made.judge(owned_by(NEW))


@pytest.mark.parametrize("blind", ["wrong password", "no tables", "never after", "wrong owner"])
def test_what_was_not_seen_is_a_failure(shards, blind):
    dsns = dict(shards.app)
    if blind == "wrong password":
        dsns = {s: d.replace("shop_owner:", "shop_owner:not-") for s, d in dsns.items()}
    if blind == "no tables":
        dsns = {s: d.rsplit("/", 1)[0] + "/postgres" for s, d in dsns.items()}
    with probing(shards, dsns=dsns) as made:
        if blind == "never after":
            made.stop()
        shards.close(OLD)
        shards.open(NEW)
    with pytest.raises(AssertionError, match="saw too little"):
        made.judge(owned_by(OLD if blind == "wrong owner" else NEW))
