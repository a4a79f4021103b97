"""Plans: which collections a promote, a rollback or an undo would exchange, and which conflicts refuse it.

Nothing is changed here. A plan is made, appended as a decision and carried out with the same locks held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..errors import InvalidError, UnknownNameError
from ..versions.view_set import KEYSPACES, MAIN, UNDO, ViewEntry, ViewSet, id_of, keyspace_name
from .row_schema import check_name

TableNames = Iterable[str] | None  # None: every table that the operation is about
KeyspaceChoice = bool | Iterable[int] | None  # numbers, or all / none; None: True unless tables are named


@dataclass(frozen=True)
class Plan:
    """The collections that a head takes (`parts`) and loses (`drop`), and messages about writes that it would lose
    (`conflicts`)."""

    parts: list[str]
    drop: list[str]
    conflicts: list[str]


def check_view_name(name: str) -> None:
    """Raise InvalidError unless a new view may have this name."""
    check_name(name, "view")
    if name in (MAIN, UNDO):
        raise InvalidError(f"{name!r} has a meaning of its own among views: choose another name")


def chosen_keyspaces(keys: KeyspaceChoice, unasked: bool) -> set[str]:
    """Return the names of the chosen keyspaces. unasked: take all if `keys` is None."""
    keys = unasked if keys is None else keys
    if isinstance(keys, bool):
        return set(map(keyspace_name, range(KEYSPACES))) if keys else set()
    numbers = set(keys)
    for number in numbers:
        if number not in range(KEYSPACES):
            raise InvalidError(f"there is no keyspace {number}: they are 0 to {KEYSPACES - 1}")
    return set(map(keyspace_name, numbers))


def names_of(tables: Iterable[str]) -> list[str]:
    """Return names as a list without duplicates. InvalidError: a single string is not a list of names."""
    if isinstance(tables, str | bytes):
        raise InvalidError(f"tables={tables!r}: give a list of names")
    return list(dict.fromkeys(tables))


# promote


def plan_promote(heads: ViewSet, branch: ViewEntry, tables: TableNames, keys: KeyspaceChoice) -> Plan:
    """Plan to give `main` what a branch wrote.

    tables: names, None for all that the branch wrote, created or dropped; keys: keyspace numbers, or True / False for
    all / none of those written; None is True unless `tables` is given."""
    main, written = heads.maps[MAIN], heads.written(branch)
    spaces = chosen_keyspaces(keys, tables is None)
    is_named = keys is not None and not isinstance(keys, bool)
    chosen = sorted(spaces) if is_named else [part for part in written if part in spaces]
    if tables is None:
        chosen += [part for part in written if heads.trees[part].decision is not None]
    else:
        chosen += [part for name in names_of(tables) for part in _promoted(heads, branch, name)]
    parts = [part for part in chosen if part in branch.parts]
    others = heads.in_the_way(main, branch, parts)
    gone = [part for part in chosen if part not in branch.parts and part in main.parts]
    conflicts = [why for part in chosen if (why := _why_not(heads, branch, part)) is not None]
    since = f"since {branch.name!r} was cut"
    conflicts += [f"main has another table {heads.label(part)} {since}" for part in others if part not in gone]
    return Plan(parts, list(dict.fromkeys(gone + others)), conflicts)


def _promoted(heads: ViewSet, branch: ViewEntry, name: str) -> list[str]:
    """Return the collections that a name stands for: the branch's table, and those of this name that it dropped."""
    gone = [part for part in branch.bases if part not in branch.parts and part in heads.trees]
    own = heads.tables(branch).get(name)
    found = [part for part in gone if heads.label(part) == name] + ([own] if own is not None else [])
    if not found:
        raise UnknownNameError(f"branch {branch.name!r} has no table {name!r}, and dropped none of this name")
    return found


def _why_not(heads: ViewSet, branch: ViewEntry, part: str) -> str | None:
    """Return what `main` would lose by taking this collection, None for nothing."""
    main = heads.maps[MAIN]
    if part not in branch.bases:
        return None
    base, since = branch.bases[part], f"since {branch.name!r} was cut"
    if part not in main.parts:
        return f"main has no table {heads.label(part)} any more {since}" if part in branch.parts else None
    top = main.parts[part]
    if top is not None and not top.writes and id_of(top.below) == base:
        return None
    return _told(heads.writes_above(main, part, base), heads.label(part), since)


def _told(writes: int | None, label: str, since: str) -> str:
    if writes is None:
        return f"main has another state of {label} {since}: it was promoted, rolled back or emptied, or never was that"
    return f"main has {writes} writes in {label} {since}"


# roll back and undo


def plan_rollback(
    heads: ViewSet, head: ViewEntry, snapshot: ViewEntry, tables: TableNames, keys: KeyspaceChoice
) -> Plan:
    """Plan to give a head the state of a snapshot.

    tables: names, None for all; keys: as in `plan_promote`, of all keyspaces."""
    spaces = chosen_keyspaces(keys, tables is None)
    theirs = heads.tables(snapshot)
    if tables is None:
        chosen = list(theirs.values())
        gone = [part for part in heads.tables(head).values() if part not in snapshot.parts]
    else:
        chosen, gone = [_rolled_back(theirs, snapshot, name) for name in names_of(tables)], []
    parts = [part for part in (*sorted(spaces), *chosen) if _differs(head, snapshot, part)]
    return Plan(parts, list(dict.fromkeys(gone + heads.in_the_way(head, snapshot, parts))), [])


def _rolled_back(theirs: dict[str, str], snapshot: ViewEntry, name: str) -> str:
    if name not in theirs:
        raise UnknownNameError(
            f"snapshot {snapshot.name!r} has no table {name!r}; it has: {', '.join(sorted(theirs)) or 'none'}"
        )
    return theirs[name]


def _differs(head: ViewEntry, snapshot: ViewEntry, part: str) -> bool:
    top = head.parts.get(part)
    return top is None or top.writes > 0 or id_of(top.below) != id_of(snapshot.parts[part])


def plan_undo(heads: ViewSet) -> Plan:
    """Plan to bring back what the last promote or rollback of `main` exchanged."""
    main, before = heads.maps[MAIN], heads.maps[UNDO]
    parts = [part for part in before.restored if part in before.parts]
    gone = [part for part in before.restored if part not in before.parts and part in main.parts]
    others = [part for part in heads.in_the_way(main, before, parts) if part not in gone]
    return Plan(parts, gone + others, list(_lost(heads, main, before, others)))


def _lost(heads: ViewSet, main: ViewEntry, before: ViewEntry, others: list[str]) -> Iterator[str]:
    since = "since the promote or rollback that would be undone"
    for part in before.restored:
        top = main.parts.get(part)
        if top is not None and (top.id != before.lsn or top.writes):
            yield _told(heads.writes_since(main, part, before.lsn), heads.label(part), since)
        elif part not in main.parts and part in before.parts and part not in before.removed:
            yield f"main has no table {heads.label(part)} any more {since}"
    for part in others:
        yield f"main has another table {heads.label(part)} {since}"
