"""Clients to test with: one made of bytes, that may misbehave, and an honest one.

What they say is spelled here, from y-protocols' PROTOCOL.md and RFC 6455, and not with
the encoders of the server.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from time import monotonic
from types import TracebackType
from typing import Any, NamedTuple, Self

from pycrdt import Doc, Text
from websockets.sync.client import connect

PATIENCE = 20.0
"""Seconds to wait for an answer: a busy machine is slow, not wrong."""

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

KEEPALIVE = b"\x01\x01\x00"


# y-protocols and updates of Yjs, version 1.


def uint(number: int) -> bytes:
    """lib0's unsigned integer, of any size."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def data(content: bytes) -> bytes:
    """lib0's byte array."""
    return uint(len(content)) + content


def read_data(buffer: bytes, at: int) -> bytes:
    """Read lib0's byte array at an offset, up to the end of the buffer."""
    length = shift = 0
    while True:
        byte = buffer[at]
        at += 1
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    assert at + length == len(buffer)
    return buffer[at:]


def step1(state_vector: bytes = b"\x00") -> bytes:
    """The message that asks for what one lacks."""
    return b"\x00\x00" + data(state_vector)


def step2(update: bytes) -> bytes:
    """The message that answers it."""
    return b"\x00\x01" + data(update)


def edit(update: bytes) -> bytes:
    """The message of an update; back at its author it says that it is saved."""
    return b"\x00\x02" + data(update)


def presence(*entries: tuple[int, int, bytes]) -> bytes:
    """The message of clients, their clocks, and their states in JSON."""
    spelled = [
        uint(client) + uint(clock) + data(state) for client, clock, state in entries
    ]
    return b"\x01" + data(uint(len(spelled)) + b"".join(spelled))


def insert(client: int, text: str, clock: int = 0, root: str = "text") -> bytes:
    """The update of a client that types at the start, or behind its last letter."""
    start = uint(1) + uint(1) + uint(client) + uint(clock)
    if clock:
        place = b"\x84" + uint(client) + uint(clock - 1)
    else:
        place = b"\x04\x01" + data(root.encode())
    return start + place + data(text.encode()) + b"\x00"


# RFC 6455.


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"\x37\xfa\x21\x3d",
    width: int | None = None,
) -> bytes:
    """A frame as a client sends it. ``width`` is the bytes of its length field."""
    size = len(payload)
    if width is None:
        width = 0 if size < 126 else 2 if size < 65536 else 8
    short = size if width == 0 else 126 if width == 2 else 127
    head = bytes((fin << 7 | rsv << 4 | opcode, (mask is not None) << 7 | short))
    head += size.to_bytes(width, "big") if width else b""
    if mask is None:
        return head + payload
    stream = (mask * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")
    return head + mask + masked.to_bytes(size, "big")


class Response(NamedTuple):
    """The head of an HTTP response, names in lower case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def get(self, name: str) -> str | None:
        """The value of a header; of the first, if it is repeated."""
        return next((value for key, value in self.headers if key == name), None)


class Received(NamedTuple):
    """A frame as the server sent it."""

    fin: bool
    rsv: int
    opcode: int
    masked: bool
    payload: bytes


class Raw:
    """A TCP connection that knows just enough of HTTP and WebSockets to break them."""

    def __init__(
        self, port: int, tls: ssl.SSLContext | None = None, small: bool = False
    ) -> None:
        """Connect. ``small`` is a connection that holds little that is not read."""
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE)
        if small:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(("127.0.0.1", port))
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket)
        self.buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    @property
    def address(self) -> str:
        """How the server's log names it."""
        host, port = self.socket.getsockname()[:2]
        return f"{host}:{port}"

    def send(self, content: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(content)

    def _more(self) -> bool:
        try:
            received = self.socket.recv(65536)
        except ConnectionResetError:
            received = b""
        self.buffer += received
        return bool(received)

    def read(self, count: int) -> bytes:
        """Read so many bytes.

        Raises:
            EOFError: If the server closed the connection before.
        """
        while len(self.buffer) < count:
            if not self._more():
                raise EOFError(f"{len(self.buffer)} of {count} bytes")
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def read_all(self) -> bytes:
        """Read until the server closes the connection."""
        while self._more():
            pass
        taken, self.buffer = self.buffer, b""
        return taken

    # HTTP.

    def request(
        self,
        path: str,
        *headers: tuple[str, str],
        method: str = "GET",
        version: str = "HTTP/1.1",
        without: Sequence[str] = (),
    ) -> bytes:
        """The request of RFC 6455, section 1.2, with some headers and without some."""
        usual = [
            ("Host", "127.0.0.1"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Version", "13"),
        ]
        lines = [f"{method} {path} {version}"]
        lines += [f"{key}: {value}" for key, value in usual if key not in without]
        lines += [f"{key}: {value}" for key, value in headers]
        return "\r\n".join([*lines, "", ""]).encode()

    def read_response(self) -> Response:
        """Read an HTTP response; its body too, unless it is an upgrade."""
        while b"\r\n\r\n" not in self.buffer:
            if not self._more():
                raise EOFError(f"no response: {self.buffer!r}")
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        status = int(first.split()[1])
        pairs = [line.split(": ", 1) for line in lines]
        headers = [(key.lower(), value) for key, value in pairs]
        length = dict(headers).get("content-length", "0")
        body = b"" if status == 101 else self.read(int(length))
        return Response(status, headers, body)

    def ask(self, path: str, *headers: tuple[str, str], **how: Any) -> Response:
        """Send the request and read the response."""
        self.send(self.request(path, *headers, **how))
        return self.read_response()

    def open(self, path: str, *headers: tuple[str, str], **how: Any) -> Response:
        """Become a WebSocket."""
        response = self.ask(path, *headers, **how)
        assert response.status == 101, response
        return response

    # WebSocket.

    def send_frame(self, opcode: int, payload: bytes = b"", **how: Any) -> None:
        """Send a frame; ``how`` is what :func:`frame` takes."""
        self.send(frame(opcode, payload, **how))

    def say(self, *messages: bytes) -> None:
        """Send binary messages."""
        self.send(b"".join(frame(BINARY, message) for message in messages))

    def read_frame(self) -> Received:
        """Read a frame."""
        first, second = self.read(2)
        size = second & 127
        if size == 126:
            (size,) = struct.unpack(">H", self.read(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self.read(8))
        masked = bool(second & 128)
        return Received(
            bool(first & 128), first >> 4 & 7, first & 15, masked, self.read(size)
        )

    def hear(self, opcode: int = BINARY) -> bytes:
        """Read the next message that is no sign of life, or frame of another kind."""
        while True:
            received = self.read_frame()
            if received.opcode == CLOSE != opcode:
                raise EOFError(f"closed: {received.payload!r}")
            if received.opcode == opcode and received.payload != KEEPALIVE:
                return received.payload

    def hear_until(self, *messages: bytes) -> list[bytes]:
        """Read messages until all of these have come; return those that came."""
        heard: list[bytes] = []
        left = list(messages)
        while left:
            heard.append(self.hear())
            if heard[-1] in left:
                left.remove(heard[-1])
        return heard

    def read_close(self) -> tuple[int, str]:
        """Read until the server closes; return its code and reason, 1006 without."""
        try:
            payload = self.hear(CLOSE)
        except EOFError:
            return 1006, ""
        if not payload:
            return 1005, ""
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()


def enter(port: int, path: str, *headers: tuple[str, str], small: bool = False) -> Raw:
    """A raw client that has entered a room, and was greeted."""
    raw = Raw(port, small=small)
    raw.open(path, *headers)
    greeting = raw.hear()
    assert greeting[:2] == b"\x00\x00", greeting
    return raw


# An honest client.


class Editor:
    """A client with a document of pycrdt. It speaks only when it is spoken to."""

    def __init__(
        self,
        url: str,
        *,
        doc: Doc[Any] | None = None,
        compression: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.url = url
        self.doc: Doc[Any] = Doc() if doc is None else doc
        self.text = self.doc.get("text", type=Text)
        self.unsaved: list[bytes] = []
        self.saved: list[bytes] = []
        self.synced = False
        self.states: list[bytes] = []
        """The presence that it was sent."""
        self._made: list[bytes] = []
        self._watch = self.doc.observe(lambda event: self._made.append(event.update))
        self._exit = ExitStack()
        opening = connect(
            url,
            compression=compression,
            max_size=None,
            ssl=tls,
            proxy=None,
            open_timeout=PATIENCE,
        )
        self.socket = self._exit.enter_context(opening)
        self.socket.send(step1(self.doc.get_state()))

    def __enter__(self) -> Self:
        self.listen(lambda: self.synced)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye."""
        self._exit.close()

    def listen(self, until: Callable[[], bool]) -> None:
        """Take what comes until something is so.

        Raises:
            TimeoutError: If that takes too long.
            ConnectionClosed: If the server closed the connection.
        """
        deadline = monotonic() + PATIENCE
        while not until():
            message = self.socket.recv(deadline - monotonic())
            assert isinstance(message, bytes)
            self.take(message)

    def take(self, message: bytes) -> None:
        """Take a message of the server."""
        if message[:2] == b"\x00\x00":
            diff = self.doc.get_update(read_data(message, 2))
            if diff != b"\x00\x00":
                self.unsaved.append(diff)
                self.socket.send(step2(diff))
        elif message[:2] in (b"\x00\x01", b"\x00\x02"):
            self.synced = self.synced or message[1] == 1
            update = read_data(message, 2)
            if update in self.unsaved:
                self.unsaved.remove(update)
                self.saved.append(update)
            else:
                self.doc.apply_update(update)
                self._made.clear()
        elif message != KEEPALIVE:
            self.states.append(message)

    def type(self, text: str) -> None:
        """Write at the end, and send it."""
        self._made.clear()
        self.text += text
        self.publish(self._made)
        self._made.clear()

    def publish(self, updates: Iterable[bytes]) -> None:
        """Send updates."""
        for update in updates:
            self.unsaved.append(update)
            self.socket.send(edit(update))

    def save(self) -> None:
        """Wait until all that it sent is saved."""
        self.listen(lambda: not self.unsaved)

    def see(self, text: str) -> None:
        """Wait until the document reads so, or holds so."""
        self.listen(lambda: text in str(self.text))
