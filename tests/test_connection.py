"""What a connection does between a transport and a room."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from collab.connection import Connection
from collab.dialects import yjs
from collab.hub import SLICE, Hub
from collab.room import Limits
from collab.store import Store
from tests.peers import edit, presence, step1
from tests.simulation import Plain
from tests.vectors import history

FIRST, SECOND, THIRD, FOURTH = history("reorder")


class Wire:
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        self.writes: list[Any] = []
        self.probes = 0

    def write(self, encoded: Any) -> None:
        self.writes += encoded

    def probe(self) -> None:
        self.probes += 1


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    hub = Hub(Store(f"sqlite:///{tmp_path / 'log.db'}"), Limits())
    await hub.open()
    yield hub
    await hub.close()


async def connect(hub: Hub, transport: Wire) -> Connection:
    connection = Connection(hub, "d", yjs, Plain(), transport, "somebody")
    waiting = connection.open()
    if waiting is not None:
        await waiting
    return connection


async def say(connection: Connection, payload: bytes) -> None:
    waiting = connection.receive(payload)
    if waiting is not None:
        await waiting


async def test_all_messages_of_a_frame_are_taken(hub: Hub) -> None:
    transport = Wire()
    connection = await connect(hub, transport)
    await say(connection, edit(FIRST) + edit(SECOND) + step1())
    assert connection.room is not None
    assert len(connection.room.unsaved) == 2
    assert transport.writes[-1].startswith(b"\x00\x01")


@pytest.mark.parametrize("count", [30_000, 200_000])
async def test_a_frame_of_many_messages_keeps_nobody_waiting(
    hub: Hub, count: int
) -> None:
    connection = await connect(hub, Wire())
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.ensure_future(take_turns())
    loop = asyncio.get_running_loop()
    started = loop.time()
    await say(connection, b"\x03" * count)
    seconds = loop.time() - started
    other.cancel()
    assert turns > min(3, seconds / SLICE / 10)


async def test_who_is_gone_is_not_probed(hub: Hub) -> None:
    transport = Wire()
    gone = await connect(hub, transport)
    await say(gone, presence((7, 1, b"{}")))
    gone.mute()
    heir = await connect(hub, Wire())
    await say(heir, presence((7, 2, b"{}")))
    assert transport.probes == 0


async def test_a_transport_is_let_go_with_its_connection(hub: Hub) -> None:
    transport = Wire()
    connection = await connect(hub, transport)
    await say(connection, edit(THIRD))  # It came early: who sent it is remembered.
    assert connection.room is not None
    assert connection.room.early
    connection.close(goodbye=False)
    left = weakref.ref(transport)
    del transport
    gc.collect()
    assert left() is None
