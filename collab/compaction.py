"""A snapshot of a document, made from its log in a process of its own.

``python -m collab.compaction`` reads ``{"database": URL, "name": NAME}`` from its
standard input, writes a snapshot into the database, and prints how many bytes its
state has. It is a process because pycrdt and our parser hold the interpreter's lock.

Nothing is trusted before it is verified: the state must pass the gate, have the log's
end clock for each client and its deletions, and come back unchanged from another
``Doc``. Where it doesn't, the raw updates are merged instead. Parked updates are part
of the snapshot's index.
"""

from __future__ import annotations

import json
import os
import sys

from .document import Document, merge
from .errors import CollabError
from .store import Store


def compact(store: Store, name: str) -> int:
    """Write a snapshot of a document; return the bytes of its state.

    Raises:
        StoreError: If the log cannot be read, or the snapshot cannot be written.
    """
    stored = store.load(name)
    if stored.document_id is None:
        return 0
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
        document.pieces = [merge(raw)]
        state, index = document.snapshot()
        if not document.verify(state):
            raise CollabError("the snapshot does not say what the log says")
    store.write_snapshot(stored.document_id, stored.head, state, index)
    return len(state)


def main() -> int:
    """Do what standard input orders."""
    order = json.load(sys.stdin)
    if hasattr(os, "nice"):
        os.nice(10)
    store = Store(order["database"])
    try:
        store.open()
        print(compact(store, order["name"]))
    except CollabError as exc:
        print(exc, file=sys.stderr)
        return 1
    finally:
        store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
