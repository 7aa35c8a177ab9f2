"""Makes `ledger` (tests/ledger) and `spstack` (tools/localstack.d) importable, whatever folder pytest starts in."""
import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
for path in (HERE, os.path.join(HERE, "..", "tools", "localstack.d")):
    path = os.path.realpath(path)
    if path not in sys.path:
        sys.path.insert(0, path)
