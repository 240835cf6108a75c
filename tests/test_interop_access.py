"""Who may read, who may write, and who may not come in, as the clients hear it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop import HOCUSPOCUS, KINDS, Y_WEBSOCKET, Client, until
from tests.interop.door import REASON
from tests.interop.parties import Party, names_seen_by, user
from tests.servers import Server, running

pytest_plugins = ["tests.interop.fixtures"]

WRITER = "write:ann"
READER = "read:bob"
NOBODY = "nobody:eve"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of client, one after the other."""
    return str(request.param)


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tokens are good for that do not say it themselves."""
    path = tmp_path_factory.mktemp("door") / "verdicts.json"
    path.write_text(json.dumps({"ann": WRITER}))
    return path


@pytest.fixture(scope="module")
def server(
    verdicts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server with a door."""
    with running(
        tmp_path_factory.mktemp("access"),
        *("--authorize", "tests.interop.door:authorize"),
        environment={"COLLAB_DOOR": str(verdicts)},
    ) as server:
        yield server


def said_by(party: Party) -> str:
    """What clients of the party told the console since this was asked."""
    return "\n".join(party.clients.take_said())


# Readers.


def test_a_reader_stays_and_shows_itself_and_changes_nothing(party: Party) -> None:
    said_by(party)
    ann, bob = party.open(token=WRITER), party.open(token=READER)
    ann.append("hello")
    ann.announce(user("Ann"))
    bob.announce(user("Bob"))
    until(lambda: bob.text == "hello" and bob.synced)
    until(lambda: names_seen_by(ann) == {"Ann", "Bob"} == names_seen_by(bob))
    for number in range(3):
        bob.append(f" {number}")
    ann.append(" there")
    until(lambda: len(bob.text) == len("hello 0 1 2 there"))
    bob.announce(user("Bobby"))
    until(lambda: names_seen_by(ann) == {"Ann", "Bobby"})
    assert ann.text == "hello there"
    until(lambda: ann.saved)
    assert not bob.saved
    cleo = party.open(token=WRITER)
    until(lambda: cleo.synced)
    assert cleo.text == "hello there"
    assert bob.connected
    assert bob.connections == 1
    match party.kind:
        case "hocuspocus-1":
            assert "authenticated" in bob.events
        case "hocuspocus-2" | "hocuspocus-3" | "hocuspocus-4":
            assert "authenticated read-write" in ann.events
            assert "authenticated readonly" in bob.events
            assert bob.messages("in").count(b"\x08\x00") == 3
        case "y-sweet":
            pass  # It has no words for it; its local changes are never saved.
        case _:
            told = [m for m in bob.messages("in") if m.startswith(b"\x02")]
            assert told == [b"\x02\x00\x09read-only"]
            assert said_by(party).count("read-only") == 1


def test_what_a_reader_wrote_offline_changes_nothing_either(party: Party) -> None:
    ann, bob = party.open(token=WRITER), party.open(token=READER)
    ann.append("hello")
    until(lambda: bob.text == "hello" and bob.synced)
    if party.kind in HOCUSPOCUS[1:]:
        # What it has is what we have.
        until(lambda: bob.saved)
    bob.disconnect()
    bob.append(" from bob")
    ann.append(" there")
    bob.connect()
    until(lambda: bob.connections == 2 and bob.synced and "there" in bob.text)
    bob.announce(user("Bob"))
    until(lambda: names_seen_by(ann) == {"Bob"})
    assert ann.text == "hello there"
    assert not bob.saved
    cleo = party.open(token=READER)
    until(lambda: cleo.synced)
    assert cleo.text == "hello there"
    assert bob.connected


# Who is not let in.


def test_who_is_denied_is_told_so_and_does_not_storm_the_door(mixed: Party) -> None:
    said_by(mixed)
    inside = mixed.open(token=WRITER)
    inside.append("secret")
    inside.announce(user("Ann"))
    until(lambda: inside.saved)
    denied = {kind: mixed.open(kind=kind, token=NOBODY) for kind in KINDS}
    for client in denied.values():
        client.append("let me in")
        client.announce(user("Eve"))
    time.sleep(4)
    said = said_by(mixed)
    for kind, client in denied.items():
        assert client.text == "let me in", kind
        assert not client.saved, kind
        assert "Ann" not in names_seen_by(client), kind
        if kind in HOCUSPOCUS:
            assert f"denied {REASON}" in client.events
        if kind in HOCUSPOCUS[1:]:
            assert client.connected, kind  # There may be other documents.
        match kind:
            case "3.1" | "3.1-native":
                assert client.events[-1] == "gave up 4403"
                assert client.connections == 1
            case "hocuspocus-1" | "hocuspocus-2" | "hocuspocus-3" | "hocuspocus-4":
                assert client.connections == 1, kind
            case _:
                assert "closed 4403" in client.events, kind
                assert 1 <= client.connections <= 5, kind
    told = [*Y_WEBSOCKET, "y-partyserver"]
    assert said.count("Permission denied") >= len(told)
    assert said.count(REASON) >= len(told)
    assert inside.text == "secret"
    assert names_seen_by(inside) == {"Ann"}


def test_who_has_no_token_is_asked_about_too(mixed: Party) -> None:
    everybody = {kind: mixed.open(kind=kind) for kind in KINDS}
    for kind, client in everybody.items():
        if kind in HOCUSPOCUS[1:]:
            until(lambda: f"denied {REASON}" in client.events)  # noqa: B023
        else:
            until(lambda: "closed 4403" in client.events)  # noqa: B023
        assert not client.synced, kind


# In 1.5 the URL is made once; the others ask for the token at each attempt.
@pytest.mark.parametrize(
    "kind", [*Y_WEBSOCKET[1:], *HOCUSPOCUS, "y-sweet", "y-partyserver"]
)
def test_who_was_denied_comes_in_with_another_token(party: Party) -> None:
    ann, bob = party.open(token=WRITER), party.open(token=NOBODY)
    bob.append("bob was here")
    bob.announce(user("Bob"))
    if party.kind in HOCUSPOCUS:
        until(lambda: f"denied {REASON}" in bob.events)
    if party.kind not in HOCUSPOCUS[1:]:
        until(lambda: "closed 4403" in bob.events)
    assert ann.text == ""
    bob.renew("write:bob")
    bob.retry()
    until(lambda: ann.text == "bob was here")
    until(lambda: names_seen_by(ann) == {"Bob"})
    until(lambda: bob.synced and bob.saved)
    ann.append(", ann too")
    ann.announce(user("Ann"))
    until(lambda: bob.text == "bob was here, ann too")
    until(lambda: names_seen_by(bob) == {"Ann", "Bob"})
    if party.kind in HOCUSPOCUS[1:]:
        assert bob.connections == 1
        assert bob.events[-1] == "authenticated read-write"


@pytest.mark.parametrize("kind", HOCUSPOCUS[2:])
def test_who_was_denied_may_be_attached_again(party: Party) -> None:
    """As applications do it that know of no ``sendToken``."""
    ann = party.open(token=WRITER)
    socket = party.socket()
    bob = socket.open(party.name, token=NOBODY)
    party.opened.append(bob)
    until(lambda: f"denied {REASON}" in bob.events)
    bob.disconnect()
    bob.renew("write:bob")
    bob.append("bob was here")
    bob.connect()
    until(lambda: ann.text == "bob was here")
    until(lambda: bob.saved)
    assert socket.opened == 1


@pytest.mark.parametrize("kind", HOCUSPOCUS[1:])
def test_what_is_written_before_the_token_is_said_arrives(party: Party) -> None:
    """On a socket that is open, an edit may be sent before who makes it is."""
    ann = party.open(token=WRITER)
    socket = party.socket()
    other = socket.open(f"{party.name}-other", token=WRITER)
    until(lambda: other.synced)
    bob = socket.open(party.name, token="write:bob", writes="at once ")
    party.opened += [other, bob]
    until(lambda: ann.text == "at once " and bob.saved)
    bob.append("and later")
    until(lambda: ann.text == "at once and later" and bob.saved)
    assert not any(event.startswith("denied") for event in bob.events)
    assert bob.run("return provider.unsyncedChanges") == 0


# Where a token may be.


@pytest.mark.parametrize("kind", HOCUSPOCUS)
@pytest.mark.parametrize("shape", ["string", "function", "promise"])
def test_a_token_may_be_given_in_each_shape(party: Party, shape: str) -> None:
    ann = party.open(token=WRITER, token_is=shape)
    ann.append("hello")
    until(lambda: ann.saved)
    assert any(event.startswith("authenticated") for event in ann.events)


# The others cannot ask for a subprotocol.
@pytest.mark.parametrize("kind", ["2.1", "3.1", "3.1-native", "3.1-rc", "4.0"])
def test_a_token_may_be_a_subprotocol(party: Party) -> None:
    ann = party.open(protocols=["yjs", "bearer.ann"])
    bob = party.open(protocols=["bearer.ann"])
    ann.append("hello")
    until(lambda: bob.text == "hello" and ann.saved)
    eve = party.open(protocols=["bearer.eve"])
    until(lambda: "closed 4403" in eve.events)


@pytest.mark.parametrize("kind", HOCUSPOCUS[:2])
def test_a_token_may_be_a_parameter_of_the_url(party: Party) -> None:
    """For those whose providers put some there, and who have no token otherwise."""
    ann = party.open(parameters={"token": WRITER})
    bob = party.open(parameters={"token": WRITER})
    ann.append("hello")
    until(lambda: bob.text == "hello" and ann.saved)


# Documents of one socket.


@pytest.mark.parametrize("kind", HOCUSPOCUS[1:])
def test_one_document_of_a_socket_may_be_denied(party: Party) -> None:
    socket = party.socket()
    tokens = {"mine": WRITER, "read": READER, "closed": NOBODY}
    documents: dict[str, Client] = {
        name: socket.open(f"{party.name}-{name}", token=token)
        for name, token in tokens.items()
    }
    party.opened += documents.values()
    until(lambda: f"denied {REASON}" in documents["closed"].events)
    until(lambda: documents["mine"].synced and documents["read"].synced)
    for client in documents.values():
        client.append("x")
    until(lambda: documents["mine"].saved)
    until(lambda: documents["read"].messages("in").count(b"\x08\x00") == 1)
    assert not documents["read"].saved
    assert "authenticated readonly" in documents["read"].events
    assert not documents["closed"].saved
    assert socket.opened == 1
