"""Commands on few keys, drawn from a seed: what clients of a cache send, with mistakes now and then.

No reply depends on when a command arrives, but for times to live, which `same` compares with some tolerance.
"""

from __future__ import annotations

import random
from collections.abc import Callable

Words = tuple[bytes, ...]

NUMBERS = (
    b"0",
    b"1",
    b"-1",
    b"7",
    b"100",
    b"-42",
    b"999999999999999999",
    b"9223372036854775807",
    b"-9223372036854775808",
)
NO_NUMBERS = (b"", b"01", b"+1", b" 1", b"1.5", b"x", b"-0", b"12345678901234567890123")
BAD_TIMES = (b"0", b"-5", b"x", b"", b"9223372036854775807", b"4611686018427387904")
FAR_S, FAR_MS = b"99999999999", b"99999999999999"
SLACK = {b"ttl": 2, b"pttl": 5_000, b"expiretime": 2, b"pexpiretime": 5_000}  # how far two servers may be apart


class Commands:
    """Draws commands on keys that begin with a prefix."""

    def __init__(self, rng: random.Random) -> None:
        self._rng, self._values = rng, 0

    def pipeline(self, prefix: bytes, most: int) -> list[Words]:
        """Return commands that one client sends at once; a transaction may come among them."""
        found: list[Words] = []
        count = self._rng.choice((1, 1, 2, 5, self._rng.randrange(1, most + 1)))
        while len(found) < count:
            if self._rng.random() < 0.02:
                queued = (self.one(prefix) for _ in range(self._rng.randrange(4)))
                found += [(b"MULTI",), *(words for words in queued if words[0].lower() not in SLACK), (b"EXEC",)]
            else:
                found.append(self.one(prefix))
        return found

    def one(self, prefix: bytes) -> Words:
        """Return one command."""
        name = self._rng.choice(list(DRAWN))
        words = [self._cased(name), *DRAWN[name](self, prefix)]
        if self._rng.random() < 0.03:
            words = words[:-1] if self._rng.random() < 0.5 else [*words, self._rng.choice((b"x", b"1", b"nx"))]
        return tuple(words or [b"PING"])

    def _cased(self, word: bytes) -> bytes:
        return self._rng.choice((word, word, word.upper(), word.title()))

    def key(self, prefix: bytes) -> bytes:
        return prefix + self._rng.choice((b"a", b"b", b"c", b"d", b"e", b"", b"\0\r\n", b"long" * 9))

    def keys(self, prefix: bytes) -> list[bytes]:
        return [self.key(prefix) for _ in range(self._rng.choice((1, 1, 2, 4, 12)))]

    def value(self) -> bytes:
        self._values += 1
        choices = (self.number(), b"v%d" % self._values, b"w" * self._rng.choice((0, 1, 30, 300, 5000)), b"\xff\0\r\n")
        return self._rng.choice(choices)

    def number(self) -> bytes:
        return self._rng.choice(NO_NUMBERS if self._rng.random() < 0.1 else NUMBERS)

    def small(self) -> bytes:
        return self._rng.choice((b"0", b"1", b"-1", b"2", b"-3", b"5", b"40", b"-40", b"300", self.number()[:4]))

    def time(self) -> bytes:
        """Return seconds, hardly ever the same twice: which of two equal ones ends later depends on the clock."""
        self._values += 1
        return self._rng.choice(BAD_TIMES) if self._rng.random() < 0.2 else b"%d" % (1000 + self._values * 37 % 900_001)

    def expiry(self) -> list[bytes]:
        unit = self._rng.choice((b"EX", b"PX", b"EXAT", b"PXAT"))
        at = {b"EX": self.time(), b"PX": self.time() + b"000", b"EXAT": FAR_S, b"PXAT": FAR_MS}[unit]
        return [self._cased(unit), at]

    def set_options(self) -> list[bytes]:
        words: list[bytes] = []
        for _ in range(self._rng.choice((0, 0, 1, 1, 2, 3))):
            words += self._rng.choice(([b"NX"], [b"xx"], [b"GET"], [b"KEEPTTL"], self.expiry(), [b"persist"], [b"BAD"]))
        return words

    def getex_options(self) -> list[bytes]:
        return self._rng.choice(([], [b"PERSIST"], self.expiry(), self.expiry(), [b"PERSIST", *self.expiry()], [b"NX"]))

    def conditions(self) -> list[bytes]:
        return self._rng.choice(
            ([], [], [], [b"NX"], [b"XX"], [b"gt"], [b"LT"], [b"GT", b"XX"], [b"NX", b"XX"], [b"Q"])
        )

    def pairs(self, prefix: bytes) -> list[bytes]:
        return [word for key in self.keys(prefix) for word in (key, self.value())]


Draw = Callable[[Commands, bytes], list[bytes]]
DRAWN: dict[bytes, Draw] = {
    b"get": lambda some, prefix: [some.key(prefix)],
    b"set": lambda some, prefix: [some.key(prefix), some.value(), *some.set_options()],
    b"setnx": lambda some, prefix: [some.key(prefix), some.value()],
    b"setex": lambda some, prefix: [some.key(prefix), some.time(), some.value()],
    b"psetex": lambda some, prefix: [some.key(prefix), some.time() + b"000", some.value()],
    b"getset": lambda some, prefix: [some.key(prefix), some.value()],
    b"getdel": lambda some, prefix: [some.key(prefix)],
    b"getex": lambda some, prefix: [some.key(prefix), *some.getex_options()],
    b"mget": lambda some, prefix: some.keys(prefix),
    b"mset": lambda some, prefix: some.pairs(prefix),
    b"msetnx": lambda some, prefix: some.pairs(prefix),
    b"append": lambda some, prefix: [some.key(prefix), some.value()],
    b"strlen": lambda some, prefix: [some.key(prefix)],
    b"getrange": lambda some, prefix: [some.key(prefix), some.small(), some.small()],
    b"substr": lambda some, prefix: [some.key(prefix), some.small(), some.small()],
    b"setrange": lambda some, prefix: [some.key(prefix), some.small(), some.value()],
    b"incr": lambda some, prefix: [some.key(prefix)],
    b"decr": lambda some, prefix: [some.key(prefix)],
    b"incrby": lambda some, prefix: [some.key(prefix), some.number()],
    b"decrby": lambda some, prefix: [some.key(prefix), some.number()],
    b"del": lambda some, prefix: some.keys(prefix),
    b"unlink": lambda some, prefix: some.keys(prefix),
    b"exists": lambda some, prefix: some.keys(prefix),
    b"touch": lambda some, prefix: some.keys(prefix),
    b"type": lambda some, prefix: [some.key(prefix)],
    b"expire": lambda some, prefix: [some.key(prefix), some.time(), *some.conditions()],
    b"pexpire": lambda some, prefix: [some.key(prefix), some.time() + b"000", *some.conditions()],
    b"expireat": lambda some, prefix: [some.key(prefix), some._rng.choice((FAR_S, b"0", b"-7")), *some.conditions()],
    b"pexpireat": lambda some, prefix: [some.key(prefix), some._rng.choice((FAR_MS, b"5")), *some.conditions()],
    b"persist": lambda some, prefix: [some.key(prefix)],
    b"ttl": lambda some, prefix: [some.key(prefix)],
    b"pttl": lambda some, prefix: [some.key(prefix)],
    b"expiretime": lambda some, prefix: [some.key(prefix)],
    b"pexpiretime": lambda some, prefix: [some.key(prefix)],
    b"ping": lambda some, prefix: some._rng.choice(([], [some.value()])),
    b"echo": lambda some, prefix: [some.value()],
    # not for waves
    b"rename": lambda some, prefix: [some.key(prefix), some.key(prefix)],
    b"copy": lambda some, prefix: [some.key(prefix), some.key(prefix)],
}


def same(words: Words, one: tuple, other: tuple) -> bool:
    """Return whether two servers have replied alike to a command."""
    slack = SLACK.get(words[0].lower(), 0)
    if slack and one[0] == other[0] == ":":
        one_time, other_time = int(one[1]), int(other[1])
        return one_time == other_time or (min(one_time, other_time) >= 0 and abs(one_time - other_time) <= slack)
    return one == other
