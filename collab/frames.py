"""Messages as WebSocket frames, encoded once for all who share an encoding.

Reference: RFC 6455, section 5, and RFC 7692 for those that are compressed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import ClassVar, Protocol
from weakref import WeakValueDictionary

from .dialects import native, yjs
from .dialects.hocuspocus import Address
from .dialects.native import Numbered
from .messages import Message, Piece, Stateless, Synced, SyncStep2

COMPRESS_SIZE = 1024
"""Bytes of a message from which on compressing is worth while."""

BEAT = b"\x89\x00"
"""A ping."""

CUSTOM = "__YPS:"
"""What stands in front of an application's own messages in y-partyserver's texts."""


def frame(payload: bytes, first: int = 0x82) -> bytes:
    """The unmasked frame of a payload; its first byte says what it is.

    (RFC 6455, section 5.2; the bit for compressed ones is RFC 7692's, section 6.)
    """
    return _head(len(payload), first) + payload


def _head(size: int, first: int) -> bytes:
    if size < 126:
        return b"%c%c" % (first, size)
    if size < 65536:
        return b"%c\x7e%b" % (first, size.to_bytes(2, "big"))
    return b"%c\x7f%b" % (first, size.to_bytes(8, "big"))


class Speaker(Protocol):
    """A dialect with something in front of each message."""

    @property
    def prefix(self) -> bytes:
        """What stands in front."""

    def encode(self, message: Message) -> bytes:
        """Spell a message, with that in front."""


class Frames:
    """Messages of a dialect as WebSocket frames.

    With ``deflate`` large states are compressed, each alone: a compression context per
    connection would cost 30 KiB, and compress the same bytes again for each.
    """

    shared: ClassVar[bool] = True

    def __init__(
        self, deflate: bool, spell: Callable[[Message], bytes] = yjs.encode
    ) -> None:
        self.deflate = deflate
        self.spell = spell
        self.base: Frames = self

    def encode(self, message: Message) -> bytes:
        """Encode one message as one frame."""
        return frame(self.spell(message))

    def encode_state(self, message: Message) -> bytes:
        """Encode one message as one frame, compressed if that was negotiated."""
        payload = self.spell(message)
        if not self.deflate or len(payload) < COMPRESS_SIZE:
            return frame(payload)
        deflate = zlib.compressobj(wbits=-15)
        compressed = deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH)
        # "Remove 4 octets (that are 0x00 0x00 0xff 0xff) from the tail end."
        # (RFC 7692, section 7.2.1)
        return frame(compressed[:-4], 0xC2)

    def seal(self, state: bytes) -> bytes:
        """Nothing is to be added to what :meth:`encode_state` returned."""
        return state

    join = staticmethod(b"".join)


class TextFrames(Frames):
    """Those of y-partyserver, which has an application's own messages as texts."""

    def __init__(self, base: Frames) -> None:
        super().__init__(base.deflate)
        self.base = base

    def encode(self, message: Message) -> bytes:
        """Encode one message as one frame."""
        if isinstance(message, Stateless):
            return frame(CUSTOM.encode() + message.payload.encode(), 0x81)
        return super().encode(message)


class AddressedFrames:
    """Messages with an address, or a channel, as WebSocket frames.

    It stands in front of what others are sent without one, so that a large state is
    encoded, and compressed, once for all.
    """

    def __init__(self, speaker: Speaker, base: Frames, shared: bool) -> None:
        self.speaker = speaker
        self.base = base
        self.shared = shared

    def encode(self, message: Message) -> bytes:
        """Encode one message as one frame."""
        return frame(self.speaker.encode(message))

    def encode_state(self, message: Message) -> bytes:
        """Encode one message as one frame, compressed if that was negotiated."""
        return self.seal(self.base.encode_state(message))

    def seal(self, state: bytes) -> bytes:
        """Put the prefix into a frame of :attr:`base`."""
        prefix = self.speaker.prefix
        payload = memoryview(state)[{126: 4, 127: 10}.get(state[1], 2) :]
        if state[0] == 0xC2:
            # A block that is stored as it is, in front of those that are compressed.
            # (RFC 1951, section 3.2.4)
            size = len(prefix)
            prefix = b"\x00%b%b%b" % (
                size.to_bytes(2, "little"),
                (size ^ 0xFFFF).to_bytes(2, "little"),
                prefix,
            )
        head = _head(len(prefix) + len(payload), state[0])
        return b"".join((head, prefix, payload))

    join = staticmethod(b"".join)


class NumberedFrames(AddressedFrames):
    """Messages with a channel as WebSocket frames."""

    def encode_state(self, message: Message) -> bytes:
        """Encode one message, compressed if that was negotiated.

        What closes a gap is two messages here, and each has a frame: what is compressed
        can't have a channel in its middle.
        """
        if not isinstance(message, SyncStep2):
            return super().encode_state(message)
        piece = super().encode_state(Piece(message.update))
        return piece + self.encode(Synced(message.position))


class FrameEncodings:
    """How messages look as frames, in each dialect."""

    def __init__(self, deflate: bool) -> None:
        self.yjs = Frames(deflate)
        self.text = TextFrames(self.yjs)
        self.native = Frames(deflate, native.encode)
        self._addressed: WeakValueDictionary[bytes, AddressedFrames]
        self._addressed = WeakValueDictionary()
        self._numbered: WeakValueDictionary[int, NumberedFrames]
        self._numbered = WeakValueDictionary()

    def addressed(self, address: bytes) -> AddressedFrames:
        """As Hocuspocus has them: the same encoding for all with the same address."""
        encoding = self._addressed.get(address)
        if encoding is None:
            speaker = Address.of(address)
            encoding = AddressedFrames(speaker, self.yjs, speaker.shared)
            self._addressed[address] = encoding
        return encoding

    def numbered(self, channel: int) -> NumberedFrames:
        """As our own clients have them: the same encoding for all on a channel."""
        encoding = self._numbered.get(channel)
        if encoding is None:
            encoding = NumberedFrames(Numbered.of(channel), self.native, shared=True)
            self._numbered[channel] = encoding
        return encoding


PLAIN = FrameEncodings(deflate=False)
DEFLATE = FrameEncodings(deflate=True)


def follow(left: int, head: bytes, data: bytes) -> tuple[int, bytes]:
    """Follow where frames end, so that it is known when one is between two.

    Before and after ``data`` so many bytes are left of a frame, or there is the
    beginning of a header. (RFC 6455, section 5.2)
    """
    at = 0
    while True:
        if left:
            step = min(left, len(data) - at)
            left -= step
            at += step
        if at == len(data):
            return left, head
        start = head + data[at : at + 14 - len(head)]
        size = 2
        if len(start) > 1:
            size += {126: 2, 127: 8}.get(start[1] & 127, 0) + (start[1] >> 7) * 4
        if len(start) < size:
            return left, start
        at += size - len(head)
        head = b""
        left = start[1] & 127
        if left > 125:
            left = int.from_bytes(start[2 : 4 if left == 126 else 10], "big")
