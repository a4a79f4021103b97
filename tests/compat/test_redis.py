"""The same commands to a real redis-server 7 and to pmkv: replies and error texts must be the same, byte for byte.

A scenario is a list of lines; a line is a command, split at spaces (`""` is an empty word, `\\x00` a byte). Both
servers are emptied before each. Where an order is not defined, the command is listed in UNORDERED.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.served import Raw, free_port, served, wait_for_port

pytestmark = pytest.mark.compat

SCENARIOS: dict[str, str] = {
    "strings": """
        GET a
        SET a b
        GET a
        set a c
        gEt a
        SET a
        GET
        GET a b
        SET a ""
        GET a
        STRLEN a
        SET k\\x00\\xff v\\x00\\r\\n
        GET k\\x00\\xff
        STRLEN k\\x00\\xff
        STRLEN none
        SETNX a 1
        SETNX n 1
        GETSET n 2
        GETSET m 3
        GETDEL m
        GETDEL m
        GET m
        APPEND p abc
        APPEND p def
        APPEND p ""
        GET p
        APPEND p
        MGET a n none p
        MGET
        MSET a 1 b 2
        MSET a 1 b
        MSET
        MSETNX a 1 c 2
        MSETNX c 1 d 2
        MSETNX c 1 d
        MGET a b c d
        MSET x 1 x 2
        GET x
        MSETNX y 1 y 2
        GET y
    """,
    "set options": """
        SET a 1 NX
        SET a 2 NX
        SET a 2 XX
        SET b 2 XX
        GET a
        SET a 3 GET
        SET new 3 GET
        SET a 4 NX GET
        SET nx 4 NX GET
        SET a 5 XX GET
        SET none 5 XX GET
        SET a 6 EX 100
        TTL a
        SET a 7 KEEPTTL
        TTL a
        SET a 8
        TTL a
        SET a 9 PX 100000
        TTL a
        SET a 9 EXAT 99999999999
        EXPIRETIME a
        SET a 9 PXAT 99999999999999
        PEXPIRETIME a
        SET a 1 nx xx
        SET a 1 EX
        SET a 1 EX abc
        SET a 1 EX 0
        SET a 1 EX -1
        SET a 1 PX -1
        SET a 1 EX 9223372036854775807
        SET a 1 PX 9223372036854775807
        SET a 1 EX 10 PX 10
        SET a 1 EX 10 EX 20
        TTL a
        SET a 1 EX 10 KEEPTTL
        SET a 1 KEEPTTL EX 10
        SET a 1 PERSIST
        SET a 1 FOO
        SET a 1 GET GET
        SET a 1 NX NX
        SET a 1 EXAT 1
        GET a
        EXISTS a
        SETEX a 10 v
        TTL a
        SETEX a 0 v
        SETEX a -1 v
        SETEX a x v
        SETEX a 10
        PSETEX a 10000 v
        TTL a
        PSETEX a 0 v
        PSETEX a 9223372036854775807 v
        SETEX a 9223372036854775807 v
        GETEX a
        TTL a
        GETEX a EX 100
        TTL a
        GETEX a PERSIST
        TTL a
        GETEX a PX 100000
        TTL a
        GETEX a EXAT 99999999999
        EXPIRETIME a
        GETEX a EX 0
        GETEX a EX x
        GETEX none EX x
        GETEX none
        GETEX a KEEPTTL
        GETEX a EX 1 PERSIST
        GETEX a EX
        GETEX a EXAT 1
        GET a
    """,
    "ranges": """
        SETRANGE a 5 hello
        GET a
        SETRANGE a 0 12
        GET a
        SETRANGE a 6 Redis
        GET a
        SETRANGE none 3 ""
        EXISTS none
        SETRANGE a 0 ""
        SETRANGE a -1 x
        SETRANGE a x x
        SETRANGE a 536870911 xx
        SETRANGE none 536870911 xx
        SETRANGE none 9223372036854775807 xx
        SETRANGE none 4294967296 ""
        SETRANGE a 0
        SET b "Hello
        GETRANGE b 0 -1
        GETRANGE b 0 0
        GETRANGE b -3 -1
        GETRANGE b -100 100
        GETRANGE b 3 1
        GETRANGE b -1 -3
        GETRANGE b 100 200
        GETRANGE b -100 -50
        GETRANGE b -100 -100
        GETRANGE none 0 -1
        GETRANGE b x 1
        GETRANGE b 0 9223372036854775808
        GETRANGE b 0 9223372036854775807
        GETRANGE b -9223372036854775808 -1
        SUBSTR b 1 2
        SUBSTR b 1
    """,
    "numbers": """
        INCR a
        INCR a
        DECR a
        DECRBY a 10
        INCRBY a 100
        INCRBY a x
        INCRBY a 1.5
        INCRBY a 9223372036854775808
        INCRBY a 9223372036854775807
        DECRBY a -9223372036854775808
        DECRBY a 9223372036854775807
        SET a 9223372036854775807
        INCR a
        SET a -9223372036854775808
        DECR a
        SET b " 1"
        SET b 01
        INCR b
        SET b -0
        INCR b
        SET b +1
        INCR b
        SET b ""
        INCR b
        SET b 1.0
        INCR b
        SET b 1\\x20
        INCR b
        INCR b c
        INCR
        INCRBY a 01
        INCRBYFLOAT f 0.1
        INCRBYFLOAT f 0.2
        INCRBYFLOAT f 1e3
        INCRBYFLOAT f -1000.3
        INCRBYFLOAT f abc
        INCRBYFLOAT f nan
        INCRBYFLOAT f inf
        INCRBYFLOAT f -inf
        INCRBYFLOAT f ""
        INCRBYFLOAT f 5.0e3
        INCRBYFLOAT f 1e300
        INCRBYFLOAT g 3.14159265358979
        INCRBYFLOAT g 1\\x20
        INCRBYFLOAT g 1_0
        INCRBYFLOAT h 1e-10
        INCRBYFLOAT h 10.50
        INCRBYFLOAT h -10.5000000001
        SET b ""
        INCRBYFLOAT b 1
        SET b x
        INCRBYFLOAT b 1
        GET f
        EXPIRE a 100
        INCR a
        TTL a
        APPEND a 0
        TTL a
    """,
    "keys": """
        MSET a 1 b 2 c 3
        EXISTS a b a none
        EXISTS
        TYPE a
        TYPE none
        TOUCH a b none a
        DEL a a none
        UNLINK b none
        DBSIZE
        DBSIZE x
        KEYS *
        RENAME c d
        GET d
        RENAME none x
        RENAME d d
        RENAME none none
        RENAMENX d e
        SET f 1
        RENAMENX e f
        RENAMENX e e
        RENAMENX none f
        EXPIRE e 100
        RENAME e f
        TTL f
        COPY f g
        COPY f g
        COPY f g REPLACE
        TTL g
        COPY none g
        COPY f f
        COPY f f DB 1
        COPY f f DB 0
        COPY f f DB 99
        COPY f f DB x
        COPY f h DB
        COPY f h FOO
        SELECT 1
        TTL f
        KEYS *
        SELECT 16
        SELECT -1
        SELECT x
        SELECT
        DBSIZE
        FLUSHDB
        DBSIZE
        SELECT 0
        DBSIZE
        FLUSHALL ASYNC
        DBSIZE
        FLUSHALL SYNC
        FLUSHDB FOO
        FLUSHALL ASYNC SYNC
        RANDOMKEY
        SET only 1
        RANDOMKEY
    """,
    "globs": """
        MSET hello 1 hallo 1 hxllo 1 hllo 1 heeeello 1 h[llo 1 h*llo 1 h?llo 1 a\\\\b 1 a-c 1 a]c 1
        KEYS h?llo
        KEYS h*llo
        KEYS h[ae]llo
        KEYS h[^e]llo
        KEYS h[a-b]llo
        KEYS h[b-a]llo
        KEYS h\\\\*llo
        KEYS h\\\\?llo
        KEYS h[[]llo
        KEYS h[\\\\[]llo
        KEYS h[
        KEYS h[a
        KEYS h[a-
        KEYS h[^
        KEYS a[-]c
        KEYS a[a-]c
        KEYS a[\\\\]]c
        KEYS a]c
        KEYS [
        KEYS []
        KEYS [^]
        KEYS a[]c
        KEYS ""
        KEYS *
        KEYS **
        KEYS *l*l*
        KEYS *o
        KEYS h*
        KEYS \\\\
        KEYS hello\\\\
        KEYS a\\\\\\\\b
        KEYS ?????
        KEYS *****hello*****
        KEYS [h-h]*
        KEYS [^^]*
        KEYS [a\\\\-z]ello
        SET ^ 1
        KEYS [\\\\^]
        KEYS [^]
        KEYS [x^]
    """,
    "scans": """
        SCAN 0
        SCAN x
        SCAN 0 COUNT
        SCAN 0 COUNT 0
        SCAN 0 COUNT x
        SCAN 0 MATCH
        SCAN 0 FOO 1
        SCAN 0 TYPE string
        SCAN 18446744073709551616
        SCAN
        MSET a 1 b 2 c 3
        SCAN 0 COUNT 100
        SCAN 0 COUNT 100 MATCH [ab]
        SCAN 0 COUNT 100 MATCH a COUNT 200
        SCAN 0 COUNT 100 TYPE string
        SCAN 0 COUNT 100 TYPE STRING
        SCAN 0 COUNT 100 TYPE hash
        SCAN 0 COUNT 100 TYPE foo
    """,
    "expiry": """
        SET a 1
        TTL a
        PTTL a
        EXPIRETIME a
        TTL none
        PTTL none
        EXPIRETIME none
        PEXPIRETIME none
        EXPIRE a 100
        TTL a
        EXPIRE none 100
        EXPIRE a 200 NX
        EXPIRE a 200 XX
        TTL a
        EXPIRE a 100 GT
        EXPIRE a 300 GT
        EXPIRE a 400 LT
        EXPIRE a 250 LT
        EXPIRE a 240 XX LT
        TTL a
        PERSIST a
        PERSIST a
        PERSIST none
        EXPIRE a 100 XX
        EXPIRE a 100 GT
        EXPIRE a 100 LT
        TTL a
        PERSIST a
        EXPIRE a 100 NX
        EXPIRE a 100 NX XX
        EXPIRE a 100 NX GT
        EXPIRE a 100 GT LT
        EXPIRE a 100 FOO
        EXPIRE a x FOO
        EXPIRE a x
        EXPIRE a
        EXPIRE a 9223372036854775807
        EXPIRE a -9223372036854775808
        EXPIRE a 9223372036854775808
        PEXPIRE a 9223372036854775807
        PEXPIRE a 100000
        TTL a
        EXPIREAT a 99999999999
        EXPIRETIME a
        PEXPIREAT a 99999999999999
        PEXPIRETIME a
        PEXPIREAT a 99999999999999 FOO
        EXPIREAT a 9223372036854775807
        EXPIRE a -1
        EXISTS a
        SET a 1
        PEXPIREAT a 1
        GET a
        SET a 1
        EXPIRE a 0
        GET a
        SET a 1
        EXPIREAT a 1 GT
        GET a
        SET a 1 EX 100
        EXPIREAT a 1 GT
        TTL a
        EXPIREAT a 1 LT
        GET a
    """,
    "connection": """
        PING
        PING hi
        PING a b
        ECHO hi
        ECHO
        ECHO a b
        QUITX
        NOSUCH
        NOSUCH a b c
        NOSUCH aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbbbbbbbbbb cccccccccc dddddd eee f
        no\\r\\nsuch a\\r\\nb
        nosuch\\x00x a\\x00b
        ""
        CLIENT
        CLIENT NOPE
        CLIENT NOPE x
        CLIENT ID x
        CLIENT GETNAME
        CLIENT SETNAME me
        CLIENT GETNAME
        CLIENT SETNAME a\\x20b
        CLIENT SETNAME
        CLIENT SETNAME ""
        CLIENT GETNAME
        CLIENT NO-EVICT ON
        CLIENT NO-EVICT off
        CLIENT NO-EVICT maybe
        CLIENT NO-EVICT
        CLIENT LIST TYPE
        CLIENT LIST TYPE foo
        CLIENT LIST TYPE pubsub
        CLIENT LIST ID x
        CLIENT LIST FOO
        CLIENT LIST ID 999999
        CONFIG
        CONFIG NOPE
        CONFIG GET
        CONFIG GET nosuch
        CONFIG GET save
        CONFIG GET maxmemory
        CONFIG GET databases
        CONFIG GET proto-max-*
        CONFIG SET nosuch 1
        CONFIG SET databases
        CONFIG SET databases 17
        CONFIG SET maxmemory 0 nosuch 1
        CONFIG RESETSTAT
        CONFIG RESETSTAT x
        COMMAND NOPE
        COMMAND COUNT x
        COMMAND INFO nosuch
        COMMAND DOCS nosuch
        TIME x
        FUNCTION FLUSH
        FUNCTION FLUSH SYNC
        FUNCTION FLUSH FOO
        FUNCTION FLUSH SYNC ASYNC
        FUNCTION NOPE
        FUNCTION
        AUTH
        AUTH x
        AUTH default x
        AUTH nobody x
        AUTH a b c
        HELLO x
        HELLO 4
        HELLO 2 FOO
        HELLO 2 AUTH
        HELLO 2 AUTH default
        HELLO 2 SETNAME
        HELLO 2 AUTH nobody x
        HELLO 2 SETNAME a\\x20b
        SHUTDOWN FOO
        SHUTDOWN ABORT
        SHUTDOWN SAVE NOSAVE
        RESET x
        RESET
        CLIENT GETNAME
    """,
    "transactions": """
        MULTI
        MULTI
        SET a 1
        GET a
        INCR a
        INCR a
        GET none
        TTL a
        EXEC
        EXEC
        DISCARD
        MULTI
        SET b 1
        DISCARD
        GET b
        MULTI
        SET b
        SET b 1
        EXEC
        GET b
        MULTI
        NOSUCH
        EXEC
        MULTI
        INCR s
        SET s x
        INCR s
        SET s y
        EXEC
        GET s
        MULTI
        WATCH a
        EXEC
        MULTI
        PING
        ECHO x
        SELECT 1
        SET other 1
        EXEC
        GET other
        SELECT 0
        GET other
        WATCH a
        MULTI
        SET a 2
        EXEC
        WATCH a
        SET a 3
        MULTI
        SET a 4
        EXEC
        GET a
        WATCH a none
        SET none 1
        MULTI
        PING
        EXEC
        WATCH a
        SET a 3
        UNWATCH
        MULTI
        PING
        EXEC
        WATCH a
        DEL nosuch
        MULTI
        PING
        EXEC
        WATCH nosuch
        DEL nosuch
        MULTI
        PING
        EXEC
        WATCH a
        EXPIRE a 100
        MULTI
        PING
        EXEC
        WATCH a
        EXPIRE a 50 GT
        MULTI
        PING
        EXEC
        WATCH a
        FLUSHALL
        MULTI
        PING
        EXEC
        WATCH a
        FLUSHALL
        MULTI
        PING
        EXEC
        WATCH
        MULTI x
        EXEC x
        DISCARD x
        MULTI
        EXEC
        MULTI
        SHUTDOWN ABORT
        EXEC
        MULTI
        RESET
        EXEC
        MULTI
        SETRANGE r 3 x
        GETRANGE r 0 -1
        MGET r a
        KEYS r
        EXEC
        WATCH a
        MULTI
        SET a 1
        DISCARD
        SET a 2
        MULTI
        PING
        EXEC
    """,
}
UNORDERED = ("KEYS", "SCAN")


def words_of(line: str) -> list[bytes]:
    """Split at spaces; a backslash begins an escape, as in Python."""
    words = line.split(" ")
    return [b"" if word == '""' else word.encode().decode("unicode_escape").encode("latin-1") for word in words]


@pytest.fixture(scope="module")
def redis_port(needs_redis_server: str) -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen(
        [needs_redis_server, "--port", str(port), "--save", "", "--appendonly", "no"], stdout=subprocess.DEVNULL
    )
    wait_for_port(port)
    yield port
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def pmkv_port() -> Iterator[int]:
    with served("--pool", ":memory:") as server:
        yield server.port


def sorted_reply(reply: tuple) -> tuple:
    kind, value = reply
    if not isinstance(value, tuple):
        return reply
    if len(value) == 2 and isinstance(value[1][1], tuple):  # SCAN: cursor, keys
        return kind, (value[0], sorted_reply(value[1]))
    return kind, tuple(sorted(value))


def transcript(port: int, protocol: int, lines: list[str]) -> list[tuple]:
    raw = Raw(port)
    raw("FLUSHALL")
    if protocol == 3:
        raw("HELLO", 3)
    replies = []
    for line in lines:
        reply = raw(*words_of(line))
        replies.append(sorted_reply(reply) if line.upper().startswith(UNORDERED) else reply)
    raw.close()
    return replies


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("name", SCENARIOS)
def test_replies_are_those_of_redis(name: str, protocol: int, redis_port: int, pmkv_port: int) -> None:
    lines = [line.strip() for line in SCENARIOS[name].strip().splitlines()]
    theirs, ours = transcript(redis_port, protocol, lines), transcript(pmkv_port, protocol, lines)
    different = [f"{line!r}: redis {a!r}, pmkv {b!r}" for line, a, b in zip(lines, theirs, ours) if a != b]
    assert not different, "\n".join(different)


BAD_INPUT = [
    b"*2147483648\r\n",
    b"*99999999999999999999\r\n",
    b"*x\r\n",
    b"*1 \r\n",
    b"*01\r\n",
    b"*-1\r\nPING\r\n",
    b"*0\r\nPING\r\n",
    b"*1\r\n:1\r\n",
    b"*1\r\n*1\r\n",
    b"*1\r\n%1\r\n",
    b"*2\r\n$3\r\nGET\r\n+a\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$x\r\n",
    b"*1\r\n$10737418240\r\n",
    b"*1\r\n$536870913\r\n",
    b"*1\r\n$\r\n",
    b"*\r\n",
    b'SET a "b\r\n',
    b"SET a 'b'c\r\n",
    b"PING\r\n",
    b"ping\n",
    b"\r\n\r\nPING\r\n",
    b'SET a "x\\x41\\n\\"y"\r\nGET a\r\n',
    b"SET a 'x\\'\\n'\r\nGET a\r\n",
    b"SET a x\\x41\r\nGET a\r\n",
    b'SET a ""\r\nGET a\r\n',
    b'ECHO "a"b\r\n',
    b'ECHO a"b"\r\n',
    b"  PING  \r\n",
    b"\tPING\thi\r\n",
    b"POST / HTTP/1.1\r\n",
    b"Host: localhost\r\n",
    b"*1\r\n$4\r\nPINGxx*1\r\n$4\r\nPING\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nbxy*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
]


def everything(port: int, data: bytes) -> bytes:
    """All that the server says before it closes, or before it has nothing more to say to a half-closed connection."""
    raw = Raw(port, timeout=5)
    raw("FLUSHALL")
    raw.send(data)
    raw.send(b"\r\nECHO end\r\n")
    answer = b""
    while b"$3\r\nend\r\n" not in answer:
        try:
            part = raw.socket.recv(65536)
        except ConnectionResetError:
            break
        if not part:
            break
        answer += part
    raw.close()
    return answer


@pytest.mark.parametrize("data", [pytest.param(data, id=repr(data[:40])) for data in BAD_INPUT])
def test_bad_input_is_answered_as_by_redis(data: bytes, redis_port: int, pmkv_port: int) -> None:
    assert everything(pmkv_port, data) == everything(redis_port, data)
