"""Target: a document, with pycrdt in it, and Yjs as the judge of what comes of it."""

from __future__ import annotations

import json
import random
from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pycrdt import Doc, Text

from collab import wire
from collab.document import Document, Outcome
from collab.errors import DocumentBroken, ProtocolError, QuotaExceeded, UpdateRejected
from collab.gate import Gate, Verdict
from collab.updates import parse
from tests.fuzz import Case, Divergence, Finding
from tests.fuzz.decoders import HONEST, Timed
from tests.fuzz.grammar import Grammar, mutate
from tests.node import NodeProcess

JUDGE = Path(__file__).parent / "judge.mjs"


class Judge:
    """Yjs in Node, for as long as it lives."""

    def __init__(self) -> None:
        self.node = NodeProcess(JUDGE)

    def ask(
        self,
        relayed: Sequence[bytes],
        presence: Sequence[bytes],
        state: Sequence[bytes],
    ) -> dict[str, Any]:
        """What Yjs makes of what was relayed to a client, and to a newcomer.

        Raises:
            Finding: If anything of it throws, or lacks something.
            Divergence: If one of them has something else than the other.
        """
        request = {
            "relayed": [b64encode(one).decode() for one in relayed],
            "presence": [b64encode(one).decode() for one in presence],
            "state": [b64encode(one).decode() for one in state],
        }
        self.node.say(json.dumps(request))
        line = self.node.hear()
        if not line:
            self.node.kill()
            self.node = NodeProcess(JUDGE)
            raise Finding("Yjs died")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Finding(f"Yjs: {answer['error']}")
        if "differs" in answer:
            raise Divergence(f"Yjs: {answer['differs']}")
        if not answer["same"]:
            raise Divergence(f"Yjs: {answer['served']} instead of {answer['shown']}")
        return answer

    def close(self) -> None:
        """End it."""
        self.node.__exit__(None, None, None)


def history(chance: random.Random, grammar: Grammar, gate: Gate) -> list[bytes]:
    """Updates of a document, some of which are not accepted."""
    made: list[bytes] = []
    for _ in range(chance.choice((2, 6, 12, 25))):
        kind = chance.random()
        if kind < 0.88 or not made:
            update = grammar.update()
        else:
            update = mutate(chance, chance.choice(made), HONEST)
            grammar.draft.lists.clear()
            grammar.draft.entries.clear()
            grammar.draft.types.clear()
        made.append(update)
        try:
            parsed = parse(update)
            if gate.judge(parsed) is Verdict.READY:
                gate.accept(parsed)
                grammar.take()
        except (UpdateRejected, QuotaExceeded):
            pass
    return made


def disorder(chance: random.Random, made: list[bytes]) -> list[bytes]:
    """Some of them twice, some of them late, as networks do it."""
    kind = chance.random()
    if kind < 0.5:
        return made
    shuffled = made + chance.choices(made, k=len(made) // 4)
    if kind < 0.9:
        for at in range(0, len(shuffled), 4):
            window = shuffled[at : at + 4]
            chance.shuffle(window)
            shuffled[at : at + 4] = window
    else:
        chance.shuffle(shuffled)
    return shuffled


class Documents:
    """Accepted updates leave a document that pycrdt and Yjs load as the same."""

    def __init__(self) -> None:
        self.judge = Judge()

    def make(self, chance: random.Random) -> Case:
        gate = Gate()
        wrong = chance.choice((0.0, 0.0, 0.005, 0.02, 0.06))
        made = history(chance, Grammar(chance, gate, wrong), gate)
        return [(0, update) for update in disorder(chance, made)]

    def run(self, case: Case) -> int:
        document = Document()
        relayed: list[bytes] = []
        accepted = 0
        for _, update in case:
            try:
                with Timed(update):
                    outcome, visible = document.apply(update)
            except (UpdateRejected, QuotaExceeded):
                continue
            except DocumentBroken as exc:
                raise Finding(f"pycrdt failed: {exc.__cause__}") from exc
            if document.culprit is not None:
                raise Finding("pycrdt failed at what was parked")
            accepted += outcome is not Outcome.REPEATED
            relayed += visible
        self.check(document, relayed)
        return accepted

    def check(self, document: Document, relayed: list[bytes]) -> None:
        """See that the document is what was relayed, for pycrdt, Yjs and ourselves."""
        try:
            state = document.state()
            clocks = wire.read_state_vector(document.doc.get_state())
        except DocumentBroken as exc:
            raise Finding(f"pycrdt cannot encode: {exc.__cause__}") from exc
        if document.gate.faithful and clocks != document.gate.clocks:
            raise Finding("pycrdt lost count of the clocks")
        fresh = load(state)
        if document.gate.faithful and (
            parse(fresh.get_update()).ranges != parse(state).ranges
        ):
            raise Finding("pycrdt loads another document")
        self._check_restart(document)
        answer = self.judge.ask(relayed, [], [state])
        # What somebody does then, and all that they have, is taken.
        for edit in (*answer["edits"], answer["state"]):
            try:
                outcome, _ = document.apply(b64decode(edit))
            except UpdateRejected as exc:
                raise Finding(f"an honest client is sent away: {exc}") from exc
            except DocumentBroken as exc:
                raise Finding(f"pycrdt failed at an edit: {exc.__cause__}") from exc
            if outcome is Outcome.PARKED:
                raise Finding("an honest edit has to wait")
        if document.gate.faithful:
            text = str(fresh.get("text", type=Text))
            if text != answer["text"]:
                raise Divergence(f"{text!r} in pycrdt, {answer['text']!r} in Yjs")

    def _check_restart(self, document: Document) -> None:
        state, index = document.snapshot()
        try:
            again = Document.restore(state, index)
        except (ProtocolError, DocumentBroken) as exc:
            raise Finding(f"a snapshot is not one: {exc}") from exc
        if again.gate.encode() != document.gate.encode():
            raise Finding("a gate is another after a restart")

    def close(self) -> None:
        """End Yjs."""
        self.judge.close()


def load(*state: bytes) -> Doc[Any]:
    """A document of pycrdt, as a program has it that joins."""
    doc: Doc[Any] = Doc()
    try:
        for update in state:
            doc.apply_update(update)
    except BaseException as exc:
        if isinstance(exc, Exception) or type(exc).__module__ == "pyo3_runtime":
            raise Finding(f"pycrdt cannot load the state: {exc}") from exc
        raise
    return doc
