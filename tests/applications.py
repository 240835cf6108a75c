"""Applications that embed Collab, under uvicorn as it comes, in a process each.

::

    with applications.running("main:app", EXAMPLE, tmp_path, "/collab") as server:
        connect(f"{server.ws_url}/my-document")
        server.end(signal.SIGKILL)
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

EXAMPLE = Path(__file__).parents[1] / "examples" / "fastapi"
"""The folder of an application, ``main:app``."""


class Uvicorn:
    """``uvicorn APPLICATION`` on a free port."""

    def __init__(self, application: str, folder: Path, prefix: str = "") -> None:
        self.command = [sys.executable, "-m", "uvicorn", application]
        self.folder = folder
        self.prefix = prefix
        self.port = 0
        self.lines: list[str] = []

    def start(self, database: Path) -> None:
        """Start it and wait until it listens; later times on the same port."""
        self.database = database
        self.process = subprocess.Popen(
            [*self.command, "--port", str(self.port)],
            cwd=self.folder,
            env={**os.environ, "DATABASE": f"sqlite:///{database}"},
            stderr=subprocess.PIPE,
            text=True,
        )
        errors = self.process.stderr
        assert errors is not None
        self.listening = threading.Event()
        self.reader = threading.Thread(target=self._read, args=[errors])
        self.reader.start()
        assert self.listening.wait(60)
        assert self.port, self.log

    def _read(self, errors: IO[str]) -> None:
        for line in errors:
            self.lines.append(line)
            address = re.search(r"running on http://127.0.0.1:(\d+)", line)
            if address is not None:
                self.port = int(address[1])
                self.listening.set()
        self.listening.set()
        errors.close()

    @property
    def log(self) -> str:
        """What it wrote to stderr."""
        return "".join(self.lines)

    @property
    def url(self) -> str:
        """Where Collab is, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    @property
    def ws_url(self) -> str:
        """y-websocket's server URL."""
        return f"ws://127.0.0.1:{self.port}{self.prefix}/ws"

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and wait until it is gone."""
        self.process.send_signal(number)
        code = self.process.wait(30)
        self.reader.join()
        return code

    def restart(self, number: int) -> None:
        """End it with a signal, and start it again."""
        self.end(number)
        self.start(self.database)


@contextmanager
def running(
    application: str, folder: Path, data: Path, prefix: str = ""
) -> Iterator[Uvicorn]:
    """Run an application, with its database in ``data``; kill it at the end."""
    server = Uvicorn(application, folder, prefix)
    server.start(data / "collab.db")
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.end(signal.SIGKILL)
