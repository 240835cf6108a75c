"""What an operator does with documents: take them out, bring them in, look after them.

All of it works on the log, beside servers that have the documents open: they are told
of what was appended, and of what was deleted, as they are told by each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .catalog import Catalog
from .contents import finish
from .document import EMPTY, Outcome
from .errors import DocumentGone, StoreError, UpdateRejected
from .folding import fold, fold_steps
from .gate import Gate
from .splitting import split
from .store import Append, Damaged, Store
from .updates import LARGE, cut

BATCH_SIZE = 16 * 2**20
"""Bytes in one commit of what is brought in."""


@dataclass(frozen=True, slots=True)
class Export:
    """A document as one update."""

    position: int
    """Where its log ended."""
    update: bytes
    waiting: int
    """How many updates are not in it, since they wait for others that never came."""


@dataclass(frozen=True, slots=True)
class Import:
    """What was brought in."""

    head: int
    appended: int
    """How many updates the log gained."""
    waiting: int
    """How many of a document's updates wait for others now."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found in a document."""

    name: str
    positions: int
    """How many positions of its log were read, and decoded."""
    damaged: list[Damaged]
    """What is wrong with it now."""
    quarantined: list[Damaged]
    """What was wrong with it before."""


def export(store: Store, name: str, position: int | None = None) -> Export:
    """A document as one update, as it is or as it was.

    Raises:
        DocumentGone: If there is none.
        NotKept: If it is no longer known what it was then.
        StoreError: If something of it is damaged.
    """
    stored = store.load(name) if position is None else store.read_at(name, position)
    if stored.document_id is None:
        raise DocumentGone(name)
    document = fold(stored)
    return Export(stored.head, document.state(), len(document.parked))


def bring_in(
    store: Store,
    name: str,
    updates: Iterable[bytes],
    *,
    author: str | None = None,
    merge: bool = False,
    refused: Callable[[UpdateRejected], object] | None = None,
) -> Import:
    """Make a document of updates, or merge them into one.

    All are judged before any is stored; what changes nothing is not stored. Those that
    no honest client can have made are left out if somebody wants to hear of them.

    Raises:
        StoreError: If there is such a document, and it shall not be merged.
        DocumentGone: If there was one, and it was deleted.
        UpdateRejected: If no honest client can have made one of the updates.
        QuotaExceeded: If it would be more than a document may have.
    """
    stored = store.load(name)
    if stored.document_id is not None and not merge:
        raise StoreError(f"there is a document {name!r} already; merge into it, or not")
    document = fold(stored)
    news: list[bytes] = []
    for update in updates:
        try:
            for piece in _pieces(update):
                outcome, _ = document.apply(piece)
                if outcome is not Outcome.REPEATED and piece != EMPTY:
                    news.append(piece)
        except UpdateRejected as exc:
            if refused is None:
                raise
            refused(exc)
    head = stored.head
    batch: list[tuple[bytes, str | None]] = []
    size = 0
    document_id = stored.document_id
    for number, update in enumerate(news):
        batch.append((update, author))
        size += len(update)
        if size > BATCH_SIZE or number == len(news) - 1:
            [appended] = store.append([Append(name, batch, document_id)])
            document_id, head, _ = appended
            batch, size = [], 0
    if not news and not stored.head:
        # Nothing is in it, but there it is.
        [(_, head, _)] = store.append([Append(name, [], document_id)])
    return Import(head, len(news), len(document.parked))


def _pieces(update: bytes) -> list[bytes]:
    """An update, in pieces if it is large: more than a client may send in one."""
    if len(update) <= LARGE:
        return [update]
    return list(split(update, cut(update)))


def copy(store: Store, name: str, to: str, position: int | None = None) -> Import:
    """Make a document of another one, as it is or was, without its history.

    Raises:
        StoreError, DocumentGone, NotKept: As :func:`export` and :func:`bring_in`.
    """
    stored = store.load(name) if position is None else store.read_at(name, position)
    if stored.document_id is None:
        raise DocumentGone(name)
    document = fold(stored)
    return bring_in(store, to, [document.state(), *document.parked])


def check(store: Store, name: str, isolate: bool = True) -> Finding:
    """Read all of a document that is kept: every row, every snapshot.

    What is damaged is put into quarantine, unless it shall only be named.

    Raises:
        DocumentGone: If there is none.
    """
    catalog = Catalog(store.database)
    newest = stored = store.load(name)
    document_id = stored.document_id
    if document_id is None:
        raise DocumentGone(name)
    quarantined = catalog.quarantined(document_id)
    damaged: list[Damaged] = []
    gates: list[tuple[int, Gate]] = []
    while True:
        folded = finish(fold_steps(stored))
        damaged += [*stored.damaged, *folded.damaged]
        if folded.document is not None:
            position = 0 if stored.snapshot is None else stored.snapshot.position
            gates.append((position, folded.document.gate))
        # Then without the newest snapshot, and more rows instead.
        if stored.snapshot is None or stored.snapshot.position <= stored.base:
            break
        stored = store.load(name, stored.snapshot.position)
    if not any(damage.what != "snapshot" for damage in [*damaged, *quarantined]):
        # All rows are there: each snapshot must say what they say.
        _, truth = gates[-1]
        cause = "does not say what the rows before it say"
        damaged += [
            Damaged("snapshot", position, position, cause)
            for position, gate in gates[:-1]
            if gate != truth
        ]
    # A row behind two snapshots was read twice.
    damaged = sorted(set(damaged), key=lambda damage: (damage.what, damage.first))
    if isolate and damaged:
        catalog.isolate(document_id, damaged)
    return Finding(name, newest.head - stored.base, damaged, quarantined)
