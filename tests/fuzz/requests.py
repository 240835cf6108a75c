"""Target: ``collab.v1`` over HTTP, and requests that are nearly HTTP.

Strangers push, poll and stream beside honest people, on connections of several
requests, in any pieces; some ask for a WebSocket, and some for neither.
"""

from __future__ import annotations

import asyncio
import random
import re
from base64 import b64decode
from typing import NamedTuple

import uvicorn

from collab.gate import Gate
from collab.handshake import Http
from tests.fuzz import Case, Finding
from tests.fuzz.documents import history
from tests.fuzz.grammar import NOT_TEXTS, Grammar, mutate
from tests.fuzz.rooms import NAME, PATIENCE, Hall, Peer, Pipe
from tests.fuzz.speech import Speech
from tests.native import read_data, read_frame
from tests.peers import uint

WAYS = ("push", "push", "push", "poll", "poll", "stream", "events")
ODD_WAYS = (
    "",
    "push/",
    "PUSH",
    "../push",
    "..%2fpush",
    "%70ush",
    "push%00",
    "push%ff",
    "push;a=1",
    "\xe9",
    "x" * 5000,
    "%" * 50,
    "push#a",
)
PATHS = ("/", "/livez", "/readyz", "/api", "/api/sync", "/assets/..%2f..%2fetc", "*")
WAITS = (
    "",
    "0",
    "-1",
    "26",
    "00",
    "1e1",
    "1.5",
    "%C2%B2",
    "%D9%A1",
    "000000001" + "0" * 20,
    "000000025" + "9" * 5000,
    "9" * 5000,
    "1&wait=2",
    "1;2",
    "%zz",
    "+1",
    "1%00",
    "NaN",
)
LENGTHS = ("-1", "+5", "0x10", "1e3", "", "5, 5", "\xb2", "2147483648", "9" * 400)
CHUNKS = (b"ffffffffffffffff", b"7fffffffffffffff", b"-1", b"", b"0x5", b"zz", b"5 5")
TYPES = (
    "text/plain",
    "application/octet-stream; charset=utf-8",
    "APPLICATION/OCTET-STREAM",
    "multipart/form-data; boundary=x",
    ", ".join(["application/octet-stream"] * 9),
    "",
)
LINES = (
    "Expect: 100-continue",
    "Expect: what",
    "Connection: close",
    "Connection: Upgrade\r\nUpgrade: websocket",
    "Connection: Upgrade\r\nUpgrade: h2c",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Content-Encoding: gzip",
    "Authorization: Bearer t",
    "Authorization: Bearer " + "t" * 9000,
    "Authorization: \xff\xfe",
    "Cookie: a=b; =; ;;",
    "Origin: null",
    "Origin: http://evil.example",
    "Origin: http://[::1",
    "Origin: \xff",
    "Access-Control-Request-Method: POST",
    "X-Forwarded-For: 1.2.3.4, \xff, [::1]:x",
    'Forwarded: for="[::1]:99999";proto=https',
    "Accept-Encoding: gzip, br;q=x",
    "Range: bytes=0-99999999999999999999,-1",
    "If-None-Match: \xff",
    "Content-Length: 5",
    "Host: b",
    "Host: \xff",
    "X: " + "y" * 20_000,
    " folded: yes",
    "no colon",
    "Bad Name: x",
    ": empty",
    "X:\x00y",
)
METHODS = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "P")
HOST = "192.0.2.7"
"""From where strangers come."""


class Asking(Speech):
    """Says requests, with a small probability wrongly."""

    def __init__(self, chance: random.Random, wrong: float, document: str) -> None:
        super().__init__(chance, wrong, document)
        self.keys = [chance.randbytes(16), b"k" * 64]

    def head(self) -> bytes:
        """Hello and Identity."""
        chance = self.chance
        key = chance.choice(self.keys)
        if self.breaks():
            key = chance.randbytes(chance.choice((0, 15, 65, 1000)))
        parts = [b"\x00\x00" + self.text("fuzz/1"), b"\x00\x02" + self.data(key)]
        if self.breaks():
            parts = chance.choice((parts[:1], parts[1:], parts[::-1], parts * 2, []))
        return b"".join(parts)

    def opening(self, kind: bytes) -> bytes:
        chance = self.chance
        said = kind + self.text(self.name()) + self.text(chance.choice(("", "t")))
        said += self.data(self.vector())
        said += self.text(chance.choice(("", "", "epoch")) if self.breaks(3) else "")
        said += self.uint(chance.randrange(5))
        if kind == b"\x06":
            known = [self.uint(n) for n in range(chance.randrange(3))]
            said += self.data(self.uint(len(known)) + b"".join(known))
        return said

    def body(self, way: str) -> bytes:
        chance = self.chance
        said = self.head()
        channels = chance.sample(range(1, 9), chance.choice((1, 1, 2, 4)))
        for channel in channels:
            kind = b"\x06" if way != "push" and chance.random() < 0.4 else b"\x00"
            if self.breaks():
                kind = chance.choice((b"\x00", b"\x06", b"\x01"))
            said += self.uint(channel) + self.opening(kind)
        if way == "push" or self.breaks():
            for _ in range(chance.choice((1, 2, 6))):
                if chance.random() < 0.2 or self.breaks():
                    said += self.native_message()
                    continue
                self.sequence += 1
                spelled = (
                    b"\x02" + self.uint(self.sequence) + self.data(self.update()),
                    b"\x03" + self.data(self.states()),
                    b"\x04" + self.text("") + self.data(b"hi"),
                )
                said += self.uint(chance.choice(channels)) + chance.choice(spelled)
        if self.breaks(0.3):
            opens = [uint(n) + self.opening(b"\x00") for n in range(9, 2000)]
            said += b"".join(opens)
        return mutate(chance, said, [self.native()]) if self.breaks(2) else said

    def request(self) -> bytes:
        chance = self.chance
        way = chance.choice(WAYS)
        body = self.body(way)
        path = "/api/sync/" + way
        if self.breaks():
            path = chance.choice((*PATHS, *("/api/sync/" + odd for odd in ODD_WAYS)))
        if way == "poll" and chance.random() < 0.9:
            path += f"?wait={chance.choice(WAITS) if self.breaks(4) else '1'}"
        if self.breaks():
            path += chance.choice(("?token=t", "&token=%ff", "?", "?" + "a=b&" * 3000))
        method = "POST" if not self.breaks() else chance.choice(METHODS)
        version = "1.1" if not self.breaks(0.5) else chance.choice(("1.0", "2.0", "9"))
        kind = TYPES[1] if chance.random() < 0.1 else "application/octet-stream"
        if self.breaks():
            kind = chance.choice(TYPES)
        lines = [f"{method} {path} HTTP/{version}", "Host: x", f"Content-Type: {kind}"]
        chunked = chance.random() < 0.2
        if chunked:
            lines.append("Transfer-Encoding: chunked")
        if not chunked or self.breaks():
            size = str(len(body))
            if self.breaks():
                near = (str(len(body) + 5), str(max(0, len(body) - 3)))
                size = chance.choice((*LENGTHS, *near))
            lines.append(f"Content-Length: {size}")
        while self.breaks(2):
            lines.insert(chance.randint(1, len(lines)), chance.choice(LINES))
        if self.breaks(0.5):
            del lines[chance.randrange(len(lines))]
        spelled = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        if self.breaks():
            spelled = mutate(chance, spelled, list(NOT_TEXTS))
        return spelled + (self.chunks(body) if chunked else body)

    def chunks(self, body: bytes) -> bytes:
        chance = self.chance
        spelled = b""
        while body:
            size = chance.choice((1, 5, 100, len(body)))
            piece, body = body[:size], body[size:]
            length = b"%x" % len(piece)
            if self.breaks(0.5):
                length = chance.choice(CHUNKS)
            if self.breaks(0.5):
                length += chance.choice((b";a=b", b';a="' + b"x" * 9000, b";\x00"))
            spelled += length + b"\r\n" + piece + b"\r\n"
        end = b"0\r\n\r\n"
        if self.breaks():
            trailers = (b"0\r\nX: y\r\n\r\n", b"0\r\n" + b"X: y\r\n" * 9000, b"0", b"")
            end = chance.choice(trailers)
        return spelled + end


def make_requests(chance: random.Random) -> Case:
    """Each stranger is a connection."""
    wrong = chance.choice((0.0, 0.01, 0.03, 0.1))
    gate = Gate()
    asking = Asking(chance, wrong, NAME.decode())
    asking.updates += history(chance, Grammar(chance, gate, min(wrong, 0.03)), gate)
    case: list[tuple[int, bytes]] = []
    for who in range(chance.randint(1, 5)):
        said = b""
        for _ in range(chance.choice((1, 1, 2, 5))):
            said += asking.request()
        if asking.breaks(2):
            said += asking.handshake("/ws", native=True, compressed=False)
            said += asking.frames(asking.native())
        if chance.random() < 0.1:
            said = said[: chance.randrange(len(said) + 1)]
        while said:
            size = chance.choice((7, 300, len(said), len(said), len(said)))
            case.append((who, said[:size]))
            said = said[size:]
    return case


class Line(Pipe):
    """A transport from somewhere."""

    def get_extra_info(self, name: str, default: object = None) -> object:
        return (HOST, 1) if name == "peername" else default


class Answer(NamedTuple):
    """A response, of which the body may be under way."""

    status: int
    head: bytes
    body: bytes


class Caller(Peer):
    """Somebody who sends requests."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config, Line())
        self.http = self.pipe.protocol
        self.waiting = b""
        self.answered = 0

    def say(self, said: bytes) -> None:
        """Let bytes arrive, unless they have to wait."""
        self.waiting += said
        if self.pipe.reading or self.pipe.protocol is not self.http:
            said, self.waiting = self.waiting, b""
            super().say(said)

    @property
    def pending(self) -> bool:
        """Whether a request is here, and its response has not begun."""
        if self.pipe.closed or self.pipe.protocol is not self.http:
            return False
        assert isinstance(self.http, Http)
        cycle = self.http.cycle
        if cycle is None or self.http.pipeline:
            return False  # It waits for the one before, which may be a stream.
        return not (cycle.more_body or cycle.response_started)

    def check(self) -> int:
        """Read all that was answered strictly; return how many said something."""
        written = bytes(self.pipe.written)
        heard = 0
        while written:
            if re.match(rb"HTTP/1\.1 101 ", written):
                self.pipe.written[:] = written
                self.take()
                break
            answer, written = read_answer(written)
            if answer is None:
                break
            check_answer(answer)
            heard += answer.status == 200
        return heard


def read_answer(written: bytes) -> tuple[Answer | None, bytes]:
    """The first response in what was written, and what is behind it."""
    head, found, rest = written.partition(b"\r\n\r\n")
    match = re.match(rb"HTTP/1\.1 (\d{3}) [ -~]*(\r\n|$)", head)
    if match is None or not found:
        raise Finding(f"no response: {written[:100]!r}")
    status = int(match[1])
    lines = head.lower().split(b"\r\n")[1:]
    if not all(re.match(rb"[!-9;-~]+: ?[ -~\x80-\xff]*$", line) for line in lines):
        raise Finding(f"no headers: {head!r}")
    if status < 200 or status in (204, 304) or rest.startswith(b"HTTP/1.1 "):
        return Answer(status, head, b""), rest  # So is it with HEAD.
    fields = dict(line.split(b": ", 1) for line in lines if b": " in line)
    if fields.get(b"transfer-encoding") == b"chunked":
        body = b""
        while match := re.match(rb"([0-9a-f]+)\r\n", rest):
            size, at = int(match[1], 16), match.end()
            if len(rest) < at + size + 2:
                raise Finding("a chunk that is cut")
            body += rest[at : at + size]
            rest = rest[at + size + 2 :]
            if not size:
                return Answer(status, head, body), rest
        return Answer(status, head, body), b""
    size = int(fields.get(b"content-length", b"0"))
    if rest and len(rest) < size:
        raise Finding("a body that is cut")
    return Answer(status, head, rest[:size]), rest[size:]


def check_answer(answer: Answer) -> None:
    """What is answered blames nobody but who asked, and can be read."""
    status, head, body = answer
    if status >= 500 or status == 102:
        raise Finding(f"answered with {status}: {body[:100]!r}")
    lowered = head.lower()
    if status >= 200 and b"x-content-type-options: nosniff" not in lowered:
        raise Finding(f"a response without safe headers: {head!r}")
    if status != 200 or not body:
        return
    if b"content-type: text/event-stream" in lowered:
        for event in body.split(b"\n\n")[:-1]:
            read_frame(b64decode(event.removeprefix(b"data: "), validate=True))
    elif b"content-type: application/octet-stream" in lowered:
        at = 0
        while at < len(body):
            said, at = read_data(body, at)
            read_frame(said)
        if at != len(body):
            raise Finding("a frame that is cut")


class Requests(Hall):
    """Requests that are nearly right, and streams that nobody waits for."""

    def make(self, chance: random.Random) -> Case:
        return make_requests(chance)

    async def _speak(self, case: Case, name: str, peers: dict[int, Peer]) -> int:
        callers: dict[int, Caller] = {}
        for number, (who, said) in enumerate(case):
            if who not in callers:
                peers[who] = callers[who] = Caller(self.config)
            callers[who].say(said.replace(NAME, name.encode()))
            if number % 2:
                await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE
        for caller in callers.values():
            while caller.pending or (caller.waiting and caller.pipe.reading):
                if loop.time() > until:
                    raise Finding("a request is not answered")
                caller.say(b"")
                await asyncio.sleep(0.001)
        heard = sum(caller.check() for caller in callers.values())
        for caller in callers.values():
            if not caller.pipe.closed and caller.pipe.protocol is caller.http:
                caller.http.eof_received()
        return heard

    def _present(self, name: str) -> bool:
        return super()._present(name) or HOST in self.hub.reception.quotas.addresses
