#!/usr/bin/python3
"""Embeds a SQL file in a C header: sqlgen.py IN.sql OUT.h

Each section that opens with a line `-- name: foo` becomes `static const char SP_SQL_FOO[]`; what stands before the first
section is the file's own comment. A file without sections becomes one string named after the file.
"""
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from c_escape import c_escape  # noqa: E402

SECTION = re.compile(r"^--\s*name:\s*(\S+)\s*$")
NAME = re.compile(r"^[a-z][a-z0-9_]*$")


def c_line(text):
    return f'    "{c_escape(text)}\\n"'


def sections(text, fallback):
    found, lines = {}, None
    for number, line in enumerate(text.splitlines(), 1):
        match = SECTION.match(line)
        if match:
            name = match.group(1)
            if not NAME.match(name) or name in found:
                raise ValueError(f"line {number}: section {name!r} is no name of a-z0-9_, or stands twice")
            lines = found[name] = []
        elif lines is not None:
            lines.append(line)
    return found or {fallback: text.splitlines()}


def trim(lines):
    while lines and not lines[0].strip():
        lines = lines[1:]
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return lines


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    source, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    guard = "SP_GEN_SQL_" + re.sub(r"[^A-Za-z0-9]", "_", str(source.with_suffix(""))).upper() + "_H"
    out = [f"// Made by tools/sqlgen.py from {source}; do not edit.", f"#ifndef {guard}", f"#define {guard}", ""]
    try:
        found = sections(source.read_text(), re.sub(r"[^a-z0-9]", "_", source.stem.lower()))
    except ValueError as fault:
        print(f"{source}: {fault}", file=sys.stderr)
        return 1
    for name, lines in found.items():
        lines = trim(lines)
        if not lines:
            print(f"{source}: section {name} is empty", file=sys.stderr)
            return 1
        out.append(f"static const char SP_SQL_{name.upper()}[] __attribute__((unused)) =")
        body = [c_line(line) for line in lines]
        body[-1] = body[-1][:-3] + '";'  # no newline behind the last line
        out += body + [""]
    out += ["#endif", ""]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
