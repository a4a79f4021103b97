"""The kernel that makes commands of one scan the plan of a wave: their keys, numbers and options.

A command with an error in it, or with anything that is rare, is left out: its number in the scan becomes OTHER, so that
its function gives the reply. So a plan has no errors.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from pmkv.runtime.jit import kernel
from pmkv_server.commands.actions import (
    ADD,
    ECHO,
    EXPIRE,
    EXPIRES,
    GET_OLD,
    GETEX,
    GETRANGE,
    GT,
    KEEPTTL,
    LT,
    MSET,
    MSETNX,
    NX,
    PING,
    RELATIVE,
    SET,
    SETEX,
    SETRANGE,
    UNEXPIRE,
    XX,
)  # fmt: skip
from pmkv_server.resp.scan import OTHER

# Columns of a planned command: which connection of the wave, number in the table of commands, action, its parameter,
# first argument, arguments, first key, keys, options, and up to two numbers
OWNER, COMMAND, ACTION, PARAMETER, ARGUMENT, ARGUMENTS, KEY, KEYS, OPTIONS, NUMBER, SECOND = range(11)
PLAN_COLUMNS = 11
FIRST_KEY, LAST_KEY, KEY_STEP, WRITES = 2, 3, 4, 5  # columns of a row of `specs`, after the action and its parameter
MOST_COMMANDS, MOST_KEYS, ONLY_BLIND, MOST_BYTES = range(4)  # of `limits`
KEY_BYTES = 4096  # a command with a longer key is left out
MOST_ARGUMENTS = 4096  # as is one with more arguments
TIME_LIMIT = 1 << 61  # ms; times beyond are left out, as few additions away a number has more than 64 bits
LONGEST_NUMBER = 18  # digits; likewise
LEFT_OUT = -1

_BYTES, _FLAGS = types.Array(types.uint8, 1, "C", readonly=True), types.boolean[::1]
_INTS, _ROWS = types.int64[::1], types.int64[:, ::1]


def _word(text: bytes) -> int:
    return int.from_bytes(text, "little")


_NX, _XX, _GET, _KEEPTTL, _PERSIST = map(_word, (b"nx", b"xx", b"get", b"keepttl", b"persist"))
_EX, _PX, _EXAT, _PXAT, _GT, _LT = map(_word, (b"ex", b"px", b"exat", b"pxat", b"gt", b"lt"))


@njit
def folded(data, start, stop):
    """Return up to eight letters as one number, without regard to case; 0 for a longer word."""
    if stop - start > 8:
        return 0
    word = 0
    for i in range(stop - start):
        word |= np.int64(data[start + i] | 32) << (8 * i)
    return word


@njit
def integer(data, start, stop):
    """Return the integer that these bytes are in its canonical form, and whether they are one and have few digits."""
    first = start + 1 if stop > start and data[start] == 45 else start
    digits = stop - first
    if digits < 1 or digits > LONGEST_NUMBER or (data[first] == 48 and stop - start > 1):
        return 0, False
    value = 0
    for i in range(first, stop):
        if data[i] < 48 or data[i] > 57:
            return 0, False
        value = value * 10 + np.int64(data[i]) - 48
    return -value if first > start else value, True


@njit
def _milliseconds(data, start, stop, factor):
    """Return a time in ms that is given in another unit, and whether it is one that is not too large."""
    value, is_one = integer(data, start, stop)
    return value * factor, is_one and abs(value) <= TIME_LIMIT // factor


@njit
def _option(word, action):
    """Return the option that a word is to a command, LEFT_OUT if it is none. Those that take a time have EXPIRES."""
    if action == EXPIRE:
        if word == _NX:
            return NX
        if word == _XX:
            return XX
        if word == _GT:
            return GT
        return LT if word == _LT else LEFT_OUT
    if word == _EX or word == _PX:
        return EXPIRES | RELATIVE
    if word == _EXAT or word == _PXAT:
        return EXPIRES
    if action == GETEX:
        return UNEXPIRE if word == _PERSIST else LEFT_OUT
    if word == _NX:
        return NX
    if word == _XX:
        return XX
    if word == _GET:
        return GET_OLD
    return KEEPTTL if word == _KEEPTTL else LEFT_OUT


@njit
def _options(data, bounds, at, stop, action):
    """Return the options in the arguments `at` to `stop`, LEFT_OUT for ones that are wrong; and their time in ms."""
    options, time = 0, 0
    while at < stop:
        word = folded(data, bounds[at, 0], bounds[at, 1])
        option = _option(word, action)
        if option == LEFT_OUT or option & options & EXPIRES:
            return LEFT_OUT, 0
        options |= option
        if option & EXPIRES:
            at += 1
            if at >= stop:
                return LEFT_OUT, 0
            factor = 1000 if word == _EX or word == _EXAT else 1
            time, is_time = _milliseconds(data, bounds[at, 0], bounds[at, 1], factor)
            if not is_time or time <= 0:
                return LEFT_OUT, 0
        at += 1
    exclusive = ((options & EXPIRES) != 0) + ((options & KEEPTTL) != 0) + ((options & UNEXPIRE) != 0)
    if exclusive > 1 or (options & NX and options & (XX | GT | LT)) or (options & GT and options & LT):
        return LEFT_OUT, 0
    return options, time


@njit
def _read_arguments(data, bounds, command):
    """Set the options and numbers of a command from its arguments; return whether it belongs in a wave."""
    action, first, count = command[ACTION], command[ARGUMENT], command[ARGUMENTS]
    command[OPTIONS], command[NUMBER], command[SECOND] = 0, 0, 0
    fits = True
    if action == SET:
        command[OPTIONS], command[NUMBER] = _options(data, bounds, first + 3, first + count, action)
    elif action == GETEX:
        command[OPTIONS], command[NUMBER] = _options(data, bounds, first + 2, first + count, action)
    elif action == SETEX:
        time, fits = _milliseconds(data, bounds[first + 2, 0], bounds[first + 2, 1], command[PARAMETER])
        command[OPTIONS], command[NUMBER] = EXPIRES | RELATIVE, time
        fits = fits and time > 0
    elif action == EXPIRE:
        factor = abs(command[PARAMETER])
        command[OPTIONS], _ = _options(data, bounds, first + 3, first + count, action)
        command[NUMBER], fits = _milliseconds(data, bounds[first + 2, 0], bounds[first + 2, 1], factor)
    elif action == ADD:
        command[NUMBER] = command[PARAMETER]
        if count == 3:
            amount, fits = integer(data, bounds[first + 2, 0], bounds[first + 2, 1])
            command[NUMBER] *= amount
    elif action == GETRANGE:
        command[NUMBER], fits = integer(data, bounds[first + 2, 0], bounds[first + 2, 1])
        command[SECOND], fits_too = integer(data, bounds[first + 3, 0], bounds[first + 3, 1])
        fits = fits and fits_too
    elif action == SETRANGE:
        command[NUMBER], fits = integer(data, bounds[first + 2, 0], bounds[first + 2, 1])
        fits = fits and command[NUMBER] >= 0 and bounds[first + 3, 1] > bounds[first + 3, 0]
    elif action == MSET or action == MSETNX:
        fits = count % 2 == 1
    elif action == PING:
        fits = count <= 2
    return fits and command[OPTIONS] != LEFT_OUT


@njit
def _is_blind(action, options):
    """Return whether a command looks nothing up: it has no key, or writes its keys whatever they were."""
    if action == PING or action == ECHO:
        return True
    return action == SETEX or action == MSET or (action == SET and not options & (NX | XX | GET_OLD | KEEPTTL))


@njit
def _place_keys(bounds, command, spec, count, keys, reads):
    """Note the keys of a command from keys[count] on; return their number, LEFT_OUT if one is long, -2 if too many."""
    first, last, step = spec[FIRST_KEY], spec[LAST_KEY], spec[KEY_STEP]
    command[KEY], command[KEYS] = count, 0
    if first == 0:
        return 0
    last = command[ARGUMENTS] + last if last < 0 else last
    if count + (last - first) // step + 1 > len(keys):
        return -2
    is_read = not _is_blind(command[ACTION], command[OPTIONS])
    for i in range(command[ARGUMENT] + first, command[ARGUMENT] + last + 1, step):
        if bounds[i, 1] - bounds[i, 0] > KEY_BYTES:
            return LEFT_OUT
        keys[count, 0], keys[count, 1], reads[count] = bounds[i, 0], bounds[i, 1], is_read
        count += 1
    command[KEYS] = count - command[KEY]
    return command[KEYS]


@kernel(_BYTES, _ROWS, _ROWS, _ROWS, _ROWS, _INTS, _ROWS, _ROWS, _FLAGS, _INTS, hold_gil=True)
def plan_wave(data, bounds, rows, ranges, specs, limits, commands, keys, reads, planned):
    """Plan the commands of some connections up to the first of each that does not belong in a wave.

    bounds, rows: of a scan. ranges: rows of each connection. specs: see `waves.specs_of`
    limits: the most commands, and keys; 1 to plan only what looks nothing up; the most bytes of a command
    commands, keys, reads: receive commands, bounds of their keys, and which of these have to be looked up
    planned: receives the number of commands of each connection

    Return how many commands and keys there are, and whether a command may write.
    """
    count, key, may_write = 0, 0, False
    for owner in range(len(ranges)):
        planned[owner] = 0
        for row in range(ranges[owner, 0], ranges[owner, 1]):
            number = rows[row, 3]
            if number <= OTHER or count >= limits[MOST_COMMANDS]:
                break
            spec, command = specs[number], commands[count]
            command[OWNER], command[COMMAND], command[ACTION], command[PARAMETER] = owner, number, spec[0], spec[1]
            command[ARGUMENT], command[ARGUMENTS] = rows[row, 1], rows[row, 2]
            end = command[ARGUMENT] + command[ARGUMENTS] - 1
            fits = command[ARGUMENTS] <= MOST_ARGUMENTS
            fits = fits and bounds[end, 1] - bounds[command[ARGUMENT], 0] <= limits[MOST_BYTES]
            fits = fits and _read_arguments(data, bounds, command)
            if fits and limits[ONLY_BLIND] and not _is_blind(command[ACTION], command[OPTIONS]):
                break
            placed = _place_keys(bounds, command, spec, key, keys[: limits[MOST_KEYS]], reads) if fits else LEFT_OUT
            if placed == -2 and count > 0:
                break
            if placed < 0:
                rows[row, 3] = OTHER
                break
            key += placed
            count += 1
            planned[owner] += 1
            may_write = may_write or spec[WRITES] != 0
    return count, key, may_write
