"""The log keeps what it acknowledged, in order, and says what it lost.

Whatever the database: each test is run with SQLite, PostgreSQL and MariaDB. Commits
that fail or meet are in ``test_commits.py``, what is true of SQLite alone in
``test_sqlite.py``, and how servers are reached in ``test_connecting.py``.
"""

from __future__ import annotations

import random

import pytest

from collab.catalog import Catalog
from collab.errors import DocumentGone, NotKept, StoreError
from collab.store import Append, Appended, Damaged, Row, Snapshot, Store, Stored
from tests.databases import DatabaseServer
from tests.stores import (
    append,
    behind_its_back,
    discard_rows,
    id_of,
    merge_rows,
    names,
    opened,
    write_snapshot,
)

# Appending and loading.


def test_what_was_appended_is_loaded_in_order(store: Store) -> None:
    [appended] = store.append([Append("doc", [(b"one", "alice"), (b"two", None)])])
    stored = store.load("doc")
    assert appended == Appended(id_of(store), 2)
    assert stored.document_id == appended.document_id
    assert stored.head == 2
    assert stored.rows == [Row(1, b"one"), Row(2, b"two")]
    assert (stored.snapshot, stored.damaged) == (None, [])


def test_loading_creates_nothing(store: Store) -> None:
    assert store.load("doc") == Stored(None, None, 0, None, [], [])
    assert names(store) == []


def test_positions_go_on_where_they_were_when_the_store_is_reopened(url: str) -> None:
    for expected in (2, 4, 6):
        store = opened(url)
        assert append(store, "doc", b"x", b"y") == expected
        store.close()
    store = opened(url)
    stored = store.load("doc")
    assert [row.position for row in stored.rows] == [1, 2, 3, 4, 5, 6]
    store.close()


def test_a_document_keeps_its_id_and_epoch(store: Store) -> None:
    append(store, "doc", b"x")
    before = store.load("doc")
    append(store, "doc", b"y")
    after = store.load("doc")
    assert (before.document_id, before.epoch) == (after.document_id, after.epoch)
    append(store, "other", b"x")
    assert store.load("other").epoch != before.epoch


def test_a_document_may_occur_twice_in_a_commit(store: Store) -> None:
    batch = [
        Append("a", [(b"1", None), (b"2", None)]),
        Append("b", [(b"1", None)]),
        Append("a", [(b"3", None)]),
        Append("a", []),
    ]
    assert [appended.head for appended in store.append(batch)] == [2, 1, 3, 3]
    assert [row.update for row in store.load("a").rows] == [b"1", b"2", b"3"]


def test_a_commit_may_have_more_rows_and_documents_than_a_statement(
    store: Store,
) -> None:
    batch = [Append(f"doc{n}", [(b"%d" % n, None)] * 5) for n in range(300)]
    assert [appended.head for appended in store.append(batch)] == [5] * 300
    assert [appended.head for appended in store.append(batch)] == [10] * 300
    assert len(names(store)) == 300
    assert store.load("doc299").rows == [Row(n, b"299") for n in range(1, 11)]


def test_an_empty_commit_is_nothing(store: Store) -> None:
    assert store.append([]) == []


def test_a_slice_of_the_log_is_read(store: Store) -> None:
    append(store, "doc", *[b"%d" % n for n in range(1, 11)])
    number = id_of(store)
    assert store.read("doc", number, 3, 2) == ([Row(4, b"4"), Row(5, b"5")], True)
    assert store.read("doc", number, 9, 100) == ([Row(10, b"10")], True)
    assert store.read("doc", number, 10, 100) == ([], True)
    assert store.read("doc", number + 1, 0, 100) == ([], True)
    assert store.read("nobody", number, 0, 100) == ([], True)


def test_a_slice_says_what_it_lacks_unless_that_is_in_quarantine(store: Store) -> None:
    append(store, "doc", *[b"%d" % n for n in range(1, 11)])
    number = id_of(store)
    behind_its_back(store.url, "DELETE FROM updates WHERE position IN (3, 4, 10)")
    assert store.read("doc", number, 1, 4) == ([Row(2, b"2"), Row(5, b"5")], False)
    assert store.read("doc", number, 4, 2) == ([Row(5, b"5"), Row(6, b"6")], True)
    assert store.read("doc", number, 9, 100) == ([], False)
    Catalog(store.database).isolate(number, store.load("doc").damaged)
    assert store.read("doc", number, 1, 4) == ([Row(2, b"2"), Row(5, b"5")], True)
    assert store.read("doc", number, 9, 100) == ([], True)


def test_any_bytes_are_an_update(store: Store) -> None:
    updates = [b"", b"\0", bytes(range(256)), b"\\'\"%s%(x)s:x?", b"\xff" * 1000]
    store.append([Append("doc", [(update, None) for update in updates])])
    assert [row.update for row in store.load("doc").rows] == updates


@pytest.mark.slow
def test_blobs_of_64_mib_are_kept(store: Store) -> None:
    noise, zeros = random.Random(1).randbytes(64 * 2**20), bytes(64 * 2**20)
    append(store, "doc", noise)
    assert store.load("doc").rows == [Row(1, noise)]
    append(store, "doc", zeros)
    assert store.read("doc", id_of(store), 1, 1) == ([Row(2, zeros)], True)
    assert store.write_snapshot(id_of(store), 2, noise, zeros[:1000])
    assert store.load("doc").snapshot == Snapshot(2, noise, zeros[:1000])


# Names and authors.


@pytest.mark.parametrize(
    "name",
    [
        "é" * 127 + "x",
        "😀" * 63 + "abc",
        "e\u0301\u0323 👩‍👩‍👧‍👦 \U0010ffff",
        "'; DROP TABLE updates; --",
        '"quoted" %s ? :name %(name)s',
        "a/b/../c",
        "100%_\\",
        " ",
    ],
)
def test_any_name_is_a_name(store: Store, name: str) -> None:
    append(store, name, b"x")
    append(store, name, b"y")
    assert names(store) == [name]
    assert store.load(name).head == 2
    assert store.read_at(name, 1).rows == [Row(1, b"x")]


def test_names_that_differ_in_a_byte_are_different_documents(store: Store) -> None:
    different = ["Doc", "doc", "doc ", "dóc", "do\u0301c", "ﬀ", "ff", "ß", "ss"]
    different += ["😀", "😁", "e\u0301", "é", "a", "a\u200d", "\uffee", "\U00010000"]
    for name in different:
        append(store, name, name.encode())
    assert names(store) == sorted(different, key=str.encode)
    assert [store.load(name).rows for name in different] == [
        [Row(1, name.encode())] for name in different
    ]


def test_a_name_that_is_no_unicode_is_refused(store: Store) -> None:
    with pytest.raises(StoreError):
        append(store, "\ud800", b"x")
    assert append(store, "doc", b"x") == 1
    assert names(store) == ["doc"]


def test_any_name_may_be_an_authors(store: Store) -> None:
    authors = [
        "ann",
        "",
        "O'Neill \\",
        "e\u0301\u0323",
        "👩‍👩‍👧‍👦",
        "%s :x",
        "é" * 5000,
    ]
    store.append([Append("doc", [(b"x", author) for author in authors])])
    query = "SELECT author FROM updates ORDER BY position"
    assert behind_its_back(store.url, query) == authors


def test_a_database_in_another_character_set_keeps_names(
    mariadb: DatabaseServer,
) -> None:
    store = opened(mariadb.create_database("CHARACTER SET latin1"))
    name = "😀" * 63 + "é"
    store.append([Append(name, [(b"x", "😀 е\u0301")])])
    assert names(store) == [name]
    Catalog(store.database).annotate(name, {"заголовок": "😀"})
    described = Catalog(store.database).describe(name)
    assert described is not None
    assert described.metadata == {"заголовок": "😀"}
    query = "SELECT author FROM updates"
    assert behind_its_back(store.url, query) == ["😀 е\u0301"]
    store.close()


# Snapshots.


def test_a_document_is_its_snapshot_and_the_rows_behind(store: Store) -> None:
    append(store, "doc", b"1", b"2", b"3")
    assert write_snapshot(store, 2)
    stored = store.load("doc")
    assert stored.snapshot == Snapshot(2, b"state 2", b"index 2")
    assert stored.rows == [Row(3, b"3")]


def test_a_snapshot_may_be_written_twice(store: Store) -> None:
    append(store, "doc", *[b"x"] * 9)
    for position in (2, 4, 4):
        assert write_snapshot(store, position)
    assert positions_of_snapshots(store) == [2, 4]


def test_no_snapshot_is_taken_of_what_is_not_there(store: Store) -> None:
    append(store, "doc", b"x")
    assert not write_snapshot(store, 2)
    assert not store.write_snapshot(id_of(store) + 1, 1, b"", b"")
    assert positions_of_snapshots(store) == []


def test_no_snapshot_is_taken_of_what_was_discarded(store: Store) -> None:
    append(store, "doc", *[b"x"] * 9)
    assert write_snapshot(store, 4)
    discard_rows(store.url, id_of(store), 4)
    assert not write_snapshot(store, 3)
    assert write_snapshot(store, 4)
    assert write_snapshot(store, 5)
    assert positions_of_snapshots(store) == [4, 5]


def test_a_snapshot_is_verified_by_reading_it(store: Store) -> None:
    append(store, "doc", b"x")
    document_id = id_of(store)
    assert not store.verify_snapshot(document_id, 1)
    write_snapshot(store, 1)
    assert store.verify_snapshot(document_id, 1)
    behind_its_back(store.url, "UPDATE snapshots SET state = :data", data=b"other")
    assert not store.verify_snapshot(document_id, 1)


def positions_of_snapshots(store: Store) -> list[int]:
    return behind_its_back(
        store.url, "SELECT position FROM snapshots ORDER BY position"
    )


# The past.


def test_the_log_is_read_as_it_was_at_every_position(store: Store) -> None:
    updates = [b"%d" % n for n in range(1, 13)]
    append(store, "doc", *updates)
    for position in (4, 8):
        write_snapshot(store, position)
    assert positions_of_snapshots(store) == [4, 8]
    for position in range(13):
        stored = store.read_at("doc", position)
        after = stored.snapshot.position if stored.snapshot else 0
        assert after == position // 4 * 4 if position < 12 else 8
        assert stored.head == position
        assert [row.update for row in stored.rows] == updates[after:position]
        assert stored.damaged == []


def test_what_a_merged_row_stands_for_is_kept_at_its_end_only(store: Store) -> None:
    append(store, "doc", *[b"%d" % n for n in range(1, 13)])
    document_id = id_of(store)
    merge_rows(store.url, document_id, 2, 3, b"2-3")
    merge_rows(store.url, document_id, 6, 9, b"6-9")
    kept = {0, 1, 3, 4, 5, 9, 10, 11, 12}
    log = [(1, b"1"), (3, b"2-3"), (4, b"4"), (5, b"5"), (9, b"6-9")]
    log += [(10, b"10"), (11, b"11"), (12, b"12")]
    for position in range(13):
        if position in kept:
            stored = store.read_at("doc", position)
            assert stored.rows == [Row(*row) for row in log if row[0] <= position]
            assert stored.damaged == []
        else:
            with pytest.raises(NotKept):
                store.read_at("doc", position)
    with pytest.raises(NotKept) as caught:
        store.read_at("doc", 7)
    message = "position 7 is not kept: the nearest that are kept are 5 and 9"
    assert str(caught.value) == message
    loaded = store.load("doc")
    assert loaded.rows == [Row(*row) for row in log]
    assert loaded.damaged == []


def test_a_snapshot_within_a_merged_row_keeps_its_position(store: Store) -> None:
    append(store, "doc", *[b"%d" % n for n in range(1, 7)])
    write_snapshot(store, 3)
    merge_rows(store.url, id_of(store), 2, 5, b"2-5")
    stored = store.read_at("doc", 3)
    assert stored.snapshot == Snapshot(3, b"state 3", b"index 3")
    assert (stored.rows, stored.damaged) == ([], [])
    with pytest.raises(NotKept, match="nearest that are kept are 3 and 5"):
        store.read_at("doc", 4)
    # Merging twice changes nothing: a row of which the snapshot has a part is read.
    assert store.load("doc").rows == [Row(5, b"2-5"), Row(6, b"6")]
    assert store.load("doc").damaged == []


def test_what_was_discarded_is_not_kept(store: Store) -> None:
    append(store, "doc", *[b"%d" % n for n in range(1, 9)])
    for position in (4, 6):
        write_snapshot(store, position)
    discard_rows(store.url, id_of(store), 4)
    for position in range(4):
        with pytest.raises(NotKept) as caught:
            store.read_at("doc", position)
        message = f"position {position} is not kept: the history begins at 4"
        assert str(caught.value) == message
    assert store.read_at("doc", 4).snapshot == Snapshot(4, b"state 4", b"index 4")
    assert store.read_at("doc", 5).rows == [Row(5, b"5")]
    assert store.read_at("doc", 7).rows == [Row(7, b"7")]
    assert store.load("doc").rows == [Row(7, b"7"), Row(8, b"8")]


def test_there_is_no_past_of_what_never_was(store: Store) -> None:
    append(store, "doc", b"x")
    for position in (-1, 2):
        with pytest.raises(NotKept, match="the log ends at 1"):
            store.read_at("doc", position)
    with pytest.raises(DocumentGone):
        store.read_at("nobody", 0)


# Damage.


def test_a_row_with_a_flipped_bit_is_named_and_the_rest_is_loaded(
    store: Store,
) -> None:
    append(store, "doc", b"one", b"two", b"three")
    flip(store, 2)
    stored = store.load("doc")
    assert stored.rows == [Row(1, b"one"), Row(3, b"three")]
    assert stored.damaged == [Damaged("update", 2, 2, "has a wrong CRC-32")]
    assert str(stored.damaged[0]) == "update 2 has a wrong CRC-32"
    assert stored.head == 3


def test_a_damaged_row_that_stands_for_several_says_for_which(store: Store) -> None:
    append(store, "doc", *[b"%d" % n for n in range(1, 6)])
    merge_rows(store.url, id_of(store), 2, 4, b"2-4")
    flip(store, 4)
    assert store.load("doc").rows == [Row(1, b"1"), Row(5, b"5")]
    assert store.load("doc").damaged == [Damaged("update", 2, 4, "has a wrong CRC-32")]


def test_rows_that_changed_places_are_damaged(store: Store) -> None:
    append(store, "doc", b"one", b"two")
    for old, new in ((1, 3), (2, 1), (3, 2)):
        statement = "UPDATE updates SET position = :new WHERE position = :old"
        behind_its_back(store.url, statement, new=new, old=old)
    stored = store.load("doc")
    assert stored.rows == []
    assert [damage.first for damage in stored.damaged] == [1, 2]


def test_missing_rows_are_damage(store: Store) -> None:
    append(store, "doc", *[b"%d" % n for n in range(1, 8)])
    lose(store, 1, 3, 4, 7)
    stored = store.load("doc")
    assert [row.position for row in stored.rows] == [2, 5, 6]
    assert [str(damage) for damage in stored.damaged] == [
        "update 1 is missing",
        "update 3 to 4 is missing",
        "update 7 is missing",
    ]


def test_behind_a_damaged_snapshot_stands_the_previous_one(store: Store) -> None:
    append(store, "doc", b"1", b"2", b"3", b"4", b"5")
    write_snapshot(store, 2)
    write_snapshot(store, 4)
    statement = "UPDATE snapshots SET gate = :data WHERE position = 4"
    behind_its_back(store.url, statement, data=b"\0")
    stored = store.load("doc")
    assert stored.snapshot == Snapshot(2, b"state 2", b"index 2")
    assert stored.rows == [Row(3, b"3"), Row(4, b"4"), Row(5, b"5")]
    assert stored.damaged == [Damaged("snapshot", 4, 4, "has a wrong CRC-32")]

    assert write_snapshot(store, 4)
    assert store.load("doc").damaged == []


def test_behind_damaged_snapshots_stands_the_whole_log(store: Store) -> None:
    append(store, "doc", b"1", b"2", b"3")
    write_snapshot(store, 1)
    write_snapshot(store, 2)
    behind_its_back(store.url, "UPDATE snapshots SET state = :data", data=b"\0")
    stored = store.load("doc")
    assert stored.snapshot is None
    assert stored.rows == [Row(1, b"1"), Row(2, b"2"), Row(3, b"3")]
    assert [damage.first for damage in stored.damaged] == [1, 2]


def test_a_snapshot_that_cannot_be_used_is_done_without(store: Store) -> None:
    append(store, "doc", b"1", b"2", b"3", b"4")
    write_snapshot(store, 1)
    write_snapshot(store, 3)
    stored = store.load("doc", below=3)
    assert stored.snapshot == Snapshot(1, b"state 1", b"index 1")
    assert stored.rows == [Row(2, b"2"), Row(3, b"3"), Row(4, b"4")]
    stored = store.load("doc", below=1)
    assert stored.snapshot is None
    assert [row.position for row in stored.rows] == [1, 2, 3, 4]
    assert stored.head == 4
    assert stored.damaged == []


def test_discarded_rows_whose_snapshot_is_damaged_are_lost(store: Store) -> None:
    append(store, "doc", *[b"%d" % n for n in range(1, 7)])
    write_snapshot(store, 4)
    discard_rows(store.url, id_of(store), 4)
    lost = [
        "updates 1 to 4 were discarded, and the snapshot that stood for them is"
        " damaged",
        "snapshot 4 has a wrong CRC-32",
    ]
    assert [str(each) for each in store.load("doc", below=4).damaged] == lost[:1]
    behind_its_back(store.url, "UPDATE snapshots SET state = :data", data=b"\0")
    stored = store.load("doc")
    assert [str(each) for each in stored.damaged] == lost
    assert stored.rows == [Row(5, b"5"), Row(6, b"6")]


def test_the_past_is_damaged_where_its_rows_are(store: Store) -> None:
    append(store, "doc", *[b"%d" % n for n in range(1, 7)])
    flip(store, 2)
    lose(store, 4, 5)
    wrong = Damaged("update", 2, 2, "has a wrong CRC-32")
    assert store.read_at("doc", 1).damaged == []
    assert store.read_at("doc", 2).damaged == [wrong]
    assert store.read_at("doc", 4).rows == [Row(1, b"1"), Row(3, b"3")]
    missing = Damaged("update", 4, 4, "is missing")
    assert store.read_at("doc", 4).damaged == [wrong, missing]
    missing = Damaged("update", 4, 5, "is missing")
    assert store.read_at("doc", 6).damaged == [wrong, missing]


def flip(store: Store, position: int) -> None:
    statement = "UPDATE updates SET data = :data WHERE position = :position"
    behind_its_back(store.url, statement, data=b"twn", position=position)


def lose(store: Store, *positions: int) -> None:
    for position in positions:
        statement = "DELETE FROM updates WHERE position = :position"
        behind_its_back(store.url, statement, position=position)


# Quarantine.


def test_a_document_is_what_is_left_of_it_after_quarantine(store: Store) -> None:
    append(store, "doc", *[b"%d" % n for n in range(1, 9)])
    write_snapshot(store, 2)
    flip(store, 4)
    lose(store, 6, 7)
    statement = "UPDATE snapshots SET state = :data"
    behind_its_back(store.url, statement, data=b"\0")
    stored = store.load("doc")
    assert [damage.first for damage in stored.damaged] == [2, 4, 6]
    catalog = Catalog(store.database)
    document_id = id_of(store)
    catalog.isolate(document_id, stored.damaged)

    assert catalog.quarantined(document_id) == [
        Damaged("snapshot", 2, 2, "has a wrong CRC-32"),
        Damaged("update", 4, 4, "has a wrong CRC-32"),
        Damaged("update", 6, 7, "is missing"),
    ]
    left = [Row(n, b"%d" % n) for n in (1, 2, 3, 5, 8)]
    assert store.load("doc") == Stored(document_id, stored.epoch, 8, None, left, [])
    assert append(store, "doc", b"9") == 9
    assert store.read_at("doc", 5).rows == left[:4]


def test_nothing_is_thrown_away_by_quarantine(store: Store) -> None:
    store.append([Append("doc", [(b"one", "ann"), (b"two", "bob")])])
    write_snapshot(store, 1)
    flip(store, 2)
    damaged = [
        Damaged("update", 2, 2, "has a wrong CRC-32"),
        Damaged("snapshot", 1, 1, "is unreadable"),
    ]
    before = behind_its_back(store.url, "SELECT at, crc FROM updates ORDER BY position")
    for _ in range(2):  # As two nodes do that open it at once.
        Catalog(store.database).isolate(id_of(store), damaged)
    rows = behind_its_back(
        store.url,
        "SELECT what, first, last, data, gate, author, cause FROM quarantine"
        " ORDER BY first",
    )
    assert rows == [
        ("snapshot", 1, 1, b"state 1", b"index 1", None, "is unreadable"),
        ("update", 2, 2, b"twn", None, "bob", "has a wrong CRC-32"),
    ]
    query = "SELECT at, crc FROM quarantine WHERE what = 'update'"
    assert behind_its_back(store.url, query) == before[1:]
    assert store.load("doc").rows == [Row(1, b"one")]


def test_only_what_is_not_on_record_is_reported(store: Store) -> None:
    append(store, "doc", *[b"%d" % n for n in range(1, 13)])
    catalog = Catalog(store.database)
    lose(store, 3, 4, 8)
    catalog.isolate(id_of(store), store.load("doc").damaged)
    assert store.load("doc").damaged == []
    lose(store, 2, 5, 6, 7, 9, 12)
    missing = store.load("doc").damaged
    ranges = [(damage.first, damage.last) for damage in missing]
    assert ranges == [(2, 2), (5, 7), (9, 9), (12, 12)]
    catalog.isolate(id_of(store), missing)
    assert store.load("doc").damaged == []
    assert store.load("doc").rows == [Row(n, b"%d" % n) for n in (1, 10, 11)]


def test_the_past_of_what_is_in_quarantine_is_what_is_left(store: Store) -> None:
    append(store, "doc", *[b"%d" % n for n in range(1, 7)])
    lose(store, 3, 4, 6)
    Catalog(store.database).isolate(id_of(store), store.load("doc").damaged)
    for position, left in ((3, [1, 2]), (4, [1, 2]), (5, [1, 2, 5]), (6, [1, 2, 5])):
        stored = store.read_at("doc", position)
        assert [row.position for row in stored.rows] == left
        assert stored.damaged == []


def test_lost_history_is_reported_until_it_is_on_record(store: Store) -> None:
    append(store, "doc", *[b"%d" % n for n in range(1, 7)])
    write_snapshot(store, 4)
    discard_rows(store.url, id_of(store), 4)
    behind_its_back(store.url, "UPDATE snapshots SET state = :data", data=b"\0")
    Catalog(store.database).isolate(id_of(store), store.load("doc").damaged)
    stored = store.load("doc")
    assert stored.damaged == []
    assert stored.rows == [Row(5, b"5"), Row(6, b"6")]


# Documents that are gone.


@pytest.mark.parametrize("how", ["deleted", "purged"])
def test_a_document_that_is_gone_gains_nothing(store: Store, how: str) -> None:
    append(store, "gone", b"x")
    append(store, "there", b"x")
    document_id = id_of(store, "gone")
    catalog = Catalog(store.database)
    if how == "deleted":
        catalog.delete("gone")
    else:
        catalog.purge("gone")
    with pytest.raises(DocumentGone, match="document 'gone': it was deleted"):
        store.load("gone")
    with pytest.raises(DocumentGone):
        store.read_at("gone", 1)
    assert store.read("gone", document_id, 0, 10) == ([], True)
    for known in (None, document_id):
        gone = Append("gone", [(b"y", None)], known)
        there = Append("there", [(b"y", None)])
        with pytest.raises(DocumentGone):
            store.append([there, gone, Append("new", [(b"y", None)])])
        assert store.load("there").head == 1
        assert store.load("new").document_id is None
    assert append(store, "there", b"y") == 2


def test_a_document_in_the_place_of_another_is_not_taken_for_it(store: Store) -> None:
    append(store, "doc", b"old", b"older")
    old = store.load("doc")
    Catalog(store.database).purge("doc", forget=True)
    assert append(store, "doc", b"new") == 1
    new = store.load("doc")
    assert new.rows == [Row(1, b"new")]
    assert new.document_id != old.document_id
    assert new.epoch != old.epoch
    with pytest.raises(DocumentGone):
        store.append([Append("doc", [(b"late", None)], old.document_id)])
    assert store.load("doc") == new
    [appended] = store.append([Append("doc", [(b"next", None)], new.document_id)])
    assert appended == Appended(id_of(store), 2)


def test_a_document_that_another_node_deleted_starts_anew(store: Store) -> None:
    append(store, "doc", b"old", b"older")
    old = store.load("doc")
    for table in ("updates", "documents"):
        behind_its_back(store.url, f"DELETE FROM {table}")
    assert append(store, "doc", b"new") == 1
    new = store.load("doc")
    assert new.rows == [Row(1, b"new")]
    assert new.document_id != old.document_id
    assert new.epoch != old.epoch


def test_a_restored_document_goes_on(store: Store) -> None:
    append(store, "doc", b"x")
    before = store.load("doc")
    Catalog(store.database).delete("doc")
    Catalog(store.database).restore("doc")
    assert store.load("doc") == before
    assert append(store, "doc", b"y") == 2


# The store itself.


def test_ping_answers(store: Store) -> None:
    store.ping()


def test_closing_twice_is_harmless(store: Store) -> None:
    store.close()
    store.close()
