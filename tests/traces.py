"""Real editing histories, and realistic ones where those are not at hand.

The real ones are not part of the project: they are looked for in ``../shared/traces``
beside the checkout, or where ``COLLAB_TRACES`` says.

A ``.ylog.gz`` is gzip of records ``u32le agent, u32le length, update``, in an order
in which each update comes behind those it builds upon. Its text is named ``text``.
"""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

from pycrdt import Doc, Text

Edit: TypeAlias = tuple[int, bytes]
"""Who made it, and the update."""

_RECORD = struct.Struct("<II")

WORDS = (
    *("the", "a", "server", "room", "edit", "says", "that", "is", "gone", "saved"),
    *("naïve", "größer", "漢字", "😀", "👩\u200d👩\u200d👧"),
)
"""What the made-up people write."""


def folder() -> Path:
    """Where the real histories are, if they are."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "traces"
    return Path(os.environ.get("COLLAB_TRACES", beside))


def find(file: str) -> Path | None:
    """The path of a file of the real histories; ``None``, and a word, without it."""
    path = folder() / file
    if path.is_file():
        return path
    print(f"{path} is missing (COLLAB_TRACES says where to look)")
    return None


def read_log(name: str) -> Iterator[Edit] | None:
    """The edits of a real history, such as ``automerge-paper``."""
    path = find(f"{name}.ylog.gz")
    return None if path is None else _read(path)


def _read(path: Path) -> Iterator[Edit]:
    with gzip.open(path) as file:
        while head := file.read(_RECORD.size):
            agent, length = _RECORD.unpack(head)
            yield agent, file.read(length)


def read_final(name: str) -> bytes | None:
    """What a real history adds up to, as one update."""
    path = find(f"{name}.final.yupdate")
    return None if path is None else path.read_bytes()


class Writer:
    """Somebody who types at a place for a while, corrects, and moves on.

    pycrdt counts text in bytes of UTF-8, so the places here are bytes too.
    """

    def __init__(self, client: int, chance: Random) -> None:
        self.client = client
        self.doc: Doc[Any] = Doc(client_id=client)
        self.text = self.doc.get("text", type=Text)
        self.chance = chance
        self.heard = 0
        self.left: list[str] = []
        self.place = 0
        self.made: list[bytes] = []
        self.doc.observe(lambda event: self.made.append(event.update))

    def hear(self, update: bytes) -> None:
        """Merge what somebody else wrote."""
        self.doc.apply_update(update)
        self.made.clear()

    def edit(self) -> bytes:
        """Press a key, or paste; return the update."""
        chance = self.chance
        now = str(self.text)
        self.place = min(self.place, len(now))
        if not self.left:
            if chance.random() < 0.3:
                self.place = chance.randint(0, len(now))
            words = chance.choices(WORDS, k=chance.randint(1, 12))
            self.left = list(" ".join([*words, ""]))
            if chance.random() < 0.05:
                self.left = ["".join(self.left) * 5]
        self.made.clear()
        if self.place and chance.random() < 0.15:
            start = self.place - min(self.place, 1 if chance.random() < 0.9 else 30)
            at = len(now[:start].encode())
            del self.text[at : at + len(now[start : self.place].encode())]
            self.place = start
        else:
            piece = self.left.pop(0)
            self.text.insert(len(now[: self.place].encode()), piece)
            self.place += len(piece)
        (update,) = self.made
        return update


def generate(seed: int, edits: int, writers: int = 3) -> tuple[list[Edit], str]:
    """Make up a history of several people; return it and the text it ends in.

    They hear of each other late, so much of it is concurrent. Its order is causal.
    """
    chance = Random(seed)
    agents = [
        Writer(client, chance) for client in chance.sample(range(1, 2**32), writers)
    ]
    log: list[Edit] = []

    def listen(writer: Writer, until: int) -> None:
        for author, update in log[writer.heard : until]:
            if agents[author] is not writer:
                writer.hear(update)
        writer.heard = until

    agent = 0
    for _ in range(edits):
        if chance.random() < 0.1:
            agent = chance.randrange(writers)
            listen(agents[agent], chance.randint(agents[agent].heard, len(log)))
        log.append((agent, agents[agent].edit()))
    for writer in agents:
        listen(writer, len(log))
    texts = {str(writer.text) for writer in agents}
    assert len(texts) == 1, f"seed {seed}: pycrdt did not converge"
    return log, texts.pop()
