"""Who comes, before anything else is heard of them.

From where, past the proxies that are trusted; from which web page; and whether there is
room. All transports ask here, and none of them twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from starlette.types import Scope

from .auth import Attempt, Door, Grant
from .limits import Limits
from .origins import (
    Origins,
    Trust,
    brings_credentials,
    cross_origin_headers,
    preflight_headers,
)
from .proxies import Peer, Proxies
from .quotas import Guest, Quotas
from .turns import Turns

logger = logging.getLogger("collab.reception")


@dataclass(frozen=True, slots=True)
class Visit:
    """A request from where it may come from."""

    peer: Peer
    origin: str | None
    """The web page, if it is one's that a browser shows."""
    trust: Trust

    def headers(self) -> dict[str, str]:
        """What each response says, errors too, so that the page may read it (CORS)."""
        return cross_origin_headers(self.origin, self.trust)

    def preflight(self, methods: Sequence[str], names: Sequence[str]) -> dict[str, str]:
        """What answers OPTIONS: methods and headers that requests may have."""
        return preflight_headers(self.origin, self.trust, methods, names)


class Reception:
    """Takes clients in, or not."""

    def __init__(self, limits: Limits, door: Door) -> None:
        self.quotas = Quotas(limits)
        self.door = door
        self.origins = Origins()
        self.proxies = Proxies()
        self._asking = Turns(
            limits.authorizations, limits.authorizations_per_connection
        )
        self._warned = False

    def locate(
        self, host: str, port: int | None, headers: Iterable[tuple[str, str]]
    ) -> Peer:
        """Where a client is that has connected from an address.

        Names of headers are in lower case.
        """
        peer = self.proxies.locate(host, port, headers)
        if peer.forwarded and not self._warned:
            self._warned = True
            logger.warning(
                "%s says for whom it speaks, and isn't trusted: all behind it count as "
                "one. If it is a proxy of yours, name it with --trusted-proxy",
                host,
            )
        return peer

    def check(
        self, headers: Iterable[tuple[str, str]], secure: bool, preflight: bool = False
    ) -> tuple[str | None, Trust]:
        """The page that a request comes from, and what it may do.

        ``preflight`` says that the request asks what may be requested, as a browser
        does without what it adds by itself.

        Raises:
            OriginDenied: If it may not come, or not with what its browser added.
        """
        said: dict[str, str] = {}
        for name, value in headers:
            if name in ("origin", "host", "cookie", "authorization"):
                said[name] = f"{said[name]}, {value}" if name in said else value
        origin = said.get("origin")
        if origin is None:
            return None, Trust.FULL
        credentials = not preflight and brings_credentials(
            said.get("cookie"), said.get("authorization")
        )
        host = said.get("host", "")
        trust = self.origins.check(origin, host, secure, self.door.open, credentials)
        return origin, trust

    # The same for ASGI.

    def locate_scope(self, scope: Scope) -> Peer:
        """Where an ASGI request or WebSocket comes from."""
        host, port = scope.get("client") or ("unknown", None)
        return self.locate(host, port or None, _headers(scope))

    def check_scope(self, scope: Scope, peer: Peer) -> Visit:
        """The page that an ASGI request or WebSocket comes from; for OPTIONS, too.

        Raises:
            OriginDenied: As :meth:`check` does. Its answer has no headers of CORS.
        """
        secure = scope.get("scheme") in ("https", "wss") or peer.secure
        preflight = scope.get("method") == "OPTIONS"
        return Visit(peer, *self.check(_headers(scope), secure, preflight))

    def admit(self, peer: Peer) -> Guest:
        """Count a client in, until :meth:`Guest.leave`.

        Raises:
            TooMany: If there are enough of its address.
        """
        return self.quotas.admit(peer.block)

    async def decide(self, attempt: Attempt, guest: Guest) -> Grant:
        """Decide about somebody's attempt to open a document, when it is their turn.

        Raises:
            AccessDenied, Unavailable: As :meth:`Door.admit` does.
        """
        async with self._asking.turn(guest):
            return await self.door.admit(attempt)


def _headers(scope: Scope) -> list[tuple[str, str]]:
    return [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in scope["headers"]
    ]
