"""What clients may use, and how documents may be named."""

from __future__ import annotations

from dataclasses import dataclass, fields
from unicodedata import category

from .errors import BadName

MAX_NAME = 255
"""Bytes of a document name."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may use. Sizes are in bytes, times in seconds; all are above 0."""

    frame_size: int = 16 * 1024 * 1024
    """Of one message; who sends a larger one is closed with 1009. A client that was
    offline sends all it did in one."""

    slow_size: int = 256 * 1024
    """Waiting in a transport, above which a session is behind: it is sent nothing more
    until that has drained, and then one diff."""

    slow_time: float = 15.0
    """Without progress, after which a session that is behind is cut off."""

    heartbeat: int = 25
    """Between two signs of life. Proxies cut what is silent for 30 to 60 s, and
    y-websocket reconnects after 30 s without a message."""

    unsaved_size: int = 64 * 1024 * 1024
    """Of all edits that the log doesn't have yet, above which nothing more is read."""

    owed_size: int = 1024 * 1024
    """Of acknowledgements for a session that is behind, above which it is closed with
    4503: it may come back."""

    documents: int = 1000
    """Open on one connection, by a client that can have several; more are denied."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0 or (field.name == "heartbeat" and value % 1):
                kind = "a whole number" if field.name == "heartbeat" else "a number"
                raise ValueError(f"{field.name} is {kind} above 0, not {value!r}")


def is_plain(text: str) -> bool:
    """Whether a text holds no control characters."""
    return not any(
        category(char) in ("Cc", "Cs", "Zl", "Zp")
        or char in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
        for char in text
    )


def check_name(name: str) -> str:
    """Return a document name that may be used.

    Raises:
        BadName: If it is empty, longer than 255 bytes, holds control characters
            (also those that turn the direction of writing), or ``.`` or ``..`` stand
            between slashes.
    """
    if not name:
        raise BadName("document name is empty")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise BadName("document name is not Unicode") from None
    if size > MAX_NAME:
        raise BadName(f"document name of {size} bytes; the limit is {MAX_NAME}")
    if not is_plain(name):
        raise BadName("document name holds control characters")
    if any(part in (".", "..") for part in name.split("/")):
        raise BadName("document name holds a relative path")
    return name
