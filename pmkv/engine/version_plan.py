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
    """Says which collections a head takes over and which it loses (`drop`). conflicts: messages about lost writes."""

    collections: list[str]
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


def plan_promote(view_set: ViewSet, branch: ViewEntry, tables: TableNames, keys: KeyspaceChoice) -> Plan:
    """Plan to give `main` what a branch wrote.

    tables: names, None for all that the branch wrote, created or dropped; keys: keyspace numbers, or True / False for
    all / none of those written; None is True unless `tables` is given."""
    main, written = view_set.maps[MAIN], view_set.written(branch)
    spaces = chosen_keyspaces(keys, tables is None)
    is_named = keys is not None and not isinstance(keys, bool)
    chosen = sorted(spaces) if is_named else [collection for collection in written if collection in spaces]
    if tables is None:
        chosen += [collection for collection in written if view_set.trees[collection].decision is not None]
    else:
        chosen += [collection for name in names_of(tables) for collection in _promoted(view_set, branch, name)]
    collections = [collection for collection in chosen if collection in branch.tops]
    others = view_set.in_the_way(main, branch, collections)
    gone = [collection for collection in chosen if collection not in branch.tops and collection in main.tops]
    conflicts = [why for collection in chosen if (why := _why_not(view_set, branch, collection)) is not None]
    since = f"since {branch.name!r} was cut"
    conflicts += [
        f"main has another table {view_set.label(collection)} {since}"
        for collection in others
        if collection not in gone
    ]
    return Plan(collections, list(dict.fromkeys(gone + others)), conflicts)


def _promoted(view_set: ViewSet, branch: ViewEntry, name: str) -> list[str]:
    """Return the collections that a name stands for: the branch's table, and those of this name that it dropped."""
    gone = [collection for collection in branch.bases if collection not in branch.tops and collection in view_set.trees]
    own = view_set.tables(branch).get(name)
    found = [collection for collection in gone if view_set.label(collection) == name] + (
        [own] if own is not None else []
    )
    if not found:
        raise UnknownNameError(f"branch {branch.name!r} has no table {name!r}, and dropped none of this name")
    return found


def _why_not(view_set: ViewSet, branch: ViewEntry, collection: str) -> str | None:
    """Return what `main` would lose by taking this collection, None for nothing."""
    main = view_set.maps[MAIN]
    if collection not in branch.bases:
        return None
    base, since = branch.bases[collection], f"since {branch.name!r} was cut"
    if collection not in main.tops:
        return f"main has no table {view_set.label(collection)} any more {since}" if collection in branch.tops else None
    top = main.tops[collection]
    if top is not None and not top.writes and id_of(top.below) == base:
        return None
    return _told(view_set.writes_above(main, collection, base), view_set.label(collection), since)


def _told(writes: int | None, label: str, since: str) -> str:
    if writes is None:
        return f"main has another state of {label} {since}: it was promoted, rolled back or emptied, or never was that"
    return f"main has {writes} writes in {label} {since}"


# roll back and undo


def plan_rollback(
    view_set: ViewSet, head: ViewEntry, snapshot: ViewEntry, tables: TableNames, keys: KeyspaceChoice
) -> Plan:
    """Plan to give a head the state of a snapshot.

    tables: names, None for all; keys: as in `plan_promote`, of all keyspaces."""
    spaces = chosen_keyspaces(keys, tables is None)
    theirs = view_set.tables(snapshot)
    if tables is None:
        chosen = list(theirs.values())
        gone = [collection for collection in view_set.tables(head).values() if collection not in snapshot.tops]
    else:
        chosen, gone = [_rolled_back(theirs, snapshot, name) for name in names_of(tables)], []
    collections = [collection for collection in (*sorted(spaces), *chosen) if _differs(head, snapshot, collection)]
    return Plan(collections, list(dict.fromkeys(gone + view_set.in_the_way(head, snapshot, collections))), [])


def _rolled_back(theirs: dict[str, str], snapshot: ViewEntry, name: str) -> str:
    if name not in theirs:
        raise UnknownNameError(
            f"snapshot {snapshot.name!r} has no table {name!r}; it has: {', '.join(sorted(theirs)) or 'none'}"
        )
    return theirs[name]


def _differs(head: ViewEntry, snapshot: ViewEntry, collection: str) -> bool:
    top = head.tops.get(collection)
    return top is None or top.writes > 0 or id_of(top.below) != id_of(snapshot.tops[collection])


def plan_undo(view_set: ViewSet) -> Plan:
    """Plan to bring back what the last promote or rollback of `main` exchanged."""
    main, before = view_set.maps[MAIN], view_set.maps[UNDO]
    collections = [collection for collection in before.restored if collection in before.tops]
    gone = [collection for collection in before.restored if collection not in before.tops and collection in main.tops]
    others = [collection for collection in view_set.in_the_way(main, before, collections) if collection not in gone]
    return Plan(collections, gone + others, list(_lost(view_set, main, before, others)))


def _lost(view_set: ViewSet, main: ViewEntry, before: ViewEntry, others: list[str]) -> Iterator[str]:
    since = "since the promote or rollback that would be undone"
    for collection in before.restored:
        top = main.tops.get(collection)
        if top is not None and (top.id != before.lsn or top.writes):
            yield _told(view_set.writes_since(main, collection, before.lsn), view_set.label(collection), since)
        elif collection not in main.tops and collection in before.tops and collection not in before.removed:
            yield f"main has no table {view_set.label(collection)} any more {since}"
    for collection in others:
        yield f"main has another table {view_set.label(collection)} {since}"
