"""What a measurement is: a comparison in pairs, or a figure with a bar. Pure; knows neither servers nor screens.

Machines drift (turbo, neighbours, a filling disk), so ours and theirs are measured in turn, A B A B, and each round
gives a ratio of its own. What is reported is the median of these ratios and how far they spread, never one lucky run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

Run = Callable[[], dict[str, float]]  # one round of one side: a name for each value, the same names on both sides


@dataclass(frozen=True)
class Spread:
    """Several values of one thing."""

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
    """Ours against theirs, round by round; more is better. `bar`: the least median ratio."""

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
    """A value of ours alone; less is better. `bar`: what none of the values may exceed."""

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
    """What a pair of runs gave, round by round; less is better. `bar`: what the median may not exceed."""

    @property
    def holds(self) -> bool | None:
        return None if self.bar is None else median(self.values) <= self.bar


def in_pairs(ours: Run, theirs: Run, rounds: int, unit: str, bars: dict[str, float]) -> list[Comparison]:
    """Alternate the two sides, after one round of each that does not count."""
    ours(), theirs()
    comparisons: dict[str, Comparison] = {}
    for _ in range(rounds):
        our, their = ours(), theirs()
        for name in our:
            comparison = comparisons.setdefault(name, Comparison(name, unit, bar=bars.get(name)))
            comparison.ours.append(our[name])
            comparison.theirs.append(their[name])
    return list(comparisons.values())
