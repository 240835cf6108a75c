"""What others append to a log is seen by all, whatever happens to a room meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from collab.compaction import compact
from collab.document import Document
from collab.history import Retention
from collab.hub import Hub
from collab.tidying import tidy
from tests import crafted
from tests.native import edit, opening
from tests.peers import insert
from tests.stores import behind_its_back
from tests.test_native_connection import Client, until
from tests.test_recalling import DELETE, come_back, made_of, pieces, started
from tests.test_room import Cursed
from tests.vectors import history

FIRST, SECOND, *_ = history("reorder")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'collab.db'}"


def hear(client: Client, has: Document) -> Document:
    """Have a client take what it was told."""
    for name, *values in client.hears():
        if name in ("Piece", "Update"):
            has.apply(values[-1])
    return has


async def opened(hub: Hub) -> tuple[Client, Document]:
    """Somebody who has opened a document, and what they have."""
    client = Client(hub)
    await client.say(1, opening())
    return client, hear(client, Document())


async def sees(client: Client, has: Document, hub: Hub) -> None:
    """Wait until a client has what a server has."""
    async with asyncio.timeout(20):
        while hear(client, has).gate != hub.rooms["d"].document.gate:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("unseen", [DELETE, SECOND])
async def test_what_others_appended_is_shown_when_a_room_was_rebuilt(
    url: str, unseen: bytes
) -> None:
    async with started(url) as here, started(url) as there:
        ann, bob = Client(here), Client(there)
        await ann.say(1, opening(), edit(1, FIRST))
        await bob.say(1, opening())
        eve, has = await opened(here)
        room = here.rooms["d"]
        await bob.say(1, edit(1, unseen))
        assert room.position == 1
        room.broken = True
        await here.enter("d")
        assert room.position == 2
        await sees(eve, has, there)
        await ann.say(1, edit(2, insert(9, "z")))
        assert ("Saved", 2, 3) in ann.hears()


async def test_what_waited_behind_what_pycrdt_fails_at_is_shown(url: str) -> None:
    async with started(url) as here:
        ann, bob = Client(here), Client(here)
        await ann.say(1, opening())
        eve, has = await opened(here)
        poison = crafted.typed(8, 0, "y", (1, 0))
        other = crafted.typed(9, 0, "z", (1, 0))
        await ann.say(1, edit(1, poison), edit(2, other))
        room = here.rooms["d"]
        assert room.document.parked.keys() == {poison, other}
        room.document.doc = cast(Any, Cursed(poison))
        await bob.say(1, opening(), edit(1, FIRST))
        assert room.broken
        await here.enter("d")  # This time it is read without failing.
        assert room.document.gate == made_of([FIRST, poison, other]).gate
        await sees(eve, has, here)


async def test_a_broken_room_is_rebuilt_although_nobody_speaks(url: str) -> None:
    async with started(url) as here, started(url) as there:
        bob = Client(there)
        await bob.say(1, opening(), edit(1, FIRST))
        eve, has = await opened(here)
        here.rooms["d"].broken = True
        await bob.say(1, edit(2, SECOND))
        await here._poll()
        await sees(eve, has, there)


@pytest.mark.parametrize("later", [[], [insert(9, "z")]])
async def test_what_was_discarded_before_it_was_read_is_shown(
    url: str, later: list[bytes]
) -> None:
    """As another server does with ``--history none`` when it has made a snapshot."""
    async with started(url) as here, started(url) as there:
        bob = Client(there)
        await bob.say(1, opening(), edit(1, FIRST))
        eve, has = await opened(here)
        await bob.say(1, edit(2, SECOND), edit(3, DELETE))
        assert here.rooms["d"].position == 1
        compact(there.store, "d")
        assert tidy(there.store, "d", Retention(0), 0).discarded == 3
        for update in later:
            await bob.say(1, edit(4, update))
        await here._poll()
        await sees(eve, has, there)
        assert here.rooms["d"].position == 3 + len(later)
        # It goes on from there as always.
        await bob.say(1, edit(5, insert(8, "y")))
        await here._poll()
        await sees(eve, has, there)


async def test_a_damaged_row_is_put_into_quarantine_and_costs_nothing_else(
    url: str,
) -> None:
    async with started(url) as here, started(url) as there:
        bob = Client(there)
        await bob.say(1, opening(), edit(1, FIRST))
        eve, has = await opened(here)
        await bob.say(1, edit(2, DELETE), edit(3, SECOND))
        behind_its_back(url, "UPDATE updates SET crc = 1 WHERE position = 2")
        await here._poll()
        await until(lambda: here.rooms["d"].position == 3)
        await sees(eve, has, here)
        assert has.gate == made_of([FIRST, SECOND]).gate
        number = here.rooms["d"].document_id
        assert number is not None
        (damage,) = here.catalog.quarantined(number)
        assert (damage.first, damage.last) == (2, 2)


async def test_nothing_is_read_of_another_document_under_the_same_name(
    url: str,
) -> None:
    async with started(url) as here, started(url) as there:
        ann, bob = Client(here), Client(there)
        await ann.say(1, opening(), edit(1, FIRST))
        eve, has = await opened(here)
        room = here.rooms["d"]
        there.catalog.purge("d", forget=True)
        await bob.say(1, opening(), edit(1, insert(9, "y")), edit(2, insert(8, "z")))
        here._catch_up(room)
        await until(lambda: not here.follower.under_way)
        room.broken = True
        assert await here.enter("d") is not room
        assert hear(eve, has).gate == made_of([FIRST]).gate
        assert await here.enter("d") is not room


async def test_what_a_room_has_learned_it_knows_the_position_of(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A room that is heavy learns in turns with others, who may come back then."""
    monkeypatch.setattr(Document, "heavy", True)
    async with started(url) as here, started(url) as there:
        bob = Client(there)
        await bob.say(1, opening(), edit(1, FIRST))
        room = await here.enter("d")
        epoch = room.epoch
        await come_back(here, made_of([FIRST]), 1, epoch)
        await bob.say(1, edit(2, DELETE))
        has = made_of([FIRST])
        heard: list[Any] = []
        occupy = here.occupy

        async def occupied(*arguments: Any) -> Any:
            await occupy(*arguments)
            # Who reads the socket next may be let in before the room hears of this.
            heard.extend(pieces(await come_back(here, has, 1, epoch)))

        monkeypatch.setattr(here.follower, "_occupy", occupied)
        await here._poll()
        await until(lambda: not here.follower.under_way)
        assert has.gate == room.document.gate
