"""What a writer did, and whether what is found is a prefix of it: for tests that kill processes or cut the power.

Each operation of a writer has a number and writes it to one *unit*: a key, or several keys or rows that belong
together. Found must be what the first n operations leave, for one n that is not below what was acknowledged.
"""

from __future__ import annotations

from dataclasses import dataclass, field

State = dict[str, int]  # unit: the number of the operation that wrote it last


@dataclass
class Ledger:
    """The operations of one writer, in order, since it was checked last; before that, what they left."""

    name: str
    base: State = field(default_factory=dict)
    checked: int = 0  # operations that led to `base`
    acked: int = 0  # operations that were acknowledged, of all
    operations: list[tuple[str, bool]] = field(default_factory=list)  # unit, False: deleted

    def begin(self, unit: str, alive: bool = True) -> int:
        """The number of the next operation, to be written to the unit."""
        self.operations.append((unit, alive))
        return self.begun

    @property
    def begun(self) -> int:
        return self.checked + len(self.operations)

    def copy(self) -> Ledger:
        """As it is now. What is acknowledged is read first: a writer may go on meanwhile."""
        acked = self.acked
        return Ledger(self.name, dict(self.base), self.checked, acked, list(self.operations))

    def check(self, found: State) -> int:
        """How many operations are there; AssertionError if that is fewer than were acknowledged, or no prefix."""
        state = dict(self.base)
        for count in range(self.checked, self.begun + 1):
            if count > self.checked:
                self._apply(state, count)
            if count >= self.acked and state == found:
                self.base, self.checked, self.acked, self.operations = state, count, count, []
                return count
        raise AssertionError(
            f"{self.name}: {self.acked} of {self.begun} operations were acknowledged, and no prefix that holds them "
            f"leaves what was found: {found}; all of them leave {state}"
        )

    def _apply(self, state: State, number: int) -> None:
        unit, alive = self.operations[number - self.checked - 1]
        if alive:
            state[unit] = number
        else:
            state.pop(unit, None)
