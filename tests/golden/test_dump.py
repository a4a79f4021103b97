"""`pmkv.dump` of a known history, byte by byte: a change of the format or of what is written where shows here.

After a change that is meant: `python -m tests.golden.test_dump`, and look at what `git diff` says.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pmkv.engine.transaction import Transaction
from pmkv.log.segments import Pool
from pmkv.media.simulated import SimulatedMedium
from pmkv.tools.dump import lines
from tests.golden.stores import known_ids, new_medium, open_engine

GOLDEN = Path(__file__).parent / "dump.txt"
SEGMENT = 4096


def write_history(medium: SimulatedMedium) -> None:
    """Something of everything."""
    engine = open_engine(medium)
    zero, three = engine.keyspaces[0], engine.keyspaces[3]
    zero.put(b"greeting", b"hello")
    zero.put_many({b"": b"of the empty key", b"\x00\xff": b"", b"a long key " * 9: b"a long value " * 9})
    three.put(b"session", b"token", expire_at=4_000_000_000_000)
    three.expire(b"session", 4_000_000_000_001)
    zero.put(b"long", bytes(range(256)) * 10)
    zero.delete_many([b"greeting", b"nobody"])
    items = engine.create_table("items", ("f4", 4))
    items.put([7, -8, 1 << 62], np.arange(12).reshape(3, 4))
    items.add([7], [[1, 1, 1, 1]])
    items.delete([-8])
    engine.create_table("users", [("age", "i4"), ("name", "S4")], rows=100)
    engine.log.mark()
    three.clear()
    engine.drop_table("users")
    transaction = Transaction(engine)
    transaction.put(b"both", b"or none")
    transaction.table("items").put([1], [[1, 2, 3, 4]])
    transaction.delete(b"long")
    transaction.commit()
    engine.log.mark()
    engine.check()


def make() -> str:
    with known_ids():
        medium = new_medium(14, SEGMENT)
        write_history(medium)
        open_engine(medium).keyspaces[0].put(b"after", b"a second epoch")
        return "\n".join(lines(Pool.load(medium))) + "\n"


def test_dump() -> None:
    assert make() == GOLDEN.read_text(), "as the first lines of this module say"


def test_it_is_the_same_each_time() -> None:
    assert make() == make()


if __name__ == "__main__":
    GOLDEN.write_text(make())
