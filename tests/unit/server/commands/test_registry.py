"""What a command is: arity, its keys, and how numbers and words of a client are read."""

from __future__ import annotations

import pytest

from pmkv_server.commands.registry import (
    COMMANDS,
    INT_MAX,
    INT_MIN,
    CommandError,
    parse_float,
    parse_int,
    printable,
    unknown_command,
)
from tests.unit.server.stand import Client


@pytest.mark.parametrize("value", [0, 1, -1, 10, INT_MAX, INT_MIN])
def test_integers_have_one_form(value: int) -> None:
    assert parse_int(b"%d" % value) == value


BAD = [b"", b"-0", b"+1", b"01", b" 1", b"1 ", b"1_0", b"1.0", b"x", b"\xd9\xa1", b"9223372036854775808"]
BAD += [b"-", b"9" * 5000]


@pytest.mark.parametrize("word", BAD)
def test_other_forms_are_refused(word: bytes) -> None:
    with pytest.raises(CommandError, match=r"^ERR value is not an integer or out of range$"):
        parse_int(word)


def test_bounds_and_their_message() -> None:
    assert parse_int(b"3", "no", 3, 3) == 3
    for word in (b"2", b"4"):
        with pytest.raises(CommandError, match=r"^no$"):
            parse_int(word, "no", 3, 3)


def test_floats() -> None:
    assert parse_float(b"-1.5e3") == -1500.0
    for word in (b"", b"x", b"\xff"):
        with pytest.raises(CommandError, match="not a valid float"):
            parse_float(word)


def test_arity_and_keys() -> None:
    get, mset, rename, ping = (COMMANDS[name] for name in (b"get", b"mset", b"rename", b"ping"))
    assert [get.fits(n) for n in (1, 2, 3)] == [False, True, False]
    assert [mset.fits(n) for n in (2, 3, 9)] == [False, True, True]
    assert mset.keys_of([b"mset", b"a", b"1", b"b", b"2"]) == [b"a", b"b"]
    assert rename.keys_of([b"rename", b"a", b"b"]) == [b"a", b"b"]
    assert ping.keys_of([b"ping", b"a"]) == []


def test_every_command_can_be_described() -> None:
    for name, entry in COMMANDS.items():
        for child in (entry, *entry.subcommands.values()):
            assert child.summary and child.arity, name
            assert not {"write", "readonly"} <= child.flags, name


def test_what_a_client_sent_is_cut_in_messages() -> None:
    assert printable(b"a\0b") == "a"
    assert printable(b"a" * 200) == "a" * 128
    assert len(unknown_command([b"nosuch", *[b"word"] * 1000])) < 300


def test_only_values_stay_views() -> None:
    words = [b"mset", memoryview(b"key"), memoryview(b"value")]
    assert [type(word) for word in COMMANDS[b"mset"].owned(words)] == [bytes, bytes, memoryview]
    assert COMMANDS[b"del"].owned(words) == [b"mset", b"key", b"value"]


def test_bytes_beyond_ascii_come_back_as_they_were(client: Client) -> None:
    name, word = b"\xff\xfe\xc3\xa9", b"\x80x"
    assert client(name, word) == ("-", b"ERR unknown command '%b', with args beginning with: '%b' " % (name, word))
    for command in ("TABLE.LEN", "VIEW.USE"):
        assert "'é'".encode() in client(command, "é".encode())[1]
        assert not client(command, b"\xff")[1].startswith(b"ERR internal")
    assert client("EXPIRE", "k", 1, b"x" * 300) == ("-", b"ERR Unsupported option " + b"x" * 300)


def test_error_texts_of_redis(client: Client) -> None:
    assert client.says("SELECT 4294967296") == (
        "-ERR value is out of range, value must between -2147483648 and 2147483647"
    )
    assert client.says("CONFIG SET a b c") == "-ERR syntax error"
    assert client("SCAN", "")[0] != "-"
    for value in (b"1.5\0", b"1\x002", b" 1"):
        client("SET", "f", value)
        assert client("INCRBYFLOAT", "f", 1) == ("-", b"ERR value is not a valid float")
    client("SET", "f", "-0")
    assert client("INCRBYFLOAT", "f", 0)[1] == b"0"
