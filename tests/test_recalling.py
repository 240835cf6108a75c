"""Who comes back after a restart, to another server, or after a week, gets little.

``RECALL_SEED=17`` repeats a history.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, Self

import pytest
from pycrdt import Text
from sqlalchemy import text
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from collab import wire
from collab.catalog import Catalog
from collab.compaction import compact
from collab.document import Document
from collab.errors import StoreError
from collab.folding import fold
from collab.history import FOREVER, History
from collab.hub import Hub
from collab.limits import Limits
from collab.recent import MAX_ROWS, MAX_SIZE
from collab.store import Append, Store
from collab.tidying import DAY, tidy
from tests import crafted, servers
from tests.databases import DatabaseServer
from tests.native import HELLO, edit, opening, read_frame
from tests.peers import PATIENCE, insert, uint
from tests.test_native_connection import Client, until
from tests.traces import generate
from tests.vectors import history

SEED = int(os.environ.get("RECALL_SEED", random.SystemRandom().randrange(2**32)))
FIRST, SECOND, THIRD, FOURTH = history("reorder")
DELETE = b"\x00\x01\x01\x01\x00\x01"
"""The update that deletes the first letter of client 1."""


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'collab.db'}"
    server: DatabaseServer = request.getfixturevalue(request.param)
    return server.create_database()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A log that is written to, and read by servers that start."""
    store = Store(f"sqlite:///{tmp_path / 'log.db'}")
    store.open()
    yield store
    store.close()


@asynccontextmanager
async def started(url: str) -> AsyncIterator[Hub]:
    """A server that knows nothing but its database."""
    hub = Hub(Store(url), Limits())
    await hub.open()
    try:
        yield hub
    finally:
        await hub.close()


def write(store: Store, *updates: bytes) -> None:
    for at in range(0, len(updates), 500):
        part = [(update, "ann") for update in updates[at : at + 500]]
        store.append([Append("d", part)])


def made_of(updates: list[bytes]) -> Document:
    """What a client has that was told some updates."""
    document = Document()
    for update in updates:
        document.apply(update)
    return document


async def come_back(
    hub: Hub, has: Document, position: int, epoch: str | None = None
) -> list[tuple[Any, ...]]:
    """What a client hears that has been here before; it has it in the end."""
    if epoch is None:
        epoch = (await hub.enter("d")).epoch
    client = Client(hub)
    asked = opening("d", has.state_vector(), epoch.encode(), position)
    await client.say(1, asked)
    await until(lambda: b"\x01\x07" in b"".join(client.frames[-1:]))
    heard = client.hears()
    for name, *values in heard:
        if name == "Piece":
            has.apply(values[0])
    assert heard[-1][0] == "Synced"
    return heard


def pieces(heard: list[tuple[Any, ...]]) -> list[bytes]:
    return [values[0] for name, *values in heard if name == "Piece"]


async def test_after_a_restart_only_what_was_appended_since_comes(url: str) -> None:
    async with started(url) as hub:
        ann = Client(hub)
        await ann.say(1, opening(), edit(1, FIRST), edit(2, SECOND))
        has = made_of([FIRST, SECOND])
        await ann.say(1, edit(3, THIRD), edit(4, DELETE))
    async with started(url) as hub:
        heard = await come_back(hub, has, 2)
        assert pieces(heard) == [THIRD, DELETE]
        assert heard[-1] == ("Synced", 4)
        assert has.gate == hub.rooms["d"].document.gate
        again = await come_back(hub, has, 4)
        assert pieces(again) == []


async def test_another_server_of_the_same_database_knows_it_too(url: str) -> None:
    async with started(url) as here, started(url) as there:
        ann, bob = Client(here), Client(there)
        await ann.say(1, opening(), edit(1, FIRST))
        has = made_of([FIRST])
        await ann.say(1, edit(2, SECOND))
        await bob.say(1, opening())
        await ann.say(1, edit(3, DELETE))
        await until(lambda: there.rooms["d"].position == 3)
        heard = await come_back(there, has, 1)
        assert pieces(heard) == [SECOND, DELETE]


async def test_a_server_that_is_behind_who_comes_looks_first(url: str) -> None:
    async with started(url) as here, started(url) as there:
        ann, bob = Client(here), Client(there)
        await ann.say(1, opening(), edit(1, FIRST), edit(2, DELETE))
        await bob.say(1, opening())
        epoch = there.rooms["d"].epoch
        await ann.say(1, edit(3, SECOND))
        assert there.rooms["d"].position == 2
        heard = await come_back(there, made_of([FIRST, DELETE, SECOND]), 3, epoch)
        assert pieces(heard) == []
        assert heard[-1] == ("Synced", 3)


@pytest.mark.parametrize("unseen", [DELETE, insert(9, "z")])
async def test_what_is_saved_behind_what_is_yet_to_be_read_is_not_left_out(
    url: str, unseen: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(url) as here, started(url) as there:
        ann, bob = Client(here), Client(there)
        await ann.say(1, opening(), edit(1, FIRST))
        await bob.say(1, opening())
        room = here.rooms["d"]
        epoch = there.rooms["d"].epoch
        await until(lambda: room.epoch)
        assert pieces(await come_back(here, made_of([FIRST]), 1, epoch)) == []
        slow = asyncio.Event()
        learn = here.follower._learn

        async def read_slowly(*arguments: Any) -> None:
            await slow.wait()
            await learn(*arguments)

        monkeypatch.setattr(here.follower, "_learn", read_slowly)
        await bob.say(1, edit(1, SECOND))
        await ann.say(1, edit(2, unseen))
        assert room.position == 1
        assert not room.ledger.unsaved
        has = made_of([FIRST])
        await come_back(here, has, 1, epoch)
        assert has.gate == room.document.gate
        slow.set()
        await until(lambda: room.position == 3)
        has = made_of([FIRST])
        heard = await come_back(here, has, 1, epoch)
        assert pieces(heard) == [SECOND, unseen]


async def test_rows_are_read_once_and_for_nobody_else(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, FIRST, SECOND, THIRD)
    reads: list[tuple[object, ...]] = []
    tail = History.tail

    def read(self: History, *arguments: Any) -> Any:
        reads.append(arguments)
        return tail(self, *arguments)

    monkeypatch.setattr(History, "tail", read)
    async with started(store.url) as hub:
        new = Client(hub)
        await new.say(1, opening())
        epoch = hub.rooms["d"].epoch
        assert await come_back(hub, made_of([FIRST, SECOND, THIRD]), 3, epoch)
        assert reads == []
        all_of_them = [come_back(hub, made_of([FIRST]), 1, epoch) for _ in range(20)]
        for heard in await asyncio.gather(*all_of_them):
            assert pieces(heard) == [SECOND, THIRD]
        assert len(reads) == 1
        await come_back(hub, made_of([FIRST]), 1, epoch)
        assert len(reads) == 1


async def test_what_is_too_much_is_a_difference(store: Store) -> None:
    texts = [insert(7, "x")] + [insert(7, "y", at) for at in range(1, MAX_ROWS + 50)]
    write(store, *texts)
    async with started(store.url) as hub:
        heard = await come_back(hub, made_of(texts[:40]), 40)
        assert len(pieces(heard)) == 1
        heard = await come_back(hub, made_of(texts[:50]), 50)
        assert pieces(heard) == texts[50:]


async def test_a_large_row_is_not_even_read(store: Store) -> None:
    large = insert(8, "z" * (MAX_SIZE + 1))
    write(store, FIRST, large, SECOND, THIRD)
    async with started(store.url) as hub:
        document_id = (await hub.enter("d")).document_id
        assert document_id is not None
        tail = History(hub.store.database).tail(document_id, 4, MAX_ROWS, MAX_SIZE)
        assert tail == (2, [(3, SECOND), (4, THIRD)])
        heard = await come_back(hub, made_of([FIRST]), 1)
        assert len(pieces(heard)) == 1
        heard = await come_back(hub, made_of([FIRST, large, SECOND]), 3)
        assert pieces(heard) == [THIRD]


@pytest.mark.parametrize("isolated", [False, True])
async def test_nothing_is_told_across_a_damaged_row(
    store: Store, isolated: bool
) -> None:
    """It may have deleted something that the document of another server is without."""
    write(store, FIRST, SECOND, DELETE, THIRD)
    async with started(store.url) as whole:
        epoch = (await whole.enter("d")).epoch
        with store.database.writing() as connection:
            connection.execute(text("UPDATE updates SET crc = 1 WHERE position = 3"))
        if isolated:
            stored = store.load("d")
            assert stored.document_id is not None
            Catalog(store.database).isolate(stored.document_id, stored.damaged)
        has = made_of([FIRST, SECOND])
        heard = await come_back(whole, has, 2, epoch)
        assert pieces(heard) != [THIRD]
        assert has.gate == whole.rooms["d"].document.gate
        later = made_of([FIRST, SECOND, DELETE])
        assert pieces(await come_back(whole, later, 3, epoch)) == [THIRD]


async def test_what_the_document_could_not_read_is_told_nobody(store: Store) -> None:
    write(store, FIRST, b"\x01\x01\x01\x01\xff", SECOND)
    async with started(store.url) as hub:
        has = made_of([FIRST])
        heard = await come_back(hub, has, 1)
        assert b"\x01\x01\x01\x01\xff" not in pieces(heard)
        assert has.gate == hub.rooms["d"].document.gate


@pytest.mark.parametrize("kind", ["letters", "deletions"])
async def test_what_waited_since_before_one_left_arrives(
    store: Store, kind: str
) -> None:
    """It stands before the position, and was shown to nobody until it was ready."""
    behind_second = crafted.typed(7, 0, "x", (1, 1))
    early = {
        "letters": behind_second,
        "deletions": b"\x00\x01\x01\x01\x01\x01",  # Of the second letter.
    }[kind]
    write(store, FIRST, early, SECOND, THIRD)
    async with started(store.url) as hub:
        has = Document()
        has.apply(FIRST)
        await come_back(hub, has, 2)
        assert has.gate == hub.rooms["d"].document.gate
        # Nor does it if the server is the same all the time.
    async with started(store.url) as hub:
        bob = Client(hub)
        await bob.say(1, opening("e"), edit(1, FIRST), edit(2, early))
        await until(lambda: hub.rooms["e"].epoch)
        room = hub.rooms["e"]
        await bob.say(1, edit(3, SECOND), edit(4, THIRD))
        away = Client(hub)
        vector = made_of([FIRST]).state_vector()
        await away.say(1, opening("e", vector, room.epoch.encode(), 2))
        has = made_of([FIRST])
        for update in pieces(away.hears()):
            has.apply(update)
        assert has.gate == room.document.gate


async def test_a_database_that_fails_costs_octets_only(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, FIRST, SECOND, DELETE)
    async with started(store.url) as hub:
        epoch = (await hub.enter("d")).epoch

        def fail(*_: object) -> None:
            raise StoreError("the disk is gone")

        with monkeypatch.context() as broken:
            broken.setattr(History, "tail", fail)
            has = made_of([FIRST])
            heard = await come_back(hub, has, 1, epoch)
            assert len(pieces(heard)) == 1
            assert has.gate == hub.rooms["d"].document.gate
        heard = await come_back(hub, made_of([FIRST]), 1, epoch)
        assert pieces(heard) == [SECOND, DELETE]


def test_a_client_hears_a_few_octets_from_a_server_that_was_restarted(
    tmp_path: Path,
) -> None:
    letters = [insert(9, "x")] + [insert(9, "y", at) for at in range(1, 200)]
    deletions = [b"\x00\x01\x09\x01" + uint(at) + b"\x01" for at in range(0, 200, 2)]
    with servers.running(tmp_path) as server:
        with Socket(server.ws_url) as writer:
            writer.say(opening(), *[edit(1 + at, x) for at, x in enumerate(letters)])
            writer.say(*[edit(201 + at, x) for at, x in enumerate(deletions)])
            writer.hear_until("Saved", 300)
        assert server.terminate() == 0
        server.start()
        with Socket(server.ws_url) as client:
            client.say(opening())
            opened, *_, synced = client.hear_until("Synced", 300)
        with Socket(server.ws_url) as writer:
            writer.say(opening(), edit(1, FIRST), edit(2, DELETE))
            writer.hear_until("Saved", 2)
        assert server.terminate() == 0
        server.start()
        with Socket(server.ws_url) as client:
            client.say(opening("d", opened[5], opened[2], synced[1]))
            heard = client.hear_until("Synced", 302)
            assert pieces(heard) == [FIRST, DELETE]
            assert client.octets < 100


class Socket:
    """A client of a server in another process, with a document on channel 1."""

    def __init__(self, url: str) -> None:
        protocol = [Subprotocol("collab.v1")]
        self.socket = connect(url, subprotocols=protocol, compression=None, legacy=True)
        self.socket.send(HELLO)
        self.socket.recv(PATIENCE)
        self.octets = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def say(self, *messages: bytes) -> None:
        self.socket.send(b"".join(b"\x01" + message for message in messages))

    def hear_until(self, name: str, number: int) -> list[tuple[Any, ...]]:
        """What is said until a message has a number."""
        heard: list[tuple[Any, ...]] = []
        while not heard or heard[-1][:2] != (name, number):
            frame = self.socket.recv(PATIENCE)
            assert isinstance(frame, bytes)
            self.octets += len(frame)
            heard += [values for at, values in read_frame(frame) if at == 1]
        return heard


# Any history.


def shuffled(updates: list[bytes], chance: Random) -> list[bytes]:
    """Have some of them come too early, but for the last third."""
    found = updates.copy()
    for _ in range(len(updates) // 10):
        at = chance.randrange(len(found) * 2 // 3)
        found.insert(max(0, at - chance.randint(1, 8)), found.pop(at))
    return found


def age(store: Store, document_id: int, chance: Random) -> None:
    """Have a part of the log be old, and be compacted and thinned as such."""
    head = store.load("d").head
    compact(store, "d")
    with store.database.writing() as connection:
        connection.execute(
            text("UPDATE updates SET at = position * 300 WHERE document_id = :id"),
            {"id": document_id},
        )
    past = chance.randint(0, head) * 300
    tidied = tidy(store, "d", FOREVER, past + DAY)
    print(f"thinned {tidied.merged} of {head}")


@pytest.mark.parametrize("aged", [False, True])
@pytest.mark.parametrize("run", range(4))
async def test_from_any_position_of_any_history_one_ends_with_all(
    store: Store, run: int, aged: bool
) -> None:
    seed = SEED + run
    print(f"RECALL_SEED={seed}")
    chance = Random(seed)
    edits = [update for _, update in generate(seed, 240, 1 + run)[0]]
    if run % 2:
        edits = shuffled(edits, chance)
    write(store, *edits)
    document_id = store.load("d").document_id
    assert document_id is not None
    # What somebody had at each position that is kept one by one.
    seen = Document()
    states = [(seen.state(), seen.state_vector())]
    for update in edits:
        seen.apply(update)
        states.append((seen.state(), seen.state_vector()))
    if aged:
        age(store, document_id, chance)
    truth = fold(store.load("d")).gate
    log = History(store.database).rows(document_id, 0, len(edits))
    rows = {row.update for row in log}
    resumed = 0
    async with started(store.url) as hub:
        epoch = (await hub.enter("d")).epoch
        for position, (state, vector) in enumerate(states):
            has = Document()
            has.apply(state)
            assert wire.read_state_vector(vector) == has.gate.clocks
            heard = await come_back(hub, has, position, epoch)
            assert has.gate == truth, position
            assert str(has.doc.get("text", type=Text)) == str(
                hub.rooms["d"].document.doc.get("text", type=Text)
            )
            resumed += all(piece in rows for piece in pieces(heard))
            assert heard[-1] == ("Synced", len(edits))
    # Only what waited since before somebody left has to come in another way.
    print(f"resumed {resumed} of {len(states)}")
    assert resumed == len(states) if run % 2 == 0 else resumed > len(states) // 5
