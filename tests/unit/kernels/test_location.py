"""The location's bits, as plain Python functions: the kernels that use them are tested compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pmkv.kernels import location

U = np.uint64


def plain(function: Any) -> Any:
    return getattr(function, "py_func", function)


@pytest.mark.parametrize("offset", [4096, 1 << 30, (1 << 47) - 1])
@pytest.mark.parametrize("check", [0, 1, 0xFFFF])
def test_a_location_holds_offset_and_check(offset: int, check: int) -> None:
    made = U(plain(location.make)(offset, U(check)))
    assert plain(location.offset_of)(made) == offset
    assert plain(location.check_of)(made) == check
    assert plain(location.lives)(made)
    deleted = made | location.DELETE
    assert not plain(location.lives)(deleted)
    assert plain(location.offset_of)(deleted) == offset


def test_the_parts_of_a_location_do_not_overlap() -> None:
    assert int(location.OFFSET_MASK) & int(location.DELETE) == 0
    assert int(location.OFFSET_MASK) | int(location.DELETE) == (1 << int(location.CHECK_SHIFT)) - 1
    assert not plain(location.lives)(U(0))


def test_pending_is_lying_in_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(location, "offset_of", plain(location.offset_of))
    pending = np.array([[100, 200], [300, 400]], np.int64)
    is_pending = plain(location.is_pending)
    inside = [offset for offset in range(0, 500, 10) if is_pending(U(offset) | U(7 << 48), pending)]
    assert inside == [*range(100, 200, 10), *range(300, 400, 10)]
    assert is_pending(U(100) | location.DELETE, pending), "a pending delete is pending too"
    assert not is_pending(U(0), np.empty((0, 2), np.int64))
