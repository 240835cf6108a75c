"""Clients of ``collab.v1`` over HTTP, made of a TCP connection and bytes.

::

    answer = await post(port, "push", head(KEY), on(1, opening(), edit(1, update)))
    async with listening(port, "stream", head(KEY), on(1, opening())) as stream:
        await stream.until("Synced")
"""

from __future__ import annotations

import asyncio
import secrets
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from pycrdt import Doc, Text

from tests.native import HELLO, edit, opening, read_data, read_frame
from tests.peers import PATIENCE, data, uint

KEY = b"0123456789abcdef"
TYPE = ("Content-Type", "application/octet-stream")

Heard = tuple[int, tuple[Any, ...]]


def head(key: bytes = KEY) -> bytes:
    """Hello and Identity."""
    return HELLO + b"\x00\x02" + data(key)


def on(channel: int, *messages: bytes) -> bytes:
    """Messages on a channel."""
    return b"".join(uint(channel) + message for message in messages)


def resuming(
    name: str = "d",
    vector: bytes = b"\x00",
    epoch: bytes = b"",
    position: int = 0,
    known: bytes = b"\x00",
    token: bytes = b"",
) -> bytes:
    """A Resume, without its channel."""
    return b"\x06" + opening(name, vector, epoch, position, token)[1:] + data(known)


def presence(client: int, clock: int, state: bytes = b"{}") -> bytes:
    """A Presence, without its channel."""
    return b"\x03" + data(uint(1) + uint(client) + uint(clock) + data(state))


def read_frames(body: bytes) -> list[Heard]:
    """The messages of a response."""
    messages: list[Heard] = []
    at = 0
    while at < len(body):
        frame, at = read_data(body, at)
        assert at <= len(body)
        messages += read_frame(frame)
    return messages


class Answer(NamedTuple):
    """A whole response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def messages(self) -> list[Heard]:
        """What it says."""
        assert self.status == 200, self.body
        return read_frames(self.body)

    def on(self, channel: int = 1) -> list[tuple[Any, ...]]:
        """What it says on a channel."""
        return [message for number, message in self.messages if number == channel]


class Listening:
    """A response that is under way."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.buffer = b""
        self.size = 0
        """Octets of the body so far."""
        self.waiting: list[Heard] = []

    async def begin(self) -> None:
        """Read up to where the body begins."""
        async with asyncio.timeout(PATIENCE):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        for line in lines[1:-2]:
            name, _, value = line.partition(": ")
            self.headers[name.lower()] = value

    async def more(self) -> bytes:
        """Read more of the body; nothing is its end.

        Raises:
            asyncio.IncompleteReadError, ConnectionError: If it is cut off.
        """
        if self.headers.get("transfer-encoding") != "chunked":
            return await self.reader.readexactly(
                int(self.headers.get("content-length", "0"))
            )
        line = await self.reader.readuntil(b"\r\n")
        content = await self.reader.readexactly(int(line, 16) + 2)
        self.size += len(content) - 2
        return content[:-2]

    async def hear(self) -> Heard | None:
        """The next message, or that there is none."""
        async with asyncio.timeout(PATIENCE):
            while not self.waiting:
                content = await self.more()
                if not content:
                    assert not self.buffer
                    return None
                self.buffer += content
                self._split()
        return self.waiting.pop(0)

    def _split(self) -> None:
        if self.headers["content-type"] == "text/event-stream":
            *events, self.buffer = self.buffer.split(b"\n\n")
            for event in events:
                assert event.startswith(b"data: ")
                self.waiting += read_frame(b64decode(event[6:], validate=True))
            return
        while self.buffer:
            frame, end = read_data(self.buffer, 0)
            if end > len(self.buffer):
                return
            self.waiting += read_frame(frame)
            self.buffer = self.buffer[end:]

    async def until(self, name: str, channel: int = 1) -> list[tuple[Any, ...]]:
        """What it says on a channel, up to a message of a kind."""
        messages = []
        while (heard := await self.hear()) is not None:
            number, message = heard
            if number == channel:
                messages.append(message)
                if message[0] == name:
                    return messages
        raise AssertionError(f"no {name} behind {messages}")

    async def rest(self) -> list[Heard]:
        """All that it says up to its end."""
        messages = []
        while (heard := await self.hear()) is not None:
            messages.append(heard)
        return messages

    def hang_up(self) -> None:
        """Drop the connection."""
        self.writer.transport.abort()


def request(
    path: str,
    size: int | None,
    headers: Sequence[tuple[str, str]] = (TYPE,),
    method: str = "POST",
) -> bytes:
    """The head of a request; without a size its body comes in chunks."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in headers]
    if size is None:
        lines.append("Transfer-Encoding: chunked")
    else:
        lines.append(f"Content-Length: {size}")
    return "\r\n".join([*lines, "\r\n"]).encode()


@asynccontextmanager
async def listening(
    port: int,
    path: str,
    *parts: bytes,
    headers: Sequence[tuple[str, str]] = (TYPE,),
    prefix: str = "",
    method: str = "POST",
    limit: int = 2**16,
) -> AsyncIterator[Listening]:
    """Send a request, and hear what is answered."""
    body = b"".join(parts)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
    try:
        begin = request(f"{prefix}/api/sync/{path}", len(body), headers, method)
        writer.write(begin + body)
        response = Listening(reader, writer)
        await response.begin()
        yield response
    finally:
        writer.transport.abort()


async def post(port: int, path: str, *parts: bytes, **options: Any) -> Answer:
    """Send a request, and read the whole answer."""
    async with listening(port, path, *parts, **options) as response:
        content = b""
        if response.headers.get("transfer-encoding") == "chunked":
            async with asyncio.timeout(PATIENCE * 2):
                while more := await response.more():
                    content += more
        else:
            async with asyncio.timeout(PATIENCE):
                content = await response.more()
        return Answer(response.status, response.headers, content)


class Person:
    """An honest client, with a document of pycrdt."""

    def __init__(self, ports: Callable[[], int], prefix: str = "") -> None:
        self.ports = ports
        """Which server is asked next."""
        self.prefix = prefix
        self.key = secrets.token_bytes(16)
        self.doc: Doc[Any] = Doc()
        self.text = self.doc.get("text", type=Text)
        self.unsaved: dict[int, bytes] = {}
        self.sequence = 0
        self.epoch = b""
        self.position = 0
        self.opened = False
        self._watch = self.doc.observe(lambda event: self._made(event.update))
        self._applying = False

    def _made(self, update: bytes) -> None:
        if not self._applying:
            self.sequence += 1
            self.unsaved[self.sequence] = update

    def type(self, text: str) -> None:
        """Insert something at the start."""
        self.text.insert(0, text)

    async def push(self) -> None:
        """Push once what isn't saved."""
        said = [edit(number, update) for number, update in self.unsaved.items()]
        body = head(self.key) + on(1, opening(epoch=self.epoch), *said)
        answer = await post(self.ports(), "push", body, prefix=self.prefix)
        for message in answer.on():
            if message[0] == "Question":  # That server doesn't have all yet.
                self._made(self.doc.get_update(message[1]))
                continue
            assert message[0] == "Saved", message
            for number in [n for n in self.unsaved if n <= message[1]]:
                del self.unsaved[number]

    async def listen(self, path: str) -> None:
        """Hear what happens, in one request after the other."""
        while True:
            vector = self.doc.get_state()
            spell = resuming if self.opened else opening
            said = spell("d", vector, self.epoch, self.position)
            body = head(self.key) + on(1, said)
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                async with listening(
                    self.ports(), path, body, prefix=self.prefix
                ) as response:
                    while (heard := await response.hear()) is not None:
                        self._take(*heard)

    def _take(self, channel: int, message: tuple[Any, ...]) -> None:
        match message:
            case "Opened", _, epoch, _, _, _:
                assert self.epoch in (b"", epoch) or not epoch
                self.epoch = epoch
            case ("Piece", update) | ("Update", _, update):
                self._applying = True
                self.doc.apply_update(update)
                self._applying = False
                if message[0] == "Update":
                    self.position = max(self.position, message[1])
            case "Synced", position:
                self.opened = True
                self.position = max(self.position, position)
            case "Presence", _:
                pass
            case _:
                assert channel == 0, message
