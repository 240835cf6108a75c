"""What only Hocuspocus' providers do: many documents on a socket, and its messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from json import load
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from tests import applications
from tests.applications import Uvicorn
from tests.interop import HOCUSPOCUS, KINDS, Clients, until
from tests.interop.parties import Fragile, Party, names_seen_by, text_of, user
from tests.test_cli import collab

pytest_plugins = ["tests.interop.fixtures"]

PROVIDERS = HOCUSPOCUS[1:]
"""Those that have several documents on a socket."""


@pytest.fixture(params=PROVIDERS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each of them, one after the other."""
    return str(request.param)


# Sockets.


def test_150_documents_open_on_one_socket(party: Party) -> None:
    socket = party.socket()
    documents = [socket.open(f"{party.name}-{number}") for number in range(150)]
    party.opened += documents
    until(lambda: all(client.synced for client in documents))
    for number, client in enumerate(documents):
        client.append(f"number {number}")
    until(lambda: all(client.saved for client in documents))
    assert socket.opened == 1
    another = party.socket()
    for number, client in enumerate(documents):
        client.destroy()
        documents[number] = another.open(f"{party.name}-{number}")
    party.opened += documents
    until(
        lambda: all(
            client.text == f"number {number}" for number, client in enumerate(documents)
        )
    )
    assert another.opened == socket.opened == 1


def test_a_socket_that_died_comes_back_with_all_its_documents(party: Party) -> None:
    socket = party.socket()
    documents = [socket.open(f"{party.name}-{number}") for number in range(5)]
    party.opened += documents
    until(lambda: all(client.synced for client in documents))
    documents[0].break_off()
    for client in documents:
        client.append("meanwhile")
    until(lambda: socket.opened == 2)
    until(lambda: all(client.synced and client.saved for client in documents))
    readers = [party.open(f"{party.name}-{number}") for number in range(5)]
    until(lambda: text_of(*readers) == "meanwhile")


def test_documents_of_a_socket_have_any_name(party: Party) -> None:
    names = ["constructor", "__proto__", "toString", "a/b", "😀 漢字", "%2F", " x "]
    names += ["ü" * 127 + "x", "w" * 255]
    socket = party.socket()
    documents = {name: socket.open(name) for name in names}
    party.opened += documents.values()
    for name, client in documents.items():
        client.append(f"<{party.kind} in {name}>")
    until(lambda: all(client.saved for client in documents.values()))
    for name in names:
        reader = party.open(name)
        until(lambda: f"<{party.kind} in {name}>" in reader.text)  # noqa: B023
    assert socket.opened == 1


def test_who_closes_a_document_leaves_it_and_no_other(party: Party) -> None:
    socket = party.socket()
    one, two = socket.open(f"{party.name}-1"), socket.open(f"{party.name}-2")
    party.opened += [one, two]
    readers = [party.open(f"{party.name}-{number}") for number in (1, 2)]
    for client in (one, two):
        client.announce(user("Ann"))
    for reader in readers:
        until(lambda: names_seen_by(reader) == {"Ann"})  # noqa: B023
    one.destroy()
    until(lambda: names_seen_by(readers[0]) == set(), patience=4)
    two.append("still here")
    until(lambda: readers[1].text == "still here" and two.saved)
    assert names_seen_by(readers[1]) == {"Ann"}
    assert socket.opened == 1
    readers[0].append("nobody else")
    until(lambda: readers[0].saved)
    assert not any(b"nobody else" in frame for frame in two.frames("in"))
    readers[0].run("const t = doc.getText('text'); t.delete(0, t.length)")
    again = socket.open(f"{party.name}-1")
    party.opened.append(again)
    again.append("back")
    until(lambda: readers[0].text == "back" and again.saved)


@pytest.mark.parametrize("kind", PROVIDERS[1:])
def test_a_document_may_be_detached_and_attached(party: Party) -> None:
    socket = party.socket()
    ann, bob = socket.open(party.name), party.open()
    party.opened.append(ann)
    ann.append("before ")
    ann.announce(user("Ann"))
    until(lambda: bob.text == "before " and names_seen_by(bob) == {"Ann"})
    ann.disconnect()
    until(lambda: names_seen_by(bob) == set(), patience=4)
    until(lambda: b"\x07\x12provider_initiated" in ann.messages("in"))
    ann.append("detached ")
    bob.append("meanwhile ")
    ann.connect()
    until(lambda: text_of(ann, bob) is not None and len(bob.text) == 26)
    until(lambda: ann.saved)
    assert socket.opened == 1


def test_bytes_that_are_no_message_end_only_that_socket(party: Party) -> None:
    ann, bob, cleo = party.open(), party.open(), party.open()
    until(lambda: ann.synced and bob.synced and cleo.synced)
    ann.run("socket.send(new Uint8Array([255]))")
    until(lambda: "closed 4400" in ann.events)
    bob.send(b"\0\2\3\1\1\1")
    until(lambda: text_of(cleo) == "")
    cleo.append("hello")
    until(lambda: cleo.saved)
    assert cleo.connections == 1
    until(lambda: ann.text == "hello")  # It comes back.


# Sessions: the same document several times on one socket.


@pytest.fixture
def sessions(party: Party) -> Any:
    socket = party.socket()

    def open(**options: Any) -> Any:
        client = socket.open(party.name, sessionAwareness=True, **options)
        party.opened.append(client)
        return client

    return open


@pytest.mark.parametrize("kind", ["hocuspocus-4"])
def test_two_sessions_of_a_document_share_a_socket(party: Party, sessions: Any) -> None:
    ann, bob, cleo = sessions(), sessions(), party.open()
    assert ann.address != bob.address
    ann.append("ann ")
    until(lambda: text_of(ann, bob, cleo) == "ann ")
    bob.append("bob ")
    cleo.append("cleo")
    until(lambda: len(text_of(ann, bob, cleo) or "") == 12)
    until(lambda: ann.saved and bob.saved and cleo.saved)
    for client, name in ((ann, "Ann"), (bob, "Bob"), (cleo, "Cleo")):
        client.announce(user(name))
    everybody = {"Ann", "Bob", "Cleo"}
    for client in (ann, bob, cleo):
        until(lambda: names_seen_by(client) == everybody)  # noqa: B023
    ann.destroy()
    until(lambda: names_seen_by(bob) == {"Bob", "Cleo"} == names_seen_by(cleo))
    bob.append("!")
    until(lambda: text_of(bob, cleo) is not None and bob.saved)
    assert bob.connections == 1


# A document that is taken away.


@pytest.mark.parametrize("kind", HOCUSPOCUS)
def test_who_has_a_deleted_document_open_is_told(fragile: Fragile) -> None:
    doomed = fragile.open("doomed")
    doomed.append("x")
    other = fragile.open("other")
    party_socket = None
    if fragile.kind in PROVIDERS:
        party_socket = fragile.socket()
        doomed, other = party_socket.open("doomed"), party_socket.open("other")
        fragile.opened += [doomed, other]
    until(lambda: doomed.text == "x")
    until(lambda: other.synced)
    deleted = collab(
        *("docs", "delete", "doomed"),
        environment={"COLLAB_DATABASE": fragile.server.database_url},
    )
    assert deleted.returncode == 0, deleted.stderr
    match fragile.kind:
        case "hocuspocus-4":
            until(lambda: any(e.startswith("detached ") for e in doomed.events))
        case "hocuspocus-2" | "hocuspocus-3":
            until(lambda: any(e.startswith("denied ") for e in doomed.events))
        case _:
            until(lambda: any(e.startswith("closed ") for e in doomed.events))
    other.append("goes on")
    until(lambda: other.saved)
    if party_socket is not None:
        assert party_socket.opened == 1


# Applications.


class Hall:
    """``tests/interop/hall.py``, which hears its clients, and speaks to them."""

    def __init__(self, server: Uvicorn) -> None:
        self.server = server

    def post(self, what: str, **values: str) -> None:
        """Have it do something."""
        url = f"{self.server.url.removesuffix('/collab')}/{what}?{urlencode(values)}"
        urlopen(Request(url, method="POST")).close()

    @property
    def heard(self) -> list[tuple[str, str, str]]:
        """What clients said: the document, what it was, and the user."""
        with urlopen(f"{self.server.url.removesuffix('/collab')}/heard") as answer:
            return [(name, payload, user) for name, payload, user in load(answer)]


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    with applications.running(
        "tests.interop.hall:app",
        Path(__file__).parents[1],
        tmp_path_factory.mktemp("hall"),
        "/collab",
    ) as server:
        yield Hall(server)


@pytest.fixture
def guests(clients: Clients, hall: Hall) -> Iterator[Party]:
    """A party at the application's, to which each brings a kind of its own."""
    party = Party(clients, hall.server.ws_url)
    yield party
    party.close()


def test_an_application_hears_its_clients_and_speaks_to_them(
    hall: Hall, guests: Party
) -> None:
    everybody = {kind: guests.open(kind=kind, token=f"write:{kind}") for kind in KINDS}
    talk = {kind: everybody[kind] for kind in (*HOCUSPOCUS, "y-partyserver")}
    until(lambda: all(client.synced for client in everybody.values()))
    for kind, client in talk.items():
        client.say(f"{kind} says 😀")
    said = {(guests.name, f"{kind} says 😀", kind) for kind in talk}
    until(lambda: {*hall.heard} >= said)
    assert len([entry for entry in hall.heard if entry[0] == guests.name]) == len(said)
    hall.post("broadcast", document=guests.name, payload="the hall answers 😀")
    for client in talk.values():
        until(lambda: "stateless the hall answers 😀" in client.events)  # noqa: B023
    # Nobody heard what was said by others, and who has no such messages lives on.
    for kind, client in everybody.items():
        heard = [event for event in client.events if event.startswith("stateless")]
        assert len(heard) == (1 if kind in talk else 0), kind
        client.append(f"<{kind}>")
    until(lambda: all(client.saved for client in everybody.values()))
    until(lambda: text_of(*everybody.values()) is not None)
    shown = re.findall("<(.*?)>", everybody["3.1"].text)
    assert sorted(shown) == sorted(KINDS)
    assert all(client.connections == 1 for client in everybody.values())


def test_a_broadcast_reaches_one_document_of_a_socket(
    hall: Hall, guests: Party, kind: str
) -> None:
    socket = guests.socket(kind)
    one, two = (
        socket.open(f"{guests.name}-{number}", token="write:ann") for number in (1, 2)
    )
    guests.opened += [one, two]
    until(lambda: one.synced and two.synced)
    hall.post("broadcast", document=f"{guests.name}-2", payload="only two")
    hall.post("broadcast", document=f"{guests.name}-1", payload="only one")
    until(lambda: "stateless only one" in one.events)
    until(lambda: "stateless only two" in two.events)
    assert "stateless only two" not in one.events
    assert "stateless only one" not in two.events


# Version 3.3 was the first that can be asked.
@pytest.mark.parametrize("kind", PROVIDERS[1:])
def test_a_token_is_asked_for_again(hall: Hall, guests: Party, kind: str) -> None:
    hall.post("verdict", token=f"bob-{kind}", verdict="write:bob")
    ann = guests.open(token="write:ann")
    # The rest is there: they are asked, too, and do not know what that is.
    rest = [guests.open(kind=other, token=f"write:{other}") for other in KINDS]
    bob = guests.open(kind=kind, token=f"bob-{kind}")
    elsewhere = guests.open(f"{guests.name}-2", kind=kind, token="write:bob")
    bob.append("bob ")
    until(lambda: ann.text == "bob " and bob.saved)

    hall.post("verdict", token=f"bob-{kind}", verdict="read:bob")
    hall.post("tokens", document=guests.name)
    until(lambda: bob.events[-1] == "authenticated readonly")
    bob.append("may not ")
    ann.append("ann ")
    until(lambda: len(bob.text) == 16)
    until(lambda: bob.messages("in").count(b"\x08\x00") == 1)
    assert ann.text == "bob ann "
    assert not bob.saved

    hall.post("verdict", token=f"bob-{kind}", verdict="nothing")
    hall.post("tokens", document=guests.name)
    until(lambda: "denied nobody knows you" in bob.events)
    ann.append("alone ")
    until(lambda: ann.saved)
    assert "alone" not in bob.text
    assert bob.connected
    assert elsewhere.connected
    for client in rest:
        assert client.connected, client.kind
        assert client.connections == 1, client.kind

    # What it could not say is accepted once it may write.
    hall.post("verdict", token=f"bob-{kind}", verdict="write:bob")
    bob.retry()
    until(lambda: ann.text == bob.text and "may not" in ann.text)
    until(lambda: bob.saved)
