"""Clients in the field: the published npm packages, in a Node process, for tests.

::

    with Clients() as clients:
        ann = clients.open(server.ws_url, "doc", kind="3.1")
        bob = clients.open(server.ws_url, "doc", kind="hocuspocus-4")
        ann.insert(0, "hello")
        until(lambda: bob.text == "hello")
"""

from __future__ import annotations

import json
import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collab import wire
from tests.node import NodeProcess

RUNNER = Path(__file__).parent / "runner.mjs"

Y_WEBSOCKET = ["1.5", "2.1", "3.1", "3.1-native", "3.1-rc", "4.0"]
"""y-websocket 1.5.4, 2.1.0 and 3.1.0, this also over Node's own WebSocket, 3.1.0-rc.5,
which tells whether all is saved, and ``@y/websocket`` 4.0.0-3, which is for Yjs 14."""

HOCUSPOCUS = ["hocuspocus-1", "hocuspocus-2", "hocuspocus-3", "hocuspocus-4"]
"""``@hocuspocus/provider`` 1.1.3, 2.15.3, 3.4.4 and 4.8.0."""

KINDS = [*Y_WEBSOCKET, *HOCUSPOCUS, "y-sweet", "y-partyserver"]
"""All kinds of clients; the last ones are ``@y-sweet/client`` 0.9.1 and the provider of
``y-partyserver`` 2.2.0."""

PATIENCE = 20.0
"""Seconds that something may take on a busy machine."""


def until(
    condition: Callable[[], object], patience: float = PATIENCE, every: float = 0.02
) -> float:
    """Wait for a condition; return how many seconds it took.

    Raises:
        AssertionError: If it takes too long.
    """
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > patience:
            assert condition(), f"not within {patience:g} s"
            break
        time.sleep(every)
    return time.monotonic() - start


class Clients(NodeProcess):
    """A Node process with as many clients as one likes."""

    def __init__(self) -> None:
        super().__init__(RUNNER)
        self.count = 0

    def ask(self, op: str, **request: object) -> Any:
        """Send a request and return its answer."""
        self.count += 1
        self.say(json.dumps({"id": self.count, "op": op, **request}))
        answer = self.hear()
        assert answer, f"the Node process died at {op}"
        reply = json.loads(answer)
        assert reply["id"] == self.count
        assert "failed" not in reply, reply["failed"]
        return reply["answer"]

    def open(
        self,
        url: str,
        name: str,
        *,
        kind: str = "3.1",
        socket: Socket | None = None,
        client_id: int | None = None,
        persisted: bytes | None = None,
        token: str | None = None,
        token_is: str = "function",
        writes: str | None = None,
        **options: object,
    ) -> Client:
        """Open a document.

        Args:
            url: Of the server, as in ``ws://localhost/ws``.
            socket: One of Hocuspocus' that others may use, too.
            persisted: An update that it has, from an earlier life.
            token: What it gives, as a parameter of the URL, or in its own way.
            token_is: What Hocuspocus' provider is given: a ``string``, a ``function``
                that returns it, or one that returns a ``promise``.
            writes: What it writes at once, before anything can be heard.
            options: The provider's own, and ``awareness``: whether it tells who it is,
                and ``headers`` of the handshake, as a browser has cookies.
        """
        self.count += 1
        client = Client(self, self.count, kind)
        given = {
            "socket": None if socket is None else socket.number,
            "clientID": client_id,
            "persisted": persisted and b64encode(persisted).decode(),
            "token": token,
            "writes": writes,
        }
        self.ask(
            "open",
            client=client.number,
            url=url,
            name=name,
            kind=kind,
            tokenIs=token_is,
            options=options,
            **{key: value for key, value in given.items() if value is not None},
        )
        return client

    def socket(self, url: str, kind: str, **options: object) -> Socket:
        """Open a socket of Hocuspocus', version 2 to 4, for several documents."""
        self.count += 1
        socket = Socket(self, self.count, kind, url)
        self.ask("socket", socket=socket.number, url=url, kind=kind, options=options)
        return socket

    def take_errors(self) -> list[str]:
        """What was thrown in providers and caught by nobody; it is forgotten."""
        errors: list[str] = self.ask("takeErrors")
        return errors

    def take_said(self) -> list[str]:
        """What providers told the console, with its level in front; it is forgotten."""
        said: list[str] = self.ask("takeSaid")
        return said


class Socket:
    """A socket of Hocuspocus', for several documents."""

    def __init__(self, clients: Clients, number: int, kind: str, url: str) -> None:
        self.clients = clients
        self.number = number
        self.kind = kind
        self.url = url

    def open(self, name: str, **options: Any) -> Client:
        """Open a document on it."""
        return self.clients.open(self.url, name, kind=self.kind, socket=self, **options)

    @property
    def opened(self) -> int:
        """How often it was opened."""
        count: int = self.clients.ask("opened", socket=self.number)
        return count

    def destroy(self) -> None:
        """Close it for good."""
        self.clients.ask("destroySocket", socket=self.number)


class Client:
    """One document with a provider. Its text is named ``text``."""

    def __init__(self, clients: Clients, number: int, kind: str) -> None:
        self.clients = clients
        self.number = number
        self.kind = kind
        self.open = True

    def run(self, code: str, **values: object) -> Any:
        """Run JavaScript; ``doc``, ``provider``, ``awareness``, ``Y`` are in reach.

        So are its ``socket``, ``frames`` and ``events``, what happened so far, and
        ``kept``, an object for what later code needs.
        """
        return self.clients.ask("run", client=self.number, code=code, values=values)

    def insert(self, at: int, text: str) -> None:
        """Write something."""
        self.run("doc.getText('text').insert(at, text)", at=at, text=text)

    def append(self, text: str) -> None:
        """Write something at the end."""
        self.run("const t = doc.getText('text'); t.insert(t.length, text)", text=text)

    @property
    def text(self) -> str:
        """What it shows."""
        text: str = self.run("return doc.getText('text').toString()")
        return text

    @property
    def length(self) -> int:
        """Of what it shows."""
        length: int = self.run("return doc.getText('text').length")
        return length

    @property
    def id(self) -> int:
        """Its client id."""
        number: int = self.run("return doc.clientID")
        return number

    @property
    def synced(self) -> bool:
        """Whether the server said that it has all there is."""
        synced: bool = self.run("return provider.synced")
        return synced

    @property
    def connected(self) -> bool:
        """Whether its WebSocket is open."""
        connected: bool = self.clients.ask("connected", client=self.number)
        return connected

    @property
    def connections(self) -> int:
        """How many WebSockets it has opened so far."""
        count: int = self.run("return frames.filter(({ way }) => way === 'new').length")
        return count

    @property
    def saved(self) -> bool:
        """Whether all that it wrote is saved, as its provider tells it.

        Where a provider does not, it is whether all that was sent on this connection
        came back.
        """
        saved: bool = self.clients.ask("saved", client=self.number)
        return saved

    @property
    def acknowledged(self) -> int:
        """How many of its edits it was told are saved, if it was never offline."""
        count: int = self.clients.ask("acknowledged", client=self.number)
        return count

    @property
    def events(self) -> list[str]:
        """What its provider told, in the order of time.

        Each ``status``; ``closed CODE`` for the end of a WebSocket; ``gave up CODE``;
        ``sync-status COLOUR``; ``authenticated SCOPE``; ``denied REASON``; ``detached
        REASON``; ``stateless PAYLOAD``.
        """
        events: list[str] = self.run("return events")
        return events

    @property
    def people(self) -> dict[int, dict[str, Any]]:
        """Who it sees, itself included: states by client id."""
        states = self.run("return [...awareness.getStates()]")
        return dict(states)

    @property
    def state(self) -> bytes:
        """All it has, as one update."""
        state = self.run(
            "return Buffer.from(Y.encodeStateAsUpdate(doc)).toString('base64')"
        )
        return b64decode(state)

    def messages(self, way: str) -> list[bytes]:
        """What came ``in``, or went ``out``, without addresses.

        Hocuspocus' providers 2 to 4 put one in front of each message; what has another
        one, on a socket that others use, too, is not there.
        """
        if self.kind not in HOCUSPOCUS[1:]:
            return self.frames(way)
        address = self.address
        return [
            frame.removeprefix(address)
            for frame in self.frames(way)
            if frame.startswith(address)
        ]

    @property
    def address(self) -> bytes:
        """What stands in front of each of its messages."""
        if self.kind not in HOCUSPOCUS[1:]:
            return b""
        name: str = self.run(
            "return provider.effectiveName ?? provider.configuration.name"
        )
        return wire.text(name)

    def send(self, message: bytes) -> None:
        """Send a message of one's own, over its socket."""
        data = b64encode(self.address + message).decode()
        self.run("socket.send(Buffer.from(data, 'base64'))", data=data)

    def frames(self, way: str) -> list[bytes]:
        """What came ``in``, or went ``out``, as it was."""
        frames = self.run(
            "return frames.filter((frame) => frame.way === way)"
            ".map((frame) => Buffer.from(frame.data).toString('base64'))",
            way=way,
        )
        return [b64decode(frame) for frame in frames]

    def announce(self, state: dict[str, Any] | None) -> None:
        """Say who it is; ``None`` for leaving."""
        self.run("awareness.setLocalState(state)", state=state)

    def act(self, what: str, *values: object) -> None:
        """Do something in the way of its provider."""
        self.clients.ask("act", client=self.number, what=what, values=values)

    def disconnect(self) -> None:
        """Go offline, with a goodbye."""
        self.act("disconnect")

    def connect(self) -> None:
        """Go online."""
        self.act("connect")

    def renew(self, token: str) -> None:
        """Have another token from now on."""
        self.clients.ask("renew", client=self.number, token=token)

    def retry(self) -> None:
        """Try again after it was denied, as an application does with a new token."""
        self.act("retry")

    def say(self, payload: str) -> None:
        """Send the application a message of its own."""
        self.act("say", payload)

    def die(self) -> None:
        """Lose the socket without a goodbye, and don't come back."""
        self.clients.ask("die", client=self.number)

    def break_off(self) -> None:
        """Lose the socket without a goodbye, and try again."""
        self.clients.ask("breakOff", client=self.number)

    def destroy(self) -> None:
        """Close the document, as an application does."""
        self.open = False
        self.clients.ask("destroy", client=self.number)
