"""What clients may use, and how documents may be named."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import ceil, isfinite
from typing import Any, Self
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

    repeats: int = 16
    """Of one document on one connection, by such a client; more are denied. Two editors
    on a page may share a connection, and not a provider."""

    connections_per_address: int = 1000
    """At a time, above which more are answered with 429. An address may be that of a
    whole office. Those of this machine are not counted: it may be a proxy."""

    connections_per_user: int = 100
    """At a time, of a user whose name is known; more are closed with 4529."""

    sessions_per_document: int = 2000
    """At a time; more are closed with 4529. One user, or one address, may have half."""

    update_size: int = 16 * 1024 * 1024
    """Of one update, or of an answer that holds all that was written offline; who sends
    a larger one is closed with 4413."""

    document_size: int = 64 * 1024 * 1024
    """Of a document's state, above which it takes nothing but deletions: who adds to it
    is closed with 4413."""

    parked_size: int = 32 * 1024 * 1024
    """Of a document's updates that wait for others they build upon; who sends more is
    closed with 4413."""

    presence_size: int = 16 * 1024
    """Of one client's presence; who announces more is closed with 4413."""

    presence_rate: float = 32 * 1024
    """Per second, of one client's presence. What is larger than a KiB is shown to
    others as seldom as this takes, and then as it is."""

    message_rate: float = 2000
    """Per second, of one user, or of a connection without one; who is faster than that
    for long is read more slowly..."""

    message_burst: float = 20_000
    """...when so many have come at once."""

    byte_rate: float = 2 * 1024 * 1024
    """Per second, in the same way..."""

    byte_burst: float = 64 * 1024 * 1024
    """...when so many have come at once."""

    overrun_time: float = 300.0
    """Of being read more slowly without a pause, after which one is closed with
    4529."""

    unadmitted_size: int = 1024 * 1024
    """Of what is ignored because it is for what the client may not open, while there is
    nothing that it may; above it is closed with 4413."""

    unadmitted_time: float = 75.0
    """Without a document that it may open, after which a client is closed with 4408;
    looked at once in a heartbeat."""

    authorizations: int = 64
    """Decisions of the application that are waited for at a time; others wait..."""

    authorizations_per_connection: int = 8
    """...and of them, by one client."""

    loads: int = 6
    """Documents that are read from the database at a time; others wait..."""

    loads_per_connection: int = 2
    """...and of them, by one client."""

    handshakes: int = 1000
    """HTTP connections whose first request isn't here yet. When there is one more, the
    oldest is closed."""

    handshake_time: float = 10.0
    """Until a request is here, but for its body, after which the connection is
    closed."""

    head_size: int = 64 * 1024
    """Of the headers of a request, above which the connection is closed."""

    body_size: int = 20 * 1024 * 1024
    """Of what is sent with a request, above which it is answered with 413, and not read
    on."""

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """Read ``NAME=VALUE``, as in ``document_size=128MiB``.

        Raises:
            ValueError: If there is none of that name, or it can't be so much.
        """
        known = {field.name: field.type for field in fields(cls)}
        values: dict[str, Any] = {}
        for text in texts:
            name, separator, value = text.partition("=")
            if not separator:
                raise ValueError(f"{text!r} says no value: write NAME=VALUE")
            if name not in known:
                raise ValueError(f"there is no limit {name!r}")
            try:
                number = _read(value)
            except ValueError:
                raise ValueError(f"{name}: {value!r} is not a number") from None
            if known[name] == "int" and number % 1 == 0:
                number = int(number)
            values[name] = number
        return cls(**values)

    @classmethod
    def explain(cls) -> str:
        """All limits, as :meth:`parse` reads them, with what they are by default."""
        default = cls()
        names = [field.name for field in fields(cls)]
        return "\n".join([f"{name}={_spell(getattr(default, name))}" for name in names])

    @property
    def patience(self) -> int:
        """Heartbeats in ``unadmitted_time``."""
        return max(1, ceil(self.unadmitted_time / self.heartbeat))

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            whole = field.type == "int"
            if not value > 0 or (whole and value % 1):
                kind = "a whole number" if whole else "a number"
                raise ValueError(f"{field.name} is {kind} above 0, not {value!r}")


UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def _read(text: str) -> float:
    """A number, perhaps with a unit: ``128MiB``, ``0.5``."""
    number = text.strip()
    unit = next((unit for unit in UNITS if unit and number.endswith(unit)), "")
    value = float(number.removesuffix(unit)) * UNITS[unit]
    if not isfinite(value):
        raise ValueError(f"{text!r} is not a number")
    return value


def _spell(value: float) -> str:
    for unit in ("GiB", "MiB", "KiB"):
        if value and value % UNITS[unit] == 0:
            return f"{value / UNITS[unit]:g}{unit}"
    return f"{value:.15g}"


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
