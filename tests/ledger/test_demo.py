"""The demo fails when anything is wrong: its verdict, with each fault planted in a clean report."""
import copy
import importlib.util
import os

import pytest

HERE = os.path.dirname(os.path.realpath(__file__))
SPEC = importlib.util.spec_from_file_location("demo", os.path.join(HERE, "..", "..", "tools", "demo.py"))
demo = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(demo)

CLEAN = {
    "ledger": {"lost": 0, "duplicated": 0, "stale": 0, "misplaced": 0, "phantom": 0},
    "writes": {"attempted": 10, "acknowledged": 10, "unknown": 0, "failed": 0},
    "stale_writes": {"attempted": 5, "refused": 5, "accepted": 0},
    "write_pause_ms": {"longest": 80.0, "fence_to_open": 30.0},
    "ring_version": {"before": 1, "after": 2},
}
CHECK = {"ok": True}


def test_a_clean_report_has_no_problem():
    assert demo.problems(CLEAN, CHECK) == []


@pytest.mark.parametrize("path, value", [(("ledger", k), 1) for k in CLEAN["ledger"]] + [
    (("stale_writes", "accepted"), 1), (("stale_writes", "attempted"), 0), (("stale_writes", "refused"), 4), (("writes", "failed"), 1),
    (("write_pause_ms", "longest"), 1000.0), (("ring_version", "after"), 1)])
def test_each_fault_is_a_problem(path, value):
    report = copy.deepcopy(CLEAN)
    report[path[0]][path[1]] = value
    assert len(demo.problems(report, CHECK)) == 1


def test_a_finding_of_the_product_s_own_check_is_a_problem():
    assert demo.problems(CLEAN, {"ok": False, "findings": [{"kind": "guard_missing", "message": "x"}]})
