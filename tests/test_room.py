"""What a room says to whom, and when. Time is an argument, a transport is a list."""

from __future__ import annotations

import struct
from itertools import permutations
from random import Random
from typing import Any, cast

import pytest
from pycrdt import Array, Doc, Map, Text

from collab import wire
from collab.dialects import yjs
from collab.document import Document
from collab.errors import (
    BadName,
    CollabError,
    DocumentBroken,
    ProtocolError,
    Unavailable,
    UpdateRejected,
)
from collab.limits import Limits, check_name
from collab.messages import (
    Checkpoint,
    Message,
    Presence,
    QueryPresence,
    Stateless,
    SyncStep1,
    SyncStep2,
    Token,
    Update,
)
from collab.notices import broadcast
from collab.people import GRACE
from collab.room import MAX_MARKS, PRESENCE_INTERVAL, Room
from collab.session import Session
from collab.updates import parse
from collab.welcome import RECENT
from tests import traces
from tests.simulation import Plain
from tests.test_presence import heard, says
from tests.vectors import history

FIRST, SECOND, THIRD, FOURTH = history("reorder")


class Guest:
    """A session, and what was written to it."""

    def __init__(self, room: Room, encoding: Plain, who: str = "") -> None:
        self.room = room
        self.writes: list[list[bytes]] = []
        self.probes = 0
        self.dismissals: list[CollabError] = []
        self.session = Session(
            encoding, self.writes.append, self._probed, self.dismissals.append, who
        )
        room.join(self.session)

    def _probed(self) -> None:
        self.probes += 1

    def says(self, *messages: Message, now: float = 0.0) -> None:
        for message in messages:
            self.room.receive(message, self.session, now)

    def hears(self) -> list[Message]:
        """What was written since the last time."""
        frames = [frame for write in self.writes for frame in write]
        self.writes.clear()
        return [yjs.decode(frame)[0] for frame in frames]

    def leaves(self, now: float = 0.0, goodbye: bool = True) -> None:
        self.room.leave(self.session, now, goodbye)


class Server:
    """A room, the wishes it has, and guests."""

    def __init__(self, document: Document | None = None) -> None:
        self.wishes: list[float] = []
        self.encoding = Plain()
        self.room = Room(
            "d", document or Document(), lambda _, delay: self.wishes.append(delay)
        )

    def guest(self, who: str = "") -> Guest:
        guest = Guest(self.room, self.encoding, who)
        guest.says(SyncStep1(b"\x00"))
        guest.hears()
        return guest

    def guests(self, count: int) -> list[Guest]:
        return [self.guest(f"guest {number}") for number in range(count)]

    def save(self) -> None:
        self.room.saved(len(self.room.ledger.unsaved))


@pytest.fixture
def server() -> Server:
    return Server()


def text(*updates: bytes) -> str:
    """What a client shows that was sent these, in this order."""
    doc: Doc[Any] = Doc()
    shown = doc.get("t", type=Text)
    for update in updates:
        doc.apply_update(update)
    return str(shown)


def updates(messages: list[Message]) -> list[bytes]:
    return [
        message.update
        for message in messages
        if isinstance(message, Update | SyncStep2)
    ]


# Joining.


def test_a_newcomer_is_asked_what_it_has(server: Server) -> None:
    guest = Guest(server.room, server.encoding)
    assert guest.hears() == [SyncStep1(b"\x00")]
    guest.says(SyncStep1(b"\x00"))
    assert guest.hears() == [SyncStep2(b"\x00\x00")]


def test_a_newcomer_is_told_who_is_here(server: Server) -> None:
    alice = server.guest()
    alice.says(Presence(says((1, 1, '{"name":"Alice"}'))))
    bob = Guest(server.room, server.encoding)
    step1, people = bob.hears()
    assert isinstance(step1, SyncStep1)
    assert isinstance(people, Presence)
    assert heard(people.states) == {1: (1, {"name": "Alice"})}


def test_a_late_joiner_gets_what_it_lacks(server: Server) -> None:
    alice = server.guest()
    alice.says(Update(FIRST), Update(SECOND))
    bob = server.guest()
    server.room.flush(0.0)
    bob.hears()
    bob.says(SyncStep1(bytes.fromhex("010101")))
    [answer] = bob.hears()
    assert isinstance(answer, SyncStep2)
    assert parse(answer.update).ranges == {1: [1, 2]}
    bob.says(SyncStep1(server.room.document.state_vector()))
    assert bob.hears() == [SyncStep2(b"\x00\x00")]


def test_a_bad_state_vector_is_refused(server: Server) -> None:
    guest = server.guest()
    with pytest.raises(ProtocolError):
        guest.says(SyncStep1(bytes.fromhex("80808020")))
    assert guest.hears() == []
    assert len(server.room) == 1


def test_a_state_is_encoded_once_for_all_joiners(server: Server) -> None:
    server.guest().says(Update(FIRST))
    server.room.flush(0.0)
    before = server.encoding.encoded["state"]
    for guest in [Guest(server.room, server.encoding) for _ in range(20)]:
        guest.says(SyncStep1(b"\x00"))
        assert text(*updates(guest.hears())) == "a"
    # It is that of before the edit, and the edit behind it.
    assert server.encoding.encoded["state"] == before + 1


@pytest.mark.parametrize("seed", range(30))
def test_a_joiner_gets_everything_while_others_type(seed: int) -> None:
    print(f"seed {seed}")
    chance = Random(seed)
    server = Server()
    log, expected = traces.generate(seed, 120)
    if seed % 3 == 0:
        log.sort(key=lambda _: chance.random() < 0.1)  # Some come late.
    alice = server.guest()
    joiners: list[tuple[Guest, list[bytes]]] = []
    for _, update in log:
        alice.says(Update(update))
        if chance.random() < 0.3:
            server.room.flush(0.0)
        if chance.random() < 0.05:
            server.save()
        if chance.random() < 0.2:
            guest = Guest(server.room, server.encoding)
            guest.says(SyncStep1(b"\x00"))
            joiners.append((guest, []))
        for guest, received in joiners:
            received += updates(guest.hears())
    server.room.flush(0.0)
    server.save()
    assert joiners
    for guest, received in joiners:
        doc: Doc[Any] = Doc()
        shown = doc.get("text", type=Text)
        for update in [*received, *updates(guest.hears())]:
            doc.apply_update(update)
        assert str(shown) == expected


def test_a_state_of_long_ago_is_not_kept(server: Server) -> None:
    alice, bob = server.guests(2)
    big = b"x" * (RECENT // 2)
    for client in range(1, 6):
        update = bytes((1, 1, client)) + b"\x00\x04\x01\x01t" + wire.data(big) + b"\x00"
        alice.says(Update(update))
        server.room.flush(0.0)
        assert server.room.welcome.recent_size <= RECENT
        late = Guest(server.room, server.encoding)
        late.says(SyncStep1(b"\x00"))
        assert len(text(*updates(late.hears()))) == len(big) * client
    bob.hears()


# Editing.


def test_an_edit_reaches_everybody_else(server: Server) -> None:
    alice, bob, carol = server.guests(3)
    alice.says(Update(FIRST))
    assert server.wishes[-1] == 0.0
    assert (bob.hears(), carol.hears()) == ([], [])
    server.room.flush(0.0)
    assert alice.hears() == []
    assert bob.hears() == carol.hears() == [Update(FIRST)]
    assert server.room.ledger.unsaved == [(FIRST, "guest 0")]


def test_a_tick_is_one_write_for_each(server: Server) -> None:
    alice, bob, carol = server.guests(3)
    alice.says(Update(FIRST))
    bob.says(Update(SECOND))
    alice.says(Update(THIRD))
    server.room.flush(0.0)
    assert [len(guest.writes) for guest in (alice, bob, carol)] == [1, 1, 1]
    assert carol.hears() == [Update(FIRST), Update(SECOND), Update(THIRD)]
    assert bob.hears() == [Update(FIRST), Update(THIRD)]
    assert alice.hears() == [Update(SECOND)]


def test_what_goes_to_many_is_encoded_once(server: Server) -> None:
    guests = server.guests(50)
    other = Plain()
    strangers = [Guest(server.room, other) for _ in range(50)]
    for stranger in strangers:
        stranger.hears()
    server.encoding.encoded.clear()
    other.encoded.clear()
    guests[0].says(Update(FIRST))
    guests[1].says(Update(SECOND))
    server.room.flush(0.0)
    assert dict(server.encoding.encoded) == dict(other.encoded) == {"Update": 2}
    assert all(guest.hears() for guest in [*guests, *strangers])
    guests[0].says(Presence(says((1, 1, "{}"))))
    server.room.flush(1.0)
    assert server.encoding.encoded["Presence"] == other.encoded["Presence"] == 1


def test_an_edit_is_acknowledged_when_it_is_saved(server: Server) -> None:
    alice, bob = server.guests(2)
    alice.says(Update(FIRST))
    bob.says(Update(SECOND))
    alice.says(SyncStep2(THIRD))
    server.room.flush(0.0)
    assert updates(alice.hears()) == [SECOND]
    bob.hears()
    assert server.room.saved(1) == len(FIRST)
    assert (alice.hears(), bob.hears()) == ([Update(FIRST)], [])
    assert server.room.ledger.unsaved == [(SECOND, "guest 1"), (THIRD, "guest 0")]
    assert server.room.ledger.size == len(SECOND + THIRD)
    server.room.saved(2)
    assert (alice.hears(), bob.hears()) == ([Update(THIRD)], [Update(SECOND)])
    assert (server.room.ledger.unsaved, server.room.ledger.size) == ([], 0)


def test_repeats_that_wait_for_the_log_count_as_unsaved(server: Server) -> None:
    alice = server.guest()
    alice.says(Update(FIRST))
    server.wishes.clear()
    alice.says(Update(FIRST), SyncStep2(FIRST))
    assert server.room.ledger.size == 3 * len(FIRST)
    assert 0.0 in server.wishes  # So that somebody looks.
    assert server.room.saved(1) == len(FIRST)
    assert server.room.ledger.size == 0


def test_several_acknowledgements_are_one_write(server: Server) -> None:
    alice = server.guest()
    alice.says(Update(FIRST), Update(SECOND), Update(THIRD))
    server.room.saved(3)
    assert len(alice.writes) == 1
    assert updates(alice.hears()) == [FIRST, SECOND, THIRD]


def test_what_others_have_appended_is_not_passed_over(server: Server) -> None:
    room, alice = server.room, server.guest()
    alice.says(Update(FIRST), Update(SECOND))
    room.saved(1, 3)  # Behind others.
    assert (room.position, room.head) == (0, 3)
    room.reach(2, [])
    room.saved(1, 3)
    assert room.position == 3
    alice.says(Update(THIRD), Update(FOURTH))
    room.reach(4, [THIRD])  # It was there, although the answer was lost.
    room.saved(2, 6, mixed=True)  # Others are at 5.
    assert (room.position, room.head) == (4, 6)


def test_who_left_is_not_acknowledged(server: Server) -> None:
    alice, bob = server.guests(2)
    alice.says(Update(FIRST))
    alice.leaves()
    server.save()
    assert alice.hears() == []
    assert server.room.ledger.unsaved == []
    server.room.flush(0.0)
    assert bob.hears() == [Update(FIRST)]


def test_a_repeat_is_acknowledged_when_what_it_repeats_is_saved(server: Server) -> None:
    alice, bob = server.guests(2)
    alice.says(Update(FIRST))
    bob.says(Update(FIRST))
    assert bob.hears() == []
    assert len(server.room.ledger.unsaved) == 1
    server.room.saved(1)
    assert bob.hears() == alice.hears() == [Update(FIRST)]


def test_a_repeat_of_what_is_saved_is_acknowledged_at_once(server: Server) -> None:
    alice = server.guest()
    alice.says(Update(FIRST), Update(SECOND))
    server.save()
    alice.hears()
    alice.says(SyncStep2(FIRST), Update(SECOND))
    assert updates(alice.hears()) == [FIRST, SECOND]
    assert server.room.ledger.unsaved == []
    server.room.flush(0.0)
    assert alice.hears() == []


def test_acknowledgements_keep_their_order(server: Server) -> None:
    alice = server.guest()
    alice.says(Update(FIRST))
    server.save()
    alice.hears()
    alice.says(Update(SECOND), Update(FIRST))
    assert alice.hears() == []
    server.save()
    assert updates(alice.hears()) == [SECOND, FIRST]


def test_resending_everything_adds_nothing_to_the_log(server: Server) -> None:
    alice = server.guest()
    alice.says(*(Update(update) for update in history("reorder")))
    server.save()
    alice.leaves()
    again = server.guest()
    again.says(SyncStep2(server.room.document.state()))
    again.says(*(Update(update) for update in history("reorder")))
    assert server.room.ledger.unsaved == []
    assert len(again.hears()) == 5


def test_a_rejected_update_is_the_senders_problem_alone(server: Server) -> None:
    alice, mallory = server.guests(2)
    alice.says(Update(FIRST))
    for poison in ("01010501000000", "0100010000", ""):
        with pytest.raises(UpdateRejected):
            mallory.says(Update(bytes.fromhex(poison)))
    server.room.flush(0.0)
    server.save()
    assert alice.hears() == [Update(FIRST)]
    assert mallory.hears() == [Update(FIRST)]
    assert not server.room.broken
    assert len(server.room) == 2
    assert text(server.room.document.state()) == "a"


# Who may only read.


def test_a_reader_is_told_once_that_its_edits_are_not_taken(server: Server) -> None:
    ann, bob = server.guests(2)
    bob.session.reader = True
    bob.says(Update(FIRST), Update(SECOND))
    server.room.flush(0.0)
    assert bob.hears() == [Token("read-only")]  # As a client, it reads a reason.
    assert ann.hears() == []
    assert server.room.ledger.unsaved == []
    assert text(server.room.document.state()) == ""
    bob.says(Presence(says((1, 1, "{}"))))
    server.room.flush(0.0)
    assert [type(message) for message in ann.hears()] == [Presence]


def test_what_a_reader_only_repeats_is_no_edit(server: Server) -> None:
    ann, bob = server.guests(2)
    ann.says(Update(FIRST))
    server.save()
    bob.session.reader = True
    bob.says(SyncStep2(FIRST), SyncStep2(b"\x00\x00"))
    assert [m for m in bob.hears() if isinstance(m, Token)] == []
    bob.says(SyncStep2(SECOND))
    assert bob.hears() == [Token("read-only")]
    with pytest.raises(UpdateRejected):
        bob.says(SyncStep2(b"\x00"))
    assert server.room.ledger.unsaved == []


def test_who_may_write_again_does(server: Server) -> None:
    ann, bob = server.guests(2)
    ann.session.reader = True
    ann.says(Update(FIRST))
    ann.session.reader = False
    ann.says(Update(FIRST))
    server.room.flush(0.0)
    assert bob.hears() == [Update(FIRST)]


# What the application says.


def test_only_who_understands_the_application_hears_it(server: Server) -> None:
    ann, bob = server.guests(2)
    ann.session.talks = True
    broadcast(server.room, "hello")
    assert ann.hears() == [Stateless("hello")]
    assert bob.hears() == []


# Checkpoints.


def test_a_checkpoint_is_confirmed_when_all_before_it_is_saved(server: Server) -> None:
    ann = server.guest()
    ann.says(SyncStep2(b"\x00\x00"), Update(FIRST))
    ann.hears()
    ann.says(Checkpoint(b"\x01"))
    assert ann.hears() == [Checkpoint(b"\x00")]  # A sign of life.
    ann.says(Update(SECOND), Checkpoint(b"\x02"))
    assert ann.hears() == [Checkpoint(b"\x00")]
    server.room.saved(1)
    assert ann.hears() == [Update(FIRST), Checkpoint(b"\x01")]
    ann.says(Checkpoint(b"\x03"))
    assert ann.hears() == [Checkpoint(b"\x01")]
    server.save()
    heard = [Update(SECOND), Checkpoint(b"\x02"), Checkpoint(b"\x03")]
    assert ann.hears() == heard
    ann.says(Checkpoint(b"\x04"))
    assert ann.hears() == [Checkpoint(b"\x04")]


def test_what_was_written_offline_comes_before_a_checkpoint_is_confirmed(
    server: Server,
) -> None:
    """A client says how far it is before it has answered what it has."""
    ann = server.guest()
    ann.says(Checkpoint(b"\x05"), Presence(says((1, 1, "{}"))), Checkpoint(b"\x05"))
    assert ann.hears() == [Checkpoint(b"\x00")] * 2
    ann.says(SyncStep2(FIRST), Checkpoint(b"\x05"))
    assert ann.hears() == [Checkpoint(b"\x00")]
    server.save()
    assert ann.hears()[-1] == Checkpoint(b"\x05")


def test_who_wrote_and_may_not_is_confirmed_nothing_more(server: Server) -> None:
    ann = server.guest()
    ann.session.reader = True
    ann.says(SyncStep2(b"\x00\x00"), Checkpoint(b"\x01"))
    assert ann.hears()[-1] == Checkpoint(b"\x01")
    ann.says(Update(FIRST), Checkpoint(b"\x02"))
    assert ann.hears() == [Token("read-only"), Checkpoint(b"\x01")]


def test_only_so_many_checkpoints_wait(server: Server) -> None:
    ann = server.guest()
    ann.says(SyncStep2(FIRST))
    ann.says(*[Checkpoint(b"\x01")] * (MAX_MARKS + 10))
    assert len(server.room.ledger.receipts) == MAX_MARKS + 1
    server.save()
    assert ann.session.marks == 0


# What comes early.


def test_updates_2_3_1_4(server: Server) -> None:
    alice, bob = server.guests(2)
    alice.says(Update(SECOND), Update(THIRD))
    server.room.flush(0.0)
    # It is asked for what is missing, once, and nobody is shown anything.
    assert alice.hears() == [SyncStep1(b"\x00")]
    assert bob.hears() == []
    server.save()
    assert updates(alice.hears()) == [SECOND, THIRD]
    alice.says(Update(FIRST), Update(FOURTH))
    server.room.flush(0.0)
    assert text(*updates(bob.hears())) == "abc"
    assert alice.hears() == []
    server.save()
    assert updates(alice.hears()) == [FIRST, FOURTH]


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_what_is_released_is_no_acknowledgement(order: tuple[int, ...]) -> None:
    server = Server()
    alice, bob, carol = server.guests(3)
    for number in order:
        (alice, bob)[number % 2].says(Update(history("reorder")[number]))
    server.room.flush(0.0)
    shown = updates(carol.hears())
    assert text(*shown) == "abc"
    assert len(shown) == 4
    # Each hears of the other what is shown now, and nothing of its own.
    assert set(updates(alice.hears())) == {SECOND, FOURTH}
    assert set(updates(bob.hears())) == {FIRST, THIRD}
    server.save()
    assert set(updates(alice.hears())) == {FIRST, THIRD}
    assert set(updates(bob.hears())) == {SECOND, FOURTH}
    assert server.room.early == {}


def test_who_left_is_not_asked_for_what_is_missing(server: Server) -> None:
    alice = server.guest()
    alice.says(Update(SECOND))
    alice.leaves()
    server.room.flush(0.0)
    assert alice.hears() == []
    assert [update for update, _ in server.room.ledger.unsaved] == [SECOND]


# Breaking.


class Cursed:
    """A ``Doc`` that panics at one update."""

    def __init__(self, poison: bytes) -> None:
        self.doc: Doc[Any] = Doc()
        self.poison = poison

    def apply_update(self, update: bytes) -> None:
        poisoned = update == self.poison
        self.doc.apply_update(bytes.fromhex("0100010000") if poisoned else update)

    def get_update(self, state_vector: bytes = b"\x00") -> bytes:
        if self.poison == b"encode":
            self.doc.apply_update(bytes.fromhex("0100010000"))
        return self.doc.get_update(state_vector)


def test_a_panic_at_what_was_parked_blames_nobody(server: Server) -> None:
    alice, bob = server.guests(2)
    alice.says(Update(SECOND))
    server.room.document.doc = cast(Any, Cursed(SECOND))
    bob.says(Update(FIRST))
    assert server.room.broken
    assert server.room.document.culprit == SECOND
    # What it waited for was taken: it is in the log, and with everybody.
    assert [update for update, _ in server.room.ledger.unsaved] == [SECOND, FIRST]
    server.room.flush(0.0)
    assert FIRST in updates(alice.hears())


def test_a_panic_while_encoding_breaks_the_room(server: Server) -> None:
    alice, bob = server.guests(2)
    alice.says(Update(FIRST))
    server.room.flush(0.0)
    server.room.fell_behind(bob.session)
    alice.says(Update(SECOND))
    server.room.flush(0.0)
    cursed = Cursed(b"encode")
    cursed.doc.apply_update(FIRST)
    server.room.document.doc = cast(Any, cursed)
    with pytest.raises(DocumentBroken):
        alice.says(SyncStep1(bytes.fromhex("01 01 01")))
    assert server.room.broken
    server.room.broken = False
    bob.session.synced = True
    with pytest.raises(DocumentBroken):
        server.room.caught_up(bob.session)
    assert server.room.broken
    assert bob.session.behind is not None
    rebuilt = Document()
    rebuilt.apply(FIRST)
    rebuilt.apply(SECOND)
    server.room.rebuilt(rebuilt)
    server.room.caught_up(bob.session)
    assert bob.session.behind is None
    assert parse(updates(bob.hears())[-1]).ranges == {1: [1, 2]}


def test_a_panic_concerns_only_the_sender(server: Server) -> None:
    server.room.document.doc = cast(Any, Cursed(SECOND))
    alice, mallory = server.guests(2)
    alice.says(Update(FIRST))
    with pytest.raises(DocumentBroken):
        mallory.says(Update(SECOND))
    assert server.room.broken
    assert [update for update, _ in server.room.ledger.unsaved] == [FIRST]
    server.room.flush(0.0)
    assert mallory.hears() == [Update(FIRST)]
    server.save()
    assert alice.hears() == [Update(FIRST)]
    rebuilt = Document()
    rebuilt.apply(FIRST)
    server.room.rebuilt(rebuilt)
    assert not server.room.broken
    # Who has more than the log is asked for it.
    assert alice.hears() == [SyncStep1(rebuilt.state_vector())]
    alice.says(SyncStep2(SECOND))
    server.room.flush(0.0)
    assert updates(mallory.hears())[-1] == SECOND


# Presence.


def test_presence_is_told_to_everybody_at_once(server: Server) -> None:
    alice, bob = server.guests(2)
    alice.says(Presence(says((1, 1, "{}"))), now=10.0)
    assert server.wishes[-1] == 0.0
    server.room.flush(10.0)
    # Its own comes back: y-websocket reconnects if it hears nothing for 30 s.
    assert alice.hears() == bob.hears() == [Presence(says((1, 1, "{}")))]


def test_presence_is_told_only_so_often(server: Server) -> None:
    alice, bob = server.guests(2)
    alice.says(Presence(says((1, 1, "{}"))), now=10.0)
    server.room.flush(10.0)
    bob.hears()
    for clock in range(2, 50):
        alice.says(Presence(says((1, clock, f'{{"x":{clock}}}'))), now=10.01)
        server.room.flush(10.01)
    assert bob.hears() == []
    assert server.wishes[-1] == pytest.approx(PRESENCE_INTERVAL - 0.01)
    server.room.flush(10.0 + PRESENCE_INTERVAL)
    assert bob.hears() == [Presence(says((1, 49, '{"x":49}')))]


def test_fifty_echoes_of_one_move_are_silence(server: Server) -> None:
    guests = server.guests(50)
    for client, guest in enumerate(guests):
        guest.says(Presence(says((client, 1, "{}"))))
    server.room.flush(0.0)
    for guest in guests:
        guest.hears()
    guests[7].says(Presence(says((7, 2, '{"cursor":1}'))), now=1.0)
    server.room.flush(1.0)
    for guest in guests:
        [move] = guest.hears()
        guest.says(move, now=1.0)
    server.room.flush(2.0)
    assert [guest.hears() for guest in guests] == [[]] * 50


def test_bad_presence_is_told_to_nobody(server: Server) -> None:
    alice, mallory = server.guests(2)
    with pytest.raises(ProtocolError):
        mallory.says(Presence(says((2, 1, '{"a":NaN}'))))
    server.room.flush(1.0)
    assert alice.hears() == []


def test_a_goodbye_is_told_at_once(server: Server) -> None:
    alice, bob = server.guests(2)
    alice.says(Presence(says((1, 3, "{}"))))
    server.room.flush(0.0)
    bob.hears()
    alice.leaves(now=10.0, goodbye=True)
    server.room.flush(10.0)
    assert bob.hears() == [Presence(says((1, 3, "null")))]


def test_without_a_goodbye_there_is_a_grace(server: Server) -> None:
    alice, bob = server.guests(2)
    alice.says(Presence(says((1, 3, "{}"))))
    server.room.flush(0.0)
    bob.hears()
    alice.leaves(now=10.0, goodbye=False)
    server.room.expire(10.0 + GRACE - 0.1)
    server.room.flush(10.0 + GRACE - 0.1)
    assert bob.hears() == []
    server.room.expire(10.0 + GRACE)
    server.room.flush(10.0 + GRACE)
    assert bob.hears() == [Presence(says((1, 3, "null")))]


def test_who_is_back_in_time_never_left(server: Server) -> None:
    alice, bob = server.guests(2)
    alice.says(Presence(says((1, 3, "{}"))))
    server.room.flush(0.0)
    bob.hears()
    alice.leaves(now=10.0, goodbye=False)
    again = server.guest()
    again.says(Presence(says((1, 3, "{}"))), now=11.0)
    server.room.expire(30.0)
    server.room.flush(30.0)
    assert bob.hears() == []
    again.says(Presence(says((1, 4, "{}"))), now=31.0)
    server.room.flush(31.0)
    assert bob.hears() == [Presence(says((1, 4, "{}")))]


def test_an_echo_inherits_nothing(server: Server) -> None:
    alice, viewer = server.guests(2)
    alice.says(Presence(says((1, 3, "{}"))))
    server.room.flush(0.0)
    [_, people] = Guest(server.room, server.encoding).hears()
    alice.leaves(now=10.0, goodbye=False)
    # It has no cursor of its own, answers our greeting, and echoes what it hears.
    viewer.says(SyncStep2(b"\x00\x00"), people, now=11.0)
    again = server.guest()
    again.says(Presence(says((1, 3, "{}"))), now=12.0)
    assert (viewer.session.owned, again.session.owned) == ((), (1,))
    assert viewer.probes == 0


def test_a_rival_is_probed(server: Server) -> None:
    dead, again = server.guests(2)
    dead.says(Presence(says((1, 3, "{}"))))
    again.says(Presence(says((1, 3, "{}"))), now=1.0)
    assert (dead.probes, again.probes) == (1, 0)
    dead.leaves(now=2.0, goodbye=False)
    server.room.expire(60.0)
    assert again.session.owned == (1,)
    assert heard(server.room.people.encode()) == {1: (3, {})}


def test_a_query_is_answered_with_who_is_here(server: Server) -> None:
    alice, bob = server.guests(2)
    bob.says(QueryPresence())
    assert bob.hears() == []
    alice.says(Presence(says((1, 3, "{}"))))
    bob.says(QueryPresence())
    assert bob.hears() == [Presence(says((1, 3, "{}")))]


# Slow readers.


def test_who_is_behind_is_written_nothing(server: Server) -> None:
    alice, bob = server.guests(2)
    server.room.fell_behind(bob.session)
    alice.says(Update(FIRST), Presence(says((1, 1, "{}"))))
    bob.says(SyncStep1(b"\x00"), QueryPresence(), Update(FOURTH))
    server.room.flush(1.0)
    server.save()
    server.room.expire(2.0)
    server.room.flush(2.0)
    server.room.rebuilt(server.room.document)
    assert bob.writes == []


def test_who_is_behind_is_not_blamed_for_what_others_write(server: Server) -> None:
    server.room.limits = Limits(owed_size=10)
    alice, bob = server.guests(2)
    alice.says(Update(FIRST))
    server.room.fell_behind(bob.session)  # Before it was flushed.
    bob.session.check_owed(server.room.limits.owed_size)
    server.room.caught_up(bob.session)
    assert updates(bob.hears()) == [FIRST]


def test_who_catches_up_gets_one_diff(server: Server) -> None:
    alice, bob = server.guests(2)
    alice.says(Update(FIRST))
    server.room.flush(0.0)
    bob.hears()
    server.room.fell_behind(bob.session)
    for update in (SECOND, THIRD, FOURTH):
        alice.says(Update(update))
        server.room.flush(0.0)
    server.room.caught_up(bob.session)
    assert len(bob.writes) == 1
    [diff] = bob.hears()
    assert isinstance(diff, SyncStep2)
    assert text(FIRST, diff.update) == "abc"
    assert parse(diff.update).ranges == {1: [1, 4]}
    alice.says(Update(history("answers")[1]))
    server.room.flush(0.0)
    assert updates(bob.hears()) == [history("answers")[1]]


def test_deletions_alone_are_caught_up_with_too(server: Server) -> None:
    alice, bob = server.guests(2)
    alice.says(Update(FIRST))
    server.room.flush(0.0)
    bob.hears()
    server.room.fell_behind(bob.session)
    alice.says(Update(bytes.fromhex("000101010001")))
    server.room.flush(0.0)
    server.room.caught_up(bob.session)
    assert text(FIRST, *updates(bob.hears())) == ""


def test_who_falls_behind_before_a_flush_misses_nothing(server: Server) -> None:
    alice, bob = server.guests(2)
    alice.says(Update(FIRST), Presence(says((1, 1, "{}"))))
    bob.says(Update(SECOND))
    server.room.fell_behind(bob.session)  # As an acknowledgement filled its transport.
    server.room.flush(0.0)
    assert bob.writes == []
    server.room.caught_up(bob.session)
    assert bob.hears() == [Update(FIRST), Presence(says((1, 1, "{}")))]


def test_who_missed_nothing_is_written_nothing(server: Server) -> None:
    alice, bob = server.guests(2)
    alice.says(Update(FIRST), Presence(says((1, 1, "{}"))))
    server.room.flush(0.0)
    bob.hears()
    server.room.fell_behind(bob.session)
    server.room.caught_up(bob.session)
    server.room.caught_up(bob.session)
    assert bob.writes == []


def test_owed_acknowledgements_come_before_the_diff(server: Server) -> None:
    alice, bob = server.guests(2)
    server.room.fell_behind(bob.session)
    bob.says(Update(FIRST))
    alice.says(Update(SECOND))
    server.room.flush(0.0)
    server.save()
    assert bob.writes == []
    server.room.caught_up(bob.session)
    ack, diff = bob.hears()
    assert ack == Update(FIRST)
    assert isinstance(diff, SyncStep2)
    assert (bob.session.owed, bob.session.owed_size) == ([], 0)


def test_a_diff_is_no_acknowledgement(server: Server) -> None:
    bob = server.guest()
    server.room.fell_behind(bob.session)
    bob.says(Update(FIRST))
    server.room.flush(0.0)
    server.room.caught_up(bob.session)
    assert bob.hears() == [SyncStep2(FIRST)]
    server.save()
    assert bob.hears() == [Update(FIRST)]


def test_who_has_not_asked_yet_needs_no_diff(server: Server) -> None:
    alice = server.guest()
    bob = Guest(server.room, server.encoding)
    bob.hears()
    server.room.fell_behind(bob.session)
    alice.says(Update(FIRST))
    server.room.flush(0.0)
    server.room.caught_up(bob.session)
    # A SyncStep2 would say that this is all there is.
    assert bob.hears() == []
    bob.says(SyncStep1(b"\x00"))
    assert text(*updates(bob.hears())) == "a"


def test_what_was_asked_for_meanwhile_is_answered(server: Server) -> None:
    alice, bob = server.guests(2)
    server.room.fell_behind(bob.session)
    alice.says(Update(FIRST))
    bob.says(SyncStep1(b"\x00"))
    server.room.flush(0.0)
    server.room.caught_up(bob.session)
    assert bob.hears() == [SyncStep2(server.room.document.state())]
    assert bob.session.wanted is None


def test_what_is_missing_is_asked_for_when_it_can_be_heard(server: Server) -> None:
    alice = server.guest()
    server.room.fell_behind(alice.session)
    alice.says(Update(SECOND))
    server.room.flush(0.0)
    server.room.caught_up(alice.session)
    assert alice.hears() == [SyncStep1(b"\x00")]
    alice.says(Update(THIRD))
    server.room.flush(0.0)
    assert alice.hears() == [SyncStep1(b"\x00")]


def test_who_catches_up_hears_of_comings_and_goings(server: Server) -> None:
    alice, bob, carol = server.guests(3)
    alice.says(Presence(says((1, 1, "{}"))))
    carol.says(Presence(says((3, 1, "{}"))))
    server.room.flush(0.0)
    bob.hears()
    server.room.fell_behind(bob.session)
    alice.says(Presence(says((1, 2, '{"x":1}'))), now=1.0)
    carol.leaves(now=1.0)
    server.room.flush(1.0)
    server.room.caught_up(bob.session)
    [people] = bob.hears()
    assert isinstance(people, Presence)
    assert heard(people.states) == {1: (2, {"x": 1}), 3: (1, None)}


def test_one_who_writes_and_never_reads_is_owed_only_so_much() -> None:
    server = Server()
    server.room.limits = Limits(owed_size=100)
    alice = server.guest()
    alice.says(Update(FIRST))
    server.save()
    server.room.fell_behind(alice.session)
    for _ in range(100 // len(yjs.encode(Update(FIRST)))):
        alice.says(Update(FIRST))
        alice.session.check_owed(server.room.limits.owed_size)
    alice.says(Update(FIRST))
    with pytest.raises(Unavailable):
        alice.session.check_owed(server.room.limits.owed_size)
    server.room.caught_up(alice.session)
    alice.session.check_owed(server.room.limits.owed_size)


# Emptiness.


def test_an_empty_room_knows_since_when(server: Server) -> None:
    alice, bob = server.guests(2)
    assert len(server.room) == 2
    alice.leaves(now=5.0)
    assert server.room.empty_since is None
    bob.leaves(now=6.0)
    bob.leaves(now=7.0)
    assert len(server.room) == 0
    assert server.room.empty_since == 6.0
    server.guest()
    assert server.room.empty_since is None


@pytest.mark.parametrize(
    "name",
    ["a", "a/b", "a b", "é", "😀", "x" * 255, "...", "a..b", "%2e", "\u200d"],
)
def test_most_names_are_fine(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "x" * 256, "é" * 128, "\x00", "a\nb", "\x7f", "\x85", "\ud800"),
        *("\u2028", "\u202e", "\u2066x", "\ufeff", ".", "..", "../x", "a/../b", "a/."),
    ],
)
def test_some_names_are_not(name: str) -> None:
    with pytest.raises(BadName):
        check_name(name)


# Real histories.


def _any(buffer: bytes, at: int) -> tuple[Any, int]:
    """Read a value of lib0 (``readAny``)."""
    kind = buffer[at]
    at += 1
    if kind in (126, 127):
        return None, at
    if kind in (120, 121):
        return kind == 120, at
    if kind == 125:
        byte = buffer[at]
        sign, number, shift = byte & 64, byte & 63, 6
        at += 1
        while byte & 128:
            byte = buffer[at]
            number |= (byte & 127) << shift
            shift += 7
            at += 1
        return (-number if sign else number), at
    if kind in (122, 123, 124):
        code = {122: ">q", 123: ">d", 124: ">f"}[kind]
        (number,) = struct.unpack_from(code, buffer, at)
        return number, at + struct.calcsize(code)
    if kind == 119:
        return wire.read_text(buffer, at)
    if kind == 116:
        return wire.read_data(buffer, at)
    count, at = wire.read_uint(buffer, at)
    if kind == 117:
        items = []
        for _ in range(count):
            item, at = _any(buffer, at)
            items.append(item)
        return items, at
    assert kind == 118
    entries = {}
    for _ in range(count):
        key, at = wire.read_text(buffer, at)
        entries[key], at = _any(buffer, at)
    return entries, at


def test_5320_histories_end_in_what_they_must() -> None:
    path = traces.find("small-test-dataset.bin")
    if path is None:
        for seed in range(300):
            log, expected = traces.generate(seed, 60, writers=4)
            server = Server()
            server.guest().says(*(Update(update) for _, update in log))
            server.room.flush(0.0)
            joiner = Guest(server.room, server.encoding)
            joiner.says(SyncStep1(b"\x00"))
            doc: Doc[Any] = Doc()
            for update in updates(joiner.hears()):
                doc.apply_update(update)
            assert str(doc.get("text", type=Text)) == expected, f"seed {seed}"
        return
    dataset = path.read_bytes()
    count, at = wire.read_uint(dataset, 0)
    assert count == 5320
    for number in range(count):
        length, at = wire.read_uint(dataset, at)
        server = Server()
        alice = server.guest()
        for _ in range(length):
            update, at = wire.read_data(dataset, at)
            alice.says(Update(update))
        expected, at = wire.read_text(dataset, at)
        expected_map, at = _any(dataset, at)
        expected_array, at = _any(dataset, at)
        server.room.flush(0.0)
        assert not server.room.document.parked, number
        joiner = Guest(server.room, server.encoding)
        joiner.says(SyncStep1(b"\x00"))
        doc = Doc()
        shown = doc.get("text", type=Text)
        entries = doc.get("map", type=Map)
        items = doc.get("array", type=Array)
        for update in updates(joiner.hears()):
            doc.apply_update(update)
        assert str(shown) == expected, number
        assert entries.to_py() == expected_map, number
        assert items.to_py() == expected_array, number
    assert at == len(dataset)


@pytest.mark.parametrize(
    ("name", "value"),
    [("frame_size", 0), ("slow_time", -1.0), ("heartbeat", 2.5), ("owed_size", 0)],
)
def test_a_limit_that_makes_no_sense_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is a .*number above 0, not"):
        Limits(**cast(Any, {name: value}))
