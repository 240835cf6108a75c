"""Messages as WebSocket frames, encoded once for all who share an encoding.

Reference: RFC 6455, section 5, and RFC 7692 for those that are compressed.
"""

from __future__ import annotations

import zlib
from types import ModuleType

from .dialects import yjs
from .messages import Message

COMPRESS_SIZE = 1024
"""Bytes of a message from which on compressing is worth while."""

BEAT = b"\x89\x00"
"""A ping."""


def frame(payload: bytes, compressed: bool = False) -> bytes:
    """The unmasked binary frame of a payload.

    (RFC 6455, section 5.2; the bit for compressed ones is RFC 7692's, section 6.)
    """
    size = len(payload)
    first = b"\xc2" if compressed else b"\x82"
    if size < 126:
        return b"%c%c%b" % (first, size, payload)
    if size < 65536:
        return b"%c\x7e%b%b" % (first, size.to_bytes(2, "big"), payload)
    return b"%c\x7f%b%b" % (first, size.to_bytes(8, "big"), payload)


class Frames:
    """Messages as WebSocket frames.

    With ``deflate`` large states are compressed, each alone: a compression context per
    connection would cost 30 KiB, and compress the same bytes again for each.
    """

    def __init__(self, dialect: ModuleType, deflate: bool) -> None:
        self.dialect = dialect
        self.deflate = deflate

    def encode(self, message: Message) -> bytes:
        """Encode one message as one frame."""
        return frame(self.dialect.encode(message))

    def encode_state(self, message: Message) -> bytes:
        """Encode one message as one frame, compressed if that was negotiated."""
        payload: bytes = self.dialect.encode(message)
        if not self.deflate or len(payload) < COMPRESS_SIZE:
            return frame(payload)
        deflate = zlib.compressobj(wbits=-15)
        compressed = deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH)
        # "Remove 4 octets (that are 0x00 0x00 0xff 0xff) from the tail end."
        # (RFC 7692, section 7.2.1)
        return frame(compressed[:-4], compressed=True)

    join = staticmethod(b"".join)


PLAIN = Frames(yjs, deflate=False)
DEFLATE = Frames(yjs, deflate=True)
ALIVE = BEAT + frame(yjs.KEEPALIVE)
