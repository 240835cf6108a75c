"""Yjs clients in a Node process, which tests drive by requests and answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from types import TracebackType
from typing import Any

FOLDER = Path(__file__).parent
BIN = Path(sys.executable).parent
"""Where node and npm are: the virtual environment has its own."""


def install() -> None:
    """Install what the lock file names, unless it is there."""
    if (FOLDER / "node_modules" / "yjs" / "package.json").exists():
        return
    subprocess.run(
        [BIN / "npm", "ci", "--no-audit", "--no-fund"],
        cwd=FOLDER,
        env=_environment(),
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


class Node:
    """The process. It keeps the clients of one world at a time."""

    def __init__(self) -> None:
        install()
        self.process = subprocess.Popen(
            [BIN / "node", FOLDER / "clients.mjs"],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

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
