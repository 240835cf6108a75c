"""``python -m benchmarks.large``: do 20 MB documents stall other rooms?

A server, a room in which two people exchange edits all the time, and large documents
that are opened, joined, compacted and written to meanwhile. Of each it prints how late
the server's event loop was at worst, and how long an edit took to the other person in
the small room.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

import uvicorn
from pycrdt import Doc
from websockets.sync.client import ClientConnection, connect

from benchmarks.documents import KINDS, typed
from collab.app import Collab
from collab.cli import STACK, Program
from collab.handshake import http_class
from collab.store import Append, Store
from collab.websocket import protocol_class
from collab.wire import data, read_data, uint

SIZE = 20_000_000
"""Bytes of a document's updates."""

BUDGET = 100
"""Milliseconds that nobody may be kept waiting."""

TICK = 0.005
"""Seconds that the watchman sleeps."""

PATIENCE = 300.0
"""Seconds for anything to happen."""


# The server, in a process of its own: `python -m benchmarks.large --serve DATABASE`.


class Watched(Collab):
    """A server that measures how late its event loop is."""

    worst = 0.0

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.watchman = asyncio.create_task(self.watch())
        return self

    async def watch(self) -> None:
        """Sleep, and see when we wake up."""
        while True:
            before = time.perf_counter()
            await asyncio.sleep(TICK)
            self.worst = max(self.worst, time.perf_counter() - before - TICK)


def serve(database: str) -> None:
    """Serve until standard input ends; each line of it asks for the worst lag."""
    collab = Watched(f"sqlite:///{database}")
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        collab,
        ws=protocol_class(collab.hub),
        http=http_class(collab.hub.limits),
        lifespan="off",
        log_level="warning",
    )
    config.load()
    server = uvicorn.Server(config)
    port = listener.getsockname()[1]
    program = Program(collab, server, listener, f"http://127.0.0.1:{port}/")
    threading.stack_size(STACK)
    thread = threading.Thread(target=program.run)
    thread.start()
    for _ in sys.stdin:
        worst, collab.worst = collab.worst, 0.0
        print(worst, flush=True)
    server.should_exit = True
    thread.join()


class Server:
    """The process of a server."""

    def __init__(self, database: Path) -> None:
        self.process = start("--serve", str(database))
        found = re.search(r"http://127.0.0.1:(\d+)/", self.read())
        assert found is not None
        self.port = int(found[1])

    def read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the server died")
        return line

    def worst(self) -> float:
        """Seconds that its event loop was late at most since the last time."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.read())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        finish(self.process)


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start this module with other arguments."""
    command = [sys.executable, "-m", "benchmarks.large", *arguments]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Let a process end that reads its standard input."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait(60)


# The small room, in another: `python -m benchmarks.large --chat URL`.


def chat(url: str) -> None:
    """Exchange edits until standard input ends; each line asks for their latencies."""
    latencies: list[float] = []
    ending = threading.Event()

    def listen() -> None:
        for _ in sys.stdin:
            taken = latencies.copy()
            latencies.clear()
            print(json.dumps(taken), flush=True)
        ending.set()

    threading.Thread(target=listen, daemon=True).start()
    with connect(url, compression=None) as ann, connect(url, compression=None) as bob:
        client = uint(os.getpid())  # Each run of it is another client.
        for clock in range(1 << 30):
            place = b"\x84" + client + uint(clock - 1) if clock else b"\x04\x01\x04text"
            update = b"\x01\x01" + client + uint(clock) + place + b"\x01x\x00"
            message = b"\x00\x02" + data(update)
            before = time.perf_counter()
            ann.send(message)
            while bob.recv(PATIENCE) != message:
                pass
            latencies.append(time.perf_counter() - before)
            while ann.recv(PATIENCE) != message:  # It is saved.
                pass
            if ending.wait(TICK):
                return


# Clients of large documents.


def enter(url: str, deflate: bool = False) -> ClientConnection:
    """Connect, and wait until the room is open."""
    compression = "deflate" if deflate else None
    client = connect(
        url,
        compression=compression,
        max_size=None,
        open_timeout=PATIENCE,
        ping_interval=None,
        legacy=True,
    )
    while client.recv(PATIENCE)[:2] != b"\x00\x00":
        pass
    return client


def ask(client: ClientConnection, state_vector: bytes = b"\x00") -> list[bytes]:
    """Ask for what is lacking; return the updates of the answer."""
    client.send(b"\x00\x00" + data(state_vector))
    updates = []
    while True:
        message = client.recv(PATIENCE)
        assert isinstance(message, bytes)
        if message[:2] in (b"\x00\x01", b"\x00\x02"):
            updates.append(read_data(message, 2)[0])
            if message[1] == 1:
                return updates


def save(client: ClientConnection, update: bytes) -> None:
    """Send an update, and wait until it is saved."""
    message = b"\x00\x02" + data(update)
    client.send(message)
    while client.recv(PATIENCE) != message:
        pass


def wait_for_snapshot(database: Path, name: str) -> None:
    """Wait until a document has a snapshot."""
    query = (
        "SELECT count(*) FROM snapshots JOIN documents ON id = document_id"
        " WHERE name = ?"
    )
    deadline = time.monotonic() + PATIENCE
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        while not connection.execute(query, (name,)).fetchone()[0]:
            if time.monotonic() > deadline:
                raise SystemExit(f"{name}: no snapshot")
            time.sleep(0.2)


class Watch:
    """Measures phases, and prints a line of the table for each."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.chat = start("--chat", f"ws://127.0.0.1:{server.port}/ws/chat")
        time.sleep(1)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what is done within."""
        self.server.worst()
        self.latencies()
        before = time.perf_counter()
        yield
        seconds = time.perf_counter() - before
        worst = self.server.worst() * 1000
        echoes = sorted(1000 * latency for latency in self.latencies())
        middle = echoes[len(echoes) // 2] if echoes else 0.0
        most = echoes[-1] if echoes else 0.0
        late = "" if worst <= BUDGET else " **"
        print(
            f"| {name} | {seconds:.1f} | {worst:.0f}{late} | {len(echoes)}"
            f" | {middle:.1f} | {most:.0f} |",
            flush=True,
        )

    def latencies(self) -> list[float]:
        """Seconds of each edit in the small room since the last time."""
        assert self.chat.stdin is not None
        assert self.chat.stdout is not None
        self.chat.stdin.write("\n")
        self.chat.stdin.flush()
        return [float(each) for each in json.loads(self.chat.stdout.readline())]

    def close(self) -> None:
        """Let the small room end."""
        finish(self.chat)


def seed(database: Path, logs: dict[str, list[bytes]]) -> None:
    """Write logs into a database."""
    store = Store(f"sqlite:///{database}")
    store.open()
    for name, log in logs.items():
        for at in range(0, len(log), 100):
            updates = [(update, None) for update in log[at : at + 100]]
            store.append([Append(name, updates)])
    store.close()


def measure(folder: Path, kinds: Sequence[str], size: int) -> None:
    """Print the table."""
    database = folder / "collab.db"
    logs = {kind: KINDS[kind](size) for kind in kinds}
    seed(database, {kind.replace(" ", "-"): log for kind, log in logs.items()})
    names = [kind.replace(" ", "-") for kind in kinds]
    print("| what | s | worst lag, ms | edits elsewhere | p50, ms | worst, ms |")
    print("|---|---|---|---|---|---|")

    def session(work: Callable[[str, Watch], None]) -> None:
        with Server(database) as server:
            watch = Watch(server)
            with watch.phase("nothing"):
                time.sleep(1)
            work(f"ws://127.0.0.1:{server.port}/ws", watch)
            watch.close()

    def compact(url: str, watch: Watch) -> None:
        for name in names:
            with watch.phase(f"{name}: open {len(logs[name.replace('-', ' ')])} rows"):
                client = enter(f"{url}/{name}")
            if len(logs[name.replace("-", " ")]) >= 500:
                with watch.phase(f"{name}: compact"):
                    wait_for_snapshot(database, name)
            client.close()

    def use(url: str, watch: Watch) -> None:
        for name in names:
            with watch.phase(f"{name}: open"):
                first = enter(f"{url}/{name}")
            for deflate in (False, True):
                with watch.phase(f"{name}: 5 join{', deflate' if deflate else ''}"):
                    clients = [enter(f"{url}/{name}", deflate) for _ in range(5)]
                    with ThreadPoolExecutor(5) as pool:
                        answers = list(pool.map(ask, clients))
                    for client in clients:
                        client.close()
            doc: Doc[Any] = Doc()
            for update in answers[0]:
                doc.apply_update(update)
            with (
                watch.phase(f"{name}: come back"),
                closing(enter(f"{url}/{name}", True)) as client,
            ):
                ask(client, doc.get_state())
            with watch.phase(f"{name}: type"):
                for clock in range(20):
                    place = b"\x84\x07" + uint(clock - 1)
                    save(
                        first,
                        b"\x01\x01\x07"
                        + uint(clock)
                        + (place if clock else b"\x04\x01\x04text")
                        + b"\x01y\x00",
                    )
            first.close()

    def write(url: str, watch: Watch) -> None:
        doc: Doc[Any] = Doc()
        for update in typed(size * 3 // 4):
            doc.apply_update(update)
        whole = doc.get_update()
        text = Random(1).randbytes(6_000_000).hex().encode()
        paste = b"\x01\x01\x09\x00\x04\x01\x04text" + data(text) + b"\x00"
        for name, update in (("paste", paste), ("offline", whole)):
            with (
                closing(enter(f"{url}/{name}")) as client,
                closing(enter(f"{url}/{name}")) as other,
                watch.phase(f"{name}: {len(update) >> 20} MiB at once"),
            ):
                save(client, update)
                while len(other.recv(PATIENCE)) < len(update):
                    pass

    session(compact)
    session(use)
    session(write)


def main() -> None:
    """Measure, or be one of the processes that are needed for it."""
    parser = argparse.ArgumentParser("python -m benchmarks.large", description=__doc__)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--size", type=int, default=SIZE, help="bytes of updates")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--chat", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    elif options.chat:
        chat(options.chat)
    else:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), options.kinds.split(","), options.size)


if __name__ == "__main__":
    main()
