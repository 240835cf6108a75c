"""Target: the real program, over sockets, with honest people in another room.

What is watched is what a neighbour would notice: that the process is the same, that its
memory does not grow, that edits elsewhere are saved without a wait, and that the
document can be loaded.
"""

from __future__ import annotations

import random
import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from time import monotonic

from tests import servers
from tests.fuzz import Case, Finding
from tests.fuzz.documents import Judge, load
from tests.fuzz.requests import make_requests
from tests.fuzz.rooms import NAME, NATIVE, REQUEST, make_bytes, make_messages
from tests.peers import BINARY, Editor, Raw, frame, read_data, step1

GROWTH = 256 * 2**20
"""Bytes that the process may have more than after its first cases."""

WAIT = 10.0
"""Seconds that an edit elsewhere may take: a busy machine is slow, not wrong. How long
it took is said at the end."""

WARM = 200
"""Cases after which memory is measured."""


class Neighbour:
    """Somebody who types in another room all the time."""

    def __init__(self, url: str) -> None:
        self.longest = 0.0
        self.waits: list[float] = []
        self.failure: Exception | None = None
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._type, args=(url,))
        self.thread.start()

    def _type(self, url: str) -> None:
        try:
            with Editor(url) as editor:
                while not self.ended.wait(0.02):
                    started = monotonic()
                    editor.type("x")
                    editor.save()
                    self.waits.append(monotonic() - started)
                    self.longest = max(self.longest, self.waits[-1])
        except Exception as exc:
            self.failure = exc

    def close(self) -> None:
        self.ended.set()
        self.thread.join()


class Serving:
    """A server in a process of its own."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.server = servers.Server(Path(self.folder.name))
        self.judge = Judge()
        self.neighbour = Neighbour(f"{self.server.ws_url}/elsewhere")
        self.cases = 0
        self.memory = 0

    def make(self, chance: random.Random) -> Case:
        """Messages of strangers 0 to 2, or raw bytes of others."""
        kind = chance.random()
        if kind < 0.4:
            return make_messages(chance)
        make = make_bytes if kind < 0.7 else make_requests
        return [(who + 3, said) for who, said in make(chance)]

    def run(self, case: Case) -> int:
        self.cases += 1
        name = f"{self.cases:08d}"
        streams: dict[int, bytes] = {}
        for who, said in case:
            if who not in streams:
                streams[who] = b""
                if who < 3:
                    path = (b"/ws/" + name.encode(), b"/ws", b"/ws")[who]
                    streams[who] = REQUEST % (path, NATIVE if who == 2 else b"")
            if who < 3:
                said = frame(BINARY, said.replace(NAME, name.encode()))
            streams[who] += said
        answered = 0
        for stream in streams.values():
            answered += self._send(stream)
        self._check(name)
        return answered

    def _send(self, stream: bytes) -> int:
        """Send it all, read what comes at once, and be gone."""
        with socket.create_connection(("127.0.0.1", self.server.port)) as raw:
            raw.settimeout(0.02)
            with suppress(OSError):
                raw.sendall(stream)
            received = 0
            with suppress(OSError):
                while more := raw.recv(65536):
                    received += len(more)
        return received > 0

    def _check(self, name: str) -> None:
        if not self.server.alive:
            raise Finding(f"the server died: {self.server.log()[-2000:]}")
        if self.neighbour.failure is not None:
            raise Finding(f"the neighbour: {self.neighbour.failure!r}")
        if self.neighbour.longest > WAIT:
            longest, self.neighbour.longest = self.neighbour.longest, 0.0
            raise Finding(f"the neighbour waited for {longest:.1f} s")
        if self.cases == WARM:
            self.memory = self.server.memory()
        if self.memory and self.server.memory() > self.memory + GROWTH:
            raise Finding(f"memory grew from {self.memory} to {self.server.memory()}")
        if self.cases % 10 == 0:
            self._load(name)
            if "Traceback" in self.server.log():
                self.server.log_file.write_text("")
                raise Finding("a traceback in the log")

    def _load(self, name: str) -> None:
        with Raw(self.server.port) as raw:
            raw.open(f"/ws/{name}")
            raw.say(step1())
            while (message := raw.hear())[:2] != b"\x00\x01":
                pass
        state = read_data(message, 2)
        load(state)
        self.judge.ask([state], [], [state])

    def close(self) -> None:
        """End it, and say how it was for others."""
        self.neighbour.close()
        waits = sorted(self.neighbour.waits)
        median, worst = waits[len(waits) // 2], waits[len(waits) * 99 // 100]
        self.said = (
            f"{len(waits)} edits elsewhere: saved in {1000 * median:.0f} ms (median), "
            f"{1000 * worst:.0f} (99 %), {1000 * waits[-1]:.0f} (longest); "
            f"{self.server.memory() >> 20} MiB"
        )
        self.server.stop()
        self.judge.close()
        self.folder.cleanup()
