"""What clients may use: each limit at, below and above it, over real sockets.

Those that need no socket are with what they limit: ``test_quotas``, ``test_turns``,
``test_presence``; sizes of frames in ``test_websocket``, addresses in
``test_reception``.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
import zlib
from asyncio import to_thread
from contextlib import ExitStack, suppress
from dataclasses import fields
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from pycrdt import Text

from collab.auth import Attempt, Grant
from collab.limits import Limits
from tests import servers
from tests.peers import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    Editor,
    Raw,
    edit,
    enter,
    frame,
    insert,
    presence,
    step1,
    uint,
)

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[1]

BOTH = pytest.mark.parametrize("fast", [True, False], ids=["fast", "asgi"])


async def by_name(attempt: Attempt) -> Grant:
    """Whoever says a name is that."""
    return Grant(attempt.token)


def hear_or_close(raw: Raw) -> bytes | tuple[int, str]:
    """What the server says next, or why it closes."""
    received = raw.read_frame()
    if received.opcode == CLOSE:
        return int.from_bytes(received.payload[:2], "big"), received.payload[
            2:
        ].decode()
    return received.payload


def keep_sending(raw: Raw, content: bytes) -> tuple[int, str]:
    """Send without end, a thousand messages a second or so, until the server closes."""
    ended = threading.Event()

    def send() -> None:
        with suppress(OSError):
            while not ended.wait(0.02):
                raw.send(content)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        return raw.read_close()
    finally:
        ended.set()
        thread.join()


def remove(client: int, clock: int, length: int) -> bytes:
    """The update that deletes some of a client's letters."""
    return b"\x00\x01" + uint(client) + b"\x01" + uint(clock) + uint(length)


# How they are written.


def test_limits_can_be_written_with_units() -> None:
    limits = Limits.parse(["frame_size=2MiB", "slow_time=0.5", "heartbeat=10"])
    assert limits == Limits(frame_size=2 * 2**20, slow_time=0.5, heartbeat=10)
    assert Limits.parse([]) == Limits()
    assert Limits.parse(Limits.explain().splitlines()) == Limits()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("frame_size", "'frame_size' says no value: write NAME=VALUE"),
        ("frames=2", "there is no limit 'frames'"),
        ("frame_size=much", "frame_size: 'much' is not a number"),
        ("frame_size=nan", "frame_size: 'nan' is not a number"),
        ("frame_size=inf", "frame_size: 'inf' is not a number"),
        ("frame_size=0", "frame_size is a whole number above 0, not 0"),
        ("frame_size=0.5", "frame_size is a whole number above 0, not 0.5"),
        ("slow_time=-1", "slow_time is a number above 0, not -1.0"),
    ],
)
def test_a_limit_that_is_none_is_explained(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        Limits.parse([text])


def test_each_limit_stands_in_the_documentation_with_its_default() -> None:
    text = (ROOT / "docs" / "limits.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", text, re.MULTILINE))
    explained = dict(line.split("=") for line in Limits.explain().splitlines())
    assert list(rows) == [field.name for field in fields(Limits)]
    assert {name: value.replace(" ", "") for name, value in rows.items()} == explained


def test_each_test_that_the_documentation_names_exists() -> None:
    text = (ROOT / "docs" / "limits.md").read_text()
    named = re.findall(r"`(test_\w+)\.(test_\w+)`", text)
    assert len(named) >= len(fields(Limits)) - 1
    for module, name in named:
        source = (ROOT / "tests" / f"{module}.py").read_text()
        assert f"def {name}(" in source, (module, name)


# How many.


@BOTH
async def test_a_user_has_so_many_connections(tmp_path: Path, fast: bool) -> None:
    limits = Limits(connections_per_user=2)
    async with servers.serving(
        tmp_path, limits=limits, authorize=by_name, fast=fast
    ) as server:

        def come() -> None:
            with ExitStack() as here:

                def open_(name: str, document: str) -> Raw:
                    raw = here.enter_context(Raw(server.port))
                    raw.open(f"/ws/{document}?token={name}")
                    return raw

                first = open_("ann", "a")
                for raw in (first, open_("ann", "b")):
                    assert raw.hear()[:2] == b"\x00\x00"
                refused = open_("ann", "c").read_close()
                assert refused == (4529, "too many connections of yours")
                assert open_("bob", "a").hear()[:2] == b"\x00\x00"
                first.send_frame(CLOSE)
                first.read_close()
                assert open_("ann", "c").hear()[:2] == b"\x00\x00"

        await to_thread(come)
    assert server.hub.reception.quotas.users == {}


@BOTH
async def test_a_document_has_so_many_sessions(tmp_path: Path, fast: bool) -> None:
    limits = Limits(sessions_per_document=2)
    async with servers.serving(tmp_path, limits=limits, fast=fast) as server:

        def come() -> None:
            with enter(server.port, "/ws/a"), enter(server.port, "/ws/a") as second:
                with Raw(server.port) as third:
                    third.open("/ws/a")
                    refused = third.read_close()
                assert refused == (4529, "too many clients in this document")
                with enter(server.port, "/ws/b"):
                    pass
                second.say(step1())
                assert second.hear()[:2] == b"\x00\x01"

        await to_thread(come)


# How fast.


@BOTH
async def test_who_is_too_fast_is_read_more_slowly_and_loses_nothing(
    tmp_path: Path, fast: bool
) -> None:
    limits = Limits(message_rate=100, message_burst=100)
    async with servers.serving(tmp_path, limits=limits, fast=fast) as server:

        def write() -> tuple[float, float]:
            with Editor(f"{server.ws_url}/a") as fast_one:
                started = monotonic()
                for _ in range(90):
                    fast_one.type("x")
                fast_one.save()
                below = monotonic() - started
                for _ in range(200):
                    fast_one.type("y")
                    fast_one.save()
                return below, monotonic() - started

        def type_slowly() -> float:
            worst = 0.0
            with Editor(f"{server.ws_url}/b") as honest:
                for _ in range(60):
                    started = monotonic()
                    honest.type("z")
                    honest.save()
                    worst = max(worst, monotonic() - started)
            return worst

        (below, above), worst = await asyncio.gather(
            to_thread(write), to_thread(type_slowly)
        )
        # 290 messages and a few; a hundred of them are free.
        assert above > 1.8
        assert below < above
        assert worst < above
        room = server.hub.rooms["a"]
        assert str(room.document.doc.get("text", type=Text)) == "x" * 90 + "y" * 200


@BOTH
async def test_who_is_too_fast_for_long_is_sent_away(
    tmp_path: Path, fast: bool
) -> None:
    limits = Limits(message_rate=100, message_burst=20, overrun_time=0.5)
    async with servers.serving(tmp_path, limits=limits, fast=fast) as server:

        def flood() -> tuple[int, str]:
            with enter(server.port, "/ws/a") as raw:
                return keep_sending(raw, frame(BINARY, step1()) * 20)

        def go_on() -> None:
            with Editor(f"{server.ws_url}/a") as honest:
                for _ in range(20):
                    honest.type("z")
                    honest.save()

        closed, _ = await asyncio.gather(to_thread(flood), to_thread(go_on))
        assert closed == (4529, "too many messages per second")


@BOTH
async def test_bytes_are_counted_too(tmp_path: Path, fast: bool) -> None:
    limits = Limits(byte_rate=10_000, byte_burst=50_000, overrun_time=0.5)
    async with servers.serving(tmp_path, limits=limits, fast=fast) as server:
        big = edit(insert(7, "x" * 20_000))

        def flood() -> tuple[int, str]:
            with enter(server.port, "/ws/a") as raw:
                for _ in range(2):
                    raw.say(big)
                    assert raw.hear() == big
                return keep_sending(raw, frame(BINARY, big))

        assert await to_thread(flood) == (4529, "too many bytes per second")


async def test_messages_in_one_frame_are_counted(tmp_path: Path) -> None:
    limits = Limits(message_rate=100, message_burst=20, overrun_time=0.5)
    async with servers.serving(tmp_path, limits=limits) as server:

        def flood() -> tuple[int, str]:
            with enter(server.port, "/ws/a") as raw:
                return keep_sending(raw, frame(BINARY, step1() * 20))

        assert await to_thread(flood) == (4529, "too many messages per second")


async def test_pings_are_counted(tmp_path: Path) -> None:
    limits = Limits(message_rate=100, message_burst=20, overrun_time=0.5)
    async with servers.serving(tmp_path, limits=limits) as server:

        def flood() -> tuple[int, str]:
            with enter(server.port, "/ws/a") as raw:
                return keep_sending(raw, frame(PING, b"x") * 20)

        assert await to_thread(flood) == (4529, "too many messages per second")


# How large.


@BOTH
async def test_a_full_document_takes_deletions_alone(
    tmp_path: Path, fast: bool
) -> None:
    limits = Limits(document_size=100_000)
    async with servers.serving(tmp_path, limits=limits, fast=fast) as server:
        path = "/ws/a"

        def write(update: bytes) -> object:
            with enter(server.port, path) as raw:
                raw.say(edit(update))
                heard = hear_or_close(raw)
                return None if heard == edit(update) else heard

        def read() -> str:
            with Editor(f"{server.ws_url}/a") as reader:
                return str(reader.text)

        def work() -> None:
            assert write(insert(1, "x" * 99_000)) is None
            with Editor(f"{server.ws_url}/a") as watching:
                assert write(insert(2, "y" * 900)) is None
                assert write(insert(3, "z" * 900)) == (
                    4413,
                    "too many bytes in this document",
                )
                watching.see("y" * 900)
                # What is there already is no more of it.
                assert write(insert(2, "y" * 900)) is None
                assert write(remove(1, 0, 10_000)) is None
                assert write(insert(3, "z" * 900)) is None
                watching.see("z" * 900)
            assert len(read()) == 99_000 + 900 + 900 - 10_000

        await to_thread(work)


async def test_an_entry_that_is_written_over_and_over_fills_nothing(
    tmp_path: Path,
) -> None:
    limits = Limits(document_size=20_000)

    def overwrite(client: int, clock: int) -> bytes:
        start = uint(1) + uint(1) + uint(client) + uint(clock)
        value = b"\x77\x64" + b"v" * 100
        if clock:
            place = b"\xa8" + uint(client) + uint(clock - 1)
        else:
            place = b"\x28\x01\x01m\x01k"
        before = b"\x01" + uint(client) + b"\x01\x00" + uint(clock) if clock else b"\0"
        return start + place + b"\x01" + value + before

    async with servers.serving(tmp_path, limits=limits) as server:

        def work() -> None:
            with enter(server.port, "/ws/a") as raw:
                for clock in range(1000):  # Of 130,000 bytes together.
                    raw.say(edit(overwrite(1, clock)))
                    raw.hear_until(edit(overwrite(1, clock)))

        await to_thread(work)


@BOTH
@pytest.mark.parametrize("limit", [2000, 100_000])
async def test_an_update_has_so_many_bytes(
    tmp_path: Path, fast: bool, limit: int
) -> None:
    async with servers.serving(
        tmp_path, limits=Limits(update_size=limit), fast=fast
    ) as server:

        def write(update: bytes) -> Any:
            with enter(server.port, "/ws/a") as raw:
                raw.say(edit(update))
                return hear_or_close(raw)

        def work() -> None:
            around = limit - len(insert(1, "x" * limit)) + limit
            below, at, above = (
                insert(client, "x" * (around - 2 + client)) for client in (1, 2, 3)
            )
            assert [len(update) - limit for update in (below, at, above)] == [-1, 0, 1]
            assert write(below) == edit(below)
            assert write(at) == edit(at)
            assert write(above) == (4413, "too many bytes in an update")

        await to_thread(work)


async def test_so_much_waits_for_what_it_builds_upon(tmp_path: Path) -> None:
    def early(client: int) -> bytes:
        return insert(client, "x" * 1000, 1)

    # Each takes 1,200 bytes besides its own.
    async with servers.serving(tmp_path, limits=Limits(parked_size=5000)) as server:

        def work() -> None:
            with enter(server.port, "/ws/a") as raw:
                raw.say(edit(early(1)), edit(early(2)))
                raw.hear_until(edit(early(1)), edit(early(2)))
                raw.say(edit(early(3)))
                assert raw.read_close() == (
                    4413,
                    "too many updates that wait for others",
                )

        await to_thread(work)


@BOTH
async def test_presence_has_so_many_bytes(tmp_path: Path, fast: bool) -> None:
    limits = Limits(presence_size=100)

    def state(size: int) -> bytes:
        return b'{"a":"' + b"x" * (size - 8) + b'"}'

    async with servers.serving(tmp_path, limits=limits, fast=fast) as server:

        def work() -> None:
            with enter(server.port, "/ws/a") as raw:
                for clock, size in enumerate((99, 100), 1):
                    assert len(state(size)) == size
                    raw.say(presence((7, clock, state(size))))
                    raw.hear_until(presence((7, clock, state(size))))
                raw.say(presence((7, 3, state(101))))
                assert raw.read_close() == (4413, "too many bytes of presence")

        await to_thread(work)


# Who is not let in.


async def nobody(attempt: Attempt) -> Grant | None:
    return None


async def test_who_is_not_let_in_has_so_much_time(tmp_path: Path) -> None:
    limits = Limits(heartbeat=1, unadmitted_time=2)
    async with servers.serving(tmp_path, limits=limits, authorize=nobody) as server:

        def wait() -> tuple[int, str]:
            with Raw(server.port) as raw:
                raw.open("/ws/a")
                while True:
                    heard = hear_or_close(raw)
                    if isinstance(heard, tuple):
                        return heard
                    raw.send_frame(PONG)  # It is alive, and says nothing of use.
                    raw.say(presence((7, 1, b"{}")))

        assert await to_thread(wait) == (4408, "no document was opened")


async def test_who_is_not_let_in_has_so_many_bytes(tmp_path: Path) -> None:
    limits = Limits(unadmitted_size=10_000)
    async with servers.serving(tmp_path, limits=limits, authorize=nobody) as server:

        def flood() -> None:
            with Raw(server.port) as raw:
                raw.open("/ws/a")
                raw.say(*[b"\x00\x02" + b"x" * 998] * 10)
                raw.send_frame(PING, b"here?")
                assert raw.hear(PONG) == b"here?"
                raw.say(b"x")
                assert raw.read_close() == (4403, "permission-denied")

        await to_thread(flood)


async def test_so_many_decisions_are_waited_for_at_a_time(tmp_path: Path) -> None:
    pending: list[str] = []
    most: dict[str, int] = {}
    go = asyncio.Event()

    async def decide(attempt: Attempt) -> Grant:
        pending.append(attempt.token)
        for who in {*pending}:
            most[who] = max(most.get(who, 0), pending.count(who))
        most["all"] = max(most.get("all", 0), len(pending))
        try:
            await go.wait()
        finally:
            pending.remove(attempt.token)
        return Grant(attempt.token)

    limits = Limits(authorizations=5, authorizations_per_connection=3)
    async with servers.serving(tmp_path, limits=limits, authorize=decide) as server:

        def ask(raw: Raw, who: str, count: int) -> None:
            raw.open("/ws")
            for number in range(count):
                address = uint(3) + f"{who}{number:02}".encode()
                raw.say(address + b"\x02\x00" + uint(1) + who.encode())

        def come() -> None:
            with Raw(server.port) as greedy, Raw(server.port) as other:
                ask(greedy, "g", 20)
                ask(other, "o", 1)
                asyncio.run_coroutine_threadsafe(settled(), loop).result()
                loop.call_soon_threadsafe(go.set)
                for raw, count in ((other, 1), (greedy, 20)):
                    admitted = 0
                    while admitted < count:
                        admitted += b"\x02\x02" in raw.hear()

        async def settled() -> None:
            async with asyncio.timeout(20):
                while sorted(pending) != ["g", "g", "g", "o"]:
                    await asyncio.sleep(0.01)

        loop = asyncio.get_running_loop()
        await to_thread(come)
    assert (most["g"], most["o"]) == (3, 1)
    assert most["all"] <= 5


# Connections that are none yet.


def is_closed(raw: Raw, within: float) -> bool:
    """Whether the server closes a connection in time."""
    raw.socket.settimeout(within)
    try:
        return raw.socket.recv(65536) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"GET /ws/a HTTP/1.1\r\nHost: x\r\n",
        b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx",
    ],
    ids=["nothing", "half a head", "half a body"],
)
async def test_who_says_nothing_is_not_waited_for(tmp_path: Path, begin: bytes) -> None:
    async with servers.serving(tmp_path, limits=Limits(handshake_time=1)) as server:

        def wait() -> None:
            with Raw(server.port) as raw:
                raw.send(begin)
                raw.read_all()

        await to_thread(wait)


async def test_who_says_it_drop_by_drop_is_not_waited_for(tmp_path: Path) -> None:
    async with servers.serving(tmp_path, limits=Limits(handshake_time=1)) as server:

        def drip(content: bytes) -> int:
            with Raw(server.port) as raw:
                raw.socket.settimeout(0.1)
                for count, byte in enumerate(content):
                    try:
                        raw.send(bytes([byte]))
                        if raw.socket.recv(100) == b"":
                            return count
                    except TimeoutError:
                        continue
                    except OSError:
                        return count
            return len(content)

        head = b"GET /ws/a HTTP/1.1\r\nX: " + b"x" * 100
        dropped = await asyncio.gather(
            to_thread(drip, head), to_thread(drip, b"\r\n" * 60)
        )
        assert max(dropped) < 60


async def test_a_connection_that_is_kept_is_waited_for_again(tmp_path: Path) -> None:
    async with servers.serving(tmp_path, limits=Limits(handshake_time=1)) as server:

        def ask() -> None:
            with Raw(server.port) as raw:
                for _ in range(3):
                    raw.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                    assert raw.read_response().status == 200
                raw.send(b"GET /livez HTTP/1.1\r\n")
                assert raw.read_all() == b""

        await to_thread(ask)


async def test_the_oldest_makes_room_when_too_many_say_nothing(tmp_path: Path) -> None:
    async with servers.serving(tmp_path, limits=Limits(handshakes=3)) as server:

        def come() -> None:
            with ExitStack() as here:
                silent = [here.enter_context(Raw(server.port)) for _ in range(3)]
                with enter(server.port, "/ws/a"):
                    assert is_closed(silent[0], 20)
                for raw in silent[1:]:
                    assert raw.ask("/ws/a").status == 101

        await to_thread(come)


def test_fifteen_hundred_who_say_nothing_take_little_memory(tmp_path: Path) -> None:
    with servers.running(tmp_path) as server, ExitStack() as here:
        here.enter_context(enter(server.port, "/ws/a"))
        before = server.memory()
        for _ in range(1500):
            raw = here.enter_context(Raw(server.port))
            raw.send(b"GET /ws/a HTTP/1.1\r\nHost: x\r\n")
        here.enter_context(enter(server.port, "/ws/a"))
        assert server.memory() - before < 10 * 2**20


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_has_so_many_bytes(tmp_path: Path, chunked: bool) -> None:
    async with servers.serving(tmp_path, limits=Limits(body_size=1000)) as server:

        def post(size: int) -> int:
            head = b"POST /ws HTTP/1.1\r\nHost: x\r\n"
            if chunked:
                head += b"Transfer-Encoding: chunked\r\n\r\n"
                body = b"%x\r\n%s\r\n0\r\n\r\n" % (size, b"x" * size)
            else:
                head += b"Content-Length: %d\r\n\r\n" % size
                body = b"x" * size
            with Raw(server.port) as raw:
                raw.send(head + body)
                return raw.read_response().status

        assert await to_thread(post, 999) == 405
        assert await to_thread(post, 1000) == 405
        assert await to_thread(post, 1001) == 413


async def test_a_head_has_so_many_bytes(tmp_path: Path) -> None:
    async with servers.serving(tmp_path, limits=Limits(head_size=2000)) as server:

        def ask(size: int) -> bytes:
            head = b"GET /livez HTTP/1.1\r\nHost: x\r\nX: "
            with Raw(server.port) as raw:
                raw.send(head + b"x" * (size - len(head) - 4) + b"\r\n\r\n")
                raw.socket.shutdown(socket.SHUT_WR)
                return raw.read_all()

        assert b"200 OK" in await to_thread(ask, 1999)


# What a client may have us inflate.


def squeezed(message: bytes) -> bytes:
    """A frame of few bytes that becomes many."""
    deflate = zlib.compressobj(wbits=-15)
    payload = deflate.compress(message) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return frame(BINARY, payload[:-4], rsv=4)


def test_what_arrives_compressed_is_inflated_as_it_is_taken(tmp_path: Path) -> None:
    large = edit(insert(7, "x" * 2**20))
    bombs = squeezed(large) * 200
    assert len(bombs) < 2**18
    with servers.running(tmp_path) as server, ExitStack() as here:
        honest = here.enter_context(enter(server.port, "/ws/b"))
        before = peak = server.memory()
        for _ in range(4):
            raw = here.enter_context(Raw(server.port))
            raw.open("/ws/a", ("Sec-WebSocket-Extensions", "permessage-deflate"))
            raw.send(bombs)
        for _ in range(40):
            peak = max(peak, server.memory())
            honest.send_frame(PING)
            started = monotonic()
            honest.hear(PONG)
            assert monotonic() - started < 5
            time.sleep(0.05)
        print(f"{(peak - before) / 2**20:.0f} MiB")
        assert peak - before < 150 * 2**20


def test_who_is_gone_before_all_is_inflated_leaves_no_trace(tmp_path: Path) -> None:
    said = [squeezed(edit(insert(client, "x"))) for client in range(1, 1000)]
    with servers.running(tmp_path) as server:
        for ending in (b"", frame(0xB)) * 5:
            with Raw(server.port) as raw:
                raw.open("/ws/a", ("Sec-WebSocket-Extensions", "permessage-deflate"))
                raw.send(b"".join(said) + ending)
        server.terminate()
        assert "closing" in server.log()
        assert "Traceback" not in server.log()
