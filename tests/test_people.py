"""Who is here, if a client has several sessions: one owner, and its grace."""

from __future__ import annotations

from typing import Any

import pytest

from collab.asgi import PayloadEncodings
from collab.contents import finish
from collab.document import Document
from collab.errors import CollabError, ProtocolError
from collab.messages import Note, Presence, Update
from collab.notices import pass_on
from collab.people import GRACE, People
from collab.presence import MAX_ENTRIES, read_known
from collab.room import Room
from collab.session import Owner, Session
from tests.peers import data, insert, uint

ENCODINGS = PayloadEncodings()
KEY = (b"k" * 16, 1)


class Seat(Session):
    """A session that remembers what it was written."""

    def __init__(self, owner: Owner | None = None) -> None:
        super().__init__(
            ENCODINGS.numbered(1), self._hear, self._probed, self._dismissed
        )
        self.numbered = True
        self.shared = owner
        self.frames: list[bytes] = []
        self.probes = 0

    def _hear(self, encoded: list[bytes]) -> None:
        self.frames += encoded

    def _probed(self) -> None:
        self.probes += 1

    def _dismissed(self, error: CollabError) -> None:
        raise AssertionError(error)

    def hears(self) -> list[bytes]:
        """What it was written since the last time, without the channel."""
        frames, self.frames = self.frames, []
        return [frame[1:] for frame in frames]


def says(client: int, clock: int, state: str = "{}") -> bytes:
    return uint(1) + uint(client) + uint(clock) + data(state.encode())


def told(*entries: bytes) -> bytes:
    """The message of entries that :func:`says` spelled."""
    return b"\x03" + data(uint(len(entries)) + b"".join(e[1:] for e in entries))


@pytest.fixture
def room() -> Room:
    return Room("d", Document(), lambda room, delay: None)


def seat(room: Room, key: tuple[bytes, int] | None = None) -> Seat:
    session = Seat(room.people.owner(key) if key else None)
    room.seat(session)
    return session


def announce(room: Room, session: Session, client: int, clock: int, at: float) -> None:
    room.receive(Presence(says(client, clock)), session, at)
    room.flush(at + 1)


# Ownership.


def test_what_one_session_announced_another_of_the_same_owner_changes(
    room: Room,
) -> None:
    first, second, other = seat(room, KEY), seat(room, KEY), seat(room)
    announce(room, first, 7, 1, 0.0)
    announce(room, second, 7, 2, 2.0)
    assert other.hears() == [told(says(7, 1)), told(says(7, 2))]
    assert (first.probes, second.probes) == (0, 0)


def test_nobody_else_can(room: Room) -> None:
    first, thief, other = seat(room, KEY), seat(room, (b"t" * 16, 1)), seat(room)
    announce(room, first, 7, 1, 0.0)
    announce(room, thief, 7, 2, 2.0)
    announce(room, thief, 7, 3, 4.0)
    assert other.hears() == [told(says(7, 1))]
    assert first.probes == 1


def test_not_even_between_two_sessions_of_the_owner(room: Room) -> None:
    first, thief = seat(room, KEY), seat(room)
    announce(room, first, 7, 1, 0.0)
    room.leave(first, 1.0, goodbye=False)
    announce(room, thief, 7, 2, 2.0)
    room.expire(1.0 + GRACE - 0.1)
    assert room.people.encode() == says(7, 1)
    again = seat(room, KEY)
    room.expire(1.0 + GRACE)
    announce(room, again, 7, 2, 7.0)
    assert room.people.encode() == says(7, 2)
    assert again.shared is not None
    assert again.shared.owned == (7,)


def test_ids_stay_while_one_session_is_there_and_for_the_grace_after_it(
    room: Room,
) -> None:
    first, second, other = seat(room, KEY), seat(room, KEY), seat(room)
    announce(room, first, 7, 1, 0.0)
    other.hears()
    room.leave(first, 1.0, goodbye=False)
    room.expire(100.0)
    assert room.people.encode() == says(7, 1)
    room.leave(second, 200.0, goodbye=False)
    room.expire(200.0 + GRACE - 0.1)
    assert room.people.encode() == says(7, 1)
    room.expire(200.0 + GRACE)
    room.flush(200.0 + GRACE)
    assert room.people.encode() is None
    assert other.hears() == [told(says(7, 1, "null"))]
    assert not room.people.owners


def test_a_goodbye_is_one_of_all_sessions(room: Room) -> None:
    listens, speaks = seat(room, KEY), seat(room, KEY)
    announce(room, speaks, 7, 1, 0.0)
    room.leave(speaks, 1.0, goodbye=True)
    assert room.people.encode() is None
    announce(room, listens, 7, 2, 2.0)
    assert room.people.encode() == says(7, 2)


def test_a_claim_holds_when_the_grace_is_over(room: Room) -> None:
    first, heir = seat(room, KEY), seat(room)
    announce(room, first, 7, 1, 0.0)
    room.leave(first, 1.0, goodbye=False)
    announce(room, heir, 7, 2, 2.0)
    room.expire(1.0 + GRACE)
    assert room.people.encode() == says(7, 2)
    assert heir.owned == (7,)


def test_an_owner_forgets_sessions_that_have_left(room: Room) -> None:
    first = seat(room, KEY)
    owner = first.shared
    assert owner is not None
    assert owner.sessions == {first}
    room.leave(first, 0.0, goodbye=False)
    assert not owner.sessions


# What one says oneself is no news.


@pytest.mark.parametrize("count", [1, 3])
def test_updates_go_to_all_but_the_sessions_of_their_author(
    room: Room, count: int
) -> None:
    speaks, listens, other = seat(room, KEY), seat(room, KEY), seat(room)
    updates = [insert(client, "x") for client in range(1, count + 1)]
    for update in updates:
        room.receive(Update(update), speaks, 0.0)
    room.flush(0.0)
    spelled = [b"\x02" + uint(0) + data(update) for update in updates]
    assert other.hears() == spelled
    assert listens.hears() == speaks.hears() == []


def test_of_the_updates_of_several_each_gets_those_of_others(room: Room) -> None:
    speaks, listens, other = seat(room, KEY), seat(room, KEY), seat(room)
    mine, theirs = insert(1, "x"), insert(2, "y")
    room.receive(Update(mine), speaks, 0.0)
    room.receive(Update(theirs), other, 0.0)
    finish(room.learn_steps(insert(3, "z")))
    room.flush(0.0)
    update = [b"\x02" + uint(0) + data(u) for u in (mine, theirs, insert(3, "z"))]
    assert listens.hears() == speaks.hears() == update[1:]
    assert other.hears() == [update[0], update[2]]


def test_presence_goes_to_its_announcer_only_with_that_of_others(room: Room) -> None:
    speaks, listens, other = seat(room, KEY), seat(room, KEY), seat(room)
    announce(room, speaks, 7, 1, 0.0)
    assert listens.hears() == speaks.hears() == []
    assert other.hears() == [told(says(7, 1))]
    room.receive(Presence(says(7, 2)), speaks, 2.0)
    room.receive(Presence(says(8, 1)), other, 2.0)
    room.flush(2.0)
    assert listens.hears() == [told(says(7, 2), says(8, 1))]
    room.receive(Presence(says(7, 2, "null")), speaks, 4.0)
    room.flush(4.0)
    assert listens.hears() == []


def test_messages_go_to_all_but_the_sessions_of_their_author(room: Room) -> None:
    speaks, listens, other = seat(room, KEY), seat(room, KEY), seat(room)
    pass_on(room, Note("", b"!"), speaks)
    assert listens.hears() == speaks.hears() == []
    assert other.hears() == [b"\x04\x00\x01!"]


# What is known already.


def test_only_whose_clock_is_another_is_named_and_who_has_left() -> None:
    people = People()
    mine, other = Owner(), Seat()
    people.apply(says(1, 5), mine)
    for client in (2, 3, 4):
        people.apply(says(client, 5), other)
    people.apply(says(4, 6, "null"), other)
    known = {2: 5, 3: 4, 4: 5, 9: 8}
    news = people.encode_news(known, mine)
    assert news is not None
    expected = [says(3, 5), says(4, 6, "null"), says(9, 8, "null")]
    assert news == uint(3) + b"".join(entry[1:] for entry in expected)
    assert people.encode_news({2: 5, 3: 5}, mine) is None


def test_what_is_known_is_read_strictly() -> None:
    assert read_known(b"\x00") == {}
    assert read_known(uint(2) + uint(300) + uint(1) + uint(0) + uint(9)) == {
        300: 1,
        0: 9,
    }
    for malformed in (b"", b"\x01", b"\x01\x01", b"\x00\x00", uint(MAX_ENTRIES + 1)):
        with pytest.raises(ProtocolError):
            read_known(malformed)


def test_who_catches_up_is_not_told_what_it_announced_itself(room: Room) -> None:
    listens: Any = seat(room, KEY)
    room.fell_behind(listens)
    room.receive(Presence(says(7, 1)), seat(room, KEY), 0.0)
    room.flush(1.0)
    room.caught_up(listens)
    assert listens.hears() == []
