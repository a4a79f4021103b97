"""The part of a keyspace that notes what was seen expired, and hides it from then on.

Records are noted when somebody who named their keys is told that these are absent. The kept records are those of the
layer tree (`versions/expired_records.py`), so a record that was seen expired in one view is hidden in all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..index.lookup_batch import lives
from ..kernels.records import ABSENT, read_expiries, read_records
from ..versions.expired_records import ExpiredRecords, Record

if TYPE_CHECKING:
    from .keyspace import Keyspace


class SeenExpired:
    """Notes and hides records of one keyspace, whose members it uses. expire: logs that records were seen expired, and
    returns the LSN of that."""

    def __init__(self, keyspace: Keyspace, expire: Callable[[int, list[Record]], int]) -> None:
        self._keyspace, self._expire = keyspace, expire

    @property
    def _records(self) -> ExpiredRecords:
        return self._keyspace.stack.tree.expired

    def note(self, key64s: np.ndarray, found: np.ndarray, rows: np.ndarray) -> int:
        """Note which of these records have expired. Return the LSN that this depends on.

        key64s: hashes of the keys; found: locations; rows: as `read_records` sets them."""
        keyspace, records = self._keyspace, self._records
        locks, which = keyspace._log.locks, (rows[:, 0] < 0) & lives(found)
        read_expiries(keyspace._log.data, found[which], expiries := np.empty(int(which.sum()), np.int64))
        pairs = list(zip(found[which].tolist(), expiries.tolist(), strict=True))
        if not any(map(records.is_news, pairs)) or (locks.state.is_held and not locks.append.is_held):
            return records.lsn
        if keyspace.watches:
            with locks.state:
                keyspace.watches.mark_expired(key64s[which])
        return self._expire(keyspace.number, pairs)

    def hide(self, found: np.ndarray, rows: np.ndarray) -> int:
        """Make records absent that were seen expired by a clock that was set back since. Return the LSN that this
        depends on."""
        records = self._records
        for i in np.flatnonzero((rows[:, 0] >= 0) & (rows[:, 2] != 0)).tolist():
            if (int(found[i]), int(rows[i, 2])) in records:
                rows[i] = ABSENT, 0, 0, 0
        return records.lsn

    def count(self) -> int:
        """Count the records that `hide` would hide in the present view. The caller holds locks.state."""
        keyspace, log = self._keyspace, self._keyspace._log
        hidden = self._records.after(log.now())
        if not hidden:
            return 0
        locations, expiries = np.array([one for one, _ in hidden], np.uint64), np.array([at for _, at in hidden])
        rows = np.empty((len(hidden), 4), np.int64)
        read_records(log.data, locations, keyspace._owner, 0, True, rows)
        locations = locations[(rows[:, 0] >= 0) & (rows[:, 2] == expiries)]  # what stands elsewhere now is not counted
        names = keyspace._names(locations)
        return len(set(keyspace.stack.find(keyspace._wanted(names)).tolist()) & set(locations.tolist())) if names else 0
