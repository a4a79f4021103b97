"""Read leases: emptied segments wait for the readers of before, however these end."""

from __future__ import annotations

import pytest

from pmkv.log.leases import ReadLeases


def test_without_a_reader_segments_are_released_in_order() -> None:
    leases = ReadLeases()
    leases.retire((3, 1))
    leases.retire((2,))
    assert leases.retired == [3, 1, 2]
    assert (leases.released(), leases.released(), leases.released()) == ((3, 1), (2,), ())
    assert leases.retired == []


def test_a_reader_of_before_holds_back_all_that_comes_later_and_one_of_after_nothing() -> None:
    leases = ReadLeases()
    before = leases.current
    leases.retire((1,))
    after = leases.current
    assert leases.released() == () and before is not after
    leases.retire((2,))
    del before
    assert leases.released() == (1,) and leases.released() == ()
    del after
    assert leases.released() == (2,)


def test_a_reader_that_fails_holds_nothing() -> None:
    leases = ReadLeases()

    def read() -> None:
        _lease = leases.current
        raise ValueError

    with pytest.raises(ValueError):
        read()
    leases.retire((1,))
    assert leases.released() == (1,)
