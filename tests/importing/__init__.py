"""Files that the packages of other servers wrote, to be taken over."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.node import run_node

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


class Writer:
    """A process that wrote documents with another server's package.

    It has the store open until this context is left.
    """

    def __init__(self, kind: str, path: Path | None = None) -> None:
        self.process = run_node(HERE / "write.mjs", kind, str(path))
        assert self.process.stdout is not None
        wrote = self.process.stdout.readline()
        assert wrote, f"{kind} could not be written"
        self.documents = {
            one["name"]: Written(
                one["name"], [b64decode(u) for u in one["updates"]], one["shown"]
            )
            for one in json.loads(wrote)
        }

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()

    def kill(self) -> None:
        """Kill it, as a machine that loses its power would."""
        self.process.kill()

    def show(self, states: dict[str, bytes]) -> dict[str, dict[str, Any]]:
        """What Yjs shows of the states of documents."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        encoded = {name: b64encode(state).decode() for name, state in states.items()}
        self.process.stdin.write(json.dumps(encoded).encode() + b"\n")
        self.process.stdin.flush()
        shown: dict[str, dict[str, Any]] = json.loads(self.process.stdout.readline())
        return shown
