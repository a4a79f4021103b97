"""`python -m bench [SECTION ...]`: measure, show, keep as JSON. Ends with 1 when a bar was missed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import click
from rich.console import Console

from pmkv.runtime.sizes import parse_size

from . import report
from .servers import BenchError, scratch

ROOT = Path(__file__).parent.parent
SECTIONS = {
    "network": "commands a second, and what a durable one takes, beside Redis",
    "commands": "commands a second of each command on keys, and of a mixed load, beside Redis",
    "tables": "rows a second, beside Redis' MGET",
    "index": "DRAM an id costs",
    "start": "time to the first PONG",
    "restart": "kill -9 to the first correct read, and what checkpoints and folds cost",
    "codecs": "rows a second that are pooled, by the codec of the table, beside f4",
    "imports": "rows a second of files, beside puts from memory",
    "publishing": "a model file to served, every row verified, beside writing and reading the file; starts",
    "pooling": "rows in DRAM: pools beside torch's EmbeddingBag, reads beside numpy.take, 26 tables in a call",
    "feast": "get_online_features and pushes by Feast, beside its own store on Redis",
    "larger_than_dram": "a recommendation model on tables larger than memory, beside swap, memory maps, LMDB, RocksDB",
    "warm_restart": "kill -9 to nearly the hit ratio of before, beside the time in which the disk reads the row cache",
    "hit_ratio": "the row cache beside the best rows, and beside the policies of libcachesim",
    "fairness": "PING beside the heavy work of another client, beside Redis, and the memory of long values",
    "space": "overwrites of a full pool: bytes written for each byte of users, speed and latency, what comes back",
    "training": "steps of a model whose embeddings are in tables, beside torch",
    "versions": "snapshot, branch, promote, roll back: what they cost, and readers and writers beside them",
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(SECTIONS)), metavar="[SECTION]...")
@click.option("--rounds", default=5, show_default=True, help="Pairs of runs, after one that does not count.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=ROOT / "build" / "bench",
    help="Where the servers keep their data meanwhile: a disk, not tmpfs.  [default: build/bench]",
)
@click.option("--ids", default=10_000_000, show_default=True, help="Rows of the largest table: restart, versions.")
@click.option(
    "--load", default="1GiB", show_default=True, help="What is loaded into a branch at once: versions, publishing."
)
@click.option("--kept", default=1_000, show_default=True, help="Snapshots that are kept while main is read: versions.")
@click.option("--pool", default="64MiB", show_default=True, help="Size of the pool: space.")
@click.option("--limit", default="256MiB", show_default=True, help="Memory for the tables: larger_than_dram.")
@click.option(
    "--times",
    default="0.5,1,2,4,8",
    show_default=True,
    callback=lambda context, option, text: tuple(map(float, text.split(","))),
    help="Sizes of the tables as multiples of it: larger_than_dram.",
)
@click.option("--seconds", default=10.0, show_default=True, help="Of each run: larger_than_dram.")
def main(
    names: tuple[str, ...],
    rounds: int,
    folder: Path,
    ids: int,
    load: str,
    kept: int,
    pool: str,
    limit: str,
    times: tuple[float, ...],
    seconds: float,
) -> None:
    """Measure pmkv, beside a redis-server where there is one.

    Sections: network, commands, tables, index, start, restart, codecs, imports, publishing, pooling, feast,
    larger_than_dram, warm_restart, hit_ratio, space, training, versions; all of them when none is named.
    """
    options = {"restart": {"ids": ids}, "versions": {"ids": ids, "load": parse_size(load), "kept": kept}}
    options["larger_than_dram"] = {"limit": parse_size(limit), "times": times, "seconds": seconds}
    options["space"], options["publishing"] = {"pool": parse_size(pool)}, {"size": parse_size(load)}
    console = Console(width=None if sys.stdout.isatty() else 140)
    measured: dict[str, list[report.Measured]] = {}
    for name in names or SECTIONS:
        console.print(f"[dim]measuring {name}: {SECTIONS[name]} ...[/]")
        try:
            with scratch(folder) as place:
                section = importlib.import_module(f"bench.{name}").section
                measured[name] = section(place, rounds, **options.get(name, {}))
        except BenchError as error:
            console.print(f"[bold yellow]{name} SKIPPED[/]: {error}")
            continue
        report.show(console, f"{name}: {SECTIONS[name]}", measured[name])
    path = report.save(ROOT / "bench" / "results", measured)
    console.print(f"kept in {path.relative_to(ROOT)}")
    sys.exit(any(one.holds is False for section in measured.values() for one in section))


main()
