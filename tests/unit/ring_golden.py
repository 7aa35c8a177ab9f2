#!/usr/bin/python3
"""Writes tests/unit/ring_golden.h: what a real PostgreSQL says about key hashes and key texts.

usage: ring_golden.py DSN > tests/unit/ring_golden.h
"""
import random
import sys

import psycopg2

INTS = ["0", "-0", "+0", "00", "42", "042", "+42", "+042", "-42", "-042", " 42", "42 ", "\t42\n", " \v\f\r42", "4 2", "", " ", "+", "-", "+-1",
        "-+1", "--1", "++1", "1.0", "1e3", "0x1F", "1_000", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
        "-9223372036854775809", "000000000000000000000000000000000042", "99999999999999999999", "12a", "a12", "\u00a042", "\u0664\u0662",
        "- 1", "+ 1", "42\u2003"]
UUIDS = ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
         "a0eebc999c0b4ef8bb6d6bb9bd380a11", "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11", "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
         "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a111", "a0-eebc999c0b4ef8bb6d6bb9bd380a11",
         "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", "-a0eebc999c0b4ef8bb6d6bb9bd380a11",
         "a0eebc999c0b4ef8bb6d6bb9bd380a11-", "a0eebc99--9c0b-4ef8-bb6d-6bb9bd380a11", " a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
         "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11 ", "", "{}", "{", "00000000-0000-0000-0000-000000000000",
         "ffffffff-ffff-ffff-ffff-ffffffffffff", "g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1\u00e9"]


def hash_inputs():
    r = random.Random(20240)
    alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _-/#'\"\\"
    for n in range(65):
        yield "".join(r.choice(alphabet) for _ in range(n))
    for n in range(1, 26):
        yield "\u007f" * n
    yield from ["é", "ééé", "日本語", "日本語のキー", "\U0001f600", "\U0001f600\U0001f601x", "żółć", "\u00ff" * 11, "\U0010ffff" * 3, "e\u0301"]
    for i in (0, 1, -1, 42, 2**31, -2**31, 2**63 - 1, -2**63, 1234567890123):
        yield str(i)
    for u in UUIDS[:1]:
        yield u
    for _ in range(60):
        yield "".join(chr(r.choice([r.randrange(1, 128), r.randrange(128, 0x800), r.randrange(0x800, 0xD800), r.randrange(0x10000, 0x110000)]))
                      for _ in range(r.randrange(1, 90)))
    yield "x" * 1000


def c_text(s):
    return '"' + "".join(chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in s.encode()) + '"'


def ask(cur, text, cast):
    try:
        cur.execute(f"SELECT %s::text::{cast}::text", (text,))
        return cur.fetchone()[0]
    except psycopg2.Error:
        return None


def main():
    conn = psycopg2.connect(sys.argv[1])
    conn.autocommit = True
    conn.set_client_encoding("UTF8")
    cur = conn.cursor()
    cur.execute("SHOW server_version")
    print(f"// Made by tests/unit/ring_golden.py from the answers of PostgreSQL {cur.fetchone()[0].split()[0]}. Do not edit.")
    print("// clang-format off")
    print("static const struct {\n    const char *text; // key\n    size_t len;       // bytes\n    int64_t hash;     // hashtextextended(text, 0)\n"
          "} golden_hashes[] = {")
    for s in hash_inputs():
        cur.execute("SELECT hashtextextended(%s, 0)", (s,))
        h = cur.fetchone()[0]
        print(f"    {{{c_text(s)}, {len(s.encode())}, {'INT64_MIN' if h == -2**63 else f'INT64_C({h})'}}},")
    print("};\n\nstatic const struct {\n    int key_type;     // sp_key_type_t\n    const char *in;   // as a client writes it\n"
          "    const char *out;  // as PostgreSQL prints it; NULL: it refuses\n} golden_keys[] = {")
    for kind, cast, inputs in (("SP_KEY_BIGINT", "int8", INTS), ("SP_KEY_UUID", "uuid", UUIDS)):
        for s in inputs:
            out = ask(cur, s, cast)
            print(f"    {{{kind}, {c_text(s)}, {'NULL' if out is None else c_text(out)}}},")
    print("};\n// clang-format on")


main()
