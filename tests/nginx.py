"""nginx in front of servers on this machine, with the configurations that it may have.

::

    with Nginx(tmp_path, documented(server.port)) as nginx:
        connect(nginx.port)
        nginx.configure(refusing(server.port))  # for new connections; others end
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

from scripts.proxies import NGINX
from tests.databases import ServerMissing, free_port

START_TIME = 30.0
"""Seconds that it has to listen: a busy machine is slow, not wrong."""

GUIDE = Path(__file__).parents[1] / "docs" / "deploy.md"

FRAME = """\
daemon off;
{user}
pid {folder}/pid;
error_log {folder}/error.log;
worker_processes 1;
# Connections of a configuration that was replaced end.
worker_shutdown_timeout 1ms;
events {{ worker_connections 1000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {sites}
}}
"""

SERVER = """\
server {{
    listen 80;
    location / {{
        proxy_pass http://127.0.0.1:{port};
        proxy_set_header Host $http_host;
        {options}
    }}
}}
"""

UPGRADING = """\
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection upgrade;
"""


def documented(*ports: int) -> str:
    """The configuration that we tell people to have."""
    (text,) = re.findall(r"```nginx\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    line = "    server 127.0.0.1:{} max_fails=0;\n"
    servers = "".join(line.format(port) for port in ports)
    text, count = re.subn(f"({line.format('[0-9]+')})+", servers, text)
    assert count == 1
    return text


def encrypted(text: str, certificate: tuple[Path, Path]) -> str:
    """The same with TLS."""
    cert, key = certificate
    ssl = f"listen 80 ssl;\n    ssl_certificate {cert};\n    ssl_certificate_key {key};"
    return text.replace("listen 80;", ssl)


def impatient(port: int, seconds: int) -> str:
    """It cuts a connection when the server says nothing for so long."""
    options = f"{UPGRADING}        proxy_read_timeout {seconds}s;"
    return SERVER.format(port=port, options=options)


def refusing(port: int) -> str:
    """It passes no upgrade on, as nginx does if it isn't told to."""
    return SERVER.format(port=port, options="")


def buffering(port: int) -> str:
    """It passes no upgrade on, and holds responses back, whatever they ask for."""
    options = "proxy_buffering on;\n        proxy_ignore_headers X-Accel-Buffering;"
    return SERVER.format(port=port, options=options)


class Nginx:
    """``nginx`` on a free port.

    Raises:
        ServerMissing: If this machine has none.
        RuntimeError: If it does not start; with its log.
    """

    def __init__(self, folder: Path, sites: str) -> None:
        programs = NGINX.folder()
        if programs is None:
            raise ServerMissing(NGINX.missing())
        self.program = programs / "nginx"
        self.folder = folder / "nginx"
        self.folder.mkdir()
        self.port = free_port()
        self.config = self.folder / "nginx.conf"
        self._write(sites)

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [self.program, "-p", self.folder, "-c", self.config, "-e", "stderr"],
            stdin=subprocess.DEVNULL,
            stderr=(self.folder / "start.log").open("wb"),
        )
        deadline = time.monotonic() + START_TIME
        while self.process.poll() is None and time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return self
            time.sleep(0.02)
        self._end()
        raise RuntimeError(f"nginx did not start:\n{self.log()}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def configure(self, sites: str) -> None:
        """Replace the configuration; connections of the one before are cut."""
        before = self._workers()
        self._write(sites)
        self.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + START_TIME
        while not (now := self._workers()) or now & before:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def log(self) -> str:
        """What it complained of."""
        logs = [self.folder / "start.log", self.folder / "error.log"]
        return "".join(log.read_text() for log in logs if log.exists())

    def _write(self, sites: str) -> None:
        sites = re.sub(r"listen 80\b", f"listen 127.0.0.1:{self.port}", sites)
        user = "user root;" if os.geteuid() == 0 else ""
        self.config.write_text(FRAME.format(folder=self.folder, user=user, sites=sites))

    def _workers(self) -> set[str]:
        pid = self.process.pid
        return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())

    def _end(self) -> None:
        self.process.terminate()
        self.process.wait()


StartNginx: TypeAlias = Callable[[str], Nginx]
"""Starts it with a configuration."""
