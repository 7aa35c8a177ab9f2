"""The generators refuse what would become wrong C code, and the committed documents are what the schemas say."""
import json
import os
import re
import shutil
import subprocess

import pytest

REPO = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
SCHEMAGEN = os.path.join(REPO, "tools", "schemagen.py")


def schemagen(schemas, *args):
    return subprocess.run(["/usr/bin/python3", SCHEMAGEN, "--schemas", str(schemas), *args], cwd=REPO, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def message(data, name):
    return next(m for m in data["messages"] if m["name"] == name)


def field(data, name, of):
    return next(f for f in message(data, name)["fields"] if f["name"] == of)


# What is planted in route.json, and what must be said about it.
DEFECTS = {
    "a message id twice": (lambda d: message(d, "execute").update(id=101), "is taken by"),
    "a field id twice": (lambda d: field(d, "execute", "sql").update(id=1), "field id stands twice"),
    "a field name twice": (lambda d: field(d, "execute", "sql").update(name="keyspace"), "field name stands twice"),
    "an unknown type": (lambda d: field(d, "execute", "sql").update(type="text"), "unknown type text"),
    "an unknown part": (lambda d: field(d, "execute", "statements").update(type="list:part:nothing"), "unknown type"),
    "an unknown enum": (lambda d: field(d, "execute", "consistency").update(type="enum:nothing"), "unknown type"),
    "an unknown reply": (lambda d: message(d, "execute").update(reply="nothing"), "no message with an id"),
    "an unknown error": (lambda d: message(d, "execute").update(errors=["nothing"]), "not in errors.json"),
    "a C word": (lambda d: field(d, "execute", "sql").update(name="default"), "not usable as a C name"),
    "a route twice": (lambda d: message(d, "execute")["rest"].update(path="/v1/shards-for-keys"), "same route"),
    "a path without its field": (lambda d: message(d, "execute")["rest"].update(path="/v1/execute/{shard}"), "in=path differ"),
    "a default outside its bounds": (lambda d: field(d, "execute", "keyspace").update(default=""), "default does not fit"),
    "a GET with a body": (lambda d: field(d, "shard_for_key", "key").pop("in"), "has no body"),
    "a misspelt key": (lambda d: field(d, "execute", "sql").update(requried=True), "unknown key requried"),
    "too many fields": (lambda d: message(d, "execute")["fields"].extend(
        {"id": 100 + i, "name": f"f{i}", "type": "int", "doc": "x"} for i in range(64)), "more than 64 fields"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_wrong_schema_is_refused(name, tmp_path):
    plant, says = DEFECTS[name]
    schemas = tmp_path / "schemas"
    shutil.copytree(os.path.join(REPO, "schemas"), schemas)
    data = json.loads((schemas / "route.json").read_text())
    plant(data)
    (schemas / "route.json").write_text(json.dumps(data))
    done = schemagen(schemas, "--out", str(tmp_path / "out"))
    assert done.returncode == 1 and says in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


def test_documents_are_what_the_schemas_say(tmp_path):
    done = schemagen("schemas", "--openapi", "docs/openapi.json", "--messages", "docs/messages.md", "--check")
    assert done.returncode == 0, done.stderr
    stale = tmp_path / "messages.md"
    stale.write_text("# Messages\n")
    done = schemagen("schemas", "--messages", str(stale), "--check")
    assert done.returncode == 1 and "make docs" in done.stderr and stale.read_text() == "# Messages\n"


def test_openapi_holds_every_route():
    with open(os.path.join(REPO, "docs", "openapi.json"), encoding="utf-8") as f:
        document = json.load(f)
    for family in os.listdir(os.path.join(REPO, "schemas")):
        if family.endswith(".json") and family != "errors.json":
            with open(os.path.join(REPO, "schemas", family), encoding="utf-8") as f:
                for m in json.load(f)["messages"]:
                    if "rest" in m:
                        assert document["paths"][m["rest"]["path"]][m["rest"]["method"].lower()]["operationId"] == m["name"]
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"], name


def test_the_architecture_names_what_there_is():
    """Files and functions that a reader is sent to."""
    with open(os.path.join(REPO, "docs", "architecture.md"), encoding="utf-8") as f:
        page = f.read()
    sources = {}
    for top in ("common", "services", "tools"):
        for folder, _, names in os.walk(os.path.join(REPO, top)):
            sources.update({os.path.join(folder, name): name for name in names if name.endswith((".c", ".h", ".py", ".sql"))})
    code = "".join(open(path, encoding="utf-8").read() for path in sources)
    quoted = set(re.findall(r"`([^`\n]+)`", page))
    files = {q for q in quoted if re.fullmatch(r"[\w/]*\w\.(c|py|sql)", q) and not re.match(r"(.*/)?X[._]", q)}  # X: any name
    functions = {m for q in quoted for m in re.findall(r"^(\w+)\(\)$", q)}
    assert len(files) > 30 and len(functions) > 5
    assert not [f for f in files if not any(path.endswith("/" + f) for path in sources)]
    assert not [f for f in functions if not re.search(rf"\b{f}\(", code)]


@pytest.mark.parametrize("text, code", [
    ("-- name: one\nSELECT '\"\\??/ é';\n", 0), ("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;\n", 1),
    ("-- name: one two\nSELECT 1;\n-- name: -x\nSELECT 1;\n", 1), ("-- name: one\n\n-- name: two\nSELECT 1;\n", 1),
])
def test_embedded_sql(text, code, tmp_path):
    source, header, program = tmp_path / "a.sql", tmp_path / "a.h", tmp_path / "a.c"
    source.write_text(text)
    done = subprocess.run(["/usr/bin/python3", os.path.join(REPO, "tools", "sqlgen.py"), str(source), str(header)], text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == code, done.stderr
    if code == 0:
        program.write_text(f'#include <stdio.h>\n#include "{header}"\nint main(void) {{ fputs(SP_SQL_ONE, stdout); return 0; }}\n')
        subprocess.run(["gcc", "-Wall", "-Werror", "-o", str(tmp_path / "a"), str(program)], check=True)
        assert subprocess.run([str(tmp_path / "a")], stdout=subprocess.PIPE, check=True).stdout.decode() == text.split("\n", 1)[1].rstrip("\n")
