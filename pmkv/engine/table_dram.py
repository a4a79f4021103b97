"""Whether the DRAM that an owner chooses for the rows of a table is there."""

from __future__ import annotations

from ..cache.dram_choice import ALL, DramChoice, reserved_bytes
from ..cache.pinned_rows import pinned_bytes
from ..cache.row_cache import RowBudget, Sharer
from ..errors import InvalidError


def check_fits(
    budget: RowBudget | None, choice: DramChoice, width: int, bound: int | None, sharer: Sharer | None, name: str
) -> None:
    """Raise InvalidError if the row cache has not what is chosen for a table of `bound` rows (None: of any ids).

    sharer: what the table reserves now. A store without a row cache has all rows in DRAM or in persistent memory."""
    if budget is None or choice is None:
        return
    full = pinned_bytes(width, bound) if bound is not None else 0
    wanted = full if choice == ALL else reserved_bytes(choice, budget.size, full)
    if isinstance(choice, int):
        wanted = choice
    free = budget.free_for(sharer)
    if wanted > free:
        raise InvalidError(
            f"dram={choice!r} of table {name!r} takes {wanted:,} bytes, and of the row cache's {budget.size:,} only "
            f"{max(free, 0):,} are not reserved: open the store with a larger dram, or choose less"
        )
