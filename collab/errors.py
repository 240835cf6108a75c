"""Everything that can go wrong with what comes from outside, in one tree.

Each class knows the WebSocket close code and the HTTP status that answer it::

    CollabError
    ├── ProtocolError               4400 / 400
    │   ├── FrameTooBig             1009 / 413
    │   └── BadName                 4400 / 400
    ├── UpdateRejected              4422 / 422
    ├── Forbidden                   4403 / 403
    ├── QuotaExceeded               4413 / 413
    ├── Unavailable                 4503 / 503
    ├── DocumentBroken              1011 / 500
    └── StoreError                  4503 / 503
        ├── DatabaseUnreachable
        ├── DatabaseTooNew
        └── RowDamaged

y-websocket 3.1 gives up for good on 4400 to 4499 and retries every other code, so the
range is the retry policy: below 4500, sending the same again cannot succeed.
"""

from __future__ import annotations


class CollabError(Exception):
    """Base class of all errors of this package."""

    close_code = 1011
    http_status = 500
    reason = "internal error"
    """What the peer is told: from this fixed list, never the text of an exception."""


class ProtocolError(CollabError):
    """Raised when bytes are not a message of the dialect they were sent in."""

    close_code = 4400
    http_status = 400
    reason = "malformed message"


class FrameTooBig(ProtocolError):
    """Raised when a frame is longer than ``Limits.frame_size``."""

    close_code = 1009
    http_status = 413
    reason = "message too big"

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return f"frame of {self.size} bytes exceeds the limit of {self.limit} bytes"


class BadName(ProtocolError):
    """Raised when a document name is empty, too long, or holds control characters."""

    reason = "bad document name"


class UpdateRejected(CollabError):
    """Raised by the gate for an update that no honest client can have made.

    ``reason`` is one of a fixed list of kebab-case words, such as ``invalid-json``.
    """

    close_code = 4422
    http_status = 422

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = f"update rejected: {reason}"
        self.kind = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


class Forbidden(CollabError):
    """Raised when a session may not do what it asked for."""

    close_code = 4403
    http_status = 403
    reason = "forbidden"


class QuotaExceeded(CollabError):
    """Raised when a room or a session would hold more than its limit."""

    close_code = 4413
    http_status = 413

    def __init__(self, what: str, limit: int) -> None:
        self.reason = f"too many {what}"
        self.limit = limit

    def __str__(self) -> str:
        return f"{self.reason}: the limit is {self.limit}"


class Unavailable(CollabError):
    """Raised when the server cannot serve a document now, but may soon."""

    close_code = 4503
    http_status = 503
    reason = "try again later"


class DocumentBroken(CollabError):
    """Raised when pycrdt panicked: the document must be rebuilt from its log."""

    reason = "document is being rebuilt"


class StoreError(Unavailable):
    """Base class of the errors of the log's database."""


class DatabaseUnreachable(StoreError):
    """Raised when the database cannot be opened."""


class DatabaseTooNew(StoreError):
    """Raised when the database was written by a newer version of this package."""


class RowDamaged(StoreError):
    """Raised when the bytes of a row do not match their CRC-32."""
