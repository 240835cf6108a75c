"""Who may open which document: what a handshake says, and what is made of it.

Without a function that decides, everybody may write everything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Self, TypeAlias
from urllib.parse import parse_qsl

from .errors import AccessDenied, Unavailable

logger = logging.getLogger("collab.auth")

AUTHORIZE_TIME = 10.0
"""Seconds that an application has to decide."""

BEARER = "bearer."
"""What a subprotocol begins with that carries a token: browsers can send no headers."""


class Access(Enum):
    """What somebody may do with a document."""

    READ = "read"
    """See it, and be seen in it."""
    WRITE = "write"
    """Change it, too."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Somebody who may open a document."""

    user: str = ""
    """The name of their account, which stands beside their edits in the log."""
    access: Access = Access.WRITE


@dataclass(frozen=True, slots=True)
class Attempt:
    """Somebody who wants to open a document."""

    document: str
    token: str = field(repr=False)
    """What they brought, or ``""``: in a message, a subprotocol ``bearer.TOKEN``, a
    header ``Authorization: Bearer TOKEN``, or a parameter ``token`` of the URL."""
    headers: Mapping[str, str] = field(repr=False)
    """Of the handshake, names in lower case; cookies are in ``cookie``."""
    query: Mapping[str, str] = field(repr=False)
    """The parameters of the URL; the last one of each name."""
    peer: str
    """Their address and port."""


Authorize: TypeAlias = Callable[[Attempt], Awaitable[Grant | None]]
"""Decides about an attempt: ``None``, or raising ``AccessDenied``, is no."""


_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Visitor:
    """What a handshake says of who comes."""

    peer: str
    headers: Mapping[str, str] = field(default_factory=lambda: _NOTHING, repr=False)
    query: Mapping[str, str] = field(default_factory=lambda: _NOTHING, repr=False)
    token: str = field(default="", repr=False)

    @classmethod
    def of(
        cls,
        peer: str,
        headers: Iterable[tuple[str, str]],
        query: str,
        subprotocols: Sequence[str],
    ) -> Self:
        """Read a handshake; a header that comes several times is joined by commas."""
        joined: dict[str, str] = {}
        for name, value in headers:
            name = name.lower()
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
        parameters = dict(parse_qsl(query, keep_blank_values=True))
        carried = [p[len(BEARER) :] for p in subprotocols if p.startswith(BEARER)]
        scheme, _, bearer = joined.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and bearer:
            carried.append(bearer.strip())
        carried.append(parameters.get("token", ""))
        return cls(peer, joined, parameters, carried[0])

    def attempt(self, document: str, token: str = "") -> Attempt:
        """Their attempt to open a document, with a token that came in a message."""
        carried = token or self.token
        return Attempt(document, carried, self.headers, self.query, self.peer)


def select_subprotocol(offered: Sequence[str]) -> str | None:
    """The one to accept of those that a client offers: the first without a token.

    If there are only tokens it is one of these: a browser drops a connection that takes
    none of its own.
    """
    plain = [name for name in offered if not name.startswith(BEARER)]
    return next(iter([*plain, *offered]), None)


class Door:
    """Lets people in, or not."""

    def __init__(self, authorize: Authorize | None = None) -> None:
        self.authorize = authorize

    @property
    def open(self) -> bool:
        """Whether nobody is asked who they are."""
        return self.authorize is None

    async def admit(self, attempt: Attempt) -> Grant:
        """Decide about an attempt.

        Raises:
            AccessDenied: If it is refused.
            Unavailable: If that cannot be decided now.
        """
        if self.authorize is None:
            return ANYBODY
        try:
            async with asyncio.timeout(AUTHORIZE_TIME):
                grant = await self.authorize(attempt)
        except AccessDenied:
            raise
        except TimeoutError as exc:
            message = "%r: no decision about %s within %d s"
            logger.error(message, attempt.document, attempt.peer, AUTHORIZE_TIME)
            raise Unavailable("authorization takes too long") from exc
        except Exception as exc:
            message = "%r: cannot decide about %s"
            logger.exception(message, attempt.document, attempt.peer)
            raise Unavailable("authorization failed") from exc
        if grant is None:
            raise AccessDenied
        return grant


ANYBODY = Grant()
