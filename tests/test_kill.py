"""``kill -9`` at any moment: what was acknowledged is there afterwards.

The seed of a run is printed when it fails; ``KILL_SEED=...`` repeats its decisions
(though not the machine's), ``KILLS=...`` says how often the server is killed.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator
from http.client import HTTPConnection, HTTPException
from itertools import count
from pathlib import Path
from time import monotonic, sleep

import pytest

from collab import wire
from collab.document import Document
from collab.store import Store
from tests import native, polls, servers
from tests.databases import DatabaseServer
from tests.peers import BINARY, PATIENCE, Editor, Raw, edit, enter, insert

SEED = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(2**32)))
KILLS = int(os.environ.get("KILLS", "50"))
ROOMS = ("one", "two", "three")
WRITERS = 2
"""In each room."""
FRESH = 6
"""Kills after which other documents are written: the larger one is, the more it takes
for another snapshot."""


class Writer:
    """Somebody who types in bursts until the connection is gone."""

    def __init__(self, port: int, room: str, client: int, chance: random.Random):
        self.room = room
        self.client = client
        self.chance = chance
        self.port = port
        self.clock = 0
        self.sent = 0
        self.acknowledged: set[str] = set()
        self.acknowledged_clock = 0
        self._connect()
        self.thread = threading.Thread(target=self._write, daemon=True)
        self.thread.start()

    def _write(self) -> None:
        try:
            while True:
                self._burst(self.chance.choice([1, 1, 2, 10, 100, 300]))
        except (OSError, EOFError, HTTPException):
            self._close()

    def _connect(self) -> None:
        self.raw: Raw = enter(self.port, f"/ws/{self.room}")

    def _close(self) -> None:
        self.raw.socket.close()

    def _burst(self, count: int) -> None:
        unsaved = {
            edit(update): (word, clock) for update, word, clock in self._make(count)
        }
        self.raw.say(*unsaved)
        while unsaved:
            made = unsaved.pop(self.raw.hear(), None)
            if made is not None:
                self._acknowledge(*made)

    def _make(self, count: int) -> Iterator[tuple[bytes, str, int]]:
        """Updates, what they add, and the clocks behind them."""
        for _ in range(count):
            word = f"{self.client}:{self.sent}:{'x' * self.chance.choice([0, 5, 2000])}"
            update = insert(self.client, f"{word};", self.clock)
            self.clock += len(word) + 1
            self.sent += 1
            yield update, word, self.clock

    def _acknowledge(self, word: str, clock: int) -> None:
        self.acknowledged.add(word)
        self.acknowledged_clock = max(self.acknowledged_clock, clock)


class Pusher(Writer):
    """The same over HTTP, in pushes."""

    def _connect(self) -> None:
        self.http = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        self.number = 0

    def _close(self) -> None:
        self.http.close()

    def _burst(self, count: int) -> None:
        unsaved: dict[int, tuple[str, int]] = {}
        said = []
        for update, word, clock in self._make(count):
            self.number += 1
            unsaved[self.number] = word, clock
            said.append(native.edit(self.number, update))
        body = polls.head() + polls.on(1, native.opening(self.room), *said)
        self.http.request("POST", "/api/sync/push", body, dict([polls.TYPE]))
        answer = self.http.getresponse().read()
        for _, (name, *values) in polls.read_frames(answer):
            assert name == "Saved"
            for number in [number for number in unsaved if number <= values[0]]:
                self._acknowledge(*unsaved.pop(number))


def compacting(server: servers.Server) -> bool:
    """Whether a process is there that makes snapshots (Linux)."""
    tasks = Path(f"/proc/{server.pid}/task").glob("*/children")
    return any(task.read_text().strip() for task in tasks)


class Promises:
    """What a server said that it has saved."""

    def __init__(self) -> None:
        self.words: dict[str, set[str]] = {}
        self.clocks: dict[str, dict[int, int]] = {}

    def add(self, writer: Writer) -> None:
        words = self.words.setdefault(writer.room, set())
        clocks = self.clocks.setdefault(writer.room, {})
        words |= writer.acknowledged
        if writer.acknowledged:
            clocks[writer.client] = writer.acknowledged_clock

    @property
    def count(self) -> int:
        """How many edits were acknowledged."""
        return sum(map(len, self.words.values()))

    def check_clocks(self, room: str, clocks: dict[int, int]) -> None:
        for client, clock in self.clocks[room].items():
            assert clocks.get(client, 0) >= clock, f"{room}: {client} lost edits"

    def check_log(self, url: str) -> int:
        """Fold the logs as they are on disk; return how many have snapshots."""
        store = Store(url)
        store.open()
        snapshots = 0
        for room in self.words:
            stored = store.load(room)
            assert not stored.damaged
            document = Document()
            if stored.snapshot is not None:
                snapshots += 1
                snapshot = stored.snapshot
                document = Document.restore(snapshot.state, snapshot.index)
            for row in stored.rows:
                document.apply(row.update)
            assert not document.parked
            self.check_clocks(room, document.gate.clocks)
        store.close()
        return snapshots

    def check_server(self, server: servers.Server, rooms: Iterable[str]) -> None:
        """Open documents as a client does."""
        for room in rooms:
            with Editor(f"{server.ws_url}/{room}") as fresh:
                # It is synced: it has been sent all there is.
                clocks = wire.read_state_vector(fresh.doc.get_state())
                self.check_clocks(room, clocks)
                lost = self.words[room] - set(str(fresh.text).split(";"))
                assert not lost, f"{room}: {len(lost)} words, such as {min(lost)}"


def kill_often(
    server: servers.Server,
    kills: int,
    chance: random.Random,
    kind: type[Writer] = Writer,
) -> int:
    """Kill a server while it is written to; return how often it made snapshots then."""
    promises = Promises()
    interrupted = 0
    clients = count(1)
    for number in range(kills):
        rooms = [f"{room}-{number // FRESH}" for room in ROOMS]
        writers = []
        for room in rooms * WRITERS:
            nature = random.Random(chance.random())
            writers.append(kind(server.port, room, next(clients), nature))
        # The moment is what the test is about: any, and as a snapshot is made.
        if number % 2:
            sleep(chance.choice([0.04, 0.6, 1.5]) * chance.random())
        else:
            patience = monotonic() + 10
            while not compacting(server) and monotonic() < patience:
                sleep(0.01)
            sleep(chance.random() * 0.5)
        interrupted += compacting(server)
        server.kill()
        for writer in writers:
            writer.thread.join()
            promises.add(writer)
        if number % 5 == 4:
            promises.check_log(server.database_url)
        server.start()
        if chance.random() < 0.2:  # And again, as it recovers.
            server.kill()
            server.start()
        promises.check_server(server, rooms)
    promises.check_server(server, promises.words)
    server.kill()
    snapshots = promises.check_log(server.database_url)
    print(f"{kills} kills, {interrupted} with a process that makes snapshots")
    print(f"{promises.count} acknowledged edits; {snapshots} documents have snapshots")
    assert promises.count > kills
    assert snapshots, "no document became long enough for a compaction"
    log = server.log()
    assert "ERROR" not in log, log
    return interrupted


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_acknowledged_edit_is_lost_whenever_the_server_is_killed(
    tmp_path: Path,
) -> None:
    print(f"KILL_SEED={SEED} KILLS={KILLS}")
    with servers.running(tmp_path) as server:
        interrupted = kill_often(server, KILLS, random.Random(SEED))
    assert interrupted >= KILLS // 3


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["postgres", "mariadb"])
def test_nor_is_it_in_another_database(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    print(f"KILL_SEED={SEED} KILLS={KILLS}")
    database: DatabaseServer = request.getfixturevalue(name)
    url = database.create_database()
    with servers.running(tmp_path, database=url) as server:
        kill_often(server, KILLS // 8, random.Random(SEED))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nor_is_it_if_it_was_pushed_over_http(tmp_path: Path) -> None:
    print(f"KILL_SEED={SEED} KILLS={KILLS}")
    with servers.running(tmp_path) as server:
        kill_often(server, KILLS // 4, random.Random(SEED), Pusher)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_an_edit_is_on_disk_before_its_author_is_told(tmp_path: Path) -> None:
    with servers.running(tmp_path) as server:
        raw = enter(server.port, "/ws/a")
        output = tmp_path / "strace"
        calls = (
            "trace=fsync,fdatasync,read,recvfrom,recvmsg,write,sendto,sendmsg,writev"
        )
        tracer = subprocess.Popen(
            f"strace -f -e {calls} -s 256 -o {output} -p {server.pid}".split(),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert tracer.stderr is not None
        words = [f"marked-{n}-edit" for n in range(10)]
        attached = tracer.stderr.readline()
        if "ttach" not in attached or "Operation not permitted" in attached:
            tracer.wait()
            pytest.skip(f"strace may not look: {attached.strip()}")
        clock = 0
        for word in words:
            message = edit(insert(1, word, clock))
            clock += len(word)
            # With a mask of zeros the word can be found in the trace.
            raw.send_frame(BINARY, message, mask=bytes(4))
            raw.hear_until(message)
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
        tracer.stderr.close()
        raw.socket.close()
    lines = output.read_text().splitlines()
    synced = [
        number
        for number, line in enumerate(lines)
        if re.search(r"f(data)?sync.*= 0$", line)
    ]
    for word in words:
        seen = [number for number, line in enumerate(lines) if word in line]
        heard = next(n for n in seen if re.search(r" (read|recv\w+)", lines[n]))
        told = next(n for n in seen if re.search(r" (write\w*|send\w+)\(", lines[n]))
        assert any(heard < number < told for number in synced), word
