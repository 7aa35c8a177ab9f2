"""The command line, driven as an operator would: what it prints for people and programs, and its exit codes."""
import contextlib
import fcntl
import http.server
import json
import os
import pty
import struct
import subprocess
import termios
import threading

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
    (("--help",), 0), (("help", "shard"), 0), (("split", "--help"), 0), (("--version",), 0), (("--json", "--version"), 0),
    (("shard", "--help"), 0), (("shard", "--gateway=127.0.0.1:1", "list"), 3), (("--timeout=5", "--gateway", "127.0.0.1:1", "health"), 3),
    (("help", "nothing"), 2), (("nothing", "--help"), 2), (("split", "a", "--targets-from", "/nothing"), 2),
])
def test_exit_codes_without_a_gateway(args, code):
    done = subprocess.run([SHARDCTL, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert (done.stdout if code == 0 else done.stderr).strip()


@contextlib.contextmanager
def answering(status, body, kind="application/json"):
    """Something that is not the gateway: each request gets this answer."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def run(gateway, *args):
    done = subprocess.run([SHARDCTL, "--gateway", gateway, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=30,
                          check=False)
    return done.returncode, done.stdout, done.stderr


def test_what_is_no_gateway_is_told():
    for status, body in ((200, b"<html>welcome</html>"), (404, b"not here"), (502, b'{"fault": 1}')):
        with answering(status, body) as address:
            for args in (("shard", "list"), ("job", "watch", "x")) + ((("events",),) if status != 200 else ()):
                code, out, err = run(address, *args)
                assert code == 1 and not out and address in err and f"HTTP {status}" in err, (args, out, err)
                code, out, err = run(address, *args, "--json")
                assert code == 1 and json.loads(out)["error"]["code"] == "unreadable" and not err, (args, out, err)
    with answering(200, b"ok\n", "text/plain") as address:
        assert run(address, "call", "GET", "/livez") == (0, "ok\n", "")


def test_a_hostile_answer_steers_no_terminal_and_breaks_nothing():
    evil = "\x1b[2J\u009b2J" + "x" * 2000
    error = {"error": {"code": evil, "message": evil, "details": {"hint": evil}}}
    job = {"id": "j", "state": "failed", "can": [], "error": {"code": "x", "message": evil}, "progress": {
        "percent": 1e308, "rows_total": 1e308, "rows_copied": 1e308, "rate_bytes_per_s": 1e308, "lag_bytes": 1e308, "lag_ms": 1e308,
        "eta_ms": 1e308, "throttled": evil}}
    for status, body, args, code in ((400, error, ("shard", "list"), 1), (200, job, ("job", "watch", "j"), 1), (200, job, ("job", "get", "j"), 0)):
        with answering(status, json.dumps(body).encode()) as address:
            got, out, err = run(address, *args)
            assert got == code and "\x1b" not in out + err and "\x9b" not in out + err, (got, out, err)


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
    assert "ETA" not in out[out.index("\ncompleted "):] and "MB/s" not in out[out.index("\ncompleted "):]
    assert out.startswith(("pending", "precopy")) and "\ncompleted " in out and "write pause, ms" in out
    assert job in shardctl(rig, "job", "list")[1]
    code, _, err = shardctl(rig, "job", "cancel", job)
    assert code == 1 and "conflict" in err
    assert as_json(rig, "job", "finalize", job, "--drop-source-rows")["id"] == job
    code, out, err = shardctl(rig, "job", "watch", job)
    assert code == 0 and "\nfinalized " in "\n" + out, (out, err)
    assert shardctl(rig, "check", cell.name)[0] == 0


def test_watch_draws_on_a_terminal(cell):
    cell.split()
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
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
    lines = [line.rstrip(b"\r\n") for line in drawn.split(b"\r\x1b[K")[1:-1]]
    assert lines and max(len(line) for line in lines) < 60, "a line that wraps cannot be drawn over"


def test_no_secret_on_the_screen(cell):
    body = cell.body("b")
    password = body["primary_endpoint"].split("@")[0].rsplit(":", 1)[1]
    env = {"PRIMARY": body["primary_endpoint"], "ADMIN": body["admin_endpoint"], "APPLY": body["apply_endpoint"]}
    args = ("shard", "create", body["name"], "--keyspace", cell.name, "--primary", "env:PRIMARY", "--admin", "env:ADMIN", "--apply", "env:APPLY")
    for more in ((), ("--json",)):
        code, out, err = shardctl(cell.rig, *args, *more, env=env)
        assert code == (0 if not more else 1) and password not in out + err, (out, err)
    assert shardctl(cell.rig, "shard", "delete", body["name"])[0] == 0
