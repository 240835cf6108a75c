"""The load generator, ``load.c``: built, run, and checked against the documents."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pycrdt import Doc, Text
from websockets.sync.client import ClientConnection, connect

from benchmarks.servers import HERE, LOAD_CORE, Server, Trouble, pinned

Sample = dict[str, float]
"""What the generator measured, by the names that ``load.c`` gives."""

SOURCE = HERE / "load.c"
BINARY = HERE / "load"


def build() -> None:
    """Compile the generator, if its source is newer."""
    if BINARY.exists() and BINARY.stat().st_mtime > SOURCE.stat().st_mtime:
        return
    compiler = os.environ.get("CC", "cc")
    try:
        subprocess.run([compiler, "-O2", "-o", str(BINARY), str(SOURCE)], check=True)
    except FileNotFoundError:
        raise Trouble(
            f"the load generator needs a C compiler, not {compiler!r}"
        ) from None


class Clients:
    """The generator's clients: still connected after what they measured."""

    def __init__(self, server: Server, process: "subprocess.Popen[str]") -> None:
        self.server = server
        self.process = process

    def result(self) -> Sample:
        """What was measured, once it is."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Trouble(f"the load generator failed against {self.server.kind.name}")
        sample: Sample = json.loads(line)
        if sample["lost"]:
            raise Trouble(f"{self.server.kind.name} closed {sample['lost']:g} sockets")
        return sample

    def go_on(self, server: Server | None = None) -> None:
        """Let those in that are held back; ``server`` took the place of the first."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n" if server is None else f"{server.pid}\n")
        self.process.stdin.flush()


@contextmanager
def driving(server: Server, mode: str, **options: object) -> Iterator[Clients]:
    """Load a server; in the end the clients leave.

    Options are those of ``load.c``, with underscores. Flags are booleans.
    """
    process = subprocess.Popen(
        arguments(server, mode, options),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Clients(server, process)
    finally:
        process.kill()
        process.communicate()


def run(server: Server, mode: str, **options: object) -> Sample:
    """Load a server and return what was measured."""
    with driving(server, mode, **options) as clients:
        return clients.result()


def arguments(server: Server, mode: str, options: dict[str, object]) -> list[str]:
    words = [str(BINARY), mode, "--port", str(server.port), "--pid", str(server.pid)]
    words += ["--dialect", server.kind.dialect, "--path", server.kind.path]
    for name, value in options.items():
        if value is False:
            continue
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words.append(str(value))
    return pinned(LOAD_CORE, words)


PATIENCE = 5.0
"""Seconds that a document may take to arrive."""

# A client of our own reads the documents that the generator wrote.


def text(server: Server, name: str, size: int) -> str:
    """What a client reads who joins now and waits for ``size`` characters.

    It is shorter if there aren't any more after some seconds.
    """
    doc: Doc[Text] = Doc()
    found = doc.get("text", type=Text)
    with open_socket(server, name) as socket:
        prefix = b""
        if server.kind.dialect == "hocuspocus":
            prefix = string(name)
            socket.send(prefix + b"\x02\x00" + string("") + string("4.8.0"))
        socket.send(prefix + b"\x00\x00\x01\x00")
        deadline = time.monotonic() + PATIENCE
        synced = False
        while not synced or len(str(found)) < size:
            try:
                frame = socket.recv(max(0, deadline - time.monotonic()))
            except TimeoutError:
                break
            assert isinstance(frame, bytes)
            message = frame[len(prefix) :]
            if message[:2] in (b"\x00\x01", b"\x00\x02"):
                synced = synced or message[1] == 1
                length, start = uint(message, 2)
                doc.apply_update(message[start : start + length])
    return str(found)


def open_socket(server: Server, name: str) -> ClientConnection:
    document = name if server.kind.dialect == "yjs" else ""
    return connect(
        f"ws://127.0.0.1:{server.port}{server.kind.path}{document}",
        max_size=None,
        compression=None,
        proxy=None,
    )


def string(value: str) -> bytes:
    assert len(value) < 128
    return bytes([len(value)]) + value.encode()


def uint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
