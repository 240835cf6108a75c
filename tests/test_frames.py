"""Messages as frames: the same bytes for all who share an encoding."""

from __future__ import annotations

import gc
import os

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from collab.dialects import native, yjs
from collab.dialects.hocuspocus import Address
from collab.frames import COMPRESS_SIZE, DEFLATE, PLAIN, FrameEncodings, frame
from collab.messages import Message, Piece, Stateless, Synced, SyncStep2, Update

SIZES = [0, 1, 100, 125, 126, 1000, COMPRESS_SIZE, 5000, 65_535, 65_536, 300_000]


def content(encoded: bytes) -> tuple[int, bytes]:
    """The opcode and the payload of a frame, with websockets' idea of deflate."""
    size, start = encoded[1], 2
    assert size < 128
    if size > 125:
        start = {126: 4, 127: 10}[size]
        size = int.from_bytes(encoded[2:start], "big")
    assert len(encoded) == start + size
    first = encoded[0]
    opcode = Opcode(first & 15)
    taken = Frame(opcode, encoded[start:], True, rsv1=bool(first & 64))
    extension = PerMessageDeflate(
        remote_no_context_takeover=True,
        local_no_context_takeover=True,
        remote_max_window_bits=15,
        local_max_window_bits=15,
    )
    return opcode, bytes(extension.decode(taken).data)


def state(size: int, noise: bool) -> bytes:
    return os.urandom(size) if noise else b"abcdefgh" * (size // 8) + b"z" * (size % 8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("noise", [True, False])
@pytest.mark.parametrize("encodings", [PLAIN, DEFLATE], ids=["plain", "deflate"])
@pytest.mark.parametrize("address", [b"d", b"x" * 255, b"d\x00session"])
def test_a_state_is_the_same_with_an_address_in_front(
    encodings: FrameEncodings, address: bytes, size: int, noise: bool
) -> None:
    message = SyncStep2(state(size, noise))
    base = encodings.yjs.encode_state(message)
    addressed = encodings.addressed(address)
    sealed = addressed.seal(base)
    assert sealed == addressed.encode_state(message)
    assert content(base) == (Opcode.BINARY, yjs.encode(message))
    spelled = Address.of(address).encode(message)
    assert content(sealed) == (Opcode.BINARY, spelled)
    assert spelled.endswith(yjs.encode(message))
    if encodings is DEFLATE and not noise and size > COMPRESS_SIZE:
        assert len(sealed) < size / 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("encodings", [PLAIN, DEFLATE], ids=["plain", "deflate"])
def test_what_our_own_clients_lack_is_a_piece_and_then_they_are_synced(
    encodings: FrameEncodings, size: int
) -> None:
    missing = state(size, noise=False)
    encoded = encodings.numbered(7).encode_state(SyncStep2(missing, 300))
    synced = frame(b"\x07" + native.encode(Synced(300)))
    assert encoded.endswith(synced)
    piece = b"\x07" + native.encode(Piece(missing))
    assert content(encoded.removesuffix(synced)) == (Opcode.BINARY, piece)
    if encodings is DEFLATE and size > COMPRESS_SIZE:
        assert len(encoded) < size / 2


@pytest.mark.parametrize("size", SIZES)
def test_a_message_is_one_frame(size: int) -> None:
    message: Message = Update(b"x" * size)
    assert content(PLAIN.yjs.encode(message)) == (Opcode.BINARY, yjs.encode(message))
    spelled = b"\x01d" + yjs.encode(message)
    assert content(DEFLATE.addressed(b"d").encode(message)) == (Opcode.BINARY, spelled)
    assert content(frame(b"hi", 0x81)) == (Opcode.TEXT, b"hi")


def test_an_applications_own_messages_are_texts_for_y_partyserver() -> None:
    said = PLAIN.text.encode(Stateless("grüße"))
    assert content(said) == (Opcode.TEXT, "__YPS:grüße".encode())
    update = Update(b"\x00\x00")
    assert PLAIN.text.encode(update) == PLAIN.yjs.encode(update)
    assert PLAIN.text.base is PLAIN.yjs


def test_an_address_has_one_encoding_as_long_as_somebody_uses_it() -> None:
    encodings = FrameEncodings(deflate=False)
    one = encodings.addressed(b"d")
    assert encodings.addressed(b"d") is one
    assert encodings.addressed(b"e") is not one
    assert one.shared
    assert not encodings.addressed(b"d\x00s").shared
    del one
    gc.collect()
    assert len(encodings._addressed) == 0
