#!/usr/bin/python3
"""The demo: loads a shop into one PostgreSQL shard, splits it in two while clients write, and proves that nothing was lost.

It starts a stack of its own (etcd, three PostgreSQL clusters, the services), loads three related tables into shard1, starts
writers through the router and writers that go straight to shard1 with a ring that never learns better, splits shard1 into
shard2 and shard3, and compares every row with the writers' ledger. Writes build/demo-report.json; exits non-zero when anything
is wrong. With --keep the stack stays up.
"""
import argparse
import json
import os
import shutil
import signal
import sys
import time

REPO = os.path.realpath(os.path.join(os.path.dirname(__file__), ".."))
sys.path[:0] = [os.path.join(REPO, "tests"), os.path.join(REPO, "tools", "localstack.d")]
from harness.api import Api, ApiError  # noqa: E402
from harness.shopstack import Shop  # noqa: E402
from harness.writers import Writers  # noqa: E402
from ledger import checker  # noqa: E402
from spstack.ports import free_base  # noqa: E402
from spstack.procs import StackError, tail  # noqa: E402
from spstack.stack import Stack  # noqa: E402

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CUSTOMERS, ORDERS, ITEMS = 50_000, 100_000, 200_000
ROUTER_WRITERS, DIRECT_WRITERS = 4, 2


def say(text=""):
    print(text, flush=True)


class Progress:
    """A line that is rewritten on a terminal, and a line a phase or two seconds elsewhere."""

    def __init__(self):
        self.tty = sys.stdout.isatty()
        self.state, self.shown = None, 0.0

    def show(self, job, writers):
        p = job.get("progress") or {}
        now = time.monotonic()
        if not self.tty and job["state"] == self.state and now - self.shown < 2.0:
            return
        self.state, self.shown = job["state"], now
        percent = float(p.get("percent", 0.0))
        bar = "#" * int(percent / 5) + "." * (20 - int(percent / 5))
        facts = []
        if p.get("rows_total"):
            facts.append(f"{p.get('rows_copied', 0):,}/{p['rows_total']:,} rows")
        if p.get("rate_bytes_per_s") and job["state"] == "precopy":
            facts.append(f"{p['rate_bytes_per_s'] / 1e6:.1f} MB/s")
        if job["state"] == "deltasync":
            facts.append(f"lag {p.get('lag_bytes', 0):,} B")
        if p.get("rows_applied"):
            facts.append(f"{p['rows_applied']:,} changes applied")
        if job["state"] == "validating":
            facts.append(f"{p.get('rows_validated', 0):,} rows compared")
        facts.append(f"{writers.acked('router'):,} writes acknowledged")
        line = f"  [{bar}] {percent:5.1f} %  {job['state']:<10} {', '.join(facts)}"
        if self.tty:
            # A line that wraps could not be rewritten.
            print("\r\033[K" + line[:shutil.get_terminal_size().columns - 1], end="", flush=True)
        else:
            say(line)

    def end(self):
        if self.tty:
            say()


def bring_up(args):
    """A fresh stack: on the documented ports where they are free, else on others."""
    stack = Stack(args.dir)
    options = {"shards": 3, "resharders": 2, "binaries": args.bin, "fresh": True}
    if args.port_base:
        return stack.up(port_base=args.port_base, **options)
    try:
        return stack.up(**options)
    except StackError as e:
        if "ports cannot be used" not in str(e):
            raise
        stack.down(purge=True)
        return Stack(args.dir).up(port_base=free_base(), **options)


def addresses(stack):
    status = stack.status()
    say(f"  gateway   {status['gateway']}   (try: bin/shardctl --gateway {status['gateway']} shard list)")
    for s in status["services"]:
        if s["kind"] != "gateway":
            say(f"  {s['id']:<12} {s['listen'] or '-':<24} http://{s['metrics']}/metrics")
    for s in status["shards"]:
        say(f"  {s['name']:<12} {s['host']}:{s['port']}/{s['database']}")
    say(f"  everything, with passwords: tools/localstack status --json --dir {os.path.relpath(status['dir'])}")
    say(f"  stop it with: tools/localstack down --purge --dir {os.path.relpath(status['dir'])}")


def wait_acked(writers, count, seconds=30.0):
    deadline = time.monotonic() + seconds
    while writers.acked("router") < count:
        if time.monotonic() > deadline:
            raise AssertionError(f"only {writers.acked('router')} writes were acknowledged within {seconds:g} s: {writers.stats()}")
        time.sleep(0.1)


def split_under_load(args, stack, api, shop, writers):
    """Returns the completed job and the Unix times at which it was asked for and seen to be completed."""
    router = [s["listen"] for s in stack.status()["services"] if s["kind"] == "router"]
    source = shop.shards["shard1"]
    # Three processes: each has a Python of its own. Long and prepared transactions begin with the change stream, because
    # preflight rightly refuses to start a split over them.
    writers.routers(router, ROUTER_WRITERS, rate=args.rate)
    writers.direct(source["primary_endpoint"], DIRECT_WRITERS, rate=args.rate / 2, mix={"long": 0, "prepared": 0})
    wait_acked(writers, 200)
    say(f"Splitting shard1 into shard2 and shard3 while {ROUTER_WRITERS} clients write through the router and "
        f"{DIRECT_WRITERS + 1} straight to shard1 ...")
    asked = time.time()
    job_id = api.split("shard1", shop.targets("shard2", "shard3"), key=f"demo-{int(asked)}")["id"]
    progress, special = Progress(), []

    def seen(job):
        if job["state"] not in ("pending", "precopy") and not special:
            special.append(1)
            writers.direct(source["primary_endpoint"], 1, rate=5, long_seconds=0.2, mix={"long": 10, "prepared": 20})
        progress.show(job, writers)

    try:
        job = api.wait_job(job_id, ("completed", "finalized"), seconds=args.deadline, seen=seen)
    finally:
        progress.end()
    done = time.time()
    # The clients go on: the stale ones must be refused, the others must not notice.
    wait_acked(writers, writers.acked("router") + 10 * args.rate)
    return job, asked, done


def finalize(api, job):
    """Gives up the way back and drops the moved rows from shard1."""
    if job["state"] != "finalized":
        api.post(f"/api/v1/reshard/jobs/{job['id']}/finalize", {"drop_source_rows": True}, timeout=60)
    return api.wait_job(job["id"], "finalized", seconds=60)


def make_report(shop, job, logs, ring, before, after, sealed, window):
    """The figures of build/demo-report.json."""
    phases = {}
    for p in job.get("phases", []):
        if p["name"] in ("completed", "finalized"):
            continue  # the time that this script took until it asked for the next step
        phases[p["name"]] = phases.get(p["name"], 0.0) + p.get("seconds", 0.0)
    copied = (job.get("progress") or {}).get("bytes_copied") or shop.bytes
    seconds = phases.get("precopy", 0.0)
    cutover = job.get("cutover") or {}
    counts = checker.count_outcomes(logs, "router")
    ledger = {k: after.counts[k] + sealed.counts[k] for k in checker.KINDS}
    flipped = cutover.get("flipped_ms", 0) / 1000
    source_dsn = shop.shards["shard1"]["superuser_endpoint"]
    return {
        "rows_loaded": shop.rows,
        "bytes_loaded": shop.bytes,
        "copy_seconds": round(seconds, 3),
        "copy_mb_per_s": round(copied / 1e6 / seconds, 2) if seconds else None,
        "phases": [{"name": n, "seconds": round(s, 3)} for n, s in phases.items()],
        "writes": counts,
        "direct_writes": checker.count_outcomes(logs, "direct"),
        "ledger": ledger,
        "unknown_resolved": after.unknown,
        "rows_checked": after.rows,
        "stale_writes": checker.stale_writes(logs, ring, "shard1", source_dsn, flipped),
        "write_pause_ms": {"longest": round(checker.longest_pause_ms(logs, "router", *window), 1),
                           "fence_to_open": round(cutover["fence_to_open_ms"], 1) if "fence_to_open_ms" in cutover else None},
        "write_latency_ms": {k: round(v, 2) for k, v in checker.latencies_ms(logs).items() if v is not None},
        "validated_rows": (job.get("validation") or {}).get("rows"),
        "ring_version": before,
    }


def problems(report, check):
    """Everything that makes the demo a failure, in words."""
    wrong = [f"{n} rows {kind}" for kind, n in report["ledger"].items() if n]
    if report["stale_writes"]["accepted"]:
        wrong.append(f"{report['stale_writes']['accepted']} stale writes accepted")
    neither = report["stale_writes"]["attempted"] - report["stale_writes"]["refused"] - report["stale_writes"]["accepted"]
    if neither > 0:  # an UPDATE of no row on a shard that owns nothing must be refused, too
        wrong.append(f"{neither} stale writes were neither refused nor accepted")
    if not report["stale_writes"]["attempted"]:
        wrong.append("no stale write was attempted: the demo proved less than it should")
    if report["writes"]["failed"]:
        wrong.append(f"{report['writes']['failed']} writes through the router failed")
    if report["write_pause_ms"]["longest"] >= 1000:
        wrong.append(f"a client waited {report['write_pause_ms']['longest']:.0f} ms for a write")
    if not check["ok"]:
        wrong += [f"shardctl check: {f.get('kind')} {f.get('shard_id', '')} {f.get('message', '')}" for f in check.get("findings", [])]
    if report["ring_version"]["after"] <= report["ring_version"]["before"]:
        wrong.append("the ring version did not rise")
    return wrong


def summary(report, seconds, path, wrong):
    w, s, p, lat = report["writes"], report["stale_writes"], report["write_pause_ms"], report["write_latency_ms"]
    defects = ", ".join(f"{n} {k}" for k, n in report["ledger"].items())
    say()
    say("  " + "-" * 86)
    say(f"  split       1 shard -> 2, {report['rows_loaded']:,} rows ({report['bytes_loaded'] / 1e6:.0f} MB) copied in "
        f"{report['copy_seconds']:.1f} s ({report['copy_mb_per_s']} MB/s), {report['validated_rows']:,} compared")
    two = f", {w['refused']} refused as over two shards" if w["refused"] else ""
    say(f"  writes      {w['acknowledged']:,} acknowledged through the router, {w['failed']} failed, {w['unknown']} unknown{two}; "
        f"p50 {lat['p50']} ms, p99 {lat['p99']} ms")
    say(f"  pause       {p['longest']:.0f} ms the longest wait of any of its clients; {p['fence_to_open']} ms from fence to open")
    say(f"  stale       {s['attempted']:,} writes to the old owner after the switch: {s['refused']:,} refused, "
        f"{s['accepted']} accepted")
    say(f"  ledger      {report['rows_checked']:,} rows checked: {defects}")
    say("  " + "-" * 86)
    say(f"  {'PASSED' if not wrong else 'FAILED'} in {seconds:.0f} s; figures in {os.path.relpath(path)}")
    for line in wrong:
        say(f"    {line}")


def run(args):
    began = time.monotonic()
    say("Starting etcd, three PostgreSQL clusters and the services ...")
    stack = bring_up(args)
    writers = None
    try:
        api = Api(stack.status()["gateway"], timeout=30)
        say(f"Loading {args.customers + args.orders + args.items:,} rows into shard1 ...")
        shop = Shop(stack, api, args.customers, args.orders, args.items)
        before = api.ring_version()
        writers = Writers(os.path.join(args.dir, "ledger"), shop.sizes, ROUTER_WRITERS + DIRECT_WRITERS + 1)
        job, asked, done = split_under_load(args, stack, api, shop, writers)
        logs = writers.stop()
        say("Checking every row against the ledger ...")
        ring = checker.Ring.fetch(api.base, at_least=job["ring_version_after"])
        sealed = shop.check(logs, leftovers=("shard1",))
        job = finalize(api, job)
        after = shop.check(logs)
        check = api.check()
        report = make_report(shop, job, logs, ring, {"before": before, "after": ring.version}, after, sealed, (asked, done))
        os.makedirs(os.path.dirname(args.report), exist_ok=True)
        with open(args.report, "w", encoding="utf-8") as f:
            json.dump(report, f, indent=2)
            f.write("\n")
        wrong = problems(report, check)
        summary(report, time.monotonic() - began, args.report, wrong)
        for example in (sealed.examples + after.examples)[:10]:
            say(f"    {example}")
        failed = bool(wrong)
        return 1 if failed else 0
    except (KeyboardInterrupt, SystemExit):
        failed = False  # its data are of no use to anybody
        say("\nInterrupted.")
        raise
    except (ApiError, AssertionError) as e:
        say(f"demo: {e}")
        for s in stack.services.values():
            say(f"--- end of {s.log}\n{tail(s.log, 8)}")
        failed = True
        return 1
    except BaseException:
        failed = True
        raise
    finally:
        # What is being stopped is stopped to its end.
        for s in SIGNALS:
            signal.signal(s, signal.SIG_IGN)
        if writers is not None:
            writers.kill()
        if args.keep:
            say("The stack stays up:")
            addresses(stack)
        else:
            # After a failure the logs are worth more than the disk.
            stack.down(purge=not failed)


def main():
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--keep", action="store_true", help="leave the stack up and print its addresses")
    parser.add_argument("--dir", default=os.path.join(REPO, "build", "demo"))
    parser.add_argument("--bin", default=os.path.join(REPO, "bin"))
    parser.add_argument("--report", default=os.path.join(REPO, "build", "demo-report.json"))
    parser.add_argument("--port-base", type=int)
    parser.add_argument("--customers", type=int, default=CUSTOMERS)
    parser.add_argument("--orders", type=int, default=ORDERS)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--rate", type=int, default=50, help="writes a second of each client through the router")
    parser.add_argument("--deadline", type=float, default=180.0, help="seconds that the split may take")
    args = parser.parse_args()
    for s in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, lambda number, _: sys.exit(128 + number))
    try:
        return run(args)
    except StackError as e:
        print(f"demo: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
