"""One client of many documents: each address is a place of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from pycrdt import Text

from collab.addressed import AddressedConnection
from collab.asgi import ENCODINGS, Payloads
from collab.auth import Access, Attempt, Grant, Visitor
from collab.connection import NamedConnection
from collab.dialects.hocuspocus import MAX_ADDRESS
from collab.document import LARGE_STATE
from collab.errors import (
    AccessDenied,
    BadName,
    CollabError,
    DocumentBroken,
    DocumentGone,
    NothingOpened,
    ProtocolError,
    QuotaExceeded,
    Unavailable,
    WrongDialect,
)
from collab.hub import Hub
from collab.limits import Limits
from collab.messages import Message, Update
from collab.places import DENIAL, MAX_WAITING
from collab.store import Store
from tests.peers import data, edit, insert, presence, step1, step2
from tests.test_connection import Wire
from tests.test_room import Cursed
from tests.vectors import history

FIRST, SECOND, THIRD, FOURTH = history("reorder")
NOTHING = b"\x00\x00"
LIMITS = Limits()
ADMITTED = b"\x02\x02\x0aread-write"
READER = b"\x02\x02\x08readonly"
SAVED, REFUSED = b"\x08\x01", b"\x08\x00"
LEAVING = b"\x07"
QUERY = b"\x03"
DETACHED = b"\x07" + data(b"provider_initiated")


def token(text: str = "", version: str = "4.8.0") -> bytes:
    """The message that says who one is; an empty version is that of version 3."""
    return b"\x02\x00" + data(text.encode()) + (data(version.encode()) * bool(version))


def denied(reason: str = "permission-denied") -> bytes:
    return b"\x02\x01" + data(reason.encode())


class Doorkeeper:
    """Knows some tokens, and takes as long as it is told."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.slow: dict[str, asyncio.Event] = {}
        self.failure: Exception | None = None

    async def __call__(self, attempt: Attempt) -> Grant | None:
        self.attempts.append(attempt)
        if attempt.token in self.slow:
            await self.slow[attempt.token].wait()
        if self.failure is not None:
            raise self.failure
        access, _, user = attempt.token.partition(":")
        match access:
            case "write":
                return Grant(user)
            case "read":
                return Grant(user, Access.READ)
            case "expired":
                raise AccessDenied("token has expired")
        return None


class Client:
    """A client, and what was written to it."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.writes: list[bytes] = []
        self.refusals: list[CollabError] = []
        self.guest = hub.reception.quotas.admit()
        visitor = Visitor("somebody")
        self.connection = AddressedConnection(hub, ENCODINGS, self, visitor)

    def write(self, encoded: Any) -> None:
        self.writes += encoded

    def probe(self) -> None:
        """Nobody is asked."""

    def refuse(self, error: CollabError) -> None:
        self.refusals.append(error)

    def begin(self, address: str, *messages: bytes) -> None:
        """Say something, and wait for nothing."""
        for message in messages:
            assert self.connection.receive(data(address.encode()) + message) is None

    async def say(self, address: str, *messages: bytes) -> None:
        for message in messages:
            waiting = self.connection.receive(data(address.encode()) + message)
            if waiting is not None:
                await waiting
        await self.settle(address)

    async def settle(self, address: str) -> None:
        """Wait until nothing waits at an address, and everything is saved."""
        place = self.connection.places.get(address.encode())
        await until(lambda: place is None or place.inbox is None)
        await asyncio.sleep(0)
        await self.hub.journal.flush()
        await asyncio.sleep(0)

    def hears(self, address: str) -> list[bytes]:
        """What it was written at an address since the last time."""
        prefix = data(address.encode())
        heard = [w[len(prefix) :] for w in self.writes if w.startswith(prefix)]
        self.writes = [w for w in self.writes if not w.startswith(prefix)]
        return heard

    async def open(self, address: str, *, version: str = "4.8.0") -> None:
        """Do what a provider does at first, and forget what it heard."""
        await self.say(address, token("write:", version), step1(), step2(NOTHING))
        self.hears(address)


async def until(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not happened():
            await asyncio.sleep(0)


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    """Everybody may write."""
    hub = Hub(Store(f"sqlite:///{tmp_path / 'log.db'}"), Limits(documents=5))
    await hub.open()
    yield hub
    await hub.close()


@pytest.fixture
def keeper() -> Doorkeeper:
    return Doorkeeper()


@pytest.fixture
async def guarded(tmp_path: Path, keeper: Doorkeeper) -> AsyncIterator[Hub]:
    """Who may come in is the doorkeeper's decision."""
    hub = Hub(
        Store(f"sqlite:///{tmp_path / 'log.db'}"), Limits(), authorize=keeper.__call__
    )
    await hub.open()
    yield hub
    await hub.close()


def text_of(hub: Hub, name: str) -> str:
    return str(hub.rooms[name].document.doc.get("t", type=Text))


# What is said at an address.


async def test_a_client_is_let_in_and_synchronizes_at_its_address(hub: Hub) -> None:
    ann = Client(hub)
    await ann.say("d", token(), step1(), presence((1, 1, b"{}")))
    assert ann.hears("d")[:3] == [ADMITTED, step1(), step2(NOTHING)]
    await ann.say("d", step2(NOTHING))
    assert ann.hears("d")[-1] == SAVED
    assert ann.writes == []


async def test_an_edit_is_acknowledged_once_and_not_sent_back(hub: Hub) -> None:
    ann, bob = Client(hub), Client(hub)
    await ann.open("d")
    await bob.open("d")
    await ann.say("d", edit(FIRST))
    assert ann.hears("d") == [SAVED]
    assert bob.hears("d") == [edit(FIRST)]
    await ann.say("d", edit(FIRST), edit(SECOND))
    assert ann.hears("d") == [SAVED, SAVED]


async def test_the_author_of_an_edit_is_its_user(guarded: Hub) -> None:
    ann = Client(guarded)
    await ann.say("d", token("write:ann"), step1())
    ann.begin("d", edit(FIRST))
    assert guarded.rooms["d"].ledger.unsaved == [(FIRST, "ann")]
    await ann.settle("d")


async def test_sessions_of_one_document_each_hear_at_their_own_address(
    hub: Hub,
) -> None:
    ann, bob = Client(hub), Client(hub)
    await ann.open("d\0one")
    await ann.open("d\0two")
    await bob.open("d")
    await ann.say("d\0one", edit(FIRST))
    assert ann.hears("d\0one") == [SAVED]
    assert ann.hears("d\0two") == [edit(FIRST)]
    assert bob.hears("d") == [edit(FIRST)]
    assert list(hub.rooms) == ["d"]
    assert ann.writes == bob.writes == []


async def test_presence_is_heard_at_each_address_also_by_its_author(hub: Hub) -> None:
    ann, bob = Client(hub), Client(hub)
    await ann.open("d")
    await bob.open("d\0s")
    await ann.say("d", presence((7, 1, b'{"a":1}')))
    await until(lambda: bob.writes and ann.writes)
    assert bob.hears("d\0s") == ann.hears("d") == [presence((7, 1, b'{"a":1}'))]
    await ann.say("d", presence((7, 2, b"null")))
    await until(lambda: bob.writes)
    assert bob.hears("d\0s") == [presence((7, 2, b"null"))]


async def test_who_asks_is_told_who_is_here(hub: Hub) -> None:
    ann = Client(hub)
    await ann.open("d")
    await ann.say("d", presence((7, 1, b"{}")))
    await until(lambda: ann.writes)
    ann.writes.clear()
    await ann.say("d", QUERY)
    assert ann.hears("d") == [presence((7, 1, b"{}"))]


async def test_a_client_without_a_token_begins_with_something_else(hub: Hub) -> None:
    """Version 2 says nothing of a token that it doesn't have."""
    ann = Client(hub)
    await ann.say("d", step1(), presence((7, 1, b"{}")))
    assert ann.hears("d")[:3] == [ADMITTED, step1(), step2(NOTHING)]


async def test_each_time_a_client_asks_it_is_asked_and_only_that_is_counted(
    hub: Hub,
) -> None:
    """It counts: one more to be saved when it asks, one less when it hears of that."""
    ann = Client(hub)
    await ann.open("d")
    await ann.say("d", step1(b"\x00"), step2(NOTHING))
    assert ann.hears("d") == [step1(), step2(NOTHING), SAVED]
    # This one comes early, so that we ask for the rest, of ourselves.
    await ann.say("d", edit(THIRD))
    assert ann.hears("d") == [step1(), SAVED]
    await ann.say("d", step2(FIRST))
    assert ann.hears("d") == []
    await ann.say("d", edit(SECOND))
    assert ann.hears("d") == [SAVED]


async def test_who_asks_again_counts_from_one_and_only_the_last_answer(
    hub: Hub,
) -> None:
    """Its count would be below what is unsaved, with version 2 for ever."""
    ann = Client(hub)
    await ann.open("d")
    await ann.say("d", step1(), step1())
    assert ann.hears("d") == [step1(), step2(NOTHING)] * 2
    await ann.say("d", step2(NOTHING), step2(NOTHING))
    assert ann.hears("d") == [SAVED]


async def test_what_was_not_saved_when_a_client_asks_is_acknowledged_with_its_answer(
    hub: Hub,
) -> None:
    """When it asks, it forgets how many it waits for, and waits for its answer."""
    ann = Client(hub)
    await ann.open("d")
    ann.begin("d", edit(FIRST), edit(SECOND), step1(b"\x00"), edit(SECOND))
    await ann.settle("d")
    assert [heard for heard in ann.hears("d") if heard == SAVED] == [SAVED]
    ann.begin("d", edit(THIRD), step2(NOTHING))
    await ann.settle("d")
    assert ann.hears("d") == [SAVED, SAVED]


async def test_so_it_is_with_what_it_is_owed_while_it_does_not_read(hub: Hub) -> None:
    ann = Client(hub)
    await ann.open("d")
    ann.connection.filled()
    await ann.say("d", edit(FIRST), edit(SECOND))
    await ann.say("d", step1(b"\x00"), edit(THIRD))
    ann.connection.drained()
    await until(lambda: ann.writes)
    assert [heard for heard in ann.hears("d") if heard == SAVED] == [SAVED]


async def test_a_client_says_that_it_leaves_a_document(hub: Hub) -> None:
    ann, bob = Client(hub), Client(hub)
    await ann.open("d")
    await ann.open("e")
    await bob.open("d")
    await ann.say("d", presence((7, 1, b"{}")))
    await until(lambda: bob.writes)
    bob.writes.clear()
    ann.writes.clear()
    await ann.say("d", LEAVING)
    assert ann.hears("d") == [DETACHED]
    await until(lambda: bob.writes)
    assert bob.hears("d") == [presence((7, 1, b"null"))]
    await bob.say("d", edit(FIRST))
    await ann.say("e", edit(FIRST))
    assert ann.hears("d") == []
    assert ann.hears("e") == [SAVED]
    await ann.open("d")
    assert text_of(hub, "d")


async def test_who_leaves_and_comes_back_while_it_waits_has_a_new_place(
    guarded: Hub, keeper: Doorkeeper
) -> None:
    keeper.slow["write:ann"] = asyncio.Event()
    ann = Client(guarded)
    ann.begin("d", token("write:ann"), step1(), LEAVING)
    ann.begin("d", token("write:bob"), step1(), edit(FIRST))
    keeper.slow["write:ann"].set()
    greeting = [ADMITTED, step1(), step2(NOTHING)]
    await until(lambda: b"\x01d" + SAVED in ann.writes)
    assert ann.hears("d") == [*greeting, DETACHED, *greeting, SAVED]
    assert len(guarded.rooms["d"]) == 1
    ann.connection.close(goodbye=True)
    assert len(guarded.rooms["d"]) == 0


async def test_who_leaves_and_comes_back_is_heard_in_order(
    guarded: Hub, keeper: Doorkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it speaks while others have their turn."""
    monkeypatch.setattr("collab.places.SLICE", -1.0)
    keeper.slow["write:ann"] = asyncio.Event()
    ann = Client(guarded)
    ann.begin("d", token("write:ann"), LEAVING, token("write:bob"), step1())
    place = ann.connection.places[b"d"]
    keeper.slow["write:ann"].set()
    await until(lambda: ann.connection.places.get(b"d") is not place)
    ann.begin("d", edit(FIRST))
    await until(lambda: b"\x01d" + SAVED in ann.writes)
    greeting = [ADMITTED, step1(), step2(NOTHING)]
    assert ann.hears("d") == [ADMITTED, DETACHED, *greeting, SAVED]


async def test_small_messages_that_wait_are_not_free(
    guarded: Hub, keeper: Doorkeeper
) -> None:
    keeper.slow["write:ann"] = asyncio.Event()
    ann = Client(guarded)
    ann.begin("d", token("write:ann"))
    count = 0
    waiting = None
    while waiting is None:
        count += 1
        waiting = ann.connection.receive(b"\x01d" + QUERY)
    assert count < MAX_WAITING / 100
    keeper.slow["write:ann"].set()
    await waiting


async def test_who_comes_back_is_asked_to_say_so_again(hub: Hub) -> None:
    """Nobody heeds it at the clock of its departure; it would wait for its renewal."""
    ann, bob = Client(hub), Client(hub)
    await ann.open("d")
    await bob.open("d")
    await ann.say("d", presence((1, 5, b"{}")), LEAVING)
    await until(lambda: b"\x01d" + presence((1, 5, b"null")) in bob.writes)
    ann.hears("d")
    await ann.say("d", token("write:"), step1(), presence((1, 5, b"{}")))
    gone = presence((1, 5, b"null"))
    heard = ann.hears("d")
    assert heard[heard.index(gone) + 1] == QUERY
    bob.hears("d")
    await ann.say("d", presence((1, 6, b"{}")))
    await until(lambda: b"\x01d" + presence((1, 6, b"{}")) in bob.writes)


async def test_what_the_application_says_and_hears(tmp_path: Path) -> None:
    heard: list[tuple[str, str, Grant]] = []
    hub = Hub(
        Store(f"sqlite:///{tmp_path / 'log.db'}"),
        Limits(),
        on_stateless=lambda *said: heard.append(said),
    )
    await hub.open()
    ann, bob = Client(hub), Client(hub)
    await ann.open("d")
    await bob.open("d\0s")
    await ann.say("d", b"\x05" + data("grüß dich".encode()))
    assert heard == [("d", "grüß dich", Grant())]
    hub.broadcast("d", "hello")
    hub.broadcast("nowhere", "hello")
    assert ann.hears("d") == bob.hears("d\0s") == [b"\x05\x05hello"]
    await hub.close()


async def test_an_application_that_fails_to_hear_concerns_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*said: object) -> None:
        raise RuntimeError("no")

    hub = Hub(Store(f"sqlite:///{tmp_path}/log.db"), Limits(), on_stateless=fail)
    await hub.open()
    ann = Client(hub)
    await ann.open("d")
    await ann.say("d", b"\x05\x02hi", edit(FIRST))
    assert ann.hears("d") == [SAVED]
    assert "on_stateless failed" in caplog.text
    await hub.close()


# Who may.


async def test_who_is_denied_is_told_so_once_and_may_try_again(
    guarded: Hub, keeper: Doorkeeper
) -> None:
    ann = Client(guarded)
    await ann.open("e")
    await ann.say("d", token("expired"), step1(), presence((7, 1, b"{}")))
    await ann.say("d", edit(FIRST), step1())
    assert ann.hears("d") == [denied("token has expired")]
    assert "d" not in guarded.rooms
    await ann.say("e", edit(FIRST))
    assert ann.hears("e") == [SAVED]
    await ann.say("d", token("wrong"))
    assert ann.hears("d") == [denied()]
    # What was forgotten is asked for: its presence, what it has, and what it lacks.
    await ann.say("d", token("write:ann"))
    assert ann.hears("d") == [ADMITTED, QUERY, step1(), step2(NOTHING)]
    await ann.say("d", step2(FIRST))
    assert ann.hears("d") == [SAVED]
    assert [attempt.document for attempt in keeper.attempts] == ["e", "d", "d", "d"]
    assert ann.refusals == []


async def test_what_was_forgotten_is_acknowledged_with_what_comes_again(
    guarded: Hub,
) -> None:
    """It has counted its edits; if it has none, it counts on nothing."""
    ann = Client(guarded)
    await ann.open("d")
    await ann.say("d", token("expired"), edit(FIRST), edit(SECOND), token("write:"))
    assert ann.hears("d")[-2:] == [step1(), step2(NOTHING)]
    await ann.say("d", step2(FIRST))
    assert ann.hears("d") == [SAVED, SAVED]
    await ann.say("d", token("read:"), edit(SECOND), token("expired"), token("write:"))
    ann.hears("d")
    await ann.say("d", step2(SECOND))
    assert ann.hears("d") == [SAVED]
    await ann.say("d", token("expired"), token("write:"))
    ann.hears("d")
    await ann.say("d", step2(NOTHING), edit(SECOND))
    assert ann.hears("d") == [SAVED]


async def test_who_asks_with_its_new_token_is_answered_once(guarded: Hub) -> None:
    ann = Client(guarded)
    await ann.say("d", token("wrong"), step1())
    ann.hears("d")
    await ann.say("d", token("write:ann"), step1())
    assert ann.hears("d") == [ADMITTED, step1(), step2(NOTHING)]


@pytest.mark.parametrize("version", ["4.8.0", ""])
async def test_what_is_written_before_the_token_is_known_opens_nothing(
    guarded: Hub, keeper: Doorkeeper, version: str
) -> None:
    """A provider that fetches its token sends what is typed meanwhile at once.

    It begins anew afterwards: it asks, and says what it has.
    """
    ann = Client(guarded)
    await ann.say("d", presence((7, 1, b"{}")), edit(FIRST))
    assert ann.hears("d") == []
    await ann.say("d", token("write:ann", version), step1())
    assert ann.hears("d") == [ADMITTED, step1(), step2(NOTHING)]
    await ann.say("d", step2(FIRST))
    assert ann.hears("d") == [SAVED]
    assert len(keeper.attempts) == 1


async def test_who_says_nothing_of_a_token_is_denied_too(guarded: Hub) -> None:
    ann = Client(guarded)
    await ann.say("d", step1(), presence((7, 1, b"{}")), edit(FIRST))
    assert ann.hears("d") == [denied()]


async def test_what_comes_before_the_decision_waits_for_it(
    guarded: Hub, keeper: Doorkeeper
) -> None:
    keeper.slow["write:ann"] = asyncio.Event()
    ann = Client(guarded)
    ann.begin("d", token("write:ann"), step1(), edit(FIRST), edit(SECOND))
    await ann.say("e", token("write:bob"), step1())  # Others don't wait for it.
    assert ann.hears("e") == [ADMITTED, step1(), step2(NOTHING)]
    assert ann.hears("d") == []
    keeper.slow["write:ann"].set()
    await ann.settle("d")
    assert ann.hears("d") == [ADMITTED, step1(), step2(NOTHING), SAVED, SAVED]


async def test_when_much_waits_nothing_more_is_read(
    guarded: Hub, keeper: Doorkeeper
) -> None:
    keeper.slow["write:ann"] = asyncio.Event()
    ann = Client(guarded)
    ann.begin("d", token("write:ann"), step1())
    paste = edit(insert(1, "x" * (MAX_WAITING // 2)))
    ann.begin("d", paste)
    waiting = ann.connection.receive(data(b"d") + paste)
    assert waiting is not None
    reading = asyncio.ensure_future(waiting)
    await asyncio.sleep(0)
    assert not reading.done()
    keeper.slow["write:ann"].set()
    await reading
    await ann.settle("d")
    assert ann.hears("d")[-2:] == [SAVED, SAVED]


async def test_what_a_client_wrote_before_it_went_is_taken(
    guarded: Hub, keeper: Doorkeeper
) -> None:
    keeper.slow["write:ann"] = asyncio.Event()
    ann, bob = Client(guarded), Client(guarded)
    await bob.open("d")
    await ann.open("d")
    ann.begin("d", token("write:ann"), edit(FIRST))
    ann.connection.mute()
    ann.connection.close(goodbye=True)
    keeper.slow["write:ann"].set()
    await until(lambda: bob.writes)
    assert bob.hears("d") == [edit(FIRST)]
    await until(lambda: len(guarded.rooms["d"]) == 1)
    assert ann.writes == []


async def test_who_goes_while_being_let_in_is_nowhere(
    guarded: Hub, keeper: Doorkeeper
) -> None:
    keeper.slow["write:ann"] = asyncio.Event()
    ann = Client(guarded)
    ann.begin("d", token("write:ann"), step1())
    ann.connection.close(goodbye=False)
    keeper.slow["write:ann"].set()
    await ann.settle("d")
    assert len(guarded.rooms["d"]) == 0
    assert ann.writes == []


async def test_a_reader_sees_and_is_seen_and_changes_nothing(guarded: Hub) -> None:
    ann, bob = Client(guarded), Client(guarded)
    await ann.open("d")
    await ann.say("d", edit(FIRST))
    await asyncio.sleep(0)
    await bob.say("d", token("read:bob"), step1())
    admitted, asked, *told = bob.hears("d")
    assert (admitted, asked) == (READER, step1(vector(guarded)))
    assert told in ([step2(FIRST)], [edit(NOTHING), edit(FIRST), step2(NOTHING)])
    await bob.say("d", step2(FIRST))  # What it has from us is no news.
    assert bob.hears("d") == [SAVED]
    await bob.say("d", edit(SECOND), edit(THIRD))
    assert bob.hears("d") == [REFUSED, REFUSED]
    await bob.say("d", step1(), step2(SECOND))
    assert bob.hears("d")[-1] == REFUSED
    ann.hears("d")
    await bob.say("d", presence((7, 1, b"{}")))
    await until(lambda: ann.writes)
    assert ann.hears("d") == [presence((7, 1, b"{}"))]
    assert guarded.rooms["d"].document.state_vector() == vector(guarded)


def vector(hub: Hub) -> bytes:
    return hub.rooms["d"].document.state_vector()


async def test_a_new_token_changes_what_one_may(guarded: Hub) -> None:
    ann = Client(guarded)
    await ann.open("d")
    guarded.request_tokens("d")
    guarded.request_tokens("nowhere")
    assert ann.hears("d") == [b"\x02\x00"]
    await ann.say("d", token("read:ann"), edit(FIRST))
    assert ann.hears("d") == [READER, REFUSED]
    await ann.say("d", token("write:ann"), edit(FIRST))
    assert ann.hears("d") == [ADMITTED, step1(), SAVED]
    await ann.say("d", token("expired"), edit(SECOND))
    assert ann.hears("d") == [denied("token has expired")]
    assert len(guarded.rooms["d"]) == 0
    await ann.say("d", token("write:ann"))
    assert ann.hears("d")[0] == ADMITTED
    await ann.say("d", edit(SECOND))
    assert ann.hears("d") == [SAVED]


async def test_what_was_refused_is_asked_for_once_it_may_be_written(
    guarded: Hub,
) -> None:
    """A provider counts each edit, and does not send it again by itself."""
    ann = Client(guarded)
    await ann.say("d", token("read:ann"), step1(), step2(NOTHING))
    await ann.say("d", edit(FIRST), edit(SECOND))
    assert ann.hears("d")[-2:] == [REFUSED, REFUSED]
    await ann.say("d", token("read:ann"))
    assert ann.hears("d") == [READER]
    await ann.say("d", token("write:ann"), step2(FIRST))
    assert ann.hears("d") == [ADMITTED, step1(), SAVED, SAVED]
    await ann.say("d", token("write:ann"))
    assert ann.hears("d") == [ADMITTED]


async def test_what_was_written_without_access_is_counted_until_it_is_saved(
    guarded: Hub,
) -> None:
    ann = Client(guarded)
    await ann.say("d", token("expired"), step1(), edit(FIRST), edit(SECOND))
    assert ann.hears("d") == [denied("token has expired")]
    # It asked, which counts for one, and wrote twice.
    await ann.say("d", token("write:ann"), step2(FIRST))
    assert ann.hears("d")[-3:] == [SAVED] * 3
    # Two that are on their way to the log, one that comes too late.
    for message in (edit(SECOND), edit(THIRD), token("expired"), edit(THIRD)):
        ann.begin("d", message)
    await ann.settle("d")
    heard = ann.hears("d")
    missing = 3 - heard.count(SAVED)
    await ann.say("d", token("write:ann"), step2(THIRD))
    assert ann.hears("d").count(SAVED) == missing


async def test_who_asks_again_counts_anew(guarded: Hub) -> None:
    ann = Client(guarded)
    await ann.say("d", token("expired"), edit(FIRST), edit(SECOND))
    await ann.say("d", token("write:ann"))
    # It asked before it heard our question, which was to be answered for two.
    await ann.say("d", step1(), step2(FIRST), step2(NOTHING))
    assert ann.hears("d").count(SAVED) == 1
    await ann.say("d", token("expired"), edit(FIRST), edit(SECOND), step1())
    await ann.say("d", token("write:ann"), step1(), step2(FIRST))
    assert ann.hears("d").count(SAVED) == 1


async def test_if_nobody_can_decide_the_client_may_come_again(
    guarded: Hub, keeper: Doorkeeper, caplog: pytest.LogCaptureFixture
) -> None:
    keeper.failure = RuntimeError("no answer")
    ann = Client(guarded)
    await ann.say("d", token("write:ann"))
    assert [type(error) for error in ann.refusals] == [Unavailable]
    assert ann.hears("d") == []
    assert "cannot decide" in caplog.text


# What is wrong, concerns one address.


@pytest.mark.parametrize("version", ["4.8.0", ""])
async def test_a_rejected_update_ends_one_place_only(hub: Hub, version: str) -> None:
    ann = Client(hub)
    await ann.open("d", version=version)
    await ann.open("e", version=version)
    await ann.say("d", edit(b"\x00\x00\x00"), edit(FIRST))
    reason = "update rejected: trailing-bytes"
    left = b"\x07" + data(reason.encode()) if version else denied(reason)
    assert ann.hears("d") == [REFUSED, left]
    await ann.say("e", edit(FIRST))
    assert ann.hears("e") == [SAVED]
    assert ann.refusals == []
    await ann.say("d", token("write:ann", version), edit(FIRST))
    assert ann.hears("d")[0] == ADMITTED
    assert text_of(hub, "d") == text_of(hub, "e")


@pytest.mark.parametrize("version", ["4.8.0", ""])
async def test_a_deleted_document_is_taken_from_its_clients(
    hub: Hub, version: str
) -> None:
    ann = Client(hub)
    await ann.open("d", version=version)
    await ann.open("e", version=version)
    hub.rooms["d"].dismiss(DocumentGone("d"))
    reason = "document was deleted"
    left = b"\x07" + data(reason.encode()) if version else denied(reason)
    assert ann.hears("d") == [left]
    await ann.say("e", edit(FIRST))
    assert ann.hears("e") == [SAVED]


@pytest.mark.parametrize(
    "address",
    [
        " \n",
        "a\0",
        "a\0b\0c",
        "a\0\0",
        "a\0" + "s" * 65,
        "\0s",
        "x" * 256,
        "a/../b",
    ],
)
async def test_a_bad_address_is_denied(hub: Hub, address: str) -> None:
    ann = Client(hub)
    await ann.say(address, token(), step1())
    assert ann.hears(address) == [denied("bad document name")]
    await ann.open("d")
    await ann.say("d", edit(FIRST))
    assert ann.hears("d") == [SAVED]


@pytest.mark.parametrize("name", ["constructor", "__proto__", "a/b", "😀", "x" * 255])
async def test_names_are_what_the_application_says(hub: Hub, name: str) -> None:
    ann = Client(hub)
    await ann.open(name)
    await ann.say(name, edit(FIRST))
    assert ann.hears(name) == [SAVED]


async def test_addresses_that_are_much_too_long_are_not_kept(hub: Hub) -> None:
    ann = Client(hub)
    with pytest.raises(BadName):
        ann.begin("d" * (MAX_ADDRESS + 1), token())
    assert ann.connection.places == {}
    assert ann.writes == []


async def test_more_documents_than_one_may_have_are_denied(hub: Hub) -> None:
    ann = Client(hub)
    for number in range(5):
        await ann.open(f"d{number}")
    await ann.say("d5", token(), step1())
    assert ann.hears("d5") == [denied("too many documents")] * 2
    await ann.say("d0", LEAVING)
    await ann.say("d5", token(), step1())
    assert ann.hears("d5")[0] == ADMITTED


async def test_one_document_is_not_opened_without_end(tmp_path: Path) -> None:
    hub = Hub(Store(f"sqlite:///{tmp_path / 'log.db'}"), Limits(repeats=2))
    await hub.open()
    ann = Client(hub)
    for session in ("a", "b"):
        await ann.say(f"d\0{session}", token(), step1())
        assert ann.hears(f"d\0{session}")[0] == ADMITTED
    await ann.say("d\0c", token(), step1())
    assert ann.hears("d\0c") == [denied("too many channels of one document")]
    await ann.say("e", token(), step1())
    assert ann.hears("e")[0] == ADMITTED
    await ann.say("d\0a", LEAVING)
    await ann.say("d\0c", token(), step1())
    assert ADMITTED in ann.hears("d\0c")
    assert ann.refusals == []
    await hub.close()


async def test_a_document_that_is_full_is_no_matter_to_others(tmp_path: Path) -> None:
    hub = Hub(
        Store(f"sqlite:///{tmp_path / 'log.db'}"), Limits(sessions_per_document=1)
    )
    await hub.open()
    ann, bob = Client(hub), Client(hub)
    await ann.say("d", token(), step1())
    await bob.say("d", token(), step1())
    assert bob.hears("d") == [denied("too many clients in this document")]
    await bob.say("e", token(), step1())
    assert bob.hears("e")[0] == ADMITTED
    assert bob.refusals == []
    await hub.close()


@pytest.mark.parametrize(
    "message",
    [b"\x04\x00\x02\x00\x00", b"\x06\x02hi", b"\x0b", b"\xff\xff\x03", b"\x09"],
    ids=["sync reply", "broadcast", "11", "a large number", "ping"],
)
async def test_messages_of_other_kinds_are_ignored(hub: Hub, message: bytes) -> None:
    ann, bob = Client(hub), Client(hub)
    await ann.open("d")
    await bob.open("d")
    await ann.say("d", message, edit(FIRST))
    assert ann.hears("d") == [SAVED]
    assert bob.hears("d") == [edit(FIRST)]


async def test_a_pong_has_no_address(hub: Hub) -> None:
    ann = Client(hub)
    assert ann.connection.receive(b"\x0a") is None
    assert ann.connection.places == {}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x05ab",
        b"\x01d",
        b"\x01d\x00",
        b"\x01d\x00\x09\x00",
        b"\x01d\x02\x01\x00",
        b"\x01d\x00\x02\x02\x00\x00\x00",
        b"\x01d\x05\x01\xff",
        b"\x01d\x02\x00\x09",
    ],
)
@pytest.mark.parametrize("opened", [True, False])
async def test_what_is_no_message_ends_the_connection(
    hub: Hub, payload: bytes, opened: bool
) -> None:
    ann = Client(hub)
    if opened:
        await ann.open("d")
    try:
        waiting = ann.connection.receive(payload)
        if waiting is not None:
            await waiting
        await ann.settle("d")
    except ProtocolError as exc:
        ann.refuse(exc)
    assert [error.close_code for error in ann.refusals] == [4400]


async def test_who_speaks_as_y_websocket_does_is_told_where_that_is_spoken(
    hub: Hub,
) -> None:
    ann = Client(hub)
    with pytest.raises(WrongDialect, match="/ws/NAME"):
        ann.connection.receive(step1())


async def test_what_is_ignored_is_bounded_while_nothing_is_open(guarded: Hub) -> None:
    ann = Client(guarded)
    await ann.say("d", token("wrong"))
    paste = edit(b"x" * 100_000)
    with pytest.raises(QuotaExceeded):  # noqa: PT012
        for _ in range(LIMITS.unadmitted_size // 100_000 + 1):
            ann.begin("d", paste)
    bob = Client(guarded)
    await bob.open("e")
    await bob.say("d", token("wrong"))
    bob.begin("d", *[paste] * 50)


async def test_who_is_denied_over_and_over_is_sent_away(
    guarded: Hub, keeper: Doorkeeper
) -> None:
    ann = Client(guarded)
    with pytest.raises(QuotaExceeded):  # noqa: PT012
        for _ in range(LIMITS.unadmitted_size // DENIAL + 2):
            await ann.say("d", token("wrong"), LEAVING)
    assert len(keeper.attempts) == LIMITS.unadmitted_size // DENIAL + 1


# Signs of life.


async def test_a_sign_of_life_is_what_the_client_understands(hub: Hub) -> None:
    old, new = Client(hub), Client(hub)
    await old.open("d", version="")
    await new.open("d")
    assert old.connection.beat() == b"\x01d\x01\x01\x00"
    assert new.connection.beat() == b"\x09"


async def test_who_opens_nothing_is_sent_away(guarded: Hub) -> None:
    ann = Client(guarded)
    await ann.say("d", token("wrong", version=""))
    for _ in range(LIMITS.patience - 1):
        assert ann.connection.beat() == b"\x01d\x01\x01\x00"
    await ann.open("e")
    for _ in range(LIMITS.patience):
        ann.connection.beat()
    assert ann.refusals == []
    await ann.say("e", LEAVING)
    for _ in range(LIMITS.patience):
        ann.connection.beat()
    assert [type(error) for error in ann.refusals] == [NothingOpened]
    assert Client(guarded).connection.beat() is None


# Slow readers.


async def test_who_reads_slowly_gets_one_diff_for_each_document(hub: Hub) -> None:
    ann, bob = Client(hub), Client(hub)
    for name in ("d", "e"):
        await ann.open(name)
        await bob.open(name)
    ann.connection.filled()
    for name in ("d", "e"):
        await bob.say(name, edit(FIRST), edit(SECOND))
    assert ann.writes == []
    await ann.say("d", edit(THIRD))
    assert ann.writes == []
    ann.connection.drained()
    await until(lambda: len(ann.writes) >= 3)
    saved, diff = ann.hears("d")
    assert saved == SAVED
    assert diff.startswith(b"\x00\x01")
    assert [message[:2] for message in ann.hears("e")] == [b"\x00\x01"]


async def test_documents_catch_up_in_turn_while_there_is_room(hub: Hub) -> None:
    ann, bob = Client(hub), Client(hub)
    names = ["a", "b", "c"]
    for name in names:
        await ann.open(name)
        await bob.open(name)
    ann.connection.filled()
    for name in names:
        await bob.say(name, edit(FIRST))
    write = ann.write

    def fill(encoded: Any) -> None:
        write(encoded)
        ann.connection.filled()

    for place in ann.connection.places.values():
        place.session.write = fill
    for name in names:
        assert ann.writes == []
        ann.connection.drained()
        await until(lambda: ann.writes)
        await asyncio.sleep(0)
        assert len(ann.hears(name)) == 1


async def test_a_document_that_cannot_catch_up_holds_up_no_other(hub: Hub) -> None:
    ann, bob = Client(hub), Client(hub)
    for name in ("d", "e"):
        await ann.open(name)
        await bob.open(name)
        await bob.say(name, edit(FIRST))
        ann.hears(name)
    ann.connection.filled()
    for name in ("d", "e"):
        await bob.say(name, edit(SECOND))
    document = hub.rooms["d"].document
    cursed = Cursed(b"encode")
    cursed.doc.apply_update(FIRST)
    document.doc = cast(Any, cursed)
    document.size = LARGE_STATE + 1  # It is encoded in steps.
    ann.connection.drained()
    await until(lambda: ann.refusals and ann.writes)
    await until(lambda: not ann.connection._lagging)
    assert [message[:2] for message in ann.hears("e")] == [b"\x00\x01"]
    # It would hear nothing more of the other, and nobody would notice.
    assert [type(error) for error in ann.refusals] == [DocumentBroken]


async def test_who_catches_up_while_the_transport_is_full_is_behind_again(
    hub: Hub,
) -> None:
    ann, bob = Client(hub), Client(hub)
    await ann.open("d")
    await bob.open("d")
    ann.connection.filled()
    await bob.say("d", edit(FIRST))
    room = hub.rooms["d"]
    pause = asyncio.Event()

    async def occupy() -> None:
        await pause.wait()

    room.busy = True
    hub._occupied[room] = hub.spawn(occupy())
    ann.connection.drained()
    await asyncio.sleep(0)
    ann.connection.filled()  # By what is said at another address.
    pause.set()
    room.busy = False
    await until(lambda: ann.writes)
    ann.writes.clear()
    session = ann.connection.places[b"d"].session
    await until(lambda: session.behind is not None)
    await bob.say("d", edit(SECOND))
    assert ann.writes == []
    ann.connection.drained()
    await until(lambda: ann.writes)
    assert [message[:2] for message in ann.hears("d")] == [b"\x00\x01"]


async def test_answers_wait_while_the_transport_is_full(guarded: Hub) -> None:
    ann = Client(guarded)
    ann.connection.filled()
    reading = asyncio.ensure_future(
        asyncio.wait_for(ann.connection.receive(b"\x01d" + token("wrong")) or _no(), 60)
    )
    await asyncio.sleep(0)
    assert not reading.done()
    ann.connection.drained()
    await reading
    await ann.settle("d")
    assert ann.hears("d") == [denied()]


@pytest.mark.parametrize("end", ["mute", "close"])
async def test_who_goes_while_its_answer_waits_is_nowhere(hub: Hub, end: str) -> None:
    ann = Client(hub)
    ann.connection.filled()
    waiting = ann.connection.receive(b"\x01d" + token())
    assert waiting is not None
    reading = asyncio.ensure_future(waiting)
    await asyncio.sleep(0)
    if end == "mute":
        ann.connection.mute()
    else:
        ann.connection.close(goodbye=True)
    async with asyncio.timeout(60):
        await reading
    await ann.settle("d")
    ann.connection.close(goodbye=True)
    await asyncio.sleep(0)
    assert sum(map(len, hub.rooms.values())) == 0
    assert ann.writes == []


async def _no() -> None:
    raise AssertionError("it was answered at once")


async def test_who_comes_while_the_transport_is_full_catches_up_later(
    guarded: Hub, keeper: Doorkeeper
) -> None:
    keeper.slow["write:ann"] = asyncio.Event()
    ann, bob = Client(guarded), Client(guarded)
    await bob.open("d")
    ann.begin("d", token("write:ann"), step1())
    ann.connection.filled()
    keeper.slow["write:ann"].set()
    await ann.settle("d")
    assert ann.hears("d") == [ADMITTED]
    await bob.say("d", edit(FIRST))
    assert ann.writes == []
    ann.connection.drained()
    await until(lambda: ann.writes)
    asked, diff = ann.hears("d")
    assert asked[:2] == b"\x00\x00"
    assert diff.startswith(b"\x00\x01")


# What it costs.


async def test_what_goes_to_many_is_encoded_once_for_each_dialect_and_address(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [Client(hub) for _ in range(40)]
    for client in clients:
        await client.open("d")
    for client in clients[:3]:
        await client.open("d\0mine" + str(clients.index(client)))
    wires = [Wire() for _ in range(40)]
    for wire in wires:
        visitor = Visitor("somebody")
        named = NamedConnection(hub, "d", ENCODINGS.yjs, wire, visitor)
        assert named.open() is None
        named.receive(step1())
    await asyncio.sleep(0)
    encoded: Counter[type] = Counter()
    monkeypatch.setattr(Payloads, "encode", counted(Payloads.encode, encoded))
    for update in (FIRST, SECOND):
        clients[0].begin("d", edit(update))
    room = hub.rooms["d"]
    assert len(room) == 83
    room.flush(0.0)
    # Two updates, for y-websocket, for the name, and for each of three sessions.
    assert encoded == {Update: 2 * 5}
    for client in clients[1:]:
        assert client.hears("d")[-2:] == [edit(FIRST), edit(SECOND)]
    for wire in wires:
        assert wire.writes[-2:] == [edit(FIRST), edit(SECOND)]
    await clients[0].settle("d")


def counted(
    encode: Callable[[Any, Message], bytes], kinds: Counter[type]
) -> Callable[[Any, Message], bytes]:
    """An ``encode`` that counts what it encodes."""

    def count(self: Any, message: Message) -> bytes:
        kinds[type(message)] += 1
        return encode(self, message)

    return count
