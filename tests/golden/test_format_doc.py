"""docs/FORMAT.md is true: its tables are those of the code, its example is what a store writes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pmkv.engine.engine import Engine
from pmkv.index.lookup_batch import IdBatch
from pmkv.log import format as format_
from pmkv.log.format import Flag, Kind
from tests.golden.stores import NOON, known_ids, new_medium, open_engine

TEXT = (Path(__file__).parents[2] / "docs" / "FORMAT.md").read_text()
HEX_LINE = re.compile(r"^([0-9a-f]{8})((?: {1,2}[0-9a-f]{2}){16})(?:  .*)?$", re.MULTILINE)
FIELD = re.compile(r"^\| (\d+) \| (\d+) \| `(\w+)` \|", re.MULTILINE)


@pytest.fixture(scope="module")
def example() -> Engine:
    with known_ids():
        engine = open_engine(new_medium(4, 4096))
        engine.keyspaces[0].put(b"greeting", b"hello", expire_at=4_000_000_000_000)
        table = engine.create_table("t", ("f4", 2))
        table.put([7, -1], [[1, 2], [0.5, 0]])
        engine.log.mark()
    return engine


def test_the_example_is_what_is_written(example: Engine) -> None:
    raw = example.pool.medium.data.tobytes()
    shown = {int(at, 16): bytes.fromhex(line) for at, line in HEX_LINE.findall(TEXT)}
    written = {at: raw[at : at + 16] for at in range(0, len(raw), 16) if any(raw[at : at + 16])}
    assert shown == written
    assert f"the log ends, at {example.log.position:#x}" in TEXT
    assert f"{NOON:,} = {NOON:#x} ms" in TEXT


def test_the_locations_of_the_example(example: Engine) -> None:
    rows = example.tables["t"]._look_up(IdBatch(np.array([7, -1])))[0].tolist()
    for location in [example.keyspaces[0].records([b"greeting"])[0][0], *rows]:
        assert f"{location:#018x}" in TEXT


def test_the_tables_are_the_headers() -> None:
    documented = [(int(offset), int(size), name) for offset, size, name in FIELD.findall(TEXT)]
    headers = (format_.POOL_HEADER, format_.SEGMENT_HEADER, format_.FRAME_HEADER)
    assert documented == [
        (header.fields[name][1], header[name].itemsize, name) for header in headers for name in header.names
    ]


def test_the_numbers_of_kinds_and_flags() -> None:
    assert dict(re.findall(r"^\| (\d) \| `([A-Z]+)` \|", TEXT, re.MULTILINE)) == {
        str(int(kind)): kind.name for kind in Kind
    }
    for flag in Flag:
        assert f"{int(flag)} `{flag.name}`" in TEXT
    assert f"# The format, version {format_.VERSION}" in TEXT
    assert f'{{"format":{format_.VERSION},' in TEXT
