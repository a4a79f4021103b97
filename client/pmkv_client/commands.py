"""The commands `pmkv import`, `export` and `publish`, which the command line finds as entry points of this package.

They need click and rich, which the package `pmkv` brings along, and talk to a running server.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import redis

from . import deltas, loaders, publishing
from .requests import DEFAULT_PORT, MAIN
from .sync import Client

PROBLEMS = (ValueError, OSError, redis.RedisError, publishing.CheckFailedError)  # that are said without a traceback


def connected(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that talks to a running server."""
    for option in (
        click.option("--password", envvar="PMKV_PASSWORD", default="", help="Prefer the variable.", show_envvar=True),
        click.option("--port", envvar="PMKV_PORT", type=click.IntRange(1, 65535), default=DEFAULT_PORT,
                     show_default=True, show_envvar=True),
        click.option("--host", envvar="PMKV_HOST", default="127.0.0.1", show_default=True, show_envvar=True),
    ):  # fmt: skip
        function = option(function)
    return function


def of_files(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments and options that say which rows of which files are read."""
    for option in (
        click.option("--codec", help="How a table that is created stores rows of f4: int8, int4, f2, bfloat16, ..."),
        click.option("--dense", is_flag=True, help="Create a dense table: its ids are 0 to n - 1."),
        click.option("--first-id", default=0, show_default=True, help="Id of the first row without a column of ids."),
        click.option("--dtype", help="Element of a table that is created, such as f4; columns stand side by side."),
        click.option("--tensor", help="Name of the tensor in safetensors files and state dicts."),
        click.option("--columns", help="Names of the columns to read, with commas between them; default: all."),
        click.option("--id-column", help="Column of ids, integers or text.  [default: id, if there is one]"),
        click.option("--table", required=True, help="The table; created if there is none."),
        click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False)),
    ):
        function = option(function)
    return function


def file_options(values: dict[str, Any]) -> loaders.FileOptions:
    """Return how rows are found in files, and take these options out of `values`."""
    columns = values.pop("columns")
    names = ("id_column", "tensor", "dtype", "first_id", "dense", "codec")
    return loaders.FileOptions(
        columns=tuple(columns.split(",")) if columns else None, **{name: values.pop(name) for name in names}
    )


@contextlib.contextmanager
def client_of(host: str, port: int, password: str, view: str = MAIN) -> Iterator[Client]:
    """Yield a client; what goes wrong is one line for the user."""
    try:
        with Client(host, port, password=password or None, view=view) as client:
            yield client
    except PROBLEMS as problem:
        raise click.ClickException(str(problem)) from None


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[loaders.Progress | None]:
    """Yield a function that shows how far a command is, or None where nobody watches a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(title, total=None, rate="")

        def advance(done: int, total: int | None) -> None:
            speed = shown.tasks[0].speed
            shown.update(task, completed=done, total=total, rate=f"{speed:,.0f} rows/s" if speed else "")

        yield advance


def report(done: loaders.Transferred, what: str) -> None:
    """Print what an import or export did."""
    again = f", {done.resumed:,} of them before it was interrupted" if done.resumed else ""
    click.echo(f"{what}: {done.rows:,} rows{again}, {done.bytes:,} bytes, checksum {done.checksum}")


def report_delta(done: deltas.DeltaReport, file: str) -> None:
    """Print what an import or export of a delta did."""
    click.echo(f"{file}: {done.changed:,} rows changed, {done.deleted:,} deleted, up to snapshot {done.at}")


@click.command("import")
@connected
@of_files
@click.option("--branch", help="Load into this branch; created if there is none.  [default: main]")
@click.option("--state", type=click.Path(dir_okay=False), help="The state file.  [default: beside the first file]")
@click.option("--checksum", help="Fail unless the rows have this checksum, as an export printed it.")
def import_command(host: str, port: int, password: str, files: tuple[str, ...], table: str, **options: Any) -> None:
    """Put the rows of FILES into a table.

    Formats, by suffix: .npy .npz .safetensors .pt .parquet .arrow .csv, and .delta of `pmkv export --since`. An
    interrupted import goes on where it broke off, by a state file beside the first file.
    """
    rows_of = file_options(options)
    branch, expected = options["branch"], options["checksum"]
    with client_of(host, port, password) as client, contextlib.ExitStack() as stack:
        if branch is not None and branch not in client.views():
            client.branch(branch).close()
        view = client if branch is None else stack.enter_context(client.view(branch))
        progress = stack.enter_context(progress_bar(f"importing {table}"))
        if all(file.endswith(deltas.SUFFIX) for file in files):
            for file in files:
                report_delta(deltas.import_delta(view, file, table=table, progress=progress), file)
            return
        done = loaders.import_files(view, table, files, rows_of, state=options["state"], progress=progress)
    report(done, f"table {table}" if branch is None else f"table {table} of branch {branch}")
    if expected not in (None, done.checksum):
        raise click.ClickException(f"the checksum is {done.checksum}, not {expected}: these are other rows")


@click.command("export")
@connected
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--table", required=True, help="The table.")
@click.option("--at", "view", default=MAIN, show_default=True, metavar="VIEW", help="View to read.")
@click.option("--tensor", help="Name of the tensor in the file.  [default: the table's]")
@click.option("--since", metavar="SNAPSHOT", help="Write to a .delta only what was changed and deleted since then.")
def export_command(
    host: str, port: int, password: str, file: str, table: str, view: str, tensor: str | None, since: str | None
) -> None:
    """Write a table to FILE, as it is at this moment.

    Formats, by suffix: .npy .npz .safetensors .pt .parquet .arrow .csv. Those without ids (.npy .safetensors .pt) need
    the ids 0 to n - 1. A .delta begins a chain of deltas, or goes on with it by --since: the snapshot to which the one
    before leads.
    """
    with client_of(host, port, password, view) as client, progress_bar(f"exporting {table}") as progress:
        if file.endswith(deltas.SUFFIX) or since is not None:
            at = None if view == MAIN else view
            report_delta(deltas.export_delta(client, table, file, since=since, at=at, progress=progress), file)
            return
        done = loaders.export_table(client, table, file, tensor=tensor, progress=progress)
    report(done, file)


@click.command("publish")
@connected
@of_files
@click.option("--check", metavar="COMMAND", help="Shell command that ends with 0 if the view $PMKV_VIEW is good.")
@click.option("--sample", type=click.IntRange(0), default=1000, show_default=True, help="Rows compared with the files.")
@click.option("--verify", type=click.Choice(["all"]), help="Compare all rows with the files.")
@click.option("--with", "values", multiple=True, metavar="KEY=FILE", help="Also a file as a value; may be repeated.")
@click.option("--db", default=1, show_default=True, help="Keyspace of these values.")
@click.option("--watch", type=click.FloatRange(0), default=0.0, help="Seconds to go on checking after the promote.")
@click.option("--every", type=click.FloatRange(0.1), default=5.0, show_default=True, help="Seconds between checks.")
@click.option("--force", is_flag=True, help="Promote even if that drops later writes to main.")
@click.option("--keep", is_flag=True, help="Keep the branch of a publish that failed.")
def publish_command(host: str, port: int, password: str, files: tuple[str, ...], table: str, **options: Any) -> None:
    """Publish FILES as the next version of main.

    A branch is loaded, verified and checked, then promoted. The check is repeated on main, and if it fails there, the
    promote is undone. Nobody sees any of it before the promote.
    """
    rows_of, everything = file_options(options), options.pop("verify") == "all"
    dense = dict(pair.partition("=")[::2] for pair in options.pop("values"))
    command, sample = options.pop("check"), options.pop("sample")
    plan = publishing.Plan(
        table, files, rows_of, {key: Path(path) for key, path in dense.items()},
        verified=None if everything else sample, **options,
    )  # fmt: skip
    environment = {**os.environ, "PMKV_HOST": host, "PMKV_PORT": str(port), "PMKV_PASSWORD": password}

    def check(view: str) -> bool:
        return subprocess.run(command, shell=True, env={**environment, "PMKV_VIEW": view}).returncode == 0

    with client_of(host, port, password) as client, progress_bar(f"publishing {table}") as progress:
        for left in publishing.branches_left(client):
            click.echo(
                f"branch {left} is of a publish that is under way, or was killed; of the latter, "
                f"`pmkv delete-view {left}` frees what it wrote",
                err=True,
            )
        done = publishing.publish(client, plan, check if command else None, progress)
    click.echo(f"table {table}: {done.rows:,} rows, {done.verified:,} verified, main is at version {done.version}")
