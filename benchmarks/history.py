"""A document with a long history: 260,000 keystrokes of one author."""

import asyncio
import gzip
import os
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pycrdt import Doc, Text, TransactionEvent
from websockets.asyncio.client import connect

from benchmarks.servers import Server

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "traces"

TRACES = Path(os.environ.get("COLLAB_TRACES", BESIDE))
"""Where ``automerge-paper.ylog.gz`` and its ``.final.yupdate`` may be."""

EDITS = 259_778
SEED = 1


@dataclass(frozen=True)
class History:
    """A document: one update for each edit, and all of them merged into one."""

    origin: str
    updates: list[bytes]
    merged: bytes
    text: str

    @property
    def at_least(self) -> int:
        """Bytes that every encoding of the document takes."""
        return len(self.merged) * 9 // 10

    @property
    def deflated(self) -> int:
        """Bytes that it takes when it is compressed."""
        return len(zlib.compress(self.merged, 9)) * 9 // 10


def history() -> History:
    """The recorded history of a paper, or an invented one if it isn't here."""
    try:
        log = gzip.decompress((TRACES / "automerge-paper.ylog.gz").read_bytes())
        merged = (TRACES / "automerge-paper.final.yupdate").read_bytes()
    except FileNotFoundError:
        return invented()
    doc: Doc[Text] = Doc()
    doc.apply_update(merged)
    text = str(doc.get("text", type=Text))
    return History("automerge-paper, as recorded", list(records(log)), merged, text)


def records(log: bytes) -> Iterator[bytes]:
    """The updates in a ``.ylog``: author, length, bytes."""
    at = 0
    while at < len(log):
        _, size = struct.unpack_from("<II", log, at)
        yield log[at + 8 : at + 8 + size]
        at += 8 + size


def invented() -> History:
    """Runs of typing, some deletions, and a cursor that jumps now and then."""
    chance = random.Random(SEED)
    doc: Doc[Text] = Doc(client_id=SEED)
    text = doc.get("text", type=Text)
    updates: list[bytes] = []

    def note(event: TransactionEvent) -> None:
        updates.append(event.update)

    size = cursor = 0
    observer = doc.observe(note)
    while len(updates) < EDITS:
        if chance.random() < 0.02:
            cursor = chance.randint(0, size)
        if cursor and chance.random() < 0.3:
            cursor, size = cursor - 1, size - 1
            del text[cursor]
        else:
            text.insert(cursor, chance.choice("etaoin shrdlu\n"))
            cursor, size = cursor + 1, size + 1
    doc.unobserve(observer)
    return History(
        f"invented (seed {SEED}), because {TRACES} has no recorded one",
        updates,
        doc.get_update(),
        str(text),
    )


def write(server: Server, name: str, updates: list[bytes]) -> None:
    """Type a history into our server, edit by edit, as one client."""
    asyncio.run(type_(f"ws://127.0.0.1:{server.port}/ws/{name}", updates))


async def type_(url: str, updates: list[bytes]) -> None:
    async with connect(
        url, compression=None, max_size=None, max_queue=None, proxy=None
    ) as socket:

        async def listen() -> None:
            async for _ in socket:
                pass

        async with asyncio.TaskGroup() as group:
            listener = group.create_task(listen())
            for update in updates:
                assert len(update) < 128
                await socket.send(bytes([0, 2, len(update)]) + update)
            await socket.close()
            await listener
