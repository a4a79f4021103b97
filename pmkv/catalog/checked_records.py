"""The records of the catalog: a flat state of names and JSON values, each with a checksum, and a root record.

LMDB has no checksums. So a record is eight bytes xxh3-64 of its name and value, seeded with the pool's id, then the
value. The root record, stored among the others under a name that no caller can use, has the version of the format, the
pool's id, the number of the commit, how many records and directory entries there are, and the sum of the records'
checksums: a record that is whole but belongs to another commit does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from ..errors import CorruptionError, FormatError, InvalidError
from ..runtime.scheduling import GilYielder

VERSION = 2
ROOT = "\0root"
MASK = (1 << 64) - 1
NAME_BYTES_MAX = 511  # LMDB's limit


class Sums(dict[str, bytes]):
    """Holds checksums by name, and their sum, which does not depend on the order as each covers its record's name."""

    def __init__(self) -> None:
        super().__init__()
        self._total = 0

    def enter(self, name: str, record: bytes) -> None:
        """Add a record. Its name must be new."""
        self[name] = record[:8]
        self._total += int.from_bytes(record[:8], "little")

    @property
    def total(self) -> str:
        """Return the sum as the root record has it."""
        return f"{self._total & MASK:016x}"


@dataclass(frozen=True)
class Root:
    """Holds the root record, with the checksums that it sums up. entries: how many the directory of keys has."""

    commit: int
    entries: int
    sums: Sums


class CheckedRecords:
    """Encodes and verifies the records of one pool's catalog. place: its file, for messages."""

    def __init__(self, pool_id: bytes, place: str) -> None:
        self._pool_id, self._place = pool_id, place
        self._seed = xxh3_64_intdigest(pool_id)

    def open(self, records: Iterable[tuple[str, bytes]]) -> tuple[dict[str, Any], Root]:
        """Verify all records. Return the state and its root.

        CorruptionError: a record is damaged, missing or of another commit. FormatError: it is another version's, or
        another pool's."""
        state: dict[str, Any] = {}
        sums, gil = Sums(), GilYielder()
        for name, record in records:
            state[name] = self._opened(name, record)
            if name != ROOT:
                sums.enter(name, record)
            gil.give()
        root = state.pop(ROOT, None)
        if root is None:
            raise CorruptionError(f"the root record of the catalog {self._place} is missing; restore a backup")
        self._check_root(root)
        if root["records"] != len(sums) or root["sum"] != sums.total:
            raise CorruptionError(
                f"the catalog {self._place} holds {len(sums)} records that do not belong together: its root record, of "
                f"commit {root['commit']}, sums up {root['records']} others; restore a backup"
            )
        return state, Root(root["commit"], root["entries"], sums)

    def _check_root(self, root: dict[str, Any]) -> None:
        if root.get("format") != VERSION:
            raise FormatError(
                f"the catalog {self._place} has format version {root.get('format')}, this pmkv reads {VERSION}: use "
                "the pmkv that wrote it to copy its data out"
            )
        if root["pool"] != self._pool_id.hex():
            raise FormatError(
                f"the catalog {self._place} is of pool {root['pool']}, not of {self._pool_id.hex()}: the files of two "
                "stores were mixed; put back the one that belongs here"
            )

    def _opened(self, name: str, record: bytes) -> Any:
        """Verify and decode one record. A root's pool is checked first, as the seed of the checksum depends on it."""
        if name == ROOT:
            self._check_pool_of_root(record)
        if record[:8] != self._checksum(name, record[8:]):
            raise CorruptionError(
                f"the record {name.lstrip(chr(0))!r} of the catalog {self._place} is damaged: its checksum does not "
                "hold; restore a backup"
            )
        return orjson.loads(record[8:])

    def _check_pool_of_root(self, record: bytes) -> None:
        """FormatError: this is a whole root record, of another pool."""
        try:
            root = orjson.loads(record[8:])
            pool_id = bytes.fromhex(root["pool"])
        except (ValueError, KeyError, TypeError):
            return  # the checksum will not hold
        if pool_id != self._pool_id and record[:8] == CheckedRecords(pool_id, self._place)._checksum(ROOT, record[8:]):
            self._check_root(root)

    def _checksum(self, name: str, value: bytes) -> bytes:
        return xxh3_64_digest(name.encode() + b"\0" + value, self._seed)

    def _sealed(self, name: str, value: bytes) -> bytes:
        return self._checksum(name, value) + value

    def changed(self, state: dict[str, Any], sums: dict[str, bytes]) -> tuple[dict[str, bytes], Sums]:
        """Return the records of `state` that differ from those with checksums `sums`, and the checksums of all."""
        after, gil = Sums(), GilYielder()
        changed: dict[str, bytes] = {}
        for name, value in state.items():
            record = self._sealed(self._checked(name), orjson.dumps(value))
            after.enter(name, record)
            if sums.get(name) != record[:8]:
                changed[name] = record
            gil.give()
        return changed, after

    @staticmethod
    def _checked(name: str) -> str:
        if not name or "\0" in name or len(name.encode()) > NAME_BYTES_MAX:
            raise InvalidError(f"{name!r} cannot name a record of the catalog: 1 to {NAME_BYTES_MAX} bytes, and no NUL")
        return name

    def root(self, root: Root) -> bytes:
        """Encode the root record."""
        value = {"format": VERSION, "pool": self._pool_id.hex(), "commit": root.commit, "entries": root.entries,
                 "records": len(root.sums), "sum": root.sums.total}  # fmt: skip
        return self._sealed(ROOT, orjson.dumps(value))

    def entry(self, one: bytes) -> bytes:
        """Return the value stored with a directory entry: four bytes of the checksum of the entry."""
        return xxh3_64_digest(one, self._seed)[:4]

    def check_entries(self, entries: list[tuple[bytes, bytes]]) -> list[bytes]:
        """Return the entries without their checksums. CorruptionError: one does not hold."""
        for one, check in entries:
            if self.entry(one) != check:
                raise CorruptionError(
                    f"the entry {one[1:60]!r} in the directory of keyspace 0x{one[:1].hex()} in {self._place} is "
                    "damaged: its checksum does not hold; restore a backup"
                )
        return [one for one, _ in entries]
