"""Layers that two views do not share, and what a walk of them yields."""

from __future__ import annotations

import numpy as np

from pmkv.versions.difference import layers_between, walk_layers
from tests.engines import small_engine


def test_what_both_stand_on_is_left_out() -> None:
    engine = small_engine()
    table = engine.create_table("t", "i4")
    tree = table.stack.tree.name
    table.put(np.arange(100), np.arange(100))
    engine.versions.snapshot("v")
    table.put([7], [1])
    table.delete([3])
    engine.versions.branch("b", "v")
    engine.table("t", "b").put([50], [2])
    main, branch = table.stack.top, engine.table("t", "b").stack.top
    frozen = engine.view_set.maps["v"].tops[tree]
    for top, since, wanted in ((main, frozen, {3, 7}), (frozen, main, {3, 7}), (branch, frozen, {50}),
                               (branch, main, {3, 7, 50}), (main, main, set()),
                               (main, None, set(range(100)))):  # fmt: skip
        layers = layers_between(top, since)
        words = [words for _, words, _ in walk_layers(layers, table.stack.seed)]
        assert {int(id) for some in words for id in some} == wanted
