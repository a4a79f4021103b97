"""The choice of rows for a put that keeps what is newer: by a field of the row, such as the time of an event.

A row is written unless the stored row of its id has a greater value in that field. Of several rows of one id in a call
the one with the greatest value is taken, of equal values the last. Fields that are ordered: integers, floats, dates and
durations; NaN and NaT have no order and are refused.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InvalidError
from ..log.room import with_room

if TYPE_CHECKING:
    from .table import Table

ORDERED_KINDS = "iufmM"


def order_values(rows: np.ndarray, field: str, label: str) -> np.ndarray:
    """Return the values of the field that orders the rows. label: whose rows they are, for the error.

    InvalidError: there is no such field, it is no single number or time, or one of its values has no order."""
    names = rows.dtype.names
    if names is None or field not in names:
        raise InvalidError(
            f"newer={field!r}: {label} have no such field; they have {', '.join(names or ()) or 'no fields'}"
        )
    values = rows[field]
    if values.ndim != 1 or values.dtype.kind not in ORDERED_KINDS:
        raise InvalidError(
            f"newer={field!r}: this field of {label} has dtype {rows.dtype[field]}; rows are ordered by one integer, "
            "float or time each"
        )
    if (values != values).any():
        raise InvalidError(f"newer={field!r}: {label} hold NaN or NaT there, which is neither older nor newer")
    return np.ascontiguousarray(values)


def newest_of_each(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the positions of the newest row of each id, int64[m] in ascending order; of equal values the last."""
    order = np.lexsort((np.arange(ids.size), values, ids))
    is_last = np.ones(ids.size, bool)
    is_last[:-1] = ids[order[1:]] != ids[order[:-1]]
    return np.sort(order[is_last])


def put_newer(table: Table, ids: np.ndarray, raw: np.ndarray, field: str) -> int:
    """Write the rows, uint8[n * width], that are not older by this field than the stored ones; return how many.

    This is `Table.put` with `newer`. A piece is compared and written under the locks of one write."""
    values = order_values(table.decoded(raw, (ids.size,)), field, f"rows of table {table.name!r}")
    newest, lines = newest_of_each(ids, values), raw.reshape(ids.size, table.width)
    table._guard_write()
    log, absent = table._log, np.zeros(table.width, np.uint8)
    written, lsn, piece = 0, 0, table._atomic(table.width)
    for start in range(0, newest.size, piece):
        some = newest[start : start + piece]

        def write_newer(some: np.ndarray = some) -> int:
            stored, found = table._gather(ids[some], absent)
            kept = table.decoded(stored, (some.size,))[field]
            some = some[(found == 0) | ~(kept > values[some])]
            if some.size:
                log.wait_durable(table._write(ids[some], lines[some].reshape(-1), 0))
            return some.size

        count, depends_on = with_room(log, partial(log.exclusively, write_newer))
        written, lsn = written + count, max(lsn, depends_on)  # what was left alone may be pending, too
    log.wait_durable(lsn)
    return int(written)
