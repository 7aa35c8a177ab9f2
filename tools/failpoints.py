#!/usr/bin/python3
"""The failpoints of the code against docs/failpoints.md.

    tools/failpoints.py --check    exit 1 and a line for each failpoint that the page lacks, names in vain, or does not explain
    tools/failpoints.py --update   rewrites the page's table: explanations are kept, new ones are left as `?`
    tools/failpoints.py --names [SERVICE]   the names, one a line, e.g. for tests that kill a service at each of them

A failpoint is sp_failpoint("name"); the manager's are also made of names: job_step(job, "name", ...) has job_<name>_before and
job_<name>_after, and so has each job_transition(job, SP_JOB_EV_<NAME>, ...).
"""
import os
import re
import sys

REPO = os.path.realpath(os.path.join(os.path.dirname(__file__), ".."))
PAGE = os.path.join(REPO, "docs", "failpoints.md")
ROW = re.compile(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \|$", re.M)
HEAD = """# Failpoints

Named places where a test makes a process fail: `SHARDPLANE_FAILPOINTS="fence_after_seal:kill;copy_range_after_commit:error*2"`. Actions: `kill`
(SIGKILL to itself), `stop` (SIGSTOP to itself), `error` (the step fails with `failpoint`), `sleep=<ms>`, `hold=<path>` (it waits there for
as long as that file exists). `*n`: only the first n times; `@k`: from the k-th passage on (neither for `hold`). Without the variable a passage
costs one load. `tools/failpoints.py --check` compares this page with the code; `--update` rewrites the table and keeps what stands in its
last column.

| failpoint | where | what has happened when it is passed |
|---|---|---|
"""


def sources():
    for top in ("common", "services"):
        for folder, _, names in sorted(os.walk(os.path.join(REPO, top))):
            for name in sorted(names):
                if name.endswith(".c"):
                    path = os.path.join(folder, name)
                    with open(path, encoding="utf-8") as f:
                        yield os.path.relpath(path, REPO), f.read()


def failpoints():
    """{name: file}"""
    found = {}
    for path, text in sources():
        if path.startswith("common/base/"):
            continue
        for name in re.findall(r'sp_failpoint\(\s*"(\w+)"', text):
            found.setdefault(name, path)
        for name, when in re.findall(r'job_failpoint\(\s*"(\w+)",\s*"(\w+)"', text):
            found.setdefault(f"job_{name}_{when}", path)
        steps = re.findall(r'job_step\(\s*\w+,\s*"(\w+)"', text)
        for call in re.findall(r"job_transition\(([^;]*);", text):
            steps += [event.lower() for event in re.findall(r"SP_JOB_EV_(\w+)", call)]
        for name in steps:
            found.setdefault(f"job_{name}_before", path)
            found.setdefault(f"job_{name}_after", path)
    return found


def default_text(name):
    """What follows from the name alone, for those made of names."""
    match = re.fullmatch(r"job_(\w+)_(before|after)", name)
    if not match:
        return "?"
    if match.group(2) == "before":
        return f"`{match.group(1)}` is about to be done; a step's intent is recorded"
    return f"`{match.group(1)}` is done; a step is not yet recorded as done"


def page():
    try:
        with open(PAGE, encoding="utf-8") as f:
            return {name: (where, text.strip()) for name, where, text in ROW.findall(f.read())}
    except FileNotFoundError:
        return {}


def update():
    old = page()
    rows = []
    for name, where in sorted(failpoints().items(), key=lambda item: (item[1], item[0])):
        text = old.get(name, ("", "?"))[1]
        rows.append(f"| `{name}` | {where} | {default_text(name) if text == '?' else text} |\n")
    with open(PAGE, "w", encoding="utf-8") as f:
        f.write(HEAD + "".join(rows))


def check():
    code, docs = failpoints(), page()
    wrong = [f"{code[n]}: failpoint {n} is not in docs/failpoints.md" for n in code if n not in docs]
    wrong += [f"docs/failpoints.md: {n} is not in the code" for n in docs if n not in code]
    wrong += [f"docs/failpoints.md: {n} is in {code[n]}, not in {docs[n][0]}" for n in docs if n in code and docs[n][0].strip() != code[n]]
    wrong += [f"docs/failpoints.md: {n} is not explained" for n in docs if docs[n][1] in ("", "?")]
    print("".join(f"{line}\n" for line in sorted(wrong)), end="")
    print(f"failpoints: {len(code)}, {len(wrong)} findings")
    return 1 if wrong else 0


def main():
    if sys.argv[1:] == ["--check"]:
        return check()
    if sys.argv[1:] == ["--update"]:
        update()
        return check()
    if sys.argv[1:2] == ["--names"] and len(sys.argv) <= 3:
        folder = f"services/{sys.argv[2]}/" if len(sys.argv) == 3 else ""
        print("\n".join(sorted(n for n, where in failpoints().items() if where.startswith(folder))))
        return 0
    print(__doc__, file=sys.stderr)
    return 2


sys.exit(main())
