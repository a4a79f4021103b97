"""The command table: entries, the decorator that registers them, and parsers of arguments.

A command is a function `(session, arguments) -> Reply`; `arguments[0]` is its name. It runs on the thread of the event
loop, or in a worker when it is heavy, always inside `store.deferred()`. It raises `CommandError` for an error reply.
Its docstring's first line is the summary in COMMAND DOCS and docs/COMMANDS.md.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pmkv_server.parsing import strict_cursor, strict_float, strict_int
from pmkv_server.resp.scan import Reply, array, simple

if TYPE_CHECKING:
    from pmkv_server.net.session import Session

Function = Callable[["Session", list[bytes]], Reply]
Heavy = Callable[["Session", list[bytes]], bool]
Waits = Callable[["Session", list[bytes]], Awaitable[Reply]]

INT_MIN, INT_MAX = -(1 << 63), (1 << 63) - 1
MAX_REPLY_BYTES = 1 << 30  # of one command
EXPIRY_LIMIT_MS = 1 << 62  # unix time; the store takes only earlier expiries, so later ones become the last of these


class CommandError(Exception):
    """An error reply; its first word is the error code."""


READING_WRITES = frozenset(("getset", "getdel", "getex"))
SYNTAX = "ERR syntax error"
NOT_AN_INTEGER = "ERR value is not an integer or out of range"
NO_SUCH_KEY = "ERR no such key"


@dataclass(frozen=True)
class Command:
    """One entry of the table; arity as in Redis: the number of arguments with the name, negative for "at least"."""

    name: str
    function: Function
    arity: int
    flags: frozenset[str]
    keys: tuple[int, int, int]  # first, last (negative: from the end), step
    heavy: Heavy | None
    group: str
    values: slice  # arguments that may be views of the receive buffer
    is_container: bool = False  # has only subcommands
    waits: Waits | None = None  # outside of MULTI: awaits an event before it replies
    action: tuple[int, int] | None = None  # of a wave, and its parameter: see `actions`
    subcommands: dict[bytes, Command] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The docstring's first line."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    @property
    def syntax(self) -> list[str]:
        """The docstring's lines that begin with "Syntax:", without that word."""
        return re.findall(r"^ *Syntax: (.*)$", self.function.__doc__ or "", re.MULTILINE)

    @property
    def counts_lookups(self) -> bool:
        """Tell whether the keys that it looks up count as hits and misses: not those of a command that only writes."""
        return "write" not in self.flags or self.name in READING_WRITES

    @property
    def writes(self) -> bool:
        return "write" in self.flags or self.name == "exec"

    def keys_of(self, arguments: list[bytes]) -> list[bytes]:
        """Return the arguments that are keys."""
        first, last, step = self.keys
        if not first:
            return []
        return arguments[first : (len(arguments) + last if last < 0 else last) + 1 : step]

    def owned(self, arguments: list[bytes]) -> list[bytes]:
        """Return the arguments as bytes, except values, which stay views. Copies long ones without the GIL."""
        kept = range(*self.values.indices(len(arguments)))
        return [
            b"".join((word,)) if i not in kept and isinstance(word, memoryview) else word
            for i, word in enumerate(arguments)
        ]

    def fits(self, count: int) -> bool:
        """Tell whether the arity allows so many arguments, the name included."""
        return count == self.arity if self.arity >= 0 else count >= -self.arity


COMMANDS: dict[bytes, Command] = {}  # by lower-case name


class Group:
    """A group of commands, as in COMMAND DOCS; `command` is the decorator that registers a function in the table."""

    def __init__(self, name: str) -> None:
        self.name = name

    def command(
        self,
        name: str,
        arity: int,
        flags: str = "",
        keys: tuple[int, int, int] = (0, 0, 0),
        heavy: Heavy | None = None,
        values: slice = slice(0),
        waits: Waits | None = None,
        is_container: bool = False,
        action: tuple[int, int] | None = None,
    ) -> Callable[[Function], Function]:
        def enter(function: Function) -> Function:
            entry = Command(
                name, function, arity, frozenset(flags.split()), keys, heavy, self.name, values, is_container, waits,
                action,
            )  # fmt: skip
            parent, _, child = name.partition("|")
            entries = COMMANDS[parent.encode()].subcommands if child else COMMANDS
            entries[(child or parent).encode()] = entry
            return function

        return enter

    def add_help(self, name: str, module: str) -> None:
        """Register the subcommand HELP, which lists all subcommands of a command with their summaries. module: where
        the command is defined."""

        def help_(session: Session, arguments: list[bytes]) -> Reply:
            """Return helpful text about the subcommands."""
            title, lines = name.upper(), []
            for child in COMMANDS[name.encode()].subcommands.values():
                if child.function is not help_:
                    lines += [child.name.partition("|")[2].upper(), f"    {child.summary}"]
            lines += ["HELP", "    Print this help."]
            heading = f"{title} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
            return array(simple(line.encode()) for line in [heading, *lines])

        help_.__module__ = module
        self.command(f"{name}|help", 2, "loop")(help_)

    def container(self, name: str) -> None:
        """Register a command that has only subcommands."""

        def refuse(session: Session, arguments: list[bytes]) -> Reply:
            """Refuse: a subcommand is needed."""
            raise CommandError(unknown_subcommand(arguments))

        self.command(name, -2, is_container=True)(refuse)


def check_reply_size(size: int) -> None:
    """Raise CommandError for a reply that is too long to be held in memory; call it before the values are read."""
    if size > MAX_REPLY_BYTES:
        raise CommandError(f"ERR the reply would take {size} bytes, more than {MAX_REPLY_BYTES}: ask for less at once")


def wrong_arity(title: str) -> str:
    return f"ERR wrong number of arguments for '{title}' command"


def printable(word: bytes, limit: int = 128) -> str:
    """Return a client's word for a message: cut at a NUL and at `limit` bytes, as in Redis."""
    return bytes(word[:limit]).split(b"\0")[0].decode("utf-8", "surrogateescape")


def name_of(word: bytes) -> str:
    """Return the name of a table or view; the store refuses names that are not valid."""
    return word.decode("utf-8", "surrogateescape")


def syntax_error(word: bytes) -> CommandError:
    return CommandError(f"ERR syntax error near '{printable(word)}'")


def unknown_command(arguments: list[bytes]) -> str:
    shown = ""
    for word in arguments[1:]:
        if len(shown) >= 128:
            break
        shown += f"'{printable(word, 128 - len(shown))}' "
    return f"ERR unknown command '{printable(arguments[0])}', with args beginning with: {shown}"


def unknown_subcommand(arguments: list[bytes]) -> str:
    return f"ERR unknown subcommand '{printable(arguments[1])}'. Try {printable(arguments[0]).upper()} HELP."


def parse_int(word: bytes, message: str = NOT_AN_INTEGER, low: int = INT_MIN, high: int = INT_MAX) -> int:
    """Return an integer within bounds from its canonical decimal form: no '+', spaces or leading zeros."""
    value = strict_int(str(word, "latin-1"))
    if value is None or not low <= value <= high:
        raise CommandError(message)
    return value


def parse_float(word: bytes, message: str = "ERR value is not a valid float") -> float:
    """Return a decimal floating-point number."""
    value = strict_float(str(word, "latin-1"))
    if value is None:
        raise CommandError(message)
    return value


def parse_cursor(word: bytes) -> int:
    """Return the cursor of a scan."""
    value = strict_cursor(str(word, "latin-1"))
    if value is None:
        raise CommandError("ERR invalid cursor")
    return value
