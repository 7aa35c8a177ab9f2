"""Writers: threads that each own some rows, change them in every way there is, and keep a ledger of it.

    python3 -m ledger.writer SPEC.json

runs the writers of SPEC until SIGTERM, and rewrites `<folder>/stats.json` twice a second. A spec:

    {"folder": "...", "writers": [{"via": "router", "endpoints": ["tcp://..."], "keyspace": "default"},
                                  {"via": "direct", "dsn": "postgresql://..."}],
     "first": 0, "of": 6, "customers": 50000, "orders": 100000, "rate": 50, "fsync": false, "seed": 1,
     "timeout_ms": 10000, "long_seconds": 1.0, "prepared": true, "hot": 500}

Writer n owns the loaded customers with id % of == first + n and the ids from (first + n + 1) * 10^9 on, so that each row has one
writer, and the order of its changes is the order of that writer's log.
"""
import faulthandler
import json
import os
import random
import signal
import sys
import threading
import time

from . import shop
from .executors import DirectExecutor, RouterExecutor
from .oplog import OUTCOMES, OpLog

# kind -> weight. `long` and `prepared` need a connection of one's own.
ROUTER_MIX = {"insert": 22, "update": 24, "toast_keep": 18, "delete": 8, "key_change": 8, "multi": 10, "new_customer": 6,
              "cascade": 4}
DIRECT_MIX = {**ROUTER_MIX, "long": 1, "prepared": 3}


class Row:
    """What the writer believes about a row of its own."""

    __slots__ = ("table", "pk", "key", "seq", "blob", "children")

    def __init__(self, table, pk, key, seq=0, blob=None):
        self.table, self.pk, self.key, self.seq, self.blob = table, pk, key, seq, blob
        self.children = 0

    def state(self):
        return [self.key, self.seq, self.blob]


class Writer:
    """One thread's worth of operations. step() does one."""

    def __init__(self, number, spec, executor, log):
        self.number = number
        self.spec = spec
        self.executor = executor
        self.log = log
        self.random = random.Random(spec.get("seed", 1) * 1000 + number)
        self.next_id = (number + 1) * 10**9
        self.last_version = 0
        self.customers = {}  # touched loaded ones and new ones, by id
        self.loaded_orders = {}
        self.orders = []      # new ones, live
        self.items = []       # new ones, live
        self.retired = set()  # rows of unknown fate: left alone, so that exactly two states stay possible
        mix = dict(ROUTER_MIX if executor.via == "router" else DIRECT_MIX)
        mix.update(spec.get("mix", {}))
        if not spec.get("prepared", True):
            mix.pop("prepared", None)
        self.kinds, self.weights = zip(*mix.items())
        self.counts = dict.fromkeys(OUTCOMES, 0)

    # -- choosing rows ------------------------------------------------------------------------------------------------

    def new_id(self):
        self.next_id += 1
        return self.next_id

    def version(self):
        """Versions are never used twice, so that what a refused operation left behind cannot pass for a later one's."""
        self.last_version += 1
        return self.last_version

    def pick_customer(self):
        """A loaded customer of this writer, from a small hot set so that rows are changed many times."""
        own = max(1, self.spec["customers"] // self.spec["of"])
        hot = min(own, self.spec.get("hot", 500))
        for _ in range(50):
            pk = self.random.randrange(hot) * (own // hot) * self.spec["of"] + self.number % self.spec["of"]
            if 1 <= pk <= self.spec["customers"] and ("customers", pk) not in self.retired:
                return self.customers.setdefault(pk, Row("customers", pk, pk))
        return None

    def pick_loaded_order(self):
        """A loaded order of a customer of this writer: its key column is not in its primary key."""
        customer = self.pick_customer()
        each = self.spec["orders"] // self.spec["customers"]
        if customer is None or each == 0:
            return None
        pk = customer.pk + self.random.randrange(each) * self.spec["customers"]
        if ("orders", pk) in self.retired:
            return None
        return self.loaded_orders.setdefault(pk, Row("orders", pk, customer.pk))

    def pick(self, rows, accept=lambda row: True):
        for _ in range(10):
            if not rows:
                return None
            row = rows[self.random.randrange(len(rows))]
            if (row.table, row.pk) not in self.retired and accept(row):
                return row
        return None

    # -- statements ---------------------------------------------------------------------------------------------------

    @staticmethod
    def insert(row, order=None):
        note = shop.note_of(row.table, row.pk, row.seq)
        blob = None if row.blob is None else shop.blob_of(row.pk, row.blob)
        if row.table == "customers":
            return ("INSERT INTO customers (id, name, profile, seq, note, blob) VALUES ($1, 'new', '{}', $2, $3, $4)",
                    [row.pk, row.seq, note, blob], 1)
        if row.table == "orders":
            return ("INSERT INTO orders (id, customer_id, seq, note, blob) VALUES ($1, $2, $3, $4, $5)",
                    [row.pk, row.key, row.seq, note, blob], 1)
        return ("INSERT INTO order_items (id, order_id, customer_id, seq, note, blob) VALUES ($1, $2, $3, $4, $5, $6)",
                [row.pk, order.pk, row.key, row.seq, note, blob], 1)

    @staticmethod
    def update(row, blob=False, key=False):
        """Sets version and note; the blob and the key only when told."""
        sql, params = "seq = $1, note = $2", [row.seq, shop.note_of(row.table, row.pk, row.seq)]
        if blob:
            params.append(shop.blob_of(row.pk, row.blob))
            sql += f", blob = ${len(params)}"
        if key:
            params.append(row.key)
            sql += f", customer_id = ${len(params)}"
        params.append(row.pk)
        return f"UPDATE {row.table} SET {sql} WHERE id = ${len(params)}", params, 1

    # -- operations: each returns (key, statements, [(row, new state or None)], adopt) or None ------------------------

    def op_insert(self):
        customer = self.pick_customer()
        if customer is None:
            return None
        seq = self.version()
        order = Row("orders", self.new_id(), customer.pk, seq, seq if self.random.random() < 0.5 else None)
        return customer.pk, [self.insert(order)], [(order, order.state())], lambda: self.orders.append(order)

    def op_update(self):
        row = self.random.choice((self.pick_customer, self.pick_loaded_order, lambda: self.pick(self.orders)))()
        if row is None:
            return None
        seq = self.version()
        after = Row(row.table, row.pk, row.key, seq, seq)
        return row.key, [self.update(after, blob=True)], [(row, after.state())], None

    def op_toast_keep(self):
        row = self.random.choice((self.pick_customer, self.pick_loaded_order,
                                  lambda: self.pick(self.orders, lambda r: r.blob is not None)))()
        if row is None:
            return None
        after = Row(row.table, row.pk, row.key, self.version(), row.blob)
        return row.key, [self.update(after)], [(row, after.state())], None

    def op_delete(self):
        items = bool(self.items) and self.random.random() < 0.5
        row = self.pick(self.items) if items else self.pick(self.orders, lambda r: r.children == 0)
        if row is None:
            return None

        def forget():
            (self.items if items else self.orders).remove(row)

        return row.key, [(f"DELETE FROM {row.table} WHERE id = $1", [row.pk], 1)], [(row, None)], forget

    def op_key_change(self):
        """An order passes to another customer: with another owner its row would have to move to another shard."""
        row = self.pick(self.orders, lambda r: r.children == 0)
        other = self.pick_customer()
        if row is None or other is None or other.pk == row.key:
            return None
        if self.random.random() < 0.8 and not self.executor.same_owner(row.key, other.pk):
            return None
        after = Row(row.table, row.pk, other.pk, self.version(), row.blob)
        return row.key, [self.update(after, key=True)], [(row, after.state())], None

    def op_multi(self):
        """An order with two items, and its customer's version: all or nothing."""
        customer = self.pick_customer()
        if customer is None:
            return None
        seq = self.version()
        order = Row("orders", self.new_id(), customer.pk, seq, seq)
        items = [Row("order_items", self.new_id(), customer.pk, seq) for _ in range(2)]
        after = Row("customers", customer.pk, customer.pk, seq, customer.blob)
        statements = [self.insert(order)] + [self.insert(i, order) for i in items] + [self.update(after)]

        def adopt():
            order.children = len(items)
            self.orders.append(order)
            self.items.extend(items)

        rows = [(order, order.state())] + [(i, i.state()) for i in items] + [(customer, after.state())]
        return customer.pk, statements, rows, adopt

    def op_new_customer(self):
        pk, seq = self.new_id(), self.version()
        customer = Row("customers", pk, pk, seq, seq)
        order = Row("orders", self.new_id(), pk, seq)

        def adopt():
            self.customers[customer.pk] = customer
            customer.children = order

        return (customer.pk, [self.insert(customer), self.insert(order)],
                [(customer, customer.state()), (order, order.state())], adopt)

    def op_cascade(self):
        """Deletes a customer of its own with its order: the foreign key takes the order along, as the table's owner."""
        own = [c for c in self.customers.values() if isinstance(c.children, Row) and ("customers", c.pk) not in self.retired]
        if not own:
            return None
        customer = self.random.choice(own)
        return (customer.pk, [("DELETE FROM customers WHERE id = $1", [customer.pk], 1)],
                [(customer, None), (customer.children, None)], lambda: self.customers.pop(customer.pk))

    # -- the loop -----------------------------------------------------------------------------------------------------

    def step(self):
        """Does one operation of a random kind; returns its outcome, or None when there was nothing to do it to."""
        kind = self.random.choices(self.kinds, self.weights)[0]
        mode = kind if kind in ("long", "prepared") else "plain"
        plan = (self.op_multi if mode != "plain" else getattr(self, f"op_{kind}"))()
        if plan is None:
            return None
        key, statements, rows, adopt = plan
        hold = self.spec.get("long_seconds", 1.0) if mode == "long" else 0.1
        number = self.log.intent(self.executor.via, kind, key, [[row.table, row.pk, state] for row, state in rows])
        outcome, code = self.executor.run(key, statements, mode, hold)
        self.log.outcome(number, outcome, code)
        self.counts[outcome] += 1
        if outcome == "ack":
            for row, state in rows:
                if state is not None:
                    row.key, row.seq, row.blob = state
            if adopt:
                adopt()
            if rows[0][1] is None and rows[0][0].table == "order_items":
                self._childless(rows[0][0])
        elif outcome != "error" and outcome != "refused":
            self.retired.update((row.table, row.pk) for row, _ in rows)
        return outcome

    def _childless(self, item):
        """An order whose items are gone may be deleted or change its key again: found by the ids that came in a row."""
        for order in self.orders:
            if order.children and order.pk < item.pk <= order.pk + 2:
                order.children -= 1

    def run(self, stop, rate):
        """Until `stop` is set, at most `rate` operations a second; a late one is not made up for."""
        interval = 1.0 / rate if rate else 0.0
        due = time.monotonic() + self.random.random() * interval
        while not stop.is_set():
            wait = due - time.monotonic()
            if wait > 0 and stop.wait(wait):
                break
            due = max(due + interval, time.monotonic() - interval)
            outcome = self.step()
            if outcome in ("error", "unknown"):
                stop.wait(0.02)  # a client that is refused everything must not spin


def make_executor(one, spec, number):
    if one["via"] == "router":
        return RouterExecutor(one["endpoints"], one.get("keyspace", "default"), spec.get("timeout_ms", 10000))
    return DirectExecutor(one["dsn"], f"writer{number}")


def run_spec(spec, ended):
    """Runs all writers of a spec in threads until `ended(seconds)`, which waits so long at the most, says that it is time."""
    os.makedirs(spec["folder"], exist_ok=True)
    writers, threads, broken, stop = [], [], [], threading.Event()

    def body(writer):
        try:
            writer.run(stop, spec.get("rate", 50))
        except Exception as e:  # pylint: disable=broad-except
            broken.append(f"writer {writer.number}: {type(e).__name__}: {e}")
            raise
        finally:
            writer.executor.close()

    for n, one in enumerate(spec["writers"]):
        number = spec.get("first", 0) + n
        log = OpLog(os.path.join(spec["folder"], f"{one['via']}-{number}.log"), spec.get("fsync", False))
        writers.append(Writer(number, spec, make_executor(one, spec, number), log))
        threads.append(threading.Thread(target=body, args=(writers[-1],), daemon=True))
    for t in threads:
        t.start()

    def stats():
        out = {"broken": broken, "via": {}}
        for w in writers:
            counts = out["via"].setdefault(w.executor.via, dict.fromkeys(OUTCOMES, 0))
            for name in OUTCOMES:
                counts[name] += w.counts[name]
        path = os.path.join(spec["folder"], f"stats-{spec.get('first', 0)}.json")
        with open(path + ".tmp", "w", encoding="utf-8") as f:
            json.dump(out, f)
        os.replace(path + ".tmp", path)

    parent = os.getppid()
    while not ended(0.5) and os.getppid() == parent:  # whoever started it may be killed
        stats()
    stop.set()
    for t in threads:
        t.join(timeout=90)
    stats()
    return 1 if broken or any(t.is_alive() for t in threads) else 0


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        spec = json.load(f)
    # Signals are waited for, not handled: a handler that sets an Event blocks for ever when it interrupts that Event's own wait().
    signals = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # before the threads begin: they inherit it
    faulthandler.register(signal.SIGUSR1)              # asked by who waits for this process in vain
    return run_spec(spec, lambda seconds: signal.sigtimedwait(signals, seconds) is not None)


if __name__ == "__main__":
    sys.exit(main())
