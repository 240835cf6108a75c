"""Requests that we make: where they go, and what of an answer is taken."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress

import pytest

from collab.outgoing import (
    MAX_ANSWER,
    BadURL,
    Outgoing,
    Resolver,
    Unreachable,
    forbidden,
)
from tests.answering import Heard, Reply, fixed, site


@pytest.mark.parametrize(
    ("address", "encrypted", "unencrypted"),
    [
        ("127.0.0.1", True, True),
        ("::1", True, True),
        ("10.1.2.3", True, True),
        ("172.16.0.1", True, True),
        ("192.168.1.1", True, True),
        ("100.64.0.1", True, True),
        ("fd12:3456::1", True, True),
        # Tokens would travel in the clear.
        ("93.184.216.34", True, False),
        ("2606:2800:220:1::1", True, False),
        ("::ffff:93.184.216.34", True, False),
        # Where clouds give credentials to whoever asks.
        ("169.254.169.254", False, False),
        ("169.254.170.2", False, False),
        ("fe80::1", False, False),
        ("fe80::1%eth0", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("2002:a9fe:a9fe::1", False, False),
        ("fd00:ec2::254", False, False),
        ("100.100.100.200", False, False),
        # No address of a server.
        ("0.0.0.0", False, False),
        ("::", False, False),
        ("224.0.0.1", False, False),
        ("ff02::1", False, False),
    ],
)
def test_where_requests_may_go(
    address: str, encrypted: bool, unencrypted: bool
) -> None:
    assert (forbidden(address, encrypted=True) == "") is encrypted
    assert (forbidden(address, encrypted=False) == "") is unencrypted


@pytest.mark.parametrize(
    "url",
    [
        "",
        "app",
        "/authorize",
        "app:8000",
        "ftp://app/",
        "file:///etc/passwd",
        "http://",
        "http://user:secret@app/",
        "http://app:99999/",
        "http://169.254.169.254/latest/meta-data",
        "https://[::ffff:169.254.169.254]/",
        "http://0.0.0.0:8000/",
        "http://93.184.216.34/",
    ],
)
def test_some_urls_are_never_asked(url: str) -> None:
    with pytest.raises(BadURL) as caught:
        Outgoing(url, 1)
    assert "secret" not in str(caught.value)


async def test_a_name_is_looked_at_when_it_is_resolved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever is asked for a name may say something else each time."""

    def resolve(host: str, port: int, *rest: object, **more: object) -> list[object]:
        address = {"inner": "10.0.0.1", "outer": "93.184.216.34"}.get(
            host, "169.254.169.254"
        )
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    plain, secure = Resolver(encrypted=False), Resolver(encrypted=True)
    assert (await plain.resolve("inner", 80))[0]["host"] == "10.0.0.1"
    assert (await secure.resolve("outer", 443))[0]["host"] == "93.184.216.34"
    for resolver, host in ((plain, "outer"), (plain, "meta"), (secure, "meta")):
        with pytest.raises(OSError, match="address"):
            await resolver.resolve(host, 80)
    outgoing = Outgoing("https://meta/", 5)
    with pytest.raises(Unreachable):
        await outgoing.get()
    await outgoing.close()


async def ask(url: str, timeout: float = 20.0) -> bytes:
    outgoing = Outgoing(url, timeout)
    try:
        return (await outgoing.get()).body
    finally:
        await outgoing.close()


async def test_an_answer_is_bounded() -> None:
    with site(lambda heard: Reply(200, b"x" * int(heard.path[1:]))) as server:
        assert len(await ask(f"{server.url}/{MAX_ANSWER}")) == MAX_ANSWER
        with pytest.raises(Unreachable, match="more than"):
            await ask(f"{server.url}/{MAX_ANSWER + 1}")


async def test_nobody_is_followed_elsewhere() -> None:
    with site(fixed(b"caught")) as trap:
        for status in (301, 302, 303, 307, 308):
            away = Reply(status, b"", {"Location": f"{trap.url}/"})
            with (
                site(lambda heard, away=away: away) as server,  # type: ignore[misc]
                pytest.raises(Unreachable, match="redirect"),
            ):
                await ask(server.url)
        assert trap.heard == []


async def test_a_proxy_of_the_environment_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with site(fixed(b"proxy")) as proxy, site(fixed(b"direct")) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert await ask(server.url) == b"direct"
        assert proxy.heard == []


async def test_one_cookie_is_not_passed_to_the_next() -> None:
    def answer(heard: Heard) -> Reply:
        said = heard.headers.get("cookie", "none").encode()
        return Reply(200, said, {"Set-Cookie": "session=of-ann"})

    with site(answer) as server:
        outgoing = Outgoing(server.url, 20)
        try:
            for _ in range(3):
                assert (await outgoing.post(b"", {})).body == b"none"
        finally:
            await outgoing.close()


async def test_who_does_not_answer_is_not_waited_for() -> None:
    never = threading.Event()
    with site(lambda heard: Reply(200, b"", after=never)) as server:
        with pytest.raises(Unreachable, match="within"):
            await ask(server.url, timeout=0.2)
        never.set()


async def test_who_answers_drop_by_drop_is_not_waited_for() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            writer.close()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unreachable, match="within"):
            await ask(f"http://127.0.0.1:{port}/", timeout=0.3)
        server.close()


async def test_a_connection_that_was_just_closed_is_no_failure() -> None:
    """Servers close what was kept open when they like: it is tried once more."""
    served = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        await reader.readuntil(b"\r\n\r\n")
        served += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        with suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")  # The next one is not answered.
        writer.close()

    async with await asyncio.start_server(once, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        outgoing = Outgoing(f"http://127.0.0.1:{port}/", 20)
        assert (await outgoing.post(b"", {})).body == b"ok"
        assert (await outgoing.post(b"", {})).body == b"ok"
        assert served == 2
        await outgoing.close()


async def test_nobody_there_is_said_in_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unreachable, match="cannot connect"):
        await ask(f"http://127.0.0.1:{port}/")
