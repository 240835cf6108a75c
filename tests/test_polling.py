"""Our own clients over HTTP: what is said in pushes, and heard in streams and polls."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pycrdt import Doc, Text
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from collab.auth import Access, Attempt, Grant
from collab.limits import Limits
from collab.people import GRACE
from collab.proxies import Proxies
from collab.store import Store
from tests import applications, polls, servers
from tests.applications import EXAMPLE
from tests.databases import DatabaseServer
from tests.native import HELLO, edit, opening, read_frame
from tests.peers import PATIENCE, data, insert, uint
from tests.polls import (
    KEY,
    TYPE,
    Person,
    head,
    listening,
    on,
    post,
    presence,
    request,
    resuming,
)
from tests.servers import Serving
from tests.vectors import history

FIRST, SECOND, THIRD, FOURTH = history("reorder")
OTHER = b"another key, 16+"
LISTENING = ("stream", "events", "poll")

each = pytest.mark.parametrize("path", LISTENING)


async def authorize(attempt: Attempt) -> Grant | None:
    access, _, user = attempt.token.partition(":")
    return Grant(user, Access(access)) if access in ("read", "write") else None


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with servers.serving(tmp_path, limits=Limits(documents=5)) as server:
        yield server


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Serving]:
    async with servers.serving(tmp_path, authorize=authorize) as server:
        yield server


async def until(happened: Callable[[], object], patience: float = PATIENCE) -> None:
    async with asyncio.timeout(patience):
        while not happened():
            await asyncio.sleep(0.01)


def stored(server: Serving, name: str = "d") -> list[bytes]:
    """The updates of a document, as they are on disk."""
    store = Store(server.hub.store.url)
    store.open()
    try:
        return [row.update for row in store.load(name).rows]
    finally:
        store.close()


def text_of(*updates: bytes, root: str = "text") -> str:
    doc: Doc[Any] = Doc()
    for update in updates:
        doc.apply_update(update)
    return str(doc.get(root, type=Text))


def large() -> bytes:
    """A document that is opened in several pieces."""
    doc: Doc[Any] = Doc()
    text = doc.get("text", type=Text)
    with doc.transaction():
        for number in range(6000):
            text.insert(0, f"<{number}> and so on, ")
    return doc.get_update()


def people(server: Serving, name: str = "d") -> set[int]:
    """The ids of the clients that are visible."""
    entries = server.hub.rooms[name].people.entries
    return {client for client, entry in entries.items() if entry.here}


def deleting() -> list[bytes]:
    """Updates, of which the last one deletes something."""
    doc: Doc[Any] = Doc()
    text = doc.get("text", type=Text)
    made: list[bytes] = []
    watch = doc.observe(lambda event: made.append(event.update))
    text += "some words"
    del text[2:6]
    doc.unobserve(watch)
    return made


# Saying.


async def test_what_is_said_to_be_saved_is_on_disk(server: Serving) -> None:
    said = on(1, opening(), edit(7, FIRST), edit(8, SECOND))
    answer = await post(server.port, "push", head(), said)
    assert answer.messages == [(1, ("Saved", 8, 0))]
    assert stored(server) == [FIRST, SECOND]
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["cache-control"] == "no-store, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "access-control-allow-origin" not in answer.headers  # It is no page's.
    assert answer.headers["vary"] == "Origin"


async def test_a_push_that_comes_again_is_merged_once(server: Serving) -> None:
    said = head() + on(1, opening(), edit(1, FIRST), edit(2, SECOND))
    for _ in range(2):
        answer = await post(server.port, "push", said)
        assert answer.on()[-1] == ("Saved", 2, 0)
    assert stored(server) == [FIRST, SECOND]


async def test_a_push_whose_answer_is_lost_is_taken(server: Serving) -> None:
    said = head() + on(1, opening(), edit(1, FIRST))
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request("/api/sync/push", len(said)) + said)
    await writer.drain()
    writer.close()
    await until(lambda: "d" in server.hub.rooms and server.hub.rooms["d"].position)
    answer = await post(server.port, "push", said)
    assert answer.on() == [("Saved", 1, 0)]
    assert stored(server) == [FIRST]
    await until(lambda: not len(server.hub.rooms["d"]))


async def test_pushes_out_of_order_are_saved_and_asked_about(server: Serving) -> None:
    answer = await post(server.port, "push", head(), on(1, opening(), edit(2, SECOND)))
    assert answer.on() == [("Saved", 2, 0), ("Question", b"\x00")]
    answer = await post(server.port, "push", head(), on(1, opening(), edit(1, FIRST)))
    assert answer.on() == [("Saved", 1, 0)]
    answer = await post(server.port, "poll", head(), on(1, opening()))
    pieces = [message[1] for message in answer.on() if message[0] == "Piece"]
    assert text_of(*pieces, root="t") == text_of(FIRST, SECOND, root="t") != ""


async def test_what_was_said_before_a_goodbye_is_answered(server: Serving) -> None:
    said = on(1, opening(), presence(7, 1), edit(1, FIRST), b"\x01")
    answer = await post(server.port, "push", head(), said)
    assert answer.on() == [("Saved", 1, 0)]
    assert people(server) == set()
    assert len(server.hub.rooms["d"]) == 0


async def test_pings_are_answered_and_many_documents_are_one_push(
    server: Serving,
) -> None:
    body = head() + b"\x00\x01\x05"
    body += on(1, opening("a"), edit(1, FIRST)) + on(300, opening("b"), edit(9, FIRST))
    answer = await post(server.port, "push", body)
    assert sorted(answer.messages) == [
        (0, ("Pong", 5)),
        (1, ("Saved", 1, 0)),
        (300, ("Saved", 9, 0)),
    ]


async def test_a_database_that_takes_nothing_is_waited_for_only_so_long(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collab.polling.SAVING", 0.2)
    await server.hub.enter("d")
    held = server.hub.store.database
    with held.writing():
        answer = await post(
            server.port, "push", head(), on(1, opening(), edit(1, FIRST))
        )
        assert answer.messages == []
        assert len(server.hub.rooms["d"]) == 0
    answer = await post(server.port, "push", head(), on(1, opening(), edit(1, FIRST)))
    monkeypatch.undo()
    await until(lambda: not server.hub.rooms["d"].ledger.unsaved)
    assert stored(server) == [FIRST]


async def test_another_epoch_is_another_document(server: Serving) -> None:
    await post(server.port, "push", head(), on(1, opening(), edit(1, FIRST)))
    right = server.hub.store.load("d").epoch
    assert right
    # The room may not know it yet: it is looked up.
    for epoch, expected in ((right.encode(), "Saved"), (b"other", "Closed")):
        said = on(1, opening(epoch=epoch), edit(2, SECOND))
        answer = await post(server.port, "push", head(), said)
        assert answer.on()[0][0] == expected
    assert answer.on() == [("Closed", 4509, b"document was replaced")]
    assert stored(server) == [FIRST, SECOND]


async def test_a_message_reaches_others_once(server: Serving) -> None:
    body = head(OTHER) + on(3, opening())
    async with (
        listening(server.port, "stream", body) as bob,
        listening(server.port, "stream", head(), on(1, opening())) as ann,
    ):
        await bob.until("Synced", 3)
        await ann.until("Synced")
        note = b"\x04\x00" + data(b"hey")
        await post(server.port, "push", head(), on(1, opening(), note))
        await post(server.port, "push", head(OTHER), on(3, opening(), note + b""))
        assert await bob.until("Message", 3) == [("Message", b"", b"hey")]
        assert await ann.until("Message") == [("Message", b"", b"hey")]


# Listening.


@each
async def test_a_document_is_opened_in_pieces(server: Serving, path: str) -> None:
    update = large()
    await post(server.port, "push", head(), on(1, opening(), edit(1, update)))
    async with listening(server.port, path, head(OTHER), on(2, opening())) as response:
        assert response.status == 200
        assert response.headers["cache-control"] == "no-store, no-transform"
        channel, (name, version, _, heartbeat, size) = await response.hear() or (0, ())
        assert (channel, name, version) == (0, "Welcome", 1)
        assert (heartbeat, size) == (25_000, 16 * 2**20)
        opened, *pieces, synced = await response.until("Synced", 2)
        assert opened[0] == "Opened"
        assert opened[4] == sum(len(piece[1]) for piece in pieces)
        assert len(pieces) > 2
        assert synced == ("Synced", 1)
        assert text_of(*[piece[1] for piece in pieces]) == text_of(update) != ""
        if path == "poll":
            assert await response.rest() == [(2, ("Synced", 1))]


@each
async def test_to_come_back_costs_few_octets(server: Serving, path: str) -> None:
    update = large()
    await post(server.port, "push", head(OTHER), on(1, opening(), edit(1, update)))
    room = server.hub.rooms["d"]
    await until(lambda: room.epoch)  # It is asked for every two seconds.
    doc: Doc[Any] = Doc()
    doc.apply_update(update)
    edited = insert(5, "x")
    await post(server.port, "push", head(OTHER), on(1, opening(), edit(2, edited)))
    body = head() + on(
        1, resuming(vector=doc.get_state(), epoch=room.epoch.encode(), position=1)
    )
    async with listening(server.port, path, body) as response:
        opened, *rest = await response.until("Synced")
        assert opened[3:5] == (2, len(edited))
        assert rest == [("Piece", edited), ("Synced", 2)]
        assert response.size < 300


async def poll_after(
    server: Serving, *events: Callable[[], Any], vector: bytes = b"\x00"
) -> list[tuple[Any, ...]]:
    """What a poll says that has nothing new at first, when something happens."""
    body = head() + on(1, resuming(vector=vector))
    async with listening(server.port, "poll", body) as poll:
        synced = await poll.until("Synced")
        for event in events:
            await event()
        return synced + [message for _, message in await poll.rest()]


def push_of(server: Serving, key: bytes, *messages: bytes) -> Callable[[], Any]:
    return lambda: post(server.port, "push", head(key), on(1, opening(), *messages))


async def test_a_poll_waits_for_what_happens(server: Serving) -> None:
    opened, *said = await poll_after(server, push_of(server, OTHER, edit(1, FIRST)))
    assert opened == ("Opened", 1, b"", 0, 0, b"\x00")
    assert said[:2] == [("Synced", 0), ("Update", 0, FIRST)]
    # In the end it says from where to go on, if that is saved by then.
    assert said[2:] in ([], [("Synced", 1)])


async def test_a_poll_ends_with_a_message_or_the_presence_of_another(
    server: Serving,
) -> None:
    said = await poll_after(server, push_of(server, OTHER, b"\x04\x00\x01!"))
    assert said[2:] == [("Message", b"", b"!")]
    said = await poll_after(server, push_of(server, OTHER, presence(8, 1)))
    assert said[2:] == [("Presence", presence(8, 1)[2:])]


async def test_what_one_says_oneself_ends_no_poll(server: Serving) -> None:
    said = await poll_after(
        server,
        push_of(server, KEY, edit(1, FIRST)),
        push_of(server, KEY, presence(7, 1)),
        push_of(server, KEY, presence(7, 1, b"null")),
        push_of(server, KEY, b"\x04\x00\x01!"),
        push_of(server, OTHER, b"\x04\x00\x01?"),
    )
    assert said[1:] == [("Synced", 0), ("Message", b"", b"?"), ("Synced", 1)]


async def test_presence_that_is_known_ends_no_poll(server: Serving) -> None:
    await post(server.port, "push", head(), on(1, opening(), presence(7, 1)))
    await post(server.port, "push", head(OTHER), on(1, opening(), presence(8, 4)))
    await until(lambda: not server.hub.rooms["d"].people.changed)
    known = uint(1) + uint(8) + uint(4)
    said = on(1, resuming(known=known))
    answer = await post(server.port, "poll?wait=1", head(), said)
    assert [message[0] for message in answer.on()] == ["Opened", "Synced"]
    known = uint(2) + uint(8) + uint(3) + uint(9) + uint(1)
    answer = await post(server.port, "poll", head(), on(1, resuming(known=known)))
    left = presence(9, 1, b"null")[3:]
    (named,) = [message for message in answer.on() if message[0] == "Presence"]
    assert named[1] == uint(2) + presence(8, 4)[3:] + left


@pytest.mark.parametrize("name", ["new", "empty"])
async def test_who_has_everything_waits(server: Serving, name: str) -> None:
    """Although the room doesn't know its epoch yet, and there are deletions."""
    if name == "new":
        body = on(1, opening(name), *[edit(n, u) for n, u in enumerate(deleting(), 1)])
        await post(server.port, "push", head(), body)
        assert not server.hub.rooms[name].epoch
    answer = await post(server.port, "poll", head(), on(1, opening(name)))
    opened, *_, synced = answer.on()
    said = resuming(name, opened[5], opened[2], synced[1])
    answer = await post(server.port, "poll?wait=1", head(), on(1, said))
    assert [message[0] for message in answer.on()].count("Synced") == len(
        answer.on()[1:]
    )


async def test_a_burst_is_one_answer(server: Serving) -> None:
    said = on(1, opening(), *[edit(n, insert(n, "x")) for n in range(1, 100)])
    answers = await poll_after(
        server, lambda: post(server.port, "push", head(OTHER), said)
    )
    assert [message[0] for message in answers].count("Update") == 99


async def test_a_poll_opens_all_documents_although_one_has_news(
    server: Serving,
) -> None:
    update = large()
    await post(server.port, "push", head(), on(1, opening("b"), edit(1, update)))
    body = on(1, opening("a")) + on(2, opening("b")) + on(3, opening("c"))
    answer = await post(server.port, "poll", head(OTHER), body)
    for channel in (1, 2, 3):
        assert answer.on(channel)[-1][0] == "Synced"


# Together.


async def meet(people: list[tuple[Person, str]], *others: asyncio.Task[Any]) -> None:
    """Have clients type, each listening in its way, until all have the same."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(person.listen(path)) for person, path in people]
        for number in range(12):
            person, _ = people[number % len(people)]
            person.type(f"<{number}>")
            while person.unsaved:
                await person.push()
        await until(
            lambda: (
                all(str(p.text).count("<") >= 12 for p, _ in people)
                and len({str(person.text) for person, _ in people}) == 1
            )
        )
        for task in tasks:
            task.cancel()


async def test_all_kinds_of_clients_converge(server: Serving) -> None:
    mixed = [(Person(lambda: server.port), path) for path in LISTENING]
    doc: Doc[Any] = Doc()
    async with connect(
        server.ws_url, subprotocols=[Subprotocol("collab.v1")], proxy=None
    ) as socket:
        await socket.send(HELLO + on(1, opening()))
        typing = insert(99, "<socket>")
        await socket.send(on(1, edit(1, typing)))
        await meet(mixed)
        await until(lambda: all("<socket>" in str(p.text) for p, _ in mixed))
        async with asyncio.timeout(PATIENCE):
            doc.apply_update(typing)
            while str(doc.get("text", type=Text)) != str(mixed[0][0].text):
                frame = await socket.recv()
                assert isinstance(frame, bytes)
                for _, message in read_frame(frame):
                    if message[0] in ("Piece", "Update"):
                        doc.apply_update(message[-1])
    assert stored(server)


async def test_any_server_may_answer_any_request(
    tmp_path: Path, postgres: DatabaseServer
) -> None:
    database = postgres.create_database()
    async with (
        servers.serving(tmp_path, database=database) as one,
        servers.serving(tmp_path, database=database) as two,
    ):
        people = [
            (Person(partial(next, itertools.cycle([one.port, two.port]))), path)
            for path in LISTENING
        ]
        await meet(people)


async def test_collab_is_mounted_where_an_application_wants_it(tmp_path: Path) -> None:
    with applications.running("main:app", EXAMPLE, tmp_path, "/collab") as mounted:
        people = [(Person(lambda: mounted.port, "/collab"), path) for path in LISTENING]
        await meet(people)
        assert "Traceback" not in mounted.log
        assert "ERROR" not in mounted.log


# Who is here.


async def test_what_was_announced_under_a_key_is_changed_under_it_alone(
    server: Serving,
) -> None:
    async with listening(server.port, "stream", head(OTHER), on(1, opening())) as bob:
        await bob.until("Synced")
        await post(server.port, "push", head(), on(1, opening(), presence(7, 1)))
        assert await bob.until("Presence") == [("Presence", presence(7, 1)[2:])]
        thief = b"a thief's key, 16"
        for said in (presence(7, 2, b'{"name":"Mallory"}'), presence(7, 3, b"null")):
            await post(server.port, "push", head(thief), on(1, opening(), said))
        # On another channel it is another client.
        await post(server.port, "push", head(), on(2, opening(), presence(7, 4)))
        await post(server.port, "push", head(), on(1, opening(), presence(7, 5)))
        assert await bob.until("Presence") == [("Presence", presence(7, 5)[2:])]


async def test_without_a_goodbye_one_stays_for_a_while(server: Serving) -> None:
    async with listening(server.port, "stream", head(), on(1, opening())) as ann:
        await ann.until("Synced")
        await post(server.port, "push", head(), on(1, opening(), presence(7, 1)))
        room = server.hub.rooms["d"]
        room.expire(asyncio.get_running_loop().time() + 2 * GRACE)
        assert people(server) == {7}
    await until(lambda: not len(room))
    (owner,) = room.people.owners.values()
    room.expire(owner.left + GRACE - 0.01)
    assert people(server) == {7}
    room.expire(owner.left + GRACE)
    assert people(server) == set()


async def test_a_goodbye_is_heard_at_once(server: Serving) -> None:
    async with (
        listening(server.port, "stream", head(), on(1, opening())) as ann,
        listening(server.port, "stream", head(OTHER), on(1, opening())) as bob,
    ):
        await ann.until("Synced")
        await bob.until("Synced")
        await post(server.port, "push", head(), on(1, opening(), presence(7, 1)))
        await bob.until("Presence")
        await post(server.port, "push", head(), on(1, opening(), b"\x01"))
        gone = presence(7, 1, b"null")[2:]
        assert await bob.until("Presence") == [("Presence", gone)]


@each
async def test_who_hangs_up_has_left(server: Serving, path: str) -> None:
    async with listening(server.port, path, head(), on(1, resuming())) as response:
        await response.until("Synced")
        assert len(server.hub.rooms["d"]) == 1
        assert len(server.hub.wheel) == 1
        response.hang_up()
        await until(lambda: not len(server.hub.rooms["d"]))
        assert not len(server.hub.wheel)


# Who may.


@pytest.mark.parametrize("carrier", ["message", "header", "query"])
@pytest.mark.parametrize("path", ["push", *LISTENING])
async def test_a_token_opens_a_document_however_it_is_carried(
    guarded: Serving, path: str, carrier: str
) -> None:
    for token, admitted in (("write:ann", True), ("none", False)):
        said = opening(token=token.encode() if carrier == "message" else b"")
        headers = [TYPE]
        if carrier == "header":
            headers.append(("Authorization", f"Bearer {token}"))
        query = f"?token={token}" if carrier == "query" else ""
        body = head() + on(1, said, *([edit(1, FIRST)] if path == "push" else []))
        async with listening(
            guarded.port, path + query, body, headers=headers
        ) as response:
            if not admitted:
                assert await response.until("Closed") == [
                    ("Closed", 4403, b"permission-denied")
                ]
            elif path == "push":
                assert await response.until("Saved") == [("Saved", 1, 0)]
            else:
                assert (await response.until("Synced"))[0][:2] == ("Opened", 1)


async def test_a_reader_is_refused_until_it_has_a_token_to_write(
    guarded: Serving,
) -> None:
    said = on(1, opening(token=b"read"), edit(3, FIRST))
    answer = await post(guarded.port, "push", head(), said)
    assert answer.on() == [("Refused", 3, b"read-only")]
    said = on(1, opening(token=b"read"), b"\x05" + data(b"write:ann"), edit(3, FIRST))
    answer = await post(guarded.port, "push", head(), said)
    assert answer.on() == [("Access", 1), ("Saved", 3, 0)]
    assert stored(guarded) == [FIRST]


async def test_who_is_asked_for_a_token_hears_it_in_a_push_too(
    guarded: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def enter(name: str, *who: Any) -> Any:
        room = await entering(name, *who)
        asyncio.get_running_loop().call_later(0.05, guarded.hub.request_tokens, name)
        return room

    entering = guarded.hub.enter
    with guarded.hub.store.database.writing():
        monkeypatch.setattr(guarded.hub, "enter", enter)
        monkeypatch.setattr("collab.polling.SAVING", 0.5)
        said = on(1, opening(token=b"write"), edit(1, FIRST))
        answer = await post(guarded.port, "push", head(), said)
    assert answer.on() == [("TokenWanted", 60)]


async def test_a_document_that_was_deleted_is_closed(server: Serving) -> None:
    await post(server.port, "push", head(), on(1, opening(), edit(1, FIRST)))
    async with (
        listening(server.port, "stream", head(), on(1, opening())) as stream,
        listening(
            server.port, "poll", head(), on(1, resuming(vector=b"\x01\x01\x02"))
        ) as poll,
    ):
        await stream.until("Synced")
        await asyncio.to_thread(server.hub.catalog.delete, "d")
        for response in (stream, poll):
            *_, closed = await response.until("Closed")
            assert closed == ("Closed", 4404, b"document was deleted")
        assert await poll.rest() == []


# What is not taken.


@pytest.mark.parametrize("path", ["push", *LISTENING])
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(HELLO, id="no identity"),
        pytest.param(HELLO + on(1, opening()), id="an open instead of it"),
        pytest.param(b"\x00\x02" + data(KEY) + HELLO, id="identity before hello"),
        pytest.param(head(b"fifteen octets."), id="a short key"),
        pytest.param(head(b"k" * 65), id="a long key"),
        pytest.param(head() + on(1, opening())[:-1], id="cut"),
        pytest.param(head() + b"\x00\x02" + data(KEY), id="identity twice"),
        pytest.param(head() + HELLO, id="hello twice"),
    ],
)
async def test_malformed_bodies_are_refused(
    server: Serving, path: str, body: bytes
) -> None:
    answer = await post(server.port, path, body)
    assert (answer.status, answer.body) == (400, b"malformed message\n")


@each
@pytest.mark.parametrize("said", [b"\x01", edit(1, FIRST), presence(7, 1)])
async def test_nothing_but_opens_is_said_to_listen(
    server: Serving, path: str, said: bytes
) -> None:
    answer = await post(server.port, path, head(), on(1, opening(), said))
    assert answer.status == 400
    assert "d" not in server.hub.rooms


async def test_nobody_resumes_in_a_push(server: Serving) -> None:
    answer = await post(server.port, "push", head(), on(1, resuming()))
    assert answer.status == 400


async def test_what_cannot_be_taken_closes_the_channel(server: Serving) -> None:
    body = on(1, opening("../d")) + on(2, opening("d"), edit(1, b"\x01\x02\x03"))
    answer = await post(server.port, "push", head(), body)
    assert answer.on(1) == [("Closed", 4400, b"bad document name")]
    ((name, code, _),) = answer.on(2)
    assert (name, code) == ("Closed", 4422)


async def test_what_ends_a_stream_is_said_in_it(server: Serving) -> None:
    body = head() + on(1, opening(vector=b"\x05"))
    async with listening(server.port, "stream", body) as stream:
        *_, last = await stream.rest()
    assert last == (0, ("Ended", 4400, b"malformed message"))


@pytest.mark.parametrize("path", ["push", "stream"])
@pytest.mark.parametrize("piece", [None, 4, 20_000])
async def test_a_body_is_bounded(tmp_path: Path, path: str, piece: int | None) -> None:
    limits = Limits(frame_size=200_000)
    async with servers.serving(tmp_path, limits=limits) as server:
        for size, status in ((190_000, 400), (210_000, 413)):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(request(f"/api/sync/{path}", None if piece else size))
            if piece is None:
                writer.write(bytes(size))
            else:
                chunk = b"%x\r\n%b\r\n" % (piece, bytes(piece))
                writer.write(chunk * (size // piece + 1) + b"0\r\n\r\n")
            response = polls.Listening(reader, writer)
            await response.begin()
            assert response.status == status
            writer.close()


async def test_a_body_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    async with servers.serving(tmp_path, limits=Limits(slow_time=0.2)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request("/api/sync/push", 100) + head())
        response = polls.Listening(reader, writer)
        await response.begin()
        assert response.status == 408
        await response.more()
        assert await reader.read() == b""
        writer.close()


async def test_who_hangs_up_is_gone_although_a_request_waits_behind(
    server: Serving,
) -> None:
    body = head() + on(1, opening()) + on(1, presence(7, 1))
    async with listening(server.port, "stream", head(), on(1, opening())) as stream:
        await stream.until("Synced")
        for _ in range(2):
            stream.writer.write(request("/api/sync/push", len(body)) + body)
        await stream.writer.drain()
        stream.hang_up()
        # While requests wait nothing is read: it is noticed when something is written.
        async with asyncio.timeout(PATIENCE):
            for clock in itertools.count(1):
                said = on(1, opening(), presence(9, clock))
                await post(server.port, "push", head(OTHER), said)
                if not len(server.hub.rooms["d"]):
                    break
                await asyncio.sleep(0.01)


UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: collab.v1\r\n\r\n"
)


@pytest.mark.parametrize("behind", [UPGRADE, b"no request\r\n\r\n"])
async def test_nothing_stands_within_the_response_to_another_request(
    server: Serving, behind: bytes
) -> None:
    async with listening(server.port, "stream", head(), on(1, opening())) as stream:
        await stream.until("Synced")
        stream.writer.write(behind)
        assert await stream.reader.read() == b""


async def test_no_websocket_begins_before_a_request_is_answered(
    server: Serving,
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    body = head() + on(1, opening(), edit(1, FIRST))
    writer.write(request("/api/sync/push", len(body)) + body + UPGRADE)
    assert b"101" not in await reader.read()
    writer.close()


@pytest.mark.parametrize(
    ("path", "options", "status", "sentence"),
    [
        ("push", {"headers": []}, 400, "The body is of type"),
        ("stream", {"headers": [("Content-Type", "text/plain")]}, 400, "The body is"),
        ("poll?wait=0", {}, 400, "from 1 to 25"),
        ("poll?wait=26", {}, 400, "from 1 to 25"),
        ("poll?wait=soon", {}, 400, "from 1 to 25"),
        ("poll?wait=000000025999", {}, 400, "from 1 to 25"),
        ("poll?wait=000000001" + "0" * 5000, {}, 400, "from 1 to 25"),
        ("pull", {}, 404, "push, stream, events, poll"),
        ("push", {"method": "GET"}, 405, ""),
    ],
)
async def test_a_request_that_is_none_is_told_why(
    server: Serving, path: str, options: dict[str, Any], status: int, sentence: str
) -> None:
    answer = await post(server.port, path, head(), **options)
    assert answer.status == status
    assert sentence in answer.body.decode()


def of(page: str) -> list[tuple[str, str]]:
    """The headers of a request that a page sends."""
    return [("Content-Type", "application/octet-stream"), ("Origin", page)]


@pytest.mark.parametrize("method", ["OPTIONS", "POST"])
async def test_pages_of_this_machine_may_ask(server: Serving, method: str) -> None:
    page = of("http://localhost:5173")
    answer = await post(server.port, "push", head(), method=method, headers=page)
    assert answer.status == (204 if method == "OPTIONS" else 200)
    assert answer.headers["access-control-allow-origin"] == "http://localhost:5173"
    assert answer.headers["access-control-allow-credentials"] == "true"
    if method == "OPTIONS":
        assert answer.headers["access-control-allow-methods"] == "POST"
        allowed = answer.headers["access-control-allow-headers"]
        assert allowed == "content-type, authorization"


@pytest.mark.parametrize("method", ["OPTIONS", "POST"])
@pytest.mark.parametrize("way", ["push", "stream", "events", "poll"])
async def test_pages_of_strangers_may_not_ask(
    server: Serving, way: str, method: str
) -> None:
    page = of("https://evil.example")
    answer = await post(server.port, way, head(), method=method, headers=page)
    assert (answer.status, answer.body) == (403, b"origin not allowed\n")
    assert "access-control-allow-origin" not in answer.headers


async def test_requests_count_as_connections_while_they_last(tmp_path: Path) -> None:
    limits = Limits(connections_per_address=1)
    proxies = Proxies("127.0.0.1")
    async with servers.serving(tmp_path, limits=limits, proxies=proxies) as server:
        quotas = server.hub.reception.quotas
        headers = [
            ("Content-Type", "application/octet-stream"),
            ("X-Forwarded-For", "192.0.2.1"),
        ]
        listening = asyncio.create_task(
            post(server.port, "poll?wait=1", head(), headers=headers)
        )
        await until(lambda: quotas.addresses)
        answer = await post(server.port, "push", head(), headers=headers)
        assert (answer.status, answer.headers["retry-after"]) == (429, "5")
        assert (await listening).status == 200
        answer = await post(server.port, "push", head(), headers=headers)
        assert answer.status == 200
        assert quotas.addresses == {}


async def test_who_comes_anew_for_each_word_is_no_faster(tmp_path: Path) -> None:
    limits = Limits(message_rate=10, message_burst=5, overrun_time=0.5)
    async with servers.serving(tmp_path, limits=limits) as server:
        statuses = []
        for number in range(30):
            said = on(1, opening(), edit(number + 1, insert(number + 1, "x")))
            answer = await post(server.port, "push", head(), said)
            statuses.append(answer.status)
            if answer.status != 200:
                break
        assert statuses[:2] == [200, 200]
        assert statuses[-1] == 429
        assert answer.body == b"too many messages per second\n"


# Slow readers, signs of life, and the end.


async def test_a_slow_reader_of_a_stream_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("collab.asgi.SLOWEST", 1_000_000)
    limits = Limits(slow_size=64 * 1024, slow_time=1.0)
    async with servers.serving(tmp_path, limits=limits) as server:
        body = head() + on(1, opening())
        async with listening(server.port, "stream", body, limit=1024) as stream:
            await stream.until("Synced")
            room = server.hub.rooms["d"]
            numbers = itertools.count(1)
            async with asyncio.timeout(60):
                while "stopped reading" not in caplog.text:
                    full: set[Any] = set(server.hub.wheel.full)
                    for outlet in full:
                        assert outlet.queued < 300_000
                        await asyncio.sleep(0.02)
                    if not full:
                        number = next(numbers)
                        update = insert(number, "x" * 100_000)
                        said = on(1, opening(), edit(number, update))
                        await post(server.port, "push", head(OTHER), said)
            await until(lambda: not len(room))
            assert not len(server.hub.wheel)
    assert "stopped reading" in caplog.text
    assert "without completing" not in caplog.text


async def test_a_stream_gives_signs_of_life(tmp_path: Path) -> None:
    async with servers.serving(tmp_path, limits=Limits(heartbeat=1)) as server:
        body = head() + on(1, resuming())
        async with listening(server.port, "stream", body) as stream:
            assert await stream.until("Pong", 0) != []
            assert await stream.until("Pong", 0) == [("Pong", 0)]
        answer = await post(server.port, "poll?wait=3", body)
        assert (0, ("Pong", 0)) in answer.messages


async def test_a_stream_is_complete_some_day(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collab.polling.LIFETIME", 0.3)
    async with listening(server.port, "stream", head(), on(1, opening())) as stream:
        await stream.until("Synced")
        assert await stream.rest() == []
    await until(lambda: not len(server.hub.rooms["d"]))


async def test_a_server_that_stops_tells_everybody_to_move(server: Serving) -> None:
    body = head() + on(1, resuming())
    async with (
        listening(server.port, "stream", body) as stream,
        listening(server.port, "poll", body) as poll,
    ):
        await stream.until("Synced")
        await poll.until("Synced")
        stopping = asyncio.create_task(server.server.shutdown())
        assert await poll.rest() == [(0, ("Reconnect", 10, 10))]
        assert await stream.rest() == [
            (0, ("Reconnect", 0, 10)),
            (0, ("Ended", 1012, b"service restart")),
        ]
        await stopping


@pytest.mark.parametrize("path", ["push", *LISTENING])
async def test_newcomers_are_told_to_come_later(server: Serving, path: str) -> None:
    server.hub.draining = True
    answer = await post(server.port, path, head(), on(1, opening()))
    assert (answer.status, answer.body) == (503, b"try again later\n")
    assert answer.headers["retry-after"] == "5"
