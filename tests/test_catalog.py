"""Documents are found, described, deleted and brought back; in each database."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from collab.catalog import Catalog, Listing, Run
from collab.errors import DocumentGone, StoreError
from collab.store import Append, Damaged, Row, Store
from tests.stores import append, behind_its_back, everything, id_of, write_snapshot


@pytest.fixture
def catalog(store: Store) -> Catalog:
    return Catalog(store.database)


# Finding.


def test_documents_are_listed_in_the_order_of_their_bytes(
    store: Store, catalog: Catalog
) -> None:
    names = ["b", "a", "B", "a b", "a\u0301", "á", "ab", "😀", "\uffee", "~", "Ä"]
    for name in names:
        append(store, name, b"x")
    expected = sorted(names, key=str.encode)
    assert [line.name for line in catalog.page()] == expected
    assert [line.name for line in catalog.listing()] == expected


def test_documents_are_listed_in_pages(store: Store, catalog: Catalog) -> None:
    for name in "cabd":
        append(store, name, b"x")
    assert [line.name for line in catalog.page(limit=2)] == ["a", "b"]
    assert [line.name for line in catalog.page(after="b", limit=2)] == ["c", "d"]
    assert [line.name for line in catalog.page(after="bb", limit=1)] == ["c"]
    assert catalog.page(after="d") == []


def test_many_documents_are_listed(store: Store, catalog: Catalog) -> None:
    names = [f"doc{n:04}" for n in range(1201)]
    store.append([Append(name, []) for name in random.Random(1).sample(names, 1201)])
    assert [line.name for line in catalog.listing()] == names
    assert catalog.count() == 1201
    assert len(catalog.page()) == 1000
    ids = catalog.find(names)
    assert ids.keys() == set(names)
    alive = catalog.alive([*ids.values()])
    assert alive.keys() == set(ids.values())
    assert {head for head, _ in alive.values()} == {0}


def test_a_line_says_when_a_document_changed(store: Store, catalog: Catalog) -> None:
    before = now()
    append(store, "doc", b"x")
    created = now()
    append(store, "doc", b"y", b"z")
    [line] = catalog.page()
    assert (line.name, line.head) == ("doc", 3)
    assert before <= line.created_at <= created <= line.updated_at <= now()
    assert (line.deleted_at, line.purged_at) == (None, None)


def test_deleted_documents_are_listed_if_they_are_asked_for(
    store: Store, catalog: Catalog
) -> None:
    for name in "abc":
        append(store, name, b"x")
    catalog.delete("a")
    catalog.purge("b")
    assert [line.name for line in catalog.page()] == ["c"]
    assert [line.name for line in catalog.listing()] == ["c"]
    assert catalog.count() == 1
    assert [line.name for line in catalog.listing(deleted=True)] == ["a", "b", "c"]
    assert catalog.count(deleted=True) == 3
    a, b, c = catalog.page(deleted=True)
    assert a.deleted_at is not None
    assert a.purged_at is None
    assert b.deleted_at is not None
    assert b.purged_at is not None
    assert isinstance(c, Listing)


def test_a_document_is_described_with_its_sizes(store: Store, catalog: Catalog) -> None:
    store.append([Append("doc", [(b"12345", "ann"), (bytes(1000), None), (b"", None)])])
    append(store, "other", b"x" * 77)
    write_snapshot(store, 1)
    write_snapshot(store, 2)
    lost = Damaged("update", 2, 2, "is unreadable")
    catalog.isolate(id_of(store), [lost, Damaged("update", 9, 9, "is missing")])
    described = catalog.describe("doc")
    assert described is not None
    stored = store.load("doc")
    assert described.name == "doc"
    assert described.document_id == stored.document_id
    assert described.epoch == stored.epoch
    assert (described.head, described.base) == (3, 0)
    assert (described.rows, described.rows_size) == (2, 5)
    assert described.snapshots == 2
    assert described.snapshots_size == 2 * len(b"state 1" + b"index 1")
    assert (described.quarantined, described.quarantined_size) == (2, 1000)
    assert described.metadata is None
    assert described.deleted_at is None
    assert catalog.describe("nobody") is None


def test_an_empty_document_is_described(store: Store, catalog: Catalog) -> None:
    store.append([Append("doc", [])])
    described = catalog.describe("doc")
    assert described is not None
    sizes = (described.rows_size, described.snapshots_size, described.quarantined_size)
    assert sizes == (0, 0, 0)


def test_what_is_alive_has_a_head(store: Store, catalog: Catalog) -> None:
    for name in "abc":
        append(store, name, b"x", b"y")
    ids = [id_of(store, name) for name in "abc"]
    append(store, "a", b"z")
    catalog.delete("b")
    epochs = {name: store.load(name).epoch or "" for name in "ac"}
    alive = catalog.alive([*ids, max(ids) + 1])
    assert alive == {ids[0]: (3, epochs["a"]), ids[2]: (2, epochs["c"])}
    assert catalog.alive([]) == {}
    assert catalog.find(["c", "b", "nobody"]) == {"c": ids[2]}


# Deleting.


def test_a_deleted_document_can_be_taken_back(store: Store, catalog: Catalog) -> None:
    append(store, "doc", b"x")
    before = store.load("doc")
    catalog.delete("doc")
    described = catalog.describe("doc")
    assert described is not None
    assert described.deleted_at is not None
    assert described.rows_size == 1
    with pytest.raises(DocumentGone):
        store.load("doc")
    catalog.restore("doc")
    assert store.load("doc") == before


def test_deleting_and_restoring_twice_changes_nothing(
    store: Store, catalog: Catalog
) -> None:
    append(store, "doc", b"x")
    catalog.restore("doc")
    catalog.delete("doc")
    before = catalog.describe("doc")
    time.sleep(0.002)  # Another millisecond.
    catalog.delete("doc")
    assert catalog.describe("doc") == before
    catalog.restore("doc")
    catalog.restore("doc")
    assert store.load("doc").rows == [Row(1, b"x")]


def test_what_was_purged_is_in_no_table(store: Store, catalog: Catalog) -> None:
    marker = os.urandom(12).hex()
    secret = marker.encode()
    append(store, "other", b"kept")
    store.append(
        [
            Append(
                "doc", [(b"a" + secret, marker), (secret * 1000, None), (secret, None)]
            )
        ]
    )
    document_id = id_of(store)
    for position in (1, 2):
        store.write_snapshot(document_id, position, secret * 2, secret)
    catalog.isolate(document_id, [Damaged("update", 3, 3, f"is {marker}")])
    catalog.isolate(document_id, [Damaged("snapshot", 1, 1, "is unreadable")])
    catalog.annotate("doc", {"title": marker})
    behind_its_back(
        store.url,
        "INSERT INTO versions (document_id, position, name, author, at)"
        " VALUES (:id, 2, :name, :author, 0)",
        id=document_id,
        name=marker,
        author=marker,
    )
    assert everything(store.url).count(secret) >= 1000
    catalog.purge("doc")
    assert secret not in everything(store.url)
    for table in ("updates", "snapshots", "versions", "quarantine"):
        query = f"SELECT COUNT(*) FROM {table} WHERE document_id = :id"
        assert behind_its_back(store.url, query, id=document_id) == [0]
    assert store.load("other").rows == [Row(1, b"kept")]


def test_the_name_of_a_purged_document_stays_taken(
    store: Store, catalog: Catalog
) -> None:
    append(store, "doc", b"x")
    catalog.purge("doc")
    described = catalog.describe("doc")
    assert described is not None
    assert (described.head, described.rows, described.metadata) == (0, 0, None)
    assert described.purged_at is not None
    with pytest.raises(DocumentGone):
        append(store, "doc", b"y")
    with pytest.raises(StoreError, match="was purged: nothing of it is left"):
        catalog.restore("doc")
    assert catalog.describe("doc") == described


def test_the_name_of_a_forgotten_document_is_free(
    store: Store, catalog: Catalog
) -> None:
    append(store, "doc", b"x", b"y")
    old = store.load("doc")
    write_snapshot(store, 1)
    catalog.delete("doc")
    catalog.purge("doc")
    catalog.purge("doc", forget=True)
    assert catalog.describe("doc") is None
    assert append(store, "doc", b"z") == 1
    new = store.load("doc")
    assert (new.document_id, new.epoch) != (old.document_id, old.epoch)
    assert (new.rows, new.snapshot) == ([Row(1, b"z")], None)


def test_a_document_is_purged_once_it_was_deleted(
    store: Store, catalog: Catalog
) -> None:
    append(store, "doc", b"x")
    catalog.delete("doc")
    before = catalog.describe("doc")
    catalog.purge("doc")
    after = catalog.describe("doc")
    assert before is not None
    assert after is not None
    assert after.deleted_at == before.deleted_at
    assert after.purged_at is not None


def test_what_is_not_there_cannot_be_deleted(catalog: Catalog) -> None:
    for change in (catalog.delete, catalog.restore, catalog.purge):
        with pytest.raises(DocumentGone, match="document 'nobody': it was deleted"):
            change("nobody")
    with pytest.raises(DocumentGone):
        catalog.annotate("nobody", {})


# Metadata.


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"title": "Ω 😀 e\u0301 \u2028", "tags": ["a", 1, 2.5, True, None]},
        {"nested": {"deep": [{"er": "\x00\x01\\ \" '"}]}, "": ""},
        {"large": "😀" * 100_000},
    ],
)
def test_any_object_of_json_is_kept(
    store: Store, catalog: Catalog, metadata: dict[str, object]
) -> None:
    append(store, "doc", b"x")
    for _ in range(2):
        catalog.annotate("doc", metadata)
        described = catalog.describe("doc")
        assert described is not None
        assert described.metadata == metadata
    catalog.annotate("doc", None)
    assert behind_its_back(store.url, "SELECT metadata FROM documents") == [None]


@pytest.mark.parametrize(
    "metadata", [{"x": math.nan}, {"x": b"bytes"}, {(1,): 2}, {"half": "\ud83d"}]
)
def test_what_is_no_json_is_refused(
    store: Store, catalog: Catalog, metadata: dict[str, object]
) -> None:
    append(store, "doc", b"x")
    catalog.annotate("doc", {"title": "before"})
    with pytest.raises(StoreError, match="metadata of 'doc' is no JSON"):
        catalog.annotate("doc", metadata)
    described = catalog.describe("doc")
    assert described is not None
    assert described.metadata == {"title": "before"}


def test_a_deleted_document_is_not_annotated(store: Store, catalog: Catalog) -> None:
    append(store, "doc", b"x")
    catalog.annotate("doc", {"title": "before"})
    catalog.delete("doc")
    with pytest.raises(DocumentGone):
        catalog.annotate("doc", {"title": "after"})
    catalog.restore("doc")
    described = catalog.describe("doc")
    assert described is not None
    assert described.metadata == {"title": "before"}


# Processes that serve.

SERVING = """
import sys
from collab.catalog import Catalog
from collab.store import Store
store = Store(sys.argv[1])
run = Catalog(store.database).begin_run()
for name in sys.argv[2:]:
    run.attempt(name)
print("wary" if run.wary else "calm", flush=True)
if sys.stdin.readline():
    run.end()
"""


def serving(store: Store, *names: str) -> tuple[subprocess.Popen[str], str]:
    """A process that serves, and opens documents; and whether it is wary."""
    child = subprocess.Popen(
        [sys.executable, "-c", SERVING, store.url, *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    return child, child.stdout.readline().strip()


def kill(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    child.communicate()


def test_who_comes_after_a_process_that_died_is_wary(
    store: Store, catalog: Catalog
) -> None:
    append(store, "doc", b"x")
    child, mood = serving(store)
    assert mood == "calm"
    child.communicate("end\n")
    child, mood = serving(store, "doc")
    assert mood == "calm"
    kill(child)
    child, mood = serving(store, "doc")
    assert mood == "wary"
    # It knows what became of the one before, and nobody needs to know twice.
    assert behind_its_back(store.url, "SELECT pid FROM runs") == [child.pid]
    child.communicate("end\n")
    run = catalog.begin_run()
    assert not run.wary
    assert run.attempt("doc") == 2
    run.opened("doc")
    assert run.attempt("doc") == 0
    run.end()
    assert behind_its_back(store.url, "SELECT pid FROM runs") == []


def test_a_process_with_our_number_is_us_before(store: Store, catalog: Catalog) -> None:
    first = catalog.begin_run()
    second = catalog.begin_run()
    assert (first.wary, second.wary) == (False, True)
    assert behind_its_back(store.url, "SELECT id FROM runs") == [second.id]


def test_nobody_knows_what_became_of_processes_elsewhere(
    store: Store, catalog: Catalog
) -> None:
    run = catalog.begin_run()
    behind_its_back(store.url, "UPDATE runs SET host = 'elsewhere'")
    later = Run(store.database)
    assert later.wary
    assert len(behind_its_back(store.url, "SELECT id FROM runs")) == 2
    run.end()
    later.end()
    assert not catalog.begin_run().wary


def test_nobody_wonders_for_ever(store: Store, catalog: Catalog) -> None:
    catalog.begin_run()
    behind_its_back(store.url, "UPDATE runs SET host = 'elsewhere', started_at = 0")
    assert catalog.begin_run().wary
    query = "SELECT id FROM runs WHERE host = 'elsewhere'"
    assert behind_its_back(store.url, query) == []


def test_attempts_are_counted_for_each_document(store: Store, catalog: Catalog) -> None:
    for name in "ab":
        append(store, name, b"x")
    run = catalog.begin_run()
    assert [run.attempt("a") for _ in range(3)] == [0, 1, 2]
    assert run.attempt("b") == 0
    run.opened("a")
    assert (run.attempt("a"), run.attempt("b")) == (0, 1)
    assert run.attempt("nobody") == 0
    run.opened("nobody")
    catalog.purge("b")
    query = "SELECT attempts FROM documents ORDER BY id"
    assert behind_its_back(store.url, query) == [1, 0]


def now() -> int:
    return int(time.time() * 1000)
