"""The ledger's shop on a stack: loaded into shard1, registered, ready to be split."""
from ledger import checker, shop


def shard_body(shard, name=None, **more):
    """A shard of `Stack.status()` as POST /api/v1/shards wants it."""
    body = {"name": name or shard["name"], "primary_endpoint": shard["primary_endpoint"],
            "admin_endpoint": shard["admin_endpoint"], "apply_endpoint": shard["apply_endpoint"],
            "replicas": [r["endpoint"] for r in shard["replicas"]]}
    body.update(more)
    return body


def register_tables(api, tables=shop.TABLES, keyspace="default"):
    for t in tables:
        api.post(f"/api/v1/keyspaces/{keyspace}/tables",
                 {"schema": t["schema"], "table": t["table"], "key_column": t["key"]}, timeout=60)


class Shop:
    """What was loaded, and the answer to "is it all still there?"."""

    def __init__(self, stack, api, customers=2000, orders=4000, items=8000):
        self.stack, self.api = stack, api
        self.sizes = {"customers": customers, "orders": orders}
        self.shards = {s["name"]: s for s in stack.status()["shards"]}
        self.rows, self.bytes = shop.load(self.shards["shard1"]["owner_endpoint"], customers, orders, items)
        api.post("/api/v1/shards", shard_body(self.shards["shard1"]), timeout=60)
        register_tables(api)
        self.base = checker.baseline(self.shards["shard1"]["superuser_endpoint"])

    def targets(self, *names):
        """Bodies of shards that are not registered yet."""
        return [shard_body(self.shards[n]) for n in names]

    def check(self, logs, leftovers=()):
        """The ledger's report over all registered shards, by the ring that the gateway shows."""
        ring = checker.Ring.fetch(self.api.base)
        registered = [s["id"] for s in self.api.retrying("GET", "/api/v1/shards").get("shards", [])]
        dsns = {name: self.shards[name]["superuser_endpoint"] for name in registered}
        return checker.check(checker.Ledger(self.base, logs), ring, dsns, leftovers=leftovers)
