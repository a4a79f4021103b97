"""Let compiled loops use a connection's socket past its asyncio transport, for as long as that is safe.

While a socket is *watched*, `Sockets` receives from it and the transport's own reading is paused. The transport takes
over for good as soon as there is an end, an error or a large command to receive. A reply may be sent directly only
while the transport has nothing left to send, since it would overtake that.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pmkv_server.net.connection import Connection
    from pmkv_server.net.transport import Sockets


class DirectTransport:
    """Stands in for an asyncio transport and has those of its methods that a connection calls."""

    def __init__(self, transport: asyncio.Transport, sockets: Sockets, connection: Connection) -> None:
        self._transport = transport
        self._sockets = sockets
        self._connection = connection
        self._fd = connection.session.fd
        self._is_reading = True
        self.is_watched = False  # `Sockets` receives from the socket, the transport does not
        self.direct_fd = -1  # the socket, while what is sent there overtakes nothing
        self.is_closing = transport.is_closing

    def watch(self) -> None:
        """Stop reading by the transport and let `Sockets` receive, unless the connection is about to end."""
        if self._is_reading and not (self._connection.is_half_closed or self.is_closing()):
            self._transport.pause_reading()
            self._sockets.watch(self._fd, self._connection)
            self.is_watched = True

    def unwatch(self) -> None:
        """Give the socket back to the transport for good."""
        if self.is_watched:
            self.is_watched, self.direct_fd = False, -1
            self._sockets.forget(self._fd)
            if self._is_reading and not self.is_closing():
                self._transport.resume_reading()

    def find_direct_fd(self) -> int:
        """Return the socket if the transport has sent everything, else -1.

        Each use of the transport resets `direct_fd`; this sets it again.
        """
        if self.is_watched and not self._transport.get_write_buffer_size():
            self.direct_fd = self._fd
        return self.direct_fd

    # ---- what a connection calls ----

    def pause_reading(self) -> None:
        self._is_reading = False
        if self.is_watched:
            self._sockets.forget(self._fd)
        else:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._is_reading = True
        if self.is_watched:
            self._sockets.watch(self._fd, self._connection)
        else:
            self._transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int) -> None:
        self._transport.set_write_buffer_limits(high=high)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)
        self.unwatch()

    def write(self, data: Any) -> None:
        self.direct_fd = -1
        self._transport.write(data)

    def writelines(self, buffers: list[Any]) -> None:
        self.direct_fd = -1
        self._transport.writelines(buffers)

    def close(self) -> None:
        self._transport.close()
        self.unwatch()

    def abort(self) -> None:
        self._transport.abort()
        self.unwatch()
