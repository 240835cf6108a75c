"""Yjs clients in a Node process, which tests drive by requests and answers."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.node import run_node

CLIENTS = Path(__file__).parent / "clients.mjs"


class Node:
    """The process. It keeps the clients of one world at a time."""

    def __init__(self) -> None:
        self.process = run_node(CLIENTS)

    def __enter__(self) -> Node:
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
        self.process.wait(timeout=10)
        self.process.stdout.close()

    def ask(self, op: str, **request: object) -> tuple[list[Any], Any]:
        """Send a request; return the updates made meanwhile, and the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        line = json.dumps({"op": op, **request}).encode() + b"\n"
        self.process.stdin.write(line)
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"the Yjs process died at {op}"
        message = json.loads(answer)
        assert "failed" not in message, message["failed"]
        return message["made"], message["answer"]


def base64(update: bytes) -> str:
    return b64encode(update).decode()
