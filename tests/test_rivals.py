"""Where Hocuspocus fails, we don't: its provider 4.8.0, and others, against our server.

Fifteen things go wrong with its server 4.7.0, each found by running or reading it. They
have the letters A to O; here is a test for each, unless another one shows it already:

* A, acknowledged and lost: also ``test_kill.py``, and for each kind of client
  ``test_interop.py``, "what was heard back survives a kill".
* B, a store that fails: also ``test_faults.py``, for each database and many faults.
* E, what a keystroke costs between several nodes that tell each other of it: there are
  none of that kind; servers on one database read each other's edits from its log.
* F, who leaves without disconnecting: for each kind among its own in
  ``test_interop_presence.py``, "presence appears, changes and leaves".
* G, many documents: ``test_interop_hocuspocus.py``, "150 documents open on one socket".
* H, names that objects of JavaScript have: there too, and in ``test_interop.py``.
* I, clients without awareness that are idle: ``test_interop_presence.py``, "who says
  nothing for long stays connected".
* J, a token that is asked for again: ``test_interop_hocuspocus.py``; a denied one, and
  one of many documents: ``test_interop_access.py``.
* K, readers that stall: also, with limits and clocks, ``test_websocket.py``.
* N, no echo: ``test_interop.py``, "no edit is stored or sent twice", and "an author
  hears that an edit is saved once it is in the log".
* O, what one pays for there, as far as there is something of it here: documents that
  one may only read are in ``test_interop_access.py``, "one document of a socket may be
  denied"; all commands in ``test_tools.py``.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pycrdt import Doc, Text

from tests.conftest import StartServer
from tests.databases import DatabaseServer, Postgres
from tests.interop import HOCUSPOCUS, Client, Clients, until
from tests.interop.door import REASON
from tests.interop.parties import Fragile, Party, text_of, user
from tests.proxy import Proxy
from tests.servers import Server, running
from tests.test_cli import collab

pytest_plugins = ["tests.interop.fixtures"]

PROVIDER = "hocuspocus-4"

LIVE = PROVIDER, "hocuspocus-3"
"""Providers that know ``sendToken``."""


@pytest.fixture
def kind() -> str:
    """``@hocuspocus/provider`` 4.8.0."""
    return PROVIDER


def unsynced(client: Client) -> int:
    """How many of its changes are not saved, as the provider counts them."""
    count: int = client.run("return provider.unsyncedChanges")
    return count


def note_unsynced(client: Client) -> None:
    """Have each number written down that the provider tells the application."""
    client.run(
        "kept.told = [];"
        "provider.on('unsyncedChanges', ({ number }) => kept.told.push(number))"
    )


def told(client: Client) -> list[int]:
    """What was written down."""
    numbers: list[int] = client.run("return kept.told")
    return numbers


def be_heard(client: Client) -> None:
    """Wait until the server has what was sent: it answers, whatever is saved."""
    heard = len(client.messages("in"))
    client.run("provider.forceSync()")
    until(
        lambda: any(
            message.startswith(b"\0\1") for message in client.messages("in")[heard:]
        )
    )


def status(server: Server, path: str = "/readyz") -> int:
    """The HTTP status with which it answers."""
    try:
        with urllib.request.urlopen(f"{server.url}{path}") as response:
            return int(response.status)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code


def command(server: Server, *arguments: str) -> str:
    """Run ``collab`` beside a server; return its output."""
    done = collab(*arguments, environment={"COLLAB_DATABASE": server.database_url})
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(server: Server, name: str) -> list[bytes]:
    """The updates in the log of a document, in order (SQLite)."""
    query = (
        "SELECT data FROM updates JOIN documents ON id = document_id"
        " WHERE name = ? ORDER BY position"
    )
    with closing(sqlite3.connect(server.database)) as database:
        return [data for (data,) in database.execute(query, [name])]


# Databases that take nothing for a while.


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Let nobody else write to a SQLite file."""
    with closing(sqlite3.connect(database, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def stopped(database: DatabaseServer) -> Iterator[None]:
    """Have a database server gone."""
    database.stop()
    yield
    database.start()


@contextmanager
def frozen(database: DatabaseServer) -> Iterator[None]:
    """Have a database server that answers nothing."""
    database.pause()
    yield
    database.resume()


@dataclass
class Faulty:
    """A server whose database can be made to fail."""

    server: Server
    outage: Callable[[], AbstractContextManager[None]]


@pytest.fixture(params=["locked", "stopped", "frozen"])
def faulty(
    request: pytest.FixtureRequest, start_server: StartServer, tmp_path: Path
) -> Iterator[Faulty]:
    if request.param == "locked":
        with running(tmp_path) as server:
            yield Faulty(server, lambda: locked(server.database))
        return
    database = start_server(Postgres)
    fail = {"stopped": stopped, "frozen": frozen}[request.param]
    with running(tmp_path, database=database.create_database()) as server:
        yield Faulty(server, lambda: fail(database))


# A: acknowledged and lost.


def test_forty_acknowledged_keystrokes_survive_a_kill_and_a_closed_tab(
    fragile: Fragile,
) -> None:
    """Row A."""
    ann = fragile.open()
    until(lambda: ann.saved)
    counted = ann.run(
        "for (let n = 0; n < 40; n++) doc.getText('text').insert(n, 'x');"
        "return provider.unsyncedChanges"
    )
    assert counted == 40
    until(lambda: ann.saved, every=0.001)
    fragile.server.kill()
    ann.destroy()  # Nobody is left who could send them again.
    fragile.server.start()
    bob = fragile.open()
    until(lambda: bob.synced)
    assert bob.text == "x" * 40


# B and C: a database that fails.


def test_what_cannot_be_saved_for_a_while_is_called_unsaved_and_is_saved_later(
    clients: Clients, faulty: Faulty
) -> None:
    """Row B."""
    party = Party(clients, faulty.server.ws_url, PROVIDER)
    left, stays = party.open("left"), party.open("stays")
    for client in (left, stays):
        client.append("before ")
        until(lambda: client.saved)  # noqa: B023
        note_unsynced(client)
    with faulty.outage():
        for client in (left, stays):
            client.append("meanwhile")
        until(lambda: status(faulty.server) == 503)
        for client in (left, stays):
            assert unsynced(client) == 1
            assert 0 not in told(client)
        left.destroy()  # It was the last one there.
        stays.append("!")
        assert unsynced(stays) == 2
    until(lambda: stays.saved)
    until(lambda: status(faulty.server) == 200)
    assert told(stays) == [1, 2, 1, 0]
    assert faulty.server.terminate() == 0
    faulty.server.start()
    again = party.open("left")
    until(lambda: again.synced)
    assert again.text == "before meanwhile"
    until(lambda: stays.synced)
    assert stays.text == "before meanwhile!"
    party.close()


@pytest.mark.slow
def test_what_is_not_saved_stays_although_nobody_is_there(fragile: Fragile) -> None:
    """Row B: a document is unloaded half a minute after the last one left, usually."""
    ann = fragile.open()
    until(lambda: ann.saved)
    with locked(fragile.server.database):
        ann.append("hello")
        be_heard(ann)
        ann.destroy()
        time.sleep(40)
        assert rows(fragile.server, fragile.name) == []
    until(lambda: len(rows(fragile.server, fragile.name)) == 1)
    fragile.server.restart()
    bob = fragile.open()
    until(lambda: bob.text == "hello")


@pytest.mark.slow
def test_a_server_that_can_save_nothing_ends_and_says_what_is_lost(
    clients: Clients, faulty: Faulty
) -> None:
    """Row C: it promises to try for ten seconds; ``terminate`` waits for twenty."""
    server = faulty.server
    party = Party(clients, server.ws_url, PROVIDER)
    ann, bob = party.open("anns"), party.open("bobs")
    for client in (ann, bob):
        client.append("before ")
        until(lambda: client.saved)  # noqa: B023
    with faulty.outage():
        ann.append("one ")
        ann.append("two ")
        bob.append("three")
        for client in (ann, bob):
            be_heard(client)
        bob.die()
        assert server.terminate() == 1
        assert unsynced(ann) > 0
        for line in ("anns: 2 edits could", "bobs: 1 edits could"):
            assert server.log().count(f"{line} not be saved") == 1
        assert "Traceback" not in server.log()
    server.start()
    until(lambda: ann.saved)  # It was not told anything else, and has it still.
    assert server.terminate() == 0
    server.start()
    reader = party.open("anns")
    until(lambda: reader.synced)
    assert reader.text == "before one two "
    party.close()


# D: two servers.


def test_nobody_has_to_stay_for_what_was_written_at_two_servers(
    clients: Clients, tmp_path: Path
) -> None:
    """Row D: each saves its own, after the other, and whoever is there."""
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder in folders:
        folder.mkdir()
    url = f"sqlite:///{tmp_path / 'collab.db'}"
    with (
        running(folders[0], database=url) as here,
        running(folders[1], database=url) as there,
    ):
        parties = [Party(clients, server.ws_url, PROVIDER) for server in (here, there)]
        ann, bob = (party.open("shared") for party in parties)
        until(lambda: ann.saved and bob.saved)
        with locked(tmp_path / "collab.db"):
            for number in range(10):
                ann.append(f"<ann {number}>")
                bob.append(f"<bob {number}>")
            assert unsynced(ann) == unsynced(bob) == 10
            for client in (ann, bob):
                be_heard(client)
                client.destroy()
        written = [f"<{name} {n}>" for name in ("ann", "bob") for n in range(10)]
        cleo, dan = (party.open("shared") for party in parties)
        until(lambda: len(text_of(cleo, dan) or "") == len("".join(written)))
        assert sorted(re.findall("<.*?>", cleo.text)) == sorted(written)
        for server in (here, there):
            server.kill()
        here.start()
        eve = parties[0].open("shared")
        until(lambda: eve.synced)
        assert sorted(re.findall("<.*?>", eve.text)) == sorted(written)
        for party in parties:
            party.close()


# F: who leaves without disconnecting.


def test_who_wants_to_be_seen_no_more_is_gone_for_everybody(mixed: Party) -> None:
    """Row F."""
    watchers = [mixed.open(kind=kind) for kind in ("2.1", "3.1", *HOCUSPOCUS)]
    ann = mixed.open(kind=PROVIDER)
    number = ann.id
    for name in ("Ann", "Ann, again"):
        ann.announce(user(name))
        for watcher in watchers:
            until(lambda: watcher.people.get(number) == user(name))  # noqa: B023
        ann.announce(None)
        for watcher in watchers:
            # Not after the 30 s in which each of them forgets who says nothing.
            until(lambda: number not in watcher.people, patience=5)  # noqa: B023
    assert ann.connections == 1


# G, H and L: many documents.


@pytest.mark.parametrize("kind", HOCUSPOCUS[1:])
def test_150_documents_come_back_on_one_socket(fragile: Fragile) -> None:
    """Row G: all at once, to a server that has none of them in memory."""
    socket = fragile.socket()
    documents = {f"doc-{number}": socket.open(f"doc-{number}") for number in range(150)}
    fragile.opened += documents.values()
    for name, client in documents.items():
        client.append(f"{name} ")
    until(lambda: all(client.saved for client in documents.values()))
    fragile.server.kill()
    for client in documents.values():
        client.append("offline")
    fragile.server.start()
    until(lambda: socket.opened > 1 and documents["doc-0"].connected)
    opened = socket.opened
    until(lambda: all(client.saved for client in documents.values()))
    assert socket.opened == opened
    for name in documents:
        assert len(rows(fragile.server, name)) == 2


def test_documents_may_be_called_what_objects_have(fragile: Fragile) -> None:
    """Row H."""
    socket = fragile.socket()
    asked = socket.open("first")
    names: list[str] = asked.run("return Object.getOwnPropertyNames(Object.prototype)")
    assert {"constructor", "toString", "__proto__", "hasOwnProperty"} <= {*names}
    documents = {"first": asked, **{name: socket.open(name) for name in names}}
    fragile.opened += documents.values()
    for name, client in documents.items():
        client.append(f"this is {name}")
    until(lambda: all(client.saved for client in documents.values()))
    assert socket.opened == 1
    another = fragile.socket()
    for name in documents:
        reader = another.open(name)
        fragile.opened.append(reader)
        until(lambda: reader.text == f"this is {name}")  # noqa: B023


def test_who_opens_hundreds_of_documents_locks_out_nobody(mixed: Party) -> None:
    """Row L: all of them come from one address, as behind a proxy."""
    socket = mixed.socket(PROVIDER)
    before = mixed.open("common", PROVIDER)
    until(lambda: before.saved)
    greedy = [socket.open(f"greedy-{number}") for number in range(300)]
    mixed.opened += greedy
    after = [mixed.open("common", kind) for kind in ("3.1", *HOCUSPOCUS)]
    for client in (before, *after):
        client.append("x")
    until(lambda: all(client.saved for client in (before, *after)))
    until(lambda: all(client.synced for client in greedy))
    assert socket.opened == 1
    until(lambda: text_of(before, *after) == "x" * (1 + len(after)))
    assert all(client.connections == 1 for client in (before, *after))


# J: documents that are taken away.


class Door:
    """What tokens are good for, at a server with ``tests/interop/door.py``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.say()

    def say(self, **verdicts: str) -> None:
        """Say what they are good for from now on, at once."""
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(verdicts))
        new.rename(self.path)


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path / "verdicts.json")


@pytest.fixture
def guarded(tmp_path: Path, door: Door) -> Iterator[Server]:
    with running(
        tmp_path,
        *("--authorize", "tests.interop.door:authorize"),
        environment={"COLLAB_DOOR": str(door.path)},
    ) as server:
        yield server


Lose = Callable[[Client, Server, Door], None]


def lose_access(client: Client, server: Server, door: Door) -> None:
    """Have a client's token be good for nothing any more."""
    door.say(bob="nothing")
    client.run("provider.sendToken()")


def be_deleted(client: Client, server: Server, door: Door) -> None:
    """Have a client's document deleted, which is taken back later."""
    command(server, "docs", "delete", "lost")


def say_nonsense(client: Client, server: Server, door: Door) -> None:
    """Have a client send an update that no honest one can have made."""
    client.send(b"\0\2\3\1\1\1")


@pytest.mark.parametrize("kind", LIVE)
@pytest.mark.parametrize(
    ("lose", "reason"),
    [
        (lose_access, f"denied {REASON}"),
        (be_deleted, "(detached|denied) document was deleted"),
        (say_nonsense, "(detached|denied) update rejected"),
    ],
    ids=["denied", "deleted", "rejected"],
)
def test_a_document_that_was_taken_away_comes_back_with_a_token(
    clients: Clients, guarded: Server, door: Door, kind: str, lose: Lose, reason: str
) -> None:
    """Row J."""
    door.say(bob="write:bob")
    party = Party(clients, guarded.ws_url, kind)
    socket = party.socket()
    bob, other = (socket.open(name, token="bob") for name in ("lost", "other"))
    party.opened += [bob, other]
    bob.append("before ")
    until(lambda: bob.saved and other.saved)
    lose(bob, guarded, door)
    until(lambda: re.match(reason, bob.events[-1]))
    for number in range(5):
        bob.append(f"{number} ")
    other.append("goes on")
    until(lambda: other.saved)
    assert unsynced(bob) == 5

    door.say(bob="write:bob")
    if lose is be_deleted:
        command(guarded, "docs", "restore", "lost")
    bob.run("provider.sendToken()")
    until(lambda: bob.saved)
    bob.append("after")
    ann = party.open("lost", token="write:ann")
    until(lambda: ann.text == "before 0 1 2 3 4 after")
    until(lambda: bob.saved)
    assert socket.opened == 1
    party.close()


@pytest.mark.parametrize("kind", LIVE)
def test_who_may_write_again_has_lost_nothing(
    clients: Clients, guarded: Server, door: Door, kind: str
) -> None:
    """Row J: also what it wrote while it was allowed only to read."""
    door.say(bob="read:bob")
    party = Party(clients, guarded.ws_url, kind)
    ann, bob = party.open(token="write:ann"), party.open(token="bob")
    until(lambda: ann.saved and bob.saved)
    for number in range(5):
        bob.append(f"{number} ")
    until(lambda: bob.messages("in").count(b"\x08\x00") == 5)
    assert unsynced(bob) == 5
    assert ann.text == ""
    door.say(bob="write:bob")
    bob.run("provider.sendToken()")
    until(lambda: ann.text == "0 1 2 3 4 ")
    until(lambda: bob.saved)
    party.close()


# K: readers that stall.


OVERWRITE = """
  let made = 0;
  const next = () => {
    doc.getMap("map").set("value", `${made} `.padEnd(size, "x"));
    if (++made < times) setTimeout(next, 20);
    else kept.done = true;
  };
  next();
"""

SIZE, TIMES = 400_000, 100
"""Bytes of a value, and how often it is replaced: 40 MB in all."""


def growth(clients: Clients, folder: Path, stalled: bool) -> int:
    """Bytes that a server grows by as three read, or don't, what a fourth writes."""
    with running(folder) as server, Clients() as others:
        writer = Party(clients, server.ws_url, PROVIDER)
        party = Party(others, server.ws_url, PROVIDER)
        ann = writer.open("doc")
        readers = [party.open("doc") for _ in range(3)]
        until(lambda: ann.saved and all(reader.synced for reader in readers))
        if stalled:
            for reader in readers:
                reader.run("socket.pause()")
        before = server.memory()
        seen = [before]

        def finished() -> bool:
            seen.append(server.memory())
            return ann.run("return kept.done") is True and ann.saved

        ann.run(OVERWRITE, size=SIZE, times=TIMES)
        until(finished)
        for reader in readers:
            if stalled:
                reader.run("socket.resume()")
            until(lambda: value_of(reader) == f"{TIMES - 1} xxx")  # noqa: B023
            received = sum(map(len, reader.frames("in")))
            if stalled:  # The kernel holds some of it; the rest is one diff.
                assert received < SIZE * TIMES / 2
            else:
                assert received > SIZE * TIMES
        writer.close()
        party.close()
    return max(seen) - before


def value_of(client: Client) -> str:
    """How what is in the map begins."""
    value: str = client.run("return (doc.getMap('map').get('value') ?? '').slice(0, 6)")
    return value


def test_readers_that_stall_cost_no_memory(clients: Clients, tmp_path: Path) -> None:
    """Row K: what is written goes to who reads it, and is kept for nobody else.

    With three that read all of it, a server grows by about 20 MiB, for what it is at.
    What it may keep in addition for each that does not read is 256 KiB, above which it
    writes nothing more, and the value that took it there. Hocuspocus grows by 40 to 55
    MB more.
    """
    folders = [tmp_path / "read", tmp_path / "stalled"]
    for folder in folders:
        folder.mkdir()
    read, stalled = (
        growth(clients, folder, folder.name == "stalled") for folder in folders
    )
    print(f"{read >> 10} KiB with readers, {stalled >> 10} KiB if they stall")
    assert stalled < read + 8 * 2**20


# M: what the application is told.


def test_the_application_is_told_what_the_handshake_said(
    clients: Clients, tmp_path: Path
) -> None:
    """Row M: it may decide by the cookie that a browser has anyway."""
    book = tmp_path / "book"
    with running(
        tmp_path,
        *("--authorize", "tests.interop.guestbook:authorize"),
        environment={"COLLAB_GUESTBOOK": str(book)},
    ) as server:
        url = f"{server.ws_url}?tenant=7&theme=dark%20blue"
        party = Party(clients, url, PROVIDER)
        headers = {"Cookie": "theme=dark; session=ann", "X-Request-Id": "a-1"}
        ann = party.open("notes", headers=headers, token="secret")
        ann.append("hello")
        until(lambda: ann.saved)
        eve = party.open("notes", token="secret")
        until(lambda: any(event.startswith("denied") for event in eve.events))
        assert eve.text == ""
        party.close()
    entry, stranger = map(json.loads, book.read_text().splitlines())
    assert entry["document"] == "notes"
    assert entry["token"] == "secret"
    assert entry["headers"]["cookie"] == "theme=dark; session=ann"
    assert entry["headers"]["x-request-id"] == "a-1"
    assert entry["headers"]["host"] == f"127.0.0.1:{server.port}"
    assert entry["query"] == {"tenant": "7", "theme": "dark blue"}
    assert entry["peer"].startswith("127.0.0.1:")
    assert "cookie" not in stranger["headers"]


# N: bytes that nobody needs.


def test_a_keystroke_is_stored_and_sent_as_itself(fragile: Fragile) -> None:
    """Row N: not as the document that it is in, and to others only."""
    ann, bob = fragile.open(), fragile.open()
    ann.append("an old document " * 30_000)
    until(lambda: ann.saved and bob.length == ann.length)
    stored = len(rows(fragile.server, fragile.name))
    said, heard, seen = (
        len(messages)
        for messages in (ann.messages("out"), ann.messages("in"), bob.messages("in"))
    )
    written = fragile.server.database.with_name("collab.db-wal").stat().st_size
    for number in range(50):
        ann.append(str(number % 10))
        until(lambda: ann.saved)
    keystrokes = [
        message.removeprefix(b"\0\2")[1:]
        for message in ann.messages("out")[said:]
        if message.startswith(b"\0\2")
    ]
    assert len(keystrokes) == 50
    assert max(map(len, keystrokes)) < 40
    assert rows(fragile.server, fragile.name)[stored:] == keystrokes
    until(lambda: bob.length == ann.length)
    sent = [m for m in bob.messages("in")[seen:] if m.startswith(b"\0\2")]
    assert [message[3:] for message in sent] == keystrokes
    assert {*ann.messages("in")[heard:]} <= {b"\x08\x01", b"\x01\x01\x00"}
    # SQLite writes whole pages, a few of them: all of it is less than ten documents.
    grown = fragile.server.database.with_name("collab.db-wal").stat().st_size - written
    print(f"{grown >> 10} KiB written for 50 keystrokes")
    assert grown < 10 * ann.length


def test_a_large_document_is_compressed_on_its_way(fragile: Fragile) -> None:
    """Row N: for who offers it, as browsers and ``ws`` do."""
    ann = fragile.open()
    ann.append("all work and no play makes jack a dull boy " * 20_000)
    until(lambda: ann.saved)
    with Proxy(fragile.server.port) as proxy:
        url = fragile.server.ws_url.replace(str(fragile.server.port), str(proxy.port))
        bob = fragile.clients.open(url, fragile.name, kind=PROVIDER)
        fragile.opened.append(bob)
        until(lambda: bob.length == ann.length)
        received = sum(map(len, bob.frames("in")))
        assert received > ann.length
        assert proxy.to_client.passed < received / 10
        bob.destroy()


# O: what is free here.


def test_health_is_told_to_who_asks(fragile: Fragile) -> None:
    """Row O: "edits cannot be saved" is a reason to send nobody here."""
    assert status(fragile.server, "/livez") == status(fragile.server, "/readyz") == 200
    ann = fragile.open()
    until(lambda: ann.saved)
    with locked(fragile.server.database):
        ann.append("x")
        until(lambda: status(fragile.server, "/readyz") == 503)
        assert status(fragile.server, "/livez") == 200
    until(lambda: status(fragile.server, "/readyz") == 200)


def test_the_past_can_be_read_and_a_document_deleted(fragile: Fragile) -> None:
    """Row O: beside the server, while somebody writes."""
    ann = fragile.open("notes")
    for word in ("one ", "two ", "three "):
        ann.append(word)
    until(lambda: ann.saved)
    history = command(fragile.server, "docs", "history", "notes", "--json")
    file = fragile.server.database.with_name("past")
    past = []
    for row in map(json.loads, history.splitlines()):
        which = ["notes", "--at", str(row["position"]), "-o", str(file)]
        command(fragile.server, "docs", "export", *which)
        doc: Doc[Any] = Doc()
        doc.apply_update(file.read_bytes())
        past.append(str(doc.get("text", type=Text)))
    assert past == ["one ", "one two ", "one two three "]
    command(fragile.server, "docs", "delete", "notes")
    until(lambda: "detached document was deleted" in ann.events)
    assert command(fragile.server, "docs", "list") == ""
