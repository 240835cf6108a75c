"""Documents opened from their logs, whatever is in these.

What is damaged is left out, so that the rest can be served; it is said once, and kept
in quarantine. A client that still has it brings it back when it connects.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Generator
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from .catalog import Catalog, Run
from .compactor import Compactor
from .document import Document
from .errors import CollabError, DocumentGone, StoreError
from .folding import fold_steps
from .store import Damaged, Store, Stored

logger = logging.getLogger("collab.opening")

T = TypeVar("T")

SLICE = 0.005
"""Seconds that loading, or a long message, may take before others have their turn."""

ATTEMPTS = 100
"""Rows of a document that may end a process before we give it up."""


class InThread(Protocol):
    """Calls something that blocks, in a thread."""

    def __call__(self, work: Any, *arguments: Any) -> Awaitable[Any]:
        """Call it; the result is what it returns."""


async def take_turns(steps: Generator[None, None, T]) -> T:
    """Do what has pauses, so that others have their turn in between."""
    loop = asyncio.get_running_loop()
    until = loop.time() + SLICE
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        if loop.time() > until:
            await asyncio.sleep(0)
            until = loop.time() + SLICE


class Opener:
    """Opens documents; ``run`` is this process, if others may have died of one."""

    def __init__(
        self, store: Store, catalog: Catalog, compactor: Compactor, in_thread: InThread
    ) -> None:
        self.store = store
        self.catalog = catalog
        self.compactor = compactor
        self.run: Run | None = None
        self._in_thread = in_thread

    async def open(self, name: str) -> tuple[Stored, Document]:
        """Open a document; what is in its log comes with it.

        Raises:
            StoreError: If its log cannot be read.
            DocumentGone: If it was deleted.
        """
        wary = self.run is not None and self.run.wary
        if wary:
            await self._attempt(name)
        stored: Stored = await self._in_thread(self.store.load, name)
        stored, document, damaged = await self._fold(name, stored)
        if stored.document_id is not None:
            if damaged:
                await self._isolate(name, stored.document_id, damaged)
            if wary:
                await self._survived(name)
        return stored, document

    async def _attempt(self, name: str) -> None:
        """Open a document elsewhere first, if a process may have died of it.

        What that dies of is put into quarantine.
        """
        assert self.run is not None
        try:
            if not await self._in_thread(self.run.attempt, name):
                return
            logger.warning("%s: a process may have died of it; trying it first", name)
            for _ in range(ATTEMPTS):
                damage = await self._in_thread(self.compactor.attempt, name)
                if damage is None:
                    return
                logger.error("%s: %s; opening the rest", name, damage)
                stored: Stored = await self._in_thread(self.store.load, name)
                assert stored.document_id is not None
                await self._isolate(name, stored.document_id, [damage])
        except DocumentGone:
            raise
        except CollabError as exc:
            logger.error("%s: cannot be tried first (%s)", name, exc)

    async def _survived(self, name: str) -> None:
        assert self.run is not None
        with suppress(StoreError):  # Then it is tried first the next time.
            await self._in_thread(self.run.opened, name)

    async def _isolate(
        self, name: str, document_id: int, damaged: list[Damaged]
    ) -> None:
        try:
            await self._in_thread(self.catalog.isolate, document_id, damaged)
        except StoreError as exc:
            logger.error("%s: cannot put it into quarantine (%s)", name, exc)

    async def _fold(
        self, name: str, stored: Stored
    ) -> tuple[Stored, Document, list[Damaged]]:
        """Make the document that a log describes, and say what of it is damaged."""
        damaged = list(stored.damaged)
        while True:
            folded = await take_turns(fold_steps(stored))
            damaged += folded.damaged
            if folded.document is not None:
                break
            # The document is what an older one says, and more rows.
            assert stored.snapshot is not None
            older = stored.snapshot.position
            stored = await self._in_thread(self.store.load, name, older)
            damaged += stored.damaged
        damaged = list(dict.fromkeys(damaged))
        for damage in damaged:
            logger.error("%s: %s; opening the rest", name, damage)
        for position, exc in folded.skipped:
            message = "%s: cannot read row %d (%s); opening the rest"
            logger.error(message, name, position, exc)
        return stored, folded.document, damaged
