"""A snapshot of a document, made from its log.

Nothing is trusted before it is verified: the state must pass the gate, have the log's
end clock for each client and its deletions, and come back unchanged from another
``Doc``. Where it doesn't, the raw updates are joined instead. Parked updates are part
of the snapshot's index.
"""

from __future__ import annotations

from .document import Document
from .errors import CollabError, StoreError
from .joining import Joined
from .snapshots import pieces
from .store import Store, Stored


def compact(store: Store, name: str) -> int:
    """Write a snapshot of a document; return the bytes of its state.

    Raises:
        StoreError: If the log cannot be read, or the snapshot cannot be written, or an
            update is damaged.
    """
    stored = store.load(name)
    if stored.document_id is None:
        return 0
    if stored.snapshot is not None and not stored.rows and not stored.damaged:
        return len(stored.snapshot.state)
    state, index = summarize(stored)
    store.write_snapshot(stored.document_id, stored.head, state, index)
    return len(state)


def summarize(stored: Stored) -> tuple[bytes, bytes]:
    """The state of the document that a log describes, and the index beside it.

    Raises:
        StoreError: If an update is damaged.
    """
    for damage in stored.damaged:
        if damage.what != "snapshot":
            # A snapshot would make the loss final, and hide it.
            raise StoreError(str(damage))
    document = Document()
    raw: list[bytes] = []
    if stored.snapshot is not None:
        snapshot = stored.snapshot
        document = Document.restore(snapshot.state, snapshot.index)
        raw += pieces(snapshot.state, snapshot.index)
    for row in stored.rows:
        try:
            _, visible = document.apply(row.update)
        except CollabError:
            continue  # Loading skips it too, and says so; the row stays.
        raw += visible
    state, index = document.snapshot()
    if not document.verify(state, index):
        document.gate.faithful = False
        document.raw = Joined(raw)
        state, index = document.snapshot()
        if not document.verify(state, index):
            raise CollabError("the snapshot does not say what the log says")
    return state, index
