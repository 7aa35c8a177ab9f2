"""tools/localstack and tools/sql/roles.sql: side by side, stopped and resumed, and roles that suffice and do not exceed."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psycopg2
import psycopg2.extras
import pytest

from harness.rig import BIN, SLOW
from harness.sql import query
from spstack.ports import free_base
from spstack.postgres import ROLES_SQL, bin_dir
from spstack.procs import PidFile, StackError
from spstack.stack import REPO, Stack

TOOL = os.path.join(REPO, "tools", "localstack")


@pytest.fixture(scope="module")
def folder():
    path = f"/tmp/shardplane-localstack-{os.getpid()}"
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    yield path
    for name in os.listdir(path):
        Stack(os.path.join(path, name)).down(purge=True)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def stack(folder):
    made = Stack(os.path.join(folder, "one"))
    made.up(shards=2, replicas=1, services=False, port_base=free_base(20))
    return made


def tool(*args, env=None):
    done = subprocess.run([sys.executable, TOOL, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
                          env={**os.environ, **(env or {})})
    return done.returncode, done.stdout, done.stderr


def test_status_names_everything(stack):
    code, out, _ = tool("status", "--json", "--dir", stack.paths.root)
    status = json.loads(out)
    assert code == 0 and status["state"] == "up" and len(status["shards"]) == 2
    identifiers = set()
    for shard in status["shards"]:
        for name in ("primary", "admin", "apply", "owner", "superuser"):
            assert query(shard[f"{name}_endpoint"], "SELECT current_database()") == [("shop",)]
        assert query(shard["replicas"][0]["endpoint"], "SELECT pg_is_in_recovery()") == [(True,)]
        assert query(shard["superuser_endpoint"], "SHOW wal_level") == [("logical",)]
        identifiers.add(query(shard["superuser_endpoint"], "SELECT system_identifier FROM pg_control_system()")[0])
        for thing in [shard] + shard["replicas"]:
            os.kill(thing["pid"], 0)
            assert os.path.exists(thing["log"])
            assert os.geteuid() != 0 or os.stat(f"/proc/{thing['pid']}").st_uid != 0, "PostgreSQL runs as root"
    assert len(identifiers) == 2, "two shards with one system identifier"
    assert os.stat(status["secret_key_file"]).st_mode & 0o777 == 0o600
    code, out, _ = tool("status", "--dir", stack.paths.root)
    for shard in status["shards"]:
        password = shard["superuser_endpoint"].split(":")[2].split("@")[0]
        assert password not in out, "the status for people shows a password"


def test_a_second_stack_runs_beside_it_and_a_used_port_is_refused(stack, folder):
    base = stack.etcd.client_port
    code, _, err = tool("up", "--no-services", "--shards", "1", "--dir", os.path.join(folder, "two"), "--port-base", str(base))
    assert code == 1 and f"127.0.0.1:{base} for etcd" in err and "Traceback" not in err
    other = Stack(os.path.join(folder, "three")).up(shards=1, services=False, port_base=free_base(20), fsync=False)
    assert other.status()["state"] == stack.status()["state"] == "up"
    other.down(purge=True)
    assert stack.status()["state"] == "up"


def test_a_stack_of_another_shape_is_not_overwritten(stack):
    with pytest.raises(StackError, match="another shape"):
        Stack(stack.paths.root).up(shards=3, services=False, port_base=stack.record["port_base"])


@pytest.mark.parametrize("args, env, says", [
    (("--port-base", "-5"), {}, "ports go from 1 to 65535"), (("--port-base", "0"), {}, "ports go from 1 to 65535"),
    (("--port-base", "70000"), {}, "ports go from 1 to 65535"), (("--shards", "-1"), {}, "cannot be negative"),
    (("--env", "X"), {}, "wanted KEY=VALUE"), ((), {"PG_BIN": "/nothing"}, "no initdb in it"),
    ((), {"PATH": "/nothing"}, "etcd cannot be started"),
])
def test_what_cannot_be_is_told_and_leaves_nothing(folder, args, env, says):
    path = os.path.join(folder, "refused")
    code, _, err = tool("up", "--no-services", "--shards", "1", "--dir", path, "--port-base", str(free_base(20)), *args, env=env)
    assert code == 1 and says in err and "Traceback" not in err, err
    assert tool("down", "--purge", "--dir", path)[0] == 0
    assert not os.path.exists(path)


def test_down_without_a_stack_makes_no_folder(folder):
    path = os.path.join(folder, "none")
    code, out, _ = tool("down", "--dir", path)
    assert code == 0 and "no stack" in out and not os.path.exists(path)


def test_an_interrupted_up_leaves_no_process(folder):
    path = os.path.join(folder, "interrupted")
    up = subprocess.Popen([sys.executable, TOOL, "up", "--no-services", "--shards", "2", "--dir", path, "--port-base", str(free_base(20))],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # who runs tests in the background ignores it
    deadline = time.monotonic() + 60 * SLOW
    while not os.path.exists(os.path.join(path, "pg", "shard1")):  # the clusters are being made
        assert up.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    up.send_signal(signal.SIGINT)
    assert up.wait(timeout=60 * SLOW) == 130
    assert Stack(path).status()["state"] == "down"


def test_the_callers_variables_lead_no_service_elsewhere(folder, monkeypatch):
    monkeypatch.setenv("METADATA_ENDPOINTS", "http://127.0.0.1:1")
    other = Stack(os.path.join(folder, "env")).up(shards=0, routers=0, resharders=0, healths=0, gateways=0, port_base=free_base(20),
                                                  binaries=BIN)
    assert other.status()["state"] == "up"
    other.down(purge=True)
    assert not os.path.exists(other.paths.root)


def test_down_and_up_keep_the_data(stack):
    dsn = stack.cluster("shard1").uri("shop_owner")
    query(dsn, "CREATE TABLE kept AS SELECT 42 AS x")
    pids = [c.pidfile.pid() for c in stack.clusters.values()] + [stack.etcd.pidfile.pid()]
    assert tool("down", "--dir", stack.paths.root)[0] == 0
    for pid in pids:
        assert not os.path.exists(f"/proc/{pid}") or open(f"/proc/{pid}/stat", encoding="ascii").read().split()[2] == "Z"
    assert tool("status", "--dir", stack.paths.root)[0] == 3
    stack.up(shards=2, replicas=1, services=False, port_base=stack.record["port_base"])
    assert query(dsn, "SELECT x FROM kept") == [(42,)]


def test_a_reused_pid_is_not_ours(tmp_path):
    file = PidFile(str(tmp_path / "x.pid"))
    child = subprocess.Popen(["sleep", "60"])
    try:
        file.write(child.pid)
        assert file.pid() == child.pid
        with open(file.path, "w", encoding="ascii") as f:
            f.write(f"{child.pid} 1\n")  # the same number, started at another time
        assert file.pid() is None
        assert not file.send(signal.SIGKILL)
        file.stop()
        assert child.poll() is None, "a stranger was killed"
    finally:
        child.kill()
        child.wait()


def test_an_immediate_stop_is_survived(stack):
    for mode in ("immediate", "kill"):
        stack.cluster("shard1").stop(mode)
        stack.cluster("shard1").start()
        assert query(stack.cluster("shard1").uri("shop_app"), "SELECT 1") == [(1,)]


# -- roles ----------------------------------------------------------------------------------------------------------------


class Sessions:
    """One autocommit connection a role."""

    def __init__(self, cluster):
        self.open = {role: psycopg2.connect(cluster.uri(role)) for role in
                     ("shop_owner", "shop_app", "shardplane_ddl", "shardplane_apply", "postgres")}
        for c in self.open.values():
            c.autocommit = True

    def may(self, role, sql):
        with self.open[role].cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else None

    def may_not(self, role, sql):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            self.may(role, sql)


@pytest.fixture(scope="module")
def roles(stack):
    s = Sessions(stack.cluster("shard2"))
    s.may("shop_owner", "CREATE TABLE orders (id bigint PRIMARY KEY, k bigint NOT NULL)")
    s.may("shop_owner", 'CREATE SCHEMA "Other"')
    s.may("shop_owner", 'CREATE TABLE "Other"."Mixed" (id serial PRIMARY KEY)')
    yield s
    for c in s.open.values():
        c.close()


def test_no_role_but_the_bootstrap_one_is_a_superuser(roles):
    assert roles.may("postgres", "SELECT rolname FROM pg_roles WHERE rolsuper") == [("postgres",)]


def test_the_application_may_write_rows_and_nothing_else(roles):
    roles.may("shop_app", "INSERT INTO orders VALUES (1, 1)")
    roles.may("shop_app", "UPDATE orders SET k = 2")
    roles.may("shop_app", 'INSERT INTO "Other"."Mixed" DEFAULT VALUES')
    roles.may("shop_app", "DELETE FROM orders")
    for sql in ("TRUNCATE orders", "CREATE TABLE mine ()", "ALTER TABLE orders DISABLE TRIGGER ALL",
                "CREATE TRIGGER x BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
                "SET session_replication_role = replica", "SELECT pg_replication_origin_create('x')"):
        roles.may_not("shop_app", sql)


def test_the_ddl_role_may_set_guards_and_prepare_a_split(roles):
    ddl = "shardplane_ddl"
    for sql in ("CREATE SCHEMA shardplane", "GRANT USAGE ON SCHEMA shardplane TO PUBLIC", "CREATE TABLE shardplane.control (x int)",
                "CREATE FUNCTION shardplane.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
                'CREATE TRIGGER "~x" BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION shardplane.f()',
                'ALTER TABLE orders ENABLE ALWAYS TRIGGER "~x"', "CREATE UNIQUE INDEX CONCURRENTLY i ON orders (k, id)",
                "ALTER TABLE orders REPLICA IDENTITY USING INDEX i", 'CREATE PUBLICATION p FOR TABLE orders, "Other"."Mixed"',
                "SET ROLE shop_owner", "CREATE TABLE made_as_owner (id int)", "RESET ROLE",
                "SELECT pg_logical_emit_message(true, 'shardplane', 'x')", "SELECT * FROM pg_replication_origin_status"):
        roles.may(ddl, sql)
    assert roles.may("shop_app", "SELECT * FROM made_as_owner") == []
    roles.may_not("shop_app", "INSERT INTO shardplane.control VALUES (1)")
    # Slots of others, and sessions of everybody but superusers.
    roles.may("postgres", "SELECT pg_create_logical_replication_slot('theirs', 'pgoutput')")
    roles.may(ddl, "SELECT pg_drop_replication_slot('theirs')")
    for role in ("shop_app", "shardplane_apply", "shop_owner"):
        victim = roles.open[role].get_backend_pid()
        assert roles.may(ddl, f"SELECT pg_terminate_backend({victim}, 5000)") == [(True,)]
        roles.open[role] = psycopg2.connect(roles.open["postgres"].dsn.replace("user=postgres", f"user={role}"),
                                            password=roles_password(role))
        roles.open[role].autocommit = True
    roles.may_not(ddl, f"SELECT pg_terminate_backend({roles.open['postgres'].get_backend_pid()})")


def roles_password(role):
    return PASSWORDS[role]


PASSWORDS = {}


@pytest.fixture(scope="module", autouse=True)
def passwords(stack):
    PASSWORDS.update(stack.record["passwords"])


def test_the_apply_role_may_copy_and_follow(roles, stack):
    apply = "shardplane_apply"
    for sql in ("SET session_replication_role = replica", "INSERT INTO orders VALUES (2, 2)", "SET deadlock_timeout = '10ms'",
                "SELECT setval('\"Other\".\"Mixed_id_seq\"', 100)", "SELECT pg_replication_origin_create('o')",
                "SELECT pg_replication_origin_session_setup('o')", "BEGIN", "INSERT INTO orders VALUES (3, 3)",
                "SELECT pg_replication_origin_xact_setup('0/100', now())", "COMMIT",
                "SELECT pg_replication_origin_session_is_setup()", "SELECT pg_replication_origin_session_progress(true)",
                "SELECT pg_replication_origin_session_reset()", "SELECT * FROM pg_show_replication_origin_status()",
                "SELECT pg_replication_origin_progress('o', true)", "SELECT pg_replication_origin_drop('o')",
                "SELECT pg_create_logical_replication_slot('mine', 'pgoutput')", "SELECT pg_drop_replication_slot('mine')"):
        roles.may(apply, sql)
    roles.may_not(apply, "CREATE TABLE x ()")
    roles.may_not(apply, "TRUNCATE orders")
    replication = psycopg2.connect(stack.cluster("shard2").uri(apply),
                                   connection_factory=psycopg2.extras.LogicalReplicationConnection)
    with replication.cursor() as cursor:
        cursor.execute("IDENTIFY_SYSTEM")
        assert cursor.fetchall()[0][3] == "shop"
    replication.close()


def test_roles_sql_may_be_run_again(stack):
    stack.cluster("shard2").make_roles()
    assert query(stack.cluster("shard2").uri("shardplane_apply"), "SELECT 1") == [(1,)]


@pytest.mark.parametrize("given, words", [({"owner": "postgres"}, "is a superuser"), ({"app": "shop_owner"}, "four different roles")])
def test_roles_sql_takes_nobodys_rights(stack, given, words):
    """With a database that the superuser owns, its name is an easy guess for `owner`; the cluster would have no superuser left."""
    c = stack.cluster("shard2")
    names = {"database": "postgres", "owner": "shop_owner", "app": "shop_app", **given}
    done = subprocess.run(
        [os.path.join(bin_dir(), "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", *(f"-v{k}={v}" for k, v in names.items()), "-f", ROLES_SQL,
         c.uri("postgres", "postgres")],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env={**os.environ, "SP_OWNER_PASSWORD": "x"})
    assert done.returncode != 0 and words in done.stderr, done.stderr
    assert query(c.uri("postgres"), "SELECT rolsuper FROM pg_roles WHERE rolname = 'postgres'") == [(True,)]


def test_no_password_in_the_servers_logs(stack):
    for c in stack.clusters.values():
        with open(c.log, encoding="utf-8", errors="replace") as f:
            text = f.read()
        for role, password in stack.record["passwords"].items():
            assert password not in text, f"{role}'s password in {c.log}"
