"""A commit is whole, once, and in order, whoever else writes and whatever fails."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pytest

from collab.catalog import Catalog
from collab.errors import DatabaseUnreachable, Deadlock, DocumentGone, StoreError
from collab.store import Append, Appended, Row, Store, Stored
from tests.databases import DatabaseServer, through
from tests.proxy import Proxy
from tests.stores import (
    append,
    behind_its_back,
    check_whole_commits,
    everything,
    hang_up,
    id_of,
    lost_answers,
    names,
    opened,
    somebody_else,
)

SERVERS = pytest.mark.parametrize("kind", ["postgres", "mariadb"])
"""SQLite has no connections that could be cut, and one lock for all."""


@pytest.fixture
def other(store: Store) -> Iterator[Store]:
    """Another node with the same database."""
    other = opened(store.url)
    yield other
    other.close()


def logged(store: Store, name: str = "doc") -> list[bytes]:
    """The updates of a log, which has no gaps."""
    stored = store.load(name)
    assert stored.damaged == []
    assert [row.position for row in stored.rows] == list(range(1, stored.head + 1))
    return [row.update for row in stored.rows]


def at_once(*tasks: Callable[[], object]) -> None:
    """Do things in threads that begin at the same moment; raise what they raise."""
    barrier = threading.Barrier(len(tasks))

    def work(task: Callable[[], object]) -> None:
        barrier.wait()
        task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        for future in [pool.submit(work, task) for task in tasks]:
            future.result()


# Many at once.


def test_two_nodes_may_append_to_the_same_document(store: Store, other: Store) -> None:
    heads = [append(node, "doc", b"x", b"y") for node in (store, other) * 3]
    assert heads == [2, 4, 6, 8, 10, 12]
    assert logged(store) == [b"x", b"y"] * 6


def test_nodes_append_to_the_same_documents_at_the_same_time(
    store: Store, other: Store
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    # In an order that is not that of their ids; half of them are there before.
    rooms = [f"doc{n}" for n in random.Random(seed).sample(range(12), 12)]
    store.append([Append(room, []) for room in rooms[:6]])

    def write(node: Store, writer: int) -> None:
        chance = random.Random(seed + writer)
        for number in range(25):
            batch = [
                Append(
                    room, [(b"%d:%d:%d" % (writer, number, n), None) for n in (1, 2)]
                )
                for room in chance.sample(rooms, 12)
            ]
            for entry, appended in zip(batch, node.append(batch), strict=True):
                here = appended.document_id, appended.head - 1
                [row], _ = node.read(entry.name, *here, 1)
                assert row.update == entry.updates[-1][0]

    nodes = [store, other, store, other]
    at_once(*(partial(write, node, writer) for writer, node in enumerate(nodes)))
    for room in rooms:
        log = logged(store, room)
        assert len(log) == 4 * 25 * 2
        for writer in range(4):
            mine = [update for update in log if update.startswith(b"%d:" % writer)]
            assert mine == [
                b"%d:%d:%d" % (writer, n, m) for n in range(25) for m in (1, 2)
            ]


def test_nodes_create_the_same_documents_at_the_same_time(
    store: Store, other: Store
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    for number in range(8):
        rooms = [f"{number}-{n}" for n in range(10)]

        def create(node: Store, rooms: Sequence[str]) -> None:
            node.append([Append(room, [(b"x", None)]) for room in rooms])

        nodes = [store, other, store, other]
        at_once(*(partial(create, node, chance.sample(rooms, 10)) for node in nodes))
    assert len(names(store)) == 80
    assert all(logged(store, room) == [b"x"] * 4 for room in names(store))
    epochs = Counter(store.load(room).epoch for room in names(store))
    assert set(epochs.values()) == {1}


def test_documents_are_deleted_while_others_are_written(
    store: Store, other: Store
) -> None:
    for n in range(20):
        append(store, f"gone{n}", b"x")

    def delete() -> None:
        catalog = Catalog(other.database)
        for n in range(20):
            catalog.purge(f"gone{n}", forget=n % 2 == 0)

    def write() -> None:
        for _ in range(20):
            append(store, "a", b"x")
            append(store, "b", b"x")

    at_once(delete, write)
    assert len(logged(store, "a")) == len(logged(store, "b")) == 20
    assert names(store) == ["a", "b"]


def test_nodes_write_the_same_snapshots_at_the_same_time(
    store: Store, other: Store
) -> None:
    append(store, "doc", *[b"x"] * 20)
    document_id = id_of(store)

    def write(node: Store) -> None:
        for position in range(1, 21):
            assert node.write_snapshot(document_id, position, bytes(100_000), b"")
            assert node.verify_snapshot(document_id, position)

    at_once(*(partial(write, node) for node in (store, other, store, other)))
    assert store.load("doc").damaged == []
    query = "SELECT COUNT(*) FROM snapshots"
    assert behind_its_back(store.url, query) == [20]


def test_nothing_is_left_of_what_was_written_while_it_was_purged(
    store: Store, other: Store
) -> None:
    catalog = Catalog(store.database)
    rooms = [f"doc{n}" for n in range(10)]
    batch = [Append(room, [(b"secret", "secret")] * 3) for room in rooms]
    for (_, head, _), room in zip(store.append(batch), rooms, strict=True):
        document_id = id_of(store, room)

        def write(room: str = room) -> None:
            with suppress(DocumentGone):
                while True:
                    append(other, room, b"secret")

        def summarize(document_id: int = document_id, head: int = head) -> None:
            while other.write_snapshot(document_id, head, b"secret" * 20_000, b""):
                pass

        def purge(room: str = room) -> None:
            catalog.purge(room)

        at_once(write, summarize, write, summarize, purge)
    assert b"secret" not in everything(store.url)


def test_a_reader_does_not_wait_for_the_writer(store: Store) -> None:
    append(store, "doc", b"x")
    with store.database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM updates")
        read: list[Stored] = []
        reader = threading.Thread(target=lambda: read.append(store.load("doc")))
        reader.start()
        reader.join(10)
    assert [stored.rows for stored in read] == [[Row(1, b"x")]]


def test_readers_see_whole_commits_while_a_writer_writes(store: Store) -> None:
    check_whole_commits(store)


# Commits that fail.


def test_a_commit_that_fails_in_the_middle_stores_nothing(url: str, kind: str) -> None:
    store = opened(url)
    append(store, "a", b"before")
    behind_its_back(
        url,
        "CREATE TRIGGER poison BEFORE INSERT ON updates WHEN NEW.author = 'mallory'"
        " BEGIN SELECT RAISE(ABORT, 'poison'); END"
        if kind == "sqlite"
        else "ALTER TABLE updates ADD CONSTRAINT poison CHECK (author <> 'mallory')",
    )
    batch = [
        Append("a", [(b"good", None)]),
        Append("b", [(b"good", None), (b"bad", "mallory")]),
        Append("c", [(b"good", None)]),
    ]
    with pytest.raises(StoreError, match="poison") as caught:
        store.append(batch)
    assert not isinstance(caught.value, DatabaseUnreachable)
    assert logged(store, "a") == [b"before"]
    assert names(store) == ["a"]

    assert [appended.head for appended in store.append([batch[0]])] == [2]
    with pytest.raises(StoreError, match="poison"):
        store.append([batch[1]])
    assert [appended.head for appended in store.append([batch[2]])] == [1]
    assert names(store) == ["a", "c"]
    assert logged(store, "a") == [b"before", b"good"]
    store.close()


@SERVERS
def test_a_row_that_somebody_else_has_locked_stops_nobody_else(store: Store) -> None:
    append(store, "held", b"x")
    append(store, "free", b"x")
    with somebody_else(store.url) as connection:
        connection.exec_driver_sql(
            "SELECT id FROM documents WHERE name = 'held' FOR UPDATE"
        )
        with pytest.raises(StoreError, match=r"lock|Lock") as caught:
            store.append([Append(name, [(b"y", None)]) for name in ("free", "held")])
        assert not isinstance(caught.value, DatabaseUnreachable)
        assert logged(store, "free") == [b"x"]
        assert append(store, "free", b"y") == 2
        assert append(store, "new", b"y") == 1
        assert logged(store, "held") == [b"x"]
    assert append(store, "held", b"y") == 2


# Commits of which nobody knows whether they came to pass.


def lose(store: Store, fate: bool, name: str, *updates: bytes) -> None:
    """Append, and lose the answer to the commit."""
    with lost_answers(store.url, [fate]), pytest.raises(DatabaseUnreachable):
        append(store, name, *updates)


@pytest.mark.parametrize("known", ["new", "known"])
def test_a_commit_whose_answer_was_lost_is_not_stored_twice(
    store: Store, known: str
) -> None:
    before = [b"before"] if known == "known" else []
    if before:
        append(store, "doc", *before)
    lose(store, True, "doc", b"1", b"2")
    assert logged(store) == [*before, b"1", b"2"]
    assert append(store, "doc", b"1", b"2") == len(before) + 2
    assert logged(store) == [*before, b"1", b"2"]
    assert append(store, "doc", b"1", b"2") == len(before) + 4


@pytest.mark.parametrize("known", ["new", "known"])
def test_a_commit_that_did_not_happen_is_written_when_it_is_retried(
    store: Store, known: str
) -> None:
    before = [b"before"] if known == "known" else []
    if before:
        append(store, "doc", *before)
    lose(store, False, "doc", b"1", b"2")
    assert names(store) == ["doc"] * len(before)
    assert append(store, "doc", b"1", b"2") == len(before) + 2
    assert logged(store) == [*before, b"1", b"2"]


@pytest.mark.parametrize("fate", [True, False], ids=["happened", "did not"])
def test_a_retry_may_carry_more(store: Store, fate: bool) -> None:
    lose(store, fate, "doc", b"1", b"2")
    assert append(store, "doc", b"1", b"2", b"3", b"4") == 4
    assert logged(store) == [b"1", b"2", b"3", b"4"]


def test_a_retry_finds_its_updates_before_those_of_other_nodes(
    store: Store, other: Store
) -> None:
    append(store, "doc", b"0")
    lose(store, True, "doc", b"1", b"2")
    assert append(other, "doc", b"other") == 4
    # What is acknowledged is at 3; that others have written behind it is no matter.
    assert append(store, "doc", b"1", b"2") == 3
    assert append(store, "doc", b"3") == 5
    assert logged(store) == [b"0", b"1", b"2", b"other", b"3"]


def test_a_retry_does_not_take_the_updates_of_others_for_its_own(
    store: Store, other: Store
) -> None:
    append(store, "doc", b"0")
    lose(store, False, "doc", b"1", b"2")
    assert append(other, "doc", b"other", b"another", b"third") == 4
    assert append(store, "doc", b"1", b"2") == 6
    assert logged(store) == [b"0", b"other", b"another", b"third", b"1", b"2"]


@SERVERS
def test_an_answer_that_the_network_lost_is_not_needed(
    store: Store, kind: str, request: pytest.FixtureRequest
) -> None:
    server: DatabaseServer = request.getfixturevalue(kind)
    with Proxy(server.port) as proxy:
        node = opened(through(store.url, proxy.port))
        append(node, "doc", b"0")
        for number in range(1, 4):
            if kind == "postgres":
                proxy.cut_after(b"COMMIT\0")
            else:
                proxy.cut_answer_to(server.commit)
            with pytest.raises(DatabaseUnreachable):
                append(node, "doc", b"%d" % number)
            assert logged(store)[-1] == b"%d" % number
            assert append(node, "doc", b"%d" % number) == number + 1
        node.close()
    assert logged(store) == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("first", [True, False], ids=["happened", "did not"])
@pytest.mark.parametrize("second", [True, False], ids=["happened", "did not"])
def test_a_commit_may_fail_twice(store: Store, first: bool, second: bool) -> None:
    lose(store, first, "doc", b"1")
    lose(store, second, "doc", b"1", b"2")
    assert append(store, "doc", b"1", b"2", b"3") == 3
    assert logged(store) == [b"1", b"2", b"3"]


def test_each_document_of_a_commit_in_doubt_is_stored_once(store: Store) -> None:
    batch = [Append(name, [(name.encode(), None)]) for name in "abc"]
    with lost_answers(store.url, [True]), pytest.raises(DatabaseUnreachable):
        store.append(batch)
    for entry in batch[:2]:
        assert [appended.head for appended in store.append([entry])] == [1]
    batch.append(Append("d", [(b"d", None)]))
    assert [appended.head for appended in store.append(batch[2:])] == [1, 1]
    assert [logged(store, name) for name in "abcd"] == [[b"a"], [b"b"], [b"c"], [b"d"]]


def test_what_others_appended_behind_a_lost_answer_is_noticed(
    store: Store, other: Store
) -> None:
    append(store, "doc", b"before")
    for number, between in enumerate(([], [b"x"], [b"x", b"y"])):
        name = f"doc {number}"
        lose(store, True, name, b"1", b"2")
        append(other, name, *between)
        news: list[tuple[bytes, str | None]] = [(b"1", None), (b"2", None)]
        batch = [Append(name, news), Append(name, []), Append(name, [(b"3", None)] * 2)]
        head = 4 + len(between)
        assert store.append(batch) == [
            Appended(id_of(store, name), 2),
            Appended(id_of(store, name), 2),
            Appended(id_of(store, name), head),
        ]
        lose(store, True, name, b"4")
        append(other, name, *between)
        (appended,) = store.append([Append(name, [(b"4", None), (b"5", None)])])
        assert appended.head == head + 2 + len(between)
        assert appended.mixed == bool(between)


def test_whatever_is_lost_each_update_is_stored_once_and_in_order(
    store: Store, other: Store
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    said: list[bytes] = []
    unsaved: list[bytes] = []
    for number in range(120):
        new = [b"%d.%d" % (number, n) for n in range(chance.randrange(3))]
        said += new
        unsaved += new
        if chance.random() < 0.3:
            append(other, "doc", b"other %d" % number)
        fate = chance.choice([None, True, False])
        with lost_answers(store.url, [fate]):
            try:
                head = append(store, "doc", *unsaved)
            except DatabaseUnreachable:
                continue
        if unsaved:
            read, _ = store.read("doc", id_of(store), head - 1, 1)
            assert read == [Row(head, unsaved[-1])]
        unsaved = []
    append(store, "doc", *unsaved)
    assert [each for each in logged(store) if not each.startswith(b"other")] == said


# Connections that are lost.


@SERVERS
def test_a_server_that_hung_up_is_called_again(store: Store) -> None:
    append(store, "doc", b"x")
    assert logged(store) == [b"x"]
    hang_up(store.url)
    with pytest.raises(DatabaseUnreachable):
        append(store, "doc", b"y")
    with pytest.raises(DatabaseUnreachable):
        store.load("doc")
    assert append(store, "doc", b"y") == 2
    assert logged(store) == [b"x", b"y"]


@SERVERS
def test_a_connection_that_was_silent_is_tried_before_it_is_used(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collab.databases.servers.SILENCE", 0)
    for head in (1, 2, 3):
        assert append(store, "doc", b"x") == head
        assert store.load("doc").head == head
        hang_up(store.url)


@SERVERS
def test_a_server_that_hangs_up_in_a_transaction_has_stored_nothing(
    store: Store,
) -> None:
    [appended] = store.append([Append("doc", [(b"x", None)])])

    def begin() -> None:
        with store.database.writing() as connection:
            store.database.lock(connection, [appended.document_id])
            row = (appended.document_id, 2, b"y", None, 0, 0)
            store.database.insert(connection, [row])
            hang_up(store.url)

    with pytest.raises(DatabaseUnreachable):
        begin()
    assert append(store, "doc", b"z") == 2
    assert logged(store) == [b"x", b"z"]


APPENDER = """
import os, sys
from collab.store import Append, Store
store = Store(sys.argv[1])
store.open()
position = store.load("doc").head
while True:
    batch = [Append("doc", [(b"%d" % (position + n), None) for n in range(1, 4)])]
    position = store.append(batch)[0].head
    os.write(1, b"%d\\n" % position)
"""


def test_what_was_acknowledged_survives_kill_9(store: Store, kind: str) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    acknowledged = 0
    for _ in range(6 if kind == "sqlite" else 3):
        command = [sys.executable, "-c", APPENDER, store.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            for _ in range(chance.randrange(1, 150)):
                acknowledged = int(child.stdout.readline())
            child.kill()
            rest = child.stdout.read().split(b"\n")
        if complete := rest[:-1]:
            acknowledged = int(complete[-1])
        log = logged(store)
        assert len(log) >= acknowledged
        assert len(log) % 3 == 0
        assert log == [b"%d" % n for n in range(1, len(log) + 1)]


@pytest.mark.parametrize("name", ["postgres", "mariadb"])
def test_a_deadlock_is_told_from_what_is_somebodys_fault(
    name: str, request: pytest.FixtureRequest
) -> None:
    store = opened(request.getfixturevalue(name).create_database())
    for document in ("a", "b"):
        append(store, document, b"x")
    here, there = (store.load(document).document_id for document in ("a", "b"))
    assert here is not None
    assert there is not None
    both = threading.Barrier(2)
    ends: list[str] = []

    def lock(first: int, second: int) -> None:
        try:
            with store.database.writing() as connection:
                store.database.lock(connection, [first])
                both.wait(30)
                store.database.lock(connection, [second])
            ends.append("committed")
        except Deadlock:
            ends.append("ended")

    threads = [
        threading.Thread(target=lock, args=ids)
        for ids in ((here, there), (there, here))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == ["committed", "ended"]
    store.close()
