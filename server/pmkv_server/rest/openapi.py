"""The OpenAPI 3.1 document of REST. A test compares it with the routes."""

from __future__ import annotations

import functools
from importlib import metadata
from typing import Any

from .formats import ARROW, BYTES, JSON, NPY, NPZ
from .problems import PROBLEM_TYPE

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer", "format": "int64"}
NULL: Schema = {"type": "null"}
BINARY: Schema = {}  # raw bytes: OpenAPI 3.1 describes them by the media type alone
IDS: Schema = {"type": "array", "items": INTEGER}
NUMBER_OR_NULL: Schema = {"type": ["number", "null"]}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def listing(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def record(required: str, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


def optional(schema: Schema) -> Schema:
    return {"anyOf": [schema, NULL]}


ROWS: Schema = {
    "type": "array",
    "description": "One entry per id: a number, (nested) lists of the row's shape, or an object with the fields of a "
    "structured table. NaN and the infinities are null, null is NaN. Bytes are UTF-8 text or {base64: ...}, complex "
    "numbers [real, imaginary], datetime64 is ISO 8601, timedelta64 the count of its unit.",
}
DTYPE: Schema = {
    "description": 'NumPy descr: "<f4", or for a structured dtype [["price", "<f4"], ["emb", "<f4", [16]]].',
    "type": ["string", "array"],
}

NAME: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}$"}
INITIAL: Schema = {
    "type": ["number", "string", "array", "object", "null"],
    "description": 'Stands for rows that were never written: a value, {"uniform": [low, high], "seed": n} or '
    '{"normal": [mean, deviation], "seed": n}; null: zeros.',
}
DRAM: Schema = {
    "type": ["string", "number", "null"],
    "description": 'How much DRAM the rows may count on in `main`: "all", bytes (or "64MiB"), a share of the row cache '
    "(0.25), or null for what reads make of it.",
}
ENCODED: Schema = {
    "type": "boolean",
    "default": False,
    "description": "Of a table with a codec: rows are as they are stored, for int8 and int4 the bytes of each.",
}
FORCE: Schema = {"type": ["boolean", "null"], "default": False, "description": "Go on even if that drops later writes."}
PARTS: dict[str, Schema] = {
    "tables": {"type": ["array", "null"], "items": STRING, "description": "Only these tables; default: all."},
    "keys": {
        "type": ["boolean", "null"],
        "description": "Whether keyspaces are included; default: unless tables are named.",
    },
}

SCHEMAS: dict[str, Schema] = {
    "Problem": {
        "type": "object",
        "description": "RFC 9457. `type` is for programs (pmkv:full, pmkv:invalid, ...), `detail` for people.",
        "required": ["type", "title", "status", "detail"],
        "properties": {"type": STRING, "title": STRING, "status": {"type": "integer"}, "detail": STRING},
    },
    "Value": record(
        "value encoding",
        value=STRING,
        encoding={"enum": ["utf8", "base64"]},
        expire_at={"type": ["integer", "null"], "description": "Milliseconds since the epoch; null: never."},
    ),
    "ValueToPut": record("value", value=STRING, encoding={"enum": ["utf8", "base64"], "default": "utf8"}),
    "Keys": record(
        "keys cursor",
        keys=listing({"anyOf": [record("key", key=STRING), record("key64", key64=STRING)]}),
        cursor={"type": ["string", "null"], "description": "For the next page; null at the end."},
    ),
    "KeysToGet": record("keys", keys=listing(STRING), encoding={"enum": ["utf8", "base64"], "default": "utf8"}),
    "Values": record("values", values=listing(optional(ref("Value")))),
    "TableToCreate": record(
        "name dtype",
        name=NAME,
        dtype=DTYPE,
        shape={
            "type": "array",
            "items": {"type": "integer", "minimum": 1},
            "description": "Shape of a row; [] for one element.",
        },
        rows={
            "type": ["integer", "null"],
            "description": "A number makes the table dense: ids are 0 to rows-1. null: any int64.",
        },
        default=INITIAL,
        codec={"type": ["string", "null"], "description": "How rows of f4 are stored: int8, int4, f2, bfloat16, ..."},
        dram=DRAM,
    ),
    "TableToSet": record("dram", dram=DRAM),
    "Table": record(
        "name id dtype shape width rows length",
        name=STRING,
        id=INTEGER,
        dtype=DTYPE,
        shape=listing({"type": "integer"}),
        width={"type": "integer", "description": "Bytes per row."},
        rows={"type": ["integer", "null"]},
        codec={"type": "string", "description": "How rows are stored, if not as they are read."},
        stored={"type": "integer", "description": "Bytes that a row takes, if the table has a codec."},
        default={"type": "object", "description": "Stands for rows that were never written, if these are not zeros."},
        dram={**DRAM, "type": ["string", "number"]},
        length={"type": "integer", "description": "Count of the ids that have a row."},
    ),
    "Tables": record("tables", tables=listing(ref("Table"))),
    "RowsToGet": record(
        "ids",
        ids=IDS,
        default={**NUMBER_OR_NULL, "description": "Fills absent rows; null is NaN.", "default": 0},
        return_found={"type": "boolean", "default": False},
        fields={"type": ["array", "null"], "items": STRING, "description": "Of a structured table: only these."},
        encoded=ENCODED,
    ),
    "RowsToPut": record(
        "ids rows",
        ids=IDS,
        rows=ROWS,
        newer={"type": ["string", "null"], "description": "A field: rows with a greater stored value are left alone."},
        encoded=ENCODED,
    ),
    "RowsToAdd": record("ids rows", ids=IDS, rows=ROWS),
    "RowsToPool": record(
        "ids offsets",
        ids=IDS,
        offsets={**IDS, "description": "Where each bag begins in ids."},
        weights={"type": ["array", "null"], "items": NUMBER_OR_NULL},
        mode={"enum": ["sum", "mean", "max"], "default": "sum"},
    ),
    "RowsToDelete": record("ids", ids=IDS),
    "RowsToScan": record(
        "",
        cursor={"type": ["string", "integer"], "default": "0"},
        count={"type": "integer", "default": 1000},
        encoded=ENCODED,
    ),
    "Rows": record("rows", rows=ROWS, found={"type": "array", "items": {"type": "boolean"}}),
    "Scanned": record(
        "cursor ids rows", cursor={"type": "string", "description": '"0" at the end'}, ids=IDS, rows=ROWS
    ),
    "Count": record("count", count={"type": "integer"}),
    "View": record(
        "name kind lsn created base tables writes",
        name=STRING,
        kind={"enum": ["main", "branch", "snapshot", "undo"]},
        lsn={**INTEGER, "description": "The LSN at its creation."},
        created={**INTEGER, "description": "Milliseconds since the epoch; 0 for main."},
        base={**STRING, "description": "The view it was created from; empty for main."},
        tables={"type": "integer"},
        writes={**INTEGER, "description": "Records written to it since its creation."},
    ),
    "Views": record("views", views=listing(ref("View"))),
    "SnapshotToCreate": record("name", name=NAME),
    "BranchToCreate": record("name", name=NAME, at={"type": ["string", "null"], "default": "main"}),
    "ToRollBack": record("", **PARTS),
    "ToPromote": record("", **PARTS, force=FORCE),
    "ToUndo": record("", force=FORCE),
    "Version": record(
        "promotions lsn",
        promotions={**INTEGER, "description": "Promotes, rollbacks and undos of main so far."},
        lsn={**INTEGER, "description": "The LSN of the last of them; 0 for none."},
        changed={"type": "boolean", "description": "Of a rollback: false if the view had that state already."},
    ),
    "TablesToGather": record("tables", tables={"type": "object", "additionalProperties": IDS}),
    "Gathered": record("tables", tables={"type": "object", "additionalProperties": ROWS}),
}

MEANINGS = {
    "304": "Not modified: If-None-Match has the ETag of the stored value.",
    "400": "The request is malformed; `detail` says where.",
    "401": "The password is missing or wrong.",
    "403": "Another origin or host (where there is no password), or the store or view is read-only.",
    "404": "No such key, table, view or path.",
    "406": "Accept allows none of the formats of this reply.",
    "409": "The name exists already, or later writes would be dropped.",
    "412": "If-Match or If-None-Match forbids the request.",
    "413": "The body is too long.",
    "415": "The format of the body is unknown, or it is Arrow and the server has no pyarrow.",
    "500": "Damaged data, or a defect of the server.",
    "503": "The store is closed, or a flush of its log failed.",
    "507": "The pool is full: stored data can be read and deleted.",
}


def parameter(name: str, where: str, schema: Schema, text: str) -> Schema:
    return {"name": name, "in": where, "required": where == "path", "schema": schema, "description": text}


DB = parameter("db", "query", {"type": "integer", "minimum": 0, "maximum": 15, "default": 0}, "The keyspace.")
AT = parameter("at", "query", {**STRING, "default": "main"}, "The view: main, a branch, or (to read) a snapshot.")
VIEW = parameter("view", "path", STRING, "A view's name.")
KEY = parameter("key", "path", STRING, "Percent-encoded bytes; may hold slashes, encoded or not.")
KEY64 = parameter("key64", "query", STRING, "The key in base64url, padding optional: for binary keys.")
TABLE = parameter("table", "path", STRING, "A table's name.")
TTL = parameter(
    "ttl_ms", "query", {"type": "integer", "minimum": 1}, "Time to live in milliseconds; default: no expiry."
)
CONDITIONS = [
    parameter(
        "If-Match",
        "header",
        STRING,
        "ETags or *: go on only if one of them is stored. A PUT with it has at most 15.8 MiB.",
    ),
    parameter(
        "If-None-Match",
        "header",
        STRING,
        "ETags or *: go on only if none of them is stored. A PUT with it has at most 15.8 MiB.",
    ),
]
ROW_OPTIONS = {
    "default": parameter("default", "query", {"type": "number"}, "As in the JSON body."),
    "return_found": parameter("return_found", "query", {"type": "boolean"}, "As in the JSON body."),
    "fields": parameter("fields", "query", STRING, "Names separated by commas."),
    "mode": parameter("mode", "query", {"enum": ["sum", "mean", "max"]}, "As in the JSON body."),
    "cursor": parameter("cursor", "query", STRING, "As in the JSON body."),
    "count": parameter("count", "query", {"type": "integer", "minimum": 1}, "As in the JSON body."),
    "newer": parameter("newer", "query", STRING, "As in the JSON body."),
    "encoded": parameter("encoded", "query", {"type": "boolean"}, "As in the JSON body."),
}
HEADERS: Schema = {"Pmkv-Version": {"schema": STRING, "description": "The version of main and its LSN: n-lsn."}}


def content(schema: Schema, *others: str) -> Schema:
    return {JSON: {"schema": schema}, **{form: {"schema": BINARY} for form in others}}


def answer(text: str, body: Schema | None = None, **headers: str) -> Schema:
    named = {name.replace("_", "-"): {"schema": STRING, "description": meaning} for name, meaning in headers.items()}
    return {"description": text, "headers": {**HEADERS, **named}, **({"content": body} if body else {})}


def operation(
    name: str,
    summary: str,
    good: dict[str, Schema],
    problems: str = "",
    parameters: list[Schema] | None = None,
    body: Schema | None = None,
    needs_body: bool = True,
) -> Schema:
    refused = {
        status: answer(MEANINGS[status], None if status == "304" else {PROBLEM_TYPE: {"schema": ref("Problem")}})
        for status in f"400 401 403 500 503 {problems}".split()
    }
    described: Schema = {"operationId": name, "summary": summary, "responses": {**good, **refused}}
    if parameters:
        described["parameters"] = parameters
    if body:
        described["requestBody"] = {"required": needs_body, "content": body}
    return described


def key_operations(place: Schema, suffix: str) -> dict[str, Schema]:
    where, tag = [place, DB, AT, *CONDITIONS], "Hash of the value, in quotes."
    value = answer("The value.", content(ref("Value"), BYTES), ETag=tag, Pmkv_Expire_At="Milliseconds since the epoch.")
    put = content(ref("ValueToPut"), BYTES, "*/*")
    return {
        "get": operation(f"getKey{suffix}", "Read a key", {"200": value}, "304 404 406 412", where),
        "head": operation(f"headKey{suffix}", "Ask for a key's headers", {"200": value}, "304 404 406 412", where),
        "put": operation(
            f"putKey{suffix}",
            "Write a key",
            {"201": answer("The key was created.", ETag=tag), "204": answer("The key was replaced.", ETag=tag)},
            "404 412 413 507",
            [*where, TTL],
            put,
        ),
        "delete": operation(f"deleteKey{suffix}", "Delete a key", {"204": answer("Deleted.")}, "404 412", where),
    }


def list_or_get() -> dict[str, Schema]:
    """Return the operations of /v1/keys: the list, and with ?key64= those on one key."""
    one = key_operations(KEY64, "64")
    pages = [
        parameter("prefix", "query", STRING, "Only keys with this prefix."),
        parameter("prefix64", "query", STRING, "The same in base64url."),
        parameter("start", "query", STRING, "Only this key and later ones."),
        parameter("start64", "query", STRING, "The same in base64url."),
        parameter("stop", "query", STRING, "Only keys before this one."),
        parameter("stop64", "query", STRING, "The same in base64url."),
        parameter("reverse", "query", {"type": "boolean", "default": False}, "Descending order."),
        parameter(
            "limit",
            "query",
            {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 100},
            "Maximum number of keys.",
        ),
        parameter("cursor", "query", STRING, "The cursor of the previous page, with the same parameters."),
    ]
    schema = {"anyOf": [ref("Keys"), ref("Value")]}
    found = answer("Keys in order; with key64, its value.", content(schema, BYTES))
    where = [KEY64, DB, AT, *CONDITIONS, *pages]
    listed = operation(
        "listKeys", "List keys, or read the one that key64 names", {"200": found}, "304 404 406 412", where
    )
    return {**one, "get": listed, "head": {**listed, "operationId": "headKeys"}}


def rows(name: str, summary: str, takes: str, gives: str, options: str = "", more: str = "404 413 415") -> Schema:
    """Return an operation on rows; replies with rows come in every format."""
    arrays = gives in ("Rows", "Scanned")
    body = content(ref(takes), NPZ, ARROW, *([NPY] if takes in ("RowsToGet", "RowsToDelete") else []))
    reply = content(ref(gives), NPZ, ARROW, NPY) if arrays else content(ref(gives))
    cursor = {"Pmkv_Cursor": "Cursor of the next call; 0 at the end."} if gives == "Scanned" else {}
    parameters = [TABLE, AT, *(ROW_OPTIONS[option] for option in options.split())]
    problems = f"{more} 406" if arrays else more
    return operation(name, summary, {"200": answer("Done.", reply, **cursor)}, problems, parameters, body)


def simple(
    name: str, summary: str, body: Schema, problems: str = "", parameters: list[Schema] | None = None
) -> dict[str, Schema]:
    """Return a GET operation and the HEAD operation of the same route."""
    one = operation(name, summary, {"200": answer("Done.", body)}, problems, parameters)
    return {"get": one, "head": {**one, "operationId": f"{name}Head"}}


def paths() -> dict[str, dict[str, Schema]]:
    table_in, any_json = [TABLE, AT], content({"type": "object"})
    made = answer("Created.", content(ref("Table")), Location="Its path.")
    one_table = operation(
        "getTable", "Describe a table", {"200": answer("Done.", content(ref("Table")))}, "404", table_in
    )
    gathered = {"200": answer("Rows by table; absent rows are zeros.", content(ref("Gathered"), NPZ))}
    return {
        "/v1/keys": list_or_get(),
        "/v1/keys/{key}": key_operations(KEY, ""),
        "/v1/keys:batchGet": {
            "post": operation(
                "batchGetKeys",
                "Read many keys",
                {"200": answer("A value or null per key.", content(ref("Values")))},
                "404 413",
                [DB, AT],
                content(ref("KeysToGet")),
            )
        },
        "/v1/tables": {
            **simple("listTables", "Describe all tables", content(ref("Tables")), "404", [AT]),
            "post": operation(
                "createTable", "Create a table", {"201": made}, "404 409 413 507", [AT], content(ref("TableToCreate"))
            ),
        },
        "/v1/tables/{table}": {
            "get": one_table,
            "head": {**one_table, "operationId": "headTable"},
            "patch": operation(
                "setTable",
                "Choose how much DRAM the rows of a table may count on",
                {"200": answer("As it is now.", content(ref("Table")))},
                "404",
                table_in,
                content(ref("TableToSet")),
            ),
            "delete": operation("dropTable", "Drop a table", {"204": answer("Dropped.")}, "404", table_in),
        },
        **row_paths(),
        "/v1/rows:get": {
            "post": operation(
                "gather",
                "Read rows of several tables, all of one version",
                gathered,
                "404 406 413 415",
                [AT],
                content(ref("TablesToGather"), NPZ),
            )
        },
        **view_paths(),
        "/v1/stats": simple("stats", "Return the figures of store and server", any_json),
        "/healthz": simple("healthz", "Tell whether the process is alive (needs no password)", any_json),
        "/readyz": simple("readyz", "Tell whether the store takes reads and writes (needs no password)", any_json),
        "/metrics": simple("metrics", "Return metrics for Prometheus", {"text/plain": {"schema": STRING}}),
        "/openapi.json": simple("openapi", "Return the OpenAPI document", any_json),
    }


def row_paths() -> dict[str, dict[str, Schema]]:
    base, put = "/v1/tables/{table}/rows:", "404 413 415 507"
    return {
        f"{base}get": {
            "post": rows("getRows", "Read rows", "RowsToGet", "Rows", "default return_found fields encoded")
        },
        f"{base}put": {"post": rows("putRows", "Write rows", "RowsToPut", "Count", "newer encoded", put)},
        f"{base}add": {
            "post": rows(
                "addRows", "Add to rows element by element; absent rows count as zeros", "RowsToAdd", "Count", "", put
            )
        },
        f"{base}pool": {
            "post": rows("poolRows", "Return sum, mean or maximum of bags of rows", "RowsToPool", "Rows", "mode")
        },
        f"{base}delete": {"post": rows("deleteRows", "Delete rows", "RowsToDelete", "Count")},
        f"{base}scan": {
            "post": rows(
                "scanRows", "Read ids and rows from a cursor on", "RowsToScan", "Scanned", "cursor count encoded"
            )
        },
    }


def view_paths() -> dict[str, dict[str, Schema]]:
    def change(name: str, summary: str, takes: str, problems: str, *parameters: Schema) -> dict[str, Schema]:
        good = {"200": answer("Done; the reply is the version of main.", content(ref("Version")))}
        return {"post": operation(name, summary, good, f"{problems} 413", [*parameters], content(ref(takes)), False)}

    def creation(name: str, summary: str, takes: str, *parameters: Schema) -> dict[str, Schema]:
        good = {"201": answer("Created.", content(ref("View")), Location="Its path.")}
        return {"post": operation(name, summary, good, "404 409 413 507", [*parameters], content(ref(takes)))}

    waiting = [
        parameter("after", "query", {"type": "integer", "minimum": 0}, "Wait until the version of main is greater."),
        parameter(
            "timeout",
            "query",
            {"type": "number", "minimum": 0, "maximum": 300, "default": 30},
            "Maximum wait in seconds.",
        ),
    ]
    delete = operation(
        "deleteView", "Delete a view", {"204": answer("Deleted; views created from it stay.")}, "404", [VIEW]
    )
    roll_back = change("rollBack", "Return main (or the branch `at`) to a snapshot", "ToRollBack", "404 507", VIEW, AT)
    promote = change("promote", "Bring into main what a branch wrote", "ToPromote", "404 409 507", VIEW)
    return {
        "/v1/views": simple("listViews", "Describe all views", content(ref("Views"))),
        "/v1/views/{view}": {
            **simple("getView", "Describe a view", content(ref("View")), "404", [VIEW]),
            "delete": delete,
        },
        "/v1/views:undo": change("undo", "Undo the last promote or rollback of main", "ToUndo", "404 409 507"),
        "/v1/snapshots": creation("createSnapshot", "Keep the present state under a name", "SnapshotToCreate", AT),
        "/v1/snapshots/{view}:rollback": roll_back,
        "/v1/branches": creation("createBranch", "Create a branch", "BranchToCreate"),
        "/v1/branches/{view}:promote": promote,
        "/v1/version": simple(
            "version",
            "Return the version of main: the number of its promotes, rollbacks and undos",
            content(ref("Version")),
            "",
            waiting,
        ),
    }


@functools.cache
def document() -> dict[str, Any]:
    probes = ("/healthz", "/readyz")
    described = paths()
    for path in probes:
        for one in described[path].values():
            one["security"] = []
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pmkv",
            "version": version(),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Keys and tables over HTTP. Rows travel as JSON, .npy (one array), .npz (arrays ids, rows, "
            "offsets, weights) or Arrow IPC streams (columns of these names), by Content-Type and Accept; without "
            "Accept, in the format of the request.",
        },
        "security": [{"password": []}, {}],
        "paths": described,
        "components": {"schemas": SCHEMAS, "securitySchemes": {"password": {"type": "http", "scheme": "bearer"}}},
    }


def version() -> str:
    try:
        return metadata.version("pmkv")
    except metadata.PackageNotFoundError:
        return "0"
