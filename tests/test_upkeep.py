"""What an operator takes out of the log is what clients put into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pycrdt import Doc, Text
from sqlalchemy import text

from collab.catalog import Catalog
from collab.compaction import compact
from collab.document import Document
from collab.errors import DocumentGone, NotKept, StoreError, UpdateRejected
from collab.folding import fold
from collab.store import Append, Store, checksum
from collab.upkeep import bring_in, check, copy, export
from tests.traces import generate
from tests.vectors import history

FIRST, SECOND, THIRD, FOURTH = history("reorder")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'log.db'}")
    store.open()
    yield store
    store.close()


def append(store: Store, name: str, *updates: bytes) -> None:
    store.append([Append(name, [(update, None) for update in updates])])


def behind_its_back(store: Store, statement: str, **values: object) -> None:
    with store.database.writing() as connection:
        connection.execute(text(statement), values)


def shown(update: bytes, name: str = "text") -> str:
    doc: Doc[Any] = Doc()
    found = doc.get(name, type=Text)
    doc.apply_update(update)
    return str(found)


def written(store: Store, edits: int, seed: int = 1) -> list[bytes]:
    print(f"seed {seed}")
    log, _ = generate(seed, edits)
    updates = [update for _, update in log]
    append(store, "d", *updates)
    return updates


# Taking out.


def test_an_export_is_the_document(store: Store) -> None:
    append(store, "d", FIRST, SECOND, THIRD)
    found = export(store, "d")
    assert (found.position, found.waiting) == (3, 0)
    assert shown(found.update, "t") == "axc"


def test_a_document_is_exported_as_it_was(store: Store) -> None:
    updates = written(store, 300)
    compact(store, "d")
    document = Document()
    for position, update in enumerate(updates, 1):
        document.apply(update)
        if position % 37 == 0:
            assert export(store, "d", position).update == document.state()
    assert export(store, "d", 0).update == b"\0\0"
    with pytest.raises(NotKept, match="the log ends at 300"):
        export(store, "d", 301)


def test_what_waits_is_not_in_an_export_and_is_counted(store: Store) -> None:
    append(store, "d", FIRST, THIRD)
    found = export(store, "d")
    assert shown(found.update, "t") == "a"
    assert found.waiting == 1


def test_what_was_never_there_or_is_deleted_cannot_be_exported(store: Store) -> None:
    with pytest.raises(DocumentGone):
        export(store, "d")
    append(store, "d", FIRST)
    Catalog(store.database).delete("d")
    with pytest.raises(DocumentGone):
        export(store, "d")


def test_a_damaged_document_is_not_exported_as_if_it_were_whole(store: Store) -> None:
    append(store, "d", FIRST, SECOND)
    behind_its_back(store, "UPDATE updates SET crc = 0 WHERE position = 2")
    with pytest.raises(StoreError, match="update 2 has a wrong CRC-32"):
        export(store, "d")


# Bringing in.


def test_what_is_brought_in_is_the_document(store: Store) -> None:
    done = bring_in(store, "d", [FIRST, SECOND], author="ann")
    assert (done.head, done.appended, done.waiting) == (2, 2, 0)
    assert [row.update for row in store.load("d").rows] == [FIRST, SECOND]


def test_a_document_that_is_there_is_only_changed_on_request(store: Store) -> None:
    append(store, "d", FIRST)
    with pytest.raises(StoreError, match="already"):
        bring_in(store, "d", [SECOND])
    done = bring_in(store, "d", [FIRST, SECOND], merge=True)
    assert (done.head, done.appended) == (2, 1)


def test_nothing_is_stored_if_anything_is_no_update(store: Store) -> None:
    with pytest.raises(UpdateRejected):
        bring_in(store, "d", [FIRST, bytes.fromhex("01010501000000")])
    assert store.load("d").document_id is None


def test_what_is_brought_in_may_be_large_and_empty(store: Store) -> None:
    print("seed 4")
    log, expected = generate(seed=4, edits=3000)
    done = bring_in(store, "big", [update for _, update in log])
    assert done.head == done.appended <= 3000
    assert shown(export(store, "big").update) == expected
    assert bring_in(store, "empty", []).head == 0
    assert store.load("empty").document_id is not None


def test_a_deleted_document_is_not_brought_back_by_the_way(store: Store) -> None:
    append(store, "d", FIRST)
    Catalog(store.database).delete("d")
    with pytest.raises(DocumentGone):
        bring_in(store, "d", [SECOND], merge=True)


@pytest.mark.parametrize("name", ["drift", "within", "pending"])
def test_a_copy_says_what_the_document_says(store: Store, name: str) -> None:
    append(store, "d", *history(name))
    copy(store, "d", "e")
    ours, theirs = fold(store.load("d")), fold(store.load("e"))
    assert ours.gate == theirs.gate
    assert set(ours.parked) == set(theirs.parked)
    assert shown(ours.state(), "t") == shown(theirs.state(), "t")


def test_a_past_state_is_copied(store: Store) -> None:
    append(store, "d", FIRST, SECOND, THIRD)
    copy(store, "d", "e", 2)
    assert shown(export(store, "e").update, "t") == "ax"


# Looking after.


def test_nothing_is_found_where_nothing_is_wrong(store: Store) -> None:
    for _ in range(3):
        written(store, 200, seed=2)
        compact(store, "d")
    found = check(store, "d")
    assert (found.positions, found.damaged, found.quarantined) == (600, [], [])


def test_all_that_is_wrong_is_found_and_put_away(store: Store) -> None:
    written(store, 100)
    compact(store, "d")
    append(store, "d", *[update for _, update in generate(9, 50)[0]])
    document_id = store.load("d").document_id
    assert document_id is not None
    behind_its_back(store, "UPDATE updates SET crc = 0 WHERE position IN (20, 120)")
    behind_its_back(store, "DELETE FROM updates WHERE position BETWEEN 130 AND 132")
    poison = bytes.fromhex("01010501000000")
    behind_its_back(
        store,
        "UPDATE updates SET data = :data, crc = :crc WHERE position = 140",
        data=poison,
        crc=checksum(document_id, 140, poison),
    )
    for isolate in (False, True):
        found = check(store, "d", isolate)
        assert [(damage.first, damage.last) for damage in found.damaged] == [
            (20, 20),
            (120, 120),
            (130, 132),
            (140, 140),
        ]
        assert found.quarantined == []
    again = check(store, "d")
    assert again.damaged == []
    assert [str(damage) for damage in again.quarantined] == [
        "update 20 has a wrong CRC-32",
        "update 120 has a wrong CRC-32",
        "update 130 to 132 is missing",
        "update 140 is no update (update rejected: empty-struct)",
    ]
    # And what is left can be opened, and gets a snapshot.
    assert store.load("d").damaged == []
    compact(store, "d")
    described = Catalog(store.database).describe("d")
    assert described is not None
    assert described.quarantined == 4


def test_a_snapshot_that_lies_is_found(store: Store) -> None:
    written(store, 60)
    compact(store, "d")
    append(store, "e", FIRST)
    compact(store, "e")
    other = store.load("e").snapshot
    stored = store.load("d")
    assert other is not None
    assert stored.document_id is not None
    store.write_snapshot(stored.document_id, 60, other.state, other.index)
    found = check(store, "d")
    assert [str(damage) for damage in found.damaged] == [
        "snapshot 60 does not say what the rows before it say"
    ]
    assert store.load("d").snapshot is None
    assert len(store.load("d").rows) == 60


def test_a_snapshot_that_cannot_be_read_is_found(store: Store) -> None:
    written(store, 60)
    stored = store.load("d")
    assert stored.document_id is not None
    store.write_snapshot(stored.document_id, 60, b"\0\0", b"from the future")
    found = check(store, "d")
    assert [damage.what for damage in found.damaged] == ["snapshot"]
    assert check(store, "d").damaged == []
