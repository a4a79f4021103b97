"""Locks on bytes: who holds which, and that they go with the file."""

from __future__ import annotations

import os
from pathlib import Path

from pmkv.runtime.byte_locks import is_any_held_below, let_go_of_byte, share_byte


def test_bytes_are_shared_seen_by_others_and_go_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    one, two, asking = (os.open(path, os.O_RDONLY) for _ in range(3))
    share_byte(one, 5)
    share_byte(two, 5)
    share_byte(two, 1 << 40)
    assert not is_any_held_below(asking, 5) and is_any_held_below(asking, 6)
    assert is_any_held_below(one, 6), "another one holds it, too"
    let_go_of_byte(one, 5)
    assert not is_any_held_below(two, 6) and is_any_held_below(asking, 6)
    os.close(two)
    assert not is_any_held_below(asking, 1 << 50)
    for handle in (one, asking):
        os.close(handle)
