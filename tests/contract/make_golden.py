#!/usr/bin/python3
"""Writes tests/contract/golden.json: for each message bytes that Python's msgpack made, and the JSON that means the same.

The file is committed; golden_test.c holds our decoder and encoder to it. Run this again only when a message was added or got
fields, and look at the difference: bytes of fields that existed before must not change.

    tests/contract/make_golden.py > tests/contract/golden.json
"""
import base64
import json
import pathlib
import sys

import msgpack

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import schemagen  # noqa: E402

TEXTS = ["a\u00e9\u4e2d\U0001f600", "line\nquote\"\\tab\t", "plain", "\u007f del"]
INTS = [0, 1, -1, 127, 128, -33, 255, 256, 65535, 65536, 2 ** 31, 2 ** 32, -(2 ** 31) - 1, 2 ** 63 - 1, -(2 ** 63)]
FLOATS = [0.5, -1.25e300, 3.0, 1e-7, 0.1]


class Sampler:
    """Deterministic samples: each call takes the next value that fits the field."""

    def __init__(self, model):
        self.model = model
        self.count = 0

    def next(self, choices):
        self.count += 1
        return choices[self.count % len(choices)]

    def text(self, low, high):
        value = self.next(TEXTS)
        while len(value.encode()) > high:
            value = "x"[:high]
        return value + "y" * max(0, low - len(value.encode()))

    def free(self, depth=0):
        """(msgpack, JSON) of a free value."""
        kind = self.next(["null", "bool", "int", "float", "text", "bytes", "list", "map"])
        if kind == "bytes":
            return b"\x00\xff\x10", base64.b64encode(b"\x00\xff\x10").decode()
        if kind == "list" and depth < 2:
            pairs = [self.free(depth + 1) for _ in range(3)]
            return [p[0] for p in pairs], [p[1] for p in pairs]
        if kind == "map" and depth < 2:
            pairs = {name: self.free(depth + 1) for name in ("k\u00e9y", "other")}
            return {k: p[0] for k, p in pairs.items()}, {k: p[1] for k, p in pairs.items()}
        value = {"null": None, "bool": True, "int": self.next(INTS), "float": self.next(FLOATS)}.get(kind, self.next(TEXTS))
        return value, value

    def element(self, field):
        """(msgpack, JSON) of one element of a field."""
        _, base, name = schemagen.split_type(field["type"])
        low, high = schemagen.bounds(field)
        if base == "bool":
            value = self.next([True, False])
        elif base == "int":
            value = self.next([i for i in INTS if low <= i <= high] or [low])
            return value, str(value) if field.get("json") == "string" else value
        elif base == "float":
            value = self.next(FLOATS)
        elif base == "string":
            value = self.text(low, high)
        elif base == "bytes":
            return b"\x01\x02", base64.b64encode(b"\x01\x02").decode()
        elif base == "enum":
            names = list(self.model.enums[name]["values"].items())
            word, number = self.next(names)
            return number, word
        elif base == "part":
            return self.message(self.model.messages[name])
        else:
            return self.free()
        return value, value

    def field(self, field):
        if not schemagen.split_type(field["type"])[0]:
            return self.element(field)
        pairs = [self.element(field) for _ in range(min(2, field.get("max_items", 2)))]
        return [p[0] for p in pairs], [p[1] for p in pairs]

    def message(self, message, minimal=False):
        packed, text = {}, {}
        for field in sorted(message["fields"], key=lambda f: f["id"]):
            if minimal and not field.get("required"):
                if "default" in field:
                    text[field["name"]] = field["default"]
                continue
            packed[field["id"]], text[field["name"]] = self.field(field)
        return packed, text


def main():
    model = schemagen.Model(ROOT / "schemas")
    schemagen.validate(model)
    held = {schemagen.split_type(f["type"])[2] for m in model.messages.values() for f in m["fields"]}
    rows = []
    for name in sorted(n for n, m in model.messages.items() if "id" in m or n not in held):
        for variant in ("full", "minimal"):
            packed, text = Sampler(model).message(model.messages[name], variant == "minimal")
            rows.append({"message": name, "variant": variant, "msgpack": msgpack.packb(packed, use_bin_type=True).hex(),
                         "json": text})
    print("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]")


if __name__ == "__main__":
    main()
