"""The clients in the field work with the server: what is written, and what is saved.

They are the published npm packages, in Node: y-websocket, Hocuspocus' providers,
y-sweet's and y-partyserver's (``tests/interop`` names the versions).
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import Any
from urllib.parse import quote

import pytest

from collab import wire
from tests.interop import HOCUSPOCUS, KINDS, Y_WEBSOCKET, Client, until
from tests.interop.parties import Fragile, Party, names_seen_by, text_of, user
from tests.servers import Server

pytest_plugins = ["tests.interop.fixtures"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of client, one after the other."""
    return str(request.param)


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


# Yjs 14 has a single type, which is all of them.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "4.0"])
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
        "toString",
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
    """Where names go into the URL as they are, applications encode them."""
    everybody = {
        kind: mixed.open(name if kind in HOCUSPOCUS[1:] else quote(name, ""), kind)
        for kind in KINDS
    }
    for kind, client in everybody.items():
        client.append(f"<{kind}>")
    text = whole_text(everybody)
    assert sorted(re.findall("<(.*?)>", text)) == sorted(KINDS)
    if "%" not in name:
        as_it_is = mixed.open(name, "2.1")
        until(lambda: as_it_is.text == text)


# y-websocket 1.5, Hocuspocus, y-sweet and y-partyserver cannot ask for one.
@pytest.mark.parametrize("kind", ["2.1", "3.1", "3.1-native", "3.1-rc", "4.0"])
def test_a_subprotocol_is_accepted(party: Party) -> None:
    ann = party.open(protocols=["yjs", "bearer.abc"])
    until(lambda: ann.synced)
    assert ann.run("return provider.ws.protocol") == "yjs"


def test_parameters_in_the_url_are_not_part_of_the_name(mixed: Party) -> None:
    ann = mixed.open(params={"token": "secret", "x": "/y"})
    bob = mixed.open()
    ann.append("hello")
    until(lambda: bob.text == "hello")


def test_all_kinds_work_together(mixed: Party) -> None:
    everybody = {kind: mixed.open(kind=kind) for kind in KINDS}
    for kind, client in everybody.items():
        client.append(f"<{kind}>")
    text = whole_text(everybody)
    assert sorted(re.findall("<(.*?)>", text)) == sorted(KINDS)

    # Everybody sees where everybody's cursor is, and stays there when something is
    # written before it.
    for kind, client in everybody.items():
        client.run(
            """
            const text = doc.getText("text");
            const at = text.toString().indexOf(`<${kind}>`);
            const position = Y.createRelativePositionFromTypeIndex(text, at);
            const cursor = JSON.parse(JSON.stringify(position));
            awareness.setLocalState({ user: { name: kind }, cursor });
            """,
            kind=kind,
        )
    until(lambda: all(names_seen_by(one) == {*KINDS} for one in everybody.values()))
    everybody["hocuspocus-3"].insert(0, "At the beginning: ")
    whole_text(everybody, len(text) + 18)
    for client in everybody.values():
        pointed_at = client.run(
            """
            const text = doc.getText("text").toString();
            return [...awareness.getStates().values()].map(({ user, cursor }) => {
              const position = Y.createRelativePositionFromJSON(cursor);
              const found = Y.createAbsolutePositionFromRelativePosition(position, doc);
              return [user.name, text.slice(found.index).match(/^<(.*?)>/)?.[1]];
            });
            """
        )
        assert pointed_at == [[name, name] for name, _ in pointed_at]
        assert len(pointed_at) == len(KINDS)


def whole_text(everybody: dict[str, Client], length: int | None = None) -> str:
    """The text once all show the same, and it has each one's ``<kind>`` in it."""
    least = sum(len(kind) + 2 for kind in everybody) if length is None else length
    until(lambda: len(text_of(*everybody.values()) or "") == least)
    return next(iter(everybody.values())).text


def test_no_edit_is_stored_or_sent_twice(party: Party, server: Server) -> None:
    ann, bob = party.open(), party.open()
    until(lambda: ann.synced and bob.synced)
    for number in range(20):
        ann.append(f"<{number}>")
    until(lambda: ann.saved and text_of(ann, bob) is not None)
    assert rows(server, party.name) == 20
    # What it says again when it is back is known: it is neither stored nor sent.
    if party.kind == "3.1-native":
        ann.disconnect()
        ann.connect()
    else:
        ann.break_off()
    until(lambda: ann.connections == 2 and ann.synced and ann.saved)
    assert rows(server, party.name) == 20
    heard = [m for m in bob.messages("in") if m.startswith(b"\0\2")]
    heard = [m for m in heard if m != b"\0\2\2\0\0"]
    assert len(heard) == len({*heard}) == 20
    assert bob.text == "".join(f"<{number}>" for number in range(20))


# The others do not.
@pytest.mark.parametrize("kind", [*Y_WEBSOCKET, *HOCUSPOCUS[:2], "y-partyserver"])
def test_windows_of_one_browser_speak_with_each_other_too(party: Party) -> None:
    """Over a BroadcastChannel, and everything reaches the server twice."""
    on: dict[str, Any] = {"disableBc": False}
    if party.kind in HOCUSPOCUS:
        on = {"broadcast": True}
    ann, bob = party.open(**on), party.open(**on)
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


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "y-sweet"])
def test_asking_again_at_intervals_does_no_harm(party: Party) -> None:
    at_intervals: dict[str, Any] = {"resyncInterval": 50}
    if party.kind in HOCUSPOCUS:
        at_intervals = {"forceSyncInterval": 50}
    ann, bob = party.open(**at_intervals), party.open()
    bob.append("hello")
    until(lambda: ann.text == "hello")
    asked = len(ann.frames("out"))
    until(lambda: len(ann.frames("out")) >= asked + 5)
    answers = [m for m in ann.messages("in") if m.startswith(b"\x00\x01")]
    assert len(answers) >= 3
    assert ann.text == "hello"


# What is saved.


def rows(server: Server, name: str) -> int:
    """How many updates the log of a document has."""
    query = "SELECT count(*) FROM updates u JOIN documents d ON d.id = u.document_id"
    with closing(sqlite3.connect(server.database)) as database:
        (count,) = database.execute(f"{query} WHERE d.name = ?", [name]).fetchone()
    return int(count)


def test_an_author_hears_that_an_edit_is_saved_once_it_is_in_the_log(
    fragile: Fragile,
) -> None:
    ann, bob = fragile.open(), fragile.open()
    until(lambda: ann.synced and bob.synced)
    ann.append("first ")
    until(lambda: ann.saved)
    assert rows(fragile.server, fragile.name) == 1
    with closing(sqlite3.connect(fragile.server.database)) as database:
        database.isolation_level = None
        database.execute("BEGIN IMMEDIATE")  # Now nobody else can write.
        ann.append("second ")
        until(lambda: bob.text == "first second ")
        # The server has it and answers; what it does not say is that it is saved.
        answers = len(ann.messages("in"))
        known = bytes(ann.run("return [...Y.encodeStateVector(doc)]"))
        ann.send(b"\0\0" + wire.data(known))
        # Presence may come in between.
        until(
            lambda: any(
                message.startswith(b"\0\1") for message in ann.messages("in")[answers:]
            )
        )
        assert not ann.saved
        database.execute("ROLLBACK")
    until(lambda: ann.saved)
    assert rows(fragile.server, fragile.name) == 2
    sent, back, received = (
        [m for m in messages if m.startswith(b"\0\2") and len(m) > 5]
        for messages in (ann.messages("out"), ann.messages("in"), bob.messages("in"))
    )
    assert sent == received
    assert len(sent) == 2
    if fragile.kind in HOCUSPOCUS[1:]:
        # What it had at first is answered, too, and what it had when it was asked
        # again, which is instead of what was on its way; nothing comes back.
        assert ann.messages("in").count(b"\x08\x01") == 3
        assert back == []
    else:
        assert back == sent


def test_what_was_heard_back_survives_a_kill(fragile_mixed: Fragile) -> None:
    party = fragile_mixed
    everybody = {kind: party.open(kind, kind) for kind in KINDS}
    for client in everybody.values():
        client.run(
            """
            let made = 0;
            const edit = () => {
              doc.getText("text").insert(0, `<${made++}>`);
              kept.timer = setTimeout(edit, 4);
            };
            edit();
            """
        )
    until(lambda: all(client.acknowledged > 50 for client in everybody.values()))
    party.server.kill()
    until(lambda: not any(client.connected for client in everybody.values()))
    heard = {}
    for kind, client in everybody.items():
        client.run("clearTimeout(kept.timer)")
        heard[kind] = client.acknowledged
        client.destroy()  # It will not send anything again.
    party.server.restart()
    for kind, least in heard.items():
        reader = party.open(kind, kind)
        until(lambda: reader.synced)  # noqa: B023
        kept = sorted(int(number) for number in re.findall(r"<(\d+)>", reader.text))
        assert kept == list(range(len(kept)))
        assert len(kept) >= least - 1  # The answer on connecting holds no edit.


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_a_restart_loses_nothing_and_doubles_nothing(
    fragile_mixed: Fragile, end: str
) -> None:
    """Three clients of each kind, in a document for each."""
    party = fragile_mixed
    groups = {kind: [party.open(kind, kind) for _ in range(3)] for kind in KINDS}
    everybody = [client for group in groups.values() for client in group]
    written: list[str] = []

    def write(when: str) -> None:
        for count in range(20):
            for number in range(3):
                written.append(f"<{when}-{number}-{count}>")
                for group in groups.values():
                    group[number].insert(0, written[-1])

    until(lambda: all(client.synced for client in everybody))
    write("before")
    getattr(party.server, end)()
    write("meanwhile")
    party.server.restart()
    write("coming back")
    until(lambda: all(client.synced for client in everybody))
    write("after")
    length = sum(map(len, written))
    until(lambda: all(client.length == length for client in everybody))
    # 3.1-rc waits for ever for what is in the log, but whose confirmation was lost with
    # the server: it hears that we have it, and does not count that.
    waiting = ["3.1-rc"] if end == "kill" else []
    until(lambda: {c.kind for c in everybody if not c.saved} <= {*waiting})
    texts = {kind: text_of(*group) for kind, group in groups.items()}
    for text in texts.values():
        assert text is not None
        assert sorted(re.findall("<.*?>", text)) == sorted(written)

    party.server.terminate()
    for client in everybody:
        client.destroy()
    party.server.restart()
    for kind, text in texts.items():
        reader = party.open(kind, kind)
        until(lambda: reader.synced)  # noqa: B023
        assert reader.text == text


def test_a_graceful_stop_tells_clients_to_come_back(fragile_mixed: Fragile) -> None:
    party = fragile_mixed
    everybody = [party.open(kind=kind) for kind in KINDS]
    everybody[0].append("x")
    until(lambda: all(client.text == "x" for client in everybody))
    assert party.server.terminate() == 0
    until(lambda: not any(client.connected for client in everybody))
    for client in everybody:
        assert "closed 1012" in client.events
        assert "gave up" not in " ".join(client.events)
    party.server.restart()
    until(lambda: all(client.synced for client in everybody))


# Hocuspocus' sockets have other bytes; tests/test_interop_hocuspocus.py has them.
@pytest.mark.parametrize("kind", Y_WEBSOCKET)
def test_bytes_that_are_no_message_end_the_connection_for_good(party: Party) -> None:
    ann, bob = party.open(), party.open()
    until(lambda: ann.synced and bob.synced)
    ann.send(b"\x09\x09\x09")
    until(lambda: "closed 4400" in ann.events)
    bob.send(b"\0\2\3\1\1\1")
    until(lambda: "closed 4422" in bob.events)
    if party.kind in ("3.1", "3.1-native"):
        until(lambda: ann.events[-1] == "gave up 4400")
        until(lambda: bob.events[-1] == "gave up 4422")
    else:
        until(lambda: ann.synced and bob.synced)
