"""`pmkv top`: what a running server does, on one screen that is drawn again and again.

All figures come from INFO and VIEW.LIST. What happened between two samples is shown as rates; the first sample has
those since the start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SHOWN_COMMANDS = 12  # those that took most time
SHOWN_VIEWS, SHOWN_TABLES = 8, 8
Ask = Callable[..., Any]  # sends a command, returns its reply


@dataclass(frozen=True)
class Sample:
    """Figures of one moment. at: seconds of a clock; info: fields of INFO; views: names."""

    at: float
    info: Mapping[str, str]
    views: tuple[str, ...] = ()

    def number(self, field: str) -> float:
        """Return a field as a number, 0 if it is missing or none."""
        try:
            return float(self.info.get(field, 0))
        except ValueError:
            return 0.0

    def commands(self) -> dict[str, tuple[float, float]]:
        """Return (calls, microseconds) of each command."""
        prefix = "cmdstat_"
        found = {name.removeprefix(prefix): pairs(text) for name, text in self.info.items() if name.startswith(prefix)}
        return {name: (float(fields["calls"]), float(fields["usec"])) for name, fields in found.items()}


def pairs(text: str) -> dict[str, str]:
    """Return the fields of `a=1,b=2`."""
    return dict(field.split("=", 1) for field in text.split(",") if "=" in field)


def take(ask: Ask) -> Sample:
    """Ask a server for its figures."""
    lines = ask("INFO", "everything").decode().splitlines()
    info = dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))
    return Sample(time.monotonic(), info, tuple(name.decode() for name in ask("VIEW.LIST")))


def size(number: float) -> str:
    """Return bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def share(part: float, whole: float) -> str:
    """Return a part as a percentage, a dash of nothing."""
    return f"{100 * part / whole:.1f} %" if whole > 0 else "-"


def operations(before: Sample | None, now: Sample) -> list[tuple[str, str, str, str]]:
    """Return (command, calls a second, mean microseconds, share of the time) of the commands that took most time."""
    seconds = now.at - before.at if before is not None else max(now.number("uptime_in_seconds"), 1.0)
    former = before.commands() if before is not None else {}
    since = {
        name: (calls - former.get(name, (0.0, 0.0))[0], spent - former.get(name, (0.0, 0.0))[1])
        for name, (calls, spent) in now.commands().items()
    }
    busiest = sorted((item for item in since.items() if item[1][0] > 0), key=lambda item: -item[1][1])
    total = sum(spent for _, spent in since.values())
    return [
        (name, f"{calls / seconds:,.0f}", f"{spent / calls:,.1f}", share(spent, total))
        for name, (calls, spent) in busiest[:SHOWN_COMMANDS]
    ]


def hits(before: Sample | None, now: Sample) -> list[tuple[str, str]]:
    """Return (what, share of lookups that it answered), then what more DRAM would answer."""

    def since(field: str) -> float:
        return now.number(field) - (before.number(field) if before is not None else 0.0)

    lines = []
    for label, name in (("rows", "pmkv_row_cache"), ("locations", "pmkv_location_cache")):
        found, missed = since(f"{name}_hits"), since(f"{name}_misses")
        used, budget = now.number(f"{name}_bytes"), now.number(f"{name}_budget")
        lines.append((f"{label}, {size(used)} of {size(budget)}", share(found, found + missed)))
    for dram, ratio in pairs(now.info.get("pmkv_row_cache_curve", "")).items():
        lines.append((f"rows with {float(dram):g}x DRAM", share(float(ratio), 1.0)))
    return lines


def space(now: Sample) -> list[tuple[str, str]]:
    """Return (what, bytes or count) of the pool, the indexes and the process."""
    used, capacity = now.number("pmkv_used"), now.number("pmkv_capacity")
    return [
        ("pool", f"{size(used)} of {size(capacity)}, {share(used, capacity)}"),
        ("memtables", size(now.number("pmkv_index_bytes"))),
        ("runs", f"{size(now.number('pmkv_run_bytes'))}, up to {now.number('pmkv_runs'):.0f} a table"),
        ("to replay", f"{now.number('pmkv_replay_seconds'):.3f} s"),
        ("resident", size(now.number("used_memory_rss"))),
        ("clients", f"{now.number('connected_clients'):.0f}"),
    ]


def tables(now: Sample) -> list[tuple[str, str]]:
    """Return (name, rows) of the largest tables."""
    counts = {name: int(count) for name, count in pairs(now.info.get("pmkv_tables", "")).items()}
    return [(name, f"{count:,}") for name, count in sorted(counts.items(), key=lambda one: -one[1])[:SHOWN_TABLES]]


def frame(before: Sample | None, now: Sample) -> Any:
    """Return one picture of the screen."""
    from rich.columns import Columns  # here, because other commands do not need it and should start quickly
    from rich.console import Group
    from rich.table import Table

    def grid(title: str, headings: tuple[str, ...], lines: list[tuple[str, ...]]) -> Table:
        made = Table(*headings, title=title, title_justify="left", box=None, pad_edge=False, min_width=len(title) + 4)
        for column in made.columns[1:]:
            column.justify = "right"
        for line in lines:
            made.add_row(*line)
        return made

    views = [(name,) for name in now.views[:SHOWN_VIEWS]]
    if len(now.views) > SHOWN_VIEWS:
        views.append((f"and {len(now.views) - SHOWN_VIEWS} more",))
    return Group(
        grid("operations", ("command", "a second", "us each", "of the time"), operations(before, now)),
        Columns(
            [
                grid("hits", ("of", "found"), hits(before, now)),
                grid("space", ("of", ""), space(now)),
                grid("tables", ("table", "rows"), tables(now)),
                grid("views", ("view",), views),
            ],
            padding=(1, 4),
        ),
    )


def samples(ask: Ask, interval: float, wait: Callable[[float], None] = time.sleep) -> Iterator[Sample]:
    """Yield a sample every so many seconds, for ever."""
    while True:
        yield take(ask)
        wait(interval)


def show(ask: Ask, interval: float) -> None:
    """Draw the screen every so many seconds, until the user interrupts it."""
    from rich.live import Live  # here, because other commands do not need it and should start quickly

    before: Sample | None = None
    with Live(screen=True, auto_refresh=False) as live:
        for now in samples(ask, interval):
            live.update(frame(before, now), refresh=True)
            before = now


def show_once(ask: Ask) -> None:
    """Print one picture, of the time since the start."""
    from rich.console import Console  # here, because other commands do not need it and should start quickly

    Console().print(frame(None, take(ask)))
