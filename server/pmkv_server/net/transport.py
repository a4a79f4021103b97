"""Receive from many sockets in one call, and send to many in another: two compiled loops.

Each connection's transport does the rest: it receives ends and errors, and sends what a socket does not take at once.
Requires Linux. A socket must stay open while it is watched.
"""

from __future__ import annotations

import platform
import select
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import types

from pmkv.runtime.jit import kernel

SOCKET_BYTES = 64 << 10  # received from one socket in one call
BUFFER_BYTES = 1 << 20  # received from all sockets in one call; the rest waits in the kernel for the next
EVENTS_PER_CALL = 1024  # sockets; further ones wait for the next call
GIL_HELD_BELOW = 16  # sockets to send to; each takes five microseconds

# struct epoll_event in units of 32 bits, packed on x86-64 alone: its length, and the index of the file descriptor
_EVENT_LENGTH, _EVENT_FILE = (3, 1) if platform.machine() == "x86_64" else (4, 2)
_FLAGS = 0x40 | 0x4000  # MSG_DONTWAIT, MSG_NOSIGNAL

_BYTES, _READ_ONLY = types.uint8[::1], types.Array(types.uint8, 1, "C", readonly=True)
_INTS, _INT32S = types.int64[::1], types.int32[::1]

_epoll_wait = types.ExternalFunction("epoll_wait", types.int32(types.int32, types.intp, types.int32, types.int32))
_recv = types.ExternalFunction("recv", types.intp(types.int32, types.intp, types.uintp, types.int32))
_send = types.ExternalFunction("send", types.intp(types.int32, types.intp, types.uintp, types.int32))


@kernel(types.int64, _INT32S, _BYTES, _INTS, _INTS, hold_gil=True)
def receive_all(epoll, events, buffer, files, sizes):
    """Receive from the ready sockets, one after the other into `buffer`; return how many they are.

    files: receives their descriptors
    sizes: receives the bytes of each, 0 for an end or an error
    """
    ready = _epoll_wait(epoll, events.ctypes.data, len(files), 0)
    end = 0
    for i in range(ready):
        if end + SOCKET_BYTES > len(buffer):
            return i
        files[i] = events[i * _EVENT_LENGTH + _EVENT_FILE]
        sizes[i] = max(0, _recv(files[i], buffer.ctypes.data + end, SOCKET_BYTES, _FLAGS))
        end += sizes[i]
    return max(0, ready)


@kernel(_INTS, _READ_ONLY, _INTS, _INTS, size_argument=0, hold_gil_below=GIL_HELD_BELOW)
def send_all(files, data, sizes, sent):
    """Send files[i] its sizes[i] bytes of `data`, where the pieces lie one after the other; -1 gets nothing.

    sent: receives how many bytes each socket took
    """
    start = 0
    for i in range(len(files)):
        sent[i] = 0
        if files[i] >= 0:
            sent[i] = max(0, _send(files[i], data.ctypes.data + start, sizes[i], _FLAGS))
        start += sizes[i]


class Sockets:
    """The watched sockets and their owners. Call `receive` when `fileno` is readable."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._owners: dict[int, Any] = {}
        self._events = np.empty(EVENTS_PER_CALL * _EVENT_LENGTH, np.int32)
        self._buffer = np.empty(BUFFER_BYTES, np.uint8)
        self._files, self._sizes = np.empty(EVENTS_PER_CALL, np.int64), np.empty(EVENTS_PER_CALL, np.int64)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def watch(self, file: int, owner: Any) -> None:
        """Receive from a socket from now on, on behalf of `owner`."""
        self._owners[file] = owner
        self._epoll.register(file, select.EPOLLIN)

    def forget(self, file: int) -> None:
        """Stop watching a socket; does nothing if it is not watched."""
        if self._owners.pop(file, None) is not None:
            self._epoll.unregister(file)

    def receive(self) -> tuple[list[Any], list[int], bytes]:
        """Return the owners of ready sockets, the bytes received for each (0: an end or an error), and the data."""
        count = receive_all(self._epoll.fileno(), self._events, self._buffer, self._files, self._sizes)
        sizes, owners = self._sizes[:count].tolist(), self._owners
        return [owners[file] for file in self._files[:count].tolist()], sizes, self._buffer[: sum(sizes)].tobytes()

    def send(self, files: Sequence[int], data: np.ndarray, sizes: np.ndarray) -> list[int]:
        """Send as `send_all` does; return how many bytes each socket took."""
        sent = np.empty(len(files), np.int64)
        send_all(np.array(files, np.int64), data, sizes, sent)
        return sent.tolist()
