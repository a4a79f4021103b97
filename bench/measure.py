"""The kinds of measurement: a comparison in pairs, and a figure with a bar. Knows neither servers nor screens.

Machines drift (turbo, neighbours, a filling disk), so both sides are measured in turn, A B A B, and each round gives
a ratio of its own. The report shows the median and the spread of these ratios, never one lucky run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

Run = Callable[[], dict[str, float]]  # one round of one side: a name for each value, the same names on both sides


@dataclass(frozen=True)
class Spread:
    """The values of one measurement, one per round."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        return median(self.values)

    def __format__(self, form: str) -> str:
        low, high = min(self.values), max(self.values)
        middle = format(self.median, form)
        return middle if len(self.values) == 1 else f"{middle} ({format(low, form)}..{format(high, form)})"


@dataclass
class Comparison:
    """Compares two sides round by round; more is better. `bar`: the least median ratio."""

    name: str
    unit: str
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    bar: float | None = None
    sides: tuple[str, str] = ("pmkv", "redis")

    @property
    def ratio(self) -> Spread:
        return Spread([our / their for our, their in zip(self.ours, self.theirs, strict=True)])

    @property
    def holds(self) -> bool | None:
        return None if self.bar is None else self.ratio.median >= self.bar

    def asdict(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio.median, "ratios": list(self.ratio.values), "holds": self.holds}


@dataclass
class Figure:
    """Holds values of pmkv alone; less is better. `bar`: the maximum of every value."""

    name: str
    unit: str
    values: list[float]
    bar: float | None = None

    @property
    def holds(self) -> bool | None:
        return None if self.bar is None else max(self.values) <= self.bar

    def asdict(self) -> dict[str, Any]:
        return asdict(self) | {"median": median(self.values), "holds": self.holds}


@dataclass
class Ratio(Figure):
    """Holds one ratio per round of a pair of runs; less is better. `bar`: the maximum of the median."""

    @property
    def holds(self) -> bool | None:
        return None if self.bar is None else median(self.values) <= self.bar


def in_pairs(ours: Run, theirs: Run, rounds: int, unit: str, bars: dict[str, float]) -> list[Comparison]:
    """Measure two sides in turn for some rounds, after one round of each that does not count."""
    ours(), theirs()
    comparisons: dict[str, Comparison] = {}
    for _ in range(rounds):
        our, their = ours(), theirs()
        for name in our:
            comparison = comparisons.setdefault(name, Comparison(name, unit, bar=bars.get(name)))
            comparison.ours.append(our[name])
            comparison.theirs.append(their[name])
    return list(comparisons.values())
