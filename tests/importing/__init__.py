"""Files that the packages of other servers wrote, to be taken over."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.node import NodeProcess

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Written:
    """A document as Yjs has it."""

    name: str
    updates: list[bytes]
    """As the clients sent them, if the writer was asked to write nowhere."""
    shown: dict[str, Any]

    @property
    def text(self) -> str:
        return "".join(part["insert"] for part in self.shown["text"])


class Writer(NodeProcess):
    """A process that wrote documents with another server's package.

    It has the store open until this context is left.
    """

    def __init__(self, kind: str, path: Path | None = None) -> None:
        super().__init__(HERE / "write.mjs", kind, str(path))
        wrote = self.hear()
        assert wrote, f"{kind} could not be written"
        self.documents = {
            one["name"]: Written(
                one["name"], [b64decode(u) for u in one["updates"]], one["shown"]
            )
            for one in json.loads(wrote)
        }

    def show(self, states: dict[str, bytes]) -> dict[str, dict[str, Any]]:
        """What Yjs shows of the states of documents."""
        encoded = {name: b64encode(state).decode() for name, state in states.items()}
        self.say(json.dumps(encoded))
        shown: dict[str, dict[str, Any]] = json.loads(self.hear())
        return shown
