"""What operators and programs see: shards, health, events, metrics, the command line."""
import json
import os
import re
import signal
import threading
import time
import urllib.request
import uuid

import msgpack
import pytest
import zmq

from harness import catalog
from harness.api import ApiError
from harness.rig import SLOW
from ledger.route_client import RouteClient, RouteError

from worker_rig import Codec


def test_probes_and_metrics(rig):
    for path in ("/health", "/api/v1/health"):
        assert rig.api.get(path)
    for s in rig.stack.services.values():
        assert s.get("/livez")[0] == 200 and s.get("/readyz")[0] == 200
        status, text = s.get("/metrics")
        assert status == 200, s.id
        names = set(re.findall(r"^(\w+)(?:\{[^}]*\})? [-+0-9.eE]+(?:NaN|Inf)?$", text, re.M))
        assert any(n.startswith("shardplane_") for n in names), (s.id, sorted(names)[:5])
        for line in text.splitlines():
            assert not line or line.startswith("#") or re.fullmatch(r'\w+(\{(\w+="(\\.|[^"\\])*",?)*\})? (NaN|[-+]?Inf|[-+0-9.eE]+)', line), line
    services = rig.api.get("/api/v1/services")
    assert {s["kind"] for s in services["services"]} == {"router", "manager", "resharder", "health", "gateway"}
    assert services["leader"].startswith("manager-") and services["epoch"] > 0


def test_health_says_that_etcd_is_gone(rig):
    rig.stack.etcd.stop()
    try:
        gone = rig.stack.wait_for("a degraded gateway", lambda: (lambda h: h if h["status"] == "degraded" else None)(
            rig.api.get("/health")), 30 * SLOW)
        assert "etcd" in gone["reason"] and gone["catalog_age_ms"] > 10000
    finally:
        rig.stack.etcd.start()
    rig.stack.wait_for("a whole gateway", lambda: rig.api.get("/health")["status"] == "ok", 30 * SLOW)


def test_shards_and_their_health(cell):
    def healthy():
        for shard in cell.rig.api.get("/api/v1/shards").get("shards", []):
            if shard["id"] == f"{cell.name}-a" and (shard.get("health") or {}).get("verdict") == "healthy":
                return shard
        return None

    shard = cell.rig.stack.wait_for("a healthy verdict", healthy, 15 * SLOW)
    assert shard["name"] == shard["id"] == f"{cell.name}-a" and shard["status"] == "active" and shard["share"] == 1
    assert shard["primary"]["port"] == cell.shards["a"]["port"] and shard["primary"]["user"] == "shop_app"
    assert cell.rig.api.get(f"/api/v1/shards/{cell.name}-a")["primary"] == shard["primary"]
    cluster = cell.shards["a"]["cluster"]
    cell.rig.stack.cluster(cluster).stop("immediate")
    path = f"/api/v1/shards/{cell.name}-a/health"
    sick = cell.rig.stack.wait_for("an unhealthy verdict", lambda: (lambda h: h if h["verdict"] == "unhealthy" else None)(
        cell.rig.api.get(path)), 15 * SLOW)
    assert sick["reasons"]
    cell.rig.stack.cluster(cluster).start()
    cell.rig.stack.wait_for("healthy again", lambda: cell.rig.api.get(path)["verdict"] == "healthy", 15 * SLOW)
    with pytest.raises(ApiError) as missing:
        cell.rig.api.get("/api/v1/shards/nothing-such/health")
    assert missing.value.status == 404


def test_a_mute_manager_is_told_while_verdicts_are_waited_for(rig):
    """The manager's time is up before that of the health service: an answer, and a gateway that goes on."""
    gateway = rig.stack.service("gateway-2")
    mute = [s.pidfile.pid() for kind in ("manager", "health") for s in rig.stack.of_kind(kind)]
    rig.stack.stop(gateway.id)
    rig.reconfigure("gateway", **{"gateway-2.request_timeout_ms": 200})
    try:
        rig.stack.start(gateway.id)
        rig.stack.wait_for("all services", lambda: all(rig.api2.get("/health")["services"].values()), 15 * SLOW)
        for pid in mute:
            os.kill(pid, signal.SIGSTOP)
        with pytest.raises(ApiError) as refused:
            rig.api2.get("/api/v1/shards")
        assert refused.value.code == "unavailable", refused.value
    finally:
        for pid in mute:
            os.kill(pid, signal.SIGCONT)
        rig.stack.stop(gateway.id)
        rig.reconfigure("gateway")
        rig.stack.start(gateway.id)


def test_a_shard_that_owns_rows_cannot_be_deleted_and_an_empty_one_can(cell):
    with pytest.raises(ApiError) as refused:
        cell.rig.api.delete(f"/api/v1/shards/{cell.name}-a")
    assert refused.value.status == 409
    cell.remember()
    cell.register("b")
    cell.rig.api.delete(f"/api/v1/shards/{cell.name}-b")
    cell.no_residue("b")
    with pytest.raises(ApiError) as gone:
        cell.rig.api.get(f"/api/v1/shards/{cell.name}-b")
    assert gone.value.status == 404


def test_both_ways_to_ask_agree(cell):
    """REST and ZeroMQ, and PostgreSQL's own hash, name the same owner."""
    cell.split()
    cell.wait("completed")
    ring = cell.ring()
    for endpoint in cell.rig.router_endpoints:  # each learns of the flip a little later than the job
        client = RouteClient([endpoint], cell.name)
        cell.rig.stack.wait_for(f"the new ring at {endpoint}", lambda c=client: c.shard_for_key(1)[1] >= ring.version, 10 * SLOW)
        client.close()
    client = RouteClient(cell.rig.router_endpoints, cell.name)
    for key in (1, 2, 3, 400, -5, 2**63 - 1, -2**63):
        key_hash = cell.sql("a", "SELECT hashtextextended(CAST(%s AS bigint)::text, 0)", key)[0][0]
        got = cell.rig.api.get(f"/v1/shard-for-key?keyspace={cell.name}&key={key}")
        assert got["shard_id"] == ring.owner(key_hash) == client.shard_for_key(key)[0] and int(got["hash"]) == key_hash
    # One key, however it is written.
    assert cell.rig.api.get(f"/v1/shard-for-key?keyspace={cell.name}&key=0042")["key"] == "42"
    for bad in ("4.2", "x", "", "99999999999999999999"):
        with pytest.raises(RouteError):
            client.shard_for_key(bad)
        with pytest.raises(ApiError) as refused:
            cell.rig.api.get(f"/v1/shard-for-key?keyspace={cell.name}&key={bad}")
        assert refused.value.status == 400
    client.close()


def test_execute_over_rest(cell):
    def run(**body):
        return cell.rig.api.post("/v1/execute", {"keyspace": cell.name, "shard_key": "7", **body})

    got = run(sql="SELECT id, name FROM customers WHERE id = $1", params=[7])
    assert got["shard_id"] == f"{cell.name}-a" and [str(v) for v in got["results"][0]["rows"][0]] == ["7", "customer 7"]
    got = run(statements=[{"sql": "UPDATE customers SET name = $1 WHERE id = 7", "params": ["x"]},
                          {"sql": "SELECT name FROM customers WHERE id = 7"}])
    assert got["results"][0]["rows_affected"] == 1 and got["results"][1]["rows"] == [["x"]]
    with pytest.raises(ApiError) as bad:
        run(statements=[{"sql": "UPDATE customers SET name = 'half' WHERE id = 7"}, {"sql": "SELECT 1/0"}])
    assert bad.value.code == "sql_error" and bad.value.details["sqlstate"] == "22012"
    assert run(sql="SELECT name FROM customers WHERE id = 7")["results"][0]["rows"] == [["x"]]
    # What can never succeed is not to be tried again.
    body = json.dumps({"keyspace": cell.name, "shard_key": "7", "sql": "SELECT $1::text"}).encode()
    status, headers, text = cell.rig.api.raw("POST", "/v1/execute", body, {"Content-Type": "application/json"})
    assert status == 422 and json.loads(text)["error"]["details"]["sqlstate"] == "08P01" and "Retry-After" not in headers
    got = run(sql="SELECT count(*) FROM customers", consistency="eventual")
    assert got["results"][0]["rows_affected"] == 1


class Events(threading.Thread):
    """Server-sent events as they come."""

    def __init__(self, base):
        super().__init__(daemon=True)
        self.response = urllib.request.urlopen(base + "/api/v1/events", timeout=60)
        assert self.response.headers["Content-Type"].startswith("text/event-stream")
        self.events = []

    def run(self):
        try:
            for line in self.response:
                if line.startswith(b"data:"):
                    self.events.append(json.loads(line[5:]))
        except (OSError, ValueError, AttributeError):
            pass


def test_events_of_a_new_publisher_that_were_missed_are_a_gap(rig):
    """It has published before the gateway knew of it: who follows the events is told to read the state again."""
    events = Events(rig.api.base)
    events.start()
    socket = zmq.Context.instance().socket(zmq.PUB)
    socket.setsockopt(zmq.LINGER, 0)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    key = b"/shardplane/services/manager/late"
    catalog.write(rig.stack.etcd.endpoint, key, {"kind": "manager", "id": "late", "events_endpoint": f"tcp://127.0.0.1:{port}"})
    try:
        def told():
            socket.send_multipart([b"test.late", msgpack.packb({1: 42, 3: "test.late", 4: "late"})])
            return [e for e in events.events if e.get("publisher") == "late"]

        assert rig.stack.wait_for("the event", told, 10 * SLOW)[0]["kind"] == "gap"
    finally:
        catalog.delete(rig.stack.etcd.endpoint, key)
        socket.close()


def test_events_tell_the_story_of_a_job(cell):
    events = Events(cell.rig.api.base)
    events.start()
    cell.split()
    cell.wait("completed")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        states = [e.get("state") for e in events.events if e.get("job_id") == cell.job_id and e["kind"] == "job.state"]
        if "completed" in states:
            break
        time.sleep(0.1)
    order = [s for s in ("precopy", "deltasync", "validating", "ready", "cutover", "completed") if s in states]
    assert order == ["precopy", "deltasync", "validating", "ready", "cutover", "completed"], states
    assert states.index("precopy") < states.index("completed")


def test_a_keyspace_that_is_made_again_goes_on_counting(rig):
    """Routers and clients that remember the first one never take an older ring."""
    name, seen = rig.new_name("again"), []
    for _ in range(3):
        rig.api.post("/api/v1/keyspaces", {"name": name})
        seen.append(rig.api.get(f"/api/v1/keyspaces/{name}")["ring_version"])
        rig.api.delete(f"/api/v1/keyspaces/{name}")
    assert seen[0] < seen[1] < seen[2], seen


def test_a_sequence_number_stands_for_one_request(rig):
    """The same again gets the first answer; another request under the same number is told so, even one whose body is the same."""
    codec, leader = Codec(), rig.stack.service(rig.leader())

    def ask(name, body):
        envelope = {"version": 1, "message": codec.messages[name]["id"], "request_id": uuid.uuid4().hex, "client_id": client, "sequence": 7}
        with zmq.Context.instance().socket(zmq.DEALER) as s:
            s.setsockopt(zmq.LINGER, 0)
            s.connect(leader.address("listen"))
            s.send_multipart([msgpack.packb(codec.pack("envelope", envelope)), msgpack.packb(codec.pack(name, body))])
            assert s.poll(10000), "no answer"
            head, text = (msgpack.unpackb(part, strict_map_key=False) for part in s.recv_multipart())
        kind = codec.by_id[head[2]]
        return kind, codec.unpack(kind, text)

    client, name = f"client-{uuid.uuid4().hex[:8]}", rig.new_name("once")
    first = ask("keyspace_create", {"name": name})
    assert first[0] == "keyspace" and ask("keyspace_create", {"name": name}) == first
    assert ask("keyspace_create", {"name": name + "x"})[1]["code"] == "idempotency_mismatch"
    client = f"client-{uuid.uuid4().hex[:8]}"
    assert ask("job_cancel", {"job_id": "nosuchjob00"})[1]["code"] == "not_found"
    assert ask("job_retry", {"job_id": "nosuchjob00"})[1]["code"] == "idempotency_mismatch"
