"""The clients in the field work with the server: y-websocket 1.5, 2.1 and 3.1.

They are the published npm packages, in Node, over its own WebSocket and over ``ws``.
"""

from __future__ import annotations

import itertools
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.interop import Client, Clients, until
from tests.servers import Server, running

KINDS = {
    "1.5": ("1", "ws"),
    "2.1": ("2", "ws"),
    "3.1": ("3", "ws"),
    "3.1-native": ("3", "native"),
}
"""Versions of y-websocket, and the WebSocket that it uses."""

numbers = itertools.count(1)


class Party:
    """Clients of one kind in one document."""

    def __init__(self, clients: Clients, server: Server, kind: str) -> None:
        self.clients = clients
        self.server = server
        self.kind = kind
        self.name = f"party-{next(numbers)}"
        self.opened: list[Client] = []

    def open(
        self, name: str | None = None, kind: str | None = None, **options: Any
    ) -> Client:
        """Open the party's document, or another."""
        version, socket = KINDS[kind or self.kind]
        client = self.clients.open(
            self.server.ws_url,
            self.name if name is None else name,
            version=version,
            socket=socket,
            **options,
        )
        self.opened.append(client)
        return client

    def close(self) -> None:
        for client in self.opened:
            if client.open:
                client.destroy()


@pytest.fixture(scope="module")
def clients() -> Iterator[Clients]:
    with Clients() as clients:
        yield clients


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("interop")) as server:
        yield server


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def party(clients: Clients, server: Server, kind: str) -> Iterator[Party]:
    party = Party(clients, server, kind)
    yield party
    party.close()


@pytest.fixture
def mixed(clients: Clients, server: Server) -> Iterator[Party]:
    """A party to which each brings a kind of its own."""
    party = Party(clients, server, "3.1")
    yield party
    party.close()


@pytest.fixture
def fragile(clients: Clients, kind: str, tmp_path: Path) -> Iterator[Party]:
    """A party on a server of its own, which may be stopped and started."""
    with running(tmp_path) as server:
        party = Party(clients, server, kind)
        yield party
        party.close()


def text_of(*clients: Client) -> str | None:
    """The text that all of them show, if it is the same."""
    texts = {client.text for client in clients}
    return texts.pop() if len(texts) == 1 else None


def names_seen_by(client: Client) -> set[str]:
    return {
        state["user"]["name"] for state in client.people.values() if "user" in state
    }


def user(name: str) -> dict[str, Any]:
    return {"user": {"name": name, "color": "#30bced"}}


# What is written.


def test_three_clients_converge(party: Party) -> None:
    ann, bob, cleo = party.open(), party.open(), party.open()
    ann.append("a")
    bob.append("b")
    cleo.append("c")
    until(lambda: sorted(text_of(ann, bob, cleo) or "") == ["a", "b", "c"])
    bob.run("doc.getText('text').delete(0, 3)")
    until(lambda: text_of(ann, bob, cleo) == "")
    assert ann.synced


def test_a_late_joiner_gets_the_text_and_who_is_here(party: Party) -> None:
    ann = party.open()
    ann.append("written before 😀")
    ann.announce(user("Ann"))
    until(lambda: ann.saved)
    bob = party.open()
    until(lambda: bob.synced and bob.text == "written before 😀")
    until(lambda: names_seen_by(bob) == {"Ann"})


def test_edits_made_offline_on_both_sides_merge(party: Party) -> None:
    ann, bob = party.open(), party.open()
    ann.append("start ")
    until(lambda: text_of(ann, bob) == "start ")
    ann.disconnect()
    ann.append("ann ")
    ann.run("doc.getText('text').delete(0, 2)")
    bob.append("bob ")
    bob.disconnect()
    bob.append("bob again ")
    bob.connect()
    ann.connect()
    until(lambda: text_of(ann, bob) is not None and "ann" in bob.text)
    assert ann.text in ("art ann bob bob again ", "art bob bob again ann ")
    cleo = party.open()
    until(lambda: text_of(ann, bob, cleo) is not None)


def test_two_clients_with_a_thousand_edits_each_converge(party: Party) -> None:
    ann, bob = party.open(), party.open()
    until(lambda: ann.synced and bob.synced)
    for client, letter in ((ann, "a"), (bob, "b")):
        client.run(
            """
            const text = doc.getText("text");
            let made = 0;
            const edit = () => {
              for (let round = 0; round < 10; round++, made++) {
                if (made % 7 === 6) text.delete(Math.floor(text.length / 2), 1);
                else text.insert(Math.floor(text.length / 3), letter);
              }
              if (made < 1000) setImmediate(edit);
              else kept.done = true;
            };
            edit();
            """,
            letter=letter,
        )
    until(lambda: ann.run("return kept.done") and bob.run("return kept.done"))
    until(lambda: ann.saved and bob.saved and text_of(ann, bob) is not None)
    assert set(ann.text) == {"a", "b"}
    cleo = party.open()
    until(lambda: text_of(ann, bob, cleo) is not None)


def test_a_paste_of_two_megabytes_arrives(party: Party) -> None:
    ann, bob = party.open(), party.open()
    size = 2_000_000
    ann.run("doc.getText('text').insert(0, 'wörd '.repeat(size / 5))", size=size)
    until(lambda: bob.length == size)
    until(lambda: ann.saved)
    cleo = party.open()
    until(lambda: cleo.length == size)
    assert not any(event.startswith("closed") for event in ann.events + bob.events)


def test_undo_takes_back_only_what_is_ones_own(party: Party) -> None:
    ann, bob = party.open(), party.open()
    ann.run(
        "kept.undo = new Y.UndoManager(doc.getText('text'), "
        "{ trackedOrigins: new Set(['me']), captureTimeout: 0 })"
    )
    ann.run("doc.transact(() => doc.getText('text').insert(0, 'ann '), 'me')")
    until(lambda: bob.text == "ann ")
    bob.append("bob ")
    until(lambda: ann.text == "ann bob ")
    ann.run("kept.undo.undo()")
    until(lambda: text_of(ann, bob) == "bob ")
    ann.run("kept.undo.redo()")
    until(lambda: text_of(ann, bob) == "ann bob ")


def test_all_shared_types_converge(party: Party) -> None:
    ann, bob = party.open(), party.open()
    ann.run(
        """
        const inner = new Y.Map();
        inner.set("deep", Y.Array.from([1, 0.5, null, true, "é😀", { a: [1] }]));
        doc.getMap("map").set("inner", inner);
        doc.getMap("map").set("bytes", new Uint8Array([0, 255]));
        doc.getArray("array").push(["a", "b", "c"]);
        doc.getText("text").insert(0, "bold", { bold: true });
        doc.getText("text").insertEmbed(4, { image: "x" });
        const page = new Y.XmlElement("p");
        page.setAttribute("class", "wide");
        page.insert(0, [new Y.XmlText("hello")]);
        doc.getXmlFragment("xml").insert(0, [page]);
        """
    )
    bob.run("doc.getMap('map').set('bob', 'was here')")
    until(lambda: bob.run("return doc.getXmlFragment('xml').toString()"))
    bob.run(
        """
        doc.getArray("array").delete(1, 1);
        doc.getMap("map").get("inner").get("deep").push(["more"]);
        doc.getXmlFragment("xml").get(0).get(0).insert(5, " there");
        """
    )
    show = """
        return {
          map: doc.getMap("map").toJSON(), array: doc.getArray("array").toJSON(),
          text: doc.getText("text").toDelta(),
          xml: doc.getXmlFragment("xml").toString(),
        };
    """
    until(lambda: bob.run(show) == ann.run(show) and "there" in ann.run(show)["xml"])
    until(lambda: "bob" in ann.run(show)["map"])
    cleo = party.open()
    until(lambda: cleo.synced)
    shown = cleo.run(show)
    assert shown == ann.run(show)
    deep = shown["map"]["inner"]["deep"]
    assert deep == [1, 0.5, None, True, "é😀", {"a": [1]}, "more"]
    assert shown["map"]["bytes"] == {"0": 0, "1": 255}
    assert shown["array"] == ["a", "c"]
    assert shown["text"][1] == {"insert": {"image": "x"}}
    assert shown["xml"] == '<p class="wide">hello there</p>'


def test_what_a_client_kept_from_another_server_is_merged(party: Party) -> None:
    """Content under the same name, with a history that the server never saw."""
    ann = party.open()
    ann.append("ours. ")
    until(lambda: ann.saved)
    other = party.open(connect=False)
    other.append("theirs. ")
    bob = party.open(persisted=other.state)
    until(lambda: text_of(ann, bob) in ("ours. theirs. ", "theirs. ours. "))
    cleo = party.open()
    until(lambda: text_of(ann, bob, cleo) is not None)


def test_documents_of_one_connection_each_are_apart(party: Party) -> None:
    ann, bob = party.open(), party.open(f"{party.name}-other")
    ann.append("only here")
    until(lambda: ann.saved and bob.synced)
    assert bob.text == ""


@pytest.mark.parametrize(
    "name",
    [
        "constructor",
        "__proto__",
        "a/b",
        "a//b/",
        "with some spaces",
        "quotes ' \"",
        "😀 漢字",
        "%",
        "ü" * 127 + "x",
        "w" * 255,
    ],
)
def test_names_are_what_the_application_says(mixed: Party, name: str) -> None:
    """y-websocket puts names into the URL as they are; applications encode them."""
    encoded = quote(name, safe="")
    ann = mixed.open(encoded, "1.5")
    bob = mixed.open(encoded, "3.1-native")
    ann.append(f"in {name}")
    until(lambda: bob.text == f"in {name}")
    if "%" not in name:
        cleo = mixed.open(name, "2.1")
        until(lambda: cleo.text == f"in {name}")


@pytest.mark.parametrize("kind", ["2.1", "3.1", "3.1-native"])
def test_a_subprotocol_is_accepted(party: Party) -> None:
    ann = party.open(protocols=["yjs", "bearer.abc"])
    until(lambda: ann.synced)
    assert ann.run("return provider.ws.protocol") == "yjs"


def test_parameters_in_the_url_are_not_part_of_the_name(mixed: Party) -> None:
    ann = mixed.open(params={"token": "secret", "x": "/y"})
    bob = mixed.open()
    ann.append("hello")
    until(lambda: bob.text == "hello")


def test_all_versions_work_together(mixed: Party) -> None:
    everybody = {kind: mixed.open(kind=kind) for kind in KINDS}
    for kind, client in everybody.items():
        client.announce(user(kind))
        client.append(f"<{kind}>")
    until(
        lambda: (
            len(text_of(*everybody.values()) or "") == sum(len(k) + 2 for k in KINDS)
        )
    )
    seen = {*KINDS}
    until(lambda: all(names_seen_by(one) == seen for one in everybody.values()))
    text = next(iter(everybody.values())).text
    assert sorted(re.findall("<(.*?)>", text)) == sorted(KINDS)


def test_windows_of_one_browser_speak_with_each_other_too(party: Party) -> None:
    """Over a BroadcastChannel, and everything reaches the server twice."""
    ann, bob = party.open(disableBc=False), party.open(disableBc=False)
    cleo = party.open()
    ann.announce(user("Ann"))
    bob.announce(user("Bob"))
    ann.append("a")
    bob.append("b")
    until(lambda: text_of(ann, bob, cleo) in ("ab", "ba"))
    until(lambda: names_seen_by(cleo) == {"Ann", "Bob"})
    ann.announce(None)
    until(lambda: names_seen_by(cleo) == {"Bob"} == names_seen_by(bob))
    # Nothing goes round and round.
    for client in (bob, cleo):
        assert client.run("return frames.length") < 100


def test_asking_again_at_intervals_does_no_harm(party: Party) -> None:
    ann, bob = party.open(resyncInterval=50), party.open()
    bob.append("hello")
    until(lambda: ann.text == "hello")
    asked = len(ann.frames("out"))
    until(lambda: len(ann.frames("out")) >= asked + 5)
    answers = [frame for frame in ann.frames("in") if frame.startswith(b"\x00\x01")]
    assert len(answers) >= 3
    assert ann.text == "hello"


# Who is here.


def test_presence_appears_changes_and_leaves(party: Party) -> None:
    ann, bob, cleo = party.open(), party.open(), party.open()
    ann.announce(user("Ann"))
    bob.announce(user("Bob"))
    until(lambda: names_seen_by(cleo) == {"Ann", "Bob"} == names_seen_by(ann))
    ann.announce({**user("Anna"), "cursor": {"anchor": 1, "head": 2}})
    until(lambda: names_seen_by(cleo) == {"Anna", "Bob"} == names_seen_by(bob))
    assert cleo.people[ann.id]["cursor"] == {"anchor": 1, "head": 2}
    ann.announce(None)
    until(lambda: names_seen_by(cleo) == {"Bob"} == names_seen_by(bob), patience=5)
    assert ann.id not in cleo.people
    gone = bob.id
    bob.destroy()
    until(lambda: gone not in cleo.people, patience=5)
    ann.announce(user("Ann, again"))
    until(lambda: names_seen_by(cleo) == {"Ann, again"})


def test_whose_socket_dies_leaves_soon(mixed: Party) -> None:
    reader = mixed.open()
    url = mixed.server.ws_url
    with Clients() as doomed:
        for kind, (version, socket) in KINDS.items():
            killed = doomed.open(url, mixed.name, version=version, socket=socket)
            killed.announce(user(f"{kind}, killed"))
        for kind in ("1.5", "2.1", "3.1"):
            mixed.open(kind=kind).announce(user(f"{kind}, cut off"))
        until(lambda: len(names_seen_by(reader)) == 7)
        doomed.kill()
        for client in mixed.opened[1:]:
            client.die()
        until(lambda: not names_seen_by(reader), patience=10)


@pytest.mark.parametrize("kind", ["1.5", "2.1", "3.1"])
def test_a_client_that_is_soon_back_never_left(party: Party) -> None:
    ann, bob = party.open(), party.open()
    ann.announce(user("Ann"))
    until(lambda: names_seen_by(bob) == {"Ann"})
    bob.run(
        "kept.removed = [];"
        "awareness.on('change', ({ removed }) => kept.removed.push(...removed))"
    )
    ann.break_off()
    until(lambda: ann.events.count("connected") == 2 and ann.synced)
    ann.announce(user("Ann, back"))
    until(lambda: names_seen_by(bob) == {"Ann, back"})
    assert bob.run("return kept.removed") == []


@pytest.mark.slow
def test_who_says_nothing_for_long_stays_connected(mixed: Party) -> None:
    """y-websocket reconnects when it has not heard a message for 30 s."""
    silent = [
        mixed.open(f"{mixed.name}-{kind}-{awareness}", kind, awareness=awareness)
        for kind in KINDS
        for awareness in (True, False)
    ]
    until(lambda: all(client.synced for client in silent))
    start = time.monotonic()
    while time.monotonic() - start < 36:
        for client in silent:
            assert client.events == ["connected"]
        time.sleep(1)


# What is saved.


def rows(server: Server) -> int:
    """How many updates the log has."""
    with closing(sqlite3.connect(server.database)) as database:
        (count,) = database.execute("SELECT count(*) FROM updates").fetchone()
    return int(count)


def test_an_author_hears_an_edit_back_once_it_is_in_the_log(fragile: Party) -> None:
    ann, bob = fragile.open(), fragile.open()
    until(lambda: ann.synced and bob.synced)
    ann.append("first ")
    until(lambda: ann.saved)
    assert rows(fragile.server) == 1
    with closing(sqlite3.connect(fragile.server.database)) as database:
        database.isolation_level = None
        database.execute("BEGIN IMMEDIATE")  # Now nobody else can write.
        ann.append("second ")
        until(lambda: bob.text == "first second ")
        # The server has it and answers; what it does not say is that it is saved.
        answers = len(ann.frames("in"))
        ann.run(
            "const known = Y.encodeStateVector(doc);"
            "provider.ws.send(new Uint8Array([0, 0, known.length, ...known]))"
        )
        # Presence may come in between.
        until(
            lambda: any(
                frame.startswith(b"\0\1") for frame in ann.frames("in")[answers:]
            )
        )
        assert not ann.saved
        database.execute("ROLLBACK")
    until(lambda: ann.saved)
    assert rows(fragile.server) == 2
    sent, back, received = (
        [frame for frame in frames if frame.startswith(b"\0\2") and len(frame) > 5]
        for frames in (ann.frames("out"), ann.frames("in"), bob.frames("in"))
    )
    assert sent == back == received
    assert len(sent) == 2


def test_what_was_heard_back_survives_a_kill(fragile: Party) -> None:
    ann, bob = fragile.open(), fragile.open()
    for client, letter in ((ann, "a"), (bob, "b")):
        client.run(
            """
            let made = 0;
            const edit = () => {
              doc.getText("text").insert(0, `<${letter}${made++}>`);
              kept.timer = setTimeout(edit, 1);
            };
            edit();
            """,
            letter=letter,
        )
    until(lambda: ann.heard_back > 50 and bob.heard_back > 50)
    fragile.server.kill()
    heard: list[int] = []
    until(lambda: not ann.connected and not bob.connected)
    for client in (ann, bob):
        client.run("clearTimeout(kept.timer)")
        heard.append(client.heard_back)
        client.destroy()  # It will not send anything again.
    fragile.server.restart()
    cleo = fragile.open()
    until(lambda: cleo.synced)
    for letter, least in zip("ab", heard, strict=True):
        kept = sorted(int(n) for n in re.findall(f"<{letter}(\\d+)>", cleo.text))
        assert kept == list(range(len(kept)))
        assert len(kept) >= least - 1  # The answer on connecting holds no edit.


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_a_restart_loses_nothing_and_doubles_nothing(fragile: Party, end: str) -> None:
    everybody = [fragile.open(), fragile.open(), fragile.open()]
    written: list[str] = []

    def write(when: str) -> None:
        for number, client in enumerate(everybody):
            for count in range(20):
                written.append(f"<{when}-{number}-{count}>")
                client.insert(0, written[-1])

    until(lambda: all(client.synced for client in everybody))
    write("before")
    getattr(fragile.server, end)()
    write("meanwhile")
    fragile.server.restart()
    write("coming back")
    until(lambda: all(client.synced for client in everybody))
    write("after")
    length = sum(map(len, written))
    until(lambda: all(client.length == length for client in everybody))
    text = text_of(*everybody)
    assert text is not None
    assert sorted(re.findall("<.*?>", text)) == sorted(written)
    until(lambda: all(client.saved for client in everybody))

    fragile.server.terminate()
    for client in everybody:
        client.destroy()
    fragile.server.restart()
    reader = fragile.open()
    until(lambda: reader.synced)
    assert reader.text == text


def test_a_graceful_stop_tells_clients_to_come_back(fragile: Party) -> None:
    ann = fragile.open()
    ann.append("x")
    until(lambda: ann.saved)
    assert fragile.server.terminate() == 0
    until(lambda: "disconnected" in ann.events)
    assert "closed 1012" in ann.events
    assert "gave up" not in " ".join(ann.events)
    fragile.server.restart()
    until(lambda: ann.synced)


def test_bytes_that_are_no_message_end_the_connection_for_good(party: Party) -> None:
    ann, bob = party.open(), party.open()
    until(lambda: ann.synced and bob.synced)
    ann.run("provider.ws.send(new Uint8Array([9, 9, 9]))")
    until(lambda: "closed 4400" in ann.events)
    bob.run("provider.ws.send(new Uint8Array([0, 2, 3, 1, 1, 1]))")
    until(lambda: "closed 4422" in bob.events)
    if party.kind.startswith("3.1"):
        until(lambda: ann.events[-1] == "gave up 4400")
        until(lambda: bob.events[-1] == "gave up 4422")
    else:
        until(lambda: ann.synced and bob.synced)
