"""What the kernel knows of a socket."""

from __future__ import annotations

import asyncio
import sys


def peer_name(transport: asyncio.BaseTransport) -> tuple[str, int | None]:
    """The address that somebody connects from, and the port."""
    peer = transport.get_extra_info("peername")
    if isinstance(peer, tuple):
        return str(peer[0]), int(peer[1])
    return str(peer or "unix socket"), None


if sys.platform == "linux":
    from fcntl import ioctl
    from struct import unpack
    from termios import TIOCOUTQ

    def unsent(transport: asyncio.Transport) -> int:
        """Bytes that the kernel still has to send, or to see acknowledged."""
        socket = transport.get_extra_info("socket")
        try:
            (size,) = unpack("i", ioctl(socket.fileno(), TIOCOUTQ, b"\0\0\0\0"))
        except OSError:
            return 0
        return int(size)

else:

    def unsent(transport: asyncio.Transport) -> int:
        """Nothing is known of it here."""
        return 0
