"""Print docs/COMMANDS.md, made from the command table and the OpenAPI document.

Run it as `python -m pmkv_server.commands.reference`; `make docs` writes the file.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from pmkv_server.commands import COMMANDS
from pmkv_server.commands.registry import Command
from pmkv_server.rest.openapi import document

COLUMNS = 120  # of a line of prose
TITLES = {
    "strings": "Strings",
    "keys": "Keys",
    "expiry": "Expiry",
    "transactions": "Transactions",
    "tables": "Tables",
    "views": "Views: snapshots, branches, versions",
    "connection": "Connection",
    "backup": "Backups",
    "space": "Space",
    "admin": "Server",
    "info": "Statistics",
}
HEAD = """\
# Commands and routes

This file is generated: change docstrings in `server/pmkv_server/commands/` or `server/pmkv_server/rest/openapi.py`,
then run `make docs`.

## Redis protocol

pmkv speaks RESP2 and RESP3. Commands that Redis has too follow Redis 7.0 in arguments, replies and error texts, except
where the summary says otherwise. `TABLE.*`, `SNAPSHOT.*`, `BRANCH.*` and `VIEW.*` exist only here.

These parts of Redis are **not supported**; each of their commands is an unknown command:

- every type of value other than strings: lists, sets, hashes, sorted sets, streams, HyperLogLog, geospatial indexes;
- bitmaps (`SETBIT`, `BITCOUNT`, ...), `LCS`, `SORT`, `OBJECT`, `DUMP`, `RESTORE`, `MIGRATE`, `MOVE`, `SWAPDB`;
- publish and subscribe, keyspace notifications;
- scripts and functions (`EVAL`, `FCALL`, ...): only `FUNCTION FLUSH` is accepted, and does nothing;
- users and ACLs: there is one password, that of the user `default`;
- replication and cluster commands, modules, `MONITOR`, `SLOWLOG`, `LATENCY`, `DEBUG`, `CLIENT KILL`,
  `CLIENT TRACKING`, `CLIENT REPLY`;
- eviction: a full pool answers `-OOM` to writes. `maxmemory` is the capacity of the pool; `CONFIG SET maxmemory` makes
  it larger, and is refused where that would make it smaller.

Arity is counted as Redis counts it: the number of arguments including the name; negative means "at least". Flags that
Redis does not have: `loop` never runs in a worker thread because of cold files or long arguments; `in_multi` runs at
once inside `MULTI` instead of being queued.
"""
REST_HEAD = """\
## REST

Every `GET` route answers `HEAD` too. The full description, with all schemas, is served at `/openapi.json`. Errors are
`application/problem+json` (RFC 9457). In the body a field without brackets is required.
"""


def entries() -> Iterator[Command]:
    """Yield every command that can be run, subcommands after their parent, without those that only have subcommands."""
    for entry in COMMANDS.values():
        if not entry.is_container:
            yield entry
        yield from entry.subcommands.values()


def _commands_of(module: str) -> Iterator[str]:
    """Yield the lines of the section about the commands that one module defines."""
    found = [entry for entry in entries() if entry.function.__module__.rpartition(".")[2] == module]
    yield from (f"### {TITLES[module]}", "", "| command | arity | flags | summary |", "|---|---|---|---|")
    for entry in found:
        name = entry.name.upper().replace("|", " ")
        yield f"| `{name}` | {entry.arity} | {' '.join(sorted(entry.flags))} | {entry.summary} |"
    if syntax := [line for entry in found for line in entry.syntax]:
        yield from ("", "```", *syntax, "```")
    yield ""


def _routes() -> Iterator[str]:
    """Yield the lines about the routes of REST."""
    description = document()
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            if method != "head":
                head = f"- `{method.upper()} {path}`: {_sentence(operation['summary'])}"
                yield from _wrapped(head, *_inputs(operation, description["components"]["schemas"]))


def _inputs(operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    """Yield what a request may carry besides its path: query parameters, headers, and the body."""
    for place, title in (("query", "Query"), ("header", "Headers")):
        names = [f"`{one['name']}`" for one in operation.get("parameters", []) if one["in"] == place]
        if names:
            yield f"{title}: {', '.join(names)}."
    content = operation.get("requestBody", {}).get("content", {})
    if content:
        yield f"Body: {' or '.join(_body(form, one['schema'], schemas) for form, one in content.items())}."


def _body(form: str, schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    if "$ref" not in schema:
        return f"`{form}`"
    record = schemas[schema["$ref"].rpartition("/")[2]]
    fields = [name if name in record["required"] else f"[{name}]" for name in record["properties"]]
    return f"JSON `{{{', '.join(fields)}}}`"


def _sentence(summary: str) -> str:
    return summary if summary.endswith((".", "?", ")")) else f"{summary}."


def _wrapped(*texts: str) -> list[str]:
    """Yield the texts as lines of at most COLUMNS columns, indented as the items of a list."""
    return textwrap.wrap(
        " ".join(texts), COLUMNS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def reference() -> str:
    """Return the text of docs/COMMANDS.md."""
    lines = [HEAD, *(line for module in TITLES for line in _commands_of(module)), REST_HEAD, *_routes()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
