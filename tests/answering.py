"""Web servers that ours asks: one that answers as a test says, and keeps what it heard.

::

    with site(lambda request: Reply(200, {"access": "write"})) as application:
        application.url          # http://127.0.0.1:PORT
        application.heard[0].body
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias


@dataclass
class Heard:
    """A request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """What it says."""
        return json.loads(self.body)


@dataclass
class Reply:
    """A response. Before it, one may wait for something; 0 hangs up."""

    status: int = 200
    body: object = b""
    headers: dict[str, str] = field(default_factory=dict)
    after: threading.Event | None = None

    @property
    def content(self) -> bytes:
        """The bytes of it."""
        body = self.body
        return body if isinstance(body, bytes) else json.dumps(body).encode()


Answers: TypeAlias = Callable[[Heard], Reply]


class Site:
    """A web server on a free port."""

    def __init__(self, answer: Answers) -> None:
        self.answer = answer
        self.heard: list[Heard] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.port: int = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=[0.01])

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                size = int(self.headers.get("content-length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                heard = Heard(self.command, self.path, headers, self.rfile.read(size))
                site.heard.append(heard)
                reply = site.answer(heard)
                if reply.after is not None:
                    reply.after.wait(30)
                if not reply.status:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.content)))
                with suppress(ConnectionError):  # It has heard enough.
                    self.end_headers()
                    self.wfile.write(reply.content)

            do_GET = do_POST = _answer

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        return Handler


@contextmanager
def site(answer: Answers) -> Iterator[Site]:
    """A web server that answers like that."""
    one = Site(answer)
    one.thread.start()
    try:
        yield one
    finally:
        one.server.shutdown()
        one.server.server_close()
        one.thread.join()


def fixed(reply: object, status: int = 200) -> Answers:
    """The same answer to everybody."""
    return lambda heard: Reply(status, reply)


class Clock:
    """Seconds as whoever asks counts them."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
