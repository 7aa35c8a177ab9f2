"""A resharder alone: a private etcd and three PostgreSQL clusters, and this process as its manager, on pyzmq and msgpack."""
import base64
import ctypes
import ctypes.util
import json
import os
import re
import shutil
import subprocess
import time
import urllib.request

import msgpack
import psycopg2
import zmq

from spstack.ports import free_base

REPO = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
STACK = os.environ.get("SP_WORKER_STACK")
BIN = os.environ.get("SP_BIN", os.path.join(REPO, "bin"))
EVERYTHING = [-(1 << 63)]


class Codec:
    """Messages by the names that schemas/*.json give them."""

    def __init__(self):
        self.messages, self.enums = {}, {}
        for name in os.listdir(os.path.join(REPO, "schemas")):
            if name.endswith(".json") and name != "errors.json":
                with open(os.path.join(REPO, "schemas", name), encoding="utf-8") as f:
                    family = json.load(f)
                self.messages.update({m["name"]: m for m in family["messages"]})
                self.enums.update({e["name"]: e["values"] for e in family.get("enums", [])})
        self.by_id = {m["id"]: m["name"] for m in self.messages.values() if "id" in m}

    def _pack(self, kind, value):
        if kind.startswith("list:"):
            return [self._pack(kind[5:], v) for v in value]
        if kind.startswith("part:"):
            return self.pack(kind[5:], value)
        return self.enums[kind[5:]][value] if kind.startswith("enum:") and isinstance(value, str) else value

    def pack(self, name, body):
        fields = {f["name"]: f for f in self.messages[name]["fields"]}
        return {fields[k]["id"]: self._pack(fields[k]["type"], v) for k, v in body.items() if v is not None}

    def _unpack(self, kind, value):
        if kind.startswith("list:"):
            return [self._unpack(kind[5:], v) for v in value]
        if kind.startswith("part:"):
            return self.unpack(kind[5:], value)
        if kind.startswith("enum:"):
            return {v: k for k, v in self.enums[kind[5:]].items()}[value]
        return value

    def unpack(self, name, body):
        fields = {f["id"]: f for f in self.messages[name]["fields"]}
        return {fields[k]["name"]: self._unpack(fields[k]["type"], v) for k, v in body.items() if k in fields}


class Sealer:
    """crypto_secretbox as common/base/seal.h says it."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as f:
            self.key = bytes.fromhex(f.read().strip())
        self.lib = ctypes.CDLL(ctypes.util.find_library("sodium"))

    def seal(self, text):
        clear, nonce = text.encode(), os.urandom(24)
        box = ctypes.create_string_buffer(len(clear) + 16)
        assert self.lib.crypto_secretbox_easy(box, clear, ctypes.c_ulonglong(len(clear)), nonce, self.key) == 0
        return "v1:" + base64.b64encode(nonce + box.raw).decode()


class Etcd:
    def __init__(self, endpoint, prefix):
        self.endpoint, self.prefix = endpoint, prefix

    def _call(self, path, body):
        request = urllib.request.Request(self.endpoint + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=5) as r:
            return json.load(r)

    def put(self, key, value):
        b64 = lambda s: base64.b64encode(s.encode()).decode()
        self._call("/v3/kv/put", {"key": b64(f"{self.prefix}/{key}"), "value": b64(json.dumps(value))})
        kvs = self._call("/v3/kv/range", {"key": b64(f"{self.prefix}/{key}")})["kvs"]
        return int(kvs[0]["create_revision"])

    def delete(self, key):
        self._call("/v3/kv/deleterange", {"key": base64.b64encode(f"{self.prefix}/{key}".encode()).decode()})


class Worker:
    """bin/resharder as a child."""

    def __init__(self, rig, name, env=None, **config):
        self.rig, self.name = rig, name
        path = os.path.join(rig.folder, f"{name}.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump({"service_id": name, "metadata_endpoints": [rig.etcd.endpoint], "metadata_prefix": rig.etcd.prefix,
                       "secret_key_file": rig.status["secret_key_file"], "metrics_listen": "", **config}, f)
        self.log = os.path.join(rig.folder, f"{name}.log")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([os.path.join(BIN, "resharder"), "--config", path], stderr=log, stdout=log,
                                            env={**os.environ, **(env or {})})

    def logged(self):
        with open(self.log, encoding="utf-8") as f:
            return f.read()

    def stop(self):
        self.process.terminate()
        return self.process.wait(timeout=20)

    def state(self):
        """As in ps: R, S, T for stopped."""
        with open(f"/proc/{self.process.pid}/stat", encoding="utf-8") as f:
            return f.read().rsplit(")", 1)[1].split()[0]

    def kill(self):
        self.process.kill()
        self.process.wait(timeout=20)


class TaskFailed(Exception):
    def __init__(self, update):
        self.update = update
        self.error = update.get("error", {})
        super().__init__(f"{self.error.get('code')}: {self.error.get('message')}")


class Manager:
    """The leader, as far as workers see it."""

    def __init__(self, rig):
        self.rig, self.codec = rig, Codec()
        self.socket = zmq.Context.instance().socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        port = self.socket.bind_to_random_port("tcp://127.0.0.1", rig.port_base + 10, rig.port_base + 80)
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self.workers = {}   # worker id -> identity
        self.updates = {}   # task id -> all updates
        self.answer_heartbeats = True
        self.acknowledge = True
        self.heartbeat_ms = 10000  # this process looks at its socket only while it waits
        rig.etcd.delete("leader")
        self.epoch = rig.etcd.put("leader", {"service_id": "fake", "endpoint": self.endpoint})

    def close(self):
        self.socket.close(linger=0)

    def send(self, identity, name, body, request_id=None, epoch=None):
        envelope = {"version": 1, "message": self.codec.messages[name]["id"], "generation": 1, "epoch": epoch or self.epoch}
        if request_id:
            envelope["request_id"] = request_id
        self.socket.send_multipart([identity, msgpack.packb(self.codec.pack("envelope", envelope)), msgpack.packb(self.codec.pack(name, body))])

    def _handle(self):
        identity, envelope, body = self.socket.recv_multipart()
        envelope = self.codec.unpack("envelope", msgpack.unpackb(envelope, strict_map_key=False))
        name = self.codec.by_id[envelope["message"]]
        body = self.codec.unpack(name, msgpack.unpackb(body, strict_map_key=False))
        if name == "worker_hello":
            try:
                self.send(identity, "worker_welcome", {"heartbeat_ms": self.heartbeat_ms}, envelope.get("request_id"))
                self.workers[body["worker_id"]] = identity
            except zmq.ZMQError:
                pass  # it has waited too long, and says hello again on another connection
        elif name == "heartbeat" and self.answer_heartbeats:
            self.send(identity, "heartbeat", {})
        elif name == "task_update":
            self.updates.setdefault(body["task_id"], []).append(body)
            if body["state"] != "running" and self.acknowledge:
                self.send(identity, "task_ack", {"task_id": body["task_id"]})

    def wait(self, condition, seconds=30.0, what="a condition"):
        deadline = time.monotonic() + seconds
        while True:
            found = condition()
            if found:
                return found
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
            if self.socket.poll(50):
                self._handle()

    def identity(self, worker):
        """The newest connection of a worker."""
        return self.wait(lambda: [i for w, i in self.workers.items() if w.startswith(worker.name + "/")], what=f"{worker.name} to say hello")[-1]

    def assign(self, worker, task_id, kind, epoch=None, **fields):
        body = {"task_id": task_id, "job_id": self.rig.job, "attempt": 1, "kind": kind, "source_shard_id": "s1", **fields}
        self.send(self.identity(worker), "task_assign", body, epoch=epoch)

    def control(self, worker, task_id, verb, **fields):
        self.send(self.identity(worker), "task_control", {"task_id": task_id, "verb": verb, **fields})

    def last(self, task_id, state=None):
        found = [u for u in self.updates.get(task_id, []) if state is None or u["state"] == state]
        return found[-1] if found else None

    def result(self, task_id, seconds=60.0):
        """The final update; TaskFailed when it says so."""
        update = self.wait(lambda: self.last(task_id, "done") or self.last(task_id, "failed"), seconds, f"task {task_id} to end")
        if update["state"] == "failed":
            raise TaskFailed(update)
        return update

    def run(self, worker, task_id, kind, seconds=60.0, **fields):
        self.assign(worker, task_id, kind, **fields)
        return self.result(task_id, seconds)


class WorkerRig:
    def __init__(self, folder):
        self.folder, self.own_stack = folder, STACK is None
        os.makedirs(folder, exist_ok=True)
        stack = STACK or os.path.join(folder, "stack")
        if self.own_stack:
            subprocess.run([os.path.join(REPO, "tools", "localstack"), "up", "--no-services", "--dir", stack, "--shards", "3",
                            "--port-base", str(free_base())], check=True)
        out = subprocess.run([os.path.join(REPO, "tools", "localstack"), "status", "--json", "--dir", stack], check=True, capture_output=True, text=True)
        self.stack, self.status = stack, json.loads(out.stdout)
        self.port_base = int(self.status["etcd"]["endpoint"].rsplit(":", 1)[1])
        self.etcd = Etcd(self.status["etcd"]["endpoint"], f"/worker{os.getpid()}")
        self.shards = self.status["shards"]
        self.job = "jobabcdefghi"
        self.workers, self.managers = [], []

    def close(self):
        self.end()
        if self.own_stack:
            subprocess.run([os.path.join(REPO, "tools", "localstack"), "down", "--dir", self.stack], check=True)
            shutil.rmtree(self.folder, ignore_errors=True)

    def end(self):
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.kill()
        for manager in self.managers:
            manager.close()
        self.workers, self.managers = [], []

    def sql(self, shard, text, args=None, role="superuser_endpoint", fetch=False):
        connection = psycopg2.connect(self.shards[shard][role])
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(text, args)
                return cursor.fetchall() if cursor.description else None
        finally:
            connection.close()

    def reset(self):
        """Empty databases with schema shardplane, and a catalog that names them."""
        with open(os.path.join(REPO, "common", "owner", "sql", "install.sql"), encoding="utf-8") as f:
            install = f.read()
        schema = re.search(r"-- name: owner_schema\n(.*?)-- name: ", install, re.S).group(1)
        grants = install.split("-- name: owner_grant_apply\n")[1].replace("%1$s", "shardplane_apply")
        sealer = Sealer(self.status["secret_key_file"])
        for i, shard in enumerate(self.shards):
            for (slot,) in self.sql(i, "SELECT slot_name FROM pg_replication_slots", fetch=True):
                self.sql(i, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", (slot,))
                self.sql(i, "SELECT pg_sleep(0.1); SELECT pg_drop_replication_slot(%s)", (slot,))
            for (name,) in self.sql(i, "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'", fetch=True):
                self.sql(i, f'DROP SCHEMA "{name}" CASCADE')
            self.sql(i, "CREATE SCHEMA public AUTHORIZATION pg_database_owner; GRANT USAGE ON SCHEMA public TO PUBLIC")
            self.sql(i, schema + grants, role="admin_endpoint")
            self.sql(i, "INSERT INTO shardplane.control VALUES (true, 1, 1, 'c', %s, 'shop', 'shardplane_apply')", (f"s{i + 1}",), role="admin_endpoint")
            self.etcd.put("keyspaces/shop", {"name": "shop", "key_type": "bigint"})
            self.etcd.put(f"shards/s{i + 1}", {"id": f"s{i + 1}", "keyspace": "shop", "status": "empty", "apply_role": "shardplane_apply",
                                               **{k: sealer.seal(shard[k + "_endpoint"]) for k in ("primary", "admin", "apply")}})
        self.etcd.put("generation", {"generation": 1, "cluster_id": "c"})

    def manager(self):
        """A new leader: a later epoch, which all shards are told."""
        made = Manager(self)
        self.managers.append(made)
        for i in range(len(self.shards)):
            self.sql(i, "UPDATE shardplane.control SET epoch = %s", (made.epoch,))
        return made

    def worker(self, name="w1", env=None, **config):
        made = Worker(self, name, env, **config)
        self.workers.append(made)
        return made

    def table(self, schema, name, key):
        """A job_table as preflight would make it."""
        qualified = '"%s"."%s"' % (schema.replace('"', '""'), name.replace('"', '""'))
        oid, filenode, pages = self.sql(0, "SELECT c.oid::bigint, pg_relation_filenode(c.oid)::bigint, pg_relation_size(c.oid) / 8192 "
                                           "FROM pg_class c WHERE c.oid = %s::regclass", (qualified,), fetch=True)[0]
        columns = self.sql(0, "SELECT attname FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped AND attgenerated = '' "
                              "ORDER BY attnum", (oid,), fetch=True)
        primary = self.sql(0, "SELECT a.attname FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k(n, o), pg_attribute a "
                              "WHERE i.indrelid = %s AND i.indisprimary AND a.attrelid = i.indrelid AND a.attnum = k.n ORDER BY k.o", (oid,), fetch=True)
        return {"schema": schema, "table": name, "key_column": key, "oid": oid, "relfilenode": filenode, "pages": pages,
                "columns": [c for (c,) in columns], "primary_key": [c for (c,) in primary], "binary": True, "identity_before": "d"}
