"""What a writer did, and whether what is found is a prefix of it: for tests that kill processes or cut the power.

Each operation of a writer has a number and writes it to one *unit*: a key, or several keys or rows that belong
together. Found must be what the first n operations leave, for one n that is not below what was acknowledged.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Ledger:
    """The operations of one writer, in order. `acked`: how many of them were acknowledged."""

    name: str
    operations: list[tuple[str, bool]] = field(default_factory=list)  # unit, False: deleted
    acked: int = 0

    def begin(self, unit: str, alive: bool = True) -> int:
        """The number of the next operation, to be written to the unit."""
        self.operations.append((unit, alive))
        return len(self.operations)

    def state(self, count: int) -> dict[str, int]:
        """What the first `count` operations leave: unit to number."""
        state: dict[str, int] = {}
        for number, (unit, alive) in enumerate(self.operations[:count], 1):
            if alive:
                state[unit] = number
            else:
                state.pop(unit, None)
        return state

    def check(self, found: dict[str, int]) -> int:
        """How many operations are there; AssertionError if that is fewer than were acknowledged, or no prefix."""
        for count in range(self.acked, len(self.operations) + 1):
            if self.state(count) == found:
                self.operations, self.acked = self.operations[:count], count
                return count
        wanted = self.state(self.acked)
        missing = {unit: (found.get(unit), n) for unit, n in wanted.items() if found.get(unit, 0) < n}
        raise AssertionError(
            f"{self.name}: {self.acked} of {len(self.operations)} operations were acknowledged, found is no prefix "
            f"that holds them; (found, acknowledged) where less was found: {missing or 'nowhere, but it is no prefix'}"
        )
