"""The manifest of a backup: what was backed up, as pieces with checksums, and which one is current in its place.

A backup of the id I consists of the files `I-N.piece` and of `I.json`, its manifest, which is written last. The file
`current.json` names the backup that a restore takes by default; replacing it is the switch from one backup to the next.
What has an id and no manifest was interrupted, and counts for nothing.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest

from ..errors import CorruptionError, FormatError, UnknownNameError
from .target import Target, absolute_place, open_target

BACKUP_VERSION = 1
CURRENT = "current.json"
FILE = re.compile(r"([0-9a-f]{16}-[0-9a-f]{8})(-[0-9]{6}\.piece|\.json)(\.new)?")
ADVICE = "restore another backup"


@dataclass(frozen=True)
class Piece:
    """Describes one file of entries. index, body: bytes of its two parts, which follow one another; checks: of them."""

    file: str
    count: int
    index: int
    body: int
    index_check: str
    body_check: str

    @property
    def id(self) -> str:
        """Return the id of the backup that wrote it."""
        return self.file[:25]

    @classmethod
    def of(cls, file: str, count: int, index: bytes, body: bytes) -> Piece:
        """Describe a new piece."""
        return cls(file, count, len(index), len(body), checksum(file, index), checksum(file, body))


def checksum(file: str, content: bytes) -> str:
    """Return the checksum of a part of a file: another file's bytes do not fit."""
    return xxh3_64_hexdigest(content, xxh3_64_intdigest(file.encode()))


@dataclass(frozen=True)
class Part:
    """Describes one collection in one view. name: `table/7`; decision: that created the table; width: bytes of a row;
    seed: of its slot hashes; layer: id of its newest sealed layer, None if it may still change; count: live entries;
    chain: the pieces of each backup, newest first: what that changed, down to one that has everything."""

    name: str
    decision: dict[str, Any] | None
    width: int
    seed: int
    layer: int | None
    count: int
    chain: tuple[tuple[Piece, ...], ...]


@dataclass(frozen=True)
class Step:
    """Describes a step of a restore: a head gets a state; then, by kind, the snapshot or the branch `name` is cut of it
    ("snapshot", "cut"), or nothing more ("head"). "branch": the branch `name` is cut of the snapshot `head`, which
    stays as it is. parts: by name of the collection."""

    kind: str
    name: str
    head: str
    parts: dict[str, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Describes a backup. pool_id: of the store; lsn: of the moment; log: the end of its log (`log.replay.LogEnd`);
    generations: of the segments that the log had, 0 where one changed during the backup; capacity: of the pool; view:
    the one backed up, None for all; since: id of the backup that it stands on; steps: in the order of restoring;
    places: where other backups lie that it needs, by id."""

    id: str
    pool_id: str
    created: int
    lsn: int
    log: dict[str, Any]
    generations: dict[str, int]
    capacity: int
    view: str | None
    since: str | None
    steps: tuple[Step, ...]
    places: dict[str, str]

    def encoded(self) -> bytes:
        """Return the manifest as a file holds it."""
        return sealed(f"{self.id}.json", asdict(self))


def sealed(name: str, value: dict[str, Any]) -> bytes:
    """Return the content of a JSON file with its checksum, which covers the keys in order, without blanks."""
    value = value | {"format": BACKUP_VERSION}
    check = checksum(name, orjson.dumps(value, option=orjson.OPT_SORT_KEYS))
    return orjson.dumps({"check": check, "content": value}, option=orjson.OPT_INDENT_2)


def unsealed(name: str, place: str, content: bytes) -> dict[str, Any]:
    """Return the verified content of a JSON file. CorruptionError: it is damaged, or another file under its name.
    FormatError: it is another version's."""
    try:
        whole = orjson.loads(content)
        value, check = whole["content"], whole["check"]
        version = value.pop("format")
        is_whole = check == checksum(name, orjson.dumps(value | {"format": version}, option=orjson.OPT_SORT_KEYS))
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise CorruptionError(f"{name} of the backup {place} is damaged: {error}; {ADVICE}") from error
    if not is_whole:
        raise CorruptionError(f"{name} of the backup {place} is damaged: its checksum does not hold; {ADVICE}")
    if version != BACKUP_VERSION:
        raise FormatError(f"{name} of the backup {place} has version {version}, this pmkv reads {BACKUP_VERSION}")
    return value


def from_dict(value: dict[str, Any]) -> Manifest:
    """Return the manifest of a verified dict."""

    def part(one: dict[str, Any]) -> Part:
        return Part(**one | {"chain": tuple(tuple(Piece(**piece) for piece in delta) for delta in one["chain"])})

    steps = tuple(
        Step(one["kind"], one["name"], one["head"], {name: part(each) for name, each in one["parts"].items()})
        for one in value["steps"]
    )
    return Manifest(**value | {"steps": steps})


class PieceFiles:
    """Reads pieces, verified. target: where they lie, but for those of other backups: places, by their ids."""

    def __init__(self, target: Target, places: dict[str, Target]) -> None:
        self._target, self._places = target, places

    def target_of(self, piece: Piece) -> Target:
        """Return where a piece lies."""
        return self._places.get(piece.id, self._target)

    def index(self, piece: Piece) -> bytes:
        """Return the verified index of a piece."""
        return self._verified(piece, 0, piece.index, piece.index_check)

    def body(self, piece: Piece) -> bytes:
        """Return the verified body of a piece."""
        return self._verified(piece, piece.index, piece.index + piece.body, piece.body_check)

    def _verified(self, piece: Piece, start: int, stop: int, check: str) -> bytes:
        """Return some bytes of a piece. CorruptionError: it is missing, or is not what was written."""
        target = self.target_of(piece)
        content = target.read(piece.file, start, stop) if stop > start else b""
        if len(content) != stop - start:
            raise CorruptionError(
                f"{piece.file} of the backup {target.place} is cut off: it ends at byte {start + len(content):,}, "
                f"{piece.index + piece.body:,} were written; {ADVICE}"
            )
        if checksum(piece.file, content) != check:
            raise CorruptionError(
                f"{piece.file} of the backup {target.place} is damaged, or another file under its name: its checksum "
                f"does not hold; {ADVICE}"
            )
        return content


class Backup:
    """A complete backup that can be read: its manifest and its pieces."""

    def __init__(self, target: Target, manifest: Manifest) -> None:
        self.target, self.manifest = target, manifest
        places = {place: open_target(absolute_place(place, target.place)) for place in set(manifest.places.values())}
        self.pieces = PieceFiles(target, {id: places[place] for id, place in manifest.places.items()})

    @classmethod
    def open(cls, place: str) -> Backup:
        """Open the current backup of a place, or the one whose manifest is named. UnknownNameError: there is none."""
        folder, _, name = place.rpartition("/")
        if FILE.fullmatch(name) and name.endswith(".json"):
            target = open_target(folder or ".")
        else:
            target, name = open_target(place), ""
        return cls.at(target, name)

    @classmethod
    def at(cls, target: Target, name: str = "") -> Backup:
        """Open a backup of a target. name: the file of its manifest; that of the current one by default."""
        if not name:
            names = target.names()
            if CURRENT not in names:
                interrupted = " but an interrupted one" if any(map(FILE.fullmatch, names)) else ""
                raise UnknownNameError(f"there is no backup in {target.place}{interrupted}: no {CURRENT} is there")
            name = unsealed(CURRENT, target.place, target.read(CURRENT))["backup"] + ".json"
        value = unsealed(name, target.place, target.read(name))
        return cls(target, from_dict(value))


def current_file(id: str) -> bytes:
    """Return the content of `current.json`."""
    return sealed(CURRENT, {"backup": id})
