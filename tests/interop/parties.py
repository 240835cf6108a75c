"""Clients in the field, together in a document."""

from __future__ import annotations

import itertools
import random
from typing import Any

from tests.interop import Client, Clients, Socket
from tests.servers import Server

MIXED = "mixed"
"""A party to which each brings a kind of its own."""

numbers = itertools.count(1)


class Party:
    """Clients of one kind in one document."""

    def __init__(self, clients: Clients, url: str, kind: str = MIXED) -> None:
        self.clients = clients
        self.url = url
        self.kind = kind
        self.name = f"party-{next(numbers)}"
        self.opened: list[Client] = []
        self.sockets: list[Socket] = []

    def open(
        self, name: str | None = None, kind: str | None = None, **options: Any
    ) -> Client:
        """Open the party's document, or another."""
        if self.kind == MIXED:
            kind = kind or "3.1"
            options = {**for_company(kind), **options}
        client = self.clients.open(
            self.url,
            self.name if name is None else name,
            kind=kind or self.kind,
            **options,
        )
        self.opened.append(client)
        return client

    def socket(self, kind: str | None = None, **options: Any) -> Socket:
        """Open a Hocuspocus socket for several documents."""
        socket = self.clients.socket(self.url, kind or self.kind, **options)
        self.sockets.append(socket)
        return socket

    def close(self) -> None:
        """Free all of them.

        Raises:
            AssertionError: If one of them threw an error, ever.
        """
        for client in self.opened:
            if client.open:
                client.destroy()
        for socket in self.sockets:
            socket.destroy()
        errors = self.clients.take_errors()
        assert not errors, "\n".join(errors)


class Fragile(Party):
    """A party on a server of its own, which may be stopped and started."""

    def __init__(self, clients: Clients, server: Server, kind: str = MIXED) -> None:
        super().__init__(clients, server.ws_url, kind)
        self.server = server


def for_company(kind: str) -> dict[str, Any]:
    """Options for a client of a kind, so that every other kind understands it.

    Yjs 14 chooses ids of 53 bits. Hocuspocus' provider 1.1 brings an old lib0 along to
    read presence, which ends at 35.
    """
    return {"client_id": random.getrandbits(31)} if kind == "4.0" else {}


def text_of(*clients: Client) -> str | None:
    """The text that all of them show, if it is the same."""
    texts = {client.text for client in clients}
    return texts.pop() if len(texts) == 1 else None


def names_seen_by(client: Client) -> set[str]:
    """The names of who it sees."""
    return {
        state["user"]["name"] for state in client.people.values() if "user" in state
    }


def user(name: str) -> dict[str, Any]:
    """What somebody of that name announces."""
    return {"user": {"name": name, "color": "#30bced"}}
