"""A snapshot says what the log says, or there is none."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pycrdt import Doc, Map, Text

from collab.compaction import compact
from collab.compactor import Compactor
from collab.document import Document
from collab.errors import CollabError, StoreError
from collab.history import Retention
from collab.store import Append, Store
from tests.crafted import item, typed
from tests.stores import id_of, names
from tests.traces import generate
from tests.vectors import history


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{path}")
    store.open()
    yield store
    store.close()


@pytest.fixture
def compactor(store: Store) -> Iterator[Compactor]:
    compactor = Compactor(store.url, Retention())
    yield compactor
    compactor.stop()


def append(store: Store, updates: Sequence[bytes], name: str = "d") -> None:
    store.append([Append(name, [(update, None) for update in updates])])


def load(store: Store, name: str = "d") -> Document:
    """Open a document as the hub does."""
    stored = store.load(name)
    assert not stored.damaged
    document = Document()
    if stored.snapshot is not None:
        document = Document.restore(stored.snapshot.state, stored.snapshot.index)
    for row in stored.rows:
        document.apply(row.update)
    return document


def fold(updates: Sequence[bytes]) -> Document:
    document = Document()
    for update in updates:
        document.apply(update)
    return document


def shown(document: Document, name: str = "text") -> str:
    """What a client shows that is sent the state."""
    doc: Doc[Any] = Doc()
    text = doc.get(name, type=Text)
    doc.apply_update(document.state())
    return str(text)


def made(seed: int, edits: int) -> tuple[list[bytes], str]:
    print(f"seed {seed}")
    log, expected = generate(seed, edits)
    return [update for _, update in log], expected


def test_the_next_to_open_reads_a_snapshot(store: Store, compactor: Compactor) -> None:
    updates, expected = made(seed=1, edits=1000)
    append(store, updates)
    size = compactor.compact("d")
    stored = store.load("d")
    assert stored.snapshot is not None
    assert stored.snapshot.position == 1000
    assert len(stored.snapshot.state) == size < sum(map(len, updates))
    assert stored.rows == []
    assert shown(load(store)) == expected
    assert load(store).gate == fold(updates).gate


def test_rows_before_it_are_kept_and_not_read(
    store: Store, compactor: Compactor, path: Path
) -> None:
    updates, expected = made(seed=2, edits=200)
    append(store, updates[:100])
    compactor.compact("d")
    append(store, updates[100:])
    assert [row.position for row in store.load("d").rows] == list(range(101, 201))
    rows, _ = store.read("d", id_of(store, "d"), 0, 1000)
    assert [row.update for row in rows] == updates
    database = sqlite3.connect(path)
    database.execute("UPDATE updates SET data = ? WHERE position <= 100", (b"?",))
    database.commit()
    database.close()
    assert shown(load(store)) == expected


def test_parked_updates_are_part_of_a_snapshot(
    store: Store, compactor: Compactor
) -> None:
    a1, a2, b1, b2 = history("pending")
    append(store, [b1, b2])
    compactor.compact("d")
    assert store.load("d").rows == []
    append(store, [a1])
    compactor.compact("d")
    append(store, [a2])
    assert shown(load(store), "t") == "bcdefXYZ"
    compactor.compact("d")
    assert shown(load(store), "t") == "bcdefXYZ"


@pytest.mark.parametrize("name", ["drift", "within"])
def test_a_document_with_half_an_emoji_is_kept_as_bytes(
    store: Store, compactor: Compactor, name: str
) -> None:
    updates = history(name)
    for update in updates:
        append(store, [update])
        compactor.compact("d")
        assert store.load("d").rows == []
    document = load(store)
    assert not document.gate.faithful
    assert document.gate == fold(updates).gate
    assert shown(document, "t") == shown(fold(updates), "t")


def test_values_that_pycrdt_alters_are_kept_as_they_came(
    store: Store, compactor: Compactor
) -> None:
    big, number = bytes.fromhex("7a 0000000000000005"), b"0.09274077872974995"
    updates = [
        typed(5, 0, "abc", None),
        item("08 01 01 61 01" + big.hex(), client=7),
        item("05 01 01 74 13" + number.hex(), client=6),
        typed(5, 3, "d", (5, 2)),
    ]
    for count, update in enumerate(updates):
        append(store, [update])
        compactor.compact("d")
        document = load(store)
        assert document.gate == fold(updates[: count + 1]).gate
        assert (big in document.state()) is (count > 0)
        assert (number in document.state()) is (count > 1)


def test_a_document_with_objects_stays_small(
    store: Store, compactor: Compactor
) -> None:
    writer: Doc[Any] = Doc()
    shapes = writer.get("shapes", type=Map)
    updates: list[bytes] = []
    subscription = writer.observe(lambda event: updates.append(event.update))
    for move in range(100):
        shapes["circle"] = {"x": move, "y": 1.5, "style": {"color": "red", "width": 2}}
    append(store, updates)
    # Only the last place is kept, and pycrdt goes on to be trusted with it.
    assert compactor.compact("d") < 2 * len(updates[0])
    assert load(store).gate.faithful
    writer.unobserve(subscription)


def test_the_newest_two_snapshots_are_kept(
    store: Store, compactor: Compactor, path: Path
) -> None:
    updates, expected = made(seed=3, edits=400)
    for at in range(0, 400, 100):
        append(store, updates[at : at + 100])
        compactor.compact("d")
    compactor.compact("d")
    database = sqlite3.connect(path)
    query = "SELECT position FROM snapshots ORDER BY position"
    assert [position for (position,) in database.execute(query)] == [300, 400]
    database.execute("UPDATE snapshots SET state = ? WHERE position = 400", (b"?",))
    database.commit()
    database.close()
    stored = store.load("d")
    assert [str(damage) for damage in stored.damaged] == [
        "snapshot 400 has a wrong CRC-32"
    ]
    assert stored.snapshot is not None
    assert stored.snapshot.position == 300
    assert len(stored.rows) == 100
    compactor.compact("d")  # Which repairs it.
    assert shown(load(store)) == expected


def test_edits_that_arrive_meanwhile_are_not_lost(
    store: Store, compactor: Compactor
) -> None:
    updates, expected = made(seed=4, edits=3000)
    append(store, updates[:1000])
    done = threading.Event()

    def write() -> None:
        for at in range(1000, 3000, 20):
            append(store, updates[at : at + 20])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    rounds = 0
    while not done.is_set() or not rounds:
        compactor.compact("d")
        rounds += 1
    writer.join()
    assert shown(load(store)) == expected
    assert load(store).gate == fold(updates).gate


def test_a_damaged_update_is_not_hidden_behind_a_snapshot(
    store: Store, compactor: Compactor, path: Path
) -> None:
    updates, _ = made(seed=6, edits=50)
    append(store, updates)
    database = sqlite3.connect(path)
    database.execute("UPDATE updates SET data = ? WHERE position = 20", (b"?",))
    database.commit()
    database.close()
    with pytest.raises(StoreError, match="update 20 has a wrong CRC-32"):
        compact(store, "d")
    with pytest.raises(CollabError, match="update 20"):
        compactor.compact("d")
    stored = store.load("d")
    assert stored.snapshot is None
    assert len(stored.rows) == 49


def test_an_unreadable_row_does_not_stop_the_rest(
    store: Store, compactor: Compactor
) -> None:
    updates, expected = made(seed=7, edits=50)
    append(store, [updates[0], bytes.fromhex("01010501000000"), *updates[1:]])
    compactor.compact("d")
    assert shown(load(store)) == expected


def test_there_is_no_snapshot_of_nothing(store: Store, compactor: Compactor) -> None:
    assert compactor.compact("nobody's") == 0
    assert names(store) == []


def test_a_process_that_died_is_replaced(store: Store, compactor: Compactor) -> None:
    updates, expected = made(seed=8, edits=50)
    append(store, updates)
    for end in (compactor.stop, compactor.rest):
        compactor.compact("d")
        end()
    compactor.compact("d")
    assert shown(load(store)) == expected


def test_a_snapshot_that_cannot_be_made_is_complained_about(tmp_path: Path) -> None:
    compactor = Compactor(
        f"sqlite:///{tmp_path / 'no' / 'such' / 'log.db'}", Retention()
    )
    with pytest.raises(CollabError):
        compactor.compact("d")
    compactor.stop()


def test_a_process_that_cannot_be_started_is_complained_about(
    compactor: Compactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(CollabError):
        compactor.compact("d")


def test_a_process_that_did_not_listen_may_rest(
    compactor: Compactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(CollabError):
        compactor.compact("d" * 1_000_000)  # More than a pipe takes.
    compactor.rest()


@pytest.mark.slow
def test_whenever_it_is_killed_the_document_still_loads(store: Store) -> None:
    seed = 9
    chance = Random(seed)
    updates, expected = made(seed=seed, edits=12_000)
    append(store, updates[:4000])
    written = 4000
    finished = 0
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", "import collab.compactor"]):
        pass
    longest = 0.5 + (time.perf_counter() - started)
    for _ in range(25):
        with subprocess.Popen(
            [sys.executable, "-m", "collab.compactor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdin is not None
            setting = {"database": store.url, "history": "forever"}
            orders = [setting, {"compact": "d"}]
            child.stdin.write("".join(f"{json.dumps(order)}\n" for order in orders))
            child.stdin.flush()
            killer = threading.Timer(chance.random() * longest, child.kill)
            killer.start()
            append(store, updates[written : written + 300])
            written += 300
            assert child.stdout is not None
            finished += bool(child.stdout.readline())
            child.kill()
            killer.cancel()
        document = load(store)
        assert document.gate == fold(updates[:written]).gate
    print(f"{finished} of 25 finished")
    append(store, updates[written:])
    assert shown(load(store)) == expected
