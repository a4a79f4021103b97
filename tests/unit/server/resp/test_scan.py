"""The protocol without sockets: the compiled scan against a plain parser, limits, inline commands, replies."""

from __future__ import annotations

import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmkv_server.resp import scan
from pmkv_server.resp.scan import AGAIN, DONE, INCOMPLETE, INLINE, OTHER, Scanner, name_table, slices
from tests.served import request
from tests.unit.server.stand import parsed, shown

PROTOCOL_ERROR = 10


def plain_parser(data: bytes) -> tuple[list[list[bytes]], int]:
    """The whole commands at the start of well-formed data, and the offset behind the last one."""
    commands, position = [], 0
    while head := re.compile(rb"\*(-?\d+)\r\n").match(data, position):
        at, words = head.end(), []
        for _ in range(int(head[1])):
            size = re.compile(rb"\$(\d+)\r\n").match(data, at)
            if not size or len(data) < size.end() + int(size[1]) + 2:
                return commands, position
            words.append(data[size.end() : size.end() + int(size[1])])
            at = size.end() + int(size[1]) + 2
        position = at
        if words:
            commands.append(words)
    return commands, position


GET, SET, DEL = 1, 2, 3
NAMES = name_table([(b"get", 2, GET), (b"set", -3, SET), (b"del", -2, DEL)])


def commands_of(found: scan.Scan, first: int, end: int) -> list[list[bytes]]:
    """The commands of rows first..end; the numbers of their names are right."""
    commands = [found.words(row) for row in range(first, end)]
    for row, words in zip(range(first, end), commands):
        fits = {b"get": len(words) == 2, b"set": len(words) >= 3, b"del": len(words) >= 2}.get(words[0].lower(), False)
        assert found.number(row) == ({b"get": GET, b"set": SET, b"del": DEL}[words[0].lower()] if fits else OTHER)
    return commands


def one(data: bytes, authenticated: bool = True, scanner: Scanner | None = None) -> tuple[list[list[bytes]], list[int]]:
    found = (scanner or Scanner(NAMES)).scan(data, [len(data) if authenticated else -len(data)])
    return commands_of(found, 0, found.states[0][0]), found.states[0]


names = st.sampled_from([b"GET", b"get", b"SET", b"sEt", b"GETX", b"MGET", b"DEL", b"XET", b""])
words = st.one_of(st.binary(max_size=12), st.sampled_from([b"\r\n", b"*1\r\n$1\r\n", b"$"]))
command = st.builds(lambda name, rest: [name, *rest], names, st.lists(words, max_size=4))
pipeline = st.lists(command, max_size=12)


@given(pipeline, st.integers(0, 400))
def test_scan_reads_what_a_plain_parser_reads(commands: list[list[bytes]], cut: int) -> None:
    data = b"".join(request(*words) for words in commands)[:cut]
    expected, position = plain_parser(data)
    found, (_, at, status, detail) = one(data)
    assert (found, at) == (expected, position)
    assert status == (DONE if position == len(data) else INCOMPLETE)
    if status == INCOMPLETE:
        assert detail > len(data) - position, "it would be scanned again before anything new can be there"


@given(st.lists(pipeline, min_size=1, max_size=5))
def test_buffers_of_many_connections_are_kept_apart(pipelines: list[list[list[bytes]]]) -> None:
    buffers = [b"".join(request(*words) for words in commands) for commands in pipelines]
    found = Scanner(NAMES).scan(b"".join(buffers), [len(buffer) for buffer in buffers])
    first = 0
    for commands, (end, _, status, _) in zip(pipelines, found.states, strict=True):
        assert commands_of(found, first, end) == commands
        assert status == DONE
        first = end


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_read_or_refused(data: bytes, authenticated: bool) -> None:
    for given_data in (data, b"*" + data, b"*2\r\n$" + data):
        _, (_, position, status, detail) = one(given_data, authenticated)
        assert 0 <= position <= len(given_data)
        if status >= PROTOCOL_ERROR:
            assert scan.protocol_error(status, detail).startswith(b"-ERR Protocol error: ")
        else:
            assert status in (DONE, INCOMPLETE, INLINE, AGAIN)


def test_a_command_is_incomplete_at_every_byte_but_the_last() -> None:
    whole = request("SET", "key", b"va\r\nlue") + request("DEL", "a", "") + request("GET", "k")
    ends = [len(request("SET", "key", b"va\r\nlue"))]
    ends += [ends[0] + len(request("DEL", "a", "")), len(whole)]
    for cut in range(len(whole) + 1):
        found, (_, position, status, detail) = one(whole[:cut])
        assert len(found) == sum(end <= cut for end in ends)
        assert position == max([0, *(end for end in ends if end <= cut)])
        assert (status == DONE) == (position == cut)
        rest = min(end for end in [*ends, len(whole)] if end > position) - position if status != DONE else 0
        assert detail <= rest, "it would wait for more than the command has"


def test_only_whole_commands_of_the_table_are_known() -> None:
    known, other = request("GET", "a") + request("set", "a", "b", "NX"), request("PING")

    def are_known(*buffers: bytes) -> bool:
        return bool(Scanner(NAMES).scan(b"".join(buffers), list(map(len, buffers))).are_known)

    assert are_known(known) and are_known(known, request("Del", "a"))
    for buffers in ([known, other], [known + other], [known[:-1]], [known, b"PING\r\n"], [request("GET")], [b"*0\r\n"]):
        assert not are_known(*buffers), buffers


def test_names_of_every_length_and_case_are_found() -> None:
    names = [b"", b"a", b"b" * 8, b"c" * 9, b"d" * 15, b"table.get"]
    scanner = Scanner(name_table((name, 1, i + 1) for i, name in enumerate(names)))
    for i, name in enumerate(names):
        for word in (name, name.upper(), name.title()):
            assert scanner.scan(request(word), [len(request(word))]).number(0) == i + 1
    for word in (b"d" * 16, b"a\0", b"B" * 7, b"table@get"):
        assert scanner.scan(request(word), [len(request(word))]).number(0) == OTHER


def test_the_part_of_each_connection() -> None:
    buffers = [request("GET", "a") * 2, b"", request("DEL", "a")[:-3]]
    sizes = [len(buffers[0]), 0, -len(buffers[2])]
    found = Scanner(NAMES).scan(b"".join(buffers), sizes)
    parts = [(owner, first, start, end) for owner, first, start, end, _ in slices(["x", "y", "z"], sizes, found)]
    end = sum(map(len, buffers))
    assert parts == [("x", 0, 0, sizes[0]), ("y", 2, sizes[0], sizes[0]), ("z", 2, sizes[0], end)]


def test_more_rows_or_arguments_than_there_is_room_for_come_with_the_next_look() -> None:
    data = request("DEL", "a") * 5
    found, (_, position, status, _) = one(data, scanner=Scanner(NAMES, arguments=64, rows=2))
    assert (len(found), position, status) == (2, 2 * len(request("DEL", "a")), AGAIN)
    scanner, many = Scanner(NAMES, arguments=4, rows=4), request("DEL", *range(100))
    assert one(many, scanner=scanner)[1][2] == AGAIN
    assert one(many, scanner=scanner)[0] == [[b"DEL", *(b"%d" % i for i in range(100))]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"*2147483647\r\n", "invalid multibulk length"),
        (b"*8388609\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*01\r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*" + b"1" * 70000, "too big mbulk count string"),
        (b"*1\r\n$10737418240\r\n", "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$x\r\n", "invalid bulk length"),
        (b"*1\r\n$" + b"1" * 70000, "too big bulk count string"),
        (b"*1\r\n*1\r\n$1\r\na\r\n", "expected '$', got '*'"),
        (b"*2\r\n$3\r\nGET\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\n%1\r\n", "expected '$', got '%'"),
    ],
)
def test_what_is_refused(data: bytes, message: str) -> None:
    _, (_, _, status, detail) = one(data)
    assert scan.protocol_error(status, detail) == f"-ERR Protocol error: {message}\r\n".encode()


UNFINISHED = [b"*1048576\r\n", b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870912\r\n", b"*1\r\n$10737418240\r\n"]


@pytest.mark.parametrize("data", UNFINISHED)
def test_headers_allocate_nothing(data: bytes) -> None:
    scanner = Scanner(arguments=16, rows=16)
    one(data, scanner=scanner)
    tracemalloc.start()
    one(data, scanner=scanner)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 10


def test_the_longest_command_is_waited_for() -> None:
    _, (_, _, status, detail) = one(b"*2\r\n$3\r\nGET\r\n$536870912\r\nabc")
    assert status == INCOMPLETE
    assert detail == len(b"*2\r\n$3\r\nGET\r\n$536870912\r\n") + (512 << 20) + 2


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"*11\r\n", "unauthenticated multibulk length"), (b"*1\r\n$16385\r\n", "unauthenticated bulk length")],
)
def test_limits_are_narrow_before_auth(data: bytes, message: str) -> None:
    _, (_, _, status, detail) = one(data, authenticated=False)
    assert scan.protocol_error(status, detail) == f"-ERR Protocol error: {message}\r\n".encode()
    assert one(data)[1][2] == INCOMPLETE


def test_one_command_a_look_before_auth() -> None:
    """The first may be AUTH, and lift the limits for the second."""
    first, second = request("AUTH", "x"), request("DEL", *range(20))
    found, (_, position, status, _) = one(first + second, authenticated=False)
    assert (found, position, status) == ([[b"AUTH", b"x"]], len(first), AGAIN)


def test_an_inline_command_stops_the_scan() -> None:
    found, (_, position, status, _) = one(request("GET", "a") + b"PING\r\n")
    assert (found, position, status) == ([[b"GET", b"a"]], len(request("GET", "a")), INLINE)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"SET a b\r", [b"SET", b"a", b"b"]),
        (b"  \tPING\t hi ", [b"PING", b"hi"]),
        (b"", []),
        (b'"a b" c', [b"a b", b"c"]),
        (b'""', [b""]),
        (rb'"\x41\n\r\t\b\a\"\\\z"', [b'A\n\r\t\x08\x07"\\z']),
        (rb'"\xzz"', [b"xzz"]),
        (rb"'\x41\'\n'", [rb"\x41'\n"]),
        (rb"a\x41", [rb"a\x41"]),
        (b'a"b c"', [b"ab c"]),
        (b'"open', None),
        (b"'open", None),
        (b'"a"b', None),
        (b"'a'b", None),
    ],
)
def test_inline_words(line: bytes, words: list[bytes] | None) -> None:
    assert scan.split_inline(line) == words


@given(st.binary(max_size=40))
def test_any_line_is_split_or_refused(line: bytes) -> None:
    words = scan.split_inline(line)
    assert words is None or sum(map(len, words)) <= len(line)


def test_replies() -> None:
    def read(data: bytes) -> str:
        (reply,) = parsed(data)
        return shown(reply)

    assert read(scan.error("ERR a\r\nb")) == "-ERR a  b"
    assert read(scan.array([scan.integer(-1), scan.bulk(b"")])) == '[:-1, ""]'
    assert [read(scan.blob_or_null(None, 2)), read(scan.blob_or_null(None, 3))] == ["nil", "null"]
    pairs = [(scan.bulk(b"a"), scan.ONE)]
    assert [read(scan.a_map(pairs, 2)), read(scan.a_map(pairs, 3))] == ['["a", :1]', '{"a", :1}']
    assert [read(scan.a_set([scan.ONE], 2)), read(scan.a_set([scan.ONE], 3))] == ["[:1]", "<:1>"]
    assert [read(scan.text(b"hi", 2)), read(scan.text(b"hi", 3))] == ['"hi"', "=txt:hi"]


def test_long_replies_are_not_copied() -> None:
    for rows in (memoryview(bytearray(100_000)), bytes(100_000)):
        reply = scan.joined([scan.ONE, scan.blob(rows)])
        assert any(part is rows for part in reply)
        assert b"".join(reply) == b"*2\r\n:1\r\n$100000\r\n" + bytes(100_000) + b"\r\n"
    assert scan.blob(b"short") == b"$5\r\nshort\r\n"


def test_long_arguments_are_not_copied() -> None:
    long = b"x" * (1 << 20)
    data = request("MSET", "a", long, "b", "short", long, "c")
    found = Scanner().scan(data, [len(data)])
    words = found.words(0)
    assert [type(word) for word in words] == [bytes, bytes, memoryview, bytes, bytes, memoryview, bytes]
    assert [bytes(word) for word in words] == [b"MSET", b"a", long, b"b", b"short", long, b"c"]
