"""Targets: each decoder alone, without pycrdt behind it: thousands a second."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from time import thread_time

from collab import wire
from collab.auth import Visitor
from collab.connection import document_name
from collab.contents import finish
from collab.dialects import hocuspocus, native, yjs
from collab.errors import CollabError, ProtocolError, QuotaExceeded, UpdateRejected
from collab.frames import DEFLATE, PLAIN
from collab.gate import Gate, Verdict
from collab.joining import Joined, trim_steps
from collab.messages import Message
from collab.presence import Presence
from collab.splitting import split
from collab.updates import Parsed, cut, parse, parse_steps
from tests.crafted import GAP, RECORDED, hexed
from tests.fuzz import HANG, Case, Finding, Slow
from tests.fuzz.grammar import Grammar, mutate
from tests.fuzz.speech import Speech

HONEST = [hexed(text) for history in RECORDED.values() for text in history] + [GAP]


class Timed:
    """Measures an input; more than :data:`HANG` is a finding."""

    def __init__(self, said: bytes) -> None:
        self.said = said

    def __enter__(self) -> None:
        self.started = thread_time()

    def __exit__(self, *_: object) -> None:
        took = thread_time() - self.started
        # What has pauses is large, and each pause is short: others have their turn.
        if took > HANG and len(self.said) < 64 * 1024:
            raise Slow(f"{len(self.said)} bytes took {took:.3f} s")


def summary(parsed: Parsed) -> list[object]:
    trails = {client: list(trail) for client, trail in parsed.trails.items()}
    names = set(Parsed.__slots__) - {"trails", "bounds", "cuts"}
    return [trails, *(getattr(parsed, name) for name in sorted(names))]


def parsed_or_kind(read: Callable[[], Parsed]) -> Parsed | str:
    try:
        return read()
    except UpdateRejected as exc:
        return exc.kind


class Updates:
    """The parser and the gate: each update has one meaning, whoever asks."""

    def make(self, chance: random.Random) -> Case:
        gate = Gate()
        grammar = Grammar(chance, gate, chance.choice((0.0, 0.005, 0.02, 0.1)))
        case: list[bytes] = []
        for _ in range(chance.choice((1, 4, 16))):
            kind = chance.random()
            if kind < 0.75 or not case:
                update = grammar.update()
            elif kind < 0.8:
                update = chance.randbytes(chance.randrange(40))
            else:
                update = mutate(chance, chance.choice((case, HONEST))[0], HONEST)
                grammar.draft.lists.clear()
            if chance.random() < 0.1:
                update = mutate(chance, update, HONEST)
            case.append(update)
            try:
                parsed = parse(update)
                if gate.judge(parsed) is Verdict.READY:
                    gate.accept(parsed)
                    grammar.take()
            except (UpdateRejected, QuotaExceeded):
                pass
        return [(0, update) for update in case]

    def run(self, case: Case) -> int:
        gate, slow = Gate(), Gate()
        accepted: list[bytes] = []
        for _, update in case:
            with Timed(update):
                parsed = parsed_or_kind(lambda update=update: parse(update))  # type: ignore[misc]
            slowly = parsed_or_kind(lambda update=update: finish(parse_steps(update)))  # type: ignore[misc]
            if isinstance(parsed, str) or isinstance(slowly, str):
                if parsed != slowly:
                    raise Finding(f"{parsed} at once, {slowly} in steps")
                continue
            if summary(parsed) != summary(slowly):
                raise Finding("parsed otherwise in steps")
            try:
                with Timed(update):
                    verdict = gate.judge(parsed)
            except UpdateRejected:
                continue
            if finish(slow.judge_steps(slowly)) is not verdict:
                raise Finding("judged otherwise in steps")
            if verdict is not Verdict.READY:
                continue
            if parsed.partial:  # Only what is news is taken, as a document does it.
                update = finish(trim_steps(update, cut(update), gate.clocks))
                parsed, slowly = parse(update), finish(parse_steps(update))
                try:
                    gate.judge(parsed)
                    finish(slow.judge_steps(slowly))
                except UpdateRejected:
                    continue
            self._check_pieces(update, gate)
            with Timed(update):
                gate.accept(parsed)
            finish(slow.accept_steps(slowly))
            accepted.append(update)
            if gate.judge(parse(update)) is not Verdict.REPEAT:
                raise Finding("not a repeat of itself")
        if slow != gate or slow.encode() != gate.encode():
            raise Finding("accepted otherwise in steps")
        if Gate.decode(gate.encode()).encode() != gate.encode():
            raise Finding("a gate is another after a restart")
        self._check_joined(accepted, gate)
        return len(accepted)

    def _check_pieces(self, update: bytes, gate: Gate) -> None:
        """Cut into pieces, it is what it was."""
        whole = Gate.decode(gate.encode())
        whole.judge(parsed := parse(update))
        whole.accept(parsed)
        parts = Gate.decode(gate.encode())
        for piece in split(update, cut(update), 16):
            try:
                verdict = parts.judge(parsed := parse(piece))
            except UpdateRejected as exc:
                # What is long and in a map must be deleted; but deletions come last.
                if exc.kind == "long-map-entry":
                    return
                raise
            if verdict is Verdict.EARLY:
                raise Finding("a piece does not build upon those before")
            parts.accept(parsed)
        if parts != whole:
            raise Finding("the pieces are not the whole")

    def _check_joined(self, accepted: list[bytes], gate: Gate) -> None:
        joined = Joined(accepted).encode()
        again = Gate()
        if again.judge(parsed := parse(joined)) is Verdict.EARLY:
            raise Finding("joined, they lack something")
        again.accept(parsed)
        if again.clocks != gate.clocks or not again.covers(gate):
            raise Finding("joined, they are something else")

    def close(self) -> None:
        """Nothing is held."""


class Seat:
    """Whoever announces presence."""

    def __init__(self) -> None:
        self.owned: tuple[int, ...] = ()


class Messages:
    """What is said in each dialect, and around it: read strictly, or refused."""

    def make(self, chance: random.Random) -> Case:
        speech = Speech(chance, chance.choice((0.0, 0.02, 0.1)))
        return [speech.anything() for _ in range(chance.choice((4, 16)))]

    def run(self, case: Case) -> int:
        accepted = 0
        people: Presence[Seat] = Presence()
        seats = [Seat(), Seat(), Seat()]
        for number, (who, said) in enumerate(case):
            with Timed(said):
                for read in (_read_yjs, _read_hocuspocus, _read_native, _read_told):
                    accepted += sum(1 for _ in _tried(read(said)))
            for inspect in (_read_vector, _read_gate, _read_name):
                accepted += sum(1 for _ in _tried(inspect(said)))
            seat = seats[who % 3]
            try:
                with Timed(said):
                    if number % 4 == 0:
                        people.introduce(said, seat, float(number))
                    elif number % 4 == 1:
                        people.departure(said)
                    else:
                        people.apply(said, seat)
            except (ProtocolError, QuotaExceeded):
                pass
            if (told := people.take_changes()) is not None:
                accepted += 1
                _check_people(told)
            if number % 7 == 6:
                people.remove(people.orphan(seat, float(number)), float(number))
        return accepted

    def close(self) -> None:
        """Nothing is held."""


def _tried(messages: Iterator[object]) -> Iterator[object]:
    try:
        yield from messages
    except CollabError as exc:
        if exc.close_code == 1011 or exc.http_status >= 500:
            raise Finding(f"{type(exc).__name__} is to blame us: {exc}") from exc
    except ValueError:
        pass


def _read_yjs(said: bytes) -> Iterator[Message]:
    at = 0
    while at < len(said):
        message, end = yjs.decode(said, at)
        if end <= at:
            raise Finding("a message without an end")
        at = end
        _check_spelling(message, yjs.encode, lambda spelled: yjs.decode(spelled)[0])
        yield message


def _read_hocuspocus(said: bytes) -> Iterator[Message]:
    address, at = hocuspocus.read_address(said)
    hocuspocus.read_name(address)
    message, _ = hocuspocus.decode(said, at)
    DEFLATE.addressed(address)
    _check_spelling(
        message, hocuspocus.encode, lambda spelled: hocuspocus.decode(spelled, 0)[0]
    )
    yield message


def _read_native(said: bytes) -> Iterator[Message]:
    for channel, message in native.decode(said):
        PLAIN.numbered(channel)
        spelled = bytes((min(channel, 1),)) + native.spell(message)
        if [message] != [again for _, again in native.decode(spelled)]:
            raise Finding(f"{message} is spelled as something else")
        yield message


def _read_told(said: bytes) -> Iterator[Message]:
    for _, message in native.read(said):
        yield message


def _check_spelling(
    message: Message,
    spell: Callable[[Message], bytes],
    read: Callable[[bytes], Message],
) -> None:
    try:
        spelled = spell(message)
    except ValueError:
        return  # Only clients say it.
    if read(spelled) != message:
        raise Finding(f"{message} is spelled as something else")


def _read_vector(said: bytes) -> Iterator[object]:
    yield wire.read_state_vector(said)


def _read_gate(said: bytes) -> Iterator[object]:
    gate = Gate.decode(said)
    if Gate.decode(gate.encode()).encode() != gate.encode():
        raise Finding("a gate that is read is another")
    yield gate


def _read_name(said: bytes) -> Iterator[object]:
    path = said.decode("latin-1")
    yield document_name(f"/ws/{path}")
    yield Visitor.of(
        "somebody", [("Authorization", path), ("Cookie", path)], path, [path]
    )


def _check_people(told: bytes) -> None:
    """What is told of others must be what every client can read."""
    count, at = wire.read_uint(told, 0)
    for _ in range(count):
        client, at = wire.read_uint(told, at)
        clock, at = wire.read_uint(told, at)
        state, at = wire.read_text(told, at)
        if clock >= 2**32 or client >= 2**53:
            raise Finding(f"client {client} at {clock}")
        if type(json.loads(state)) not in (dict, type(None)):
            raise Finding(f"a state of {state}")
    if at != len(told):
        raise Finding("presence with something behind it")
