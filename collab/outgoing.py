"""Requests that we make ourselves: bounded in time and size, to where they may go.

The URL is the operator's, and an application usually lives at a private address, so
these are allowed. Link-local ones never are: that is where clouds give credentials to
whoever asks. Unencrypted requests carry tokens, so they go to private addresses only.
What is checked is what is connected to: the addresses of a name, whenever it is asked.
Nobody is followed elsewhere: redirects are failures, and so is whatever a proxy of the
environment would do.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from . import __version__

MAX_ANSWER = 256 * 1024
"""Bytes of an answer."""

AT_ONCE = 64
"""Requests to one URL; others wait."""

METADATA = {ip_address("fd00:ec2::254"), ip_address("100.100.100.200")}
"""Where clouds answer besides link-local addresses (AWS over IPv6, Alibaba)."""

NAT64 = IPv6Network("64:ff9b::/96")

Address = IPv4Address | IPv6Address


class Unreachable(Exception):
    """Raised when there is no answer that can be used; its text may be logged."""


class BadAnswer(Unreachable):
    """Raised when there is an answer, and it cannot be used."""


class BadURL(ValueError):
    """Raised for a URL that is never asked; its text says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    status: int
    body: bytes = field(repr=False)


def forbidden(address: str, encrypted: bool) -> str:
    """Why an address may not be connected to, or ``""``."""
    ip: Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or _translated(ip) or ip
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip in METADATA:
        return f"{address} is link-local, or no address of a server"
    if not encrypted and ip.is_global:
        return f"{address} is not a private address: use https"
    return ""


def _translated(ip: IPv6Address) -> IPv4Address | None:
    """The address behind a translator. (RFC 6052)"""
    return IPv4Address(ip.packed[12:]) if ip in NAT64 else None


class Outgoing:
    """Requests to one URL."""

    def __init__(self, url: str, timeout: float) -> None:
        """Prepare; nothing is asked yet.

        Raises:
            BadURL: If it is not a URL that may be asked.
        """
        self.url = _check(url)
        self.timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    def __str__(self) -> str:
        """Where it goes, without a query, which may hold a secret."""
        return str(self.url.with_query(None))

    async def get(self) -> Answer:
        """Ask for what is there.

        Raises:
            Unreachable: If there is no answer in time.
            BadAnswer: If it is a redirect, or too much.
        """
        return await self._request("GET", None, {})

    async def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send something that may arrive twice.

        Raises:
            Unreachable: As :meth:`get` does.
        """
        return await self._request("POST", body, headers)

    async def _request(
        self, method: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        try:
            async with asyncio.timeout(self.timeout):
                try:
                    return await self._try(method, body, headers)
                except (aiohttp.ServerDisconnectedError, ConnectionResetError):
                    # It was kept open from an earlier request, and just closed.
                    return await self._try(method, body, headers)
        except TimeoutError:
            raise Unreachable(f"no answer within {self.timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            # The text of some has the headers in it.
            raise Unreachable(_why(exc)) from None

    async def _try(
        self, method: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        async with self._opened().request(
            method, self.url, data=body, headers=headers, allow_redirects=False
        ) as response:
            if 300 <= response.status < 400:
                raise BadAnswer(f"a redirect ({response.status}): give its target")
            answer = bytearray()
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > MAX_ANSWER:
                    raise BadAnswer(f"an answer of more than {MAX_ANSWER} bytes")
            return Answer(response.status, bytes(answer))

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=AT_ONCE, resolver=Resolver(self.url.scheme == "https")
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                # One user's cookie is not another's.
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={
                    "User-Agent": f"collab/{__version__}",
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                },
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=self.timeout),
            )
        return self._session

    async def close(self) -> None:
        """Let go of connections."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


class Resolver(AbstractResolver):
    """Finds the addresses of a name that may be connected to."""

    def __init__(self, encrypted: bool) -> None:
        self.encrypted = encrypted
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """All addresses of a name.

        Raises:
            OSError: If one of them may not be connected to.
        """
        found = await self._resolver.resolve(host, port, family)
        for result in found:
            why = forbidden(result["host"], self.encrypted)
            if why:
                raise OSError(why)
        return found

    async def close(self) -> None:
        """Let go of everything."""
        await self._resolver.close()


def _check(url: str) -> URL:
    try:
        parsed = URL(url)
        host, _ = parsed.host, parsed.port
    except ValueError as exc:
        raise BadURL(f"{url!r} is not a URL.") from exc
    if parsed.scheme not in ("http", "https") or not host:
        raise BadURL(f"{url!r} is not a URL of http or https.")
    if parsed.user is not None or parsed.password is not None:
        raise BadURL(f"A user and a password in the URL of {host} are not sent.")
    try:
        why = forbidden(host, parsed.scheme == "https")
    except ValueError:
        return parsed  # A name: what it resolves to is looked at each time.
    if why:
        raise BadURL(f"{host} is never asked: {why}.")
    return parsed


def _why(error: Exception) -> str:
    """What an error means, without what was sent."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return "its certificate is not trusted"
        case aiohttp.ClientConnectorError():
            return f"cannot connect ({error.os_error})"
        case _:
            return f"cannot ask ({type(error).__name__})"
