"""The steps of a history: operations, and how they are waited for; and what is done to the store besides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.crash.files import Fault


@dataclass(frozen=True)
class Group:
    """Operations that wait for one flush together, as the commands of one tick do."""

    operations: tuple[Any, ...]


@dataclass(frozen=True)
class Peek:
    """The same, but nobody waits: whoever did it, and then somebody else, reads what the last one wrote, by a face of
    its keyspace or table. at: an operation that would write what is read, where that is not the last one itself. last:
    how many of them may have changed what is read. beside: tables that are gathered with it."""

    operations: tuple[Any, ...]
    face: str
    at: Any = None
    last: int = 1
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class FailFlush:
    """The next flush raises; what it has reached, and what is seen of it afterwards."""

    reached: str
    evicted: bool
    seed: int


@dataclass(frozen=True)
class Mark:
    """What an idle store does."""


@dataclass(frozen=True)
class Grow:
    """The pool is made larger by a segment, whatever is under way."""


@dataclass(frozen=True)
class Unawaited:
    """Operations that nobody waits for yet, nor reads."""

    operations: tuple[Any, ...]


@dataclass(frozen=True)
class Look:
    """Read everything, by every face: what is asked for twice becomes hot."""


@dataclass(frozen=True)
class InTurn:
    """Steps that belong together."""

    steps: tuple[Any, ...]


@dataclass(frozen=True)
class Overtaken:
    """A key is read until it becomes hot, and between the two halves of each look other steps are taken."""

    space: int
    key: bytes
    steps: tuple[Any, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as a whole, and perhaps the folds that are due then."""

    fold: bool


@dataclass(frozen=True)
class Clean:
    """A checkpoint, and a pass of the cleaner as a whole."""


@dataclass(frozen=True)
class Begin:
    """The first steps of a checkpoint, fold or pass of the cleaner; whatever comes then goes between its steps."""

    kind: str
    steps: int


@dataclass(frozen=True)
class Go:
    """So many more."""

    steps: int


@dataclass(frozen=True)
class End:
    """All the others."""


@dataclass(frozen=True)
class Abandon:
    """It is given up where it stands."""


@dataclass(frozen=True)
class FailMaintenance:
    """Something that a checkpoint or fold does to catalog or files will fail."""

    fault: Fault
