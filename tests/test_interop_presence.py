"""Who is here, for the clients in the field, and that who says nothing stays here."""

from __future__ import annotations

import time

import pytest

from tests.interop import HOCUSPOCUS, KINDS, Client, Clients, until
from tests.interop.parties import Party, for_company, names_seen_by, user

pytest_plugins = ["tests.interop.fixtures"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of client, one after the other."""
    return str(request.param)


def test_presence_appears_changes_and_leaves(party: Party) -> None:
    ann, bob, cleo = party.open(), party.open(), party.open()
    ann.announce(user("Ann"))
    bob.announce(user("Bob"))
    until(lambda: names_seen_by(cleo) == {"Ann", "Bob"} == names_seen_by(ann))
    ann.announce({**user("Anna"), "cursor": {"anchor": 1, "head": 2}})
    until(lambda: names_seen_by(cleo) == {"Anna", "Bob"} == names_seen_by(bob))
    assert cleo.people[ann.id]["cursor"] == {"anchor": 1, "head": 2}
    ann.announce(None)
    until(lambda: names_seen_by(cleo) == {"Bob"} == names_seen_by(bob), patience=5)
    assert ann.id not in cleo.people
    gone = bob.id
    bob.destroy()
    until(lambda: gone not in cleo.people, patience=5)
    ann.announce(user("Ann, again"))
    until(lambda: names_seen_by(cleo) == {"Ann, again"})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "hocuspocus-1"])
def test_who_shows_nothing_sees_the_others(party: Party) -> None:
    """Hocuspocus' providers 2 to 4 have no awareness then; version 1 always has one."""
    ann, bob = party.open(awareness=False), party.open()
    bob.announce(user("Bob"))
    ann.append("hello")
    until(lambda: bob.text == "hello")
    assert names_seen_by(bob) == {"Bob"}
    if kind_without_awareness(party.kind):
        assert ann.people == {}
    else:
        until(lambda: names_seen_by(ann) == {"Bob"})
    bob.append(" there")
    until(lambda: ann.text == "hello there" and ann.saved)


def kind_without_awareness(kind: str) -> bool:
    """Whether clients of that kind can do without any awareness."""
    return kind in HOCUSPOCUS[1:]


def test_whose_socket_dies_leaves_soon(mixed: Party) -> None:
    reader = mixed.open()
    cut = [kind for kind in KINDS if kind != "3.1-native"]  # It cannot be cut off.
    with Clients() as doomed:
        for kind in KINDS:
            killed = doomed.open(mixed.url, mixed.name, kind=kind, **for_company(kind))
            killed.announce(user(f"{kind}, killed"))
        for kind in cut:
            mixed.open(kind=kind).announce(user(f"{kind}, cut off"))
        until(lambda: len(names_seen_by(reader)) == len(KINDS) + len(cut))
        doomed.kill()
        for client in mixed.opened[1:]:
            client.die()
        until(lambda: not names_seen_by(reader), patience=10)


def test_who_closes_a_document_leaves_at_once(party: Party) -> None:
    ann, bob = party.open(), party.open()
    ann.announce(user("Ann"))
    until(lambda: names_seen_by(bob) == {"Ann"})
    ann.disconnect()
    until(lambda: names_seen_by(bob) == set(), patience=4)  # Not after the grace of 5.
    ann.connect()
    until(lambda: names_seen_by(bob) == {"Ann"}, patience=8)  # Not with its renewal.
    ann.destroy()
    until(lambda: names_seen_by(bob) == set(), patience=4)


# Node's own WebSocket cannot be cut off.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "3.1-native"])
def test_a_client_that_is_soon_back_never_left(party: Party) -> None:
    ann, bob = party.open(), party.open()
    ann.announce(user("Ann"))
    until(lambda: names_seen_by(bob) == {"Ann"})
    bob.run(
        "kept.removed = [];"
        "awareness.on('change', ({ removed }) => kept.removed.push(...removed))"
    )
    ann.break_off()
    until(lambda: ann.connections == 2 and ann.synced)
    ann.announce(user("Ann, back"))
    until(lambda: names_seen_by(bob) == {"Ann, back"})
    assert bob.run("return kept.removed") == []


@pytest.mark.slow
def test_who_says_nothing_for_long_stays_connected(mixed: Party) -> None:
    """Most reconnect when they have not heard a message for 30 s, or 45 s (3.1-rc)."""
    silent: list[Client] = []
    for kind in KINDS:
        for awareness in (True, False):
            name = f"{mixed.name}-{kind}-{awareness}"
            silent.append(mixed.open(name, kind, awareness=awareness))
    for kind in HOCUSPOCUS[1:]:
        socket = mixed.socket(kind)
        for number in range(3):
            name = f"{mixed.name}-{kind}-shared-{number}"
            silent.append(socket.open(name, awareness=False))
    until(lambda: all(client.synced for client in silent))
    start = time.monotonic()
    while time.monotonic() - start < 70:
        for client in silent:
            assert client.connections == 1, client.kind
            assert client.connected, client.kind
        time.sleep(1)
    for client in silent:
        client.append("still here")
    until(lambda: all(client.saved for client in silent))

    # Only Hocuspocus' version 4 knows the byte that asks for a sign of life.
    for client in silent:
        asked, answered = (
            [frame for frame in client.frames(way) if len(frame) == 1]
            for way in ("in", "out")
        )
        if client.kind == "hocuspocus-4":
            assert {*asked} <= {b"\x09"}
            assert answered == [b"\x0a"] * len(asked)
        else:
            assert asked == answered == []
    quiet = silent[-1]
    assert quiet.kind == "hocuspocus-4"
    assert b"\x09" in quiet.frames("in")
