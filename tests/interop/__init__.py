"""Clients in the field: y-websocket 1.5, 2.1 and 3.1, in a Node process, for tests.

::

    with Clients() as clients:
        ann = clients.open(server.ws_url, "doc", version="3")
        bob = clients.open(server.ws_url, "doc", version="1")
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

from tests.node import NodeProcess

RUNNER = Path(__file__).parent / "runner.mjs"

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
        version: str = "3",
        socket: str = "ws",
        client_id: int | None = None,
        persisted: bytes | None = None,
        **options: object,
    ) -> Client:
        """Open a document; ``options`` are the provider's own, and ``awareness``."""
        self.count += 1
        client = Client(self, self.count)
        self.ask(
            "open",
            client=client.number,
            url=url,
            name=name,
            version=version,
            socket=socket,
            options=options,
            **({} if client_id is None else {"clientID": client_id}),
            **(
                {}
                if persisted is None
                else {"persisted": b64encode(persisted).decode()}
            ),
        )
        return client


class Client:
    """One document with a provider. Its text is named ``text``."""

    def __init__(self, clients: Clients, number: int) -> None:
        self.clients = clients
        self.number = number
        self.open = True

    def run(self, code: str, **values: object) -> Any:
        """Run JavaScript; ``doc``, ``provider``, ``awareness``, ``Y`` are in reach.

        So are ``frames`` and ``events``, what happened so far, and ``kept``, an object
        for what later code needs.
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
        connected: bool = self.run("return provider.wsconnected")
        return connected

    @property
    def saved(self) -> bool:
        """Whether all that it sent on this connection came back to it."""
        saved: bool = self.run("return echoed().saved")
        return saved

    @property
    def heard_back(self) -> int:
        """How many of its updates came back to it."""
        count: int = self.run("return echoed().back")
        return count

    @property
    def events(self) -> list[str]:
        """Each ``status`` of its provider, ``closed CODE``, ``gave up CODE``."""
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

    def frames(self, way: str) -> list[bytes]:
        """What came ``in``, or went ``out``."""
        frames = self.run(
            "return frames.filter((frame) => frame.way === way)"
            ".map((frame) => Buffer.from(frame.data).toString('base64'))",
            way=way,
        )
        return [b64decode(frame) for frame in frames]

    def announce(self, state: dict[str, Any] | None) -> None:
        """Say who it is; ``None`` for leaving."""
        self.run("awareness.setLocalState(state)", state=state)

    def disconnect(self) -> None:
        """Go offline, with a goodbye."""
        self.run("provider.disconnect()")

    def connect(self) -> None:
        """Go online."""
        self.run("provider.connect()")

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
