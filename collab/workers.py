"""Tasks and threads that end with a hub at the latest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from .errors import CollabError

logger = logging.getLogger("collab.workers")

T = TypeVar("T")

READERS = 6
"""Threads that wait for the database, and for the process that makes snapshots."""


class Workers:
    """Tasks and threads."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._readers = ThreadPoolExecutor(READERS, "collab-reader")

    async def in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """Call something that blocks, in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, work, *arguments)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something that ends with the hub at the latest."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        exc = None if task.cancelled() else task.exception()
        if exc is not None and not isinstance(exc, CollabError):
            logger.error("unexpected error", exc_info=exc)

    async def end_tasks(self) -> None:
        """Cancel all tasks, and wait until they have ended."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def end_threads(self) -> None:
        """Begin nothing more in threads; wait for nothing."""
        self._readers.shutdown(wait=False)
