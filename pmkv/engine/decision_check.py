"""The check of a decision before it is logged: what replay could not read back or carry out must not be in the log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from ..cache.dram_choice import dram_choice
from ..errors import InvalidError
from ..versions.view_set import KEYSPACES, MAIN, UNDO, ViewSet, table_name
from .row_codecs import codec_of
from .row_schema import check_bound, check_name, descr_of, dtype_from

EXCHANGES = ("promote", "rollback", "undo")


def check_decision(views: ViewSet, decision: dict[str, Any]) -> None:
    """Raise InvalidError unless the decision is read back as it is, and can be carried out on these views.

    The caller holds locks.append and locks.state. Nothing is changed."""
    head = views.maps.get(decision.get("head", MAIN))
    why = _why_unreadable(decision)
    if why is None and (head is None or not head.is_head):
        why = f"there is no head {decision.get('head')!r}"
    if why is None:
        try:
            why = _why_impossible(views, decision)
        except (InvalidError, KeyError, TypeError, ValueError) as error:
            why = f"{type(error).__name__}: {error}"
    if why is not None:
        raise InvalidError(
            f"this {decision['op']} was not logged, as it could not be carried out again after a restart ({why}); "
            "nothing was changed: give other arguments, and report this"
        )


def _why_unreadable(decision: dict[str, Any]) -> str | None:
    """Return why JSON gives another decision back; None if it gives this one."""
    try:
        found = orjson.loads(orjson.dumps(decision))
    except TypeError as error:
        return str(error)
    return None if found == as_json(decision) else f"it would be read back as {found!r}"


def as_json(value: Any) -> Any:
    """Return a value with lists in place of tuples, as JSON has them."""
    if isinstance(value, dict):
        return {key: as_json(one) for key, one in value.items()}
    return [as_json(one) for one in value] if isinstance(value, list | tuple) else value


def _why_impossible(views: ViewSet, decision: dict[str, Any]) -> str | None:
    """Return why `ViewSet.carry_out` or an open view would fail; None if they would not."""
    head, maps = views.maps[decision.get("head", MAIN)], views.maps
    match as_json(decision):
        case {"op": "create_table", "id": number, "name": name, "descr": descr, "rows": rows}:
            check_name(name, "table")
            check_bound(rows)
            dram_choice(decision.get("dram"))
            same = as_json(descr_of(dtype_from(descr))) == descr and codec_of(decision).width > 0
            is_new = number > views.last_table and name not in views.tables(head)
            return None if same and is_new else "its rows, its number or its name are not what a new table has"
        case {"op": "set_dram", "id": number, "dram": choice}:
            dram_choice(choice)
            return missing([table_name(number)], head.tops)
        case {"op": "drop_table", "id": number}:
            return missing([table_name(number)], head.tops)
        case {"op": "clear", "keyspaces": numbers}:
            return missing(numbers, range(KEYSPACES))
        case {"op": "seal"}:
            return None
        case {"op": "snapshot", "name": name}:
            return f"there is a view {name!r}" if name in maps else None
        case {"op": "branch", "name": name, "at": at}:
            return f"there is a view {name!r}" if name in maps else missing([at], maps)
        case {"op": "delete_view", "name": name}:
            return missing([name], maps.keys() - {MAIN})
        case {"op": op, "name": name, "parts": collections, "drop": drop} if op in EXCHANGES:
            source = maps[UNDO if op == "undo" else name]
            return missing(collections, source.tops) or missing(drop, head.tops)
    return "it is not known"


def missing(names: Iterable[Any], there: Any) -> str | None:
    """Return which of the names is not there; None if all are."""
    gone = [name for name in names if name not in there]
    return f"there is no {gone[0]!r}" if gone else None
