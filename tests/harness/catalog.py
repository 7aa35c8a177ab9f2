"""The catalog as it stands in etcd, for what no API shows."""
import base64
import ctypes
import ctypes.util
import json
import urllib.request


def ask(endpoint, what, **fields):
    """One call of etcd's JSON gateway; bytes go as base64."""
    body = json.dumps({name: base64.b64encode(value).decode() for name, value in fields.items()}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{endpoint}/v3/kv/{what}", data=body), timeout=10) as r:
        return json.load(r)


def read(endpoint, first=b"\0", last=b"\0"):
    """{key: value} from `first` up to `last`; everything by default."""
    kvs = ask(endpoint, "range", key=first, range_end=last).get("kvs", [])
    return {base64.b64decode(kv["key"]): base64.b64decode(kv.get("value", "")) for kv in kvs}


def write(endpoint, key, record):
    ask(endpoint, "put", key=key, value=json.dumps(record).encode())


def delete(endpoint, key):
    ask(endpoint, "deleterange", key=key)


def dump(endpoint):
    """All keys and values as bytes."""
    return b"\n".join(key + b"=" + value for key, value in read(endpoint).items())


def shard(endpoint, shard_id):
    key = f"/shardplane/shards/{shard_id}".encode()
    return json.loads(read(endpoint, key, key + b"\0")[key])


def unseal(key_file, sealed):
    """What a sealed DSN says."""
    library = ctypes.CDLL(ctypes.util.find_library("sodium"))
    with open(key_file, encoding="ascii") as f:
        key = bytes.fromhex(f.read().strip())
    raw = base64.b64decode(sealed.removeprefix("v1:"))
    nonce, box = raw[:24], raw[24:]
    out = ctypes.create_string_buffer(len(box) - 16)
    if library.crypto_secretbox_open_easy(out, box, ctypes.c_ulonglong(len(box)), nonce, key) != 0:
        raise AssertionError("not sealed with this key")
    return out.raw.decode()
