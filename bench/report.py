"""Shows measurements as tables and keeps them as JSON."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .measure import Comparison, Figure, Spread

Measured = Comparison | Figure
VERDICT = {True: "[green]holds[/]", False: "[bold red]missed[/]", None: ""}


def show(console: Console, title: str, measured: Sequence[Measured]) -> None:
    comparisons = [one for one in measured if isinstance(one, Comparison)]
    figures = [one for one in measured if isinstance(one, Figure)]
    for sides in dict.fromkeys(one.sides for one in comparisons):
        console.print(compared(title, [one for one in comparisons if one.sides == sides], *sides))
    if figures:
        console.print(listed(title, figures))


def compared(title: str, comparisons: Sequence[Comparison], ours: str, theirs: str) -> Table:
    table = Table("what", "unit", ours, theirs, f"{ours} / {theirs}, median (min..max)", "bar", "", title=title)
    for one in comparisons:
        values = [f"{Spread(side).median:,.0f}" for side in (one.ours, one.theirs)]
        bar = "" if one.bar is None else f">= {one.bar:g}"
        table.add_row(one.name, one.unit, *values, f"{one.ratio:.2f}", bar, VERDICT[one.holds])
    return table


def listed(title: str, figures: Sequence[Figure]) -> Table:
    table = Table("what", "unit", "median (min..max)", "bar", "", title=title)
    for one in figures:
        bar = "" if one.bar is None else f"<= {one.bar:g}"
        table.add_row(one.name, one.unit, f"{Spread(one.values):.2f}", bar, VERDICT[one.holds])
    return table


def machine() -> dict[str, str | int | None]:
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]  # fmt: skip
    return {"cpu": names[0] if names else platform.machine(), "cpus": os.cpu_count(), "kernel": platform.release(),
            "python": platform.python_version()}  # fmt: skip


def save(folder: Path, sections: dict[str, list[Measured]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / time.strftime("%Y-%m-%dT%H-%M-%S.json")
    content = {name: [one.asdict() for one in measured] for name, measured in sections.items()}
    path.write_text(json.dumps({"machine": machine(), "sections": content}, indent=1) + "\n")
    return path
