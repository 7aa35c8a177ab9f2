"""docs/openapi.json and docs/messages.md out of the schemas; called by schemagen.py."""
import json
import re

from schemagen import split_type

# What the gateway answers by itself: no message stands behind these paths. Description, type, whether 503 has an answer of the same form.
OWN_PATHS = {
    "/health": ("The gateway and what it sees, for people and load balancers; 503 while it cannot answer requests.", "application/json", True),
    "/api/v1/health": ("The same as /health.", "application/json", True),
    "/livez": ("The process runs.", "text/plain", False),
    "/readyz": ("The gateway can answer requests; 503 while it cannot.", "text/plain", True),
    "/metrics": ("Metrics in Prometheus' text format.", "text/plain", False),
    "/api/v1/events": ("Server-sent events: each `data` is an `event` message as JSON. A comment comes every 5 seconds. After a "
                       "reconnect with Last-Event-ID the missed events follow; an event `gap` means: read the state again.",
                       "text/event-stream", False),
}
# Errors of the gateway itself, possible on every route.
COMMON_ERRORS = ("malformed", "unknown_field", "missing_field", "invalid_argument", "too_large", "header_too_large", "method_not_allowed",
                 "rate_limited", "unavailable", "not_leader", "deadline_exceeded", "internal")


def ref(name):
    return {"$ref": f"#/components/schemas/{name}"}


def element_schema(model, field):
    _, base, name = split_type(field["type"])
    if base == "part":
        return ref(name)
    if base == "enum":
        return {"type": "string", "enum": list(model.enums[name]["values"])}
    if base == "value":
        kinds = [ref(split_type(t)[2]) if t.startswith("part:") else {"type": t} for t in field.get("one_of", [])]
        return {"oneOf": kinds} if kinds else {"description": "null, boolean, number, string, list or map"}
    if base == "int":
        if field.get("json") == "string":
            return {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"}
        out = {"type": "integer", "format": "int64"}
        out.update({"minimum": field["min"]} if "min" in field else {})
        out.update({"maximum": field["max"]} if "max" in field else {})
        return out
    if base in ("string", "bytes"):
        out = {"type": "string", "maxLength": field.get("max", 255)}
        out.update({"format": "byte"} if base == "bytes" else {})
        out.update({"minLength": field["min"]} if field.get("min") else {})
        return out
    return {"type": {"bool": "boolean", "float": "number"}[base]}


def field_schema(model, field):
    out = element_schema(model, field)
    if split_type(field["type"])[0]:
        out = {"type": "array", "items": out, "maxItems": field.get("max_items", 1000)}
    # In OpenAPI 3.0 nothing may stand beside a $ref.
    out = {"allOf": [out]} if "$ref" in out else dict(out)
    out["description"] = field["doc"]
    if "default" in field:
        out["default"] = field["default"]
    if field.get("secret"):
        out["writeOnly"] = True
    return out


def object_schema(model, message, fields):
    out = {"type": "object", "description": message["doc"],
           "properties": {f["name"]: field_schema(model, f) for f in fields}}
    required = [f["name"] for f in fields if f.get("required")]
    if required:
        out["required"] = required
    return out


def reachable(model, names):
    """The messages, and the parts inside them, at any depth."""
    found, queue = set(), list(names)
    while queue:
        name = queue.pop()
        if name in found:
            continue
        found.add(name)
        for field in model.messages[name]["fields"]:
            for text in [field["type"]] + field.get("one_of", []):
                if split_type(text)[1] == "part":
                    queue.append(split_type(text)[2])
    return found


def error_answers(model, names):
    """{status: response} of error codes."""
    by_status, rows = {}, {row["name"]: row for row in model.errors}
    for name in names:
        by_status.setdefault(str(rows[name]["http"]), []).append(name)
    return {status: {"description": ", ".join(sorted(set(codes))), "content": {"application/json": {"schema": ref("error_answer")}}}
            for status, codes in sorted(by_status.items())}


def operation(model, message):
    rest = message["rest"]
    outside = [f for f in message["fields"] if f.get("in")]
    inside = [f for f in message["fields"] if not f.get("in")]
    out = {"operationId": message["name"], "summary": message["doc"].split(". ")[0].split(": ")[0].rstrip("."),
           "description": message["doc"], "tags": [message["family"]], "x-permission": message["permission"]}
    parameters = [{"name": f["name"], "in": f["in"], "required": f["in"] == "path" or bool(f.get("required")),
                   "description": f["doc"], "schema": {k: v for k, v in field_schema(model, f).items() if k != "description"}}
                  for f in outside]
    if any(f["name"] == "idempotency_key" for f in inside):
        parameters.append({"name": "Idempotency-Key", "in": "header", "required": False,
                           "description": "The same as the field idempotency_key.", "schema": {"type": "string", "maxLength": 128}})
    if parameters:
        out["parameters"] = parameters
    if rest["method"] in ("POST", "PUT", "PATCH"):
        out["requestBody"] = {"required": any(f.get("required") for f in inside),
                              "content": {"application/json": {"schema": object_schema(model, message, inside)}}}
    answers = {str(rest["status"]): {"description": model.messages[message["reply"]]["doc"],
                                     "content": {"application/json": {"schema": ref(message["reply"])}}}}
    if "other_reply" in message:
        answers["200"] = {"description": model.messages[message["other_reply"]]["doc"],
                          "content": {"application/json": {"schema": ref(message["other_reply"])}}}
    answers.update(error_answers(model, list(COMMON_ERRORS) + message.get("errors", [])))
    out["responses"] = dict(sorted(answers.items()))
    return out


def own_operation(model, path, doc, content_type, answers_503):
    schema = {"type": "object" if content_type == "application/json" else "string"}
    content = {content_type: {"schema": schema}}
    answers = {"200": {"description": "Answer.", "content": content}}
    if answers_503:
        answers["503"] = {"description": "The same, and why requests cannot be answered.", "content": content}
    answers.update(error_answers(model, ["method_not_allowed"] + (["rate_limited", "unavailable"] if path.endswith("/events") else [])))
    return {"get": {"operationId": re.sub(r"[^a-z0-9]+", "_", path.lower()).strip("_"), "summary": doc.split(". ")[0].rstrip("."),
                    "description": doc, "tags": ["gateway"], "responses": dict(sorted(answers.items()))}}


def openapi(model):
    routes = [m for m in model.messages.values() if "rest" in m]
    paths = {path: own_operation(model, path, *told) for path, told in OWN_PATHS.items()}
    for message in routes:
        paths.setdefault(message["rest"]["path"], {})[message["rest"]["method"].lower()] = operation(model, message)
    answers = {m[key] for m in routes for key in ("reply", "other_reply") if key in m}
    inputs = {split_type(t)[2] for m in routes for f in m["fields"] for t in [f["type"]] + f.get("one_of", [])
              if split_type(t)[1] == "part"}
    components = {}
    for name in sorted(reachable(model, answers | inputs | {"event"})):
        message = model.messages[name]
        components[name] = object_schema(model, message, message["fields"])
    components["error_answer"] = {
        "type": "object", "description": "Every error.", "required": ["error"],
        "properties": {"error": {"type": "object", "required": ["code", "message", "details"], "properties": {
            "code": {"type": "string", "enum": sorted(row["name"] for row in model.errors)},
            "message": {"type": "string", "description": "What happened and what to do next."},
            "details": {"type": "object", "description": "Facts that a program can use."}}}}}
    document = {"openapi": "3.0.3",
                "info": {"title": "Shardplane", "version": "1",
                         "description": "A control plane for PostgreSQL databases sharded by key. Bodies are at most 1 MiB of JSON; "
                                        "unknown fields are refused. Integers over 2^53 are strings."},
                "servers": [{"url": "http://127.0.0.1:8081"}], "paths": dict(sorted(paths.items())),
                "components": {"schemas": dict(sorted(components.items()))}}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


# ---- docs/messages.md

def cell(text):
    return text.replace("|", "\\|").replace("\n", "<br>")


def limits(field):
    is_list, base, _ = split_type(field["type"])
    out = []
    if base in ("string", "bytes") and ("max" in field or "min" in field):
        out.append(f"{field.get('min', 0)}..{field.get('max', 255)} bytes")
    elif "min" in field or "max" in field:
        out.append(f"{field.get('min', '')}..{field.get('max', '')}")
    if is_list and "max_items" in field:
        out.append(f"at most {field['max_items']}")
    if "default" in field:
        out.append("default `" + (field["default"] if isinstance(field["default"], str) else json.dumps(field["default"])) + "`")
    out += [word for word in ("required", "secret") if field.get(word)]
    if field.get("json") == "string":
        out.append("JSON: a string")
    if field.get("in"):
        out.append(f"REST: {field['in']}")
    return ", ".join(out)


def message_section(message):
    title = message["name"] + (f" ({message['id']})" if "id" in message else "")
    out = [f"### {title}", "", message["doc"].replace("\n", "<br>\n"), ""]
    facts = []
    if "rest" in message:
        facts.append(f"`{message['rest']['method']} {message['rest']['path']}`, status {message['rest']['status']}")
    if "service" in message:
        facts.append(f"handled by the {message['service']}")
    if "permission" in message:
        facts.append(f"permission `{message['permission']}`")
    for key, words in (("reply", "reply"), ("other_reply", "or")):
        if key in message:
            facts.append(f"{words} `{message[key]}`")
    if message.get("errors"):
        facts.append("errors " + ", ".join(f"`{e}`" for e in message["errors"]))
    if "max_bytes" in message:
        facts.append(f"at most {message['max_bytes']} bytes")
    if facts:
        out += ["; ".join(facts) + ".", ""]
    if message["fields"]:
        out += ["| # | field | type | | |", "|---|---|---|---|---|"]
        out += [f"| {f['id']} | `{f['name']}` | {f['type']} | {limits(f)} | {cell(f['doc'])} |"
                for f in sorted(message["fields"], key=lambda f: f["id"])]
        out.append("")
    return out


def messages(model):
    out = ["# Messages", "", "Made by `make docs` from `schemas/`; do not edit. How fields become msgpack, JSON and C stands in "
           "`schemas/README.md`.", ""]
    for name, family in sorted(model.families.items()):
        out += [f"## {name}", "", family["doc"], ""]
        for enum in family.get("enums", []):
            out += [f"`{enum['name']}`: " + ", ".join(f"{k} = {v}" for k, v in enum["values"].items()) + ".", ""]
        for message in family["messages"]:
            out += message_section(message)
    out += ["## Errors", "", "| code | number | HTTP | again? | |", "|---|---|---|---|---|"]
    out += [f"| `{r['name']}` | {r['code']} | {r['http']} | {'yes' if r['retry'] else 'no'} | {cell(r['doc'])} |" for r in model.errors]
    return "\n".join(out) + "\n"
