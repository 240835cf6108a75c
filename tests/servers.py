"""Servers to test against: one in a process of its own, or one on our event loop.

::

    with servers.running(tmp_path, "--log-level", "debug") as server:
        connect(f"{server.ws_url}/my-document")
        server.kill()       # kill -9
        server.restart()    # same port, same database

    async with servers.serving(tmp_path, limits=Limits(slow_time=1.0)) as server:
        connect(f"{server.ws_url}/my-document")
"""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn

from collab.app import Collab
from collab.auth import Authorize
from collab.handshake import http_class
from collab.hub import Hub, OnStateless
from collab.limits import Limits
from collab.origins import Origins
from collab.proxies import Proxies
from collab.websocket import protocol_class

START_TIME = 60.0
"""Seconds that a server has to say its address: a busy machine is slow, not wrong."""

STOP_TIME = 20.0
"""Seconds that a server has to end after SIGTERM; it promises 10."""


class Server:
    """``collab serve`` on a free port, with a database of its own, or that of a URL."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        database: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.database = folder / "collab.db"
        """Its database file, unless it was given a URL."""
        self.database_url = database or f"sqlite:///{self.database}"
        self.log_file = folder / "server.log"
        self.options = options
        self.environment = environment or {}
        self.port = 0
        self.scheme = "http"
        self.start()

    def start(self) -> None:
        """Start it and wait until it listens; later times on the same port.

        Raises:
            RuntimeError: If it ends, or takes too long.
        """
        command = [sys.executable, "-m", "collab", "serve"]
        command += ["--port", str(self.port)]
        command += ["--database", self.database_url, *self.options]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **self.environment},
            )
        watchdog = threading.Timer(START_TIME, self.process.kill)
        watchdog.start()
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        watchdog.cancel()
        # The socket listens before the line is printed: who connects now is served.
        address = re.search(r"(https?)://\S+:(\d+)/", line)
        if address is None:
            self.kill()
            raise RuntimeError(f"the server did not start: {line!r}\n{self.log()}")
        self.scheme = address[1]
        self.port = int(address[2])

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``, without a slash at the end."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        """``ws://127.0.0.1:PORT/ws``: y-websocket's server URL."""
        return f"{self.scheme.replace('http', 'ws')}://127.0.0.1:{self.port}/ws"

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def log(self) -> str:
        """All that it wrote to stderr, since the first start."""
        return self.log_file.read_text()

    def memory(self) -> int:
        """Bytes of its resident memory (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) * 1024

    def computed(self) -> float:
        """Seconds for which it has computed, whatever else the machine does (Linux)."""
        values = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")

    def threads(self) -> int:
        """How many threads it has (Linux)."""
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def files(self) -> int:
        """How many files and sockets it has open (Linux)."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def terminate(self) -> int:
        """SIGTERM; return the exit code.

        Raises:
            subprocess.TimeoutExpired: If it is not gone after a while.
        """
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_TIME)
        finally:
            self._close()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()
        self._close()

    def restart(self) -> None:
        """Kill it unless it is gone, and start it again."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """End it, whatever it takes."""
        try:
            if self.alive:
                self.terminate()
        except subprocess.TimeoutExpired:
            self.kill()
        self._close()

    def _close(self) -> None:
        if self.process.poll() is not None and self.process.stdout is not None:
            self.process.stdout.close()


@contextmanager
def running(
    folder: Path,
    *options: str,
    database: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A server in a process of its own, ended at the end."""
    server = Server(folder, *options, database=database, environment=environment)
    try:
        yield server
    finally:
        server.stop()


class Serving:
    """A server on our event loop."""

    def __init__(self, collab: Collab, server: uvicorn.Server, port: int) -> None:
        self.collab = collab
        self.server = server
        self.port = port

    @property
    def hub(self) -> Hub:
        """Its rooms."""
        return self.collab.hub

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        """``ws://127.0.0.1:PORT/ws``: y-websocket's server URL."""
        return f"ws://127.0.0.1:{self.port}/ws"


@asynccontextmanager
async def serving(
    folder: Path,
    *,
    limits: Limits | None = None,
    fast: bool = True,
    database: str | None = None,
    authorize: Authorize | None = None,
    on_stateless: OnStateless | None = None,
    origins: Origins | None = None,
    proxies: Proxies | None = None,
    presence_user: str = "off",
) -> AsyncIterator[Serving]:
    """A server on our event loop; ``fast=False`` goes through ASGI WebSockets."""
    url = database or f"sqlite:///{folder / 'collab.db'}"
    collab = Collab(
        url,
        limits=limits,
        authorize=authorize,
        on_stateless=on_stateless,
        origins=origins,
        proxies=proxies,
        presence_user=presence_user,
    )
    config = uvicorn.Config(
        collab,
        port=0,
        http=http_class(collab.hub.limits),
        proxy_headers=False,
        ws=protocol_class(collab.hub) if fast else "websockets-sansio",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    config.load()
    async with collab:
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield Serving(collab, server, port)
        finally:
            await server.shutdown()


def trusting() -> ssl.SSLContext:
    """A TLS context for self-made certificates."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
