#!/usr/bin/python3
"""Turns schemas/*.json into C field tables and error lists, docs/openapi.json and docs/messages.md.

    schemagen.py --schemas schemas --out build/gen/schemas
    schemagen.py --schemas schemas --openapi docs/openapi.json --messages docs/messages.md [--check]

With --check nothing is written: exit code 1 tells that a file differs from what the schemas say. The rules of the schemas
stand in schemas/README.md; whatever breaks one is refused here, all of it at once, so that no C code is made from it.
"""
import argparse
import json
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from c_escape import c_escape  # noqa: E402

INT64_MIN, INT64_MAX = -(2 ** 63), 2 ** 63 - 1
FIELDS_MAX = 64  # SP_WIRE_MAX_FIELDS in common/wire/field.h
STRING_MAX, LIST_MAX, MESSAGE_MAX = 255, 1000, 1024 * 1024
SCALARS = {"bool", "int", "float", "string", "bytes", "value"}
METHODS = {"GET", "POST", "PUT", "DELETE", "PATCH"}
FIELD_KEYS = {"id", "name", "type", "doc", "required", "since", "min", "max", "max_items", "default", "json", "secret", "in",
              "one_of"}
MESSAGE_KEYS = {"name", "id", "doc", "fields", "reply", "other_reply", "errors", "service", "rest",
                "permission", "max_bytes"}
NAME = re.compile(r"^[a-z][a-z0-9_]*$")
C_WORDS = set("""auto break case char const continue default do double else enum extern float for goto if inline int long
register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while bool true false
asm typeof""".split())


class Model:
    """What the schemas say, looked up by name."""

    def __init__(self, folder):
        self.errors = []    # rows of errors.json
        self.families = {}  # name -> the file's JSON
        self.messages = {}  # name -> message; "family" is added
        self.enums = {}     # name -> enum; "family" is added
        self.faults = []    # everything wrong
        for path in sorted(pathlib.Path(folder).glob("*.json")):
            data = json.loads(path.read_text(), object_pairs_hook=self.no_duplicates(path))
            if path.stem == "errors":
                self.errors = data["errors"]
                continue
            if data.get("family") != path.stem:
                self.faults.append(f"{path}: family is not {path.stem}")
            self.families[path.stem] = data
            for kind, into in (("messages", self.messages), ("enums", self.enums)):
                for item in data.get(kind, []):
                    if item["name"] in into:
                        self.faults.append(f"{path}: {kind} {item['name']} stands twice")
                    item["family"] = path.stem
                    into[item["name"]] = item

    def no_duplicates(self, path):
        def hook(pairs):
            if len({k for k, _ in pairs}) != len(pairs):
                self.faults.append(f"{path}: duplicate keys in {dict(pairs)}")
            return dict(pairs)
        return hook

    def sorted_messages(self):
        return sorted((m for m in self.messages.values() if "id" in m), key=lambda m: m["id"])


def split_type(text):
    """'list:part:x' -> (True, 'part', 'x'); 'int' -> (False, 'int', None)."""
    is_list = text.startswith("list:")
    base, _, name = (text[5:] if is_list else text).partition(":")
    return is_list, base, name or None


def bounds(field):
    """(min, max) of the value of a number, of the bytes of a string."""
    base = split_type(field["type"])[1]
    if base in ("string", "bytes"):
        return field.get("min", 0), field.get("max", STRING_MAX)
    return field.get("min", INT64_MIN), field.get("max", INT64_MAX)


# ---- validation

def default_fits(model, field):
    is_list, base, name = split_type(field["type"])
    value = field["default"]
    low, high = bounds(field)
    if is_list:
        return False
    if base == "bool":
        return isinstance(value, bool)
    if base == "int":
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    if base == "float":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if base == "string":
        # The C side takes the text between the quotes as it stands.
        return isinstance(value, str) and low <= len(value.encode()) <= high and json.dumps(value) == f'"{value}"'
    return base == "enum" and value in model.enums.get(name, {}).get("values", {})


def check_field(model, where, field):
    faults = model.faults
    for key in sorted(set(field) - FIELD_KEYS):
        faults.append(f"{where}: unknown key {key}")
    for key in ("id", "name", "type", "doc"):
        if not field.get(key):
            faults.append(f"{where}: {key} is missing")
            return
    if not NAME.match(field["name"]) or field["name"] in C_WORDS or field["name"].startswith("has_"):
        faults.append(f"{where}: not usable as a C name")
    if not 1 <= field["id"] <= 65535:
        faults.append(f"{where}: id {field['id']} is outside 1..65535")
    is_list, base, name = split_type(field["type"])
    known = base in SCALARS and name is None or base == "enum" and name in model.enums or \
        base == "part" and name in model.messages
    if not known or (is_list and base in ("bool", "float", "bytes", "enum")):
        faults.append(f"{where}: unknown type {field['type']}")
        return
    low, high = bounds(field)
    if not (INT64_MIN <= low <= high <= INT64_MAX):
        faults.append(f"{where}: min and max contradict each other")
    if "default" in field and (field.get("required") or not default_fits(model, field)):
        faults.append(f"{where}: the default does not fit type and bounds, or the field is required")
    if field.get("json", "string") != "string" or ("json" in field and base != "int"):
        faults.append(f"{where}: json is only \"string\", and only for int")
    if field.get("in", "query") not in ("path", "query") or ("in" in field and (is_list or base in ("part", "value", "bytes"))):
        faults.append(f"{where}: in is path or query, and only for scalars")
    if "max_items" in field and not is_list:
        faults.append(f"{where}: max_items without a list")


def check_route(model, message, routes):
    where, rest = f"{message['family']}.{message['name']}", message["rest"]
    faults, named = model.faults, set(re.findall(r"{([a-z0-9_]+)}", rest["path"]))
    if rest["method"] not in METHODS or not rest["path"].startswith("/") or not 200 <= rest.get("status", 0) <= 299:
        faults.append(f"{where}: rest needs method, path and a status of 2xx")
    shape = (rest["method"], re.sub(r"{[a-z0-9_]+}", "{}", rest["path"]))
    if shape in routes:
        faults.append(f"{where}: same route as {routes[shape]}")
    routes[shape] = where
    for key in ("service", "reply", "permission", "id"):
        if key not in message:
            faults.append(f"{where}: a message with a route needs {key}")
    if named != {f["name"] for f in message["fields"] if f.get("in") == "path"}:
        faults.append(f"{where}: path and fields with in=path differ")
    if rest["method"] in ("GET", "DELETE") and any("in" not in f for f in message["fields"]):
        faults.append(f"{where}: {rest['method']} has no body, so each field needs in")


def validate(model):
    faults, ids, routes = model.faults, {}, {}
    names = {row["name"] for row in model.errors}
    if len(names) != len(model.errors) or len({row["code"] for row in model.errors}) != len(model.errors):
        faults.append("errors: a name or code stands twice")
    for row in model.errors:
        if row["code"] >= 0 or not NAME.match(row["name"]) or not 400 <= row["http"] <= 599:
            faults.append(f"errors.{row['name']}: code is negative, http 4xx or 5xx, name a C name")
    for enum in model.enums.values():
        values = enum["values"]
        if not values or len(set(values.values())) != len(values) or not all(NAME.match(n) for n in values):
            faults.append(f"enum {enum['name']}: values are named, unique integers")
    for message in model.messages.values():
        where = f"{message['family']}.{message['name']}"
        for key in sorted(set(message) - MESSAGE_KEYS - {"family"}):
            faults.append(f"{where}: unknown key {key}")
        if not NAME.match(message["name"]) or not message.get("doc") or "fields" not in message:
            faults.append(f"{where}: needs a C name, doc and fields")
            continue
        if "id" in message:
            if message["id"] in ids or not 1 <= message["id"] <= 65535:
                faults.append(f"{where}: id {message['id']} is taken by {ids.get(message['id'])} or outside 1..65535")
            ids[message["id"]] = where
        for key in ("reply", "other_reply"):
            if key in message and "id" not in model.messages.get(message[key], {}):
                faults.append(f"{where}: {key} {message[key]} is no message with an id")
        for error in message.get("errors", []):
            if error not in names:
                faults.append(f"{where}: error {error} is not in errors.json")
        if len(message["fields"]) > FIELDS_MAX:
            faults.append(f"{where}: more than {FIELDS_MAX} fields")
        for key in ("id", "name"):
            seen = [f.get(key) for f in message["fields"]]
            if len(set(seen)) != len(seen):
                faults.append(f"{where}: a field {key} stands twice")
        for field in message["fields"]:
            check_field(model, f"{where}.{field.get('name')}", field)
        if "rest" in message:
            check_route(model, message, routes)


# ---- C

def c_string(text):
    return f'"{c_escape(text)}"'


def c_int(value):
    if value == INT64_MIN:
        return "INT64_MIN"
    return "INT64_MAX" if value == INT64_MAX else f"INT64_C({value})" if abs(value) > 2 ** 31 - 1 else str(value)


def comment(field):
    return "// " + field["doc"].replace("\n", " ")


def member(field):
    """C declarations of a field: list of (declaration, comment)."""
    is_list, base, name = split_type(field["type"])
    element = {"bool": "bool", "int": "int64_t", "float": "double", "string": "sp_str_t", "bytes": "sp_str_t", "value": "sp_value_t",
               "enum": "int64_t", "part": f"sp_msg_{name}_t"}[base]
    text = comment(field)
    if base == "enum":
        text += f" SP_{name.upper()}_*"
    if is_list:
        return [(f"struct {{ {element} *items; size_t n; }} {field['name']};", text)]
    if base == "part":
        return [(f"{element} *{field['name']};", text)]
    if base in ("bool", "int", "float", "enum"):
        return [(f"{element} {field['name']};", text), (f"bool has_{field['name']};", "// it was there, or has a default")]
    return [(f"{element} {field['name']};", text)]


def needed(model, family):
    """(parts, families) that a family's messages refer to."""
    parts, families = set(), set()
    for message in model.families[family]["messages"]:
        parts |= {message[key] for key in ("reply", "other_reply") if key in message}
        for field in message["fields"]:
            _, base, name = split_type(field["type"])
            if base == "part":
                parts.add(name)
            if base == "enum":
                families.add(model.enums[name]["family"])
    families |= {model.messages[p]["family"] for p in parts}
    return sorted(parts), sorted(families - {family})


def family_header(model, family):
    data, guard = model.families[family], f"SP_GEN_SCHEMAS_{family.upper()}_H"
    parts, families = needed(model, family)
    out = [f"// Made by tools/schemagen.py from schemas/{family}.json; do not edit.", f"// {data['doc']}", f"#ifndef {guard}",
           f"#define {guard}", "", '#include "common/wire/wire.h"', ""]
    own = [m["name"] for m in data["messages"]]
    out += [f"typedef struct sp_msg_{name} sp_msg_{name}_t;" for name in sorted(set(own) | set(parts))]
    for enum in data.get("enums", []):
        prefix = f"SP_{enum['name'].upper()}_"
        out += ["", "enum {"] + [f"    {prefix}{n.upper()} = {c_int(v)}," for n, v in enum["values"].items()] + ["};"]
        out.append(f"extern const sp_enum_t sp_enum_{enum['name']};")
    for message in data["messages"]:
        out += ["", "// " + message["doc"].replace("\n", "\n// "), f"struct sp_msg_{message['name']} {{"]
        for field in message["fields"]:
            out += [f"    {declaration} {text}" for declaration, text in member(field)]
        if not message["fields"]:
            out.append("    char nothing; // the message has no fields")
        out += ["};", f"extern const sp_schema_t sp_schema_{message['name']};"]
        if "id" in message:
            out.append(f"#define SP_MSG_{message['name'].upper()} {message['id']}")
    # Behind everything, so that families may refer to each other in a circle.
    out += [""] + [f'#include "schemas/{name}.h"' for name in families] + ["", "#endif", ""]
    return "\n".join(out)


def field_row(message, field):
    is_list, base, name = split_type(field["type"])
    low, high = bounds(field)
    row = {".id": field["id"], ".name": c_string(field["name"]), ".type": f"SP_T_{base.upper()}",
           ".list": "true" if is_list else None, ".required": "true" if field.get("required") else None,
           ".json_string": "true" if field.get("json") == "string" else None, ".secret": "true" if field.get("secret") else None,
           ".in": "'" + field.get("in", "body")[0] + "'", ".min": c_int(low), ".max": c_int(high),
           ".max_items": field.get("max_items", LIST_MAX) if is_list else None,
           ".def": c_string(json.dumps(field["default"])) if "default" in field else None,
           ".enumeration": f"&sp_enum_{name}" if base == "enum" else None, ".part": f"&sp_schema_{name}" if base == "part" else None,
           ".offset": f"offsetof(sp_msg_{message['name']}_t, {field['name']})",
           ".has_offset": f"offsetof(sp_msg_{message['name']}_t, has_{field['name']})"
                          if base in ("bool", "int", "float", "enum") and not is_list else None}
    return "    {" + ", ".join(f"{k} = {v}" for k, v in row.items() if v is not None) + "},"


def family_source(model, family):
    data = model.families[family]
    out = [f"// Made by tools/schemagen.py from schemas/{family}.json; do not edit.", f'#include "schemas/{family}.h"', ""]
    for enum in data.get("enums", []):
        out.append(f"static const sp_enum_row_t enum_rows_{enum['name']}[] = {{")
        out += [f"    {{.name = {c_string(n)}, .value = {c_int(v)}}}," for n, v in enum["values"].items()]
        out += ["};", f"const sp_enum_t sp_enum_{enum['name']} = {{.name = {c_string(enum['name'])}, "
                f".rows = enum_rows_{enum['name']}, .n = {len(enum['values'])}}};", ""]
    for message in data["messages"]:
        name, fields, rest = message["name"], sorted(message["fields"], key=lambda f: f["id"]), message.get("rest", {})
        if fields:
            out += [f"static const sp_field_t fields_{name}[] = {{"] + [field_row(message, f) for f in fields] + ["};"]
        row = {".name": c_string(name), ".id": message.get("id"), ".size": f"sizeof(sp_msg_{name}_t)",
               ".max_bytes": message.get("max_bytes", MESSAGE_MAX), ".fields": f"fields_{name}" if fields else None,
               ".n": len(fields) or None, ".service": message.get("service"), ".method": rest.get("method"),
               ".path": rest.get("path"), ".status": rest.get("status"), ".permission": message.get("permission"),
               ".reply": f"&sp_schema_{message['reply']}" if "reply" in message else None,
               ".other_reply": f"&sp_schema_{message['other_reply']}" if "other_reply" in message else None}
        for key in (".service", ".method", ".path", ".permission"):
            row[key] = c_string(row[key]) if row[key] else None
        out.append(f"const sp_schema_t sp_schema_{name} = {{" + ", ".join(f"{k} = {v}" for k, v in row.items() if v is not None) + "};")
        out.append("")
    return "\n".join(out)


def errors_header(model):
    out = ["// Made by tools/schemagen.py from schemas/errors.json; do not edit.", "#ifndef SP_GEN_SCHEMAS_ERRORS_H",
           "#define SP_GEN_SCHEMAS_ERRORS_H", "", "#include <stdbool.h>", "#include <stddef.h>", "", "enum {", "    SP_OK = 0,"]
    out += [f"    SP_E_{r['name'].upper()} = {r['code']}, // {r['doc']}" for r in model.errors]
    out += ["};", "", "typedef struct sp_error_row {", "    const char *name; // as in messages and answers",
            "    int code;         // SP_E_*", "    int http;         // status of the gateway's answer",
            "    bool retry;       // whether the same request can succeed later", "    const char *doc;  // for people",
            "} sp_error_row_t;", "", "extern const sp_error_row_t sp_error_rows[];", "extern const size_t sp_error_rows_n;", "",
            "#endif", ""]
    return "\n".join(out)


def errors_source(model):
    out = ["// Made by tools/schemagen.py from schemas/errors.json; do not edit.", '#include "schemas/errors.h"', "",
           "const sp_error_row_t sp_error_rows[] = {"]
    out += [f"    {{.name = {c_string(r['name'])}, .code = {r['code']}, .http = {r['http']}, "
            f".retry = {'true' if r['retry'] else 'false'}, .doc = {c_string(r['doc'])}}}," for r in model.errors]
    out += ["};", "const size_t sp_error_rows_n = sizeof(sp_error_rows) / sizeof(sp_error_rows[0]);", ""]
    return "\n".join(out)


def registry_source(model):
    out = ["// Made by tools/schemagen.py; do not edit.", '#include "common/wire/wire.h"']
    out += [f'#include "schemas/{name}.h"' for name in sorted(model.families)]
    out += ["", "const sp_schema_t *const sp_schemas[] = {"]
    out += [f"    &sp_schema_{m['name']}, // {m['id']}" for m in model.sorted_messages()]
    out += ["};", "const size_t sp_schemas_n = sizeof(sp_schemas) / sizeof(sp_schemas[0]);", ""]
    return "\n".join(out)


def c_files(model):
    files = {"errors.h": errors_header(model), "errors.c": errors_source(model), "registry.c": registry_source(model)}
    for family in model.families:
        files[f"{family}.h"] = family_header(model, family)
        files[f"{family}.c"] = family_source(model, family)
    return files


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--schemas", required=True, help="folder of the JSON files")
    parser.add_argument("--out", help="folder for the C files")
    parser.add_argument("--openapi", help="OpenAPI document to write")
    parser.add_argument("--messages", help="message reference to write")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file differs")
    args = parser.parse_args()

    model = Model(args.schemas)
    validate(model)
    if model.faults:
        print("\n".join(f"schemagen: {fault}" for fault in model.faults), file=sys.stderr)
        return 1
    files = {}
    if args.out:
        files.update({pathlib.Path(args.out) / name: text for name, text in c_files(model).items()})
    if args.openapi or args.messages:
        import schemadocs
        if args.openapi:
            files[pathlib.Path(args.openapi)] = schemadocs.openapi(model)
        if args.messages:
            files[pathlib.Path(args.messages)] = schemadocs.messages(model)
    differ = 0
    for path, text in files.items():
        if args.check:
            if not path.exists() or path.read_text() != text:
                differ = 1
                print(f"schemagen: {path} differs from the schemas: run `make docs`", file=sys.stderr)
        elif not path.exists() or path.read_text() != text:  # untouched, so that make rebuilds only what a change concerns
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return differ


if __name__ == "__main__":
    sys.exit(main())
