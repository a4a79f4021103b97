"""The `pmkv` command. Each option of `serve` is also a variable PMKV_... and a key of the TOML file of --config."""

from __future__ import annotations

import base64
import contextlib
import functools
import gc
import json
import logging
import os
import socket
import sys
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

import click

import pmkv
from pmkv.errors import LockedError, PmkvError
from pmkv_server.config import Config
from pmkv_server.installed_commands import OpenGroup
from pmkv_server.parsing import strict_int
from pmkv_server.progress import progress_bar
from pmkv_server.signals import StopSignals
from pmkv_server.system_errors import describe

STATUS_INTERVAL_S = 0.5  # between two questions how far a backup is
_DEFAULTS = {field.name: field.default for field in fields(Config)}


def setting(name: str, **attributes: Any) -> Callable:
    """Return the decorator for an option with the name and default of a field of Config."""
    field = name.replace("-", "_")
    attributes.setdefault("default", _DEFAULTS[field])
    return click.option(
        f"--{name}", field, envvar=f"PMKV_{field.upper()}", show_default=True, show_envvar=True, **attributes
    )


def _read_config(context: click.Context, option: click.Parameter, path: str | None) -> str | None:
    """Take the defaults of the other options from a TOML file."""
    if path is None:
        return None
    try:
        values = tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError) as problem:
        raise click.BadParameter(f"{path}: {problem}") from None
    known = {name.replace("-", "_") for name in _DEFAULTS}
    found = {name.replace("-", "_"): value for name, value in values.items()}
    if unknown := sorted(set(found) - known):
        raise click.BadParameter(f"{path}: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    context.default_map = {**(context.default_map or {}), **{name: str(value) for name, value in found.items()}}
    return path


class StrictInt(click.IntRange):
    """An integer within bounds, in its canonical form."""

    def convert(self, value: Any, param: Any, context: Any) -> int:
        if isinstance(value, str) and strict_int(value) is None:
            self.fail(f"{value!r} is not a valid integer.", param, context)
        return super().convert(value, param, context)


class RestPort(click.ParamType):
    """A port number, or "off", which becomes None."""

    name = "port|off"

    def convert(self, value: Any, param: Any, context: Any) -> int | None:
        if value is None or str(value).lower() == "off":
            return None
        return StrictInt(0, 65535).convert(value, param, context)


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Shorten the imports at the start by about a third.

    numba imports SciPy, if it is installed, for linear algebra that no kernel uses: it is hidden. OpenBLAS would start
    threads for the same. The garbage collector is off, because imports make no garbage; afterwards the imported objects
    are frozen, so that it never scans them.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    is_absent = "scipy" not in sys.modules
    if is_absent:
        sys.modules["scipy"] = None  # type: ignore[assignment]
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
        if is_absent:
            del sys.modules["scipy"]


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Let files created inside be for this user alone: those of a data directory hold keys in clear."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def connected(function: Callable) -> Callable:
    """Add the options of a command that talks to a running server."""
    for name, attributes in (("password", {}), ("port", {"type": StrictInt(1, 65535)}), ("host", {})):
        function = setting(name, **attributes)(function)
    return function


@click.group(cls=OpenGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pmkv")
def main() -> None:
    """pmkv: crash-consistent storage for online features and embeddings.

    serve starts a server; check, dump, backup, restore and compact work on a data directory; all other commands talk to
    a running server.
    """


@main.command()
@setting("config", help="A TOML file with any of these options.", callback=_read_config, is_eager=True)
@setting("data", help="The data directory; created if missing.")
@setting("host", help="Address to listen on; other than loopback only with a password.")
@setting("port", type=StrictInt(0, 65535), help="Port of the Redis protocol; 0 takes a free port.")
@setting("rest-port", type=RestPort(), help='Port of REST; 0 takes a free port, "off" starts no REST.')
@setting("capacity", help="Size of the pool: 16GiB when new, else as it is; a larger size grows it.")
@setting("dram", help="DRAM budget; a quarter of it is for the cache of locations.")
@setting("dram-nodes", help="NUMA nodes of indexes and caches, as numactl names them: 0, 0-3, 0,2, all, !1.")
@setting("far-nodes", help="NUMA nodes of the rows of the row cache, such as a CXL node.")
@setting(
    "durability",
    type=click.Choice(["commit", "interval", "none"]),
    help="When a write is acknowledged.",
)
@setting("pool", help='Medium of the pool: "auto" (a file in the data directory), a path, or ":memory:".')
@setting(
    "require",
    type=click.Choice(["page", "cache_line", "byte"]),
    help="Refuse to start on a medium of coarser granularity.",
)
@setting("password", help="Password of AUTH and of REST; prefer the variable, as other users see command lines.")
@setting("backup-dir", help="Directory or URL below which clients may write backups (BACKUP.CREATE).")
@setting("max-clients", type=StrictInt(1), help="Maximum number of connections to each port.")
@setting("workers", type=StrictInt(1, 64), help="Worker threads for long values and large batches.")
def serve(**options: Any) -> None:
    """Serve a data directory over the Redis protocol and REST."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        with StopSignals() as signals, private_files():
            with quick_imports():
                from pmkv_server.server import Server

                pmkv.open  # noqa: B018 - this access imports the engine
            server = Server(Config(**options), signals=signals)
            if signals.received_at is None:
                server.serve()
    except PmkvError as problem:
        raise click.ClickException(str(problem)) from None
    except OSError as problem:
        raise click.ClickException(describe(problem)) from None


@main.command()
@connected
def stats(host: str, port: int, password: str) -> None:
    """Print INFO of a running server."""
    click.echo(_ask(host, port, password, "INFO", "everything").decode().replace("\r\n", "\n"), nl=False)


@main.command()
@connected
@click.option("--once", is_flag=True, help="Print one picture and end.")
@click.option(
    "--interval", type=click.FloatRange(0.1), default=1.0, show_default=True, help="Seconds between pictures."
)
def top(host: str, port: int, password: str, once: bool, interval: float) -> None:
    """Show what a running server does, live.

    Operations and their latency, hits of the caches and what more DRAM would answer, space, tables and views. Ctrl-C
    ends it.
    """
    from pmkv_server import top as screen  # here, because a server does not need it and should start quickly

    def ask(*words: str) -> Any:
        return _ask(host, port, password, *words)

    if once:
        screen.show_once(ask)
        return
    with contextlib.suppress(KeyboardInterrupt):
        screen.show(ask, interval)


@main.command()
@connected
@click.argument("key")
def get(host: str, port: int, password: str, key: str) -> None:
    """Print the value of KEY, byte for byte."""
    value = _ask(host, port, password, "GET", key)
    if value is None:
        raise click.ClickException(f"no key '{key}'")
    sys.stdout.buffer.write(value)


@main.command()
@connected
@click.argument("key")
@click.argument("value", required=False)
def put(host: str, port: int, password: str, key: str, value: str | None) -> None:
    """Set the value of KEY.

    Without VALUE, the value is the bytes of standard input.
    """
    content = click.get_binary_stream("stdin").read() if value is None else os.fsencode(value)
    _ask(host, port, password, "SET", key, content)


@main.command()
@setting("host")
@setting("rest-port", type=StrictInt(1, 65535))
@setting("password")
@click.argument("prefix", default="")
@click.option("--reverse", is_flag=True, help="List in descending order.")
@click.option("--limit", type=StrictInt(1), help="Print at most this many keys.")
def scan(host: str, rest_port: int, password: str, prefix: str, reverse: bool, limit: int | None) -> None:
    """Print the keys that begin with PREFIX.

    They come in order, one a line, over REST.
    """
    query = {"prefix": prefix, "reverse": str(reverse).lower()}
    left, cursor = limit or sys.maxsize, ""
    while left and cursor is not None:
        page = _ask_rest(host, rest_port, password, query | {"limit": str(min(left, 10_000)), "cursor": cursor})
        for key in page["keys"]:
            click.echo(_decoded(key["key64"]) if "key64" in key else key["key"])
        left, cursor = left - len(page["keys"]), page["cursor"]


def _decoded(key64: str) -> bytes:
    return base64.urlsafe_b64decode(key64 + "=" * (-len(key64) % 4))


def _ask_rest(host: str, port: int, password: str, query: dict[str, str]) -> Any:
    """Return one page of the list of keys."""
    from urllib.error import HTTPError  # here, because a server does not need it and should start quickly
    from urllib.parse import urlencode
    from urllib.request import Request, urlopen

    request = Request(f"http://{host}:{port}/v1/keys?{urlencode(query)}")
    if password:
        request.add_header("Authorization", f"Bearer {os.fsencode(password).decode('latin-1')}")  # sent byte for byte
    try:
        with urlopen(request, timeout=60) as reply:
            return json.load(reply)
    except HTTPError as problem:
        raise click.ClickException(json.load(problem).get("detail", str(problem))) from None
    except OSError as problem:
        raise click.ClickException(f"no answer from {host}:{port}: {problem}") from None


@main.command()
@connected
def checkpoint(host: str, port: int, password: str) -> None:
    """Take a checkpoint and wait for it.

    A restart replays only what was written after the checkpoint.
    """
    _ask(host, port, password, "SAVE", timeout=None)


named = click.argument("name")
tables_option = click.option("--table", "tables", multiple=True, metavar="T", help="Only this table; may be repeated.")
keys_option = click.option("--keys/--no-keys", default=None, help="With keyspaces?  [default: unless tables are named]")
force_option = click.option("--force", is_flag=True, help="Go on even if that drops later writes.")


@main.command()
@connected
@named
def snapshot(host: str, port: int, password: str, name: str) -> None:
    """Keep the present state as snapshot NAME."""
    _ask(host, port, password, "SNAPSHOT.CREATE", name)


@main.command()
@connected
@named
@tables_option
@keys_option
def rollback(host: str, port: int, password: str, name: str, tables: tuple[str, ...], keys: bool | None) -> None:
    """Return main to snapshot NAME.

    `pmkv undo` reverses that.
    """
    reply = _ask(host, port, password, "SNAPSHOT.ROLLBACK", name, *_scope(tables, keys))
    if reply != b"OK":
        click.echo(reply.decode())


@main.command()
@connected
@named
@click.option("--at", default="main", metavar="VIEW", show_default=True, help="View that the branch starts from.")
def branch(host: str, port: int, password: str, name: str, at: str) -> None:
    """Create branch NAME.

    Its writes are not visible in main until it is promoted.
    """
    _ask(host, port, password, "BRANCH.CREATE", name, "AT", at)


@main.command()
@connected
@named
@tables_option
@keys_option
@force_option
def promote(
    host: str, port: int, password: str, name: str, tables: tuple[str, ...], keys: bool | None, force: bool
) -> None:
    """Bring into main what branch NAME wrote.

    `pmkv undo` reverses that.
    """
    _ask(host, port, password, "BRANCH.PROMOTE", name, *_scope(tables, keys), *["FORCE"][: int(force)])


def _scope(tables: tuple[str, ...], keys: bool | None) -> list[str]:
    named = ["TABLES", str(len(tables)), *tables] if tables else []
    return named if keys is None else [*named, "KEYS", "yes" if keys else "no"]


@main.command()
@connected
@force_option
def undo(host: str, port: int, password: str, force: bool) -> None:
    """Undo the last promote or rollback."""
    _ask(host, port, password, "VIEW.UNDO", *["FORCE"][: int(force)])


@main.command()
@connected
def views(host: str, port: int, password: str) -> None:
    """List main, branches, snapshots and undo.

    `undo` is the state that `pmkv undo` restores.
    """
    with _connection(host, port, password) as send:
        found = [send("VIEW.INFO", name) for name in send("VIEW.LIST")]
    facts = [dict(zip((word.decode() for word in info[::2]), info[1::2])) for info in found]
    lines = [["NAME", "KIND", "BASE", "CREATED", "TABLES", "WRITES"], *map(_line, facts)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        click.echo("  ".join(word.ljust(width) for word, width in zip(line, widths)).rstrip())


def _line(view: dict[str, Any]) -> list[str]:
    name, kind, base = (view[field].decode() for field in ("name", "kind", "base"))
    created = datetime.fromtimestamp(view["created"] / 1000).isoformat(" ", "seconds") if view["created"] else "-"
    return [name, kind, base or "-", created, str(view["tables"]), f"{view['writes']:,}"]


@main.command("delete-view")
@connected
@named
def delete_view(host: str, port: int, password: str, name: str) -> None:
    """Delete branch or snapshot NAME.

    Views created from it stay.
    """
    _ask(host, port, password, "VIEW.DELETE", name)


@main.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False))
@setting("pool", help='Medium of the pool: "auto" (a file in the data directory) or a path.')
@click.option("--salvage", type=click.Path(file_okay=False), help="Copy all undamaged frames into this new directory.")
def check(directory: str, pool: str, salvage: str | None) -> None:
    """Verify a data directory.

    No process may have it open. The exit status is 1 if something is damaged.
    """
    from pmkv.tools.check import check as verify
    from pmkv.tools.salvage import salvage as rescue

    report = _run(verify, directory, pool)
    click.echo(f"{report.frames:,} frames replayed, {report.keys:,} keys and {report.rows:,} rows verified")
    for problem in report.problems:
        click.echo(f"damaged: {problem}", err=True)
    if salvage:
        saved = _run(rescue, directory, salvage, pool)
        click.echo(f"{saved.frames:,} frames with {saved.records:,} records copied to {salvage}")
        click.echo("salvage cannot know what was lost: deleted keys may be back, and old values may replace newer ones")
        for problem in saved.problems:
            click.echo(f"left out: {problem}", err=True)
    if report.problems:
        raise SystemExit(1)


@main.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False))
@setting("pool", help='Medium of the pool: "auto" (a file in the data directory) or a path.')
def dump(directory: str, pool: str) -> None:
    """Print the entries of a data directory."""
    from pmkv.tools.dump import dump as run

    _run(run, directory, sys.stdout, pool)


@main.command()
@click.argument("target")
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="A data directory that is not in use.")
@setting("pool", help='With --data, medium of the pool: "auto" (a file in the data directory) or a path.')
@connected
@click.option("--view", default="main", show_default=True, help="The view to back up.")
@click.option("--all-views", is_flag=True, help="Back up main with all branches and snapshots.")
@click.option("--since", metavar="TARGET", help="An earlier backup: write only what changed since then.")
def backup(
    target: str,
    data: str | None,
    pool: str,
    host: str,
    port: int,
    password: str,
    view: str,
    all_views: bool,
    since: str | None,
) -> None:
    """Ask a running server for a backup TARGET, a name below its --backup-dir.

    With --data, write a backup of a directory that is not in use to TARGET, a directory or a URL that fsspec knows. A
    backup takes the place of an earlier one there once it is complete.
    """
    if data is None:
        scope = ["ALL"] if all_views else ["VIEW", view]
        words = ["BACKUP.CREATE", target, *scope, *(["SINCE", since] if since else [])]
        facts = _asked_for_backup(host, port, password, words)
        _tell_backup(facts[b"entries"], facts[b"bytes"], facts[b"pieces"], facts[b"lsn"], facts[b"manifest"].decode())
        return
    try:
        store = pmkv.open(data, pool=pool)
    except LockedError as problem:
        raise click.ClickException(
            f"{problem}. Or ask the server that has it: `pmkv backup NAME --port ...`, without --data"
        ) from None
    except PmkvError as problem:
        raise click.ClickException(str(problem)) from None
    with store, progress_bar("backup") as progress:
        made = _run(store.backup, target, None if all_views else view, since, progress=progress)
    _tell_backup(made.entries, made.bytes, made.pieces, made.lsn, made.manifest)


@main.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="A data directory that is not in use.")
@setting("pool", help='With --data, medium of the pool: "auto" (a file in the data directory) or a path.')
@connected
def compact(data: str | None, pool: str, host: str, port: int, password: str) -> None:
    """Free the space of overwritten, deleted and expired data: of a running server, or with --data of a directory.

    A store does so by itself when space gets short, and at rest. The freed parts of the pool's file are given back to
    the file system, where that can make holes.
    """
    if data is None:
        freed = _ask(host, port, password, "STORE.COMPACT", timeout=None)
    else:
        try:
            with pmkv.open(data, pool=pool) as store:
                freed = store.compact()
        except LockedError as problem:
            raise click.ClickException(f"{problem}. Or ask the server that has it: `pmkv compact --port ...`") from None
        except PmkvError as problem:
            raise click.ClickException(str(problem)) from None
    click.echo(f"{freed:,} bytes freed")


def _tell_backup(entries: int, size: int, pieces: int, lsn: int, manifest: str) -> None:
    click.echo(f"{entries:,} entries, {size:,} bytes in {pieces:,} pieces, LSN {lsn}")
    click.echo(manifest)


def _asked_for_backup(host: str, port: int, password: str, words: list[str]) -> dict[bytes, Any]:
    """Let a server write a backup, and show its progress meanwhile; return what it says of it."""
    with ThreadPoolExecutor(1) as pool, progress_bar("backup") as progress:
        made = pool.submit(_ask, host, port, password, *words, timeout=None)
        while not wait([made], STATUS_INTERVAL_S).done:
            status = _pairs(_ask(host, port, password, "BACKUP.STATUS"))
            progress(status[b"done"], status[b"total"] or None)
    return _pairs(made.result())


def _pairs(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2]))


@main.command()
@click.argument("source")
@click.argument("directory", type=click.Path(file_okay=False))
@click.option("--capacity", help="Size of the pool  [default: that of the store that was backed up]")
@setting("pool", help='Medium of the pool: "auto" (a file in the data directory) or a path.')
def restore(source: str, directory: str, capacity: str | None, pool: str) -> None:
    """Make a new data directory of the backup at SOURCE.

    SOURCE is a directory or URL, or the manifest (ID.json) of one of the backups there. Every byte is verified.
    """
    with progress_bar("restore") as progress:
        report = _run(pmkv.restore, source, directory, capacity=capacity, pool=pool, progress=progress)
    click.echo(f"{report.entries:,} entries in {report.seconds:.1f} s, from backup {report.id}")


def _run(run: Callable, *arguments: Any, **options: Any) -> Any:
    """Call a function; print an error of the engine without a traceback."""
    try:
        return run(*arguments, **options)
    except PmkvError as problem:
        raise click.ClickException(str(problem)) from None


def _ask(host: str, port: int, password: str, *words: str | bytes, timeout: float | None = 10) -> Any:
    """Send one command to a running server and return its reply."""
    with _connection(host, port, password, timeout) as send:
        return send(*words)


@contextlib.contextmanager
def _connection(host: str, port: int, password: str, timeout: float | None = 10) -> Iterator[Callable[..., Any]]:
    """Yield a function that sends one command to a running server and returns its reply."""
    try:
        with socket.create_connection((host, port), timeout=10) as connection:
            connection.settimeout(timeout)
            send = functools.partial(_call, connection.makefile("rwb"))
            if password:
                send("AUTH", password)
            yield send
    except OSError as problem:
        raise click.ClickException(f"no answer from {host}:{port}: {problem}") from None


def _call(stream: Any, *words: str | bytes) -> Any:
    encoded = [os.fsencode(word) if isinstance(word, str) else word for word in words]
    stream.write(b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded))
    stream.flush()
    return _reply(stream)


def _reply(stream: Any) -> Any:
    head = stream.readline().rstrip(b"\r\n")
    if head[:1] == b"-":
        raise click.ClickException(head[1:].decode())
    if head[:1] == b"$":
        length = int(head[1:])
        return None if length < 0 else stream.read(length + 2)[:-2]
    if head[:1] == b"*":
        return [_reply(stream) for _ in range(int(head[1:]))]
    if head[:1] == b":":
        return int(head[1:])
    return head[1:]
