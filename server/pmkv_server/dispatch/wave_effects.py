"""The kernel that carries out the commands of a wave on what was looked up: replies, and the records to write.

Commands are carried out in their order. Each sees what the ones before it in the wave have left, and every change makes
a record of its own, so that the log has what commands one by one would have written.

A command that needs what only its function in Python has (an error, a value that lies in parts) *leaves*: nothing of
it happens, and no later command of its connection is carried out in this wave.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from pmkv.runtime.jit import FEW_ELEMENTS, kernel
from pmkv_server.commands.actions import (
    ADD,
    APPEND,
    DELETE,
    ECHO,
    EXISTS,
    EXPIRE,
    EXPIRES,
    GET,
    GET_OLD,
    GETDEL,
    GETEX,
    GETRANGE,
    GETSET,
    GT,
    KEEPTTL,
    LT,
    MGET,
    MSET,
    MSETNX,
    NX,
    PERSIST,
    PING,
    RELATIVE,
    SET,
    SETEX,
    SETNX,
    SETRANGE,
    STRLEN,
    TTL,
    TYPE,
    UNEXPIRE,
    XX,
)  # fmt: skip
from pmkv_server.dispatch.wave_plan import (
    ACTION,
    ARGUMENT,
    ARGUMENTS,
    COMMAND,
    KEY,
    KEYS,
    NUMBER,
    OPTIONS,
    OWNER,
    PARAMETER,
    SECOND,
    integer,
)  # fmt: skip
from pmkv_server.resp.scan import NULL

# Columns of the state of a key: where its value is (negative: absent), its length, expiry and flags, in which of the
# arrays, and whether the wave has changed it
AT, LENGTH, EXPIRY, FLAGS, SOURCE, CHANGED = range(6)
STATE_COLUMNS = 6
POOL, DATA, SPACE = range(3)  # the arrays that hold values: the pool, what was received, and `space`
# Columns of a connection: its protocol, the bytes that its replies may take, and what became of its commands: how many
# were done, the bytes of their replies, 1 if one depends on what the wave writes, 1 if the next one left, the last one
PROTOCOL, ROOM, DONE, BYTES, DEPENDS, LEFT, LAST = range(7)
OWNER_COLUMNS = 7
# Places of `cursor`: ends of the replies and of the values in `space`, bytes that values will still take there,
# records, hits, misses, whether the present command depends on what the wave writes, records that are no deletes, and
# commands that were carried out
REPLIES, VALUES, OWED, RECORDS, HITS, MISSES, IS_DEPENDENT, PUTS, CARRIED_OUT = range(9)
CURSOR_PLACES = 9
IS_DONE, LEAVES, IS_FULL = range(3)  # what became of a command; the last: the arrays have no room for it now
FLAG_DELETE = 16  # of a record: its key is deleted. Other flags: the value is no plain string of bytes
ABSENT = -1
LINE_BYTES = 32  # a reply without a value takes no more, nor does what a bulk string adds to its value
NUMBER_BYTES = 20
_SOURCE_SHIFT = 8  # in the flags of a record that is not gathered yet

_OK, _PONG = np.frombuffer(b"+OK\r\n", np.uint8), np.frombuffer(b"+PONG\r\n", np.uint8)
_STRING, _NONE = np.frombuffer(b"+string\r\n", np.uint8), np.frombuffer(b"+none\r\n", np.uint8)
_NULL_2, _NULL_3 = np.frombuffer(NULL[2], np.uint8), np.frombuffer(NULL[3], np.uint8)
_COLON, _DOLLAR, _STAR = 58, 36, 42

_BYTES, _SPACE = types.Array(types.uint8, 1, "C", readonly=True), types.uint8[::1]
_INTS, _ROWS = types.int64[::1], types.int64[:, ::1]


# ---- bytes ----


@njit
def _print(space, at, number):
    """Write a number at an offset; return the offset after it."""
    if number < 0:
        space[at] = 45
        at += 1
        number = -number
    end, rest = at + 1, number // 10
    while rest:
        end, rest = end + 1, rest // 10
    for i in range(end - 1, at - 1, -1):
        space[i] = 48 + number % 10
        number //= 10
    return end


@njit
def _copy(space, at, values, start, length):
    """Copy values[start : start + length] to an offset of `space`, which may be the same array."""
    for i in range(length):
        space[at + i] = values[start + i]


@njit
def _copy_value(space, at, source, pool, data, start, length):
    """Copy the bytes of a value, from whichever array has it, to an offset of `space`."""
    if source == POOL:
        _copy(space, at, pool, start, length)
    elif source == DATA:
        _copy(space, at, data, start, length)
    else:
        _copy(space, at, space, start, length)


@njit
def _value_as_integer(source, pool, data, space, start, length):
    """Return the integer that a value is, and whether it is one: see `integer`."""
    if source == POOL:
        return integer(pool, start, start + length)
    if source == DATA:
        return integer(data, start, start + length)
    return integer(space, start, start + length)


# ---- replies ----


@njit
def _reply(space, cursor, text):
    _copy(space, cursor[REPLIES], text, 0, len(text))
    cursor[REPLIES] += len(text)


@njit
def _reply_line(space, cursor, kind, number):
    """Reply with a line of a number: an integer, or the head of a longer reply."""
    space[cursor[REPLIES]] = kind
    end = _print(space, cursor[REPLIES] + 1, number)
    space[end], space[end + 1] = 13, 10
    cursor[REPLIES] = end + 2


@njit
def _reply_null(space, cursor, protocol):
    if protocol == 3:
        _reply(space, cursor, _NULL_3)
    else:
        _reply(space, cursor, _NULL_2)


@njit
def _reply_bytes(space, cursor, source, pool, data, start, length):
    """Reply with a bulk string."""
    _reply_line(space, cursor, _DOLLAR, length)
    at = cursor[REPLIES]
    _copy_value(space, at, source, pool, data, start, length)
    space[at + length], space[at + length + 1] = 13, 10
    cursor[REPLIES] = at + length + 2


@njit
def _reply_value(space, cursor, pool, data, key, protocol):
    """Reply with the value of a key, or null."""
    if key[AT] >= 0:
        _reply_bytes(space, cursor, key[SOURCE], pool, data, key[AT], key[LENGTH])
    else:
        _reply_null(space, cursor, protocol)


@njit
def _has_room(space, cursor, reply, value):
    """Return whether there is room for a reply with so many bytes of values, and for a value of a record."""
    half = len(space) // 2
    has_reply = cursor[REPLIES] + reply + LINE_BYTES <= half
    return has_reply and cursor[VALUES] + cursor[OWED] + value + NUMBER_BYTES <= len(space)


# ---- keys ----


@njit
def _look(key, cursor, is_counted):
    """Let the reply depend on the last write of a key, and count the lookup; return whether the key exists."""
    is_there = key[AT] >= 0
    if key[CHANGED]:
        cursor[IS_DEPENDENT] = 1
    if is_counted:
        cursor[HITS if is_there else MISSES] += 1
    return is_there


@njit
def _write(key, number, source, at, length, expiry, flags, cursor, keys, bounds, expiries, kinds):
    """Append a record to those that the wave writes, and let later commands see its value. number: of the key's place
    in the wave."""
    record = cursor[RECORDS]
    keys[record], bounds[record, 0], bounds[record, 1] = number, at, at + length
    expiries[record], kinds[record] = expiry, flags | source << _SOURCE_SHIFT
    cursor[RECORDS] += 1
    cursor[IS_DEPENDENT] = 1
    if not flags & FLAG_DELETE:
        cursor[PUTS] += 1
    if source != SPACE:
        cursor[OWED] += length
    key[AT], key[LENGTH], key[EXPIRY], key[FLAGS] = ABSENT if flags & FLAG_DELETE else at, length, expiry, flags
    key[SOURCE], key[CHANGED] = source, 1


@njit
def _write_argument(key, number, bounds, argument, expiry, cursor, keys, places, expiries, kinds):
    """Make an argument the value of a key."""
    start, stop = bounds[argument, 0], bounds[argument, 1]
    _write(key, number, DATA, start, stop - start, expiry, 0, cursor, keys, places, expiries, kinds)


@njit
def _delete(key, number, cursor, keys, places, expiries, kinds):
    _write(key, number, SPACE, cursor[VALUES], 0, 0, FLAG_DELETE, cursor, keys, places, expiries, kinds)


@njit
def _expiry_of(command, now):
    """Return the expiry that the options of a command give, 0 for none."""
    if not command[OPTIONS] & EXPIRES:
        return 0
    return command[NUMBER] + now if command[OPTIONS] & RELATIVE else command[NUMBER]


# ---- commands ----


@njit
def _read(command, pool, data, bounds, numbers, state, space, cursor, now, protocol):
    """Carry out a command that writes nothing and has at most one key."""
    action, argument = command[ACTION], command[ARGUMENT] + 1
    if action == PING or action == ECHO:
        if command[ARGUMENTS] == 1:
            _reply(space, cursor, _PONG)
            return IS_DONE
        start, length = bounds[argument, 0], bounds[argument, 1] - bounds[argument, 0]
        if not _has_room(space, cursor, length, 0):
            return IS_FULL
        _reply_bytes(space, cursor, DATA, pool, data, start, length)
        return IS_DONE
    key = state[numbers[command[KEY]]]
    is_there = key[AT] >= 0
    if is_there and key[FLAGS] and action != TTL:
        return LEAVES
    if action == GET or action == GETRANGE:
        if not _has_room(space, cursor, key[LENGTH], 0):
            return IS_FULL
    _look(key, cursor, True)
    if action == GET:
        _reply_value(space, cursor, pool, data, key, protocol)
    elif action == STRLEN:
        _reply_line(space, cursor, _COLON, key[LENGTH] if is_there else 0)
    elif action == TYPE:
        if is_there:
            _reply(space, cursor, _STRING)
        else:
            _reply(space, cursor, _NONE)
    elif action == TTL:
        _reply_line(space, cursor, _COLON, _time_left(key, command[PARAMETER], now) if is_there else -2)
    else:
        length = key[LENGTH] if is_there else 0
        start, stop = _range_of(command[NUMBER], command[SECOND], length)
        _reply_bytes(space, cursor, key[SOURCE], pool, data, key[AT] + start, stop - start)
    return IS_DONE


@njit
def _range_of(start, end, length):
    """Return the bytes of a value, from and up to, that the offsets of GETRANGE name."""
    if start < 0 and end < 0 and start > end:
        return 0, 0
    start = max(start + length, 0) if start < 0 else start
    end = min(max(end + length, 0) if end < 0 else end, length - 1)
    return (start, end + 1) if start <= end else (0, 0)


@njit
def _time_left(key, unit, now):
    """Return what TTL (a unit above 0) or EXPIRETIME (below) say of a key: a time in units, or -1 for no expiry."""
    if not key[EXPIRY]:
        return -1
    time = max(key[EXPIRY] - now, 0) if unit > 0 else key[EXPIRY]
    return (time + 500) // 1000 if abs(unit) == 1000 else time


@njit
def _read_many(command, pool, data, numbers, state, space, cursor, protocol):
    """Carry out EXISTS or MGET."""
    first, stop = command[KEY], command[KEY] + command[KEYS]
    count, size = 0, 0
    for i in range(first, stop):
        key = state[numbers[i]]
        if key[AT] >= 0:
            if key[FLAGS] and command[ACTION] == MGET:
                return LEAVES
            size += key[LENGTH]
            count += 1
        size += LINE_BYTES
    if command[ACTION] == MGET and not _has_room(space, cursor, size, 0):
        return IS_FULL
    for i in range(first, stop):
        _look(state[numbers[i]], cursor, True)
    if command[ACTION] == EXISTS:
        _reply_line(space, cursor, _COLON, count)
        return IS_DONE
    _reply_line(space, cursor, _STAR, stop - first)
    for i in range(first, stop):
        _reply_value(space, cursor, pool, data, state[numbers[i]], protocol)
    return IS_DONE


@njit
def _store(
    command, pool, data, bounds, numbers, state, space, cursor, now, longest, protocol, keys, places, expiries, kinds
):
    """Carry out SET, SETEX, SETNX or GETSET."""
    action, options, number = command[ACTION], command[OPTIONS], command[KEY]
    key = state[numbers[number]]
    value = command[ARGUMENT] + (3 if action == SETEX else 2)
    length, expiry = bounds[value, 1] - bounds[value, 0], _expiry_of(command, now)
    is_there, returns_old = key[AT] >= 0, action == GETSET or options & GET_OLD != 0
    if length > longest or (options & EXPIRES and expiry <= now) or (returns_old and is_there and key[FLAGS]):
        return LEAVES
    if not _has_room(space, cursor, key[LENGTH] if returns_old else 0, length):
        return IS_FULL
    is_refused = False
    if returns_old or action == SETNX or options & (NX | XX | KEEPTTL):
        _look(key, cursor, action == GETSET)
        is_refused = is_there if action == SETNX or options & NX else not is_there and options & XX != 0
    if returns_old:
        _reply_value(space, cursor, pool, data, key, protocol)
    elif action == SETNX:
        _reply_line(space, cursor, _COLON, 0 if is_refused else 1)
    elif is_refused:
        _reply_null(space, cursor, protocol)
    else:
        _reply(space, cursor, _OK)
    if not is_refused:
        if options & KEEPTTL and is_there:
            expiry = key[EXPIRY]
        _write_argument(key, number, bounds, value, expiry, cursor, keys, places, expiries, kinds)
    return IS_DONE


@njit
def _store_many(command, bounds, numbers, state, space, cursor, longest, keys, places, expiries, kinds):
    """Carry out MSET or MSETNX."""
    first, count = command[KEY], command[KEYS]
    total, is_refused = 0, False
    for i in range(count):
        value = command[ARGUMENT] + 2 + 2 * i
        length = bounds[value, 1] - bounds[value, 0]
        if length > longest:
            return LEAVES
        total += length
    if not _has_room(space, cursor, 0, total):
        return IS_FULL
    if command[ACTION] == MSETNX:
        for i in range(first, first + count):
            is_refused |= _look(state[numbers[i]], cursor, False)
        _reply_line(space, cursor, _COLON, 0 if is_refused else 1)
    else:
        _reply(space, cursor, _OK)
    if not is_refused:
        for i in range(count):
            value, key = command[ARGUMENT] + 2 + 2 * i, state[numbers[first + i]]
            _write_argument(key, first + i, bounds, value, 0, cursor, keys, places, expiries, kinds)
    return IS_DONE


@njit
def _delete_many(command, numbers, state, space, cursor, keys, places, expiries, kinds):
    """Carry out DEL."""
    count = 0
    for i in range(command[KEY], command[KEY] + command[KEYS]):
        key = state[numbers[i]]
        if _look(key, cursor, False):
            _delete(key, i, cursor, keys, places, expiries, kinds)
            count += 1
    _reply_line(space, cursor, _COLON, count)
    return IS_DONE


@njit
def _take(command, pool, data, numbers, state, space, cursor, now, protocol, keys, places, expiries, kinds):
    """Carry out GETDEL or GETEX."""
    number, options, expiry = command[KEY], command[OPTIONS], _expiry_of(command, now)
    key = state[numbers[number]]
    is_there = key[AT] >= 0
    if (is_there and key[FLAGS]) or (options & EXPIRES and expiry <= now):
        return LEAVES
    if not _has_room(space, cursor, key[LENGTH], key[LENGTH]):
        return IS_FULL
    _look(key, cursor, True)
    _reply_value(space, cursor, pool, data, key, protocol)
    if is_there and command[ACTION] == GETDEL:
        _delete(key, number, cursor, keys, places, expiries, kinds)
    elif is_there and (options & EXPIRES or (options & UNEXPIRE and key[EXPIRY])):
        _write(
            key, number, key[SOURCE], key[AT], key[LENGTH], expiry, 0, cursor, keys, places, expiries, kinds
        )  # fmt: skip
    return IS_DONE


@njit
def _is_allowed(options, at, expiry):
    """Return whether the options of EXPIRE allow to move an expiry (0: none, later than any other) to `at`."""
    if (options & NX and expiry) or (options & XX and not expiry):
        return False
    if options & GT and (not expiry or at <= expiry):
        return False
    return not (options & LT and expiry and at >= expiry)


@njit
def _expire(command, numbers, state, space, cursor, now, keys, places, expiries, kinds):
    """Carry out EXPIRE or PERSIST."""
    number, is_persist = command[KEY], command[ACTION] == PERSIST
    key = state[numbers[number]]
    if key[AT] >= 0 and key[FLAGS]:
        return LEAVES
    if not _has_room(space, cursor, 0, key[LENGTH]):
        return IS_FULL
    at = 0 if is_persist else command[NUMBER] + (now if command[PARAMETER] > 0 else 0)
    is_done = _look(key, cursor, False)
    is_done = is_done and (key[EXPIRY] != 0 if is_persist else _is_allowed(command[OPTIONS], at, key[EXPIRY]))
    if is_done and not is_persist and at <= now:
        _delete(key, number, cursor, keys, places, expiries, kinds)
    elif is_done:
        _write(key, number, key[SOURCE], key[AT], key[LENGTH], at, 0, cursor, keys, places, expiries, kinds)
    _reply_line(space, cursor, _COLON, 1 if is_done else 0)
    return IS_DONE


@njit
def _change(
    command, pool, data, bounds, numbers, state, space, cursor, longest, keys, places, expiries, kinds
):  # fmt: skip
    """Carry out APPEND, SETRANGE or ADD, which make a new value of the present one."""
    action, number = command[ACTION], command[KEY]
    key = state[numbers[number]]
    is_there = key[AT] >= 0
    length, expiry = (key[LENGTH], key[EXPIRY]) if is_there else (0, 0)
    if is_there and key[FLAGS]:
        return LEAVES
    argument = command[ARGUMENT] + (3 if action == SETRANGE else 2)
    start = length if action == APPEND else command[NUMBER]
    part = 0 if action == ADD else bounds[argument, 1] - bounds[argument, 0]
    changed = NUMBER_BYTES if action == ADD else max(length, start + part)
    if changed > longest:
        return LEAVES
    if not _has_room(space, cursor, 0, changed):
        return IS_FULL
    at, result = cursor[VALUES], changed
    if action == ADD:
        result = command[NUMBER]
        if is_there:
            value, is_integer = _value_as_integer(key[SOURCE], pool, data, space, key[AT], length)
            if not is_integer:
                return LEAVES
            result += value
        changed = _print(space, at, result) - at
    else:
        _copy_value(space, at, key[SOURCE], pool, data, key[AT], length)
        for i in range(length, start):
            space[at + i] = 0
        _copy(space, at + start, data, bounds[argument, 0], part)
    _look(key, cursor, False)
    cursor[VALUES] += changed
    _write(key, number, SPACE, at, changed, expiry, 0, cursor, keys, places, expiries, kinds)
    _reply_line(space, cursor, _COLON, result)
    return IS_DONE


@njit
def _carry_out(
    command, pool, data, bounds, numbers, state, space, cursor, now, longest, protocol, keys, places, expiries, kinds
):
    """Carry out one command; return what became of it."""
    action = command[ACTION]
    if not _has_room(space, cursor, 0, 0):
        return IS_FULL
    if action == SET or action == SETEX or action == SETNX or action == GETSET:
        return _store(
            command, pool, data, bounds, numbers, state, space, cursor, now, longest, protocol, keys, places, expiries,
            kinds,
        )  # fmt: skip
    if action == MGET or action == EXISTS:
        return _read_many(command, pool, data, numbers, state, space, cursor, protocol)
    if action == MSET or action == MSETNX:
        return _store_many(command, bounds, numbers, state, space, cursor, longest, keys, places, expiries, kinds)
    if action == DELETE:
        return _delete_many(command, numbers, state, space, cursor, keys, places, expiries, kinds)
    if action == GETDEL or action == GETEX:
        return _take(
            command, pool, data, numbers, state, space, cursor, now, protocol, keys, places, expiries, kinds
        )  # fmt: skip
    if action == EXPIRE or action == PERSIST:
        return _expire(command, numbers, state, space, cursor, now, keys, places, expiries, kinds)
    if action == APPEND or action == SETRANGE or action == ADD:
        return _change(
            command, pool, data, bounds, numbers, state, space, cursor, longest, keys, places, expiries, kinds
        )  # fmt: skip
    return _read(command, pool, data, bounds, numbers, state, space, cursor, now, protocol)


@njit
def _gather(pool, data, space, cursor, places, kinds):
    """Copy the values of records that lie elsewhere to `space`, and set their places there."""
    at = cursor[VALUES]
    for i in range(cursor[RECORDS]):
        source, length = kinds[i] >> _SOURCE_SHIFT, places[i, 1] - places[i, 0]
        kinds[i] &= (1 << _SOURCE_SHIFT) - 1
        if source != SPACE:
            _copy_value(space, at, source, pool, data, places[i, 0], length)
            places[i, 0], places[i, 1] = at, at + length
            at += length


@kernel(
    _BYTES, _BYTES, _ROWS, _ROWS, _INTS, _ROWS, _ROWS, _ROWS, _SPACE, _INTS, types.int64, types.int64, _INTS, _ROWS,
    _INTS, _INTS, _INTS, size_argument=3, hold_gil_below=FEW_ELEMENTS,
)  # fmt: skip
def carry_out_wave(
    pool, data, bounds, commands, numbers, rows, state, owners, space, cursor, now, longest, keys, places, expiries,
    kinds, calls,
):  # fmt: skip
    """Carry out the commands of a wave, in their order; return how many records it writes.

    data, bounds: what was received, and where its arguments are. numbers: of the keys of the commands, in `rows`, which
    say what was found of each. state: receives what they are at the end. owners, cursor: see above.
    longest: bytes of a value that may be written.
    space: receives the replies from its beginning on, and values from its middle on.
    keys, places, expiries, kinds: receive the records: the place of the key in the wave; where the value is in `space`.
    calls: receives how often each command of the table was carried out.
    """
    cursor[:] = 0
    calls[:] = 0
    cursor[VALUES] = len(space) // 2
    for i in range(len(rows)):
        for column in range(4):  # up to the flags these are the columns of a row
            state[i, column] = rows[i, column]
        state[i, SOURCE], state[i, CHANGED] = POOL, 0
    for i in range(len(commands)):
        command = commands[i]
        owner = owners[command[OWNER]]
        if owner[LEFT] or (owner[DONE] and owner[BYTES] >= owner[ROOM]):
            owner[ROOM] = 0  # no further command of it
            continue
        before = cursor[REPLIES]
        cursor[IS_DEPENDENT] = 0
        status = _carry_out(
            command, pool, data, bounds, numbers, state, space, cursor, now, longest, owner[PROTOCOL], keys, places,
            expiries, kinds,
        )  # fmt: skip
        if status == IS_FULL and before > 0:
            break
        if status != IS_DONE:
            owner[LEFT] = 1
            continue
        owner[DONE] += 1
        owner[BYTES] += cursor[REPLIES] - before
        owner[DEPENDS] |= cursor[IS_DEPENDENT]
        owner[LAST] = command[COMMAND]
        calls[command[COMMAND]] += 1
        cursor[CARRIED_OUT] += 1
    _gather(pool, data, space, cursor, places, kinds)
    return cursor[RECORDS]
