"""Collab inside an application, under an ASGI server that knows nothing of it.

The server is uvicorn as it comes; the application is that of ``examples/fastapi``, or
Collab alone. The clients are y-websocket's.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pycrdt import Doc, Text
from starlette.types import Message
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from collab import Attempt, Collab, Limits
from tests import servers
from tests.applications import EXAMPLE, Uvicorn, running
from tests.interop import KINDS, Clients, until
from tests.peers import Editor, edit, enter, insert, read_data, step1

numbers = itertools.count(1)

CONNECT = {"type": "websocket.connect"}


@pytest.fixture(scope="module")
def clients() -> Iterator[Clients]:
    with Clients() as clients:
        yield clients


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uvicorn]:
    data = tmp_path_factory.mktemp("example")
    with running("main:app", EXAMPLE, data, "/collab") as server:
        yield server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Uvicorn]:
    """The example, for one test alone."""
    with running("main:app", EXAMPLE, tmp_path, "/collab") as server:
        yield server


@pytest.fixture
def name() -> str:
    return f"note-{next(numbers)}"


def closed(socket: ClientConnection) -> tuple[int, str]:
    """Read until the server closes; return its code and reason."""
    try:
        while True:
            socket.recv(20)
    except ConnectionClosed as exc:
        frame = exc.rcvd
    assert frame is not None
    return frame.code, frame.reason


# With the clients in the field.


@pytest.mark.parametrize("kind", KINDS)
def test_clients_converge_and_see_each_other(
    clients: Clients, example: Uvicorn, name: str, kind: str
) -> None:
    ann = clients.open(example.ws_url, name, kind=kind)
    bob = clients.open(example.ws_url, name, kind="3.1-native")
    ann.announce({"user": {"name": "Ann"}})
    ann.append("hello ")
    until(lambda: bob.text == "hello ")
    bob.append("there")
    until(lambda: ann.text == "hello there")
    until(lambda: ann.saved and bob.saved)
    until(lambda: bob.people.get(ann.id) == {"user": {"name": "Ann"}})
    gone = ann.id
    ann.destroy()
    until(lambda: gone not in bob.people)
    cleo = clients.open(example.ws_url, name, kind=kind)
    until(lambda: cleo.text == "hello there")
    bob.destroy()
    cleo.destroy()


def test_a_client_that_is_soon_back_never_left(
    clients: Clients, example: Uvicorn, name: str
) -> None:
    ann = clients.open(example.ws_url, name)
    bob = clients.open(example.ws_url, name)
    ann.announce({"user": {"name": "Ann"}})
    until(lambda: ann.id in bob.people)
    bob.run(
        "kept.removed = [];"
        "awareness.on('change', ({ removed }) => kept.removed.push(...removed))"
    )
    ann.break_off()
    until(lambda: ann.events.count("connected") == 2 and ann.synced)
    ann.announce({"user": {"name": "Ann, back"}})
    until(lambda: bob.people.get(ann.id) == {"user": {"name": "Ann, back"}})
    assert bob.run("return kept.removed") == []
    ann.die()
    until(lambda: ann.id not in bob.people, patience=10)
    ann.destroy()
    bob.destroy()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_heard_back_survives_a_restart(
    clients: Clients, own: Uvicorn, number: int
) -> None:
    ann = clients.open(own.ws_url, "note")
    ann.run(
        """
        let made = 0;
        const edit = () => {
          doc.getText("text").insert(0, `<${made++}>`);
          kept.timer = setTimeout(edit, 1);
        };
        edit();
        """
    )
    until(lambda: ann.acknowledged > 50)
    own.end(number)
    until(lambda: not ann.connected)
    ann.run("clearTimeout(kept.timer)")
    heard = ann.acknowledged - 1  # The answer on connecting holds no edit.
    stays = clients.open(own.ws_url, "note", persisted=ann.state)
    stays.append("<written offline>")
    whole = ann.text + "<written offline>"
    ann.destroy()
    own.start(own.database)
    bob = clients.open(own.ws_url, "note")
    until(lambda: bob.synced and stays.synced)
    until(lambda: bob.text == stays.text == whole)
    assert heard > 0

    stays.destroy()
    bob.destroy()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nobody_needs_to_come_back_for_what_was_heard_back(
    clients: Clients, own: Uvicorn, number: int
) -> None:
    ann = clients.open(own.ws_url, "note")
    for count in range(30):
        ann.append(f"<{count}>")
    until(lambda: ann.synced and ann.saved)
    own.end(number)
    written = ann.text
    ann.destroy()
    own.start(own.database)
    bob = clients.open(own.ws_url, "note")
    until(lambda: bob.synced)
    assert bob.text == written
    bob.destroy()


@pytest.mark.slow
def test_who_says_nothing_for_long_stays_connected(
    clients: Clients, example: Uvicorn, name: str
) -> None:
    silent = [
        clients.open(example.ws_url, f"{name}-{kind}", kind=kind, awareness=False)
        for kind in KINDS
    ]
    until(lambda: all(client.synced for client in silent))
    start = time.monotonic()
    while time.monotonic() - start < 36:
        for client in silent:
            assert client.connections == 1, client.kind
            assert client.connected, client.kind
        time.sleep(1)
    for client in silent:
        client.destroy()


def test_a_large_document_arrives(
    clients: Clients, example: Uvicorn, name: str
) -> None:
    ann = clients.open(example.ws_url, name)
    ann.run("doc.getText('text').insert(0, 'wörd '.repeat(400_000))")
    bob = clients.open(example.ws_url, name, kind="3.1-native")
    until(lambda: bob.length == 2_000_000 and ann.saved)
    ann.append("!")
    until(lambda: bob.length == 2_000_001)
    ann.destroy()
    bob.destroy()


def test_a_subprotocol_is_accepted(
    clients: Clients, example: Uvicorn, name: str
) -> None:
    ann = clients.open(example.ws_url, name, protocols=["yjs", "bearer.abc"])
    until(lambda: ann.synced)
    assert ann.run("return provider.ws.protocol") == "yjs"
    ann.destroy()


# What is refused.


@pytest.mark.parametrize(
    "path",
    ["%00", "a%7Fb", "x" * 256, "%F0%9F%98%80" * 64, "a/../b", "%2E%2E"],
    ids=["nul", "delete", "long", "long in UTF-8", "relative", "relative 2"],
)
def test_a_bad_name_is_refused_before_the_upgrade(example: Uvicorn, path: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        connect(f"{example.ws_url}/{path}")
    response = caught.value.response
    assert response.status_code == 400
    assert response.body == b"bad document name\n"


@pytest.mark.parametrize("path", ["/", "/wss/doc", "/assets/index.js"])
def test_websockets_are_nowhere_else(example: Uvicorn, path: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        connect(example.url.replace("http", "ws") + path)
    assert caught.value.response.status_code == 404
    assert "Traceback" not in example.log


async def test_a_server_without_denial_responses_can_refuse(tmp_path: Path) -> None:
    """Their extension is optional."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async with Collab(f"sqlite:///{tmp_path}/collab.db") as collab:
        await collab(
            {"type": "websocket", "path": "/ws/\n", "headers": []}, receive, send
        )
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_who_is_being_closed_is_not_closed_again(tmp_path: Path) -> None:
    """Its documents may fail one after the other."""
    said = iter([b"\x01d\x02\x00\x00", b""])
    failing = asyncio.Event()
    sent: list[Message] = []

    async def decide(attempt: Attempt) -> None:
        await failing.wait()
        raise RuntimeError

    async def receive() -> Message:
        return {"type": "websocket.receive", "bytes": next(said)} if sent else CONNECT

    async def send(message: Message) -> None:
        if message["type"] == "websocket.close":
            failing.set()
            for _ in range(20):
                await asyncio.sleep(0)
        sent.append(message)

    database = f"sqlite:///{tmp_path}/collab.db"
    async with Collab(database, authorize=decide) as collab:
        scope = {"type": "websocket", "path": "/ws", "headers": []}
        await collab(scope, receive, send)
    assert sent[-1]["code"] == 4400


@pytest.mark.parametrize(
    ("frame", "code", "reason"),
    [
        (b"", 4400, "malformed message"),
        (b"\x09", 4400, "malformed message"),
        (b"\x00\x00\xff", 4400, "malformed message"),
        (b"\x00\x02\x03\x01\x01\x01", 4422, "update rejected"),
        (b"\x01\x05\x01\x01\x01\x01{", 4400, "malformed message"),
        ("text", 4400, "malformed message"),
    ],
)
def test_a_bad_frame_ends_the_connection(
    example: Uvicorn, name: str, frame: bytes | str, code: int, reason: str
) -> None:
    with (
        connect(f"{example.ws_url}/{name}") as good,
        connect(f"{example.ws_url}/{name}") as bad,
    ):
        address = bad.local_address
        bad.send(frame)
        got, why = closed(bad)
        assert got == code
        assert why.startswith(reason)
        # Whoever else is there stays.
        good.send(b"\x00\x00\x01\x00")
        while good.recv(20, decode=False)[:2] != b"\x00\x01":
            pass
    until(lambda: f"closing 127.0.0.1:{address[1]}" in example.log)


def test_a_request_that_is_no_websocket_is_told_so(example: Uvicorn) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{example.url}/ws/doc")
    assert caught.value.code == 426
    with caught.value as answer:
        assert answer.headers["Upgrade"] == "websocket"


def test_health_is_where_it_is_mounted(example: Uvicorn) -> None:
    for path in ("livez", "readyz"):
        with urllib.request.urlopen(f"{example.url}/{path}") as answer:
            assert answer.status == 200
    with urllib.request.urlopen(example.url.removesuffix("/collab")) as answer:
        assert b"/collab/?doc=notes/house%20rules" in answer.read()


# Slow readers.


@pytest.fixture
async def impatient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[servers.Serving]:
    """A server that cuts off slow readers soon."""
    monkeypatch.setattr("collab.asgi.SLOWEST", 1_000_000)
    limits = Limits(slow_size=64 * 1024, slow_time=1.0, owed_size=64 * 1024)
    async with servers.serving(tmp_path, limits=limits, fast=False) as server:
        yield server


def flood(server: servers.Serving) -> bytes:
    """Write until somebody can take no more; return the state of the document then."""

    def stuck() -> bool:
        end = time.monotonic() + 0.3
        while server.hub.wheel.full and time.monotonic() < end:
            time.sleep(0.01)
        return bool(server.hub.wheel.full)

    with Editor(f"{server.ws_url}/a") as editor:
        for _ in range(200):
            editor.type("x" * 200_000)
            editor.save()
            if stuck():
                return editor.doc.get_state()
    raise AssertionError("40 MB went somewhere")


async def test_who_stops_reading_is_cut_off_while_others_go_on(
    impatient: servers.Serving, caplog: pytest.LogCaptureFixture
) -> None:
    def cut_off() -> list[str]:
        return [line for line in caplog.messages if "stopped reading" in line]

    def read_nothing() -> str:
        with enter(impatient.port, "/ws/a", small=True) as slow:
            flood(impatient)
            with Editor(f"{impatient.ws_url}/a") as editor:
                while not cut_off():
                    editor.type("on ")
                    editor.save()
                until(lambda: len(impatient.hub.rooms["a"]) == 1, patience=10)
            return slow.address

    address = await asyncio.to_thread(read_nothing)
    (line,) = cut_off()
    assert address in line
    assert "Exception in ASGI" not in caplog.text


async def test_a_slow_reader_that_recovers_has_missed_nothing(
    impatient: servers.Serving,
) -> None:
    def read_late() -> Doc[Any]:
        doc: Doc[Any] = Doc()
        with enter(impatient.port, "/ws/a", small=True) as slow:
            slow.say(step1())
            state = flood(impatient)
            while doc.get_state() != state:
                message = slow.hear()
                if message[:2] in (b"\x00\x01", b"\x00\x02"):
                    doc.apply_update(read_data(message, 2))
        return doc

    doc = await asyncio.to_thread(read_late)
    assert set(str(doc.get("text", type=Text))) == {"x"}


async def test_a_large_document_may_take_its_time(
    impatient: servers.Serving,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a message that is on its way, ASGI doesn't say how much has left."""
    size = 14_000_000
    monkeypatch.setattr("collab.asgi.SLOWEST", 250_000)  # The machine may be busy.

    def read() -> bytes:
        url = f"{impatient.ws_url}/a"
        with Editor(url) as editor:
            editor.type("x" * size)
            editor.save()
            with enter(impatient.port, "/ws/a", small=True) as slow:
                slow.say(step1())
                editor.type("y" * 200_000)  # This waits behind it.
                editor.save()
                end = time.monotonic() + 4
                while time.monotonic() < end:
                    slow.buffer += slow.socket.recv(4096)
                    time.sleep(0.01)
                while True:
                    message = slow.hear()
                    if message[:2] in (b"\x00\x01", b"\x00\x02"):
                        return message

    message = await asyncio.to_thread(read)
    assert len(message) > size
    assert "stopped reading" not in caplog.text


async def test_who_writes_without_reading_is_sent_away(
    impatient: servers.Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """Its close frame never leaves, and nobody waits for that."""

    def write() -> None:
        with enter(impatient.port, "/ws/a", small=True) as slow:
            end = time.monotonic() + 60
            slow.socket.settimeout(1)
            client = 0
            with suppress(OSError):
                while time.monotonic() < end and "unread ack" not in caplog.text:
                    client += 1
                    slow.say(edit(insert(client, "x" * 20_000)))
            while impatient.server.server_state.tasks:
                assert time.monotonic() < end
                time.sleep(0.05)

    await asyncio.to_thread(write)
    assert "Exception in ASGI" not in caplog.text


async def test_what_was_sent_before_the_socket_died_is_kept(
    impatient: servers.Serving,
) -> None:
    def write() -> None:
        with enter(impatient.port, "/ws/a") as raw:
            raw.say(edit(insert(1, "x" * 1_000_000)))
        with Editor(f"{impatient.ws_url}/a") as editor:
            editor.see("x" * 1_000_000)

    await asyncio.to_thread(write)


# Alone.


def test_collab_is_a_whole_application(clients: Clients, tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(
        "from os import environ\n"
        "from collab import Collab\n"
        "app = Collab(environ['DATABASE'])\n"
    )
    with running("alone:app", tmp_path, tmp_path) as server:
        ann = clients.open(server.ws_url, "a/b")
        ann.append("hello")
        until(lambda: ann.saved)
        server.end()
        ann.destroy()
        server.start(server.database)
        bob = clients.open(server.ws_url, "a/b")
        until(lambda: bob.text == "hello")
        bob.destroy()
        assert "Traceback" not in server.log


def test_a_database_that_cannot_be_opened_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(
        f"from collab import Collab\napp = Collab('sqlite:///{tmp_path}/no/such.db')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "uvicorn", "alone:app", "--port", "0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert done.stderr.count("no/such.db") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_who_forgets_to_open_it_is_told_so(tmp_path: Path, kind: str) -> None:
    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError

    collab = Collab(f"sqlite:///{tmp_path}/collab.db")
    scope = {"type": kind, "method": "GET", "path": "/ws/doc", "headers": []}
    with pytest.raises(RuntimeError, match="async with collab"):
        await collab(scope, receive, send)
