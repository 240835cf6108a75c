"""Real editing histories through real connections, a crash, and a real y-websocket.

Each person of a history has a connection and sends without waiting; at the end all is
acknowledged, the server is killed, and who opens the document then has exactly the
text that the history ends in. Where the histories are not at hand, made-up ones stand
in for them, and the output says so (``pytest -rP`` shows it).
"""

from __future__ import annotations

import threading
from collections import deque
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from pycrdt import Doc, Text

from tests import servers, traces
from tests.interop import Clients, until
from tests.peers import BINARY, Raw, edit, enter, frame

SEED = 20_261
"""Of the histories that stand in."""

AHEAD = 2_000
"""Edits that a person sends ahead of their acknowledgements."""

SEGMENT = 100
"""Frames in a write."""


def history(name: str, edits: int, writers: int) -> tuple[list[traces.Edit], str]:
    """A real history and its text, or one that stands in for it."""
    real, final = traces.read_log(name), traces.read_final(name)
    if real is None or final is None:
        print(f"{name}: made up, {edits} edits with seed {SEED}")
        return traces.generate(SEED, edits, writers)
    log = list(real)
    print(f"{name}: real, {len(log)} edits")
    doc: Doc[Any] = Doc()
    doc.apply_update(final)
    return log, str(doc.get("text", type=Text))


class Person:
    """Somebody who sends edits, and notes which came back."""

    def __init__(self, raw: Raw, updates: list[bytes]) -> None:
        self.raw = raw
        self.messages = deque(map(edit, updates))
        self.unsaved: set[bytes] = set()
        self.failure: BaseException | None = None
        self.asked = 0
        """How often the server asked for what comes before."""
        self.room = threading.Condition()
        self.threads = [
            threading.Thread(target=self._try, args=[work], daemon=True)
            for work in (self._send, self._listen)
        ]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def finish(self) -> None:
        for thread in self.threads:
            thread.join()
        if self.failure is not None:
            raise self.failure

    def _try(self, work: Any) -> None:
        try:
            work()
        except BaseException as exc:
            self.failure = exc
            with self.room:
                self.messages.clear()
                self.unsaved.clear()
                self.room.notify_all()

    def _send(self) -> None:
        while self.messages:
            batch = list(islice(self.messages, SEGMENT))
            with self.room:
                self.room.wait_for(lambda: len(self.unsaved) < AHEAD)
                self.unsaved.update(batch)
            self.raw.send(b"".join(frame(BINARY, message) for message in batch))
            for _ in batch:
                if self.messages:
                    self.messages.popleft()

    def _listen(self) -> None:
        while self.messages or self.unsaved:
            message = self.raw.hear()
            self.asked += message[:2] == b"\x00\x00"
            if message in self.unsaved:
                with self.room:
                    self.unsaved.discard(message)
                    self.room.notify()


def write(server: servers.Server, name: str, log: list[traces.Edit]) -> float:
    """Have each person send what is theirs, all at once; return the seconds it took."""
    agents = sorted({agent for agent, _ in log})
    people = [
        Person(
            enter(server.port, f"/ws/{name}"),
            [update for author, update in log if author == agent],
        )
        for agent in agents
    ]
    started = monotonic()
    for person in people:
        person.start()
    for person in people:
        person.finish()
    seconds = monotonic() - started
    for person in people:
        person.raw.socket.close()
    early = sum(person.asked for person in people)
    print(f"{name}: {early} times something arrived before what it builds upon")
    return seconds


def write_in_order(server: servers.Server, name: str, log: list[traces.Edit]) -> float:
    """Have people send their edits one run after the other, as they came about."""
    names = {agent for agent, _ in log}
    agents = {agent: enter(server.port, f"/ws/{name}") for agent in names}
    started = monotonic()
    at = 0
    while at < len(log):
        author = log[at][0]
        end = at
        while end < len(log) and end < at + AHEAD and log[end][0] == author:
            end += 1
        messages = [edit(update) for _, update in log[at:end]]
        agents[author].say(*messages)
        agents[author].hear_until(*messages)
        at = end
    seconds = monotonic() - started
    for raw in agents.values():
        raw.socket.close()
    return seconds


def check(server: servers.Server, name: str, text: str) -> None:
    """Kill the server, start it again, and open the document as an application does."""
    server.kill()
    server.restart()
    started = monotonic()
    with Clients() as clients:
        client = clients.open(server.ws_url, name)
        until(lambda: client.length >= len(text.encode("utf-16-le")) // 2, 120)
        assert client.text == text
        print(f"{name}: open in y-websocket after {monotonic() - started:.1f} s")
        # It is a document that one can go on with.
        client.append("!")
        until(lambda: client.saved, 60)
        assert client.text == f"{text}!"
    assert "ERROR" not in server.log()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_paper_that_somebody_wrote(tmp_path: Path) -> None:
    log, text = history("automerge-paper", 20_000, 1)
    with servers.running(tmp_path) as server:
        seconds = write(server, "paper", log)
        print(f"paper: {seconds:.1f} s, {len(log) / seconds:.0f} edits/s")
        check(server, "paper", text)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_friends_who_wrote_at_the_same_time(tmp_path: Path) -> None:
    """Their connections race, so some edits arrive before those they build upon."""
    log, text = history("friendsforever", 10_000, 2)
    with servers.running(tmp_path) as server:
        seconds = write(server, "friends", log)
        print(f"friends: {seconds:.1f} s, {len(log) / seconds:.0f} edits/s")
        check(server, "friends", text)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_friends_who_took_turns(tmp_path: Path) -> None:
    log, text = history("friendsforever", 10_000, 2)
    with servers.running(tmp_path) as server:
        seconds = write_in_order(server, "turns", log)
        print(f"turns: {seconds:.1f} s, {len(log) / seconds:.0f} edits/s")
        check(server, "turns", text)
