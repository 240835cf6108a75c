"""Everything that can go wrong with what comes from outside, in one tree.

Each class knows the WebSocket close code and the HTTP status that answer it::

    CollabError
    ├── ProtocolError               4400 / 400
    │   ├── FrameTooBig             1009 / 413
    │   ├── NotText                 1007 / 400
    │   ├── WrongDialect            4400 / 400
    │   ├── BadRequest              4400 / 400
    │   └── BadName                 4400 / 400
    ├── AccessDenied                4403 / 403
    │   └── OriginDenied            4403 / 403
    ├── NothingOpened               4408 / 408
    ├── UpdateRejected              4422 / 422
    ├── QuotaExceeded               4413 / 413
    │   └── TooMany                 4529 / 429
    ├── Unavailable                 4503 / 503
    ├── DocumentBroken              1011 / 500
    ├── DocumentGone                4404 / 404
    ├── DocumentReplaced            4509 / 409
    ├── RequestTooSlow              4408 / 408
    ├── NotKept                     4404 / 404
    ├── ImportFailed                1011 / 500, but nobody is connected
    ├── SentAway                    what another server said to a client of ours
    └── StoreError                  4503 / 503
        ├── DatabaseUnreachable
        ├── Deadlock
        ├── DatabaseTooNew
        └── DatabaseTooOld

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


class NotText(ProtocolError):
    """Raised when a text message is not UTF-8. (RFC 6455, section 8.1)"""

    close_code = 1007


class WrongDialect(ProtocolError):
    """Raised when a client speaks another dialect than its URL says."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class BadRequest(ProtocolError):
    """Raised when an HTTP request is not as it must be, for a reason in a sentence."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class BadName(ProtocolError):
    """Raised when a document name is empty, too long, or holds control characters."""

    reason = "bad document name"


class AccessDenied(CollabError):
    """Raised when somebody may not open a document. The reason is told to them, the
    detail is for the log."""

    close_code = 4403
    http_status = 403

    def __init__(self, reason: str = "permission-denied", detail: str = "") -> None:
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return self.detail or self.reason


class OriginDenied(AccessDenied):
    """Raised when a web page may not use this server from a browser."""

    def __init__(self, origin: str, credentials: bool = False) -> None:
        super().__init__("origin not allowed")
        self.origin = origin
        self.credentials = credentials

    def __str__(self) -> str:
        how = " with cookies" if self.credentials else ""
        return (
            f"pages of {self.origin[:100]!r} may not come{how}; --allowed-origin, or "
            "Collab(origins=Origins(...)), lets them"
        )


class NothingOpened(CollabError):
    """Raised when a connection has had no document for too long."""

    close_code = 4408
    http_status = 408
    reason = "no document was opened"


class UpdateRejected(CollabError):
    """Raised for an update that no honest client can have made.

    Its ``kind`` is one of these words:

    ==========================  =====================================================
    ``truncated``               the bytes end within the update
    ``trailing-bytes``          bytes follow it, as when it is encoded in version 2
    ``length-exceeds-bytes``    a count or length that the bytes present cannot hold
    ``integer-overflow``        an integer of more than 53 bits
    ``clock-overflow``          a clock beyond 2^31 - 1
    ``invalid-text``            a string that is not UTF-8
    ``invalid-json``            JSON that pycrdt or a browser cannot read
    ``invalid-value``           a value of a kind that lib0 does not have
    ``value-too-deep``          arrays and maps nested too deeply in one value
    ``duplicate-client``        a client with two sections
    ``empty-section``           a client with no structs, or no ranges
    ``empty-struct``            a struct or range without length
    ``flags-on-filler``         a GC or Skip with the flags of an item
    ``unknown-content``         content that Yjs does not have
    ``unknown-type``            a shared type that Yjs does not have
    ``unknown-parent``          a parent that is neither a root nor an item
    ``legacy-json``             ContentJSON of Yjs before 13, which pycrdt cannot decode
    ``xml-hook``                Y.XmlHook, which pycrdt re-encodes as something else
    ``invalid-subdocument``     a subdocument whose options are not a map
    ``format-as-map-entry``     a formatting mark where a map's value should be
    ``unsafe-key``              a key ``__proto__``, at which JavaScript stumbles
    ``long-map-entry``          several values, or a text, where a map's value should be
    ``between-two-places``      an item with a neighbour that is elsewhere
    ``parent-not-a-type``       an item inside of something that has no inside
    ``future-reference``        an item that refers to itself or its client's future
    ``cyclic-references``       items that each wait for the other
    ``unsorted-deletes``        ranges that overlap or are not in ascending order
    ``rival-entries``           map entries written over and over, unseen
    ``nested-too-deep``         shared types nested too deeply
    ``too-many-structs``        more structs and ranges than ``UpdateLimits.structs``
    ``too-many-clients``        more clients than ``UpdateLimits.clients``
    ==========================  =====================================================
    """

    close_code = 4422
    http_status = 422

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = f"update rejected: {reason}"
        self.kind = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


class QuotaExceeded(CollabError):
    """Raised when a room or a session would hold more than its limit."""

    close_code = 4413
    http_status = 413

    def __init__(self, what: str, limit: int) -> None:
        self.reason = f"too many {what}"
        self.limit = limit

    def __str__(self) -> str:
        return f"{self.reason}: the limit is {self.limit}"


class TooMany(QuotaExceeded):
    """Raised when somebody has, or does, more at a time than they may: later it may be
    less."""

    close_code = 4529
    http_status = 429


class Unavailable(CollabError):
    """Raised when the server cannot serve a document now, but may soon."""

    close_code = 4503
    http_status = 503
    reason = "try again later"


class DocumentBroken(CollabError):
    """Raised when pycrdt panicked: the document must be rebuilt from its log."""

    reason = "document is being rebuilt"


class DocumentGone(CollabError):
    """Raised for a document that was deleted; what it had is not told to anybody."""

    close_code = 4404
    http_status = 404
    reason = "document was deleted"

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return f"there is no document {self.name!r}: it was deleted, or never was"


class DocumentReplaced(CollabError):
    """Raised when what somebody has is of a document that was made anew since."""

    close_code = 4509
    http_status = 409
    reason = "document was replaced"


class NotRevoked(CollabError):
    """Raised for a revocation that is to be undone, and isn't there, or is over."""

    close_code = 4404
    http_status = 404
    reason = "no such revocation"

    def __init__(self, number: int) -> None:
        self.number = number

    def __str__(self) -> str:
        return f"there is no revocation {self.number}, or it is over"


class RequestTooSlow(CollabError):
    """Raised when a request doesn't come to its end in the time that it is given."""

    close_code = 4408
    http_status = 408
    reason = "request took too long"


class NotKept(CollabError):
    """Raised when a past state is asked for that the history doesn't have any more."""

    close_code = 4404
    http_status = 404
    reason = "this position is not kept"

    def __init__(self, position: int, kept: str) -> None:
        self.position = position
        self.kept = kept

    def __str__(self) -> str:
        return f"position {self.position} is not kept: {self.kept}"


class ImportFailed(CollabError):
    """Raised when the documents of another server's files cannot be read.

    Its text is a sentence for whoever moves them: what is wrong, and what to do.
    """


class SentAway(CollabError):
    """Raised in a client whose server has closed a document, or all, for good."""

    def __init__(self, code: int, reason: str) -> None:
        self.close_code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"closed by the server: {self.close_code} {self.reason}"


class StoreError(Unavailable):
    """Base class of the errors of the log's database."""


class DatabaseUnreachable(StoreError):
    """Raised when the database cannot be opened."""


class Deadlock(StoreError):
    """Raised when others stood in the way of a transaction, and it in theirs: the same
    may be tried again at once."""


class DatabaseTooNew(StoreError):
    """Raised when the database was written by a newer version of this package."""


class DatabaseTooOld(StoreError):
    """Raised when the tables must be brought up to date first."""
