"""The process that makes snapshots, and looks after what is old.

It is a process because pycrdt and our parser hold the interpreter's lock, and because
it may die of a document without anybody noticing. It is told on its standard input, in
a line of JSON each, where the database is and then what to do; it answers with a line
of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, suppress
from threading import Lock, Timer
from typing import Any

from .compaction import compact
from .document import Document
from .errors import CollabError
from .history import Retention
from .store import Damaged, Store, milliseconds
from .tidying import freshen, sweep

TIME = 300.0
"""Seconds that one order may take."""


class Compactor:
    """The process. It is started when there is something to do."""

    def __init__(self, database: str, retention: Retention) -> None:
        self.database = database
        self.retention = retention
        self._child: subprocess.Popen[str] | None = None
        self._lock = Lock()

    def compact(self, name: str) -> int:
        """Have a snapshot made; return the bytes of its state. This takes a while.

        Raises:
            CollabError: If none could be made. The log is as it was.
        """
        return int(self._order({"compact": name}))

    def sweep(self, after: str) -> tuple[str | None, list[str]]:
        """Have some documents tidied that nobody has open, by name.

        Returns the name to go on behind, ``None`` at the end, and what went wrong.

        Raises:
            CollabError: If nothing was done.
        """
        following, failures = self._order({"sweep": after})
        return following, failures

    def attempt(self, name: str) -> Damaged | None:
        """Have a document opened, to see whether the process survives it.

        Returns what it dies of, if it does: a row, or a snapshot.

        Raises:
            CollabError: If nothing can be said.
        """
        reached: tuple[str, int] | None = None
        with self._lock, closing(self._lines({"attempt": name})) as lines:
            for line in lines:
                match json.loads(line):
                    case None:
                        return None
                    case str(failure):
                        raise CollabError(failure)
                    case what, position:
                        reached = what, position
        if reached is None:
            raise CollabError("the process died, or took too long")
        what, position = reached
        return Damaged(what, position, position, "ends the process that reads it")

    def _order(self, order: dict[str, object]) -> Any:
        with self._lock, closing(self._lines(order)) as lines:
            answer = next(lines, "")
        if not answer:
            raise CollabError("the process died, or took too long")
        result = json.loads(answer)
        if isinstance(result, str):
            raise CollabError(result)
        return result

    def _lines(self, order: dict[str, object]) -> Generator[str, None, None]:
        """Give an order, and go through the lines that answer it."""
        child = self._child
        if child is None or child.poll() is not None:
            try:
                child = self._child = self._start()
            except OSError as exc:
                raise CollabError(f"no process could be started: {exc}") from exc
        assert child.stdin is not None
        assert child.stdout is not None
        watchdog = Timer(TIME, child.kill)
        watchdog.start()
        try:
            with suppress(OSError):
                child.stdin.write(json.dumps(order) + "\n")
                child.stdin.flush()
                while line := child.stdout.readline():
                    yield line
        finally:
            watchdog.cancel()

    def rest(self) -> None:
        """Let the process end, unless it has something to do."""
        if not self._lock.acquire(blocking=False):
            return
        child, self._child = self._child, None
        self._lock.release()
        if child is not None:
            assert child.stdin is not None
            with suppress(OSError):  # It died before it read all that it was told.
                child.stdin.close()

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def _start(self) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-m", "collab.compactor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl+C in a terminal is for us, and we end it when we are done.
            start_new_session=True,
        )
        assert child.stdin is not None
        setting = {"database": self.database, "history": str(self.retention)}
        with suppress(OSError):
            child.stdin.write(json.dumps(setting) + "\n")
        return child


def main() -> None:
    """Do what standard input orders, until it ends."""
    if hasattr(os, "nice"):
        os.nice(10)
    setting = json.loads(sys.stdin.readline())
    store = Store(setting["database"])
    retention = Retention.parse(setting["history"])
    for line in sys.stdin:
        answer: object
        try:
            match json.loads(line):
                case {"compact": str(name)}:
                    answer = compact(store, name)
                    freshen(store, name, retention, milliseconds())
                case {"sweep": str(after)}:
                    answer = sweep(store, after, retention, milliseconds())
                case {"attempt": str(name)}:
                    _attempt(store, name)
                    answer = None
                case order:
                    answer = f"unknown order {order!r}"
        except Exception as exc:
            answer = f"{type(exc).__name__}: {exc}"
        _say(answer)
    store.close()


def _attempt(store: Store, name: str) -> None:
    """Open a document, and say before each step which it is."""
    stored = store.load(name)
    document = Document()
    if stored.snapshot is not None:
        _say(("snapshot", stored.snapshot.position))
        with suppress(CollabError):
            document = Document.restore(stored.snapshot.state, stored.snapshot.index)
    for row in stored.rows:
        _say(("update", row.position))
        with suppress(CollabError):
            document.apply(row.update)


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
