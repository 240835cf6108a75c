"""Which web pages may use this server, by the ``Origin`` that a browser sends.

A browser lets any page connect to any WebSocket, and sends along what it has for that
server: its cookies, and its place in a network. So a page that somebody merely visits
could act as they. What is not a browser sends no ``Origin``, and has nothing to abuse.

Reference: RFC 6454 (origins), RFC 6455, section 10.2; the Fetch standard (CORS).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from .errors import OriginDenied

PORTS = {"http": 80, "https": 443}
"""What an origin means that names no port; those of applications have none."""

NOT_OURS = {"ws", "wss", "file"}
"""Schemes that no origin has, or one that says nothing."""

MAX_ORIGIN = 512
"""Characters of an origin: a host has 253 at most."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_AUTHORITY = re.compile(
    r"([a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?\.?|\[[0-9a-f:.]+\])(?::([0-9]{0,5}))?"
)


class Trust(Enum):
    """What a page may do."""

    NONE = "none"
    """Nothing."""
    BARE = "bare"
    """Come without what a browser adds by itself: with a token, or as anybody."""
    FULL = "full"
    """Come with cookies."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A scheme, a host and a port."""

    scheme: str
    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether it is on the machine of whoever visits it."""
        return is_loopback(self.host)

    @classmethod
    def parse(cls, text: str) -> Origin | None:
        """Read an origin; ``None`` if it is none, as ``null`` isn't."""
        if len(text) > MAX_ORIGIN:
            return None
        scheme, separator, authority = text.partition("://")
        scheme = scheme.lower()
        if not separator or not _SCHEME.fullmatch(scheme) or scheme in NOT_OURS:
            return None
        where = _split(authority, PORTS.get(scheme, 0))
        return None if where is None else cls(scheme, *where)


@dataclass(frozen=True, slots=True)
class Pattern:
    """An origin, or all in subdomains of its host, however deep."""

    origin: Origin
    subdomains: bool

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read ``https://app.example.com`` or ``https://*.example.com``.

        Raises:
            ValueError: If it is neither; the text says what is wrong.
        """
        host = text.partition("://")[2]
        subdomains = host.startswith("*.")
        origin = Origin.parse(text.replace("://*.", "://", 1))
        if origin is None:
            raise ValueError(
                f"{text!r} is no origin: write SCHEME://HOST or SCHEME://HOST:PORT, "
                "such as https://app.example.com or https://*.example.com, with "
                "nothing behind it"
            )
        if subdomains and (
            "." not in origin.host.rstrip(".") or _is_address(origin.host)
        ):
            raise ValueError(f"{text!r} would let in strangers: name a domain")
        return cls(origin, subdomains)

    def matches(self, origin: Origin) -> bool:
        """Whether an origin is meant."""
        mine = self.origin
        if (origin.scheme, origin.port) != (mine.scheme, mine.port):
            return False
        if self.subdomains:
            return origin.host.endswith("." + mine.host)
        return origin.host == mine.host


class Origins:
    """The pages that may use this server."""

    def __init__(self, *allowed: str, local: bool = False) -> None:
        """Allow pages, besides this server's own.

        ``https://app.example.com`` is one origin, as is ``capacitor://localhost`` of an
        application, ``https://*.example.com`` all of subdomains, and ``*`` all that
        bring no cookies. If any are given, no others may come. ``local`` says that the
        server is for this machine alone: then it knows its pages by no names but those
        of this machine.

        Raises:
            ValueError: If one is nothing of that.
        """
        self.any_bare = "*" in allowed
        self.patterns = [Pattern.parse(text) for text in allowed if text != "*"]
        self.local = local

    def judge(
        self, origin: str | None, host: str, secure: bool, anonymous: bool
    ) -> Trust:
        """What a page may do, by the headers ``Origin`` and ``Host``.

        ``secure`` says that the browser sees this server over TLS for sure, and
        ``anonymous`` that nobody is asked who they are.
        """
        if origin is None:
            return Trust.FULL
        page = Origin.parse(origin)
        if page is not None:
            if any(pattern.matches(page) for pattern in self.patterns):
                return Trust.FULL
            here = _split(host, 0)
            at_home = here is not None and is_loopback(here[0])
            if _is_same(page, host, secure):
                # A name that means this machine since a moment ago: with DNS, anybody
                # can make their page and this server one origin.
                strange = self.local and not at_home and not _is_address(page.host)
                return Trust.NONE if strange else Trust.FULL
            if page.loopback and at_home:
                return Trust.FULL  # As of a development server, on another port.
        if self.any_bare:
            return Trust.BARE
        return Trust.NONE if self.patterns or anonymous else Trust.BARE

    def check(
        self,
        origin: str | None,
        host: str,
        secure: bool,
        anonymous: bool,
        credentials: bool,
    ) -> Trust:
        """What a page may do that may do something; ``credentials`` is what it brings.

        Raises:
            OriginDenied: If it may not come, or not with what its browser added.
        """
        trust = self.judge(origin, host, secure, anonymous)
        if trust is Trust.NONE or (trust is Trust.BARE and credentials):
            raise OriginDenied(str(origin), credentials and trust is Trust.BARE)
        return trust


def cross_origin_headers(origin: str | None, trust: Trust) -> dict[str, str]:
    """What tells a browser that a page may read a response (CORS).

    To be sent with errors too, or a page can't tell what went wrong; not to whom
    :meth:`Origins.check` has refused.
    """
    headers = {"Vary": "Origin"}
    if origin is not None and trust is not Trust.NONE:
        headers["Access-Control-Allow-Origin"] = origin
        if trust is Trust.FULL:
            headers["Access-Control-Allow-Credentials"] = "true"
    return headers


def preflight_headers(
    origin: str | None, trust: Trust, methods: Iterable[str], names: Iterable[str]
) -> dict[str, str]:
    """What answers a browser that asks, with OPTIONS, before it sends a request."""
    headers = cross_origin_headers(origin, trust)
    if "Access-Control-Allow-Origin" in headers:
        headers["Access-Control-Allow-Methods"] = ", ".join(methods)
        headers["Access-Control-Allow-Headers"] = ", ".join(names)
        headers["Access-Control-Max-Age"] = "600"
    return headers


def brings_credentials(cookie: str | None, authorization: str | None) -> bool:
    """Whether a request has what a browser adds by itself: cookies, or a password.

    A bearer's token is nothing of that: the page has it.
    """
    scheme = (authorization or "").partition(" ")[0].lower()
    return bool(cookie) or scheme not in ("", "bearer")


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is that of the machine it is used on.

    ``localhost`` and what ends in ``.localhost`` is, in every browser (RFC 6761), and
    0.0.0.0 in some.
    """
    name = host.rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and (address.is_loopback or address.is_unspecified)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _split(authority: str, port: int) -> tuple[str, int] | None:
    """A host in lower case, and its port or another; ``None`` if it is neither."""
    match = _AUTHORITY.fullmatch(authority.lower())
    return None if match is None else (match[1], int(match[2] or port))


def _is_same(page: Origin, host: str, secure: bool) -> bool:
    """Whether a page is this server's own.

    Behind a proxy that doesn't say whether it was reached over TLS both may be meant.
    """
    if page.scheme not in PORTS or (secure and page.scheme != "https"):
        return False
    return _split(host, PORTS[page.scheme]) == (page.host, page.port)


def _is_address(host: str) -> bool:
    """Whether a host is an address: nobody can make it mean another."""
    return _address(host) is not None
