"""What clients ask, and which moments justify which reply.

Every value is used once, so that a reply tells whose write it shows. Counters are never deleted.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pmkv_server.commands.views import NOTHING_CHANGED
from tests.crash.model import FAR
from tests.crash.witness import COUNTERS, EMPTY, IDS, KEYS, TABLE, Justifies, Moment

LONG = 1500  # bytes of a value that takes several frames, and a worker

Reply = tuple[str, Any]
OK: Reply = ("+", b"OK")


@dataclass
class Asked:
    """One command on its way. `since`: the moment that had been shown when it was sent."""

    words: tuple[bytes, ...]
    justifies: Callable[[Reply], Justifies | None]  # None: a reply that is wrong at any moment
    pair: tuple[bytes, bytes] | None = None  # values written together
    unfinished: bytes = b""  # a value after which it writes more, together with that
    since: int = 0
    after_failure: bool = False

    def __str__(self) -> str:
        return " ".join(repr(word if len(word) < 60 else word[:20] + b"...")[2:-1] for word in self.words)


def is_error(reply: Reply) -> bool:
    """Is it an error, or has it one inside?"""
    return reply[0] == "-" or (isinstance(reply[1], tuple) and any(map(is_error, reply[1])))


def always(moments: list[Moment], i: int) -> bool:
    return True


def exactly(wanted: Reply, justifies: Justifies) -> Callable[[Reply], Justifies | None]:
    return lambda reply: justifies if reply == wanted else None


def blob(value: bytes | None) -> Reply:
    return ("$", b"-1" if value is None else value)


def number(value: int) -> Reply:
    return (":", b"%d" % value)


class Questions:
    """Draws what one schedule asks."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._values = 0

    def some(self) -> list[Asked]:
        """What one client sends at once."""
        kinds = [self.set] * 5 + [self.get] * 5 + [self.incr] * 2 + [self.transaction] * 2 + [self.long] * 2
        kinds += [self.delete, self.mset, self.mget, self.expire, self.expiry, self.put_row, self.get_row, self.count]
        kinds += [self.long_transaction, self.rollback, self.count_rows, self.watched, self.watched]
        many = self._rng.choice((1, 1, 1, 2, 3, 6))
        return [asked for _ in range(many) for asked in self._rng.choice(kinds)()]

    def _value(self, size: int = 0) -> bytes:
        self._values += 1
        return b"<%d>" % self._values + b"." * size

    def _key(self) -> bytes:
        return self._rng.choice(KEYS)

    def set(self) -> list[Asked]:
        key, value = self._key(), self._value()  # it may be one of many in a batch, so that no moment shows it
        return [Asked((b"SET", key, value), exactly(OK, lambda moments, i: value in moments[i].written))]

    def get(self) -> list[Asked]:
        key = self._rng.choice(KEYS + COUNTERS)
        return [Asked((b"GET", key), lambda reply: lambda moments, i: reply == blob(moments[i].value(key)))]

    def mget(self) -> list[Asked]:
        keys = self._rng.sample(KEYS + COUNTERS, 3)

        def justifies(reply: Reply) -> Justifies:
            return lambda moments, i: reply == ("*", tuple(blob(moments[i].value(key)) for key in keys))

        return [Asked((b"MGET", *keys), justifies)]

    def count(self) -> list[Asked]:
        def justifies(reply: Reply) -> Justifies:
            return lambda moments, i: reply == number(len(moments[i].state.keys))

        return [Asked((b"DBSIZE",), justifies)]

    def incr(self) -> list[Asked]:
        key = self._rng.choice(COUNTERS)

        def justifies(reply: Reply) -> Justifies | None:
            return lambda moments, i: reply == (":", moments[i].value(key))

        return [Asked((b"INCR", key), justifies)]

    def delete(self) -> list[Asked]:
        key = self._key()

        def justifies(reply: Reply) -> Justifies | None:
            if reply == number(0):
                return lambda moments, i: moments[i].value(key) is None
            return exactly(number(1), lambda moments, i: gone(moments, i, key))(reply)

        return [Asked((b"DEL", key), justifies)]

    def expire(self) -> list[Asked]:
        self._values += 1
        key, at = self._key(), FAR + self._values

        def justifies(reply: Reply) -> Justifies | None:
            if reply == number(0):
                return lambda moments, i: moments[i].value(key) is None
            return exactly(number(1), lambda moments, i: moments[i].expiry(key) == at)(reply)

        return [Asked((b"PEXPIREAT", key, b"%d" % at), justifies)]

    def expiry(self) -> list[Asked]:
        key = self._key()

        def shown(moment: Moment) -> int:
            return -2 if moment.value(key) is None else moment.expiry(key) or -1

        return [Asked((b"PEXPIRETIME", key), lambda reply: lambda moments, i: reply == number(shown(moments[i])))]

    def mset(self) -> list[Asked]:
        return [self._mset(self._value(), self._value())]

    def long(self) -> list[Asked]:
        """Work for a worker: a value of several frames."""
        return [self._mset(self._value(), self._value(LONG + self._rng.randrange(3 * LONG // 2)))]

    def _mset(self, *values: bytes) -> Asked:
        keys = self._rng.sample(KEYS, 2)

        def at_once(moments: list[Moment], i: int) -> bool:
            return [moments[i].value(key) for key in keys] == list(values)

        words = (b"MSET", *(word for pair in zip(keys, values) for word in pair))
        return Asked(words, exactly(OK, at_once), values if len(values[1]) < LONG else None)

    def put_row(self) -> list[Asked]:
        ids = self._rng.sample(IDS, 2)
        self._values += 2
        rows = [(self._values - i).to_bytes(8, "little") for i in range(2)]

        def there(moments: list[Moment], i: int) -> bool:
            return [moments[i].row(id_) for id_ in ids] == rows

        return [Asked((b"TABLE.PUT", TABLE.encode(), blob_of(ids), b"".join(rows)), exactly(OK, there))]

    def get_row(self) -> list[Asked]:
        def justifies(reply: Reply) -> Justifies:
            def shown(moment: Moment) -> bytes:
                return b"".join(moment.row(id_) or bytes(8) for id_ in IDS)

            return lambda moments, i: reply == blob(shown(moments[i]))

        return [Asked((b"TABLE.GET", TABLE.encode(), blob_of(IDS)), justifies)]

    def count_rows(self) -> list[Asked]:
        def justifies(reply: Reply) -> Justifies:
            return lambda moments, i: reply == number(len(moments[i].state.rows))

        return [Asked((b"TABLE.LEN", TABLE.encode()), justifies)]

    def rollback(self) -> list[Asked]:
        """To when there was nothing; whoever asks for it sees it, others what was there before."""

        def nothing(moments: list[Moment], i: int) -> bool:
            return not moments[i].state.keys and not moments[i].state.rows

        def justifies(reply: Reply) -> Justifies | None:
            return nothing if reply in (OK, ("+", NOTHING_CHANGED[1:-2])) else None

        return [Asked((b"SNAPSHOT.ROLLBACK", EMPTY), justifies), *self.get(), *self.get_row()]

    def transaction(self, size: int = 0) -> list[Asked]:
        keys, counter = self._rng.sample(KEYS, 2), self._rng.choice(COUNTERS)
        values = [self._value(size), self._value()]

        def justifies(reply: Reply) -> Justifies | None:
            def together(moments: list[Moment], i: int) -> bool:
                count = (":", moments[i].value(counter))
                shown = [moments[i].value(key) for key in keys]
                return shown == values and reply == ("*", (OK, OK, count, blob(values[0])))

            return together

        inner = [(b"SET", keys[0], values[0]), (b"SET", keys[1], values[1]), (b"INCR", counter), (b"GET", keys[0])]
        queued = [Asked(words, exactly(("+", b"QUEUED"), always)) for words in inner]
        pair = (values[0], values[1]) if not size else None
        return [Asked((b"MULTI",), exactly(OK, always)), *queued, Asked((b"EXEC",), justifies, pair, values[1])]

    def watched(self) -> list[Asked]:
        """A transaction that does nothing if somebody else writes a key before it, after that was looked at."""
        key, counter, value = self._key(), self._rng.choice(COUNTERS), self._value()
        seen: list[Reply] = []

        def look(reply: Reply) -> Justifies:
            seen.append(reply)
            return lambda moments, i: reply == blob(moments[i].value(key))

        def unwritten(reply: Reply) -> Justifies | None:
            def alone(moments: list[Moment], i: int) -> bool:
                if reply != ("*", (OK, (":", moments[i].value(counter)))) or moments[i].value(key) != value:
                    return False
                before = next((one for one in reversed(moments[:i]) if one.value(key) != value), None)
                return before is None or blob(before.value(key)) == seen[0]

            return always if reply == ("*", b"-1") else alone

        inner = [(b"SET", key, value), (b"INCR", counter)]
        queued = [Asked(words, exactly(("+", b"QUEUED"), always)) for words in inner]
        first = [Asked((b"WATCH", key), exactly(OK, always)), Asked((b"GET", key), look)]
        return [*first, Asked((b"MULTI",), exactly(OK, always)), *queued, Asked((b"EXEC",), unwritten)]

    def long_transaction(self) -> list[Asked]:
        """A worker runs it."""
        return self.transaction(LONG)


def gone(moments: list[Moment], i: int, key: bytes) -> bool:
    return i > 0 and moments[i].value(key) is None and moments[i - 1].value(key) is not None


def blob_of(ids: Any) -> bytes:
    return b"".join(id_.to_bytes(8, "little") for id_ in ids)
