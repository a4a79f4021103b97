"""Which runs are folded, and which folds share a file."""

from __future__ import annotations

import pytest

from pmkv.maintenance import compaction_policy as fold
from pmkv.maintenance.compaction_policy import MOST, SPAN_TIER, TIER, CompactionPlan, cheapest, compactable, tier_of
from pmkv.versions.manifest import LayerRecord


class Sized:
    """Stands for a run of so many entries, written from a LSN on."""

    def __init__(self, count: int, first: int = 0) -> None:
        self.info = type("Info", (), {"count": count, "first": first})


def chosen(*sizes: int, sealed: bool = False, is_idle: bool = False, own: int = 0) -> list[int]:
    """The sizes of what is folded of runs of these sizes, of which so many were written since the layer began."""
    runs = tuple(Sized(size, first=int(number < own)) for number, size in enumerate(sizes))
    return [run.info.count for run in compactable(LayerRecord(1, None, runs), sealed, is_idle)]


def test_runs_of_about_one_size_become_one() -> None:
    some = [1, 2, 1, 1, 2][:TIER] + [1] * (TIER - 5)
    assert chosen(*some[:-1]) == []
    assert chosen(*some, 100) == some
    assert chosen(50, *some, 400) == some
    assert chosen(*(8**i for i in range(MOST))) == []


def test_two_of_about_one_size_are_enough_at_rest() -> None:
    assert chosen(1, 2, 5, 100) == chosen(1, 2, 5, 100, sealed=True) == []
    assert chosen(1, 2, 5, 100, is_idle=True) == [1, 2]
    assert chosen(3, 7, 100, is_idle=True) == []


def test_what_was_written_to_a_sealed_layer_becomes_one_run_at_rest_whatever_the_sizes() -> None:
    assert chosen(1, 100, 1000, sealed=True, is_idle=True, own=2) == [1, 100]
    assert chosen(100, 1000, sealed=True, is_idle=True, own=1) == []
    assert chosen(1, 100, 1000, sealed=True, own=2) == chosen(1, 100, 1000, is_idle=True, own=2) == []


def test_fewer_than_a_tier_are_never_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmkv.maintenance.compaction_policy.MOST", 4)
    apart = [10**i for i in range(7)]
    assert tier_of(apart, 8) == slice(0)
    assert tier_of(apart, 2) == slice(0, 2)


def test_too_many_are_folded_whatever_their_sizes() -> None:
    assert chosen(*(3**i for i in range(MOST + 1))) == [3**i for i in range(TIER)]


def test_small_folds_share_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "AT_ONCE", 100)
    folds = [CompactionPlan(None, 0, (Sized(size), Sized(size)), False) for size in (30, 500, 10, 20)]
    assert [one.size for one in cheapest(folds)] == [20, 40]
    assert [one.size for one in cheapest(folds[1:2])] == [1000]
    assert cheapest([]) == []


def test_a_thousand_layers_of_one_size_are_a_few_dozen_spans_at_once_and_then_one() -> None:
    sizes, spans = [1000 + i % 30 for i in range(1000)], 0
    while (group := tier_of(sizes, SPAN_TIER)) != slice(0):
        spans += 1
        sizes[group] = [sum(sizes[group])]
    assert len(sizes) < 10 and spans < 30
