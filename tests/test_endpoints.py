"""Each dialect at its URL, over each transport."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from collab import AccessDenied, Attempt, Grant, Limits
from tests import servers
from tests.peers import data, edit, insert, step1, step2, uint
from tests.servers import Serving
from tests.vectors import history

FIRST, SECOND, *_ = history("reorder")
ADMITTED = b"\x01d\x02\x02\x0aread-write"
HELLO = b"\x01d\x02\x00\x00\x054.8.0"
PATIENCE = 60


@pytest.fixture(params=[True, False], ids=["fast", "asgi"])
def fast(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
async def server(tmp_path: Path, fast: bool) -> AsyncIterator[Serving]:
    async with servers.serving(tmp_path, fast=fast) as server:
        yield server


@asynccontextmanager
async def open_at(url: str, **options: Any) -> AsyncIterator[ClientConnection]:
    async with connect(url, proxy=None, max_size=None, **options) as socket:
        yield socket


async def hear(socket: ClientConnection) -> bytes | str:
    async with asyncio.timeout(PATIENCE):
        return await socket.recv()


async def hear_close(socket: ClientConnection) -> tuple[int, str]:
    """The code and the reason with which the server closes, whatever it says before."""
    async with asyncio.timeout(PATIENCE):
        with suppress(ConnectionClosed):
            while True:
                await socket.recv()
    assert socket.close_code is not None
    assert socket.close_reason is not None
    return socket.close_code, socket.close_reason


@pytest.mark.parametrize("path", ["", "/", "?a=1", "/?a=1"])
@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_hocuspocus_connects_without_a_name(
    server: Serving, path: str, compression: str | None
) -> None:
    long = insert(1, "wörd " * 2000)
    async with (
        open_at(server.ws_url + path, compression=compression) as ann,
        open_at(server.ws_url + path, compression=compression) as bob,
    ):
        await ann.send(HELLO)
        await ann.send(b"\x01d" + step1())
        assert await hear(ann) == ADMITTED
        assert await hear(ann) == b"\x01d" + step1()
        assert await hear(ann) == b"\x01d" + step2(b"\x00\x00")
        await ann.send(b"\x01d" + edit(long))
        assert await hear(ann) == b"\x01d\x08\x01"
        await bob.send(b"\x04d\x00me" + step1())
        assert await hear(bob) == b"\x04d\x00me" + ADMITTED[2:]
        asked = await hear(bob)
        assert isinstance(asked, bytes)
        assert asked.startswith(b"\x04d\x00me\x00\x00")
        told = [await hear(bob), await hear(bob), await hear(bob)]
        assert b"\x04d\x00me" + edit(long) in told
        assert told[-1] == b"\x04d\x00me" + step2(b"\x00\x00")


async def test_dialects_meet_in_one_document(server: Serving) -> None:
    async with (
        open_at(f"{server.ws_url}/d") as named,
        open_at(server.ws_url) as addressed,
    ):
        await addressed.send(HELLO)
        await addressed.send(b"\x01d" + step1())
        for _ in range(3):
            await hear(addressed)
        assert await hear(named) == step1()
        await named.send(edit(FIRST))
        assert await hear(named) == edit(FIRST)
        assert await hear(addressed) == b"\x01d" + edit(FIRST)
        await addressed.send(b"\x01d" + edit(SECOND))
        assert await hear(addressed) == b"\x01d\x08\x01"
        assert await hear(named) == edit(SECOND)


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_our_own_protocol_is_chosen_by_its_name(
    server: Serving, compression: str | None
) -> None:
    """What it says is tested elsewhere; here it is that it arrives."""
    options = {"subprotocols": [Subprotocol("collab.v1")], "compression": compression}
    long = insert(1, "wörd " * 2000)
    opening = b"\x01\x00\x01d\x00\x01\x00\x00\x00"
    async with (
        open_at(server.ws_url, **options) as ann,
        open_at(server.ws_url, **options) as bob,
        open_at(f"{server.ws_url}/d") as named,
    ):
        assert ann.subprotocol == "collab.v1"
        assert await hear(named) == step1()
        await ann.send(b"\x00\x00\x01t" + opening + b"\x01\x02\x01" + data(long))
        for start in (b"\x00\x00\x01", b"\x01\x00\x01", b"\x01\x06", b"\x01\x07"):
            heard = await hear(ann)
            assert isinstance(heard, bytes)
            assert heard.startswith(start)
        assert await hear(ann) == b"\x01\x08\x01\x01"
        assert await hear(named) == edit(long)
        await bob.send(b"\x00\x00\x01t" + opening)
        await hear(bob)
        await hear(bob)
        assert await hear(bob) == b"\x01\x06" + data(b"\x00\x00")
        assert await hear(bob) == b"\x01\x06" + data(long)


async def test_who_can_be_told_moves_before_a_server_stops(tmp_path: Path) -> None:
    options = {"subprotocols": [Subprotocol("collab.v1")]}
    with servers.running(tmp_path) as server:
        async with (
            open_at(server.ws_url, **options) as ann,
            open_at(f"{server.ws_url}/d") as named,
        ):
            await ann.send(b"\x00\x00\x01t")
            await hear(ann)
            server.process.send_signal(signal.SIGTERM)
            told = await hear(ann)
            assert isinstance(told, bytes)
            assert told.startswith(b"\x00\x02\x00")
            assert await hear_close(named) == (1012, "service restart")
            await ann.send(b"\x00\x01\x07")  # It goes on meanwhile.
            assert await hear(ann) == b"\x00\x01\x07"
            assert await hear_close(ann) == (1012, "service restart")
        assert await asyncio.to_thread(server.process.wait, PATIENCE) == 0


async def test_each_is_told_another_moment_to_move(tmp_path: Path) -> None:
    options = {"subprotocols": [Subprotocol("collab.v1")]}
    with servers.running(tmp_path) as server:
        async with AsyncExitStack() as stack:
            clients = []
            for _ in range(30):
                client = open_at(server.ws_url, **options)
                clients.append(await stack.enter_async_context(client))
                await clients[-1].send(b"\x00\x00\x01t")
                await hear(clients[-1])
            server.process.send_signal(signal.SIGTERM)
            told = {await hear(client) for client in clients}
            moments = [b"\x00\x02" + uint(10 * turn) + uint(10) for turn in range(30)]
            assert told == set(moments)


async def test_signs_of_life_are_messages(tmp_path: Path, fast: bool) -> None:
    limits = Limits(heartbeat=1)
    async with (
        servers.serving(tmp_path, fast=fast, limits=limits) as server,
        open_at(server.ws_url) as new,
        open_at(server.ws_url) as old,
        open_at(f"{server.ws_url}/d") as named,
    ):
        await new.send(HELLO)
        assert await hear(new) == ADMITTED
        await old.send(b"\x01d\x02\x00\x00")
        assert await hear(old) == ADMITTED
        assert await hear(named) == step1()
        for _ in range(2):
            assert await hear(new) == b"\x09"
            await new.send(b"\x0a")
            assert await hear(old) == b"\x01d\x01\x01\x00"
            assert await hear(named) == b"\x01\x01\x00"


@pytest.mark.parametrize("path", ["", "/d"])
async def test_who_opens_no_document_is_closed(
    tmp_path: Path, fast: bool, path: str
) -> None:
    limits = Limits(heartbeat=1, unadmitted_time=3)
    async with (
        servers.serving(
            tmp_path, fast=fast, limits=limits, authorize=authorize
        ) as server,
        open_at(server.ws_url + path) as idle,
    ):
        assert await hear_close(idle) == (4408, "no document was opened")


# The application.


async def test_what_it_says_is_a_text_only_to_y_partyserver(
    tmp_path: Path, fast: bool
) -> None:
    heard: list[tuple[str, str]] = []
    async with (
        servers.serving(
            tmp_path, fast=fast, on_stateless=lambda *said: heard.append(said[:2])
        ) as server,
        open_at(f"{server.ws_url}/d?_pk=abc") as party,
        open_at(f"{server.ws_url}/d") as named,
        open_at(server.ws_url) as addressed,
    ):
        await addressed.send(HELLO)
        assert await hear(addressed) == ADMITTED
        assert await hear(party) == await hear(named) == step1()
        await party.send("__YPS:from party")
        await named.send(b"\x05\x04from")
        await addressed.send(b"\x01d\x05\x03too")
        async with asyncio.timeout(PATIENCE):
            while len(heard) < 3:
                await asyncio.sleep(0.01)
        assert {said for _, said in heard} == {"from party", "from", "too"}
        server.collab.broadcast_stateless("d", "grüße")
        assert await hear(party) == "__YPS:grüße"
        assert await hear(named) == b"\x05" + data("grüße".encode())
        assert await hear(addressed) == b"\x01d\x05" + data("grüße".encode())


async def authorize(attempt: Attempt) -> Grant | None:
    if attempt.token == "expired":
        raise AccessDenied("token has expired")
    return Grant("ann") if attempt.token == "right" else None


@pytest.fixture
async def guarded(tmp_path: Path, fast: bool) -> AsyncIterator[Serving]:
    async with servers.serving(tmp_path, fast=fast, authorize=authorize) as server:
        yield server


@pytest.mark.parametrize(
    "options",
    [
        {"subprotocols": [Subprotocol("yjs"), Subprotocol("bearer.right")]},
        {"additional_headers": {"Authorization": "Bearer right"}},
        {"query": "?token=right"},
    ],
    ids=["subprotocol", "header", "query"],
)
async def test_a_token_may_come_in_the_handshake(
    guarded: Serving, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    options = dict(options)
    query = options.pop("query", "")
    async with open_at(f"{guarded.ws_url}/d{query}", **options) as named:
        assert await hear(named) == step1()
        assert named.subprotocol in (None, "yjs")
    async with open_at(f"{guarded.ws_url}{query}", **options) as addressed:
        await addressed.send(HELLO)
        assert await hear(addressed) == ADMITTED
    assert "right" not in caplog.text


async def test_who_is_denied_learns_why_and_is_closed(
    guarded: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_at(f"{guarded.ws_url}/d?token=expired") as named:
        assert await hear(named) == b"\x02\x00\x11token has expired"
        assert await hear(named) == b"\x02\x01\x11token has expired"
        assert await hear_close(named) == (4403, "token has expired")
    async with open_at(f"{guarded.ws_url}/d") as named:
        await named.send(step1())
        assert await hear_close(named) == (4403, "permission-denied")
    assert "token=" not in caplog.text


async def test_who_is_denied_one_document_has_another(guarded: Serving) -> None:
    async with open_at(guarded.ws_url) as addressed:
        await addressed.send(b"\x01d\x02\x00\x07expired")
        assert await hear(addressed) == b"\x01d\x02\x01\x11token has expired"
        await addressed.send(b"\x01e\x02\x00\x05right")
        assert await hear(addressed) == b"\x01e" + ADMITTED[2:]


# What is wrong.


async def test_who_is_at_the_wrong_url_is_told_the_right_one(server: Serving) -> None:
    async with open_at(server.ws_url) as named:
        await named.send(step1())
        assert await hear_close(named) == (4400, "y-websocket connects to /ws/NAME")
    async with open_at(f"{server.ws_url}/d") as addressed:
        await addressed.send(HELLO)
        reason = "Hocuspocus 2 and newer connect to /ws, without a name"
        assert await hear_close(addressed) == (4400, reason)


@pytest.mark.parametrize("said", ["hello", "__YPS:", "__YPS:hi"])
async def test_hocuspocus_has_no_texts(server: Serving, said: str) -> None:
    async with open_at(server.ws_url) as addressed:
        await addressed.send(said)
        assert await hear_close(addressed) == (4400, "malformed message")


@pytest.mark.parametrize("path", ["", "/d"])
async def test_ten_megabytes_before_access_are_answered_and_concern_nobody(
    guarded: Serving, path: str
) -> None:
    async with (
        open_at(guarded.ws_url) as other,
        open_at(guarded.ws_url + path) as flood,
    ):
        await other.send(b"\x01d\x02\x00\x05right")
        assert await hear(other) == ADMITTED
        prefix = b"" if path else b"\x01d"

        async def send() -> None:
            with suppress(ConnectionClosed):
                for _ in range(100):
                    await flood.send(prefix + edit(b"x" * 100_000))

        sending = asyncio.ensure_future(send())
        code, reason = await hear_close(flood)
        await sending
        if path:
            assert (code, reason) == (4403, "permission-denied")
        else:
            assert (code, reason) == (4413, "too many bytes without access")
        await other.send(b"\x01d" + edit(FIRST))
        assert await hear(other) == b"\x01d\x08\x01"
