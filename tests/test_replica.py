"""A client's copy of a document, driven by hand: no socket, no server."""

from __future__ import annotations

from typing import Any

import pytest
from pycrdt import Doc, Text

from benchmarks.documents import typed
from collab import wire
from collab.errors import ProtocolError, QuotaExceeded
from collab.joining import Joined
from collab.messages import (
    Message,
    Note,
    Opened,
    Piece,
    Pong,
    Presence,
    Saved,
    Synced,
    SyncStep1,
    Update,
)
from collab.presence import MAX_STATE
from collab.replica import LARGE, Others, Replica
from tests.peers import insert, presence

EVERYTHING = 2**30


def replica_of(doc: Doc[Any] | None = None) -> Replica:
    return Replica("d", Doc() if doc is None else doc, lambda: None)


def type_in(replica: Replica, words: str) -> None:
    text = replica.doc.get("text", type=Text)
    text += words


def take(replica: Replica, size: int = EVERYTHING) -> list[int]:
    """Take edits, and return their numbers."""
    messages = replica.take(size)
    return [message.sequence for message in messages if isinstance(message, Update)]


def let_in(replica: Replica, *, epoch: str = "e", position: int = 0) -> None:
    replica.open("")
    replica.receive(Opened(False, epoch, position, 0, b"\x00"))
    replica.receive(Synced(position))


def test_edits_are_taken_by_size_and_numbered() -> None:
    replica = replica_of()
    let_in(replica)
    for _ in range(3):
        type_in(replica, "hello")
    assert take(replica, 1) == [1]
    assert take(replica) == [2, 3]
    assert take(replica) == []
    assert replica.oldest == 1
    replica.receive(Saved(b"", 2, 0))
    assert replica.oldest == 3
    replica.receive(Saved(b"", 3, 9))
    assert replica.oldest is None
    assert replica.position == 9


def test_what_lies_before_an_edit_is_sent_too_if_the_server_has_lost_it() -> None:
    replica = replica_of()
    let_in(replica)
    type_in(replica, "saved ")
    assert take(replica) == [1]
    replica.receive(Saved(b"", 1, 1))
    type_in(replica, "not yet")
    vector = replica.open("").state_vector
    replica.receive(Opened(False, "e", 1, 0, vector))
    (edit,) = replica.take(EVERYTHING)
    assert isinstance(edit, Update)
    assert b"not yet" in edit.update
    assert b"saved" not in edit.update
    replica.open("")
    replica.receive(Opened(False, "restored", 0, 0, b"\x00"))
    (edit,) = replica.take(EVERYTHING)
    assert isinstance(edit, Update)
    assert b"saved not yet" in edit.update


def test_a_position_is_one_in_its_epoch_and_only_what_was_read_counts() -> None:
    replica = replica_of()
    let_in(replica, position=5)
    assert (replica.open("").epoch, replica.position) == ("e", 5)
    # The pieces up to there have not come yet.
    replica.receive(Opened(False, "e", 9, 100, b"\x00"))
    assert replica.position == 5
    replica.receive(Piece(insert(7, "x")))
    assert not replica.synced
    assert replica.open("").position == 5
    replica.receive(Opened(False, "other", 2, 100, b"\x00"))
    assert (replica.epoch, replica.position) == ("other", 0)
    replica.receive(Synced(2))
    assert replica.open("").position == 2


def test_a_large_edit_is_cut_and_arrives() -> None:
    source: Doc[Any] = Doc()
    source.apply_update(Joined(typed(1_000_000)).encode())
    state = source.get_update()
    replica = replica_of()
    let_in(replica)
    replica.doc.apply_update(state)
    doc: Doc[Any] = Doc()
    updates = [m for m in replica.take(EVERYTHING) if isinstance(m, Update)]
    assert len(updates) > 2
    assert max(len(message.update) for message in updates) < 2 * LARGE
    for message in updates:
        doc.apply_update(message.update)
    assert doc.get_state() == source.get_state()
    replica.receive(Saved(b"", len(updates) - 1, 0))
    assert replica.oldest is not None
    replica.receive(Saved(b"", len(updates), 0))
    assert replica.oldest is None


def test_what_others_bring_is_not_taken() -> None:
    replica = replica_of()
    let_in(replica)
    replica.receive(Update(insert(7, "theirs"), 1))
    assert take(replica) == []
    assert (replica.edited, replica.changed, replica.position) == (0, 1, 1)
    # What the application itself brings from elsewhere is.
    replica.doc.apply_update(insert(8, "imported"))
    assert take(replica) == [1]


def test_nothing_is_observed_once_it_is_closed() -> None:
    replica = replica_of()
    let_in(replica)
    replica.close()
    type_in(replica, "unseen")
    assert take(replica) == []


@pytest.mark.parametrize(
    "message", [Pong(1), Note("", b""), SyncStep1(b"\xff"), Presence(b"\x01")]
)
def test_what_no_document_is_told_is_an_error(message: Message) -> None:
    replica = replica_of()
    let_in(replica)
    with pytest.raises(ProtocolError):
        replica.receive(message)


def test_the_latest_presence_is_what_is_said() -> None:
    replica = replica_of()
    let_in(replica)
    replica.announce({"at": 1})
    replica.announce({"at": 2})
    (said,) = replica.take(EVERYTHING)
    assert isinstance(said, Presence)
    assert b'{"at": 2}' in said.states
    replica.renew()
    (again,) = replica.take(EVERYTHING)
    assert isinstance(again, Presence)
    assert again.states != said.states
    replica.leave()
    assert replica.open("").name == "d"
    assert len(replica.take(EVERYTHING)) == 1


def test_others_come_and_go() -> None:
    others = Others(5)
    heard = presence((7, 1, b'{"name":"Ann"}'), (8, 1, b'{"name":"Bob"}'))
    others.apply(wire.read_data(heard, 1)[0])
    assert others.states == {7: {"name": "Ann"}, 8: {"name": "Bob"}}
    others.apply(wire.read_data(presence((7, 1, b"null")), 1)[0])
    assert set(others.states) == {8}
    others.announce({"name": "me"})
    others.forget()
    assert others.states == {5: {"name": "me"}}


def test_who_is_not_named_when_it_is_opened_again_is_forgotten() -> None:
    replica = replica_of()
    let_in(replica)
    replica.announce({"name": "me"})

    def hear(*clients: int) -> None:
        heard = presence(*((client, 1, b"{}") for client in clients))
        replica.receive(Presence(wire.read_data(heard, 1)[0]))

    hear(7, 8)
    replica.receive(Synced(2))  # It had read too slowly; nobody was named.
    met = replica.met
    assert set(replica.others.states) == {replica.doc.client_id, 7, 8}
    replica.receive(Opened(False, "e", 2, 0, b"\x00"))
    hear(8, 9)
    assert set(replica.others.states) == {replica.doc.client_id, 7, 8, 9}
    replica.receive(Synced(2))
    assert set(replica.others.states) == {replica.doc.client_id, 8, 9}
    assert replica.met == met + 2


@pytest.mark.parametrize("state", [b"1", b"{", b'"x"', b"[" * 100_000])
def test_what_is_no_state_is_an_error_and_changes_nothing(state: bytes) -> None:
    others = Others(5)
    heard = presence((8, 1, b"{}"), (7, 1, state))
    with pytest.raises(ProtocolError):
        others.apply(wire.read_data(heard, 1)[0])
    assert others.states == {}


def test_a_state_that_is_too_large_is_not_said() -> None:
    others = Others(5)
    with pytest.raises(QuotaExceeded):
        others.announce({"name": "x" * MAX_STATE})
    assert (others.states, others.clock) == ({}, 0)
