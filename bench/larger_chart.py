"""The chart of tables larger than DRAM: inferences a second, and p99 of a batch, against the size of the tables."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from .report import machine

COLOURS = {
    "pmkv": "#d62728", "pmkv served": "#ff9896", "all in DRAM": "#2ca02c", "swap": "#1f77b4",
    "memory map, MADV_RANDOM": "#9467bd", "memory map, readahead": "#c5b0d5", "LMDB": "#8c564b", "RocksDB": "#7f7f7f",
}  # fmt: skip
CAPTION_COLUMNS = 150
LABEL_GAP = 0.055  # between the labels of two lines, as a share of the height of the axes


class Shown(Protocol):
    """What the chart takes of a result."""

    @property
    def inferences(self) -> float: ...

    def milliseconds(self, percentile: float) -> float: ...


def draw(path: Path, results: Mapping[tuple[float, float, str], Shown], caption: str, skew: float) -> bool:
    """Draw the results of one exponent; without matplotlib say that there is no chart. Return whether there is one."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no chart: matplotlib is not installed (pip install pmkv[bench])")
        return False
    lines: dict[str, list[tuple[float, Shown]]] = {}
    for (size, exponent, side), result in sorted(results.items(), key=lambda item: item[0]):
        if exponent == skew:
            lines.setdefault(side, []).append((size, result))
    drawing = Figure(figsize=(12, 6))
    left, right = drawing.subplots(1, 2)
    for axes, title in ((left, "inferences a second (more is better)"), (right, "p99 of a batch of 128, ms (less)")):
        ends = {}
        for side, points in lines.items():
            values = [one.inferences if axes is left else one.milliseconds(99) for _, one in points]
            sizes = [size for size, _ in points]
            width = 2.8 if side == "pmkv" else 1.5
            axes.plot(sizes, values, marker="o", markersize=4, color=COLOURS.get(side), linewidth=width)
            ends[side] = sizes[-1], values[-1]
        axes.set(xscale="log", yscale="log", title=title, xlabel="size of the tables / memory limit")
        ticks = sorted({size for points in lines.values() for size, _ in points})
        axes.set_xticks(ticks, [f"{size:g}x" for size in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        label(axes, ends)
    heading = f"Recommendation inference (DLRM, {skew:g} Zipf) with embedding tables smaller and larger than memory"
    drawing.suptitle(heading)
    drawing.text(0.02, 0.01, textwrap.fill(caption, CAPTION_COLUMNS), fontsize=8, va="bottom")
    drawing.tight_layout(rect=(0, 0.02 + 0.03 * len(textwrap.wrap(caption, CAPTION_COLUMNS)), 1, 1))
    drawing.savefig(path, dpi=110)
    print(f"chart: {path}")
    return True


def label(axes: Any, ends: Mapping[str, tuple[float, float]]) -> None:
    """Write the name of each line to the right of its end, moved apart where they are near each other."""
    low, high = axes.get_ylim()
    transform = axes.transAxes

    def height(value: float) -> float:
        return math.log(value / low) / math.log(high / low)

    at = -1.0
    for side, (_, value) in sorted(ends.items(), key=lambda item: item[1][1]):
        at = max(height(value), at + LABEL_GAP)
        axes.text(
            1.02, at, side, transform=transform, color=COLOURS.get(side), va="center", fontsize=9,
            fontweight="bold" if side == "pmkv" else "normal",
        )  # fmt: skip


def caption_of(command: str, limit: int, seconds: float) -> str:
    """Return what was measured, where and how."""
    here = machine()
    return (
        f"26 tables of 256-byte rows together 0.5 to 8 times a memory limit of {limit >> 20} MiB (control group), one "
        f"disk; 128 inferences a batch, each one row of each table, one thread; {seconds:g} s a point from an empty "
        f"page cache, of which the second half counts; outputs equal to the last bit. {here['cpu']}, {here['cpus']} "
        f"CPUs, Linux {here['kernel']}. {command}"
    )
