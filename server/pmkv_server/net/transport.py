"""Many sockets a call: two compiled loops that receive from all that have something, and send all replies of a tick.
A third one receives a long command, without the interpreter.

A transport does the rest: an end or an error is its to receive, and what does not leave at once is its to send.
Assumes Linux, and that a socket stays open while it is watched.
"""

from __future__ import annotations

import platform
import select
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit, types

from pmkv.runtime.jit import kernel

PORTION = 64 << 10  # bytes from one socket in one call
ROOM = 1 << 20  # bytes from all; what does not fit waits in the kernel for the next call
EVENTS = 1024  # sockets in one call, likewise
FEW = 16  # sockets; five microseconds each
STEP = 256 << 10  # bytes of one call: where the system is not preemptible, nobody has the core before its end

# struct epoll_event, packed on x86-64 alone, in units of 32 bits: its length, and where the file's number is
_EVENT, _FILE = (3, 1) if platform.machine() == "x86_64" else (4, 2)
_FLAGS = 0x40 | 0x4000  # MSG_DONTWAIT, MSG_NOSIGNAL

_BYTES, _READ_ONLY = types.uint8[::1], types.Array(types.uint8, 1, "C", readonly=True)
_INTS, _INT32S = types.int64[::1], types.int32[::1]

_POLLIN, _CLOCK_MONOTONIC = 1, 1
PATIENCE = 2  # milliseconds in which more has to come of a long command, or the loop waits for it
SLOW = 4  # nanoseconds a byte (256 MB/s): who sends at a lower rate is not waited for, either, but for PATIENCE

_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))
_poll = types.ExternalFunction("poll", types.int32(types.intp, types.uintp, types.int32))
_epoll_wait = types.ExternalFunction("epoll_wait", types.int32(types.int32, types.intp, types.int32, types.int32))
_recv = types.ExternalFunction("recv", types.intp(types.int32, types.intp, types.uintp, types.int32))
_send = types.ExternalFunction("send", types.intp(types.int32, types.intp, types.uintp, types.int32))


@kernel(types.int64, _INT32S, _BYTES, _INTS, _INTS, hold_gil=True)
def receive_all(epoll, events, buffer, files, sizes):
    """Receive from the sockets that are ready, one behind the other into `buffer`; returns how many they are.

    sizes: bytes of each, 0 where there is an end or an error
    """
    ready = _epoll_wait(epoll, events.ctypes.data, len(files), 0)
    end = 0
    for i in range(ready):
        if end + PORTION > len(buffer):
            return i
        files[i] = events[i * _EVENT + _FILE]
        sizes[i] = max(0, _recv(files[i], buffer.ctypes.data + end, PORTION, _FLAGS))
        end += sizes[i]
    return max(0, ready)


@kernel(_INTS, _READ_ONLY, _INTS, _INTS, size_argument=0, hold_gil_below=FEW)
def send_all(files, data, sizes, sent):
    """Send each file, unless it is -1, its piece of `data`, where they lie one behind the other; sent[i]: bytes."""
    start = 0
    for i in range(len(files)):
        sent[i] = 0
        if files[i] >= 0:
            sent[i] = max(0, _send(files[i], data.ctypes.data + start, sizes[i], _FLAGS))
        start += sizes[i]


@njit(inline="always")
def nanoseconds(clock):
    _clock_gettime(_CLOCK_MONOTONIC, clock.ctypes.data)
    return clock[0] * 1_000_000_000 + clock[1]


@kernel(types.int64, _BYTES, _INT32S, _INTS)
def receive_long(file, room, poll, clock):
    """Fill the room from a socket; returns how many bytes came: fewer if there is an end or an error, or if they come
    slowly.

    poll, clock: room for a struct pollfd and a struct timespec
    """
    filled, begun = 0, nanoseconds(clock)
    while filled < len(room):
        size = _recv(file, room.ctypes.data + filled, min(len(room) - filled, STEP), _FLAGS)
        if size > 0:
            filled += size
            continue
        if size == 0 or nanoseconds(clock) - begun > PATIENCE * 1_000_000 + SLOW * filled:
            break
        poll[0], poll[1] = file, _POLLIN
        if _poll(poll.ctypes.data, 1, PATIENCE) <= 0 or poll[1] >> 16 != _POLLIN:
            break
    return filled


class Sockets:
    """Who wants to know what arrives on which socket. `receive` is due when `fileno` is readable."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._owners: dict[int, Any] = {}
        self._events = np.empty(EVENTS * _EVENT, np.int32)
        self._buffer = np.empty(ROOM, np.uint8)
        self._files, self._sizes = np.empty(EVENTS, np.int64), np.empty(EVENTS, np.int64)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def watch(self, file: int, owner: Any) -> None:
        self._owners[file] = owner
        self._epoll.register(file, select.EPOLLIN)

    def forget(self, file: int) -> None:
        """Watch no longer, if it was watched."""
        if self._owners.pop(file, None) is not None:
            self._epoll.unregister(file)

    def receive(self) -> tuple[list[Any], list[int], bytes]:
        """Owners, how many bytes came for each (0: an end or an error), and the bytes."""
        count = receive_all(self._epoll.fileno(), self._events, self._buffer, self._files, self._sizes)
        sizes, owners = self._sizes[:count].tolist(), self._owners
        return [owners[file] for file in self._files[:count].tolist()], sizes, self._buffer[: sum(sizes)].tobytes()

    def send(self, files: Sequence[int], data: np.ndarray, sizes: np.ndarray) -> list[int]:
        """Send each file, unless it is -1, its piece of data, where they lie one behind the other; how much left."""
        sent = np.empty(len(files), np.int64)
        send_all(np.array(files, np.int64), data, sizes, sent)
        return sent.tolist()
