"""Who may open which document: what a handshake says, and what is made of it.

Without a function that decides, everybody may write everything.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Self, TypeAlias
from urllib.parse import parse_qsl

from starlette.requests import cookie_parser

from .errors import AccessDenied, CollabError, Unavailable
from .limits import is_plain
from .redaction import Lines
from .revoked import Revoked

logger = logging.getLogger("collab.auth")

AUTHORIZE_TIME = 10.0
"""Seconds that an application has to decide."""

MAX_TOKEN = 8 * 1024
"""Characters of a token; nobody is asked about a longer one."""

MAX_WHO = 255
"""Characters of the name of an account, or of a person."""

EXPIRED = "access has expired"
"""What somebody is told whose time is over."""

REVOKED = "access was revoked"
"""What somebody is told whose access was taken away."""

BEARER = "bearer."
"""What a subprotocol begins with that carries a token: browsers can send no headers."""


class Access(Enum):
    """What somebody may do with a document."""

    READ = "read"
    """See it, and be seen in it."""
    WRITE = "write"
    """Change it, too."""
    ADMIN = "admin"
    """Change it, and decide what becomes of it."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Somebody who may open a document."""

    user: str = ""
    """The name of their account, which stands beside their edits in the log."""
    access: Access = Access.WRITE
    name: str = ""
    """What people call them."""
    expires_at: float | None = None
    """Until when, in seconds since 1970; ``None`` is for as long as they stay."""
    token_id: str = ""
    """What their token is called, by which it can be revoked."""
    issued_at: float | None = field(default=None, compare=False)
    """When they were given it, in seconds since 1970; ``None`` is when they are let
    in."""


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
    renewal: bool = False
    """Whether they are inside, and say again who they are: what was decided before
    doesn't count."""

    def cookie(self, name: str) -> str:
        """The cookie of that name, or ``""``."""
        return cookie_parser(self.headers.get("cookie", "")).get(name, "")


Authorize: TypeAlias = Callable[[Attempt], Awaitable[Grant | None]]
"""Decides about an attempt: ``None``, or raising ``AccessDenied``, is no."""


class Authenticator(ABC):
    """Decides about attempts, and has something to open and to close."""

    async def open(self) -> None:  # noqa: B027
        """Begin, on the event loop that it will be asked on."""

    async def close(self) -> None:  # noqa: B027
        """Let go of everything."""

    @abstractmethod
    async def __call__(self, attempt: Attempt) -> Grant | None:
        """Decide about an attempt."""


class AnyOf(Authenticator):
    """Asks several, one after the other, until one of them lets somebody in."""

    def __init__(self, *choices: Authorize) -> None:
        self.choices = choices

    async def open(self) -> None:
        """Begin with each."""
        for choice in self.choices:
            if isinstance(choice, Authenticator):
                await choice.open()

    async def close(self) -> None:
        """Let go of each."""
        for choice in self.choices:
            if isinstance(choice, Authenticator):
                await choice.close()

    async def __call__(self, attempt: Attempt) -> Grant | None:
        """Decide about an attempt.

        Raises:
            Unavailable: If nobody said yes, and one of them could not decide.
            AccessDenied: If all said no; the reason is the last that was given.
        """
        denied = unable = None
        for choice in self.choices:
            try:
                grant = await choice(attempt)
            except AccessDenied as exc:
                denied = exc
            except Unavailable as exc:
                unable = exc
            else:
                if grant is not None:
                    return grant
        if unable is not None:
            raise unable
        if denied is not None:
            raise denied
        return None


def is_who(value: object) -> bool:
    """Whether something may be the name of an account, or of a person."""
    return isinstance(value, str) and len(value) <= MAX_WHO and is_plain(value)


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
            comma = "; " if name == "cookie" else ", "
            joined[name] = f"{joined[name]}{comma}{value}" if name in joined else value
        parameters = dict(parse_qsl(query, keep_blank_values=True))
        carried = [p[len(BEARER) :] for p in subprotocols if p.startswith(BEARER)]
        scheme, _, bearer = joined.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and bearer:
            carried.append(bearer.strip())
        carried.append(parameters.get("token", ""))
        return cls(peer, joined, parameters, carried[0])

    def attempt(self, document: str, token: str = "", renewal: bool = False) -> Attempt:
        """Their attempt to open a document, with a token that came in a message."""
        carried = token or self.token
        return Attempt(document, carried, self.headers, self.query, self.peer, renewal)


def select_subprotocol(offered: Sequence[str]) -> str | None:
    """The one to accept of those that a client offers: the first without a token.

    If there are only tokens it is one of these: a browser drops a connection that takes
    none of its own.
    """
    plain = [name for name in offered if not name.startswith(BEARER)]
    return next(iter([*plain, *offered]), None)


class Door:
    """Lets people in, or not."""

    def __init__(
        self, authorize: Authorize | None = None, revoked: Revoked | None = None
    ) -> None:
        self.authorize = authorize
        self.revoked = Revoked() if revoked is None else revoked

    @property
    def open(self) -> bool:
        """Whether all are let in, and nobody is asked who they are."""
        return self.authorize is None and not self.revoked

    async def prepare(self) -> None:
        """Begin, on the event loop."""
        if isinstance(self.authorize, Authenticator):
            await self.authorize.open()

    async def close(self) -> None:
        """Let go of everything."""
        if isinstance(self.authorize, Authenticator):
            await self.authorize.close()

    async def admit(self, attempt: Attempt) -> Grant:
        """Decide about an attempt.

        Raises:
            AccessDenied: If it is refused.
            Unavailable: If that cannot be decided now.
        """
        if self.open:
            return ANYBODY
        began = time.time()
        grant = await self._decide(attempt)
        if grant is None:
            raise AccessDenied
        if grant.expires_at is not None and not grant.expires_at > time.time():
            raise AccessDenied(EXPIRED)
        if grant.issued_at is None:
            grant = replace(grant, issued_at=began)
        self.check(grant, attempt.document)
        return grant

    async def _decide(self, attempt: Attempt) -> Grant | None:
        if self.authorize is None:
            return ANYBODY
        if len(attempt.token) > MAX_TOKEN:
            raise AccessDenied(detail=f"a token of more than {MAX_TOKEN} characters")
        try:
            async with asyncio.timeout(AUTHORIZE_TIME):
                return await self.authorize(attempt)
        except CollabError:
            raise
        except TimeoutError as exc:
            message = "%r: no decision about %s within %d s"
            logger.error(message, attempt.document, attempt.peer, AUTHORIZE_TIME)
            raise Unavailable("authorization takes too long") from exc
        except Exception as exc:
            message = "%r: cannot decide about %s\n%s"
            told = _told(exc, attempt.token)
            logger.error(message, attempt.document, attempt.peer, told)
            raise Unavailable("authorization failed") from exc

    def check(self, grant: Grant, document: str) -> None:
        """Complain if somebody's access to a document was revoked.

        Raises:
            AccessDenied: If it was.
        """
        found = self.revoked.find(grant, document, time.time())
        if found is not None:
            raise AccessDenied(REVOKED, f"{REVOKED}, by revocation {found.number}")


def _told(error: Exception, token: str) -> str:
    """An error as it is logged. ``users[attempt.token]`` raises one that names it."""
    told = "".join(traceback.format_exception(error)).rstrip()
    return Lines(told.replace(token, "[token]") if token else told)


ANYBODY = Grant()
