"""`pmkv.dump`: one line a frame, its contents below; the golden test in tests/golden compares every byte of it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest

import pmkv
from pmkv.errors import CorruptionError, UnknownNameError
from pmkv.log.format import EPOCH_SHIFT, Kind
from pmkv.tools.dump import dump, name, shown
from tests.unit.damaged import CAPACITY, frames_of, overwrite


def printed(path: Path) -> list[str]:
    out = io.StringIO()
    dump(path, out)
    return out.getvalue().splitlines()


def make(path: Path) -> Path:
    with pmkv.open(path, capacity=CAPACITY) as store:
        store.put(b"greeting", b"hello")
        store.put(b"long", bytes(600_000))
        store.create_table("items", "i8").put(np.arange(100), np.arange(100))
        store.delete(b"greeting")
    return path


def test_a_line_a_frame_and_its_contents_below(tmp_path: Path) -> None:
    frames = frames_of(make(tmp_path))
    first, second, *lines, last = printed(tmp_path)
    assert re.fullmatch(r"pool [0-9a-f]{32}: \d+ segments of \d+ bytes", first)
    assert second.startswith("segment 0 generation 1 at 4096")
    heads = [line for line in lines if re.match(r"\d", line)]
    assert [line.split()[:2] for line in heads] == [[name(frame.lsn), Kind(frame.kind).name] for frame in frames]
    for line, frame in zip(heads, frames):
        assert f" at {frame.offset}, {frame.length} bytes, durable {name(frame.durable)}, " in line
    assert "    'greeting' = 'hello'" in lines and "    delete 'greeting'" in lines
    assert any(re.fullmatch(r"    'long' = 600000 bytes in \d+ parts", line) for line in lines)
    assert "    100 ids: " + " ".join(map(str, range(64))) + " ... 99" in lines
    assert last == f"end at {frames[-1].end}, durable up to {name(frames[-1].durable)}"


def test_a_damaged_log_is_printed_up_to_the_damage(tmp_path: Path) -> None:
    whole = printed(make(tmp_path))
    victim = next(frame for frame in frames_of(tmp_path) if frame.kind == Kind.ROWS)
    overwrite(tmp_path, victim.body, b"\xff" * 8)
    out = io.StringIO()
    with pytest.raises(CorruptionError, match=f"damaged at offset {victim.offset:,}"):
        dump(tmp_path, out)
    found = out.getvalue().splitlines()
    assert found == whole[: len(found)] and whole[len(found)].startswith(f"{name(victim.lsn)} ROWS")


def checkpointed(path: Path) -> Path:
    with pmkv.open(path, capacity=CAPACITY) as store:
        store.keyspace(2).put_many({b"k" * 600: b"", b"greeting": b"hello"}, expire_at=4_000_000_000_000)
        store.create_table("items", "i8").put(np.arange(3), np.arange(3))
        store.checkpoint()
        store.keyspace(2).delete(b"greeting")
        store.checkpoint()
    return path


def test_what_the_last_checkpoint_says_comes_behind(tmp_path: Path) -> None:
    found = printed(checkpointed(tmp_path))
    found = found[next(i for i, line in enumerate(found) if line.startswith("end at ")) + 1 :]
    assert found[0].startswith('catalog keyspace/2 {"') and '.runs:4096"' in found[0]
    heads = [line.split()[1].partition("/")[0] for line in found if line.startswith("catalog ")]
    assert heads == ["keyspace", "log", "run", "run", "run", "table", "view", "key"]
    entries = [line for line in found if re.fullmatch(r"    [0-9a-f]{16} at \d+( delete)?", line)]
    assert len(entries) == 2 + 1 + 3 and sum(line.endswith(" delete") for line in entries) == 1
    assert found.count("    adds expiry 4000000000000") == 2
    assert found.count("    takes away expiry 4000000000000") == 1
    assert found[-1] == f"catalog key 2 '{'k' * 64}'... (520 bytes)"


def test_a_run_that_is_gone_is_named(tmp_path: Path) -> None:
    file = next((checkpointed(tmp_path) / "runs").iterdir())
    file.unlink()
    out = io.StringIO()
    with pytest.raises(CorruptionError, match=f"the catalog names {file.name} among the runs"):
        dump(tmp_path, out)
    assert "\nend at " in out.getvalue() and "\ncatalog log " in out.getvalue()


def test_there_must_be_a_store(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError):
        dump(tmp_path, io.StringIO())


def test_an_lsn_is_written_as_epoch_and_number() -> None:
    assert name(0) == "0.0"
    assert name((3 << EPOCH_SHIFT) + 17) == "3.17"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "''"),
        (b"plain", "'plain'"),
        (b"\x00\xff'", '"\\x00\\xff\'"'),
        (b"k" * 64, repr("k" * 64)),
        (b"k" * 65, repr("k" * 64) + "... (65 bytes)"),
    ],
)
def test_bytes_are_shown_as_python_writes_them_and_not_too_many(raw: bytes, text: str) -> None:
    assert shown(np.frombuffer(raw, np.uint8)) == text


def test_a_cleaned_store_is_printed_from_what_is_left(tmp_path: Path) -> None:
    """Its log does not begin in segment 0 any more, and what was moved stands beside it."""
    with pmkv.open(tmp_path, capacity=CAPACITY) as store:
        table = store.create_table("items", ("u1", 1000))
        for number in range(6):
            table.put(np.arange(400), np.full((400, 1000), number, "u1"))
        table.put(np.arange(0, 400, 2), np.full((200, 1000), 9, "u1"))
        store.compact()
        store.put(b"last", b"one")
    found = printed(tmp_path)
    segments = [line for line in found if line.startswith("segment ")]
    assert any(line.endswith(" of moved records") for line in segments)
    assert not any(line.startswith("segment 0 generation 1 ") for line in segments)
    assert any(re.search(r" MOVE .*", line) for line in found) and "    'last' = 'one'" in found
    assert any(line.startswith("end at ") for line in found)
