"""A shard of which only a superuser's primary_endpoint is told: role shardplane_apply is made, and nobody ever sees its password."""
import json
import urllib.parse

import psycopg2
import pytest

from harness import catalog
from harness.api import ApiError
from harness.rig import Cell
from harness.sql import query
from spstack.ports import free_base
from spstack.postgres import Cluster
from spstack.stack import in_parallel

from test_secrets import ArgumentWatch

# What a careful operator of a careless server has: every statement is logged, with its parameters.
TALKATIVE = "log_statement = 'all'\nlog_min_duration_statement = 0\nlog_parameter_max_length = -1\nlog_parameter_max_length_on_error = -1\n"


@pytest.fixture
def bare(rig):
    """Two clusters with nothing but the bootstrap superuser."""
    base = free_base(2)
    made = [Cluster(rig.stack.paths, {"name": f"bare{i}", "port": base + i}, rig.stack.record["passwords"], fsync=False) for i in (0, 1)]

    def start(c):
        c.clear()
        c.initdb()
        c.append_conf(TALKATIVE)
        c.start()

    try:
        in_parallel([lambda c=c: start(c) for c in made])
        yield made
    finally:
        in_parallel([lambda c=c: c.stop("immediate") for c in made])


@pytest.fixture
def cell(rig, bare):
    """Shard a alone in the first cluster; b and c, two databases of the second, share one role."""
    name = rig.new_name("bare")
    shards = {}
    for letter, cluster in zip("abc", (bare[0], bare[1], bare[1])):
        dsn = cluster.uri("postgres", f"{name}_{letter}")
        query(cluster.uri("postgres", "postgres"), f"CREATE DATABASE {name}_{letter}")
        shards[letter] = {"name": f"{name}-{letter}", "port": cluster.port, "primary_endpoint": dsn, "owner_endpoint": dsn,
                          "superuser_endpoint": dsn}
    made = Cell(rig, name, shards=shards)
    yield made
    made.close()


def test_the_apply_role_is_made_and_its_password_is_nowhere(rig, bare, cell):
    watch = ArgumentWatch()
    watch.start()
    answers = []
    try:
        cell.write()
        cell.split()
        cell.wait("completed", seen=answers.append)
        shards = {letter: catalog.shard(rig.stack.etcd.endpoint, s["name"]) for letter, s in cell.shards.items()}
        cell.finish()
    finally:
        watch.done.set()
        watch.join()

    found = {}
    for letter, record in shards.items():
        dsn = catalog.unseal(rig.stack.paths.join("secret.key"), record["apply"])
        found[letter] = urllib.parse.urlsplit(dsn)
        assert record["apply_role"] == found[letter].username == "shardplane_apply"
        assert len(found[letter].password) >= 32
        # It is the one that is in force, and a role that can do no more than it must.
        assert query(dsn, "SELECT rolsuper, rolreplication, rolcreaterole, rolcreatedb, rolbypassrls FROM pg_roles WHERE rolname = session_user") \
            == [(False, True, False, False, False)]
        with pytest.raises(psycopg2.OperationalError):
            query(dsn.replace(found[letter].password, "guessed"), "SELECT 1")
    assert found["b"].password == found["c"].password != found["a"].password

    for path in ("/api/v1/shards", f"/api/v1/shards/{cell.name}-a", f"/api/v1/shards/{cell.name}-a/health", "/api/v1/keyspaces",
                 "/api/v1/reshard/jobs", "/api/v1/services", f"/api/v1/keyspaces/{cell.name}/ring"):
        answers.append(rig.api.get(path))
    places = {"a REST answer": json.dumps(answers).encode(), "etcd": catalog.dump(rig.stack.etcd.endpoint),
              "an argument list": b"\n".join(watch.seen)}
    for s in rig.stack.services.values():
        with open(s.log, "rb") as f:
            places[s.log] = f.read()
        places[f"metrics of {s.id}"] = s.get("/metrics")[1].encode()
    for c in bare:
        with open(c.log, "rb") as f:
            places[c.log] = f.read()
        assert b"CREATE TABLE customers" in places[c.log] or b"COPY " in places[c.log], "the server logs no statements: nothing is proven"
    for where, text in places.items():
        for letter in "ab":
            assert found[letter].password.encode() not in text, f"the password of {letter}'s apply role is in {where}"


def test_an_admin_who_cannot_make_the_role_leaves_no_password_in_the_servers_log(rig, bare):
    """CREATEROLE without superuser: the server's logging cannot be switched off, and the statement fails."""
    server, name = bare[0], rig.new_name("half")
    postgres = server.uri("postgres", "postgres")
    query(postgres, "CREATE ROLE half LOGIN CREATEROLE PASSWORD 'half'")
    query(postgres, f"CREATE DATABASE {name} OWNER half")
    rig.api.post("/api/v1/keyspaces", {"name": name})
    body = {"name": f"{name}-a", "keyspace": name}
    with pytest.raises(ApiError) as refused:
        rig.api.post("/api/v1/shards", {**body, "primary_endpoint": f"postgresql://half:half@127.0.0.1:{server.port}/{name}"}, timeout=60)
    assert "apply_endpoint" in str(refused.value), refused.value
    rig.api.post("/api/v1/shards", {**body, "primary_endpoint": server.uri("postgres", name)}, timeout=60)
    record = catalog.shard(rig.stack.etcd.endpoint, body["name"])
    dsn = catalog.unseal(rig.stack.paths.join("secret.key"), record["apply"])
    assert query(dsn, "SELECT 1") == [(1,)]
    with open(server.log, "rb") as f:
        text = f.read()
    assert b"shardplane_apply" in text
    assert urllib.parse.urlsplit(dsn).password.encode() not in text


def test_a_role_of_another_installation_keeps_its_password(rig, bare):
    server, name = bare[1], rig.new_name("shared")
    query(server.uri("postgres", "postgres"), "CREATE ROLE shardplane_apply LOGIN PASSWORD 'theirs'")
    query(server.uri("postgres", "postgres"), "COMMENT ON ROLE shardplane_apply IS 'made by Shardplane another00000000'")
    query(server.uri("postgres", "postgres"), f"CREATE DATABASE {name}")
    rig.api.post("/api/v1/keyspaces", {"name": name})
    with pytest.raises(ApiError) as refused:
        rig.api.post("/api/v1/shards", {"name": f"{name}-a", "keyspace": name, "primary_endpoint": server.uri("postgres", name)}, timeout=60)
    assert "another installation" in str(refused.value) or "not made by this installation" in str(refused.value), refused.value
    assert query(f"postgresql://shardplane_apply:theirs@127.0.0.1:{server.port}/{name}", "SELECT 1") == [(1,)]
