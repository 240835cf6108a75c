"""The document that a log describes, and what of the log cannot be part of it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from .contents import finish
from .document import Document
from .errors import CollabError, DocumentBroken, StoreError, UpdateRejected
from .store import Damaged, Stored
from .updates import LARGE

PAUSE = 16
"""Rows between two pauses: 150 us, if they are keystrokes."""


@dataclass(frozen=True, slots=True)
class Folded:
    """What came of a log, beside what was known to be damaged when it was loaded."""

    document: Document | None
    """``None`` if the snapshot cannot be read; an older one may be."""
    damaged: list[Damaged]
    """What is no update, or none that pycrdt survives. The document is without it."""
    skipped: list[tuple[int, CollabError]]
    """The positions of rows that are too much of something, and may not be so another
    time. The document is without them, too."""


def fold_steps(stored: Stored) -> Generator[None, None, Folded]:
    """Make the document that a log describes, with pauses."""
    poison: set[bytes] = set()
    while True:
        damaged: list[Damaged] = []
        skipped: list[tuple[int, CollabError]] = []
        document = Document()
        if stored.snapshot is not None:
            snapshot = stored.snapshot
            restoring = Document.restore_steps(snapshot.state, snapshot.index)
            try:
                document = yield from restoring
            except CollabError as exc:
                cause = f"cannot be read ({exc})"
                return Folded(None, [_one("snapshot", snapshot.position, cause)], [])
        for update in poison:
            document.drop(update)
        for number, row in enumerate(stored.rows):
            if row.update in poison:
                damaged.append(_one("update", row.position, "makes pycrdt fail"))
                continue
            try:
                if len(row.update) > LARGE or document.heavy:
                    yield from document.apply_steps(row.update)
                else:
                    document.apply(row.update)
            except DocumentBroken:
                document.culprit = row.update
            except UpdateRejected as exc:
                damaged.append(_one("update", row.position, f"is no update ({exc})"))
            except CollabError as exc:
                skipped.append((row.position, exc))
            if document.culprit is not None:
                break
            if number % PAUSE == 0:
                yield
        if document.culprit is None:
            return Folded(document, damaged, skipped)
        # What it has done to the rest, nobody knows. Again, without it.
        poison.add(document.culprit)


def _one(what: str, position: int, cause: str) -> Damaged:
    return Damaged(what, position, position, cause)


def fold(stored: Stored) -> Document:
    """The document that a log describes, if there is nothing wrong with that.

    Raises:
        StoreError: If something is damaged, or cannot be read.
    """
    folded = finish(fold_steps(stored))
    wrong = [str(damage) for damage in (*stored.damaged, *folded.damaged)]
    wrong += [f"row {position}: {exc}" for position, exc in folded.skipped]
    if wrong or folded.document is None:
        raise StoreError("; ".join(wrong))
    return folded.document
