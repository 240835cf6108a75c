"""A snapshot of a document, made from its log in a process of its own.

It is a process because pycrdt and our parser hold the interpreter's lock. It is told
names of documents on its standard input, one as JSON on each line behind the URL of the
database, and answers each with the bytes of the snapshot's state, or with an error.

Nothing is trusted before it is verified: the state must pass the gate, have the log's
end clock for each client and its deletions, and come back unchanged from another
``Doc``. Where it doesn't, the raw updates are joined instead. Parked updates are part
of the snapshot's index.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from threading import Timer

from .document import Document
from .errors import CollabError, StoreError
from .joining import Joined
from .store import Store

TIME = 300.0
"""Seconds that one snapshot may take."""


def compact(store: Store, name: str) -> int:
    """Write a snapshot of a document; return the bytes of its state.

    Raises:
        StoreError: If the log cannot be read, or the snapshot cannot be written, or an
            update is damaged.
    """
    stored = store.load(name)
    if stored.document_id is None:
        return 0
    for damage in stored.damaged:
        if damage.what == "update":
            # A snapshot would make the loss final, and hide it.
            raise StoreError(str(damage))
    document = Document()
    raw: list[bytes] = []
    if stored.snapshot is not None:
        document = Document.restore(stored.snapshot.state, stored.snapshot.index)
        raw.append(stored.snapshot.state)
    for row in stored.rows:
        try:
            _, visible = document.apply(row.update)
        except CollabError:
            continue  # Loading skips it too, and says so; the row stays.
        raw += visible
    state, index = document.snapshot()
    if not document.verify(state):
        document.gate.faithful = False
        document.raw = Joined(raw)
        state, index = document.snapshot()
        if not document.verify(state):
            raise CollabError("the snapshot does not say what the log says")
    store.write_snapshot(stored.document_id, stored.head, state, index)
    return len(state)


class Compactor:
    """The process that makes snapshots. It is started when there is something to do."""

    def __init__(self, database: str) -> None:
        self.database = database
        self._child: subprocess.Popen[str] | None = None

    def compact(self, name: str) -> int:
        """Have a snapshot made; return the bytes of its state. This takes a while.

        Raises:
            CollabError: If none could be made. The log is as it was.
        """
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
            child.stdin.write(json.dumps(name) + "\n")
            child.stdin.flush()
            answer = child.stdout.readline()
        except OSError:
            answer = ""
        finally:
            watchdog.cancel()
        if not answer:
            raise CollabError("the process died, or took too long")
        result = json.loads(answer)
        if isinstance(result, str):
            raise CollabError(result)
        return int(result)

    def rest(self) -> None:
        """Let the process end."""
        child, self._child = self._child, None
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
            [sys.executable, "-m", "collab.compaction"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl+C in a terminal is for us, and we end it when we are done.
            start_new_session=True,
        )
        assert child.stdin is not None
        child.stdin.write(json.dumps(self.database) + "\n")
        return child


def main() -> None:
    """Do what standard input orders, until it ends."""
    if hasattr(os, "nice"):
        os.nice(10)
    store = Store(json.loads(sys.stdin.readline()))
    for order in sys.stdin:
        answer: int | str
        try:
            answer = compact(store, json.loads(order))
        except Exception as exc:
            answer = f"{type(exc).__name__}: {exc}"
        print(json.dumps(answer), flush=True)
    store.close()


if __name__ == "__main__":
    main()
