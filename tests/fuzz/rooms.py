"""Targets: WebSockets of all dialects in rooms of a hub, without a network.

What strangers say arrives as bytes, in any pieces, at the server's own protocol class.
Honest clients are in the same room and in another one: what they are sent is read
strictly, given to Yjs, and their edits must be saved all the while.
"""

from __future__ import annotations

import asyncio
import logging
import random
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from collab.app import Collab
from collab.dialects import yjs
from collab.gate import Gate
from collab.handshake import http_class
from collab.limits import Limits
from collab.messages import Presence, SyncStep2, Update
from collab.websocket import protocol_class
from tests.fuzz import Case, Finding
from tests.fuzz.decoders import Timed
from tests.fuzz.documents import Judge, history, load
from tests.fuzz.grammar import Grammar, mutate
from tests.fuzz.speech import Speech
from tests.peers import BINARY, CLOSE, edit, frame, insert, step1

PATIENCE = 20.0
"""Seconds until an honest edit must be saved: a busy machine is slow, not wrong."""

REQUEST = (
    b"GET %b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n%b\r\n"
)
NAME = b"document"
"""How strangers name the document. Each time it is another one, of as many letters."""

NATIVE = b"Sec-WebSocket-Protocol: collab.v1\r\n"


class Pipe:
    """A transport without a network: what is written stays here."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closed = False
        self.reading = True

    def write(self, content: bytes) -> None:
        self.written += content

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_write_buffer_limits(self, high: int | None = None) -> None:
        """It is never full."""

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.Protocol:
        return self.protocol

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """The other end notices nothing."""


class Peer:
    """A client of a hub, and what it was sent."""

    def __init__(self, config: uvicorn.Config, pipe: Pipe | None = None) -> None:
        self.pipe = pipe or Pipe()
        state = ServerState()
        http = http_class(Limits())(config, state, {})
        self.pipe.set_protocol(http)
        http.connection_made(self.pipe)  # type: ignore[arg-type]
        self.read_up_to = 0
        self.head = b""
        self.messages: list[bytes] = []
        self.closed: int | None = None

    def say(self, said: bytes) -> None:
        """Let bytes arrive."""
        if not self.pipe.closed:
            with Timed(said):
                self.pipe.protocol.data_received(said)

    def leave(self) -> None:
        self.pipe.closed = True
        self.pipe.protocol.connection_lost(None)

    def take(self) -> list[bytes]:
        """Read what was written strictly; return the messages that are new."""
        written = bytes(self.pipe.written)
        self.pipe.written.clear()
        if not self.head:
            head, found, written = written.partition(b"\r\n\r\n")
            if not found:
                self.pipe.written += head
                return []
            self.head = head
            if not head.startswith(b"HTTP/1.1 101"):
                return []
        if not self.head.startswith(b"HTTP/1.1 101"):
            return []
        news = [payload for opcode, payload in read_frames(written) if opcode == BINARY]
        for opcode, payload in read_frames(written):
            if self.closed is not None:
                raise Finding("something is said behind a goodbye")
            if opcode == CLOSE and payload:
                self.closed = int.from_bytes(payload[:2], "big")
                payload[2:].decode()
                if self.closed == 1011:
                    raise Finding(f"closed with 1011 {payload[2:].decode()}")
        self.messages += news
        return news


def read_frames(written: bytes) -> list[tuple[int, bytes]]:
    """The frames of a server.

    Raises:
        Finding: If it is not as RFC 6455 has it.
    """
    frames = []
    at = 0
    while at < len(written):
        first, second = written[at : at + 2]
        size, at = second & 127, at + 2
        if size > 125:
            width = 2 if size == 126 else 8
            size = int.from_bytes(written[at : at + width], "big")
            at += width
        if second & 128 or at + size > len(written):
            raise Finding("a frame that is masked or cut")
        if first not in (0x81, 0x82, 0xC2, 0x88, 0x89, 0x8A):
            raise Finding(f"a frame that begins with {first:02x}")
        if first != 0xC2:
            frames.append((first & 15, written[at : at + size]))
        at += size
    return frames


class Honest(Peer):
    """A client of y-websocket, somewhere."""

    def __init__(self, config: uvicorn.Config, name: str, client: int) -> None:
        super().__init__(config)
        self.say(REQUEST % (b"/ws/" + name.encode(), b""))
        self.client = client
        self.clock = 0
        self.relayed: list[bytes] = []
        self.presence: list[bytes] = []

    def hear(self) -> list[bytes]:
        """Read what was said as a client does: every message must be one."""
        news = self.take()
        for payload in news:
            message, end = yjs.decode(payload)
            if end != len(payload):
                raise Finding("two messages in one")
            if isinstance(message, Update | SyncStep2):
                self.relayed.append(message.update)
            elif isinstance(message, Presence):
                self.presence.append(message.states)
        return news

    async def save(self) -> None:
        """Write a letter, and wait until it is saved."""
        message = edit(insert(self.client, "h", self.clock, root="honest"))
        self.clock += 1
        self.say(frame(BINARY, message))
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE
        while message not in self.hear():
            if self.closed is not None:
                raise Finding(f"an honest client is closed with {self.closed}")
            if loop.time() > until:
                raise Finding("an honest edit is not saved")
            await asyncio.sleep(0.001)


def make_messages(chance: random.Random) -> Case:
    """Strangers 0 to 2 speak as y-websocket, Hocuspocus, and our own clients."""
    wrong = chance.choice((0.0, 0.01, 0.03, 0.1))
    gate = Gate()
    speech = Speech(chance, wrong, NAME.decode())
    updates = history(chance, Grammar(chance, gate, min(wrong, 0.03)), gate)
    case: list[tuple[int, bytes]] = []
    if chance.random() < 0.9:
        opening = b"\x01\x00\x08" + NAME + b"\x00\x01\x00\x00\x00"
        case.append((2, b"\x00\x00\x01a" + opening))
        case.append((1, b"\x08" + NAME + b"\x02\x00\x00"))
        case.append((1, b"\x08" + NAME + b"\x00\x00\x01\x00"))
    for _ in range(chance.choice((5, 15, 40))):
        if updates and chance.random() < 0.5:
            speech.updates = [*speech.updates[-5:], updates.pop(0)]
        who = chance.randrange(3)
        payload = (speech.yjs, speech.hocuspocus, speech.native)[who]()
        if speech.breaks():
            payload = mutate(chance, payload, [speech.yjs()])
        case.append((who, payload))
    return case


def make_bytes(chance: random.Random) -> Case:
    """Each stranger is a connection; a new one has a number of its own."""
    wrong = chance.choice((0.0, 0.02, 0.05, 0.2))
    speech = Speech(chance, wrong, NAME.decode())
    case: list[tuple[int, bytes]] = []
    for who in range(chance.randint(1, 4)):
        kind = chance.randrange(3)
        path = (f"/ws/{speech.name()}", "/ws", "/ws")[kind]
        if speech.breaks():
            path = chance.choice(("/", "/ws/", "/ws/%ff", "/ws/a%00b", "*", "/x?" * 99))
        packed = chance.random() < 0.3
        said = speech.handshake(path, native=kind == 2, compressed=packed)
        speak = (speech.yjs, speech.hocuspocus, speech.native)[kind]
        for _ in range(chance.choice((2, 6, 20))):
            said += speech.frames(speak())
            if chance.random() < 0.1:
                said += speech.control()
        if speech.breaks(2):
            said = mutate(chance, said, [])
        while said:
            size = chance.choice((1, 7, 60, 300, len(said)))
            case.append((who, said[:size]))
            said = said[size:]
    return case


class Log(logging.Handler):
    """What is logged as an error, of ours or of uvicorn."""

    def __init__(self, failures: list[str]) -> None:
        super().__init__(logging.ERROR)
        self.failures = failures
        self.loggers = [logging.getLogger(name) for name in ("collab", "uvicorn")]
        for logger in self.loggers:
            logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Note it."""
        self.failures.append(f"logged: {self.format(record)[-1000:]}")

    def close(self) -> None:
        """Hear no more."""
        for logger in self.loggers:
            logger.removeHandler(self)
        super().close()


class Hall(ABC):
    """A hub and who is honest in it."""

    def __init__(self) -> None:
        self.judge = Judge()
        self.runner = asyncio.Runner()
        self.cases = 0
        self._open()

    def _open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.collab = Collab(f"sqlite:///{Path(self.folder.name) / 'log.db'}")
        self.hub = self.collab.hub
        self.config = uvicorn.Config(
            self.collab,
            http=http_class(self.hub.limits),
            ws=protocol_class(self.hub),
            lifespan="off",
            log_config=None,
            access_log=False,
        )
        self.config.load()
        self.failures: list[str] = []
        self.log = Log(self.failures)
        self.runner.run(self._begin())

    async def _begin(self) -> None:
        asyncio.get_running_loop().set_exception_handler(self._note)
        await self.collab.__aenter__()
        self.elsewhere = Honest(self.config, "elsewhere", 77)

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failures.append(f"{context['message']}: {context.get('exception')!r}")

    def run(self, case: Case) -> int:
        """Run a case in a room of its own."""
        self.cases += 1
        if self.cases % 100 == 0:
            self._close()
            self._open()
        self.failures.clear()
        answered = self.runner.run(self._run(case))
        if self.failures:
            raise Finding(self.failures[0])
        return answered

    async def _run(self, case: Case) -> int:
        name = f"{self.cases:08d}"
        watch = Honest(self.config, name, 98)
        watch.say(frame(BINARY, step1()))
        await watch.save()
        peers: dict[int, Peer] = {}
        try:
            answered = await self._speak(case, name, peers)
        finally:
            for peer in peers.values():
                peer.leave()
        # What they said is taken before they are gone.
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE
        while self._present(name):
            if loop.time() > until:
                raise Finding("a stranger never leaves")
            await asyncio.sleep(0.001)
        await watch.save()
        await self.elsewhere.save()
        newcomer = Honest(self.config, name, 97)
        newcomer.say(frame(BINARY, step1()))
        await newcomer.save()
        watch.hear()
        self._check(watch, newcomer)
        for honest in (watch, newcomer):
            honest.leave()
        return answered

    def _present(self, name: str) -> bool:
        """Whether a stranger is still in the room."""
        return len(self.hub.rooms[name]) > 1

    @abstractmethod
    async def _speak(self, case: Case, name: str, peers: dict[int, Peer]) -> int:
        """Say what the case has to say; return how much of it was answered."""

    def _check(self, watch: Honest, newcomer: Honest) -> None:
        """See that those who were there, and a newcomer, have what can be loaded."""
        load(*newcomer.relayed)
        self.judge.ask(watch.relayed, watch.presence, newcomer.relayed)

    def _close(self) -> None:
        self.log.close()
        self.runner.run(self.collab.__aexit__(None, None, None))
        self.folder.cleanup()

    def close(self) -> None:
        """Save everything and end."""
        self._close()
        self.runner.close()
        self.judge.close()


class Rooms(Hall):
    """Messages that are nearly right, in whole frames: they get far."""

    def make(self, chance: random.Random) -> Case:
        return make_messages(chance)

    async def _speak(self, case: Case, name: str, peers: dict[int, Peer]) -> int:
        answered = 0
        for number, (who, payload) in enumerate(case):
            peer = peers.get(who)
            if peer is None or peer.pipe.closed or peer.closed is not None:
                peer = peers[who] = Peer(self.config)
                path = (b"/ws/" + name.encode(), b"/ws", b"/ws")[who % 3]
                peer.say(REQUEST % (path, NATIVE if who == 2 else b""))
                await asyncio.sleep(0)
                if who == 2 and number:
                    peer.say(frame(BINARY, b"\x00\x00\x01a"))
            peer.say(frame(BINARY, payload.replace(NAME, name.encode())))
            if number % 3 == 2:
                await asyncio.sleep(0)
            answered += len(peer.take())
        return answered


class Sockets(Hall):
    """Bytes that are nearly HTTP and WebSocket frames, in any pieces."""

    def make(self, chance: random.Random) -> Case:
        return make_bytes(chance)

    async def _speak(self, case: Case, name: str, peers: dict[int, Peer]) -> int:
        answered = 0
        for number, (who, said) in enumerate(case):
            peer = peers.get(who)
            if peer is None:
                peer = peers[who] = Peer(self.config)
            peer.say(said)
            if number % 5 == 4:
                await asyncio.sleep(0)
            answered += len(peer.take())
        for peer in peers.values():
            # Whose reading is paused is not told either that there is no more.
            if peer.pipe.reading and not peer.pipe.closed:
                peer.pipe.protocol.eof_received()
        return answered
