"""Who comes, before anything else is heard of them: over real sockets."""

from __future__ import annotations

import logging
from asyncio import to_thread
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from collab.auth import Attempt, Door, Grant
from collab.errors import OriginDenied
from collab.limits import Limits
from collab.origins import Origins
from collab.proxies import Proxies
from collab.reception import Reception
from tests import servers
from tests.peers import Raw, Response, enter, step1

COOKIE = ("Cookie", "session=ann")


def ask(port: int, *headers: tuple[str, str], host: str = "collab.example") -> Response:
    """How a handshake is answered, with the headers of a browser."""
    with Raw(port) as raw:
        return raw.ask("/ws/a", ("Host", host), *headers, without=("Host",))


def page(origin: str) -> tuple[str, str]:
    return "Origin", origin


async def admit(attempt: Attempt) -> Grant | None:
    if "session=ann" in attempt.headers.get("cookie", ""):
        return Grant("ann")
    return Grant("bot") if attempt.token == "secret" else None


@pytest.fixture(params=["fast", "asgi"])
async def asking(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[servers.Serving]:
    """A server that knows people by a cookie, or by a token."""
    fast = request.param == "fast"
    async with servers.serving(tmp_path, authorize=admit, fast=fast) as server:
        yield server


@pytest.fixture(params=["fast", "asgi"])
async def listing(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[servers.Serving]:
    """One with a list of pages."""
    async with servers.serving(
        tmp_path,
        authorize=admit,
        fast=request.param == "fast",
        origins=Origins("https://app.example", "https://*.example.org"),
    ) as server:
        yield server


@pytest.fixture(params=["fast", "asgi"])
async def anonymous(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[servers.Serving]:
    """One that asks nobody who they are."""
    async with servers.serving(tmp_path, fast=request.param == "fast") as server:
        yield server


# Pages.

TRICKS = [
    "https://evil.example",
    "null",
    "https://collab.example.evil.example",
    "https://evilcollab.example",
    "http://collab.example:8000",
    "https://collab.example@evil.example",
    "file://",
]


@pytest.mark.anyio
@pytest.mark.parametrize("origin", TRICKS)
async def test_a_strange_page_cannot_use_a_cookie(
    asking: servers.Serving, origin: str
) -> None:
    answer = await to_thread(ask, asking.port, page(origin), COOKIE)
    assert (answer.status, answer.body) == (403, b"origin not allowed\n")
    assert asking.hub.rooms == {}


@pytest.mark.anyio
async def test_a_browsers_password_is_as_good_as_a_cookie(
    asking: servers.Serving,
) -> None:
    headers = page("https://evil.example"), ("Authorization", "Basic YTpi")
    assert (await to_thread(ask, asking.port, *headers)).status == 403


@pytest.mark.anyio
async def test_a_strange_page_may_come_with_a_token(asking: servers.Serving) -> None:
    def come() -> None:
        with enter(
            asking.port, "/ws/a?token=secret", page("https://evil.example")
        ) as a:
            a.say(step1())
            a.hear()

    await to_thread(come)


@pytest.mark.anyio
@pytest.mark.parametrize("origin", ["http://collab.example", "https://collab.example"])
async def test_our_own_page_can_use_a_cookie(
    asking: servers.Serving, origin: str
) -> None:
    answer = await to_thread(ask, asking.port, page(origin), COOKIE)
    assert answer.status == 101


@pytest.mark.anyio
async def test_who_is_no_browser_can_use_a_cookie(asking: servers.Serving) -> None:
    assert (await to_thread(ask, asking.port, COOKIE)).status == 101


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://app.example", 101),
        ("https://APP.example:443", 101),
        ("https://docs.example.org", 101),
        ("http://app.example", 403),
        ("https://app.example.evil.example", 403),
        ("https://example.org", 403),
        ("https://evilexample.org", 403),
        ("null", 403),
    ],
)
async def test_pages_that_are_listed_may_come_and_no_others(
    listing: servers.Serving, origin: str, status: int
) -> None:
    for headers in ([], [COOKIE]):
        answer = await to_thread(ask, listing.port, page(origin), *headers)
        assert answer.status == status


@pytest.mark.anyio
async def test_two_origins_are_none(listing: servers.Serving) -> None:
    headers = page("https://app.example"), page("https://evil.example")
    # uvicorn's own WebSockets refuse that themselves, with 400.
    assert (await to_thread(ask, listing.port, *headers)).status in (400, 403)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("http://localhost:5173", "localhost:8000", 101),
        ("http://127.0.0.1:5173", "localhost:8000", 101),
        ("http://collab.example", "collab.example", 101),
        ("https://evil.example", "localhost:8000", 403),
        ("https://evil.example", "127.0.0.1:8000", 403),
        ("https://evil.example", "collab.example", 403),
        ("null", "localhost:8000", 403),
    ],
)
async def test_a_strange_page_cannot_use_a_place_in_the_network(
    anonymous: servers.Serving, origin: str, host: str, status: int
) -> None:
    answer = await to_thread(ask, anonymous.port, page(origin), host=host)
    assert answer.status == status


@pytest.mark.anyio
async def test_what_to_do_about_a_page_that_may_not_come_is_in_the_log(
    anonymous: servers.Serving, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "collab"):
        await to_thread(ask, anonymous.port, page("https://app.example"))
    assert "'https://app.example' may not come; --allowed-origin" in caplog.text


def test_a_server_for_this_machine_goes_by_no_strange_name(tmp_path: Path) -> None:
    with servers.running(tmp_path) as server:
        strange = f"evil.example:{server.port}"
        assert ask(server.port, page(f"http://{strange}"), host=strange).status == 403
        here = f"localhost:{server.port}"
        assert ask(server.port, page(f"http://{here}"), host=here).status == 101
        assert ask(server.port, page("http://localhost:5173"), host=here).status == 101


def test_a_server_for_anybody_goes_by_any_name(tmp_path: Path) -> None:
    with servers.running(tmp_path, "--allow-anonymous") as server:
        name = f"collab.example:{server.port}"
        assert ask(server.port, page(f"http://{name}"), host=name).status == 101
        assert ask(server.port, page("http://evil.example"), host=name).status == 403


# Requests over HTTP.


def request(origin: str, method: str = "POST", cookie: bytes = b"") -> dict[str, Any]:
    """The ASGI scope of a request."""
    headers = [(b"host", b"collab.example"), (b"origin", origin.encode())]
    if cookie:
        headers.append((b"cookie", cookie))
    client = ("192.0.2.1", 4711)
    return {
        "type": "http",
        "method": method,
        "scheme": "https",
        "headers": headers,
        "client": client,
    }


def test_a_request_is_judged_like_a_websocket() -> None:
    reception = Reception(Limits(), Door(admit))
    scope = request("https://app.example")
    peer = reception.locate_scope(scope)
    assert str(peer) == "192.0.2.1:4711"
    visit = reception.check_scope(scope, peer)
    assert visit.headers() == {
        "Vary": "Origin",
        "Access-Control-Allow-Origin": "https://app.example",
    }
    with pytest.raises(OriginDenied):
        reception.check_scope(
            request("https://app.example", cookie=b"session=ann"), peer
        )
    reception.origins = Origins("https://app.example")
    scope = request("https://app.example", cookie=b"session=ann")
    credentials = "Access-Control-Allow-Credentials"
    assert reception.check_scope(scope, peer).headers()[credentials] == "true"
    for method in ("POST", "OPTIONS"):
        with pytest.raises(OriginDenied):
            reception.check_scope(request("https://evil.example", method), peer)


def test_a_browser_that_asks_first_brings_nothing() -> None:
    reception = Reception(Limits(), Door(admit))
    scope = request("https://app.example", "OPTIONS", b"session=ann")
    visit = reception.check_scope(scope, reception.locate_scope(scope))
    headers = visit.preflight(["POST"], ["Authorization"])
    assert headers["Access-Control-Allow-Methods"] == "POST"
    assert "Access-Control-Allow-Credentials" not in headers


# Addresses.


@pytest.mark.anyio
@pytest.mark.parametrize("fast", [True, False])
async def test_a_trusted_proxy_says_who_comes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fast: bool
) -> None:
    attempts: list[Attempt] = []

    async def refuse(attempt: Attempt) -> None:
        attempts.append(attempt)

    async with servers.serving(
        tmp_path, authorize=refuse, proxies=Proxies("127.0.0.1"), fast=fast
    ) as server:

        def come() -> None:
            with Raw(server.port) as raw:
                raw.open("/ws/a?token=x", ("X-Forwarded-For", "8.8.8.8, 192.0.2.1"))
                raw.read_close()

        await to_thread(come)
    assert [attempt.peer for attempt in attempts] == ["192.0.2.1"]
    assert "closing 192.0.2.1 with 4403" in caplog.text


@pytest.mark.anyio
@pytest.mark.parametrize("fast", [True, False])
async def test_nobody_else_says_who_comes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fast: bool
) -> None:
    attempts: list[Attempt] = []

    async def refuse(attempt: Attempt) -> None:
        attempts.append(attempt)

    async with servers.serving(tmp_path, authorize=refuse, fast=fast) as server:

        def come() -> list[str]:
            addresses = []
            for _ in range(2):
                with Raw(server.port) as raw:
                    addresses.append(raw.address)
                    raw.open("/ws/a?token=x", ("X-Forwarded-For", "192.0.2.1"))
                    raw.read_close()
            return addresses

        addresses = await to_thread(come)
    assert [attempt.peer for attempt in attempts] == addresses
    # It may be a proxy that somebody forgot to name, so they are told, once.
    assert caplog.text.count("127.0.0.1 says for whom it speaks") == 1


@pytest.mark.anyio
@pytest.mark.parametrize("fast", [True, False])
async def test_an_address_has_so_many_connections(tmp_path: Path, fast: bool) -> None:
    async with servers.serving(
        tmp_path,
        limits=Limits(connections_per_address=2),
        proxies=Proxies("127.0.0.1"),
        fast=fast,
    ) as server:

        def come() -> None:
            with ExitStack() as here:

                def from_(address: str) -> tuple[int, Raw]:
                    raw = here.enter_context(Raw(server.port))
                    return raw.ask("/ws/a", ("X-Forwarded-For", address)).status, raw

                status, first = from_("192.0.2.1")
                assert status == 101
                assert from_("192.0.2.1")[0] == 101
                late = here.enter_context(Raw(server.port))
                answer = late.ask("/ws/a", ("X-Forwarded-For", "192.0.2.1"))
                assert answer.status == 429
                assert answer.body == b"too many connections from your address\n"
                assert answer.get("retry-after") == "5"
                # Others come as before, and so does this one when there is room.
                assert from_("192.0.2.2")[0] == 101
                assert from_("2001:db8::1")[0] == 101
                assert from_("2001:db8::2")[0] == 101
                assert from_("2001:db8::3")[0] == 429
                first.socket.close()
                quotas = server.hub.reception.quotas
                for _ in range(1000):
                    if quotas.addresses["192.0.2.1"] == 1:
                        break
                    first = from_("192.0.2.9")[1]
                    first.socket.close()
                assert from_("192.0.2.1")[0] == 101

        await to_thread(come)
    assert server.hub.reception.quotas.addresses == {}


@pytest.mark.anyio
async def test_this_machine_has_any_number(tmp_path: Path) -> None:
    limits = Limits(connections_per_address=1)
    async with servers.serving(tmp_path, limits=limits) as server:

        def come() -> None:
            with enter(server.port, "/ws/a"), enter(server.port, "/ws/a"):
                pass

        await to_thread(come)
