"""Clients, a server and an unkind world, decided by a seed. No sockets, no clock.

The clients speak the bytes of y-protocols with a :class:`~collab.room.Room`, through
our dialect. What is sent waits until the scheduler delivers it, in the order of each
connection but in no order between them. In between, connections break, transports
fill, commits take their time, the server crashes, and the log is compacted.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from pycrdt import Array, Doc, Map, Text

from collab import wire
from collab.dialects import yjs
from collab.document import Document
from collab.errors import DocumentBroken
from collab.gate import Verdict
from collab.messages import (
    Message,
    Presence,
    QueryPresence,
    SyncStep1,
    SyncStep2,
    Update,
)
from collab.room import Room
from collab.session import Session
from collab.updates import parse

WORDS = ("a", "b", "c", "é", "😀", "漢字", "the ", "\n", "x" * 30, "👩\u200d👩\u200d👧")
VALUES = (None, True, 1, -0.5, "é😀", [1, "x"], {"k": [None]})


class Plain:
    """An encoding that leaves a write as the list of its frames."""

    def __init__(self) -> None:
        self.encoded: Counter[str] = Counter()
        self.base = self
        self.shared = True

    def seal(self, state: bytes) -> bytes:
        return state

    def encode(self, message: Message) -> bytes:
        self.encoded[type(message).__name__] += 1
        return yjs.encode(message)

    def encode_state(self, message: Message) -> bytes:
        self.encoded["state"] += 1
        return yjs.encode(message)

    def join(self, encoded: Sequence[bytes]) -> list[bytes]:
        return list(encoded)


def vector(clocks: dict[int, int]) -> bytes:
    """Encode a state vector."""
    return wire.uint(len(clocks)) + b"".join(
        wire.uint(client) + wire.uint(clock) for client, clock in clocks.items()
    )


def content(doc: Doc[Any]) -> tuple[str, object, object]:
    """What a document shows."""
    return (
        str(doc.get("text", type=Text)),
        doc.get("map", type=Map).to_py(),
        doc.get("array", type=Array).to_py(),
    )


class Client:
    """A browser: a document, who it thinks is here, and perhaps a connection."""

    def __init__(self, world: World, client: int) -> None:
        self.world = world
        self.chance = world.chance
        self.id = client
        self.doc: Doc[Any] = Doc(client_id=client)
        self.text = self.doc.get("text", type=Text)
        self.map = self.doc.get("map", type=Map)
        self.array = self.doc.get("array", type=Array)
        self.hearing = False
        self.doc.observe(self._changed)
        self.people: dict[int, tuple[int, object]] = {}
        self.clock = 0
        self.session: Session | None = None
        self.inbox: deque[bytes] = deque()
        self.outbox: deque[bytes] = deque()
        self.full = False
        """Whether its transport is full. Nothing is read from it then."""
        self.owed: Counter[bytes] = Counter()
        """Updates that the room received on this connection and didn't acknowledge."""

    # What the user does.

    def edit(self) -> None:
        chance = self.chance
        kind = chance.random()
        if kind < 0.6:
            text = str(self.text)
            place = chance.randint(0, len(text))
            at = len(text[:place].encode())
            if place < len(text) and chance.random() < 0.4:
                end = min(len(text), place + chance.randint(1, 5))
                del self.text[at : at + len(text[place:end].encode())]
            else:
                self.text.insert(at, chance.choice(WORDS))
        elif kind < 0.8:
            key = chance.choice(("title", "count", "é"))
            if key in self.map and chance.random() < 0.3:
                del self.map[key]
            else:
                self.map[key] = chance.choice(VALUES)
        elif len(self.array) and chance.random() < 0.4:
            del self.array[chance.randrange(len(self.array))]
        else:
            at = chance.randint(0, len(self.array))
            self.array.insert(at, chance.choice(VALUES))

    def _changed(self, event: Any) -> None:
        if not self.hearing and self.session is not None:
            self._send(Update(event.update))

    def hear(self, update: bytes) -> None:
        self.hearing = True
        self.doc.apply_update(update)
        self.hearing = False

    def move(self) -> None:
        """Put the cursor somewhere, or show that it is still alive."""
        self.clock += 1
        self.people[self.id] = self.clock, {"cursor": self.chance.randrange(100)}
        if self.session is not None:
            self._announce([self.id])

    def _announce(self, clients: Sequence[int]) -> None:
        states = wire.uint(len(clients))
        for client in clients:
            clock, state = self.people[client]
            states += wire.uint(client) + wire.uint(clock)
            states += wire.text(json.dumps(state))
        self._send(Presence(states))

    # Its connection.

    def connect(self) -> None:
        assert self.session is None
        self.session = Session(
            self.world.encoding, self._written, lambda: None, lambda error: None
        )
        self.world.room.join(self.session)
        self._send(SyncStep1(self.doc.get_state()))
        if self.id in self.people:
            self._announce([self.id])

    def disconnect(self, goodbye: bool) -> None:
        session, self.session = self.session, None
        assert session is not None
        self.world.room.leave(session, self.world.now, goodbye)
        self.lose()

    def lose(self) -> None:
        """What was under way is gone. Everybody else seems to have left."""
        self.session = None
        self.full = False
        self.inbox.clear()
        self.outbox.clear()
        self.owed.clear()
        self.people = {c: p for c, p in self.people.items() if c == self.id}

    def _send(self, message: Message) -> None:
        frame = yjs.encode(message)
        self.outbox.append(frame)
        if self.chance.random() < 0.05:
            self.outbox.append(frame)

    def _written(self, frames: list[bytes]) -> None:
        assert self.session is not None, "written although it has left"
        assert not self.full, "written although it is behind"
        assert frames, "an empty write"
        self.inbox.extend(frames)

    def fill(self) -> None:
        assert self.session is not None
        self.world.room.fell_behind(self.session)
        self.full = True

    def drain(self) -> None:
        assert self.session is not None
        self.full = False
        self.world.room.caught_up(self.session)
        assert self.session.behind is None

    # What the server hears and says.

    def speak(self) -> None:
        """Deliver one message to the room."""
        assert self.session is not None
        message, end = yjs.decode(frame := self.outbox.popleft())
        assert end == len(frame)
        room = self.world.room
        try:
            room.receive(message, self.session, self.world.now)
        except DocumentBroken:
            assert room.broken
            self.disconnect(goodbye=False)
            return
        if isinstance(message, Update | SyncStep2):
            self.owed[message.update] += 1
            self.world.senders.setdefault(message.update, set()).add(self.id)

    def listen(self) -> None:
        """Take one message of the room, as y-websocket does."""
        message, end = yjs.decode(frame := self.inbox.popleft())
        assert end == len(frame)
        match message:
            case SyncStep1(state_vector):
                wire.read_state_vector(state_vector)
                self._send(SyncStep2(self.doc.get_update(state_vector)))
            case Update(update) | SyncStep2(update):
                parse(update)
                if isinstance(message, Update) and self.owed[update]:
                    self.owed[update] -= 1
                    # If two say the same bytes, one hears the other's, unsaved yet.
                    if self.world.senders[update] == {self.id}:
                        self.world.check_saved(update)
                self.hear(update)
            case Presence(states):
                self._hear_states(states)
            case QueryPresence():
                raise AssertionError("a room does not ask that")

    def _hear_states(self, states: bytes) -> None:
        """As y-protocols' applyAwarenessUpdate, and y-websocket's echo of it."""
        count, at = wire.read_uint(states, 0)
        news = []
        for _ in range(count):
            client, at = wire.read_uint(states, at)
            clock, at = wire.read_uint(states, at)
            text, at = wire.read_text(states, at)
            state = json.loads(text)
            known, shown = self.people.get(client, (0, None))
            if clock > known or (clock == known and state is None and shown):
                if client == self.id and state is None:
                    self.clock = clock + 1
                    self.people[client] = self.clock, shown
                elif client == self.id:
                    raise AssertionError("somebody else spoke for it")
                else:
                    self.people[client] = clock, state
                news.append(client)
        if news:
            self._announce(news)


class World:
    """A room, its log, and everybody."""

    def __init__(self, seed: int, clients: int = 4) -> None:
        self.seed = seed
        self.chance = Random(seed)
        self.encoding = Plain()
        self.now = 0.0
        self.log: list[bytes] = []
        self.truth = Document()
        """The fold of the log."""
        self.snapshot: tuple[int, bytes, bytes] | None = None
        self.committing: list[bytes] = []
        self.senders: dict[bytes, set[int]] = {}
        self.awake = False
        self.crashes = 0
        self.parked = 0
        self.room = self._open()
        ids = self.chance.sample(range(1, 2**32), clients)
        self.clients = [Client(self, client) for client in ids]

    def _open(self) -> Room:
        self.awake = False
        return Room("d", self.load(), self._wake)

    def _wake(self, room: Room, delay: float) -> None:
        if room is self.room:
            self.awake = True

    def load(self) -> Document:
        """Fold the log, from the snapshot on."""
        document, start = Document(), 0
        if self.snapshot is not None:
            start, state, index = self.snapshot
            document = Document.restore(state, index)
        for update in self.log[start:]:
            document.apply(update)
        return document

    # What may happen to a server.

    def flush(self) -> None:
        self.awake = False
        self.room.flush(self.now)

    def begin_commit(self) -> None:
        """The journal takes what is unsaved, or the first of it."""
        unsaved = [update for update, _ in self.room.ledger.unsaved]
        self.committing = unsaved[: self.chance.randint(1, max(1, len(unsaved)))]

    def commit(self) -> None:
        """It is in the log. The room may hear of that now, or never."""
        for update in self.committing:
            self.log.append(update)
            self.truth.apply(update)

    def acknowledge(self) -> None:
        saved = [
            update for update, _ in self.room.ledger.unsaved[: len(self.committing)]
        ]
        assert saved == self.committing
        self.room.saved(len(saved))
        self.committing = []

    def save(self) -> None:
        while self.room.ledger.unsaved:
            self.begin_commit()
            self.commit()
            self.acknowledge()

    def crash(self) -> None:
        """Only the log survives."""
        self.crashes += 1
        if self.committing and self.chance.random() < 0.5:
            self.commit()
        self.committing = []
        for client in self.clients:
            client.lose()
        self.room = self._open()

    def heal(self) -> None:
        """Rebuild the document of a room that is broken, as the hub does."""
        if self.committing:
            self.commit()
            self.acknowledge()
        self.save()
        self.room.rebuilt(self.load())

    def compact(self) -> None:
        document = self.load()
        state, index = document.snapshot()
        assert document.verify(state, index), f"seed {self.seed}: not verified"
        self.snapshot = len(self.log), state, index

    def pass_time(self) -> None:
        self.now += self.chance.choice((0.01, 0.05, 1.0, 10.0))
        self.room.expire(self.now)

    # What must hold.

    def check_saved(self, update: bytes) -> None:
        """Whatever is acknowledged is in the log."""
        verdict = self.truth.gate.judge(parse(update))
        assert verdict is Verdict.REPEAT or update in self.truth.parked, (
            f"seed {self.seed}: acknowledged but not saved: {update.hex()}"
        )

    # The scheduler.

    def step(self) -> None:
        """Let one thing happen."""
        chance = self.chance
        if self.room.broken:
            self.heal()
        self.parked += len(self.room.document.parked)
        client = chance.choice(self.clients)
        steps: list[tuple[int, bool, Callable[[], object]]] = [
            (8, True, client.edit),
            (3, True, client.move),
            (12, bool(client.outbox), client.speak),
            (12, bool(client.inbox) and not client.full, client.listen),
            (8, self.awake, self.flush),
            (
                3,
                not self.committing and bool(self.room.ledger.unsaved),
                self.begin_commit,
            ),
            (6, bool(self.committing), self._finish_commit),
            (2, client.session is None, client.connect),
            (1, client.session is not None, self._cut(client)),
            (1, client.session is not None and not client.full, client.fill),
            (3, client.full, client.drain),
            (2, True, self.pass_time),
            (1, True, self._rarely),
        ]
        possible = [(weight, act) for weight, can, act in steps if can]
        weights = [weight for weight, _ in possible]
        (act,) = chance.choices([act for _, act in possible], weights)
        act()

    def _cut(self, client: Client) -> Callable[[], object]:
        return lambda: client.disconnect(self.chance.random() < 0.5)

    def _finish_commit(self) -> None:
        self.commit()
        self.acknowledge()

    def _rarely(self) -> None:
        kind = self.chance.random()
        if kind < 0.3:
            self.crash()
        elif kind < 0.6:
            self.compact()
        elif kind < 0.8:
            self._whisper()
        else:
            self.room.broken = True

    def _whisper(self) -> None:
        """Two tabs of a browser share what they have, past the server."""
        one, other = self.chance.sample(self.clients, 2)
        other.hear(one.doc.get_update(other.doc.get_state()))

    def settle(self) -> None:
        """Let everybody come back, and everything that is under way arrive."""
        if self.room.broken:
            self.heal()
        for client in self.clients:
            if client.session is None:
                client.connect()
            if client.full:
                client.drain()
        if self.committing:
            self._finish_commit()
        for _ in range(10_000):
            self.now += 0.05
            self.save()
            if self.awake:
                self.flush()
            busy = [c for c in self.clients if c.inbox or c.outbox]
            if not busy and not self.awake and not self.room.ledger.unsaved:
                return
            for client in busy:
                while client.outbox:
                    client.speak()
                while client.inbox:
                    client.listen()
        raise AssertionError(f"seed {self.seed}: it never settles")

    def check(self) -> None:
        """Everybody has the same, in memory and in the log."""
        where = f"seed {self.seed}"
        document = self.room.document
        clocks = document.gate.clocks
        joiner = Client(self, 2**33)
        joiner.connect()
        self.clients.append(joiner)
        self.settle()
        self.clients.remove(joiner)
        expected = content(document.doc)
        for client in [*self.clients, joiner]:
            assert content(client.doc) == expected, where
            state = wire.read_state_vector(client.doc.get_state())
            assert state == clocks, where
            unheard = [u for u in +client.owed if len(self.senders[u]) == 1]
            assert not unheard, f"{where}: never acknowledged"
        assert not document.parked, where
        everything = Document()
        for update in self.log:
            everything.apply(update)
        for other in (self.load(), everything, self.truth):
            assert content(other.doc) == expected, where
            assert other.gate == document.gate, where
            fresh: Doc[Any] = Doc()
            fresh.apply_update(other.state())
            assert content(fresh) == expected, where
            assert wire.read_state_vector(fresh.get_state()) == clocks, where
        self._check_people(joiner)

    def _check_people(self, joiner: Client) -> None:
        where = f"seed {self.seed}"
        shown = {c: p for c, p in joiner.people.items() if p[1] is not None}
        for client in self.clients:
            here = {c: p for c, p in client.people.items() if p[1] is not None}
            assert here == shown, where
            if client.clock:
                assert here[client.id][0] == client.clock, where
