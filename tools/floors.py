#!/usr/bin/python3
"""Checks the floors: every #include against the may-include table in docs/architecture.md.

    tools/floors.py              check this tree; exit 1 and one line a violation when there are any
    tools/floors.py --self-test  plant one violation of each kind in a scratch tree and see each of them found

The table itself is the rule: its first column names a folder, its second what the folder may include besides common/base and
itself, its third the third-party libraries whose headers may stand there.
"""
import os
import re
import sys
import tempfile

REPO = os.path.realpath(os.path.join(os.path.dirname(__file__), ".."))

# How a library shows in an #include line.
LIBRARY_HEADERS = {
    "libsodium": r"sodium(\.h|/)",
    "msgpack-c": r"msgpack(\.h|/)",
    "jansson": r"jansson\.h",
    "czmq": r"(czmq|czmq_.*|zsock|zactor|zloop|zmsg|zframe|zpoller|zcert|zauth)\.h",
    "libzmq": r"zmq(_utils)?\.h",
    "libcurl": r"curl/",
    "libpq": r"(libpq-fe|libpq-events|postgres_ext|pg_config)\.h|libpq/",
    "libmicrohttpd": r"microhttpd\.h",
}
# Folders without input and output: no sockets, no files, no threads.
PURE = ("common/ring", "common/job")
IMPURE_HEADERS = r"(sys/socket|netinet/.*|arpa/.*|poll|sys/epoll|pthread|sys/stat|fcntl|unistd|sys/un)\.h"
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')
ROW = re.compile(r"^\|\s*`([^`]+)`\s*\|([^|]*)\|([^|]*)\|\s*$")


class TableError(Exception):
    pass


def read_table(path):
    """{folder: (set of folders or None for anything, set of libraries or None, {service: libraries})}"""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    match = re.search(r"^## Floors\n(.*?)(?=^## )", text, re.M | re.S)
    if not match:
        raise TableError(f"{path}: no section `## Floors`")
    table = {}
    for line in match.group(1).splitlines():
        row = ROW.match(line)
        if not row:
            continue
        folder, may, libraries = row.group(1), re.sub(r"\([^)]*\)", "", row.group(2)).strip(), row.group(3).strip()
        if may == "anything":
            allowed = None
        elif may.startswith("all of common but client"):
            allowed = {"common/*"}
        else:
            allowed = {"common/" + name.strip() for name in may.split(",") if name.strip() not in ("", "-")}
        everywhere, only = set(), {}
        for item in (i.strip() for i in libraries.split(",")):
            if item in ("", "-"):
                continue
            name, _, where = item.partition(" in ")
            if name not in LIBRARY_HEADERS:
                raise TableError(f"{path}: unknown library {name!r} in the row of {folder}")
            if where:
                only.setdefault(f"services/{where}", set()).add(name)
            else:
                everywhere.add(name)
        table[folder] = (allowed, None if allowed is None else everywhere, only)
    if "common/base" not in table or "services/X" not in table:
        raise TableError(f"{path}: the table lacks common/base or services/X")
    return table


def folder_of(path):
    """common/ring/key.h -> common/ring; tools and tests are one folder each."""
    parts = path.split("/")
    if parts[0] in ("common", "services") and len(parts) > 2:
        return "/".join(parts[:2])
    return parts[0]


def rule_of(folder, table):
    if folder in table:
        return table[folder]
    if folder.startswith("services/"):
        return table["services/X"]
    return None


def check_quoted(folder, target, rule):
    """A reason why `folder` may not include "target", or None."""
    own = folder_of(target)
    if target.startswith("schemas/"):
        if folder in PURE + ("common/base",) and target != "schemas/errors.h":
            return "only schemas/errors.h of the generated headers may stand here"
        return None
    if not target.startswith(("common/", "services/", "tools/", "tests/")):
        return "include by full path from the top of the tree"
    if own == folder or own == "common/base":
        return None
    allowed = rule[0]
    if allowed is None or own in allowed:
        return None
    if "common/*" in allowed and own.startswith("common/") and own != "common/client":
        return None
    if own.startswith("services/") and folder.startswith("services/"):
        return "a service never includes another service"
    return f"{folder} may not include {own}"


def check_system(folder, target, rule):
    """A reason why `folder` may not include <target>, or None."""
    if folder in PURE and re.fullmatch(IMPURE_HEADERS, target):
        return "this floor is pure: no input or output"
    if rule[1] is None:
        return None
    for library, pattern in LIBRARY_HEADERS.items():
        if re.match(pattern, target):
            if library in rule[1] or library in rule[2].get(folder, ()):
                return None
            return f"{library} does not enter at {folder}"
    return None


def check_file(root, path, table):
    """Violations of one file, as text."""
    folder = folder_of(path)
    rule = rule_of(folder, table)
    if rule is None:
        return [f"{path}: folder {folder} has no row in the floors table"]
    found = []
    with open(os.path.join(root, path), encoding="utf-8", errors="replace") as f:
        for number, line in enumerate(f, 1):
            m = INCLUDE.match(line)
            if not m:
                continue
            # A project header in <> would pass unseen.
            quoted = m.group(1) == '"' or m.group(2).startswith(("common/", "services/", "schemas/"))
            reason = (check_quoted if quoted else check_system)(folder, m.group(2), rule)
            if quoted and reason and any(re.match(p, m.group(2)) for p in LIBRARY_HEADERS.values()):
                reason = check_system(folder, m.group(2), rule) or "third-party headers stand in <>"
            if reason:
                found.append(f"{path}:{number}: {line.strip()}: {reason}")
    return found


def check_tree(root):
    table = read_table(os.path.join(root, "docs", "architecture.md"))
    found, files = [], 0
    for top in ("common", "services"):
        for folder, _, names in os.walk(os.path.join(root, top)):
            for name in sorted(names):
                if name.endswith((".c", ".h")):
                    files += 1
                    found += check_file(root, os.path.relpath(os.path.join(folder, name), root), table)
    return sorted(found), files


# (file, its text, whether that is a violation)
PLANTS = (
    ("common/base/good.c", '#include "common/base/error.h"\n#include <stdlib.h>\n#include "schemas/errors.h"\n', False),
    ("common/mesh/good.c", '#include <czmq.h>\n#include "common/wire/wire.h"\n#include "schemas/route.h"\n', False),
    ("services/gateway/good.c", '#include <microhttpd.h>\n#include "common/pg/conn.h"\n', False),
    ("common/ring/up.c", '#include "common/wire/wire.h"\n', True),
    ("common/base/up.c", '#include "common/config/config.h"\n', True),
    ("common/ring/family.c", '#include "schemas/route.h"\n', True),
    ("common/job/socket.c", "#include <sys/socket.h>\n", True),
    ("common/store/pq.c", "#include <libpq-fe.h>\n", True),
    ("common/store/pq2.c", '#  include "libpq-fe.h"\n', True),
    ("common/pg/svc.c", '#include "services/router/router.h"\n', True),
    ("services/router/other.c", '#include "services/manager/manager.h"\n', True),
    ("services/router/client.c", '#include "common/client/shardplane.h"\n', True),
    ("services/router/angle.c", "#include <common/client/shardplane.h>\n", True),
    ("services/manager/http.c", "#include <microhttpd.h>\n", True),
    ("services/manager/relative.c", '#include "manager.h"\n', True),
    ("common/utils/new.c", '#include "common/base/error.h"\n', True),
)


def self_test():
    """Each plant alone in a tree: found exactly when it is a violation."""
    wrong = []
    with open(os.path.join(REPO, "docs", "architecture.md"), encoding="utf-8") as f:
        doc = f.read()
    for path, text, bad in PLANTS:
        with tempfile.TemporaryDirectory() as root:
            for name, content in (("docs/architecture.md", doc), (path, text)):
                os.makedirs(os.path.dirname(os.path.join(root, name)), exist_ok=True)
                with open(os.path.join(root, name), "w", encoding="utf-8") as f:
                    f.write(content)
            found, _ = check_tree(root)
        if bool(found) != bad:
            wrong.append(f"{path}: {'not found' if bad else 'wrongly refused: ' + found[0]}")
    for line in wrong:
        print("floors self-test: " + line, file=sys.stderr)
    return not wrong


def main():
    if sys.argv[1:] == ["--self-test"]:
        ok = self_test()
        print(f"floors self-test: {len(PLANTS)} plants, {'ok' if ok else 'FAILED'}")
        return 0 if ok else 1
    if sys.argv[1:]:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    try:
        found, files = check_tree(REPO)
    except (TableError, OSError) as e:
        print(f"floors: {e}", file=sys.stderr)
        return 1
    for line in found:
        print(line, file=sys.stderr)
    print(f"floors: {files} files, {len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
