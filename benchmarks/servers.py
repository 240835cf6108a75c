"""The servers under test: how each is started, and what it costs meanwhile."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
PEERS = HERE / "peers"

SERVER_CORE = 0
LOAD_CORE = 1

START_TIMEOUT = 30.0
"""Seconds that a server may take until it accepts connections."""

STOP_TIMEOUT = 60.0
"""Seconds that a server may take to write everything down and leave."""


UNLIMITED = 10**9
"""A second: a writer of a benchmark is no person, and the peers have no such limit."""


class Trouble(Exception):
    """Raised when a measurement can't be made; the message says why."""


@dataclass(frozen=True)
class Kind:
    """One of the servers that are compared."""

    name: str
    dialect: str
    """What its clients speak: ``yjs``, ``hocuspocus`` or ``native``."""
    path: str
    """What precedes a document's name in the URL."""
    script: str | None
    """The program of a peer, in ``peers/``. Ours has none."""

    @property
    def ours(self) -> bool:
        """Whether it is this project's server."""
        return self.script is None


COLLAB = Kind("collab", "yjs", "/ws/", None)
COLLAB_HOCUSPOCUS = Kind("collab-hocuspocus", "hocuspocus", "/ws", None)
"""The same server, and Hocuspocus' clients."""
Y_WEBSOCKET = Kind("y-websocket", "yjs", "/", "y-websocket.mjs")
HOCUSPOCUS = Kind("hocuspocus", "hocuspocus", "/", "hocuspocus.mjs")
KINDS = {
    kind.name: kind for kind in (COLLAB, COLLAB_HOCUSPOCUS, Y_WEBSOCKET, HOCUSPOCUS)
}
OURS = [name for name, kind in KINDS.items() if kind.ours]


@dataclass(frozen=True)
class Server:
    """A server that runs and listens on loopback."""

    kind: Kind
    port: int
    pid: int

    def memory(self) -> int:
        """Private bytes of the server and its children, garbage collected first."""
        if not self.kind.ours:
            os.kill(self.pid, signal.SIGUSR2)
            time.sleep(1)
        return sum(private_memory(pid) for pid in family(self.pid))

    def forget_peak(self) -> None:
        """Count the peak of memory from now on."""
        for pid in family(self.pid):
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak(self) -> int:
        """Bytes of RAM that it had at most, and its children."""
        return sum(map(peak_memory, family(self.pid)))

    def settle(self) -> None:
        """Wait until it has done what it had to do and takes almost no CPU."""
        deadline = time.monotonic() + STOP_TIMEOUT
        while time.monotonic() < deadline:
            before = sum(map(cpu_ticks, family(self.pid)))
            time.sleep(2)
            if sum(map(cpu_ticks, family(self.pid))) - before < 10:
                return
        raise Trouble(f"{self.kind.name} was still busy after {STOP_TIMEOUT:g} s")


@contextmanager
def running(
    kind: Kind,
    directory: Path,
    document: Path | None = None,
    database: str | None = None,
    port: int | None = None,
) -> Iterator[Server]:
    """Start a server, alone on its core, and stop it in the end.

    Ours keeps its database in ``directory``, unless ``database`` is the URL of another
    one, and finds there what an earlier run wrote. A peer opens every document with
    the update in ``document``.
    """
    port = port or free_port()
    process = subprocess.Popen(
        command(kind, port, directory, database),
        env=os.environ
        | {
            "PORT": str(port),
            "DOCUMENT": str(document or ""),
            "NODE_ENV": "production",
        },
        cwd=HERE.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(directory / f"{kind.name}.log").open("ab"),
    )
    try:
        wait_until_listening(process, port, directory / f"{kind.name}.log")
        yield Server(kind, port, process.pid)
    finally:
        process.send_signal(signal.SIGTERM if kind.ours else signal.SIGKILL)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Trouble(f"{kind.name} did not stop in {STOP_TIMEOUT:g} s") from None


def command(
    kind: Kind, port: int, directory: Path, database: str | None = None
) -> list[str]:
    """What starts a server; the processes stay the ones we know the ids of."""
    if kind.script is not None:
        # Peers collect their garbage before their memory is read.
        return pinned(SERVER_CORE, [node(), "--expose-gc", str(PEERS / kind.script)])
    return pinned(
        SERVER_CORE,
        [
            *(sys.executable, "-m", "collab", "serve"),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--database", database or f"sqlite:///{directory / 'collab.db'}"),
            *("--limit", f"message_rate={UNLIMITED}"),
            *("--limit", f"byte_rate={UNLIMITED}"),
        ],
    )


def pinned(core: int, arguments: Sequence[str]) -> list[str]:
    """Run on one core, where there is more than one."""
    if (os.cpu_count() or 1) < 2:
        return list(arguments)
    return ["taskset", "-c", str(core), *arguments]


@cache
def node() -> str:
    """The real binary: some installations wrap it in a program of their own."""
    found = Path(sys.executable).parent / "node"
    program = str(found) if found.exists() else shutil.which("node")
    if program is None:
        raise Trouble("the peers need Node.js: `make setup` installs it")
    return subprocess.run(
        [program, "-p", "process.execPath"], capture_output=True, text=True, check=True
    ).stdout.strip()


def install_peers() -> None:
    """Install what ``peers/package-lock.json`` says, unless it is there."""
    if (PEERS / "node_modules").exists():
        return
    bin_directory = str(Path(sys.executable).parent)
    subprocess.run(
        ["npm", "ci", "--no-fund", "--no-audit"],
        cwd=PEERS,
        env=os.environ | {"PATH": f"{bin_directory}:{os.environ['PATH']}"},
        stdout=sys.stderr,
        check=True,
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until_listening(
    process: "subprocess.Popen[bytes]", port: int, log: Path
) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Trouble(f"the server left at once:\n{log.read_text()[-2000:]}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
            continue
        time.sleep(0.5)  # let it finish what it does at the start
        return
    raise Trouble(f"no server on port {port} after {START_TIMEOUT:g} s")


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in tasks.read_text().split():
            found += family(int(child))
    return found


def cpu_ticks(pid: int) -> int:
    """What a process has used of the CPU, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def private_memory(pid: int) -> int:
    """Bytes of RAM that only this process has."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * sum(map(int, re.findall(r"Private_\w+: +(\d+) kB", rollup)))


def peak_memory(pid: int) -> int:
    """Bytes of RAM that a process had at most; 0 if it has ended."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0
