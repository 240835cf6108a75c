"""What stands beside the state of a snapshot, so that it can be read again."""

from __future__ import annotations

from collections.abc import Sequence

from . import wire
from .errors import ProtocolError

INDEX = 2
"""The version of the encoding of what stands beside a snapshot's state. In version 1
that is a single piece."""


def pieces(state: bytes, index: bytes) -> Sequence[bytes]:
    """The updates, to be applied one after the other, that a snapshot is made of.

    Raises:
        ProtocolError: If the index is not one of ours.
    """
    return read_index(state, index)[1]


def read_index(
    state: bytes, index: bytes
) -> tuple[bytes, Sequence[bytes], Sequence[bytes]]:
    """Read a snapshot: its gate, the pieces of its state, and what was parked.

    Raises:
        ProtocolError: If it is none of ours.
    """
    version, at = wire.read_uint(index, 0)
    if version not in (1, INDEX):
        raise ProtocolError(f"index of version {version}")
    gate, at = wire.read_data(index, at)
    pieces = [state]
    if version > 1:
        pieces.clear()
        start = 0
        count, at = wire.read_uint(index, at)
        for _ in range(count):
            size, at = wire.read_uint(index, at)
            pieces.append(state[start : start + size])
            start += size
        if start != len(state):
            raise ProtocolError(f"{start} bytes of pieces, {len(state)} of state")
    count, at = wire.read_uint(index, at)
    parked = []
    for _ in range(count):
        update, at = wire.read_data(index, at)
        parked.append(update)
    return gate, pieces, parked
