"""The arguments of a pooled read: bags of ids, as torch.nn.EmbeddingBag takes them, checked for one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import InvalidError
from ..kernels.reduce import MODES
from .array_forms import as_array
from .casting import cast_values
from .extension_dtypes import is_extension, is_float

if TYPE_CHECKING:
    from .table import Table


@dataclass(frozen=True)
class Bags:
    """Holds checked bags of ids, and how they are reduced.

    starts: int64[bags]; weights: one for each id, or empty; real: the dtype of the result; elements: of one row."""

    ids: np.ndarray
    starts: np.ndarray
    weights: np.ndarray
    mode: str
    real: np.dtype
    elements: int

    def zeros(self) -> np.ndarray:
        """Return the reduction of empty bags."""
        return np.zeros((self.starts.size, self.elements), self.real)


def bags_of(table: Table, ids: npt.ArrayLike, offsets: npt.ArrayLike, weights: npt.ArrayLike | None, mode: str) -> Bags:
    """Check bags of ids of a table: bag b is ids[offsets[b] : offsets[b + 1]], the last one ends with the ids."""
    flat, shape = table._shaped_ids(ids)
    if len(shape) != 1:
        raise InvalidError(f"ids of bags have one dimension, not shape {shape}: give ids.reshape(-1) and offsets")
    starts, real = bag_starts(offsets, flat), pooled_dtype(table, mode)
    scale = np.empty(0, real) if weights is None else checked_weights(weights, flat.size, mode, real)
    return Bags(flat, starts, scale, mode, real, table._codec.size)


def bag_starts(offsets: npt.ArrayLike, ids: np.ndarray) -> np.ndarray:
    """Return where the bags of ids begin, int64[n]. InvalidError: the offsets do not rise from 0 to within the ids."""
    starts = as_array(offsets, "offsets")
    if starts.size == 0:
        starts = np.empty(0, np.int64)
    if starts.ndim != 1 or starts.dtype.kind not in "iu":
        raise InvalidError(f"offsets must be integers in one dimension, not {starts.dtype} of shape {starts.shape}")
    starts = np.ascontiguousarray(starts, np.int64)
    if starts.size and (starts[0] != 0 or starts[-1] > ids.size or (starts[1:] < starts[:-1]).any()):
        raise InvalidError(
            f"offsets must begin with 0, never fall, and end within the {ids.size} ids; they are "
            f"{starts[:3].tolist()} ... {starts[-1]}"
        )
    if ids.size and not starts.size:
        raise InvalidError(f"{ids.size} ids, but no offsets: each id must belong to a bag")
    return starts


def pooled_dtype(table: Table, mode: str) -> np.dtype:
    """Return the dtype that rows are added in. InvalidError: they are no numbers, or there is no such mode."""
    if table.dtype.kind not in "fiub" and not is_extension(table.dtype):
        raise InvalidError(f"table {table.name!r} has dtype {table.dtype}: only numbers can be pooled")
    if not isinstance(mode, str) or mode not in MODES:
        raise InvalidError(f"mode={mode!r}: choose one of {', '.join(MODES)}")
    return np.dtype(np.float32 if is_float(table.dtype) and table.dtype.itemsize <= 4 else np.float64)


def checked_weights(weights: npt.ArrayLike, count: int, mode: str, real: np.dtype) -> np.ndarray:
    """Return weights, one for each id, in the dtype that rows are added in. InvalidError: they do not fit."""
    if mode != "sum":
        raise InvalidError(f"weights go with mode='sum' only, not {mode!r}")
    scale = as_array(weights, "weights")
    if scale.shape != (count,) or scale.dtype.kind not in "fiu":
        raise InvalidError(f"weights must be {count} numbers, one an id, not {scale.dtype} of shape {scale.shape}")
    return cast_values(scale, real, "weights")
