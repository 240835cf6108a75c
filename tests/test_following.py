"""What others append to a log is seen by all, whatever happens to a room meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from collab.document import Document
from collab.hub import Hub
from tests import crafted
from tests.native import edit, opening
from tests.peers import insert
from tests.test_native_connection import Client
from tests.test_recalling import DELETE, made_of, started
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
