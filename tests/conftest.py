"""Makes `ledger` (tests/ledger) and `spstack` (tools/localstack.d) importable, whatever folder pytest starts in; and gives each of
pytest-xdist's workers a folder and ports of its own."""
import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
for path in (HERE, os.path.join(HERE, "..", "tools", "localstack.d")):
    path = os.path.realpath(path)
    if path not in sys.path:
        sys.path.insert(0, path)

WORKER = os.environ.get("PYTEST_XDIST_WORKER")  # gw0, gw1, ...
if WORKER:
    os.environ["SP_SYSTEM_DIR"] = os.path.join(os.environ.get("SP_SYSTEM_DIR", os.path.join(HERE, "..", "build", "system")), WORKER)
    # No worker takes the port of a process that another worker has just killed.
    os.environ["SP_PORT_BASE"] = str(int(os.environ.get("SP_PORT_BASE", "20000")) + 2000 * int(WORKER[2:]))
