"""A client's seat in a room, and how messages look to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .errors import CollabError
from .messages import Message


class Encoding(Protocol):
    """How messages look on one kind of transport, in one dialect.

    Sessions with the same encoding share what is encoded.
    """

    def encode(self, message: Message) -> bytes:
        """Encode one message."""

    def encode_state(self, message: Message) -> bytes:
        """Encode one message that may be large and is worth compressing."""

    def join(self, encoded: Sequence[bytes]) -> Any:
        """Make one write of several encoded messages."""


class Session:
    """A client's seat in a room."""

    __slots__ = (
        "behind",
        "behind_presence",
        "behind_version",
        "dismiss",
        "encoding",
        "introduced",
        "lacking",
        "owed",
        "owed_size",
        "owned",
        "probe",
        "synced",
        "wanted",
        "who",
        "write",
    )

    def __init__(
        self,
        encoding: Encoding,
        write: Callable[[Any], object],
        probe: Callable[[], object],
        dismiss: Callable[[CollabError], object],
        who: str = "",
    ) -> None:
        self.encoding = encoding
        self.write = write
        """Takes what ``encoding.join`` returned."""
        self.probe = probe
        """Asks for a sign of life from the other end."""
        self.dismiss = dismiss
        """Sends it away, and says why."""
        self.who = who
        self.owned: tuple[int, ...] = ()
        self.introduced = False
        self.synced = False
        """Whether it asked for the document, and was sent it."""
        self.lacking = False
        """Whether it sent something that came early, and must be asked for the rest."""
        self.behind: bytes | None = None
        """The state vector where it fell behind."""
        self.behind_presence = 0
        self.behind_version = 0
        self.wanted: bytes | None = None
        """The state vector it asked a diff for while it was behind."""
        self.owed: list[bytes] = []
        self.owed_size = 0

    def send(self, *messages: Message) -> None:
        """Write messages at once."""
        encode = self.encoding.encode
        self.write(self.encoding.join([encode(message) for message in messages]))
