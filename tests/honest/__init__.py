"""Yjs clients in a Node process, which tests drive by requests and answers."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

from tests.node import NodeProcess

CLIENTS = Path(__file__).parent / "clients.mjs"


class Node(NodeProcess):
    """The process. It keeps the clients of one world at a time."""

    def __init__(self) -> None:
        super().__init__(CLIENTS)

    def ask(self, op: str, **request: object) -> tuple[list[Any], Any]:
        """Send a request; return the updates made meanwhile, and the answer."""
        self.say(json.dumps({"op": op, **request}))
        answer = self.hear()
        assert answer, f"the Yjs process died at {op}"
        message = json.loads(answer)
        assert "failed" not in message, message["failed"]
        return message["made"], message["answer"]


def base64(update: bytes) -> str:
    return b64encode(update).decode()
