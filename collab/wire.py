"""The integers, byte arrays and strings of lib0, read strictly.

lib0 is the encoding library of Yjs. An unsigned integer takes 7 bits per byte, least
significant first, the high bit says that more follow; a byte array is its length and
its bytes; a string is the byte array of its UTF-8. Integers have at most 53 bits.

pycrdt has an ``Encoder`` and a ``Decoder`` too. They stay off the network path: the
decoder is unbounded and quadratic, the encoder frames non-ASCII strings wrongly.
"""

from __future__ import annotations

from .errors import ProtocolError

MAX_UINT = 2**53 - 1
"""The largest integer that JavaScript holds exactly."""

_SMALL = [bytes((n,)) for n in range(128)]


def uint(number: int) -> bytes:
    """Encode an unsigned integer of at most 53 bits in 1 to 8 bytes."""
    if number < 128:
        return _SMALL[number]
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def data(content: bytes) -> bytes:
    """Encode a byte array: its length, then its bytes."""
    return uint(len(content)) + content


def text(content: str) -> bytes:
    """Encode a string: the byte array of its UTF-8."""
    return data(content.encode())


def read_uint(buffer: bytes, at: int) -> tuple[int, int]:
    """Read an unsigned integer at an offset; return it and the offset behind it.

    Raises:
        ProtocolError: If the buffer ends within it, or it has more than 53 bits.
    """
    try:
        byte = buffer[at]
        at += 1
        if byte < 128:
            return byte, at
        number = byte & 127
        shift = 7
        while True:
            byte = buffer[at]
            at += 1
            number |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
            if shift > 49:
                raise ProtocolError("integer of more than 53 bits")
    except IndexError:
        raise ProtocolError("message ends within an integer") from None
    if number > MAX_UINT:
        raise ProtocolError("integer of more than 53 bits")
    return number, at


def read_data(buffer: bytes, at: int) -> tuple[bytes, int]:
    """Read a byte array at an offset; return it and the offset behind it.

    Raises:
        ProtocolError: If its length is more than the bytes that are present.
    """
    length, at = read_uint(buffer, at)
    end = at + length
    if end > len(buffer):
        raise ProtocolError("length exceeds the message")
    return buffer[at:end], end


def read_text(buffer: bytes, at: int) -> tuple[str, int]:
    """Read a string at an offset; return it and the offset behind it.

    Raises:
        ProtocolError: If its length is more than the bytes present, or not UTF-8.
    """
    content, at = read_data(buffer, at)
    try:
        return content.decode(), at
    except UnicodeDecodeError as exc:
        raise ProtocolError("string is not UTF-8") from exc


def read_state_vector(encoded: bytes) -> dict[int, int]:
    """Parse a state vector: how many clocks of each client are known.

    Raises:
        ProtocolError: If it is malformed, names a client twice, or has more clients
            than bytes to hold them (pycrdt would allocate 128 MiB for five bytes).
    """
    count, at = read_uint(encoded, 0)
    if count > (len(encoded) - at) // 2:
        raise ProtocolError("more clients than bytes")
    clocks: dict[int, int] = {}
    for _ in range(count):
        client, at = read_uint(encoded, at)
        clocks[client], at = read_uint(encoded, at)
    if at != len(encoded):
        raise ProtocolError("bytes after the state vector")
    if len(clocks) != count:
        raise ProtocolError("client named twice")
    return clocks
