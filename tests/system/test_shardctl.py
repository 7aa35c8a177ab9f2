"""The command line, driven as an operator would: what it prints for people and programs, and its exit codes."""
import json
import os
import pty
import subprocess

import pytest

from harness.rig import BIN, SLOW

SHARDCTL = os.path.join(BIN, "shardctl")


def shardctl(rig, *args, stdin=None, env=None):
    done = subprocess.run([SHARDCTL, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=90 * SLOW, check=False,
                          input=stdin, env={**os.environ, "SHARDPLANE_GATEWAY": rig.api.base, **(env or {})})
    return done.returncode, done.stdout, done.stderr


def as_json(rig, *args, **kwargs):
    code, out, err = shardctl(rig, *args, "--json", **kwargs)
    assert code == 0, (args, code, out, err)
    return json.loads(out)


@pytest.mark.parametrize("args, code", [
    ((), 2), (("nothing",), 2), (("shard", "lst"), 2), (("shard", "get"), 2), (("shard", "list", "--no-such"), 2),
    (("shard", "list", "--timeout", "x"), 2), (("split", "a"), 2), (("shard", "create", "x"), 2), (("exec", "1"), 2),
    (("--gateway", "127.0.0.1:1", "shard", "list"), 3), (("--gateway", "http://127.0.0.1:1", "events"), 3),
    (("--help",), 0), (("help", "shard"), 0), (("split", "--help"), 0), (("--version",), 0),
])
def test_exit_codes_without_a_gateway(args, code):
    done = subprocess.run([SHARDCTL, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert (done.stdout if code == 0 else done.stderr).strip()


def test_look_ups_tables_and_refusals(cell):
    rig = cell.rig
    code, out, _ = shardctl(rig, "shard", "list", "--keyspace", cell.name)
    assert code == 0 and out.splitlines()[0].split()[:3] == ["ID", "KEYSPACE", "STATUS"]
    assert out.splitlines()[1].split()[:3] == [f"{cell.name}-a", cell.name, "active"]
    assert as_json(rig, "shard", "get", f"{cell.name}-a")["keyspace"] == cell.name
    assert as_json(rig, "route", "7", "--keyspace", cell.name)["shard_id"] == f"{cell.name}-a"
    code, out, _ = shardctl(rig, "route", "7", "8", "--keyspace", cell.name)
    assert code == 0 and out.split() == ["KEY", "SHARD", "7", f"{cell.name}-a", "8", f"{cell.name}-a"]
    assert {t["table"] for t in as_json(rig, "table", "list", cell.name)["tables"]} >= {"customers"}
    assert as_json(rig, "service", "list")["leader"].startswith("manager-")
    assert as_json(rig, "health")["status"] == "ok"
    code, out, err = shardctl(rig, "shard", "get", "nothing-such")
    assert code == 1 and err.startswith("shardctl: not_found:") and not out
    code, out, _ = shardctl(rig, "shard", "get", "nothing-such", "--json")
    assert code == 1 and json.loads(out)["error"]["code"] == "not_found"
    code, out, _ = shardctl(rig, "check", cell.name)
    assert code == 0 and "nothing wrong" in out
    assert json.loads(shardctl(rig, "call", "GET", "/api/v1/keyspaces")[1])["keyspaces"]


def test_statements(cell):
    rig = cell.rig
    code, out, err = shardctl(rig, "exec", "7", "SELECT id, name FROM customers WHERE id = $1", "7", "--keyspace", cell.name)
    assert code == 0 and out.splitlines()[0].split() == ["id", "name"] and out.splitlines()[-1] == "SELECT 1"
    assert f"on {cell.name}-a" in err
    got = as_json(rig, "exec", "7", "UPDATE customers SET name = $2 WHERE id = $1", "7", "42", "--text", "--keyspace", cell.name)
    assert got["results"][0]["rows_affected"] == 1
    code, _, err = shardctl(rig, "exec", "7", "SELECT 1/0", "--keyspace", cell.name)
    assert code == 1 and "22012" in err


def test_a_split_from_plan_to_finalize(cell):
    rig = cell.rig
    targets = json.dumps([cell.body("b"), cell.body("c")])
    split = ("split", f"{cell.name}-a", "--targets-from", "-")
    code, out, err = shardctl(rig, *split, "--dry-run", stdin=targets)
    assert code == 0 and "preflight passed" in out, (out, err)
    code, out, err = shardctl(rig, *split, "--idempotency-key", cell.name, stdin=targets)
    assert code == 0, err
    job = out.split()[1].rstrip(":")
    cell.job_id = job
    assert as_json(rig, *split, "--idempotency-key", cell.name, stdin=targets)["id"] == job
    code, out, err = shardctl(rig, "job", "watch", job)
    assert code == 0, (out, err)
    assert out.startswith(("pending", "precopy")) and "\ncompleted " in out and "write pause, ms" in out
    assert job in shardctl(rig, "job", "list")[1]
    code, _, err = shardctl(rig, "job", "cancel", job)
    assert code == 1 and "conflict" in err
    assert as_json(rig, "job", "finalize", job, "--drop-source-rows")["id"] == job
    cell.wait("finalized")
    assert shardctl(rig, "check", cell.name)[0] == 0


def test_watch_draws_on_a_terminal(cell):
    cell.split()
    master, slave = pty.openpty()
    with subprocess.Popen([SHARDCTL, "job", "watch", cell.job_id], stdout=slave, stderr=slave,
                          env={**os.environ, "SHARDPLANE_GATEWAY": cell.rig.api.base}) as watch:
        os.close(slave)
        drawn = b""
        while True:
            try:
                more = os.read(master, 4096)
            except OSError:  # the other side is closed
                break
            if not more:
                break
            drawn += more
        assert watch.wait(90 * SLOW) == 0, drawn
    os.close(master)
    assert b"\r\x1b[K" in drawn and b"[========================] 100.0%" in drawn


def test_no_secret_on_the_screen(cell):
    body = cell.body("b")
    password = body["primary_endpoint"].split("@")[0].rsplit(":", 1)[1]
    env = {"PRIMARY": body["primary_endpoint"], "ADMIN": body["admin_endpoint"], "APPLY": body["apply_endpoint"]}
    args = ("shard", "create", body["name"], "--keyspace", cell.name, "--primary", "env:PRIMARY", "--admin", "env:ADMIN", "--apply", "env:APPLY")
    for more in ((), ("--json",)):
        code, out, err = shardctl(cell.rig, *args, *more, env=env)
        assert code == (0 if not more else 1) and password not in out + err, (out, err)
    assert shardctl(cell.rig, "shard", "delete", body["name"])[0] == 0
