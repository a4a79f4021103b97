"""The face of maintenance for the engine and the store, which schedules it: checkpoints and compactions."""

from __future__ import annotations

from collections.abc import Callable

from ..catalog.lmdb_catalog import Catalog
from ..index.run_files import RunFiles
from ..log.log import Log
from ..versions.layer import LayerTree
from .checkpoint import Checkpointer, FrozenState
from .cleaning import Cleaner
from .cleaning_policy import MIN_WIN
from .committed import CommittedState, Steps
from .compaction import Compactor


class Maintenance(CommittedState):
    """Holds the committed state of one store, and moves it on by checkpoints and compactions. freeze: freezes the
    memtables and returns the state at one place of the log; trees: returns the present layer trees."""

    def __init__(
        self,
        log: Log,
        catalog: Catalog,
        run_files: RunFiles,
        freeze: Callable[[], FrozenState],
        trees: Callable[[], dict[str, LayerTree]],
    ) -> None:
        super().__init__(log, catalog, run_files, trees)
        self._checkpointer, self._compactor = Checkpointer(self, freeze), Compactor(self)
        self.cleaner = Cleaner(self)

    def checkpoint(self) -> Steps:
        """Take a checkpoint: a restart replays the log from here on."""
        return self._checkpointer.checkpoint()

    def compact(self) -> Steps:
        """Compact until every index stack has few runs."""
        return self._compactor.compact()

    def clean(self, wanted: int | None = None, min_win: float = MIN_WIN) -> Steps:
        """Empty segments that hold much of what nobody needs. wanted: segments to gain, None for all that is worth it;
        min_win: the part of a segment that must be dead."""
        return self.cleaner.clean(wanted, min_win)

    @property
    def may_compact_at_rest(self) -> bool:
        """Return whether anything was committed since compactions were last looked for while nobody wrote."""
        return self._compactor.compacted_at_rest is not self.manifest

    @property
    def checkpoints(self) -> int:
        """Return how many checkpoints were committed since the store was opened."""
        return self._checkpointer.count

    @property
    def checkpointed_at(self) -> int:
        """Return when the last checkpoint was committed, in unix ms; 0 if none was."""
        return self._checkpointer.committed_at

    @property
    def compactions(self) -> int:
        """Return how many compactions were committed since the store was opened."""
        return self._compactor.count

    @property
    def problem(self) -> str | None:
        """Return why the last checkpoint, compaction or cleaning failed; None if it did not."""
        return self.error or next(iter(self.cleaner.damaged.values()), None)
