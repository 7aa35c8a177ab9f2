"""What a stranger may send: every surface answers with a reason, and goes on serving."""
import json
import os
import socket
import subprocess
import time
import urllib.parse

import msgpack
import pytest
import zmq

from harness.api import ApiError
from harness.memory import memory_kb
from harness.rig import BIN, SANITIZED
from ledger.route_client import RouteClient


# -- REST -----------------------------------------------------------------------------------------------------------------


def http(rig, raw, timeout=10):
    """Sends bytes as they are; returns (status, headers and body as bytes). Status 0: closed without an answer."""
    url = urllib.parse.urlparse(rig.api.base)
    with socket.create_connection((url.hostname, url.port), timeout=timeout) as s:
        try:
            s.sendall(raw)
        except OSError:
            pass  # refused while we were still sending
        got = b""
        try:
            while True:
                part = s.recv(65536)
                if not part:
                    break
                got += part
                head, _, body = got.partition(b"\r\n\r\n")
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:") and len(body) >= int(line.split(b":")[1]):
                        return int(got.split()[1]), got
        except OSError:
            pass
    return (int(got.split()[1]) if got.startswith(b"HTTP/") else 0), got


def post(path, body, extra=b""):
    return (b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + extra
            + b"Content-Length: %d\r\n\r\n" % len(body) + body)


SHARDS = b"/api/v1/shards"
BODIES = [
    ("no json", b"{", 400), ("empty", b"", 400), ("trailing text", b'{"name": "x"} y', 400), ("not an object", b"[1]", 400),
    ("a number", b"7", 400), ("NaN", b'{"name": "x", "primary_endpoint": "y", "vnode_count": NaN}', 400),
    ("infinity", b'{"name": "x", "primary_endpoint": "y", "vnode_count": 1e999}', 400),
    ("too big for 64 bits", b'{"name": "x", "primary_endpoint": "y", "vnode_count": 99999999999999999999}', 400),
    ("a fraction", b'{"name": "x", "primary_endpoint": "y", "vnode_count": 1.5}', 400),
    ("out of range", b'{"name": "x", "primary_endpoint": "y", "vnode_count": 0}', 400),
    ("duplicate key", b'{"name": "x", "name": "z", "primary_endpoint": "y"}', 400),
    ("unknown field", b'{"name": "x", "primary_endpoint": "y", "nmae": 1}', 400),
    ("missing field", b'{"name": "x"}', 400), ("wrong type", b'{"name": 7, "primary_endpoint": "y"}', 400),
    ("null", b'{"name": null, "primary_endpoint": "y"}', 400),
    ("NUL", b'{"name": "x\\u0000y", "primary_endpoint": "y"}', 400),
    ("lone surrogate", b'{"name": "\\ud800", "primary_endpoint": "y"}', 400),
    ("bad UTF-8", b'{"name": "\xff\xfe", "primary_endpoint": "y"}', 400),
    ("deep", b'{"name": ' + b"[" * 1000 + b"]" * 1000 + b"}", 400),
    ("slash in a name", b'{"name": "../leader", "primary_endpoint": "y"}', 400),
    ("upper case name", b'{"name": "X", "primary_endpoint": "y"}', 400),
    ("long name", b'{"name": "' + b"x" * 64 + b'", "primary_endpoint": "y"}', 413),
    ("empty name", b'{"name": "", "primary_endpoint": "y"}', 400),
]


@pytest.mark.parametrize("name, body, status", BODIES, ids=[b[0] for b in BODIES])
def test_rest_body(rig, name, body, status):
    del name
    got, raw = http(rig, post(SHARDS, body))
    assert got == status, raw[:500]
    error = json.loads(raw.partition(b"\r\n\r\n")[2])["error"]
    assert error["code"] and error["message"]


REQUESTS = [
    ("no such path", b"GET /api/v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n", {404}),
    ("wrong method", b"DELETE /api/v1/shards HTTP/1.1\r\nHost: x\r\n\r\n", {405}),
    ("unknown query field", b"GET /v1/shard-for-key?key=1&kye=2 HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    ("key is missing", b"GET /v1/shard-for-key HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    ("bad percent", b"GET /v1/shard-for-key?key=%zz HTTP/1.1\r\nHost: x\r\n\r\n", {400, 404}),
    ("NUL in the query", b"GET /v1/shard-for-key?key=a%00b HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    ("bad UTF-8 in the query", b"GET /v1/shard-for-key?key=%ff HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    ("path tricks", b"GET /api/v1/shards/%2e%2e%2fleader HTTP/1.1\r\nHost: x\r\n\r\n", {400, 404}),
    ("body too large", b"POST /v1/execute HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{", {413, 400}),
    ("headers too large", b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: %s\r\n" % (i, b"y" * 1000) for i in range(40))
     + b"\r\n", {431}),
    ("two lengths", b"POST /api/v1/shards HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", {400, 0}),
    ("length and chunks", b"POST /api/v1/shards HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
     b"2\r\n{}\r\n0\r\n\r\n", {400, 0}),
    ("bad chunk", b"POST /api/v1/shards HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", {400, 0}),
    ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", {400, 0}),
]


@pytest.mark.parametrize("name, request_bytes, statuses", REQUESTS, ids=[r[0] for r in REQUESTS])
def test_rest_request(rig, name, request_bytes, statuses):
    del name
    got, raw = http(rig, request_bytes)
    assert got in statuses, raw[:500]
    assert rig.api.raw("GET", "/livez")[0] == 200


SECOND = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
AMBIGUOUS = [
    ("blank before the colon", b"Content-Length : 37"), ("tab before the colon", b"Content-Length\t: 37"),
    ("folded length", b"Content-Length:\r\n 37"), ("folded coding", b"Transfer-Encoding:\r\n chunked"),
    ("length folded away", b"X-A: b\r\n Content-Length: 37"), ("length behind a bare CR", b"X-A: b\rContent-Length: 37"),
    ("unknown coding", b"Transfer-Encoding: xchunked"), ("two codings in one", b"Transfer-Encoding: gzip, chunked"),
    ("no coding", b"Transfer-Encoding: identity"),
]


@pytest.mark.parametrize("name, header", AMBIGUOUS, ids=[a[0] for a in AMBIGUOUS])
def test_what_two_readers_read_differently_is_refused_at_once(rig, name, header):
    """One answer and the end: what follows may be a body to a proxy before us, and must not become a request here."""
    del name
    url = urllib.parse.urlparse(rig.api.base)
    got = b""
    with socket.create_connection((url.hostname, url.port), timeout=5) as s:
        s.sendall(b"POST /v1/execute HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + header + b"\r\n\r\n" + SECOND)
        try:
            while part := s.recv(65536):
                got += part
        except ConnectionResetError:
            pass  # closed with bytes of ours unread
    assert got.startswith(b"HTTP/1.1 400 ") and got.count(b"HTTP/1.1 ") == 1, got


def test_a_body_over_its_limit_is_refused(rig):
    body = b'{"shard_key": "1", "sql": "' + b"x" * (5 << 20) + b'"}'
    got, raw = http(rig, post(b"/v1/execute", body))
    assert got in (413, 0), raw[:300]
    assert rig.api.raw("GET", "/livez")[0] == 200


def test_many_silent_connections_do_not_stop_the_gateway(rig):
    url = urllib.parse.urlparse(rig.api.base)
    idle = [socket.create_connection((url.hostname, url.port)) for _ in range(200)]
    try:
        for s in idle[::2]:
            s.sendall(b"POST /api/v1/shards HTTP/1.1\r\nHost:")  # and then nothing
        assert rig.api.raw("GET", "/livez")[0] == 200
        assert rig.api.raw("GET", "/api/v1/keyspaces")[0] == 200
    finally:
        for s in idle:
            s.close()


# -- ZeroMQ ---------------------------------------------------------------------------------------------------------------


ENVELOPE = {1: 1, 2: 105, 3: "hostile", 4: 2000}
E = msgpack.packb(ENVELOPE)
FRAMES = [
    ("array bomb in the body", [E, b"\xdd\x0f\xff\xff\xff"]), ("map bomb in the body", [E, b"\xdf\xff\xff\xff\xff"]),
    ("array bomb in a field", [E, b"\x82\x02\xa1k\x03\xdd\x0f\xff\xff\xff"]), ("string bomb", [E, b"\x81\x02\xdb\xff\xff\xff\xff"]),
    ("bin bomb", [E, b"\x81\x02\xc6\xff\xff\xff\xff"]), ("ext", [E, b"\x81\x02\xc7\xff\x01"]), ("reserved byte", [E, b"\xc1"]),
    ("bomb as the envelope", [b"\xdd\x0f\xff\xff\xff", b"\x80"]), ("no frames but one", [E]), ("three frames", [E, b"\x80", b"\x80"]),
    ("empty frames", [b"", b""]), ("one empty frame", [b""]), ("trailing bytes", [E, msgpack.packb({2: "1"}) + b"\x00"]),
    ("cut off", [E, msgpack.packb({2: "1", 4: "SELECT 1"})[:-3]]), ("not a map", [E, b"\x93\x01\x02\x03"]),
    ("string keys", [E, msgpack.packb({"shard_key": "1"})]), ("bad UTF-8", [E, b"\x81\x02\xa2\xff\xfe"]),
    ("NUL in a key", [E, msgpack.packb({1: "default", 2: "a\0b", 4: "SELECT 1"})]),
    ("depth 40", [E, b"\x81\x05" + b"\x91" * 40 + b"\x01"]), ("depth 4000", [E, b"\x81\x05" + b"\x91" * 4000 + b"\x01"]),
    ("wrong version", [msgpack.packb({**ENVELOPE, 1: 99}), b"\x80"]), ("unknown message", [msgpack.packb({**ENVELOPE, 2: 65000}), b"\x80"]),
    ("another service's message", [msgpack.packb({**ENVELOPE, 2: 401}), msgpack.packb({1: "x", 2: ["y"]})]),
    ("a reply", [msgpack.packb({**ENVELOPE, 2: 106}), msgpack.packb({1: "x", 2: 1})]),
    ("duplicate field", [E, b"\x82\x02\xa11\x02\xa12"]), ("missing field", [E, b"\x80"]), ("wrong type", [E, msgpack.packb({2: [1]})]),
    ("negative deadline", [msgpack.packb({**ENVELOPE, 4: -1}), b"\x80"]), ("long request id", [msgpack.packb({**ENVELOPE, 3: "x" * 70}), b"\x80"]),
    ("five frames of 1 MiB", [E] + [b"\x00" * (1 << 20)] * 5), ("a frame of 8 MiB", [E, b"\x00" * (8 << 20)]),
    ("too many statements", [E, msgpack.packb({2: "1", 3: [{1: "SELECT 1"}] * 101})]),
    ("no statement", [E, msgpack.packb({2: "1"})]), ("both forms", [E, msgpack.packb({2: "1", 3: [{1: "SELECT 1"}], 4: "SELECT 1"})]),
]


@pytest.mark.parametrize("kind", ["router", "manager", "health"])
def test_hostile_frames(rig, kind):
    """Each is answered by an error or dropped; none makes the service allocate, stop or forget the others."""
    service = rig.stack.of_kind(kind)[0]
    pid, before = service.pidfile.pid(), memory_kb(service.pidfile.pid(), "VmRSS")
    context = zmq.Context.instance()
    for name, frames in FRAMES:
        with context.socket(zmq.DEALER) as s:
            s.setsockopt(zmq.LINGER, 500)
            s.connect(service.address("listen"))
            s.send_multipart(frames)
            if s.poll(300):
                reply = s.recv_multipart()
                assert msgpack.unpackb(reply[0], strict_map_key=False)[2] == 1, f"{name}: not an error: {reply}"
                error = msgpack.unpackb(reply[1], strict_map_key=False)
                assert error[1] != "internal", f"{name}: {error}"
    with context.socket(zmq.DEALER) as s:  # ping
        s.setsockopt(zmq.LINGER, 0)
        s.connect(service.address("listen"))
        s.send_multipart([msgpack.packb({1: 1, 2: 3, 3: "still there?"}), b"\x80"])
        assert s.poll(5000), f"{kind} does not answer any more"
        assert msgpack.unpackb(s.recv_multipart()[0], strict_map_key=False)[2] == 4
    assert service.pidfile.pid() == pid, f"{kind} died"
    grown = memory_kb(pid, "VmRSS") - before
    assert SANITIZED or grown < 96 * 1024, f"{kind} grew by {grown} kB"


def test_raw_garbage_on_the_sockets(rig):
    for service in rig.stack.services.values():
        for what in ("listen", "events", "metrics", "http"):
            port = service.ports.get(what)
            if not port:
                continue
            for garbage in (b"\x00" * 1000, b"\xff" * 64 + b"\x7f" + os.urandom(4000), b"GET / HTTP/1.1\r\n" * 3000, os.urandom(100)):
                with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
                    try:
                        s.sendall(garbage)
                    except OSError:
                        pass
    time.sleep(0.2)
    for service in rig.stack.services.values():
        assert service.pidfile.pid() is not None, f"{service.id} died"
        service.wait(10)


# -- statements -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sql", ["BEGIN", "COMMIT", "rollback", "/* x */ begin", "-- c\nCOMMIT", "PREPARE TRANSACTION 'x'",
                                 "SELECT 1; COMMIT", "SET SESSION AUTHORIZATION postgres", "START TRANSACTION", "SAVEPOINT a",
                                 "END", "abort"])
def test_transaction_control_is_refused(cell, sql):
    client = RouteClient(cell.rig.router_endpoints, cell.name)
    with pytest.raises(Exception) as refused:
        client.execute(1, [(sql, [])])
    assert refused.value.code in ("invalid_argument", "sql_error"), refused.value
    assert client.execute(1, [("SELECT 1 + 1", [])])[3][0][4] == [[2]]
    client.close()


def test_values_go_out_and_come_back(cell):
    client = RouteClient(cell.rig.router_endpoints, cell.name)
    for value in ("", "'; DROP TABLE customers; --", "é漢字🎉", "\\", "\\x00", "x" * 100000, "$1", "%s", "NULL"):
        got = client.execute(1, [("SELECT $1::text", [value])])[3][0][4]
        assert got == [[value]]
    got = client.execute(1, [("SELECT $1::bigint, $2::bool, $3::float8, $4::text, $5::bytea", [2**62, True, 0.1, None, b"\x00\xff"])])
    row = got[3][0][4][0]
    assert [int(row[0]), row[1] in (True, "t"), float(row[2]), row[3]] == [2**62, True, 0.1, None]
    client.close()


# -- identifiers ----------------------------------------------------------------------------------------------------------


def test_hostile_table_names_are_only_names(cell):
    for name in ("'; DROP TABLE customers; --", '"', "a\"b", "%s%n", "x" * 63, "select", "é"):
        quoted = '"' + name.replace('"', '""') + '"'
        cell.sql("a", f'CREATE TABLE {quoted} ("k;\'""" bigint PRIMARY KEY)', role="owner")
        cell.rig.api.post(f"/api/v1/keyspaces/{cell.name}/tables", {"table": name, "key_column": "k;'\""})
        cell.sql("a", f"INSERT INTO {quoted} VALUES (1)", role="primary")
    names = {t["table"] for t in cell.rig.api.get(f"/api/v1/keyspaces/{cell.name}/tables")["tables"]}
    assert len(names) == 3 + 7
    cell.split()
    cell.wait("completed")
    cell.finalize()
    cell.check({})


def test_an_unknown_table_or_column_is_refused(cell):
    path = f"/api/v1/keyspaces/{cell.name}/tables"
    for body in ({"table": "nothing", "key_column": "id"}, {"table": "customers", "schema": "nowhere", "key_column": "id"},
                 {"table": "pg_class", "schema": "pg_catalog", "key_column": "oid"}, {"table": "Customers", "key_column": "id"}):
        with pytest.raises(ApiError) as refused:
            cell.rig.api.post(path, body)
        assert 400 <= refused.value.status < 500, refused.value


# -- configuration --------------------------------------------------------------------------------------------------------

CONFIGS = [
    ("not json", "{", ""), ("unknown key", '{\n  "log_lvel": "info"\n}', "log_level"), ("wrong type", '{"service_id": 7}', "service_id"),
    ("duplicate key", '{"service_id": "a", "service_id": "b"}', "service_id"), ("an array", "[]", ""),
    ("port 70000", '{"metrics_listen": "127.0.0.1:70000"}', "metrics_listen"), ("bad level", '{"log_level": "loud"}', "log_level"),
    ("no secret", '{"secret_key_file": "/nonexistent/key"}', "secret_key_file"),
]


@pytest.mark.parametrize("kind", ["router", "manager", "resharder", "health", "gateway"])
@pytest.mark.parametrize("name, text, hint", CONFIGS, ids=[c[0] for c in CONFIGS])
def test_configuration_faults_name_file_and_key(tmp_path, kind, name, text, hint):
    if kind == "gateway" and name in ("no secret", "port 70000"):
        text = text.replace("secret_key_file", "nothing_such").replace("metrics_listen", "http_listen")
        hint = "http_listen" if name == "port 70000" else "nothing_such"
    path = tmp_path / "broken.json"
    path.write_text(text)
    done = subprocess.run([os.path.join(BIN, kind), "--config", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=20, check=False)
    said = done.stdout + done.stderr
    assert done.returncode not in (0, -6, -11), said
    assert "broken.json" in said and hint in said, said


SOCKETS = {"listen": "tcp://127.0.0.1:{}", "events_listen": "tcp://127.0.0.1:{}", "metrics_listen": "127.0.0.1:{}",
           "http_listen": "127.0.0.1:{}"}
TAKES = {"router": ("listen", "events_listen", "metrics_listen"), "manager": ("listen", "events_listen", "metrics_listen"),
         "health": ("listen", "events_listen", "metrics_listen"), "resharder": ("metrics_listen",), "gateway": ("http_listen",)}


@pytest.mark.parametrize("kind", TAKES)
def test_exit_codes_of_a_service(tmp_path, kind):
    """2: the configuration is wrong, and starting again cannot help; 1: it cannot start now."""
    key = tmp_path / "key"
    key.write_text("00" * 32 + "\n")
    key.chmod(0o600)
    good = {} if kind == "gateway" else {"secret_key_file": str(key)}
    good.update({name: SOCKETS[name].format("*") for name in TAKES[kind]})

    def run(config):
        path = tmp_path / "c.json"
        path.write_text(json.dumps(config))
        done = subprocess.run([os.path.join(BIN, kind), "--config", str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=20, check=False)
        return done.returncode, done.stdout

    if kind != "gateway":
        code, said = run({})
        assert code == 2 and said.startswith(f"{kind}: ") and "secret_key_file is required" in said, said
    code, said = run({**good, "metadata_endpoints": ["ftp://x"]})
    assert code == 2 and "http://host:port" in said, said
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for name in TAKES[kind]:
            code, said = run({**good, name: SOCKETS[name].format(taken.getsockname()[1])})
            assert code == 1 and f":{taken.getsockname()[1]}" in said and "in use" in said, (name, said)
    for name in {"gateway": ("listen", "events_listen", "secret_key_file"), "resharder": ("listen", "events_listen")}.get(kind, ()):
        code, said = run({**good, name: str(key) if name == "secret_key_file" else "tcp://127.0.0.1:1"})
        assert code == 2 and f"{name}: no such key" in said, said


def test_a_secret_that_others_may_read_is_refused(tmp_path):
    key = tmp_path / "key"
    key.write_text("00" * 32 + "\n")
    key.chmod(0o644)
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"secret_key_file": str(key)}))
    done = subprocess.run([os.path.join(BIN, "manager"), "--config", str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=20, check=False)
    assert done.returncode not in (0, -6, -11) and "mode 644" in done.stdout, done.stdout
