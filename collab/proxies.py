"""Where a client really is, as the proxies say that are trusted to say it.

Who connects can write into a header what they like. What a trusted proxy has added to
it is true, and what stands before that is true if a trusted proxy was told it.

A proxy adds to ``X-Forwarded-For``; if there is none, ``Forwarded`` (RFC 7239) counts.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_HOPS = 32
"""Proxies that a request may have passed."""

_FOR = re.compile(r'for=("?)([^";,\s]+)\1(?:;|$)', re.IGNORECASE)
_PROTO = re.compile(r'proto="?(https?)"?(?:;|$)', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Peer:
    """Where a client is."""

    host: str
    """An address, or the name of something that has none."""
    port: int | None = None
    """``None`` if no proxy said it."""
    secure: bool = False
    """Whether a proxy said that it speaks TLS."""
    forwarded: bool = False
    """Whether there was a header that said otherwise, from whom it isn't trusted."""

    def __str__(self) -> str:
        if self.port is None:
            return self.host
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def block(self) -> str:
        """What is one client to who counts by address; ``""`` for this machine.

        That is all that one household has: of an IPv6 address the first 64 bits.
        Nobody is far away who is on this machine, and where proxies are, all are.
        """
        address = _parse(self.host)
        if address is None or address.is_loopback:
            return ""
        if isinstance(address, ipaddress.IPv6Address):
            return str(ipaddress.IPv6Address(int(address) >> 64 << 64))
        return str(address)


class Proxies:
    """The proxies whose word counts."""

    def __init__(self, *trusted: str) -> None:
        """Trust addresses, such as ``10.0.0.7``, and networks, such as ``10.0.0.0/8``.

        Raises:
            ValueError: If one is neither.
        """
        self.networks = [ipaddress.ip_network(text) for text in trusted]

    def locate(
        self, host: str, port: int | None, headers: Iterable[tuple[str, str]]
    ) -> Peer:
        """Where a client is, whose request came from an address.

        Names of headers are in lower case.
        """
        chain: list[str] = []
        elements: list[str] = []
        schemes: list[str] = []
        for name, value in headers:
            if name == "x-forwarded-for":
                chain += value.split(",")
            elif name == "forwarded":
                elements += value.split(",")
            elif name == "x-forwarded-proto":
                schemes += value.split(",")
        if not self._trusts(_parse(host)):
            # Unless a server in front of us has read it: it says that it is who it is.
            told = any(host in hop for hop in (*chain, *elements))
            return Peer(host, port, forwarded=bool(chain or elements) and not told)
        if chain:
            hops = [hop.strip() for hop in chain]
        else:
            hops = [match[2] if (match := _FOR.search(e)) else "" for e in elements]
            matches = [_PROTO.search(element) for element in elements]
            schemes = schemes or [match[1] for match in matches if match is not None]
        found = Peer(host, port)
        for hop in hops[: -MAX_HOPS - 1 : -1]:
            where = _read(hop)
            if where is None:
                break  # It was hidden, or made up: the last that was true counts.
            found = where
            if not self._trusts(_parse(found.host)):
                break
        return Peer(found.host, found.port, _is_secure(schemes))

    def _trusts(self, address: Address | None) -> bool:
        return address is not None and any(
            address in network
            for network in self.networks
            if network.version == address.version
        )


def _is_secure(schemes: list[str]) -> bool:
    # One that says "http" may stand behind one that has ended TLS.
    return bool(schemes) and schemes[-1].strip().lower() in ("https", "wss")


def _parse(host: str) -> Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _read(hop: str) -> Peer | None:
    """An address, and perhaps a port: ``192.0.2.1:80``, ``[2001:db8::1]:80``."""
    host, port = hop, ""
    if hop.startswith("["):
        host, _, port = hop[1:].partition("]")
        port = port.removeprefix(":")
    elif hop.count(":") == 1:
        host, _, port = hop.partition(":")
    address = _parse(host)
    if address is None or (port and not (port.isascii() and port.isdigit())):
        return None
    number = int(port[:6]) if port else None
    if number is not None and number > 65535:
        return None
    return Peer(str(address), number)
