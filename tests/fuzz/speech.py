"""What strangers say: messages of each dialect, frames, handshakes, nearly right.

It does not use the encoders of the server.
"""

from __future__ import annotations

import random

from tests.fuzz.grammar import HUGE, NOT_TEXTS, NUMBERS, mutate
from tests.peers import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    frame,
    insert,
    uint,
)

STATES = (
    b'{"user":{"name":"ann","color":"#ff0000"},"cursor":null}',
    b"{}",
    b"null",
    b'{"a":"\xf0\x9f\x98\x80"}',
    b'{"__proto__":{"a":1}}',
    b'{"a":"<img src=x onerror=alert(1)>"}',
    b'{"a":"' + b"x" * 200 + b'"}',
)
NOT_STATES = (
    b"NaN",
    b"[]",
    b"1",
    b'"a"',
    b"{",
    b"",
    b'{"a":NaN}',
    b'{"a":Infinity}',
    b'{"a":"\xff"}',
    b'{"a":' * 2000 + b"1" + b"}" * 2000,
    b"[" * 120 + b"]" * 120,
    b'{"a":' + b"[" * 99 + b"]" * 99 + b"}",
    b'{"a":' + b"[" * 100 + b"]" * 100 + b"}",
    b'{"a":"\\ud800"}',
    b'{"a":1e999}',
    b'{"a":' + b"9" * 5000 + b"}",
    b"{'a':1}",
    b"\xef\xbb\xbf{}",
    b'{"a":"' + b"x" * 17_000 + b'"}',
    b"true",
    b"nul",
    b'{"a":1}{"b":2}',
    b' {"a" : 1 } ',
    b'{"a":"\x00"}',
    b'{"a":-}',
    b'{"a":1,"a":2}',
)
NAMES = ("a", "d", "a/b", "é", "x" * 255)
ODD_NAMES = ("", ".", "..", "a/../b", "x" * 256, "x" * 2000, "a\nb", "\u202e", "a\x00b")


class Speech:
    """Says something, with a small probability wrongly."""

    def __init__(
        self, chance: random.Random, wrong: float, document: str = "d"
    ) -> None:
        self.chance = chance
        self.wrong = wrong
        self.document = document
        self.updates: list[bytes] = [b"\x00\x00", insert(1, "A"), insert(1, "b", 1)]
        """What is sent as an update."""
        self.clocks: dict[int, int] = {}
        self.sequence = 0

    def breaks(self, times: float = 1.0) -> bool:
        """Whether a rule is broken."""
        return self.chance.random() < self.wrong * times

    def number(self) -> int:
        chance = self.chance
        return chance.choice(NUMBERS if chance.random() < 0.7 else HUGE)

    def uint(self, honest: int) -> bytes:
        if self.breaks(0.3):
            return uint(self.number())
        return uint(honest)

    def data(self, content: bytes) -> bytes:
        return self.uint(len(content)) + content

    def text(self, honest: str) -> bytes:
        content = honest.encode()
        if self.breaks(0.5):
            content += self.chance.choice(NOT_TEXTS)
        return self.data(content)

    def name(self) -> str:
        if self.breaks():
            return self.chance.choice((*NAMES, *ODD_NAMES))
        return self.document

    def update(self) -> bytes:
        if self.breaks():
            return self.chance.randbytes(self.chance.randrange(20))
        return self.chance.choice(self.updates)

    def vector(self) -> bytes:
        """A state vector."""
        chance = self.chance
        if chance.random() < 0.3:
            return b"\x00"
        clients = [
            chance.choice((1, 5, chance.randrange(2**32)))
            for _ in range(chance.randrange(4))
        ]
        if not self.breaks():
            clients = list(dict.fromkeys(clients))
        pairs = [
            self.uint(client) + self.uint(chance.randrange(9)) for client in clients
        ]
        tail = b"\x00" if self.breaks(0.3) else b""
        return self.uint(len(clients)) + b"".join(pairs) + tail

    def states(self) -> bytes:
        """An awareness update."""
        chance = self.chance
        count = chance.choice((1, 1, 1, 1, 2, 5, 0))
        if self.breaks(0.2):
            count = chance.choice((20, 300))
        entries = []
        for _ in range(count):
            client = chance.choice((1, 5, 7, chance.randrange(2**32)))
            clock = self.clocks.get(client, 0) + chance.choice((1, 1, 1, 0, 2))
            if chance.random() < 0.9:
                self.clocks[client] = clock
            if self.breaks():
                client, clock = chance.choice(
                    ((client, self.number()), (self.number(), clock))
                )
            state = chance.choice(STATES)
            if self.breaks(2):
                state = chance.choice(NOT_STATES)
            entries.append(self.uint(client) + self.uint(clock) + self.data(state))
        return self.uint(count) + b"".join(entries)

    # Dialects.

    def yjs(self) -> bytes:
        """A message of y-websocket."""
        chance = self.chance
        kind = chance.choice((0, 0, 2, 2, 2, 2, 1, 1, 3, 4, 5, 6))
        if self.breaks(0.5):
            kind = chance.choice((7, 8, 9, 10))
        match kind:
            case 0:
                return b"\x00\x00" + self.data(self.vector())
            case 1:
                return b"\x01" + self.data(self.states())
            case 2:
                return b"\x00\x02" + self.data(self.update())
            case 3:
                return b"\x00\x01" + self.data(self.update())
            case 4:
                return b"\x03"
            case 5:
                return b"\x66" + self.data(
                    chance.randbytes(chance.choice((1, 2, 9, 17)))
                )
            case 6:
                return b"\x05" + self.text(chance.choice(("", "hello", "{}")))
            case 7:
                return b"\x00" + self.uint(chance.choice((3, 99))) + self.data(b"a")
            case 8:
                return (
                    b"\x02"
                    + chance.choice((b"\x00", b"\x01", b"\x02"))
                    + self.text("x")
                )
            case 9:
                return self.uint(self.number()) + chance.randbytes(chance.randrange(9))
            case _:
                return b"\x03" + self.data(self.states())

    def hocuspocus(self) -> bytes:
        """A message of Hocuspocus."""
        chance = self.chance
        if chance.random() < 0.03:
            return chance.choice((b"\x0a", b"\x09", b""))
        address = self.name()
        if chance.random() < 0.2:
            address += "\x00" + chance.choice(("s1", "s2"))
        if self.breaks():
            address += chance.choice(("\x00", "\x00" * 2, "\x00" + "s" * 65))
        kind = chance.random()
        if kind < 0.12:
            message = b"\x02\x00" + self.text(chance.choice(("", "write", "t" * 100)))
            message += self.text("4.8.0") if chance.random() < 0.7 else b""
        elif kind < 0.16:
            message = b"\x07" + (self.text("bye") if chance.random() < 0.5 else b"")
        elif kind < 0.2:
            message = self.uint(chance.choice((4, 6, 8, 42))) + chance.randbytes(3)
        else:
            message = self.yjs()
        return self.text(address) + message

    def native(self) -> bytes:
        """A frame of ``collab.v1``: several messages, of many channels."""
        count = self.chance.choice((1, 1, 2, 5))
        if self.breaks(0.2):
            count = 90
        return b"".join(self.native_message() for _ in range(count))

    def native_message(self) -> bytes:
        chance = self.chance
        kind = chance.random()
        if kind < 0.05:
            return b"\x00" + chance.choice(
                (b"\x00" + self.text("fuzz/1"), b"\x01" + self.uint(7))
            )
        channel = self.uint(chance.choice((1, 1, 1, 2, 3, 2**31)))
        if kind < 0.25:
            opening = b"\x00" + self.text(self.name()) + self.text("")
            opening += self.data(self.vector()) + self.text(
                chance.choice(("", "epoch"))
            )
            return channel + opening + self.uint(chance.randrange(5))
        if kind < 0.3:
            return channel + b"\x01"
        if kind < 0.65:
            self.sequence += 1
            return (
                channel + b"\x02" + self.uint(self.sequence) + self.data(self.update())
            )
        if kind < 0.85:
            return channel + b"\x03" + self.data(self.states())
        if kind < 0.95:
            return (
                channel
                + b"\x04"
                + self.text(chance.choice(("", "ann")))
                + self.data(b"hi")
            )
        if kind < 0.98:
            return channel + b"\x05" + self.text("token")
        return (
            channel
            + self.uint(chance.choice((6, 7, 8, 9, 10, 11, 99)))
            + self.data(b"x")
        )

    def told(self) -> bytes:
        """What a server of ``collab.v1`` says."""
        chance = self.chance
        channel = self.uint(chance.choice((0, 1, 2)))
        kind = chance.randrange(13)
        fields = {
            0: (b"\x01", self.text("e"), uint(3), uint(4), self.data(self.vector())),
            1: (uint(4403), self.text("no")),
            2: (uint(1), self.data(self.update())),
            3: (self.data(self.states()),),
            4: (self.text("ann"), self.data(b"hi")),
            8: (uint(1), uint(2)),
            9: (uint(1), self.text("read-only")),
        }.get(kind, (self.data(self.vector()),))
        return channel + self.uint(kind) + b"".join(fields)

    def anything(self) -> tuple[int, bytes]:
        """Any message or part of one, perhaps damaged, and who says it."""
        chance = self.chance
        said = chance.choice(
            (
                self.yjs,
                self.hocuspocus,
                self.native,
                self.told,
                self.states,
                self.vector,
                self.update,
                lambda: b"".join(self.yjs() for _ in range(3)),
                lambda: chance.choice(ODD_NAMES).encode(),
            )
        )()
        if self.breaks(3):
            said = mutate(chance, said, [self.yjs(), self.native()])
        return chance.randrange(3), said

    # WebSockets.

    def frames(self, payload: bytes) -> bytes:
        """A message as frames: one, or several with pings between them."""
        chance = self.chance
        opcode = BINARY if not self.breaks() else chance.choice((TEXT, CONTINUATION, 3))
        if chance.random() < 0.9:
            return self.frame(opcode, payload)
        pieces = []
        at = 0
        for _ in range(chance.randint(1, 4)):
            end = chance.randint(at, len(payload))
            pieces.append(self.frame(opcode, payload[at:end], fin=False))
            if chance.random() < 0.2:
                pieces.append(self.control())
            opcode, at = CONTINUATION, end
        pieces.append(self.frame(opcode, payload[at:]))
        if self.breaks():
            chance.shuffle(pieces)
        return b"".join(pieces)

    def frame(self, opcode: int, payload: bytes, fin: bool = True) -> bytes:
        chance = self.chance
        rsv = chance.randint(1, 7) if self.breaks(0.3) else 0
        mask = None if self.breaks(0.3) else chance.randbytes(4)
        if self.breaks(0.3):
            fin = not fin
        content = frame(opcode, payload, fin=fin, rsv=rsv, mask=mask)
        if self.breaks(0.3):
            width = chance.choice((2, 8)) if len(payload) < 65536 else 8
            content = frame(opcode, payload, fin=fin, rsv=rsv, mask=mask, width=width)
        if self.breaks(0.3):
            content = content[:2] + self.number().to_bytes(16)[-8:] + content[2:]
        return content

    def control(self) -> bytes:
        """A ping, a pong, or now and then a goodbye."""
        chance = self.chance
        if self.breaks():
            code = chance.choice((1000, 1001, 999, 1005, 3000, 4400, 65535))
            reason = chance.choice((b"", b"bye", b"\xff", b"x" * 124))
            return self.frame(CLOSE, code.to_bytes(2, "big") + reason)
        return self.frame(
            chance.choice((PING, PONG)), b"x" * chance.choice((0, 1, 125))
        )

    def handshake(self, path: str, *, native: bool, compressed: bool) -> bytes:
        """The request for a WebSocket."""
        chance = self.chance
        lines = [
            f"GET {path} HTTP/1.1",
            "Host: 127.0.0.1",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
        ]
        if native:
            lines.append("Sec-WebSocket-Protocol: collab.v1")
        if compressed:
            offer = chance.choice(
                (
                    "permessage-deflate",
                    "permessage-deflate; client_max_window_bits",
                    "permessage-deflate; server_max_window_bits=9",
                    "__proto__",
                    "permessage-deflate; client_max_window_bits=99",
                )
            )
            lines.append(f"Sec-WebSocket-Extensions: {offer}")
        if self.breaks(2):
            at = chance.randrange(len(lines))
            odd = chance.choice(
                (
                    "",
                    lines[at] * 2,
                    lines[at].replace(" ", ""),
                    "X: " + "y" * 9000,
                    "Cookie: \xff\xfe",
                    "Content-Length: 5",
                    "Transfer-Encoding: chunked",
                    " folded: yes",
                    "Sec-WebSocket-Protocol: a b, c,,",
                    "Sec-WebSocket-Key: short",
                    "Sec-WebSocket-Version: 8",
                    "Authorization: Bearer " + "t" * 9000,
                )
            )
            if chance.random() < 0.5:
                lines[at] = odd
            else:
                lines.insert(at + 1, odd)
        request = "\r\n".join([*lines, "", ""]).encode(errors="replace")
        return mutate(chance, request, []) if self.breaks() else request
