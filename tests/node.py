"""Node.js for tests: that of the virtual environment, with locked packages."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Self

BIN = Path(sys.executable).parent
"""Where node and npm are: the virtual environment has its own."""


END_TIME = 60.0
"""Seconds that a script has to end: a busy machine is slow, not wrong."""


def node_path() -> Path:
    """The ``node`` to run."""
    return BIN / "node"


def environment() -> dict[str, str]:
    """The environment for what is written in JavaScript: it finds our node first."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    quiet = {"npm_config_audit": "false", "npm_config_fund": "false"}
    return {**os.environ, **quiet, "npm_config_loglevel": "error", "PATH": path}


def ensure_modules(folder: Path) -> None:
    """Install what a folder's lock file names, unless it is installed.

    Processes that ask at the same time wait for each other.
    """
    with (folder / "package.json").open() as manifest:
        fcntl.flock(manifest, fcntl.LOCK_EX)
        wanted = folder / "package-lock.json"
        # npm writes this one when it is done.
        installed = folder / "node_modules" / ".package-lock.json"
        if installed.exists() and installed.stat().st_mtime >= wanted.stat().st_mtime:
            return
        subprocess.run(
            [BIN / "npm", "ci"], cwd=folder, env=environment(), check=True, stdout=2
        )


def run_node(
    script: Path, *arguments: str, errors: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Start a script, with pipes to its input and from its output.

    The packages that stand beside it are installed first.
    """
    ensure_modules(script.parent)
    return subprocess.Popen(
        [node_path(), script, *arguments],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
    )


class NodeProcess:
    """A script that runs until this context is left: its input ends, and so does it."""

    def __init__(self, script: Path, *arguments: str) -> None:
        self.process = run_node(script, *arguments)

    def __enter__(self) -> Self:
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
        try:
            self.process.wait(END_TIME)
        finally:
            self.kill()
            self.process.stdout.close()

    def kill(self) -> None:
        """End it at once: its sockets die without a goodbye."""
        self.process.kill()
        self.process.wait()

    def say(self, line: str) -> None:
        """Write a line to its input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> bytes:
        """Read a line of its output; it is empty if there is none any more."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()
